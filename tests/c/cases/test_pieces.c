/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The pieces of a step, dropout and the probes; and what the floating-point state of a caller means to all that computes.
 */
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

static void gate_matmul(void)
{
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t repeat = 0; repeat < rounds(60); repeat++) {
            const fl_dtype dtype = dtypes[d];
            const size_t B = random_size(0, 14), I = random_size(1, 40), H = random_size(1, 40);
            const size_t ldx = I + random_size(0, 3), ldh = H + random_size(0, 3), ldg = 4 * H + random_size(0, 3);
            const spec s = spec_plain(FL_CELL_LSTM, dtype, 1, 1, I, H);
            problem p;
            guard_arena more = {0};
            problem_make(&p, &s);
            char *x = guard_new(&more, B == 0 ? 0 : (B - 1) * ldx + I, p.real_size);
            char *h = guard_new(&more, B == 0 ? 0 : (B - 1) * ldh + H, p.real_size);
            char *gates = guard_new(&more, B == 0 ? 0 : (B - 1) * ldg + 4 * H, p.real_size);
            for (size_t b = 0; b < B; b++) {
                for (size_t i = 0; i < I; i++) real_put(dtype, x, (ptrdiff_t)(b * ldx + i), random_real(2.0));
                for (size_t j = 0; j < H; j++) real_put(dtype, h, (ptrdiff_t)(b * ldh + j), random_real(1.0));
            }
            EXPECT_STATUS(fl_gate_matmul(p.stack, B, x, (ptrdiff_t)ldx, h, (ptrdiff_t)ldh, gates, (ptrdiff_t)ldg),
                          FL_OK);
            double worst = 0.0;
            for (size_t b = 0; b < B; b++)
                for (size_t row = 0; row < ldg && (b + 1 < B || row < 4 * H); row++) {
                    const double got = real_get(dtype, gates, (ptrdiff_t)(b * ldg + row));
                    if (row >= 4 * H) {
                        EXPECT(isnan(got), "written between rows");
                        continue;
                    }
                    double sum = real_get(dtype, p.weights[0].bias_ih, (ptrdiff_t)row) +
                                 real_get(dtype, p.weights[0].bias_hh, (ptrdiff_t)row);
                    for (size_t i = 0; i < I; i++)
                        sum += real_get(dtype, p.weights[0].weight_ih, (ptrdiff_t)(row * I + i)) *
                               real_get(dtype, x, (ptrdiff_t)(b * ldx + i));
                    for (size_t j = 0; j < H; j++)
                        sum += real_get(dtype, p.weights[0].weight_hh, (ptrdiff_t)(row * H + j)) *
                               real_get(dtype, h, (ptrdiff_t)(b * ldh + j));
                    worst = fmax(worst, fabs(got - sum));
                }
            /* Each of I + H additions rounds a partial sum, which stays far below 32. */
            EXPECT(worst <= (double)(I + H + 2) * 16.0 * real_epsilon(dtype), "B=%zu I=%zu H=%zu: error %.3g", B, I, H,
                   worst);
            guard_release(&more);
            problem_free(&p);
        }
}

