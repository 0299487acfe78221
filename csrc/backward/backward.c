/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fl_stack_backward: check, plan, take memory, run the stages on all threads, finish.  What a stage is: backward_call.h.
 */
#include <string.h>

#include "backward/backward_call.h"
#include "kernels/choose.h"

/* Rows of a chunk: enough for the products over them, few enough to stay near.  A function of T and B alone, because
 * gradients are summed chunk by chunk. */
#define CHUNK_ROWS_MIN 32
#define CHUNK_ROWS_MAX 256
#define CHUNKS 6                  /* at least, for threads to overlap, where that leaves enough rows */
#define WORTH_NANOSECONDS 60000.0 /* work that gains from a second thread */
#define SPLIT_ROWS 2              /* rows that each thread should have, for threads to divide rows */

size_t fl_back_chunk(size_t T, size_t B)
{
    if (B == 0)
        return 1;
    size_t rows = T * B / CHUNKS;
    rows = rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows > CHUNK_ROWS_MAX ? CHUNK_ROWS_MAX : rows;
    const size_t chunk = (rows + B / 2) / B;
    return chunk == 0 || T == 0 ? 1 : chunk < T ? chunk : T;
}

static back_plan make_plan(const fl_stack *stack, size_t T, size_t B, size_t max_threads)
{
    back_plan plan = {.threads = 1, .groups = 1, .chunk = fl_back_chunk(T, B)};
    plan.chunks = (T + plan.chunk - 1) / plan.chunk;
    const fl_stack_shape *shape = &stack->shape;
    const double P = (double)stack->sizes.P, D = (double)shape->num_directions;
    const double deeper = (double)(shape->num_layers - 1) * D * P;
    const double inputs = (double)shape->input_size + deeper + (double)shape->num_layers * P;
    const double rows = (double)(stack->sizes.gates * stack->sizes.H);
    const double vectors = 2.0 * inputs * rows * D / (double)stack->layout.lanes;
    const double alone = (double)T * (double)B * vectors * FL_FMA_NS;
    if (max_threads > 1 && alone > WORTH_NANOSECONDS) {
        plan.threads = max_threads;
        plan.groups = B >= SPLIT_ROWS * max_threads ? max_threads : 1;
        plan.first_sharing = plan.groups == 1 ? 1 : 0;
    }
    return plan;
}

/* ---- Threads ---------------------------------------------------------------------------------------------- */

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
    const fl_fp_state thread_state = fl_fp_enter(true);
    back_scratch scratch;
    fl_back_scratch(c, c->per_thread + thread * c->per_thread_bytes, &scratch);
    for (size_t rank = thread, position = 0; rank < c->B; rank += plan->groups, position++)
        scratch.own_b[position] = c->rows[rank];
    for (size_t index = c->stage_begin; index < c->stage_end; index++) {
        const size_t done = index - c->stage_begin;
        if (thread < plan->groups) {
            if (done >= 2 && !wait_for(c, c->shared_done, plan->first_sharing, plan->threads, done - 1))
                break;
            if (!fl_back_recurrent(c, thread, index))
                break;
            atomic_store_explicit(&c->recurrent_done[thread].value, done + 1, memory_order_release);
        }
        if (thread >= plan->first_sharing) {
            if (!wait_for(c, c->recurrent_done, 0, plan->groups, done + 1))
                break;
            fl_back_shared(c, thread, index);
            atomic_store_explicit(&c->shared_done[thread].value, done + 1, memory_order_release);
        }
    }
    fl_fp_leave(thread_state);
}

static void run_job(back_call *c, size_t begin, size_t end)
{
    c->stage_begin = begin;
    c->stage_end = end;
    for (size_t thread = 0; thread < c->plan.threads; thread++) {
        atomic_init(&c->recurrent_done[thread].value, 0);
        atomic_init(&c->shared_done[thread].value, 0);
    }
    if (c->plan.threads > 1)
        fl_pool_run(run_stages, c, c->plan.threads);
    else
        run_stages(c, 0);
}

/* ---- The call --------------------------------------------------------------------------------------------- */

