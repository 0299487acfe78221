/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward driver: all threads of a plan execute run_thread() and find their part by their place in the plan's grid;
 * they meet only through counters.  What one layer and direction do is in forward_cell.c.
 */
#include "forward/forward_call.h"

#include <string.h>

#include "base/random.h"

static char *between_buffer(const call *c, size_t index) { return c->between + index * c->between_bytes; }

/* Outputs of a layer, all steps of the call. */
static sequence whole_sequence(const call *c, char *base)
{
    const size_t width = fl_output_width(c->stack);
    const sequence whole = {base, 0, (ptrdiff_t)(c->places.stride_t * width), (ptrdiff_t)width, c->places.at};
    return whole;
}

/* The same, from step `begin` of a chunk on. */
static sequence chunk_sequence(const call *c, char *base, size_t begin)
{
    const size_t width = fl_output_width(c->stack);
    const sequence chunk = {base, begin, (ptrdiff_t)(c->args->B * width), (ptrdiff_t)width, NULL};
    return chunk;
}

/* Where a recorded call keeps the output of a layer that is not the last. */
static sequence kept_output(const call *c, size_t layer)
{
    const size_t bytes = c->places.count * fl_output_width(c->stack) * c->stack->real_size;
    return whole_sequence(c, c->saving->h + layer * bytes);
}

/* Input of a layer above the first in steps [begin, end): `in`, or a copy of it with some elements dropped. */
static sequence dropped_input(const part *p, size_t layer, sequence in, size_t begin, size_t end)
{
    const call *c = p->call;
    const fl_saving *saving = c->saving;
    if (saving == NULL || saving->dropout == 0.0)
        return in;
    const size_t real_size = c->stack->real_size, width = fl_output_width(c->stack);
    const sequence dropped =
        c->stack->shape.num_directions == 2 ? whole_sequence(c, c->dropped) : chunk_sequence(c, c->dropped, begin);
    for (size_t position = 0; position < p->B; position++) {
        const size_t b = p->rows != NULL ? p->rows[position] : p->first_row + position;
        const size_t length = length_at(p, position), stop = length < end ? length : end;
        const ptrdiff_t place = in.at != NULL ? in.at[b] : (ptrdiff_t)b;
        const ptrdiff_t to = dropped.at != NULL ? dropped.at[b] : (ptrdiff_t)b;
        for (size_t t = begin; t < stop; t++) {
            const size_t row = ((layer - 1) * saving->mask_T + saving->mask_origin + t) * c->args->B + b;
            fl_dropout(c->stack->shape.dtype, saving->dropout, saving->seed, (uint64_t)row * width, width,
                       at_time(&in, t, real_size) + place * in.stride_b * (ptrdiff_t)real_size,
                       at_time(&dropped, t, real_size) + to * dropped.stride_b * (ptrdiff_t)real_size);
        }
    }
    return dropped;
}

/* Unidirectional: chunks of time pass through the layers; layer groups form a pipeline. */
static void run_stack(part *p)
{
    call *c = p->call;
    const fl_forward_args *args = c->args;
    const size_t L = call_layers(c->stack, c->saving), groups = c->plan.layer_groups;
    const size_t first = fl_group_begin(L, groups, p->layer_group),
                 last = fl_group_begin(L, groups, p->layer_group + 1);
    const size_t hidden = c->plan.hidden_groups;
    const bool keeps = c->saving != NULL && c->saving->h != NULL;
    const fl_counter *before = &c->progress[p->thread - (p->layer_group > 0 ? hidden : 0)];
    const fl_counter *after = &c->progress[p->thread + hidden * (p->layer_group + 1 < groups)];
    uint64_t chunk = 0;
    for (size_t begin = 0, end; begin < args->T && !p->stopped; begin = end, chunk++) {
        end = args->T - begin > c->plan.chunk ? begin + c->plan.chunk : args->T;
        /* Input from the group before, and room in the hand-over to the group after. */
        if ((p->layer_group > 0 && !fl_wait(before, chunk + 1, &c->interrupt.stop, NULL)) ||
            (p->layer_group + 1 < groups && chunk >= 2 && !fl_wait(after, chunk - 1, &c->interrupt.stop, NULL))) {
            p->stopped = true;
            return;
        }
        for (size_t layer = first; layer < last && !p->stopped; layer++) {
            sequence in = {(char *)(uintptr_t)args->x, 0, args->x_stride_t, args->x_stride_b, args->x_at};
            sequence out = {args->y, 0, args->y_stride_t, args->y_stride_b, args->y_at};
            const sequence inner = chunk_sequence(c, NULL, begin);
            const size_t hand_over = 2 * groups + (size_t)(chunk % 2);
            if (layer > 0 && keeps) {
                in = kept_output(c, layer - 1);
            } else if (layer > 0) {
                in = inner;
                in.base = layer == first ? between_buffer(c, hand_over + 2 * (p->layer_group - 1))
                                         : between_buffer(c, 2 * p->layer_group + (layer - 1) % 2);
            }
            if (layer + 1 < L && keeps) {
                out = kept_output(c, layer);
            } else if (layer + 1 < L) {
                out = inner;
                out.base = layer + 1 == last ? between_buffer(c, hand_over + 2 * p->layer_group)
                                             : between_buffer(c, 2 * p->layer_group + layer % 2);
            }
            if (layer > 0)
                in = dropped_input(p, layer, in, begin, end);
            fl_forward_cell(p, layer, 0, &in, layer == 0 ? args->x_index : NULL, &out, begin, end);
        }
        if (groups > 1 && !p->stopped)
            atomic_store_explicit(&c->progress[p->thread].value, chunk + 1, memory_order_release);
    }
}

