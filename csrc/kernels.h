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

#include "layout.h"

/* A run of time steps of one layer and direction, for a set of batch rows and a range of hidden blocks.  At every
 * step the gates are (bias, or `pre`) + x W + h R, summed as tile_body.h says, and the cell update follows at once.
 * The new h goes to y, whence the next step reads it. */
typedef struct fl_steps {
    fl_layout layout;
    size_t T;                       /* steps */
    size_t B;                       /* rows to compute */
    const size_t *rows;             /* their batch rows b, by position; null: the position itself */
    size_t block_begin, block_end;  /* hidden blocks to compute */
    size_t turn;                    /* parity: in which order to walk them first */
    const void *bias;               /* packed (gate_row) */
    const void *W, *R;              /* packed, I and H deep */
    size_t I;
    /* Input: at most one of the three is not null. */
    const void *pre;                /* bias + x W, hoisted: packed gate rows, by position */
    ptrdiff_t pre_stride_t, pre_stride_row;
    const void *x;                  /* dense, by b */
    const int64_t *x_index;         /* one-hot, by b */
    ptrdiff_t x_stride_t, x_stride_b;
    const void *h;                  /* h before the first step, by b */
    ptrdiff_t h_stride_b;
    void *y;                        /* h of every step, by b */
    ptrdiff_t y_stride_t, y_stride_b;
    void *c;                        /* updated in place, by b */
    ptrdiff_t c_stride_b;
} fl_steps;

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
