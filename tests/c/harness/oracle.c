/* SPDX-License-Identifier: BSD-3-Clause */
#include "oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { W_IH, W_HH, B_IH, B_HH, W_CH, W_HR, B_HR, LN_IH, LN_HH, LN_C, LN_BIAS };

#define GATE_EPSILON 1e-8
#define HASTE_EPSILON 1e-5
#define MOST_STATES 3

/* Of the cell that is computed. */
typedef struct walk {
    oracle_pass *o;
    graph *g;
    const problem *p;
    const fl_cell_options *cell;
    const var *w; /* parameters */
    size_t I, number;
    bool recorded;
    size_t t, b;
    var h, states[MOST_STATES]; /* before the step, then after it */
} walk;

static void *room_for(size_t count, size_t each)
{
    void *array = calloc(count + 1, each);
    if (array == NULL) {
        printf("no memory for the oracle\n");
        exit(2);
    }
    return array;
}

/* ---- Functions ----------------------------------------------------------------------------------------------- */

static var activated(const walk *s, size_t index, fl_activation_kind usual, var argument)
{
    graph *g = s->g;
    const fl_activation *own = &s->cell->activations[index];
    const double alpha = own->alpha, beta = own->beta, x = value_of(g, argument);
    double value = 0.0, slope = 0.0;
    switch (own->kind != FL_ACTIVATION_DEFAULT ? own->kind : usual) {
    case FL_SIGMOID: return logistic(g, argument);
    case FL_TANH:
        value = tanh(x);
        slope = 1.0 / (cosh(x) * cosh(x));
        break;
    case FL_RELU:
        value = fmax(x, 0.0);
        slope = x > 0.0;
        break;
    case FL_AFFINE:
        value = alpha * x + beta;
        slope = alpha;
        break;
    case FL_LEAKY_RELU:
        slope = x >= 0.0 ? 1.0 : alpha;
        value = slope * x;
        break;
    case FL_THRESHOLDED_RELU:
        slope = x >= alpha;
        value = slope * x;
        break;
    case FL_SCALED_TANH:
        value = alpha * tanh(beta * x);
        slope = alpha * beta / pow(cosh(beta * x), 2.0);
        break;
    case FL_HARD_SIGMOID:
        value = fmin(fmax(alpha * x + beta, 0.0), 1.0);
        slope = value > 0.0 && value < 1.0 ? alpha : 0.0;
        break;
    case FL_ELU:
        value = x >= 0.0 ? x : alpha * expm1(x);
        slope = x >= 0.0 ? 1.0 : alpha * exp(x);
        break;
    case FL_SOFTSIGN:
        value = x / (1.0 + fabs(x));
        slope = 1.0 / ((1.0 + fabs(x)) * (1.0 + fabs(x)));
        break;
    case FL_SOFTPLUS:
        value = fmax(x, 0.0) + log1p(exp(-fabs(x)));
        slope = 1.0 / (1.0 + exp(-x));
        break;
    default: break;
    }
    return computed(g, value, argument, slope, argument, 0.0);
}

/* An activation of a gate. */
static var gated(const walk *s, size_t index, fl_activation_kind usual, var argument)
{
    return activated(s, index, usual, limited(s->g, argument, s->cell->gate_clip));
}

static var tanh_of(const walk *s, var a)
{
    const double value = tanh(value_of(s->g, a));
    return computed(s->g, value, a, 1.0 - value * value, a, 0.0);
}

/* (1 - weight) old + weight new */
static var mixed(graph *g, var old, var new, var weight)
{
    return add(g, multiply(g, scaled(g, weight, -1.0, 1.0), old), multiply(g, weight, new));
}

/* Centred and scaled to a variance of 1, in place. */
static void normalise(graph *g, var *of, size_t n, double epsilon)
{
    var sum = of[0], squares = constant(g, epsilon);
    for (size_t k = 1; k < n; k++) sum = add(g, sum, of[k]);
    const var mean = scaled(g, sum, 1.0 / (double)n, 0.0);
    for (size_t k = 0; k < n; k++) {
        of[k] = subtract(g, of[k], mean);
        squares = add(g, squares, scaled(g, multiply(g, of[k], of[k]), 1.0 / (double)n, 0.0));
    }
    const var deviation = square_root(g, squares);
    for (size_t k = 0; k < n; k++) of[k] = divide(g, of[k], deviation);
}

