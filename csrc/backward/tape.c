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

size_t fl_tape_bytes(const fl_tape *tape) { return tape != NULL && tape->stack != NULL ? tape->pass.used : 0; }

const void *fl_tape_reserve(const fl_tape *tape) { return fl_tape_bytes(tape) != 0 ? tape->kept.memory : NULL; }

/* Steps between the states that are kept; 0: all are.  Cells whose gates follow from states alone compute those again; for
 * others that means a chunk of the backward pass at a time, from its first states. */
static size_t segment_of(const fl_stack *stack, const fl_record_args *args)
{
    if (args->save == FL_SAVE_ALL || (args->save == FL_SAVE_STATES && stack->sizes.gates_from_states))
        return 0;
    return args->save == FL_SAVE_STATES ? fl_back_chunk(stack, args->call.T, args->call.B) : args->save;
}

static fl_recording recording_of(const fl_stack *stack, const fl_record_args *args)
{
    const fl_forward_args *call = &args->call;
    fl_recording r = {.layers = stack->shape.num_layers,
                      .segment = segment_of(stack, args),
                      .reset = args->reset,
                      .dropout = args->dropout,
                      .dropout_tied = args->dropout_tied,
                      .seed = args->seed,
                      .draws = args->draws,
                      .first_cell = args->first_cell,
                      .mask_T = call->T};
    r.places = fl_places_of(call->lengths, call->T, call->B, 0, NULL);
    if (r.segment != 0)
        r.checked = fl_places_of(call->lengths, call->T, call->B, r.segment, NULL);
    return r;
}

/* What the driver writes. */
static void place_numbers(fl_arena *arena, const fl_stack *stack, const fl_record_args *args, fl_recording *r)
{
    const size_t L = stack->shape.num_layers, D = stack->shape.num_directions, P = stack->sizes.P;
    const size_t states = fl_states_width(&stack->sizes), real_size = stack->real_size;
    /* Counts of places are those of the call's arrays, which fit; counts of layers times places may not. */
    if (args->save == FL_SAVE_ALL)
        r->gates = fl_arena_take(arena, r->places.count, L * D * stack->sizes.saved, real_size);
    if (r->segment == 0) {
        r->c = fl_arena_take(arena, r->places.count, L * D * states, real_size);
        r->h = L > 1 ? fl_arena_take(arena, r->places.count, (L - 1) * D * P, real_size) : NULL;
    } else {
        r->checkpoints = fl_arena_take(arena, r->checked.count, L * D * (P + states), real_size);
    }
}

/* `at` and `checked_at` (B) say where rows of different lengths lie, `any_reset` (T). */
typedef struct small_places {
    ptrdiff_t *at, *checked_at;
    uint8_t *any_reset;
} small_places;

static small_places place_small(fl_arena *arena, const fl_record_args *args, const fl_recording *r)
{
    const size_t B = args->call.B;
    small_places small = {NULL, NULL, NULL};
    if (args->call.lengths != NULL) {
        small.at = fl_arena_take(arena, B, sizeof(ptrdiff_t), 1);
        small.checked_at = r->segment == 0 ? NULL : fl_arena_take(arena, B, sizeof(ptrdiff_t), 1);
    }
    if (args->reset != NULL)
        small.any_reset = fl_arena_take(arena, args->call.T, 1, 1);
    return small;
}

static void fill_small(const fl_record_args *args, small_places small, fl_recording *r)
{
    const size_t T = args->call.T, B = args->call.B;
    r->places = fl_places_of(args->call.lengths, T, B, 0, small.at);
    if (r->segment != 0)
        r->checked = fl_places_of(args->call.lengths, T, B, r->segment, small.checked_at);
    for (size_t t = 0; t < T && args->reset != NULL; t++) {
        small.any_reset[t] = 0;
        for (size_t b = 0; b < B; b++) small.any_reset[t] |= args->reset[t * B + b] != 0;
    }
    r->any_reset = small.any_reset;
}

fl_status fl_recorded_in(fl_recorded *pass, const fl_stack *stack, const fl_record_args *args, void *reserve,
                         size_t bytes, fl_workspace *small)
{
    fl_recording r = recording_of(stack, args);
    fl_arena numbers = {.memory = reserve, .bytes = bytes}, arena = {0};
    place_numbers(&numbers, stack, args, &r);
    (void)place_small(&arena, args, &r);
    if (numbers.overflows || arena.overflows)
        return FL_ERROR_SIZE;
    if (numbers.used > bytes || (numbers.used != 0 && reserve == NULL))
        return FL_ERROR_ARGUMENT;
    if (arena.used != 0 && !fl_workspace_fit(small, arena.used))
        return FL_ERROR_MEMORY;
    arena = fl_arena_of(small);
    fill_small(args, place_small(&arena, args, &r), &r);
    pass->args = *args;
    pass->recording = r;
    pass->used = numbers.used;
    return FL_OK;
}

fl_status fl_recorded_take(fl_recorded *pass, const fl_stack *stack, const fl_record_args *args, fl_workspace *kept)
{
    fl_recording r = recording_of(stack, args);
    fl_arena arena = {0};
    place_numbers(&arena, stack, args, &r);
    (void)place_small(&arena, args, &r);
    if (arena.overflows)
        return FL_ERROR_SIZE;
    if (!fl_workspace_fit(kept, arena.used))
        return FL_ERROR_MEMORY;
    pass->used = arena.used;
    arena = fl_arena_of(kept);
    place_numbers(&arena, stack, args, &r);
    fill_small(args, place_small(&arena, args, &r), &r);
    pass->args = *args;
    pass->recording = r;
    return FL_OK;
}

fl_status fl_recorded_size(const fl_stack *stack, const fl_record_args *args, size_t *bytes)
{
    fl_recording r = recording_of(stack, args);
    fl_arena arena = {0};
    place_numbers(&arena, stack, args, &r);
    *bytes = arena.used;
    return arena.overflows ? FL_ERROR_SIZE : FL_OK;
}
