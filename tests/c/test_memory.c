/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Out of memory: the first allocation fails, then the second, and so on until the call succeeds.  Each time there must
 * be the right status, nothing written, nothing lost, and everything usable.
 */
#include "harness/problem.h"
#include "tests.h"

static void create_without_memory(void)
{
    const fl_stack_shape shape = {FL_F32, 3, 40, 2, 2, {0}};
    fl_stack *stack = NULL;
    fl_status status = FL_ERROR_MEMORY;
    size_t nth = 0;
    while (status == FL_ERROR_MEMORY && nth < 50) {
        const long live = atomic_load(&allocations_live);
        allocation_fail(++nth);
        status = fl_stack_create(&shape, &stack);
        allocation_fail(0);
        EXPECT(status == FL_OK || stack == NULL, "a layer in spite of an error");
        EXPECT(status == FL_OK || atomic_load(&allocations_live) == live, "allocation %zu failed: memory lost", nth);
    }
    EXPECT_STATUS(status, FL_OK);
    EXPECT(nth > 1, "no allocation failed");
    fl_stack_destroy(stack);
}

static void forward_without_memory(void)
{
    for (size_t threads = 1; threads <= 3; threads += 2)
        for (size_t D = 1; D <= 2; D++) {
            spec s = spec_plain(FL_F32, 30, 20, 10, 33);
            s.shape.num_layers = 2;
            s.shape.num_directions = D;
            s.ragged = s.given_state = true;
            problem p;
            result expected, r;
            problem_make(&p, &s);
            problem_run(&p, threads, &expected);
            fl_stack_destroy(p.stack);
            p.stack = NULL;
            problem_pack(&p); /* without the scratch memory that a call leaves behind */
            fl_status status = FL_ERROR_MEMORY;
            size_t nth = 0;
            while (status == FL_ERROR_MEMORY && nth < 50) {
                result_make(&r, &p);
                const fl_forward_args args = problem_args(&p, &r, threads);
                const long live = atomic_load(&allocations_live);
                allocation_fail(++nth);
                status = fl_stack_forward(p.stack, &args);
                allocation_fail(0);
                EXPECT(status == FL_OK || atomic_load(&allocations_live) == live, "allocation %zu failed: memory lost",
                       nth);
                EXPECT(status == FL_OK ? results_equal(&p, &expected, &r) : result_untouched(&r),
                       "wrong result, status %d", (int)status);
                result_free(&r);
            }
            EXPECT_STATUS(status, FL_OK);
            EXPECT(nth > 1, "no allocation failed");
            result_free(&expected);
            problem_free(&p);
        }
}

/* A larger call throws away the scratch memory of a smaller one before it finds that there is no more. */
static void forward_grows_without_memory(void)
{
    spec small = spec_plain(FL_F32, 2, 1, 10, 33), large = spec_plain(FL_F32, 60, 40, 10, 33);
    problem p, q;
    result r;
    small.shape.num_layers = large.shape.num_layers = 2; /* what is between layers takes memory in any case */
    problem_make(&p, &small);
    problem_make(&q, &large);
    problem_run(&p, 1, &r);
    result_free(&r);
    result_make(&r, &q);
    const fl_forward_args args = problem_args(&q, &r, 1);
    size_t nth = 0;
    fl_status status = FL_ERROR_MEMORY;
    while (status == FL_ERROR_MEMORY && nth < 50) {
        allocation_fail(++nth);
        status = fl_stack_forward(p.stack, &args);
        allocation_fail(0);
    }
    EXPECT_STATUS(status, FL_OK);
    EXPECT(nth > 1, "no allocation failed");
    result_free(&r);
    problem_run(&p, 1, &r);
    result_free(&r);
    problem_free(&p);
    problem_free(&q);
}

