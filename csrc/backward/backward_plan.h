/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The schedule of a backward pass.
 *
 * The sequence is cut into chunks of time by T and B alone.  A stage is one chunk of one layer and direction, and has two
 * parts.  The recurrent part goes through the chunk's steps against time, each thread with its own batch rows, and ends
 * with the gradient of the layer's input.  The shared part adds the chunk's rows to the gradients of the parameters; threads
 * divide its outputs.  A shared part begins when all recurrent parts of its stage are done.  What passes from the one to
 * the other has two buffers, so that recurrent parts may be a stage ahead.
 */
#ifndef FL_BACKWARD_PLAN_H
#define FL_BACKWARD_PLAN_H
#include "stack/stack.h"

/* Threads: the first `groups` have rows of their own; those from `first_sharing` on do the shared part. */
typedef struct back_plan {
    size_t threads, groups, first_sharing;
    size_t chunk, chunks; /* steps; number */
    size_t group;         /* chunks whose rows are summed before totals take them up */
    bool folds;           /* whether there are several groups, or a chunk is */
} back_plan;

/* Products over rows are sums of float32, as far as that is exact enough: FL_PASS_ROWS rows at a time, FL_GROUP_PASSES
 * times (4096 rows: in the worst case, equal terms, 8e-7).  Where rows are more, those sums go to totals of two parts
 * (fl_fold), so that the error does not grow with their number. */
#define FL_PASS_ROWS 256
#define FL_GROUP_PASSES 16

typedef struct stage {
    size_t layer, direction;
    size_t begin, end; /* steps */
    size_t number;     /* among those of this layer and direction: */
    bool is_first, is_last;
} stage;

/* Steps of a chunk.  Gradients are summed chunk by chunk, so it is a function of the sizes alone: neither of threads nor
 * of the machine. */
size_t fl_back_chunk(const fl_stack *stack, size_t T, size_t B);
/* Up to FL_PLAN_WAYS plans of at most `max_threads`, one of which is the fastest; the first is that which seems so. */
size_t fl_back_plan_candidates(const fl_stack *stack, size_t T, size_t B, size_t max_threads,
                               back_plan plans[FL_PLAN_WAYS]);
/* The first of them. */
back_plan fl_back_plan_make(const fl_stack *stack, size_t T, size_t B, size_t max_threads);
/* Stage `index` of L*D*chunks. */
stage fl_back_stage(const fl_stack *stack, const back_plan *plan, size_t T, size_t index);

#endif
