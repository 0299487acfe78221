/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The recurrent part of a stage: one thread's batch rows through the steps of a chunk, against time.
 */
#include <string.h>

#include "backward/backward_call.h"
#include "base/random.h"

/* ---- Where things are ------------------------------------------------------------------------------------- */

stage fl_back_stage(const back_call *c, size_t index)
{
    const size_t chunks = c->plan.chunks;
    stage s;
    size_t n;        /* the chunk's place in the order of the direction */
    if (c->D == 1) { /* a chunk passes all layers */
        s.direction = 0;
        s.layer = c->L - 1 - index % c->L;
        n = index / c->L;
    } else {
        n = index % chunks;
        s.direction = index / chunks % 2;
        s.layer = c->L - 1 - index / chunks / 2;
    }
    const size_t chunk = s.direction == 0 ? chunks - 1 - n : n;
    s.begin = chunk * c->plan.chunk;
    s.end = c->T - s.begin < c->plan.chunk ? c->T : s.begin + c->plan.chunk;
    s.is_first = n == 0;
    return s;
}

size_t fl_back_active(const back_call *c, size_t t)
{
    return c->lengths != NULL ? fl_active_rows(c->rows, c->B, c->lengths, t) : c->B;
}

const char *fl_back_output(const back_call *c, size_t layer, size_t t, size_t b)
{
    const saved_states *s = &c->saved;
    const ptrdiff_t real_size = (ptrdiff_t)c->stack->real_size;
    if (layer == s->top_layer)
        return s->y + ((ptrdiff_t)(t - s->origin) * s->y_stride_t + back_place(s->y_at, b) * s->y_stride_b) * real_size;
    return s->h +
           (layer * s->places.count + fl_place(&s->places, t - s->origin, b)) * c->D * c->P * c->stack->real_size;
}

/* Row of a cell at a step in an array like fl_saving's, `width` elements a row. */
static const char *saved_row(const back_call *c, const char *array, size_t layer, size_t direction, size_t t, size_t b,
                             size_t width)
{
    const saved_states *s = &c->saved;
    const size_t cell = (layer - s->first_layer) * c->D + direction;
    return array + (cell * s->places.count + fl_place(&s->places, t - s->origin, b)) * width * c->stack->real_size;
}

/* Whether the state passes from the step before, in the order of the direction, to step t of row b. */
static bool is_reset(const back_call *c, size_t direction, size_t t, size_t b)
{
    const uint8_t *reset = c->tape->args.reset;
    if (reset == NULL)
        return false;
    if (direction == 0)
        return reset[t * c->B + b] != 0;
    return t + 1 < back_length(c, b) && reset[(t + 1) * c->B + b] != 0;
}

/* Whether the step before is in the saved range; its time. */
static bool step_before(const back_call *c, size_t direction, size_t t, size_t b, size_t *before)
{
    const saved_states *s = &c->saved;
    const size_t length = back_length(c, b), end = length < s->origin + s->T ? length : s->origin + s->T;
    *before = direction == 0 ? t - 1 : t + 1;
    return direction == 0 ? t > s->origin : t + 1 < end;
}

static const char *outside(const back_call *c, const char *states, size_t layer, size_t direction, size_t b,
                           size_t width)
{
    if (states == NULL)
        return c->zeros;
    return states + ((layer * c->D + direction) * c->B + b) * width * c->stack->real_size;
}

const char *fl_back_h_before(const back_call *c, size_t layer, size_t direction, size_t t, size_t b)
{
    size_t before;
    if (is_reset(c, direction, t, b))
        return c->zeros;
    if (step_before(c, direction, t, b, &before))
        return fl_back_output(c, layer, before, b) + direction * c->P * c->stack->real_size;
    return outside(c, c->saved.h_outside, layer, direction, b, c->P);
}

const char *fl_back_c_before(const back_call *c, size_t layer, size_t direction, size_t t, size_t b)
{
    size_t before;
    if (is_reset(c, direction, t, b))
        return c->zeros;
    if (step_before(c, direction, t, b, &before))
        return saved_row(c, c->saved.c, layer, direction, before, b, c->states);
    return outside(c, c->saved.c_outside, layer, direction, b, c->states);
}

