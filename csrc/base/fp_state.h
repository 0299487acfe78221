/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Floating-point state while this library computes: round to nearest and no traps.  Recurrent kernels flush denormals
 * to zero too: a decaying state would otherwise run an order of magnitude slower on many machines.  The caller's state,
 * sticky flags included, comes back on leaving.
 */
#ifndef FL_FP_STATE_H
#define FL_FP_STATE_H
#include <stdbool.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* Control and status; on x86 one register holds both. */
typedef struct fl_fp_state {
    uint64_t control, status;
} fl_fp_state;

static inline fl_fp_state fl_fp_enter(bool flush)
{
    fl_fp_state saved = {0, 0};
#if defined(__x86_64__)
    saved.control = _mm_getcsr();
    _mm_setcsr(flush ? 0x9fc0U : 0x1f80U); /* FTZ, DAZ; all exceptions masked, none raised, round to nearest */
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved.control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(saved.status));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)flush << 24)); /* FZ */
#else
    (void)flush;
#endif
    return saved;
}

static inline void fl_fp_leave(fl_fp_state saved)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)saved.control);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved.control));
    __asm__ volatile("msr fpsr, %0" : : "r"(saved.status));
#else
    (void)saved;
#endif
}

#endif
