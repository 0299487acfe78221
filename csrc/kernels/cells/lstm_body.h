/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The LSTM cell update on one vector of hidden units, from gates before activation:
 *     c' = f c + i g,   h = o tanh(c')          (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000)
 * with i = 1/A, f = 1/F, o = 1/O and g = N/G.  Three divisions serve five activations:
 *     c' = c / F + N / (A G),   h = N_c / (O G_c)
 * No product overflows: A, F, O < 2^127 (float32; SIGMOID_LIMIT), G <= 2.
 */
#ifndef FL_LSTM_BODY_H
#define FL_LSTM_BODY_H
#include "kernels/cells/cell_contract.h"

/* What the gates are made of: i = 1 / i_denominator and so on. */
typedef struct lstm_parts {
    vf i_denominator, f_denominator, o_denominator;
    tanh_parts g;
} lstm_parts;

FL_INLINE lstm_parts lstm_parts_of(vf gate_i, vf gate_f, vf gate_g, vf gate_o)
{
    lstm_parts parts;
    parts.i_denominator = sigmoid_denominator(gate_i, 0);
    parts.f_denominator = sigmoid_denominator(gate_f, 0);
    parts.g = tanh_of(gate_g, 0);
    parts.o_denominator = sigmoid_denominator(gate_o, 0);
    return parts;
}

FL_INLINE vf lstm_new_c(const lstm_parts *parts, vf c)
{
    const vf kept = vf_div(c, parts->f_denominator);
    return vf_add(kept, vf_div(parts->g.numerator, vf_mul(parts->i_denominator, parts->g.denominator)));
}

FL_INLINE vf lstm_new_h(const lstm_parts *parts, vf c)
{
    const tanh_parts c_squashed = tanh_of(c, 0);
    return vf_div(c_squashed.numerator, vf_mul(parts->o_denominator, c_squashed.denominator));
}

/* ---- What training keeps ---------------------------------------------------------------------------------- */

/* Two of these multiplied, and the reciprocal of that, are still normal numbers. */
#if FL_REAL_BITS == 32
#define GATE_DENOMINATOR_LIMIT 0x1p62F
#else
#define GATE_DENOMINATOR_LIMIT 0x1p510
#endif

/* The gates after activation, H apart, four quotients from two divisions: 1/a = b / (a b).  They serve gradients alone,
 * where a gate of 2^-62 is as good as a smaller one. */
FL_INLINE void store_gates(const lstm_parts *parts, size_t H, size_t lanes, real *unit)
{
    const vf limit = vf_set1(GATE_DENOMINATOR_LIMIT), one = vf_set1(1);
    const vf i_denominator = vf_min(limit, parts->i_denominator), f_denominator = vf_min(limit, parts->f_denominator);
    const vf o_denominator = vf_min(limit, parts->o_denominator);
    const vf io = vf_div(one, vf_mul(i_denominator, o_denominator));
    const vf fg = vf_div(one, vf_mul(f_denominator, parts->g.denominator));
    store_lanes(unit, vf_mul(io, o_denominator), lanes);
    store_lanes(unit + H, vf_mul(fg, parts->g.denominator), lanes);
    store_lanes(unit + 2 * H, vf_mul(parts->g.numerator, vf_mul(fg, f_denominator)), lanes);
    store_lanes(unit + 3 * H, vf_mul(io, i_denominator), lanes);
}

/* What a recorded pass keeps.  Not inlined, as the common call has none of it; and by value, as what has an address is in
 * memory, in the common call too. */
static __attribute__((noinline)) void lstm_save(real *saved_c, real *saved, size_t H, size_t lanes, vf i_denominator,
                                                vf f_denominator, vf o_denominator, vf g_numerator, vf g_denominator,
                                                vf c)
{
    const lstm_parts parts = {i_denominator, f_denominator, o_denominator, {g_numerator, g_denominator}};
    store_lanes(saved_c, c, lanes);
    if (saved)
        store_gates(&parts, H, lanes, saved);
}

/* ---- Forward ------------------------------------------------------------------------------------------------ */

/* The peepholes of gate n of those that have them.  A whole vector: memory goes on behind them, and what padded lanes get is
 * never stored. */
FL_INLINE vf lstm_peephole_of(const fl_cell *cell, size_t n, size_t unit)
{
    return vf_load((const real *)cell->own.weight_ch + n * cell->sizes.H + unit);
}