const char *fl_back_saved(const back_call *c, size_t layer, size_t direction, size_t t, size_t b)
{
    return saved_row(c, c->saved.gates, layer, direction, t, b, c->stack->sizes.saved);
}

/* Gradient of a layer's output, for all directions; null for zero. */
static const char *dy_row(const back_call *c, const stage *s, size_t t, size_t b)
{
    const size_t real_size = c->stack->real_size, origin = c->D == 1 ? s->begin : 0;
    if (s->layer + 1 < c->L)
        return c->inner[(s->layer + 1) % 2] + fl_place(&c->inner_places, t - origin, b) * c->D * c->P * real_size;
    if (c->args->dy == NULL)
        return NULL;
    return (const char *)c->args->dy +
           ((ptrdiff_t)t * c->args->dy_stride_t + back_place(c->args->dy_at, b) * c->args->dy_stride_b) *
               (ptrdiff_t)real_size;
}

static char *dx_row(const back_call *c, const stage *s, size_t t, size_t b)
{
    const size_t real_size = c->stack->real_size, origin = c->D == 1 ? s->begin : 0;
    if (s->layer > 0)
        return c->inner[s->layer % 2] + fl_place(&c->inner_places, t - origin, b) * c->D * c->P * real_size;
    if (c->args->dx == NULL)
        return NULL;
    return (char *)c->args->dx +
           ((ptrdiff_t)t * c->args->dx_stride_t + back_place(c->args->dx_at, b) * c->args->dx_stride_b) *
               (ptrdiff_t)real_size;
}

const char *fl_back_input(const back_call *c, size_t t, size_t b)
{
    const fl_forward_args *call = &c->tape->args.call;
    return (const char *)call->x + ((ptrdiff_t)t * call->x_stride_t + back_place(call->x_at, b) * call->x_stride_b) *
                                       (ptrdiff_t)c->stack->real_size;
}

int64_t fl_back_input_index(const back_call *c, size_t t, size_t b)
{
    const fl_forward_args *call = &c->tape->args.call;
    return call->x_index[(ptrdiff_t)t * call->x_stride_t + back_place(call->x_at, b) * call->x_stride_b];
}

/* Gradient of c from outside; null for zero. */
static const char *dcells_row(const back_call *c, const stage *s, size_t t, size_t b)
{
    const fl_backward_args *args = c->args;
    if (args->dcells == NULL || s->layer + 1 != c->L)
        return NULL;
    return (const char *)args->dcells +
           ((ptrdiff_t)t * args->dcells_stride_t + back_place(args->dy_at, b) * args->dcells_stride_b +
            (ptrdiff_t)(s->direction * c->H)) *
               (ptrdiff_t)c->stack->real_size;
}

/* ---- The chunk's rows ------------------------------------------------------------------------------------- */

/* A thread's part of the rows: ranks thread, thread + groups, ... */
static size_t own_active(const back_call *c, size_t active, size_t thread)
{
    return active > thread ? (active - thread + c->plan.groups - 1) / c->plan.groups : 0;
}

