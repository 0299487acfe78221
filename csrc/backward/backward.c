/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backward driver: take memory, run the stages on all threads, finish.  What a stage is: backward_plan.h.
 */
#include <string.h>

#include "backward/backward_call.h"
#include "base/machine.h"
#include "base/words.h"
#include "forward/trials.h"

/* ---- Threads ------------------------------------------------------------------------------------------------ */

static bool wait_for(back_call *c, fl_counter *counters, size_t begin, size_t end, size_t stages)
{
    for (size_t thread = begin; thread < end; thread++)
        if (!fl_wait(&counters[thread], stages, &c->interrupt.stop, NULL))
            return false;
    return true;
}

static void run_stages(void *context, size_t thread)
{
    back_call *c = context;
    const back_plan *plan = &c->plan;
    fl_counter *recurrent_done = c->memory.recurrent_done, *shared_done = c->memory.shared_done;
    const fl_fp_state thread_state = fl_fp_enter(true);
    for (size_t rank = thread, position = 0; rank < c->B; rank += plan->groups, position++)
        c->memory.threads[thread].own_b[position] = c->memory.rows[rank];
    for (size_t index = c->stage_begin; index < c->stage_end; index++) {
        const size_t done = index - c->stage_begin;
        if (thread < plan->groups) {
            if (done >= 2 && !wait_for(c, shared_done, plan->first_sharing, plan->threads, done - 1))
                break;
            if (!fl_back_recurrent(c, thread, index))
                break;
            atomic_store_explicit(&recurrent_done[thread].value, done + 1, memory_order_release);
        }
        if (thread >= plan->first_sharing) {
            if (!wait_for(c, recurrent_done, 0, plan->groups, done + 1))
                break;
            fl_back_shared(c, thread, index);
            atomic_store_explicit(&shared_done[thread].value, done + 1, memory_order_release);
        }
    }
    fl_fp_leave(thread_state);
}

static fl_status run_job(back_call *c, size_t begin, size_t end)
{
    c->stage_begin = begin;
    c->stage_end = end;
    for (size_t thread = 0; thread < c->plan.threads; thread++) {
        atomic_init(&c->memory.recurrent_done[thread].value, 0);
        atomic_init(&c->memory.shared_done[thread].value, 0);
    }
    if (c->plan.threads > 1)
        fl_pool_run(run_stages, c, c->plan.threads);
    else
        run_stages(c, 0);
    return atomic_load(&c->interrupt.stop) ? FL_ERROR_INTERRUPTED : FL_OK;
}

/* Stages whose steps are computed again first: the forward driver takes the pool for itself in between. */
static fl_status run_windows(back_call *c)
{
    const size_t stages = c->L * c->D * c->plan.chunks, together = c->D == 1 ? c->L : 1;
    fl_status status = FL_OK;
    for (size_t index = 0; index < stages && status == FL_OK; index += together) {
        const stage s = fl_back_stage(c->stack, &c->plan, c->T, index);
        status = fl_back_fill_window(c, &s);
        if (status != FL_OK)
            return status;
        const size_t wanted = c->plan.threads, acquired = wanted > 1 ? fl_pool_acquire(wanted) : 1;
        const back_plan plan = c->plan;
        if (acquired < wanted) {
            c->plan.threads = c->plan.groups = 1;
            c->plan.first_sharing = 0;
        }
        status = run_job(c, index, index + together);
        c->plan = plan;
        fl_pool_release(acquired);
    }
    return status;
}

/* ---- Before and after --------------------------------------------------------------------------------------- */

/* dx is zero behind the end of each row. */
static void clear_padding(const back_call *c)
{
    const fl_backward_args *args = c->args;
    const fl_rows rows = {args->dx_stride_t, args->dx_stride_b, NULL};
    if (c->lengths == NULL || args->dx == NULL || args->dx_at != NULL)
        return;
    for (size_t b = 0; b < c->B; b++)
        for (size_t t = (size_t)c->lengths[b]; t < c->T; t++)
            memset(fl_row(args->dx, &rows, t, b, c->stack->real_size), 0,
                   c->stack->shape.input_size * c->stack->real_size);
}

