/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Backpropagation through time for cells on whole rows, or with a projection: for each step the gradient of h, through the
 * projection if there is one, then each row's cell, then the product that carries it to the step before.
 */
#ifndef FL_ROWS_BACK_BODY_H
#define FL_ROWS_BACK_BODY_H

typedef void cell_back_row(const fl_cell *cell, const unit_back_row *row, const real *dh, real *scratch);

#define CELL_BACK_ROW(CELL)                                                                                   \
    static void CELL##_back_row(const fl_cell *cell, const unit_back_row *row, const real *dh, real *scratch) \
    {                                                                                                         \
        const size_t H = cell->sizes.H;                                                                       \
        for (size_t unit = 0; unit < H; unit += VF_LANES) {                                                   \
            const size_t lanes = H - unit < VF_LANES ? H - unit : VF_LANES;                                   \
            CELL##_unit_back(cell, row, unit, lanes, load_lanes(dh + unit, lanes));                           \
        }                                                                                                     \
        (void)scratch;                                                                                        \
    }
CELL_BACK_ROW(lstm)
CELL_BACK_ROW(gru_before)
CELL_BACK_ROW(indrnn)
CELL_BACK_ROW(slstm)
CELL_BACK_ROW(mingru)
CELL_BACK_ROW(minlstm)
#undef CELL_BACK_ROW

static cell_back_row *cell_back_row_of(const fl_cell *cell)
{
    switch (cell->options.kind) {
    case FL_CELL_GRU: return gru_before_back_row;
    case FL_CELL_INDRNN: return indrnn_back_row;
    case FL_CELL_SLSTM: return slstm_back_row;
    case FL_CELL_MINGRU: return mingru_back_row;
    case FL_CELL_MINLSTM: return minlstm_back_row;
    default: return cell->options.layer_norm != FL_LAYER_NORM_NONE ? lstm_norm_row_back : lstm_back_row;
    }
}

/* Places for the rows of one step. */
typedef struct back_rows {
    const void **a;
    void **out;
    void *totals;
    real *dh;      /* (rows, H): of the cell's output */
    real *bypass;  /* (rows, H): what goes round the recurrent product */
    real *carried; /* (rows, P): parts of the product */
    real *reset;   /* (rows, H): gradient of r h */
    real *norm;
} back_rows;

static back_rows back_rows_of(const fl_cell_back_steps *s)
{
    const size_t H = s->cell->sizes.H, G = s->cell->sizes.gates, P = s->cell->sizes.P;
    const fl_row_scratch scratch = fl_row_scratch_of(s->scratch, H, G, s->rows, VF_LANES, sizeof(real));
    back_rows rows = {.a = scratch.a, .out = scratch.out, .totals = scratch.totals};
    rows.reset = scratch.states;
    rows.dh = scratch.hidden;
    rows.bypass = rows.dh + s->rows * H;
    rows.carried = rows.bypass + s->rows * H;
    rows.norm = rows.carried + s->rows * P;
    return rows;
}

/* a[r] = a part of the row of gradients, of one step. */
static void point_at_gradients(const fl_cell_back_steps *s, size_t m, size_t offset, const back_rows *rows)
{
    for (size_t r = 0; r < s->rows; r++) rows->a[r] = (const real *)s->dgates[m + r] + offset;
}

/* Gradient of h after the step: what is carried, and dy; then through the projection to that of the cell's output. */
static void gather_dh(const fl_cell_back_steps *s, size_t m, const back_rows *rows)
{
    const size_t H = s->cell->sizes.H, P = s->cell->sizes.P;
    const double clip = s->cell->options.proj_clip;
    for (size_t r = 0; r < s->rows; r++) {
        const real *carried = (const real *)s->dh + s->b[r] * P, *dy = s->dy[m + r], *y = s->y[m + r];
        real *to = s->weight_hr ? (real *)s->dgates[m + r] + s->proj_offset : rows->dh + r * H;
        for (size_t unit = 0; unit < P; unit += VF_LANES) {
            const size_t lanes = P - unit < VF_LANES ? P - unit : VF_LANES;
            vf dh = load_lanes(carried + unit, lanes);
            if (dy)
                dh = vf_add(dh, load_lanes(dy + unit, lanes));
            if (clip != 0.0) {
                const vf h = load_lanes(y + unit, lanes);
                const vf slope = vf_select_lt(vf_abs(h), vf_set1((real)clip), vf_set1(1), vf_set1(0));
                dh = vf_mul(dh, vf_add(slope, zero_or_nan(h)));
            }
            store_lanes(to + unit, dh, lanes);
        }
        rows->out[r] = rows->dh + r * H;
    }
    if (!s->weight_hr)
        return;
    point_at_gradients(s, m, s->proj_offset, rows);
    multiply_rows(H, s->weight_hr, NULL, 1, P, s->rows, rows->a, rows->out, false, rows->totals);
}

static unit_back_row back_row_of(const fl_cell_back_steps *s, size_t m, size_t r, const back_rows *rows)
{
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, row = m + r;
    real *dgates = s->dgates[row];
    const unit_back_row at = {.saved = s->saved[row],
                              .h_before = s->h_before[row],
                              .c_before = s->c_before[row],
                              .c = s->c[row],
                              .zoned_c = s->zoned_c[row],
                              .zoned_h = s->zoned_h[row],
                              .dc_given = s->dcells[row],
                              .dc = s->dc ? (real *)s->dc + s->b[r] * sizes->states * H : NULL,
                              .dh_before = sizes->bypasses ? rows->bypass + r * H : NULL,
                              .dx = dgates,
                              .dh = dgates + s->dh_offset,
                              .extras = sizes->extras != 0 ? dgates + s->extras_offset : NULL};
    return at;
}

