/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Random bits are those of splitmix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014), whose
 * state is a counter.
 */
#include "base/random.h"
#include "base/fp_state.h"

static inline uint64_t random_bits(uint64_t seed, uint64_t index)
{
    uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

void fl_mask(fl_dtype dtype, double p, uint64_t seed, uint64_t first, size_t n, double dropped_value, double kept_value,
             void *mask)
{
    const uint64_t dropped = (uint64_t)(p * 4294967296.0); /* of 2^32 */
    for (size_t j = 0; j < n; j++) {
        const double value = (random_bits(seed, first + j) >> 32) >= dropped ? kept_value : dropped_value;
        if (dtype == FL_F32)
            ((float *)mask)[j] = (float)value;
        else
            ((double *)mask)[j] = value;
    }
}

void fl_dropout(fl_dtype dtype, double p, uint64_t seed, uint64_t first, size_t n, const void *in, void *out)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    const double share = p > 0.0 ? (p < 1.0 ? p : 1.0) : 0.0;  /* NaN is 0 */
    const uint64_t dropped = (uint64_t)(share * 4294967296.0); /* of 2^32 */
    const double scale = share < 1.0 ? 1.0 / (1.0 - share) : 0.0;
    if (dtype == FL_F32) {
        const float kept = (float)scale;
        for (size_t j = 0; j < n; j++) {
            const float mask = (random_bits(seed, first + j) >> 32) >= dropped ? kept : 0.0F;
            ((float *)out)[j] = ((const float *)in)[j] * mask;
        }
    } else {
        for (size_t j = 0; j < n; j++) {
            const double mask = (random_bits(seed, first + j) >> 32) >= dropped ? scale : 0.0;
            ((double *)out)[j] = ((const double *)in)[j] * mask;
        }
    }
    fl_fp_leave(caller_state);
}
