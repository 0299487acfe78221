/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One cell of the forward driver: cuts its steps into runs with a constant set of active rows, and hands them to the
 * kernels.  No arithmetic here.
 *
 * States live in h_n and c_n from the start: c is updated in place, h is copied there at the end of a run.
 */
#include "forward/forward_call.h"

#include <string.h>

#include "kernels/choose.h"

#define RUN_NS 5000000.0 /* no kernel call should be estimated to take longer */

/* Rows that are longer than t; they are the first ones, since rows are sorted. */
static size_t active_at(const part *p, size_t t)
{
    if (p->rows == NULL)
        return t < p->call->args->T ? p->B : 0;
    return fl_active_rows(p->rows, p->B, p->call->args->lengths, t);
}

/* All members of the hidden group have finished `seq` steps. */
static bool wait_for_group(part *p)
{
    const call *c = p->call;
    const size_t members = c->plan.hidden_groups, first = p->thread - p->hidden_group;
    for (size_t member = 0; member < members; member++)
        if (member != p->hidden_group &&
            !fl_wait(&c->progress[first + member], p->seq, &p->call->interrupt.stop, &p->slow_waits))
            return false;
    return true;
}

static void publish_step(part *p)
{
    p->seq++;
    atomic_store_explicit(&p->call->progress[p->thread].value, p->seq, memory_order_release);
}

/* This thread's part of h: all of it, or that of its hidden units. */
static void own_units(const part *p, size_t *begin, size_t *end)
{
    const fl_stack *stack = p->call->stack;
    *begin = p->block_begin * stack->layout.units;
    *end = p->block_end * stack->layout.units;
    if (p->call->plan.hidden_groups == 1 || *end > stack->sizes.P)
        *end = stack->sizes.P;
}

/* Rows of an array: element 0 of that of batch row 0. */
typedef struct row_array {
    char *base;
    ptrdiff_t stride_b;
    const ptrdiff_t *at;
} row_array;

/* Copy this thread's units of h of the active rows. */
static void copy_units(const part *p, const fl_steps *s, row_array to, row_array from)
{
    const ptrdiff_t real_size = (ptrdiff_t)p->call->stack->real_size;
    size_t begin, end;
    own_units(p, &begin, &end);
    for (size_t position = 0; position < s->B; position++) {
        const size_t b = s->rows != NULL ? s->rows[position] : position;
        const ptrdiff_t to_row = to.at != NULL ? to.at[b] : (ptrdiff_t)b;
        const ptrdiff_t from_row = from.at != NULL ? from.at[b] : (ptrdiff_t)b;
        memcpy(to.base + (to_row * to.stride_b + (ptrdiff_t)begin) * real_size,
               from.base + (from_row * from.stride_b + (ptrdiff_t)begin) * real_size,
               (end - begin) * (size_t)real_size);
    }
}

static row_array states_array(const part *p, char *states)
{
    const row_array array = {states, (ptrdiff_t)p->call->stack->sizes.P, NULL};
    return array;
}

/* h to the state, from the last of the steps. */
static void keep_state(part *p, const fl_steps *s, char *h_state)
{
    const ptrdiff_t real_size = (ptrdiff_t)p->call->stack->real_size;
    const row_array y = {(char *)s->y + (ptrdiff_t)(s->T - 1) * s->y_stride_t * real_size, s->y_stride_b, s->y_at};
    copy_units(p, s, states_array(p, h_state), y);
    p->turn += s->T;
    p->seq += s->T;
}

/* The steps of `s` on one thread, h from and to h_state. */
static void run_steps(part *p, fl_steps *s, char *h_state)
{
    const fl_stack *stack = p->call->stack;
    s->h = h_state;
    s->h_stride_b = (ptrdiff_t)stack->sizes.P;
    if (stack->path == FL_PATH_LSTM)
        stack->kernels->lstm_steps(s);
    else
        stack->kernels->cell_steps(s);
    keep_state(p, s, h_state);
}