/* Whether number `index` of the splitmix64 sequence of a seed is below a rate. */
static bool is_drawn(uint64_t seed, uint64_t index, double rate)
{
    uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    return (z >> 32) < (uint64_t)(rate * 4294967296.0);
}

static double kept_scale(double rate) { return rate < 1.0 ? 1.0 / (1.0 - rate) : 0.0; }

/* Zoneout of one element: of c (1) or h (2). */
static var zoned(const walk *s, var old, var new, double rate, unsigned kind, size_t j)
{
    const spec *given = &s->p->spec;
    if (rate == 0.0)
        return new;
    if (!(s->recorded && given->draws))
        return s->cell->zoneout_expectation ? mixed(s->g, old, new, constant(s->g, 1.0 - rate)) : new;
    const uint64_t row = ((given->first_cell + s->number) * given->T + s->t) * given->B + s->b;
    return is_drawn(MASK_SEED + kind, row * s->p->H + j, rate) ? old : new;
}

/* h as a gate reads it. */
static var read_h(const walk *s, size_t gate)
{
    const problem *p = s->p;
    const double rate = s->cell->recurrent_dropout;
    const bool tied = s->cell->recurrent_dropout_tied;
    if (rate == 0.0 || !s->recorded || !p->spec.draws)
        return s->h;
    const size_t masks = tied ? 1 : p->gates;
    const uint64_t row = ((p->spec.first_cell + s->number) * masks + (tied ? 0 : gate)) * p->spec.B + s->b;
    var *dropped = room_for(p->P, sizeof *dropped);
    for (size_t j = 0; j < p->P; j++)
        dropped[j] =
            scaled(s->g, s->h + j, is_drawn(MASK_SEED + 3, row * p->P + j, rate) ? 0.0 : kept_scale(rate), 0.0);
    const var h = gathered(s->g, dropped, p->P, false);
    free(dropped);
    return h;
}

/* ---- Steps: of each cell, from s->h and s->states to these --------------------------------------------------- */

static var with_bias(const walk *s, size_t bias, var sum, size_t row)
{
    return s->w[bias] != 0 ? add(s->g, sum, s->w[bias] + row) : sum;
}

static var from_x(const walk *s, size_t row, var x) { return dot(s->g, s->w[W_IH] + row * s->I, x, s->I); }

static var from_h(const walk *s, size_t row, var h) { return dot(s->g, s->w[W_HH] + row * s->p->P, h, s->p->P); }

/* Everything but what depends on h in a way of its own. */
static var both_biases(const walk *s, size_t row, var sum)
{
    return with_bias(s, B_HH, with_bias(s, B_IH, sum, row), row);
}

static void set_h(walk *s, const var *h) { s->h = gathered(s->g, h, s->p->P, false); }

/* Inputs of all gates, before peepholes and the norm of each gate. */
static void lstm_sums(const walk *s, var x, var *sums)
{
    graph *g = s->g;
    const size_t H = s->p->H, rows = s->p->gates * H;
    const bool haste = s->cell->layer_norm == FL_LAYER_NORM_HASTE;
    var *recurrent = room_for(rows, sizeof *recurrent);
    for (size_t gate = 0; gate < s->p->gates; gate++) {
        const var h = read_h(s, gate);
        for (size_t row = gate * H; row < (gate + 1) * H; row++) {
            sums[row] = from_x(s, row, x);
            recurrent[row] = from_h(s, row, h);
        }
    }
    if (haste) {
        normalise(g, sums, rows, HASTE_EPSILON);
        normalise(g, recurrent, rows, HASTE_EPSILON);
    }
    for (size_t row = 0; row < rows; row++) {
        if (haste) {
            sums[row] = multiply(g, sums[row], s->w[LN_IH] + row);
            recurrent[row] = multiply(g, recurrent[row], s->w[LN_HH] + row);
        }
        sums[row] = add(g, sums[row], recurrent[row]);
    }
    free(recurrent);
}

