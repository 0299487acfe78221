/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How many threads a call may use: the machine's share of this process, the process's limit, the thread's own limit.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/exact.h"
#include "fastlstm.h"

static _Atomic size_t process_limit;     /* 0: the default, fl_cpu_count() and at most: */
static _Atomic size_t default_limit;     /* 0: any number */
static _Atomic size_t counted_cpus;      /* 0: not counted yet */
static _Thread_local size_t local_limit; /* 0: none */

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
    const size_t cpus = (size_t)(quota / period);
    return cpus < 1 ? 1 : cpus < most ? cpus : most;
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

size_t fl_cpu_count(void)
{
    size_t count = atomic_load_explicit(&counted_cpus, memory_order_relaxed);
    if (count == 0) {
        count = cgroup_count(affinity_count());
        count = count < 1 ? 1 : count;
        atomic_store_explicit(&counted_cpus, count, memory_order_relaxed);
    }
    return count;
}

void fl_set_num_threads(size_t num_threads)
{
    if (num_threads == 0)
        atomic_store(&counted_cpus, 0);
    atomic_store(&process_limit, num_threads);
}

size_t fl_get_num_threads(void)
{
    if (local_limit != 0)
        return local_limit;
    const size_t limit = atomic_load_explicit(&process_limit, memory_order_relaxed);
    if (limit != 0)
        return limit;
    const size_t cpus = fl_cpu_count(), most = atomic_load_explicit(&default_limit, memory_order_relaxed);
    return most != 0 && most < cpus ? most : cpus;
}

void fl_set_default_num_threads(size_t most) { atomic_store(&default_limit, most); }

size_t fl_set_local_num_threads(size_t num_threads)
{
    const size_t before = local_limit;
    local_limit = num_threads;
    return before;
}
