/* SPDX-License-Identifier: BSD-3-Clause
 *
 * For LD_PRELOAD: counts the calls of the allocator, and the bytes asked for, of a whole process, and lets one of a
 * thread's calls fail, or all from one on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static _Atomic size_t calls, bytes;

size_t allocation_calls(void) { return calls; }
size_t allocation_bytes(void) { return bytes; }

/* Of this thread: calls until one fails, whether those after it fail too, and how many have failed. */
#define OF_THREAD static _Thread_local __attribute__((tls_model("initial-exec")))
OF_THREAD size_t until_failure, failures;
OF_THREAD bool fails_on;

void allocation_fail(size_t nth, int and_all_later)
{
    until_failure = nth;
    failures = 0;
    fails_on = and_all_later != 0;
}

/* A call from Python that allocates nothing itself where it takes no arguments. */
void allocation_fail_stop(void) { until_failure = 0; }

size_t allocation_failures(void) { return failures; }

/* Whether the call succeeds. */
static bool count(size_t size)
{
    calls++;
    bytes += size;
    if (until_failure == 0 || --until_failure != 0)
        return true;
    until_failure = fails_on ? 1 : 0;
    failures++;
    errno = ENOMEM;
    return false;
}

#define NEXT(result, name, ...)         \
    static result (*next)(__VA_ARGS__); \
    if (next == NULL)                   \
    next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void *malloc(size_t size)
{
    NEXT(void *, "malloc", size_t);
    return count(size) ? next(size) : NULL;
}

/* dlsym itself may need memory once, before calloc is known. */
void *calloc(size_t n, size_t size)
{
    static char first[4096];
    static size_t used;
    static atomic_bool searching;
    static void *(*next)(size_t, size_t);
    if (next == NULL) {
        if (searching) {
            char *part = first + used;
            used += (n * size + 63) & ~(size_t)63;
            return used <= sizeof first ? part : NULL;
        }
        searching = 1;
        next = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
    }
    return count(n * size) ? next(n, size) : NULL;
}

void *realloc(void *old, size_t size)
{
    NEXT(void *, "realloc", void *, size_t);
    return count(size) ? next(old, size) : NULL;
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    NEXT(int, "posix_memalign", void **, size_t, size_t);
    return count(size) ? next(out, alignment, size) : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    NEXT(void *, "aligned_alloc", size_t, size_t);
    return count(size) ? next(alignment, size) : NULL;
}
