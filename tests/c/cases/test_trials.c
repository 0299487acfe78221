/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Plans that are tried and chosen: times are those that the test makes up.
 */
#include <string.h>

#include "base/pool.h"
#include "forward/trials.h"
#include "harness/problem.h"
#include "tests.h"

/* A kind of call with `ways` plans that no layer has; `number` makes it another. */
static fl_plan_facts kind_of(size_t number, size_t ways)
{
    fl_plan_facts kind;
    memset(&kind, 0, sizeof kind);
    kind.pass = FL_PASS_FORWARD;
    kind.hidden_size = SIZE_MAX - number;
    kind.ways = ways;
    for (size_t n = 0; n < ways; n++) kind.way[n].threads = n + 1;
    return kind;
}

/* One call, each plan of which takes `times`; returns the plan that it took. */
static size_t call_once(const fl_plan_facts *kind, const double *times)
{
    const fl_trial trial = fl_trial_begin(kind, 1.0);
    EXPECT(trial.slot != NULL, "not tried");
    EXPECT(trial.way < kind->ways, "plan %zu of %zu", trial.way, kind->ways);
    fl_trial_report(&trial, times[trial.way]);
    return trial.way;
}

/* How many of `calls` calls took each plan. */
static void calls_of(const fl_plan_facts *kind, const double *times, size_t calls, size_t taken[FL_PLAN_WAYS])
{
    for (size_t n = 0; n < FL_PLAN_WAYS; n++) taken[n] = 0;
    for (size_t n = 0; n < calls; n++) taken[call_once(kind, times)]++;
}

static bool find_facts(const fl_plan_facts *kind, fl_plan_facts *found)
{
    for (size_t index = 0; fl_plan_get_facts(index, found) == FL_OK; index++)
        if (found->hidden_size == kind->hidden_size)
            return true;
    return false;
}

static void the_fastest_plan_stays(void)
{
    for (size_t ways = 2; ways <= FL_PLAN_WAYS; ways++) {
        for (size_t best = 0; best < ways; best++) {
            const fl_plan_facts kind = kind_of(10 * ways + best, ways);
            double times[FL_PLAN_WAYS] = {3.0, 3.3, 3.6, 3.9};
            size_t taken[FL_PLAN_WAYS];
            times[best] = 2.0;
            fl_plan_facts found;
            calls_of(&kind, times, 3 * ways, taken);
            for (size_t n = 0; n < ways; n++) EXPECT(taken[n] == 3, "plan %zu had %zu of the first calls", n, taken[n]);
            EXPECT(find_facts(&kind, &found) && found.is_settled && found.chosen == best, "not chosen: plan %zu", best);
            EXPECT(found.way[best].nanoseconds == 2.0 && found.way[best].threads == best + 1, "other facts");
            calls_of(&kind, times, 100, taken);
            EXPECT(taken[best] == 100, "%zu of 100 calls", taken[best]);
            /* Others are asked more and more rarely, by turns: after 128 calls, after 256 more, and so on. */
            calls_of(&kind, times, 20000, taken);
            for (size_t n = 0; n < ways; n++)
                EXPECT(n == best ? taken[n] == 20000 - 7 : taken[n] >= 7 / (ways - 1),
                       "plan %zu had %zu of 20000 calls", n, taken[n]);
        }
    }
}

static void one_slow_call_decides_nothing(void)
{
    const fl_plan_facts kind = kind_of(100, 2);
    size_t taken[FL_PLAN_WAYS];
    for (size_t n = 0; n < 6; n++) call_once(&kind, (double[]){n == 2 ? 90.0 : 2.0, 3.0});
    calls_of(&kind, (double[]){2.0, 3.0}, 50, taken);
    EXPECT(taken[0] == 50, "%zu of 50 calls", taken[0]);
    call_once(&kind, (double[]){9.0, 9.0});
    calls_of(&kind, (double[]){2.0, 3.0}, 50, taken);
    EXPECT(taken[0] == 50, "%zu of 50 calls after a slow one", taken[0]);
}

static void a_plan_that_becomes_slow_is_left_and_found_again(void)
{
    const fl_plan_facts kind = kind_of(200, 2);
    size_t taken[FL_PLAN_WAYS];
    calls_of(&kind, (double[]){5.0, 3.0}, 50, taken);
    EXPECT(taken[1] == 47, "%zu of 50 calls", taken[1]);
    calls_of(&kind, (double[]){5.0, 30.0}, 60, taken); /* a neighbour takes a CPU */
    EXPECT(taken[0] > 40, "%zu of 60 calls", taken[0]);
    calls_of(&kind, (double[]){5.0, 3.0}, 1000, taken); /* it goes away */
    EXPECT(taken[1] > 700, "%zu of 1000 calls", taken[1]);
}

