/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One layer in one direction of the forward driver: cuts its steps into runs with a constant set of active rows, and hands
 * them to the kernels.  No arithmetic here.
 *
 * States live in h_n and c_n from the start: c is updated in place, h is copied there at the end of a run.
 */
#include "forward/forward_call.h"

#include <string.h>

#include "base/machine.h"

#define RUN_NS 5000000.0 /* no kernel call should be estimated to take longer */

/* Rows that are longer than t; they are the first ones, since rows are sorted. */
static size_t active_at(const part *p, size_t t)
{
    if (p->rows == NULL)
        return t < p->call->args->T ? p->B : 0;
    return fl_active_rows(p->rows, p->B, p->call->args->lengths, t);
}

/* All members of the hidden group have finished `seq` steps; else the part stops. */
static bool wait_for_group(part *p)
{
    const call *c = p->call;
    const size_t members = c->plan.hidden_groups, first = p->thread - p->hidden_group;
    for (size_t member = 0; member < members; member++) {
        if (member != p->hidden_group &&
            !fl_wait(&c->memory.progress[first + member], p->seq, &p->call->interrupt.stop, &p->slow_waits)) {
            p->stopped = true;
            return false;
        }
    }
    return true;
}

static void publish_step(part *p)
{
    p->seq++;
    atomic_store_explicit(&p->call->memory.progress[p->thread].value, p->seq, memory_order_release);
}

/* This thread's part of a row of `width` units: all of it, or that of its hidden units. */
static void own_units(const part *p, size_t width, size_t *begin, size_t *end)
{
    const fl_layout *layout = &p->call->stack->layout;
    *begin = p->block_begin * layout->units;
    *end = p->block_end * layout->units;
    if (p->call->plan.hidden_groups == 1) {
        *begin = 0;
        *end = width;
    } else if (*end > width) {
        *end = width;
    }
}

/* Copy this thread's units of h or c of the active rows, of one step. */
static void copy_units(const part *p, const fl_steps *s, void *to, const fl_rows *to_rows, const void *from,
                       const fl_rows *from_rows)
{
    const size_t real_size = p->call->stack->real_size;
    size_t begin, end;
    own_units(p, p->call->stack->sizes.P, &begin, &end);
    for (size_t position = 0; position < s->B; position++) {
        const size_t b = batch_row(s, position);
        memcpy(fl_row(to, to_rows, 0, b, real_size) + begin * real_size,
               fl_row_const(from, from_rows, 0, b, real_size) + begin * real_size, (end - begin) * real_size);
    }
}

/* h to the state, from the last of T steps whose output began at y. */
static void keep_state(part *p, const fl_steps *s, size_t T, const void *y, void *h_state)
{
    const size_t real_size = p->call->stack->real_size;
    const fl_rows state = {0, (ptrdiff_t)p->call->stack->sizes.P, NULL};
    copy_units(p, s, h_state, &state, fl_moved_const(y, (ptrdiff_t)(T - 1) * s->y_rows.stride_t, real_size),
               &s->y_rows);
    p->turn += T;
    p->seq += T;
}

void fl_forward_advance(fl_steps *s, size_t real_size)
{
    if (s->pre != NULL)
        s->pre = fl_moved_const(s->pre, s->pre_stride_t, real_size);
    if (s->x != NULL)
        s->x = fl_moved_const(s->x, s->x_rows.stride_t, real_size);
    if (s->x_index != NULL)
        s->x_index += s->x_rows.stride_t;
    if (s->saved_c != NULL)
        s->saved_c = fl_moved(s->saved_c, s->saved_c_rows.stride_t, real_size);
    if (s->saved_gates != NULL)
        s->saved_gates = fl_moved(s->saved_gates, s->saved_gates_rows.stride_t, real_size);
}

