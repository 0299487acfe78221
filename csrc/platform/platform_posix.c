/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Linux, macOS and what is like them.
 */
#define _GNU_SOURCE
#include "base/exact.h"

#if !defined(_WIN32)
#include "platform/platform.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/* ---- Locks and conditions --------------------------------------------------------------------------------- */

void fl_lock_init(fl_lock *lock) { pthread_mutex_init(&lock->state, NULL); }
void fl_lock_take(fl_lock *lock) { pthread_mutex_lock(&lock->state); }
void fl_lock_give(fl_lock *lock) { pthread_mutex_unlock(&lock->state); }
void fl_condition_init(fl_condition *condition) { pthread_cond_init(&condition->state, NULL); }
void fl_condition_wait(fl_condition *condition, fl_lock *lock) { pthread_cond_wait(&condition->state, &lock->state); }
void fl_condition_signal(fl_condition *condition) { pthread_cond_signal(&condition->state); }

/* ---- Threads ---------------------------------------------------------------------------------------------- */

/* Threads of musl have 128 KiB, those of macOS 512.  A kernel's frame is up to 6 KiB (gcc -fstack-usage), and more under
 * a sanitizer. */
#define LEAST_STACK ((size_t)1 << 20)

static void *run_thread(void *argument)
{
    const fl_thread *const thread = argument;
    thread->run(thread->argument);
    return NULL;
}

bool fl_thread_start(fl_thread *thread)
{
    pthread_t started;
    pthread_attr_t attributes;
    sigset_t all, before;
    size_t stack = 0;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < LEAST_STACK)
        pthread_attr_setstacksize(&attributes, LEAST_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&started, &attributes, run_thread, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed == 0;
}

void fl_thread_yield(void) { sched_yield(); }

void fl_thread_nap(int64_t nanoseconds)
{
    const struct timespec nap = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
    nanosleep(&nap, NULL);
}

bool fl_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    return pthread_atfork(before, in_parent, in_child) == 0;
}

#if defined(__linux__)
_Static_assert(sizeof(((fl_place *)NULL)->allowed) == sizeof(cpu_set_t), "a place for a set of CPUs");

void fl_place_init(fl_place *place)
{
    atomic_store(&place->thread_id, 0);
    atomic_store(&place->cpu, -1);
    place->moved = false;
}

void fl_place_enter(fl_place *place) { atomic_store(&place->thread_id, (int)syscall(SYS_gettid)); }

/* The scheduler likes to wake a worker on the CPU of its caller, where each would wait for the other to give way, call
 * after call (measured: 118 instead of 7 us).  So one that last ran there is sent elsewhere, and allowed back as soon as
 * it runs. */
void fl_place_move_away(fl_place *place)
{
    const int here = sched_getcpu(), thread_id = atomic_load(&place->thread_id);
    cpu_set_t elsewhere;
    if (here < 0 || here >= CPU_SETSIZE || thread_id == 0 || atomic_load(&place->cpu) != here || place->moved ||
        sched_getaffinity(thread_id, sizeof elsewhere, &elsewhere) != 0)
        return;
    memcpy(place->allowed, &elsewhere, sizeof elsewhere);
    CPU_CLR((size_t)here, &elsewhere);
    place->moved = CPU_COUNT(&elsewhere) > 0 && sched_setaffinity(thread_id, sizeof elsewhere, &elsewhere) == 0;
}

void fl_place_arrive(fl_place *place)
{
    if (place->moved) {
        cpu_set_t allowed;
        place->moved = false;
        memcpy(&allowed, place->allowed, sizeof allowed);
        (void)sched_setaffinity(0, sizeof allowed, &allowed); /* it was allowed before */
    }
}

void fl_place_note(fl_place *place) { atomic_store_explicit(&place->cpu, sched_getcpu(), memory_order_relaxed); }
#else
void fl_place_init(fl_place *place) { (void)place; }
void fl_place_enter(fl_place *place) { (void)place; }
void fl_place_move_away(fl_place *place) { (void)place; }
void fl_place_arrive(fl_place *place) { (void)place; }
void fl_place_note(fl_place *place) { (void)place; }
#endif

/* ---- Time ------------------------------------------------------------------------------------------------- */

int64_t fl_clock_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- Memory ----------------------------------------------------------------------------------------------- */

void *fl_system_allocate(size_t alignment, size_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, alignment, bytes) == 0 ? memory : NULL;
}

void fl_system_free(void *memory) { free(memory); }

