/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What one instruction set supplies: a table of kernels for each dtype, and the structs that they take.  Kernels
 * check nothing, allocate nothing and lock nothing.  Next to read: layout.h (packed weights), tile_body.h (the kernel).
 */
#ifndef FL_KERNELS_H
#define FL_KERNELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/cell.h"
#include "model/layout.h"

/* y = clip(out W' + bias), from (B, H) to (B, P); weight null: none. */
typedef struct fl_projection {
    const void *weight; /* panels (H, P) */
    const void *bias;
    double clip; /* 0: none */
} fl_projection;

/* A run of time steps of one layer and direction, for a set of batch rows and a range of hidden blocks.  At every
 * step the gates are (bias, or `pre`) + x W + h R, summed as tile_body.h says, and the cell update follows at once.
 * The new h goes to y, whence the next step reads it. */
typedef struct fl_steps {
    fl_layout layout;
    const fl_cell *cell;           /* not looked at by lstm_steps */
    size_t T;                      /* steps */
    size_t B;                      /* rows to compute */
    const size_t *rows;            /* their batch rows b, by position; null: the position itself */
    const ptrdiff_t *x_at, *y_at;  /* rows of x and y by b; null: b itself */
    size_t block_begin, block_end; /* hidden blocks to compute */
    size_t turn;                   /* parity: in which order to walk them first */
    const void *bias;              /* packed (gate_row) */
    const void *bias_h;            /* likewise, of the state's part; where that is kept apart */
    const void *W, *R;             /* packed, I and P deep */
    size_t I, P;
    /* Input: at most one of the three is not null. */
    const void *pre; /* bias + x W, hoisted: packed gate rows, by position */
    ptrdiff_t pre_stride_t, pre_stride_row;
    const void *x;          /* dense, by row of x */
    const int64_t *x_index; /* one-hot, likewise */
    ptrdiff_t x_stride_t, x_stride_b;
    const void *h; /* h before the first step, by b */
    ptrdiff_t h_stride_b;
    void *y; /* h of every step, by row of y */
    ptrdiff_t y_stride_t, y_stride_b;
    void *out; /* h before projection, (B, H) by position; null: y */
    void *c;   /* states beside h, updated in place, by b */
    ptrdiff_t c_stride_b;
    const void *zoned_c, *zoned_h; /* (B, H) by position: drawn masks of one step, or null */
    /* Each may be null: the new states beside h; for the backward pass, what the cell saves, of the plain LSTM the gates after
     * activation, (4H) a row, only with them. */
    void *saved_c, *saved_gates;
    const ptrdiff_t *saved_at; /* rows of both by b; null: b itself */
    size_t saved_parts;        /* rows of H that the cell saves */
    bool saves_far;            /* more than stays in a core's own cache */
    ptrdiff_t saved_c_stride_t, saved_c_stride_b, saved_gates_stride_t, saved_gates_stride_b;
} fl_steps;

/* Scratch of kernels on whole rows. */
typedef struct fl_row_scratch {
    const void **a; /* pointers to rows */
    void **out;
    void *totals;
    void *states; /* (rows, gates*H): recurrent parts */
    void *hidden; /* (rows, H) */
    void *masked; /* (rows, P), the last one */
} fl_row_scratch;

/* Cuts `memory` into scratch for `rows` rows; sizes are those that are there to see.  The first three places depend on rows
 * alone. */
static inline fl_row_scratch fl_row_scratch_of(void *memory, size_t H, size_t gates, size_t rows, size_t lanes,
                                               size_t real_size)
{
    fl_row_scratch scratch;
    char *next = memory;
    scratch.totals = next;
    next += (rows + 8) * 4 * lanes * real_size;
    scratch.a = (const void **)(void *)next; /* or indices */
    scratch.out = (void **)(void *)(next + rows * sizeof(int64_t));
    next += (2 * rows * sizeof(int64_t) + 127) / 128 * 128;
    scratch.states = next;
    next += rows * gates * H * real_size;
    scratch.hidden = next;
    scratch.masked = next + rows * H * real_size;
    return scratch;
}

