/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The sLSTM (Beck et al. 2024) on one vector of units.  Its input and forget gates are exponentials, divided by exp(m)
 * so that none overflows:
 *     l = log(sigmoid(a_f)) + m',   m = max(a_i, l), or a_i in the first step (n' = 0, element by element)
 *     i = exp(a_i - m),  f = exp(l - m), 0 in the first step,  c = f c' + i tanh(a_z),  n = max(f n' + i, n_floor),  h = sigmoid(a_o) c / n
 * One of i and f is 1, whence one exponential E serves both.  Saves a_i, a_f, a_z, a_o.
 */
#ifndef FL_SLSTM_BODY_H
#define FL_SLSTM_BODY_H
#include "kernels/cells/lstm_body.h"

/* E = exp(-|a_f|) and log(sigmoid(a_f)). */
typedef struct slstm_forget {
    vf E, log;
} slstm_forget;

FL_INLINE slstm_forget slstm_forget_of(vf a_f)
{
    const exp_parts e = exp_minus(vf_min(vf_set1(SIGMOID_LIMIT), vf_abs(a_f)), 0);
    slstm_forget forget;
    forget.E = vf_fnma(e.scale_r, e.q, e.scale);
    forget.log = vf_sub(negative_part(a_f), log1p_of(forget.E));
    return forget;
}

typedef struct slstm_gates {
    vf i, f, m;
    vf lead; /* < 0 where m is l, else m is a_i */
} slstm_gates;

/* In the first step f is 0, as there is nothing to keep, or NaN where a_i is: i is 1 there whatever a_i is. */
FL_INLINE slstm_gates slstm_gates_of(vf a_i, vf log_f, vf n_before, vf m_before)
{
    const vf zero = vf_set1(0), one = vf_set1(1), limit = vf_set1(SIGMOID_LIMIT);
    const vf l = vf_add(log_f, m_before), difference = vf_sub(a_i, l), size = vf_abs(n_before);
    slstm_gates gates;
    gates.lead = vf_select_lt(zero, size, difference, zero);
    const exp_parts e = exp_minus(vf_min(limit, vf_abs(difference)), 0);
    const vf E = vf_fnma(e.scale_r, e.q, e.scale);
    gates.i = vf_select_lt(gates.lead, zero, E, one);
    gates.f = vf_select_lt(zero, size, vf_select_lt(gates.lead, zero, one, E), zero_or_nan(a_i));
    gates.m = vf_select_lt(gates.lead, zero, l, a_i);
    return gates;
}

static inline void slstm_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                              const vf *h)
{
    const size_t H = cell->sizes.H;
    vf a_i = x[0], a_f = x[1], a_z = x[2], a_o = x[3];
    if (h) {
        a_i = vf_add(a_i, h[0]);
        a_f = vf_add(a_f, h[1]);
        a_z = vf_add(a_z, h[2]);
        a_o = vf_add(a_o, h[3]);
    }
    real *states = row->c + unit;
    const vf n_before = load_lanes(states + H, lanes), m_before = load_lanes(states + 2 * H, lanes);
    const slstm_gates gates = slstm_gates_of(a_i, slstm_forget_of(a_f).log, n_before, m_before);
    const tanh_parts z = tanh_of(a_z, 0);
    const vf added = vf_mul(gates.i, vf_div(z.numerator, z.denominator));
    const vf c = vf_fma(gates.f, load_lanes(states, lanes), added);
    const vf n = vf_max(vf_set1((real)cell->options.n_floor), vf_fma(gates.f, n_before, gates.i));
    store_lanes(states, c, lanes);
    store_lanes(states + H, n, lanes);
    store_lanes(states + 2 * H, gates.m, lanes);
    store_lanes(row->h + unit, vf_div(c, vf_mul(sigmoid_denominator(a_o, 0), n)), lanes);
    if (row->saved) {
        real *saved = row->saved + unit;
        store_lanes(saved, a_i, lanes);
        store_lanes(saved + H, a_f, lanes);
        store_lanes(saved + 2 * H, a_z, lanes);
        store_lanes(saved + 3 * H, a_o, lanes);
    }
}

