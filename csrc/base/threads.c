/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How many threads a call may use: the machine's share of this process, the process's limit, the thread's own limit.
 */
#include <stdatomic.h>

#include "base/exact.h"
#include "fastlstm.h"
#include "platform/platform.h"

static _Atomic size_t process_limit;     /* 0: the default, fl_cpu_count() and at most: */
static _Atomic size_t default_limit;     /* 0: any number */
static _Atomic size_t counted_cpus;      /* 0: not counted yet */
static _Thread_local size_t local_limit; /* 0: none */

size_t fl_cpu_count(void)
{
    size_t count = atomic_load_explicit(&counted_cpus, memory_order_relaxed);
    if (count == 0) {
        count = fl_system_cpus();
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
