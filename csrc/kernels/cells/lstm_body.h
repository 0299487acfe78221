/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The LSTM cell update on one vector of hidden units, from gates before activation:
 *     c' = f c + i g,   h = o tanh(c')          (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000)
 * with i = 1/A, f = 1/F, o = 1/O and g = N/G.  Three divisions serve five activations:
 *     c' = c / F + N / (A G),   h = N_c / (O G_c)
 * No product overflows: A, F, O < 2^127 (float32; SIGMOID_LIMIT), G <= 2.
 */
#ifndef FL_CELL_LSTM_BODY_H
#define FL_CELL_LSTM_BODY_H

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

FL_INLINE vf lstm_update(const lstm_parts *parts, vf *c)
{
    *c = lstm_new_c(parts, *c);
    return lstm_new_h(parts, *c);
}

FL_INLINE vf lstm_cell(vf gate_i, vf gate_f, vf gate_g, vf gate_o, vf *c)
{
    const lstm_parts parts = lstm_parts_of(gate_i, gate_f, gate_g, gate_o);
    return lstm_update(&parts, c);
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

/* What a step leaves for the backward pass, at a batch row and block.  Not inlined: the common call has none of it. */
static __attribute__((noinline)) void lstm_save(const fl_steps *s, const step_view *at, ptrdiff_t row, size_t block,
                                                vf i_denominator, vf f_denominator, vf o_denominator, vf g_numerator,
                                                vf g_denominator, vf c)
{
    const lstm_parts parts = {i_denominator, f_denominator, o_denominator, {g_numerator, g_denominator}};
    const size_t lanes = block_lanes(&s->layout, block), unit = block * VF_LANES;
    const ptrdiff_t place = place_of(s->saved_at, (size_t)row);
    store_lanes(at->saved_c + place * s->saved_c_stride_b + unit, c, lanes);
    if (at->saved_gates)
        store_gates(&parts, s->layout.H, lanes, at->saved_gates + place * s->saved_gates_stride_b + unit);
}

/* The cell as tile_body.h takes it. */
FL_INLINE void lstm_finish(const fl_steps *s, const step_view *at, size_t position, size_t block, const vf gate[4])
{
    const ptrdiff_t row = (ptrdiff_t)row_at(s, position);
    const size_t lanes = block_lanes(&s->layout, block);
    real *c_unit = (real *)s->c + row * s->c_stride_b + block * VF_LANES;
    const lstm_parts parts = lstm_parts_of(gate[0], gate[1], gate[2], gate[3]);
    vf c = load_lanes(c_unit, lanes);
    const vf h = lstm_update(&parts, &c);
    store_lanes(c_unit, c, lanes);
    store_lanes(at->y + place_of(s->y_at, (size_t)row) * s->y_stride_b + block * VF_LANES, h, lanes);
    if (at->saved_c)
        lstm_save(s, at, row, block, parts.i_denominator, parts.f_denominator, parts.o_denominator, parts.g.numerator,
                  parts.g.denominator, c);
}

static __attribute__((noinline)) void lstm_finish_tile(const fl_steps *s, const step_view *at, size_t position,
                                                       size_t j, const tile_store *store, size_t NR, size_t NB,
                                                       size_t NT)
{
    finish_stored(s, at, position, j, store, NR, NB, NT, lstm_finish);
}

/* ---- Backward --------------------------------------------------------------------------------------------- */

/* Gradients of one vector of units.  With dh and dc' those of the new h and c, and t = tanh(c'):
 *     d_o = dh t,  d_c = dc' + dh o (1 - t^2),  d_i = d_c g,  d_g = d_c i,  d_f = d_c c
 * times the derivatives of the activations, and d_c f for the cell state before.  Peepholes p, if given, add p_o d_o to d_c and
 * p_i d_i + p_f d_f to the gradient of c; their own gradients, d_i c, d_f c, d_o c', go to dp. */
FL_INLINE vf lstm_cell_gradient(const real *gates, size_t H, size_t lanes, vf c, vf c_before, vf dh, vf dc,
                                real *dgates, const real *p, real *dp)
{
    const vf one = vf_set1(1);
    const vf i = load_lanes(gates, lanes), f = load_lanes(gates + H, lanes);
    const vf g = load_lanes(gates + 2 * H, lanes), o = load_lanes(gates + 3 * H, lanes);
    const tanh_parts parts = tanh_of(c, 0);
    const vf t = vf_div(parts.numerator, parts.denominator);
    const vf dh_o = vf_mul(dh, o);
    vf d_c = vf_fma(dh_o, vf_fnma(t, t, one), dc);
    const vf d_o = vf_mul(vf_mul(dh_o, t), vf_sub(one, o));
    if (p)
        d_c = vf_fma(vf_load(p + 2 * H), d_o, d_c);
    const vf dc_i = vf_mul(d_c, i), dc_f = vf_mul(d_c, f);
    const vf d_i = vf_mul(vf_mul(dc_i, g), vf_sub(one, i)), d_f = vf_mul(vf_mul(dc_f, c_before), vf_sub(one, f));
    store_lanes(dgates, d_i, lanes);
    store_lanes(dgates + H, d_f, lanes);
    store_lanes(dgates + 2 * H, vf_mul(dc_i, vf_fnma(g, g, one)), lanes);
    store_lanes(dgates + 3 * H, d_o, lanes);
    if (!p)
        return dc_f;
    store_lanes(dp, vf_mul(d_i, c_before), lanes);
    store_lanes(dp + H, vf_mul(d_f, c_before), lanes);
    store_lanes(dp + 2 * H, vf_mul(d_o, c), lanes);
    return vf_fma(vf_load(p + H), d_f, vf_fma(vf_load(p), d_i, dc_f));
}

#endif