/* The gradient goes through every formula above, a maximum's to the larger one, of equal ones to a_i and f n' + i.
 * With o = sigmoid(a_o), t = tanh(a_z), s = f n' + i:
 *     d_c = dc + dh o / n,   d_s = dn - dh o c / n^2, 0 where s < n_floor
 *     g_i = (d_c t + d_s) i,   g_f = (d_c c' + d_s n') f,   d_m = dm - g_i - g_f
 * a_i gets g_i and l gets g_f, and d_m goes to the one that m is. */
static inline void slstm_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    const size_t H = cell->sizes.H;
    const vf zero = vf_set1(0), one = vf_set1(1);
    const real *saved = row->saved + unit, *before = row->c_before + unit;
    const vf a_i = load_lanes(saved, lanes), a_f = load_lanes(saved + H, lanes);
    const vf c_before = load_lanes(before, lanes), n_before = load_lanes(before + H, lanes);
    const slstm_forget forget = slstm_forget_of(a_f);
    const slstm_gates gates = slstm_gates_of(a_i, forget.log, n_before, load_lanes(before + 2 * H, lanes));
    const vf n = load_lanes(row->c + H + unit, lanes), n_inverse = vf_div(one, n);
    const vf ratio = vf_mul(load_lanes(row->c + unit, lanes), n_inverse);

    /* o, t and 1 - sigmoid(a_f) from one division. */
    const tanh_parts z = tanh_of(load_lanes(saved + 2 * H, lanes), 0);
    const vf o_denominator =
        vf_min(vf_set1(GATE_DENOMINATOR_LIMIT), sigmoid_denominator(load_lanes(saved + 3 * H, lanes), 0));
    const vf f_denominator = vf_add(one, forget.E), product = vf_mul(z.denominator, f_denominator);
    const vf inverse = vf_div(one, vf_mul(product, o_denominator)), rest = vf_mul(inverse, o_denominator);
    const vf o = vf_mul(inverse, product), t = vf_mul(z.numerator, vf_mul(rest, f_denominator));
    const vf not_f = vf_mul(vf_mul(rest, z.denominator), vf_select_lt(a_f, zero, one, forget.E));

    vf dc = load_lanes(row->dc + unit, lanes);
    if (row->dc_given)
        dc = vf_add(dc, load_lanes(row->dc_given + unit, lanes));
    const vf dh_o = vf_mul(dh, o), through_c = vf_mul(dh_o, n_inverse);
    const vf d_c = vf_add(dc, through_c);
    const vf sum = vf_fma(gates.f, n_before, gates.i);
    const vf d_n = vf_fnma(through_c, ratio, load_lanes(row->dc + H + unit, lanes));
    const vf d_s = vf_select_lt(sum, vf_set1((real)cell->options.n_floor), zero, d_n);
    const vf g_i = vf_mul(vf_fma(d_c, t, d_s), gates.i);
    const vf g_f = vf_mul(vf_fma(d_c, c_before, vf_mul(d_s, n_before)), gates.f);
    const vf dm = load_lanes(row->dc + 2 * H + unit, lanes);
    const vf d_i = vf_select_lt(gates.lead, zero, g_i, vf_sub(dm, g_f));
    const vf d_l = vf_select_lt(gates.lead, zero, vf_sub(dm, g_i), g_f);
    const vf d_t = vf_mul(d_c, gates.i);

    store_lanes(row->dx + unit, d_i, lanes);
    store_lanes(row->dx + H + unit, vf_mul(d_l, not_f), lanes);
    store_lanes(row->dx + 2 * H + unit, vf_mul(d_t, vf_fnma(t, t, one)), lanes);
    store_lanes(row->dx + 3 * H + unit, vf_mul(vf_mul(dh_o, ratio), vf_sub(one, o)), lanes);
    store_lanes(row->dc + unit, vf_mul(d_c, gates.f), lanes);
    store_lanes(row->dc + H + unit, vf_mul(d_s, gates.f), lanes);
    store_lanes(row->dc + 2 * H + unit, d_l, lanes);
    if (row->dh_before)
        store_lanes(row->dh_before + unit, zero, lanes);
}

#endif