static void cell_update(void)
{
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t H = 1; H <= 33; H++) {
            const fl_dtype dtype = dtypes[d];
            const size_t B = random_size(0, 5), ldg = 4 * H + random_size(0, 2), ld = H + random_size(0, 2);
            const size_t real_size = real_bytes(dtype);
            const size_t elements = B == 0 ? 0 : (B - 1) * ld + H;
            guard_arena arena = {0};
            void *gates = guard_new(&arena, B == 0 ? 0 : (B - 1) * ldg + 4 * H, real_size);
            void *c = guard_new(&arena, elements, real_size), *same = guard_new(&arena, elements, real_size);
            void *h_out = guard_new(&arena, elements, real_size), *c_out = guard_new(&arena, elements, real_size);
            for (size_t b = 0; b < B; b++) {
                for (size_t row = 0; row < 4 * H; row++)
                    real_put(dtype, gates, (ptrdiff_t)(b * ldg + row), random_real(6.0));
                for (size_t j = 0; j < H; j++) real_put(dtype, c, (ptrdiff_t)(b * ld + j), random_real(2.0));
            }
            memcpy(same, c, elements * real_size);
            EXPECT_STATUS(fl_cell_update(dtype, B, H, gates, (ptrdiff_t)ldg, c, (ptrdiff_t)ld, h_out, (ptrdiff_t)ld,
                                         c_out, (ptrdiff_t)ld),
                          FL_OK);
            double worst = 0.0;
            for (size_t b = 0; b < B; b++)
                for (size_t j = 0; j < H; j++) {
                    double gate[4];
                    for (size_t n = 0; n < 4; n++) gate[n] = real_get(dtype, gates, (ptrdiff_t)(b * ldg + n * H + j));
                    const ptrdiff_t at = (ptrdiff_t)(b * ld + j);
                    const double kept = real_get(dtype, c, at) / (1.0 + exp(-gate[1]));
                    const double c_new = kept + tanh(gate[2]) / (1.0 + exp(-gate[0]));
                    worst = fmax(worst, fabs(real_get(dtype, c_out, at) - c_new));
                    worst = fmax(worst, fabs(real_get(dtype, h_out, at) - tanh(c_new) / (1.0 + exp(-gate[3]))));
                }
            EXPECT(worst <= 16.0 * real_epsilon(dtype), "B=%zu H=%zu: error %.3g", B, H, worst);
            EXPECT_STATUS(fl_cell_update(dtype, B, H, gates, (ptrdiff_t)ldg, same, (ptrdiff_t)ld, h_out, (ptrdiff_t)ld,
                                         same, (ptrdiff_t)ld),
                          FL_OK);
            for (size_t b = 0; b < B; b++)
                EXPECT(memcmp((char *)same + b * ld * real_size, (char *)c_out + b * ld * real_size, H * real_size) ==
                           0,
                       "B=%zu H=%zu: c_out == c gives other bits", B, H);
            guard_release(&arena);
        }
}

/* One step by fl_gate_matmul and fl_cell_update. */
static void pieces_equal_forward(void)
{
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t repeat = 0; repeat < rounds(60); repeat++) {
            const size_t B = random_size(1, 14), I = random_size(1, 40), H = random_size(1, 40);
            const ptrdiff_t row = (ptrdiff_t)H;
            spec s = spec_plain(FL_CELL_LSTM, dtypes[d], 1, B, I, H);
            s.bias_ih = !random_chance(4);
            s.bias_hh = !random_chance(4);
            s.wants_cells = false;
            problem p;
            result whole, pieces;
            guard_arena more = {0};
            problem_make(&p, &s);
            problem_run(&p, 1, &whole);
            result_make(&pieces, &p);
            void *gates = guard_new(&more, 4 * B * H, p.real_size);
            EXPECT_STATUS(fl_gate_matmul(p.stack, B, p.x, p.of_x.stride_b, p.h0, row, gates, 4 * row), FL_OK);
            EXPECT_STATUS(fl_cell_update(dtypes[d], B, H, gates, 4 * row, p.c0, row, pieces.h_n, row, pieces.c_n, row),
                          FL_OK);
            memcpy(pieces.y, pieces.h_n, B * H * p.real_size);
            EXPECT(results_equal(&p, &whole, &p, &pieces), "%s", problem_text(&p));
            guard_release(&more);
            result_free(&whole);
            result_free(&pieces);
            problem_free(&p);
        }
}

