/* SPDX-License-Identifier: BSD-3-Clause */
#include "problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double real_get(fl_dtype dtype, const void *array, ptrdiff_t index)
{
    return dtype == FL_F32 ? (double)((const float *)array)[index] : ((const double *)array)[index];
}

void real_put(fl_dtype dtype, void *array, ptrdiff_t index, double value)
{
    if (dtype == FL_F32)
        ((float *)array)[index] = (float)value;
    else
        ((double *)array)[index] = value;
}

double real_epsilon(fl_dtype dtype) { return dtype == FL_F32 ? 0x1p-23 : 0x1p-52; }

static size_t dtype_size(fl_dtype dtype) { return dtype == FL_F32 ? sizeof(float) : sizeof(double); }

strided strided_of(order how, size_t T, size_t B, size_t width)
{
    const ptrdiff_t t = (ptrdiff_t)T, b = (ptrdiff_t)B, w = (ptrdiff_t)width;
    strided s = {.elements = T * B * width};
    switch (how) {
    case ORDER_BATCH_FIRST:
        s.stride_t = w;
        s.stride_b = t * w;
        break;
    case ORDER_GAPS:
        s.stride_b = w + 3;
        s.stride_t = b * s.stride_b + 2;
        s.elements = s.elements == 0 ? 0 : (size_t)((t - 1) * s.stride_t + (b - 1) * s.stride_b + w);
        break;
    case ORDER_BACKWARDS:
        s.stride_b = w;
        s.stride_t = -b * w;
        s.origin = t > 0 ? (t - 1) * b * w : 0;
        break;
    default:
        s.stride_b = w;
        s.stride_t = b * w;
        break;
    }
    return s;
}

spec spec_plain(fl_dtype dtype, size_t T, size_t B, size_t I, size_t H)
{
    const spec s = {.shape = {dtype, I, H, 1, 1, {0}}, .T = T, .B = B, .bias_ih = true, .bias_hh = true};
    return s;
}

spec spec_random(fl_dtype dtype)
{
    /* One after the other: in what order a compiler evaluates arguments is its own choice. */
    const size_t T = random_size(1, 40), B = random_size(1, 14), I = random_size(1, 40), H = random_size(1, 40);
    spec s = spec_plain(dtype, T, B, I, H);
    if (random_chance(4))
        s.T = 1;
    if (random_chance(3))
        s.B = 1;
    if (random_chance(4))
        s.shape.input_size = 1;
    s.shape.num_layers = random_size(1, 3);
    s.shape.num_directions = random_size(1, 2);
    s.bias_ih = !random_chance(4);
    s.bias_hh = !random_chance(4);
    s.given_state = random_chance(2);
    s.ragged = random_chance(2);
    s.indexed = random_chance(4);
    s.x_order = (order)random_size(0, ORDER_COUNT - 1);
    s.y_order = (order)random_size(0, ORDER_COUNT - 1);
    return s;
}

const char *spec_text(const spec *s)
{
    static char text[200];
    snprintf(text, sizeof text, "%s T=%zu B=%zu I=%zu H=%zu L=%zu D=%zu%s%s%s%s%s x order %d y order %d",
             s->shape.dtype == FL_F32 ? "f32" : "f64", s->T, s->B, s->shape.input_size, s->shape.hidden_size,
             s->shape.num_layers, s->shape.num_directions, s->bias_ih ? " bias_ih" : "", s->bias_hh ? " bias_hh" : "",
             s->given_state ? " state" : "", s->ragged ? " ragged" : "", s->indexed ? " indexed" : "", (int)s->x_order,
             (int)s->y_order);
    return text;
}

static void *random_array(problem *p, size_t count, double magnitude)
{
    void *array = guard_new(&p->inputs, count, p->real_size);
    for (size_t n = 0; n < count; n++) real_put(p->spec.shape.dtype, array, (ptrdiff_t)n, random_real(magnitude));
    return array;
}

static void make_lengths(problem *p)
{
    const size_t B = p->spec.B, T = p->spec.T;
    p->lengths = guard_new(&p->inputs, B, sizeof *p->lengths);
    for (size_t b = 0; b < B; b++)
        p->lengths[b] = random_chance(5) ? 0 : random_chance(4) ? (int64_t)T : (int64_t)random_size(0, T);
}

