/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where the rows of a step are: given, saved, computed again, or zero.
 */
#include "backward/backward_call.h"

size_t fl_back_active(const back_call *c, size_t t)
{
    return c->lengths != NULL ? fl_active_rows(c->memory.rows, c->B, c->lengths, t) : c->B;
}

const void *fl_back_output(const back_call *c, size_t layer, size_t t, size_t b)
{
    const saved_states *s = &c->saved;
    if (layer == s->top_layer)
        return fl_row_const(s->y, &s->y_rows, t - s->origin, b, c->stack->real_size);
    return s->h +
           (layer * s->places.count + fl_place(&s->places, t - s->origin, b)) * c->D * c->P * c->stack->real_size;
}

/* Row of a recurrence at a step in an array like fl_recording's, `width` elements a row. */
static const char *saved_row(const back_call *c, const char *array, const stage *s, size_t t, size_t b, size_t width)
{
    const saved_states *saved = &c->saved;
    const size_t index = (s->layer - saved->first_layer) * c->D + s->direction;
    const size_t place = fl_place(&saved->places, t - saved->origin, b);
    return array + (index * saved->places.count + place) * width * c->stack->real_size;
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

static const void *outside(const back_call *c, const void *states, const stage *s, size_t b, size_t width)
{
    if (states == NULL)
        return c->memory.zeros;
    const size_t row = (s->layer * c->D + s->direction) * c->B + b;
    return (const char *)states + row * width * c->stack->real_size;
}

const void *fl_back_h_before(const back_call *c, const stage *s, size_t t, size_t b)
{
    size_t before;
    if (is_reset(c, s->direction, t, b))
        return c->memory.zeros;
    if (step_before(c, s->direction, t, b, &before))
        return (const char *)fl_back_output(c, s->layer, before, b) + s->direction * c->P * c->stack->real_size;
    return outside(c, c->saved.h_outside, s, b, c->P);
}

const void *fl_back_c_before(const back_call *c, const stage *s, size_t t, size_t b)
{
    size_t before;
    if (is_reset(c, s->direction, t, b))
        return c->memory.zeros;
    if (step_before(c, s->direction, t, b, &before))
        return saved_row(c, c->saved.c, s, before, b, c->states);
    return outside(c, c->saved.c_outside, s, b, c->states);
}

const void *fl_back_c_after(const back_call *c, const stage *s, size_t t, size_t b)
{
    return saved_row(c, c->saved.c, s, t, b, c->states);
}

const void *fl_back_saved(const back_call *c, const stage *s, size_t t, size_t b)
{
    return saved_row(c, c->saved.gates, s, t, b, c->stack->sizes.saved);
}

/* Of the gradient of an inner layer's output. */
static char *inner_row(const back_call *c, const stage *s, size_t layer, size_t t, size_t b)
{
    const size_t origin = c->D == 1 ? s->begin : 0;
    return c->memory.inner[layer % 2] +
           fl_place(&c->memory.inner_places, t - origin, b) * c->D * c->P * c->stack->real_size;
}

const void *fl_back_dy(const back_call *c, const stage *s, size_t t, size_t b)
{
    const fl_rows rows = {c->args->dy_stride_t, c->args->dy_stride_b, c->args->dy_at};
    if (s->layer + 1 < c->L)
        return inner_row(c, s, s->layer + 1, t, b);
    return c->args->dy != NULL ? fl_row_const(c->args->dy, &rows, t, b, c->stack->real_size) : NULL;
}

const void *fl_back_dcells(const back_call *c, const stage *s, size_t t, size_t b)
{
    const fl_rows rows = {c->args->dcells_stride_t, c->args->dcells_stride_b, c->args->dy_at};
    if (c->args->dcells == NULL || s->layer + 1 != c->L)
        return NULL;
    return fl_row_const(c->args->dcells, &rows, t, b, c->stack->real_size) + s->direction * c->H * c->stack->real_size;
}

void *fl_back_dx(const back_call *c, const stage *s, size_t t, size_t b)
{
    const fl_rows rows = {c->args->dx_stride_t, c->args->dx_stride_b, c->args->dx_at};
    if (s->layer > 0)
        return inner_row(c, s, s->layer, t, b);
    return c->args->dx != NULL ? fl_row(c->args->dx, &rows, t, b, c->stack->real_size) : NULL;
}

static fl_rows input_rows(const back_call *c)
{
    const fl_forward_args *call = &c->tape->args.call;
    const fl_rows rows = {call->x_stride_t, call->x_stride_b, call->x_at};
    return rows;
}

const void *fl_back_input(const back_call *c, size_t t, size_t b)
{
    const fl_rows rows = input_rows(c);
    return fl_row_const(c->tape->args.call.x, &rows, t, b, c->stack->real_size);
}

int64_t fl_back_input_index(const back_call *c, size_t t, size_t b)
{
    const fl_rows rows = input_rows(c);
    return c->tape->args.call.x_index[(ptrdiff_t)t * rows.stride_t + fl_row_offset(&rows, b)];
}
