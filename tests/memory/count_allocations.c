/* SPDX-License-Identifier: BSD-3-Clause
 *
 * For LD_PRELOAD: counts the calls of the allocator, and the bytes asked for, of a whole process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

static _Atomic size_t calls, bytes;

size_t allocation_calls(void) { return calls; }
size_t allocation_bytes(void) { return bytes; }

static void count(size_t size)
{
    calls++;
    bytes += size;
}

#define NEXT(result, name, ...)         \
    static result (*next)(__VA_ARGS__); \
    if (next == NULL)                   \
    next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void *malloc(size_t size)
{
    NEXT(void *, "malloc", size_t);
    count(size);
    return next(size);
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
    count(n * size);
    return next(n, size);
}

void *realloc(void *old, size_t size)
{
    NEXT(void *, "realloc", void *, size_t);
    count(size);
    return next(old, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    NEXT(int, "posix_memalign", void **, size_t, size_t);
    count(size);
    return next(out, alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    NEXT(void *, "aligned_alloc", size_t, size_t);
    count(size);
    return next(alignment, size);
}
