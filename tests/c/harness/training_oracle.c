/* SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "training_pass.h"

static double *doubles(size_t count)
{
    double *array = calloc(count + 1, sizeof *array);
    if (array == NULL) {
        printf("no memory for the oracle\n");
        exit(2);
    }
    return array;
}

static double logistic(double v) { return 1.0 / (1.0 + exp(-v)); }

static bool ends_at(const pass *a, size_t t, size_t b)
{
    return a->reset != NULL && a->reset[t * a->p.spec.B + b] != 0;
}

/* Whether the state of a row is dropped on its way into step t. */
static bool starts_new(const pass *a, size_t d, size_t t, size_t b)
{
    return d == 0 ? ends_at(a, t, b) : t + 1 < problem_length(&a->p, b) && ends_at(a, t + 1, b);
}

static bool is_truncated(const pass *a, size_t d, size_t t, size_t b)
{
    const size_t boundary = d == 0 ? t : t + 1;
    return a->o.bptt != 0 && boundary != 0 && boundary < problem_length(&a->p, b) && boundary % a->o.bptt == 0;
}

static double mask_of(const pass *a, uint64_t index)
{
    uint64_t z = DROPOUT_SEED + (index + 1) * 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    return (z >> 32) >= (uint64_t)(a->o.dropout * 4294967296.0) ? 1.0 / (1.0 - a->o.dropout) : 0.0;
}

static void truth_forward(truth *o, const pass *a, size_t layer, size_t d, size_t I)
{
    const spec *s = &a->p.spec;
    const size_t T = s->T, B = s->B, H = s->shape.hidden_size, D = s->shape.num_directions, cell = layer * D + d;
    const fl_dtype dtype = s->shape.dtype;
    const fl_weights *w = &a->p.weights[cell];
    trace *kept = &o->cells[cell];
    kept->gates = doubles(T * B * 4 * H);
    kept->h_before = doubles(T * B * H);
    kept->c_before = doubles(T * B * H);
    kept->c = doubles(T * B * H);
    double *h = doubles(H), *c = doubles(H);
    for (size_t b = 0; b < B; b++) {
        const size_t length = problem_length(&a->p, b);
        for (size_t j = 0; j < H; j++) {
            const ptrdiff_t n = (ptrdiff_t)((cell * B + b) * H + j);
            h[j] = a->p.h0 != NULL ? real_get(dtype, a->p.h0, n) : 0.0;
            c[j] = a->p.c0 != NULL ? real_get(dtype, a->p.c0, n) : 0.0;
        }
        for (size_t step = 0; step < length; step++) {
            const size_t t = d == 0 ? step : length - 1 - step, row = t * B + b;
            const double *x = o->inputs[layer] + row * I;
            double *gates = kept->gates + row * 4 * H;
            for (size_t j = 0; j < H && starts_new(a, d, t, b); j++) h[j] = c[j] = 0.0;
            for (size_t n = 0; n < 4 * H; n++) {
                double sum = w->bias_ih != NULL ? real_get(dtype, w->bias_ih, (ptrdiff_t)n) : 0.0;
                sum += w->bias_hh != NULL ? real_get(dtype, w->bias_hh, (ptrdiff_t)n) : 0.0;
                for (size_t i = 0; i < I; i++) sum += real_get(dtype, w->weight_ih, (ptrdiff_t)(n * I + i)) * x[i];
                for (size_t j = 0; j < H; j++) sum += real_get(dtype, w->weight_hh, (ptrdiff_t)(n * H + j)) * h[j];
                gates[n] = n / H == 2 ? tanh(sum) : logistic(sum);
            }
            for (size_t j = 0; j < H; j++) {
                kept->h_before[row * H + j] = h[j];
                kept->c_before[row * H + j] = c[j];
                c[j] = gates[H + j] * c[j] + gates[j] * gates[2 * H + j];
                h[j] = gates[3 * H + j] * tanh(c[j]);
                kept->c[row * H + j] = c[j];
                o->inputs[layer + 1][row * D * H + d * H + j] = h[j];
            }
        }
    }
    free(h);
    free(c);
}

