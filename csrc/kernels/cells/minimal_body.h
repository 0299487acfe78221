/* SPDX-License-Identifier: BSD-3-Clause
 *
 * minGRU and minLSTM (Feng et al. 2024) on one vector of units; the gates do not see the state:
 *     minGRU:   h = (1 - z) h' + z a_h,  z = sigmoid(a_z)
 *     minLSTM:  h = (1 - w) h' + w a_h,  w = i / (f + i),  i = sigmoid(a_i),  f = sigmoid(a_f)
 * Each is a mean of h' and a_h, computed from the heavier one: heavier + weight (lighter - heavier), weight <= 1/2, so
 * that a gate which is 0 or 1 to working precision gives h' or a_h to the bit.
 */
#ifndef FL_MINIMAL_BODY_H
#define FL_MINIMAL_BODY_H
#include "kernels/cells/lstm_body.h"

/* ---- minGRU ------------------------------------------------------------------------------------------------ */

/* The weights of a mean, of which one is <= 1/2, and which of the two: `key` < 0 where a_h is the lighter. */
typedef struct min_weights {
    vf lighter, heavier, key;
} min_weights;

/* E / (1 + E) and 1 / (1 + E), E = exp(-|a_z|). */
FL_INLINE min_weights mingru_weights(vf a_z)
{
    const exp_parts e = exp_minus(vf_min(vf_set1(SIGMOID_LIMIT), vf_abs(a_z)), 0);
    const vf E = vf_fnma(e.scale_r, e.q, e.scale);
    min_weights weights;
    weights.heavier = vf_div(vf_set1(1), vf_add(E, vf_set1(1)));
    weights.lighter = vf_mul(E, weights.heavier);
    weights.key = a_z;
    return weights;
}

FL_INLINE vf min_mean(const min_weights *weights, vf h_before, vf a_h)
{
    const vf zero = vf_set1(0);
    const vf lighter = vf_select_lt(weights->key, zero, a_h, h_before);
    const vf heavier = vf_select_lt(weights->key, zero, h_before, a_h);
    return vf_fma(weights->lighter, vf_sub(lighter, heavier), heavier);
}

/* Gradients of a_h and h'; returns that of the weight of a_h, times both weights. */
FL_INLINE vf min_mean_back(const min_weights *weights, const unit_back_row *row, size_t unit, size_t lanes, vf dh,
                           vf a_h, real *d_a_h)
{
    const vf zero = vf_set1(0), h_before = load_lanes(row->h_before + unit, lanes);
    const vf dh_lighter = vf_mul(dh, weights->lighter), dh_heavier = vf_mul(dh, weights->heavier);
    store_lanes(d_a_h, vf_select_lt(weights->key, zero, dh_lighter, dh_heavier), lanes);
    store_lanes(row->dh_before + unit, vf_select_lt(weights->key, zero, dh_heavier, dh_lighter), lanes);
    return vf_mul(vf_mul(dh_lighter, weights->heavier), vf_sub(a_h, h_before));
}

/* From a_z, a_h. */
FL_INLINE vf mingru_scan(const fl_cell *cell, size_t unit, size_t lanes, vf h, vf *a)
{
    const min_weights weights = mingru_weights(a[0]);
    (void)cell, (void)unit, (void)lanes;
    return min_mean(&weights, h, a[1]);
}

/* d_z = dh (a_h - h') z (1 - z) */
static inline void mingru_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    const size_t H = cell->sizes.H;
    const min_weights weights = mingru_weights(load_lanes(row->saved + unit, lanes));
    const vf a_h = load_lanes(row->saved + H + unit, lanes);
    store_lanes(row->dx + unit, min_mean_back(&weights, row, unit, lanes, dh, a_h, row->dx + H + unit), lanes);
}

/* ---- minLSTM ----------------------------------------------------------------------------------------------- */

typedef struct minlstm_parts {
    vf f_denominator, i_denominator;
} minlstm_parts;

/* f = 1 / F and i = 1 / I, or both times a common factor where both are tiny: only their ratio counts, and below
 * -TANH_LIMIT the logistic function is the exponential to working precision. */
FL_INLINE minlstm_parts minlstm_parts_of(vf a_f, vf a_i)
{
    const vf larger = vf_select_lt(a_f, a_i, a_i, a_f);
    const vf shift = negative_part(vf_add(larger, vf_set1(TANH_LIMIT)));
    minlstm_parts parts;
    parts.f_denominator = sigmoid_denominator(vf_sub(a_f, shift), 0);
    parts.i_denominator = sigmoid_denominator(vf_sub(a_i, shift), 0);
    return parts;
}

/* w = F / (I + F), and 1 - w.  The sum is finite: SIGMOID_LIMIT. */
FL_INLINE min_weights minlstm_weights(const minlstm_parts *parts)
{
    const vf F = parts->f_denominator, I = parts->i_denominator;
    min_weights weights;
    weights.key = vf_sub(F, I);
    weights.lighter = vf_div(vf_select_lt(F, I, F, I), vf_add(F, I));
    weights.heavier = vf_sub(vf_set1(1), weights.lighter);
    return weights;
}

/* From a_f, a_i, a_h. */
FL_INLINE vf minlstm_scan(const fl_cell *cell, size_t unit, size_t lanes, vf h, vf *a)
{
    const minlstm_parts parts = minlstm_parts_of(a[0], a[1]);
    const min_weights weights = minlstm_weights(&parts);
    (void)cell, (void)unit, (void)lanes;
    return min_mean(&weights, h, a[2]);
}

/* With d = dh (a_h - h') w (1 - w):  d_i = d (1 - i),  d_f = -d (1 - f). */
static inline void minlstm_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    const size_t H = cell->sizes.H;
    const vf one = vf_set1(1), limit = vf_set1(GATE_DENOMINATOR_LIMIT);
    const vf a_f = load_lanes(row->saved + unit, lanes), a_i = load_lanes(row->saved + H + unit, lanes);
    const minlstm_parts parts = minlstm_parts_of(a_f, a_i);
    const min_weights weights = minlstm_weights(&parts);
    const vf a_h = load_lanes(row->saved + 2 * H + unit, lanes);
    const vf d = min_mean_back(&weights, row, unit, lanes, dh, a_h, row->dx + 2 * H + unit);
    const vf F = vf_min(limit, parts.f_denominator), I = vf_min(limit, parts.i_denominator);
    const vf both = vf_div(one, vf_mul(F, I));
    store_lanes(row->dx + unit, vf_mul(d, vf_fma(both, I, vf_set1(-1))), lanes);
    store_lanes(row->dx + H + unit, vf_mul(d, vf_fnma(both, F, one)), lanes);
}

#endif
