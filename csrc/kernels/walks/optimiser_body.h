/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What an optimiser does with flat buffers, in one pass each.
 */
#ifndef FL_OPTIMISER_BODY_H
#define FL_OPTIMISER_BODY_H
#include "kernels/simd/lanes_body.h"
#include "kernels/work.h"

/* Whether all lanes are zero. */
FL_INLINE bool is_zero(vf a)
{
    real lanes[VF_LANES];
    bool all = true;
    vf_store(lanes, a);
    for (size_t lane = 0; lane < VF_LANES; lane++) all &= lanes[lane] == 0;
    return all;
}

#define FINITE_BLOCK 4096 /* elements between two looks at the result */

static bool all_finite(size_t n, const void *x)
{
    const vf zero = vf_set1(0);
    for (size_t begin = 0; begin < n; begin += FINITE_BLOCK) {
        const size_t end = n - begin < FINITE_BLOCK ? n : begin + FINITE_BLOCK;
        vf bad[4] = {zero, zero, zero, zero}; /* 0 * x is NaN where x is not finite */
        size_t k = begin;
        for (; k + 4 * VF_LANES <= end; k += 4 * VF_LANES)
            FL_UNROLL_FOR (size_t v = 0; v < 4; v++)
                bad[v] = vf_add(bad[v], vf_mul(vf_load((const real *)x + k + v * VF_LANES), zero));
        for (; k < end; k += VF_LANES)
            bad[0] = vf_add(bad[0], vf_mul(load_lanes((const real *)x + k, lanes_at(end, k)), zero));
        if (!is_zero(vf_add(vf_add(bad[0], bad[1]), vf_add(bad[2], bad[3]))))
            return false;
    }
    return true;
}

/* ---- Norms ---------------------------------------------------------------------------------------------------- */

#define SUM_CHAINS 32 /* side by side, whatever the width of a vector */
#define CHAIN_VECTORS (SUM_CHAINS / VD_LANES)
#define SUM_BLOCK ((size_t)4096) /* elements of one partial sum; a multiple of SUM_CHAINS */

FL_INLINE void add_squares(vd *sum, const real *x, vd scale)
{
    FL_UNROLL_FOR (size_t v = 0; v < CHAIN_VECTORS; v++) {
        const vd a = vd_mul(vd_load(x + v * VD_LANES), scale);
        sum[v] = vd_add(sum[v], vd_mul(a, a));
    }
}

/* Squares of float32 are exact in double, and nothing is fused: one result everywhere.  Blocks are added with what rounding
 * loses (Neumaier 1974). */
static double sum_squares(size_t n, const void *x, double scale)
{
    double total = 0.0, lost = 0.0;
    for (size_t begin = 0; begin < n; begin += SUM_BLOCK) {
        const size_t end = n - begin < SUM_BLOCK ? n : begin + SUM_BLOCK;
        const vd factor = vd_set1(scale);
        vd sum[CHAIN_VECTORS];
        double chains[SUM_CHAINS];
        size_t k = begin;
        FL_UNROLL_FOR (size_t v = 0; v < CHAIN_VECTORS; v++) sum[v] = vd_set1(0.0);
        for (; k + SUM_CHAINS <= end; k += SUM_CHAINS) add_squares(sum, (const real *)x + k, factor);
        if (k < end) {
            real rest[SUM_CHAINS] = {0};
            for (size_t j = 0; k + j < end; j++) rest[j] = ((const real *)x)[k + j];
            add_squares(sum, rest, factor);
        }
        FL_UNROLL_FOR (size_t v = 0; v < CHAIN_VECTORS; v++) vd_store(chains + v * VD_LANES, sum[v]);
        for (size_t half = SUM_CHAINS / 2; half > 0; half /= 2)
            for (size_t j = 0; j < half; j++) chains[j] += chains[j + half];
        const double next = total + chains[0];
        lost += total >= chains[0] ? (total - next) + chains[0] : (chains[0] - next) + total;
        total = next;
    }
    /* What is lost of infinity is NaN. */
    return total + (lost == lost ? lost : 0.0);
}

static double largest(size_t n, const void *x)
{
    real lanes[VF_LANES], most = 0;
    vf found = vf_set1(0);
    for (size_t k = 0; k < n; k += VF_LANES) {
        const vf a = vf_abs(load_lanes((const real *)x + k, lanes_at(n, k)));
        found = vf_select_lt(found, a, a, found);
    }
    vf_store(lanes, found);
    for (size_t lane = 0; lane < VF_LANES; lane++) most = lanes[lane] > most ? lanes[lane] : most;
    return (double)most;
}

static void rescale(size_t n, double factor, double power, void *x)
{
    const vf by = vf_set1((real)factor), twice = vf_set1((real)power);
    for (size_t k = 0; k < n; k += VF_LANES) {
        const size_t lanes = lanes_at(n, k);
        real *at = (real *)x + k;
        store_lanes(at, vf_mul(vf_mul(vf_mul(load_lanes(at, lanes), by), twice), twice), lanes);
    }
}

