/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What an optimiser does with flat buffers, in one pass each.
 */
#ifndef FL_OPTIMISER_BODY_H
#define FL_OPTIMISER_BODY_H
#include "kernels/simd/lanes_body.h"
#include "kernels/work.h"

static void add_array(size_t n, const void *x, void *out)
{
    for (size_t k = 0; k < n; k += VF_LANES) {
        const size_t lanes = lanes_at(n, k);
        real *to = (real *)out + k;
        store_lanes(to, vf_add(load_lanes(to, lanes), load_lanes((const real *)x + k, lanes)), lanes);
    }
}

/* Kingma & Ba, "Adam" (2015), in the form that torch.optim has; decoupled decay: Loshchilov & Hutter (2019). */
static void adam(const fl_adam *s)
{
    const vf beta1 = vf_set1((real)s->beta1), rest1 = vf_set1((real)(1.0 - s->beta1));
    const vf beta2 = vf_set1((real)s->beta2), rest2 = vf_set1((real)(1.0 - s->beta2));
    const vf step_size = vf_set1((real)s->step_size), eps = vf_set1((real)s->eps);
    const vf root_correction = vf_set1((real)s->root_correction);
    const vf l2 = vf_set1((real)s->l2), decay = vf_set1((real)s->decay);
    for (size_t k = 0; k < s->n; k += VF_LANES) {
        const size_t lanes = lanes_at(s->n, k);
        real *m_out = (real *)s->m + k, *v_out = (real *)s->v + k;
        const vf p = load_lanes((const real *)s->params + k, lanes);
        const vf g = vf_fma(l2, p, load_lanes((const real *)s->grads + k, lanes));
        const vf m = vf_fma(rest1, g, vf_mul(beta1, load_lanes(m_out, lanes)));
        const vf v = vf_fma(rest2, vf_mul(g, g), vf_mul(beta2, load_lanes(v_out, lanes)));
        const vf root = vf_fma(vf_sqrt(v), root_correction, eps);
        store_lanes(m_out, m, lanes);
        store_lanes(v_out, v, lanes);
        store_lanes((real *)s->new_params + k, vf_fnma(step_size, vf_div(m, root), vf_mul(decay, p)), lanes);
    }
}

static void multiply_array(size_t n, const void *a, const void *b, void *out)
{
    for (size_t k = 0; k < n; k += VF_LANES) {
        const size_t lanes = lanes_at(n, k);
        store_lanes((real *)out + k,
                    vf_mul(load_lanes((const real *)a + k, lanes), load_lanes((const real *)b + k, lanes)), lanes);
    }
}

#endif