/* A gate, of which `sums` are the inputs; it may look at c. */
static void lstm_gate(const walk *s, size_t gate, size_t peephole, const var *c, var *sums)
{
    graph *g = s->g;
    const size_t H = s->p->H;
    const bool norms = s->cell->layer_norm == FL_LAYER_NORM_GATE, is_new = peephole == SIZE_MAX;
    for (size_t j = 0; j < H && s->cell->peephole && !is_new; j++)
        sums[j] = add(g, sums[j], multiply(g, s->w[W_CH] + peephole * H + j, c[j]));
    if (norms)
        normalise(g, sums, H, GATE_EPSILON);
    for (size_t j = 0; j < H; j++) {
        if (norms)
            sums[j] = multiply(g, sums[j], s->w[LN_IH] + gate * H + j);
        const var a = both_biases(s, gate * H + j, sums[j]);
        sums[j] = is_new ? gated(s, 1, FL_TANH, a) : gated(s, 0, FL_SIGMOID, a);
    }
}

static void lstm_step(walk *s, var x)
{
    graph *g = s->g;
    const problem *p = s->p;
    const size_t H = p->H, last = p->gates - 1;
    const fl_coupling coupling = s->cell->coupling;
    var *a = room_for(p->gates * H, sizeof *a), *c = room_for(H, sizeof *c), *h = room_for(H, sizeof *h);
    lstm_sums(s, x, a);
    for (size_t j = 0; j < H; j++) c[j] = s->states[0] + j;
    for (size_t gate = 0; gate + 2 < p->gates; gate++) lstm_gate(s, gate, gate, c, a + gate * H);
    lstm_gate(s, last - 1, SIZE_MAX, c, a + (last - 1) * H);
    for (size_t j = 0; j < H; j++) {
        const var first = a[j], other = scaled(g, first, -1.0, 1.0);
        const var i = coupling == FL_I_FROM_F ? other : first;
        const var forget = coupling == FL_COUPLING_NONE    ? a[H + j]
                           : coupling == FL_F_FROM_I       ? other
                           : coupling == FL_NO_FORGET_GATE ? constant(g, 1.0)
                                                           : first;
        const var sum = add(g, multiply(g, forget, c[j]), multiply(g, i, a[(last - 1) * H + j]));
        c[j] = limited(g, sum, s->cell->cell_clip);
    }
    lstm_gate(s, last, last - 1, c, a + last * H);
    memcpy(h, c, H * sizeof *h);
    if (s->cell->layer_norm == FL_LAYER_NORM_HASTE)
        normalise(g, h, H, HASTE_EPSILON);
    for (size_t j = 0; j < H; j++) {
        if (s->cell->layer_norm == FL_LAYER_NORM_HASTE)
            h[j] = add(g, multiply(g, h[j], s->w[LN_C] + j), s->w[LN_BIAS] + j);
        h[j] = multiply(g, a[last * H + j], activated(s, 2, FL_TANH, h[j]));
    }
    if (s->cell->proj_size != 0) {
        const var hidden = gathered(g, h, H, false);
        for (size_t j = 0; j < p->P; j++) {
            const var projected = with_bias(s, B_HR, dot(g, s->w[W_HR] + j * H, hidden, H), j);
            h[j] = limited(g, projected, s->cell->proj_clip);
        }
    }
    for (size_t j = 0; j < H; j++) {
        c[j] = zoned(s, s->states[0] + j, c[j], s->cell->zoneout_c, 1, j);
        h[j] = zoned(s, s->h + j, h[j], s->cell->zoneout_h, 2, j);
    }
    set_h(s, h);
    s->states[0] = gathered(g, c, H, false);
    free(a);
    free(c);
    free(h);
}