/* What stands behind the end of a row must not matter: NaN, or an index that is out of range. */
static void make_input(problem *p)
{
    const spec *s = &p->spec;
    const size_t I = s->shape.input_size;
    if (s->indexed) {
        p->x_layout = strided_of(s->x_order, s->T, s->B, 1);
        p->x_index = guard_new(&p->inputs, p->x_layout.elements, sizeof *p->x_index);
        p->x_index += p->x_layout.origin;
    } else {
        p->x_layout = strided_of(s->x_order, s->T, s->B, I);
        p->x = guard_new(&p->inputs, p->x_layout.elements, p->real_size);
        p->x += p->x_layout.origin * (ptrdiff_t)p->real_size;
    }
    for (size_t b = 0; b < s->B; b++)
        for (size_t t = 0; t < problem_length(p, b); t++) {
            const ptrdiff_t at = (ptrdiff_t)t * p->x_layout.stride_t + (ptrdiff_t)b * p->x_layout.stride_b;
            if (s->indexed)
                p->x_index[at] = (int64_t)random_size(0, I - 1);
            else
                for (size_t i = 0; i < I; i++) real_put(s->shape.dtype, p->x, at + (ptrdiff_t)i, random_real(2.0));
        }
}

void problem_make_writable(problem *p, const spec *s)
{
    memset(p, 0, sizeof *p);
    p->spec = *s;
    p->real_size = dtype_size(s->shape.dtype);
    p->cells = s->shape.num_layers * s->shape.num_directions;
    p->width = s->shape.num_directions * s->shape.hidden_size;
    const size_t H = s->shape.hidden_size, states = p->cells * s->B * H;
    const double magnitude = 1.0 / sqrt((double)H);
    for (size_t cell = 0; cell < p->cells; cell++) {
        const size_t I = cell < s->shape.num_directions ? s->shape.input_size : p->width;
        fl_weights *weights = &p->weights[cell];
        weights->weight_ih = random_array(p, 4 * H * I, magnitude);
        weights->weight_hh = random_array(p, 4 * H * H, magnitude);
        weights->bias_ih = s->bias_ih ? random_array(p, 4 * H, magnitude) : NULL;
        weights->bias_hh = s->bias_hh ? random_array(p, 4 * H, magnitude) : NULL;
    }
    if (s->ragged)
        make_lengths(p);
    make_input(p);
    if (s->given_state) {
        p->h0 = random_array(p, states, 1.0);
        p->c0 = random_array(p, states, 2.0);
    }
}

void problem_pack(problem *p)
{
    const size_t D = p->spec.shape.num_directions;
    if (p->stack == NULL)
        EXPECT_STATUS(fl_stack_create(&p->spec.shape, &p->stack), FL_OK);
    for (size_t cell = 0; cell < p->cells; cell++)
        EXPECT_STATUS(fl_stack_pack(p->stack, cell / D, cell % D, &p->weights[cell]), FL_OK);
}

void problem_make(problem *p, const spec *s)
{
    problem_make_writable(p, s);
    guard_read_only(&p->inputs);
    problem_pack(p);
}

void problem_free(problem *p)
{
    fl_stack_destroy(p->stack);
    guard_release(&p->inputs);
}

size_t problem_length(const problem *p, size_t b) { return p->lengths != NULL ? (size_t)p->lengths[b] : p->spec.T; }

/* ---- Results ------------------------------------------------------------------------------------------------ */

void result_make(result *r, const problem *p)
{
    const size_t states = p->cells * p->spec.B * p->spec.shape.hidden_size;
    const strided layout = strided_of(p->spec.y_order, p->spec.T, p->spec.B, p->width);
    memset(r, 0, sizeof *r);
    r->memory = guard_new(&r->outputs, layout.elements, p->real_size);
    r->y = r->memory + layout.origin * (ptrdiff_t)p->real_size;
    r->h_n = guard_new(&r->outputs, states, p->real_size);
    r->c_n = guard_new(&r->outputs, states, p->real_size);
}

void result_free(result *r) { guard_release(&r->outputs); }

fl_forward_args problem_args(const problem *p, const result *r, size_t threads)
{
    const strided y = strided_of(p->spec.y_order, p->spec.T, p->spec.B, p->width);
    const fl_forward_args args = {.T = p->spec.T,
                                  .B = p->spec.B,
                                  .x = p->x,
                                  .x_index = p->x_index,
                                  .x_stride_t = p->x_layout.stride_t,
                                  .x_stride_b = p->x_layout.stride_b,
                                  .lengths = p->lengths,
                                  .h0 = p->h0,
                                  .c0 = p->c0,
                                  .y = r->y,
                                  .y_stride_t = y.stride_t,
                                  .y_stride_b = y.stride_b,
                                  .h_n = r->h_n,
                                  .c_n = r->c_n,
                                  .num_threads = threads};
    return args;
}

