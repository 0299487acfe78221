/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a kernel is asked for: plain structs of sizes and pointers.
 */
#ifndef FL_WORK_H
#define FL_WORK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"
#include "base/rows.h"
#include "model/cell.h"
#include "model/layout.h"

/* A matrix (rows, K), row-major, that is packed: all of it, or the columns that are new, whose values are beside it. */
typedef struct fl_matrix {
    size_t rows, K;
    const void *data;
    const fl_columns *columns; /* null: all */
} fl_matrix;

/* ---- Forward ------------------------------------------------------------------------------------------------ */

/* y = clip(out W' + bias), from (B, H) to (B, P); weight null: none. */
typedef struct fl_projection {
    const void *weight; /* panels (H, P) */
    const void *bias;
    double clip; /* 0: none */
} fl_projection;

/* Scratch for rows of one step: pointers to them, and what lies between a product and the cell. */
typedef struct fl_row_scratch {
    const void **a; /* or int64_t indices */
    void **out;
    void *totals; /* as in fl_row_product */
    void *states; /* (rows, G*H): recurrent parts */
    void *hidden; /* (rows, H) */
    void *masked; /* (rows, P) */
    /* Of the backward pass alone: */
    void *bypass;  /* (rows, H): what goes round the recurrent product */
    void *carried; /* (rows, P): parts of that product */
    void *norm;    /* FL_NORM_SCRATCH rows of H */
} fl_row_scratch;

#define FL_NORM_SCRATCH 12

/* `products`: rows that one product has at most, of which pointers and totals are kept; `rows`: those of a step, 0 where
 * products are all that is wanted. */
fl_row_scratch fl_row_scratch_take(fl_arena *arena, const fl_cell_sizes *sizes, size_t products, size_t rows,
                                   size_t lanes, size_t real_size, bool backward);

/* What a step on whole rows takes beside fl_steps. */
typedef struct fl_row_work {
    const void *mask;           /* of h in the recurrent product, (., B, P) by b; or null */
    ptrdiff_t mask_stride_gate; /* 0: one for all gates */
    size_t saved_states;        /* elements of saved_c a row: c alone, or all states beside h */
    fl_projection projection;
    fl_row_scratch scratch;
} fl_row_work;

/* A run of time steps of one layer and direction, for a set of batch rows and, on tiles, a range of hidden blocks.  At
 * every step the gates are (bias, or `pre`) + x W + h R, summed as layout.h says, and the cell update follows at once.  The
 * new h goes to y, whence the next step reads it. */
typedef struct fl_steps {
    const fl_cell *cell;
    fl_layout layout;
    size_t T;                      /* steps */
    size_t B;                      /* rows to compute */
    const size_t *rows;            /* their batch rows b, by position; null: the position itself */
    size_t block_begin, block_end; /* hidden blocks to compute */
    size_t turn;                   /* parity: in which order to walk them first */
    const void *bias;              /* packed (gate_row) */
    const void *bias_h;            /* likewise, of the state's part; where that is kept apart */
    const void *W, *R;             /* packed, I and P deep */
    size_t I, P;
    /* Input: at most one of the three is not null. */
    const void *pre; /* bias + x W, hoisted: gate rows, by position */
    ptrdiff_t pre_stride_t, pre_stride_row;
    const void *x;          /* dense */
    const int64_t *x_index; /* one-hot */
    fl_rows x_rows;
    const void *h; /* before the first step */
    fl_rows h_rows;
    void *y; /* h of every step */
    fl_rows y_rows;
    void *out; /* h before projection, (B, H) by position; null: y */
    void *c;   /* states beside h, updated in place, by b */
    ptrdiff_t c_stride_b;
    const void *zoned_c, *zoned_h; /* (B, H) by position: drawn masks of one step, or null */
    /* Each may be null: the new states beside h; for the backward pass, what the cell saves, only with them. */
    void *saved_c, *saved_gates;
    fl_rows saved_c_rows, saved_gates_rows;
    size_t saved_parts;         /* rows of H that the cell saves */
    bool saves_far;             /* more than stays in a core's own cache */
    bool weights_far;           /* those of a step are */
    const fl_row_work *on_rows; /* null on tiles */
} fl_steps;

/* Rows of some steps of a cell without a recurrent product, in an order in which h before a row is there by then. */
typedef struct fl_scan {
    const fl_cell *cell;
    fl_panels panels; /* fl_unit_panels_of */
    size_t I;
    const void *W, *bias;
    size_t rows;
    size_t apart;           /* rows between h and h before it */
    const void *const *x;   /* dense, or null: */
    const int64_t *x_index; /* one-hot */
    const void *const *h_before;
    void *const *y;
    void *const *saved; /* for the backward pass; or null */
    void *totals;       /* as in fl_row_product */
} fl_scan;

