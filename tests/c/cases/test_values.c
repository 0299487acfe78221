/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Calls, recorded passes and gradients of all cells, against their definition in float64.
 */
#include <math.h>
#include <stdint.h>

#include "harness/oracle.h"
#include "tests.h"

static void check_call(const spec *s, size_t threads)
{
    problem p;
    result r;
    problem_make(&p, s);
    problem_run(&p, threads, &r);
    expect_truth(&p, &r);
    result_free(&r);
    problem_free(&p);
}

/* There and back. */
static void check_training(const spec *s)
{
    problem p;
    result r;
    gradients g;
    fl_tape *tape = NULL;
    const size_t save = random_chance(2) ? FL_SAVE_ALL : random_size(1, 5);
    problem_make(&p, s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    problem_train(&p, tape, save, 1, &r, &g);
    expect_truth_of_training(&p, &r, &g);
    fl_tape_destroy(tape);
    result_free(&r);
    gradients_free(&g);
    problem_free(&p);
}

static void check_both(const spec *s)
{
    const size_t threads = random_size(0, 4);
    check_call(s, threads);
    check_training(s);
}

/* ---- Any cell ------------------------------------------------------------------------------------------------ */

/* In float64, where a result that lies on the other side of a kink is one in 10^12. */
static void all_options(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 240 : 48); repeat++) {
            const spec s = spec_random((fl_cell_kind)kind, FL_F64);
            check_both(&s);
        }
}

static spec without_options(fl_cell_kind kind, fl_dtype dtype)
{
    const fl_cell_options none = {.kind = kind};
    spec s = spec_random(kind, dtype);
    s.shape.cell = none;
    return s;
}

static void no_options(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t d = 0; d < DTYPES; d++)
            for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 120 : 48); repeat++) {
                const spec s = without_options((fl_cell_kind)kind, dtypes[d]);
                check_both(&s);
            }
}

/* ---- Sizes --------------------------------------------------------------------------------------------------- */

/* All widths from 1 to twice the widest tile plus one: every tail of every instruction set. */
static void hidden_sizes(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t H = 1; H <= 33; H += harness_effort == EFFORT_FULL || kind == FL_CELL_LSTM ? 1 : 4)
            for (size_t d = 0; d < DTYPES; d++) {
                spec s = without_options((fl_cell_kind)kind, dtypes[d]);
                s.shape.hidden_size = H;
                s.T = random_size(1, 6);
                s.B = random_chance(2) ? 1 : random_size(2, 14);
                check_call(&s, 1);
            }
}

static void batch_sizes(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t B = 1; B <= 14; B += harness_effort == EFFORT_FULL || kind == FL_CELL_LSTM ? 1 : 4)
            for (size_t d = 0; d < DTYPES; d++) {
                spec s = without_options((fl_cell_kind)kind, dtypes[d]);
                s.B = B;
                s.T = random_size(1, 6);
                check_call(&s, 1);
            }
}

/* Input products ahead of the recurrence, in several rounds; wide rows; many rows. */
static void larger_sizes(void)
{
    static const size_t sizes[][6] = {{100, 1, 30, 20, 1, 1}, {90, 3, 70, 10, 2, 1}, {7, 47, 9, 12, 1, 1},
                                      {6, 95, 9, 17, 2, 1},   {3, 130, 5, 9, 2, 2},  {2, 2, 300, 130, 1, 2},
                                      {70, 9, 6, 21, 2, 2}};
    const size_t count = sizeof sizes / sizeof *sizes;
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < rounds(kind == FL_CELL_LSTM ? 4 * count : count); n++) {
            spec s = spec_stack((fl_cell_kind)kind, dtypes[n / count % 2], sizes[n % count]);
            s.ragged = n / count / 2 != 0 || (kind + (int)n) % 2 == 0;
            s.given_state = n % 2 == 0;
            check_call(&s, 1);
        }
}