/* The next step of `s`. */
static void advance(fl_steps *s, ptrdiff_t real_size)
{
    if (s->pre != NULL)
        s->pre = (const char *)s->pre + s->pre_stride_t * real_size;
    if (s->x != NULL)
        s->x = (const char *)s->x + s->x_stride_t * real_size;
    if (s->x_index != NULL)
        s->x_index += s->x_stride_t;
    if (s->saved_c != NULL)
        s->saved_c = (char *)s->saved_c + s->saved_c_stride_t * real_size;
    if (s->saved_gates != NULL)
        s->saved_gates = (char *)s->saved_gates + s->saved_gates_stride_t * real_size;
}

/* The same step by step, for what happens between kernels: projection, and masks of zoneout that are drawn. */
static void run_single_steps(part *p, fl_steps *s, size_t layer, size_t direction, size_t t, char *h_state)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_packed_cell *cell = fl_cell_of(stack, layer, direction);
    const ptrdiff_t real_size = (ptrdiff_t)stack->real_size;
    const size_t H = stack->sizes.H, P = stack->sizes.P, steps = s->T;
    const bool projects = stack->shape.cell.proj_size != 0, draws = fl_draws_zoneout(stack, c->saving);
    const fl_projection projection = {cell->weight_hr, cell->bias_hr, stack->shape.cell.proj_clip};
    char *scratch = c->row_scratch + p->thread * c->row_scratch_bytes,
         *hidden = c->hidden + p->thread * c->hidden_bytes;
    const fl_row_scratch rows = fl_row_scratch_of(scratch, H, 0, s->B, stack->layout.lanes, stack->real_size);
    const fl_steps all = *s;
    s->T = 1;
    s->h = h_state;
    s->h_stride_b = (ptrdiff_t)P;
    for (size_t n = 0; n < steps; n++) {
        s->turn = p->turn + n;
        if (draws)
            fl_forward_zoneout(p, layer, direction, direction == 0 ? t + n : t - n, s->B, &s->zoned_c, &s->zoned_h);
        s->out = projects ? hidden : NULL;
        stack->kernels->cell_steps(s);
        for (size_t position = 0; position < s->B && projects; position++) {
            const size_t b = s->rows != NULL ? s->rows[position] : position;
            const ptrdiff_t row = s->y_at != NULL ? s->y_at[b] : (ptrdiff_t)b;
            const ptrdiff_t place = s->saved_at != NULL ? s->saved_at[b] : (ptrdiff_t)b;
            rows.out[position] = (char *)s->y + row * s->y_stride_b * real_size;
            if (s->saved_gates != NULL)
                memcpy((char *)s->saved_gates +
                           (place * s->saved_gates_stride_b + (ptrdiff_t)(stack->sizes.saved - H)) * real_size,
                       hidden + position * H * stack->real_size, H * stack->real_size);
        }
        if (projects)
            stack->kernels->project(&projection, H, P, s->B, hidden, rows.out, scratch);
        /* h of the next step stands in y, by other rows than the state's: carry it there. */
        keep_state(p, s, h_state);
        p->turn -= 1;
        s->y = (char *)s->y + s->y_stride_t * real_size;
        advance(s, real_size);
    }
    *s = all;
    p->turn += steps;
}

/* The same with the hidden group.  h passes through two buffers by turns, whose rows keep the members' units on cache
 * lines of their own, and c stays in a third: in y and c_n, at whatever address the caller has them, members would write
 * to the same line (measured: 0.64 instead of 0.28 us a step at H = 64).  y is filled after the step is published. */
