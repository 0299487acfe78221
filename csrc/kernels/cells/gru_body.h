/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The GRU (Cho et al. 2014) on one vector of units:
 *     r = f(a_r),  z = f(a_z),  n = g(a_n),  h = (1 - z) n + z h'
 * where r acts after the recurrent product, a_n = x_n + r h_n with the state's part h_n = U_n h' + b_hn (PyTorch,
 * cuDNN, Keras), or before it, a_n = x_n + U_n (r h') + b_hn (ONNX by default).
 *
 * With f logistic and g = tanh, n = N / G and 1 - z = 1 / Z, Z = 1 + exp(a_z):
 *     h = h' + (N - G h') / (G Z)
 * in one division.  G Z is finite (SIGMOID_LIMIT), and where z is 1 to working precision h' stays to the bit.
 */
#ifndef FL_GRU_BODY_H
#define FL_GRU_BODY_H
#include "kernels/cells/lstm_body.h"

FL_INLINE vf gru_gate(const fl_cell *cell, vf a)
{
    return activate_clipped(&cell->options.activations[0], cell->options.gate_clip, a);
}

FL_INLINE vf gru_candidate(const fl_cell *cell, vf a)
{
    return activate_clipped(&cell->options.activations[1], cell->options.gate_clip, a);
}

/* h, of the default cell and of any. */
FL_INLINE vf gru_update(vf a_z, vf a_n, vf h_before)
{
    const tanh_parts n = tanh_of(a_n, 0);
    const vf opposite = sigmoid_denominator(vf_sub(vf_set1(0), a_z), 0);
    const vf way = vf_fnma(n.denominator, h_before, n.numerator);
    return vf_add(h_before, vf_div(way, vf_mul(n.denominator, opposite)));
}

static __attribute__((noinline)) vf gru_update_any(const fl_cell *cell, vf a_z, vf a_n, vf h_before)
{
    const vf z = gru_gate(cell, a_z), n = gru_candidate(cell, a_n);
    return vf_fma(z, h_before, vf_fnma(z, n, n));
}

/* r times v, likewise. */
FL_INLINE vf gru_reset(vf a_r, vf v) { return vf_div(v, sigmoid_denominator(a_r, 0)); }

static __attribute__((noinline)) vf gru_reset_any(const fl_cell *cell, vf a_r, vf v)
{
    return vf_mul(gru_gate(cell, a_r), v);
}

/* Saves a_r, a_z, x_n, h_n. */
static inline void gru_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                            const vf *h)
{
    const vf a_r = vf_add(x[0], h[0]), a_z = vf_add(x[1], h[1]), x_n = x[2], h_n = h[2];
    const vf h_before = load_lanes(row->h_before + unit, lanes);
    vf h_new;
    if (cell->is_usual)
        h_new = gru_update(a_z, vf_add(x_n, gru_reset(a_r, h_n)), h_before);
    else
        h_new = gru_update_any(cell, a_z, vf_add(x_n, gru_reset_any(cell, a_r, h_n)), h_before);
    store_lanes(row->h + unit, h_new, lanes);
    if (row->saved) {
        const size_t H = cell->sizes.H;
        real *saved = row->saved + unit;
        store_lanes(saved, a_r, lanes);
        store_lanes(saved + H, a_z, lanes);
        store_lanes(saved + 2 * H, x_n, lanes);
        store_lanes(saved + 3 * H, h_n, lanes);
    }
}

/* ---- Reset before the product: r and z are early gates ------------------------------------------------------ */

/* Saves a_r, a_z, -, r h'. */
static inline void gru_early(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                             const vf *h, real *reset_h, real *kept)
{
    const vf a_r = vf_add(x[0], h[0]), a_z = vf_add(x[1], h[1]), h_before = load_lanes(row->h_before + unit, lanes);
    const vf product = cell->is_usual ? gru_reset(a_r, h_before) : gru_reset_any(cell, a_r, h_before);
    store_lanes(reset_h + unit, product, lanes);
    store_lanes(kept + unit, a_z, lanes);
    if (row->saved) {
        const size_t H = cell->sizes.H;
        real *saved = row->saved + unit;
        store_lanes(saved, a_r, lanes);
        store_lanes(saved + H, a_z, lanes);
        store_lanes(saved + 3 * H, product, lanes);
    }
}

/* Saves a_n between the others. */
static inline void gru_late(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, vf x_n, vf h_n, vf a_z)
{
    const vf a_n = vf_add(x_n, h_n), h_before = load_lanes(row->h_before + unit, lanes);
    const vf h_new = cell->is_usual ? gru_update(a_z, a_n, h_before) : gru_update_any(cell, a_z, a_n, h_before);
    store_lanes(row->h + unit, h_new, lanes);
    if (row->saved)
        store_lanes(row->saved + 2 * cell->sizes.H + unit, a_n, lanes);
}

/* ---- Backward ---------------------------------------------------------------------------------------------- */

/* A value, and its slope by the pre-activation. */
typedef struct gru_value {
    vf value, slope;
} gru_value;

FL_INLINE gru_value gru_logistic(vf value)
{
    const gru_value gate = {value, vf_fnma(value, value, value)};
    return gate;
}

FL_INLINE gru_value gru_gate_default(vf a) { return gru_logistic(vf_div(vf_set1(1), sigmoid_denominator(a, 0))); }

FL_INLINE gru_value gru_candidate_default(vf a)
{
    const tanh_parts parts = tanh_of(a, 0);
    const vf n = vf_div(parts.numerator, parts.denominator);
    const gru_value candidate = {n, vf_fnma(n, n, vf_set1(1))};
    return candidate;
}

