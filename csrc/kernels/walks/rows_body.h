/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells on whole rows, for those that tiles cannot end in: the recurrent product has a shape of its own (heads, a mask for
 * each gate, two products one after the other), or the cell needs a whole row (layer norm).  A step multiplies first,
 * all rows at once, into rows of pre-activations that stay near; then each row passes its cell.
 */
#ifndef FL_ROWS_BODY_H
#define FL_ROWS_BODY_H

/* A whole row of a cell, vector after vector: `x` and `h` hold G*H pre-activations. */
typedef void cell_row(const fl_cell *cell, const unit_row *row, const real *x, const real *h);

#define CELL_ROW(CELL, GATES)                                                                                 \
    static void CELL##_row_of_##GATES(const fl_cell *cell, const unit_row *row, const real *x, const real *h) \
    {                                                                                                         \
        const size_t H = cell->sizes.H;                                                                       \
        for (size_t unit = 0; unit < H; unit += VF_LANES) {                                                   \
            const size_t lanes = H - unit < VF_LANES ? H - unit : VF_LANES;                                   \
            vf x_gates[FL_MAX_GATES] = {vf_set1(0)}, h_gates[FL_MAX_GATES] = {vf_set1(0)};                    \
            FL_UNROLL_FOR (size_t gate = 0; gate < (GATES); gate++) {                                         \
                x_gates[gate] = load_lanes(x + gate * H + unit, lanes);                                       \
                h_gates[gate] = load_lanes(h + gate * H + unit, lanes);                                       \
            }                                                                                                 \
            CELL##_unit(cell, row, unit, lanes, x_gates, h_gates);                                            \
        }                                                                                                     \
    }
CELL_ROW(lstm, 4)
CELL_ROW(lstm, 3)
CELL_ROW(slstm, 4)
#undef CELL_ROW

static cell_row *cell_row_of(const fl_cell *cell)
{
    if (cell->options.kind == FL_CELL_SLSTM)
        return slstm_row_of_4;
    if (cell->options.layer_norm != FL_LAYER_NORM_NONE)
        return lstm_norm_row;
    return cell->sizes.gates == 4 ? lstm_row_of_4 : lstm_row_of_3;
}

/* ---- Products -------------------------------------------------------------------------------------------- */

/* out[r] (+)= a[r] M for rows of gates*K elements and M (gates*K, N) in panels; plus a bias, if given. */
static void multiply_rows(size_t N, const void *matrix, const void *bias, size_t gates, size_t K, size_t rows,
                          const void *const *a, void *const *out, bool adds, void *totals)
{
    const fl_row_product product = {.panels = fl_panels_of(N, VF_LANES),
                                    .matrix = matrix,
                                    .bias = bias,
                                    .gates = gates,
                                    .H = K,
                                    .rows = rows,
                                    .a = a,
                                    .out = out,
                                    .adds = adds,
                                    .totals = totals};
    row_product(&product);
}

static void project(const fl_projection *projection, size_t H, size_t P, size_t rows, const void *out, void *const *y,
                    void *memory)
{
    const fl_row_scratch scratch = fl_row_scratch_of(memory, H, 0, rows, VF_LANES, sizeof(real));
    for (size_t r = 0; r < rows; r++) scratch.a[r] = (const real *)out + r * H;
    multiply_rows(P, projection->weight, projection->bias, 1, H, rows, scratch.a, y, false, scratch.totals);
    if (projection->clip == 0.0)
        return;
    for (size_t r = 0; r < rows; r++) {
        real *row = y[r];
        for (size_t unit = 0; unit < P; unit += VF_LANES) {
            const size_t lanes = P - unit < VF_LANES ? P - unit : VF_LANES;
            store_lanes(row + unit, clip_to(load_lanes(row + unit, lanes), projection->clip), lanes);
        }
    }
}

/* One step's rows: where h comes from and goes to. */
typedef struct row_view {
    const real *h;
    ptrdiff_t h_stride_b;
    const ptrdiff_t *h_at;
    real *y;
} row_view;

static const real *h_before(const fl_row_steps *s, const row_view *at, size_t position)
{
    const size_t b = s->rows ? s->rows[position] : position;
    return at->h + place_of(at->h_at, b) * at->h_stride_b;
}

/* Recurrent parts of gates [begin, end) for all rows; `from` by position if given, else h before the step. */
static void recurrent_product(const fl_row_steps *s, const row_view *at, const fl_row_scratch *scratch, size_t begin,
                              size_t end, const real *from)
{
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, P = sizes->P, heads = s->cell->options.kind == FL_CELL_SLSTM ? H / s->K : 1;
    const size_t N = heads == 1 ? H : s->K, panels_size = fl_panels_of(N, VF_LANES).vectors * VF_LANES * s->K;
    for (size_t gate = begin; gate < end; gate++) {
        for (size_t head = 0; head < heads; head++) {
            for (size_t r = 0; r < s->B; r++) {
                const size_t b = s->rows ? s->rows[r] : r;
                const real *h = from ? from + r * H : h_before(s, at, r);
                if (s->mask && head == 0 && (gate == begin || s->mask_stride_gate != 0)) {
                    const real *mask = (const real *)s->mask + (ptrdiff_t)gate * s->mask_stride_gate + b * P;
                    real *masked = (real *)scratch->masked + r * P;
                    for (size_t unit = 0; unit < P; unit += VF_LANES) {
                        const size_t lanes = P - unit < VF_LANES ? P - unit : VF_LANES;
                        store_lanes(masked + unit, vf_mul(load_lanes(h + unit, lanes), load_lanes(mask + unit, lanes)),
                                    lanes);
                    }
                }
                scratch->a[r] = (s->mask ? (const real *)scratch->masked + r * P : h) + head * s->K;
                scratch->out[r] = (real *)scratch->states + (r * sizes->gates + gate) * H + head * N;
            }
            const real *bias = s->bias_h ? (const real *)s->bias_h + gate * H + head * N : NULL;
            multiply_rows(N, (const real *)s->R + (gate * heads + head) * panels_size, bias, 1, s->K, s->B, scratch->a,
                          scratch->out, false, scratch->totals);
        }
    }
}