static void activations(void)
{
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t n = 0; n <= 33; n++)
            for (size_t repeat = 0; repeat < rounds(12); repeat++) {
                const fl_dtype dtype = dtypes[d];
                const size_t real_size = real_bytes(dtype);
                guard_arena arena = {0};
                void *x = guard_new(&arena, n, real_size), *out = guard_new(&arena, n, real_size);
                const double magnitude = ldexp(1.0, (int)random_size(0, 16) - 10);
                for (size_t k = 0; k < n; k++) real_put(dtype, x, (ptrdiff_t)k, random_real(magnitude));
                for (size_t which = 0; which < 2; which++) {
                    double worst = 0.0;
                    (which == 0 ? fl_sigmoid : fl_tanh)(dtype, n, x, out);
                    for (size_t k = 0; k < n; k++) {
                        const double a = real_get(dtype, x, (ptrdiff_t)k);
                        const double exact = which == 0 ? 1.0 / (1.0 + exp(-a)) : tanh(a);
                        /* The relative error of exp(-a) is at least the absolute one of a rounded exponent. */
                        const double bound = which == 0 ? (3.0 + fabs(a)) * fabs(exact) : 4.0 * fabs(exact);
                        const double error = fabs(real_get(dtype, out, (ptrdiff_t)k) - exact);
                        worst = fmax(worst, error == 0.0 ? 0.0 : error / (bound * real_epsilon(dtype)));
                    }
                    EXPECT(worst <= 1.0, "%s in +-%g: %.3g times the bound", which == 0 ? "sigmoid" : "tanh", magnitude,
                           worst);
                }
                fl_tanh(dtype, n, x, x); /* in place */
                EXPECT(n == 0 || memcmp(x, out, n * real_size) == 0, "tanh in place gives other bits, n=%zu", n);
                guard_release(&arena);
            }
}

static void activations_of_special_values(void)
{
    static const double x[] = {0.0, -0.0, INFINITY, -INFINITY, 1e30, -1e30, NAN};
    static const double sigmoid_of[] = {0.5, 0.5, 1.0, 0.0, 1.0, 0.0, NAN};
    static const double tanh_of[] = {0.0, -0.0, 1.0, -1.0, 1.0, -1.0, NAN};
    for (size_t d = 0; d < DTYPES; d++)
        for (ptrdiff_t n = 0; n < 7; n++) {
            const fl_dtype dtype = dtypes[d];
            double in[1], out[1];
            real_put(dtype, in, 0, x[n]);
            fl_sigmoid(dtype, 1, in, out);
            const double sigmoid = real_get(dtype, out, 0);
            /* What would be a denormal may be any number as small. */
            EXPECT(isnan(x[n]) ? isnan(sigmoid) : fabs(sigmoid - sigmoid_of[n]) < 1e-37, "sigmoid(%g) = %g", x[n],
                   sigmoid);
            fl_tanh(dtype, 1, in, out);
            const double tangent = real_get(dtype, out, 0);
            EXPECT(isnan(x[n]) ? isnan(tangent) != 0 : tangent == tanh_of[n] && signbit(tangent) == signbit(tanh_of[n]),
                   "tanh(%g) = %g", x[n], tangent);
        }
}

/* Each element is its own: any part, in place or not; and as many are dropped as were asked for. */
static void dropout_by_places(void)
{
    enum { COUNT = 4000 };
    static const double rates[] = {0.0, 0.1, 0.5, 1.0};
    for (size_t n = 0; n < 8; n++) {
        const fl_dtype dtype = dtypes[n % 2];
        const double p = rates[n / 2];
        const size_t size = real_bytes(dtype);
        const uint64_t seed = random_bits(), first = random_bits();
        const size_t begin = random_size(0, COUNT), end = random_size(begin, COUNT);
        guard_arena arena = {0};
        char *x = guard_new(&arena, COUNT, size), *whole = guard_new(&arena, COUNT, size);
        char *part = guard_new(&arena, end - begin, size);
        for (ptrdiff_t k = 0; k < COUNT; k++) real_put(dtype, x, k, 1.0 + fabs(random_real(1.0)));
        fl_dropout(dtype, p, seed, first, COUNT, x, whole);
        memcpy(part, x + begin * size, (end - begin) * size);
        fl_dropout(dtype, p, seed, first + begin, end - begin, part, part);
        EXPECT(memcmp(part, whole + begin * size, (end - begin) * size) == 0, "p = %g: [%zu, %zu)", p, begin, end);
        const double tolerance = 2.0 * real_epsilon(dtype);
        size_t dropped = 0, wrong = 0;
        for (ptrdiff_t k = 0; k < COUNT; k++) {
            const double in = real_get(dtype, x, k), out = real_get(dtype, whole, k);
            dropped += out == 0.0;
            wrong += out != 0.0 && !(fabs(out * (1.0 - p) / in - 1.0) <= tolerance);
        }
        EXPECT(wrong == 0 &&
                   fabs((double)dropped - p * COUNT) <= 5.0 * sqrt(p * (1.0 - p) * COUNT), /* five deviations */
               "p = %g: %zu of %d dropped, %zu elements scaled wrongly", p, dropped, COUNT, wrong);
        const double beyond = p < 0.5 ? (n % 2 == 0 ? -INFINITY : (double)NAN) : 1.0 + p; /* the nearest end is meant */
        fl_dropout(dtype, beyond, seed, first + begin, end - begin, x + begin * size, part);
        fl_dropout(dtype, p < 0.5 ? 0.0 : 1.0, seed, first, COUNT, x, whole);
        EXPECT(memcmp(part, whole + begin * size, (end - begin) * size) == 0, "p = %g", beyond);
        guard_release(&arena);
    }
}

