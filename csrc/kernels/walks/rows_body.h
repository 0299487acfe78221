/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells on whole rows, for those that tiles cannot end in: the recurrent product has a shape of its own (heads, a mask for
 * each gate, two products one after the other), or the cell needs a whole row (layer norm).  A step multiplies first,
 * all rows at once, into rows of pre-activations that stay near; then each row passes its cell.
 */
#ifndef FL_ROWS_BODY_H
#define FL_ROWS_BODY_H
#include "kernels/walks/cell_functions_body.h"
#include "kernels/walks/optimiser_body.h"
#include "kernels/walks/tiles_body.h"

/* ---- Whole rows of cells that are written for a vector of units ------------------------------------------- */

FL_INLINE void row_of_units(const fl_cell *cell, const unit_row *row, const real *x, const real *h, const size_t gates,
                            cell_unit *update)
{
    const size_t H = cell->sizes.H;
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        vf x_gates[FL_MAX_GATES] = {vf_set1(0)}, h_gates[FL_MAX_GATES] = {vf_set1(0)};
        FL_UNROLL_FOR (size_t gate = 0; gate < gates; gate++) {
            x_gates[gate] = load_lanes(x + gate * H + unit, lanes);
            h_gates[gate] = load_lanes(h + gate * H + unit, lanes);
        }
        update(cell, row, unit, lanes, x_gates, h_gates);
    }
}

FL_INLINE void early_row_of_units(const fl_cell *cell, const unit_row *row, const real *x, const real *h, real *reset_h,
                                  real *kept, const size_t gates, cell_early *early)
{
    const size_t H = cell->sizes.H;
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        vf x_gates[FL_MAX_GATES], h_gates[FL_MAX_GATES];
        FL_UNROLL_FOR (size_t gate = 0; gate < gates; gate++) {
            x_gates[gate] = load_lanes(x + gate * H + unit, lanes);
            h_gates[gate] = load_lanes(h + gate * H + unit, lanes);
        }
        early(cell, row, unit, lanes, x_gates, h_gates, reset_h, kept);
    }
}

FL_INLINE void late_row_of_units(const fl_cell *cell, const unit_row *row, const real *x, const real *h,
                                 const real *kept, cell_late *late)
{
    const size_t H = cell->sizes.H;
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        const size_t lanes = lanes_at(H, unit);
        late(cell, row, unit, lanes, load_lanes(x + unit, lanes), load_lanes(h + unit, lanes),
             load_lanes(kept + unit, lanes));
    }
}