/* dh = sum over gates of mask * (dgates R). */
static void carry_masked(const fl_cell_back_steps *s, size_t m, const back_rows *rows)
{
    const size_t H = s->cell->sizes.H, P = s->cell->sizes.P, G = s->cell->sizes.gates;
    const size_t panels_size = fl_panels_of(P, VF_LANES).vectors * VF_LANES * H;
    for (size_t gate = 0; gate < G; gate++) {
        point_at_gradients(s, m, s->dh_offset + gate * H, rows);
        for (size_t r = 0; r < s->rows; r++) rows->out[r] = rows->carried + r * P;
        multiply_rows(P, (const real *)s->R + gate * panels_size, NULL, 1, H, s->rows, rows->a, rows->out, false,
                      rows->totals);
        for (size_t r = 0; r < s->rows; r++) {
            const real *mask = (const real *)s->mask + (ptrdiff_t)gate * s->mask_stride_gate + s->b[r] * P;
            real *dh = (real *)s->dh + s->b[r] * P;
            for (size_t unit = 0; unit < P; unit += VF_LANES) {
                const size_t lanes = P - unit < VF_LANES ? P - unit : VF_LANES;
                const vf sum = gate != 0 ? load_lanes(dh + unit, lanes) : vf_set1(0);
                store_lanes(
                    dh + unit,
                    vf_fma(load_lanes(mask + unit, lanes), load_lanes(rows->carried + r * P + unit, lanes), sum),
                    lanes);
            }
        }
    }
}

/* dh = dgates R, by gate and head. */
static void carry_by_gates(const fl_cell_back_steps *s, size_t m, const back_rows *rows)
{
    const size_t H = s->cell->sizes.H, P = s->cell->sizes.P, G = s->cell->sizes.gates;
    const size_t heads = s->cell->options.kind == FL_CELL_SLSTM ? H / s->K : 1, N = heads > 1 ? s->K : P;
    const size_t K = heads > 1 ? s->K : H, panels_size = fl_panels_of(N, VF_LANES).vectors * VF_LANES * K;
    /* With the reset gate before the product, n's part has come back through r already. */
    const size_t gates = s->cell->options.reset_before ? 2 : G;
    for (size_t gate = 0; gate < gates; gate++) {
        for (size_t head = 0; head < heads; head++) {
            point_at_gradients(s, m, s->dh_offset + gate * H + head * K, rows);
            for (size_t r = 0; r < s->rows; r++) rows->out[r] = (real *)s->dh + s->b[r] * P + head * N;
            multiply_rows(N, (const real *)s->R + (gate * heads + head) * panels_size, NULL, 1, K, s->rows, rows->a,
                          rows->out, gate != 0, rows->totals);
        }
    }
}

/* r's gradient, once that of r h is known: dn U_n. */
static void back_through_reset(const fl_cell_back_steps *s, size_t m, const back_rows *rows)
{
    const size_t H = s->cell->sizes.H, panels_size = fl_panels_of(H, VF_LANES).vectors * VF_LANES * H;
    point_at_gradients(s, m, 2 * H, rows);
    for (size_t r = 0; r < s->rows; r++) rows->out[r] = rows->reset + r * H;
    multiply_rows(H, (const real *)s->R + 2 * panels_size, NULL, 1, H, s->rows, rows->a, rows->out, false,
                  rows->totals);
    for (size_t r = 0; r < s->rows; r++) {
        const unit_back_row row = back_row_of(s, m, r, rows);
        for (size_t unit = 0; unit < H; unit += VF_LANES) {
            const size_t lanes = H - unit < VF_LANES ? H - unit : VF_LANES;
            gru_before_gates_back(s->cell, &row, unit, lanes, load_lanes(rows->reset + r * H + unit, lanes));
        }
    }
}

static void carry(const fl_cell_back_steps *s, size_t m, const back_rows *rows)
{
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t P = sizes->P;
    if (!sizes->recurs) {
        for (size_t r = 0; r < s->rows; r++) copy_row((real *)s->dh + s->b[r] * P, rows->bypass + r * P, P);
        return;
    }
    if (s->mask) {
        carry_masked(s, m, rows);
    } else if (s->on_rows) {
        carry_by_gates(s, m, rows);
    } else {
        point_at_gradients(s, m, s->dh_offset, rows);
        for (size_t r = 0; r < s->rows; r++) rows->out[r] = (real *)s->dh + s->b[r] * P;
        multiply_rows(P, s->R, NULL, sizes->gates, sizes->H, s->rows, rows->a, rows->out, false, rows->totals);
    }
    for (size_t r = 0; r < s->rows && sizes->bypasses; r++) {
        real *dh = (real *)s->dh + s->b[r] * P;
        for (size_t unit = 0; unit < P; unit += VF_LANES) {
            const size_t lanes = P - unit < VF_LANES ? P - unit : VF_LANES;
            store_lanes(dh + unit, vf_add(load_lanes(dh + unit, lanes), load_lanes(rows->bypass + r * P + unit, lanes)),
                        lanes);
        }
    }
}

static void row_back_steps(const fl_cell_back_steps *s)
{
    const back_rows rows = back_rows_of(s);
    const size_t H = s->cell->sizes.H;
    cell_back_row *run = cell_back_row_of(s->cell);
    for (size_t step = 0, m = 0; step < s->steps; step++, m += s->rows) {
        gather_dh(s, m, &rows);
        for (size_t r = 0; r < s->rows; r++) {
            const unit_back_row row = back_row_of(s, m, r, &rows);
            run(s->cell, &row, rows.dh + r * H, rows.norm);
        }
        if (s->cell->options.reset_before)
            back_through_reset(s, m, &rows);
        carry(s, m, &rows);
    }
}

#endif