static void run_shared_steps(part *p, fl_steps *s, char *h_state)
{
    const fl_stack *stack = p->call->stack;
    const ptrdiff_t H = (ptrdiff_t)s->layout.H, real_size = (ptrdiff_t)stack->real_size;
    const ptrdiff_t stride_b = (ptrdiff_t)(s->layout.blocks * s->layout.units);
    const ptrdiff_t buffer_bytes = (ptrdiff_t)p->call->args->B * stride_b * real_size;
    char *exchange = p->call->exchange + (ptrdiff_t)p->place * 3 * buffer_bytes;
    const row_array state = states_array(p, h_state), c_state = {s->c, H, NULL};
    const row_array c_exchange = {exchange + 2 * buffer_bytes, stride_b, NULL};
    row_array y = {s->y, s->y_stride_b, s->y_at}, h_new = {NULL, stride_b, NULL};
    const size_t T = s->T;
    if (s->c != NULL) {
        copy_units(p, s, c_exchange, c_state);
        s->c = c_exchange.base;
        s->c_stride_b = stride_b;
    }
    s->h = h_state;
    s->h_stride_b = H;
    s->y_stride_b = stride_b;
    s->y_at = NULL;
    s->T = 1;
    for (size_t t = 0; t < T; t++) {
        if (!wait_for_group(p)) {
            p->stopped = true;
            return;
        }
        h_new.base = exchange + (ptrdiff_t)(t % 2) * buffer_bytes;
        s->y = h_new.base;
        s->turn = p->turn++;
        if (stack->path == FL_PATH_LSTM)
            stack->kernels->lstm_steps(s);
        else
            stack->kernels->cell_steps(s);
        publish_step(p);
        copy_units(p, s, y, h_new);
        y.base += s->y_stride_t * real_size;
        s->h = h_new.base;
        s->h_stride_b = stride_b;
        advance(s, real_size);
    }
    if (s->c != NULL)
        copy_units(p, s, c_state, c_exchange);
    /* Others may still read the old state in this very step, if it is the first; and the next layer reads y. */
    if (!wait_for_group(p)) {
        p->stopped = true;
        return;
    }
    copy_units(p, s, state, h_new);
    publish_step(p);
}

/* Input products of `steps` steps from the time of s->x on, for this thread's blocks; then s reads them. */
static void hoist(part *p, fl_steps *s, size_t steps)
{
    const call *c = p->call;
    ptrdiff_t *offsets = c->offsets + p->thread * c->hoisted_rows;
    fl_product product;
    for (size_t t = 0, m = 0; t < steps; t++)
        for (size_t position = 0; position < s->B; position++, m++) {
            const size_t b = s->rows != NULL ? s->rows[position] : position;
            offsets[m] = (ptrdiff_t)t * s->x_stride_t + (s->x_at != NULL ? s->x_at[b] : (ptrdiff_t)b) * s->x_stride_b;
        }
    product.layout = s->layout;
    product.rows = steps * s->B;
    product.block_begin = s->block_begin;
    product.block_end = s->block_end;
    product.I = s->I;
    product.bias = s->bias;
    product.W = s->W;
    product.x = s->x;
    product.x_offsets = offsets;
    product.pre = c->pre + p->place * c->pre_bytes;
    product.pre_stride_row = (ptrdiff_t)s->layout.gate_row;
    c->stack->kernels->input_product(&product);
    s->pre = product.pre;
    s->pre_stride_row = product.pre_stride_row;
    s->pre_stride_t = (ptrdiff_t)s->B * product.pre_stride_row;
    s->x = NULL;
}

static bool keep_going(part *p)
{
    if (!fl_interrupt_poll(&p->call->interrupt, p->thread == 0))
        p->stopped = true;
    return !p->stopped;
}

