/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells without a recurrent product (IndRNN, minGRU, minLSTM): each unit has a recurrence of its own, so the input
 * product of many steps is one product, and its tiles end in the cell.  h passes from step to step through the output,
 * which is still near.
 */
#ifndef FL_SCAN_BODY_H
#define FL_SCAN_BODY_H
#include "kernels/walks/cell_functions_body.h"

/* Few inputs, no more than one partial sum: the sums of some rows stay in registers, and units are walked inside, so
 * that the output is written in the order of memory.  (Where it goes beyond the caches, stores to columns of it take 31
 * cycles a vector, to rows 24, and a cell with one input about 20.) */
#define SCAN_INPUTS FL_K_BLOCK
#if VF_REGISTERS < 32 && VF_LANES * FL_REAL_BITS == 128 /* plain C: small code */
#define SCAN_ROWS 1
#else
#define SCAN_ROWS 4
#endif

/* What the rows of one vector of units share. */
typedef struct scan_view {
    const fl_cell *cell;
    size_t H, unit, lanes;
    size_t stride; /* from gate to gate */
    const real *bias;
} scan_view;

FL_INLINE scan_view scan_view_of(const fl_scan *s, size_t unit)
{
    const size_t H = s->cell->sizes.H, lanes = lanes_at(H, unit);
    const real *bias = (const real *)s->bias + unit * s->panels.together;
    const scan_view at = {s->cell, H, unit, lanes, fl_gate_stride(&s->panels, H), bias};
    return at;
}

/* One row, from sums of products. */
FL_INLINE void scan_unit(const scan_view *at, const real *h, real *y, real *saved, vf *a, const int G, cell_scan *next)
{
    FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
        a[gate] = vf_add(vf_load(at->bias + (size_t)gate * at->stride), a[gate]);
    const vf after = next(at->cell, at->unit, at->lanes, load_lanes(h + at->unit, at->lanes), a);
    store_lanes(y + at->unit, after, at->lanes);
    if (saved) {
        FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
            store_lanes(saved + (size_t)gate * at->H + at->unit, a[gate], at->lanes);
    }
}

/* Rows of a tile. */
FL_INLINE void scan_totals(const fl_scan *s, const product_tile *t, const real *totals, const int G, cell_scan *next)
{
    const size_t together = s->panels.together, begin = t->first / together * VF_LANES;
    const size_t end = begin + t->vectors / together * VF_LANES;
    for (size_t row = t->row; row < t->row + t->rows; row++) {
        const real *h = s->h_before[row];
        real *y = s->y[row], *saved = s->saved ? s->saved[row] : NULL;
        for (size_t unit = begin; unit < end; unit += VF_LANES, totals += together * VF_LANES) {
            const scan_view at = scan_view_of(s, unit);
            vf a[FL_MAX_GATES];
            FL_UNROLL_FOR (int gate = 0; gate < G; gate++) a[gate] = vf_load(totals + (size_t)gate * at.stride);
            scan_unit(&at, h, y, saved, a, G, next);
        }
    }
}

/* NR rows of one-hot or few inputs. */
FL_INLINE void scan_rows(const fl_scan *s, size_t row, const int G, const int NR, cell_scan *next)
{
    const size_t I = s->I, together = s->panels.together;
    const real *x[SCAN_ROWS], *h[SCAN_ROWS];
    real *y[SCAN_ROWS], *saved[SCAN_ROWS];
    FL_UNROLL_FOR (int r = 0; r < NR; r++) {
        x[r] = s->x ? s->x[row + (size_t)r] : NULL;
        h[r] = s->h_before[row + (size_t)r];
        y[r] = s->y[row + (size_t)r];
        saved[r] = s->saved ? s->saved[row + (size_t)r] : NULL;
    }
    for (size_t p = 0, unit = 0, first = 0, end; p < s->panels.count; p++, first = end) {
        end = fl_panel_first(&s->panels, p + 1);
        const size_t width = (end - first) * VF_LANES;
        const weight *panel = (const weight *)s->W + first * VF_LANES * I;
        for (const weight *behind = panel + width; panel < behind; panel += together * VF_LANES, unit += VF_LANES) {
            const scan_view at = scan_view_of(s, unit);
            vf a[SCAN_ROWS * FL_MAX_GATES];
            if (s->x_index) {
                FL_UNROLL_FOR (int r = 0; r < NR; r++)
                    FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
                        a[r * G + gate] =
                            load_weight(panel + (size_t)s->x_index[row + (size_t)r] * width + (size_t)gate * at.stride);
            } else {
                const weight *w = panel;
                FL_UNROLL_FOR (int v = 0; v < NR * G; v++) a[v] = vf_set1(0);
                for (size_t k = 0; k < I; k++, w += width) {
                    vf factor[FL_MAX_GATES];
                    FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
                        factor[gate] = load_weight(w + (size_t)gate * at.stride);
                    FL_UNROLL_FOR (int r = 0; r < NR; r++) {
                        const vf input = vf_set1(x[r][k]);
                        FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
                            a[r * G + gate] = vf_fma(input, factor[gate], a[r * G + gate]);
                    }
                }
            }
            FL_UNROLL_FOR (int r = 0; r < NR; r++) scan_unit(&at, h[r], y[r], saved[r], a + r * G, G, next);
        }
    }
}

static __attribute__((noinline)) void scan_prepare(const void *context, const product_tile *t)
{
    const fl_scan *s = context;
    const size_t together = s->panels.together, begin = t->first / together * VF_LANES;
    const size_t end = (t->first + t->vectors) / together * VF_LANES;
    for (size_t r = t->row; r < t->row + t->rows; r++)
        for (size_t unit = begin; unit < end && unit < s->cell->sizes.H; unit += LINE_LANES)
            __builtin_prefetch((const real *)s->y[r] + unit, 1);
}

FL_INLINE void scan_all_rows(const fl_scan *s, const int G, cell_scan *next)
{
    size_t row = 0;
    for (; SCAN_ROWS > 1 && row + SCAN_ROWS <= s->rows; row += SCAN_ROWS) scan_rows(s, row, G, SCAN_ROWS, next);
    for (; row < s->rows; row++) scan_rows(s, row, G, 1, next);
}

#define SCAN(CELL, G)                                                                            \
    static void CELL##_scan_tile(const void *context, const product_tile *t, const real *totals) \
    {                                                                                            \
        scan_totals(context, t, totals, G, CELL##_scan);                                         \
    }                                                                                            \
    static void CELL##_scan_rows(const fl_scan *s) { scan_all_rows(s, G, CELL##_scan); }

static void scan(const fl_scan *s)
{
    const cell_functions *cell = functions_of(s->cell);
    /* A cell of one gate waits for its activation: rows that do so one for the other should not stand side by side. */
    const bool waits = s->cell->sizes.gates == 1 && s->apart < SCAN_ROWS;
    const fl_row_product product = {
        .panels = s->panels, .matrix = s->W, .gates = 1, .H = s->I, .rows = s->rows, .totals = s->totals};
    if (s->x_index || (s->I <= SCAN_INPUTS && !waits))
        cell->scan_rows(s);
    else
        walk_product(&product, (const real *const *)s->x, scan_prepare, cell->scan_tile, s);
}

#endif