/* pre[m] = bias + x[m] W for rows m, packed gate rows. */
typedef struct fl_input_product {
    fl_layout layout;
    size_t rows;
    size_t block_begin, block_end;
    size_t I;
    const void *bias, *W;
    const void *x;
    const ptrdiff_t *x_offsets; /* element offset of row m in x */
    void *pre;
    ptrdiff_t pre_stride_row;
    bool weights_far; /* W is more than stays in a core's own cache */
} fl_input_product;

/* ---- Backward: rows are named by pointers, because those of one product come from many places -------------- */

/* Gates after activation of rows whose states are known: what steps save, to the bit. */
typedef struct fl_gate_rows {
    fl_layout layout;
    size_t rows;
    size_t I;
    const void *bias, *W, *R; /* packed */
    const void *const *x;     /* dense rows, or null: */
    const int64_t *x_index;   /* one-hot ones */
    const void *const *h;     /* before the step */
    void *const *gates;       /* outputs (4H) */
} fl_gate_rows;

/* out[m] (+)= a[m] M for rows a[m] of gates*H elements and a matrix M (gates*H, N), packed as panels by
 * fl_kernels.pack_gate_panels. */
typedef struct fl_row_product {
    fl_panels panels;
    size_t panel_begin, panel_end; /* of these; an end of 0 is that of all */
    const void *matrix;
    const void *bias; /* (N), or null; not with `adds` */
    size_t gates, H;
    size_t rows;
    const void *const *a;
    void *const *out;
    bool adds;
    void *totals; /* scratch: panels of 4 vectors for all rows and 8 more */
} fl_row_product;

/* A run of steps of backpropagation through time: the same rows in every one; row m = step * rows + position. */
typedef struct fl_back_steps {
    const fl_cell *cell;
    size_t steps, rows;
    const size_t *b;       /* batch rows by position */
    const void *R;         /* on tiles panels of all gates together; on rows of each gate, or each gate and head */
    const void *weight_hr; /* panels of (P, H), or null */
    const void *const *saved, *const *c, *const *c_before;
    const void *const *h_before;                 /* where the cell's gradient takes it */
    const void *const *y;                        /* h after the step, where the projection is clipped */
    const void *const *dy;                       /* rows may be null: zero */
    const void *const *dcells;                   /* of c from outside; null, or rows that may be */
    const void *const *zoned_c, *const *zoned_h; /* null where no masks are drawn; rows may be null */
    const void *mask;                            /* as in fl_row_work */
    ptrdiff_t mask_stride_gate;
    void *const *dgates; /* outputs, as fl_gradient_row says: */
    size_t state_part, projected_part, extras_part;
    bool is_far;   /* rows come from beyond a core's own cache */
    void *dh, *dc; /* (B, P) and (B, n*H) by b: gradients of the state after the run; becomes that before it */
    fl_row_scratch scratch;
} fl_back_steps;

/* out (rows of N, ld_out apart) (+)= sum over m of a[m][row] x[m]: a range of rows and one panel. */
typedef struct fl_outer_product {
    size_t M;
    const void *a;
    ptrdiff_t a_stride;
    size_t row_begin, row_end;
    fl_panels panels;
    size_t panel;
    const void *x; /* the panel, M rows */
    void *out;     /* of the whole matrix */
    ptrdiff_t ld_out;
    bool adds;
} fl_outer_product;

/* A range of totals, rows `stride` apart, each of a high and a low part.  The first time they become the sums, or else those
 * are added without loss; the last time the parts become one, in `total`.  Null sums: nothing is added. */
typedef struct fl_fold {
    size_t rows, columns;
    ptrdiff_t stride; /* of all three */
    const void *sums;
    void *total, *low;
    bool is_first, is_last;
} fl_fold;

/* ---- Optimisers --------------------------------------------------------------------------------------------- */

/* One step over flat buffers; parameters are written to new_params. */
typedef struct fl_adam {
    size_t n;
    void *new_params, *m, *v;
    const void *params, *grads;
    double step_size;       /* lr / (1 - beta1^t) */
    double root_correction; /* 1 / sqrt(1 - beta2^t) */
    double beta1, beta2, eps;
    double l2, decay; /* added to the gradient; factor of the parameter */
    bool is_far;      /* new_params should not take the place of other data in the caches */
} fl_adam;

typedef struct fl_sgd {
    size_t n;
    void *new_params, *b; /* b null: no momentum */
    const void *params, *grads;
    double lr, momentum, weight_decay;
    bool nesterov;
    bool is_far; /* as in fl_adam */
} fl_sgd;

#endif