/* Where the steps of `s` save: from time t on. */
static void set_saving(const call *c, fl_steps *s, size_t layer, size_t direction, size_t t, size_t first_row,
                       ptrdiff_t sign)
{
    const fl_stack *stack = c->stack;
    const fl_forward_args *args = c->args;
    const fl_saving *saving = c->saving;
    const size_t real_size = stack->real_size, states = fl_states_width(stack), saved = stack->sizes.saved;
    const fl_places *places = &c->places;
    if (saving != NULL && saving->c != NULL && layer >= saving->first_layer) {
        const size_t cell = (layer - saving->first_layer) * stack->shape.num_directions + direction;
        const size_t row = cell * places->count + t * places->stride_t + (places->at == NULL ? first_row : 0);
        /* Cells without such states save as well: a place, where nothing is written. */
        s->saved_c = states != 0 ? saving->c + row * states * real_size : NULL;
        s->saved_parts = saved / stack->sizes.H;
        s->saves_far = places->count * stack->layout.H * real_size > fl_cache_l2() / 4;
        s->saved_at = places->at != NULL ? places->at + first_row : NULL;
        s->saved_c_stride_b = (ptrdiff_t)states;
        s->saved_c_stride_t = sign * (ptrdiff_t)(places->stride_t * states);
        if (saving->gates != NULL)
            s->saved_gates = saving->gates + row * saved * real_size;
        s->saved_gates_stride_b = (ptrdiff_t)saved;
        s->saved_gates_stride_t = sign * (ptrdiff_t)(places->stride_t * saved);
    } else if (fl_keeps_cells(c, layer)) {
        const ptrdiff_t row = s->y_at == NULL ? (ptrdiff_t)first_row * args->cells_stride_b : 0;
        s->saved_c = (char *)args->cells +
                     ((ptrdiff_t)t * args->cells_stride_t + row + (ptrdiff_t)(direction * stack->sizes.H)) *
                         (ptrdiff_t)real_size;
        s->saved_at = s->y_at;
        s->saved_c_stride_b = args->cells_stride_b;
        s->saved_c_stride_t = sign * args->cells_stride_t;
    }
}

/* c of the steps that `s` began with, from the tape to where the caller wants it. */
static void copy_cells(const part *p, const fl_steps *s, size_t direction, size_t t, size_t first_row)
{
    const fl_stack *stack = p->call->stack;
    const fl_forward_args *args = p->call->args;
    const ptrdiff_t real_size = (ptrdiff_t)stack->real_size, sign = direction == 0 ? 1 : -1;
    size_t begin = 0, end = stack->sizes.H;
    if (p->call->plan.hidden_groups != 1)
        own_units(p, &begin, &end);
    for (size_t n = 0; n < s->T; n++) {
        for (size_t position = 0; position < s->B; position++) {
            const size_t b = s->rows != NULL ? s->rows[position] : position;
            const ptrdiff_t row = s->y_at != NULL ? s->y_at[b] : (ptrdiff_t)(first_row + b);
            const ptrdiff_t to = ((ptrdiff_t)t + sign * (ptrdiff_t)n) * args->cells_stride_t +
                                 row * args->cells_stride_b + (ptrdiff_t)(direction * stack->sizes.H + begin);
            const ptrdiff_t place = s->saved_at != NULL ? s->saved_at[b] : (ptrdiff_t)b;
            const ptrdiff_t from = (ptrdiff_t)n * s->saved_c_stride_t + place * s->saved_c_stride_b;
            memcpy((char *)args->cells + to * real_size,
                   (const char *)s->saved_c + (from + (ptrdiff_t)begin) * real_size, (end - begin) * (size_t)real_size);
        }
    }
}

/* Steps that are computed by one call of a kernel, at most. */
static size_t most_steps(const part *p, size_t active, size_t hoisted, size_t I)
{
    const fl_stack *stack = p->call->stack;
    if (hoisted != 0)
        return hoisted;
    double step = fl_step_nanoseconds(stack, active, p->call->plan.hidden_groups);
    if (stack->path == FL_PATH_SCAN)
        step += fl_input_nanoseconds(stack, active, I);
    const double fit = RUN_NS / step;
    return fit < 1.0 ? 1 : (size_t)fit;
}

