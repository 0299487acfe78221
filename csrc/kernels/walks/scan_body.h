/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells without a recurrent product (IndRNN, minGRU, minLSTM): each unit has a recurrence of its own, so the input
 * product of many steps is one product, and its tiles end in the cell.  h passes from step to step through the output,
 * which is still near.
 *
 * A cell_*_body.h supplies <cell>_scan(cell, unit, lanes, h, a): h after a step, from h before it and the
 * pre-activations, which are left behind as the backward pass wants them.
 */
#ifndef FL_SCAN_BODY_H
#define FL_SCAN_BODY_H

/* Few inputs, no more than one partial sum: the sums of some rows stay in registers, and units are walked inside, so
 * that the output is written in the order of memory.  (Where it goes beyond the caches, stores to columns of it take 31
 * cycles a vector, to rows 24, and a cell with one input about 20.) */
#define SCAN_INPUTS FL_K_BLOCK
#if VF_REGISTERS < 32 && VF_LANES * FL_REAL_BITS == 128 /* plain C: small code */
#define SCAN_ROWS 1
#else
#define SCAN_ROWS 4
#endif

typedef vf unit_scan(const fl_cell *cell, size_t unit, size_t lanes, vf h, vf *a);

/* What the rows of one vector of units share. */
typedef struct scan_view {
    const fl_cell *cell;
    size_t H, unit, lanes;
    size_t stride; /* from gate to gate */
    const real *bias;
} scan_view;

FL_INLINE scan_view scan_view_of(const fl_scan *s, size_t unit)
{
    const size_t H = s->cell->sizes.H, lanes = H - unit < VF_LANES ? H - unit : VF_LANES;
    const real *bias = (const real *)s->bias + unit * s->panels.together;
    const scan_view at = {s->cell, H, unit, lanes, fl_gate_stride(&s->panels, H), bias};
    return at;
}

/* One row, from sums of products. */
FL_INLINE void scan_unit(const scan_view *at, const real *h, real *y, real *saved, vf *a, const int G, unit_scan *next)
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
FL_INLINE void scan_totals(const fl_scan *s, size_t row, size_t rows, size_t first, size_t vectors, const real *totals,
                           const int G, unit_scan *next)
{
    const size_t together = s->panels.together, begin = first / together * VF_LANES;
    const size_t end = begin + vectors / together * VF_LANES;
    for (size_t last = row + rows; row < last; row++) {
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
FL_INLINE void scan_rows(const fl_scan *s, size_t row, const int G, const int NR, unit_scan *next)
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
        const real *panel = (const real *)s->W + first * VF_LANES * I;
        for (const real *behind = panel + width; panel < behind; panel += together * VF_LANES, unit += VF_LANES) {
            const scan_view at = scan_view_of(s, unit);
            vf a[SCAN_ROWS * FL_MAX_GATES];
            if (s->x_index) {
                FL_UNROLL_FOR (int r = 0; r < NR; r++)
                    FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
                        a[r * G + gate] =
                            vf_load(panel + (size_t)s->x_index[row + (size_t)r] * width + (size_t)gate * at.stride);
            } else {
                const real *w = panel;
                FL_UNROLL_FOR (int v = 0; v < NR * G; v++) a[v] = vf_set1(0);
                for (size_t k = 0; k < I; k++, w += width) {
                    vf weight[FL_MAX_GATES];
                    FL_UNROLL_FOR (int gate = 0; gate < G; gate++) weight[gate] = vf_load(w + (size_t)gate * at.stride);
                    FL_UNROLL_FOR (int r = 0; r < NR; r++) {
                        const vf input = vf_set1(x[r][k]);
                        FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
                            a[r * G + gate] = vf_fma(input, weight[gate], a[r * G + gate]);
                    }
                }
            }
            FL_UNROLL_FOR (int r = 0; r < NR; r++) scan_unit(&at, h[r], y[r], saved[r], a + r * G, G, next);
        }
    }
}

static __attribute__((noinline)) void scan_prepare(const void *context, size_t row, size_t rows, size_t first,
                                                   size_t vectors)
{
    const fl_scan *s = context;
    const size_t together = s->panels.together, begin = first / together * VF_LANES;
    const size_t end = (first + vectors) / together * VF_LANES;
    for (size_t r = 0; r < rows; r++)
        for (size_t unit = begin; unit < end && unit < s->cell->sizes.H; unit += LINE_LANES)
            __builtin_prefetch((const real *)s->y[row + r] + unit, 1);
}

#define SCAN(CELL, G)                                                                                     \
    static void CELL##_finish(const void *context, size_t row, size_t rows, size_t first, size_t vectors, \
                              const real *totals)                                                         \
    {                                                                                                     \
        scan_totals(context, row, rows, first, vectors, totals, G, CELL##_scan);                          \
    }                                                                                                     \
    static void CELL##_rows(const fl_scan *s)                                                             \
    {                                                                                                     \
        size_t row = 0;                                                                                   \
        for (; SCAN_ROWS > 1 && row + SCAN_ROWS <= s->rows; row += SCAN_ROWS)                             \
            scan_rows(s, row, G, SCAN_ROWS, CELL##_scan);                                                 \
        for (; row < s->rows; row++) scan_rows(s, row, G, 1, CELL##_scan);                                \
    }
SCAN(indrnn, 1)
SCAN(mingru, 2)
SCAN(minlstm, 3)
#undef SCAN

static void scan(const fl_scan *s)
{
    static finish_totals *const finish[] = {indrnn_finish, mingru_finish, minlstm_finish};
    static void (*const run[])(const fl_scan *) = {indrnn_rows, mingru_rows, minlstm_rows};
    const size_t G = s->cell->sizes.gates;
    /* The IndRNN waits for its activation: rows that do so one for the other should not stand side by side. */
    const bool waits = G == 1 && s->apart < SCAN_ROWS;
    if (s->x_index || (s->I <= SCAN_INPUTS && !waits))
        run[G - 1](s);
    else
        walk_product(&s->panels, s->W, 1, s->I, s->rows, (const real *const *)s->x, s->totals, scan_prepare,
                     finish[G - 1], s);
}

#endif