static char *y_row(const problem *p, const result *r, size_t t, size_t b)
{
    const strided y = strided_of(p->spec.y_order, p->spec.T, p->spec.B, p->width);
    return r->y + ((ptrdiff_t)t * y.stride_t + (ptrdiff_t)b * y.stride_b) * (ptrdiff_t)p->real_size;
}

/* Bytes between the rows of y that are not 0xff any more. */
static size_t written_beside_rows(const problem *p, const result *r)
{
    const strided y = strided_of(p->spec.y_order, p->spec.T, p->spec.B, p->width);
    const size_t bytes = y.elements * p->real_size;
    size_t written = 0;
    unsigned char *beside = calloc(bytes + 1, 1);
    if (beside == NULL)
        return SIZE_MAX;
    for (size_t t = 0; t < p->spec.T; t++)
        for (size_t b = 0; b < p->spec.B; b++)
            memset(beside + (y_row(p, r, t, b) - r->memory), 1, p->width * p->real_size);
    for (size_t n = 0; n < bytes; n++) written += beside[n] == 0 && (unsigned char)r->memory[n] != 0xff;
    free(beside);
    return written;
}

void problem_run(const problem *p, size_t threads, result *r)
{
    result_make(r, p);
    const fl_forward_args args = problem_args(p, r, threads);
    EXPECT_STATUS(fl_stack_forward(p->stack, &args), FL_OK);
    const size_t written = written_beside_rows(p, r);
    EXPECT(written == 0, "%s: %zu bytes between the rows of y were written", spec_text(&p->spec), written);
}

bool result_untouched(const result *r)
{
    for (size_t n = 0; n < r->outputs.count; n++)
        for (size_t byte = 0; byte < r->outputs.blocks[n].bytes; byte++)
            if (r->outputs.blocks[n].data[byte] != 0xff)
                return false;
    return true;
}

bool rows_equal(const problem *a, const result *ra, size_t b_a, const problem *b, const result *rb, size_t b_b)
{
    const size_t state_bytes = a->spec.shape.hidden_size * a->real_size;
    const size_t T = a->spec.T < b->spec.T ? a->spec.T : b->spec.T;
    for (size_t t = 0; t < T; t++)
        if (memcmp(y_row(a, ra, t, b_a), y_row(b, rb, t, b_b), a->width * a->real_size) != 0)
            return false;
    for (size_t cell = 0; cell < a->cells; cell++) {
        const size_t at_a = (cell * a->spec.B + b_a) * state_bytes, at_b = (cell * b->spec.B + b_b) * state_bytes;
        if (memcmp(ra->h_n + at_a, rb->h_n + at_b, state_bytes) != 0 ||
            memcmp(ra->c_n + at_a, rb->c_n + at_b, state_bytes) != 0)
            return false;
    }
    return true;
}

bool results_equal(const problem *p, const result *a, const result *b)
{
    for (size_t row = 0; row < p->spec.B; row++)
        if (!rows_equal(p, a, row, p, b, row))
            return false;
    return true;
}

/* ---- The oracle: the definition, in float64 and nothing else ------------------------------------------------- */

static double logistic(double a) { return 1.0 / (1.0 + exp(-a)); }

/* One step of one cell and one row: h and c in place. */
static void oracle_step(const problem *p, const fl_weights *weights, size_t I, const double *x, double *h, double *c,
                        double *gates)
{
    const fl_dtype dtype = p->spec.shape.dtype;
    const size_t H = p->spec.shape.hidden_size;
    for (size_t row = 0; row < 4 * H; row++) {
        double sum = 0.0;
        if (weights->bias_ih != NULL)
            sum += real_get(dtype, weights->bias_ih, (ptrdiff_t)row);
        if (weights->bias_hh != NULL)
            sum += real_get(dtype, weights->bias_hh, (ptrdiff_t)row);
        for (size_t i = 0; i < I; i++) sum += real_get(dtype, weights->weight_ih, (ptrdiff_t)(row * I + i)) * x[i];
        for (size_t j = 0; j < H; j++) sum += real_get(dtype, weights->weight_hh, (ptrdiff_t)(row * H + j)) * h[j];
        gates[row] = sum;
    }
    for (size_t j = 0; j < H; j++) {
        c[j] = logistic(gates[H + j]) * c[j] + logistic(gates[j]) * tanh(gates[2 * H + j]);
        h[j] = logistic(gates[3 * H + j]) * tanh(c[j]);
    }
}

