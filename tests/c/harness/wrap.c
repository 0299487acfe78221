/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Every call of these functions comes here: the linker sends it (-Wl,--wrap=malloc and so on), or where it cannot,
 * wrapped_names.h renames them (core_build.py has the list).  So tests can count allocations, let the nth one fail, and
 * set the pace of the clock.  Aligned memory, which is where the core keeps weights, states and scratch, ends at a page
 * that must not be touched, and is not zero but NaN.
 */
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "platform/platform.h"
#include "system.h"

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
void __real_free(void *);
bool __real_fl_thread_start(fl_thread *);
int64_t __real_fl_clock_nanoseconds(void);
void *__real_fl_system_allocate(size_t, size_t);
void __real_fl_system_free(void *);
unsigned __real_fl_machine_abilities(void);

void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_realloc(void *, size_t);
void __wrap_free(void *);
bool __wrap_fl_thread_start(fl_thread *);
int64_t __wrap_fl_clock_nanoseconds(void);
void *__wrap_fl_system_allocate(size_t, size_t);
void __wrap_fl_system_free(void *);
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
    const size_t page = page_bytes();
    const size_t size = (bytes + alignment - 1) / alignment * alignment, body = (size + page - 1) / page * page;
    for (size_t n = 0; n < GUARDED_MOST && alignment < page; n++) {
        guarded *block = &guarded_blocks[n];
        void *expected = NULL;
        if (!atomic_compare_exchange_strong(&block->data, &expected, block))
            continue;
        void *pages = pages_new(body + page);
        if (pages == NULL) {
            atomic_store(&block->data, NULL);
            return NULL;
        }
        char *data = (char *)pages + body - size;
        memset(pages, 0xff, body);
        pages_forbid((char *)pages + body, page);
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
            pages_free(block->pages, block->page_bytes);
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

static _Thread_local bool is_counted; /* what is freed now */

void __wrap_free(void *memory)
{
    if (memory != NULL && !is_counted)
        atomic_fetch_sub(&allocations_live, 1);
    __real_free(memory);
}

void *__wrap_fl_system_allocate(size_t alignment, size_t bytes)
{
    if (fails_now())
        return NULL;
    void *block = guarded_new(alignment, bytes);
    if (block == NULL)
        block = __real_fl_system_allocate(alignment, bytes);
    if (block != NULL)
        atomic_fetch_add(&allocation_bytes, bytes);
    return counted(block);
}

void __wrap_fl_system_free(void *memory)
{
    if (memory == NULL)
        return;
    atomic_fetch_sub(&allocations_live, 1);
    is_counted = true;
    if (!guarded_free(memory))
        __real_fl_system_free(memory);
    is_counted = false;
}

bool __wrap_fl_thread_start(fl_thread *thread)
{
    size_t left = atomic_load(&starts_left);
    if (left == 0)
        return false;
    if (left != SIZE_MAX)
        atomic_store(&starts_left, left - 1);
    return __real_fl_thread_start(thread);
}

/* ---- The clock ---------------------------------------------------------------------------------------------- */

static atomic_llong clock_shown, clock_ahead, clock_step = -1;

/* Time never goes back: afterwards the machine's clock is as far ahead as was shown. */
void clock_pace(int64_t nanoseconds)
{
    if (atomic_load(&clock_step) < 0)
        atomic_store(&clock_shown, __real_fl_clock_nanoseconds() + atomic_load(&clock_ahead));
    else
        atomic_store(&clock_ahead, atomic_load(&clock_shown) - __real_fl_clock_nanoseconds());
    atomic_store(&clock_step, nanoseconds);
}

int64_t __wrap_fl_clock_nanoseconds(void)
{
    const int64_t step = atomic_load(&clock_step);
    return step < 0 ? __real_fl_clock_nanoseconds() + atomic_load(&clock_ahead)
                    : atomic_fetch_add(&clock_shown, step) + step;
}

unsigned __wrap_fl_machine_abilities(void) { return __real_fl_machine_abilities() & ~abilities_lacking; }
