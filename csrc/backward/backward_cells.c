/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The recurrent part of a stage for cells other than the plain LSTM: what their kernel needs beside.
 */
#include "backward/backward_call.h"

size_t fl_back_cell_scratch_bytes(const back_call *c)
{
    return fl_cell_back_scratch_bytes(c->H, c->G, c->P, c->B, c->stack->layout.lanes, c->stack->real_size);
}

void fl_back_point_at_cell(const back_call *c, const stage *s, size_t m, size_t t, size_t b,
                           const back_scratch *scratch)
{
    const fl_stack *stack = c->stack;
    const fl_cell_options *o = &stack->shape.cell;
    const fl_saving *saving = &c->tape->saving;
    const size_t cell = s->layer * c->D + s->direction, bytes = c->H * stack->real_size;
    scratch->h_before[m] = fl_back_h_before(c, s->layer, s->direction, t, b);
    scratch->y[m] = fl_back_output(c, s->layer, t, b) + s->direction * c->P * stack->real_size;
    scratch->zoned_c[m] = scratch->zoned_h[m] = NULL;
    if (!fl_draws_zoneout(stack, saving))
        return;
    char *of_c = scratch->zoned + 2 * m * bytes, *of_h = of_c + bytes;
    /* `t` counts from the start of the whole sequence, as the tape's own saving does. */
    if (o->zoneout_c > 0.0) {
        fl_fill_zoneout(stack, saving, false, cell, t, c->B, b, of_c);
        scratch->zoned_c[m] = of_c;
    }
    if (o->zoneout_h > 0.0) {
        fl_fill_zoneout(stack, saving, true, cell, t, c->B, b, of_h);
        scratch->zoned_h[m] = of_h;
    }
}

void fl_back_cell_steps(const back_call *c, const stage *s, size_t m, size_t steps, size_t rows,
                        const back_scratch *scratch)
{
    const fl_stack *stack = c->stack;
    const size_t cell = s->layer * c->D + s->direction, real_size = stack->real_size;
    const size_t masks = fl_recurrent_masks(stack, &c->tape->saving);
    const fl_cell_back_steps work = {.cell = &stack->cells[cell].cell,
                                     .steps = steps,
                                     .rows = rows,
                                     .b = scratch->own_b,
                                     .R = c->R_panels[cell],
                                     .on_rows = stack->path != FL_PATH_TILES,
                                     .K = fl_head_size(stack),
                                     .weight_hr = c->hr_panels[cell],
                                     .saved = scratch->gates + m,
                                     .c = scratch->c + m,
                                     .c_before = scratch->c_before + m,
                                     .h_before = scratch->h_before + m,
                                     .y = scratch->y + m,
                                     .dy = scratch->dy + m,
                                     .dcells = scratch->dcells + m,
                                     .zoned_c = scratch->zoned_c + m,
                                     .zoned_h = scratch->zoned_h + m,
                                     .mask = masks != 0 ? c->masks + cell * masks * c->B * c->P * real_size : NULL,
                                     .mask_stride_gate = masks > 1 ? (ptrdiff_t)(c->B * c->P) : 0,
                                     .dgates = scratch->dgates + m,
                                     .dh_offset = c->dh_offset,
                                     .proj_offset = c->proj_offset,
                                     .extras_offset = c->extras_offset,
                                     .dh = (char *)c->args->dh0 + cell * c->B * c->P * real_size,
                                     .dc = c->states != 0 ? (char *)c->args->dc0 + cell * c->B * c->states * real_size
                                                          : NULL,
                                     .scratch = scratch->cell_scratch};
    stack->kernels->cell_back_steps(&work);
}
