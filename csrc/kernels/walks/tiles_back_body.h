/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Backpropagation through time for cells on tiles: the recurrent product of one step, whose tiles end in the gradient of
 * the cell.
 */
#ifndef FL_TILES_BACK_BODY_H
#define FL_TILES_BACK_BODY_H
#include "kernels/walks/rows_back_body.h"

/* One step of a run. */
typedef struct tile_back_view {
    const fl_back_steps *s;
    size_t m;      /* first row of the step */
    bool is_first; /* what goes round the product is in the carried state already */
} tile_back_view;

/* dh of a tile, less dy and what goes round the product, is in `total`. */
FL_INLINE void tile_back_of_units(const tile_back_view *view, const product_tile *t, const real *total,
                                  const bool may_bypass, cell_unit_back *update)
{
    const fl_back_steps *s = view->s;
    const size_t H = s->cell->sizes.H;
    for (size_t r = t->row; r < t->row + t->rows; r++) {
        const unit_back_row at = back_row_of(s, view->m, r);
        const real *dy = s->dy[view->m + r], *bypass = may_bypass && !view->is_first ? at.dh_before : NULL;
        for (size_t v = t->first; v < t->first + t->vectors; v++, total += VF_LANES) {
            const size_t unit = v * VF_LANES, lanes = lanes_at(H, unit);
            vf dh = vf_load(total);
            if (bypass)
                dh = vf_add(dh, load_lanes(bypass + unit, lanes));
            if (dy)
                dh = vf_add(dh, load_lanes(dy + unit, lanes));
            update(s->cell, &at, unit, lanes, dh);
        }
    }
}

#define TILE_BACK_OF_UNITS(CELL, MAY_BYPASS)                                                           \
    static __attribute__((noinline)) void CELL##_tile_back(const void *context, const product_tile *t, \
                                                           const real *total)                          \
    {                                                                                                  \
        tile_back_of_units(context, t, total, MAY_BYPASS, CELL##_unit_back);                           \
    }

/* Into L2: the product's own stream passes through L1. */
static __attribute__((noinline)) void tile_back_prepare(const void *context, const product_tile *t)
{
    const tile_back_view *view = context;
    const fl_back_steps *s = view->s;
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, stop = (t->first + t->vectors) * VF_LANES, end = stop < H ? stop : H;
    for (size_t m = view->m + t->row; m < view->m + t->row + t->rows; m++) {
        const real *saved = s->saved[m], *dgates = s->dgates[m], *c_before = s->c_before[m], *dy = s->dy[m];
        for (size_t unit = t->first * VF_LANES; unit < end; unit += LINE_LANES) {
            for (size_t part = 0; part < sizes->saved; part += H) __builtin_prefetch(saved + part + unit, 0, 2);
            for (size_t part = 0; part < sizes->gates * H; part += H) __builtin_prefetch(dgates + part + unit, 0, 2);
            if (sizes->states != 0)
                __builtin_prefetch(c_before + unit, 0, 2);
            if (dy)
                __builtin_prefetch(dy + unit, 0, 2);
        }
    }
}

/* The first step of a run: dh comes from the carried state. */
static void tile_back_first_step(const tile_back_view *view, const fl_panels *panels, finish_totals *finish)
{
    const fl_back_steps *s = view->s;
    const size_t H = s->cell->sizes.H;
    _Alignas(64) real total[PANEL_VECTORS * VF_LANES];
    for (size_t p = 0; p < panels->count; p++) {
        const size_t first = fl_panel_first(panels, p), NV = fl_panel_first(panels, p + 1) - first;
        for (size_t row = 0; row < s->rows; row++) {
            const product_tile t = {row, 1, first, NV};
            const real *dh = (const real *)s->dh + s->b[row] * H;
            for (size_t v = 0; v < NV; v++)
                vf_store(total + v * VF_LANES,
                         load_lanes(dh + (first + v) * VF_LANES, vector_lanes(panels, first + v)));
            finish(view, &t, total);
        }
    }
}

/* After the last step: dh is carried on, with what goes round the product. */
static void tile_back_carry(const void *context, const product_tile *t, const real *total)
{
    const tile_back_view *view = context;
    const fl_back_steps *s = view->s;
    const size_t H = s->cell->sizes.H;
    for (size_t r = t->row; r < t->row + t->rows; r++) {
        const real *bypass = s->cell->sizes.bypasses ? (const real *)s->scratch.bypass + r * H : NULL;
        real *dh = (real *)s->dh + s->b[r] * H;
        for (size_t v = t->first; v < t->first + t->vectors; v++, total += VF_LANES) {
            const size_t unit = v * VF_LANES, lanes = lanes_at(H, unit);
            const vf sum = vf_load(total);
            store_lanes(dh + unit, bypass ? vf_add(sum, load_lanes(bypass + unit, lanes)) : sum, lanes);
        }
    }
}

/* Rows of the state's part of a step's gradients. */
static const real *const *state_rows(const fl_back_steps *s, size_t m)
{
    if (s->state_part == 0)
        return (const real *const *)s->dgates + m;
    point_at_gradients(s, m, s->state_part);
    return (const real *const *)s->scratch.a;
}

static void tile_back_steps(const fl_back_steps *s)
{
    const size_t H = s->cell->sizes.H, gates = s->cell->sizes.gates;
    const fl_panels panels = fl_panels_of(H, VF_LANES);
    finish_totals *finish = functions_of(s->cell)->tile_back;
    tile_back_view view = {s, 0, true};
    tile_back_first_step(&view, &panels, finish);
    view.is_first = false;
    const fl_row_product product = {
        .panels = panels, .matrix = s->R, .gates = gates, .H = H, .rows = s->rows, .totals = s->scratch.totals};
    for (size_t step = 1; step < s->steps; step++) {
        const real *const *a = state_rows(s, view.m);
        view.m += s->rows;
        walk_product(&product, a, s->is_far ? tile_back_prepare : NULL, finish, &view);
    }
    walk_product(&product, state_rows(s, view.m), NULL, tile_back_carry, &view);
}

#endif