static void probes(void)
{
    for (size_t d = 0; d < DTYPES; d++) EXPECT(fl_probe_fma(dtypes[d], 1e-3) > 0.0, "no multiply-adds");
    EXPECT(fl_probe_stream(5000, 1e-3) > 0.0, "nothing read");
}

/* ---- The floating-point state -------------------------------------------------------------------------------- */

/* All that is computed, once. */
typedef struct everything {
    result called, recorded, streamed;
    gradients g;
    guard_arena pieces;
} everything;

static void compute_pieces(const problem *p, const result *from, guard_arena *arena)
{
    const fl_dtype dtype = p->spec.shape.dtype;
    const size_t B = p->spec.B, H = p->H;
    const ptrdiff_t h = (ptrdiff_t)H;
    const fl_adam_args adam = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .step = 3};
    const fl_sgd_args sgd = {.lr = 0.1, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true};
    char *gates = guard_new(arena, 4 * B * H, p->real_size), *state = guard_new(arena, B * H, p->real_size);
    char *m = guard_new(arena, B * H, p->real_size), *v = guard_new(arena, B * H, p->real_size);
    memset(m, 0, B * H * p->real_size);
    memset(v, 0, B * H * p->real_size);
    EXPECT_STATUS(fl_gate_matmul(p->stack, B, p->x, p->of_x.stride_b, from->h_n, h, gates, 4 * h), FL_OK);
    EXPECT_STATUS(fl_cell_update(dtype, B, H, gates, 4 * h, from->c_n, h, state, h, state, h), FL_OK);
    fl_sigmoid(dtype, 2 * B * H, gates, gates);
    fl_tanh(dtype, 2 * B * H, gates + 2 * B * H * p->real_size, gates + 2 * B * H * p->real_size);
    fl_dropout(dtype, 0.3, MASK_SEED, 5, B * H, state, state);
    fl_add(dtype, B * H, from->h_n, state);
    fl_adam_step(dtype, B * H, &adam, from->h_n, state, state, m, v);
    fl_sgd_step(dtype, B * H, &sgd, from->h_n, state, state, m);
    const double norms[2] = {fl_sum_squares(dtype, B * H, state, 0.3), fl_largest(dtype, B * H, state)};
    memcpy(guard_new(arena, 2, sizeof(double)), norms, sizeof norms);
    fl_shrink(dtype, B * H, 0.7, 0, state);
}

