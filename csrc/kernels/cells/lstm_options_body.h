/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The LSTM family on one vector of units: couplings, peepholes, clips, zoneout and any activations,
 *     c^ = clip(f c' + i g),  h^ = o act_h(c^),  c = zc c' + (1 - zc) c^,  h = zh h' + (1 - zh) h^
 * where c' and h' are those before the step.  Rows of pre-activations are (i, f | i | f), g, o: one or two gates that c^ is
 * made of, g next to last, o last.  Peepholes stand likewise, without g.
 *
 * A cell is usual if its activations are the usual ones and nothing is clipped or zoned out.  Its values stay fractions
 * until a division cannot be put off, as in lstm_body.h, and with no coupling it has the bits of that cell.  Being usual
 * is a matter of the options alone.
 */
#ifndef FL_LSTM_OPTIONS_BODY_H
#define FL_LSTM_OPTIONS_BODY_H
#include "kernels/cells/lstm_body.h"

/* ---- Plain, forward --------------------------------------------------------------------------------------- */

/* The logistic function is 1 / denominator, and 1 less that is rest / denominator with rest = exp(-a): no difference that
 * cancels. */
typedef struct logistic_parts {
    vf rest, denominator;
} logistic_parts;

FL_INLINE logistic_parts logistic_of(vf a)
{
    a = vf_min(vf_set1(SIGMOID_LIMIT), vf_max(vf_set1(-SIGMOID_LIMIT), a));
    const exp_parts e = exp_minus(a, 0);
    logistic_parts s;
    s.rest = vf_fnma(e.scale_r, e.q, e.scale);
    s.denominator = vf_fnma(e.scale_r, e.q, vf_add(e.scale, vf_set1(1)));
    return s;
}

/* The new c; `second` is looked at only where both i and f have a row. */
FL_INLINE vf lstm_usual_c(fl_coupling coupling, vf first, vf second, vf gate_g, vf c)
{
    const logistic_parts s = logistic_of(first);
    const tanh_parts g = tanh_of(gate_g, 0);
    const vf product = vf_mul(s.denominator, g.denominator);
    switch (coupling) {
    case FL_F_FROM_I: /* rest * c might overflow; rest * g below cannot */
        return vf_fma(vf_div(s.rest, s.denominator), c, vf_div(g.numerator, product));
    case FL_I_FROM_F: return vf_add(vf_div(c, s.denominator), vf_div(vf_mul(s.rest, g.numerator), product));
    case FL_NO_FORGET_GATE: return vf_add(c, vf_div(g.numerator, product));
    default: return vf_add(vf_div(c, sigmoid_denominator(second, 0)), vf_div(g.numerator, product));
    }
}

/* What all cells of the family leave for the backward pass without layer norm. */
FL_INLINE void lstm_save_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, vf first, vf second,
                              vf gate_g, vf gate_o)
{
    const size_t H = cell->sizes.H;
    real *saved = row->saved + unit;
    store_lanes(saved, first, lanes);
    if (cell->options.coupling == FL_COUPLING_NONE) {
        saved += H;
        store_lanes(saved, second, lanes);
    }
    store_lanes(saved + H, gate_g, lanes);
    store_lanes(saved + 2 * H, gate_o, lanes);
}

/* ---- In general, forward ---------------------------------------------------------------------------------- */

/* Calls, because activations are long and there are many uses. */
static __attribute__((noinline)) vf lstm_activate(const fl_activation *f, vf a) { return activate(f, a); }
static __attribute__((noinline)) vf lstm_activation_slope(const fl_activation *f, vf a)
{
    return activation_slope(f, a);
}

/* How much stays of an old value, and how much is taken of the new one; `acts`: not nothing and all. */
typedef struct lstm_zone {
    bool acts;
    vf kept, taken;
} lstm_zone;

FL_INLINE lstm_zone lstm_zone_of(const fl_cell *cell, const real *mask, double rate, size_t unit, size_t lanes)
{
    lstm_zone zone;
    zone.acts = mask || (rate > 0.0 && cell->options.zoneout_expectation);
    zone.kept = mask ? load_lanes(mask + unit, lanes) : vf_set1(zone.acts ? (real)rate : 0);
    zone.taken = vf_sub(vf_set1(1), zone.kept);
    return zone;
}

/* For masks, to the bit one or the other. */
FL_INLINE vf lstm_zone_mix(const lstm_zone *zone, vf before, vf after)
{
    return vf_fma(zone->kept, before, vf_mul(zone->taken, after));
}

