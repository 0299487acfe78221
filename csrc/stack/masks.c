/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The cell's own random masks.  Each element is a function of the seed and its place alone.
 */
#include "base/random.h"
#include "forward/forward.h"

/* Distances of the seeds of a call from that of dropout between layers. */
#define SEED_ZONEOUT_C 1
#define SEED_ZONEOUT_H 2
#define SEED_RECURRENT 3

void fl_fill_recurrent_masks(const fl_stack *stack, const fl_saving *saving, size_t B, void *masks)
{
    const fl_cell_options *o = &stack->shape.cell;
    const size_t cells = stack->shape.num_layers * stack->shape.num_directions;
    const size_t each = fl_recurrent_masks(stack, saving) * B * stack->sizes.P;
    const double kept = o->recurrent_dropout < 1.0 ? 1.0 / (1.0 - o->recurrent_dropout) : 0.0;
    if (each != 0)
        fl_mask(stack->shape.dtype, o->recurrent_dropout, saving->seed + SEED_RECURRENT,
                (uint64_t)saving->first_cell * each, cells * each, 0.0, kept, masks);
}

void fl_fill_zoneout(const fl_stack *stack, const fl_saving *saving, bool of_h, size_t cell, size_t t, size_t B,
                     size_t b, void *mask)
{
    const fl_cell_options *o = &stack->shape.cell;
    const uint64_t step = (uint64_t)(saving->first_cell + cell) * saving->mask_T + saving->mask_origin + t;
    fl_mask(stack->shape.dtype, of_h ? o->zoneout_h : o->zoneout_c,
            saving->seed + (of_h ? SEED_ZONEOUT_H : SEED_ZONEOUT_C), (step * B + b) * stack->sizes.H, stack->sizes.H,
            1.0, 0.0, mask);
}
