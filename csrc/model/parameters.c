/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of parameters.  Which of them a cell has is said by fl_cell_sizes.parameters.
 */
#include "model/parameters.h"

#include <stdint.h>

typedef enum dimension { NONE, GATES, INPUTS, HEAD, UNITS, WIDTH, PEEPHOLES } dimension;

/* Where a gradient comes from: a product over rows, or sums of columns of fl_gradient_row. */
typedef enum gradient_source { PRODUCT, INPUT_PART, STATE_PART, PROJECTED, EXTRA } gradient_source;

static const struct {
    const char *name;
    dimension rows, columns;
    gradient_source gradient;
    bool is_optional, is_copied;
} table[FL_PARAMETER_COUNT] = {
    [FL_WEIGHT_IH] = {"weight_ih", GATES, INPUTS, PRODUCT, false, false},
    [FL_WEIGHT_HH] = {"weight_hh", GATES, HEAD, PRODUCT, false, false}, /* or a diagonal, see below */
    [FL_BIAS_IH] = {"bias_ih", GATES, NONE, INPUT_PART, true, false},
    [FL_BIAS_HH] = {"bias_hh", GATES, NONE, STATE_PART, true, false},
    [FL_WEIGHT_CH] = {"weight_ch", PEEPHOLES, NONE, EXTRA, false, true},
    [FL_WEIGHT_HR] = {"weight_hr", WIDTH, UNITS, PRODUCT, false, false},
    [FL_BIAS_HR] = {"bias_hr", WIDTH, NONE, PROJECTED, true, false},
    [FL_WEIGHT_LN_IH] = {"weight_ln_ih", GATES, NONE, EXTRA, false, true},
    [FL_WEIGHT_LN_HH] = {"weight_ln_hh", GATES, NONE, EXTRA, false, true},
    [FL_WEIGHT_LN_C] = {"weight_ln_c", UNITS, NONE, EXTRA, false, true},
    [FL_BIAS_LN_C] = {"bias_ln_c", UNITS, NONE, EXTRA, false, true},
};

static bool has(const fl_cell_sizes *s, size_t index) { return (s->parameters >> index & 1U) != 0; }

static bool is_diagonal(const fl_cell_sizes *s, size_t index) { return s->is_diagonal && index == FL_WEIGHT_HH; }

static size_t dimension_of(const fl_cell_sizes *s, size_t I, dimension d)
{
    switch (d) {
    case GATES: return s->gates * s->H;
    case INPUTS: return I;
    case HEAD: return fl_head_depth(s);
    case UNITS: return s->H;
    case WIDTH: return s->P;
    case PEEPHOLES: return s->peepholes * s->H;
    default: return 1;
    }
}

size_t fl_parameter_size(const fl_cell_sizes *s, size_t I, size_t index)
{
    if (!has(s, index))
        return 0;
    if (is_diagonal(s, index))
        return s->H;
    return dimension_of(s, I, table[index].rows) * dimension_of(s, I, table[index].columns);
}

bool fl_parameter_is_copied(const fl_cell_sizes *s, size_t index)
{
    return has(s, index) && (table[index].is_copied || is_diagonal(s, index));
}

bool fl_parameters_are_complete(const fl_cell_sizes *s, const fl_weights *weights, const fl_gradients *gradients)
{
    for (size_t index = 0; index < FL_PARAMETER_COUNT; index++) {
        const bool is_there = fl_weight_at(weights, index) != NULL;
        const bool has_gradient = gradients != NULL ? fl_gradient_at(gradients, index) != NULL : is_there;
        if (has(s, index) && !table[index].is_optional && !(is_there && has_gradient))
            return false;
    }
    return true;
}

fl_weights fl_weights_of(const fl_cell_sizes *s, const fl_weights *weights)
{
    fl_weights own = *weights;
    const void **fields = (const void **)(void *)&own;
    for (size_t index = 0; index < FL_PARAMETER_COUNT; index++)
        if (!has(s, index))
            fields[index] = NULL;
    return own;
}

fl_gradients fl_gradients_of(const fl_cell_sizes *s, const fl_gradients *gradients)
{
    fl_gradients own = *gradients;
    void **fields = (void **)(void *)&own;
    for (size_t index = 0; index < FL_PARAMETER_COUNT; index++)
        if (!has(s, index))
            fields[index] = NULL;
    return own;
}

/* A bias that is added behind a norm has a gradient of its own kind, and both biases have it. */
static gradient_source source_of(const fl_cell_sizes *s, size_t index)
{
    const bool is_behind_norm = s->norm != FL_LAYER_NORM_NONE && index == FL_BIAS_IH;
    return is_behind_norm || is_diagonal(s, index) ? EXTRA : table[index].gradient;
}

fl_gradient_row fl_gradient_row_of(const fl_cell_sizes *s)
{
    const size_t gate_rows = s->gates * s->H;
    fl_gradient_row row = {.state = s->split ? gate_rows : 0};
    row.projected = row.state + gate_rows;
    row.extras = row.width = row.projected + (has(s, FL_WEIGHT_HR) ? s->P : 0);
    for (size_t index = 0; index < FL_PARAMETER_COUNT; index++) {
        size_t from = 0, count = fl_parameter_size(s, 1, index);
        switch (source_of(s, index)) {
        case INPUT_PART: break;
        case STATE_PART: /* or the same as that of the other bias */
            from = row.state;
            count = s->split && s->norm == FL_LAYER_NORM_NONE ? count : 0;
            break;
        case PROJECTED: from = row.projected; break;
        case EXTRA:
            from = row.width;
            row.width += count;
            break;
        default: count = 0;
        }
        row.columns[index].from = from;
        row.columns[index].count = count;
    }
    return row;
}

fl_status fl_shape_check(const fl_stack_shape *shape)
{
    static const size_t most = (size_t)PTRDIFF_MAX / 64;
    if (shape == NULL || (shape->dtype != FL_F32 && shape->dtype != FL_F64) || shape->input_size == 0 ||
        shape->hidden_size == 0 || shape->num_layers == 0 || shape->num_directions == 0 || shape->num_directions > 2 ||
        !fl_cell_options_are_valid(&shape->cell, shape->hidden_size))
        return FL_ERROR_ARGUMENT;
    return shape->hidden_size > most || shape->input_size > most ? FL_ERROR_SIZE : FL_OK;
}

fl_status fl_parameter_get_facts(const fl_stack_shape *shape, size_t layer, size_t index, fl_parameter_facts *facts)
{
    if (shape == NULL || facts == NULL || index >= FL_PARAMETER_COUNT || layer >= shape->num_layers)
        return FL_ERROR_ARGUMENT;
    const fl_status status = fl_shape_check(shape);
    if (status != FL_OK)
        return status;
    const fl_cell_options complete = fl_cell_options_complete(shape->cell);
    const fl_cell_sizes sizes = fl_cell_sizes_of(&complete, shape->hidden_size);
    const size_t I = layer == 0 ? shape->input_size : shape->num_directions * sizes.P;
    const fl_parameter_facts none = {.name = table[index].name, .is_optional = table[index].is_optional};
    *facts = none;
    if (!has(&sizes, index))
        return FL_OK;
    const bool diagonal = is_diagonal(&sizes, index);
    facts->dims = diagonal || table[index].columns == NONE ? 1 : 2;
    facts->shape[0] = diagonal ? sizes.H : dimension_of(&sizes, I, table[index].rows);
    facts->shape[1] = facts->dims == 2 ? dimension_of(&sizes, I, table[index].columns) : 1;
    return FL_OK;
}
