/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Several callers at once, fork, interruption, signals, limits.  (test_schedules.c has the threads of one call.)
 */
#define _GNU_SOURCE
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/problem.h"
#include "tests.h"

#define CALLERS 6

/* A problem that is worth several threads, and its result. */
typedef struct shared {
    problem p;
    result expected;
} shared;

static void shared_make(shared *s, fl_dtype dtype)
{
    spec sizes = spec_plain(dtype, 30, 24, 12, 45);
    sizes.shape.num_layers = 2;
    sizes.given_state = true;
    problem_make(&s->p, &sizes);
    problem_run(&s->p, 1, &s->expected);
}

static void shared_free(shared *s)
{
    result_free(&s->expected);
    problem_free(&s->p);
}

/* Run into `r` and compare; for any thread. */
static bool right_again(const shared *s, const result *r, size_t threads)
{
    const fl_forward_args args = problem_args(&s->p, r, threads);
    return fl_stack_forward(s->p.stack, &args) == FL_OK && results_equal(&s->p, &s->expected, r);
}

/* ---- Several callers ---------------------------------------------------------------------------------------- */

typedef struct caller {
    const shared *shared;
    pthread_barrier_t *barrier;
    result r;
    size_t threads, wrong;
} caller;

static void *call_again_and_again(void *argument)
{
    caller *self = argument;
    pthread_barrier_wait(self->barrier);
    for (size_t repeat = 0; repeat < rounds(30); repeat++)
        self->wrong += !right_again(self->shared, &self->r, self->threads);
    return NULL;
}

static void many_callers_of_one_layer(void)
{
    for (int d = 0; d < 2; d++) {
        shared s;
        caller callers[CALLERS];
        pthread_t threads[CALLERS];
        pthread_barrier_t barrier;
        shared_make(&s, d == 0 ? FL_F32 : FL_F64);
        pthread_barrier_init(&barrier, NULL, CALLERS);
        for (size_t n = 0; n < CALLERS; n++) {
            callers[n] = (caller){.shared = &s, .barrier = &barrier, .threads = n % 4 + 1};
            result_make(&callers[n].r, &s.p);
        }
        for (size_t n = 0; n < CALLERS; n++)
            EXPECT(pthread_create(&threads[n], NULL, call_again_and_again, &callers[n]) == 0, "no thread");
        for (size_t n = 0; n < CALLERS; n++) {
            pthread_join(threads[n], NULL);
            EXPECT(callers[n].wrong == 0, "caller %zu: %zu wrong results", n, callers[n].wrong);
            result_free(&callers[n].r);
        }
        pthread_barrier_destroy(&barrier);
        shared_free(&s);
    }
}

/* ---- Limits --------------------------------------------------------------------------------------------------- */

static void *other_thread_limit(void *limit)
{
    *(size_t *)limit = fl_get_num_threads();
    return NULL;
}

static void limits(void)
{
    pthread_t thread;
    size_t elsewhere = 0;
    const size_t cpus = fl_cpu_count();
    EXPECT(cpus >= 1, "no CPU");
    fl_set_num_threads(0);
    EXPECT(fl_get_num_threads() == cpus, "%zu threads, %zu CPUs", fl_get_num_threads(), cpus);
    fl_set_num_threads(5);
    EXPECT(fl_get_num_threads() == 5, "%zu threads", fl_get_num_threads());
    EXPECT(fl_set_local_num_threads(3) == 0, "a local limit from the start");
    EXPECT(fl_get_num_threads() == 3, "%zu threads", fl_get_num_threads());
    EXPECT(pthread_create(&thread, NULL, other_thread_limit, &elsewhere) == 0, "no thread");
    pthread_join(thread, NULL);
    EXPECT(elsewhere == 5, "%zu threads elsewhere", elsewhere);
    EXPECT(fl_set_local_num_threads(0) == 3, "the limit before");
    EXPECT(fl_get_num_threads() == 5, "%zu threads", fl_get_num_threads());
    fl_set_num_threads(0);
    EXPECT(fl_get_num_threads() == cpus, "%zu threads, %zu CPUs", fl_get_num_threads(), cpus);
}

/* Far more threads than the machine or the pool has. */
static void absurd_number_of_threads(void)
{
    shared s;
    result r;
    shared_make(&s, FL_F32);
    result_make(&r, &s.p);
    EXPECT(right_again(&s, &r, 1000), "1000 threads");
    EXPECT(right_again(&s, &r, SIZE_MAX), "SIZE_MAX threads");
    result_free(&r);
    shared_free(&s);
}

/* ---- fork ----------------------------------------------------------------------------------------------------- */

