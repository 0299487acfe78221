/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>

#include "problem.h"

const fl_dtype dtypes[DTYPES] = {FL_F32, FL_F64};

const char *const kind_names[FL_CELL_COUNT] = {
    [FL_CELL_LSTM] = "lstm",   [FL_CELL_GRU] = "gru",       [FL_CELL_RNN] = "rnn",         [FL_CELL_INDRNN] = "indrnn",
    [FL_CELL_SLSTM] = "slstm", [FL_CELL_MINGRU] = "mingru", [FL_CELL_MINLSTM] = "minlstm", [FL_CELL_MGU] = "mgu"};

/* Any of the eleven. */
static fl_activation random_activation(void)
{
    fl_activation a = {(fl_activation_kind)random_size(FL_ACTIVATION_DEFAULT, FL_ACTIVATION_COUNT - 1), 0.0, 0.0};
    switch (a.kind) {
    case FL_AFFINE:
        a.alpha = 0.3 + random_real(0.2);
        a.beta = random_real(0.4);
        break;
    case FL_LEAKY_RELU: a.alpha = random_real(0.3); break;
    case FL_THRESHOLDED_RELU: a.alpha = random_real(0.3); break;
    case FL_SCALED_TANH:
        a.alpha = 0.8 + random_real(0.4);
        a.beta = 0.7 + random_real(0.3);
        break;
    case FL_HARD_SIGMOID:
        a.alpha = 0.3 + random_real(0.1);
        a.beta = 0.5 + random_real(0.1);
        break;
    case FL_ELU: a.alpha = 0.8 + random_real(0.4); break;
    default: break;
    }
    return a;
}

/* Where a gate or h has no bounds, states may grow until they are NaN, and which NaN is nobody's promise. */
static bool is_bounded(fl_activation_kind kind)
{
    return kind == FL_ACTIVATION_DEFAULT || kind == FL_SIGMOID || kind == FL_TANH || kind == FL_SCALED_TANH ||
           kind == FL_HARD_SIGMOID || kind == FL_SOFTSIGN;
}

static double random_clip(void) { return random_chance(3) ? 0.6 + random_real(0.4) : 0.0; }

static double random_rate(void) { return !random_chance(3) ? 0.0 : random_chance(8) ? 1.0 : 0.4 + random_real(0.3); }