/* The end of a step. */
static inline void lstm_store_states(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, vf c, vf h)
{
    const lstm_zone zone_c = lstm_zone_of(cell, row->zoned_c, cell->options.zoneout_c, unit, lanes);
    const lstm_zone zone_h = lstm_zone_of(cell, row->zoned_h, cell->options.zoneout_h, unit, lanes);
    if (zone_c.acts)
        c = lstm_zone_mix(&zone_c, load_lanes(row->c + unit, lanes), c);
    if (zone_h.acts)
        h = lstm_zone_mix(&zone_h, load_lanes(row->h_before + unit, lanes), h);
    store_lanes(row->c + unit, c, lanes);
    store_lanes(row->h + unit, h, lanes);
}

/* The value of a gate, and its derivative by the pre-activation. */
FL_INLINE vf lstm_gate(const fl_cell_options *o, const fl_activation *f, vf a)
{
    return lstm_activate(f, clip_to(a, o->gate_clip));
}

FL_INLINE vf lstm_gate_slope(const fl_cell_options *o, const fl_activation *f, vf a)
{
    return vf_mul(clip_slope(a, o->gate_clip), lstm_activation_slope(f, clip_to(a, o->gate_clip)));
}

typedef struct lstm_values {
    vf i, f, g;
} lstm_values;

static inline lstm_values lstm_values_of(const fl_cell_options *o, vf first, vf second, vf gate_g)
{
    const vf one = vf_set1(1);
    lstm_values v;
    v.g = lstm_gate(o, &o->activations[1], gate_g);
    const vf value = lstm_gate(o, &o->activations[0], first);
    switch (o->coupling) {
    case FL_F_FROM_I:
        v.i = value;
        v.f = vf_sub(one, value);
        break;
    case FL_I_FROM_F:
        v.f = value;
        v.i = vf_sub(one, value);
        break;
    case FL_NO_FORGET_GATE:
        v.i = value;
        v.f = one;
        break;
    default: v.i = value; v.f = lstm_gate(o, &o->activations[0], second);
    }
    return v;
}

/* c^ before its clip. */
FL_INLINE vf lstm_unclipped_c(const lstm_values *v, vf c) { return vf_fma(v->i, v->g, vf_mul(v->f, c)); }

static __attribute__((noinline)) void lstm_general(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes,
                                                   vf first, vf second, vf gate_g, vf gate_o)
{
    const fl_cell_options *o = &cell->options;
    const lstm_values v = lstm_values_of(o, first, second, gate_g);
    const vf c = clip_to(lstm_unclipped_c(&v, load_lanes(row->c + unit, lanes)), o->cell_clip);
    if (o->peephole)
        gate_o = vf_fma(lstm_peephole_of(cell, cell->sizes.gates - 2, unit), c, gate_o);
    if (row->saved)
        lstm_save_unit(cell, row, unit, lanes, first, second, gate_g, gate_o);
    const vf h = vf_mul(lstm_gate(o, &o->activations[0], gate_o), lstm_activate(&o->activations[2], c));
    lstm_store_states(cell, row, unit, lanes, c, h);
}

/* From pre-activations with peepholes but for that of o. */
FL_INLINE void lstm_usual(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, fl_coupling coupling,
                          bool peephole, vf first, vf second, vf gate_g, vf gate_o, vf c_before)
{
    const vf c = lstm_usual_c(coupling, first, second, gate_g, c_before);
    if (peephole)
        gate_o = vf_fma(lstm_peephole_of(cell, cell->sizes.peepholes - 1, unit), c, gate_o);
    const vf o_denominator = sigmoid_denominator(gate_o, 0);
    const tanh_parts squashed = tanh_of(c, 0);
    store_lanes(row->c + unit, c, lanes);
    store_lanes(row->h + unit, vf_div(squashed.numerator, vf_mul(o_denominator, squashed.denominator)), lanes);
    if (row->saved)
        lstm_save_unit(cell, row, unit, lanes, first, second, gate_g, gate_o);
}

/* One vector of units; x holds a vector for each row of pre-activations, h one to be added to it, or is null. */
FL_INLINE void lstm_options_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x,
                                 const vf *h)
{
    const fl_cell_options *o = &cell->options;
    const bool has_second = o->coupling == FL_COUPLING_NONE;
    vf first = x[0], second = vf_set1(0), gate_g, gate_o;
    /* Fixed places, lest registers go through memory. */
    if (has_second) {
        second = x[1];
        gate_g = x[2];
        gate_o = x[3];
    } else {
        gate_g = x[1];
        gate_o = x[2];
    }
    if (h) {
        first = vf_add(first, h[0]);
        gate_g = vf_add(gate_g, h[has_second ? 2 : 1]);
        gate_o = vf_add(gate_o, h[has_second ? 3 : 2]);
        if (has_second)
            second = vf_add(second, h[1]);
    }
    const vf c_before = load_lanes(row->c + unit, lanes);
    if (o->peephole) {
        first = vf_fma(lstm_peephole_of(cell, 0, unit), c_before, first);
        if (has_second)
            second = vf_fma(lstm_peephole_of(cell, 1, unit), c_before, second);
    }
    if (cell->is_usual)
        lstm_usual(cell, row, unit, lanes, o->coupling, o->peephole, first, second, gate_g, gate_o, c_before);
    else
        lstm_general(cell, row, unit, lanes, first, second, gate_g, gate_o);
}

