/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The operating system, as far as this library needs one: threads, locks, time, memory, processors.  Two files supply it,
 * platform_posix.c and platform_windows.c; each is empty on the other's systems, and no other file includes a system's
 * header.  Knows nothing of layers.
 */
#ifndef FL_PLATFORM_H
#define FL_PLATFORM_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "base/exact.h"

/* ---- Locks and conditions; none of them fails ------------------------------------------------------------- */

#if defined(_WIN32)
typedef struct fl_lock {
    void *state; /* an SRWLOCK */
} fl_lock;
typedef struct fl_condition {
    void *state; /* a CONDITION_VARIABLE */
} fl_condition;
#define FL_LOCK_FREE {NULL}
#else
typedef struct fl_lock {
    pthread_mutex_t state;
} fl_lock;
typedef struct fl_condition {
    pthread_cond_t state;
} fl_condition;
#define FL_LOCK_FREE {PTHREAD_MUTEX_INITIALIZER}
#endif

void fl_lock_init(fl_lock *lock);
void fl_lock_take(fl_lock *lock);
void fl_lock_give(fl_lock *lock);
void fl_condition_init(fl_condition *condition);
/* Gives the lock while it sleeps; may return without a signal. */
void fl_condition_wait(fl_condition *condition, fl_lock *lock);
void fl_condition_signal(fl_condition *condition);

/* ---- Threads ---------------------------------------------------------------------------------------------- */

/* A thread that nobody waits for and that handles no signal. */
typedef struct fl_thread {
    void (*run)(void *argument);
    void *argument;
} fl_thread;

/* Start it; `thread` must stay where it is.  False where there is no thread to be had. */
bool fl_thread_start(fl_thread *thread);
/* Give the CPU to whoever else wants it. */
void fl_thread_yield(void);
/* Sleep for about so long, or as short as the system can. */
void fl_thread_nap(int64_t nanoseconds);
/* Call these around a fork, and the last in the child.  False where that could not be arranged; true where processes do
 * not fork. */
bool fl_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void));

static inline void fl_cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Where a thread runs, so that another can send it away from its own CPU.  Nothing happens where the system has no such
 * thing.  The functions in the order of a thread's life: init by whoever starts it, enter by itself, and for each job
 * move_away by whoever is about to wake it, arrive and note by itself. */
typedef struct fl_place {
#if defined(__linux__)
    atomic_int thread_id; /* 0: not running yet */
    atomic_int cpu;       /* where it finished its last job */
    bool moved;           /* by fl_place_move_away(); `allowed` is to be restored */
    uint64_t allowed[16]; /* a cpu_set_t */
#else
    char unused;
#endif
} fl_place;

void fl_place_init(fl_place *place);
void fl_place_enter(fl_place *place);
void fl_place_move_away(fl_place *place);
void fl_place_arrive(fl_place *place);
void fl_place_note(fl_place *place);

/* ---- Time ------------------------------------------------------------------------------------------------- */

/* Of a clock that never goes back. */
int64_t fl_clock_nanoseconds(void);

/* ---- Memory ----------------------------------------------------------------------------------------------- */

/* `alignment` a power of two and a multiple of a pointer's; null when there is none. */
void *fl_system_allocate(size_t alignment, size_t bytes);
void fl_system_free(void *memory); /* of fl_system_allocate(), or null */
/* A hint that whole huge pages are worth having; nothing depends on it. */
void fl_system_want_huge_pages(void *memory, size_t bytes);

/* ---- Processors ------------------------------------------------------------------------------------------- */

/* CPUs that this process may use, at least 1: floor(min(affinity, cgroup quota)). */
size_t fl_system_cpus(void);

/* Bytes of a core's L1 for data, of its L2, and of the last level; 0 where the system does not tell. */
typedef struct fl_caches {
    size_t l1, l2, last;
} fl_caches;
fl_caches fl_system_caches(void);

/* What the system says of a 64-bit Arm processor, for which its user mode has no instruction.  0 elsewhere. */
enum { FL_SYSTEM_DOTPROD = 1 << 0, FL_SYSTEM_I8MM = 1 << 1, FL_SYSTEM_BF16 = 1 << 2 };
unsigned fl_system_arm_features(void);

#endif
