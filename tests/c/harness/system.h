/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the tests need of the operating system: pages, threads, a barrier.
 */
#ifndef SYSTEM_H
#define SYSTEM_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* ---- Pages of memory, which are zero ----------------------------------------------------------------------- */

size_t page_bytes(void);
void *pages_new(size_t bytes); /* null when there are none */
void pages_free(void *pages, size_t bytes);
void pages_forbid(void *pages, size_t bytes);
void pages_read_only(void *pages, size_t bytes);
void pages_open(void *pages, size_t bytes); /* to be read and written, as at first */

/* ---- Threads ----------------------------------------------------------------------------------------------- */

typedef struct test_thread {
    void (*run)(void *argument);
    void *argument;
    void *handle;
} test_thread;

/* Start thread->run(thread->argument); the thread stays where it is until it has been joined. */
bool test_thread_start(test_thread *thread);
void test_thread_join(test_thread *thread);
void test_thread_yield(void);
/* An address that no other living thread has. */
const void *test_thread_self(void);

/* So many threads wait for each other, once. */
typedef struct test_barrier {
    atomic_size_t missing;
} test_barrier;
void test_barrier_wait(test_barrier *barrier);

#endif
