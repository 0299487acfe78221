/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "system.h"

#include <stdlib.h>
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#if defined(_WIN32)
size_t page_bytes(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

void *pages_new(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void pages_free(void *pages, size_t bytes)
{
    (void)bytes;
    VirtualFree(pages, 0, MEM_RELEASE);
}

static void protect(void *pages, size_t bytes, DWORD how)
{
    DWORD before;
    if (bytes != 0 && !VirtualProtect(pages, bytes, how, &before))
        abort();
}

void pages_forbid(void *pages, size_t bytes) { protect(pages, bytes, PAGE_NOACCESS); }

void pages_read_only(void *pages, size_t bytes) { protect(pages, bytes, PAGE_READONLY); }

void pages_open(void *pages, size_t bytes) { protect(pages, bytes, PAGE_READWRITE); }

static DWORD WINAPI run_thread(LPVOID argument)
{
    const test_thread *const thread = argument;
    thread->run(thread->argument);
    return 0;
}

bool test_thread_start(test_thread *thread)
{
    thread->handle = CreateThread(NULL, 0, run_thread, thread, 0, NULL);
    return thread->handle != NULL;
}

void test_thread_join(test_thread *thread)
{
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
}

void test_thread_yield(void) { SwitchToThread(); }
#else
size_t page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

void *pages_new(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages != MAP_FAILED ? pages : NULL;
}

void pages_free(void *pages, size_t bytes) { munmap(pages, bytes); }

void pages_forbid(void *pages, size_t bytes) { mprotect(pages, bytes, PROT_NONE); }

void pages_read_only(void *pages, size_t bytes) { mprotect(pages, bytes, PROT_READ); }

void pages_open(void *pages, size_t bytes) { mprotect(pages, bytes, PROT_READ | PROT_WRITE); }

static void *run_thread(void *argument)
{
    const test_thread *const thread = argument;
    thread->run(thread->argument);
    return NULL;
}

bool test_thread_start(test_thread *thread)
{
    pthread_t *handle = malloc(sizeof *handle);
    thread->handle = handle;
    if (handle != NULL && pthread_create(handle, NULL, run_thread, thread) == 0)
        return true;
    free(handle);
    return false;
}

void test_thread_join(test_thread *thread)
{
    pthread_join(*(pthread_t *)thread->handle, NULL);
    free(thread->handle);
}

void test_thread_yield(void) { sched_yield(); }
#endif

const void *test_thread_self(void)
{
    static _Thread_local char here;
    return &here;
}

void test_barrier_wait(test_barrier *barrier)
{
    atomic_fetch_sub(&barrier->missing, 1);
    while (atomic_load(&barrier->missing) != 0) test_thread_yield();
}
