/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Exponential, logistic, hyperbolic tangent and log(1 + exp) over one vector, written once over the SIMD vocabulary.
 *
 * exp(-u) is split as s exp(-r) with s = 2^n, n the integer nearest to -u / ln 2 and r = u + n ln 2, |r| <= ln(2) / 2;
 * and exp(-r) as 1 - r q(r) with q(0) = 1.  Then
 *     exp(-u)     = s     - (s r) q(r)
 *     1 - exp(-u) = 1 - s + (s r) q(r)
 * each in one multiply-add, so that 1 - exp(-u) keeps full relative precision where u is small, and tanh with it: there
 * n is 0 and r is u itself.  The coefficients of q come from tools/fit_polynomials.py (relative error 1.4e-8 for
 * float32, 2.0e-17 for float64), and so do those of the logarithm.  Divisions are real divisions: reciprocal estimates
 * differ between machines.
 */
#ifndef FL_VECMATH_BODY_H
#define FL_VECMATH_BODY_H
#if FL_REAL_BITS == 32
#define LOG2_E 0x1.715476p+0F
/* ln 2, and in two parts, of which a multiple of the first by any n is exact. */
#define LN_2 0x1.62e430p-1F
#define LN_2_HIGH 0x1.62e4p-1F
#define LN_2_LOW 0x1.7f7d1cp-20F
/* 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits; 127 is the exponent bias. */
#define ROUND_AND_BIAS (REAL(12582912.0) + REAL(127.0))
/* Twice exp(88) is still finite, and the logistic function of -88 is below the smallest normal number. */
#define SIGMOID_LIMIT REAL(88.0)
/* tanh is 1 to working precision from 9.02 on; exp(-40) is normal. */
#define TANH_LIMIT REAL(20.0)
/* exp is 0 or infinity beyond; of half of it, a normal number. */
#define EXP_LIMIT REAL(128.0)
#else
#define LOG2_E 0x1.71547652b82fep+0
#define LN_2 0x1.62e42fefa39efp-1
#define LN_2_HIGH 0x1.62e42fefa38p-1
#define LN_2_LOW 0x1.ef35793c76730p-45
#define ROUND_AND_BIAS (REAL(6755399441055744.0) + REAL(1023.0)) /* 1.5 * 2^52 */
#define SIGMOID_LIMIT REAL(709.0)                                /* likewise */
#define TANH_LIMIT REAL(40.0)                                    /* tanh is 1 from 19.07 on */
#define EXP_LIMIT REAL(800.0)                                    /* likewise */
#endif

/* exp(-u) = scale - scale_r * q */
typedef struct exp_parts {
    vf scale, scale_r, q;
} exp_parts;

FL_INLINE vf exp_q(vf r)
{
    const vf r2 = vf_mul(r, r);
#if FL_REAL_BITS == 32
    const vf q01 = vf_fma(vf_set1(-0x1.fffffep-2F), r, vf_set1(1));
    const vf q23 = vf_fma(vf_set1(-0x1.555748p-5F), r, vf_set1(0x1.5554aep-3F));
    const vf q45 = vf_fma(vf_set1(-0x1.6b488ap-10F), r, vf_set1(0x1.1228bep-7F));
    return vf_fma(vf_fma(q45, r2, q23), r2, q01);
#else
    const vf r4 = vf_mul(r2, r2), r8 = vf_mul(r4, r4);
    const vf q01 = vf_fma(vf_set1(-0x1.0000000000005p-1), r, vf_set1(1));
    const vf q23 = vf_fma(vf_set1(-0x1.555555555212fp-5), r, vf_set1(0x1.555555555553dp-3));
    const vf q45 = vf_fma(vf_set1(-0x1.6c16c17f25c22p-10), r, vf_set1(0x1.1111111118024p-7));
    const vf q67 = vf_fma(vf_set1(-0x1.a019a6bd75a35p-16), r, vf_set1(0x1.a01a017a29cf1p-13));
    const vf q89 = vf_fma(vf_set1(-0x1.28a273d609e55p-22), r, vf_set1(0x1.71de7d078ab5ep-19));
    const vf q03 = vf_fma(q23, r2, q01), q47 = vf_fma(q67, r2, q45);
    return vf_fma(vf_fma(vf_set1(0x1.ae7c8e84516dbp-26), r2, q89), r8, vf_fma(q47, r4, q03));
#endif
}

/* `exact`, a constant: ln 2 in two parts.  With one, exp(-u) is good to about |u| / 8 units in the last place, which is
 * plenty for a gate (its absolute error is that of rounding); the functions that users call have two. */
FL_INLINE exp_parts exp_minus(vf u, const int exact)
{
    const vf biased = vf_fma(u, vf_set1(-LOG2_E), vf_set1(ROUND_AND_BIAS));
    const vf n = vf_sub(biased, vf_set1(ROUND_AND_BIAS));
    vf r;
    if (exact)
        r = vf_fma(n, vf_set1(LN_2_LOW), vf_fma(n, vf_set1(LN_2_HIGH), u));
    else
        r = vf_fma(n, vf_set1(LN_2), u);
    exp_parts e;
    e.scale = vf_exponent(biased);
    e.scale_r = vf_mul(e.scale, r);
    e.q = exp_q(r);
    return e;
}

