/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a recorded pass keeps, and where.
 */
#include "backward/tape.h"

#include <stdlib.h>

#include "backward/backward_plan.h"

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

/* Steps between the states that are kept; 0: all are.  Cells whose gates follow from states alone compute those again; for
 * others that means a chunk of the backward pass at a time, from its first states. */
static size_t segment_of(const fl_stack *stack, const fl_record_args *args)
{
    if (args->save == FL_SAVE_ALL || (args->save == FL_SAVE_STATES && stack->sizes.gates_from_states))
        return 0;
    return args->save == FL_SAVE_STATES ? fl_back_chunk(stack, args->call.T, args->call.B) : args->save;
}

/* Of what is kept; `at` and `checked_at` (B) say where rows of different lengths lie, `any_reset` (T). */
typedef struct kept_places {
    ptrdiff_t *at, *checked_at;
    uint8_t *any_reset;
} kept_places;

static kept_places place(fl_arena *arena, const fl_stack *stack, const fl_record_args *args, fl_recording *r)
{
    const size_t T = args->call.T, B = args->call.B, L = stack->shape.num_layers, D = stack->shape.num_directions;
    const size_t P = stack->sizes.P, states = fl_states_width(&stack->sizes), real_size = stack->real_size;
    const bool ragged = args->call.lengths != NULL, keeps_states = r->segment == 0;
    kept_places small = {NULL, NULL, NULL};
    /* Counts of places are those of the call's arrays, which fit; counts of layers times places may not. */
    if (args->save == FL_SAVE_ALL)
        r->gates = fl_arena_take(arena, r->places.count, L * D * stack->sizes.saved, real_size);
    if (keeps_states) {
        r->c = fl_arena_take(arena, r->places.count, L * D * states, real_size);
        r->h = L > 1 ? fl_arena_take(arena, r->places.count, (L - 1) * D * P, real_size) : NULL;
    } else {
        r->checkpoints = fl_arena_take(arena, r->checked.count, L * D * (P + states), real_size);
    }
    if (ragged) {
        small.at = fl_arena_take(arena, B, sizeof(ptrdiff_t), 1);
        small.checked_at = keeps_states ? NULL : fl_arena_take(arena, B, sizeof(ptrdiff_t), 1);
    }
    if (args->reset != NULL)
        small.any_reset = fl_arena_take(arena, T, 1, 1);
    return small;
}

fl_status fl_tape_prepare(fl_tape *tape, const fl_stack *stack, const fl_record_args *args)
{
    const size_t T = args->call.T, B = args->call.B;
    const int64_t *lengths = args->call.lengths;
    fl_recording r = {.layers = stack->shape.num_layers,
                      .segment = segment_of(stack, args),
                      .reset = args->reset,
                      .dropout = args->dropout,
                      .dropout_tied = args->dropout_tied,
                      .seed = args->seed,
                      .draws = args->draws,
                      .first_cell = args->first_cell,
                      .mask_T = T};
    r.places = fl_places_of(lengths, T, B, 0, NULL);
    if (r.segment != 0)
        r.checked = fl_places_of(lengths, T, B, r.segment, NULL);
    fl_arena arena = {0};
    place(&arena, stack, args, &r);
    if (arena.overflows)
        return FL_ERROR_SIZE;
    if (!fl_workspace_fit(&tape->kept, arena.used))
        return FL_ERROR_MEMORY;
    tape->used = arena.used;
    arena = fl_arena_of(&tape->kept);
    const kept_places small = place(&arena, stack, args, &r);
    r.places = fl_places_of(lengths, T, B, 0, small.at);
    if (r.segment != 0)
        r.checked = fl_places_of(lengths, T, B, r.segment, small.checked_at);
    for (size_t t = 0; t < T && args->reset != NULL; t++) {
        small.any_reset[t] = 0;
        for (size_t b = 0; b < B; b++) small.any_reset[t] |= args->reset[t * B + b] != 0;
    }
    r.any_reset = small.any_reset;
    tape->recording = r;
    return FL_OK;
}