/* z old + (1 - z) new; what r acts on differs. */
static void gru_step(walk *s, var x)
{
    graph *g = s->g;
    const size_t H = s->p->H;
    var *r = room_for(H, sizeof *r), *h = room_for(H, sizeof *h);
    for (size_t j = 0; j < H; j++)
        r[j] = gated(s, 0, FL_SIGMOID, both_biases(s, j, add(g, from_x(s, j, x), from_h(s, j, s->h))));
    for (size_t j = 0; j < H; j++) h[j] = multiply(g, r[j], s->h + j);
    const var reset = gathered(g, h, H, false);
    for (size_t j = 0; j < H; j++) {
        const size_t n = 2 * H + j;
        const var z =
            gated(s, 0, FL_SIGMOID, both_biases(s, H + j, add(g, from_x(s, H + j, x), from_h(s, H + j, s->h))));
        const var recurrent = with_bias(s, B_HH, from_h(s, n, s->cell->reset_before ? reset : s->h), n);
        const var a = with_bias(s, B_IH, from_x(s, n, x), n);
        const var next = add(g, a, s->cell->reset_before ? recurrent : multiply(g, r[j], recurrent));
        h[j] = mixed(g, gated(s, 1, FL_TANH, next), s->h + j, z);
    }
    set_h(s, h);
    free(r);
    free(h);
}

/* (1 - f) old + f new, and f acts on h before the product too. */
static void mgu_step(walk *s, var x)
{
    graph *g = s->g;
    const size_t H = s->p->H;
    var *f = room_for(H, sizeof *f), *h = room_for(H, sizeof *h);
    for (size_t j = 0; j < H; j++) {
        f[j] = logistic(g, both_biases(s, j, add(g, from_x(s, j, x), from_h(s, j, s->h))));
        h[j] = multiply(g, f[j], s->h + j);
    }
    const var read = gathered(g, h, H, false);
    for (size_t j = 0; j < H; j++) {
        const var a = both_biases(s, H + j, add(g, from_x(s, H + j, x), from_h(s, H + j, read)));
        h[j] = mixed(g, s->h + j, tanh_of(s, a), f[j]);
    }
    set_h(s, h);
    free(f);
    free(h);
}

static void rnn_step(walk *s, var x)
{
    graph *g = s->g;
    const bool own = s->cell->kind == FL_CELL_INDRNN;
    var *h = room_for(s->p->H, sizeof *h);
    for (size_t j = 0; j < s->p->H; j++) {
        const var recurrent = own ? multiply(g, s->w[W_HH] + j, s->h + j) : from_h(s, j, s->h);
        h[j] = gated(s, 0, FL_TANH, both_biases(s, j, add(g, from_x(s, j, x), recurrent)));
    }
    set_h(s, h);
    free(h);
}

static void slstm_step(walk *s, var x)
{
    graph *g = s->g;
    const size_t H = s->p->H, width = H / (s->cell->heads != 0 ? s->cell->heads : 1);
    var *next[MOST_STATES + 1];
    for (size_t n = 0; n <= MOST_STATES; n++) next[n] = room_for(H, sizeof *next[n]);
    for (size_t j = 0; j < H; j++) {
        const var h = s->h + j / width * width, c = s->states[0] + j, n = s->states[1] + j, m = s->states[2] + j;
        var a[4];
        for (size_t gate = 0; gate < 4; gate++) {
            const size_t row = gate * H + j;
            a[gate] = both_biases(s, row, add(g, from_x(s, row, x), dot(g, s->w[W_HH] + row * width, h, width)));
        }
        const bool is_new = value_of(g, n) == 0.0;
        const var log_f = add(g, log_logistic(g, a[1]), m), top = is_new ? a[0] : larger(g, a[0], log_f);
        const var i = exponential(g, subtract(g, a[0], top));
        const var f = is_new ? constant(g, 0.0) : exponential(g, subtract(g, log_f, top));
        next[0][j] = add(g, multiply(g, f, c), multiply(g, i, tanh_of(s, a[2])));
        next[1][j] = larger(g, add(g, multiply(g, f, n), i), constant(g, s->cell->n_floor));
        next[2][j] = top;
        next[3][j] = divide(g, multiply(g, logistic(g, a[3]), next[0][j]), next[1][j]);
    }
    set_h(s, next[3]);
    for (size_t n = 0; n < MOST_STATES; n++) s->states[n] = gathered(g, next[n], H, false);
    for (size_t n = 0; n <= MOST_STATES; n++) free(next[n]);
}