void fl_system_want_huge_pages(void *memory, size_t bytes)
{
#if defined(MADV_HUGEPAGE)
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

/* ---- Processors ------------------------------------------------------------------------------------------- */

static size_t affinity_count(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (size_t)CPU_COUNT(&set);
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

#if defined(__linux__)
/* floor(quota / period) of one cgroup v2 directory, or `most` where it sets no limit. */
static size_t quota_of(const char *directory, size_t most)
{
    char path[4200];
    long long quota, period;
    if (snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", directory) >= (int)sizeof path)
        return most;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return most;
    const int fields = fscanf(file, "%lld %lld", &quota, &period); /* "max 100000" gives none */
    fclose(file);
    if (fields != 2 || quota <= 0 || period <= 0)
        return most;
    const long long cpus = quota / period;
    return cpus < 1 ? 1 : (unsigned long long)cpus < most ? (size_t)cpus : most;
}

/* The least quota of this process's cgroup and its parents. */
static size_t cgroup_count(size_t most)
{
    char line[4096];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return most;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        char *directory = line + 3;
        directory[strcspn(directory, "\n")] = '\0';
        for (char *slash; (slash = strrchr(directory, '/')) != NULL; *slash = '\0') most = quota_of(directory, most);
    }
    fclose(file);
    return quota_of("", most);
}

/* One of the kernel's files about a cache of the first CPU. */
static bool read_cache_file(unsigned index, const char *name, char text[32])
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%u/%s", index, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    const bool read = fgets(text, 32, file) != NULL;
    fclose(file);
    return read;
}

/* The C library of Arm machines, and musl, do not tell. */
static void read_cache_files(fl_caches *caches)
{
    char type[32], level[32], size[32];
    for (unsigned index = 0; index < 8; index++) {
        if (!read_cache_file(index, "type", type) || !read_cache_file(index, "level", level) ||
            !read_cache_file(index, "size", size))
            return;
        const size_t bytes = (size_t)strtoul(size, NULL, 10) << 10; /* "512K" */
        size_t *const place = level[0] == '1' ? &caches->l1 : level[0] == '2' ? &caches->l2 : &caches->last;
        if (type[0] != 'I' && *place == 0)
            *place = bytes;
    }
}
#else
static size_t cgroup_count(size_t most) { return most; }
#endif

size_t fl_system_cpus(void)
{
    const size_t count = cgroup_count(affinity_count());
    return count < 1 ? 1 : count;
}

#if defined(__APPLE__)
static size_t system_value(const char *name)
{
    int64_t value = 0;
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, NULL, 0) == 0 && value > 0 ? (size_t)value : 0;
}
#elif defined(_SC_LEVEL1_DCACHE_SIZE)
static size_t system_value(int name)
{
    const long value = sysconf(name);
    return value > 0 ? (size_t)value : 0;
}
#endif

fl_caches fl_system_caches(void)
{
    fl_caches caches = {0, 0, 0};
#if defined(__APPLE__)
    caches.l1 = system_value("hw.perflevel0.l1dcachesize");
    caches.l2 = system_value("hw.perflevel0.l2cachesize");
    caches.l1 = caches.l1 != 0 ? caches.l1 : system_value("hw.l1dcachesize");
    caches.l2 = caches.l2 != 0 ? caches.l2 : system_value("hw.l2cachesize");
    caches.last = system_value("hw.l3cachesize");
#elif defined(_SC_LEVEL1_DCACHE_SIZE)
    caches.l1 = system_value(_SC_LEVEL1_DCACHE_SIZE);
    caches.l2 = system_value(_SC_LEVEL2_CACHE_SIZE);
    caches.last = system_value(_SC_LEVEL3_CACHE_SIZE);
#endif
#if defined(__linux__)
    if (caches.l1 == 0)
        read_cache_files(&caches);
#endif
    return caches;
}

unsigned fl_system_arm_features(void)
{
    unsigned found = 0;
#if defined(__aarch64__) && defined(__linux__)
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    found |= (first & 1UL << 20) != 0 ? FL_SYSTEM_DOTPROD : 0; /* HWCAP_ASIMDDP */
    found |= (second & 1UL << 13) != 0 ? FL_SYSTEM_I8MM : 0;   /* HWCAP2_I8MM */
    found |= (second & 1UL << 14) != 0 ? FL_SYSTEM_BF16 : 0;   /* HWCAP2_BF16 */
#elif defined(__aarch64__) && defined(__APPLE__)
    found |= system_value("hw.optional.arm.FEAT_DotProd") != 0 ? FL_SYSTEM_DOTPROD : 0;
    found |= system_value("hw.optional.arm.FEAT_I8MM") != 0 ? FL_SYSTEM_I8MM : 0;
    found |= system_value("hw.optional.arm.FEAT_BF16") != 0 ? FL_SYSTEM_BF16 : 0;
#endif
    return found;
}
#endif
