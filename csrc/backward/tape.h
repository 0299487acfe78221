/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a recorded forward pass keeps.  Made by tape.c, read by the backward pass.
 */
#ifndef FL_TAPE_H
#define FL_TAPE_H
#include "stack/recording.h"

/* Gradients of weight_ih by input, transposed, of the inputs that occur; `used` ascends. */
typedef struct fl_index_gradient {
    size_t count;
    int64_t *used;
    char *rows[2]; /* (count, G*H) by direction, or null */
} fl_index_gradient;

/* A recorded pass: what it was asked for, and where that is which it keeps. */
typedef struct fl_recorded {
    fl_record_args args;
    fl_recording recording;
    size_t used; /* bytes that it keeps */
} fl_recorded;

/* Bytes of the numbers that a pass keeps. */
fl_status fl_recorded_size(const fl_stack *stack, const fl_record_args *args, size_t *bytes);
/* These numbers in `reserve`, of at least that many bytes; and what follows from the arguments, in
 * `small`, which is made to fit, so that nothing in a reserve says where anything is. */
fl_status fl_recorded_in(fl_recorded *pass, const fl_stack *stack, const fl_record_args *args, void *reserve,
                         size_t bytes, fl_workspace *small);
/* Both in one workspace, which is made to fit. */
fl_status fl_recorded_take(fl_recorded *pass, const fl_stack *stack, const fl_record_args *args, fl_workspace *kept);

struct fl_tape {
    const fl_stack *stack; /* that recorded; null: nothing is recorded */
    fl_recorded pass;
    fl_workspace kept;
    fl_workspace workspace; /* of the forward driver */
    fl_workspace scratch;   /* of the backward pass, which leaves there for fl_tape_index_gradient: */
    fl_index_gradient index_gradient;
};

#endif
