/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a recorded call keeps and does beside, and the masks that it draws.
 */
#ifndef FL_RECORDING_H
#define FL_RECORDING_H
#include "base/ragged.h"
#include "stack/stack.h"

/* Arrays of recurrences are (L*D, places.count, ...), contiguous. */
typedef struct fl_recording {
    size_t layers;      /* layers to run: the first ones; y is the output of the last of them */
    size_t first_layer; /* whose gates and c are saved first; arrays begin with it */
    char *gates;        /* what the cell saves; may be null */
    char *c;            /* states beside h, (n*H); may be null */
    char *h;            /* outputs of all layers but the last, (layers - 1, places.count, D*P); may be null */
    fl_places places;   /* of the call's steps */
    char *checkpoints;  /* before steps segment, 2 segment, ...: (L*D, checked.count) of h (P), c (n*H); may be null */
    fl_places checked;  /* of these, n - 1 for step n segment; there are none behind the end of a row */
    size_t segment;     /* 0: states of all steps are kept */
    const uint8_t *reset; /* (., B), from the call's first step on: no state passes to this step from the one before */
    const uint8_t *any_reset; /* (.): whether a row has one */
    double dropout;           /* between layers */
    bool dropout_tied;        /* one mask for all steps */
    uint64_t seed;            /* of all masks */
    bool draws;               /* the cell's own masks */
    size_t first_cell;        /* number of the first recurrence, where the stack is part of a larger one */
    size_t mask_T;            /* of the whole sequence, of which the call */
    size_t mask_origin;       /* begins at this step */
} fl_recording;

/* In all of these a null recording is a call that is not recorded. */

/* Whether a step draws masks of zoneout. */
static inline bool fl_draws_zoneout(const fl_stack *stack, const fl_recording *recording)
{
    const fl_cell_options *o = &stack->shape.cell;
    return recording != NULL && recording->draws && (o->zoneout_c > 0.0 || o->zoneout_h > 0.0);
}

/* Masks of recurrent dropout of all recurrences, (L*D, M, B, P) with M of one for each gate or 1; 0: none. */
static inline size_t fl_recurrent_masks(const fl_stack *stack, const fl_recording *recording)
{
    const fl_cell_options *o = &stack->shape.cell;
    if (recording == NULL || !recording->draws || !(o->recurrent_dropout > 0.0))
        return 0;
    return o->recurrent_dropout_tied ? 1 : stack->sizes.gates;
}

/* Whether there is dropout between layers. */
static inline bool fl_drops(const fl_stack *stack, const fl_recording *recording)
{
    return recording != NULL && recording->dropout > 0.0 && stack->shape.num_layers > 1;
}

/* Whether each row's steps depend on state that only its own thread may touch: no hidden groups, no split directions. */
static inline bool fl_recording_needs_rows(const fl_stack *stack, const fl_recording *recording)
{
    return recording != NULL &&
           (recording->reset != NULL || fl_draws_zoneout(stack, recording) || fl_drops(stack, recording));
}

void fl_fill_recurrent_masks(const fl_stack *stack, const fl_recording *recording, size_t B, void *masks);
/* Masks of zoneout of one row of one step, 1 where the old value is kept: that of c and that of h, H elements each. */
void fl_fill_zoneout(const fl_stack *stack, const fl_recording *recording, size_t recurrence, size_t t, size_t B,
                     size_t b, void *of_c, void *of_h);
/* The input row of layer `layer` > 0 at step t, from the output of the layer below, or gradients likewise; in may be out. */
void fl_drop_row(const fl_stack *stack, const fl_recording *recording, size_t layer, size_t t, size_t B, size_t b,
                 const void *in, void *out);

#endif
