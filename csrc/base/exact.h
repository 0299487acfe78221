/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Refuses flags under which the compiler may change results: the bits of every sum, what becomes of NaN and infinities,
 * and, where the program is linked with them, subnormal numbers of the whole process.  setup.py undoes them; who compiles
 * these files otherwise hears of them here.  Every C file of the core comes by this header (tests/structure/ looks).
 */
#ifndef FL_EXACT_H
#define FL_EXACT_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "fastlstm: expected exact arithmetic, got -ffast-math, -Ofast or one of their parts: add -fno-fast-math"
#endif

#endif
