/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The parameters of a layer and direction: which there are, their shapes, and where their gradients come from.
 */
#ifndef FL_PARAMETERS_H
#define FL_PARAMETERS_H
#include "model/cell.h"

/* In the order of fl_weights and fl_gradients, which are pointers in this order. */
typedef enum fl_parameter_index {
    FL_WEIGHT_IH,
    FL_WEIGHT_HH,
    FL_BIAS_IH,
    FL_BIAS_HH,
    FL_WEIGHT_CH,
    FL_WEIGHT_HR,
    FL_BIAS_HR,
    FL_WEIGHT_LN_IH,
    FL_WEIGHT_LN_HH,
    FL_WEIGHT_LN_C,
    FL_BIAS_LN_C
} fl_parameter_index;

_Static_assert(FL_BIAS_LN_C + 1 == FL_PARAMETER_COUNT, "a row for each parameter");
_Static_assert(sizeof(fl_weights) == FL_PARAMETER_COUNT * sizeof(void *), "fl_weights is pointers to parameters");
_Static_assert(sizeof(fl_gradients) == sizeof(fl_weights), "and so is fl_gradients");

static inline const void *fl_weight_at(const fl_weights *weights, size_t index)
{
    return ((const void *const *)(const void *)weights)[index];
}

static inline void *fl_gradient_at(const fl_gradients *gradients, size_t index)
{
    return ((void *const *)(const void *)gradients)[index];
}

/* FL_ERROR_ARGUMENT, also for null; FL_ERROR_SIZE: a parameter has more rows or columns than can be counted. */
fl_status fl_shape_check(const fl_stack_shape *shape);

/* Elements of a parameter where the layer has I inputs; 0: the cell has none. */
size_t fl_parameter_size(const fl_cell_sizes *sizes, size_t I, size_t index);
/* Those that the cell has; others are not to be looked at. */
fl_weights fl_weights_of(const fl_cell_sizes *sizes, const fl_weights *weights);
fl_gradients fl_gradients_of(const fl_cell_sizes *sizes, const fl_gradients *gradients);
/* Whether a copy of it is what kernels take: fl_cell.own. */
bool fl_parameter_is_copied(const fl_cell_sizes *sizes, size_t index);
/* Whether everything is there that the cell needs; `gradients` may be null. */
bool fl_parameters_are_complete(const fl_cell_sizes *sizes, const fl_weights *weights, const fl_gradients *gradients);

/* What a step and row of the backward pass leaves: gradients of the pre-activations of the input's part (G*H), and from
 * these elements on: of the state's part, which may be the same; of what was projected (P); extras.  Sums of columns over
 * all rows are the gradients of some parameters; a count of 0: its gradient is a product, or another one's. */
typedef struct fl_gradient_row {
    size_t state, projected, extras, width;
    struct {
        size_t from, count;
    } columns[FL_PARAMETER_COUNT];
} fl_gradient_row;

fl_gradient_row fl_gradient_row_of(const fl_cell_sizes *sizes);

#endif
