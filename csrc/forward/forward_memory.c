/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory of the forward driver.
 */
#include "forward/forward_call.h"

#define ROW_BYTES (sizeof(size_t) + sizeof(fl_ranked_row) + sizeof(ptrdiff_t)) /* call.rows, scratch, call.places.at */

/* Buffers between layers: two by turns within each layer group, and two for each hand-over to the next group; for two
 * directions one, which takes turns with y. */
static size_t between_count(const fl_stack *stack, const fl_plan *plan, const fl_saving *saving)
{
    if (stack->shape.num_layers == 1 || (saving != NULL && saving->h != NULL))
        return 0;
    if (stack->shape.num_directions == 2)
        return 1;
    return 2 * plan->layer_groups + 2 * (plan->layer_groups - 1);
}

/* Scratch of whole rows or scans, for one thread. */
static bool row_scratch_bytes(const fl_stack *stack, size_t rows, size_t hoisted_rows, size_t *bytes)
{
    const fl_cell_sizes *sizes = &stack->sizes;
    const size_t most = rows > hoisted_rows ? rows : hoisted_rows;
    const bool scans = stack->path == FL_PATH_SCAN;
    *bytes = FL_ALIGNMENT;
    if (stack->path != FL_PATH_ROWS && !scans && stack->shape.cell.proj_size == 0)
        return true;
    if (!fl_add_product(bytes, most + 8, 4 * stack->layout.lanes, stack->real_size) ||
        !fl_add_product(bytes, most, scans ? FL_SCAN_POINTERS : 2, sizeof(int64_t)) ||
        (!scans && !fl_add_product(bytes, rows, (sizes->gates + 1) * sizes->H + sizes->P, stack->real_size)))
        return false;
    *bytes = fl_round_up(*bytes);
    return true;
}

/* Rows of one buffer between layers: a chunk of time, or with two directions all steps. */
static bool between_rows(const fl_stack *stack, const fl_plan *plan, size_t T, size_t B, const int64_t *lengths,
                         size_t *rows)
{
    *rows = 0;
    if (!fl_add_product(rows, stack->shape.num_directions == 2 ? T : plan->chunk, B, 1))
        return false;
    if (stack->shape.num_directions == 2)
        *rows = fl_places_of(lengths, T, B, 0, NULL).count;
    return true;
}

bool fl_forward_map(const fl_stack *stack, const fl_plan *plan, size_t T, size_t B, const int64_t *lengths,
                    const fl_saving *saving, memory_map *map)
{
    const bool ragged = lengths != NULL;
    const size_t D = stack->shape.num_directions, H = stack->sizes.H, real_size = stack->real_size;
    const size_t deeper = stack->shape.num_layers > 1 ? fl_output_width(stack) : 0;
    const size_t widest = deeper > stack->shape.input_size ? deeper : stack->shape.input_size;
    const size_t parts = plan->row_groups * plan->direction_groups * plan->layer_groups;
    const bool on_rows = stack->path == FL_PATH_ROWS, scans = stack->path == FL_PATH_SCAN;
    const bool projects = stack->shape.cell.proj_size != 0;
    const size_t pre_width = scans ? 0 : on_rows ? stack->sizes.gates * H : stack->layout.gate_row;
    map->hoisted_rows = fl_hoisted_rows(stack, widest, plan->group_rows, T, ragged);
    map->total = 0;
    map->pre_bytes = 0;
    map->between_bytes = 0;
    map->zoned_bytes = 0;
    map->hidden_bytes = 0;
    if (!fl_add_product(&map->pre_bytes, map->hoisted_rows, pre_width, real_size) ||
        !fl_add_product(&map->pre_bytes, FL_ALIGNMENT, 1, 1) ||
        (fl_draws_zoneout(stack, saving) && !fl_add_product(&map->zoned_bytes, 2 * plan->group_rows, H, real_size)) ||
        (projects && !fl_add_product(&map->hidden_bytes, plan->group_rows, H, real_size)) ||
        !row_scratch_bytes(stack, plan->group_rows, map->hoisted_rows, &map->row_scratch_bytes))
        return false;
    map->pre_bytes = fl_round_up(map->pre_bytes);
    map->zoned_bytes = fl_round_up(map->zoned_bytes);
    map->hidden_bytes = fl_round_up(map->hidden_bytes);
    size_t kept;
    if (!between_rows(stack, plan, T, B, lengths, &kept) ||
        !fl_add_product(&map->between_bytes, kept, fl_output_width(stack), real_size))
        return false;
    map->between_bytes = fl_round_up(map->between_bytes);
    const bool drops = saving != NULL && saving->dropout > 0.0 && stack->shape.num_layers > 1;
    const size_t unit_bytes = stack->layout.blocks * stack->layout.units * real_size;
    const size_t masks = stack->shape.num_layers * D * fl_recurrent_masks(stack, saving);
    return fl_take_place(&map->total, &map->progress, plan->threads, sizeof(fl_counter), 1) &&
           fl_take_place(&map->total, &map->rows, ragged ? B : 0, ROW_BYTES, 1) &&
           fl_take_place(&map->total, &map->offsets, on_rows || scans ? 0 : plan->threads, map->hoisted_rows,
                         sizeof(ptrdiff_t)) &&
           fl_take_place(&map->total, &map->pre, parts, map->pre_bytes, 1) &&
           fl_take_place(&map->total, &map->exchange, plan->hidden_groups > 1 ? parts * 3 : 0, B, unit_bytes) &&
           fl_take_place(&map->total, &map->between, between_count(stack, plan, saving), map->between_bytes, 1) &&
           fl_take_place(&map->total, &map->dropped, drops, map->between_bytes, 1) &&
           fl_take_place(&map->total, &map->masks, masks * B, stack->sizes.P, real_size) &&
           fl_take_place(&map->total, &map->zoned, plan->threads, map->zoned_bytes, 1) &&
           fl_take_place(&map->total, &map->row_scratch, plan->threads, map->row_scratch_bytes, 1) &&
           fl_take_place(&map->total, &map->hidden, plan->threads, map->hidden_bytes, 1);
}

fl_status fl_forward_bytes(const fl_stack *stack, const fl_plan *plan, size_t T, size_t B, const int64_t *lengths,
                           const fl_saving *saving, size_t *bytes)
{
    memory_map map;
    if (!fl_forward_map(stack, plan, T, B, lengths, saving, &map))
        return FL_ERROR_SIZE;
    *bytes = map.total;
    return FL_OK;
}
