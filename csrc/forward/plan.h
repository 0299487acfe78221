/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The schedule of a call: how the work is split over threads and over time.
 */
#ifndef FL_PLAN_H
#define FL_PLAN_H
#include "stack/stack.h"

#define FL_FMA_NS 0.15 /* one vector multiply-add, sustained, on current server cores: only ranks schedules */

/* Threads stand in a grid.  Row groups are independent of each other; within one, directions stand side by side,
 * layers form a pipeline of chunks, and hidden groups share every step. */
typedef struct fl_plan {
    size_t threads; /* row_groups * direction_groups * layer_groups * hidden_groups */
    size_t row_groups;
    size_t direction_groups; /* 1 or 2 */
    size_t layer_groups;     /* unidirectional stacks only; excludes hidden groups */
    size_t hidden_groups;
    size_t chunk;      /* steps that pass through a unidirectional stack together */
    size_t group_rows; /* most rows of a row group */
    bool fetches;      /* steps of few rows ask ahead for weights that lie far, as those of many do */
    bool is_tried;     /* this call is timed beside others: a wait that is long is for the trial to judge */
} fl_plan;

/* The plan of least estimated time for at most `max_threads`; `rows_only`: row groups alone. */
fl_plan fl_plan_make(const fl_stack *stack, size_t T, size_t B, size_t max_threads, bool rows_only);

/* Up to FL_PLAN_WAYS plans for at most `max_threads`, one of which is the fastest; the first is that of least estimated time.
 * More than one where the machine decides: what a hand-over between threads costs differs by more than ten times. */
size_t fl_plan_candidates(const fl_stack *stack, size_t T, size_t B, size_t max_threads, bool rows_only,
                          fl_plan plans[FL_PLAN_WAYS]);

/* Steps whose input product is computed together ahead of the recurrence, for `rows` batch rows; 0: the product is
 * merged into the step. */
size_t fl_hoisted_steps(const fl_stack *stack, size_t I, size_t rows, size_t T);

/* Cache lines of one row of hidden units: what hidden groups divide among them. */
size_t fl_unit_lines(const fl_stack *stack);

/* Most rows of one such product, for row groups of at most `rows` rows, of any number of active rows when ragged. */
size_t fl_hoisted_rows(const fl_stack *stack, size_t I, size_t rows, size_t T, bool ragged);

/* Estimated nanoseconds of the input product of one step of a layer and direction on one thread. */
double fl_input_nanoseconds(const fl_stack *stack, size_t rows, size_t I);

/* Estimated nanoseconds of one recurrent step of a layer and direction on one thread: `rows` rows, 1/share of the hidden units. */
double fl_step_nanoseconds(const fl_stack *stack, size_t rows, size_t share);

#endif