static void kinds_do_not_mix_and_old_ones_give_way(void)
{
    size_t taken[FL_PLAN_WAYS];
    for (size_t n = 0; n < 2000; n++) {
        const fl_plan_facts kind = kind_of(1000 + n, 2);
        const double times[] = {n % 2 == 0 ? 1.0 : 2.0, n % 2 == 0 ? 2.0 : 1.0};
        calls_of(&kind, times, 20, taken);
        EXPECT(taken[n % 2] == 17, "kind %zu: %zu of 20 calls", n, taken[n % 2]);
    }
    /* What was begun before its place was taken says nothing of who has it now. */
    const fl_plan_facts old = kind_of(5000, 2);
    const fl_trial late = fl_trial_begin(&old, 1.0);
    for (size_t n = 0; n < 3000; n++) {
        const fl_plan_facts kind = kind_of(6000 + n, 2);
        const double times[] = {2.0, 1.0};
        EXPECT(n != 0 || late.way == 0, "plan %zu", late.way);
        for (size_t call = 0; call < 6; call++) {
            fl_trial_report(&late, 1e-9);
            call_once(&kind, times);
        }
        EXPECT(call_once(&kind, times) == 1, "a report of another kind has chosen for kind %zu", n);
    }
    size_t count = 0;
    fl_plan_facts found;
    while (fl_plan_get_facts(count, &found) == FL_OK) count++;
    EXPECT(count > 100 && count < 1000, "%zu kinds", count);
}

static void what_has_no_choice_is_not_tried(void)
{
    const fl_plan_facts one = kind_of(10000, 1), two = kind_of(10001, 2);
    fl_plan_facts found;
    EXPECT(fl_trial_begin(&one, 1.0).slot == NULL, "one plan");
    EXPECT(fl_trial_begin(&two, 0.0).slot == NULL, "no step");
    EXPECT(fl_get_plan_trials(), "trials are off");
    fl_set_plan_trials(false);
    const fl_trial off = fl_trial_begin(&two, 1.0);
    EXPECT(off.slot == NULL && off.way == 0 && !fl_get_plan_trials(), "trials are on");
    fl_trial_end(&off);
    fl_set_plan_trials(true);
    EXPECT(!find_facts(&one, &found) && !find_facts(&two, &found), "remembered");
    EXPECT_STATUS(fl_plan_get_facts(0, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_plan_get_facts(SIZE_MAX, &found), FL_ERROR_ARGUMENT);
}

/* ---- Calls that may not wait ---------------------------------------------------------------------------------- */

static bool is_tried_with_threads(fl_pass pass, size_t hidden_size)
{
    fl_plan_facts found;
    for (size_t index = 0; fl_plan_get_facts(index, &found) == FL_OK; index++)
        if (found.pass == pass && found.hidden_size == hidden_size && found.max_threads > 1)
            return true;
    return false;
}

/* After threads had to wait for a busy machine, calls compute alone for a while.  A stream goes on with its threads: no step
 * may take longer because another call was late. */
static void streams_do_not_rest(void)
{
    const size_t H = 599, sizes[6] = {1, 1, 5, H, 1, 1};
    const spec s = spec_stack(FL_CELL_LSTM, FL_F32, sizes);
    problem p;
    result r;
    fl_stream *stream = NULL;
    clock_pace(0);
    problem_make(&p, &s);
    fl_pool_rest();
    problem_run(&p, 2, &r);
    EXPECT(!is_tried_with_threads(FL_PASS_FORWARD, H), "a call has threads while they rest");
    EXPECT_STATUS(fl_stream_create(p.stack, 1, 2, &stream), FL_OK);
    const fl_stream_io io = problem_stream_io(&p, &r, 0);
    EXPECT_STATUS(fl_stream_process(stream, 1, &io), FL_OK);
    EXPECT(is_tried_with_threads(FL_PASS_STREAM, H), "a stream computes alone while threads rest");
    fl_stream_destroy(stream);
    result_free(&r);
    clock_pace(CLOCK_HURRIES);
    problem_run(&p, 2, &r);
    EXPECT(is_tried_with_threads(FL_PASS_FORWARD, H), "a call computes alone afterwards");
    result_free(&r);
    problem_free(&p);
}

void test_trials(void)
{
    run_test("what_has_no_choice_is_not_tried", what_has_no_choice_is_not_tried);
    run_test("the_fastest_plan_stays", the_fastest_plan_stays);
    run_test("one_slow_call_decides_nothing", one_slow_call_decides_nothing);
    run_test("a_plan_that_becomes_slow_is_left_and_found_again", a_plan_that_becomes_slow_is_left_and_found_again);
    run_test("streams_do_not_rest", streams_do_not_rest);
    run_test("kinds_do_not_mix_and_old_ones_give_way", kinds_do_not_mix_and_old_ones_give_way);
}