/* More steps and more rows than a chunk of the backward pass has. */
static void chunks(void)
{
    static const size_t sizes[][4] = {{260, 1, 5, 9}, {90, 6, 3, 7}, {4, 530, 2, 3}, {33, 17, 20, 33}};
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < rounds(kind == FL_CELL_LSTM ? 16 : 4); n++) {
            spec s = without_options((fl_cell_kind)kind, n % 3 == 2 ? FL_F32 : FL_F64);
            s.T = sizes[n % 4][0];
            s.B = sizes[n % 4][1];
            s.shape.input_size = sizes[n % 4][2];
            s.shape.hidden_size = sizes[n % 4][3];
            s.shape.num_layers = random_size(1, 2);
            s.bptt = random_chance(2) ? 7 : 0;
            check_training(&s);
        }
}

/* No steps, or no rows: states pass through, y has nothing but padding. */
static void empty_calls(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t which = 0; which < 16; which++) {
            spec s = spec_random((fl_cell_kind)kind, dtypes[which % 2]);
            s.T = which & 2 ? 0 : 5;
            s.B = which & 4 ? 0 : 3;
            s.given_state = s.ragged = true;
            check_call(&s, 1 + which / 8);
        }
}

/* ---- Gradients ----------------------------------------------------------------------------------------------- */

static double dot_sequences(const problem *p, const placing *of_a, const char *a, const placing *of_b, const char *b)
{
    double sum = 0.0;
    for (size_t row = 0; row < p->spec.B && a != NULL; row++)
        for (size_t t = 0; t < problem_length(p, row); t++)
            for (size_t j = 0; j < of_a->width; j++)
                sum += real_get(FL_F64, a, placing_of(of_a, t, row) + (ptrdiff_t)j) *
                       real_get(FL_F64, b, placing_of(of_b, t, row) + (ptrdiff_t)j);
    return sum;
}

static double dot_arrays(const double *a, const double *b, size_t count)
{
    double sum = 0.0;
    for (size_t n = 0; n < count && a != NULL; n++) sum += a[n] * b[n];
    return sum;
}

/* What the gradients are of: all results of a recorded pass, times what the gradients of them were given as. */
static double loss_of(const problem *p, fl_tape *tape)
{
    const size_t rows = p->cells * p->spec.B;
    result r;
    gradients g;
    problem_train(p, tape, FL_SAVE_ALL, 1, &r, &g);
    const double loss = dot_sequences(p, &p->of_dy, p->dy, &p->of_y, r.y) +
                        dot_sequences(p, &p->of_dcells, p->dcells, &p->of_cells, r.cells) +
                        dot_arrays(p->dh_n, (const double *)r.h_n, rows * p->P) +
                        dot_arrays(p->dc_n, (const double *)r.c_n, rows * p->states * p->H);
    result_free(&r);
    gradients_free(&g);
    return loss;
}

/* `at` may be a weight, which is packed again. */
static void check_difference(problem *p, fl_tape *tape, double *at, double gradient, const char *name)
{
    const double kept = *at, step = 1e-5;
    double loss[2];
    for (int side = 0; side < 2; side++) {
        *at = side == 0 ? kept - step : kept + step;
        problem_pack(p);
        loss[side] = loss_of(p, tape);
    }
    *at = kept;
    const double slope = (loss[1] - loss[0]) / (2.0 * step);
    EXPECT(fabs(slope - gradient) <= 1e-7 * fmax(1.0, fabs(slope)), "%s: %s: slope %.10g, gradient %.10g",
           problem_text(p), name, slope, gradient);
}

