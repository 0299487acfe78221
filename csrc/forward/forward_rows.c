/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells on whole rows: input products ahead of the recurrence, as for tiles, but always, and to rows of (G*H).
 */
#include "forward/forward_call.h"

/* Rows of bias + x W for all steps of `s`, in the part's own `pre`. */
static void hoist_rows(const part *p, fl_steps *s)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const size_t width = fl_pre_width(stack), real_size = stack->real_size, rows = s->T * s->B;
    char *pre = c->memory.pre + p->place * c->memory.pre_bytes;
    const fl_row_scratch *scratch = &p->scratch.rows;
    int64_t *index = (int64_t *)(void *)scratch->a;
    for (size_t t = 0, m = 0; t < s->T; t++) {
        for (size_t position = 0; position < s->B; position++, m++) {
            const ptrdiff_t offset =
                (ptrdiff_t)t * s->x_rows.stride_t + fl_row_offset(&s->x_rows, batch_row(s, position));
            scratch->out[m] = pre + m * width * real_size;
            if (s->x_index != NULL)
                index[m] = s->x_index[offset];
            else
                scratch->a[m] = fl_moved_const(s->x, offset, real_size);
        }
    }
    const fl_row_product product = {.panels = fl_panels_of(width, stack->layout.lanes),
                                    .matrix = s->W,
                                    .bias = s->bias,
                                    .gates = 1,
                                    .H = s->I,
                                    .rows = rows,
                                    .a = scratch->a,
                                    .out = scratch->out,
                                    .totals = scratch->totals};
    if (s->x_index != NULL)
        stack->kernels->gather_rows(&product.panels, s->W, s->I, s->bias, rows, index, scratch->out);
    else
        stack->kernels->row_product(&product);
    s->pre = pre;
    s->pre_stride_row = (ptrdiff_t)width;
    s->pre_stride_t = (ptrdiff_t)(s->B * width);
    s->x = NULL;
    s->x_index = NULL;
}

void fl_forward_zoneout(const part *p, fl_steps *s, size_t layer, size_t direction, size_t t)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_cell_options *o = &stack->shape.cell;
    const size_t row_bytes = stack->sizes.H * stack->real_size;
    const size_t recurrence = layer * stack->shape.num_directions + direction;
    for (size_t position = 0; position < s->B; position++) {
        const size_t b = p->rows != NULL ? p->rows[position] : p->first_row + position;
        fl_fill_zoneout(stack, c->recording, recurrence, t, c->args->B, b,
                        (char *)p->scratch.zoned_c + position * row_bytes,
                        (char *)p->scratch.zoned_h + position * row_bytes);
    }
    s->zoned_c = o->zoneout_c > 0.0 ? p->scratch.zoned_c : NULL;
    s->zoned_h = o->zoneout_h > 0.0 ? p->scratch.zoned_h : NULL;
}

void fl_forward_on_rows(part *p, fl_steps *s, size_t layer, size_t direction, size_t t)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_recurrence *r = fl_recurrence_of(stack, layer, direction);
    const fl_recording *recording = c->recording;
    const size_t P = stack->sizes.P, B = c->args->B, real_size = stack->real_size, T = s->T;
    const size_t masks = fl_recurrent_masks(stack, recording), first_row = p->rows == NULL ? p->first_row : 0;
    const size_t mask_row = (layer * stack->shape.num_directions + direction) * masks * B + first_row;
    const bool to_tape = recording != NULL && recording->c != NULL && layer >= recording->first_layer;
    const fl_projection projection = {r->weight_hr, r->bias_hr, stack->shape.cell.proj_clip};
    const fl_row_work work = {.mask = masks != 0 ? c->memory.masks + mask_row * P * real_size : NULL,
                              .mask_stride_gate = masks > 1 ? (ptrdiff_t)(B * P) : 0,
                              .saved_states = to_tape ? fl_states_width(&stack->sizes) : stack->sizes.H,
                              .projection = projection,
                              .scratch = p->scratch.rows};
    hoist_rows(p, s);
    s->on_rows = &work;
    if (!fl_draws_zoneout(stack, recording)) {
        stack->kernels->row_steps(s);
        return;
    }
    s->T = 1;
    for (size_t n = 0; n < T; n++) {
        fl_forward_zoneout(p, s, layer, direction, direction == 0 ? t + n : t - n);
        stack->kernels->row_steps(s);
        s->h = s->y;
        s->h_rows = s->y_rows;
        s->y = fl_moved(s->y, s->y_rows.stride_t, real_size);
        fl_forward_advance(s, real_size);
    }
}
