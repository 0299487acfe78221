/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward driver below the public API: for forward.c's callers that bring their own memory and plan.
 */
#ifndef FL_FORWARD_H
#define FL_FORWARD_H
#include "base/fp_state.h"
#include "forward/plan.h"
#include "base/ragged.h"

/* What a recorded call keeps and does beside.  Arrays of cells are (L*D, places.count, ...), contiguous. */
typedef struct fl_saving {
    size_t layers;      /* layers to run: the first ones; y is the output of the last of them */
    size_t first_layer; /* whose gates and c are saved first; arrays begin with it */
    char *gates;        /* what the cell saves; may be null */
    char *c;            /* states beside h, (n*H); may be null */
    char *h;            /* outputs of all layers but the last, (layers - 1, places.count, D*P); may be null */
    fl_places places;   /* of the call's steps */
    char *checkpoints;  /* before steps segment, 2 segment, ...: (L*D, checked.count) of h (P), c (n*H); may be null */
    fl_places checked;  /* of these, n - 1 for step n segment; there are none behind the end of a row */
    size_t segment;
    const uint8_t *reset; /* (., B), from the call's first step on: no state passes to this step from the one before */
    const uint8_t *any_reset; /* (.): whether a row has one */
    double dropout;           /* between layers */
    uint64_t seed;            /* of all masks */
    bool draws;               /* the cell's own masks */
    size_t first_cell;        /* number of the first cell, where the stack is part of a larger one */
    size_t mask_T;            /* of the whole sequence, of which the call */
    size_t mask_origin;       /* begins at this step */
} fl_saving;

/* Whether a step draws masks of zoneout. */
static inline bool fl_draws_zoneout(const fl_stack *stack, const fl_saving *saving)
{
    const fl_cell_options *o = &stack->shape.cell;
    return saving != NULL && saving->draws && (o->zoneout_c > 0.0 || o->zoneout_h > 0.0);
}

/* Masks of recurrent dropout of all cells, (L*D, M, B, P) with M of one for each gate or 1; 0: none. */
static inline size_t fl_recurrent_masks(const fl_stack *stack, const fl_saving *saving)
{
    const fl_cell_options *o = &stack->shape.cell;
    if (saving == NULL || !saving->draws || !(o->recurrent_dropout > 0.0))
        return 0;
    return o->recurrent_dropout_tied ? 1 : stack->sizes.gates;
}

void fl_fill_recurrent_masks(const fl_stack *stack, const fl_saving *saving, size_t B, void *masks);
/* Masks of one row of one step: 1 where the old value is kept. */
void fl_fill_zoneout(const fl_stack *stack, const fl_saving *saving, bool of_h, size_t cell, size_t t, size_t B,
                     size_t b, void *mask);

/* Whether each row's steps depend on state that only its own thread may touch: no hidden groups, no split directions. */
static inline bool fl_saving_needs_rows(const fl_stack *stack, const fl_saving *saving)
{
    return saving != NULL && (saving->reset != NULL || fl_draws_zoneout(stack, saving) ||
                              (saving->dropout > 0.0 && stack->shape.num_layers > 1));
}

/* Everything that an outside caller can get wrong. */
fl_status fl_check_args(const fl_stack *stack, const fl_forward_args *args);
/* Bytes of workspace of a plan; `lengths` as in fl_forward_args, `saving` null for a call that is not recorded, here and
 * below. */
fl_status fl_forward_bytes(const fl_stack *stack, const fl_plan *plan, size_t T, size_t B, const int64_t *lengths,
                           const fl_saving *saving, size_t *bytes);
/* Run checked arguments, between fl_fp_enter(true), which returned *caller_state, and fl_fp_leave.  With one thread: no
 * allocation, no lock, no system call (unless args->interrupt is set). */
fl_status fl_forward_run(const fl_stack *stack, const fl_forward_args *args, const fl_plan *plan,
                         const fl_saving *saving, fl_workspace *workspace, fl_fp_state *caller_state);
/* Plan, take threads and memory, run checked arguments; between fl_fp_enter and fl_fp_leave likewise.  The workspace grows
 * as needed; null: the layer's spare one. */
fl_status fl_forward_planned(const fl_stack *stack, const fl_forward_args *args, const fl_saving *saving,
                             fl_workspace *workspace, fl_fp_state *caller_state);

#endif