/* Of one element of each array that there is, without the oracle, whose formulas could have the faults of the core. */
static void central_differences(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) {
        problem p;
        result r;
        gradients g;
        fl_tape *tape = NULL;
        spec s = spec_some(number, FL_F64, 4, 2, 3, 6);
        s.writable = s.wants_dx = s.given_state = s.resets = true;
        s.indexed = false;
        s.bptt = 0; /* what is cut off has a slope all the same */
        problem_make(&p, &s);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        problem_train(&p, tape, FL_SAVE_ALL, 1, &r, &g);
        const size_t x = random_size(0, s.shape.input_size - 1), h = random_size(0, p.P - 1);
        check_difference(&p, tape, (double *)(void *)p.x + placing_of(&p.of_x, 0, 1) + x,
                         real_get(FL_F64, g.dx, placing_of(&p.of_dx, 0, 1) + (ptrdiff_t)x), "dx");
        check_difference(&p, tape, (double *)p.h0 + h, ((double *)g.dh0)[h], "dh0");
        for (size_t state = 0; state < p.states; state++) /* of the first cell and row, side by side */
            check_difference(&p, tape, (double *)p.c0 + state * p.H, ((double *)g.dc0)[state * p.H], "dc0");
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
            const void **weights[FL_PARAMETER_COUNT];
            void **slots[FL_PARAMETER_COUNT];
            weight_slots(&p.weights[0], weights);
            gradient_slots(&g.of[0], slots);
            if (*weights[n] == NULL || problem_sizes(&p, 0)[n] == 0)
                continue;
            const size_t place = random_size(0, problem_sizes(&p, 0)[n] - 1);
            double *weight = (double *)(uintptr_t)*weights[n];
            check_difference(&p, tape, weight + place, ((double *)*slots[n])[place], "a parameter");
        }
        fl_tape_destroy(tape);
        result_free(&r);
        gradients_free(&g);
        problem_free(&p);
    }
}

/* ---- Values -------------------------------------------------------------------------------------------------- */

/* Gates far beyond saturation, infinities, and NaN, in one row each: the others must not notice.  What comes of them is
 * that of the definition where no cell state without bounds is divided by another. */
static void special_values(void)
{
    static const double values[] = {1e3, -1e3, 1e30, -1e30, INFINITY, -INFINITY, NAN, 1e-42, 0.0};
    const size_t count = sizeof values / sizeof *values, sizes[6] = {5, count, 1, 21, 2, 1};
    for (size_t n = 0; n < (size_t)FL_CELL_COUNT * DTYPES; n++) {
        const fl_cell_kind kind = (fl_cell_kind)(n / DTYPES);
        const bool has_bounds = kind != FL_CELL_SLSTM && kind != FL_CELL_MINGRU && kind != FL_CELL_MINLSTM;
        spec s = spec_stack(kind, dtypes[n % DTYPES], sizes);
        problem clean, p;
        result r_clean, r;
        problem_make(&clean, &s);
        problem_run(&clean, 1, &r_clean);
        s.writable = true;
        for (size_t b = 0; b < count; b++) {
            problem_make(&p, &s); /* the same again */
            for (size_t t = 0; t < s.T; t++) real_put(s.shape.dtype, p.x, placing_of(&p.of_x, t, b), values[b]);
            guard_read_only(&p.inputs);
            result_make(&r, &p);
            const fl_forward_args args = problem_args(&p, &r, 1);
            EXPECT_STATUS(fl_stack_forward(p.stack, &args), FL_OK);
            if (has_bounds)
                expect_truth(&p, &r);
            for (size_t other = 0; other < count; other++)
                EXPECT(other == b || rows_equal(&clean, &r_clean, other, &p, &r, other),
                       "%s: row %zu changed with row %zu of %g", problem_text(&p), other, b, values[b]);
            result_free(&r);
            problem_free(&p);
        }
        result_free(&r_clean);
        problem_free(&clean);
    }
}

void test_values(void)
{
    run_test("all_options", all_options);
    run_test("no_options", no_options);
    run_test("hidden_sizes", hidden_sizes);
    run_test("batch_sizes", batch_sizes);
    run_test("larger_sizes", larger_sizes);
    run_test("chunks", chunks);
    run_test("empty_calls", empty_calls);
    run_test("special_values", special_values);
    run_test("central_differences", central_differences);
}