static void compute_everything(const problem *p, size_t threads, everything *e)
{
    const fl_stream_io io = problem_stream_io(p, &e->streamed, 0);
    const fl_forward_args args = problem_args(p, &e->called, threads);
    const fl_record_args recorded = problem_record_args(p, &e->recorded, 4, threads);
    const fl_backward_args back = problem_backward_args(p, &e->g, threads);
    fl_stream *stream = NULL;
    fl_tape *tape = NULL;
    size_t bytes = 0;
    EXPECT_STATUS(fl_stack_workspace(p->stack, &args, &bytes), FL_OK);
    EXPECT_STATUS(fl_stack_forward(p->stack, &args), FL_OK);
    EXPECT_STATUS(fl_stream_create(p->stack, p->spec.B, 1, &stream), FL_OK);
    EXPECT_STATUS(fl_stream_process(stream, p->spec.T, &io), FL_OK);
    fl_stream_destroy(stream);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    EXPECT_STATUS(fl_stack_record(p->stack, &recorded, tape), FL_OK);
    EXPECT_STATUS(fl_stack_backward(p->stack, tape, &back), FL_OK);
    fl_tape_destroy(tape);
    if (p->spec.shape.cell.kind == FL_CELL_LSTM)
        compute_pieces(p, &e->called, &e->pieces);
}

static void everything_make(everything *e, const problem *p)
{
    memset(e, 0, sizeof *e);
    result_make(&e->called, p);
    result_make(&e->recorded, p);
    result_make(&e->streamed, p);
    gradients_make(&e->g, p);
}

static void everything_free(everything *e)
{
    result_free(&e->called);
    result_free(&e->recorded);
    result_free(&e->streamed);
    gradients_free(&e->g);
    guard_release(&e->pieces);
}

/* The caller's rounding mode and exception flags neither change results nor change themselves. */
static void check_floating_point_state(fl_cell_kind kind, fl_dtype dtype, size_t threads)
{
    spec s = spec_plain(kind, dtype, 20, 30, 12, 40);
    s.wants_cells = s.gives_dcells = false;
    problem p;
    everything usual, other;
    problem_make(&p, &s);
    everything_make(&usual, &p);
    everything_make(&other, &p);
    compute_everything(&p, threads, &usual);
    fesetround(FE_UPWARD);
    feclearexcept(FE_ALL_EXCEPT);
    compute_everything(&p, threads, &other);
    const int round_after = fegetround(), raised = fetestexcept(FE_ALL_EXCEPT);
    fesetround(FE_TONEAREST);
    EXPECT(round_after == FE_UPWARD, "rounding mode %d", round_after);
    EXPECT(raised == 0, "%s, %zu threads: exception flags %x", problem_text(&p), threads, (unsigned)raised);
    EXPECT(arenas_equal(&usual.called.outputs, &other.called.outputs), "%s, %zu threads", problem_text(&p), threads);
    EXPECT(arenas_equal(&usual.streamed.outputs, &other.streamed.outputs), "%s: stream", problem_text(&p));
    EXPECT(arenas_equal(&usual.recorded.outputs, &other.recorded.outputs) &&
               gradients_equal(&p, &usual.g, &p, &other.g),
           "%s, %zu threads: recorded", problem_text(&p), threads);
    EXPECT(arenas_equal(&usual.pieces, &other.pieces), "the pieces");
    everything_free(&other);
    everything_make(&other, &p);
    feraiseexcept(FE_INVALID);
    compute_everything(&p, threads, &other);
    EXPECT(fetestexcept(FE_ALL_EXCEPT) == FE_INVALID, "exception flags %x instead of the caller's",
           (unsigned)fetestexcept(FE_ALL_EXCEPT));
    feclearexcept(FE_ALL_EXCEPT);
    everything_free(&usual);
    everything_free(&other);
    problem_free(&p);
}

static void floating_point_state(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < 4; n++) check_floating_point_state((fl_cell_kind)kind, dtypes[n % 2], n < 2 ? 1 : 3);
}

void test_pieces(void)
{
    run_test("gate_matmul", gate_matmul);
    run_test("cell_update", cell_update);
    run_test("pieces_equal_forward", pieces_equal_forward);
    run_test("activations", activations);
    run_test("dropout_by_places", dropout_by_places);
    run_test("probes", probes);
}

void test_floating_point(void)
{
    run_test("floating_point_state", floating_point_state);
    run_test("activations_of_special_values", activations_of_special_values);
}
