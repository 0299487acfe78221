/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The interrupt callback.  It is asked about every 20 ms of a clock that hurries here, so that it is asked wherever it may
 * be, or stands still, so that it is not; how fast the machine is does not matter.
 */
#include <fenv.h>
#include <string.h>

#include "harness/oracle.h"
#include "harness/system.h"
#include "tests.h"

typedef struct interruption {
    const void *caller;
    size_t asked, on_other_thread, rounding_changed;
} interruption;

/* Goes on twice, then stops.  It is the caller's code, and runs in the caller's floating-point state. */
static int stop_at_third(void *context)
{
    interruption *self = context;
    self->on_other_thread += self->caller != test_thread_self();
    self->rounding_changed += fegetround() != FE_DOWNWARD;
    return ++self->asked == 3;
}

/* Of a pass that may be over before it is stopped. */
typedef struct turn {
    size_t asked, stops_at;
} turn;

static int stop_at_turn(void *context)
{
    turn *self = context;
    return ++self->asked == self->stops_at;
}

/* All steps read one row and write one row: only the callback ends such a call.  (Steps that overlap are against the rules when results matter; here they are
 * thrown away.) */
#define ENDLESS ((size_t)1 << (sizeof(size_t) > 4 ? 40 : 16))
#define ENDLESS_STREAM ((size_t)1 << (sizeof(size_t) > 4 ? 40 : 22))

static void interrupt_endless(const spec *s, size_t threads)
{
    problem p;
    result r;
    interruption context = {.caller = test_thread_self()};
    problem_make(&p, s);
    result_make(&r, &p);
    fl_forward_args args = problem_args(&p, &r, threads);
    args.T = ENDLESS;
    args.x_stride_t = args.y_stride_t = 0;
    args.interrupt = stop_at_third;
    args.interrupt_context = &context;
    clock_pace(CLOCK_HURRIES);
    fesetround(FE_DOWNWARD);
    const fl_status status = fl_stack_forward(p.stack, &args);
    const int rounding = fegetround();
    fesetround(FE_TONEAREST);
    EXPECT(rounding == FE_DOWNWARD, "%s: rounding mode %d after the call", problem_text(&p), rounding);
    EXPECT_STATUS(status, FL_ERROR_INTERRUPTED);
    EXPECT(context.asked == 3, "%s: asked %zu times", problem_text(&p), context.asked);
    EXPECT(context.rounding_changed == 0, "the callback does not see the caller's rounding mode");
    EXPECT(context.on_other_thread == 0, "called by another thread");
    result_free(&r);
    /* Layer and pool are as good as new. */
    problem_run(&p, threads, &r);
    expect_truth(&p, &r);
    result_free(&r);
    problem_free(&p);
}

static void interrupt_forward(void)
{
    static const struct {
        size_t sizes[6], threads;
    } calls[] = {{{2, 1, 3, 10, 1, 1}, 1},   {{2, 1, 40, 300, 1, 1}, 2}, {{2, 1, 3, 64, 3, 1}, 3},
                 {{2, 30, 12, 40, 1, 1}, 3}, {{2, 2, 5, 40, 1, 2}, 2},   {{2, 2, 5, 20, 2, 1}, 1}};
    for (size_t n = 0; n < sizeof calls / sizeof *calls; n++) {
        spec s = spec_stack(FL_CELL_LSTM, dtypes[n % 2], calls[n].sizes);
        s.wants_cells = false;
        interrupt_endless(&s, calls[n].threads);
    }
    for (size_t number = 1; number < SOME_CELLS; number++) {
        spec s = spec_some(number, FL_F64, 2, 2, 5, 20);
        s.wants_cells = false;
        interrupt_endless(&s, 1 + number % 2);
    }
}

