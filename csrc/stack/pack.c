/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Packing of PyTorch's weight layout into that of layout.h.  Matrices are the kernels' affair; biases are rows of the dtype.
 */
#include <string.h>

#include "stack/stack.h"

/* out[at] = a[row] + b[row], of those that are given. */
static void add_bias(size_t real_size, const void *a, const void *b, size_t row, void *out, size_t at)
{
    if (real_size == sizeof(float)) {
        const float first = a != NULL ? ((const float *)a)[row] : 0.0F;
        ((float *)out)[at] = b != NULL ? first + ((const float *)b)[row] : first;
    } else {
        const double first = a != NULL ? ((const double *)a)[row] : 0.0;
        ((double *)out)[at] = b != NULL ? first + ((const double *)b)[row] : first;
    }
}

/* Where the bias of a gate and unit stands in a packed one. */
static size_t bias_place(const fl_stack *stack, size_t gate, size_t unit)
{
    const fl_layout *layout = &stack->layout;
    const size_t H = stack->sizes.H;
    size_t panel, width, step;
    switch (stack->sizes.path) {
    case FL_PATH_TILES:
        return fl_block_offset(layout, unit / layout->units) + fl_gate_offset(layout, gate, unit, &step);
    case FL_PATH_SCAN: {
        const fl_panels panels = fl_unit_panels_of(H, stack->sizes.gates, layout->lanes);
        return fl_unit_column(&panels, H, gate, unit, &panel, &width) + unit % layout->lanes;
    }
    default: return gate * H + unit;
    }
}

static void pack_bias(const fl_stack *stack, const void *a, const void *b, void *packed)
{
    for (size_t gate = 0; gate < stack->sizes.gates; gate++)
        for (size_t unit = 0; unit < stack->sizes.H; unit++)
            add_bias(stack->real_size, a, b, gate * stack->sizes.H + unit, packed, bias_place(stack, gate, unit));
}

static void pack_biases(const fl_stack *stack, const fl_recurrence *r, const fl_weights *weights)
{
    const void *bias_hh = stack->splits ? NULL : weights->bias_hh;
    if (stack->sizes.norm != FL_LAYER_NORM_NONE) { /* behind the norm */
        for (size_t row = 0; row < stack->sizes.gates * stack->sizes.H; row++)
            add_bias(stack->real_size, weights->bias_ih, weights->bias_hh, row, r->own.bias_ih, row);
        return;
    }
    pack_bias(stack, weights->bias_ih, bias_hh, r->bias);
    if (stack->splits)
        pack_bias(stack, weights->bias_hh, NULL, r->bias_h);
}

/* W and R as panels; R for each gate, or gate and head. */
static void pack_rows(const fl_stack *stack, const fl_recurrence *r, const fl_matrix *W, const fl_weights *weights)
{
    const fl_cell_sizes *sizes = &stack->sizes;
    const size_t K = fl_head_depth(sizes), units = fl_head_width(sizes), lanes = stack->layout.lanes;
    const fl_panels all = fl_panels_of(sizes->gates * sizes->H, lanes), each = fl_panels_of(units, lanes);
    stack->kernels->pack_panels(&all, W, r->W);
    for (size_t n = 0; n < sizes->gates * sizes->heads; n++) {
        const fl_matrix R = {units, K, (const char *)weights->weight_hh + n * units * K * stack->real_size, NULL};
        stack->kernels->pack_panels(&each, &R,
                                    (char *)r->R + n * each.vectors * lanes * K * stack->kernels->weight_size);
    }
}

static void pack_matrices(const fl_stack *stack, const fl_recurrence *r, const fl_weights *weights,
                          const fl_columns *columns)
{
    const fl_cell_sizes *sizes = &stack->sizes;
    const size_t rows = sizes->gates * sizes->H;
    const fl_matrix W = {rows, r->I, weights->weight_ih, columns};
    switch (sizes->path) {
    case FL_PATH_TILES: {
        const fl_matrix R = {rows, sizes->P, weights->weight_hh, NULL};
        stack->kernels->pack_gates(&stack->layout, &W, r->W);
        stack->kernels->pack_gates(&stack->layout, &R, r->R);
        break;
    }
    case FL_PATH_ROWS: pack_rows(stack, r, &W, weights); break;
    case FL_PATH_SCAN: {
        const fl_panels units = fl_unit_panels_of(sizes->H, sizes->gates, stack->layout.lanes);
        stack->kernels->pack_units(&units, sizes->H, sizes->gates, &W, r->W);
    }
    }
    if (weights->weight_hr != NULL) {
        const fl_panels panels = fl_panels_of(sizes->P, stack->layout.lanes);
        const fl_matrix projection = {sizes->P, sizes->H, weights->weight_hr, NULL};
        stack->kernels->pack_panels(&panels, &projection, r->weight_hr);
        for (size_t row = 0; row < sizes->P; row++)
            add_bias(stack->real_size, weights->bias_hr, NULL, row, r->bias_hr, row);
    }
}

fl_status fl_stack_pack(fl_stack *stack, size_t layer, size_t direction, const fl_weights *weights)
{
    return fl_stack_repack(stack, layer, direction, weights, NULL);
}

fl_status fl_stack_repack(fl_stack *stack, size_t layer, size_t direction, const fl_weights *weights,
                          const fl_columns *columns)
{
    if (stack == NULL || weights == NULL || layer >= stack->shape.num_layers ||
        direction >= stack->shape.num_directions || !fl_parameters_are_complete(&stack->sizes, weights, NULL))
        return FL_ERROR_ARGUMENT;
    const fl_recurrence *r = fl_recurrence_of(stack, layer, direction);
    const fl_weights own = fl_weights_of(&stack->sizes, weights);
    pack_matrices(stack, r, &own, columns);
    pack_biases(stack, r, &own);
    for (size_t index = 0; index < FL_PARAMETER_COUNT; index++)
        if (fl_parameter_is_copied(&stack->sizes, index))
            memcpy(fl_gradient_at(&r->own, index), fl_weight_at(weights, index),
                   fl_parameter_size(&stack->sizes, r->I, index) * stack->real_size);
    return FL_OK;
}
