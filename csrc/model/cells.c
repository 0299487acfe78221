/* SPDX-License-Identifier: BSD-3-Clause */
#include "model/cell.h"

static bool is_probability(double p) { return p >= 0.0 && p <= 1.0; }

static bool is_limit(double limit) { return limit >= 0.0; }

static bool is_lstm_with_no_option(const fl_cell_options *o)
{
    return o->coupling == FL_COUPLING_NONE && o->layer_norm == FL_LAYER_NORM_NONE && !o->peephole &&
           o->cell_clip == 0.0 && o->proj_size == 0 && o->proj_clip == 0.0 && o->zoneout_c == 0.0 &&
           o->zoneout_h == 0.0 && o->recurrent_dropout == 0.0;
}

static bool has_activations(const fl_cell_options *o)
{
    for (size_t n = 0; n < 3; n++)
        if (o->activations[n].kind != FL_ACTIVATION_DEFAULT)
            return true;
    return false;
}

bool fl_cell_options_are_valid(const fl_cell_options *o, size_t H)
{
    if ((unsigned)o->kind >= FL_CELL_COUNT || (unsigned)o->coupling > FL_NO_FORGET_GATE ||
        (unsigned)o->layer_norm > FL_LAYER_NORM_HASTE || !is_limit(o->gate_clip) || !is_limit(o->cell_clip) ||
        !is_limit(o->proj_clip) || !is_probability(o->zoneout_c) || !is_probability(o->zoneout_h) ||
        !is_probability(o->recurrent_dropout) || !(o->n_floor >= 0.0))
        return false;
    for (size_t n = 0; n < 3; n++)
        if ((unsigned)o->activations[n].kind >= FL_ACTIVATION_COUNT)
            return false;
    if (o->kind == FL_CELL_LSTM) {
        const bool haste_peephole = o->layer_norm == FL_LAYER_NORM_HASTE && o->peephole;
        const bool projects = o->proj_size != 0;
        return !haste_peephole && o->proj_size <= H && !(projects && o->zoneout_h > 0.0) &&
               (projects || o->proj_clip == 0.0) && !o->reset_before && o->heads == 0 && o->n_floor == 0.0;
    }
    if (!is_lstm_with_no_option(o) || (o->kind != FL_CELL_GRU && o->reset_before) ||
        (o->kind != FL_CELL_SLSTM && (o->heads != 0 || o->n_floor != 0.0)))
        return false;
    if (o->kind == FL_CELL_SLSTM)
        return !has_activations(o) && o->gate_clip == 0.0 && H % (o->heads != 0 ? o->heads : 1) == 0;
    if (o->kind == FL_CELL_MINGRU || o->kind == FL_CELL_MINLSTM)
        return !has_activations(o) && o->gate_clip == 0.0;
    return o->kind != FL_CELL_INDRNN || o->gate_clip == 0.0;
}

static fl_cell_sizes lstm_sizes(const fl_cell_options *o, size_t H)
{
    const bool haste = o->layer_norm == FL_LAYER_NORM_HASTE;
    fl_cell_sizes s = {.H = H, .P = o->proj_size != 0 ? o->proj_size : H, .states = 1, .recurs = true};
    s.gates = o->coupling == FL_COUPLING_NONE ? 4 : 3;
    s.split = haste;
    s.saved = ((haste ? 2 : 1) * s.gates + (o->proj_size != 0)) * H; /* with what is projected at the end */
    s.peepholes = o->peephole ? s.gates - 1 : 0;
    s.bypasses = o->zoneout_h > 0.0;
    s.keeps_gates = fl_cell_is_usual(o) && s.gates == 4 && o->layer_norm == FL_LAYER_NORM_NONE && o->proj_size == 0 &&
                    o->recurrent_dropout == 0.0;
    s.extras = s.peepholes * H;
    if (o->layer_norm == FL_LAYER_NORM_GATE)
        s.extras += 2 * s.gates * H;
    if (haste)
        s.extras += (3 * s.gates + 2) * H;
    return s;
}

fl_cell_sizes fl_cell_sizes_of(const fl_cell_options *o, size_t H)
{
    fl_cell_sizes s = {.H = H, .P = H};
    switch (o->kind) {
    case FL_CELL_GRU:
        s.gates = 3;
        s.saved = 4 * H;
        s.split = !o->reset_before;
        s.recurs = s.bypasses = true;
        return s;
    case FL_CELL_RNN:
        s.gates = 1;
        s.saved = H;
        s.recurs = true;
        return s;
    case FL_CELL_INDRNN:
        s.gates = 1;
        s.saved = s.extras = H;
        s.bypasses = true;
        return s;
    case FL_CELL_SLSTM:
        s.gates = 4;
        s.states = 3;
        s.saved = 4 * H;
        s.recurs = true;
        return s;
    case FL_CELL_MINGRU:
    case FL_CELL_MINLSTM:
        s.gates = o->kind == FL_CELL_MINGRU ? 2 : 3;
        s.saved = s.gates * H;
        s.bypasses = true;
        return s;
    default: return lstm_sizes(o, H);
    }
}

static fl_activation or_default(fl_activation given, fl_activation_kind kind)
{
    const fl_activation activation = {kind, 0.0, 0.0};
    return given.kind == FL_ACTIVATION_DEFAULT ? activation : given;
}

fl_cell_options fl_cell_options_complete(fl_cell_options o)
{
    const bool is_gated = o.kind == FL_CELL_LSTM || o.kind == FL_CELL_GRU;
    o.activations[0] = or_default(o.activations[0], is_gated ? FL_SIGMOID : FL_TANH);
    o.activations[1] = or_default(o.activations[1], FL_TANH);
    o.activations[2] = or_default(o.activations[2], FL_TANH);
    o.heads = o.heads != 0 ? o.heads : 1;
    return o;
}

bool fl_cell_is_usual(const fl_cell_options *o)
{
    return o->activations[0].kind == FL_SIGMOID && o->activations[1].kind == FL_TANH &&
           o->activations[2].kind == FL_TANH && o->gate_clip == 0.0 && o->cell_clip == 0.0 && o->zoneout_c == 0.0 &&
           o->zoneout_h == 0.0;
}

fl_path fl_cell_path(const fl_cell_options *o)
{
    switch (o->kind) {
    case FL_CELL_LSTM:
        if (is_lstm_with_no_option(o) && o->gate_clip == 0.0 && !has_activations(o))
            return FL_PATH_LSTM;
        return o->layer_norm == FL_LAYER_NORM_NONE && o->recurrent_dropout == 0.0 ? FL_PATH_TILES : FL_PATH_ROWS;
    case FL_CELL_GRU: return o->reset_before ? FL_PATH_ROWS : FL_PATH_TILES;
    case FL_CELL_RNN: return FL_PATH_TILES;
    case FL_CELL_INDRNN:
    case FL_CELL_MINGRU:
    case FL_CELL_MINLSTM: return FL_PATH_SCAN;
    default: return FL_PATH_ROWS;
    }
}
