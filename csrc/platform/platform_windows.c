/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Windows 8 and later.
 */
#include "base/exact.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#if !defined(_WIN32_WINNT) || _WIN32_WINNT < 0x0602
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0602
#endif
#include <windows.h>

#include <malloc.h>
#include <stdlib.h>

#include "platform/platform.h"

/* ---- Locks and conditions --------------------------------------------------------------------------------- */

/* Both are a pointer that begins as null, and so platform.h can do without windows.h. */
_Static_assert(sizeof(fl_lock) == sizeof(SRWLOCK) && sizeof(fl_condition) == sizeof(CONDITION_VARIABLE), "a pointer");

void fl_lock_init(fl_lock *lock) { InitializeSRWLock((SRWLOCK *)(void *)lock); }
void fl_lock_take(fl_lock *lock) { AcquireSRWLockExclusive((SRWLOCK *)(void *)lock); }
void fl_lock_give(fl_lock *lock) { ReleaseSRWLockExclusive((SRWLOCK *)(void *)lock); }
void fl_condition_init(fl_condition *condition)
{
    InitializeConditionVariable((CONDITION_VARIABLE *)(void *)condition);
}
void fl_condition_wait(fl_condition *condition, fl_lock *lock)
{
    SleepConditionVariableSRW((CONDITION_VARIABLE *)(void *)condition, (SRWLOCK *)(void *)lock, INFINITE, 0);
}
void fl_condition_signal(fl_condition *condition) { WakeConditionVariable((CONDITION_VARIABLE *)(void *)condition); }

/* ---- Threads ---------------------------------------------------------------------------------------------- */

#define STACK ((SIZE_T)1 << 20)

static const char pinned = 0; /* an address in this library */

static DWORD WINAPI run_thread(LPVOID argument)
{
    const fl_thread *const thread = argument;
    thread->run(thread->argument);
    return 0;
}

bool fl_thread_start(fl_thread *thread)
{
    HMODULE self;
    /* A thread that nobody waits for must not outlive its code: the library that holds it stays until the end. */
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                       (LPCWSTR)(const void *)&pinned, &self);
    const HANDLE started = CreateThread(NULL, STACK, run_thread, thread, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (started == NULL)
        return false;
    CloseHandle(started);
    return true;
}

void fl_thread_yield(void) { SwitchToThread(); }

/* The system knows milliseconds, and takes one for many. */
void fl_thread_nap(int64_t nanoseconds) { Sleep((DWORD)((nanoseconds + 999999) / 1000000)); }

bool fl_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    (void)before, (void)in_parent, (void)in_child;
    return true;
}

void fl_place_init(fl_place *place) { (void)place; }
void fl_place_enter(fl_place *place) { (void)place; }
void fl_place_move_away(fl_place *place) { (void)place; }
void fl_place_arrive(fl_place *place) { (void)place; }
void fl_place_note(fl_place *place) { (void)place; }

/* ---- Time ------------------------------------------------------------------------------------------------- */

int64_t fl_clock_nanoseconds(void)
{
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    const int64_t whole = now.QuadPart / frequency.QuadPart, rest = now.QuadPart % frequency.QuadPart;
    return whole * 1000000000 + rest * 1000000000 / frequency.QuadPart;
}

/* ---- Memory ----------------------------------------------------------------------------------------------- */

void *fl_system_allocate(size_t alignment, size_t bytes) { return _aligned_malloc(bytes, alignment); }

void fl_system_free(void *memory) { _aligned_free(memory); }

void fl_system_want_huge_pages(void *memory, size_t bytes) { (void)memory, (void)bytes; }

/* ---- Processors ------------------------------------------------------------------------------------------- */

size_t fl_system_cpus(void)
{
    DWORD_PTR process = 0, machine = 0;
    size_t count = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &machine))
        for (; process != 0; process &= process - 1) count++;
    return count < 1 ? 1 : count;
}

fl_caches fl_system_caches(void)
{
    fl_caches caches = {0, 0, 0};
    DWORD bytes = 0;
    GetLogicalProcessorInformation(NULL, &bytes);
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION *const list = malloc(bytes + 1);
    if (list != NULL && GetLogicalProcessorInformation(list, &bytes))
        for (size_t n = 0; n < bytes / sizeof *list; n++) {
            const CACHE_DESCRIPTOR *const cache = &list[n].Cache;
            if (list[n].Relationship != RelationCache || cache->Type == CacheInstruction || cache->Type == CacheTrace)
                continue;
            size_t *const place = cache->Level == 1 ? &caches.l1 : cache->Level == 2 ? &caches.l2 : &caches.last;
            if (*place == 0)
                *place = cache->Size;
        }
    free(list);
    return caches;
}

unsigned fl_system_arm_features(void)
{
    unsigned found = 0;
#if defined(__aarch64__)
    found |= IsProcessorFeaturePresent(43) ? FL_SYSTEM_DOTPROD : 0U; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
    found |= IsProcessorFeaturePresent(66) ? FL_SYSTEM_I8MM : 0U;    /* PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE */
    found |= IsProcessorFeaturePresent(68) ? FL_SYSTEM_BF16 : 0U;    /* PF_ARM_V86_BF16_INSTRUCTIONS_AVAILABLE */
#endif
    return found;
}
#endif
