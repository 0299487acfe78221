/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward driver: all threads of a plan execute run_thread() and find their part by their place in the plan's grid;
 * they meet only through counters.  What one layer does in one
 * direction is in forward_recurrence.c.
 */
#include <string.h>

#include "forward/forward_call.h"
#include "forward/trials.h"

static char *between_buffer(const call *c, size_t index) { return c->memory.between + index * c->memory.between_bytes; }

/* Outputs of a layer, all steps of the call. */
static target whole_output(const call *c, void *base)
{
    const size_t width = fl_output_width(c->stack);
    const target whole = {base, 0, {(ptrdiff_t)(c->places.stride_t * width), (ptrdiff_t)width, c->places.at}};
    return whole;
}

/* Those from step `begin` of a chunk on. */
static target chunk_output(const call *c, void *base, size_t begin)
{
    const size_t width = fl_output_width(c->stack);
    const target chunk = {base, begin, {(ptrdiff_t)(c->args->B * width), (ptrdiff_t)width, NULL}};
    return chunk;
}

/* Where a recorded call keeps the output of a layer that is not the last. */
static target kept_output(const call *c, size_t layer)
{
    return whole_output(c, c->recording->h + layer * c->places.count * fl_output_width(c->stack) * c->stack->real_size);
}

static target call_output(const call *c)
{
    const fl_forward_args *args = c->args;
    const target y = {args->y, 0, {args->y_stride_t, args->y_stride_b, args->y_at}};
    return y;
}

static source call_input(const call *c)
{
    const fl_forward_args *args = c->args;
    const source x = {args->x, args->x_index, 0, {args->x_stride_t, args->x_stride_b, args->x_at}};
    return x;
}

/* Input of a layer above the first in steps [begin, end): the output below, or a copy of it with some elements dropped. */
static source inner_input(const part *p, size_t layer, const target *below, size_t begin, size_t end)
{
    const call *c = p->call;
    const size_t real_size = c->stack->real_size;
    source in = {below->base, NULL, below->origin, below->rows};
    if (!fl_drops(c->stack, c->recording))
        return in;
    const target dropped = c->stack->shape.num_directions == 2 ? whole_output(c, c->memory.dropped)
                                                               : chunk_output(c, c->memory.dropped, begin);
    for (size_t position = 0; position < p->B; position++) {
        const size_t b = p->rows != NULL ? p->rows[position] : p->first_row + position;
        const size_t length = length_at(p, position), stop = length < end ? length : end;
        for (size_t t = begin; t < stop; t++)
            fl_drop_row(c->stack, c->recording, layer, t, c->args->B, b,
                        fl_row_const(in.base, &in.rows, t - in.origin, b, real_size),
                        fl_row(dropped.base, &dropped.rows, t - dropped.origin, b, real_size));
    }
    in.base = dropped.base;
    in.origin = dropped.origin;
    in.rows = dropped.rows;
    return in;
}

/* Output of a layer of a unidirectional stack in the chunk that begins with `begin`, on its way through this group. */
static target stack_output(const part *p, size_t layer, size_t last, size_t begin, uint64_t chunk)
{
    const call *c = p->call;
    if (layer + 1 == call_layers(c))
        return call_output(c);
    if (c->recording != NULL && c->recording->h != NULL)
        return kept_output(c, layer);
    const size_t hand_over = 2 * c->plan.layer_groups + (size_t)(chunk % 2);
    const size_t buffer = layer + 1 == last ? hand_over + 2 * p->layer_group : 2 * p->layer_group + layer % 2;
    return chunk_output(c, between_buffer(c, buffer), begin);
}

/* Output of the layer below the first one of this group. */
static target group_input(const part *p, size_t first, size_t begin, uint64_t chunk)
{
    const call *c = p->call;
    if (c->recording != NULL && c->recording->h != NULL)
        return kept_output(c, first - 1);
    const size_t hand_over = 2 * c->plan.layer_groups + (size_t)(chunk % 2);
    return chunk_output(c, between_buffer(c, hand_over + 2 * (p->layer_group - 1)), begin);
}

