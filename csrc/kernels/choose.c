/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Detection by CPUID and XGETBV: the processor's word alone is not enough, the operating system must save the registers
 * too (XCR0), or the first wide instruction dies under some hypervisors.
 */
#define _GNU_SOURCE
#include "kernels/choose.h"

#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef struct isa_entry {
    const char *name;
    const fl_kernels *f32, *f64; /* null where not built */
} isa_entry;

static const isa_entry isa_entries[FL_ISA_COUNT] = {
    {"generic", &fl_kernels_generic_f32, &fl_kernels_generic_f64},
#if defined(FL_HAVE_NEON)
    {"neon", &fl_kernels_neon_f32, &fl_kernels_neon_f64},
#else
    {"neon", NULL, NULL},
#endif
#if defined(FL_HAVE_AVX2)
    {"avx2", &fl_kernels_avx2_f32, &fl_kernels_avx2_f64},
#else
    {"avx2", NULL, NULL},
#endif
#if defined(FL_HAVE_AVX512)
    {"avx512", &fl_kernels_avx512_f32, &fl_kernels_avx512_f64},
#else
    {"avx512", NULL, NULL},
#endif
};

static const isa_entry *active = &isa_entries[0];
static size_t cache_l1 = (size_t)32 << 10, cache_l2 = (size_t)512 << 10, cache_last = (size_t)8 << 20;

#if defined(__x86_64__)
static uint64_t enabled_states(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

/* 0: baseline, 1: AVX2 + FMA + F16C, 2: AVX-512 F, CD, BW, DQ, VL as well. */
static int x86_level(void)
{
    unsigned a, b, c, d;
    const unsigned osxsave = 1U << 27, avx = 1U << 28, fma = 1U << 12, f16c = 1U << 29;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & osxsave) == 0)
        return 0;
    const uint64_t states = enabled_states();
    if ((states & 0x6) != 0x6 || (c & avx) == 0 || (c & fma) == 0 || (c & f16c) == 0)
        return 0;
    const unsigned avx2 = 1U << 5;
    const unsigned avx512 = 1U << 16 | 1U << 17 | 1U << 28 | 1U << 30 | 1U << 31; /* F DQ CD BW VL */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & avx2) == 0)
        return 0;
    return (states & 0xe6) == 0xe6 && (b & avx512) == avx512 ? 2 : 1;
}
#endif

static bool machine_runs(const char *name)
{
    if (strcmp(name, "generic") == 0)
        return true;
#if defined(__x86_64__)
    if (strcmp(name, "avx2") == 0)
        return x86_level() >= 1;
    if (strcmp(name, "avx512") == 0)
        return x86_level() >= 2;
#endif
#if defined(__aarch64__)
    if (strcmp(name, "neon") == 0)
        return true; /* part of the architecture */
#endif
    return false;
}

fl_isa_info fl_isa_get(size_t index)
{
    const isa_entry *entry = &isa_entries[index < FL_ISA_COUNT ? index : 0];
    const fl_isa_info info = {entry->name, entry->f32 != NULL, entry->f32 != NULL && machine_runs(entry->name)};
    return info;
}

/* The system's word, or a guess; asked once, because the question costs a trap under a hypervisor. */
static void read_caches(void)
{
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    const long l1 = sysconf(_SC_LEVEL1_DCACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    const long last = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (l1 > 0)
        cache_l1 = (size_t)l1;
    if (l2 > 0)
        cache_l2 = (size_t)l2;
    if (last > 0)
        cache_last = (size_t)last;
#endif
}

fl_status fl_isa_select(const char *max_isa)
{
    size_t cap = FL_ISA_COUNT - 1;
    if (max_isa != NULL) {
        for (cap = 0; cap < FL_ISA_COUNT; cap++)
            if (strcmp(isa_entries[cap].name, max_isa) == 0)
                break;
        if (cap == FL_ISA_COUNT || !fl_isa_get(cap).available)
            return FL_ERROR_ISA;
    }
    while (!fl_isa_get(cap).available) cap--;
    active = &isa_entries[cap];
    read_caches();
    return FL_OK;
}

const char *fl_isa_active(void) { return active->name; }

const fl_kernels *fl_kernels_active(fl_dtype dtype) { return dtype == FL_F32 ? active->f32 : active->f64; }

size_t fl_cache_l1(void) { return cache_l1; }

size_t fl_cache_l2(void) { return cache_l2; }

size_t fl_cache_last(void) { return cache_last; }

const char *fl_status_text(fl_status status)
{
    switch (status) {
    case FL_OK: return "no error";
    case FL_ERROR_ARGUMENT: return "an argument is null, zero or out of its range";
    case FL_ERROR_SIZE: return "a product of sizes does not fit the address space";
    case FL_ERROR_MEMORY: return "out of memory";
    case FL_ERROR_LENGTH: return "a length is negative or longer than the sequence";
    case FL_ERROR_INDEX: return "an integer input is outside 0 <= index < input_size";
    case FL_ERROR_INTERRUPTED: return "interrupted";
    case FL_ERROR_ISA: return "an instruction set that is unknown or not available";
    }
    return "unknown status";
}
