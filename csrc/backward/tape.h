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

struct fl_tape {
    const fl_stack *stack; /* that recorded; null: nothing is recorded */
    fl_record_args args;
    fl_recording recording;
    size_t used; /* bytes of `kept` */
    fl_workspace kept;
    fl_workspace workspace; /* of the forward driver */
    fl_workspace scratch;   /* of the backward pass, which leaves there for fl_tape_index_gradient: */
    fl_index_gradient index_gradient;
};

/* Memory for what a pass keeps, and tape->recording for the driver. */
fl_status fl_tape_prepare(fl_tape *tape, const fl_stack *stack, const fl_record_args *args);

#endif
