/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Out of memory: the first allocation fails, then the second, and so on until the call succeeds.  Each time there must
 * be the right status, nothing written, nothing lost, and everything usable.
 */
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

/* Each allocation of a call fails, one after the other, until it succeeds. */
#define UNTIL_MEMORY(call, after)                                                                  \
    do {                                                                                           \
        fl_status status_ = FL_ERROR_MEMORY;                                                       \
        size_t nth_ = 0;                                                                           \
        for (; status_ == FL_ERROR_MEMORY && nth_ < 100; nth_++) {                                 \
            allocation_fail(1 + nth_ / 2); /* what was taken before may be kept: fewer are left */ \
            status_ = (call);                                                                      \
            allocation_fail(0);                                                                    \
            if (status_ != FL_OK) {                                                                \
                after;                                                                             \
            }                                                                                      \
        }                                                                                          \
        EXPECT_STATUS(status_, FL_OK);                                                             \
        EXPECT(nth_ > 1, "%s: no allocation failed", problem_text(&p));                            \
    } while (0)

static void check_without_memory(size_t number, size_t threads)
{
    spec s = spec_some(number, FL_F32, 12, 9, 10, 33);
    const size_t save = number % 3 == 0 ? FL_SAVE_ALL : number % 3 == 1 ? FL_SAVE_STATES : 4;
    problem p;
    result forward, expected, r;
    gradients right, g;
    fl_tape *tape = NULL;
    fl_stack *made = NULL;
    fl_stream *stream = NULL;
    s.shape.num_directions = 1 + number / 3 % 2;
    s.ragged = s.resets = true;
    s.dropout = 0.5;
    problem_make(&p, &s);
    problem_run(&p, threads, &forward);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    problem_train(&p, tape, save, threads, &expected, &right);
    fl_tape_destroy(tape);
    fl_stack_destroy(p.stack);
    p.stack = NULL;
    const long live = atomic_load(&allocations_live);
    UNTIL_MEMORY(fl_stack_create(&s.shape, &made),
                 EXPECT(made == NULL && atomic_load(&allocations_live) == live, "a layer, or memory lost"));
    p.stack = made;
    problem_pack(&p);
    result_make(&r, &p);
    const fl_forward_args call = problem_args(&p, &r, threads);
    const long packed = atomic_load(&allocations_live);
    UNTIL_MEMORY(fl_stack_forward(p.stack, &call),
                 EXPECT(arena_untouched(&r.outputs) && atomic_load(&allocations_live) == packed,
                        "something was written, or memory lost"));
    EXPECT(arenas_equal(&forward.outputs, &r.outputs), "%s: wrong results", problem_text(&p));
    const long called = atomic_load(&allocations_live);
    if (s.shape.num_directions == 1)
        UNTIL_MEMORY(fl_stream_create(p.stack, s.B, 1, &stream),
                     EXPECT(stream == NULL && atomic_load(&allocations_live) == called, "a stream, or memory lost"));
    fl_stream_destroy(stream);
    UNTIL_MEMORY(fl_tape_create(&tape), (void)0);
    gradients_make(&g, &p);
    const fl_record_args recorded = problem_record_args(&p, &r, save, threads);
    const fl_backward_args args = problem_backward_args(&p, &g, threads);
    UNTIL_MEMORY(fl_stack_record(p.stack, &recorded, tape),
                 EXPECT(fl_tape_bytes(tape) == 0 && fl_stack_backward(p.stack, tape, &args) == FL_ERROR_ARGUMENT,
                        "%zu bytes of nothing", fl_tape_bytes(tape)));
    UNTIL_MEMORY(fl_stack_backward(p.stack, tape, &args), (void)0);
    size_t bytes = 0;
    EXPECT_STATUS(fl_reserve_size(p.stack, &recorded, &bytes), FL_OK);
    guard_arena memory = {0};
    char *reserve = guard_new(&memory, bytes, 1);
    UNTIL_MEMORY(fl_forward(p.stack, &recorded, reserve, bytes), (void)0);
    UNTIL_MEMORY(fl_backward(p.stack, &recorded, reserve, bytes, &args), (void)0);
    guard_release(&memory);
    EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s: wrong results", problem_text(&p));
    EXPECT(gradients_equal(&p, &right, &p, &g), "%s: wrong gradients", problem_text(&p));
    fl_tape_destroy(tape);
    fl_stack_destroy(p.stack);
    p.stack = NULL;
    EXPECT(atomic_load(&allocations_live) == live, "%s: %ld blocks, then %ld", problem_text(&p), live,
           atomic_load(&allocations_live));
    result_free(&forward);
    result_free(&expected);
    result_free(&r);
    gradients_free(&right);
    gradients_free(&g);
    problem_free(&p);
}

static void calls_without_memory(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) {
        check_without_memory(number, 1);
        if (harness_effort == EFFORT_FULL)
            check_without_memory(number, 3);
    }
}

