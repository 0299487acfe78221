/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a recorded forward pass keeps.  Made by tape.c, read by the backward pass.
 */
#ifndef FL_TAPE_H
#define FL_TAPE_H
#include "forward/forward.h"

typedef struct fl_block {
    size_t bytes;
    char *memory;
} fl_block;

/* At least that many bytes; the old content is lost.  False, and an empty block, where there is no memory. */
bool fl_block_grow(fl_block *block, size_t bytes);

/* Steps of a chunk of the backward pass. */
size_t fl_back_chunk(size_t T, size_t B);

struct fl_tape {
    const fl_stack *stack; /* that recorded; null: nothing is recorded */
    fl_record_args args;
    fl_saving saving;
    size_t used; /* bytes of `kept` */
    fl_block kept;
    fl_workspace workspace; /* of the forward driver */
    fl_block scratch;       /* of the backward pass */
};

#endif
