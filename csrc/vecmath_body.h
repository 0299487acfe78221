/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Exponential, logistic and hyperbolic tangent over one vector, written once over the SIMD vocabulary.
 *
 * 2^t is split as 2^n 2^r with n the nearest integer and |r| <= 1/2, and 2^r as 1 + r q(r).  With s = 2^n,
 *     2^t     = s     + (s r) q(r)
 *     1 - 2^t = 1 - s - (s r) q(r)
 * each in one multiply-add, so that 1 - 2^t keeps full relative precision where t is small, and tanh with it.
 * The coefficients of q come from tools/fit_polynomials.py (relative error 1.1e-8 for float32, 1.8e-17 for float64).
 * Divisions are real divisions: reciprocal estimates differ between machines.
 */
#ifndef FL_VECMATH_BODY_H
#define FL_VECMATH_BODY_H

/* log2 e = LOG2_E + LOG2_E_REST.  Without the rest an exponential is good to about |t| / 8 units in the last place,
 * which is plenty for a gate (its absolute error is that of rounding); the functions that users call have it. */
#if FL_REAL_BITS == 32
#define LOG2_E 0x1.715476p+0F
#define LOG2_E_REST 0x1.4ae0bep-26F
#else
#define LOG2_E 0x1.71547652b82fep+0
#define LOG2_E_REST 0x1.777d0ffda0d24p-56
#endif

#if FL_REAL_BITS == 32
/* 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits; 127 is the exponent bias. */
#define ROUND_AND_BIAS (REAL(12582912.0) + REAL(127.0))
/* Twice 2^(88 log2 e) is still finite, and the logistic function of -88 is below the smallest normal number. */
#define SIGMOID_LIMIT REAL(88.0)
/* tanh is 1 to working precision from 9.02 on; 2 * 20 log2 e < 126. */
#define TANH_LIMIT REAL(20.0)
#else
#define ROUND_AND_BIAS (REAL(6755399441055744.0) + REAL(1023.0)) /* 1.5 * 2^52 */
#define SIGMOID_LIMIT REAL(709.0)                                /* likewise */
#define TANH_LIMIT REAL(40.0)                                    /* tanh is 1 from 19.07 on */
#endif

/* 2^((factor + rest) a) = scale + scale_r * q; `rest` may be 0. */
typedef struct exp2_parts {
    vf scale, scale_r, q;
} exp2_parts;

FL_INLINE vf exp2_q(vf r)
{
    const vf r2 = vf_mul(r, r);
#if FL_REAL_BITS == 32
    const vf q01 = vf_fma(vf_set1(0x1.ebfbdep-3F), r, vf_set1(0x1.62e430p-1F));
    const vf q23 = vf_fma(vf_set1(0x1.3b2ba0p-7F), r, vf_set1(0x1.c6af6ep-5F));
    const vf q45 = vf_fma(vf_set1(0x1.4308fap-13F), r, vf_set1(0x1.5f07b4p-10F));
    return vf_fma(vf_fma(q45, r2, q23), r2, q01);
#else
    const vf r4 = vf_mul(r2, r2), r8 = vf_mul(r4, r4);
    const vf q01 = vf_fma(vf_set1(0x1.ebfbdff82c598p-3), r, vf_set1(0x1.62e42fefa39efp-1));
    const vf q23 = vf_fma(vf_set1(0x1.3b2ab6fba1e40p-7), r, vf_set1(0x1.c6b08d704a08ep-5));
    const vf q45 = vf_fma(vf_set1(0x1.4309130958d98p-13), r, vf_set1(0x1.5d87fe78b2115p-10));
    const vf q67 = vf_fma(vf_set1(0x1.62bfd4b4d69dbp-20), r, vf_set1(0x1.ffcbfc1ea57edp-17));
    const vf q89 = vf_fma(vf_set1(0x1.e605d23ed073dp-28), r, vf_set1(0x1.b525a08e70d1bp-24));
    const vf q03 = vf_fma(q23, r2, q01), q47 = vf_fma(q67, r2, q45);
    return vf_fma(vf_fma(vf_set1(0x1.e8cabfafca93ap-32), r2, q89), r8, vf_fma(q47, r4, q03));
#endif
}

FL_INLINE exp2_parts exp2_of(vf a, real factor, real rest)
{
    const vf biased = vf_fma(a, vf_set1(factor), vf_set1(ROUND_AND_BIAS));
    const vf n = vf_sub(biased, vf_set1(ROUND_AND_BIAS));
    vf r = vf_fms(a, vf_set1(factor), n);
    if (rest != 0)
        r = vf_fma(a, vf_set1(rest), r);
    exp2_parts e;
    e.scale = vf_exponent(biased);
    e.scale_r = vf_mul(e.scale, r);
    e.q = exp2_q(r);
    return e;
}

/* 1 + exp(-a): the denominator of the logistic function; finite, NaN for NaN. */
FL_INLINE vf sigmoid_denominator(vf a, real rest)
{
    a = vf_min(vf_set1(SIGMOID_LIMIT), vf_max(vf_set1(-SIGMOID_LIMIT), a));
    const exp2_parts e = exp2_of(a, -LOG2_E, -rest);
    return vf_fma(e.scale_r, e.q, vf_add(e.scale, vf_set1(1)));
}

FL_INLINE vf sigmoid(vf a) { return vf_div(vf_set1(1), sigmoid_denominator(a, LOG2_E_REST)); }

/* tanh(a) = numerator / denominator = sign(a) (1 - E) / (1 + E), E = exp(-2 |a|). */
typedef struct tanh_parts {
    vf numerator, denominator;
} tanh_parts;

FL_INLINE tanh_parts tanh_of(vf a, real rest)
{
    const vf magnitude = vf_min(vf_set1(TANH_LIMIT), vf_abs(a));
    const exp2_parts e = exp2_of(magnitude, -2 * LOG2_E, -2 * rest);
    tanh_parts t;
    t.numerator = vf_or(vf_fnma(e.scale_r, e.q, vf_sub(vf_set1(1), e.scale)), vf_sign(a));
    t.denominator = vf_fma(e.scale_r, e.q, vf_add(e.scale, vf_set1(1)));
    return t;
}

FL_INLINE vf hyperbolic_tangent(vf a)
{
    const tanh_parts t = tanh_of(a, LOG2_E_REST);
    return vf_div(t.numerator, t.denominator);
}

#endif