fl_columns fl_index_columns(const fl_index_gradient *gradient, size_t direction)
{
    const fl_columns columns = {gradient->count, gradient->used, gradient->rows[direction]};
    return columns;
}

/* What is left when all stages are done. */
static void finish_gradients(const back_call *c)
{
    const size_t gates = c->G * c->H, real_size = c->stack->real_size;
    const bool own_bias_hh = c->stack->gradient_row.columns[FL_BIAS_HH].count != 0;
    for (size_t n = 0; n < c->L * c->D; n++) {
        const fl_gradients gradients = fl_gradients_of(&c->stack->sizes, &c->args->gradients[n]);
        if (gradients.bias_ih != NULL && gradients.bias_hh != NULL && !own_bias_hh)
            memcpy(gradients.bias_hh, gradients.bias_ih, gates * real_size);
        if (n < c->D && c->memory.index_slot != NULL && !c->args->keeps_index_gradient) {
            const fl_columns columns = fl_index_columns(&c->memory.index_gradient, n);
            const fl_table table = {c->stack->shape.dtype, c->stack->shape.input_size, gates, true};
            memset(gradients.weight_ih, 0, gates * c->stack->shape.input_size * real_size);
            fl_words_add(&table, &columns, gradients.weight_ih);
        }
    }
}

/* Weights as the products to the step before and to the layer below take them. */
static void pack_panels(const back_call *c)
{
    const fl_stack *stack = c->stack;
    const fl_cell_sizes *sizes = &stack->sizes;
    const fl_kernels *kernels = stack->kernels;
    const size_t lanes = stack->layout.lanes, N = fl_head_depth(sizes);
    /* Matrices (gates * rows, N) of R, one behind the other. */
    const bool by_gates = sizes->path == FL_PATH_ROWS;
    const size_t gates = by_gates ? 1 : c->G, rows = by_gates ? fl_head_width(sizes) : c->H;
    const size_t matrices = sizes->recurs ? c->G * c->H / (gates * rows) : 0;
    const fl_panels R = fl_panels_of(N, lanes), hr = fl_panels_of(c->H, lanes);
    for (size_t cell = 0; cell < c->L * c->D; cell++) {
        const fl_panels W = fl_panels_of(stack->recurrences[cell].I, lanes);
        const fl_weights *weights = &c->args->weights[cell];
        for (size_t n = 0; n < matrices; n++)
            kernels->pack_gate_panels(
                &R, gates, rows, (const char *)weights->weight_hh + n * gates * rows * N * stack->real_size,
                (char *)c->memory.R_panels[cell] + n * gates * rows * R.vectors * lanes * kernels->weight_size);
        if (c->memory.W_panels[cell] != NULL)
            kernels->pack_gate_panels(&W, c->G, c->H, weights->weight_ih, c->memory.W_panels[cell]);
        if (c->memory.hr_panels[cell] != NULL)
            kernels->pack_gate_panels(&hr, 1, c->P, weights->weight_hr, c->memory.hr_panels[cell]);
    }
}

/* What the tape kept. */
static saved_states kept_states(const fl_stack *stack, const fl_recorded *tape)
{
    const fl_forward_args *call = &tape->args.call;
    const fl_recording *recording = &tape->recording;
    const saved_states saved = {.T = call->T,
                                .places = recording->places,
                                .top_layer = stack->shape.num_layers - 1,
                                .gates = recording->gates,
                                .c = recording->c,
                                .h = recording->h,
                                .y = call->y,
                                .y_rows = {call->y_stride_t, call->y_stride_b, call->y_at},
                                .h_outside = call->h0,
                                .c_outside = call->c0};
    return saved;
}

