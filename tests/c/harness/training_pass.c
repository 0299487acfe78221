/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "training_pass.h"

options options_random(const spec *s)
{
    options o = {0};
    o.resets = random_chance(2);
    o.gives_dy = !random_chance(5);
    o.gives_dh = !random_chance(3);
    o.gives_dc = !random_chance(3);
    o.wants_dx = !s->indexed && !random_chance(5);
    o.dropout = random_chance(2) ? 0.0 : 0.375;
    o.bptt = random_chance(3) ? random_size(1, 9) : 0;
    o.dx_order = (order)random_size(0, ORDER_COUNT - 1);
    return o;
}

/* Everything of a pass given, with no option. */
options options_plain(const spec *s)
{
    const options o = {.gives_dy = true, .gives_dh = true, .gives_dc = true, .wants_dx = !s->indexed};
    return o;
}

const char *pass_text(const pass *a)
{
    static char text[300];
    snprintf(text, sizeof text, "%s%s dropout %.3f bptt %zu%s dx order %d", spec_text(&a->p.spec),
             a->o.resets ? " resets" : "", a->o.dropout, a->o.bptt, a->o.wants_dx ? "" : " no dx", (int)a->o.dx_order);
    return text;
}

char *at(const strided *layout, char *origin, size_t real_size, size_t t, size_t b)
{
    return origin + ((ptrdiff_t)t * layout->stride_t + (ptrdiff_t)b * layout->stride_b) * (ptrdiff_t)real_size;
}

static void *random_reals(pass *a, size_t count)
{
    void *array = guard_new(&a->inputs, count, a->p.real_size);
    for (size_t n = 0; n < count; n++) real_put(a->p.spec.shape.dtype, array, (ptrdiff_t)n, random_real(1.0));
    return array;
}

/* What stands behind the end of a row of dy is NaN. */
void pass_make(pass *a, const spec *s, const options *o)
{
    memset(a, 0, sizeof *a);
    a->o = *o;
    problem_make(&a->p, s);
    const size_t states = a->p.cells * s->B * s->shape.hidden_size;
    a->dy_layout = strided_of(s->x_order, s->T, s->B, a->p.width);
    a->dx_layout = strided_of(o->dx_order, s->T, s->B, s->shape.input_size);
    if (o->gives_dy) {
        a->dy = guard_new(&a->inputs, a->dy_layout.elements, a->p.real_size);
        a->dy += a->dy_layout.origin * (ptrdiff_t)a->p.real_size;
        for (size_t b = 0; b < s->B; b++)
            for (size_t t = 0; t < problem_length(&a->p, b); t++)
                for (size_t j = 0; j < a->p.width; j++)
                    real_put(s->shape.dtype, at(&a->dy_layout, a->dy, a->p.real_size, t, b), (ptrdiff_t)j,
                             random_real(1.0));
    }
    a->dh_n = o->gives_dh ? random_reals(a, states) : NULL;
    a->dc_n = o->gives_dc ? random_reals(a, states) : NULL;
    if (o->resets) {
        a->reset = guard_new(&a->inputs, s->T * s->B, 1);
        for (size_t n = 0; n < s->T * s->B; n++) a->reset[n] = random_chance(8) ? (uint8_t)random_size(1, 255) : 0;
    }
    guard_read_only(&a->inputs);
}

void pass_free(pass *a)
{
    problem_free(&a->p);
    guard_release(&a->inputs);
}

void gradients_make(gradients *g, const pass *a)
{
    const size_t H = a->p.spec.shape.hidden_size, states = a->p.cells * a->p.spec.B * H, size = a->p.real_size;
    memset(g, 0, sizeof *g);
    if (a->o.wants_dx) {
        g->dx_memory = guard_new(&g->outputs, a->dx_layout.elements, size);
        g->dx = g->dx_memory + a->dx_layout.origin * (ptrdiff_t)size;
    }
    g->dh0 = guard_new(&g->outputs, states, size);
    g->dc0 = guard_new(&g->outputs, states, size);
    for (size_t cell = 0; cell < a->p.cells; cell++) {
        const size_t I = cell < a->p.spec.shape.num_directions ? a->p.spec.shape.input_size : a->p.width;
        g->of[cell].weight_ih = guard_new(&g->outputs, 4 * H * I, size);
        g->of[cell].weight_hh = guard_new(&g->outputs, 4 * H * H, size);
        g->of[cell].bias_ih = a->p.spec.bias_ih ? guard_new(&g->outputs, 4 * H, size) : NULL;
        g->of[cell].bias_hh = a->p.spec.bias_hh ? guard_new(&g->outputs, 4 * H, size) : NULL;
    }
}

fl_record_args record_args(const pass *a, const result *r, size_t save, size_t threads)
{
    const fl_record_args args = {.call = problem_args(&a->p, r, threads),
                                 .save = save,
                                 .reset = a->reset,
                                 .dropout = a->o.dropout,
                                 .seed = DROPOUT_SEED};
    return args;
}

fl_backward_args backward_args(const pass *a, const gradients *g, size_t threads)
{
    const fl_backward_args args = {.weights = a->p.weights,
                                   .dy = a->dy,
                                   .dy_stride_t = a->dy_layout.stride_t,
                                   .dy_stride_b = a->dy_layout.stride_b,
                                   .dh_n = a->dh_n,
                                   .dc_n = a->dc_n,
                                   .dx = g->dx,
                                   .dx_stride_t = a->dx_layout.stride_t,
                                   .dx_stride_b = a->dx_layout.stride_b,
                                   .dh0 = g->dh0,
                                   .dc0 = g->dc0,
                                   .gradients = g->of,
                                   .bptt = a->o.bptt,
                                   .num_threads = threads};
    return args;
}

void pass_run(const pass *a, fl_tape *tape, size_t save, size_t threads, result *r, gradients *g)
{
    result_make(r, &a->p);
    gradients_make(g, a);
    const fl_record_args recorded = record_args(a, r, save, threads);
    const fl_backward_args args = backward_args(a, g, threads);
    EXPECT_STATUS(fl_stack_record(a->p.stack, &recorded, tape), FL_OK);
    EXPECT_STATUS(fl_stack_backward(a->p.stack, tape, &args), FL_OK);
}

void pass_results_free(result *r, gradients *g)
{
    result_free(r);
    guard_release(&g->outputs);
}

bool arenas_equal(const guard_arena *a, const guard_arena *b)
{
    for (size_t n = 0; n < a->count; n++)
        if (a->blocks[n].bytes != b->blocks[n].bytes ||
            memcmp(a->blocks[n].data, b->blocks[n].data, a->blocks[n].bytes) != 0)
            return false;
    return a->count == b->count;
}