/* Bidirectional: layer after layer over the whole sequence; y and one buffer take turns, so that the last layer's
 * output is y. */
static void run_bidirectional(part *p)
{
    call *c = p->call;
    const fl_forward_args *args = c->args;
    const size_t L = call_layers(c->stack, c->saving);
    const size_t members = c->plan.direction_groups * c->plan.hidden_groups;
    const size_t first = p->group * members;
    const bool keeps = c->saving != NULL && c->saving->h != NULL;
    const sequence y = {args->y, 0, args->y_stride_t, args->y_stride_b, args->y_at};
    const sequence buffer = whole_sequence(c, c->between);
    sequence out = {(char *)(uintptr_t)args->x, 0, args->x_stride_t, args->x_stride_b, args->x_at};
    for (size_t layer = 0; layer < L && !p->stopped; layer++) {
        const sequence in = layer == 0 ? out : dropped_input(p, layer, out, 0, args->T);
        out = layer + 1 < L && keeps ? kept_output(c, layer) : (L - 1 - layer) % 2 == 0 ? y : buffer;
        for (size_t direction = 0; direction < 2; direction++)
            if (c->plan.direction_groups == 1 || direction == p->direction_group)
                fl_forward_cell(p, layer, direction, &in, layer == 0 ? args->x_index : NULL, &out, 0, args->T);
        if (members > 1 && !p->stopped) {
            /* Hidden groups count steps on the same counter; a layer ends for all of them at the same count. */
            if (c->plan.hidden_groups == 1)
                atomic_store_explicit(&c->progress[p->thread].value, p->seq, memory_order_release);
            for (size_t member = first; member < first + members; member++)
                if (!fl_wait(&c->progress[member], p->seq, &c->interrupt.stop, NULL)) {
                    p->stopped = true;
                    break;
                }
        }
    }
}

/* Rows of an output are zero from the end of each on. */
static void clear_rows(const part *p, void *base, ptrdiff_t stride_t, ptrdiff_t stride_b, size_t width)
{
    const size_t real_size = p->call->stack->real_size;
    for (size_t position = 0; position < p->B; position++)
        for (size_t t = length_at(p, position); t < p->call->args->T; t++)
            memset((char *)base +
                       ((ptrdiff_t)t * stride_t + (ptrdiff_t)p->rows[position] * stride_b) * (ptrdiff_t)real_size,
                   0, width * real_size);
}

static void clear_padding(const part *p)
{
    const fl_forward_args *args = p->call->args;
    const size_t D = p->call->stack->shape.num_directions;
    if (p->rows == NULL || args->y_at != NULL)
        return;
    clear_rows(p, args->y, args->y_stride_t, args->y_stride_b, fl_output_width(p->call->stack));
    if (args->cells != NULL)
        clear_rows(p, args->cells, args->cells_stride_t, args->cells_stride_b, D * p->call->stack->sizes.H);
}