/* From h before projection to y and, for the backward pass, behind what the cell saved. */
static void project_step(const part *p, const fl_steps *s, const fl_recurrence *r)
{
    const fl_stack *stack = p->call->stack;
    const size_t H = stack->sizes.H, real_size = stack->real_size;
    const fl_projection projection = {r->weight_hr, r->bias_hr, stack->shape.cell.proj_clip};
    const fl_row_scratch *scratch = &p->scratch->rows;
    for (size_t position = 0; position < s->B; position++) {
        const size_t b = batch_row(s, position);
        scratch->out[position] = fl_row(s->y, &s->y_rows, 0, b, real_size);
        if (s->saved_gates != NULL)
            memcpy(fl_row(s->saved_gates, &s->saved_gates_rows, 0, b, real_size) + (stack->sizes.saved - H) * real_size,
                   (const char *)s->out + position * H * real_size, H * real_size);
    }
    stack->kernels->project(&projection, H, stack->sizes.P, s->B, s->out, scratch->out, scratch);
}

/* Step by step on one thread, for what happens between kernels: projection, and masks of zoneout that are drawn. */
static void run_single_steps(part *p, fl_steps *s, size_t layer, size_t direction, size_t t, void *h_state)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const size_t steps = s->T;
    const bool draws = fl_draws_zoneout(stack, c->recording);
    s->T = 1;
    s->out = p->scratch->hidden;
    for (size_t n = 0; n < steps; n++) {
        s->turn = p->turn;
        if (draws)
            fl_forward_zoneout(p, s, layer, direction, direction == 0 ? t + n : t - n);
        stack->kernels->tile_steps(s);
        if (s->out != NULL)
            project_step(p, s, fl_recurrence_of(stack, layer, direction));
        /* h of the next step stands in y, by other rows than the state's: carry it there. */
        keep_state(p, s, 1, s->y, h_state);
        s->y = fl_moved(s->y, s->y_rows.stride_t, stack->real_size);
        fl_forward_advance(s, stack->real_size);
    }
}

/* Steps with the hidden group.  h passes through two buffers by turns, whose rows keep the members' units on cache
 * lines of their own, and c stays in a third: in y and c_n, at whatever address the caller has them, members would write
 * to the same line (measured: 0.64 instead of 0.28 us a step at H = 64).  y is filled after the step is published. */
static void run_shared_steps(part *p, fl_steps *s, void *h_state)
{
    const fl_stack *stack = p->call->stack;
    const size_t real_size = stack->real_size, T = s->T;
    const fl_rows exchanged = {0, (ptrdiff_t)(s->layout.blocks * s->layout.units), NULL};
    const fl_rows state = {0, (ptrdiff_t)s->layout.H, NULL}, y_rows = s->y_rows;
    const size_t buffer_bytes = p->call->args->B * (size_t)exchanged.stride_b * real_size;
    char *exchange = p->call->memory.exchange + p->place * 3 * buffer_bytes, *c_buffer = exchange + 2 * buffer_bytes;
    void *y = s->y, *c_state = s->c;
    if (c_state != NULL) {
        copy_units(p, s, c_buffer, &exchanged, c_state, &state);
        s->c = c_buffer;
        s->c_stride_b = exchanged.stride_b;
    }
    s->y_rows = exchanged;
    s->T = 1;
    for (size_t t = 0; t < T; t++) {
        if (!wait_for_group(p))
            return;
        s->y = exchange + t % 2 * buffer_bytes;
        s->turn = p->turn++;
        stack->kernels->tile_steps(s);
        publish_step(p);
        copy_units(p, s, y, &y_rows, s->y, &exchanged);
        y = fl_moved(y, y_rows.stride_t, real_size);
        s->h = s->y;
        s->h_rows = exchanged;
        fl_forward_advance(s, real_size);
    }
    if (c_state != NULL)
        copy_units(p, s, c_state, &state, c_buffer, &exchanged);
    /* Others may still read the old state in this very step, if it is the first; and the next layer reads y. */
    if (!wait_for_group(p))
        return;
    copy_units(p, s, h_state, &state, s->y, &exchanged);
    publish_step(p);
}