static fl_status check(const fl_stack *stack, const fl_tape *tape, const fl_backward_args *args)
{
    if (stack == NULL || tape == NULL || args == NULL || tape->stack != stack || args->gradients == NULL ||
        args->weights == NULL)
        return FL_ERROR_ARGUMENT;
    const bool is_index = tape->args.call.x_index != NULL;
    const bool needs_dc = stack->sizes.states != 0;
    if (tape->args.call.B != 0 &&
        (args->dh0 == NULL || (needs_dc && args->dc0 == NULL) || (is_index && args->dx != NULL)))
        return FL_ERROR_ARGUMENT;
    if (args->dcells != NULL && !needs_dc)
        return FL_ERROR_ARGUMENT;
    for (size_t cell = 0; cell < stack->shape.num_layers * stack->shape.num_directions; cell++)
        if (!fl_parameters_are_complete(stack, &args->weights[cell], &args->gradients[cell]))
            return FL_ERROR_ARGUMENT;
    return FL_OK;
}

static void copy_or_clear(void *to, const void *from, size_t bytes)
{
    if (from == NULL)
        memset(to, 0, bytes);
    else if (from != to)
        memcpy(to, from, bytes);
}

static void clear_gradients(const fl_stack *stack, const fl_backward_args *args)
{
    const size_t D = stack->shape.num_directions;
    for (size_t cell = 0; cell < stack->shape.num_layers * D; cell++) {
        fl_parameter parameters[FL_PARAMETERS];
        fl_parameters(stack, stack->cells[cell].I, &args->weights[cell], &args->gradients[cell], parameters);
        for (size_t n = 0; n < FL_PARAMETERS; n++)
            if (parameters[n].gradient != NULL && parameters[n].size != 0)
                memset(parameters[n].gradient, 0, parameters[n].size * stack->real_size);
    }
}

/* dx is zero behind the end of each row. */
static void clear_padding(const back_call *c)
{
    const fl_backward_args *args = c->args;
    const ptrdiff_t real_size = (ptrdiff_t)c->stack->real_size;
    if (c->lengths == NULL || args->dx == NULL || args->dx_at != NULL)
        return;
    for (size_t b = 0; b < c->B; b++)
        for (size_t t = (size_t)c->lengths[b]; t < c->T; t++)
            memset((char *)args->dx + ((ptrdiff_t)t * args->dx_stride_t + (ptrdiff_t)b * args->dx_stride_b) * real_size,
                   0, c->stack->shape.input_size * (size_t)real_size);
}

#define TRANSPOSE_BLOCK 16

static void transpose(size_t rows, size_t columns, size_t real_size, const char *from, char *to)
{
    for (size_t i = 0; i < rows; i += TRANSPOSE_BLOCK)
        for (size_t j = 0; j < columns; j += TRANSPOSE_BLOCK)
            for (size_t r = i; r < rows && r < i + TRANSPOSE_BLOCK; r++)
                for (size_t k = j; k < columns && k < j + TRANSPOSE_BLOCK; k++)
                    memcpy(to + (k * rows + r) * real_size, from + (r * columns + k) * real_size, real_size);
}

/* What is left when all stages are done. */
static void finish_gradients(const back_call *c)
{
    const size_t gates = c->G * c->H, real_size = c->stack->real_size;
    for (size_t cell = 0; cell < c->L * c->D; cell++) {
        const fl_gradients *gradients = &c->args->gradients[cell];
        if (gradients->bias_ih != NULL && gradients->bias_hh != NULL && !fl_back_has_own_bias_hh(c))
            memcpy(gradients->bias_hh, gradients->bias_ih, gates * real_size);
        if (cell < c->D && c->tape->args.call.x_index != NULL)
            transpose(c->stack->shape.input_size, gates, real_size, c->index_gradient[cell], gradients->weight_ih);
    }
}

static void pack_panels(const back_call *c)
{
    const fl_stack *stack = c->stack;
    const size_t lanes = stack->layout.lanes, real_size = stack->real_size, head = fl_head_size(stack);
    const bool has_heads = stack->shape.cell.kind == FL_CELL_SLSTM;
    /* Matrices (rows, N) of R, one behind the other. */
    const size_t gates = stack->path == FL_PATH_ROWS ? 1 : c->G, rows = has_heads ? head : c->H, N = head;
    const size_t matrices = stack->sizes.recurs ? c->G * c->H / (gates * rows) : 0;
    const fl_panels R = fl_panels_of(N, lanes), hr = fl_panels_of(c->H, lanes);
    for (size_t cell = 0; cell < c->L * c->D; cell++) {
        const fl_panels W = fl_panels_of(stack->cells[cell].I, lanes);
        const fl_weights *weights = &c->args->weights[cell];
        for (size_t n = 0; n < matrices; n++)
            fl_pack_gate_panels(&R, real_size, gates, rows,
                                (const char *)weights->weight_hh + n * gates * rows * N * real_size,
                                c->R_panels[cell] + n * gates * rows * R.vectors * lanes * real_size);
        if (c->W_panels[cell] != NULL)
            fl_pack_gate_panels(&W, real_size, c->G, c->H, weights->weight_ih, c->W_panels[cell]);
        if (c->hr_panels[cell] != NULL)
            fl_pack_gate_panels(&hr, real_size, 1, c->P, weights->weight_hr, c->hr_panels[cell]);
    }
}

