/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the processor and its operating system can do, and how large the caches are.
 */
#ifndef FL_MACHINE_H
#define FL_MACHINE_H
#include <stddef.h>

#include "base/exact.h"

/* A bit each: a set, not a ladder.  A kernel file names those that its code needs (kernels/choose.c). */
typedef enum fl_ability {
    FL_CAN_AVX2 = 1 << 0,   /* with FMA and F16C */
    FL_CAN_AVX512 = 1 << 1, /* F, CD, BW, DQ, VL */
    FL_CAN_AVX_VNNI = 1 << 2,
    FL_CAN_AVX512_VNNI = 1 << 3,
    FL_CAN_AVX512_BF16 = 1 << 4,
    FL_CAN_AVX512_FP16 = 1 << 5,
    FL_CAN_AMX_BF16 = 1 << 6, /* the tiles' registers still have to be asked for */
    FL_CAN_AMX_INT8 = 1 << 7,
    FL_CAN_NEON = 1 << 8,
    FL_CAN_DOTPROD = 1 << 9,
    FL_CAN_I8MM = 1 << 10,
    FL_CAN_BF16 = 1 << 11
} fl_ability;

unsigned fl_machine_abilities(void);

/* Bytes of a core's L1 for data and of its private L2 and of the last level; guesses where the system does not tell.
 * fl_machine_read_caches() asks. */
void fl_machine_read_caches(void);
size_t fl_cache_l1(void);
size_t fl_cache_l2(void);
size_t fl_cache_last(void);

#endif