/* Steps [begin, end) of one cell for the first `active` rows, in the order of the direction. */
static void run_active(part *p, size_t layer, size_t direction, const sequence *in, const int64_t *x_index,
                       const sequence *out, size_t begin, size_t end, size_t active)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_packed_cell *cell = fl_cell_of(stack, layer, direction);
    const size_t real_size = stack->real_size, P = stack->sizes.P, states = fl_states_width(stack);
    const ptrdiff_t sign = direction == 0 ? 1 : -1;
    const size_t first_row = p->rows == NULL ? p->first_row : 0;
    const size_t row = (layer * stack->shape.num_directions + direction) * c->args->B + first_row;
    char *h_state = (char *)c->args->h_n + row * P * real_size;
    const bool on_rows = stack->path == FL_PATH_ROWS, scans = stack->path == FL_PATH_SCAN;
    const bool singly = stack->shape.cell.proj_size != 0 || fl_draws_zoneout(stack, c->saving);
    const size_t hoisted =
        (x_index == NULL || on_rows) && !scans ? fl_hoisted_steps(stack, cell->I, active, end - begin) : 0;
    const size_t most = most_steps(p, active, hoisted, cell->I);
    for (size_t done = 0, steps; done < end - begin && keep_going(p); done += steps) {
        const size_t rest = end - begin - done;
        steps = rest < most ? rest : most;
        const size_t t = direction == 0 ? begin + done : end - 1 - done;
        const ptrdiff_t x_row = in->at == NULL ? (ptrdiff_t)first_row * in->stride_b : 0;
        const ptrdiff_t y_row = out->at == NULL ? (ptrdiff_t)first_row * out->stride_b : 0;
        fl_steps s = {.layout = stack->layout,
                      .cell = &cell->cell,
                      .T = steps,
                      .B = active,
                      .rows = p->rows,
                      .x_at = in->at != NULL ? in->at + first_row : NULL,
                      .y_at = out->at != NULL ? out->at + first_row : NULL,
                      .block_begin = p->block_begin,
                      .block_end = p->block_end,
                      .turn = p->turn,
                      .bias = cell->bias,
                      .bias_h = cell->bias_h,
                      .W = cell->W,
                      .R = cell->R,
                      .I = cell->I,
                      .P = P,
                      .x_stride_t = sign * in->stride_t,
                      .x_stride_b = in->stride_b,
                      .y_stride_t = sign * out->stride_t,
                      .y_stride_b = out->stride_b,
                      .c = states != 0 ? (char *)c->args->c_n + row * states * real_size : NULL,
                      .c_stride_b = (ptrdiff_t)states};
        s.y = at_time(out, t, real_size) + (y_row + (ptrdiff_t)(direction * P)) * (ptrdiff_t)real_size;
        if (x_index != NULL)
            s.x_index = x_index + (ptrdiff_t)t * in->stride_t + x_row;
        else
            s.x = at_time(in, t, real_size) + x_row * (ptrdiff_t)real_size;
        if (c->saving != NULL || c->args->cells != NULL)
            set_saving(c, &s, layer, direction, t, first_row, sign);
        if (hoisted != 0 && !on_rows) {
            /* The layer below may not be finished yet in the other members; a merged product waits in its step. */
            if (layer > 0 && !wait_for_group(p)) {
                p->stopped = true;
                return;
            }
            hoist(p, &s, steps);
        }
        const fl_steps begun = s;
        if (on_rows) {
            fl_forward_on_rows(p, &s, layer, direction, t, h_state);
            keep_state(p, &s, h_state);
        } else if (scans) {
            fl_forward_scan(p, &s, h_state);
            keep_state(p, &s, h_state);
        } else if (singly) {
            run_single_steps(p, &s, layer, direction, t, h_state);
        } else if (c->plan.hidden_groups == 1) {
            run_steps(p, &s, h_state);
        } else {
            run_shared_steps(p, &s, h_state);
        }
        if (fl_keeps_cells(c, layer) && c->saving != NULL && c->saving->c != NULL && !p->stopped)
            copy_cells(p, &begun, direction, t, first_row);
    }
}

