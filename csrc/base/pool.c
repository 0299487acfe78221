/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Workers are started when first needed, block all signals (those belong to the interpreter's main thread) and are
 * forgotten in a forked child, which starts its own.  A worker that has finished spins for a moment, since calls often
 * come in a row, and then sleeps on its condition variable.
 */
#include "base/pool.h"

#include "platform/platform.h"

/* About 20 us: one pause is some 40 cycles on current x86 cores, 10 to 140 on others. */
#define SPIN_PAUSES 2000
#define YIELDS 1000 /* some 0.5 ms: a waiting thread that naps comes back late */
#define NAP_NANOSECONDS 20000
/* How long calls stay on one thread after one that spent its time waiting for a thread that had no CPU. */
#define REST_NANOSECONDS 50000000

typedef struct worker {
    fl_counter order; /* number of jobs given to this worker */
    fl_counter done;  /* number of jobs it has finished */
    fl_lock lock;     /* guards `asleep` against a lost wake-up */
    fl_condition wake;
    atomic_bool asleep;
    size_t index;
    void (*job)(void *, size_t);
    void *context;
    fl_place place;
    fl_thread thread;
} worker;

static struct {
    fl_lock lock; /* held while workers are being started, and over fork */
    atomic_flag busy;
    size_t started;
    bool fork_handlers;
    worker workers[FL_MAX_THREADS]; /* worker 0 is never used: index 0 is the caller */
} pool = {.lock = FL_LOCK_FREE, .busy = ATOMIC_FLAG_INIT};

static _Atomic int64_t rest_until;

void fl_pool_rest(void) { atomic_store(&rest_until, fl_clock_nanoseconds() + REST_NANOSECONDS); }

bool fl_pool_resting(void)
{
    const int64_t until = atomic_load_explicit(&rest_until, memory_order_relaxed);
    return until != 0 && fl_clock_nanoseconds() < until;
}

bool fl_wait(const fl_counter *counter, uint64_t target, const atomic_bool *stop, unsigned *slow)
{
    for (unsigned turn = 0; atomic_load_explicit(&counter->value, memory_order_acquire) < target; turn++) {
        if (stop != NULL && atomic_load_explicit(stop, memory_order_relaxed))
            return false;
        if (turn == SPIN_PAUSES && slow != NULL)
            ++*slow;
        if (turn < SPIN_PAUSES) {
            fl_cpu_pause();
        } else if (turn < SPIN_PAUSES + YIELDS) {
            fl_thread_yield();
        } else {
            fl_thread_nap(NAP_NANOSECONDS);
        }
    }
    return true;
}

static void wait_for_order(worker *self, uint64_t target)
{
    for (unsigned turn = 0; turn < SPIN_PAUSES; turn++) {
        if (atomic_load_explicit(&self->order.value, memory_order_acquire) >= target)
            return;
        fl_cpu_pause();
    }
    fl_lock_take(&self->lock);
    atomic_store(&self->asleep, true);
    while (atomic_load(&self->order.value) < target) fl_condition_wait(&self->wake, &self->lock);
    atomic_store(&self->asleep, false);
    fl_lock_give(&self->lock);
}

static void worker_main(void *argument)
{
    worker *self = argument;
    fl_place_enter(&self->place);
    for (uint64_t turn = 1;; turn++) {
        wait_for_order(self, turn);
        fl_place_arrive(&self->place);
        self->job(self->context, self->index);
        fl_place_note(&self->place);
        atomic_store_explicit(&self->done.value, turn, memory_order_release);
    }
}

static void before_fork(void) { fl_lock_take(&pool.lock); }
static void after_fork_parent(void) { fl_lock_give(&pool.lock); }
static void after_fork_child(void)
{
    pool.started = 0; /* the workers stayed behind */
    atomic_flag_clear(&pool.busy);
    fl_lock_init(&pool.lock);
}

static bool start_worker(size_t index)
{
    worker *self = &pool.workers[index];
    atomic_store(&self->order.value, 0);
    atomic_store(&self->done.value, 0);
    atomic_store(&self->asleep, false);
    fl_place_init(&self->place);
    fl_lock_init(&self->lock);
    fl_condition_init(&self->wake);
    self->index = index;
    self->thread = (fl_thread){worker_main, self};
    return fl_thread_start(&self->thread);
}

size_t fl_pool_acquire(size_t want)
{
    if (want > FL_MAX_THREADS)
        want = FL_MAX_THREADS;
    if (want <= 1 || atomic_flag_test_and_set_explicit(&pool.busy, memory_order_acquire))
        return 1;
    fl_lock_take(&pool.lock);
    if (!pool.fork_handlers)
        pool.fork_handlers = fl_at_fork(before_fork, after_fork_parent, after_fork_child);
    while (pool.started + 1 < want && start_worker(pool.started + 1)) pool.started++;
    const size_t threads = pool.started + 1 < want ? pool.started + 1 : want;
    fl_lock_give(&pool.lock);
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
        fl_place_move_away(&other->place);
        atomic_fetch_add(&other->order.value, 1);
        if (atomic_load(&other->asleep)) {
            fl_lock_take(&other->lock);
            fl_condition_signal(&other->wake);
            fl_lock_give(&other->lock);
        }
    }
    job(context, 0);
    for (size_t index = 1; index < threads; index++) {
        worker *other = &pool.workers[index];
        fl_wait(&other->done, atomic_load_explicit(&other->order.value, memory_order_relaxed), NULL, NULL);
    }
}
