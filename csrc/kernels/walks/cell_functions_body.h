/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the walks ask of a variant.  isa/table_body.h fills the table; a walk that a variant does not take is null.
 */
#ifndef FL_CELL_FUNCTIONS_BODY_H
#define FL_CELL_FUNCTIONS_BODY_H
#include "kernels/cells/cell_contract.h"
#include "kernels/products/panel_body.h"

/* Whole rows of early gates and of what follows; `kept` is a row of H. */
typedef void early_row(const fl_cell *cell, const unit_row *row, const real *x, const real *h, real *reset_h,
                       real *kept);
typedef void late_row(const fl_cell *cell, const unit_row *row, const real *x, const real *h, const real *kept);
typedef void early_row_back(const fl_cell *cell, const unit_back_row *row, const real *d_reset_h);

typedef struct cell_functions {
    void (*steps)(const fl_steps *); /* on tiles */
    finish_totals *tile_back;
    cell_row *row;           /* on whole rows */
    cell_row_back *row_back; /* and for cells without a recurrent product */
    early_row *early;        /* with early gates, in place of `row` */
    late_row *late;
    early_row_back *early_back;         /* after row_back */
    finish_totals *scan_tile;           /* without a recurrent product: of stored totals, */
    void (*scan_rows)(const fl_scan *); /* and of few inputs */
} cell_functions;

static const cell_functions cell_table[FL_VARIANT_COUNT];

FL_INLINE const cell_functions *functions_of(const fl_cell *cell) { return &cell_table[cell->sizes.variant]; }

#endif
