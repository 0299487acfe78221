/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The linker sends every call of these functions here (-Wl,--wrap=malloc and so on; core_build.py has the list), so
 * that tests can count allocations, let the nth one fail, and set the pace of the clock.  Aligned memory, which is where the core keeps weights,
 * states and scratch, ends at a page that must not be touched, and is not zero but NaN.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
void *__real_aligned_alloc(size_t, size_t);
int __real_posix_memalign(void **, size_t, size_t);
void __real_free(void *);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __real_clock_gettime(clockid_t, struct timespec *);

void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_realloc(void *, size_t);
void *__wrap_aligned_alloc(size_t, size_t);
int __wrap_posix_memalign(void **, size_t, size_t);
void __wrap_free(void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_clock_gettime(clockid_t, struct timespec *);
unsigned __real_fl_machine_abilities(void);
unsigned __wrap_fl_machine_abilities(void);

atomic_long allocations_live, allocations_made;
atomic_size_t allocation_bytes;
static _Thread_local size_t until_failure;
static atomic_size_t starts_left = SIZE_MAX;

void allocation_fail(size_t nth) { until_failure = nth; }

static unsigned abilities_lacking;

void machine_lacks(unsigned abilities) { abilities_lacking = abilities; }

void thread_starts_left(size_t count) { atomic_store(&starts_left, count); }

static bool fails_now(void) { return until_failure != 0 && --until_failure == 0; }

static void *counted(void *memory)
{
    atomic_fetch_add(&allocations_made, 1);
    if (memory != NULL)
        atomic_fetch_add(&allocations_live, 1);
    return memory;
}

/* ---- Aligned memory before a guard page --------------------------------------------------------------------- */

#define GUARDED_MOST 64

typedef struct guarded {
    void *pages;
    size_t page_bytes;
    _Atomic(void *) data; /* null: the slot is free; itself: taken, and not yet filled */
} guarded;

static guarded guarded_blocks[GUARDED_MOST];

/* Null where there is no slot, or the alignment is that of a huge page. */
static void *guarded_new(size_t alignment, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t size = (bytes + alignment - 1) / alignment * alignment, body = (size + page - 1) / page * page;
    for (size_t n = 0; n < GUARDED_MOST && alignment < page; n++) {
        guarded *block = &guarded_blocks[n];
        void *expected = NULL;
        if (!atomic_compare_exchange_strong(&block->data, &expected, block))
            continue;
        void *pages = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED) {
            atomic_store(&block->data, NULL);
            return NULL;
        }
        char *data = (char *)pages + body - size;
        memset(pages, 0xff, body);
        mprotect((char *)pages + body, page, PROT_NONE);
        block->pages = pages;
        block->page_bytes = body + page;
        atomic_store(&block->data, data);
        return data;
    }
    return NULL;
}

/* The slot is taken while its pages go, which another thread may then be given at the same place. */
static bool guarded_free(void *memory)
{
    for (size_t n = 0; n < GUARDED_MOST; n++) {
        guarded *block = &guarded_blocks[n];
        void *expected = memory;
        if (atomic_compare_exchange_strong(&block->data, &expected, block)) {
            munmap(block->pages, block->page_bytes);
            atomic_store(&block->data, NULL);
            return true;
        }
    }
    return false;
}

/* ---- The wrappers ------------------------------------------------------------------------------------------- */

void *__wrap_malloc(size_t bytes) { return fails_now() ? NULL : counted(__real_malloc(bytes)); }

void *__wrap_calloc(size_t count, size_t bytes) { return fails_now() ? NULL : counted(__real_calloc(count, bytes)); }

void *__wrap_realloc(void *memory, size_t bytes)
{
    if (fails_now())
        return NULL;
    return memory == NULL ? counted(__real_realloc(memory, bytes)) : __real_realloc(memory, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails_now() ? NULL : counted(__real_aligned_alloc(alignment, bytes));
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    if (fails_now())
        return ENOMEM;
    void *block = guarded_new(alignment, bytes);
    const int error = block == NULL ? __real_posix_memalign(&block, alignment, bytes) : 0;
    if (error == 0) {
        *memory = counted(block);
        atomic_fetch_add(&allocation_bytes, bytes);
    }
    return error;
}

void __wrap_free(void *memory)
{
    if (memory == NULL)
        return;
    atomic_fetch_sub(&allocations_live, 1);
    if (!guarded_free(memory))
        __real_free(memory);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    size_t left = atomic_load(&starts_left);
    if (left == 0)
        return EAGAIN;
    if (left != SIZE_MAX)
        atomic_store(&starts_left, left - 1);
    return __real_pthread_create(thread, attributes, run, argument);
}

/* ---- The clock ---------------------------------------------------------------------------------------------- */

#define SECOND 1000000000

static atomic_llong clock_shown, clock_ahead, clock_step = -1;

static int64_t machine_clock(void)
{
    struct timespec now;
    __real_clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

/* Time never goes back: afterwards the machine's clock is as far ahead as was shown. */
void clock_pace(int64_t nanoseconds)
{
    if (atomic_load(&clock_step) < 0)
        atomic_store(&clock_shown, machine_clock() + atomic_load(&clock_ahead));
    else
        atomic_store(&clock_ahead, atomic_load(&clock_shown) - machine_clock());
    atomic_store(&clock_step, nanoseconds);
}

int __wrap_clock_gettime(clockid_t id, struct timespec *now)
{
    const int64_t step = atomic_load(&clock_step);
    if (id != CLOCK_MONOTONIC)
        return __real_clock_gettime(id, now);
    const int64_t shown =
        step < 0 ? machine_clock() + atomic_load(&clock_ahead) : atomic_fetch_add(&clock_shown, step) + step;
    now->tv_sec = (time_t)(shown / SECOND);
    now->tv_nsec = (long)(shown % SECOND);
    return 0;
}
unsigned __wrap_fl_machine_abilities(void) { return __real_fl_machine_abilities() & ~abilities_lacking; }
