/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Random masks of a recorded call.  Each element is a function of the seed and its place alone.
 */
#include "base/random.h"
#include "stack/recording.h"

/* Distances of the seeds of a call from that of dropout between layers. */
#define SEED_ZONEOUT_C 1
#define SEED_ZONEOUT_H 2
#define SEED_RECURRENT 3
#define SEED_TIED 4

void fl_fill_recurrent_masks(const fl_stack *stack, const fl_recording *recording, size_t B, void *masks)
{
    const double p = stack->shape.cell.recurrent_dropout, kept = p < 1.0 ? 1.0 / (1.0 - p) : 0.0;
    const size_t count = stack->shape.num_layers * stack->shape.num_directions;
    const size_t each = fl_recurrent_masks(stack, recording) * B * stack->sizes.P;
    if (each != 0)
        fl_mask(stack->shape.dtype, p, recording->seed + SEED_RECURRENT, (uint64_t)recording->first_cell * each,
                count * each, 0.0, kept, masks);
}

void fl_fill_zoneout(const fl_stack *stack, const fl_recording *recording, size_t recurrence, size_t t, size_t B,
                     size_t b, void *of_c, void *of_h)
{
    const fl_cell_options *o = &stack->shape.cell;
    const size_t H = stack->sizes.H;
    const uint64_t step =
        (uint64_t)(recording->first_cell + recurrence) * recording->mask_T + recording->mask_origin + t;
    const uint64_t first = (step * B + b) * H;
    if (o->zoneout_c > 0.0)
        fl_mask(stack->shape.dtype, o->zoneout_c, recording->seed + SEED_ZONEOUT_C, first, H, 1.0, 0.0, of_c);
    if (o->zoneout_h > 0.0)
        fl_mask(stack->shape.dtype, o->zoneout_h, recording->seed + SEED_ZONEOUT_H, first, H, 1.0, 0.0, of_h);
}

void fl_drop_row(const fl_stack *stack, const fl_recording *recording, size_t layer, size_t t, size_t B, size_t b,
                 const void *in, void *out)
{
    const size_t width = fl_output_width(stack);
    const bool is_tied = recording->dropout_tied;
    const uint64_t seed = recording->seed + (is_tied ? SEED_TIED : 0);
    const uint64_t step =
        is_tied ? (uint64_t)(layer - 1) : (uint64_t)(layer - 1) * recording->mask_T + recording->mask_origin + t;
    fl_dropout(stack->shape.dtype, recording->dropout, seed, (step * B + b) * width, width, in, out);
}