/* Scratch of cell_back_steps: fl_row_scratch, a second row of H and of P each, and what layer norm takes. */
#define FL_NORM_SCRATCH 12 /* rows of H */
static inline size_t fl_cell_back_scratch_bytes(size_t H, size_t gates, size_t P, size_t rows, size_t lanes,
                                                size_t real_size)
{
    return ((rows + 8) * 4 * lanes + rows * (gates * H + 2 * H + P) + FL_NORM_SCRATCH * H) * real_size +
           2 * rows * sizeof(int64_t) + 256;
}

/* The same for cells on whole rows: products to rows of pre-activations first, then the cell. */
typedef struct fl_row_steps {
    const fl_cell *cell;
    size_t T, B;
    const size_t *rows;
    const ptrdiff_t *y_at;
    const void *pre; /* bias + x W: rows of (G*H), by position */
    ptrdiff_t pre_stride_t, pre_stride_row;
    const void *R, *bias_h;        /* as fl_packed_cell has them; bias_h may be null */
    size_t K;                      /* depth of R's panels */
    const void *mask;              /* of h in the recurrent product, (., B, P) by b; or null */
    ptrdiff_t mask_stride_gate;    /* 0: one for all gates */
    const void *zoned_c, *zoned_h; /* as in fl_steps */
    const void *h;
    ptrdiff_t h_stride_b;
    const ptrdiff_t *h_at; /* rows of h by b; null: b itself */
    void *y;
    ptrdiff_t y_stride_t, y_stride_b;
    void *c;
    ptrdiff_t c_stride_b;
    void *saved_c, *saved_gates;
    const ptrdiff_t *saved_at;
    size_t saved_states; /* elements of saved_c a row: c alone, or all states beside h */
    ptrdiff_t saved_c_stride_t, saved_c_stride_b, saved_gates_stride_t, saved_gates_stride_b;
    fl_projection projection;
    void *scratch; /* fl_row_scratch_bytes */
} fl_row_steps;

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

/* Scratch of a scan. */
typedef struct fl_scan_rows {
    const void **x, **h_before; /* x: or indices */
    void **y, **saved;
    void *totals;
} fl_scan_rows;

#define FL_SCAN_POINTERS 4

static inline fl_scan_rows fl_scan_rows_of(void *memory, size_t rows)
{
    const size_t bytes = rows * sizeof(int64_t);
    char *next = memory;
    fl_scan_rows scan;
    scan.x = (const void **)(void *)next;
    scan.h_before = (const void **)(void *)(next + bytes);
    scan.y = (void **)(void *)(next + 2 * bytes);
    scan.saved = (void **)(void *)(next + 3 * bytes);
    scan.totals = next + (FL_SCAN_POINTERS * bytes + 127) / 128 * 128;
    return scan;
}

/* pre[m] = bias + x[m] W for rows m, packed gate rows. */
typedef struct fl_product {
    fl_layout layout;
    size_t rows;
    size_t block_begin, block_end;
    size_t I;
    const void *bias, *W;
    const void *x;
    const ptrdiff_t *x_offsets; /* element offset of row m in x */
    void *pre;
    ptrdiff_t pre_stride_row;
} fl_product;

/* ---- Backward: rows are named by pointers, because those of one product come from many places ------------ */

/* Gates after activation of rows whose states are known: what lstm_steps saves, to the bit. */
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
 * fl_pack_gate_panels. */
typedef struct fl_row_product {
    fl_panels panels;
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
    size_t steps, rows;
    size_t H;
    const size_t *b;  /* batch rows by position */
    fl_panels panels; /* of weight_hh (4H, H) */
    const void *R;
    const void *const *gates, *const *c, *const *c_before;
    const void *const *dy;     /* rows may be null: zero */
    const void *const *dcells; /* of c from outside; null, or rows that may be */
    void *const *dgates;       /* outputs (4H): gradients of the gates before activation */
    void *dh, *dc;             /* (B, H) by b: gradients of the state after the run; becomes that before it */
    void *totals;
} fl_back_steps;

