/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A forward pass with everything it takes, its result, and the float64 oracle.  All arrays stand between guard pages
 * and all inputs are read-only, so that each use is a test of memory accesses too.
 */
#ifndef PROBLEM_H
#define PROBLEM_H
#include "fastlstm.h"
#include "harness.h"

/* How (T, B, width) elements lie in memory. */
typedef enum order { ORDER_TIME_FIRST, ORDER_BATCH_FIRST, ORDER_GAPS, ORDER_BACKWARDS, ORDER_COUNT } order;

typedef struct strided {
    size_t elements;  /* from the first to the last in memory */
    ptrdiff_t origin; /* of (0, 0, 0) */
    ptrdiff_t stride_t, stride_b;
} strided;

strided strided_of(order how, size_t T, size_t B, size_t width);

typedef struct spec {
    fl_stack_shape shape;
    size_t T, B;
    bool bias_ih, bias_hh, given_state, ragged, indexed;
    order x_order, y_order;
} spec;

typedef struct problem {
    spec spec;
    size_t real_size, cells, width; /* cells L*D, width D*H */
    guard_arena inputs;
    fl_weights weights[16]; /* by cell */
    strided x_layout, y_layout;
    char *x;          /* element (0, 0, 0) */
    int64_t *x_index; /* likewise */
    int64_t *lengths;
    void *h0, *c0;
    fl_stack *stack;
} problem;

typedef struct result {
    guard_arena outputs;
    char *memory, *y; /* start, and element (0, 0, 0) */
    char *h_n, *c_n;
} result;

double real_get(fl_dtype dtype, const void *array, ptrdiff_t index);
void real_put(fl_dtype dtype, void *array, ptrdiff_t index, double value);
/* Relative distance of neighbouring numbers around 1. */
double real_epsilon(fl_dtype dtype);

/* A small layer with dense input and no options; the caller changes what it wants. */
spec spec_plain(fl_dtype dtype, size_t T, size_t B, size_t I, size_t H);
/* Random sizes and options, small. */
spec spec_random(fl_dtype dtype);
/* For messages; static memory. */
const char *spec_text(const spec *s);

/* Weights as PyTorch initialises them, uniform in +-1/sqrt(H); input uniform in +-2. */
void problem_make(problem *p, const spec *s);
/* For tests that still change inputs: what problem_make does last. */
void problem_make_writable(problem *p, const spec *s);
void problem_pack(problem *p);
void problem_free(problem *p);
size_t problem_length(const problem *p, size_t b);

void result_make(result *r, const problem *p);
void result_free(result *r);
fl_forward_args problem_args(const problem *p, const result *r, size_t threads);
/* Make a result, run, expect FL_OK and nothing written between the elements of y. */
void problem_run(const problem *p, size_t threads, result *r);
/* No element was written at all. */
bool result_untouched(const result *r);
/* Row `b_a` of one result and row `b_b` of another are the same bits: states, and y of steps [0, T). */
bool rows_equal(const problem *a, const result *ra, size_t b_a, const problem *b, const result *rb, size_t b_b);
bool results_equal(const problem *p, const result *a, const result *b);

/* y (T, B, D*H), h_n and c_n (L*D, B, H), contiguous. */
typedef struct oracle {
    double *y, *h_n, *c_n;
} oracle;
void oracle_make(oracle *o, const problem *p);
void oracle_free(oracle *o);
/* Largest error of a result, c against max(1, |c|); infinite where one is NaN and the other is not. */
double oracle_error(const oracle *o, const problem *p, const result *r);
/* What it may be. */
double oracle_tolerance(fl_dtype dtype);

#endif