/* Pointers to all rows of this thread, step after step against time; returns their number. */
static size_t point_at_rows(const back_call *c, const stage *s, size_t thread, size_t parity,
                            const back_scratch *scratch)
{
    const size_t real_size = c->stack->real_size, width = c->D * c->P;
    const bool fresh = c->saved.gates == NULL, is_cell = c->stack->path != FL_PATH_LSTM;
    size_t m = 0, row = 0;
    for (size_t n = 0; n < s->end - s->begin; n++) {
        const size_t t = s->direction == 0 ? s->end - 1 - n : s->begin + n, active = fl_back_active(c, t);
        for (size_t rank = thread; rank < active; rank += c->plan.groups, m++) {
            const size_t b = c->rows[rank];
            const char *dy = dy_row(c, s, t, b);
            scratch->c[m] = saved_row(c, c->saved.c, s->layer, s->direction, t, b, c->states);
            scratch->c_before[m] = fl_back_c_before(c, s->layer, s->direction, t, b);
            scratch->dy[m] = dy != NULL ? dy + s->direction * c->P * real_size : NULL;
            scratch->dcells[m] = dcells_row(c, s, t, b);
            if (is_cell)
                fl_back_point_at_cell(c, s, m, t, b, scratch);
            scratch->dgates[m] = c->dgates[parity] + (ptrdiff_t)(row + rank) * c->dgates_stride * (ptrdiff_t)real_size;
            scratch->dx[m] = dx_row(c, s, t, b);
            if (c->drops && s->layer > 0) {
                char *dropped = c->dropped[parity] + (row + rank) * width * real_size;
                const fl_record_args *recorded = &c->tape->args;
                fl_dropout(c->stack->shape.dtype, recorded->dropout, recorded->seed,
                           (uint64_t)(((s->layer - 1) * c->T + t) * c->B + b) * width, width,
                           fl_back_output(c, s->layer - 1, t, b), dropped);
                scratch->x[m] = dropped;
            } else if (s->layer > 0) {
                scratch->x[m] = fl_back_output(c, s->layer - 1, t, b);
            } else if (c->tape->args.call.x != NULL) {
                scratch->x[m] = fl_back_input(c, t, b);
            } else {
                scratch->index[m] = fl_back_input_index(c, t, b);
            }
            if (fresh) {
                scratch->h_before[m] = fl_back_h_before(c, s->layer, s->direction, t, b);
                scratch->fresh_gates[m] = scratch->gate_rows + m * 4 * c->H * real_size;
                scratch->gates[m] = scratch->fresh_gates[m];
            } else {
                scratch->gates[m] = fl_back_saved(c, s->layer, s->direction, t, b);
            }
        }
        row += active;
    }
    return m;
}

static void compute_gates(const back_call *c, const stage *s, size_t rows, const back_scratch *scratch)
{
    const fl_packed_cell *cell = fl_cell_of(c->stack, s->layer, s->direction);
    const bool is_index = s->layer == 0 && c->tape->args.call.x_index != NULL;
    const fl_gate_rows gates = {.layout = c->stack->layout,
                                .rows = rows,
                                .I = cell->I,
                                .bias = cell->bias,
                                .W = cell->W,
                                .R = cell->R,
                                .x = is_index ? NULL : scratch->x,
                                .x_index = scratch->index,
                                .h = scratch->h_before,
                                .gates = scratch->fresh_gates};
    c->stack->kernels->lstm_gate_rows(&gates);
}

/* ---- Runs of steps ---------------------------------------------------------------------------------------- */

/* Whether the gradient of some state ends at the boundary between steps t - 1 and t. */
static bool is_cut(const back_call *c, size_t t)
{
    if (t == c->T)
        return false;
    const bool truncates = t != 0 && c->args->bptt != 0 && t % c->args->bptt == 0;
    return truncates || (c->tape->args.reset != NULL && c->tape->saving.any_reset[t]);
}

/* Ends it: the gradient that has just been carried over this boundary is zero. */
static void cut(const back_call *c, const stage *s, size_t t, size_t thread, size_t cell)
{
    const size_t h_bytes = c->P * c->stack->real_size, c_bytes = c->states * c->stack->real_size;
    const bool truncates = t != 0 && c->args->bptt != 0 && t % c->args->bptt == 0;
    const uint8_t *reset = c->tape->args.reset;
    if (!is_cut(c, t))
        return;
    for (size_t rank = thread; rank < c->B; rank += c->plan.groups) {
        const size_t b = c->rows[rank];
        /* The row has both steps; or it begins here, and the given state was replaced. */
        const bool crosses = back_length(c, b) > t;
        if (!crosses || !((truncates && t != 0) || (reset != NULL && reset[t * c->B + b] != 0)))
            continue;
        if (s->direction == 1 && t == 0)
            continue;
        memset((char *)c->args->dh0 + (cell * c->B + b) * h_bytes, 0, h_bytes);
        if (c_bytes != 0)
            memset((char *)c->args->dc0 + (cell * c->B + b) * c_bytes, 0, c_bytes);
    }
}