/* Whether this thread's blocks of weights, `depth` deep, are more than its core keeps of them from step to step. */
static bool weights_are_far(const fl_steps *s, size_t depth, size_t weight_size)
{
    const size_t panel = fl_panel_stride(&s->layout, depth) * weight_size;
    return (s->block_end - s->block_begin) * panel > 2 * fl_cache_l2();
}

/* Input products of the steps of `s`, for this thread's blocks; then s reads them. */
static void hoist(part *p, fl_steps *s)
{
    const call *c = p->call;
    ptrdiff_t *offsets = p->scratch->offsets;
    for (size_t t = 0, m = 0; t < s->T; t++)
        for (size_t position = 0; position < s->B; position++, m++)
            offsets[m] = (ptrdiff_t)t * s->x_rows.stride_t + fl_row_offset(&s->x_rows, batch_row(s, position));
    const fl_input_product product = {.layout = s->layout,
                                      .rows = s->T * s->B,
                                      .block_begin = s->block_begin,
                                      .block_end = s->block_end,
                                      .I = s->I,
                                      .bias = s->bias,
                                      .W = s->W,
                                      .x = s->x,
                                      .x_offsets = offsets,
                                      .pre = c->memory.pre + p->place * c->memory.pre_bytes,
                                      .pre_stride_row = (ptrdiff_t)s->layout.gate_row,
                                      .weights_far = weights_are_far(s, s->I, c->stack->kernels->weight_size)};
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

/* ---- A run of steps ----------------------------------------------------------------------------------------- */

/* Rows of an array (T, B) or of places, in the order of the direction, from batch row `first_row` on. */
static fl_rows rows_from(ptrdiff_t stride_t, ptrdiff_t stride_b, const ptrdiff_t *at, size_t direction,
                         size_t first_row)
{
    const fl_rows rows = {direction == 0 ? stride_t : -stride_t, stride_b, at != NULL ? at + first_row : NULL};
    return rows;
}

/* Elements from the base to step t of batch row `first_row`, which an `at` does not count. */
static ptrdiff_t first_offset(const fl_rows *rows, ptrdiff_t t, size_t direction, size_t first_row)
{
    const ptrdiff_t stride_t = direction == 0 ? rows->stride_t : -rows->stride_t;
    return t * stride_t + (rows->at == NULL ? (ptrdiff_t)first_row * rows->stride_b : 0);
}

/* Where the steps of `s` save: from time t on. */
static void set_saving(const call *c, fl_steps *s, size_t layer, size_t direction, size_t t, size_t first_row)
{
    const fl_stack *stack = c->stack;
    const fl_forward_args *args = c->args;
    const fl_recording *recording = c->recording;
    const size_t real_size = stack->real_size, states = fl_states_width(&stack->sizes), saved = stack->sizes.saved;
    if (recording != NULL && recording->c != NULL && layer >= recording->first_layer) {
        const fl_places *places = &c->places;
        const size_t index = (layer - recording->first_layer) * stack->shape.num_directions + direction;
        const size_t row = index * places->count + t * places->stride_t + (places->at == NULL ? first_row : 0);
        const ptrdiff_t step = (ptrdiff_t)places->stride_t;
        if (states != 0)
            s->saved_c = recording->c + row * states * real_size;
        if (recording->gates != NULL)
            s->saved_gates = recording->gates + row * saved * real_size;
        s->saved_parts = saved / stack->sizes.H;
        s->saves_far = places->count * stack->sizes.H * real_size > fl_cache_l2() / 4;
        s->saved_c_rows = rows_from(step * (ptrdiff_t)states, (ptrdiff_t)states, places->at, direction, first_row);
        s->saved_gates_rows = rows_from(step * (ptrdiff_t)saved, (ptrdiff_t)saved, places->at, direction, first_row);
    } else if (fl_keeps_cells(c, layer)) {
        s->saved_c_rows = s->y_rows;
        s->saved_c_rows.stride_t = direction == 0 ? args->cells_stride_t : -args->cells_stride_t;
        s->saved_c_rows.stride_b = args->cells_stride_b;
        s->saved_c = fl_moved(args->cells,
                              first_offset(&s->saved_c_rows, (ptrdiff_t)t, direction, first_row) +
                                  (ptrdiff_t)(direction * stack->sizes.H),
                              real_size);
    }
}

/* c of the steps that `s` began with, from the tape to where the caller wants it. */
static void copy_cells(const part *p, const fl_steps *s, size_t direction, size_t t, size_t first_row)
{
    const fl_stack *stack = p->call->stack;
    const fl_forward_args *args = p->call->args;
    const size_t real_size = stack->real_size;
    fl_rows rows = {direction == 0 ? args->cells_stride_t : -args->cells_stride_t, args->cells_stride_b, s->y_rows.at};
    const ptrdiff_t offset = first_offset(&rows, (ptrdiff_t)t, direction, first_row);
    size_t begin, end;
    own_units(p, stack->sizes.H, &begin, &end);
    void *to = fl_moved(args->cells, offset + (ptrdiff_t)(direction * stack->sizes.H + begin), real_size);
    const void *from = fl_moved_const(s->saved_c, (ptrdiff_t)begin, real_size);
    for (size_t n = 0; n < s->T; n++)
        for (size_t position = 0; position < s->B; position++) {
            const size_t b = batch_row(s, position);
            memcpy(fl_row(to, &rows, n, b, real_size), fl_row_const(from, &s->saved_c_rows, n, b, real_size),
                   (end - begin) * real_size);
        }
}

/* Steps that are computed by one call of a kernel, at most. */
static size_t most_steps(const part *p, size_t active, size_t hoisted, size_t I)
{
    const fl_stack *stack = p->call->stack;
    if (hoisted != 0)
        return hoisted;
    double step = fl_step_nanoseconds(stack, active, p->call->plan.hidden_groups);
    if (stack->sizes.path == FL_PATH_SCAN)
        step += fl_input_nanoseconds(stack, active, I);
    const double fit = RUN_NS / step;
    return fit < 1.0 ? 1 : (size_t)fit;
}

/* What one run is asked for: steps [begin, end) for the first `active` rows. */
typedef struct run {
    size_t layer, direction;
    const source *in;
    const target *out;
    size_t begin, end, active;
} run;

/* `steps` steps of a run from time t on, in the order of the direction. */
static fl_steps steps_of(const part *p, const run *r, size_t t, size_t steps)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_recurrence *recurrence = fl_recurrence_of(stack, r->layer, r->direction);
    const size_t real_size = stack->real_size, P = stack->sizes.P, states = fl_states_width(&stack->sizes);
    const size_t first_row = p->rows == NULL ? p->first_row : 0;
    const size_t row = (r->layer * stack->shape.num_directions + r->direction) * c->args->B + first_row;
    const fl_rows *in = &r->in->rows, *out = &r->out->rows;
    fl_steps s = {.cell = &recurrence->cell,
                  .layout = stack->layout,
                  .T = steps,
                  .B = r->active,
                  .rows = p->rows,
                  .block_begin = p->block_begin,
                  .block_end = p->block_end,
                  .turn = p->turn,
                  .bias = recurrence->bias,
                  .bias_h = recurrence->bias_h,
                  .W = recurrence->W,
                  .R = recurrence->R,
                  .I = recurrence->I,
                  .P = P,
                  .x_rows = rows_from(in->stride_t, in->stride_b, in->at, r->direction, first_row),
                  .h = (char *)c->args->h_n + row * P * real_size,
                  .h_rows = {0, (ptrdiff_t)P, NULL},
                  .y_rows = rows_from(out->stride_t, out->stride_b, out->at, r->direction, first_row),
                  .c = states != 0 ? (char *)c->args->c_n + row * states * real_size : NULL,
                  .c_stride_b = (ptrdiff_t)states};
    const ptrdiff_t x_first = first_offset(&s.x_rows, (ptrdiff_t)t - (ptrdiff_t)r->in->origin, r->direction, first_row);
    const ptrdiff_t y_first =
        first_offset(&s.y_rows, (ptrdiff_t)t - (ptrdiff_t)r->out->origin, r->direction, first_row);
    if (r->in->index != NULL)
        s.x_index = r->in->index + x_first;
    else
        s.x = fl_moved_const(r->in->base, x_first, real_size);
    s.y = fl_moved(r->out->base, y_first + (ptrdiff_t)(r->direction * P), real_size);
    s.weights_far = c->plan.fetches && weights_are_far(&s, P, stack->kernels->weight_size);
    if (c->recording != NULL || c->args->cells != NULL)
        set_saving(c, &s, r->layer, r->direction, t, first_row);
    return s;
}