fl_cell_options options_random(fl_cell_kind kind, size_t H)
{
    static const size_t activations[FL_CELL_COUNT] = {
        [FL_CELL_LSTM] = 3, [FL_CELL_GRU] = 2, [FL_CELL_RNN] = 1, [FL_CELL_INDRNN] = 1};
    fl_cell_options o = {.kind = kind};
    if (kind == FL_CELL_LSTM && random_chance(4))
        return o; /* the plain LSTM, which has kernels of its own */
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

spec spec_plain(fl_cell_kind kind, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H)
{
    const bool has_c = kind == FL_CELL_LSTM || kind == FL_CELL_SLSTM;
    const bool has_bias_hh = kind == FL_CELL_LSTM || kind == FL_CELL_GRU || kind == FL_CELL_RNN || kind == FL_CELL_MGU;
    const spec s = {.shape = {dtype, I, H, 1, 1, {.kind = kind}},
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

spec spec_stack(fl_cell_kind kind, fl_dtype dtype, const size_t sizes[6])
{
    spec s = spec_plain(kind, dtype, sizes[0], sizes[1], sizes[2], sizes[3]);
    s.shape.num_layers = sizes[4];
    s.shape.num_directions = sizes[5];
    return s;
}

/* Parts of H for sizes that depend on it. */
static const fl_cell_options some_cells[SOME_CELLS] = {
    {.kind = FL_CELL_LSTM},
    {.kind = FL_CELL_LSTM, .peephole = true},
    {.kind = FL_CELL_LSTM, .layer_norm = FL_LAYER_NORM_GATE, .coupling = FL_I_FROM_F, .peephole = true},
    {.kind = FL_CELL_LSTM, .layer_norm = FL_LAYER_NORM_HASTE, .recurrent_dropout = 0.5, .zoneout_h = 0.5},
    {.kind = FL_CELL_LSTM, .proj_size = 2, .zoneout_c = 0.5, .coupling = FL_F_FROM_I},
    {.kind = FL_CELL_LSTM, .proj_size = 3, .recurrent_dropout = 0.5, .recurrent_dropout_tied = true},
    {.kind = FL_CELL_GRU},
    {.kind = FL_CELL_GRU, .reset_before = true},
    {.kind = FL_CELL_RNN},
    {.kind = FL_CELL_INDRNN},
    {.kind = FL_CELL_SLSTM, .heads = 3},
    {.kind = FL_CELL_MINGRU},
    {.kind = FL_CELL_MINLSTM},
    {.kind = FL_CELL_MGU},
};

spec spec_some(size_t number, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H)
{
    spec s = spec_plain(some_cells[number].kind, dtype, T, B, I, H);
    fl_cell_options *o = &s.shape.cell;
    *o = some_cells[number];
    o->proj_size = o->proj_size != 0 ? H / o->proj_size + 1 : 0;
    o->heads = o->heads != 0 && H % o->heads == 0 ? o->heads : 0;
    s.shape.num_layers = 2;
    s.draws = true;
    s.bias_hr = true;
    return s;
}

void spec_resize(spec *s, size_t T, size_t B, size_t I, size_t H)
{
    s->T = T;
    s->B = B;
    s->shape.input_size = I;
    s->shape.hidden_size = H;
    s->shape.cell = options_random(s->shape.cell.kind, H);
}

order order_random(order last) { return (order)random_size(0, last); }

void spec_reorder(spec *s)
{
    s->x_order = order_random(ORDER_COUNT - 1);
    s->y_order = order_random(ORDER_COUNT - 1);
    s->dy_order = order_random(ORDER_COUNT - 1);
    s->dx_order = order_random(ORDER_COUNT - 1);
}

spec spec_random(fl_cell_kind kind, fl_dtype dtype)
{
    /* One after the other: in what order a compiler evaluates arguments is its own choice. */
    const size_t T = random_chance(4) ? 1 : random_size(2, 14);
    const size_t B = random_chance(3) ? 1 : random_size(2, 9);
    const size_t I = random_chance(4) ? 1 : random_size(2, 40);
    const size_t H = random_size(1, 40);
    spec s = spec_plain(kind, dtype, T, B, I, H);
    s.shape.cell = options_random(kind, s.shape.hidden_size);
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
    spec_reorder(&s);
    return s;
}

void for_all_kinds(size_t full, void (*check)(const spec *s))
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t d = 0; d < DTYPES; d++)
            for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 4 * full : full); repeat++) {
                const spec s = spec_random((fl_cell_kind)kind, dtypes[d]);
                check(&s);
            }
}

const char *problem_text(const problem *p)
{
    static char text[700];
    const spec *s = &p->spec;
    const fl_cell_options *o = &s->shape.cell;
    const int used = snprintf(
        text, sizeof text,
        "%s %s T=%zu B=%zu I=%zu H=%zu P=%zu L=%zu D=%zu%s%s%s%s%s%s%s%s%s orders x %d y %d dy %d dx %d dropout %.3f "
        "bptt %zu first cell %zu",
        kind_names[o->kind], s->shape.dtype == FL_F32 ? "f32" : "f64", s->T, s->B, s->shape.input_size, p->H, p->P,
        s->shape.num_layers, s->shape.num_directions, s->bias_ih ? " bias_ih" : "", s->bias_hh ? " bias_hh" : "",
        s->bias_hr ? " bias_hr" : "", s->given_state ? " state" : "", s->ragged ? " ragged" : "",
        s->indexed ? " indexed" : "", s->wants_cells ? " cells" : "", s->resets ? " resets" : "",
        s->draws ? " draws" : "", (int)s->x_order, (int)s->y_order, (int)s->dy_order, (int)s->dx_order, s->dropout,
        s->bptt, s->first_cell);
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
