/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of options: a row for each field of fl_cell_options, with the kinds of cells that have it and what values it
 * may have; and what does not go together.
 */
#include <string.h>

#include "model/cell.h"

static const char *const coupling_names[] = {"none", "f_from_i", "i_from_f", "no_forget_gate", NULL};
static const char *const norm_names[] = {"none", "gate", "haste", NULL};
static const char *const activation_names[] = {"Default",   "Sigmoid",         "Tanh",       "Relu",        "Affine",
                                               "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
                                               "Softsign",  "Softplus",        NULL};

#define LSTM (1U << FL_CELL_LSTM)
#define GRU (1U << FL_CELL_GRU)
#define RNN (1U << FL_CELL_RNN)
#define INDRNN (1U << FL_CELL_INDRNN)
#define SLSTM (1U << FL_CELL_SLSTM)
#define ANY (~0U)

/* A limit is at least 0, a probability at most 1, too. */
typedef enum option_type { NAME, FLAG, SIZE, LIMIT, PROBABILITY } option_type;

#define FIELD(name) #name, offsetof(fl_cell_options, name)

static const struct option_row {
    const char *name;
    size_t offset;
    option_type type;
    unsigned kinds;           /* that have it; it is zero in all others */
    const char *const *names; /* of a NAME other than the kind */
} rows[] = {
    {FIELD(kind), NAME, ANY, NULL},
    {FIELD(gate_clip), LIMIT, LSTM | GRU | RNN, NULL},
    {FIELD(coupling), NAME, LSTM, coupling_names},
    {FIELD(layer_norm), NAME, LSTM, norm_names},
    {FIELD(peephole), FLAG, LSTM, NULL},
    {FIELD(cell_clip), LIMIT, LSTM, NULL},
    {FIELD(proj_size), SIZE, LSTM, NULL},
    {FIELD(proj_clip), LIMIT, LSTM, NULL},
    {FIELD(zoneout_c), PROBABILITY, LSTM, NULL},
    {FIELD(zoneout_h), PROBABILITY, LSTM, NULL},
    {FIELD(zoneout_expectation), FLAG, LSTM, NULL},
    {FIELD(recurrent_dropout), PROBABILITY, LSTM, NULL},
    {FIELD(recurrent_dropout_tied), FLAG, LSTM, NULL},
    {FIELD(reset_before), FLAG, GRU, NULL},
    {FIELD(heads), SIZE, SLSTM, NULL},
    {FIELD(n_floor), LIMIT, SLSTM, NULL},
};
#define ROWS (sizeof rows / sizeof *rows)
#define ACTIVATED (LSTM | GRU | RNN | INDRNN) /* kinds with activations to choose */

/* Place of a name, 0 for null; -1 where it is none of them, which end with null. */
static int index_of(const char *const *names, const char *name)
{
    for (int n = 0; name != NULL && names[n] != NULL; n++)
        if (strcmp(names[n], name) == 0)
            return n;
    return name == NULL ? 0 : -1;
}

static int kind_of(const char *name)
{
    for (int kind = 0; name != NULL && kind < FL_CELL_COUNT; kind++)
        if (strcmp(fl_cell_kind_name((size_t)kind), name) == 0)
            return kind;
    return name == NULL ? 0 : -1;
}

static bool is_name(const struct option_row *row, double value)
{
    size_t count = 0;
    while (row->names != NULL && row->names[count] != NULL) count++;
    return value < (row->names != NULL ? (double)count : (double)FL_CELL_COUNT);
}

/* The value of an option as a number. */
static double value_of(const fl_cell_options *o, const struct option_row *row)
{
    const char *field = (const char *)o + row->offset;
    int index;
    bool flag;
    size_t size;
    double number;
    switch (row->type) {
    case NAME: memcpy(&index, field, sizeof index); return index;
    case FLAG: memcpy(&flag, field, sizeof flag); return flag;
    case SIZE: memcpy(&size, field, sizeof size); return (double)size;
    default: memcpy(&number, field, sizeof number); return number;
    }
}

static bool go_together(const fl_cell_options *o, size_t H)
{
    const bool projects = o->proj_size != 0;
    return !(o->layer_norm == FL_LAYER_NORM_HASTE && o->peephole) && o->proj_size <= H &&
           !(projects && o->zoneout_h > 0.0) && (projects || o->proj_clip == 0.0) &&
           H % (o->heads != 0 ? o->heads : 1) == 0;
}

bool fl_cell_options_are_valid(const fl_cell_options *o, size_t H)
{
    if ((unsigned)o->kind >= FL_CELL_COUNT)
        return false;
    const unsigned kind = 1U << o->kind;
    for (size_t n = 0; n < ROWS; n++) {
        const struct option_row *row = &rows[n];
        const double value = value_of(o, row);
        if (!(value >= 0.0) || (value != 0.0 && (row->kinds & kind) == 0) ||
            (row->type == PROBABILITY && value > 1.0) || (row->type == NAME && !is_name(row, value)))
            return false;
    }
    for (size_t n = 0; n < 3; n++)
        if ((unsigned)o->activations[n].kind >= FL_ACTIVATION_COUNT ||
            (o->activations[n].kind != FL_ACTIVATION_DEFAULT && (ACTIVATED & kind) == 0))
            return false;
    return go_together(o, H);
}

fl_cell_options fl_cell_options_complete(fl_cell_options o)
{
    const bool is_gated = o.kind == FL_CELL_LSTM || o.kind == FL_CELL_GRU;
    const fl_activation_kind usual[3] = {is_gated ? FL_SIGMOID : FL_TANH, FL_TANH, FL_TANH};
    for (size_t n = 0; n < 3; n++)
        if (o.activations[n].kind == FL_ACTIVATION_DEFAULT)
            o.activations[n].kind = usual[n];
    o.heads = o.heads != 0 ? o.heads : 1;
    return o;
}

fl_status fl_cell_set_option(fl_cell_options *options, const char *name, const char *text, double number)
{
    if (options == NULL || name == NULL)
        return FL_ERROR_ARGUMENT;
    for (size_t n = 0; n < ROWS; n++) {
        const struct option_row *row = &rows[n];
        if (strcmp(row->name, name) != 0)
            continue;
        char *field = (char *)options + row->offset;
        const int index = row->type != NAME ? 0 : row->names != NULL ? index_of(row->names, text) : kind_of(text);
        const bool is_size = number >= 0.0 && number < 0x1p53 && number < (double)SIZE_MAX;
        const size_t size = is_size ? (size_t)number : 0;
        const bool flag = number != 0.0;
        if (index < 0 || (row->type == SIZE && (double)size != number))
            return FL_ERROR_ARGUMENT;
        switch (row->type) {
        case NAME: memcpy(field, &index, sizeof index); break;
        case FLAG: memcpy(field, &flag, sizeof flag); break;
        case SIZE: memcpy(field, &size, sizeof size); break;
        default: memcpy(field, &number, sizeof number);
        }
        return FL_OK;
    }
    return FL_ERROR_ARGUMENT;
}

fl_status fl_cell_set_activation(fl_cell_options *options, size_t index, const char *name, double alpha, double beta)
{
    const int kind = index_of(activation_names, name);
    if (options == NULL || index >= 3 || kind < 0)
        return FL_ERROR_ARGUMENT;
    const fl_activation activation = {(fl_activation_kind)kind, alpha, beta};
    options->activations[index] = activation;
    return FL_OK;
}