/* Unidirectional: chunks of time pass through the layers; layer groups form a pipeline. */
static void run_stack(part *p)
{
    call *c = p->call;
    const size_t T = c->args->T, L = call_layers(c), groups = c->plan.layer_groups, hidden = c->plan.hidden_groups;
    const size_t first = fl_group_begin(L, groups, p->layer_group),
                 last = fl_group_begin(L, groups, p->layer_group + 1);
    fl_counter *mine = &c->memory.progress[p->thread];
    const fl_counter *before = mine - (p->layer_group > 0 ? hidden : 0);
    const fl_counter *after = mine + hidden * (p->layer_group + 1 < groups);
    uint64_t chunk = 0;
    for (size_t begin = 0, end; begin < T && !p->stopped; begin = end, chunk++) {
        end = T - begin > c->plan.chunk ? begin + c->plan.chunk : T;
        /* Input from the group before, and room in the hand-over to the group after. */
        if ((p->layer_group > 0 && !fl_wait(before, chunk + 1, &c->interrupt.stop, NULL)) ||
            (p->layer_group + 1 < groups && chunk >= 2 && !fl_wait(after, chunk - 1, &c->interrupt.stop, NULL))) {
            p->stopped = true;
            return;
        }
        target below = {0};
        if (first > 0)
            below = group_input(p, first, begin, chunk);
        for (size_t layer = first; layer < last && !p->stopped; layer++) {
            const source in = layer == 0 ? call_input(c) : inner_input(p, layer, &below, begin, end);
            const target out = stack_output(p, layer, last, begin, chunk);
            fl_forward_recurrence(p, layer, 0, &in, &out, begin, end);
            below = out;
        }
        if (groups > 1 && !p->stopped)
            atomic_store_explicit(&mine->value, chunk + 1, memory_order_release);
    }
}

/* All threads of a row group are done with a layer. */
static void meet_after_layer(part *p, size_t members)
{
    call *c = p->call;
    const size_t first = p->group * members;
    /* Hidden groups count steps on the same counter; a layer ends for all of them at the same count. */
    if (c->plan.hidden_groups == 1)
        atomic_store_explicit(&c->memory.progress[p->thread].value, p->seq, memory_order_release);
    for (size_t member = first; member < first + members && !p->stopped; member++)
        p->stopped = !fl_wait(&c->memory.progress[member], p->seq, &c->interrupt.stop, NULL);
}

/* Bidirectional: layer after layer over the whole sequence; y and one buffer take turns, so that the last layer's
 * output is y. */
