/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Passes over flat buffers of parameters and gradients.
 */
#include <math.h>
#include <string.h>

#include "kernels/choose.h"
#include "base/fp_state.h"

#define FINITE_BLOCK 4096 /* elements between two looks at the result */

bool fl_all_finite(fl_dtype dtype, size_t n, const void *x)
{
    for (size_t begin = 0; begin < n; begin += FINITE_BLOCK) {
        const size_t end = n - begin < FINITE_BLOCK ? n : begin + FINITE_BLOCK;
        bool bad = false;
        /* All exponent bits set: infinite or NaN.  Integers, so that the loop is vectors without fast-math. */
        if (dtype == FL_F32) {
            const float *values = x;
            for (size_t k = begin; k < end; k++) {
                uint32_t bits;
                memcpy(&bits, values + k, sizeof bits);
                bad |= (bits & 0x7f800000U) == 0x7f800000U;
            }
        } else {
            const double *values = x;
            for (size_t k = begin; k < end; k++) {
                uint64_t bits;
                memcpy(&bits, values + k, sizeof bits);
                bad |= (bits & 0x7ff0000000000000U) == 0x7ff0000000000000U;
            }
        }
        if (bad)
            return false;
    }
    return true;
}

void fl_add(fl_dtype dtype, size_t n, const void *x, void *out)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    fl_kernels_active(dtype, FL_STORAGE_REAL)->add(n, x, out);
    fl_fp_leave(caller_state);
}

void fl_adam_step(fl_dtype dtype, size_t n, const fl_adam_args *args, const void *grads, const void *params,
                  void *new_params, void *m, void *v)
{
    const fl_fp_state caller_state = fl_fp_enter(true); /* m and v decay: denormals would slow every later step */
    const double step = (double)args->step;
    const fl_adam work = {.n = n,
                          .new_params = new_params,
                          .m = m,
                          .v = v,
                          .params = params,
                          .grads = grads,
                          .step_size = args->lr / (1.0 - pow(args->beta1, step)),
                          .root_correction = 1.0 / sqrt(1.0 - pow(args->beta2, step)),
                          .beta1 = args->beta1,
                          .beta2 = args->beta2,
                          .eps = args->eps,
                          .l2 = args->decoupled ? 0.0 : args->weight_decay,
                          .decay = args->decoupled ? 1.0 - args->lr * args->weight_decay : 1.0};
    fl_kernels_active(dtype, FL_STORAGE_REAL)->adam(&work);
    fl_fp_leave(caller_state);
}
