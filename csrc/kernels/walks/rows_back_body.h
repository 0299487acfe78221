/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Backpropagation through time for cells on whole rows, without a recurrent product, or with a projection: for each step
 * the gradient of h, through the projection if there is one, then each row's cell, then the product that carries it to the
 * step before.
 */
#ifndef FL_ROWS_BACK_BODY_H
#define FL_ROWS_BACK_BODY_H
#include "kernels/walks/rows_body.h"
#include "kernels/walks/scan_body.h"

/* ---- Whole rows of cells that are written for a vector of units ------------------------------------------- */

FL_INLINE void row_back_of_units(const fl_cell *cell, const unit_back_row *row, const real *dh, cell_unit_back *update)
{
    const size_t H = cell->sizes.H;
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        update(cell, row, unit, lanes, load_lanes(dh + unit, lanes));
    }
}

#define ROW_BACK_OF_UNITS(CELL)                                                                               \
    static void CELL##_row_back(const fl_cell *cell, const unit_back_row *row, const real *dh, real *scratch) \
    {                                                                                                         \
        row_back_of_units(cell, row, dh, CELL##_unit_back);                                                   \
        (void)scratch;                                                                                        \
    }
#define EARLY_ROW_BACK(CELL)                                                                                \
    static void CELL##_early_row_back(const fl_cell *cell, const unit_back_row *row, const real *d_reset_h) \
    {                                                                                                       \
        row_back_of_units(cell, row, d_reset_h, CELL##_early_unit_back);                                    \
    }

/* ---- Gradients of h ----------------------------------------------------------------------------------------- */

/* a[r] = a part of the row of gradients, of one step. */
static void point_at_gradients(const fl_back_steps *s, size_t m, size_t part)
{
    for (size_t r = 0; r < s->rows; r++) s->scratch.a[r] = (const real *)s->dgates[m + r] + part;
}

/* out[r] = an element of rows that lie `stride` apart, by position or by batch row. */
static void point_out(const fl_back_steps *s, real *base, size_t stride, bool by_b)
{
    for (size_t r = 0; r < s->rows; r++) s->scratch.out[r] = base + (by_b ? s->b[r] : r) * stride;
}

/* Gradient of h after the step: what is carried, and dy; then through the projection to that of the cell's output. */
static void gather_dh(const fl_back_steps *s, size_t m)
{
    const size_t H = s->cell->sizes.H, P = s->cell->sizes.P;
    const double clip = s->cell->options.proj_clip;
    for (size_t r = 0; r < s->rows; r++) {
        const real *carried = (const real *)s->dh + s->b[r] * P, *dy = s->dy[m + r];
        real *to = s->weight_hr ? (real *)s->dgates[m + r] + s->projected_part : (real *)s->scratch.hidden + r * H;
        for (size_t unit = 0; unit < P; unit += VF_LANES) {
            const size_t lanes = lanes_at(P, unit);
            vf dh = load_lanes(carried + unit, lanes);
            if (dy)
                dh = vf_add(dh, load_lanes(dy + unit, lanes));
            if (clip != 0.0) {
                const vf h = load_lanes((const real *)s->y[m + r] + unit, lanes);
                const vf slope = vf_select_lt(vf_abs(h), vf_set1((real)clip), vf_set1(1), vf_set1(0));
                dh = vf_mul(dh, vf_add(slope, zero_or_nan(h)));
            }
            store_lanes(to + unit, dh, lanes);
        }
    }
    if (!s->weight_hr)
        return;
    point_at_gradients(s, m, s->projected_part);
    point_out(s, s->scratch.hidden, H, false);
    const fl_row_product product = product_of(H, s->weight_hr, 1, P, s->rows, &s->scratch);
    row_product(&product);
}

FL_INLINE unit_back_row back_row_of(const fl_back_steps *s, size_t m, size_t r)
{
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, row = m + r;
    real *dgates = s->dgates[row];
    const unit_back_row at = {.saved = s->saved[row],
                              .h_before = s->h_before[row],
                              .c_before = s->c_before[row],
                              .c = s->c[row],
                              .zoned_c = s->zoned_c ? s->zoned_c[row] : NULL,
                              .zoned_h = s->zoned_h ? s->zoned_h[row] : NULL,
                              .dc_given = s->dcells ? s->dcells[row] : NULL,
                              .dc = s->dc ? (real *)s->dc + s->b[r] * sizes->states * H : NULL,
                              .dh_before = sizes->bypasses ? (real *)s->scratch.bypass + r * H : NULL,
                              .dx = dgates,
                              .dh = dgates + s->state_part,
                              .extras = dgates + s->extras_part};
    return at;
}

/* ---- To the step before ------------------------------------------------------------------------------------- */

/* dh = sum over gates of mask * (dgates R). */
static void carry_masked(const fl_back_steps *s, size_t m)
{
    const size_t H = s->cell->sizes.H, P = s->cell->sizes.P;
    const size_t panels_size = fl_panels_of(P, VF_LANES).vectors * VF_LANES * H;
    for (size_t gate = 0; gate < s->cell->sizes.gates; gate++) {
        point_at_gradients(s, m, s->state_part + gate * H);
        point_out(s, s->scratch.carried, P, false);
        const fl_row_product product =
            product_of(P, (const weight *)s->R + gate * panels_size, 1, H, s->rows, &s->scratch);
        row_product(&product);
        for (size_t r = 0; r < s->rows; r++) {
            const real *mask = (const real *)s->mask + (ptrdiff_t)gate * s->mask_stride_gate + s->b[r] * P;
            const real *carried = (const real *)s->scratch.carried + r * P;
            real *dh = (real *)s->dh + s->b[r] * P;
            for (size_t unit = 0; unit < P; unit += VF_LANES) {
                const size_t lanes = lanes_at(P, unit);
                const vf sum = gate != 0 ? load_lanes(dh + unit, lanes) : vf_set1(0);
                store_lanes(dh + unit, vf_fma(load_lanes(mask + unit, lanes), load_lanes(carried + unit, lanes), sum),
                            lanes);
            }
        }
    }
}

/* dh = dgates R, by gate and head; with early gates, the last one's part has come back through r h already. */
static void carry_by_gates(const fl_back_steps *s, size_t m)
{
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, P = sizes->P, heads = sizes->heads, N = fl_head_depth(sizes), K = fl_head_width(sizes);
    const size_t gates = sizes->early_gates != 0 ? sizes->early_gates : sizes->gates;
    const size_t panels_size = fl_panels_of(N, VF_LANES).vectors * VF_LANES * K;
    for (size_t gate = 0; gate < gates; gate++) {
        for (size_t head = 0; head < heads; head++) {
            point_at_gradients(s, m, s->state_part + gate * H + head * K);
            point_out(s, (real *)s->dh + head * N, P, true);
            fl_row_product product =
                product_of(N, (const weight *)s->R + (gate * heads + head) * panels_size, 1, K, s->rows, &s->scratch);
            product.adds = gate != 0;
            row_product(&product);
        }
    }
}

/* Early gates, once the gradient of r h is known: that of the last gate times its matrix. */
static void back_to_early_gates(const fl_back_steps *s, size_t m, early_row_back *early)
{
    const size_t H = s->cell->sizes.H, last = s->cell->sizes.gates - 1;
    const size_t panels_size = fl_panels_of(H, VF_LANES).vectors * VF_LANES * H;
    real *d_reset_h = s->scratch.states;
    point_at_gradients(s, m, last * H);
    point_out(s, d_reset_h, H, false);
    const fl_row_product product = product_of(H, (const weight *)s->R + last * panels_size, 1, H, s->rows, &s->scratch);
    row_product(&product);
    for (size_t r = 0; r < s->rows; r++) {
        const unit_back_row row = back_row_of(s, m, r);
        early(s->cell, &row, d_reset_h + r * H);
    }
}

static void carry(const fl_back_steps *s, size_t m)
{
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t P = sizes->P;
    if (!sizes->recurs) {
        for (size_t r = 0; r < s->rows; r++)
            copy_row((real *)s->dh + s->b[r] * P, (const real *)s->scratch.bypass + r * P, P);
        return;
    }
    if (s->mask) {
        carry_masked(s, m);
    } else if (sizes->path == FL_PATH_ROWS) {
        carry_by_gates(s, m);
    } else {
        point_at_gradients(s, m, s->state_part);
        point_out(s, s->dh, P, true);
        const fl_row_product product = product_of(P, s->R, sizes->gates, sizes->H, s->rows, &s->scratch);
        row_product(&product);
    }
    for (size_t r = 0; r < s->rows && sizes->bypasses; r++)
        add_array(P, (const real *)s->scratch.bypass + r * P, (real *)s->dh + s->b[r] * P);
}

static void row_back_steps(const fl_back_steps *s)
{
    const size_t H = s->cell->sizes.H;
    const cell_functions *cell = functions_of(s->cell);
    for (size_t step = 0, m = 0; step < s->steps; step++, m += s->rows) {
        gather_dh(s, m);
        for (size_t r = 0; r < s->rows; r++) {
            const unit_back_row row = back_row_of(s, m, r);
            cell->row_back(s->cell, &row, (const real *)s->scratch.hidden + r * H, s->scratch.norm);
        }
        if (cell->early_back)
            back_to_early_gates(s, m, cell->early_back);
        carry(s, m);
    }
}

#endif
