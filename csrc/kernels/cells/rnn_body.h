/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells without gates on one vector of units: the RNN, h = f(a) (Elman 1990), and the IndRNN, whose recurrence is a
 * diagonal, h = f(x + u h') (Li et al. 2018).  Both save a.
 */
#ifndef FL_RNN_BODY_H
#define FL_RNN_BODY_H
#include "kernels/cells/cell_contract.h"

static inline void rnn_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                            const vf *h)
{
    const vf a = h ? vf_add(x[0], h[0]) : x[0];
    store_lanes(row->h + unit, activate_clipped(&cell->options.activations[0], cell->options.gate_clip, a), lanes);
    if (row->saved)
        store_lanes(row->saved + unit, a, lanes);
}

FL_INLINE vf rnn_gradient(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    const vf a = load_lanes(row->saved + unit, lanes);
    return vf_mul(dh, clipped_slope(&cell->options.activations[0], cell->options.gate_clip, a));
}

static inline void rnn_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    store_lanes(row->dx + unit, rnn_gradient(cell, row, unit, lanes, dh), lanes);
    if (row->dh_before)
        store_lanes(row->dh_before + unit, vf_set1(0), lanes);
}

FL_INLINE vf indrnn_scan(const fl_cell *cell, size_t unit, size_t lanes, vf h, vf *a)
{
    a[0] = vf_fma(load_lanes((const real *)cell->own.weight_hh + unit, lanes), h, a[0]);
    return activate_clipped(&cell->options.activations[0], cell->options.gate_clip, a[0]);
}

static inline void indrnn_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    const vf u = load_lanes((const real *)cell->own.weight_hh + unit, lanes);
    const vf h_before = load_lanes(row->h_before + unit, lanes), da = rnn_gradient(cell, row, unit, lanes, dh);
    store_lanes(row->dx + unit, da, lanes);
    store_lanes(row->extras + unit, vf_mul(da, h_before), lanes);
    store_lanes(row->dh_before + unit, vf_mul(da, u), lanes);
}

#endif
