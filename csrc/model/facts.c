/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a cell is, by names: for those who bind to the library.
 */
#include <string.h>

#include "stack/stack.h"

static const char *const kinds[] = {"lstm", "gru", "rnn", "indrnn", "slstm", "mingru", "minlstm", NULL};
static const char *const couplings[] = {"none", "f_from_i", "i_from_f", "no_forget_gate", NULL};
static const char *const layer_norms[] = {"none", "gate", "haste", NULL};
static const char *const activations[] = {"Default",  "Sigmoid",         "Tanh",       "Relu",        "Affine",
                                          "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
                                          "Softsign", "Softplus",        NULL};

/* Place of a name; -1 where it is none of them. */
static int index_of(const char *const *names, const char *name)
{
    if (name == NULL)
        return 0;
    for (int n = 0; names[n] != NULL; n++)
        if (strcmp(names[n], name) == 0)
            return n;
    return -1;
}

typedef enum option_type { OPTION_ENUM, OPTION_NUMBER, OPTION_SIZE, OPTION_FLAG } option_type;

static const struct option_row {
    const char *name;
    size_t offset;
    option_type type;
    const char *const *names;
} option_rows[] = {
    {"kind", offsetof(fl_cell_options, kind), OPTION_ENUM, kinds},
    {"gate_clip", offsetof(fl_cell_options, gate_clip), OPTION_NUMBER, NULL},
    {"coupling", offsetof(fl_cell_options, coupling), OPTION_ENUM, couplings},
    {"layer_norm", offsetof(fl_cell_options, layer_norm), OPTION_ENUM, layer_norms},
    {"peephole", offsetof(fl_cell_options, peephole), OPTION_FLAG, NULL},
    {"cell_clip", offsetof(fl_cell_options, cell_clip), OPTION_NUMBER, NULL},
    {"proj_size", offsetof(fl_cell_options, proj_size), OPTION_SIZE, NULL},
    {"proj_clip", offsetof(fl_cell_options, proj_clip), OPTION_NUMBER, NULL},
    {"zoneout_c", offsetof(fl_cell_options, zoneout_c), OPTION_NUMBER, NULL},
    {"zoneout_h", offsetof(fl_cell_options, zoneout_h), OPTION_NUMBER, NULL},
    {"zoneout_expectation", offsetof(fl_cell_options, zoneout_expectation), OPTION_FLAG, NULL},
    {"recurrent_dropout", offsetof(fl_cell_options, recurrent_dropout), OPTION_NUMBER, NULL},
    {"recurrent_dropout_tied", offsetof(fl_cell_options, recurrent_dropout_tied), OPTION_FLAG, NULL},
    {"reset_before", offsetof(fl_cell_options, reset_before), OPTION_FLAG, NULL},
    {"heads", offsetof(fl_cell_options, heads), OPTION_SIZE, NULL},
    {"n_floor", offsetof(fl_cell_options, n_floor), OPTION_NUMBER, NULL},
};

fl_status fl_cell_set_option(fl_cell_options *options, const char *name, const char *text, double number)
{
    if (options == NULL || name == NULL)
        return FL_ERROR_ARGUMENT;
    for (size_t n = 0; n < sizeof option_rows / sizeof *option_rows; n++) {
        const struct option_row *row = &option_rows[n];
        if (strcmp(row->name, name) != 0)
            continue;
        char *field = (char *)options + row->offset;
        const int value = row->type == OPTION_ENUM ? index_of(row->names, text) : 0;
        const size_t size = row->type == OPTION_SIZE && number >= 0.0 && number < 0x1p53 ? (size_t)number : 0;
        const bool flag = number != 0.0;
        if (value < 0 || (row->type == OPTION_SIZE && (double)size != number))
            return FL_ERROR_ARGUMENT;
        switch (row->type) {
        case OPTION_ENUM: memcpy(field, &value, sizeof value); break;
        case OPTION_NUMBER: memcpy(field, &number, sizeof number); break;
        case OPTION_SIZE: memcpy(field, &size, sizeof size); break;
        case OPTION_FLAG: memcpy(field, &flag, sizeof flag); break;
        }
        return FL_OK;
    }
    return FL_ERROR_ARGUMENT;
}

