/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The same bits for any number of threads, over shapes that between them use every way of splitting a call: rows,
 * hidden units, layers, directions, and ragged batches of them.  Races show here, the more so under a race detector.
 */
#include "harness/oracle.h"
#include "tests.h"

#define MOST_THREADS 5

/* Whether more threads are used is the library's choice; its workspace tells, which holds a counter a thread. */
static bool is_split(const problem *p, const result *r, size_t threads)
{
    size_t alone = 0, together = 0;
    const fl_forward_args one = problem_args(p, r, 1), many = problem_args(p, r, threads);
    EXPECT_STATUS(fl_stack_workspace(p->stack, &one, &alone), FL_OK);
    EXPECT_STATUS(fl_stack_workspace(p->stack, &many, &together), FL_OK);
    return together != alone;
}

/* Each number of threads, `repeats` times: short calls are over before a race can be seen.  Returns how many numbers
 * split the call. */
static size_t compare_threads(const spec *s, size_t repeats)
{
    problem p;
    result alone;
    size_t split = 0;
    clock_pace(CLOCK_HURRIES); /* on a busy machine threads rest for a while, and one computes alone */
    problem_make(&p, s);
    problem_run(&p, 1, &alone);
    expect_truth(&p, &alone);
    for (size_t threads = 2; threads <= MOST_THREADS; threads++) {
        size_t different = 0;
        for (size_t repeat = 0; repeat < repeats; repeat++) {
            result r;
            problem_run(&p, threads, &r);
            different += !results_equal(&p, &alone, &p, &r);
            split += repeat == 0 && is_split(&p, &r, threads);
            result_free(&r);
        }
        EXPECT(different == 0, "%s: %zu of %zu calls differ with %zu threads", problem_text(&p), different, repeats,
               threads);
    }
    result_free(&alone);
    problem_free(&p);
    return split;
}

/* ---- The LSTM, of which all ways are known ------------------------------------------------------------------- */

typedef struct row {
    fl_dtype dtype;
    size_t sizes[6]; /* T, B, I, H, L, D */
    bool ragged;
} row;

static void compare_all(const row *rows, size_t count, size_t repeats)
{
    for (size_t n = 0; n < count; n++) {
        spec s = spec_stack(FL_CELL_LSTM, rows[n].dtype, rows[n].sizes);
        s.ragged = rows[n].ragged;
        EXPECT(compare_threads(&s, repeats) > 0, "row %zu: no call uses several threads", n);
    }
}

#define COMPARE_ALL(table, repeats) compare_all((table), sizeof(table) / sizeof *(table), repeats)

static void split_by_rows(void)
{
    static const row table[] = {
        {FL_F32, {40, 47, 24, 40, 1, 1}, false}, {FL_F32, {30, 95, 20, 36, 1, 1}, false},
        {FL_F64, {30, 49, 20, 23, 2, 1}, false}, {FL_F32, {40, 97, 12, 33, 1, 1}, true},
        {FL_F32, {25, 13, 60, 50, 2, 2}, true},  {FL_F64, {30, 5, 30, 40, 1, 2}, true},
    };
    COMPARE_ALL(table, 1);
}

/* Row groups differ by one row, whatever the number of rows from which the schedule changes. */
static void split_by_any_number_of_rows(void)
{
    for (size_t B = 2; B <= 100; B += harness_effort == EFFORT_FULL ? 1 : 7) {
        spec s = spec_plain(FL_CELL_LSTM, dtypes[B % 2], 25, B, 9, 21);
        s.ragged = B % 3 == 0;
        compare_threads(&s, 1);
    }
}

static void split_by_hidden_units(void)
{
    static const row table[] = {
        {FL_F32, {12, 1, 30, 260, 1, 1}, false}, {FL_F32, {20, 2, 3, 270, 2, 1}, false},
        {FL_F64, {9, 2, 60, 150, 1, 2}, false},  {FL_F32, {30, 2, 40, 230, 1, 1}, true},
        {FL_F32, {8, 2, 300, 240, 2, 2}, true},
    };
    COMPARE_ALL(table, rounds(2));
}

/* Nothing separates the first step, which reads the given state, from the last, which stores the new one. */
static void split_single_steps(void)
{
    static const row table[] = {
        {FL_F32, {1, 1, 5, 600, 1, 1}, false},
        {FL_F32, {1, 1, 5, 520, 2, 1}, false},
        {FL_F64, {1, 2, 5, 400, 1, 2}, false},
    };
    COMPARE_ALL(table, rounds(60));
}

static void split_by_layers_and_directions(void)
{
    static const row table[] = {
        {FL_F32, {300, 1, 3, 64, 4, 1}, false}, {FL_F32, {150, 2, 20, 50, 3, 1}, true},
        {FL_F64, {200, 1, 7, 41, 3, 1}, false}, {FL_F32, {120, 1, 9, 60, 2, 2}, false},
        {FL_F64, {90, 2, 9, 33, 3, 2}, true},
    };
    COMPARE_ALL(table, 1);
}

/* ---- Any cell ------------------------------------------------------------------------------------------------ */

static void random_shapes(void)
{
    for (size_t repeat = 0; repeat < rounds(40); repeat++) {
        const size_t T = random_size(1, 30), B = random_size(1, 50), I = random_size(1, 40), H = random_size(1, 50);
        spec s = spec_random(FL_CELL_LSTM, dtypes[repeat % 2]);
        const fl_cell_options none = {.kind = FL_CELL_LSTM};
        spec_resize(&s, T, B, I, H);
        s.shape.cell = none;
        compare_threads(&s, 1);
    }
}

/* Large enough for threads to take part, with few rows and with many.  In float32 an option may put a result on the other
 * side of a kink, so that there is no truth about it. */
static void any_cell(void)
{
    static const size_t sizes[][6] = {{60, 1, 20, 120, 1, 1}, {30, 3, 30, 96, 2, 2}, {40, 17, 9, 40, 3, 1}};
    const size_t count = sizeof sizes / sizeof *sizes;
    clock_pace(CLOCK_HURRIES);
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) {
        size_t split = 0;
        for (size_t n = 0; n < count * rounds(kind == FL_CELL_LSTM ? 4 : 2); n++) {
            const size_t *size = sizes[n % count];
            spec s = spec_random((fl_cell_kind)kind, dtypes[(n + (size_t)kind) % 2]);
            problem p;
            result expected, r;
            spec_resize(&s, size[0], size[1], size[2], size[3]);
            s.shape.num_layers = size[4];
            s.shape.num_directions = size[5];
            s.ragged = n % count != 0;
            problem_make(&p, &s);
            problem_run(&p, 1, &expected);
            for (size_t threads = 2; threads <= 4; threads++) {
                problem_run(&p, threads, &r);
                EXPECT(results_equal(&p, &expected, &p, &r), "%s: %zu threads", problem_text(&p), threads);
                split += is_split(&p, &r, threads);
                result_free(&r);
            }
            result_free(&expected);
            problem_free(&p);
        }
        EXPECT(split > count, "%s: %zu calls were split", kind_names[kind], split);
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
    run_test("any_cell", any_cell);
}