/* The steps of `s`, which is used up. */
static void run_steps(part *p, fl_steps *s, const run *r, size_t t)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const void *y = s->y;
    const size_t T = s->T;
    const size_t row = (r->layer * stack->shape.num_directions + r->direction) * c->args->B;
    const size_t first_row = p->rows == NULL ? p->first_row : 0;
    void *h_state = (char *)c->args->h_n + (row + first_row) * stack->sizes.P * stack->real_size;
    const bool singly = stack->shape.cell.proj_size != 0 || fl_draws_zoneout(stack, c->recording);
    switch (stack->sizes.path) {
    case FL_PATH_TILES:
        if (c->plan.hidden_groups != 1) {
            run_shared_steps(p, s, h_state);
            return;
        }
        if (singly) {
            run_single_steps(p, s, r->layer, r->direction, t, h_state);
            return;
        }
        stack->kernels->tile_steps(s);
        break;
    case FL_PATH_ROWS: fl_forward_on_rows(p, s, r->layer, r->direction, t); break;
    case FL_PATH_SCAN: fl_forward_scan(p, s); break;
    }
    keep_state(p, s, T, y, h_state);
}

static void run_active(part *p, const run *r)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const size_t I = fl_recurrence_of(stack, r->layer, r->direction)->I;
    const bool hoists = r->in->index == NULL && stack->sizes.path == FL_PATH_TILES;
    const bool runs_in_parts = hoists || stack->sizes.path == FL_PATH_ROWS;
    const size_t hoisted = runs_in_parts ? fl_hoisted_steps(stack, I, r->active, r->end - r->begin) : 0;
    const size_t most = most_steps(p, r->active, hoisted, I);
    const bool copies = fl_keeps_cells(c, r->layer) && c->recording != NULL && c->recording->c != NULL;
    for (size_t done = 0, steps; done < r->end - r->begin && keep_going(p); done += steps) {
        const size_t rest = r->end - r->begin - done;
        steps = rest < most ? rest : most;
        const size_t t = r->direction == 0 ? r->begin + done : r->end - 1 - done;
        fl_steps s = steps_of(p, r, t, steps);
        if (hoisted != 0 && hoists) {
            /* The layer below may not be finished yet in the other members; a merged product waits in its step. */
            if (r->layer > 0 && !wait_for_group(p))
                return;
            hoist(p, &s);
        }
        if (copies) {
            const fl_steps begun = s;
            run_steps(p, &s, r, t);
            if (!p->stopped)
                copy_cells(p, &begun, r->direction, t, p->rows == NULL ? p->first_row : 0);
        } else {
            run_steps(p, &s, r, t);
        }
    }
}

