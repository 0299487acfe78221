/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The machine: which kernels it runs, how large its caches are.
 */
#ifndef FL_CPU_H
#define FL_CPU_H
#include "fastlstm.h"
#include "kernels/kernels.h"

/* Kernels of the active instruction set (see fl_isa_select). */
const fl_kernels *fl_kernels_active(fl_dtype dtype);

/* Bytes of a core's L1 for data and of its private L2 and of the last level; guesses where the system does not tell. */
size_t fl_cache_l1(void);
size_t fl_cache_l2(void);
size_t fl_cache_last(void);

#endif