/* Run job in a forked child: its return value. */
static bool in_child(bool (*job)(const shared *, const result *, size_t), const shared *s, const result *r, size_t n)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0)
        _exit(job(s, r, n) ? 0 : 1);
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void fork_after_use(void)
{
    shared s;
    result r;
    shared_make(&s, FL_F32);
    result_make(&r, &s.p);
    EXPECT(right_again(&s, &r, 3), "before the fork");
    EXPECT(in_child(right_again, &s, &r, 4), "in the child");
    EXPECT(right_again(&s, &r, 3), "after the fork");
    result_free(&r);
    shared_free(&s);
}

/* Only `n` threads can be started: fewer take part, the result is the same, and later there may be more. */
static bool right_with_few_threads(const shared *s, const result *r, size_t n)
{
    thread_starts_left(n);
    const bool right = right_again(s, r, 4);
    thread_starts_left(SIZE_MAX);
    return right && right_again(s, r, 4);
}

static void threads_that_cannot_be_started(void)
{
    shared s;
    result r;
    shared_make(&s, FL_F32);
    result_make(&r, &s.p);
    for (size_t starts = 0; starts < 4; starts++)
        EXPECT(in_child(right_with_few_threads, &s, &r, starts), "%zu thread starts", starts);
    result_free(&r);
    shared_free(&s);
}

typedef struct background {
    const shared *shared;
    result r;
    atomic_bool stop;
    atomic_size_t calls, wrong;
} background;

static void *compute_in_background(void *argument)
{
    background *self = argument;
    while (!atomic_load(&self->stop)) {
        atomic_fetch_add(&self->wrong, !right_again(self->shared, &self->r, 3));
        atomic_fetch_add(&self->calls, 1);
    }
    return NULL;
}

static void fork_while_computing(void)
{
    shared s;
    result r;
    background other;
    pthread_t thread;
    shared_make(&s, FL_F32);
    result_make(&r, &s.p);
    other.shared = &s;
    atomic_init(&other.stop, false);
    atomic_init(&other.calls, 0);
    atomic_init(&other.wrong, 0);
    result_make(&other.r, &s.p);
    EXPECT(pthread_create(&thread, NULL, compute_in_background, &other) == 0, "no thread");
    for (size_t repeat = 0; repeat < rounds(24); repeat++) {
        const size_t calls = atomic_load(&other.calls);
        while (atomic_load(&other.calls) < calls + 2) sched_yield();
        EXPECT(in_child(right_again, &s, &r, 3), "child %zu", repeat);
    }
    atomic_store(&other.stop, true);
    pthread_join(thread, NULL);
    EXPECT(atomic_load(&other.wrong) == 0, "%zu wrong results in the parent", atomic_load(&other.wrong));
    result_free(&other.r);
    result_free(&r);
    shared_free(&s);
}

/* ---- Interruption --------------------------------------------------------------------------------------------- */

typedef struct interruption {
    pthread_t caller;
    size_t asked, on_other_thread, rounding_changed;
} interruption;

/* Goes on twice, then stops.  It is the caller's code, and runs in the caller's floating-point state. */
static int stop_at_third(void *context)
{
    interruption *self = context;
    self->on_other_thread += !pthread_equal(self->caller, pthread_self());
    self->rounding_changed += fegetround() != FE_DOWNWARD;
    return ++self->asked == 3;
}

/* All steps read one row and write one row, so that a call can be so long that only the callback ends it.  (Steps that
 * overlap are against the rules when results matter; here they are thrown away.) */
#define ENDLESS ((size_t)1 << 40)

static void interrupt_endless(const spec *s, size_t threads)
{
    problem p;
    result r;
    interruption context = {.caller = pthread_self()};
    problem_make(&p, s);
    result_make(&r, &p);
    fl_forward_args args = problem_args(&p, &r, threads);
    args.T = ENDLESS;
    args.x_stride_t = args.y_stride_t = 0;
    args.interrupt = stop_at_third;
    args.interrupt_context = &context;
    fesetround(FE_DOWNWARD);
    const fl_status status = fl_stack_forward(p.stack, &args);
    EXPECT(fegetround() == FE_DOWNWARD, "rounding mode %d after the call", fegetround());
    fesetround(FE_TONEAREST);
    EXPECT_STATUS(status, FL_ERROR_INTERRUPTED);
    EXPECT(context.asked == 3, "asked %zu times", context.asked);
    EXPECT(context.rounding_changed == 0, "the callback does not see the caller's rounding mode");
    EXPECT(context.on_other_thread == 0, "called by another thread");
    result_free(&r);
    /* Layer and pool are as good as new. */
    oracle o;
    oracle_make(&o, &p);
    problem_run(&p, threads, &r);
    EXPECT(oracle_error(&o, &p, &r) <= oracle_tolerance(s->shape.dtype), "%s after an interruption", spec_text(s));
    oracle_free(&o);
    result_free(&r);
    problem_free(&p);
}