/* ---- Boundaries between steps t - 1 and t ----------------------------------------------------------------- */

/* This thread's part of a state of one row, `width` elements in all: put down at a checkpoint unless that is null, and
 * cleared. */
static void pass_state(const part *p, char *state, char *checkpoint, bool clears, size_t width)
{
    const size_t real_size = p->call->stack->real_size;
    size_t begin, end;
    own_units(p, width, &begin, &end);
    if (clears)
        memset(state + begin * real_size, 0, (end - begin) * real_size);
    if (checkpoint != NULL)
        memcpy(checkpoint + begin * real_size, state + begin * real_size, (end - begin) * real_size);
}

/* What a recorded call does where the states of rows pass between steps t - 1 and t. */
static void pass_boundary(const part *p, size_t layer, size_t direction, size_t t)
{
    const call *c = p->call;
    const fl_recording *recording = c->recording;
    const size_t recurrence = layer * c->stack->shape.num_directions + direction, B = c->args->B;
    const size_t P = c->stack->sizes.P, states = fl_states_width(&c->stack->sizes);
    const size_t h_bytes = P * c->stack->real_size, c_bytes = states * c->stack->real_size;
    const bool resets = recording->reset != NULL && recording->any_reset[t];
    const bool checks = recording->checkpoints != NULL && t != 0 && t % recording->segment == 0;
    const size_t active = resets || checks ? active_at(p, t) : 0;
    for (size_t position = 0; position < active; position++) {
        const size_t b = p->rows != NULL ? p->rows[position] : p->first_row + position, row = recurrence * B + b;
        const bool clears = resets && recording->reset[t * B + b] != 0;
        char *checkpoint = NULL;
        if (checks) {
            const size_t place = fl_place(&recording->checked, t / recording->segment - 1, b);
            checkpoint = recording->checkpoints + (recurrence * recording->checked.count + place) * (h_bytes + c_bytes);
        }
        pass_state(p, (char *)c->args->h_n + row * h_bytes, checkpoint, clears, P);
        if (c_bytes != 0)
            pass_state(p, (char *)c->args->c_n + row * c_bytes, checks ? checkpoint + h_bytes : NULL, clears, states);
    }
}