fl_status fl_cell_set_activation(fl_cell_options *options, size_t index, const char *name, double alpha, double beta)
{
    const int kind = index_of(activations, name);
    if (options == NULL || index >= 3 || kind < 0)
        return FL_ERROR_ARGUMENT;
    options->activations[index].kind = (fl_activation_kind)kind;
    options->activations[index].alpha = alpha;
    options->activations[index].beta = beta;
    return FL_OK;
}

fl_status fl_cell_get_facts(const fl_cell_options *options, size_t hidden_size, fl_cell_facts *facts)
{
    static const char *const gates[] = {"ifgo", "rzn", "h", "h", "ifzo", "zh", "fih"};
    if (options == NULL || facts == NULL || hidden_size == 0 || !fl_cell_options_are_valid(options, hidden_size))
        return FL_ERROR_ARGUMENT;
    facts->gates = gates[options->kind];
    if (options->kind == FL_CELL_LSTM && options->coupling != FL_COUPLING_NONE)
        facts->gates = options->coupling == FL_I_FROM_F ? "fgo" : "igo";
    facts->states = options->kind == FL_CELL_LSTM ? "hc" : options->kind == FL_CELL_SLSTM ? "hcnm" : "h";
    facts->width = options->proj_size != 0 ? options->proj_size : hidden_size;
    facts->draws = options->zoneout_c > 0.0 || options->zoneout_h > 0.0 || options->recurrent_dropout > 0.0;
    return FL_OK;
}

fl_status fl_parameter_get_facts(const fl_stack_shape *shape, size_t layer, size_t index, fl_parameter_facts *facts)
{
    static const char *const names[FL_PARAMETER_COUNT] = {
        "weight_ih", "weight_hh",    "bias_ih",      "bias_hh",     "weight_ch", "weight_hr",
        "bias_hr",   "weight_ln_ih", "weight_ln_hh", "weight_ln_c", "bias_ln_c"};
    if (shape == NULL || facts == NULL || index >= FL_PARAMETER_COUNT || layer >= shape->num_layers ||
        !fl_cell_options_are_valid(&shape->cell, shape->hidden_size))
        return FL_ERROR_ARGUMENT;
    const fl_cell_options *o = &shape->cell;
    const size_t H = shape->hidden_size;
    const fl_cell_sizes s = fl_cell_sizes_of(o, H);
    const size_t rows = s.gates * H, inputs = layer == 0 ? shape->input_size : shape->num_directions * s.P;
    const size_t head = o->kind == FL_CELL_SLSTM ? H / (o->heads != 0 ? o->heads : 1) : s.P;
    const bool projects = o->proj_size != 0, norms = o->layer_norm != FL_LAYER_NORM_NONE;
    const bool haste = o->layer_norm == FL_LAYER_NORM_HASTE, is_diagonal = o->kind == FL_CELL_INDRNN;
    const fl_parameter_facts all[FL_PARAMETER_COUNT] = {
        {NULL, 2, {rows, inputs}, false},
        {NULL, s.recurs ? 2 : is_diagonal, {s.recurs ? rows : H, head}, false},
        {NULL, 1, {rows, 1}, true},
        {NULL, s.recurs && o->kind != FL_CELL_SLSTM, {rows, 1}, true},
        {NULL, s.peepholes != 0, {s.peepholes * H, 1}, false},
        {NULL, projects ? 2 : 0, {s.P, H}, false},
        {NULL, projects, {s.P, 1}, true},
        {NULL, norms, {rows, 1}, false},
        {NULL, haste, {rows, 1}, false},
        {NULL, haste, {H, 1}, false},
        {NULL, haste, {H, 1}, false},
    };
    *facts = all[index];
    facts->name = names[index];
    return FL_OK;
}

double fl_stack_step_work(const fl_stack *stack)
{
    double work = 0.0;
    for (size_t layer = 0; layer < stack->shape.num_layers; layer++) {
        const fl_packed_cell *cell = fl_cell_of(stack, layer, 0);
        const double columns = (double)cell->I + (stack->sizes.recurs ? (double)fl_head_size(stack) : 0.0);
        const double unit = (double)stack->sizes.gates * columns + 50.0 + (double)stack->shape.cell.proj_size;
        work += (double)(stack->shape.num_directions * stack->sizes.H) * unit;
    }
    return work;
}