/* The same for other cells. */
typedef struct fl_cell_back_steps {
    const fl_cell *cell;
    size_t steps, rows;
    const size_t *b;
    bool on_rows;          /* not on tiles: whole rows, or no recurrent product */
    const void *R;         /* panels of all gates together; on rows for each gate, or each gate and head */
    size_t K;              /* width of a head */
    const void *weight_hr; /* panels of (P, H), or null */
    const void *const *saved, *const *c, *const *c_before, *const *h_before;
    const void *const *y;                        /* h after the step */
    const void *const *dy, *const *dcells;       /* rows may be null */
    const void *const *zoned_c, *const *zoned_h; /* rows may be null */
    const void *mask;                            /* as in fl_row_steps */
    ptrdiff_t mask_stride_gate;
    void *const *dgates; /* outputs; parts begin at: */
    size_t dh_offset, proj_offset, extras_offset;
    void *dh, *dc; /* (B, P) and (B, n*H) by b */
    void *scratch;
} fl_cell_back_steps;

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

/* One optimiser step over flat buffers; parameters are written to new_params. */
typedef struct fl_adam {
    size_t n;
    void *new_params, *m, *v;
    const void *params, *grads;
    double step_size;       /* lr / (1 - beta1^t) */
    double root_correction; /* 1 / sqrt(1 - beta2^t) */
    double beta1, beta2, eps;
    double l2, decay; /* added to the gradient; factor of the parameter */
} fl_adam;

typedef struct fl_kernels {
    const char *isa;
    size_t lanes;    /* elements of a vector */
    size_t max_rows; /* rows of the largest tile */
    void (*lstm_steps)(const fl_steps *);
    void (*input_product)(const fl_product *);
    /* One step; the gates before activation go to y as (B, 4H): no cell update. */
    void (*gate_matmul)(const fl_steps *);
    void (*lstm_cell_update)(size_t B, size_t H, const void *gates, ptrdiff_t ldg, const void *c, ptrdiff_t ldc,
                             void *h_out, ptrdiff_t ldh_out, void *c_out, ptrdiff_t ldc_out);
    void (*lstm_gate_rows)(const fl_gate_rows *);
    void (*lstm_back_steps)(const fl_back_steps *);
    void (*cell_back_steps)(const fl_cell_back_steps *);
    void (*row_product)(const fl_row_product *);
    void (*gather_rows)(const fl_panels *panels, const void *matrix, size_t K, const void *bias, size_t M,
                        const int64_t *index, void *const *out);
    void (*cell_steps)(const fl_steps *);
    void (*row_steps)(const fl_row_steps *);
    void (*scan)(const fl_scan *);
    /* Rows of `out` by position to rows of y by b, at one step. */
    void (*project)(const fl_projection *projection, size_t H, size_t P, size_t rows, const void *out, void *const *y,
                    void *scratch);
    void (*outer_product)(const fl_outer_product *);
    /* Columns of one panel of M rows, side by side: fl_outer_product.x. */
    void (*fill_panel)(const fl_panels *panels, size_t panel, size_t M, const void *const *rows, void *out);
    /* out[n] (+)= sum over m of a[m * a_stride + n], n in [begin, end). */
    void (*column_sums)(size_t M, const void *a, ptrdiff_t a_stride, size_t begin, size_t end, bool adds, void *out);
    /* out[index[m]][n] += a[m][n], n in [begin, end). */
    void (*scatter_rows)(size_t M, const void *a, ptrdiff_t a_stride, const int64_t *index, size_t begin, size_t end,
                         void *out, ptrdiff_t ld_out);
    void (*add)(size_t n, const void *x, void *out); /* out += x */
    void (*multiply)(size_t n, const void *a, const void *b, void *out);
    void (*adam)(const fl_adam *);
    void (*sigmoid)(size_t n, const void *x, void *out);
    void (*tanh)(size_t n, const void *x, void *out);
    double (*probe_fma)(size_t repeats); /* returns the flops done */
    void (*probe_stream)(const void *data, size_t bytes, size_t repeats);
} fl_kernels;

extern const fl_kernels fl_kernels_generic_f32, fl_kernels_generic_f64;
extern const fl_kernels fl_kernels_avx2_f32, fl_kernels_avx2_f64;
extern const fl_kernels fl_kernels_avx512_f32, fl_kernels_avx512_f64;
extern const fl_kernels fl_kernels_neon_f32, fl_kernels_neon_f64;

#endif
