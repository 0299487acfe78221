/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of cells: a row for each variant.  What options add to it follows below.  kernels/isa/table_body.h has the
 * functions of each variant, options.c the options.
 */
#include <string.h>

#include "model/parameters.h"

static const char *const kind_names[FL_CELL_COUNT] = {
    [FL_CELL_LSTM] = "lstm",   [FL_CELL_GRU] = "gru",       [FL_CELL_RNN] = "rnn",         [FL_CELL_INDRNN] = "indrnn",
    [FL_CELL_SLSTM] = "slstm", [FL_CELL_MINGRU] = "mingru", [FL_CELL_MINLSTM] = "minlstm", [FL_CELL_MGU] = "mgu"};

const char *fl_cell_kind_name(size_t kind) { return kind < FL_CELL_COUNT ? kind_names[kind] : NULL; }

#define MATRICES (1U << FL_WEIGHT_IH | 1U << FL_WEIGHT_HH)
#define INPUT (1U << FL_WEIGHT_IH | 1U << FL_BIAS_IH)
#define ALL_FOUR (MATRICES | 1U << FL_BIAS_IH | 1U << FL_BIAS_HH) /* PyTorch's */

typedef struct variant_row {
    fl_path path;
    const char *gates, *states; /* a letter for each, in the order of rows, and of states */
    size_t saved;               /* rows of H that a step leaves for the backward pass */
    unsigned parameters;
    size_t early_gates;
    bool split, recurs, bypasses, reads_h_before, gates_from_states;
} variant_row;

static const variant_row variants[FL_VARIANT_COUNT] = {
    /* Saves gates after activation: */
    [FL_LSTM] = {FL_PATH_TILES, "ifgo", "hc", 4, ALL_FOUR, .recurs = true, .gates_from_states = true},
    [FL_LSTM_PEEPHOLE] = {FL_PATH_TILES, "ifgo", "hc", 4, ALL_FOUR, .recurs = true},
    /* All others save pre-activations: */
    [FL_LSTM_OPTIONS] = {FL_PATH_TILES, "ifgo", "hc", 4, ALL_FOUR, .recurs = true},
    [FL_LSTM_COUPLED] = {FL_PATH_TILES, "igo", "hc", 3, ALL_FOUR, .recurs = true},
    [FL_LSTM_DROPPED] = {FL_PATH_ROWS, "ifgo", "hc", 4, ALL_FOUR, .recurs = true},
    [FL_LSTM_COUPLED_DROPPED] = {FL_PATH_ROWS, "igo", "hc", 3, ALL_FOUR, .recurs = true},
    [FL_LSTM_NORM] = {FL_PATH_ROWS, "ifgo", "hc", 4, ALL_FOUR, .recurs = true},
    [FL_GRU] = {FL_PATH_TILES, "rzn", "h", 4, ALL_FOUR, .split = true, .recurs = true, .bypasses = true,
                .reads_h_before = true},
    [FL_GRU_RESET_BEFORE] = {FL_PATH_ROWS, "rzn", "h", 4, ALL_FOUR, .early_gates = 2, .recurs = true, .bypasses = true,
                             .reads_h_before = true},
    [FL_MGU] = {FL_PATH_ROWS, "fn", "h", 3, ALL_FOUR, .early_gates = 1, .recurs = true, .bypasses = true,
                .reads_h_before = true},
    [FL_RNN] = {FL_PATH_TILES, "h", "h", 1, ALL_FOUR, .recurs = true},
    [FL_INDRNN] = {FL_PATH_SCAN, "h", "h", 1, INPUT | 1U << FL_WEIGHT_HH, .bypasses = true, .reads_h_before = true},
    [FL_SLSTM] = {FL_PATH_ROWS, "ifzo", "hcnm", 4, INPUT | 1U << FL_WEIGHT_HH, .recurs = true},
    [FL_MINGRU] = {FL_PATH_SCAN, "zh", "h", 2, INPUT, .bypasses = true, .reads_h_before = true},
    [FL_MINLSTM] = {FL_PATH_SCAN, "fih", "h", 3, INPUT, .bypasses = true, .reads_h_before = true},
};

