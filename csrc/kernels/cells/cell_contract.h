/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a cell meets the data of one batch row in one time step.  Pointers are at the first unit; each is null where the cell
 * or the call has no such thing.  A cell_*_body.h supplies, for one vector of `lanes` units at `unit`,
 *     <cell>_unit(cell, row, unit, lanes, x, h)     from pre-activations, one vector a gate (h null: the sum is in x)
 *     <cell>_unit_back(cell, row, unit, lanes, dh)  gradients, from that of the cell's output
 */
#ifndef FL_UNIT_ROWS_BODY_H
#define FL_UNIT_ROWS_BODY_H

typedef struct unit_row {
    const real *h_before;
    real *c;                       /* states beside h, H elements each: updated in place */
    real *h;                       /* output, before projection */
    const real *zoned_c, *zoned_h; /* masks in a pass that draws: 1 keeps the old value, 0 takes the new one */
    real *saved;                   /* for the backward pass */
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
    real *extras;         /* outputs: see cells.h */
} unit_back_row;

#endif
