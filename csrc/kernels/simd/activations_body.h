/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The activation functions of fl_activation on one vector, their derivatives, and clipping.
 *
 * A NaN stays NaN.  At a kink, LeakyRelu and Elu (0) and ThresholdedRelu (alpha) have the slope of the identity, which
 * holds the point; Relu (0) and HardSigmoid (where it just reaches 0 or 1) have slope 0.  A value that just reaches its
 * clip is not clipped.
 */
#ifndef FL_ACTIVATIONS_BODY_H
#define FL_ACTIVATIONS_BODY_H
#include "model/cell.h"
#include "kernels/simd/vecmath_body.h"

/* x / (1 + |x|) is 1 from far below this on, and not infinity / infinity. */
#if FL_REAL_BITS == 32
#define SOFTSIGN_LIMIT 0x1p100F
#else
#define SOFTSIGN_LIMIT 0x1p1000
#endif

FL_INLINE vf clamped(vf a, vf limit) { return vf_min(limit, vf_max(vf_sub(vf_set1(0), limit), a)); }

/* a clamped to +-limit; 0: no limit. */
FL_INLINE vf clip_to(vf a, double limit) { return limit > 0.0 ? clamped(a, vf_set1((real)limit)) : a; }

/* Its derivative at a: 0 where |a| > limit, else 1. */
FL_INLINE vf clip_slope(vf a, double limit)
{
    const vf one = vf_set1(1);
    return limit > 0.0 ? vf_select_lt(vf_set1((real)limit), vf_abs(a), vf_set1(0), one) : one;
}

FL_INLINE vf negative_part(vf a) { return vf_min(vf_set1(0), a); }
FL_INLINE vf positive_part(vf a) { return vf_max(vf_set1(0), a); }

/* 0, or NaN where `a` is NaN: added to what was chosen by comparing `a`. */
FL_INLINE vf zero_or_nan(vf a) { return positive_part(negative_part(a)); }

/* The uncommon ones: not inlined, they would swell every cell. */
static __attribute__((noinline)) vf activate_rarely(const fl_activation *f, vf a)
{
    const vf alpha = vf_set1((real)f->alpha), beta = vf_set1((real)f->beta), zero = vf_set1(0), one = vf_set1(1);
    switch (f->kind) {
    case FL_AFFINE: return vf_fma(alpha, a, beta);
    case FL_LEAKY_RELU: return vf_fma(alpha, negative_part(a), positive_part(a));
    case FL_THRESHOLDED_RELU: return vf_select_lt(a, alpha, zero, a);
    case FL_SCALED_TANH: return vf_mul(alpha, hyperbolic_tangent(vf_mul(beta, a)));
    case FL_HARD_SIGMOID: return vf_min(one, positive_part(vf_fma(alpha, a, beta)));
    case FL_ELU: return vf_fnma(alpha, one_minus_exp_minus(vf_sub(zero, negative_part(a))), positive_part(a));
    case FL_SOFTSIGN: {
        const vf bounded = clamped(a, vf_set1(SOFTSIGN_LIMIT));
        return vf_div(bounded, vf_add(one, vf_abs(bounded)));
    }
    case FL_SOFTPLUS: return softplus(a);
    default: return a;
    }
}

FL_INLINE vf activate(const fl_activation *f, vf a)
{
    if (f->kind == FL_SIGMOID)
        return vf_div(vf_set1(1), sigmoid_denominator(a, 0));
    if (f->kind == FL_TANH) {
        const tanh_parts t = tanh_of(a, 0);
        return vf_div(t.numerator, t.denominator);
    }
    if (f->kind == FL_RELU)
        return positive_part(a);
    return activate_rarely(f, a);
}

/* E / (1 + E)^2 with E = exp(-|a|): without the cancellation of s (1 - s). */
FL_INLINE vf sigmoid_slope(vf a)
{
    const exp_parts e = exp_minus(vf_min(vf_set1(SIGMOID_LIMIT), vf_abs(a)), 0);
    const vf E = vf_fnma(e.scale_r, e.q, e.scale), denominator = vf_add(E, vf_set1(1));
    return vf_div(E, vf_mul(denominator, denominator));
}

/* 1 - tanh^2 */
FL_INLINE vf tanh_slope(vf a) { return vf_mul(vf_set1(4), sigmoid_slope(vf_add(a, a))); }

static __attribute__((noinline)) vf activation_slope_rarely(const fl_activation *f, vf a)
{
    const vf alpha = vf_set1((real)f->alpha), beta = vf_set1((real)f->beta), zero = vf_set1(0), one = vf_set1(1);
    const vf nothing = zero_or_nan(a);
    switch (f->kind) {
    case FL_AFFINE: return vf_add(alpha, nothing);
    case FL_LEAKY_RELU: return vf_add(vf_select_lt(a, zero, alpha, one), nothing);
    case FL_THRESHOLDED_RELU: return vf_add(vf_select_lt(a, alpha, zero, one), nothing);
    case FL_SCALED_TANH: return vf_mul(vf_mul(alpha, beta), tanh_slope(vf_mul(beta, a)));
    case FL_HARD_SIGMOID: {
        const vf line = vf_fma(alpha, a, beta);
        return vf_add(vf_select_lt(zero, line, vf_select_lt(line, one, alpha, zero), zero), nothing);
    }
    case FL_ELU: return vf_select_lt(a, zero, vf_mul(alpha, exponential(negative_part(a))), vf_add(one, nothing));
    case FL_SOFTSIGN: {
        const vf root = vf_div(one, vf_add(one, vf_abs(a)));
        return vf_mul(root, root);
    }
    case FL_SOFTPLUS: return vf_div(one, sigmoid_denominator(a, 0));
    default: return one;
    }
}

/* The derivative at the pre-activation a. */
FL_INLINE vf activation_slope(const fl_activation *f, vf a)
{
    if (f->kind == FL_SIGMOID)
        return sigmoid_slope(a);
    if (f->kind == FL_TANH)
        return tanh_slope(a);
    if (f->kind == FL_RELU)
        return vf_select_lt(vf_set1(0), a, vf_set1(1), zero_or_nan(a));
    return activation_slope_rarely(f, a);
}

/* Of a pre-activation that is clipped first; the derivative is by the one before the clip. */
FL_INLINE vf activate_clipped(const fl_activation *f, double limit, vf a) { return activate(f, clip_to(a, limit)); }

FL_INLINE vf clipped_slope(const fl_activation *f, double limit, vf a)
{
    return vf_mul(clip_slope(a, limit), activation_slope(f, clip_to(a, limit)));
}

#endif
