/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Backpropagation through time for cells on tiles, but for the plain LSTM: the recurrent product of one step, whose tiles end in
 * the gradient of the cell, as backward_body.h has it.
 */
#ifndef FL_TILES_BACK_BODY_H
#define FL_TILES_BACK_BODY_H

/* One step of a run. */
typedef struct tile_back_view {
    const fl_cell_back_steps *s;
    const back_rows *rows;
    size_t m;      /* first row of the step */
    bool is_first; /* what goes round the product is in the carried state already */
} tile_back_view;

/* dh of a tile, less dy and what goes round the product, is in `total`. */
#define TILE_BACK(CELL)                                                                                                \
    static __attribute__((noinline)) void CELL##_tile_back(const void *context, size_t row, size_t rows, size_t first, \
                                                           size_t vectors, const real *total)                          \
    {                                                                                                                  \
        const tile_back_view *view = context;                                                                          \
        const fl_cell_back_steps *s = view->s;                                                                         \
        const size_t H = s->cell->sizes.H;                                                                             \
        for (size_t r = row; r < row + rows; r++) {                                                                    \
            const unit_back_row at = back_row_of(s, view->m, r, view->rows);                                           \
            const real *dy = s->dy[view->m + r], *bypass = view->is_first ? NULL : at.dh_before;                       \
            for (size_t v = first; v < first + vectors; v++, total += VF_LANES) {                                      \
                const size_t unit = v * VF_LANES, lanes = H - unit < VF_LANES ? H - unit : VF_LANES;                   \
                vf dh = vf_load(total);                                                                                \
                if (bypass)                                                                                            \
                    dh = vf_add(dh, load_lanes(bypass + unit, lanes));                                                 \
                if (dy)                                                                                                \
                    dh = vf_add(dh, load_lanes(dy + unit, lanes));                                                     \
                CELL##_unit_back(s->cell, &at, unit, lanes, dh);                                                       \
            }                                                                                                          \
        }                                                                                                              \
    }
TILE_BACK(lstm)
TILE_BACK(lstm_peephole)
TILE_BACK(gru)
TILE_BACK(rnn)
#undef TILE_BACK

static finish_totals *tile_back_of(const fl_cell *cell)
{
    switch (cell->options.kind) {
    case FL_CELL_GRU: return gru_tile_back;
    case FL_CELL_RNN: return rnn_tile_back;
    default: return cell->sizes.keeps_gates ? lstm_peephole_tile_back : lstm_tile_back;
    }
}

/* As back_prepare(). */
static __attribute__((noinline)) void tile_back_prepare(const void *context, size_t row, size_t rows, size_t first,
                                                        size_t vectors)
{
    const tile_back_view *view = context;
    const fl_cell_back_steps *s = view->s;
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, begin = first * VF_LANES, stop = (first + vectors) * VF_LANES, end = stop < H ? stop : H;
    for (size_t m = view->m + row; m < view->m + row + rows; m++) {
        const real *saved = s->saved[m], *dgates = s->dgates[m], *c_before = s->c_before[m], *dy = s->dy[m];
        for (size_t unit = begin; unit < end; unit += LINE_LANES) {
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
    const fl_cell_back_steps *s = view->s;
    const size_t H = s->cell->sizes.H;
    _Alignas(64) real total[PANEL_VECTORS * VF_LANES];
    for (size_t p = 0; p < panels->count; p++) {
        const size_t first = fl_panel_first(panels, p), NV = fl_panel_first(panels, p + 1) - first;
        for (size_t row = 0; row < s->rows; row++) {
            const real *dh = (const real *)s->dh + s->b[row] * H;
            for (size_t v = 0; v < NV; v++)
                vf_store(total + v * VF_LANES,
                         load_lanes(dh + (first + v) * VF_LANES, vector_lanes(panels, first + v)));
            finish(view, row, 1, first, NV, total);
        }
    }
}

/* After the last step: dh is carried on, with what goes round the product. */
static void tile_back_carry(const void *context, size_t row, size_t rows, size_t first, size_t vectors,
                            const real *total)
{
    const tile_back_view *view = context;
    const fl_cell_back_steps *s = view->s;
    const size_t H = s->cell->sizes.H;
    for (size_t r = row; r < row + rows; r++) {
        const real *bypass = s->cell->sizes.bypasses ? view->rows->bypass + r * H : NULL;
        real *dh = (real *)s->dh + s->b[r] * H;
        for (size_t v = first; v < first + vectors; v++, total += VF_LANES) {
            const size_t unit = v * VF_LANES, lanes = H - unit < VF_LANES ? H - unit : VF_LANES;
            const vf sum = vf_load(total);
            store_lanes(dh + unit, bypass ? vf_add(sum, load_lanes(bypass + unit, lanes)) : sum, lanes);
        }
    }
}

static void tile_back_steps(const fl_cell_back_steps *s)
{
    const size_t H = s->cell->sizes.H, gates = s->cell->sizes.gates;
    const fl_panels panels = fl_panels_of(H, VF_LANES);
    const back_rows rows = back_rows_of(s);
    finish_totals *finish = tile_back_of(s->cell);
    tile_back_view view = {s, &rows, 0, true};
    point_at_gradients(s, 0, s->dh_offset, &rows);
    tile_back_first_step(&view, &panels, finish);
    view.is_first = false;
    for (size_t step = 1; step < s->steps; step++) {
        view.m += s->rows;
        walk_product(&panels, s->R, gates, H, s->rows, (const real *const *)rows.a, rows.totals, tile_back_prepare,
                     finish, &view);
        point_at_gradients(s, view.m, s->dh_offset, &rows);
    }
    walk_product(&panels, s->R, gates, H, s->rows, (const real *const *)rows.a, rows.totals, NULL, tile_back_carry,
                 &view);
}

static void cell_back_steps(const fl_cell_back_steps *s)
{
    if (s->on_rows || s->weight_hr)
        row_back_steps(s);
    else
        tile_back_steps(s);
}

#endif
