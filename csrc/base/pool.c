/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Workers are started when first needed, block all signals (those belong to the interpreter's main thread) and are
 * forgotten in a forked child, which starts its own.  A worker that has finished spins for a moment, since calls often
 * come in a row, and then sleeps on its condition variable.
 */
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* About 20 us: one pause is some 40 cycles on current x86 cores, 10 to 140 on others. */
#define SPIN_PAUSES 2000
#define YIELDS 1000 /* some 0.5 ms: a waiting thread that naps comes back late */
#define NAP_NANOSECONDS 20000
/* How long calls stay on one thread after one that spent its time waiting for a thread that had no CPU. */
#define REST_NANOSECONDS 50000000

typedef struct worker {
    fl_counter order;      /* number of jobs given to this worker */
    fl_counter done;       /* number of jobs it has finished */
    pthread_mutex_t mutex; /* guards `asleep` against a lost wake-up */
    pthread_cond_t wake;
    atomic_bool asleep;
    size_t index;
    void (*job)(void *, size_t);
    void *context;
#if defined(__linux__)
    atomic_int thread_id; /* 0: not running yet */
    atomic_int cpu;       /* where it finished its last job */
    bool moved;           /* by move_away(); `allowed` is to be restored */
    cpu_set_t allowed;
#endif
} worker;

static struct {
    pthread_mutex_t mutex; /* held while workers are being started, and over fork */
    atomic_flag busy;
    size_t started;
    bool fork_handlers;
    worker workers[FL_MAX_THREADS]; /* worker 0 is never used: index 0 is the caller */
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER, .busy = ATOMIC_FLAG_INIT};

static _Atomic int64_t rest_until;

static int64_t nanoseconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void fl_pool_rest(void) { atomic_store(&rest_until, nanoseconds_now() + REST_NANOSECONDS); }

bool fl_pool_resting(void)
{
    const int64_t until = atomic_load_explicit(&rest_until, memory_order_relaxed);
    return until != 0 && nanoseconds_now() < until;
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

bool fl_wait(const fl_counter *counter, uint64_t target, const atomic_bool *stop, unsigned *slow)
{
    for (unsigned turn = 0; atomic_load_explicit(&counter->value, memory_order_acquire) < target; turn++) {
        if (stop != NULL && atomic_load_explicit(stop, memory_order_relaxed))
            return false;
        if (turn == SPIN_PAUSES && slow != NULL)
            ++*slow;
        if (turn < SPIN_PAUSES) {
            pause_cpu();
        } else if (turn < SPIN_PAUSES + YIELDS) {
            sched_yield();
        } else {
            const struct timespec nap = {0, NAP_NANOSECONDS};
            nanosleep(&nap, NULL);
        }
    }
    return true;
}

static void wait_for_order(worker *self, uint64_t target)
{
    for (unsigned turn = 0; turn < SPIN_PAUSES; turn++) {
        if (atomic_load_explicit(&self->order.value, memory_order_acquire) >= target)
            return;
        pause_cpu();
    }
    pthread_mutex_lock(&self->mutex);
    atomic_store(&self->asleep, true);
    while (atomic_load(&self->order.value) < target) pthread_cond_wait(&self->wake, &self->mutex);
    atomic_store(&self->asleep, false);
    pthread_mutex_unlock(&self->mutex);
}

/* The scheduler likes to wake a worker on the CPU of its caller, where each would wait for the other to give way, call
 * after call (measured: 118 instead of 7 us).  So one that last ran there is sent elsewhere, and allowed back as soon as
 * it runs. */
static void move_away(worker *other)
{
#if defined(__linux__)
    const int here = sched_getcpu(), thread_id = atomic_load(&other->thread_id);
    cpu_set_t elsewhere;
    if (here < 0 || here >= CPU_SETSIZE || thread_id == 0 || atomic_load(&other->cpu) != here || other->moved ||
        sched_getaffinity(thread_id, sizeof other->allowed, &other->allowed) != 0)
        return;
    elsewhere = other->allowed;
    CPU_CLR((size_t)here, &elsewhere);
    other->moved = CPU_COUNT(&elsewhere) > 0 && sched_setaffinity(thread_id, sizeof elsewhere, &elsewhere) == 0;
#else
    (void)other;
#endif
}

static void note_arrival(worker *self)
{
#if defined(__linux__)
    if (self->moved) {
        self->moved = false;
        (void)sched_setaffinity(0, sizeof self->allowed, &self->allowed); /* it was allowed before */
    }
#else
    (void)self;
#endif
}

static void note_place(worker *self)
{
#if defined(__linux__)
    atomic_store_explicit(&self->cpu, sched_getcpu(), memory_order_relaxed);
#else
    (void)self;
#endif
}

static void *worker_main(void *argument)
{
    worker *self = argument;
#if defined(__linux__)
    atomic_store(&self->thread_id, (int)syscall(SYS_gettid));
#endif
    for (uint64_t turn = 1;; turn++) {
        wait_for_order(self, turn);
        note_arrival(self);
        self->job(self->context, self->index);
        note_place(self);
        atomic_store_explicit(&self->done.value, turn, memory_order_release);
    }
    return NULL;
}

static void before_fork(void) { pthread_mutex_lock(&pool.mutex); }
static void after_fork_parent(void) { pthread_mutex_unlock(&pool.mutex); }
static void after_fork_child(void)
{
    pool.started = 0; /* the workers stayed behind */
    atomic_flag_clear(&pool.busy);
    pthread_mutex_init(&pool.mutex, NULL);
}

static bool start_worker(size_t index)
{
    worker *self = &pool.workers[index];
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    atomic_store(&self->order.value, 0);
    atomic_store(&self->done.value, 0);
    atomic_store(&self->asleep, false);
#if defined(__linux__)
    atomic_store(&self->thread_id, 0);
    atomic_store(&self->cpu, -1);
    self->moved = false;
#endif
    pthread_mutex_init(&self->mutex, NULL);
    pthread_cond_init(&self->wake, NULL);
    self->index = index;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&thread, &attributes, worker_main, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed == 0;
}

size_t fl_pool_acquire(size_t want)
{
    if (want > FL_MAX_THREADS)
        want = FL_MAX_THREADS;
    if (want <= 1 || atomic_flag_test_and_set_explicit(&pool.busy, memory_order_acquire))
        return 1;
    pthread_mutex_lock(&pool.mutex);
    if (!pool.fork_handlers)
        pool.fork_handlers = pthread_atfork(before_fork, after_fork_parent, after_fork_child) == 0;
    while (pool.started + 1 < want && start_worker(pool.started + 1)) pool.started++;
    const size_t threads = pool.started + 1 < want ? pool.started + 1 : want;
    pthread_mutex_unlock(&pool.mutex);
    if (threads == 1)
        atomic_flag_clear_explicit(&pool.busy, memory_order_release);
    return threads;
}

void fl_pool_release(size_t acquired)
{
    if (acquired > 1)
        atomic_flag_clear_explicit(&pool.busy, memory_order_release);
}

void fl_pool_run(void (*job)(void *context, size_t index), void *context, size_t threads)
{
    for (size_t index = 1; index < threads; index++) {
        worker *other = &pool.workers[index];
        other->job = job;
        other->context = context;
        move_away(other);
        atomic_fetch_add(&other->order.value, 1);
        if (atomic_load(&other->asleep)) {
            pthread_mutex_lock(&other->mutex);
            pthread_cond_signal(&other->wake);
            pthread_mutex_unlock(&other->mutex);
        }
    }
    job(context, 0);
    for (size_t index = 1; index < threads; index++) {
        worker *other = &pool.workers[index];
        fl_wait(&other->done, atomic_load_explicit(&other->order.value, memory_order_relaxed), NULL, NULL);
    }
}
