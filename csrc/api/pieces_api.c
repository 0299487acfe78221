/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The pieces of a step and the probes, as functions of the public API over the active kernels.
 */
#include <string.h>

#include "kernels/choose.h"
#include "base/fp_state.h"
#include "platform/platform.h"
#include "stack/stack.h"

fl_status fl_gate_matmul(const fl_stack *stack, size_t B, const void *x, ptrdiff_t ldx, const void *h, ptrdiff_t ldh,
                         void *gates, ptrdiff_t ldg)
{
    if (stack == NULL || stack->sizes.variant != FL_LSTM || (B != 0 && (x == NULL || h == NULL || gates == NULL)))
        return FL_ERROR_ARGUMENT;
    const fl_recurrence *r = fl_recurrence_of(stack, 0, 0);
    const fl_steps s = {.cell = &r->cell,
                        .layout = stack->layout,
                        .T = 1,
                        .B = B,
                        .block_end = stack->layout.blocks,
                        .bias = r->bias,
                        .W = r->W,
                        .R = r->R,
                        .I = r->I,
                        .P = stack->sizes.P,
                        .x = x,
                        .x_rows = {0, ldx, NULL},
                        .h = h,
                        .h_rows = {0, ldh, NULL},
                        .y = gates,
                        .y_rows = {0, ldg, NULL}};
    const fl_fp_state caller_state = fl_fp_enter(true);
    stack->kernels->gate_matmul(&s);
    fl_fp_leave(caller_state);
    return FL_OK;
}

fl_status fl_cell_update(fl_dtype dtype, size_t B, size_t H, const void *gates, ptrdiff_t ldg, const void *c,
                         ptrdiff_t ldc, void *h_out, ptrdiff_t ldh_out, void *c_out, ptrdiff_t ldc_out)
{
    if ((dtype != FL_F32 && dtype != FL_F64) ||
        (B != 0 && H != 0 && (gates == NULL || c == NULL || h_out == NULL || c_out == NULL)))
        return FL_ERROR_ARGUMENT;
    const fl_fp_state caller_state = fl_fp_enter(true);
    fl_kernels_active(dtype, FL_STORAGE_REAL)
        ->lstm_cell_update(B, H, gates, ldg, c, ldc, h_out, ldh_out, c_out, ldc_out);
    fl_fp_leave(caller_state);
    return FL_OK;
}

/* Not flushed: tanh of a denormal is that denormal. */
void fl_sigmoid(fl_dtype dtype, size_t n, const void *x, void *out)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    fl_kernels_active(dtype, FL_STORAGE_REAL)->sigmoid(n, x, out);
    fl_fp_leave(caller_state);
}

void fl_tanh(fl_dtype dtype, size_t n, const void *x, void *out)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    fl_kernels_active(dtype, FL_STORAGE_REAL)->tanh(n, x, out);
    fl_fp_leave(caller_state);
}

static double seconds_now(void) { return 1e-9 * (double)fl_clock_nanoseconds(); }

/* Best of many short rounds: the machine's ability, not its load. */
#define PROBE_ROUND_SECONDS 2e-3

double fl_probe_fma(fl_dtype dtype, double seconds)
{
    const fl_kernels *kernels = fl_kernels_active(dtype, FL_STORAGE_REAL);
    const double end = seconds_now() + seconds;
    double best = 0.0;
    do {
        const double start = seconds_now();
        double flops = 0.0, passed;
        do {
            flops += kernels->probe_fma(20000);
            passed = seconds_now() - start;
        } while (passed < PROBE_ROUND_SECONDS);
        best = flops / passed > best ? flops / passed : best;
    } while (seconds_now() < end);
    return best;
}

double fl_probe_stream(size_t bytes, double seconds)
{
    const fl_kernels *kernels = fl_kernels_active(FL_F32, FL_STORAGE_REAL);
    bytes = (bytes + 1023) & ~(size_t)1023;
    void *data = fl_allocate(bytes);
    double best = 0.0;
    if (data == NULL)
        return 0.0;
    memset(data, 0, bytes);
    const size_t repeats = bytes < ((size_t)1 << 20) ? ((size_t)1 << 20) / bytes : 1;
    const double end = seconds_now() + seconds;
    do {
        const double start = seconds_now();
        double read = 0.0, passed;
        do {
            kernels->probe_stream(data, bytes, repeats);
            read += (double)bytes * (double)repeats;
            passed = seconds_now() - start;
        } while (passed < PROBE_ROUND_SECONDS);
        best = read / passed > best ? read / passed : best;
    } while (seconds_now() < end);
    fl_release(data);
    return best;
}
