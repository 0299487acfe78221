/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Floating-point state while this library computes: no traps, and rounding to nearest if not asked otherwise.  Recurrent
 * kernels flush denormals to zero too: a decaying state would otherwise run an order of magnitude slower on many machines.
 * The caller's state, sticky flags included, comes back on leaving.
 */
#ifndef FL_FP_STATE_H
#define FL_FP_STATE_H
#include <stdbool.h>
#include <stdint.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <fenv.h>
#include <string.h>
#endif

typedef enum fl_fp_mode {
    FL_FP_EXACT,   /* to nearest, denormals as they are */
    FL_FP_FLUSH,   /* to nearest, denormals are zero */
    FL_FP_TRUNCATE /* towards zero, denormals as they are */
} fl_fp_mode;

/* Control and status; on x86 one register holds both. */
typedef struct fl_fp_state {
    uint64_t control, status;
} fl_fp_state;

static inline fl_fp_state fl_fp_enter_mode(fl_fp_mode mode)
{
    fl_fp_state saved = {0, 0};
#if defined(__SSE2__)
    saved.control = _mm_getcsr();
    /* All exceptions masked, none raised; FTZ and DAZ; rounding. */
    _mm_setcsr(mode == FL_FP_FLUSH ? 0x9fc0U : mode == FL_FP_TRUNCATE ? 0x7f80U : 0x1f80U);
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved.control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(saved.status));
    __asm__ volatile(
        "msr fpcr, %0"
        :
        : "r"((uint64_t)(mode == FL_FP_FLUSH) << 24 | (uint64_t)(mode == FL_FP_TRUNCATE) * 3 << 22)); /* FZ, RMode */
#elif defined(FE_TONEAREST) && defined(FE_TOWARDZERO)
    /* What C knows of it: rounding and sticky flags, neither traps nor denormals. */
    fexcept_t flags;
    fegetexceptflag(&flags, FE_ALL_EXCEPT);
    memcpy(&saved.status, &flags, sizeof flags);
    saved.control = (uint64_t)fegetround();
    fesetround(mode == FL_FP_TRUNCATE ? FE_TOWARDZERO : FE_TONEAREST);
#else
    (void)mode;
#endif
    return saved;
}

static inline fl_fp_state fl_fp_enter(bool flush) { return fl_fp_enter_mode(flush ? FL_FP_FLUSH : FL_FP_EXACT); }

static inline void fl_fp_leave(fl_fp_state saved)
{
#if defined(__SSE2__)
    _mm_setcsr((unsigned)saved.control);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved.control));
    __asm__ volatile("msr fpsr, %0" : : "r"(saved.status));
#elif defined(FE_TONEAREST) && defined(FE_TOWARDZERO)
    fexcept_t flags;
    memcpy(&flags, &saved.status, sizeof flags);
    fesetexceptflag(&flags, FE_ALL_EXCEPT);
    fesetround((int)saved.control);
#else
    (void)saved;
#endif
}

#endif