#define ROW_OF_UNITS(CELL, GATES)                                                                          \
    static void CELL##_row_##GATES(const fl_cell *cell, const unit_row *row, const real *x, const real *h) \
    {                                                                                                      \
        row_of_units(cell, row, x, h, GATES, CELL##_unit);                                                 \
    }
#define EARLY_AND_LATE(CELL, GATES)                                                                      \
    static void CELL##_early_row(const fl_cell *cell, const unit_row *row, const real *x, const real *h, \
                                 real *reset_h, real *kept)                                              \
    {                                                                                                    \
        early_row_of_units(cell, row, x, h, reset_h, kept, GATES, CELL##_early);                         \
    }                                                                                                    \
    static void CELL##_late_row(const fl_cell *cell, const unit_row *row, const real *x, const real *h,  \
                                const real *kept)                                                        \
    {                                                                                                    \
        late_row_of_units(cell, row, x, h, kept, CELL##_late);                                           \
    }

/* ---- Products ----------------------------------------------------------------------------------------------- */

/* out[r] (+)= a[r] M for `rows` rows of gates*K elements and M (gates*K, N) in panels. */
FL_INLINE fl_row_product product_of(size_t N, const void *matrix, size_t gates, size_t K, size_t rows,
                                    const fl_row_scratch *scratch)
{
    const fl_row_product product = {.panels = fl_panels_of(N, VF_LANES),
                                    .matrix = matrix,
                                    .gates = gates,
                                    .H = K,
                                    .rows = rows,
                                    .a = scratch->a,
                                    .out = scratch->out,
                                    .totals = scratch->totals};
    return product;
}

static void project(const fl_projection *projection, size_t H, size_t P, size_t rows, const void *out, void *const *y,
                    const fl_row_scratch *scratch)
{
    fl_row_product product = product_of(P, projection->weight, 1, H, rows, scratch);
    for (size_t r = 0; r < rows; r++) scratch->a[r] = (const real *)out + r * H;
    product.bias = projection->bias;
    product.out = y;
    row_product(&product);
    if (projection->clip == 0.0)
        return;
    for (size_t r = 0; r < rows; r++) {
        real *row = y[r];
        for (size_t unit = 0; unit < P; unit += VF_LANES) {
            const size_t lanes = lanes_at(P, unit);
            store_lanes(row + unit, clip_to(load_lanes(row + unit, lanes), projection->clip), lanes);
        }
    }
}

/* h before a step, of the row at a position. */
static const real *h_before(const fl_steps *s, const step_view *at, size_t position)
{
    return at->h + fl_row_offset(&at->h_rows, row_at(s, position));
}

/* h under the mask of a gate, into scratch. */
static void mask_rows(const fl_steps *s, const step_view *at, size_t gate)
{
    const fl_row_work *w = s->on_rows;
    const size_t P = s->cell->sizes.P;
    const real *masks = (const real *)w->mask + (ptrdiff_t)gate * w->mask_stride_gate;
    for (size_t r = 0; r < s->B; r++)
        multiply_array(P, h_before(s, at, r), masks + row_at(s, r) * P, (real *)w->scratch.masked + r * P);
}

/* Recurrent parts of gates [begin, end) for all rows; from rows of `from` (B, H) if given, else from h before the step. */
static void recurrent_product(const fl_steps *s, const step_view *at, size_t begin, size_t end, const real *from)
{
    const fl_row_work *w = s->on_rows;
    const fl_row_scratch *scratch = &w->scratch;
    const fl_cell_sizes *sizes = &s->cell->sizes;
    const size_t H = sizes->H, P = sizes->P, heads = sizes->heads, K = fl_head_depth(sizes), N = fl_head_width(sizes);
    const size_t panels_size = fl_panels_of(N, VF_LANES).vectors * VF_LANES * K;
    for (size_t gate = begin; gate < end; gate++) {
        if (w->mask && (gate == begin || w->mask_stride_gate != 0))
            mask_rows(s, at, gate);
        for (size_t head = 0; head < heads; head++) {
            for (size_t r = 0; r < s->B; r++) {
                const real *h = from      ? from + r * H
                                : w->mask ? (const real *)scratch->masked + r * P
                                          : h_before(s, at, r);
                scratch->a[r] = h + head * K;
                scratch->out[r] = (real *)scratch->states + (r * sizes->gates + gate) * H + head * N;
            }
            fl_row_product product =
                product_of(N, (const weight *)s->R + (gate * heads + head) * panels_size, 1, K, s->B, scratch);
            product.bias = s->bias_h ? (const real *)s->bias_h + gate * H + head * N : NULL;
            row_product(&product);
        }
    }
}

/* ---- Steps -------------------------------------------------------------------------------------------------- */

static unit_row row_of(const fl_steps *s, const step_view *at, size_t r)
{
    const fl_row_work *w = s->on_rows;
    unit_row row = tile_row(s, at, r, true);
    if (w->projection.weight)
        row.h = (real *)w->scratch.hidden + r * s->cell->sizes.H;
    return row;
}

static void copy_row(real *to, const real *from, size_t n)
{
    for (size_t unit = 0; unit < n; unit += VF_LANES) {
        const size_t lanes = lanes_at(n, unit);
        store_lanes(to + unit, load_lanes(from + unit, lanes), lanes);
    }
}

/* All gates, then each row's cell. */
static void step_of_rows(const fl_steps *s, const step_view *at, cell_row *update)
{
    const size_t width = s->cell->sizes.gates * s->cell->sizes.H;
    recurrent_product(s, at, 0, s->cell->sizes.gates, NULL);
    for (size_t r = 0; r < s->B; r++) {
        const unit_row row = row_of(s, at, r);
        update(s->cell, &row, at->pre + (ptrdiff_t)r * s->pre_stride_row,
               (const real *)s->on_rows->scratch.states + r * width);
    }
}

/* Early gates of all rows, then the last gate from r h.  What the early ones keep stands in the place of their last one. */
static void step_with_early_gates(const fl_steps *s, const step_view *at, const cell_functions *cell)
{
    const size_t H = s->cell->sizes.H, gates = s->cell->sizes.gates, early = s->cell->sizes.early_gates;
    real *reset_h = s->on_rows->scratch.hidden, *states = s->on_rows->scratch.states;
    recurrent_product(s, at, 0, early, NULL);
    for (size_t r = 0; r < s->B; r++) {
        const unit_row row = row_of(s, at, r);
        real *h = states + r * gates * H;
        cell->early(s->cell, &row, at->pre + (ptrdiff_t)r * s->pre_stride_row, h, reset_h + r * H, h + (early - 1) * H);
    }
    recurrent_product(s, at, early, gates, reset_h);
    for (size_t r = 0; r < s->B; r++) {
        const unit_row row = row_of(s, at, r);
        const real *h = states + r * gates * H;
        cell->late(s->cell, &row, at->pre + (ptrdiff_t)r * s->pre_stride_row + early * H, h + early * H,
                   h + (early - 1) * H);
    }
}

/* What a recorded pass keeps beside what the cell saved itself. */
static void save_rows(const fl_steps *s, const step_view *at)
{
    const fl_row_work *w = s->on_rows;
    const size_t H = s->cell->sizes.H;
    for (size_t r = 0; r < s->B; r++) {
        const size_t b = row_at(s, r);
        if (at->saved_c)
            copy_row(at->saved_c + fl_row_offset(&s->saved_c_rows, b),
                     (const real *)s->c + (ptrdiff_t)b * s->c_stride_b, w->saved_states);
        if (at->saved_gates && w->projection.weight)
            copy_row(at->saved_gates + fl_row_offset(&s->saved_gates_rows, b) + s->cell->sizes.saved - H,
                     (const real *)w->scratch.hidden + r * H, H);
    }
}

static void row_steps(const fl_steps *s)
{
    const fl_row_work *w = s->on_rows;
    const cell_functions *cell = functions_of(s->cell);
    step_view at = first_step(s);
    for (size_t t = 0; t < s->T; t++, next_step(s, &at)) {
        if (cell->early)
            step_with_early_gates(s, &at, cell);
        else
            step_of_rows(s, &at, cell->row);
        save_rows(s, &at);
        if (!w->projection.weight)
            continue;
        for (size_t r = 0; r < s->B; r++) w->scratch.out[r] = at.y + fl_row_offset(&s->y_rows, row_at(s, r));
        project(&w->projection, s->cell->sizes.H, s->cell->sizes.P, s->B, w->scratch.hidden, w->scratch.out,
                &w->scratch);
    }
}

#endif
