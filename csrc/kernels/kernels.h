/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What one instruction set supplies: a table of kernels for each dtype and storage of weights.  Kernels check nothing,
 * allocate nothing and lock nothing.  Next to read: model/layout.h (packed weights), walks/tile_body.h (the kernel).
 */
#ifndef FL_KERNELS_H
#define FL_KERNELS_H
#include "kernels/work.h"

/* How weights are stored.  A storage is a product: how weights are packed, what accumulates, how that becomes vectors of
 * the dtype (products/product_<storage>_body.h). */
typedef enum fl_storage {
    FL_STORAGE_REAL, /* of the layer's dtype */
    FL_STORAGE_COUNT
} fl_storage;

typedef struct fl_kernels {
    const char *isa;
    size_t lanes;       /* elements of a vector */
    size_t max_rows;    /* rows of the largest tile */
    size_t weight_size; /* bytes of a packed weight */

    /* Packing: the layouts are those of model/layout.h. */
    /* Gates of a tile: (G*H, K). */
    void (*pack_gates)(const fl_layout *layout, const fl_matrix *source, void *packed);
    /* The transpose, as panels. */
    void (*pack_panels)(const fl_panels *panels, const fl_matrix *source, void *packed);
    /* Gates as fl_unit_panels_of has them. */
    void (*pack_units)(const fl_panels *panels, size_t H, size_t gates, const fl_matrix *source, void *packed);
    /* A matrix (gates*H, N) as panels in the order in which the backward products take its rows: stretches of FL_K_BLOCK
     * hidden units, of each one gate after the other. */
    void (*pack_gate_panels)(const fl_panels *panels, size_t gates, size_t H, const void *source, void *packed);

    /* Steps of a cell, by its variant. */
    void (*tile_steps)(const fl_steps *);
    void (*row_steps)(const fl_steps *);
    void (*scan)(const fl_scan *);
    void (*tile_back_steps)(const fl_back_steps *);
    void (*row_back_steps)(const fl_back_steps *);

    /* Products. */
    void (*input_product)(const fl_input_product *);
    void (*gate_rows)(const fl_gate_rows *);
    void (*row_product)(const fl_row_product *);
    void (*gather_rows)(const fl_panels *panels, const void *matrix, size_t K, const void *bias, size_t M,
                        const int64_t *index, void *const *out);
    /* Rows of `out` by position to rows y, at one step. */
    void (*project)(const fl_projection *projection, size_t H, size_t P, size_t rows, const void *out, void *const *y,
                    const fl_row_scratch *scratch);
    void (*outer_product)(const fl_outer_product *);
    /* Columns of one panel of M rows, side by side: fl_outer_product.x. */
    void (*fill_panel)(const fl_panels *panels, size_t panel, size_t M, const void *const *rows, void *out);
    /* Totals take up sums that are complete. */
    void (*fold_sums)(const fl_fold *);
    /* One row of totals takes up the sums over m of a[m * a_stride + n]; fl_fold.sums is not looked at. */
    void (*column_sums)(size_t M, const void *a, ptrdiff_t a_stride, const fl_fold *fold);
    /* Rows index[m] of totals that are not the first take up a[m], n in [begin, end). */
    void (*scatter_rows)(size_t M, const void *a, ptrdiff_t a_stride, const int64_t *index, size_t begin, size_t end,
                         void *total, void *low, ptrdiff_t ld_out);

    /* Pieces of the public API. */
    void (*gate_matmul)(
        const fl_steps *); /* one step; the gates before activation go to y as (B, 4H): no cell update */
    void (*lstm_cell_update)(size_t B, size_t H, const void *gates, ptrdiff_t ldg, const void *c, ptrdiff_t ldc,
                             void *h_out, ptrdiff_t ldh_out, void *c_out, ptrdiff_t ldc_out);
    void (*sigmoid)(size_t n, const void *x, void *out);
    void (*tanh)(size_t n, const void *x, void *out);
    void (*add)(size_t n, const void *x, void *out); /* out += x */
    void (*multiply)(size_t n, const void *a, const void *b, void *out);
    void (*adam)(const fl_adam *);
    bool (*sgd)(const fl_sgd *); /* whether all gradients are finite */
    bool (*all_finite)(size_t n, const void *x);
    /* Sum of (scale x)^2 in double, in one order for all instruction sets. */
    double (*sum_squares)(size_t n, const void *x, double scale);
    double (*largest)(size_t n, const void *x); /* |x| at most; NaN does not count */
    /* x = x * factor * power * power, each product rounded as the caller has set it. */
    void (*rescale)(size_t n, double factor, double power, void *x);
    double (*probe_fma)(size_t repeats); /* returns the flops done */
    void (*probe_stream)(const void *data, size_t bytes, size_t repeats);
} fl_kernels;

#endif