/* ---- Sums of arrays --------------------------------------------------------------------------------------------- */

static void add_array(size_t n, const void *x, void *out)
{
    for (size_t k = 0; k < n; k += VF_LANES) {
        const size_t lanes = lanes_at(n, k);
        real *to = (real *)out + k;
        store_lanes(to, vf_add(load_lanes(to, lanes), load_lanes((const real *)x + k, lanes)), lanes);
    }
}

/* New parameters: past the caches where there are many, since the old ones would be read for nothing. */
typedef struct new_values {
    bool is_far;
    size_t before; /* elements before the first that is aligned to a vector; only where they are far */
} new_values;

FL_INLINE new_values new_values_of(const void *to, size_t n, bool is_far)
{
    const size_t size = VF_LANES * sizeof(real), over = (size_t)((uintptr_t)to % size);
    const new_values v = {is_far && over % sizeof(real) == 0, over != 0 ? (size - over) / sizeof(real) : 0};
    const new_values near = {false, 0};
    return v.is_far && v.before < n ? v : near;
}

/* Lanes of the vector at element k. */
FL_INLINE size_t new_lanes(const new_values *v, size_t n, size_t k)
{
    return k == 0 && v->before != 0 ? v->before : lanes_at(n, k);
}

FL_INLINE void store_new(const new_values *v, real *to, vf a, size_t lanes)
{
    if (v->is_far && lanes == VF_LANES)
        vf_stream(to, a);
    else
        store_lanes(to, a, lanes);
}

/* Kingma & Ba, "Adam" (2015), in the form that torch.optim has; decoupled decay: Loshchilov & Hutter (2019). */
static void adam(const fl_adam *s)
{
    const vf beta1 = vf_set1((real)s->beta1), rest1 = vf_set1((real)(1.0 - s->beta1));
    const vf beta2 = vf_set1((real)s->beta2), rest2 = vf_set1((real)(1.0 - s->beta2));
    const vf step_size = vf_set1((real)s->step_size), eps = vf_set1((real)s->eps);
    const vf root_correction = vf_set1((real)s->root_correction);
    const vf l2 = vf_set1((real)s->l2), decay = vf_set1((real)s->decay);
    const new_values to = new_values_of(s->new_params, s->n, s->is_far);
    for (size_t k = 0, lanes; k < s->n; k += lanes) {
        lanes = new_lanes(&to, s->n, k);
        real *m_out = (real *)s->m + k, *v_out = (real *)s->v + k;
        const vf p = load_lanes((const real *)s->params + k, lanes);
        const vf g = vf_fma(l2, p, load_lanes((const real *)s->grads + k, lanes));
        const vf m = vf_fma(rest1, g, vf_mul(beta1, load_lanes(m_out, lanes)));
        const vf v = vf_fma(rest2, vf_mul(g, g), vf_mul(beta2, load_lanes(v_out, lanes)));
        const vf root = vf_fma(vf_sqrt(v), root_correction, eps);
        store_lanes(m_out, m, lanes);
        store_lanes(v_out, v, lanes);
        store_new(&to, (real *)s->new_params + k, vf_fnma(step_size, vf_div(m, root), vf_mul(decay, p)), lanes);
    }
    vf_stream_end();
}

/* torch.optim.SGD; no product is fused with a sum, so that all instruction sets and NumPy agree. */
FL_INLINE bool sgd_pass(const fl_sgd *s, const bool has_momentum, const bool nesterov, const bool decays)
{
    const vf lr = vf_set1((real)s->lr), momentum = vf_set1((real)s->momentum), zero = vf_set1(0);
    const vf weight_decay = vf_set1((real)s->weight_decay);
    const new_values to = new_values_of(s->new_params, s->n, s->is_far);
    vf bad = zero; /* sums of 0 * g: NaN from the first gradient on that is not finite */
    for (size_t k = 0, lanes; k < s->n; k += lanes) {
        lanes = new_lanes(&to, s->n, k);
        const vf p = load_lanes((const real *)s->params + k, lanes);
        vf d = load_lanes((const real *)s->grads + k, lanes);
        bad = vf_add(bad, vf_mul(d, zero));
        if (decays)
            d = vf_add(d, vf_mul(weight_decay, p));
        if (has_momentum) {
            real *b_out = (real *)s->b + k;
            const vf b = vf_add(vf_mul(load_lanes(b_out, lanes), momentum), d);
            store_lanes(b_out, b, lanes);
            d = nesterov ? vf_add(d, vf_mul(momentum, b)) : b;
        }
        store_new(&to, (real *)s->new_params + k, vf_sub(p, vf_mul(d, lr)), lanes);
    }
    vf_stream_end();
    return is_zero(bad);
}

static bool sgd(const fl_sgd *s)
{
    const bool decays = s->weight_decay != 0.0;
    if (s->b == NULL)
        return decays ? sgd_pass(s, false, false, true) : sgd_pass(s, false, false, false);
    return s->nesterov ? sgd_pass(s, true, true, decays) : sgd_pass(s, true, false, decays);
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
