/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Detection by CPUID and XGETBV: the processor's word alone is not enough, the operating system must save the registers
 * too (XCR0), or the first wide instruction dies under some hypervisors.
 */
#include "base/machine.h"

#include <stdint.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "platform/platform.h"

static size_t cache_l1 = (size_t)32 << 10, cache_l2 = (size_t)512 << 10, cache_last = (size_t)8 << 20;

#if defined(__x86_64__) || defined(__aarch64__)
/* `ability` where all bits of a register are set. */
static unsigned where(unsigned reg, unsigned bits, unsigned ability) { return (reg & bits) == bits ? ability : 0; }
#endif

#if defined(__x86_64__)
static uint64_t enabled_states(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

unsigned fl_machine_abilities(void)
{
    unsigned a, b, c, d, a1, b1, c1, d1, can;
    const unsigned osxsave = 1U << 27, avx = 1U << 28, fma = 1U << 12, f16c = 1U << 29,
                   needed = osxsave | avx | fma | f16c;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed)
        return 0;
    const uint64_t states = enabled_states();
    if ((states & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & 1U << 5) == 0)
        return 0;
    if (!__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1))
        a1 = 0;
    can = FL_CAN_AVX2 | where(a1, 1U << 4, FL_CAN_AVX_VNNI);
    const unsigned avx512 = 1U << 16 | 1U << 17 | 1U << 28 | 1U << 30 | 1U << 31; /* F DQ CD BW VL */
    if ((states & 0xe6) != 0xe6 || (b & avx512) != avx512)
        return can;
    can |= FL_CAN_AVX512 | where(c, 1U << 11, FL_CAN_AVX512_VNNI) | where(a1, 1U << 5, FL_CAN_AVX512_BF16) |
           where(d, 1U << 23, FL_CAN_AVX512_FP16);
    if ((states & 0x60000) == 0x60000) /* tile configuration and data */
        can |= where(d, 1U << 24 | 1U << 22, FL_CAN_AMX_BF16) | where(d, 1U << 24 | 1U << 25, FL_CAN_AMX_INT8);
    return can;
}
#elif defined(__aarch64__)
unsigned fl_machine_abilities(void)
{
    const unsigned found = fl_system_arm_features();
    unsigned can = FL_CAN_NEON; /* part of the architecture */
    can |= where(found, FL_SYSTEM_DOTPROD, FL_CAN_DOTPROD) | where(found, FL_SYSTEM_I8MM, FL_CAN_I8MM) |
           where(found, FL_SYSTEM_BF16, FL_CAN_BF16);
    return can;
}
#else
unsigned fl_machine_abilities(void) { return 0; }
#endif

/* The system's word, or a guess; asked once, because the question costs a trap under a hypervisor. */
void fl_machine_read_caches(void)
{
    const fl_caches caches = fl_system_caches();
    if (caches.l1 > 0)
        cache_l1 = caches.l1;
    if (caches.l2 > 0)
        cache_l2 = caches.l2;
    if (caches.last > 0)
        cache_last = caches.last;
}

size_t fl_cache_l1(void) { return cache_l1; }

size_t fl_cache_l2(void) { return cache_l2; }

size_t fl_cache_last(void) { return cache_last; }
