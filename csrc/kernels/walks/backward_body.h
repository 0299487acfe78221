/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Backpropagation through time: the recurrent product of one step, with the gradients of the cell as its end; and the
 * gates of rows whose states are known.
 */
#ifndef FL_BACKWARD_BODY_H
#define FL_BACKWARD_BODY_H

/* One step of a run. */
typedef struct back_view {
    const fl_back_steps *s;
    size_t m; /* first row of the step */
} back_view;

/* dh (less dy) of a tile is in `total`. */
static __attribute__((noinline)) void back_finish(const void *context, size_t row, size_t rows, size_t first,
                                                  size_t vectors, const real *total)
{
    const back_view *view = context;
    const fl_back_steps *s = view->s;
    for (size_t r = 0; r < rows; r++) {
        const size_t m = view->m + row + r;
        real *dc_row = (real *)s->dc + s->b[row + r] * s->H;
        const real *dy_row = s->dy[m], *dcells = s->dcells ? s->dcells[m] : NULL;
        for (size_t v = 0; v < vectors; v++, total += VF_LANES) {
            const size_t unit = (first + v) * VF_LANES, lanes = vector_lanes(&s->panels, first + v);
            vf dh = vf_load(total);
            if (dy_row)
                dh = vf_add(dh, load_lanes(dy_row + unit, lanes));
            const vf c = load_lanes((const real *)s->c[m] + unit, lanes);
            const vf c_before = load_lanes((const real *)s->c_before[m] + unit, lanes);
            vf dc = load_lanes(dc_row + unit, lanes);
            if (dcells)
                dc = vf_add(dc, load_lanes(dcells + unit, lanes));
            dc = lstm_cell_gradient((const real *)s->gates[m] + unit, s->H, lanes, c, c_before, dh, dc,
                                    (real *)s->dgates[m] + unit, NULL, NULL);
            store_lanes(dc_row + unit, dc, lanes);
        }
    }
}

static __attribute__((noinline)) void back_prepare(const void *context, size_t row, size_t rows, size_t first,
                                                   size_t vectors)
{
    const back_view *view = context;
    const fl_back_steps *s = view->s;
    const size_t begin = first * VF_LANES;
    const size_t end = (first + vectors) * VF_LANES < s->H ? (first + vectors) * VF_LANES : s->H;
    for (size_t r = 0; r < rows; r++) {
        const size_t m = view->m + row + r;
        const real *gates = s->gates[m], *c_before = s->c_before[m], *dy = s->dy[m], *dgates = s->dgates[m];
        for (size_t unit = begin; unit < end; unit += LINE_LANES) {
            /* Into L2: the product's own stream passes through L1. */
            for (size_t gate = 0; gate < 4; gate++) {
                __builtin_prefetch(gates + gate * s->H + unit, 0, 2);
                __builtin_prefetch(dgates + gate * s->H + unit, 0, 2);
            }
            __builtin_prefetch(c_before + unit, 0, 2);
            if (dy)
                __builtin_prefetch(dy + unit, 0, 2);
        }
    }
}

/* The first step of a run: dh comes from the carried state. */
static void back_first_step(const fl_back_steps *s)
{
    const back_view view = {s, 0};
    _Alignas(64) real total[PANEL_VECTORS * VF_LANES];
    for (size_t p = 0; p < s->panels.count; p++) {
        const size_t first = fl_panel_first(&s->panels, p), NV = fl_panel_first(&s->panels, p + 1) - first;
        for (size_t row = 0; row < s->rows; row++) {
            const real *dh = (const real *)s->dh + s->b[row] * s->H;
            for (size_t v = 0; v < NV; v++)
                vf_store(total + v * VF_LANES,
                         load_lanes(dh + (first + v) * VF_LANES, vector_lanes(&s->panels, first + v)));
            back_finish(&view, row, 1, first, NV, total);
        }
    }
}

/* After the last step: dh is carried on. */
static void back_carry(const void *context, size_t row, size_t rows, size_t first, size_t vectors, const real *total)
{
    const fl_back_steps *s = ((const back_view *)context)->s;
    for (size_t r = 0; r < rows; r++) {
        real *dh = (real *)s->dh + s->b[row + r] * s->H;
        for (size_t v = 0; v < vectors; v++, total += VF_LANES)
            store_lanes(dh + (first + v) * VF_LANES, vf_load(total), vector_lanes(&s->panels, first + v));
    }
}

static void lstm_back_steps(const fl_back_steps *s)
{
    const real *const *a = (const real *const *)s->dgates;
    back_first_step(s);
    for (size_t step = 1; step < s->steps; step++, a += s->rows) {
        const back_view view = {s, step * s->rows};
        walk_product(&s->panels, s->R, 4, s->H, s->rows, a, s->totals, back_prepare, back_finish, &view);
    }
    const back_view view = {s, 0};
    walk_product(&s->panels, s->R, 4, s->H, s->rows, a, s->totals, NULL, back_carry, &view);
}

/* ---- Gates of rows whose states are known ----------------------------------------------------------------- */

static __attribute__((noinline)) void gate_rows_finish(const fl_gate_rows *s, size_t m, size_t j,
                                                       const tile_store *store, size_t NR, size_t NB, size_t NT)
{
    for (size_t r = 0; r < NR; r++) {
        vf gate[4];
        stored_gates(gate, store->vectors, r, 0, 4, NB, NT);
        const lstm_parts parts = lstm_parts_of(gate[0], gate[1], gate[2], gate[3]);
        store_gates(&parts, s->layout.H, block_lanes(&s->layout, j), (real *)s->gates[m + r] + j * VF_LANES);
    }
}

FL_INLINE void gate_rows_tile(const fl_gate_rows *s, size_t m, size_t j, const int NR, const int NB, const int NT)
{
    const int NV = 4 * NB + NT;
    const size_t x_panel = fl_panel_stride(&s->layout, s->I), h_panel = fl_panel_stride(&s->layout, s->layout.H);
    const real *bias = (const real *)s->bias + fl_block_offset(&s->layout, j);
    vf total[MAX_ACCUMULATORS];
    tile_store store;
    FL_UNROLL_FOR (int v = 0; v < NV; v++) {
        const vf b = vf_load(bias + (size_t)v * VF_LANES);
        FL_UNROLL_FOR (int r = 0; r < NR; r++) total[r * NV + v] = b;
    }
    if (s->x)
        accumulate(total, 4, NR, NB, NT, (const real *const *)s->x + m, s->I, (const real *)s->W + j * x_panel,
                   x_panel);
    else
        add_one_hot(total, s->x_index + m, (const real *)s->W + j * x_panel, x_panel, 4, NR, NB, NT);
    accumulate(total, 4, NR, NB, NT, (const real *const *)s->h + m, s->layout.H, (const real *)s->R + j * h_panel,
               h_panel);
    FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) vf_store(store.vectors[v], total[v]);
    gate_rows_finish(s, m, j, &store, (size_t)NR, (size_t)NB, (size_t)NT);
}

static void lstm_gate_rows(const fl_gate_rows *s)
{
#define TILE(NR, NB, NT) gate_rows_tile(s, m, j, NR, NB, NT)
    for (size_t j = 0; j < s->layout.blocks; j++) {
        for (size_t m = 0, rows; m < s->rows; m += rows) {
            rows = next_tile_rows(s->rows - m);
            TILE_OF_BLOCK(TILE, rows, s->layout, j)
        }
    }
#undef TILE
}

#endif