bool fl_back_recurrent(back_call *c, size_t thread, size_t index)
{
    const stage s = fl_back_stage(c, index);
    const size_t real_size = c->stack->real_size, cell = s.layer * c->D + s.direction, steps = s.end - s.begin;
    const size_t states = cell * c->B * c->H * real_size;
    const bool is_cell = c->stack->path != FL_PATH_LSTM;
    back_scratch scratch;
    fl_back_scratch(c, c->per_thread + thread * c->per_thread_bytes, &scratch);
    const size_t rows = point_at_rows(c, &s, thread, index % 2, &scratch);
    if (c->saved.gates == NULL && rows != 0 && !is_cell)
        compute_gates(c, &s, rows, &scratch);
    for (size_t n = 0, m = 0; n < steps;) {
        if (!fl_interrupt_poll(&c->interrupt, thread == 0))
            return false;
        const size_t t = s.direction == 0 ? s.end - 1 - n : s.begin + n;
        const size_t active = own_active(c, fl_back_active(c, t), thread);
        size_t run = 1, boundary;
        for (;; run++) {
            boundary = s.direction == 0 ? t - run + 1 : t + run;
            if (n + run == steps || is_cut(c, boundary) ||
                own_active(c, fl_back_active(c, s.direction == 0 ? t - run : t + run), thread) != active)
                break;
        }
        if (is_cell && active != 0)
            fl_back_cell_steps(c, &s, m, run, active, &scratch);
        const fl_back_steps work = {.steps = run,
                                    .rows = active,
                                    .H = c->H,
                                    .b = scratch.own_b,
                                    .panels = fl_panels_of(c->H, c->stack->layout.lanes),
                                    .R = c->R_panels[cell],
                                    .gates = scratch.gates + m,
                                    .c = scratch.c + m,
                                    .c_before = scratch.c_before + m,
                                    .dy = scratch.dy + m,
                                    .dcells = c->args->dcells != NULL ? scratch.dcells + m : NULL,
                                    .dgates = scratch.dgates + m,
                                    .dh = (char *)c->args->dh0 + states,
                                    .dc = (char *)c->args->dc0 + states,
                                    .totals = scratch.totals};
        if (!is_cell && active != 0)
            c->stack->kernels->lstm_back_steps(&work);
        cut(c, &s, boundary, thread, cell);
        m += run * active;
        n += run;
    }
    if (c->W_panels[cell] == NULL || rows == 0)
        return true;
    const size_t I = fl_cell_of(c->stack, s.layer, s.direction)->I;
    const fl_row_product product = {.panels = fl_panels_of(I, c->stack->layout.lanes),
                                    .matrix = c->W_panels[cell],
                                    .gates = c->G,
                                    .H = c->H,
                                    .rows = rows,
                                    .a = (const void *const *)scratch.dgates,
                                    .out = scratch.dx,
                                    .adds = s.direction == 1,
                                    .totals = scratch.totals};
    c->stack->kernels->row_product(&product);
    if (c->drops && s.layer > 0 && s.direction + 1 == c->D) {
        const fl_record_args *recorded = &c->tape->args;
        size_t m = 0;
        for (size_t n = 0; n < steps; n++) {
            const size_t t = s.direction == 0 ? s.end - 1 - n : s.begin + n, active = fl_back_active(c, t);
            for (size_t rank = thread; rank < active; rank += c->plan.groups, m++)
                fl_dropout(c->stack->shape.dtype, recorded->dropout, recorded->seed,
                           (uint64_t)(((s.layer - 1) * c->T + t) * c->B + c->rows[rank]) * I, I, scratch.dx[m],
                           scratch.dx[m]);
        }
    }
    return true;
}
