/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Recorded passes for tests, with all arrays between guard pages, and the truth about them: the chain rule step by step, in
 * float64 and nothing else.
 */
#ifndef TRAINING_PASS_H
#define TRAINING_PASS_H
#include "problem.h"

#define DROPOUT_SEED 0x123456789abcdefU

typedef struct options {
    bool resets, gives_dy, gives_dh, gives_dc, wants_dx;
    double dropout;
    size_t bptt;
    order dx_order;
} options;

typedef struct pass {
    options o;
    problem p;
    guard_arena inputs;
    uint8_t *reset;
    strided dy_layout, dx_layout;
    char *dy; /* element (0, 0, 0) */
    void *dh_n, *dc_n;
} pass;

#define MOST_CELLS 8

typedef struct gradients {
    guard_arena outputs;
    char *dx_memory, *dx;
    void *dh0, *dc0;
    fl_gradients of[MOST_CELLS];
} gradients;

options options_random(const spec *s);
options options_plain(const spec *s);
const char *pass_text(const pass *a);
void pass_make(pass *a, const spec *s, const options *o);
void pass_free(pass *a);
void gradients_make(gradients *g, const pass *a);
fl_record_args record_args(const pass *a, const result *r, size_t save, size_t threads);
fl_backward_args backward_args(const pass *a, const gradients *g, size_t threads);
void pass_run(const pass *a, fl_tape *tape, size_t save, size_t threads, result *r, gradients *g);
void pass_results_free(result *r, gradients *g);
bool arenas_equal(const guard_arena *a, const guard_arena *b);
char *at(const strided *layout, char *origin, size_t real_size, size_t t, size_t b);

/* What one cell goes through. */
typedef struct trace {
    double *gates;                   /* (T, B, 4H) after activation */
    double *h_before, *c_before, *c; /* (T, B, H) */
} trace;

typedef struct truth {
    double *inputs[MOST_CELLS]; /* by layer, (T, B, I); the last is y */
    trace cells[MOST_CELLS];
    double *dx, *dh, *dc; /* dx (T, B, I); states (L*D, B, H) */
    double *weight_ih[MOST_CELLS], *weight_hh[MOST_CELLS], *bias[MOST_CELLS];
} truth;

void truth_make(truth *o, const pass *a);
void truth_free(truth *o);
double truth_error(const truth *o, const pass *a, const gradients *g);

#endif