/* dy is that of the layer, all directions; dx is added to. */
static void truth_backward(truth *o, const pass *a, size_t layer, size_t d, size_t I, const double *dy, double *dx)
{
    const spec *s = &a->p.spec;
    const size_t B = s->B, H = s->shape.hidden_size, D = s->shape.num_directions, cell = layer * D + d;
    const fl_dtype dtype = s->shape.dtype;
    const fl_weights *w = &a->p.weights[cell];
    const trace *kept = &o->cells[cell];
    double *da = doubles(4 * H);
    o->weight_ih[cell] = doubles(4 * H * I);
    o->weight_hh[cell] = doubles(4 * H * H);
    o->bias[cell] = doubles(4 * H);
    for (size_t b = 0; b < B; b++) {
        const size_t length = problem_length(&a->p, b);
        double *dh = o->dh + (cell * B + b) * H, *dc = o->dc + (cell * B + b) * H;
        for (size_t step = length; step-- > 0;) {
            const size_t t = d == 0 ? step : length - 1 - step, row = t * B + b;
            const double *gates = kept->gates + row * 4 * H;
            for (size_t j = 0; j < H; j++) {
                const double i = gates[j], f = gates[H + j], g = gates[2 * H + j], out = gates[3 * H + j];
                const double squashed = tanh(kept->c[row * H + j]), dh_t = dh[j] + dy[row * D * H + d * H + j];
                const double dc_t = dc[j] + dh_t * out * (1.0 - squashed * squashed);
                da[j] = dc_t * g * i * (1.0 - i);
                da[H + j] = dc_t * kept->c_before[row * H + j] * f * (1.0 - f);
                da[2 * H + j] = dc_t * i * (1.0 - g * g);
                da[3 * H + j] = dh_t * squashed * out * (1.0 - out);
                dc[j] = dc_t * f;
            }
            const bool passes = !starts_new(a, d, t, b) && !is_truncated(a, d, t, b);
            for (size_t j = 0; j < H; j++) {
                double sum = 0.0;
                for (size_t n = 0; n < 4 * H; n++) sum += da[n] * real_get(dtype, w->weight_hh, (ptrdiff_t)(n * H + j));
                dh[j] = passes ? sum : 0.0;
                dc[j] = passes ? dc[j] : 0.0;
            }
            for (size_t n = 0; n < 4 * H; n++) {
                o->bias[cell][n] += da[n];
                for (size_t j = 0; j < H; j++) o->weight_hh[cell][n * H + j] += da[n] * kept->h_before[row * H + j];
                for (size_t i = 0; i < I; i++) {
                    o->weight_ih[cell][n * I + i] += da[n] * o->inputs[layer][row * I + i];
                    dx[row * I + i] += da[n] * real_get(dtype, w->weight_ih, (ptrdiff_t)(n * I + i));
                }
            }
        }
    }
    free(da);
}

void truth_make(truth *o, const pass *a)
{
    const spec *s = &a->p.spec;
    const size_t T = s->T, B = s->B, L = s->shape.num_layers, D = s->shape.num_directions, width = a->p.width;
    const fl_dtype dtype = s->shape.dtype;
    memset(o, 0, sizeof *o);
    o->inputs[0] = doubles(T * B * s->shape.input_size);
    for (size_t b = 0; b < B; b++)
        for (size_t t = 0; t < problem_length(&a->p, b); t++) {
            const ptrdiff_t place = (ptrdiff_t)t * a->p.x_layout.stride_t + (ptrdiff_t)b * a->p.x_layout.stride_b;
            double *x = o->inputs[0] + (t * B + b) * s->shape.input_size;
            for (size_t i = 0; i < s->shape.input_size && a->p.x != NULL; i++)
                x[i] = real_get(dtype, a->p.x, place + (ptrdiff_t)i);
            if (a->p.x_index != NULL)
                x[a->p.x_index[place]] = 1.0;
        }
    for (size_t layer = 0; layer < L; layer++) {
        o->inputs[layer + 1] = doubles(T * B * width);
        for (size_t d = 0; d < D; d++) truth_forward(o, a, layer, d, layer == 0 ? s->shape.input_size : width);
        for (size_t n = 0; n < T * B * width && layer + 1 < L && a->o.dropout > 0.0; n++)
            o->inputs[layer + 1][n] *= mask_of(a, layer * T * B * width + n);
    }
    o->dh = doubles(L * D * B * s->shape.hidden_size);
    o->dc = doubles(L * D * B * s->shape.hidden_size);
    for (size_t n = 0; n < L * D * B * s->shape.hidden_size; n++) {
        o->dh[n] = a->dh_n != NULL ? real_get(dtype, a->dh_n, (ptrdiff_t)n) : 0.0;
        o->dc[n] = a->dc_n != NULL ? real_get(dtype, a->dc_n, (ptrdiff_t)n) : 0.0;
    }
    double *dy = doubles(T * B * width);
    for (size_t b = 0; b < B && a->dy != NULL; b++)
        for (size_t t = 0; t < problem_length(&a->p, b); t++)
            for (size_t j = 0; j < width; j++)
                dy[(t * B + b) * width + j] =
                    real_get(dtype, at(&a->dy_layout, a->dy, a->p.real_size, t, b), (ptrdiff_t)j);
    for (size_t layer = L; layer-- > 0;) {
        const size_t I = layer == 0 ? s->shape.input_size : width;
        double *dx = doubles(T * B * I);
        for (size_t d = 0; d < D; d++) truth_backward(o, a, layer, d, I, dy, dx);
        for (size_t n = 0; n < T * B * I && layer > 0 && a->o.dropout > 0.0; n++)
            dx[n] *= mask_of(a, (layer - 1) * T * B * width + n);
        free(dy);
        dy = dx;
    }
    o->dx = dy;
}

