/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells on whole rows: input products ahead of the recurrence, as for tiles, but always, and to plain rows.
 */
#include "forward/forward_call.h"

static size_t row_of_position(const fl_steps *s, const ptrdiff_t *at, size_t position, ptrdiff_t *place)
{
    const size_t b = s->rows != NULL ? s->rows[position] : position;
    *place = at != NULL ? at[b] : (ptrdiff_t)b;
    return b;
}

/* Rows of bias + x W for all steps of `s`, at p's part of `pre`. */
static char *input_rows(part *p, const fl_steps *s)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_kernels *kernels = stack->kernels;
    const size_t width = stack->sizes.gates * stack->sizes.H, real_size = stack->real_size, rows = s->T * s->B;
    char *pre = c->pre + p->place * c->pre_bytes, *scratch = c->row_scratch + p->thread * c->row_scratch_bytes;
    const fl_panels panels = fl_panels_of(width, stack->layout.lanes);
    const fl_row_scratch memory = fl_row_scratch_of(scratch, 0, 0, c->hoisted_rows, stack->layout.lanes, real_size);
    int64_t *index = (int64_t *)(void *)memory.a;
    for (size_t t = 0, m = 0; t < s->T; t++) {
        for (size_t position = 0; position < s->B; position++, m++) {
            ptrdiff_t row;
            row_of_position(s, s->x_at, position, &row);
            const ptrdiff_t offset = (ptrdiff_t)t * s->x_stride_t + row * s->x_stride_b;
            memory.out[m] = pre + m * width * real_size;
            if (s->x_index != NULL)
                index[m] = s->x_index[offset];
            else
                memory.a[m] = (const char *)s->x + offset * (ptrdiff_t)real_size;
        }
    }
    if (s->x_index != NULL) {
        kernels->gather_rows(&panels, s->W, s->I, s->bias, rows, index, memory.out);
        return pre;
    }
    const fl_row_product product = {.panels = panels,
                                    .matrix = s->W,
                                    .bias = s->bias,
                                    .gates = 1,
                                    .H = s->I,
                                    .rows = rows,
                                    .a = memory.a,
                                    .out = memory.out,
                                    .totals = memory.totals};
    kernels->row_product(&product);
    return pre;
}

void fl_forward_zoneout(const part *p, size_t layer, size_t direction, size_t t, size_t active, const void **zoned_c,
                        const void **zoned_h)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_cell_options *o = &stack->shape.cell;
    const size_t row_bytes = stack->sizes.H * stack->real_size, cell = layer * stack->shape.num_directions + direction;
    char *of_c = c->zoned + p->thread * c->zoned_bytes, *of_h = of_c + c->plan.group_rows * row_bytes;
    for (size_t position = 0; position < active; position++) {
        const size_t b = p->rows != NULL ? p->rows[position] : p->first_row + position;
        if (o->zoneout_c > 0.0)
            fl_fill_zoneout(stack, c->saving, false, cell, t, c->args->B, b, of_c + position * row_bytes);
        if (o->zoneout_h > 0.0)
            fl_fill_zoneout(stack, c->saving, true, cell, t, c->args->B, b, of_h + position * row_bytes);
    }
    *zoned_c = o->zoneout_c > 0.0 ? of_c : NULL;
    *zoned_h = o->zoneout_h > 0.0 ? of_h : NULL;
}

void fl_forward_on_rows(part *p, const fl_steps *s, size_t layer, size_t direction, size_t t, const char *h_state)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_packed_cell *cell = fl_cell_of(stack, layer, direction);
    const fl_cell_sizes *sizes = &stack->sizes;
    const ptrdiff_t width = (ptrdiff_t)(sizes->gates * sizes->H), real_size = (ptrdiff_t)stack->real_size;
    const size_t masks = fl_recurrent_masks(stack, c->saving), first_row = p->rows == NULL ? p->first_row : 0;
    const size_t mask_row = (layer * stack->shape.num_directions + direction) * masks * c->args->B + first_row;
    const bool to_tape = c->saving != NULL && c->saving->c != NULL && layer >= c->saving->first_layer;
    const bool draws = fl_draws_zoneout(stack, c->saving), projects = stack->shape.cell.proj_size != 0;
    const fl_projection projection = {projects ? cell->weight_hr : NULL, cell->bias_hr, stack->shape.cell.proj_clip};
    fl_row_steps r = {.cell = s->cell,
                      .T = draws ? 1 : s->T,
                      .B = s->B,
                      .rows = s->rows,
                      .y_at = s->y_at,
                      .pre_stride_t = (ptrdiff_t)s->B * width,
                      .pre_stride_row = width,
                      .R = s->R,
                      .bias_h = s->bias_h,
                      .K = fl_head_size(stack),
                      .mask = masks != 0 ? c->masks + mask_row * sizes->P * stack->real_size : NULL,
                      .mask_stride_gate = masks > 1 ? (ptrdiff_t)(c->args->B * sizes->P) : 0,
                      .h = h_state,
                      .h_stride_b = (ptrdiff_t)sizes->P,
                      .y = s->y,
                      .y_stride_t = s->y_stride_t,
                      .y_stride_b = s->y_stride_b,
                      .c = s->c,
                      .c_stride_b = s->c_stride_b,
                      .saved_c = s->saved_c,
                      .saved_gates = s->saved_gates,
                      .saved_at = s->saved_at,
                      .saved_states = to_tape ? fl_states_width(stack) : sizes->H,
                      .saved_c_stride_t = s->saved_c_stride_t,
                      .saved_c_stride_b = s->saved_c_stride_b,
                      .saved_gates_stride_t = s->saved_gates_stride_t,
                      .saved_gates_stride_b = s->saved_gates_stride_b,
                      .projection = projection,
                      .scratch = c->row_scratch + p->thread * c->row_scratch_bytes};
    r.pre = input_rows(p, s);
    for (size_t done = 0; done < s->T; done += r.T) {
        if (draws)
            fl_forward_zoneout(p, layer, direction, direction == 0 ? t + done : t - done, s->B, &r.zoned_c, &r.zoned_h);
        stack->kernels->row_steps(&r);
        if (!draws)
            return;
        r.h = r.y;
        r.h_stride_b = r.y_stride_b;
        r.h_at = r.y_at;
        r.y = (char *)r.y + r.y_stride_t * real_size;
        r.pre = (const char *)r.pre + r.pre_stride_t * real_size;
        if (r.saved_c != NULL)
            r.saved_c = (char *)r.saved_c + r.saved_c_stride_t * real_size;
        if (r.saved_gates != NULL)
            r.saved_gates = (char *)r.saved_gates + r.saved_gates_stride_t * real_size;
    }
}
