/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The LSTM family with layer normalisation, on whole rows of H units; norm(z) = (z - mean) / sqrt(var + eps).
 *     gate:  each gate by itself, a = gamma norm(W x + U h' + p c) + b, eps 1e-8; what o sees of c is the new one
 *     haste: a = gamma_ih norm(W x) + gamma_hh norm(U h') + b over all gates at once, and h^ = o act_h(gamma_c norm(c^) + b_c),
 *            eps 1e-5
 * (TensorFlow Lite; Haste).  The rest is lstm_options_body.h.  Means go over units, and thus over lanes: they are summed
 * in SUM_LANES partial sums, each of every SUM_LANES-th unit, whatever the width of a vector.
 */
#ifndef FL_LSTM_NORM_BODY_H
#define FL_LSTM_NORM_BODY_H
#include "kernels/cells/lstm_options_body.h"

#define NORM_GATE_EPS REAL(1e-8)
#define NORM_HASTE_EPS REAL(1e-5)

#define SUM_LANES (64 / sizeof(real)) /* lanes of the widest vector */
#define SUM_VECTORS (SUM_LANES / VF_LANES)

/* ---- Sums over a row -------------------------------------------------------------------------------------- */

/* The summand at one vector of units. */
typedef vf row_term(const void *context, size_t unit, size_t lanes);

/* In all lanes.  Padded lanes of a term may hold anything. */
FL_INLINE vf sum_over_row(size_t n, const void *context, row_term *term)
{
    real parts[SUM_LANES];
    vf sum[SUM_VECTORS];
    FL_UNROLL_FOR (size_t v = 0; v < SUM_VECTORS; v++) sum[v] = vf_set1(0);
    for (size_t base = 0; base < n; base += SUM_LANES) {
        FL_UNROLL_FOR (size_t v = 0; v < SUM_VECTORS; v++) {
            const size_t unit = base + v * VF_LANES;
            if (unit < n) {
                const size_t lanes = lanes_at(n, unit);
                vf a = term(context, unit, lanes);
                if (lanes != VF_LANES) {
                    real whole[VF_LANES];
                    vf_store(whole, a);
                    a = vf_load_n(whole, lanes);
                }
                sum[v] = vf_add(sum[v], a);
            }
        }
    }
    FL_UNROLL_FOR (size_t v = 0; v < SUM_VECTORS; v++) vf_store(parts + v * VF_LANES, sum[v]);
    for (size_t width = SUM_LANES / 2; width > 0; width /= 2)
        for (size_t lane = 0; lane < width; lane++) parts[lane] += parts[lane + width];
    return vf_set1(parts[0]);
}

/* What is normalised: x + h + p c; all but x may be null, p and c go together. */
typedef struct norm_row {
    const real *x, *h, *p, *c;
} norm_row;

/* norm(z) = (z pre - mean) * scale, each in all lanes; pre is 1 where squares fit, else a power of two that makes them. */
typedef struct norm_stats {
    vf pre, mean, scale;
} norm_stats;

typedef struct norm_terms {
    const norm_row *row;
    norm_stats stats;
    const real *gamma, *d;
} norm_terms;

FL_INLINE vf norm_input(const norm_row *row, size_t unit, size_t lanes)
{
    vf z = load_lanes(row->x + unit, lanes);
    if (row->h)
        z = vf_add(z, load_lanes(row->h + unit, lanes));
    if (row->p)
        z = vf_fma(load_lanes(row->p + unit, lanes), load_lanes(row->c + unit, lanes), z);
    return z;
}

FL_INLINE vf centred(const norm_stats *stats, vf z) { return vf_sub(vf_mul(z, stats->pre), stats->mean); }

FL_INLINE vf normalised(const norm_stats *stats, vf z) { return vf_mul(centred(stats, z), stats->scale); }

FL_INLINE vf input_term(const void *context, size_t unit, size_t lanes)
{
    const norm_terms *terms = context;
    return vf_mul(norm_input(terms->row, unit, lanes), terms->stats.pre);
}

FL_INLINE vf square_term(const void *context, size_t unit, size_t lanes)
{
    const norm_terms *terms = context;
    const vf z = centred(&terms->stats, norm_input(terms->row, unit, lanes));
    return vf_mul(z, z);
}

/* The gradient of norm(z). */
FL_INLINE vf gradient_term(const void *context, size_t unit, size_t lanes)
{
    const norm_terms *terms = context;
    return vf_mul(load_lanes(terms->gamma + unit, lanes), load_lanes(terms->d + unit, lanes));
}

FL_INLINE vf product_term(const void *context, size_t unit, size_t lanes)
{
    const norm_terms *terms = context;
    return vf_mul(gradient_term(context, unit, lanes), normalised(&terms->stats, norm_input(terms->row, unit, lanes)));
}

/* The variance of the row times `pre`, whose mean it leaves behind. */
FL_INLINE vf scaled_variance(norm_terms *terms, size_t n, real pre)
{
    const vf count = vf_set1((real)n);
    terms->stats.pre = vf_set1(pre);
    terms->stats.mean = vf_div(sum_over_row(n, terms, input_term), count);
    return vf_div(sum_over_row(n, terms, square_term), count);
}

/* Squares of any number times this fit. */
#if FL_REAL_BITS == 32
#define NORM_SMALLER REAL(0x1p-80)
#else
#define NORM_SMALLER REAL(0x1p-600)
#endif

static __attribute__((noinline)) norm_stats norm_stats_of(const norm_row *row, size_t n, real eps)
{
    norm_terms terms = {.row = row};
    real lanes[VF_LANES];
    vf variance = scaled_variance(&terms, n, 1);
    vf_store(lanes, variance);
    if (!__builtin_isfinite(lanes[0])) { /* or the norm of large numbers would be 0 */
        variance = scaled_variance(&terms, n, NORM_SMALLER);
        eps = eps * NORM_SMALLER * NORM_SMALLER;
    }
    terms.stats.scale = vf_div(vf_set1(1), vf_sqrt(vf_add(variance, vf_set1(eps))));
    return terms.stats;
}

/* From `d`, the gradient of gamma norm(z) + b, those of z and gamma:
 *     dn = gamma d,  dz = pre scale (dn - mean(dn) - norm(z) mean(dn norm(z))),  dgamma = d norm(z). */
static __attribute__((noinline)) void norm_back(const norm_row *row, const norm_stats *stats, const real *gamma,
                                                size_t n, const real *d, real *dz, real *dgamma)
{
    const norm_terms terms = {row, *stats, gamma, d};
    const vf count = vf_set1((real)n);
    const vf mean = vf_div(sum_over_row(n, &terms, gradient_term), count);
    const vf slope = vf_div(sum_over_row(n, &terms, product_term), count);
    for (size_t unit = 0; unit < n; unit += VF_LANES) {
        const size_t lanes = lanes_at(n, unit);
        const vf z = normalised(stats, norm_input(row, unit, lanes));
        const vf dn = vf_sub(gradient_term(&terms, unit, lanes), mean);
        store_lanes(dz + unit, vf_mul(stats->pre, vf_mul(stats->scale, vf_fnma(slope, z, dn))), lanes);
        store_lanes(dgamma + unit, vf_mul(load_lanes(d + unit, lanes), z), lanes);
    }
}

/* ---- Pre-activations of a row ------------------------------------------------------------------------------ */

/* Rows that are normalised: one a gate, or those of the input and of the state. */
typedef struct lstm_norms {
    bool haste;
    norm_row rows[4];
    norm_stats stats[4];
} lstm_norms;

/* Pre-activation n at one vector of units. */
FL_INLINE vf norm_gate(const fl_cell *cell, const lstm_norms *norms, size_t n, size_t unit, size_t lanes)
{
    const size_t element = n * cell->sizes.H + unit;
    const real *gamma = (const real *)cell->own.weight_ln_ih + element;
    vf a = cell->own.bias_ih ? load_lanes((const real *)cell->own.bias_ih + element, lanes) : vf_set1(0);
    if (!norms->haste)
        return vf_fma(normalised(&norms->stats[n], norm_input(&norms->rows[n], unit, lanes)), load_lanes(gamma, lanes),
                      a);
    a = vf_fma(normalised(&norms->stats[0], norm_input(&norms->rows[0], element, lanes)), load_lanes(gamma, lanes), a);
    return vf_fma(normalised(&norms->stats[1], norm_input(&norms->rows[1], element, lanes)),
                  load_lanes((const real *)cell->own.weight_ln_hh + element, lanes), a);
}

/* What act_h sees; `stats` of c in Haste's. */
FL_INLINE vf norm_c(const fl_cell *cell, const lstm_norms *norms, const norm_stats *stats, vf c, size_t unit,
                    size_t lanes)
{
    if (!norms->haste)
        return c;
    return vf_fma(normalised(stats, c), load_lanes((const real *)cell->own.weight_ln_c + unit, lanes),
                  load_lanes((const real *)cell->own.bias_ln_c + unit, lanes));
}

static void norm_save(const norm_row *row, size_t n, real *saved)
{
    for (size_t unit = 0; unit < n; unit += VF_LANES) {
        const size_t lanes = lanes_at(n, unit);
        store_lanes(saved + unit, norm_input(row, unit, lanes), lanes);
    }
}

/* ---- Forward ---------------------------------------------------------------------------------------------- */

/* x and h: rows (G*H) of W x and U h'.  row->h holds c^ on the way, so it must not be row->h_before. */
static inline void lstm_norm_row(const fl_cell *cell, const unit_row *row, const real *x, const real *h)
{
    const fl_cell_options *o = &cell->options;
    const size_t H = cell->sizes.H, gates = cell->sizes.gates, second_row = gates - 3;
    lstm_norms norms = {.haste = o->layer_norm == FL_LAYER_NORM_HASTE};
    norm_stats c_stats = {vf_set1(0), vf_set1(0), vf_set1(0)};
    if (norms.haste) {
        norms.rows[0].x = x;
        norms.rows[1].x = h;
        for (size_t n = 0; n < 2; n++) {
            norms.stats[n] = norm_stats_of(&norms.rows[n], gates * H, NORM_HASTE_EPS);
            if (row->saved)
                norm_save(&norms.rows[n], gates * H, row->saved + n * gates * H);
        }
    } else {
        for (size_t n = 0; n + 1 < gates; n++) {
            norms.rows[n] = (norm_row){.x = x + n * H, .h = h + n * H};
            if (o->peephole && n + 2 < gates) {
                norms.rows[n].p = (const real *)cell->own.weight_ch + n * H;
                norms.rows[n].c = row->c;
            }
            norms.stats[n] = norm_stats_of(&norms.rows[n], H, NORM_GATE_EPS);
            if (row->saved)
                norm_save(&norms.rows[n], H, row->saved + n * H);
        }
    }
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        const lstm_values v =
            lstm_values_of(o, norm_gate(cell, &norms, 0, unit, lanes), norm_gate(cell, &norms, second_row, unit, lanes),
                           norm_gate(cell, &norms, gates - 2, unit, lanes));
        const vf unclipped = lstm_unclipped_c(&v, load_lanes(row->c + unit, lanes));
        store_lanes(row->h + unit, clip_to(unclipped, o->cell_clip), lanes);
    }
    if (norms.haste) {
        const norm_row c_row = {.x = row->h};
        c_stats = norm_stats_of(&c_row, H, NORM_HASTE_EPS);
    } else {
        const size_t n = gates - 1;
        norms.rows[n] = (norm_row){.x = x + n * H, .h = h + n * H};
        if (o->peephole) {
            norms.rows[n].p = (const real *)cell->own.weight_ch + (n - 1) * H;
            norms.rows[n].c = row->h;
        }
        norms.stats[n] = norm_stats_of(&norms.rows[n], H, NORM_GATE_EPS);
        if (row->saved)
            norm_save(&norms.rows[n], H, row->saved + n * H);
    }
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        const vf c = load_lanes(row->h + unit, lanes);
        const vf output = lstm_gate(o, &o->activations[0], norm_gate(cell, &norms, gates - 1, unit, lanes));
        const vf squashed = lstm_activate(&o->activations[2], norm_c(cell, &norms, &c_stats, c, unit, lanes));
        lstm_store_states(cell, row, unit, lanes, c, vf_mul(output, squashed));
    }
}