void truth_free(truth *o)
{
    for (size_t n = 0; n < MOST_CELLS; n++) {
        free(o->inputs[n]);
        free(o->cells[n].gates);
        free(o->cells[n].h_before);
        free(o->cells[n].c_before);
        free(o->cells[n].c);
        free(o->weight_ih[n]);
        free(o->weight_hh[n]);
        free(o->bias[n]);
    }
    free(o->dx);
    free(o->dh);
    free(o->dc);
}

/* Largest error of an array as a part of its largest element; infinite where one is not a number. */
static double array_error(fl_dtype dtype, const void *got, const double *expected, size_t count)
{
    double error = 0.0, largest = 0.0;
    for (size_t n = 0; n < count; n++) {
        const double value = real_get(dtype, got, (ptrdiff_t)n);
        if (!isfinite(value))
            return INFINITY;
        error = fmax(error, fabs(value - expected[n]));
        largest = fmax(largest, fabs(expected[n]));
    }
    return error == 0.0 ? 0.0 : error / largest;
}

double truth_error(const truth *o, const pass *a, const gradients *g)
{
    const spec *s = &a->p.spec;
    const fl_dtype dtype = s->shape.dtype;
    const size_t H = s->shape.hidden_size, states = a->p.cells * s->B * H, I = s->shape.input_size;
    double worst = fmax(array_error(dtype, g->dh0, o->dh, states), array_error(dtype, g->dc0, o->dc, states));
    for (size_t cell = 0; cell < a->p.cells; cell++) {
        const size_t inputs = cell < s->shape.num_directions ? I : a->p.width;
        worst = fmax(worst, array_error(dtype, g->of[cell].weight_ih, o->weight_ih[cell], 4 * H * inputs));
        worst = fmax(worst, array_error(dtype, g->of[cell].weight_hh, o->weight_hh[cell], 4 * H * H));
        if (g->of[cell].bias_ih != NULL)
            worst = fmax(worst, array_error(dtype, g->of[cell].bias_ih, o->bias[cell], 4 * H));
        if (g->of[cell].bias_hh != NULL)
            worst = fmax(worst, array_error(dtype, g->of[cell].bias_hh, o->bias[cell], 4 * H));
    }
    if (g->dx != NULL) {
        double *dx = doubles(s->T * s->B * I);
        for (size_t t = 0; t < s->T; t++)
            for (size_t b = 0; b < s->B; b++)
                for (size_t i = 0; i < I; i++)
                    dx[(t * s->B + b) * I + i] =
                        real_get(dtype, at(&a->dx_layout, g->dx, a->p.real_size, t, b), (ptrdiff_t)i);
        worst = fmax(worst, array_error(FL_F64, dx, o->dx, s->T * s->B * I));
        free(dx);
    }
    return worst;
}
