/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The thread pool: one wake a call, static work, no nesting.  Knows nothing of layers.
 */
#ifndef FL_POOL_H
#define FL_POOL_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/exact.h"
#include "fastlstm.h"

#define FL_MAX_THREADS 64

/* Threads for a call that asked for so many; 0: the limit in force. */
static inline size_t fl_thread_limit(size_t asked) { return asked != 0 ? asked : fl_get_num_threads(); }

/* A counter that one thread raises and others wait for, on a cache line of its own, and without its neighbour, which
 * some processors fetch along. */
typedef struct fl_counter {
    _Alignas(64) _Atomic uint64_t value;
    char padding[120];
} fl_counter;

/* Wait until counter >= target: spin for some 20 us, then give the CPU away, then sleep in short naps, so that an
 * oversubscribed machine goes on.  False when *stop was raised first.  *slow counts waits that outlasted the spin. */
bool fl_wait(const fl_counter *counter, uint64_t target, const atomic_bool *stop, unsigned *slow);

/* Reserve the pool for up to `want` threads, the caller included, and start missing workers.  Returns how many there
 * are: 1 when the pool is busy or threads cannot be started; never fails. */
size_t fl_pool_acquire(size_t want);
/* Run job(context, index) for index < threads, index 0 on the caller; returns when all are done.  `threads` at most
 * what fl_pool_acquire returned. */
void fl_pool_run(void (*job)(void *context, size_t index), void *context, size_t threads);
void fl_pool_release(size_t acquired);
/* The machine is too busy for threads that wait for each other: calls should stay on one thread for the next 50 ms. */
void fl_pool_rest(void);
bool fl_pool_resting(void);

#endif
