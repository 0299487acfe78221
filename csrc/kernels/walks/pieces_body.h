/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The pieces of a step as kernels of their own (elementwise cell update, activations), and the probes that measure
 * what the machine can do.
 */
#ifndef FL_PIECES_BODY_H
#define FL_PIECES_BODY_H
#include "kernels/cells/lstm_body.h"

static void lstm_cell_update(size_t B, size_t H, const void *gates, ptrdiff_t ldg, const void *c, ptrdiff_t ldc,
                             void *h_out, ptrdiff_t ldh_out, void *c_out, ptrdiff_t ldc_out)
{
    for (ptrdiff_t b = 0; b < (ptrdiff_t)B; b++) {
        const real *gate = (const real *)gates + b * ldg;
        for (size_t j = 0; j < H; j += VF_LANES) {
            const size_t lanes = lanes_at(H, j);
            const lstm_parts parts =
                lstm_parts_of(load_lanes(gate + j, lanes), load_lanes(gate + H + j, lanes),
                              load_lanes(gate + 2 * H + j, lanes), load_lanes(gate + 3 * H + j, lanes));
            const vf c_new = lstm_new_c(&parts, load_lanes((const real *)c + b * ldc + j, lanes));
            store_lanes((real *)c_out + b * ldc_out + j, c_new, lanes);
            store_lanes((real *)h_out + b * ldh_out + j, lstm_new_h(&parts, c_new), lanes);
        }
    }
}

static void sigmoid_array(size_t n, const void *x, void *out)
{
    for (size_t k = 0; k < n; k += VF_LANES) {
        const size_t lanes = lanes_at(n, k);
        store_lanes((real *)out + k, sigmoid(load_lanes((const real *)x + k, lanes)), lanes);
    }
}

static void tanh_array(size_t n, const void *x, void *out)
{
    for (size_t k = 0; k < n; k += VF_LANES) {
        const size_t lanes = lanes_at(n, k);
        store_lanes((real *)out + k, hyperbolic_tangent(load_lanes((const real *)x + k, lanes)), lanes);
    }
}

#define PROBE_CHAINS 12 /* more than latency times throughput of any machine known, fewer than its registers */

/* The empty asm keeps the chains in registers and the compiler from folding them. */
#if VF_REGISTERS >= 32 && defined(__x86_64__)
#define PROBE_KEEP(a) __asm__ volatile("" : "+v"(a))
#elif defined(__x86_64__)
#define PROBE_KEEP(a) __asm__ volatile("" : "+x"(a))
#elif defined(__aarch64__)
#define PROBE_KEEP(a) __asm__ volatile("" : "+w"(a))
#else
#define PROBE_KEEP(a) __asm__ volatile("" : "+m"(a))
#endif

static double probe_fma(size_t repeats)
{
    vf acc[PROBE_CHAINS], factor = vf_set1(REAL(0.999)), term = vf_set1(REAL(0.001));
    FL_UNROLL_FOR (int i = 0; i < PROBE_CHAINS; i++) acc[i] = vf_set1((real)i);
    for (size_t n = 0; n < repeats; n++)
        FL_UNROLL_FOR (int i = 0; i < PROBE_CHAINS; i++) {
            acc[i] = vf_fma(acc[i], factor, term);
            PROBE_KEEP(acc[i]);
        }
    return 2.0 * PROBE_CHAINS * (double)VF_LANES * (double)repeats;
}

static void probe_stream(const void *data, size_t bytes, size_t repeats)
{
    vf acc[8], factor = vf_set1(REAL(0.999));
    const size_t run = 8 * VF_LANES;
    FL_UNROLL_FOR (int i = 0; i < 8; i++) acc[i] = vf_set1((real)i);
    for (size_t n = 0; n < repeats; n++) {
        const real *p = data;
        for (size_t k = 0; k + run <= bytes / sizeof(real); k += run)
            FL_UNROLL_FOR (size_t i = 0; i < 8; i++) {
                acc[i] = vf_fma(factor, vf_load(p + k + i * VF_LANES), acc[i]);
                PROBE_KEEP(acc[i]);
            }
    }
}

#endif