/* ---- Backward --------------------------------------------------------------------------------------------- */

/* The gradient of c^ by the gates that it is made of, less their slopes: a factor for row 0 of pre-activations. */
FL_INLINE vf lstm_first_factor(fl_coupling coupling, vf g, vf c_before)
{
    switch (coupling) {
    case FL_F_FROM_I: return vf_sub(g, c_before);
    case FL_I_FROM_F: return vf_sub(c_before, g);
    default: return g;
    }
}

/* Outputs of one vector of units: gradients of the pre-activations, of the peepholes, and of c before the step, to which
 * `dc` is all but the peepholes' part. */
FL_INLINE void lstm_store_gradients(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes,
                                    vf d_first, vf d_second, vf d_g, vf d_o, vf dc, vf c_before, vf c)
{
    const size_t H = cell->sizes.H, second_row = cell->options.coupling == FL_COUPLING_NONE;
    real *dx = row->dx + unit;
    store_lanes(dx, d_first, lanes);
    if (second_row)
        store_lanes(dx + H, d_second, lanes);
    store_lanes(dx + (second_row + 1) * H, d_g, lanes);
    store_lanes(dx + (second_row + 2) * H, d_o, lanes);
    if (cell->options.peephole) {
        real *dp = row->extras + unit;
        dc = vf_fma(lstm_peephole_of(cell, 0, unit), d_first, dc);
        store_lanes(dp, vf_mul(d_first, c_before), lanes);
        if (second_row) {
            dc = vf_fma(lstm_peephole_of(cell, 1, unit), d_second, dc);
            store_lanes(dp + H, vf_mul(d_second, c_before), lanes);
        }
        store_lanes(dp + (second_row + 1) * H, vf_mul(d_o, c), lanes);
    }
    store_lanes(row->dc + unit, dc, lanes);
}

static __attribute__((noinline)) void lstm_general_back(const fl_cell *cell, const unit_back_row *row, size_t unit,
                                                        size_t lanes, vf dh)
{
    const fl_cell_options *o = &cell->options;
    const size_t H = cell->sizes.H, second_row = o->coupling == FL_COUPLING_NONE;
    const fl_activation *act_f = &o->activations[0], *act_g = &o->activations[1], *act_h = &o->activations[2];
    const real *saved = row->saved + unit;
    const vf first = load_lanes(saved, lanes), second = load_lanes(saved + second_row * H, lanes);
    const vf gate_g = load_lanes(saved + (second_row + 1) * H, lanes);
    const vf gate_o = load_lanes(saved + (second_row + 2) * H, lanes);
    const vf c_before = load_lanes(row->c_before + unit, lanes);
    const lstm_values v = lstm_values_of(o, first, second, gate_g);
    const vf unclipped = lstm_unclipped_c(&v, c_before), c = clip_to(unclipped, o->cell_clip);

    const lstm_zone zone_c = lstm_zone_of(cell, row->zoned_c, o->zoneout_c, unit, lanes);
    const lstm_zone zone_h = lstm_zone_of(cell, row->zoned_h, o->zoneout_h, unit, lanes);
    const vf dc = lstm_dc_after(row, unit, lanes);
    if (row->dh_before)
        store_lanes(row->dh_before + unit, vf_mul(zone_h.kept, dh), lanes);
    dh = vf_mul(zone_h.taken, dh);

    const vf d_o = vf_mul(vf_mul(dh, lstm_activate(act_h, c)), lstm_gate_slope(o, act_f, gate_o));
    const vf dh_o = vf_mul(dh, lstm_gate(o, act_f, gate_o));
    vf d_c = vf_fma(dh_o, lstm_activation_slope(act_h, c), vf_mul(zone_c.taken, dc));
    if (o->peephole)
        d_c = vf_fma(lstm_peephole_of(cell, second_row + 1, unit), d_o, d_c);
    d_c = vf_mul(d_c, clip_slope(unclipped, o->cell_clip));
    const vf d_first =
        vf_mul(vf_mul(d_c, lstm_first_factor(o->coupling, v.g, c_before)), lstm_gate_slope(o, act_f, first));
    const vf d_second = second_row ? vf_mul(vf_mul(d_c, c_before), lstm_gate_slope(o, act_f, second)) : vf_set1(0);
    const vf d_g = vf_mul(vf_mul(d_c, v.i), lstm_gate_slope(o, act_g, gate_g));
    const vf dc_before = vf_fma(d_c, v.f, vf_mul(zone_c.kept, dc));
    lstm_store_gradients(cell, row, unit, lanes, d_first, d_second, d_g, d_o, dc_before, c_before, c);
}