FL_INLINE gru_value gru_value_any(const fl_cell *cell, size_t which, vf a)
{
    const fl_activation *f = &cell->options.activations[which];
    const gru_value any = {activate_clipped(f, cell->options.gate_clip, a),
                           clipped_slope(f, cell->options.gate_clip, a)};
    return any;
}

typedef struct gru_gradients {
    vf z, n;
} gru_gradients;

/* d_z = dh (h' - n) z',  d_n = dh (1 - z) n', and of h' beside the products dh z. */
FL_INLINE gru_gradients gru_back_to_gates(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes,
                                          vf dh, const gru_value *z, const gru_value *n)
{
    const size_t H = cell->sizes.H;
    const vf h_before = load_lanes(row->h_before + unit, lanes), dh_z = vf_mul(dh, z->value);
    const gru_gradients d = {vf_mul(vf_mul(dh, vf_sub(h_before, n->value)), z->slope),
                             vf_mul(vf_sub(dh, dh_z), n->slope)};
    store_lanes(row->dx + H + unit, d.z, lanes);
    store_lanes(row->dx + 2 * H + unit, d.n, lanes);
    store_lanes(row->dh_before + unit, dh_z, lanes);
    return d;
}

/* d_r = d_n h_n r'; h_n gets d_n r. */
FL_INLINE void gru_back_to_reset(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes,
                                 const gru_gradients *d, const gru_value *r, vf h_n)
{
    const size_t H = cell->sizes.H;
    const vf d_r = vf_mul(vf_mul(d->n, h_n), r->slope);
    store_lanes(row->dx + unit, d_r, lanes);
    store_lanes(row->dh + unit, d_r, lanes);
    store_lanes(row->dh + H + unit, d->z, lanes);
    store_lanes(row->dh + 2 * H + unit, vf_mul(d->n, r->value), lanes);
}

static __attribute__((noinline)) void gru_back_any(const fl_cell *cell, const unit_back_row *row, size_t unit,
                                                   size_t lanes, vf dh)
{
    const size_t H = cell->sizes.H;
    const real *saved = row->saved + unit;
    const vf x_n = load_lanes(saved + 2 * H, lanes), h_n = load_lanes(saved + 3 * H, lanes);
    const gru_value r = gru_value_any(cell, 0, load_lanes(saved, lanes));
    const gru_value z = gru_value_any(cell, 0, load_lanes(saved + H, lanes));
    const gru_value n = gru_value_any(cell, 1, vf_add(x_n, vf_mul(r.value, h_n)));
    const gru_gradients d = gru_back_to_gates(cell, row, unit, lanes, dh, &z, &n);
    gru_back_to_reset(cell, row, unit, lanes, &d, &r, h_n);
}

/* In the default cell r and z come from one division, 1/a = b / (a b); limited as in store_gates(). */
static inline void gru_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    if (!cell->is_usual) {
        gru_back_any(cell, row, unit, lanes, dh);
        return;
    }
    const size_t H = cell->sizes.H;
    const real *saved = row->saved + unit;
    const vf x_n = load_lanes(saved + 2 * H, lanes), h_n = load_lanes(saved + 3 * H, lanes);
    const vf limit = vf_set1(GATE_DENOMINATOR_LIMIT);
    const vf r_denominator = vf_min(limit, sigmoid_denominator(load_lanes(saved, lanes), 0));
    const vf z_denominator = vf_min(limit, sigmoid_denominator(load_lanes(saved + H, lanes), 0));
    const vf both = vf_div(vf_set1(1), vf_mul(r_denominator, z_denominator));
    const gru_value r = gru_logistic(vf_mul(both, z_denominator)), z = gru_logistic(vf_mul(both, r_denominator));
    const gru_value n = gru_candidate_default(vf_fma(r.value, h_n, x_n));
    const gru_gradients d = gru_back_to_gates(cell, row, unit, lanes, dh, &z, &n);
    gru_back_to_reset(cell, row, unit, lanes, &d, &r, h_n);
}

static __attribute__((noinline)) void gru_late_back_any(const fl_cell *cell, const unit_back_row *row, size_t unit,
                                                        size_t lanes, vf dh)
{
    const size_t H = cell->sizes.H;
    const gru_value z = gru_value_any(cell, 0, load_lanes(row->saved + H + unit, lanes));
    const gru_value n = gru_value_any(cell, 1, load_lanes(row->saved + 2 * H + unit, lanes));
    gru_back_to_gates(cell, row, unit, lanes, dh, &z, &n);
}

/* Reset before the product: the late gate comes first.  d_z, d_n, and of h' the part dh z. */
static inline void gru_late_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    if (!cell->is_usual) {
        gru_late_back_any(cell, row, unit, lanes, dh);
        return;
    }
    const size_t H = cell->sizes.H;
    const gru_value z = gru_gate_default(load_lanes(row->saved + H + unit, lanes));
    const gru_value n = gru_candidate_default(load_lanes(row->saved + 2 * H + unit, lanes));
    gru_back_to_gates(cell, row, unit, lanes, dh, &z, &n);
}

/* Then the early ones, from the gradient of r h': d_r, and another part of h'. */
static inline void gru_early_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes,
                                       vf d_reset_h)
{
    const vf a_r = load_lanes(row->saved + unit, lanes), h_before = load_lanes(row->h_before + unit, lanes);
    const gru_value r = cell->is_usual ? gru_gate_default(a_r) : gru_value_any(cell, 0, a_r);
    store_lanes(row->dx + unit, vf_mul(vf_mul(d_reset_h, h_before), r.slope), lanes);
    store_lanes(row->dh_before + unit, vf_fma(d_reset_h, r.value, load_lanes(row->dh_before + unit, lanes)), lanes);
}

#endif