/* From pre-activations i, f, g, o: the cell without options, or with peepholes alone. */
FL_INLINE void lstm_of_four(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                            const bool peephole)
{
    const vf c_before = load_lanes(row->c + unit, lanes);
    lstm_parts parts;
    parts.i_denominator =
        sigmoid_denominator(peephole ? vf_fma(lstm_peephole_of(cell, 0, unit), c_before, x[0]) : x[0], 0);
    parts.f_denominator =
        sigmoid_denominator(peephole ? vf_fma(lstm_peephole_of(cell, 1, unit), c_before, x[1]) : x[1], 0);
    parts.g = tanh_of(x[2], 0);
    if (!peephole)
        parts.o_denominator = sigmoid_denominator(x[3], 0);
    const vf c = lstm_new_c(&parts, c_before);
    if (peephole)
        parts.o_denominator = sigmoid_denominator(vf_fma(lstm_peephole_of(cell, 2, unit), c, x[3]), 0);
    store_lanes(row->c + unit, c, lanes);
    store_lanes(row->h + unit, lstm_new_h(&parts, c), lanes);
    if (row->saved_c)
        lstm_save(row->saved_c + unit, row->saved ? row->saved + unit : NULL, cell->sizes.H, lanes, parts.i_denominator,
                  parts.f_denominator, parts.o_denominator, parts.g.numerator, parts.g.denominator, c);
}

FL_INLINE void lstm_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x, const vf *h)
{
    lstm_of_four(cell, row, unit, lanes, x, false);
    (void)h;
}

FL_INLINE void lstm_peephole_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                                  const vf *h)
{
    lstm_of_four(cell, row, unit, lanes, x, true);
    (void)h;
}

/* ---- Backward --------------------------------------------------------------------------------------------- */

/* The gradient of c after the step: from the step that follows, and from outside. */
FL_INLINE vf lstm_dc_after(const unit_back_row *row, size_t unit, size_t lanes)
{
    const vf dc = load_lanes(row->dc + unit, lanes);
    return row->dc_given ? vf_add(dc, load_lanes(row->dc_given + unit, lanes)) : dc;
}

/* From gates after activation.  With dh and dc' the gradients of the new h and c, and t = tanh(c'):
 *     d_o = dh t,  d_c = dc' + dh o (1 - t^2),  d_i = d_c g,  d_g = d_c i,  d_f = d_c c
 * times the derivatives of the activations, and d_c f for the cell state before.  Peepholes p add p_o d_o to d_c and
 * p_i d_i + p_f d_f to the gradient of c; their own gradients are d_i c, d_f c, d_o c'. */
FL_INLINE void lstm_of_four_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh,
                                 const bool peephole)
{
    const size_t H = cell->sizes.H;
    const real *gates = row->saved + unit;
    const vf one = vf_set1(1), c = load_lanes(row->c + unit, lanes), c_before = load_lanes(row->c_before + unit, lanes);
    const vf i = load_lanes(gates, lanes), f = load_lanes(gates + H, lanes);
    const vf g = load_lanes(gates + 2 * H, lanes), o = load_lanes(gates + 3 * H, lanes);
    const tanh_parts parts = tanh_of(c, 0);
    const vf t = vf_div(parts.numerator, parts.denominator);
    const vf dh_o = vf_mul(dh, o);
    vf d_c = vf_fma(dh_o, vf_fnma(t, t, one), lstm_dc_after(row, unit, lanes));
    const vf d_o = vf_mul(vf_mul(dh_o, t), vf_sub(one, o));
    if (peephole)
        d_c = vf_fma(lstm_peephole_of(cell, 2, unit), d_o, d_c);
    const vf dc_i = vf_mul(d_c, i), dc_f = vf_mul(d_c, f);
    const vf d_i = vf_mul(vf_mul(dc_i, g), vf_sub(one, i)), d_f = vf_mul(vf_mul(dc_f, c_before), vf_sub(one, f));
    real *dx = row->dx + unit;
    store_lanes(dx, d_i, lanes);
    store_lanes(dx + H, d_f, lanes);
    store_lanes(dx + 2 * H, vf_mul(dc_i, vf_fnma(g, g, one)), lanes);
    store_lanes(dx + 3 * H, d_o, lanes);
    vf dc = dc_f;
    if (peephole) {
        real *dp = row->extras + unit;
        store_lanes(dp, vf_mul(d_i, c_before), lanes);
        store_lanes(dp + H, vf_mul(d_f, c_before), lanes);
        store_lanes(dp + 2 * H, vf_mul(d_o, c), lanes);
        dc = vf_fma(lstm_peephole_of(cell, 1, unit), d_f, vf_fma(lstm_peephole_of(cell, 0, unit), d_i, dc_f));
    }
    store_lanes(row->dc + unit, dc, lanes);
}

FL_INLINE void lstm_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    lstm_of_four_back(cell, row, unit, lanes, dh, false);
}

FL_INLINE void lstm_peephole_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    lstm_of_four_back(cell, row, unit, lanes, dh, true);
}

#endif