static void run_thread(void *context, size_t thread)
{
    call *c = context;
    const fl_plan *plan = &c->plan;
    const size_t blocks = c->stack->layout.blocks, B = c->args->B;
    part p = {.call = c, .thread = thread, .turn = c->turn};
    size_t place = thread;
    p.hidden_group = place % plan->hidden_groups;
    place /= plan->hidden_groups;
    p.place = place;
    p.layer_group = place % plan->layer_groups;
    place /= plan->layer_groups;
    p.direction_group = place % plan->direction_groups;
    p.group = place / plan->direction_groups;
    p.first_row = fl_group_begin(B, plan->row_groups, p.group);
    p.B = fl_group_begin(B, plan->row_groups, p.group + 1) - p.first_row;
    p.rows = c->rows != NULL ? c->rows + p.first_row : NULL;
    const size_t lines = fl_unit_lines(c->stack), line_blocks = (blocks + lines - 1) / lines;
    p.block_begin = line_blocks * fl_group_begin(lines, plan->hidden_groups, p.hidden_group);
    p.block_end = line_blocks * fl_group_begin(lines, plan->hidden_groups, p.hidden_group + 1);
    p.block_end = p.block_end < blocks ? p.block_end : blocks;

    const fl_fp_state thread_state = fl_fp_enter(true);
    if (c->stack->shape.num_directions == 1)
        run_stack(&p);
    else
        run_bidirectional(&p);
    if (thread % (plan->threads / plan->row_groups) == 0)
        clear_padding(&p);
    if (p.slow_waits > 2 + p.seq / 32)
        fl_pool_rest();
    fl_fp_leave(thread_state);
}

static void set_state(void *state, const void *given, size_t bytes)
{
    if (given == NULL && bytes != 0)
        memset(state, 0, bytes);
    else if (given != state && bytes != 0)
        memcpy(state, given, bytes);
}

static void set_states(const fl_stack *stack, const fl_forward_args *args)
{
    const size_t rows = stack->shape.num_layers * stack->shape.num_directions * args->B;
    set_state(args->h_n, args->h0, rows * stack->sizes.P * stack->real_size);
    set_state(args->c_n, args->c0, rows * fl_states_width(stack) * stack->real_size);
}

fl_status fl_forward_run(const fl_stack *stack, const fl_forward_args *args, const fl_plan *plan,
                         const fl_saving *saving, fl_workspace *workspace, fl_fp_state *caller_state)
{
    memory_map map;
    if (!fl_forward_map(stack, plan, args->T, args->B, args->lengths, saving, &map))
        return FL_ERROR_SIZE;
    char *base = workspace->memory;
    call c = {.stack = stack, .args = args, .plan = *plan, .turn = workspace->turn++, .saving = saving};
    fl_interrupt_begin(&c.interrupt, args->interrupt, args->interrupt_context, caller_state);
    c.progress = (fl_counter *)(void *)(base + map.progress);
    c.offsets = (ptrdiff_t *)(void *)(base + map.offsets);
    c.pre = base + map.pre;
    c.pre_bytes = map.pre_bytes;
    c.hoisted_rows = map.hoisted_rows;
    c.exchange = base + map.exchange;
    c.between = base + map.between;
    c.between_bytes = map.between_bytes;
    c.dropped = base + map.dropped;
    c.masks = base + map.masks;
    c.zoned = base + map.zoned;
    c.zoned_bytes = map.zoned_bytes;
    c.row_scratch = base + map.row_scratch;
    c.row_scratch_bytes = map.row_scratch_bytes;
    c.hidden = base + map.hidden;
    c.hidden_bytes = map.hidden_bytes;
    fl_fill_recurrent_masks(stack, saving, args->B, c.masks);
    for (size_t thread = 0; thread < plan->threads; thread++) atomic_init(&c.progress[thread].value, 0);
    set_states(stack, args);
    ptrdiff_t *at = NULL;
    if (args->lengths != NULL) {
        c.rows = (size_t *)(void *)(base + map.rows);
        fl_ranked_row *ranked = (fl_ranked_row *)(void *)(c.rows + args->B);
        fl_rank_rows(c.rows, ranked, args->B, plan->row_groups, args->lengths);
        at = (ptrdiff_t *)(void *)(ranked + args->B);
    }
    c.places = saving != NULL ? saving->places : fl_places_of(args->lengths, args->T, args->B, 0, at);
    if (plan->threads > 1)
        fl_pool_run(run_thread, &c, plan->threads);
    else
        run_thread(&c, 0);
    return atomic_load(&c.interrupt.stop) ? FL_ERROR_INTERRUPTED : FL_OK;
}