bool fl_cell_is_usual(const fl_cell_options *o)
{
    return o->activations[0].kind == FL_SIGMOID && o->activations[1].kind == FL_TANH &&
           o->activations[2].kind == FL_TANH && o->gate_clip == 0.0 && o->cell_clip == 0.0 && o->zoneout_c == 0.0 &&
           o->zoneout_h == 0.0;
}

static fl_variant lstm_variant(const fl_cell_options *o)
{
    const bool is_coupled = o->coupling != FL_COUPLING_NONE;
    if (o->layer_norm != FL_LAYER_NORM_NONE)
        return FL_LSTM_NORM;
    if (o->recurrent_dropout > 0.0)
        return is_coupled ? FL_LSTM_COUPLED_DROPPED : FL_LSTM_DROPPED;
    if (is_coupled)
        return FL_LSTM_COUPLED;
    if (!fl_cell_is_usual(o) || o->proj_size != 0)
        return FL_LSTM_OPTIONS;
    return o->peephole ? FL_LSTM_PEEPHOLE : FL_LSTM;
}

static fl_variant variant_of(const fl_cell_options *o)
{
    switch (o->kind) {
    case FL_CELL_GRU: return o->reset_before ? FL_GRU_RESET_BEFORE : FL_GRU;
    case FL_CELL_MGU: return FL_MGU;
    case FL_CELL_RNN: return FL_RNN;
    case FL_CELL_INDRNN: return FL_INDRNN;
    case FL_CELL_SLSTM: return FL_SLSTM;
    case FL_CELL_MINGRU: return FL_MINGRU;
    case FL_CELL_MINLSTM: return FL_MINLSTM;
    default: return lstm_variant(o);
    }
}

fl_cell_sizes fl_cell_sizes_of(const fl_cell_options *o, size_t H)
{
    const fl_variant variant = variant_of(o);
    const variant_row *row = &variants[variant];
    const bool haste = o->layer_norm == FL_LAYER_NORM_HASTE, projects = o->proj_size != 0;
    fl_cell_sizes s = {.variant = variant,
                       .path = row->path,
                       .gate_names = row->gates,
                       .H = H,
                       .P = projects ? o->proj_size : H,
                       .states = strlen(row->states) - 1,
                       .heads = o->heads,
                       .early_gates = row->early_gates,
                       .saved = row->saved,
                       .parameters = row->parameters,
                       .norm = o->layer_norm,
                       .split = row->split || haste,
                       .recurs = row->recurs,
                       .is_diagonal = !row->recurs && (row->parameters & 1U << FL_WEIGHT_HH) != 0,
                       .bypasses = row->bypasses || o->zoneout_h > 0.0,
                       .reads_h_before = row->reads_h_before,
                       .gates_from_states = row->gates_from_states};
    if (o->coupling != FL_COUPLING_NONE) {
        s.gate_names = o->coupling == FL_I_FROM_F ? "fgo" : "igo";
        s.saved = 3;
    }
    s.gates = strlen(s.gate_names);
    s.saved = ((haste ? 2 : 1) * s.saved + projects) * H; /* with what is projected at the end */
    s.peepholes = o->peephole ? s.gates - 1 : 0;
    if (o->peephole)
        s.parameters |= 1U << FL_WEIGHT_CH;
    if (projects)
        s.parameters |= 1U << FL_WEIGHT_HR | 1U << FL_BIAS_HR;
    if (o->layer_norm != FL_LAYER_NORM_NONE)
        s.parameters |= 1U << FL_WEIGHT_LN_IH;
    if (haste)
        s.parameters |= 1U << FL_WEIGHT_LN_HH | 1U << FL_WEIGHT_LN_C | 1U << FL_BIAS_LN_C;
    return s;
}

fl_status fl_cell_get_facts(const fl_cell_options *options, size_t hidden_size, fl_cell_facts *facts)
{
    if (options == NULL || facts == NULL || hidden_size == 0 || !fl_cell_options_are_valid(options, hidden_size))
        return FL_ERROR_ARGUMENT;
    const fl_cell_options complete = fl_cell_options_complete(*options);
    const fl_cell_sizes sizes = fl_cell_sizes_of(&complete, hidden_size);
    facts->gates = sizes.gate_names;
    facts->states = variants[sizes.variant].states;
    facts->width = sizes.P;
    facts->draws = options->zoneout_c > 0.0 || options->zoneout_h > 0.0 || options->recurrent_dropout > 0.0;
    return FL_OK;
}
