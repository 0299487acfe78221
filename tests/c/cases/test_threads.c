/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Several callers at once, fork, signals, limits.  (test_schedules.c has the threads of one call.)
 */
#define _GNU_SOURCE
#include <string.h>
#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "harness/problem.h"
#include "harness/system.h"
#include "tests.h"

#define CALLERS 6

/* A problem that is worth several threads, and its results. */
typedef struct shared {
    problem p;
    result expected, recorded;
    gradients right;
} shared;

static void shared_make(shared *s, fl_dtype dtype)
{
    static const size_t sizes[6] = {30, 24, 12, 45, 2, 1};
    const spec plain = spec_stack(FL_CELL_LSTM, dtype, sizes);
    problem_make(&s->p, &plain);
    fl_tape *tape = NULL;
    problem_run(&s->p, 1, &s->expected);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    problem_train(&s->p, tape, FL_SAVE_ALL, 1, &s->recorded, &s->right);
    fl_tape_destroy(tape);
}

static void shared_free(shared *s)
{
    result_free(&s->expected);
    result_free(&s->recorded);
    gradients_free(&s->right);
    problem_free(&s->p);
}

/* Run into `r` and compare; for any thread. */
static bool right_again(const shared *s, const result *r, size_t threads)
{
    const fl_forward_args args = problem_args(&s->p, r, threads);
    return fl_stack_forward(s->p.stack, &args) == FL_OK && results_equal(&s->p, &s->expected, &s->p, r);
}

/* ---- Several callers ---------------------------------------------------------------------------------------- */

typedef struct caller {
    const shared *shared;
    test_barrier *barrier;
    result r;
    gradients g;
    fl_tape *tape; /* or null: calls alone */
    size_t threads, wrong;
} caller;

static bool right_gradients_again(const caller *self)
{
    const problem *p = &self->shared->p;
    const fl_record_args recorded = problem_record_args(p, &self->r, 3, self->threads);
    const fl_backward_args args = problem_backward_args(p, &self->g, self->threads);
    return fl_stack_record(p->stack, &recorded, self->tape) == FL_OK &&
           fl_stack_backward(p->stack, self->tape, &args) == FL_OK &&
           gradients_equal(p, &self->shared->right, p, &self->g);
}

static void call_again_and_again(void *argument)
{
    caller *self = argument;
    test_barrier_wait(self->barrier);
    for (size_t repeat = 0; repeat < rounds(self->tape != NULL ? 6 : 30); repeat++) {
        self->wrong += !right_again(self->shared, &self->r, self->threads);
        if (self->tape != NULL)
            self->wrong += !right_gradients_again(self);
    }
}

/* Every other one of them trains too. */
static void many_callers_of_one_layer(void)
{
    for (size_t d = 0; d < DTYPES; d++) {
        shared s;
        caller callers[CALLERS];
        test_thread threads[CALLERS];
        test_barrier barrier = {CALLERS};
        shared_make(&s, dtypes[d]);
        for (size_t n = 0; n < CALLERS; n++) {
            callers[n] = (caller){.shared = &s, .barrier = &barrier, .threads = n % 4 + 1};
            result_make(&callers[n].r, &s.p);
            gradients_make(&callers[n].g, &s.p);
            if (n % 2 == 0)
                EXPECT_STATUS(fl_tape_create(&callers[n].tape), FL_OK);
        }
        for (size_t n = 0; n < CALLERS; n++) {
            threads[n] = (test_thread){.run = call_again_and_again, .argument = &callers[n]};
            EXPECT(test_thread_start(&threads[n]), "no thread");
        }
        for (size_t n = 0; n < CALLERS; n++) {
            test_thread_join(&threads[n]);
            EXPECT(callers[n].wrong == 0, "caller %zu: %zu wrong results", n, callers[n].wrong);
            fl_tape_destroy(callers[n].tape);
            result_free(&callers[n].r);
            gradients_free(&callers[n].g);
        }
        shared_free(&s);
    }
}

/* ---- Limits --------------------------------------------------------------------------------------------------- */

static void other_thread_limit(void *limit) { *(size_t *)limit = fl_get_num_threads(); }

static void limits(void)
{
    size_t elsewhere = 0;
    test_thread thread = {.run = other_thread_limit, .argument = &elsewhere};
    const size_t cpus = fl_cpu_count();
    EXPECT(cpus >= 1, "no CPU");
    fl_set_num_threads(0);
    EXPECT(fl_get_num_threads() == cpus, "%zu threads, %zu CPUs", fl_get_num_threads(), cpus);
    fl_set_num_threads(5);
    EXPECT(fl_get_num_threads() == 5, "%zu threads", fl_get_num_threads());
    EXPECT(fl_set_local_num_threads(3) == 0, "a local limit from the start");
    EXPECT(fl_get_num_threads() == 3, "%zu threads", fl_get_num_threads());
    EXPECT(test_thread_start(&thread), "no thread");
    test_thread_join(&thread);
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

#if !defined(_WIN32)
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

static void compute_in_background(void *argument)
{
    background *self = argument;
    while (!atomic_load(&self->stop)) {
        atomic_fetch_add(&self->wrong, !right_again(self->shared, &self->r, 3));
        atomic_fetch_add(&self->calls, 1);
    }
}

static void fork_while_computing(void)
{
    shared s;
    result r;
    background other;
    test_thread thread = {.run = compute_in_background, .argument = &other};
    shared_make(&s, FL_F32);
    result_make(&r, &s.p);
    other.shared = &s;
    atomic_init(&other.stop, false);
    atomic_init(&other.calls, 0);
    atomic_init(&other.wrong, 0);
    result_make(&other.r, &s.p);
    EXPECT(test_thread_start(&thread), "no thread");
    for (size_t repeat = 0; repeat < rounds(24); repeat++) {
        const size_t calls = atomic_load(&other.calls);
        while (atomic_load(&other.calls) < calls + 2) test_thread_yield();
        EXPECT(in_child(right_again, &s, &r, 3), "child %zu", repeat);
    }
    atomic_store(&other.stop, true);
    test_thread_join(&thread);
    EXPECT(atomic_load(&other.wrong) == 0, "%zu wrong results in the parent", atomic_load(&other.wrong));
    result_free(&other.r);
    result_free(&r);
    shared_free(&s);
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

#endif

void test_threads(void)
{
    run_test("limits", limits);
    run_test("many_callers_of_one_layer", many_callers_of_one_layer);
    run_test("absurd_number_of_threads", absurd_number_of_threads);
}

#if defined(_WIN32)
/* There is neither. */
void test_signals(void) {}

void test_fork(void) {}
#else
void test_signals(void) { run_test("workers_take_no_signals", workers_take_no_signals); }

void test_fork(void)
{
    run_test("fork_after_use", fork_after_use);
    run_test("threads_that_cannot_be_started", threads_that_cannot_be_started);
    run_test("fork_while_computing", fork_while_computing);
}
#endif
