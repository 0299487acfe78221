/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The SIMD vocabulary for NEON on aarch64.  See simd_generic.h for what each name means.
 */
#ifndef FL_SIMD_H
#define FL_SIMD_H
#include <arm_neon.h>

#include "kernels/simd/simd_types.h"

#define VF_REGISTERS 32

#if FL_REAL_BITS == 32

#define VF_LANES 4
typedef float32x4_t vf;

FL_INLINE vf vf_set1(real a) { return vdupq_n_f32(a); }
FL_INLINE vf vf_load(const real *p) { return vld1q_f32(p); }
FL_INLINE void vf_store(real *p, vf a) { vst1q_f32(p, a); }
FL_INLINE vf vf_load_n(const real *p, size_t n)
{
    vf a = vdupq_n_f32(0.0F);
    switch (n) {
    case 4: return vld1q_f32(p);
    case 3: a = vld1q_lane_f32(p + 2, a, 2); /* fall through */
    case 2: a = vld1q_lane_f32(p + 1, a, 1); /* fall through */
    case 1: a = vld1q_lane_f32(p, a, 0);     /* fall through */
    default: return a;
    }
}
FL_INLINE void vf_store_n(real *p, vf a, size_t n)
{
    switch (n) {
    case 4: vst1q_f32(p, a); return;
    case 3: vst1q_lane_f32(p + 2, a, 2); /* fall through */
    case 2: vst1q_lane_f32(p + 1, a, 1); /* fall through */
    case 1: vst1q_lane_f32(p, a, 0);     /* fall through */
    default: return;
    }
}
FL_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
FL_INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
FL_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
FL_INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
FL_INLINE vf vf_sqrt(vf a) { return vsqrtq_f32(a); }
FL_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
FL_INLINE vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
FL_INLINE vf vf_min(vf limit, vf a) { return vminq_f32(limit, a); }
FL_INLINE vf vf_max(vf limit, vf a) { return vmaxq_f32(limit, a); }
FL_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
FL_INLINE vf vf_abs(vf a) { return vabsq_f32(a); }
FL_INLINE vf vf_sign(vf a)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(0x80000000U)));
}
FL_INLINE vf vf_or(vf a, vf b)
{
    return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
}
FL_INLINE vf vf_exponent(vf a) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), 23)); }
FL_INLINE vf vf_half(vf a, int h) { return h ? vextq_f32(a, a, 2) : a; }
FL_INLINE vf vf_quarter(vf a, int q)
{
    switch (q) {
    case 0: return a;
    case 1: return vdupq_laneq_f32(a, 1);
    case 2: return vdupq_laneq_f32(a, 2);
    default: return vdupq_laneq_f32(a, 3);
    }
}

#else

#define VF_LANES 2
typedef float64x2_t vf;

FL_INLINE vf vf_set1(real a) { return vdupq_n_f64(a); }
FL_INLINE vf vf_load(const real *p) { return vld1q_f64(p); }
FL_INLINE void vf_store(real *p, vf a) { vst1q_f64(p, a); }
FL_INLINE vf vf_load_n(const real *p, size_t n)
{
    return n >= 2 ? vld1q_f64(p) : vld1q_lane_f64(p, vdupq_n_f64(0.0), 0);
}
FL_INLINE void vf_store_n(real *p, vf a, size_t n)
{
    if (n >= 2)
        vst1q_f64(p, a);
    else
        vst1q_lane_f64(p, a, 0);
}
FL_INLINE vf vf_add(vf a, vf b) { return vaddq_f64(a, b); }
FL_INLINE vf vf_sub(vf a, vf b) { return vsubq_f64(a, b); }
FL_INLINE vf vf_mul(vf a, vf b) { return vmulq_f64(a, b); }
FL_INLINE vf vf_div(vf a, vf b) { return vdivq_f64(a, b); }
FL_INLINE vf vf_sqrt(vf a) { return vsqrtq_f64(a); }
FL_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f64(c, a, b); }
FL_INLINE vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f64(c, a, b); }
FL_INLINE vf vf_min(vf limit, vf a) { return vminq_f64(limit, a); }
FL_INLINE vf vf_max(vf limit, vf a) { return vmaxq_f64(limit, a); }
FL_INLINE vf vf_select_lt(vf a, vf b, vf yes, vf no) { return vbslq_f64(vcltq_f64(a, b), yes, no); }
FL_INLINE vf vf_abs(vf a) { return vabsq_f64(a); }
FL_INLINE vf vf_sign(vf a)
{
    return vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(a), vdupq_n_u64(0x8000000000000000U)));
}
FL_INLINE vf vf_or(vf a, vf b)
{
    return vreinterpretq_f64_u64(vorrq_u64(vreinterpretq_u64_f64(a), vreinterpretq_u64_f64(b)));
}
FL_INLINE vf vf_exponent(vf a) { return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(a), 52)); }
FL_INLINE vf vf_half(vf a, int h) { return h ? vdupq_laneq_f64(a, 1) : a; }
FL_INLINE vf vf_quarter(vf a, int q) { return vf_half(a, q); }

#endif

FL_INLINE void vf_stream(real *p, vf a) { vf_store(p, a); }
FL_INLINE void vf_stream_end(void) {}

/* ---- Doubles, for sums ---------------------------------------------------------------------------------------- */

#define VD_LANES 2
typedef float64x2_t vd;

#if FL_REAL_BITS == 32
FL_INLINE vd vd_load(const real *p) { return vcvt_f64_f32(vld1_f32(p)); }
#else
FL_INLINE vd vd_load(const real *p) { return vld1q_f64(p); }
#endif
FL_INLINE vd vd_set1(double a) { return vdupq_n_f64(a); }
FL_INLINE void vd_store(double *p, vd a) { vst1q_f64(p, a); }
FL_INLINE vd vd_add(vd a, vd b) { return vaddq_f64(a, b); }
FL_INLINE vd vd_mul(vd a, vd b) { return vmulq_f64(a, b); }

#endif