/* ---- Steps ------------------------------------------------------------------------------------------------ */

static unit_row row_of(const fl_row_steps *s, const row_view *at, const fl_row_scratch *scratch, size_t t, size_t r)
{
    const size_t b = s->rows ? s->rows[r] : r, H = s->cell->sizes.H;
    unit_row row = {.h_before = h_before(s, at, r)};
    row.c = s->c ? (real *)s->c + (ptrdiff_t)b * s->c_stride_b : NULL;
    row.h = s->projection.weight ? (real *)scratch->hidden + r * H : at->y + place_of(s->y_at, b) * s->y_stride_b;
    row.zoned_c = s->zoned_c ? (const real *)s->zoned_c + r * H : NULL;
    row.zoned_h = s->zoned_h ? (const real *)s->zoned_h + r * H : NULL;
    row.saved = s->saved_gates ? (real *)s->saved_gates + (ptrdiff_t)t * s->saved_gates_stride_t +
                                     place_of(s->saved_at, b) * s->saved_gates_stride_b
                               : NULL;
    return row;
}

static void copy_row(real *to, const real *from, size_t n)
{
    for (size_t unit = 0; unit < n; unit += VF_LANES) {
        const size_t lanes = n - unit < VF_LANES ? n - unit : VF_LANES;
        store_lanes(to + unit, load_lanes(from + unit, lanes), lanes);
    }
}

/* r and z of all rows, then n from r h. */
static void gru_before_rows(const fl_row_steps *s, const row_view *at, const fl_row_scratch *scratch, const real *pre,
                            size_t t)
{
    const size_t H = s->cell->sizes.H;
    real *reset_h = scratch->hidden;
    recurrent_product(s, at, scratch, 0, 2, NULL);
    for (size_t phase = 0; phase < 2; phase++) {
        for (size_t r = 0; r < s->B; r++) {
            const unit_row row = row_of(s, at, scratch, t, r);
            const real *x = pre + (ptrdiff_t)r * s->pre_stride_row, *h = (const real *)scratch->states + 3 * r * H;
            for (size_t unit = 0; unit < H; unit += VF_LANES) {
                const size_t lanes = H - unit < VF_LANES ? H - unit : VF_LANES;
                const vf x_gates[2] = {load_lanes(x + unit, lanes), load_lanes(x + H + unit, lanes)};
                if (phase == 0) {
                    const vf h_gates[2] = {load_lanes(h + unit, lanes), load_lanes(h + H + unit, lanes)};
                    gru_before_gates(s->cell, &row, unit, lanes, x_gates, h_gates, reset_h + r * H,
                                     (real *)scratch->states + 3 * r * H + H);
                } else {
                    gru_before_unit(s->cell, &row, unit, lanes, load_lanes(x + 2 * H + unit, lanes),
                                    load_lanes(h + 2 * H + unit, lanes), load_lanes(h + H + unit, lanes));
                }
            }
        }
        if (phase == 0)
            recurrent_product(s, at, scratch, 2, 3, reset_h);
    }
}

static void row_steps(const fl_row_steps *s)
{
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, P = sizes->P;
    const fl_row_scratch scratch = fl_row_scratch_of(s->scratch, H, sizes->gates, s->B, VF_LANES, sizeof(real));
    cell_row *run = cell_row_of(s->cell);
    row_view at = {s->h, s->h_stride_b, s->h_at, s->y};
    for (size_t t = 0; t < s->T; t++) {
        const real *pre = (const real *)s->pre + (ptrdiff_t)t * s->pre_stride_t;
        if (s->cell->options.kind == FL_CELL_GRU && s->cell->options.reset_before) {
            gru_before_rows(s, &at, &scratch, pre, t);
        } else {
            recurrent_product(s, &at, &scratch, 0, sizes->gates, NULL);
            for (size_t r = 0; r < s->B; r++) {
                const unit_row row = row_of(s, &at, &scratch, t, r);
                run(s->cell, &row, pre + (ptrdiff_t)r * s->pre_stride_row,
                    (const real *)scratch.states + r * sizes->gates * H);
            }
        }
        for (size_t r = 0; r < s->B; r++) {
            const size_t b = s->rows ? s->rows[r] : r;
            scratch.out[r] = at.y + place_of(s->y_at, b) * s->y_stride_b;
            if (s->saved_c)
                copy_row((real *)s->saved_c + (ptrdiff_t)t * s->saved_c_stride_t +
                             place_of(s->saved_at, b) * s->saved_c_stride_b,
                         (const real *)s->c + (ptrdiff_t)b * s->c_stride_b, s->saved_states);
            if (s->saved_gates && s->projection.weight)
                copy_row((real *)s->saved_gates + (ptrdiff_t)t * s->saved_gates_stride_t +
                             place_of(s->saved_at, b) * s->saved_gates_stride_b + sizes->saved - H,
                         (const real *)scratch.hidden + r * H, H);
        }
        if (s->projection.weight)
            project(&s->projection, H, P, s->B, scratch.hidden, scratch.out, s->scratch);
        at.h = at.y;
        at.h_stride_b = s->y_stride_b;
        at.h_at = s->y_at;
        at.y += s->y_stride_t;
    }
}

#endif
