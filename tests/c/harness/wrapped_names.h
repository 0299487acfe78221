/* SPDX-License-Identifier: BSD-3-Clause
 *
 * For linkers without --wrap: included before everything else (-include), it does to each file what that would do, since
 * calls and definitions of a name are never in one file.  core_build.py says which file defines what (DEFINES_...).
 */
#ifndef WRAPPED_NAMES_H
#define WRAPPED_NAMES_H
#include <stdlib.h>
#if defined(_WIN32)
#include <malloc.h>
#endif

#if defined(WRAPS)
#define __real_malloc malloc
#define __real_calloc calloc
#define __real_realloc realloc
#define __real_free free
#else
void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_realloc(void *, size_t);
void __wrap_free(void *);
#define malloc __wrap_malloc
#define calloc __wrap_calloc
#define realloc __wrap_realloc
#define free __wrap_free
#endif

#if defined(DEFINES_PLATFORM)
#define fl_thread_start __real_fl_thread_start
#define fl_clock_nanoseconds __real_fl_clock_nanoseconds
#define fl_system_allocate __real_fl_system_allocate
#define fl_system_free __real_fl_system_free
#elif !defined(WRAPS)
#define fl_thread_start __wrap_fl_thread_start
#define fl_clock_nanoseconds __wrap_fl_clock_nanoseconds
#define fl_system_allocate __wrap_fl_system_allocate
#define fl_system_free __wrap_fl_system_free
#endif

#if defined(DEFINES_MACHINE)
#define fl_machine_abilities __real_fl_machine_abilities
#elif !defined(WRAPS)
#define fl_machine_abilities __wrap_fl_machine_abilities
#endif
#endif