static void stream_without_memory(void)
{
    const spec s = spec_plain(FL_F64, 5, 3, 4, 9);
    problem p;
    fl_stream *stream = NULL;
    fl_status status = FL_ERROR_MEMORY;
    size_t nth = 0;
    problem_make(&p, &s);
    while (status == FL_ERROR_MEMORY && nth < 50) {
        const long live = atomic_load(&allocations_live);
        allocation_fail(++nth);
        status = fl_stream_create(p.stack, 3, 1, &stream);
        allocation_fail(0);
        EXPECT(status == FL_OK || stream == NULL, "a stream in spite of an error");
        EXPECT(status == FL_OK || atomic_load(&allocations_live) == live, "allocation %zu failed: memory lost", nth);
    }
    EXPECT_STATUS(status, FL_OK);
    EXPECT(nth > 1, "no allocation failed");
    fl_stream_destroy(stream);
    allocation_fail(1);
    EXPECT(fl_probe_stream(4096, 0.0) == 0.0, "a figure without memory");
    allocation_fail(0);
    problem_free(&p);
}

/* The same call again leaves nothing behind, and on one thread it takes nothing either: the scratch memory of the call
 * before is enough.  (On a busy machine the number of threads that take part may change, and with it their needs.) */
static void calls_leave_memory_flat(void)
{
    for (size_t threads = 1; threads <= 3; threads += 2) {
        spec s = spec_plain(FL_F32, 30, 20, 10, 33);
        s.ragged = true;
        problem p;
        result r;
        problem_make(&p, &s);
        problem_run(&p, threads, &r);
        const fl_forward_args args = problem_args(&p, &r, threads);
        const long live = atomic_load(&allocations_live), made = atomic_load(&allocations_made);
        for (size_t repeat = 0; repeat < rounds(200); repeat++) EXPECT_STATUS(fl_stack_forward(p.stack, &args), FL_OK);
        EXPECT(atomic_load(&allocations_live) == live, "%ld blocks, then %ld", live, atomic_load(&allocations_live));
        EXPECT(threads > 1 || atomic_load(&allocations_made) == made, "%ld allocations",
               atomic_load(&allocations_made) - made);
        result_free(&r);
        problem_free(&p);
    }
}

/* Long and short blocks, many rows: what was taken at the start is enough. */
static void stream_takes_memory_once(void)
{
    static const struct {
        size_t B, I, H, L;
    } sizes[] = {{1, 1, 16, 1}, {1, 30, 40, 3}, {3, 20, 24, 2}, {47, 9, 12, 2}, {60, 9, 12, 2}};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        spec s = spec_plain(FL_F32, harness_effort == EFFORT_FULL ? 3000 / sizes[n].B : 150 / sizes[n].B + 1,
                            sizes[n].B, sizes[n].I, sizes[n].H);
        s.shape.num_layers = sizes[n].L;
        problem p;
        result whole, r;
        fl_stream *stream = NULL;
        problem_make(&p, &s);
        problem_run(&p, 1, &whole);
        result_make(&r, &p);
        const fl_forward_args args = problem_args(&p, &r, 1);
        EXPECT_STATUS(fl_stream_create(p.stack, s.B, 1, &stream), FL_OK);
        const fl_stream_io io = {.x = args.x,
                                 .x_stride_t = args.x_stride_t,
                                 .x_stride_b = args.x_stride_b,
                                 .y = args.y,
                                 .y_stride_t = args.y_stride_t,
                                 .y_stride_b = args.y_stride_b};
        const long made = atomic_load(&allocations_made);
        EXPECT_STATUS(fl_stream_process(stream, s.T, &io), FL_OK);
        EXPECT(atomic_load(&allocations_made) == made, "%s: fl_stream_process allocates", spec_text(&s));
        const size_t bytes = p.cells * s.B * s.shape.hidden_size * p.real_size;
        for (size_t byte = 0; byte < bytes; byte++) {
            r.h_n[byte] = ((char *)fl_stream_h(stream))[byte];
            r.c_n[byte] = ((char *)fl_stream_c(stream))[byte];
        }
        EXPECT(results_equal(&p, &whole, &r), "%s", spec_text(&s));
        fl_stream_destroy(stream);
        result_free(&whole);
        result_free(&r);
        problem_free(&p);
    }
}

void test_memory(void)
{
    run_test("create_without_memory", create_without_memory);
    run_test("forward_without_memory", forward_without_memory);
    run_test("forward_grows_without_memory", forward_grows_without_memory);
    run_test("stream_without_memory", stream_without_memory);
    run_test("calls_leave_memory_flat", calls_leave_memory_flat);
    run_test("stream_takes_memory_once", stream_takes_memory_once);
}