/* By the machine's clock, which goes on. */
static void interrupt_stream(void)
{
    spec s = spec_plain(FL_CELL_LSTM, FL_F32, 2, 2, 3, 10);
    problem p;
    result r, again;
    fl_stream *stream = NULL;
    interruption context = {.caller = test_thread_self()};
    s.given_state = s.wants_cells = false;
    problem_make(&p, &s);
    problem_run(&p, 1, &r);
    result_make(&again, &p);
    EXPECT_STATUS(fl_stream_create(p.stack, 2, 1, &stream), FL_OK);
    fl_stream_io io = problem_stream_io(&p, &again, 0);
    io.x_stride_t = io.y_stride_t = 0;
    io.interrupt = stop_at_third;
    io.interrupt_context = &context;
    EXPECT_STATUS(fl_stream_process(stream, ENDLESS_STREAM, &io), FL_ERROR_INTERRUPTED);
    EXPECT(context.asked == 3, "asked %zu times", context.asked);
    problem_start_states(&p, fl_stream_h(stream), fl_stream_c(stream));
    io = problem_stream_io(&p, &again, 0);
    EXPECT_STATUS(fl_stream_process(stream, s.T, &io), FL_OK);
    memcpy(again.h_n, fl_stream_h(stream), 2 * problem_h_bytes(&p));
    memcpy(again.c_n, fl_stream_c(stream), 2 * problem_c_bytes(&p));
    EXPECT(results_equal(&p, &r, &p, &again), "after an interruption");
    fl_stream_destroy(stream);
    result_free(&r);
    result_free(&again);
    problem_free(&p);
}

static void interrupt_record(const problem *p, fl_tape *tape, fl_record_args args, const fl_backward_args *back)
{
    fl_status status = FL_ERROR_INTERRUPTED;
    turn t = {.stops_at = 0};
    args.call.interrupt = stop_at_turn;
    args.call.interrupt_context = &t;
    while (status == FL_ERROR_INTERRUPTED) {
        t.asked = 0;
        t.stops_at += 1 + t.stops_at / 2;
        status = fl_stack_record(p->stack, &args, tape);
        EXPECT_STATUS(status, t.asked == t.stops_at ? FL_ERROR_INTERRUPTED : FL_OK);
        if (status == FL_ERROR_INTERRUPTED)
            EXPECT_STATUS(fl_stack_backward(p->stack, tape, back), FL_ERROR_ARGUMENT);
    }
    EXPECT(t.stops_at > 1, "%s: a recorded pass is not interrupted", problem_text(p));
}

static void interrupt_backward(const problem *p, fl_tape *tape, fl_backward_args args)
{
    fl_status status = FL_ERROR_INTERRUPTED;
    turn t = {.stops_at = 0};
    args.interrupt = stop_at_turn;
    args.interrupt_context = &t;
    while (status == FL_ERROR_INTERRUPTED) {
        t.asked = 0;
        t.stops_at += 1 + t.stops_at / 2;
        status = fl_stack_backward(p->stack, tape, &args);
        EXPECT_STATUS(status, t.asked == t.stops_at ? FL_ERROR_INTERRUPTED : FL_OK);
    }
    EXPECT(t.stops_at > 1, "%s: a backward pass is not interrupted", problem_text(p));
}

/* A pass that is stopped, sooner or later, may be done again; each way of keeping asks in other places. */
static void check_training(size_t number, size_t save, size_t threads)
{
    spec s = spec_some(number, FL_F32, 130, 4, 4, 48);
    problem p;
    result r, again;
    gradients right, g;
    fl_tape *tape = NULL;
    turn never = {.stops_at = 1};
    s.bptt = 30; /* lest gradients explode */
    problem_make(&p, &s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    problem_train(&p, tape, save, 1, &r, &right);
    result_make(&again, &p);
    gradients_make(&g, &p);
    const fl_record_args recorded = problem_record_args(&p, &again, save, threads);
    fl_backward_args args = problem_backward_args(&p, &g, threads);
    clock_pace(CLOCK_HURRIES);
    interrupt_record(&p, tape, recorded, &args);
    interrupt_backward(&p, tape, args);
    EXPECT(results_equal(&p, &r, &p, &again), "%s: results after an interruption", problem_text(&p));
    EXPECT(gradients_equal(&p, &right, &p, &g), "%s: gradients after an interruption", problem_text(&p));
    clock_pace(0);
    args.interrupt = stop_at_turn;
    args.interrupt_context = &never;
    EXPECT_STATUS(fl_stack_backward(p.stack, tape, &args), FL_OK);
    EXPECT(never.asked == 0, "%s: asked %zu times in no time", problem_text(&p), never.asked);
    fl_tape_destroy(tape);
    result_free(&r);
    result_free(&again);
    gradients_free(&right);
    gradients_free(&g);
    problem_free(&p);
}

static void interrupt_training(void)
{
    static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 50};
    for (size_t number = 0; number < SOME_CELLS; number++)
        for (size_t n = 0; n < (number == 0 ? 6 : 2); n++) check_training(number, saves[(number + n) % 3], 1 + n % 2);
}

void test_interruptions(void)
{
    run_test("interrupt_forward", interrupt_forward);
    run_test("interrupt_stream", interrupt_stream);
    run_test("interrupt_training", interrupt_training);
}