/* One vector of units from dh, the gradient of h.  The usual cell's five quotients come from two divisions: with
 * r = 1 / (a b), 1/a = r b.  Denominators are limited as in store_gates(), so that the product of three and its reciprocal
 * are normal numbers. */
FL_INLINE void lstm_options_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh)
{
    if (!cell->is_usual) {
        lstm_general_back(cell, row, unit, lanes, dh);
        return;
    }
    const fl_coupling coupling = cell->options.coupling;
    const size_t H = cell->sizes.H, second_row = coupling == FL_COUPLING_NONE;
    const vf one = vf_set1(1), limit = vf_set1(GATE_DENOMINATOR_LIMIT);
    const real *saved = row->saved + unit;
    const vf c_before = load_lanes(row->c_before + unit, lanes);
    const logistic_parts s = logistic_of(load_lanes(saved, lanes));
    const tanh_parts g_parts = tanh_of(load_lanes(saved + (second_row + 1) * H, lanes), 0);
    const vf o_denominator = vf_min(limit, sigmoid_denominator(load_lanes(saved + (second_row + 2) * H, lanes), 0));
    const vf denominator = vf_min(limit, s.denominator), product = vf_mul(denominator, g_parts.denominator);

    vf first, rest, f, i, g, second = vf_set1(0); /* rest = 1 - first */
    if (second_row) {
        const vf f_denominator = vf_min(limit, sigmoid_denominator(load_lanes(saved + H, lanes), 0));
        const vf r = vf_div(one, vf_mul(product, f_denominator)), r_f = vf_mul(r, f_denominator);
        first = vf_mul(r_f, g_parts.denominator);
        second = vf_mul(r, product);
        g = vf_mul(g_parts.numerator, vf_mul(r_f, denominator));
    } else {
        const vf r = vf_div(one, product);
        first = vf_mul(r, g_parts.denominator);
        g = vf_mul(g_parts.numerator, vf_mul(r, denominator));
    }
    switch (coupling) {
    case FL_F_FROM_I:
        rest = vf_mul(first, vf_min(limit, s.rest));
        i = first;
        f = rest;
        break;
    case FL_I_FROM_F:
        rest = vf_mul(first, vf_min(limit, s.rest));
        i = rest;
        f = first;
        break;
    case FL_NO_FORGET_GATE:
        rest = vf_sub(one, first);
        i = first;
        f = one;
        break;
    default:
        rest = vf_sub(one, first);
        i = first;
        f = second;
    }
    const vf c = vf_fma(i, g, vf_mul(f, c_before));
    const tanh_parts c_parts = tanh_of(c, 0);
    const vf r = vf_div(one, vf_mul(o_denominator, c_parts.denominator));
    const vf o = vf_mul(r, c_parts.denominator), t = vf_mul(c_parts.numerator, vf_mul(r, o_denominator));

    const vf dh_o = vf_mul(dh, o);
    const vf d_o = vf_mul(vf_mul(dh_o, t), vf_sub(one, o));
    vf d_c = vf_fma(dh_o, vf_fnma(t, t, one), lstm_dc_after(row, unit, lanes));
    if (cell->options.peephole)
        d_c = vf_fma(lstm_peephole_of(cell, second_row + 1, unit), d_o, d_c);
    const vf dc_f = vf_mul(d_c, f), dc_i = vf_mul(d_c, i);
    const vf d_first = vf_mul(vf_mul(d_c, first), vf_mul(rest, lstm_first_factor(coupling, g, c_before)));
    const vf d_second = vf_mul(vf_mul(dc_f, c_before), vf_sub(one, second));
    const vf d_g = vf_mul(dc_i, vf_fnma(g, g, one));
    lstm_store_gradients(cell, row, unit, lanes, d_first, d_second, d_g, d_o, dc_f, c_before, c);
    if (row->dh_before)
        store_lanes(row->dh_before + unit, vf_set1(0), lanes);
}

#endif