/* 1 + exp(-a): the denominator of the logistic function; finite, NaN for NaN. */
FL_INLINE vf sigmoid_denominator(vf a, const int exact)
{
    a = vf_min(vf_set1(SIGMOID_LIMIT), vf_max(vf_set1(-SIGMOID_LIMIT), a));
    const exp_parts e = exp_minus(a, exact);
    return vf_fnma(e.scale_r, e.q, vf_add(e.scale, vf_set1(1)));
}

FL_INLINE vf sigmoid(vf a) { return vf_div(vf_set1(1), sigmoid_denominator(a, 1)); }

/* tanh(a) = numerator / denominator = sign(a) (1 - E) / (1 + E), E = exp(-2 |a|). */
typedef struct tanh_parts {
    vf numerator, denominator;
} tanh_parts;

FL_INLINE tanh_parts tanh_of(vf a, const int exact)
{
    const vf magnitude = vf_min(vf_set1(TANH_LIMIT), vf_abs(a));
    const exp_parts e = exp_minus(vf_add(magnitude, magnitude), exact);
    tanh_parts t;
    t.numerator = vf_or(vf_fma(e.scale_r, e.q, vf_sub(vf_set1(1), e.scale)), vf_sign(a));
    t.denominator = vf_fnma(e.scale_r, e.q, vf_add(e.scale, vf_set1(1)));
    return t;
}

FL_INLINE vf hyperbolic_tangent(vf a)
{
    const tanh_parts t = tanh_of(a, 1);
    return vf_div(t.numerator, t.denominator);
}

/* 1 - exp(-u) for u >= 0, with full relative precision where u is small. */
FL_INLINE vf one_minus_exp_minus(vf u)
{
    const exp_parts e = exp_minus(vf_min(vf_set1(2 * TANH_LIMIT), u), 1);
    return vf_fma(e.scale_r, e.q, vf_sub(vf_set1(1), e.scale));
}

/* exp(a) of any a: 0 far below zero, infinity far above, NaN for NaN.  The square of exp(a / 2), which is a normal
 * number wherever exp(a) is finite and not 0. */
FL_INLINE vf exponential(vf a)
{
    const vf u = vf_mul(vf_set1(-REAL(0.5)), vf_min(vf_set1(EXP_LIMIT), vf_max(vf_set1(-EXP_LIMIT), a)));
    const exp_parts e = exp_minus(u, 1);
    const vf root = vf_fnma(e.scale_r, e.q, e.scale);
    return vf_mul(root, root);
}

/* log(1 + E), 0 <= E <= 1, as 2 artanh(s) = 2 s p(s^2), s = E / (2 + E) <= 1/3; p(0) = 1. */
FL_INLINE vf log1p_of(vf E)
{
    const vf s = vf_div(E, vf_add(E, vf_set1(2))), s2 = vf_mul(s, s), s4 = vf_mul(s2, s2);
#if FL_REAL_BITS == 32
    const vf p01 = vf_fma(vf_set1(0x1.555500p-2F), s2, vf_set1(1));
    const vf p23 = vf_fma(vf_set1(0x1.1eba8ap-3F), s2, vf_set1(0x1.99d246p-3F));
    const vf p = vf_fma(vf_fma(vf_set1(0x1.1edff8p-3F), s4, p23), s4, p01);
#else
    const vf s8 = vf_mul(s4, s4);
    const vf p01 = vf_fma(vf_set1(0x1.5555555555535p-2), s2, vf_set1(1));
    const vf p23 = vf_fma(vf_set1(0x1.249249209037ap-3), s2, vf_set1(0x1.99999999a0746p-3));
    const vf p45 = vf_fma(vf_set1(0x1.745cb483ca634p-4), s2, vf_set1(0x1.c71c741978816p-4));
    const vf p67 = vf_fma(vf_set1(0x1.106879d107c3bp-4), s2, vf_set1(0x1.3b1dcee134e07p-4));
    const vf p89 = vf_fma(vf_set1(0x1.55e7a26b1f87bp-5), s2, vf_set1(0x1.efcc621bf80edp-5));
    const vf p03 = vf_fma(p23, s4, p01), p47 = vf_fma(p67, s4, p45);
    const vf p8a = vf_fma(vf_set1(0x1.5c4477d3ac016p-4), s4, p89);
    const vf p = vf_fma(vf_fma(p8a, s8, p47), s8, p03);
#endif
    return vf_mul(vf_add(s, s), p);
}

/* log(1 + exp(-|a|)); 0 where exp(-|a|) is below the smallest normal number. */
FL_INLINE vf log1p_exp_minus(vf a)
{
    const exp_parts e = exp_minus(vf_min(vf_set1(SIGMOID_LIMIT), vf_abs(a)), 1);
    return log1p_of(vf_fnma(e.scale_r, e.q, e.scale));
}

/* log(1 + exp(a)) */
FL_INLINE vf softplus(vf a) { return vf_add(vf_max(vf_set1(0), a), log1p_exp_minus(a)); }

#endif
