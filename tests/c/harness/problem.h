/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Passes of any cell with any options, forward and recorded.  All arrays stand between guard pages and all inputs are
 * read-only, so that each use is a test of memory accesses too; what must not be read is NaN, and so is what must not be
 * written.
 */
#ifndef PROBLEM_H
#define PROBLEM_H
#include "fastlstm.h"
#include "harness.h"

#define MOST_CELLS 6                 /* L*D */
#define MASK_SEED 0xfedcba987654321U /* of dropout and of what cells draw */

/* How (T, B, width) elements lie in memory; packed: rows one behind the other without padding, each from its first or from
 * its last step on. */
typedef enum order {
    ORDER_TIME_FIRST,
    ORDER_BATCH_FIRST,
    ORDER_GAPS,
    ORDER_BACKWARDS,
    ORDER_PACKED,
    ORDER_PACKED_BACKWARDS,
    ORDER_COUNT
} order;
#define ORDER_LAST_REGULAR ORDER_BACKWARDS /* of those that strides alone describe */

typedef struct spec {
    fl_stack_shape shape;
    size_t T, B;
    uint64_t seed; /* of the data, which is the same in any order of arrays */
    bool bias_ih, bias_hh, bias_hr, given_state, ragged, indexed, wants_cells;
    order x_order, y_order;
    /* Of recorded passes: */
    bool resets, draws, gives_dy, gives_dh, gives_dc, gives_dcells, wants_dx;
    double dropout;
    size_t bptt, first_cell;
    order dy_order, dx_order;
    bool writable; /* inputs may be changed */
} spec;

/* Where (T, B, width) elements lie. */
typedef struct placing {
    size_t width, elements;
    ptrdiff_t origin, stride_t, stride_b;
    const ptrdiff_t *at; /* or null */
} placing;

typedef struct problem {
    spec spec;
    size_t real_size, cells, H, P, gates, states; /* states: beside h */
    guard_arena inputs;
    size_t sizes[2][FL_PARAMETER_COUNT]; /* elements of parameters, of the first layer and of others */
    fl_weights weights[MOST_CELLS];
    int64_t *lengths, *x_index;
    ptrdiff_t *packed, *packed_backwards;
    placing of_x, of_y, of_cells, of_dy, of_dcells, of_dx;
    char *x, *dy, *dcells; /* elements (0, 0, 0), if rows stood at their own places */
    void *h0, *c0, *dh_n, *dc_n;
    uint8_t *reset;
    fl_stack *stack;
} problem;

typedef struct result {
    guard_arena outputs;
    char *y_memory, *cells_memory, *y, *cells;
    char *h_n, *c_n; /* c_n null where there is no c */
} result;

typedef struct gradients {
    guard_arena outputs, of_dx;
    char *dx_memory, *dx;
    void *dh0, *dc0;
    fl_gradients of[MOST_CELLS];
} gradients;

double real_get(fl_dtype dtype, const void *array, ptrdiff_t index);
void real_put(fl_dtype dtype, void *array, ptrdiff_t index, double value);
double real_epsilon(fl_dtype dtype); /* relative distance of neighbouring numbers around 1 */
size_t real_bytes(fl_dtype dtype);

/* ---- Specifications ------------------------------------------------------------------------------------------ */

#define DTYPES 2
extern const fl_dtype dtypes[DTYPES];
extern const char *const kind_names[FL_CELL_COUNT];

/* Any valid options of a kind; each that is there is on in one of three.  Of the LSTM, often none. */
fl_cell_options options_random(fl_cell_kind kind, size_t H);
/* One layer and direction, no option; all arrays are given and wanted that there are. */
spec spec_plain(fl_cell_kind kind, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H);
/* Likewise, of L layers and D directions. */
spec spec_stack(fl_cell_kind kind, fl_dtype dtype, const size_t sizes[6]); /* T, B, I, H, L, D */
/* One of some cells that between them have all kinds, all parameters and all that is drawn; the first is the plain LSTM. */
#define SOME_CELLS 14
spec spec_some(size_t number, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H);
spec spec_random(fl_cell_kind kind, fl_dtype dtype);
/* Another size of a random specification, and options that go with it. */
void spec_resize(spec *s, size_t T, size_t B, size_t I, size_t H);
order order_random(order last);
/* Other orders of all arrays, at random. */
void spec_reorder(spec *s);
/* Random ones of each kind and dtype, `full` of each; of the LSTM, which has most options, four times as many. */
void for_all_kinds(size_t full, void (*check)(const spec *s));
/* For messages; static memory. */
const char *problem_text(const problem *p);

/* ---- Passes -------------------------------------------------------------------------------------------------- */

void problem_make(problem *p, const spec *s);
void problem_pack(problem *p);
void problem_free(problem *p);
size_t problem_length(const problem *p, size_t b);
size_t problem_steps(const problem *p); /* of all rows */
/* Bytes of all rows of h, and of c, of one cell and row. */
size_t problem_h_bytes(const problem *p);
size_t problem_c_bytes(const problem *p);
ptrdiff_t placing_of(const placing *p, size_t t, size_t b);
/* Pointers to all parameters, in the order of fl_weights. */
void weight_slots(fl_weights *w, const void **slots[FL_PARAMETER_COUNT]);
void gradient_slots(fl_gradients *g, void **slots[FL_PARAMETER_COUNT]);
const size_t *problem_sizes(const problem *p, size_t cell);

void result_make(result *r, const problem *p);
void result_free(result *r);
fl_forward_args problem_args(const problem *p, const result *r, size_t threads);
/* Make a result, run, expect FL_OK, finite numbers, zeros in the padding, and nothing written between elements. */
void problem_run(const problem *p, size_t threads, result *r);
void problem_check_clean(const problem *p, const result *r);
/* What a stream reads and writes from step `begin` on, where arrays lie in a regular order. */
fl_stream_io problem_stream_io(const problem *p, const result *r, size_t begin);
/* Row b_a of one result and row b_b of another are the same bits, wherever they lie. */
bool rows_equal(const problem *a, const result *ra, size_t b_a, const problem *b, const result *rb, size_t b_b);
bool results_equal(const problem *a, const result *ra, const problem *b, const result *rb);

/* The states before the first step of all rows, to h and c. */
void problem_start_states(const problem *p, char *h, char *c);
/* Row b's states, (L*D, 1, width), to or from those of all rows. */
void problem_row_states(const problem *p, char *all_h, char *all_c, size_t b, char *h, char *c, size_t rows, size_t row,
                        bool to_all);

void gradients_make(gradients *g, const problem *p);
void gradients_free(gradients *g);
fl_record_args problem_record_args(const problem *p, const result *r, size_t save, size_t threads);
fl_backward_args problem_backward_args(const problem *p, const gradients *g, size_t threads);
/* Make results, record and go back; expect FL_OK and what problem_run() does. */
void problem_train(const problem *p, fl_tape *tape, size_t save, size_t threads, result *r, gradients *g);
bool gradients_equal(const problem *a, const gradients *ga, const problem *b, const gradients *gb);

#endif
