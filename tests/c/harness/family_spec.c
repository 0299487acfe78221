/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>

#include "family.h"

/* Any of the eleven. */
static fl_activation random_activation(void)
{
    fl_activation f = {(fl_activation_kind)random_size(FL_ACTIVATION_DEFAULT, FL_ACTIVATION_COUNT - 1), 0.0, 0.0};
    switch (f.kind) {
    case FL_AFFINE:
        f.alpha = 0.3 + random_real(0.2);
        f.beta = random_real(0.4);
        break;
    case FL_LEAKY_RELU: f.alpha = random_real(0.3); break;
    case FL_THRESHOLDED_RELU: f.alpha = random_real(0.3); break;
    case FL_SCALED_TANH:
        f.alpha = 0.8 + random_real(0.4);
        f.beta = 0.7 + random_real(0.3);
        break;
    case FL_HARD_SIGMOID:
        f.alpha = 0.3 + random_real(0.1);
        f.beta = 0.5 + random_real(0.1);
        break;
    case FL_ELU: f.alpha = 0.8 + random_real(0.4); break;
    default: break;
    }
    return f;
}

/* Where a gate or h has no bounds, states may grow until they are NaN, and which NaN is nobody's promise. */
static bool is_bounded(fl_activation_kind kind)
{
    return kind == FL_ACTIVATION_DEFAULT || kind == FL_SIGMOID || kind == FL_TANH || kind == FL_SCALED_TANH ||
           kind == FL_HARD_SIGMOID || kind == FL_SOFTSIGN;
}

static double random_clip(void) { return random_chance(3) ? 0.6 + random_real(0.4) : 0.0; }

static double random_rate(void) { return !random_chance(3) ? 0.0 : random_chance(8) ? 1.0 : 0.4 + random_real(0.3); }

fl_cell_options options_of_kind(fl_cell_kind kind, size_t H)
{
    static const size_t activations[FL_CELL_COUNT] = {
        [FL_CELL_LSTM] = 3, [FL_CELL_GRU] = 2, [FL_CELL_RNN] = 1, [FL_CELL_INDRNN] = 1};
    fl_cell_options o = {.kind = kind};
    const bool changes_activations = random_chance(3);
    for (size_t n = 0; n < activations[kind] && changes_activations; n++) o.activations[n] = random_activation();
    if (kind == FL_CELL_LSTM || kind == FL_CELL_GRU || kind == FL_CELL_RNN)
        o.gate_clip = random_clip();
    for (size_t n = 0; n < 3 && kind != FL_CELL_INDRNN; n++)
        if (!is_bounded(o.activations[n].kind))
            o.gate_clip = 0.4 + random_real(0.1);
    if (kind == FL_CELL_GRU)
        o.reset_before = random_chance(2);
    if (kind == FL_CELL_SLSTM) {
        o.heads = random_size(0, 4);
        while (o.heads != 0 && H % o.heads != 0) o.heads--;
        o.n_floor = random_chance(3) ? 0.7 + random_real(0.5) : 0.0;
    }
    if (kind != FL_CELL_LSTM)
        return o;
    o.coupling = (fl_coupling)random_size(FL_COUPLING_NONE, FL_NO_FORGET_GATE);
    o.layer_norm =
        random_chance(3) ? (fl_layer_norm)random_size(FL_LAYER_NORM_GATE, FL_LAYER_NORM_HASTE) : FL_LAYER_NORM_NONE;
    o.peephole = o.layer_norm != FL_LAYER_NORM_HASTE && random_chance(3);
    o.cell_clip = random_clip();
    o.proj_size = random_chance(3) ? random_size(1, H) : 0;
    o.proj_clip = o.proj_size != 0 ? random_clip() / 3.0 : 0.0;
    o.zoneout_c = random_rate();
    o.zoneout_h = o.proj_size != 0 ? 0.0 : random_rate();
    o.zoneout_expectation = random_chance(2);
    o.recurrent_dropout = random_rate();
    o.recurrent_dropout_tied = random_chance(2);
    return o;
}

family_spec family_plain(fl_cell_kind kind, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H)
{
    const bool has_c = kind == FL_CELL_LSTM || kind == FL_CELL_SLSTM;
    const bool has_bias_hh = kind == FL_CELL_LSTM || kind == FL_CELL_GRU || kind == FL_CELL_RNN || kind == FL_CELL_MGU;
    const family_spec s = {.shape = {dtype, I, H, 1, 1, {.kind = kind}},
                           .T = T,
                           .B = B,
                           .seed = random_bits(),
                           .bias_ih = true,
                           .bias_hh = has_bias_hh,
                           .given_state = true,
                           .wants_cells = has_c,
                           .gives_dy = true,
                           .gives_dh = true,
                           .gives_dc = has_c,
                           .gives_dcells = has_c,
                           .wants_dx = true};
    return s;
}

