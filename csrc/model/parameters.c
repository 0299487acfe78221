/* SPDX-License-Identifier: BSD-3-Clause */
#include "stack/stack.h"

void fl_parameters(const fl_stack *stack, size_t I, const fl_weights *w, const fl_gradients *g,
                   fl_parameter parameters[FL_PARAMETERS])
{
    const fl_cell_options *o = &stack->shape.cell;
    const fl_cell_sizes *sizes = &stack->sizes;
    const size_t H = sizes->H, P = sizes->P, rows = sizes->gates * H, head = fl_head_size(stack);
    const bool projects = o->proj_size != 0, norms = o->layer_norm != FL_LAYER_NORM_NONE;
    const bool haste = o->layer_norm == FL_LAYER_NORM_HASTE;
    const size_t recurrent = sizes->recurs ? rows * head : o->kind == FL_CELL_INDRNN ? H : 0;
    const fl_parameter all[FL_PARAMETERS] = {
        {w->weight_ih, g != NULL ? g->weight_ih : NULL, rows * I, true},
        {w->weight_hh, g != NULL ? g->weight_hh : NULL, recurrent, recurrent != 0},
        {w->bias_ih, g != NULL ? g->bias_ih : NULL, rows, false},
        {w->bias_hh, g != NULL ? g->bias_hh : NULL, rows, false},
        {w->weight_ch, g != NULL ? g->weight_ch : NULL, sizes->peepholes * H, sizes->peepholes != 0},
        {w->weight_hr, g != NULL ? g->weight_hr : NULL, projects ? P * H : 0, projects},
        {w->bias_hr, g != NULL ? g->bias_hr : NULL, projects ? P : 0, false},
        {w->weight_ln_ih, g != NULL ? g->weight_ln_ih : NULL, norms ? rows : 0, norms},
        {w->weight_ln_hh, g != NULL ? g->weight_ln_hh : NULL, haste ? rows : 0, haste},
        {w->weight_ln_c, g != NULL ? g->weight_ln_c : NULL, haste ? H : 0, haste},
        {w->bias_ln_c, g != NULL ? g->bias_ln_c : NULL, haste ? H : 0, haste},
    };
    for (size_t n = 0; n < FL_PARAMETERS; n++) parameters[n] = all[n];
}

bool fl_parameters_are_complete(const fl_stack *stack, const fl_weights *w, const fl_gradients *g)
{
    fl_parameter parameters[FL_PARAMETERS];
    fl_parameters(stack, 1, w, g, parameters);
    for (size_t n = 0; n < FL_PARAMETERS; n++)
        if (parameters[n].is_needed && (parameters[n].weight == NULL || (g != NULL && parameters[n].gradient == NULL)))
            return false;
    return true;
}