static void interrupt_forward(void)
{
    static const struct {
        size_t B, I, H, L, D, threads;
    } sizes[] = {{1, 3, 10, 1, 1, 1},   {1, 40, 300, 1, 1, 2}, {1, 3, 64, 3, 1, 3},
                 {30, 12, 40, 1, 1, 3}, {2, 5, 40, 1, 2, 2},   {2, 5, 20, 2, 1, 1}};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        spec s = spec_plain(n % 2 == 0 ? FL_F32 : FL_F64, 2, sizes[n].B, sizes[n].I, sizes[n].H);
        s.shape.num_layers = sizes[n].L;
        s.shape.num_directions = sizes[n].D;
        interrupt_endless(&s, sizes[n].threads);
    }
}

static void interrupt_stream(void)
{
    const spec s = spec_plain(FL_F32, 2, 2, 3, 10);
    problem p;
    result r, again;
    fl_stream *stream = NULL;
    interruption context = {.caller = pthread_self()};
    problem_make(&p, &s);
    problem_run(&p, 1, &r);
    result_make(&again, &p);
    EXPECT_STATUS(fl_stream_create(p.stack, 2, 1, &stream), FL_OK);
    const fl_forward_args args = problem_args(&p, &again, 1);
    fl_stream_io io = {.x = args.x,
                       .x_stride_b = args.x_stride_b,
                       .y = args.y,
                       .y_stride_b = args.y_stride_b,
                       .interrupt = stop_at_third,
                       .interrupt_context = &context};
    EXPECT_STATUS(fl_stream_process(stream, ENDLESS, &io), FL_ERROR_INTERRUPTED);
    EXPECT(context.asked == 3, "asked %zu times", context.asked);
    memset(fl_stream_h(stream), 0, 2 * 10 * sizeof(float));
    memset(fl_stream_c(stream), 0, 2 * 10 * sizeof(float));
    io.x_stride_t = args.x_stride_t;
    io.y_stride_t = args.y_stride_t;
    EXPECT_STATUS(fl_stream_process(stream, s.T, &io), FL_OK);
    memcpy(again.h_n, fl_stream_h(stream), 2 * 10 * sizeof(float));
    memcpy(again.c_n, fl_stream_c(stream), 2 * 10 * sizeof(float));
    EXPECT(results_equal(&p, &r, &again), "after an interruption");
    fl_stream_destroy(stream);
    result_free(&r);
    result_free(&again);
    problem_free(&p);
}

/* ---- Signals -------------------------------------------------------------------------------------------------- */

static atomic_size_t handled, handled_elsewhere;
static pthread_t handling_thread;

static void count_signal(int number)
{
    (void)number;
    atomic_fetch_add(&handled, 1);
    atomic_fetch_add(&handled_elsewhere, !pthread_equal(pthread_self(), handling_thread));
}

/* Workers block all signals: one that the main thread blocks stays pending, and it alone handles it later. */
static void workers_take_no_signals(void)
{
    shared s;
    result r;
    struct sigaction action = {.sa_handler = count_signal}, before;
    sigset_t set, mask, pending;
    shared_make(&s, FL_F32);
    result_make(&r, &s.p);
    handling_thread = pthread_self();
    sigaction(SIGUSR1, &action, &before);
    EXPECT(right_again(&s, &r, 4), "starts the workers");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, &mask);
    kill(getpid(), SIGUSR1);
    EXPECT(right_again(&s, &r, 4), "with a signal pending");
    sigpending(&pending);
    EXPECT(sigismember(&pending, SIGUSR1) == 1, "the signal is not pending any more");
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    EXPECT(atomic_load(&handled) == 1, "handled %zu times", atomic_load(&handled));
    EXPECT(atomic_load(&handled_elsewhere) == 0, "a worker handled it");
    sigaction(SIGUSR1, &before, NULL);
    result_free(&r);
    shared_free(&s);
}

void test_threads(void)
{
    run_test("limits", limits);
    run_test("many_callers_of_one_layer", many_callers_of_one_layer);
    run_test("absurd_number_of_threads", absurd_number_of_threads);
}

void test_interruptions(void)
{
    run_test("interrupt_forward", interrupt_forward);
    run_test("interrupt_stream", interrupt_stream);
    run_test("workers_take_no_signals", workers_take_no_signals);
}

void test_fork(void)
{
    run_test("fork_after_use", fork_after_use);
    run_test("threads_that_cannot_be_started", threads_that_cannot_be_started);
    run_test("fork_while_computing", fork_while_computing);
}
