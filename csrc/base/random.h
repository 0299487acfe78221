/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Masks by counter, so that they depend on neither threads nor order and are never stored.
 */
#ifndef FL_RANDOM_H
#define FL_RANDOM_H
#include <stddef.h>
#include <stdint.h>

#include "base/exact.h"
#include "fastlstm.h"

/* mask[j]: one of the two values, for elements `first` and on. */
void fl_mask(fl_dtype dtype, double p, uint64_t seed, uint64_t first, size_t n, double dropped_value, double kept_value,
             void *mask);

#endif
