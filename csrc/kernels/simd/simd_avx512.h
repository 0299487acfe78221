/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The SIMD vocabulary for AVX-512 (F, CD, BW, DQ, VL).  Every simd_*.h defines the same names for the element type
 * chosen by FL_REAL_BITS; simd_generic.h documents each of them.
 */
#ifndef FL_SIMD_H
#define FL_SIMD_H
#include <immintrin.h>

#include "kernels/simd/simd_types.h"

#define VF_REGISTERS 32

#if FL_REAL_BITS == 32

#define VF_LANES 16
typedef __m512 vf;

FL_INLINE vf vf_set1(real a) { return _mm512_set1_ps(a); }
FL_INLINE vf vf_load(const real *p) { return _mm512_loadu_ps(p); }
FL_INLINE void vf_store(real *p, vf a) { _mm512_storeu_ps(p, a); }
FL_INLINE void vf_stream(real *p, vf a) { _mm512_stream_ps(p, a); }
FL_INLINE __mmask16 vf_first(size_t n) { return (__mmask16)((1U << n) - 1U); }
FL_INLINE vf vf_load_n(const real *p, size_t n) { return _mm512_maskz_loadu_ps(vf_first(n), p); }
FL_INLINE void vf_store_n(real *p, vf a, size_t n) { _mm512_mask_storeu_ps(p, vf_first(n), a); }
FL_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
FL_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
FL_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
FL_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
FL_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
FL_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
FL_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
FL_INLINE vf vf_min(vf limit, vf a) { return _mm512_min_ps(limit, a); }
FL_INLINE vf vf_max(vf limit, vf a) { return _mm512_max_ps(limit, a); }
FL_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
FL_INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
FL_INLINE vf vf_sign(vf a) { return _mm512_and_ps(a, _mm512_set1_ps(-0.0F)); }
FL_INLINE vf vf_or(vf a, vf b) { return _mm512_or_ps(a, b); }
FL_INLINE vf vf_exponent(vf a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23)); }
FL_INLINE vf vf_half(vf a, int h) { return h ? _mm512_shuffle_f32x4(a, a, 0xee) : a; }
FL_INLINE vf vf_quarter(vf a, int q)
{
    switch (q) {
    case 0: return a;
    case 1: return _mm512_shuffle_f32x4(a, a, 0x55);
    case 2: return _mm512_shuffle_f32x4(a, a, 0xaa);
    default: return _mm512_shuffle_f32x4(a, a, 0xff);
    }
}

#else

#define VF_LANES 8
typedef __m512d vf;

FL_INLINE vf vf_set1(real a) { return _mm512_set1_pd(a); }
FL_INLINE vf vf_load(const real *p) { return _mm512_loadu_pd(p); }
FL_INLINE void vf_store(real *p, vf a) { _mm512_storeu_pd(p, a); }
FL_INLINE void vf_stream(real *p, vf a) { _mm512_stream_pd(p, a); }
FL_INLINE __mmask8 vf_first(size_t n) { return (__mmask8)((1U << n) - 1U); }
FL_INLINE vf vf_load_n(const real *p, size_t n) { return _mm512_maskz_loadu_pd(vf_first(n), p); }
FL_INLINE void vf_store_n(real *p, vf a, size_t n) { _mm512_mask_storeu_pd(p, vf_first(n), a); }
FL_INLINE vf vf_add(vf a, vf b) { return _mm512_add_pd(a, b); }
FL_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_pd(a, b); }
FL_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_pd(a, b); }
FL_INLINE vf vf_div(vf a, vf b) { return _mm512_div_pd(a, b); }
FL_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_pd(a); }
FL_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_pd(a, b, c); }
FL_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_pd(a, b, c); }
FL_INLINE vf vf_min(vf limit, vf a) { return _mm512_min_pd(limit, a); }
FL_INLINE vf vf_max(vf limit, vf a) { return _mm512_max_pd(limit, a); }
FL_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), no, yes);
}
FL_INLINE vf vf_abs(vf a) { return _mm512_abs_pd(a); }
FL_INLINE vf vf_sign(vf a) { return _mm512_and_pd(a, _mm512_set1_pd(-0.0)); }
FL_INLINE vf vf_or(vf a, vf b) { return _mm512_or_pd(a, b); }
FL_INLINE vf vf_exponent(vf a) { return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(a), 52)); }
FL_INLINE vf vf_half(vf a, int h) { return h ? _mm512_shuffle_f64x2(a, a, 0xee) : a; }
FL_INLINE vf vf_quarter(vf a, int q)
{
    switch (q) {
    case 0: return a;
    case 1: return _mm512_shuffle_f64x2(a, a, 0x55);
    case 2: return _mm512_shuffle_f64x2(a, a, 0xaa);
    default: return _mm512_shuffle_f64x2(a, a, 0xff);
    }
}

#endif

FL_INLINE void vf_stream_end(void) { _mm_sfence(); }

/* ---- Doubles, for sums ---------------------------------------------------------------------------------------- */

#define VD_LANES 8
typedef __m512d vd;

#if FL_REAL_BITS == 32
FL_INLINE vd vd_load(const real *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
#else
FL_INLINE vd vd_load(const real *p) { return _mm512_loadu_pd(p); }
#endif
FL_INLINE vd vd_set1(double a) { return _mm512_set1_pd(a); }
FL_INLINE void vd_store(double *p, vd a) { _mm512_storeu_pd(p, a); }
FL_INLINE vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
FL_INLINE vd vd_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }

#endif
