/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Floating-point state of the driver's threads: round to nearest, no traps, denormals flushed to zero (a decaying
 * state would otherwise run an order of magnitude slower on many machines).  The caller's state, sticky flags
 * included, comes back on leaving.
 */
#ifndef FL_FP_STATE_H
#define FL_FP_STATE_H
#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

typedef uint64_t fl_fp_state;

static inline fl_fp_state fl_fp_enter(void)
{
#if defined(__x86_64__)
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(0x9fc0U); /* FTZ, DAZ, all exceptions masked, round to nearest */
    return saved;
#elif defined(__aarch64__)
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24)); /* FZ */
    return saved;
#else
    return 0;
#endif
}

static inline void fl_fp_leave(fl_fp_state saved)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)saved);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
#else
    (void)saved;
#endif
}

#endif
