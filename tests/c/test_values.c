/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Results against the float64 oracle, and floating-point corner cases.
 */
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

static const fl_dtype dtypes[] = {FL_F32, FL_F64};

static void compare_with_oracle(const spec *s, size_t threads)
{
    problem p;
    result r;
    oracle o;
    problem_make(&p, s);
    problem_run(&p, threads, &r);
    oracle_make(&o, &p);
    const double error = oracle_error(&o, &p, &r);
    EXPECT(error <= oracle_tolerance(s->shape.dtype), "%s: error %.3g", spec_text(s), error);
    oracle_free(&o);
    result_free(&r);
    problem_free(&p);
}

/* All widths from 1 to twice the widest tile plus one: every tail of every instruction set. */
static void hidden_sizes(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t H = 1; H <= 33; H++)
            for (size_t repeat = 0; repeat < rounds(3); repeat++) {
                spec s = spec_random(dtypes[d]);
                s.shape.hidden_size = H;
                s.T = random_size(1, 6);
                s.B = random_chance(2) ? 1 : random_size(2, 14);
                compare_with_oracle(&s, 1);
            }
}

static void batch_sizes(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t B = 1; B <= 14; B++)
            for (size_t repeat = 0; repeat < rounds(4); repeat++) {
                spec s = spec_random(dtypes[d]);
                s.B = B;
                s.T = random_size(1, 6);
                compare_with_oracle(&s, 1);
            }
}

static void random_configurations(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(120); repeat++) {
            const spec s = spec_random(dtypes[d]);
            compare_with_oracle(&s, random_size(0, 4));
        }
}

/* Input products ahead of the recurrence, in several rounds; wide rows; many rows. */
static void larger_configurations(void)
{
    static const struct {
        size_t T, B, I, H, L, D;
    } sizes[] = {{100, 1, 30, 20, 1, 1}, {90, 3, 70, 10, 2, 1},  {7, 47, 9, 12, 1, 1}, {6, 95, 9, 17, 2, 1},
                 {3, 130, 5, 9, 2, 2},   {2, 2, 300, 130, 1, 2}, {70, 9, 6, 21, 2, 2}};
    for (size_t d = 0; d < 2; d++)
        for (size_t n = 0; n < rounds(sizeof sizes / sizeof *sizes); n++)
            for (size_t ragged = 0; ragged < 2; ragged++) {
                spec s = spec_plain(dtypes[d], sizes[n].T, sizes[n].B, sizes[n].I, sizes[n].H);
                s.shape.num_layers = sizes[n].L;
                s.shape.num_directions = sizes[n].D;
                s.ragged = ragged != 0;
                compare_with_oracle(&s, 1);
            }
}

static void empty_calls(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t D = 1; D <= 2; D++)
            for (size_t L = 1; L <= 2; L++)
                for (size_t which = 0; which < 4; which++) {
                    spec s = spec_plain(dtypes[d], which & 1 ? 0 : 5, which & 2 ? 0 : 3, 4, 7);
                    s.shape.num_layers = L;
                    s.shape.num_directions = D;
                    s.given_state = s.ragged = true;
                    compare_with_oracle(&s, 1);
                    compare_with_oracle(&s, 2);
                }
}

/* Gates far beyond saturation, infinities, and NaN, in one row each: the others must not notice. */
static void special_values(void)
{
    static const double values[] = {1e3, -1e3, 1e30, -1e30, INFINITY, -INFINITY, NAN, 1e-42, 0.0};
    const size_t count = sizeof values / sizeof *values;
    for (size_t d = 0; d < 2; d++) {
        spec s = spec_plain(dtypes[d], 5, count, 1, 21);
        s.shape.num_layers = 2;
        problem clean, p;
        result r_clean, r;
        oracle o;
        random_seed(1);
        problem_make(&clean, &s);
        problem_run(&clean, 1, &r_clean);
        for (size_t b = 0; b < count; b++) {
            random_seed(1);
            problem_make_writable(&p, &s);
            for (size_t t = 0; t < s.T; t++)
                real_put(dtypes[d], p.x, (ptrdiff_t)t * p.x_layout.stride_t + (ptrdiff_t)b * p.x_layout.stride_b,
                         values[b]);
            guard_read_only(&p.inputs);
            problem_pack(&p);
            problem_run(&p, 1, &r);
            oracle_make(&o, &p);
            const double error = oracle_error(&o, &p, &r);
            EXPECT(error <= oracle_tolerance(dtypes[d]), "%s, row of %g: error %.3g", spec_text(&s), values[b], error);
            for (size_t other = 0; other < count; other++)
                EXPECT(other == b || rows_equal(&clean, &r_clean, other, &p, &r, other),
                       "%s: row %zu changed with row %zu of %g", spec_text(&s), other, b, values[b]);
            oracle_free(&o);
            result_free(&r);
            problem_free(&p);
        }
        result_free(&r_clean);
        problem_free(&clean);
    }
}

/* ---- The pieces --------------------------------------------------------------------------------------------- */