void family_reorder(family_spec *s)
{
    s->x_order = (int)random_size(0, FAMILY_ORDERS - 1);
    s->y_order = (int)random_size(0, FAMILY_ORDERS - 1);
    s->dy_order = (int)random_size(0, FAMILY_ORDERS - 1);
    s->dx_order = (int)random_size(0, FAMILY_ORDERS - 1);
}

family_spec family_random(fl_cell_kind kind, fl_dtype dtype)
{
    /* One after the other: in what order a compiler evaluates arguments is its own choice. */
    const size_t T = random_chance(4) ? 1 : random_size(2, 14);
    const size_t B = random_chance(3) ? 1 : random_size(2, 9);
    const size_t I = random_chance(4) ? 1 : random_size(2, 40);
    const size_t H = random_size(1, 40);
    family_spec s = family_plain(kind, dtype, T, B, I, H);
    s.shape.cell = options_of_kind(kind, s.shape.hidden_size);
    s.shape.num_layers = random_size(1, 3);
    s.shape.num_directions = random_size(1, 2);
    s.bias_ih = !random_chance(4);
    s.bias_hh = s.bias_hh && !random_chance(4);
    s.bias_hr = random_chance(2);
    s.given_state = random_chance(2);
    s.ragged = random_chance(2);
    s.indexed = random_chance(4);
    s.wants_cells = s.wants_cells && random_chance(2);
    s.resets = random_chance(3);
    s.draws = random_chance(2);
    s.gives_dy = !random_chance(5);
    s.gives_dh = !random_chance(3);
    s.gives_dc = s.gives_dc && !random_chance(3);
    s.gives_dcells = s.gives_dcells && random_chance(2);
    s.wants_dx = !s.indexed && !random_chance(5);
    s.dropout = random_chance(3) ? 0.375 : 0.0;
    s.bptt = random_chance(3) ? random_size(1, 9) : 0;
    s.first_cell = random_size(0, 3);
    family_reorder(&s);
    return s;
}

const char *family_text(const family *f)
{
    static const char *const kinds[] = {"LSTM", "GRU", "RNN", "IndRNN", "sLSTM", "minGRU", "minLSTM", "MGU"};
    static char text[700];
    const family_spec *s = &f->spec;
    const fl_cell_options *o = &s->shape.cell;
    const int used = snprintf(
        text, sizeof text,
        "%s %s T=%zu B=%zu I=%zu H=%zu P=%zu L=%zu D=%zu%s%s%s%s%s%s%s%s%s orders x %d y %d dy %d dx %d dropout %.3f "
        "bptt %zu first cell %zu",
        kinds[o->kind], s->shape.dtype == FL_F32 ? "f32" : "f64", s->T, s->B, s->shape.input_size, f->H, f->P,
        s->shape.num_layers, s->shape.num_directions, s->bias_ih ? " bias_ih" : "", s->bias_hh ? " bias_hh" : "",
        s->bias_hr ? " bias_hr" : "", s->given_state ? " state" : "", s->ragged ? " ragged" : "",
        s->indexed ? " indexed" : "", s->wants_cells ? " cells" : "", s->resets ? " resets" : "",
        s->draws ? " draws" : "", s->x_order, s->y_order, s->dy_order, s->dx_order, s->dropout, s->bptt, s->first_cell);
    snprintf(
        text + used, sizeof text - (size_t)used,
        " activations %d %d %d gate_clip %.3f coupling %d norm %d%s cell_clip %.3f proj_clip %.3f zoneout %.2f %.2f%s "
        "recurrent dropout %.2f%s%s heads %zu n_floor %.2f",
        (int)o->activations[0].kind, (int)o->activations[1].kind, (int)o->activations[2].kind, o->gate_clip,
        (int)o->coupling, (int)o->layer_norm, o->peephole ? " peephole" : "", o->cell_clip, o->proj_clip, o->zoneout_c,
        o->zoneout_h, o->zoneout_expectation ? " expected" : "", o->recurrent_dropout,
        o->recurrent_dropout_tied ? " tied" : "", o->reset_before ? " reset before" : "", o->heads, o->n_floor);
    return text;
}
