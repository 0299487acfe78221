/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a cell meets the data of one batch row in one time step: what a file of this folder supplies, and what it is given.
 * Pointers are at the first unit; each is null where the cell or the call has no such thing.
 */
#ifndef FL_CELL_CONTRACT_H
#define FL_CELL_CONTRACT_H
#include "model/cell.h"
#include "kernels/simd/activations_body.h"
#include "kernels/simd/lanes_body.h"
#include "kernels/simd/vecmath_body.h"

typedef struct unit_row {
    const real *h_before;
    real *c;                       /* states beside h, H elements each: updated in place */
    real *h;                       /* output, before projection */
    const real *zoned_c, *zoned_h; /* masks in a pass that draws: 1 keeps the old value, 0 takes the new one */
    real *saved;                   /* for the backward pass */
    real *saved_c;                 /* where a cell keeps c itself; where it does not, the walk does */
} unit_row;

typedef struct unit_back_row {
    const real *saved;
    const real *h_before;
    const real *c_before, *c; /* states beside h, H elements each, before and after */
    const real *zoned_c, *zoned_h;
    const real *dc_given; /* gradient of c from outside */
    real *dc;             /* (states*H): gradient of the states after the step; becomes that before it */
    real *dh_before;      /* output (H): gradient of h_before, but for that through the recurrent product */
    real *dx, *dh;        /* outputs (G*H): gradients of the pre-activations; the same row unless the cell is split */
    real *extras;         /* outputs: fl_gradient_row.extras */
} unit_back_row;

/* One vector of `lanes` units at `unit`, from pre-activations, a vector a gate; h null: the sum of both parts is in x. */
typedef void cell_unit(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x, const vf *h);
/* Its gradients, from that of the cell's output. */
typedef void cell_unit_back(const fl_cell *cell, const unit_back_row *row, size_t unit, size_t lanes, vf dh);
/* The same of whole rows: x and h hold G*H pre-activations, dh is a row of H; `scratch` is FL_NORM_SCRATCH rows of H. */
typedef void cell_row(const fl_cell *cell, const unit_row *row, const real *x, const real *h);
typedef void cell_row_back(const fl_cell *cell, const unit_back_row *row, const real *dh, real *scratch);
/* A cell with early gates: those come from x and h, leave r h for the product of the last gate, and `kept` for the late
 * part, which makes the last gate and the output. */
typedef void cell_early(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, const vf *x, const vf *h,
                        real *reset_h, real *kept);
typedef void cell_late(const fl_cell *cell, const unit_row *row, size_t unit, size_t lanes, vf x_n, vf h_n, vf kept);
/* Backward, late first: cell_unit_back; then the early gates from the gradient of r h. */
/* A cell without a recurrent product: h after a step, from h before it and pre-activations, which it leaves as the backward
 * pass wants them. */
typedef vf cell_scan(const fl_cell *cell, size_t unit, size_t lanes, vf h, vf *a);

#endif
