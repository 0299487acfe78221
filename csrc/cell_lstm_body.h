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

FL_INLINE vf lstm_cell(vf gate_i, vf gate_f, vf gate_g, vf gate_o, vf *c)
{
    const vf i_denominator = sigmoid_denominator(gate_i, 0);
    const vf f_denominator = sigmoid_denominator(gate_f, 0);
    const tanh_parts g = tanh_of(gate_g, 0);
    const vf o_denominator = sigmoid_denominator(gate_o, 0);
    const vf kept = vf_div(*c, f_denominator);
    const vf added = vf_div(g.numerator, vf_mul(i_denominator, g.denominator));
    *c = vf_add(kept, added);
    const tanh_parts c_squashed = tanh_of(*c, 0);
    return vf_div(c_squashed.numerator, vf_mul(o_denominator, c_squashed.denominator));
}

/* The cell as tile_body.h takes it. */
FL_INLINE void lstm_finish(const fl_steps *s, const step_view *at, size_t position, size_t block, const vf gate[4])
{
    const ptrdiff_t row = (ptrdiff_t)row_at(s, position);
    const size_t lanes = block_lanes(&s->layout, block);
    real *c_unit = (real *)s->c + row * s->c_stride_b + block * VF_LANES;
    vf c = load_lanes(c_unit, lanes);
    const vf h = lstm_cell(gate[0], gate[1], gate[2], gate[3], &c);
    store_lanes(c_unit, c, lanes);
    store_lanes(at->y + row * s->y_stride_b + block * VF_LANES, h, lanes);
}

static __attribute__((noinline)) void lstm_finish_tile(const fl_steps *s, const step_view *at, size_t position, size_t j,
                                                       const tile_store *store, size_t NR, size_t NB, size_t NT)
{
    finish_stored(s, at, position, j, store, NR, NB, NT, lstm_finish);
}

#endif