/* Gates of the input alone. */
static void minimal_step(walk *s, var x)
{
    graph *g = s->g;
    const size_t H = s->p->H, last = s->p->gates - 1;
    var *h = room_for(H, sizeof *h);
    for (size_t j = 0; j < H; j++) {
        const var first = both_biases(s, j, from_x(s, j, x));
        const var next = both_biases(s, last * H + j, from_x(s, last * H + j, x));
        if (s->cell->kind == FL_CELL_MINGRU) {
            h[j] = mixed(g, s->h + j, next, logistic(g, first));
        } else {
            const var i = logistic(g, both_biases(s, H + j, from_x(s, H + j, x))), f = logistic(g, first);
            h[j] = mixed(g, s->h + j, next, divide(g, i, add(g, f, i)));
        }
    }
    set_h(s, h);
    free(h);
}

static void step(walk *s, var x)
{
    switch (s->cell->kind) {
    case FL_CELL_LSTM: lstm_step(s, x); break;
    case FL_CELL_GRU: gru_step(s, x); break;
    case FL_CELL_MGU: mgu_step(s, x); break;
    case FL_CELL_SLSTM: slstm_step(s, x); break;
    case FL_CELL_MINGRU:
    case FL_CELL_MINLSTM: minimal_step(s, x); break;
    default: rnn_step(s, x); break;
    }
}

/* ---- Stacks -------------------------------------------------------------------------------------------------- */

static var from_array(graph *g, const problem *p, const void *array, size_t count)
{
    const var first = constants(g, count);
    for (size_t n = 0; n < count && array != NULL; n++)
        g->nodes[first + n].value = real_get(p->spec.shape.dtype, array, (ptrdiff_t)n);
    return first;
}

/* What passes into a step: nothing at a reset, and no gradient where a pass is truncated. */
static void pass_states(walk *s, size_t d)
{
    const problem *p = s->p;
    const spec *given = &p->spec;
    const size_t length = problem_length(p, s->b),
                 boundary = d == 0 ? s->t : s->t + 1; /* between it and the step before */
    var from[MOST_STATES + 1] = {s->h, s->states[0], s->states[1], s->states[2]};
    if (!s->recorded || boundary == length)
        return;
    const bool ends = p->reset != NULL && p->reset[boundary * given->B + s->b] != 0;
    if (!ends && (boundary == 0 || given->bptt == 0 || boundary % given->bptt != 0))
        return;
    for (size_t n = 0; n <= p->states; n++) {
        const size_t width = n == 0 ? p->P : p->H;
        const var cut = constants(s->g, width);
        for (size_t j = 0; j < width && !ends; j++) s->g->nodes[cut + j].value = value_of(s->g, from[n] + j);
        *(n == 0 ? &s->h : &s->states[n - 1]) = cut;
    }
}

/* One row of one layer and direction: from inputs (T, B) to y (T, B, D*P). */
static void run_row(walk *s, size_t layer, size_t d, const var *inputs, var *y)
{
    const problem *p = s->p;
    const size_t B = p->spec.B, D = p->spec.shape.num_directions, length = problem_length(p, s->b);
    const size_t at = s->number * B + s->b;
    s->h = s->o->h0 + at * p->P;
    for (size_t n = 0; n < p->states; n++) s->states[n] = s->o->c0 + (at * p->states + n) * p->H;
    for (size_t k = 0; k < length; k++) {
        s->t = d == 0 ? k : length - 1 - k;
        const size_t row = s->t * B + s->b;
        pass_states(s, d);
        step(s, inputs[row]);
        for (size_t j = 0; j < p->P; j++) y[(row * D + d) * p->P + j] = s->h + j;
        for (size_t j = 0; j < p->H && p->states != 0 && layer + 1 == p->spec.shape.num_layers; j++)
            s->o->cells[(row * D + d) * p->H + j] = s->states[0] + j;
    }
    for (size_t j = 0; j < p->P; j++) s->o->h_n[at * p->P + j] = s->h + j;
    for (size_t n = 0; n < p->states; n++)
        for (size_t j = 0; j < p->H; j++) s->o->c_n[(at * p->states + n) * p->H + j] = s->states[n] + j;
}