static bool is_boundary(const fl_recording *recording, size_t t)
{
    return (recording->reset != NULL && recording->any_reset[t]) ||
           (recording->checkpoints != NULL && t % recording->segment == 0);
}

/* The longest run from `begin` on in which the active rows stay and no boundary stops. */
static run next_run_forward(const part *p, run r)
{
    const fl_recording *recording = p->call->recording;
    r.active = active_at(p, r.begin);
    if (r.active == 0)
        return r;
    const size_t shortest = length_at(p, r.active - 1);
    r.end = shortest < r.end ? shortest : r.end;
    if (recording != NULL) {
        pass_boundary(p, r.layer, 0, r.begin);
        for (size_t t = r.begin + 1; t < r.end; t++)
            if (is_boundary(recording, t))
                r.end = t;
    }
    return r;
}

/* That which ends with `end`, against time. */
static run next_run_reverse(const part *p, run r)
{
    const fl_recording *recording = p->call->recording;
    r.active = active_at(p, r.end - 1);
    const size_t next = r.active < p->B ? length_at(p, r.active) : r.begin;
    r.begin = next > r.begin ? next : r.begin;
    if (recording != NULL) {
        if (r.end < p->call->args->T)
            pass_boundary(p, r.layer, 1, r.end);
        for (size_t t = r.end - 1; t > r.begin; t--)
            if (is_boundary(recording, t))
                r.begin = t;
    }
    return r;
}

void fl_forward_recurrence(part *p, size_t layer, size_t direction, const source *in, const target *out, size_t begin,
                           size_t end)
{
    while (begin < end && !p->stopped) {
        const run rest = {layer, direction, in, out, begin, end, 0};
        const run r = direction == 0 ? next_run_forward(p, rest) : next_run_reverse(p, rest);
        if (direction == 0 && r.active == 0)
            return;
        if (direction == 0)
            begin = r.end;
        else
            end = r.begin;
        if (r.active != 0)
            run_active(p, &r);
    }
}
