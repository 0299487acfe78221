/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The minimal gated unit (Zhou et al. 2016) on one vector of units, whose one gate is the early one:
 *     f = sigmoid(a_f),  n = tanh(x_n + U_n (f h')),  h = (1 - f) h' + f n
 * With f = 1 / F and n = N / G, h = h' + (N - G h') / (G F) in one division.  Saves a_f, a_n, f h'.
 */
#ifndef FL_MGU_BODY_H
#define FL_MGU_BODY_H

#include "kernels/cells/gru_body.h"

static inline void mgu_early(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                             const vf *h, real *reset_h, real *kept)
{
    const vf a_f = vf_add(x[0], h[0]), product = gru_reset(a_f, load_lanes(row->h_before + unit, lanes));
    store_lanes(reset_h + unit, product, lanes);
    store_lanes(kept + unit, a_f, lanes);
    if (row->saved) {
        store_lanes(row->saved + unit, a_f, lanes);
        store_lanes(row->saved + 2 * cell->sizes.H + unit, product, lanes);
    }
}

static inline void mgu_late(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, vf x_n, vf h_n, vf a_f)
{
    const vf a_n = vf_add(x_n, h_n), h_before = load_lanes(row->h_before + unit, lanes);
    const tanh_parts n = tanh_of(a_n, 0);
    const vf way = vf_fnma(n.denominator, h_before, n.numerator);
    const vf share = vf_mul(n.denominator, sigmoid_denominator(a_f, 0));
    store_lanes(row->h + unit, vf_add(h_before, vf_div(way, share)), lanes);
    if (row->saved)
        store_lanes(row->saved + cell->sizes.H + unit, a_n, lanes);
}

/* d_n = dh f n', of h' beside the products dh (1 - f); and a part of f's gradient before its slope, dh (n - h'), which waits
 * in its place. */
static inline void mgu_late_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    const size_t H = cell->sizes.H;
    const gru_value f = gru_gate_default(load_lanes(row->saved + unit, lanes));
    const gru_value n = gru_candidate_default(load_lanes(row->saved + H + unit, lanes));
    const vf dh_f = vf_mul(dh, f.value);
    store_lanes(row->dx + unit, vf_mul(dh, vf_sub(n.value, load_lanes(row->h_before + unit, lanes))), lanes);
    store_lanes(row->dx + H + unit, vf_mul(dh_f, n.slope), lanes);
    store_lanes(row->dh_before + unit, vf_sub(dh, dh_f), lanes);
}

/* From d, the gradient of f h': d_f = (dh (n - h') + d h') f', and of h' another part d f. */
static inline void mgu_early_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf d)
{
    const gru_value f = gru_gate_default(load_lanes(row->saved + unit, lanes));
    const vf sum = vf_fma(d, load_lanes(row->h_before + unit, lanes), load_lanes(row->dx + unit, lanes));
    store_lanes(row->dx + unit, vf_mul(sum, f.slope), lanes);
    store_lanes(row->dh_before + unit, vf_fma(d, f.value, load_lanes(row->dh_before + unit, lanes)), lanes);
    (void)cell;
}

#endif