/* A larger call throws away the scratch memory of a smaller one before it finds that there is no more. */
static void forward_grows_without_memory(void)
{
    /* What is between layers takes memory in any case. */
    static const size_t small[6] = {2, 1, 10, 33, 2, 1}, large[6] = {60, 40, 10, 33, 2, 1};
    spec s = spec_stack(FL_CELL_LSTM, FL_F32, small), t = spec_stack(FL_CELL_LSTM, FL_F32, large);
    problem p, q;
    result before, after, r;
    problem_make(&p, &s);
    problem_make(&q, &t);
    problem_run(&p, 1, &before);
    result_make(&r, &q);
    const fl_forward_args args = problem_args(&q, &r, 1);
    UNTIL_MEMORY(fl_stack_forward(p.stack, &args), (void)0);
    problem_run(&p, 1, &after);
    EXPECT(arenas_equal(&before.outputs, &after.outputs), "other results");
    result_free(&before);
    result_free(&after);
    result_free(&r);
    problem_free(&p);
    problem_free(&q);
}

static void probe_without_memory(void)
{
    allocation_fail(1);
    EXPECT(fl_probe_stream(4096, 0.0) == 0.0, "a figure without memory");
    allocation_fail(0);
}

/* The same again, on one thread, takes nothing: the scratch memory of the call before is enough.  (On a busy machine the
 * number of threads that take part may change, and with it their needs; but nothing is left behind.) */
static void calls_leave_memory_flat(void)
{
    static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1, 5};
    for (size_t n = 0; n < (size_t)SOME_CELLS * 2; n++) {
        const size_t number = n / 2, threads = n % 2 == 0 ? 1 : 3, save = saves[number % 4];
        spec s = spec_some(number, FL_F32, 12, 9, 10, 33);
        problem p;
        result r;
        gradients g;
        fl_tape *tape = NULL;
        s.ragged = true;
        problem_make(&p, &s);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        problem_train(&p, tape, save, threads, &r, &g);
        const fl_record_args recorded = problem_record_args(&p, &r, save, threads);
        const fl_backward_args args = problem_backward_args(&p, &g, threads);
        EXPECT_STATUS(fl_stack_forward(p.stack, &recorded.call), FL_OK);
        const long live = atomic_load(&allocations_live), made = atomic_load(&allocations_made);
        for (size_t repeat = 0; repeat < rounds(24); repeat++) {
            EXPECT_STATUS(fl_stack_forward(p.stack, &recorded.call), FL_OK);
            EXPECT_STATUS(fl_stack_record(p.stack, &recorded, tape), FL_OK);
            EXPECT_STATUS(fl_stack_backward(p.stack, tape, &args), FL_OK);
        }
        EXPECT(atomic_load(&allocations_live) == live, "%s: %ld blocks, then %ld", problem_text(&p), live,
               atomic_load(&allocations_live));
        EXPECT(threads > 1 || atomic_load(&allocations_made) == made, "%s: %ld allocations", problem_text(&p),
               atomic_load(&allocations_made) - made);
        fl_tape_destroy(tape);
        result_free(&r);
        gradients_free(&g);
        problem_free(&p);
    }
}

/* Long and short blocks, many rows: what was taken at the start is enough. */
static void stream_takes_memory_once(void)
{
    static const size_t sizes[][4] = {{1, 1, 16, 1}, {1, 30, 40, 3}, {3, 20, 24, 2}, {47, 9, 12, 2}, {60, 9, 12, 2}};
    const size_t count = sizeof sizes / sizeof *sizes;
    for (size_t n = 0; n < count + FL_CELL_COUNT - 1; n++) { /* the LSTM in all sizes, of each other cell one */
        const size_t *size = sizes[n < count ? n : n % count], B = size[0];
        const fl_cell_kind kind = n < count ? FL_CELL_LSTM : (fl_cell_kind)(n - count + 1);
        const size_t T = harness_effort == EFFORT_FULL ? 3000 / B : 150 / B + 1,
                     all[6] = {T, B, size[1], size[2], size[3], 1};
        spec s = spec_stack(kind, FL_F32, all);
        problem p;
        result whole, r;
        fl_stream *stream = NULL;
        s.given_state = s.wants_cells = false;
        problem_make(&p, &s);
        problem_run(&p, 1, &whole);
        result_make(&r, &p);
        const fl_stream_io io = problem_stream_io(&p, &r, 0);
        EXPECT_STATUS(fl_stream_create(p.stack, B, 1, &stream), FL_OK);
        const long made = atomic_load(&allocations_made);
        EXPECT_STATUS(fl_stream_process(stream, T, &io), FL_OK);
        EXPECT(atomic_load(&allocations_made) == made, "%s: fl_stream_process allocates", problem_text(&p));
        memcpy(r.h_n, fl_stream_h(stream), p.cells * B * problem_h_bytes(&p));
        if (p.states != 0)
            memcpy(r.c_n, fl_stream_c(stream), p.cells * B * problem_c_bytes(&p));
        EXPECT(results_equal(&p, &whole, &p, &r), "%s", problem_text(&p));
        fl_stream_destroy(stream);
        result_free(&whole);
        result_free(&r);
        problem_free(&p);
    }
}

void test_memory(void)
{
    run_test("calls_without_memory", calls_without_memory);
    run_test("forward_grows_without_memory", forward_grows_without_memory);
    run_test("probe_without_memory", probe_without_memory);
    run_test("calls_leave_memory_flat", calls_leave_memory_flat);
    run_test("stream_takes_memory_once", stream_takes_memory_once);
}