static void gate_matmul(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(60); repeat++) {
            const fl_dtype dtype = dtypes[d];
            const size_t B = random_size(0, 14), I = random_size(1, 40), H = random_size(1, 40);
            const size_t ldx = I + random_size(0, 3), ldh = H + random_size(0, 3), ldg = 4 * H + random_size(0, 3);
            spec s = spec_plain(dtype, 1, 1, I, H);
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
    for (size_t d = 0; d < 2; d++)
        for (size_t H = 1; H <= 33; H++) {
            const fl_dtype dtype = dtypes[d];
            const size_t B = random_size(0, 5), ldg = 4 * H + random_size(0, 2), ld = H + random_size(0, 2);
            const size_t real_size = dtype == FL_F32 ? sizeof(float) : sizeof(double);
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

static void activations(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t n = 0; n <= 33; n++)
            for (size_t repeat = 0; repeat < rounds(12); repeat++) {
                const fl_dtype dtype = dtypes[d];
                const size_t real_size = dtype == FL_F32 ? sizeof(float) : sizeof(double);
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
    for (size_t d = 0; d < 2; d++)
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

static void probes(void)
{
    for (size_t d = 0; d < 2; d++) EXPECT(fl_probe_fma(dtypes[d], 1e-3) > 0.0, "no multiply-adds");
    EXPECT(fl_probe_stream(5000, 1e-3) > 0.0, "nothing read");
}

/* Every function that computes, once. */
static void compute_all(const problem *p, size_t threads, const result *forward, const result *streamed,
                        const guard_block *pieces)
{
    const fl_dtype dtype = p->spec.shape.dtype;
    const size_t B = p->spec.B, H = p->spec.shape.hidden_size;
    const ptrdiff_t h = (ptrdiff_t)H;
    const fl_forward_args args = problem_args(p, forward, threads), other = problem_args(p, streamed, 1);
    const fl_stream_io io = {.x = other.x,
                             .x_stride_t = other.x_stride_t,
                             .x_stride_b = other.x_stride_b,
                             .y = other.y,
                             .y_stride_t = other.y_stride_t,
                             .y_stride_b = other.y_stride_b};
    fl_stream *stream = NULL;
    size_t bytes = 0;
    char *gates = (char *)pieces->data, *state = gates + 4 * B * H * p->real_size;
    EXPECT_STATUS(fl_stack_workspace(p->stack, &args, &bytes), FL_OK);
    EXPECT_STATUS(fl_stack_forward(p->stack, &args), FL_OK);
    EXPECT_STATUS(fl_stream_create(p->stack, B, 1, &stream), FL_OK);
    EXPECT_STATUS(fl_stream_process(stream, p->spec.T, &io), FL_OK);
    fl_stream_destroy(stream);
    EXPECT_STATUS(fl_gate_matmul(p->stack, B, p->x, p->x_layout.stride_b, forward->h_n, h, gates, 4 * h), FL_OK);
    EXPECT_STATUS(fl_cell_update(dtype, B, H, gates, 4 * h, forward->c_n, h, state, h, state, h), FL_OK);
    fl_sigmoid(dtype, 2 * B * H, gates, gates);
    fl_tanh(dtype, 2 * B * H, gates + 2 * B * H * p->real_size, gates + 2 * B * H * p->real_size);
}

/* The caller's rounding mode and exception flags neither change results nor change themselves. */
static void floating_point_state(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t threads = 1; threads <= 3; threads += 2) {
            const spec s = spec_plain(dtypes[d], 40, 30, 12, 40);
            problem p;
            result usual[2], other[2];
            guard_arena arena = {0};
            problem_make(&p, &s);
            for (size_t n = 0; n < 2; n++) {
                result_make(&usual[n], &p);
                result_make(&other[n], &p);
                guard_new(&arena, 5 * s.B * s.shape.hidden_size, p.real_size);
            }
            compute_all(&p, threads, &usual[0], &usual[1], &arena.blocks[0]);
            fesetround(FE_UPWARD);
            feclearexcept(FE_ALL_EXCEPT);
            compute_all(&p, threads, &other[0], &other[1], &arena.blocks[1]);
            const int round_after = fegetround(), raised = fetestexcept(FE_ALL_EXCEPT);
            fesetround(FE_TONEAREST);
            EXPECT(round_after == FE_UPWARD, "rounding mode %d", round_after);
            EXPECT(raised == 0, "exception flags %x", (unsigned)raised);
            EXPECT(results_equal(&p, &usual[0], &other[0]), "forward, %zu threads: other bits", threads);
            for (size_t t = 0; t < s.T * s.B; t++) /* streams leave h_n and c_n alone */
                if (!EXPECT(memcmp(usual[1].y + t * p.width * p.real_size, other[1].y + t * p.width * p.real_size,
                                   p.width * p.real_size) == 0,
                            "stream: other bits in row %zu", t))
                    break;
            EXPECT(memcmp(arena.blocks[0].data, arena.blocks[1].data, arena.blocks[0].bytes) == 0,
                   "the pieces: other bits");
            feraiseexcept(FE_INVALID);
            compute_all(&p, threads, &other[0], &other[1], &arena.blocks[1]);
            EXPECT(fetestexcept(FE_ALL_EXCEPT) == FE_INVALID, "exception flags %x instead of the caller's",
                   (unsigned)fetestexcept(FE_ALL_EXCEPT));
            feclearexcept(FE_ALL_EXCEPT);
            for (size_t n = 0; n < 2; n++) {
                result_free(&usual[n]);
                result_free(&other[n]);
            }
            guard_release(&arena);
            problem_free(&p);
        }
}

void test_values(void)
{
    run_test("hidden_sizes", hidden_sizes);
    run_test("batch_sizes", batch_sizes);
    run_test("random_configurations", random_configurations);
    run_test("larger_configurations", larger_configurations);
    run_test("empty_calls", empty_calls);
    run_test("special_values", special_values);
    run_test("gate_matmul", gate_matmul);
    run_test("cell_update", cell_update);
    run_test("activations", activations);
    run_test("probes", probes);
}

void test_floating_point(void)
{
    run_test("floating_point_state", floating_point_state);
    run_test("activations_of_special_values", activations_of_special_values);
}
