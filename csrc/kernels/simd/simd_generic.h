/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The SIMD vocabulary in plain C (compiler vectors of 16 bytes), and the place where each operation is explained.
 * Multiply-adds round twice here, so that this set alone may differ from the others in the last bits.
 */
#ifndef FL_SIMD_H
#define FL_SIMD_H
#include <math.h>
#include <string.h>

#include "kernels/simd/simd_types.h"

#define VF_REGISTERS 16 /* vector registers of the machine: decides the tile */

#if FL_REAL_BITS == 32
#define REAL_SQRT sqrtf
#else
#define REAL_SQRT sqrt
#endif

typedef real vf __attribute__((vector_size(16)));
typedef real_bits vf_bits __attribute__((vector_size(16)));
#define VF_LANES (128 / FL_REAL_BITS)

FL_INLINE vf vf_set1(real a)
{
#if FL_REAL_BITS == 32
    return (vf){a, a, a, a};
#else
    return (vf){a, a};
#endif
}
/* Loads and stores need the alignment of one element only. */
FL_INLINE vf vf_load(const real *p)
{
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}
FL_INLINE void vf_store(real *p, vf a) { memcpy(p, &a, sizeof a); }
/* The first n lanes, 0 <= n <= VF_LANES; lanes beyond are zero, memory beyond is not touched. */
FL_INLINE vf vf_load_n(const real *p, size_t n)
{
    vf a = vf_set1(0);
    for (size_t lane = 0; lane < n; lane++) a[lane] = p[lane];
    return a;
}
FL_INLINE void vf_store_n(real *p, vf a, size_t n)
{
    for (size_t lane = 0; lane < n; lane++) p[lane] = a[lane];
}
FL_INLINE vf vf_add(vf a, vf b) { return a + b; }
FL_INLINE vf vf_sub(vf a, vf b) { return a - b; }
FL_INLINE vf vf_mul(vf a, vf b) { return a * b; }
FL_INLINE vf vf_div(vf a, vf b) { return a / b; }
FL_INLINE vf vf_sqrt(vf a)
{
    for (size_t lane = 0; lane < VF_LANES; lane++) a[lane] = REAL_SQRT(a[lane]);
    return a;
}
FL_INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }  /* a*b + c, rounded once where FMA exists */
FL_INLINE vf vf_fnma(vf a, vf b, vf c) { return c - a * b; } /* c - a*b */
/* min and max against a limit that is a number: a NaN in `a` stays NaN. */
FL_INLINE vf vf_min(vf limit, vf a)
{
    const vf_bits take = (vf_bits)(limit < a);
    return (vf)((take & (vf_bits)limit) | (~take & (vf_bits)a));
}
FL_INLINE vf vf_max(vf limit, vf a)
{
    const vf_bits take = (vf_bits)(limit > a);
    return (vf)((take & (vf_bits)limit) | (~take & (vf_bits)a));
}
/* a < b ? yes : no, lane by lane; `no` where either is NaN. */
FL_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no)
{
    const vf_bits take = (vf_bits)(a < b);
    return (vf)((take & (vf_bits)yes) | (~take & (vf_bits)no));
}
FL_INLINE vf vf_sign(vf a) { return (vf)((vf_bits)a & (vf_bits)vf_set1(-REAL(0.0))); } /* the sign bit alone */
FL_INLINE vf vf_abs(vf a) { return (vf)((vf_bits)a & ~(vf_bits)vf_set1(-REAL(0.0))); }
FL_INLINE vf vf_or(vf a, vf b) { return (vf)((vf_bits)a | (vf_bits)b); }
/* The low bits of the mantissa moved into the exponent: 2^n when they hold n + bias. */
FL_INLINE vf vf_exponent(vf a) { return (vf)((vf_bits)a << (FL_REAL_BITS == 32 ? 23 : 52)); }
/* Half h (0, 1) or quarter q (0..3) of the lanes moved to the lowest lanes; what the others hold is unspecified. */
FL_INLINE vf vf_half(vf a, int h)
{
    vf b = a;
    for (int lane = 0; lane < VF_LANES / 2; lane++) b[lane] = a[lane + h * (VF_LANES / 2)];
    return b;
}
FL_INLINE vf vf_quarter(vf a, int q)
{
    vf b = a;
    for (int lane = 0; lane < VF_LANES / 4; lane++) b[lane] = a[lane + q * (VF_LANES / 4)];
    return b;
}

/* A store to memory that nobody reads soon, aligned to a vector; vf_stream_end() before others may look. */
FL_INLINE void vf_stream(real *p, vf a) { vf_store(p, a); }
FL_INLINE void vf_stream_end(void) {}

/* ---- Doubles, for sums ---------------------------------------------------------------------------------------- */

#define VD_LANES 2
typedef double vd __attribute__((vector_size(16)));

/* VD_LANES reals, widened exactly. */
FL_INLINE vd vd_load(const real *p) { return (vd){(double)p[0], (double)p[1]}; }
FL_INLINE vd vd_set1(double a) { return (vd){a, a}; }
FL_INLINE void vd_store(double *p, vd a) { memcpy(p, &a, sizeof a); }
FL_INLINE vd vd_add(vd a, vd b) { return a + b; }
FL_INLINE vd vd_mul(vd a, vd b) { return a * b; }

#endif