/* The call of checked arguments, without plan and memory. */
static back_call call_of(const fl_stack *stack, const fl_recorded *tape, const fl_back_room *room,
                         const fl_backward_args *args)
{
    const fl_forward_args *call = &tape->args.call;
    const back_call c = {.stack = stack,
                         .tape = tape,
                         .room = room,
                         .args = args,
                         .L = stack->shape.num_layers,
                         .D = stack->shape.num_directions,
                         .H = stack->sizes.H,
                         .P = stack->sizes.P,
                         .G = stack->sizes.gates,
                         .states = fl_states_width(&stack->sizes),
                         .T = call->T,
                         .B = call->B,
                         .lengths = call->lengths,
                         .drops = fl_drops(stack, &tape->recording),
                         .saved = kept_states(stack, tape)};
    return c;
}

/* The plan that this pass takes, and the trial that it is.  A pass of windows has many jobs and is not timed. */
static back_plan choose_plan(const back_call *c, size_t limit, bool has_windows, fl_trial *trial)
{
    back_plan plans[FL_PLAN_WAYS];
    const size_t ways = fl_back_plan_candidates(c->stack, c->T, c->B, limit, plans);
    if (ways == 1 || has_windows)
        return plans[0];
    double steps = (double)c->T;
    if (c->lengths != NULL) {
        steps = 0.0;
        for (size_t b = 0; b < c->B; b++) steps += (double)c->lengths[b] / (double)c->B;
    }
    fl_plan_facts kind = fl_trial_kind(c->stack, FL_PASS_BACKWARD, (size_t)steps, c->B, limit);
    kind.ways = ways;
    for (size_t n = 0; n < ways; n++) {
        kind.way[n].threads = plans[n].threads;
        kind.way[n].row_groups = plans[n].groups;
        kind.way[n].direction_groups = kind.way[n].layer_groups = kind.way[n].hidden_groups = 1;
    }
    *trial = fl_trial_begin(&kind, steps);
    return plans[trial->way];
}

fl_status fl_back_run(const fl_stack *stack, const fl_recorded *tape, const fl_back_room *room,
                      const fl_backward_args *args, fl_fp_state *caller_state)
{
    back_call c = call_of(stack, tape, room, args);
    const bool has_windows = tape->recording.segment != 0;
    fl_trial trial = {.slot = NULL};
    size_t limit = fl_thread_limit(args->num_threads), acquired = 1;
    limit = limit < FL_MAX_THREADS ? limit : FL_MAX_THREADS;
    if (limit > 1 && fl_pool_resting())
        limit = 1;
    c.plan = choose_plan(&c, limit, has_windows, &trial);
    if (c.plan.threads > 1 && !has_windows) {
        acquired = fl_pool_acquire(c.plan.threads);
        if (acquired < c.plan.threads) {
            c.plan = fl_back_plan_make(stack, c.T, c.B, acquired);
            trial.slot = NULL; /* it says nothing of the plan that was chosen */
        }
    }
    fl_interrupt_begin(&c.interrupt, args->interrupt, args->interrupt_context, caller_state);
    const size_t kept = tape->used, passed = c.plan.chunk * c.B * stack->gradient_row.width * stack->real_size;
    c.is_far = kept + 2 * passed > fl_cache_l2() / 2;
    fl_status status = fl_back_take_memory(&c);
    if (status == FL_OK) {
        clear_padding(&c);
        pack_panels(&c);
        if (room->forward != NULL)
            room->forward->is_fixed = true; /* a part of the sequence says nothing of what the next call needs */
        status = has_windows ? run_windows(&c) : run_job(&c, 0, c.L * c.D * c.plan.chunks);
        if (room->forward != NULL)
            room->forward->is_fixed = false;
        finish_gradients(&c);
        if (status == FL_OK && room->index_gradient != NULL && c.memory.index_slot != NULL)
            *room->index_gradient = c.memory.index_gradient;
    }
    if (status == FL_OK)
        fl_trial_end(&trial);
    if (!has_windows)
        fl_pool_release(acquired);
    return status;
}