/* Input of layer 0, (T, B, I); zero where the row has ended. */
static void oracle_input(const problem *p, double *x)
{
    const size_t I = p->spec.shape.input_size;
    for (size_t b = 0; b < p->spec.B; b++)
        for (size_t t = 0; t < problem_length(p, b); t++) {
            const ptrdiff_t at = (ptrdiff_t)t * p->x_layout.stride_t + (ptrdiff_t)b * p->x_layout.stride_b;
            double *row = x + (t * p->spec.B + b) * I;
            if (p->x_index != NULL)
                row[p->x_index[at]] = 1.0;
            else
                for (size_t i = 0; i < I; i++) row[i] = real_get(p->spec.shape.dtype, p->x, at + (ptrdiff_t)i);
        }
}

static double *doubles(size_t count)
{
    double *array = calloc(count + 1, sizeof *array);
    if (array == NULL) {
        printf("no memory for the oracle\n");
        exit(2);
    }
    return array;
}

void oracle_make(oracle *o, const problem *p)
{
    const size_t T = p->spec.T, B = p->spec.B, H = p->spec.shape.hidden_size, D = p->spec.shape.num_directions;
    const size_t states = p->cells * B * H;
    size_t I = p->spec.shape.input_size;
    double *gates = doubles(4 * H), *x = doubles(T * B * I);
    *o = (oracle){NULL, doubles(states), doubles(states)};
    for (size_t n = 0; n < states && p->h0 != NULL; n++) {
        o->h_n[n] = real_get(p->spec.shape.dtype, p->h0, (ptrdiff_t)n);
        o->c_n[n] = real_get(p->spec.shape.dtype, p->c0, (ptrdiff_t)n);
    }
    oracle_input(p, x);
    for (size_t layer = 0; layer < p->spec.shape.num_layers; layer++) {
        double *y = doubles(T * B * p->width);
        for (size_t d = 0; d < D; d++)
            for (size_t b = 0; b < B; b++) {
                const size_t cell = layer * D + d, length = problem_length(p, b);
                double *h = o->h_n + (cell * B + b) * H, *c = o->c_n + (cell * B + b) * H;
                for (size_t step = 0; step < length; step++) {
                    const size_t t = d == 0 ? step : length - 1 - step;
                    oracle_step(p, &p->weights[cell], I, x + (t * B + b) * I, h, c, gates);
                    memcpy(y + (t * B + b) * p->width + d * H, h, H * sizeof *h);
                }
            }
        free(x);
        x = y;
        I = p->width;
    }
    o->y = x;
    free(gates);
}

void oracle_free(oracle *o)
{
    free(o->y);
    free(o->h_n);
    free(o->c_n);
}

static double worse(double worst, double expected, double got)
{
    if (isnan(expected) || isnan(got))
        return isnan(expected) && isnan(got) ? worst : INFINITY;
    const double size = fabs(expected), error = fabs(got - expected);
    return fmax(worst, expected == got ? 0.0 : size > 1.0 ? error / size : error);
}

double oracle_error(const oracle *o, const problem *p, const result *r)
{
    const fl_dtype dtype = p->spec.shape.dtype;
    const size_t states = p->cells * p->spec.B * p->spec.shape.hidden_size;
    double worst = 0.0;
    for (size_t t = 0; t < p->spec.T; t++)
        for (size_t b = 0; b < p->spec.B; b++)
            for (size_t j = 0; j < p->width; j++)
                worst = worse(worst, o->y[(t * p->spec.B + b) * p->width + j],
                              real_get(dtype, y_row(p, r, t, b), (ptrdiff_t)j));
    for (size_t n = 0; n < states; n++) {
        worst = worse(worst, o->h_n[n], real_get(dtype, r->h_n, (ptrdiff_t)n));
        worst = worse(worst, o->c_n[n], real_get(dtype, r->c_n, (ptrdiff_t)n));
    }
    return worst;
}

double oracle_tolerance(fl_dtype dtype) { return dtype == FL_F32 ? 2e-6 : 1e-13; }