/* ---- Backward --------------------------------------------------------------------------------------------- */

/* dh (H): gradient of h.  scratch: 12*H elements.  The gradient of the bias is that of the pre-activations after
 * normalisation: they are gathered there. */
static inline void lstm_norm_row_back(const fl_cell *cell, const unit_back_row *row, const real *dh, real *scratch)
{
    const fl_cell_options *o = &cell->options;
    const fl_activation *act_f = &o->activations[0], *act_g = &o->activations[1], *act_h = &o->activations[2];
    const size_t H = cell->sizes.H, gates = cell->sizes.gates, GH = gates * H, second_row = gates - 3;
    /* In the order of fl_gradient_row: the bias, peepholes, weight_ln_ih; Haste's weight_ln_hh, weight_ln_c, bias_ln_c. */
    real *const da = row->extras, *const dp = da + GH, *const dgamma_ih = dp + cell->sizes.peepholes * H;
    real *const values = scratch, *const slopes = scratch + 3 * H; /* i, f, g; first, second, g */
    real *const unclipped = scratch + 6 * H, *const c = scratch + 7 * H, *const dc = scratch + 8 * H;
    const norm_row c_row = {.x = c};
    lstm_norms norms = {.haste = o->layer_norm == FL_LAYER_NORM_HASTE};
    norm_stats c_stats = {vf_set1(0), vf_set1(0), vf_set1(0)};
    const size_t width = norms.haste ? GH : H;
    const real *gamma = cell->own.weight_ln_ih;
    for (size_t n = 0; n < (norms.haste ? 2 : gates); n++) {
        norms.rows[n].x = row->saved + n * width;
        norms.stats[n] = norm_stats_of(&norms.rows[n], width, norms.haste ? NORM_HASTE_EPS : NORM_GATE_EPS);
    }

    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        const vf first = norm_gate(cell, &norms, 0, unit, lanes),
                 second = norm_gate(cell, &norms, second_row, unit, lanes);
        const vf gate_g = norm_gate(cell, &norms, gates - 2, unit, lanes);
        const lstm_values v = lstm_values_of(o, first, second, gate_g);
        const vf sum = lstm_unclipped_c(&v, load_lanes(row->c_before + unit, lanes));
        store_lanes(values + unit, v.i, lanes);
        store_lanes(values + H + unit, v.f, lanes);
        store_lanes(values + 2 * H + unit, v.g, lanes);
        store_lanes(slopes + unit, lstm_gate_slope(o, act_f, first), lanes);
        if (second_row)
            store_lanes(slopes + H + unit, lstm_gate_slope(o, act_f, second), lanes);
        store_lanes(slopes + 2 * H + unit, lstm_gate_slope(o, act_g, gate_g), lanes);
        store_lanes(unclipped + unit, sum, lanes);
        store_lanes(c + unit, clip_to(sum, o->cell_clip), lanes);
    }
    if (norms.haste)
        c_stats = norm_stats_of(&c_row, H, NORM_HASTE_EPS);

    /* Through h to o and to c^, or to what is normalised of it. */
    real *const d_squashed = norms.haste ? dgamma_ih + 2 * GH + H : dc;
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        const lstm_zone zone_h = lstm_zone_of(cell, row->zoned_h, o->zoneout_h, unit, lanes);
        const vf dh_all = load_lanes(dh + unit, lanes), dh_taken = vf_mul(zone_h.taken, dh_all);
        const vf gate_o = norm_gate(cell, &norms, gates - 1, unit, lanes);
        const vf squashed = norm_c(cell, &norms, &c_stats, load_lanes(c + unit, lanes), unit, lanes);
        const vf dh_o = vf_mul(dh_taken, lstm_gate(o, act_f, gate_o));
        if (row->dh_before)
            store_lanes(row->dh_before + unit, vf_mul(zone_h.kept, dh_all), lanes);
        store_lanes(da + (gates - 1) * H + unit,
                    vf_mul(vf_mul(dh_taken, lstm_activate(act_h, squashed)), lstm_gate_slope(o, act_f, gate_o)), lanes);
        store_lanes(d_squashed + unit, vf_mul(dh_o, lstm_activation_slope(act_h, squashed)), lanes);
    }
    if (norms.haste) {
        norm_back(&c_row, &c_stats, cell->own.weight_ln_c, H, d_squashed, dc, dgamma_ih + 2 * GH);
    } else {
        const size_t at = (gates - 1) * H;
        norm_back(&norms.rows[gates - 1], &norms.stats[gates - 1], gamma + at, H, da + at, row->dx + at,
                  dgamma_ih + at);
    }

    /* Through c^ to what it is made of. */
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        const lstm_zone zone_c = lstm_zone_of(cell, row->zoned_c, o->zoneout_c, unit, lanes);
        const vf c_before = load_lanes(row->c_before + unit, lanes), dc_after = lstm_dc_after(row, unit, lanes);
        vf d = vf_fma(zone_c.taken, dc_after, load_lanes(dc + unit, lanes));
        if (o->peephole) {
            const vf d_o = load_lanes(row->dx + (gates - 1) * H + unit, lanes);
            d = vf_fma(lstm_peephole_of(cell, gates - 2, unit), d_o, d);
            store_lanes(dp + (gates - 2) * H + unit, vf_mul(d_o, load_lanes(c + unit, lanes)), lanes);
        }
        d = vf_mul(d, clip_slope(load_lanes(unclipped + unit, lanes), o->cell_clip));
        const vf i = load_lanes(values + unit, lanes), f = load_lanes(values + H + unit, lanes);
        const vf factor = lstm_first_factor(o->coupling, load_lanes(values + 2 * H + unit, lanes), c_before);
        store_lanes(da + unit, vf_mul(vf_mul(d, factor), load_lanes(slopes + unit, lanes)), lanes);
        if (second_row)
            store_lanes(da + H + unit, vf_mul(vf_mul(d, c_before), load_lanes(slopes + H + unit, lanes)), lanes);
        store_lanes(da + (gates - 2) * H + unit, vf_mul(vf_mul(d, i), load_lanes(slopes + 2 * H + unit, lanes)), lanes);
        store_lanes(row->dc + unit, vf_fma(d, f, vf_mul(zone_c.kept, dc_after)), lanes);
    }
    if (norms.haste) {
        norm_back(&norms.rows[0], &norms.stats[0], gamma, GH, da, row->dx, dgamma_ih);
        norm_back(&norms.rows[1], &norms.stats[1], cell->own.weight_ln_hh, GH, da, row->dh, dgamma_ih + GH);
        return;
    }
    for (size_t n = 0; n + 1 < gates; n++)
        norm_back(&norms.rows[n], &norms.stats[n], gamma + n * H, H, da + n * H, row->dx + n * H, dgamma_ih + n * H);
    if (!o->peephole)
        return;
    for (size_t n = 0; n + 2 < gates; n++) {
        for (size_t unit = 0; unit < H; unit += VF_LANES) {
            const size_t lanes = lanes_at(H, unit);
            const vf dz = load_lanes(row->dx + n * H + unit, lanes), dc_before = load_lanes(row->dc + unit, lanes);
            store_lanes(dp + n * H + unit, vf_mul(dz, load_lanes(row->c_before + unit, lanes)), lanes);
            store_lanes(row->dc + unit, vf_fma(lstm_peephole_of(cell, n, unit), dz, dc_before), lanes);
        }
    }
}

#endif
