/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory of the forward driver.
 */
#include "forward/forward_call.h"

/* Buffers between layers: two by turns within each layer group, and two for each hand-over to the next group; for two
 * directions one, which takes turns with y. */
static size_t between_count(const fl_stack *stack, const fl_plan *plan, const fl_recording *recording)
{
    if (stack->shape.num_layers == 1 || (recording != NULL && recording->h != NULL))
        return 0;
    if (stack->shape.num_directions == 2)
        return 1;
    return 2 * plan->layer_groups + 2 * (plan->layer_groups - 1);
}

/* Rows of one buffer between layers: a chunk of time, or with two directions all steps. */
static size_t between_rows(fl_arena *arena, const fl_stack *stack, const fl_plan *plan, const fl_forward_args *args)
{
    const bool is_whole = stack->shape.num_directions == 2;
    size_t rows = 0;
    if (!fl_add_product(&rows, is_whole ? args->T : plan->chunk, args->B, 1))
        arena->overflows = true;
    else if (is_whole)
        rows = fl_places_of(args->lengths, args->T, args->B, 0, NULL).count;
    return rows;
}

/* A run of `count` parts of equal size; the bytes of one. */
static char *take_parts(fl_arena *arena, size_t count, size_t rows, size_t width, size_t real_size, size_t *bytes)
{
    *bytes = 0;
    if (!fl_add_product(bytes, rows, width, real_size) || !fl_add_product(bytes, FL_ALIGNMENT, 1, 1))
        arena->overflows = true;
    *bytes = fl_round_up(*bytes);
    return fl_arena_take(arena, count, *bytes, 1);
}

/* Memory of one thread. */
static void place_thread(fl_arena *arena, const fl_stack *stack, const fl_plan *plan, const fl_recording *recording,
                         size_t hoisted_rows, forward_scratch *scratch)
{
    const size_t H = stack->sizes.H, real_size = stack->real_size, lanes = stack->layout.lanes, rows = plan->group_rows;
    const size_t most = rows > hoisted_rows ? rows : hoisted_rows;
    const fl_path path = stack->sizes.path;
    const bool projects = stack->shape.cell.proj_size != 0;
    scratch->zoned_c = scratch->zoned_h = scratch->hidden = NULL;
    scratch->offsets = path == FL_PATH_TILES ? fl_arena_take(arena, hoisted_rows, sizeof(ptrdiff_t), 1) : NULL;
    if (fl_draws_zoneout(stack, recording)) {
        scratch->zoned_c = fl_arena_take(arena, rows, H, real_size);
        scratch->zoned_h = fl_arena_take(arena, rows, H, real_size);
    }
    if (path == FL_PATH_ROWS || projects)
        scratch->rows = fl_row_scratch_take(arena, &stack->sizes, most, rows, lanes, real_size, false);
    if (projects)
        scratch->hidden = fl_arena_take(arena, rows, H, real_size);
    if (path == FL_PATH_SCAN) {
        scan_rows *scan = &scratch->scan;
        scan->x = fl_arena_take(arena, most, sizeof(int64_t), 1);
        scan->h_before = fl_arena_take(arena, most, sizeof(void *), 1);
        scan->y = fl_arena_take(arena, most, sizeof(void *), 1);
        scan->saved = fl_arena_take(arena, most, sizeof(void *), 1);
        scan->totals = fl_arena_take(arena, most + 8, 4 * lanes, real_size);
    }
}

void fl_forward_place(fl_arena *arena, const fl_stack *stack, const fl_plan *plan, const fl_forward_args *args,
                      const fl_recording *recording, forward_memory *m)
{
    const bool ragged = args->lengths != NULL;
    const size_t B = args->B, P = stack->sizes.P, real_size = stack->real_size, width = fl_output_width(stack);
    const size_t cells = stack->shape.num_layers * stack->shape.num_directions;
    const size_t deeper = stack->shape.num_layers > 1 ? width : 0;
    const size_t widest = deeper > stack->shape.input_size ? deeper : stack->shape.input_size;
    const size_t parts = plan->row_groups * plan->direction_groups * plan->layer_groups;
    const size_t exchanged = stack->layout.blocks * stack->layout.units;
    m->hoisted_rows = fl_hoisted_rows(stack, widest, plan->group_rows, args->T, ragged);
    m->progress = fl_arena_take(arena, plan->threads, sizeof(fl_counter), 1);
    m->rows = ragged ? fl_arena_take(arena, B, sizeof *m->rows, 1) : NULL;
    m->ranked = ragged ? fl_arena_take(arena, B, sizeof *m->ranked, 1) : NULL;
    m->at = ragged ? fl_arena_take(arena, B, sizeof *m->at, 1) : NULL;
    m->pre = take_parts(arena, parts, m->hoisted_rows, stack->sizes.path != FL_PATH_SCAN ? fl_pre_width(stack) : 0,
                        real_size, &m->pre_bytes);
    m->exchange = fl_arena_take(arena, plan->hidden_groups > 1 ? parts * 3 : 0, B, exchanged * real_size);
    m->between = take_parts(arena, between_count(stack, plan, recording), between_rows(arena, stack, plan, args), width,
                            real_size, &m->between_bytes);
    m->dropped = fl_arena_take(arena, fl_drops(stack, recording), m->between_bytes, 1);
    m->masks = fl_arena_take(arena, cells * fl_recurrent_masks(stack, recording) * B, P, real_size);
    m->threads = fl_arena_take(arena, plan->threads, sizeof *m->threads, 1);
    for (size_t thread = 0; thread < plan->threads; thread++) {
        forward_scratch measured, *scratch = m->threads != NULL ? &m->threads[thread] : &measured;
        place_thread(arena, stack, plan, recording, m->hoisted_rows, scratch);
    }
}

fl_status fl_forward_bytes(const fl_stack *stack, const fl_plan *plan, const fl_forward_args *args,
                           const fl_recording *recording, size_t *bytes)
{
    fl_arena arena = {0};
    forward_memory memory;
    fl_forward_place(&arena, stack, plan, args, recording, &memory);
    *bytes = arena.used;
    return arena.overflows ? FL_ERROR_SIZE : FL_OK;
}
