/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The SIMD vocabulary for AVX2 with FMA.  See simd_generic.h for what each name means.
 */
#ifndef FL_SIMD_H
#define FL_SIMD_H
#include <immintrin.h>

#include "kernels/simd/simd_types.h"

#define VF_REGISTERS 16

#if FL_REAL_BITS == 32

#define VF_LANES 8
typedef __m256 vf;

FL_INLINE vf vf_set1(real a) { return _mm256_set1_ps(a); }
FL_INLINE vf vf_load(const real *p) { return _mm256_loadu_ps(p); }
FL_INLINE void vf_store(real *p, vf a) { _mm256_storeu_ps(p, a); }
FL_INLINE void vf_stream(real *p, vf a) { _mm256_stream_ps(p, a); }
FL_INLINE __m256i vf_first(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FL_INLINE vf vf_load_n(const real *p, size_t n) { return _mm256_maskload_ps(p, vf_first(n)); }
FL_INLINE void vf_store_n(real *p, vf a, size_t n) { _mm256_maskstore_ps(p, vf_first(n), a); }
FL_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
FL_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
FL_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
FL_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
FL_INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
FL_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FL_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
FL_INLINE vf vf_min(vf limit, vf a) { return _mm256_min_ps(limit, a); }
FL_INLINE vf vf_max(vf limit, vf a) { return _mm256_max_ps(limit, a); }
FL_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
FL_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
FL_INLINE vf vf_sign(vf a) { return _mm256_and_ps(a, _mm256_set1_ps(-0.0F)); }
FL_INLINE vf vf_or(vf a, vf b) { return _mm256_or_ps(a, b); }
FL_INLINE vf vf_exponent(vf a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23)); }
FL_INLINE vf vf_half(vf a, int h) { return h ? _mm256_permute2f128_ps(a, a, 0x11) : a; }
FL_INLINE vf vf_quarter(vf a, int q)
{
    const __m256d b = _mm256_castps_pd(a);
    switch (q) {
    case 0: return a;
    case 1: return _mm256_castpd_ps(_mm256_permute4x64_pd(b, 0x55));
    case 2: return _mm256_castpd_ps(_mm256_permute4x64_pd(b, 0xaa));
    default: return _mm256_castpd_ps(_mm256_permute4x64_pd(b, 0xff));
    }
}

#else

#define VF_LANES 4
typedef __m256d vf;

FL_INLINE vf vf_set1(real a) { return _mm256_set1_pd(a); }
FL_INLINE vf vf_load(const real *p) { return _mm256_loadu_pd(p); }
FL_INLINE void vf_store(real *p, vf a) { _mm256_storeu_pd(p, a); }
FL_INLINE void vf_stream(real *p, vf a) { _mm256_stream_pd(p, a); }
FL_INLINE __m256i vf_first(size_t n)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)n), _mm256_setr_epi64x(0, 1, 2, 3));
}
FL_INLINE vf vf_load_n(const real *p, size_t n) { return _mm256_maskload_pd(p, vf_first(n)); }
FL_INLINE void vf_store_n(real *p, vf a, size_t n) { _mm256_maskstore_pd(p, vf_first(n), a); }
FL_INLINE vf vf_add(vf a, vf b) { return _mm256_add_pd(a, b); }
FL_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_pd(a, b); }
FL_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_pd(a, b); }
FL_INLINE vf vf_div(vf a, vf b) { return _mm256_div_pd(a, b); }
FL_INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_pd(a); }
FL_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_pd(a, b, c); }
FL_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_pd(a, b, c); }
FL_INLINE vf vf_min(vf limit, vf a) { return _mm256_min_pd(limit, a); }
FL_INLINE vf vf_max(vf limit, vf a) { return _mm256_max_pd(limit, a); }
FL_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
FL_INLINE vf vf_abs(vf a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
FL_INLINE vf vf_sign(vf a) { return _mm256_and_pd(a, _mm256_set1_pd(-0.0)); }
FL_INLINE vf vf_or(vf a, vf b) { return _mm256_or_pd(a, b); }
FL_INLINE vf vf_exponent(vf a) { return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a), 52)); }
FL_INLINE vf vf_half(vf a, int h) { return h ? _mm256_permute2f128_pd(a, a, 0x11) : a; }
FL_INLINE vf vf_quarter(vf a, int q)
{
    switch (q) {
    case 0: return a;
    case 1: return _mm256_permute4x64_pd(a, 0x55);
    case 2: return _mm256_permute4x64_pd(a, 0xaa);
    default: return _mm256_permute4x64_pd(a, 0xff);
    }
}

#endif

FL_INLINE void vf_stream_end(void) { _mm_sfence(); }

/* ---- Doubles, for sums ---------------------------------------------------------------------------------------- */

#define VD_LANES 4
typedef __m256d vd;

#if FL_REAL_BITS == 32
FL_INLINE vd vd_load(const real *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
#else
FL_INLINE vd vd_load(const real *p) { return _mm256_loadu_pd(p); }
#endif
FL_INLINE vd vd_set1(double a) { return _mm256_set1_pd(a); }
FL_INLINE void vd_store(double *p, vd a) { _mm256_storeu_pd(p, a); }
FL_INLINE vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
FL_INLINE vd vd_mul(vd a, vd b) { return _mm256_mul_pd(a, b); }

#endif
