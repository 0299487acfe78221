/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Refuses flags and compilers that may change results: the bits of every sum, what becomes of NaN and infinities, and,
 * where the program is linked with them, subnormal numbers of the whole process.  setup.py undoes such flags; who compiles
 * these files otherwise hears of them here.  Every C file of the core comes by this header (tests/structure/ looks).
 */
#ifndef FL_EXACT_H
#define FL_EXACT_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "fastlstm: expected exact arithmetic, got -ffast-math, -Ofast or one of their parts: add -fno-fast-math"
#endif

/* The x87 computes with more digits than were asked for, and on some machines C does. */
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "fastlstm: expected exact floats, got excess precision: add -msse2 -mfpmath=sse, or -fexcess-precision=fast"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#error "fastlstm: expected GCC, Clang, clang-cl or zig cc, got MSVC, which lacks their vectors"
#endif

#endif
