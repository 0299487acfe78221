/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Recording a forward pass.
 */
#include "backward/tape.h"

#include <stdlib.h>
#include <string.h>

fl_status fl_tape_create(fl_tape **tape)
{
    if (tape == NULL)
        return FL_ERROR_ARGUMENT;
    *tape = calloc(1, sizeof **tape);
    return *tape != NULL ? FL_OK : FL_ERROR_MEMORY;
}

void fl_tape_destroy(fl_tape *tape)
{
    if (tape == NULL)
        return;
    fl_release(tape->kept.memory);
    fl_release(tape->workspace.memory);
    fl_release(tape->scratch.memory);
    free(tape);
}

size_t fl_tape_bytes(const fl_tape *tape) { return tape != NULL && tape->stack != NULL ? tape->used : 0; }

bool fl_block_grow(fl_block *block, size_t bytes)
{
    if (block->bytes >= bytes && block->memory != NULL)
        return true;
    fl_release(block->memory); /* first, so that there are never both */
    block->memory = fl_allocate(bytes);
    block->bytes = block->memory != NULL ? bytes : 0;
    return block->memory != NULL;
}

/* Steps between the states that are kept; 0: all are.  Only the plain LSTM computes gates again from states alone; for other
 * cells that means a chunk of the backward pass at a time, from its first states. */
static size_t segment_of(const fl_stack *stack, const fl_record_args *args)
{
    if (args->save == FL_SAVE_ALL || (args->save == FL_SAVE_STATES && stack->path == FL_PATH_LSTM))
        return 0;
    return args->save == FL_SAVE_STATES ? fl_back_chunk(args->call.T, args->call.B) : args->save;
}

static fl_status keep(fl_tape *tape, const fl_stack *stack, const fl_record_args *args)
{
    const size_t T = args->call.T, B = args->call.B, L = stack->shape.num_layers, segment = segment_of(stack, args);
    const size_t cells = L * stack->shape.num_directions, P = stack->sizes.P, width = fl_states_width(stack);
    const bool keeps_gates = args->save == FL_SAVE_ALL, keeps_states = segment == 0;
    const int64_t *lengths = args->call.lengths;
    const size_t places = fl_places_of(lengths, T, B, 0, NULL).count;
    const size_t checkpoints = keeps_states ? 0 : fl_places_of(lengths, T, B, segment, NULL).count;
    const size_t row_places = lengths != NULL ? (keeps_states ? B : 2 * B) : 0;
    size_t steps = 0, states = 0, small = 0, total = 0, gates, c, h, saved, at;
    if (!fl_add_product(&steps, cells, places, 1) || !fl_add_product(&states, cells, checkpoints, 1) ||
        !fl_add_product(&small, row_places, sizeof(ptrdiff_t), 1) ||
        !fl_add_product(&small, args->reset != NULL ? T : 0, 1, 1) ||
        !fl_take_place(&total, &gates, keeps_gates ? steps : 0, stack->sizes.saved, stack->real_size) ||
        !fl_take_place(&total, &c, keeps_states ? steps : 0, width, stack->real_size) ||
        !fl_take_place(&total, &h, keeps_states ? steps - steps / L : 0, P, stack->real_size) ||
        !fl_take_place(&total, &saved, states, P + width, stack->real_size) || !fl_take_place(&total, &at, small, 1, 1))
        return FL_ERROR_SIZE;
    if (!fl_block_grow(&tape->kept, total))
        return FL_ERROR_MEMORY;
    tape->used = total;
    char *base = tape->kept.memory;
    ptrdiff_t *row_at = (ptrdiff_t *)(void *)(base + at);
    uint8_t *any = (uint8_t *)(row_at + row_places);
    for (size_t t = 0; t < T && args->reset != NULL; t++) {
        any[t] = 0;
        for (size_t b = 0; b < B; b++) any[t] |= args->reset[t * B + b] != 0;
    }
    const fl_saving saving = {.layers = L,
                              .gates = keeps_gates ? base + gates : NULL,
                              .c = keeps_states ? base + c : NULL,
                              .h = keeps_states && L > 1 ? base + h : NULL,
                              .places = fl_places_of(lengths, T, B, 0, row_at),
                              .checkpoints = keeps_states ? NULL : base + saved,
                              .segment = segment,
                              .reset = args->reset,
                              .any_reset = any,
                              .dropout = args->dropout,
                              .seed = args->seed,
                              .draws = args->draws,
                              .first_cell = args->first_cell,
                              .mask_T = T};
    tape->saving = saving;
    if (!keeps_states)
        tape->saving.checked = fl_places_of(lengths, T, B, segment, lengths != NULL ? row_at + B : NULL);
    return FL_OK;
}

fl_status fl_stack_record(const fl_stack *stack, const fl_record_args *args, fl_tape *tape)
{
    if (args == NULL || tape == NULL || !(args->dropout >= 0.0 && args->dropout <= 1.0))
        return FL_ERROR_ARGUMENT;
    fl_status status = fl_check_args(stack, &args->call);
    if (status != FL_OK)
        return status;
    const fl_forward_args *call = &args->call;
    if (call->B != 0 && (call->h_n == call->h0 || (call->c_n != NULL && call->c_n == call->c0)))
        return FL_ERROR_ARGUMENT;
    tape->stack = NULL;
    status = keep(tape, stack, args);
    if (status == FL_OK && call->B != 0) {
        fl_fp_state caller_state = fl_fp_enter(true);
        status = fl_forward_planned(stack, call, &tape->saving, &tape->workspace, &caller_state);
        fl_fp_leave(caller_state);
    }
    if (status == FL_OK) {
        tape->args = *args;
        tape->stack = stack;
    }
    return status;
}
