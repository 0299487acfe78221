/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole vectors and the last, shorter one of a row.
 */
#ifndef FL_LANES_BODY_H
#define FL_LANES_BODY_H

/* Lanes of the vector at element k of a row of n. */
FL_INLINE size_t lanes_at(size_t n, size_t k) { return n - k < VF_LANES ? n - k : VF_LANES; }

FL_INLINE vf load_lanes(const real *p, size_t n) { return n == VF_LANES ? vf_load(p) : vf_load_n(p, n); }

FL_INLINE void store_lanes(real *p, vf a, size_t n)
{
    if (n == VF_LANES)
        vf_store(p, a);
    else
        vf_store_n(p, a, n);
}

#endif
