/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What every simd_*.h starts from: the element type `real`, chosen by FL_REAL_BITS (32 or 64), and inlining.
 */
#ifndef FL_SIMD_TYPES_H
#define FL_SIMD_TYPES_H
#include <stddef.h>
#include <stdint.h>

#define FL_INLINE static inline __attribute__((always_inline))

/* Loops over accumulators must vanish: an accumulator that is indexed by a variable lives in memory. */
#if defined(__clang__)
#define FL_UNROLL_FOR _Pragma("clang loop unroll(full)") for
#define FL_LOOP_FOR _Pragma("clang loop unroll(disable)") for
#else
#define FL_UNROLL_FOR _Pragma("GCC unroll 32") for
#define FL_LOOP_FOR _Pragma("GCC unroll 1") for
#endif

#if FL_REAL_BITS == 32
typedef float real;
typedef uint32_t real_bits;
#define FL_SUFFIX f32
#define REAL(x) x##F
#elif FL_REAL_BITS == 64
typedef double real;
typedef uint64_t real_bits;
#define FL_SUFFIX f64
#define REAL(x) x
#else
#error "define FL_REAL_BITS as 32 or 64"
#endif

#define LINE_LANES (64 / sizeof(real)) /* of a cache line */

#endif