/* Inputs (T, B) of layer `layer` > 0. */
static void between_layers(const walk *s, size_t layer, const var *y, var *inputs)
{
    const spec *given = &s->p->spec;
    const size_t width = given->shape.num_directions * s->p->P;
    const double rate = s->recorded ? given->dropout : 0.0;
    var *row = room_for(width, sizeof *row);
    for (size_t b = 0; b < given->B; b++)
        for (size_t t = 0; t < problem_length(s->p, b); t++) {
            const uint64_t first = (((layer - 1) * given->T + t) * given->B + b) * width;
            for (size_t j = 0; j < width; j++) {
                row[j] = y[(t * given->B + b) * width + j];
                if (rate > 0.0)
                    row[j] = scaled(s->g, row[j], is_drawn(MASK_SEED, first + j, rate) ? 0.0 : kept_scale(rate), 0.0);
            }
            inputs[t * given->B + b] = gathered(s->g, row, width, false);
        }
    free(row);
}

static void read_inputs(oracle_pass *o, const problem *p, var *inputs)
{
    const size_t I = p->spec.shape.input_size, B = p->spec.B;
    o->x = constants(&o->g, p->spec.T * B * I);
    for (size_t b = 0; b < B; b++)
        for (size_t t = 0; t < problem_length(p, b); t++) {
            const ptrdiff_t at = placing_of(&p->of_x, t, b);
            inputs[t * B + b] = o->x + (t * B + b) * I;
            for (size_t i = 0; i < I; i++)
                o->g.nodes[inputs[t * B + b] + i].value = p->x_index != NULL
                                                              ? (p->x_index[at] == (int64_t)i ? 1.0 : 0.0)
                                                              : real_get(p->spec.shape.dtype, p->x, at + (ptrdiff_t)i);
        }
}

void oracle_run(oracle_pass *o, const problem *p, bool recorded, bool single)
{
    const spec *given = &p->spec;
    const size_t B = given->B, D = given->shape.num_directions, rows = given->T * B, width = D * p->P;
    var *inputs = room_for(rows, sizeof *inputs);
    memset(o, 0, sizeof *o);
    o->g.single = single;
    constant(&o->g, 0.0); /* place 0 is none */
    for (size_t cell = 0; cell < p->cells; cell++) {
        fl_weights weights = p->weights[cell];
        const void **slots[FL_PARAMETER_COUNT];
        weight_slots(&weights, slots);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
            if (problem_sizes(p, cell)[n] != 0)
                o->weights[cell][n] = from_array(&o->g, p, *slots[n], problem_sizes(p, cell)[n]);
    }
    o->h0 = from_array(&o->g, p, p->h0, p->cells * B * p->P);
    o->c0 = from_array(&o->g, p, p->c0, p->cells * B * p->states * p->H);
    o->h_n = room_for(p->cells * B * p->P, sizeof *o->h_n);
    o->c_n = room_for(p->cells * B * p->states * p->H, sizeof *o->c_n);
    o->cells = room_for(rows * D * p->H, sizeof *o->cells);
    o->y = room_for(rows * width, sizeof *o->y);
    read_inputs(o, p, inputs);
    walk s = {.o = o, .g = &o->g, .p = p, .cell = &given->shape.cell, .recorded = recorded};
    for (size_t layer = 0; layer < given->shape.num_layers; layer++) {
        if (layer > 0)
            between_layers(&s, layer, o->y, inputs);
        s.I = layer == 0 ? given->shape.input_size : width;
        for (size_t d = 0; d < D; d++)
            for (s.b = 0; s.b < B; s.b++) {
                s.number = layer * D + d;
                s.w = o->weights[s.number];
                run_row(&s, layer, d, inputs, o->y);
            }
    }
    free(inputs);
}

void oracle_release(oracle_pass *o)
{
    graph_free(&o->g);
    free(o->y);
    free(o->cells);
    free(o->h_n);
    free(o->c_n);
}