static void run_bidirectional(part *p)
{
    call *c = p->call;
    const size_t L = call_layers(c), members = c->plan.direction_groups * c->plan.hidden_groups;
    const bool keeps = c->recording != NULL && c->recording->h != NULL;
    target out = {0};
    for (size_t layer = 0; layer < L && !p->stopped; layer++) {
        const source in = layer == 0 ? call_input(c) : inner_input(p, layer, &out, 0, c->args->T);
        if (layer + 1 < L && keeps)
            out = kept_output(c, layer);
        else
            out = (L - 1 - layer) % 2 == 0 ? call_output(c) : whole_output(c, c->memory.between);
        for (size_t direction = 0; direction < 2; direction++)
            if (c->plan.direction_groups == 1 || direction == p->direction_group)
                fl_forward_recurrence(p, layer, direction, &in, &out, 0, c->args->T);
        if (members > 1 && !p->stopped)
            meet_after_layer(p, members);
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
    part p = {.call = c, .thread = thread, .scratch = &c->memory.threads[thread], .turn = c->turn};
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
    p.rows = c->memory.rows != NULL ? c->memory.rows + p.first_row : NULL;
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
    if (p.slow_waits > 2 + p.seq / 32 && !plan->is_tried)
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
    set_state(args->c_n, args->c0, rows * fl_states_width(&stack->sizes) * stack->real_size);
}

/* Places the call's memory in the workspace, which is made to fit. */
static fl_status take_memory(call *c, fl_workspace *workspace)
{
    fl_arena arena = fl_arena_of(workspace);
    fl_forward_place(&arena, c->stack, &c->plan, c->args, c->recording, &c->memory);
    if (arena.overflows)
        return FL_ERROR_SIZE;
    if (!fl_workspace_fit(workspace, arena.used))
        return FL_ERROR_MEMORY;
    if (workspace->memory != arena.memory || workspace->bytes != arena.bytes) {
        arena = fl_arena_of(workspace);
        fl_forward_place(&arena, c->stack, &c->plan, c->args, c->recording, &c->memory);
    }
    return FL_OK;
}

fl_status fl_forward_run(const fl_stack *stack, const fl_forward_args *args, const fl_plan *plan,
                         const fl_recording *recording, fl_workspace *workspace, fl_fp_state *caller_state)
{
    call c = {.stack = stack, .args = args, .plan = *plan, .turn = workspace->turn++, .recording = recording};
    forward_memory *m = &c.memory;
    const fl_status status = take_memory(&c, workspace);
    if (status != FL_OK)
        return status;
    fl_interrupt_begin(&c.interrupt, args->interrupt, args->interrupt_context, caller_state);
    fl_fill_recurrent_masks(stack, recording, args->B, m->masks);
    for (size_t thread = 0; thread < plan->threads; thread++) atomic_init(&m->progress[thread].value, 0);
    set_states(stack, args);
    if (args->lengths != NULL)
        fl_rank_rows(m->rows, m->ranked, args->B, plan->row_groups, args->lengths);
    c.places = recording != NULL ? recording->places : fl_places_of(args->lengths, args->T, args->B, 0, m->at);
    if (plan->threads > 1)
        fl_pool_run(run_thread, &c, plan->threads);
    else
        run_thread(&c, 0);
    return atomic_load(&c.interrupt.stop) ? FL_ERROR_INTERRUPTED : FL_OK;
}

/* ---- A call -------------------------------------------------------------------------------------------------- */

/* Sizes of all arrays of a call, and of what is counted on the way to them. */
static fl_status check_sizes(const fl_stack *stack, const fl_forward_args *args)
{
    size_t rows = 0, states = 0, elements = 0;
    const size_t H = stack->sizes.H, has_c = stack->sizes.states;
    const size_t widest = stack->shape.input_size > 2 * H ? stack->shape.input_size : 2 * H;
    const bool fits = fl_add_product(&rows, stack->shape.num_layers, stack->shape.num_directions, args->B) &&
                      fl_add_product(&states, rows, (1 + has_c) * H, stack->real_size) &&
                      fl_add_product(&elements, args->T, args->B, widest) && fl_add_product(&elements, elements, 8, 1);
    return fits ? FL_OK : FL_ERROR_SIZE;
}

static fl_status check_lengths(const fl_forward_args *args)
{
    for (size_t b = 0; b < args->B && args->lengths != NULL; b++)
        if (args->lengths[b] < 0 || (uint64_t)args->lengths[b] > args->T)
            return FL_ERROR_LENGTH;
    return FL_OK;
}

/* Indices of real steps only: what stands in the padding is never read. */
static fl_status check_index(const fl_stack *stack, const fl_forward_args *args)
{
    for (size_t b = 0; b < args->B && args->x_index != NULL; b++) {
        const size_t length = args->lengths != NULL ? (size_t)args->lengths[b] : args->T;
        const int64_t *row = args->x_index + (args->x_at != NULL ? args->x_at[b] : (ptrdiff_t)b) * args->x_stride_b;
        for (size_t t = 0; t < length; t++) {
            const int64_t index = row[(ptrdiff_t)t * args->x_stride_t];
            if (index < 0 || (uint64_t)index >= stack->shape.input_size)
                return FL_ERROR_INDEX;
        }
    }
    return FL_OK;
}

fl_status fl_forward_check(const fl_stack *stack, const fl_forward_args *args)
{
    if (stack == NULL || args == NULL)
        return FL_ERROR_ARGUMENT;
    fl_status status = check_sizes(stack, args);
    if (status != FL_OK)
        return status;
    const size_t has_c = stack->sizes.states;
    if (args->B != 0 && (args->h_n == NULL || (has_c != 0 && args->c_n == NULL)))
        return FL_ERROR_ARGUMENT;
    if (args->cells != NULL && has_c == 0)
        return FL_ERROR_ARGUMENT;
    if (args->T != 0 && args->B != 0 && (args->y == NULL || (args->x == NULL) == (args->x_index == NULL)))
        return FL_ERROR_ARGUMENT;
    status = check_lengths(args);
    return status == FL_OK ? check_index(stack, args) : status;
}

fl_status fl_forward_check_sizes(const fl_stack *stack, const fl_forward_args *args)
{
    const fl_status status = check_sizes(stack, args);
    return status == FL_OK ? check_lengths(args) : status;
}

/* Real steps of a row, in the mean. */
static double mean_steps(const fl_forward_args *args)
{
    if (args->lengths == NULL || args->B == 0)
        return (double)args->T;
    double steps = 0.0;
    for (size_t b = 0; b < args->B; b++) steps += (double)args->lengths[b];
    return steps / (double)args->B;
}

static struct fl_plan_way way_of(const fl_plan *plan)
{
    const struct fl_plan_way way = {.threads = plan->threads,
                                    .row_groups = plan->row_groups,
                                    .direction_groups = plan->direction_groups,
                                    .layer_groups = plan->layer_groups,
                                    .hidden_groups = plan->hidden_groups,
                                    .fetches = plan->fetches};
    return way;
}

/* The plan that this call takes, and the trial that it is. */
static fl_plan choose_plan(const fl_stack *stack, const fl_forward_args *args, fl_pass pass, size_t limit,
                           bool rows_only, fl_trial *trial)
{
    fl_plan plans[FL_PLAN_WAYS];
    const size_t ways = fl_plan_candidates(stack, args->T, args->B, limit, rows_only, plans);
    if (ways == 1)
        return plans[0];
    const double steps = mean_steps(args);
    fl_plan_facts kind = fl_trial_kind(stack, pass, (size_t)steps, args->B, limit);
    kind.ways = ways;
    for (size_t n = 0; n < ways; n++) kind.way[n] = way_of(&plans[n]);
    *trial = fl_trial_begin(&kind, steps);
    return plans[trial->way];
}

fl_status fl_forward_planned(const fl_stack *stack, const fl_forward_args *args, fl_pass pass,
                             const fl_recording *recording, fl_workspace *kept, fl_fp_state *caller_state)
{
    const bool rows_only = fl_recording_needs_rows(stack, recording);
    fl_trial trial = {.slot = NULL};
    size_t limit = fl_thread_limit(args->num_threads);
    if (limit > 1 && pass != FL_PASS_STREAM && fl_pool_resting())
        limit = 1;
    fl_plan plan = choose_plan(stack, args, pass, limit, rows_only, &trial);
    const size_t acquired = plan.threads > 1 ? fl_pool_acquire(plan.threads) : 1;
    if (acquired < plan.threads) {
        plan = fl_plan_make(stack, args->T, args->B, acquired, rows_only);
        trial.slot = NULL; /* it says nothing of the plan that was chosen */
    }
    plan.is_tried = trial.slot != NULL;
    fl_workspace *workspace = kept != NULL ? kept : fl_workspace_take(stack);
    fl_status status = FL_ERROR_MEMORY;
    if (workspace != NULL)
        status = fl_forward_run(stack, args, &plan, recording, workspace, caller_state);
    if (status == FL_OK)
        fl_trial_end(&trial);
    if (kept == NULL && status == FL_ERROR_MEMORY)
        fl_workspace_free(workspace);
    else if (kept == NULL)
        fl_workspace_return(stack, workspace);
    fl_pool_release(acquired);
    return status;
}
