/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The same bits for any number of threads, over shapes that between them use every way of splitting a call: rows,
 * hidden units, layers, directions, and ragged batches of them.  Races show here, the more so under a race detector.
 */
#include "harness/problem.h"
#include "tests.h"

#define MOST_THREADS 5

typedef struct sizes {
    fl_dtype dtype;
    size_t T, B, I, H, L, D;
    bool ragged;
    size_t repeats; /* of short calls, which are over before a race can be seen */
} sizes;

static spec spec_of(const sizes *z)
{
    spec s = spec_plain(z->dtype, z->T, z->B, z->I, z->H);
    s.shape.num_layers = z->L;
    s.shape.num_directions = z->D;
    s.given_state = true;
    s.ragged = z->ragged;
    return s;
}

/* Whether more threads are used is the library's choice; its workspace tells, which holds a counter a thread. */
static bool is_split(const problem *p, const result *r, size_t threads)
{
    size_t alone = 0, together = 0;
    const fl_forward_args one = problem_args(p, r, 1), many = problem_args(p, r, threads);
    EXPECT_STATUS(fl_stack_workspace(p->stack, &one, &alone), FL_OK);
    EXPECT_STATUS(fl_stack_workspace(p->stack, &many, &together), FL_OK);
    return together != alone;
}

/* Returns how many of the calls were split. */
static size_t compare_threads(const sizes *z)
{
    const spec s = spec_of(z);
    const size_t repeats = z->repeats > 1 ? rounds(z->repeats) : 1;
    problem p;
    result alone;
    oracle o;
    size_t split = 0;
    problem_make(&p, &s);
    problem_run(&p, 1, &alone);
    oracle_make(&o, &p);
    const double error = oracle_error(&o, &p, &alone);
    EXPECT(error <= oracle_tolerance(z->dtype), "%s: error %.3g", spec_text(&s), error);
    oracle_free(&o);
    for (size_t threads = 2; threads <= MOST_THREADS; threads++) {
        size_t different = 0;
        for (size_t repeat = 0; repeat < repeats; repeat++) {
            result r;
            problem_run(&p, threads, &r);
            different += !results_equal(&p, &alone, &r);
            split += repeat == 0 && is_split(&p, &r, threads);
            result_free(&r);
        }
        EXPECT(different == 0, "%s: %zu of %zu calls differ with %zu threads", spec_text(&s), different, repeats,
               threads);
    }
    result_free(&alone);
    problem_free(&p);
    return split;
}

static void compare_all(const sizes *all, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        const size_t split = compare_threads(&all[n]);
        const spec s = spec_of(&all[n]);
        EXPECT(split > 0, "%s: no call uses several threads", spec_text(&s));
    }
}

#define COMPARE_ALL(table) compare_all((table), sizeof(table) / sizeof *(table))

static void split_by_rows(void)
{
    static const sizes table[] = {
        {FL_F32, 40, 47, 24, 40, 1, 1, false, 1}, {FL_F32, 30, 95, 20, 36, 1, 1, false, 1},
        {FL_F64, 30, 49, 20, 23, 2, 1, false, 1}, {FL_F32, 40, 97, 12, 33, 1, 1, true, 1},
        {FL_F32, 25, 13, 60, 50, 2, 2, true, 1},  {FL_F64, 30, 5, 30, 40, 1, 2, true, 1},
    };
    COMPARE_ALL(table);
}

/* Row groups differ by one row, whatever the number of rows from which the schedule changes. */
static void split_by_any_number_of_rows(void)
{
    for (size_t B = 2; B <= 100; B += harness_effort == EFFORT_FULL ? 1 : 7) {
        const sizes z = {B % 2 == 0 ? FL_F32 : FL_F64, 25, B, 9, 21, 1, 1, B % 3 == 0, 1};
        compare_threads(&z);
    }
}

static void split_by_hidden_units(void)
{
    static const sizes table[] = {
        {FL_F32, 12, 1, 30, 260, 1, 1, false, 2}, {FL_F32, 20, 2, 3, 270, 2, 1, false, 2},
        {FL_F64, 9, 2, 60, 150, 1, 2, false, 2},  {FL_F32, 30, 2, 40, 230, 1, 1, true, 2},
        {FL_F32, 8, 2, 300, 240, 2, 2, true, 2},
    };
    COMPARE_ALL(table);
}

/* Nothing separates the first step, which reads the given state, from the last, which stores the new one. */
static void split_single_steps(void)
{
    static const sizes table[] = {
        {FL_F32, 1, 1, 5, 600, 1, 1, false, 60},
        {FL_F32, 1, 1, 5, 520, 2, 1, false, 60},
        {FL_F64, 1, 2, 5, 400, 1, 2, false, 60},
    };
    COMPARE_ALL(table);
}

static void split_by_layers_and_directions(void)
{
    static const sizes table[] = {
        {FL_F32, 300, 1, 3, 64, 4, 1, false, 1}, {FL_F32, 150, 2, 20, 50, 3, 1, true, 1},
        {FL_F64, 200, 1, 7, 41, 3, 1, false, 1}, {FL_F32, 120, 1, 9, 60, 2, 2, false, 1},
        {FL_F64, 90, 2, 9, 33, 3, 2, true, 1},
    };
    COMPARE_ALL(table);
}

static void random_shapes(void)
{
    for (size_t repeat = 0; repeat < rounds(40); repeat++) {
        sizes z = {.repeats = 1};
        z.dtype = random_chance(2) ? FL_F32 : FL_F64;
        z.T = random_size(1, 60);
        z.B = random_size(1, 60);
        z.I = random_size(1, 40);
        z.H = random_size(1, 60);
        z.L = random_size(1, 3);
        z.D = random_size(1, 2);
        z.ragged = random_chance(2);
        compare_threads(&z);
    }
}

void test_schedules(void)
{
    run_test("split_by_rows", split_by_rows);
    run_test("split_by_any_number_of_rows", split_by_any_number_of_rows);
    run_test("split_by_hidden_units", split_by_hidden_units);
    run_test("split_single_steps", split_single_steps);
    run_test("split_by_layers_and_directions", split_by_layers_and_directions);
    run_test("random_shapes", random_shapes);
}
