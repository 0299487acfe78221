/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Passes of any cell with any options, forward and recorded.  As in problem.h all arrays stand between guard pages and all
 * inputs are read-only; what must not be read is NaN, and so is what must not be written.
 */
#ifndef FAMILY_H
#define FAMILY_H
#include "problem.h"

#define FAMILY_CELLS 6 /* L*D at most */
#define FAMILY_PARAMETERS 11
#define FAMILY_SEED 0xfedcba987654321U /* of masks */

/* Beside those of `order`: rows one behind the other without padding, each from its first or from its last step on. */
enum { ORDER_PACKED = ORDER_COUNT, ORDER_PACKED_BACKWARDS, FAMILY_ORDERS };

typedef struct family_spec {
    fl_stack_shape shape;
    size_t T, B;
    uint64_t seed; /* of the data, which is the same in any order of arrays */
    bool bias_ih, bias_hh, bias_hr, given_state, ragged, indexed, wants_cells;
    int x_order, y_order;
    /* Of recorded passes: */
    bool resets, draws, gives_dy, gives_dh, gives_dc, gives_dcells, wants_dx;
    double dropout;
    size_t bptt, first_cell;
    int dy_order, dx_order;
    bool writable; /* inputs may be changed */
} family_spec;

/* Where (T, B, width) elements lie. */
typedef struct placing {
    size_t width, elements;
    ptrdiff_t origin, stride_t, stride_b;
    const ptrdiff_t *at; /* or null */
} placing;

typedef struct family {
    family_spec spec;
    size_t real_size, cells, H, P, gates, states; /* states: beside h */
    guard_arena inputs;
    size_t sizes[2][FAMILY_PARAMETERS]; /* elements of parameters, of the first layer and of others */
    fl_weights weights[FAMILY_CELLS];
    int64_t *lengths, *x_index;
    ptrdiff_t *packed, *packed_backwards;
    placing of_x, of_y, of_cells, of_dy, of_dcells, of_dx;
    char *x, *dy, *dcells; /* elements (0, 0, 0), if rows stood at their own places */
    void *h0, *c0, *dh_n, *dc_n;
    uint8_t *reset;
    fl_stack *stack;
} family;

typedef struct family_result {
    guard_arena outputs;
    char *y_memory, *cells_memory, *y, *cells;
    char *h_n, *c_n; /* c_n null where there is no c */
} family_result;

typedef struct family_gradients {
    guard_arena outputs, of_dx;
    char *dx_memory, *dx;
    void *dh0, *dc0;
    fl_gradients of[FAMILY_CELLS];
} family_gradients;

/* ---- Specifications ------------------------------------------------------------------------------------------ */

/* Any valid options of a kind; each that is there is on in one of three. */
fl_cell_options options_of_kind(fl_cell_kind kind, size_t H);
/* All options off. */
family_spec family_plain(fl_cell_kind kind, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H);
family_spec family_random(fl_cell_kind kind, fl_dtype dtype);
/* Other orders of all arrays, at random. */
void family_reorder(family_spec *s);
/* For messages; static memory. */
const char *family_text(const family *f);

/* ---- Passes -------------------------------------------------------------------------------------------------- */

void family_make(family *f, const family_spec *s);
void family_pack(family *f);
void family_free(family *f);
size_t family_length(const family *f, size_t b);
/* Bytes of all rows of h, and of c, of one cell and row. */
size_t family_h_bytes(const family *f);
size_t family_c_bytes(const family *f);
ptrdiff_t placing_of(const placing *p, size_t t, size_t b);
/* Pointers to all parameters, in the order of fl_weights. */
void family_weights(fl_weights *w, const void **slots[FAMILY_PARAMETERS]);
void family_gradients_of(fl_gradients *g, void **slots[FAMILY_PARAMETERS]);
const size_t *family_sizes(const family *f, size_t cell);

void family_result_make(family_result *r, const family *f);
void family_result_free(family_result *r);
fl_forward_args family_args(const family *f, const family_result *r, size_t threads);
/* Make a result, run, expect FL_OK, finite numbers, zeros in the padding, and nothing written between elements. */
void family_run(const family *f, size_t threads, family_result *r);
void family_check_clean(const family *f, const family_result *r);
/* Row b_a of one result and row b_b of another are the same bits, wherever they lie. */
bool family_rows_equal(const family *a, const family_result *ra, size_t b_a, const family *b, const family_result *rb,
                       size_t b_b);
bool family_results_equal(const family *a, const family_result *ra, const family *b, const family_result *rb);

/* Row b's states, (L*D, 1, width), to or from those of all rows. */
void family_row_states(const family *f, char *all_h, char *all_c, size_t b, char *h, char *c, size_t rows, size_t row,
                       bool to_all);

void family_gradients_make(family_gradients *g, const family *f);
void family_gradients_free(family_gradients *g);
fl_record_args family_record_args(const family *f, const family_result *r, size_t save, size_t threads);
fl_backward_args family_backward_args(const family *f, const family_gradients *g, size_t threads);
/* Make results, record and go back; expect FL_OK and what family_run() does. */
void family_train(const family *f, fl_tape *tape, size_t save, size_t threads, family_result *r, family_gradients *g);
bool family_gradients_equal(const family *a, const family_gradients *ga, const family *b, const family_gradients *gb);

#endif