/* ---- Boundaries between steps t - 1 and t ----------------------------------------------------------------- */

/* This thread's part of a state of one row, `width` elements in all: put down at a checkpoint unless that is null, and
 * cleared. */
static void pass_state(const part *p, char *state, char *checkpoint, bool clears, size_t width)
{
    const size_t real_size = p->call->stack->real_size;
    size_t begin = 0, end = width;
    if (p->call->plan.hidden_groups != 1)
        own_units(p, &begin, &end);
    if (clears)
        memset(state + begin * real_size, 0, (end - begin) * real_size);
    if (checkpoint != NULL)
        memcpy(checkpoint + begin * real_size, state + begin * real_size, (end - begin) * real_size);
}

/* What a recorded call does where the states of rows pass between steps t - 1 and t. */
static void pass_boundary(const part *p, size_t layer, size_t direction, size_t t)
{
    const call *c = p->call;
    const fl_saving *saving = c->saving;
    const size_t cell = layer * c->stack->shape.num_directions + direction, B = c->args->B;
    const size_t h_bytes = c->stack->sizes.P * c->stack->real_size,
                 c_bytes = fl_states_width(c->stack) * c->stack->real_size;
    const bool resets = saving->reset != NULL && saving->any_reset[t];
    const bool checks = saving->checkpoints != NULL && t != 0 && t % saving->segment == 0;
    const size_t active = resets || checks ? active_at(p, t) : 0;
    for (size_t position = 0; position < active; position++) {
        const size_t b = p->rows != NULL ? p->rows[position] : p->first_row + position, row = cell * B + b;
        const bool clears = resets && saving->reset[t * B + b] != 0;
        char *checkpoint = NULL;
        if (checks) {
            const size_t place = fl_place(&saving->checked, t / saving->segment - 1, b);
            checkpoint = saving->checkpoints + (cell * saving->checked.count + place) * (h_bytes + c_bytes);
        }
        pass_state(p, (char *)c->args->h_n + row * h_bytes, checkpoint, clears, c->stack->sizes.P);
        if (c_bytes != 0)
            pass_state(p, (char *)c->args->c_n + row * c_bytes, checks ? checkpoint + h_bytes : NULL, clears,
                       fl_states_width(c->stack));
    }
}

static bool is_boundary(const fl_saving *saving, size_t t)
{
    return (saving->reset != NULL && saving->any_reset[t]) || (saving->checkpoints != NULL && t % saving->segment == 0);
}

void fl_forward_cell(part *p, size_t layer, size_t direction, const sequence *in, const int64_t *x_index,
                     const sequence *out, size_t begin, size_t end)
{
    const fl_saving *saving = p->call->saving;
    while (begin < end && !p->stopped) {
        size_t run_begin = begin, run_end = end, active;
        if (direction == 0) {
            active = active_at(p, begin);
            if (active == 0)
                return;
            const size_t shortest = length_at(p, active - 1);
            run_end = shortest < end ? shortest : end;
            if (saving != NULL) {
                pass_boundary(p, layer, direction, begin);
                for (size_t t = begin + 1; t < run_end; t++)
                    if (is_boundary(saving, t))
                        run_end = t;
            }
            begin = run_end;
        } else {
            active = active_at(p, end - 1);
            const size_t next = active < p->B ? length_at(p, active) : begin;
            run_begin = next > begin ? next : begin;
            if (saving != NULL) {
                if (end < p->call->args->T)
                    pass_boundary(p, layer, direction, end);
                for (size_t t = end - 1; t > run_begin; t--)
                    if (is_boundary(saving, t))
                        run_begin = t;
            }
            end = run_begin;
        }
        if (active != 0)
            run_active(p, layer, direction, in, x_index, out, run_begin, run_end, active);
    }
}