static fl_status run(back_call *c, fl_tape *tape, back_window *w)
{
    const size_t stages = c->L * c->D * c->plan.chunks, together = c->D == 1 ? c->L : 1;
    if (tape->saving.segment == 0) {
        run_job(c, 0, stages);
        return atomic_load(&c->interrupt.stop) ? FL_ERROR_INTERRUPTED : FL_OK;
    }
    for (size_t index = 0; index < stages; index += together) {
        const stage s = fl_back_stage(c, index);
        const fl_status status = fl_back_fill_window(c, tape, w, &s);
        if (status != FL_OK)
            return status;
        const size_t wanted = c->plan.threads, acquired = wanted > 1 ? fl_pool_acquire(wanted) : 1;
        const back_plan plan = c->plan;
        if (acquired < wanted) {
            c->plan.threads = c->plan.groups = 1;
            c->plan.first_sharing = 0;
        }
        run_job(c, index, index + together);
        c->plan = plan;
        fl_pool_release(acquired);
        if (atomic_load(&c->interrupt.stop))
            return FL_ERROR_INTERRUPTED;
    }
    return FL_OK;
}

fl_status fl_stack_backward(const fl_stack *stack, fl_tape *tape, const fl_backward_args *args)
{
    fl_status status = check(stack, tape, args);
    if (status != FL_OK)
        return status;
    const fl_forward_args *call = &tape->args.call;
    const size_t L = stack->shape.num_layers, D = stack->shape.num_directions, B = call->B;
    const size_t rows_bytes = L * D * B * stack->real_size, states = fl_states_width(stack);
    if (rows_bytes != 0)
        copy_or_clear(args->dh0, args->dh_n, rows_bytes * stack->sizes.P);
    if (rows_bytes * states != 0)
        copy_or_clear(args->dc0, args->dc_n, rows_bytes * states);
    if (B == 0 || call->T == 0) {
        clear_gradients(stack, args);
        return FL_OK;
    }
    back_call c = {.stack = stack,
                   .tape = tape,
                   .args = args,
                   .L = L,
                   .D = D,
                   .H = stack->sizes.H,
                   .P = stack->sizes.P,
                   .G = stack->sizes.gates,
                   .states = states,
                   .T = call->T,
                   .B = B,
                   .lengths = call->lengths,
                   .drops = tape->args.dropout > 0.0 && L > 1};
    back_window w = {0};
    size_t limit = args->num_threads != 0 ? args->num_threads : fl_get_num_threads(), acquired = 1;
    const bool segments = tape->saving.segment != 0;
    limit = fl_pool_resting() ? 1 : limit < FL_MAX_THREADS ? limit : FL_MAX_THREADS;
    fl_fp_state caller_state = fl_fp_enter(true);
    c.plan = make_plan(stack, c.T, B, limit);
    if (c.plan.threads > 1 && !segments) {
        acquired = fl_pool_acquire(c.plan.threads);
        if (acquired < c.plan.threads)
            c.plan = make_plan(stack, c.T, B, acquired);
    }
    c.chunk_rows = c.plan.chunk * B;
    fl_interrupt_begin(&c.interrupt, args->interrupt, args->interrupt_context, &caller_state);
    const saved_states saved = {.origin = 0,
                                .T = c.T,
                                .places = tape->saving.places,
                                .top_layer = L - 1,
                                .gates = tape->saving.gates,
                                .c = tape->saving.c,
                                .h = tape->saving.h,
                                .y = call->y,
                                .y_stride_t = call->y_stride_t,
                                .y_stride_b = call->y_stride_b,
                                .y_at = call->y_at,
                                .h_outside = call->h0,
                                .c_outside = call->c0};
    c.saved = saved;
    status = fl_back_take_memory(&c, tape, &w);
    if (status == FL_OK) {
        clear_padding(&c);
        pack_panels(&c);
        status = run(&c, tape, &w);
        finish_gradients(&c);
    }
    if (!segments)
        fl_pool_release(acquired);
    fl_fp_leave(caller_state);
    return status;
}
