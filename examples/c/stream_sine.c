/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The C core without Python: one LSTM unit as a smoothing filter, one sample at a time.
 *
 * With its output and input gates open, and its forget gate at f, the cell state is c' = f c + (1 - f) x for a small x:
 * an exponential moving average.  A noisy sine goes in; what comes out has far less noise.  The calls in the loop take
 * no memory and no locks, so that they may stand in a real-time thread.
 *
 * Compile from the root of the repository.  This has the kernels in plain C alone; docs/c.md tells how to add those of
 * instruction sets:
 *     cc -O2 -std=c11 -ffp-contract=off -fno-math-errno -pthread -Icsrc examples/c/stream_sine.c \
 *         $(find csrc -name '*.c') -lm -o stream_sine
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "fastlstm.h"

#define STEPS 400
#define FORGET 0.8
#define SCALE 0.02 /* keeps both tanh in their linear part */

static double logit(double p) { return log(p / (1.0 - p)); }

/* Uniform in [-1, 1), the same everywhere. */
static double noise(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (double)(state >> 40) / 8388608.0 - 1.0;
}

static void fail(const char *what, fl_status status) { fprintf(stderr, "%s: %s\n", what, fl_status_text(status)); }

int main(void)
{
    /* Rows are gates i, f, g, o, as in PyTorch.  i = 1 - f, g = x, o = 1 (nearly). */
    const float weight_ih[4] = {0.0F, 0.0F, 1.0F, 0.0F}, weight_hh[4] = {0.0F};
    const float bias[4] = {(float)logit(1.0 - FORGET), (float)logit(FORGET), 0.0F, 20.0F};
    const fl_weights weights = {.weight_ih = weight_ih, .weight_hh = weight_hh, .bias_ih = bias};
    const fl_stack_shape shape = {
        .dtype = FL_F32, .input_size = 1, .hidden_size = 1, .num_layers = 1, .num_directions = 1};
    fl_stack *stack = NULL;
    fl_stream *stream = NULL;
    double error_in = 0.0, error_out = 0.0;

    fl_status status = fl_isa_select(NULL); /* the best that is compiled in and runs here */
    if (status == FL_OK)
        status = fl_stack_create(&shape, &stack);
    if (status == FL_OK)
        status = fl_stack_pack(stack, 0, 0, &weights);
    if (status == FL_OK)
        status = fl_stream_create(stack, 1, 1, &stream);
    if (status != FL_OK)
        fail("setting up", status);

    for (int t = 0; t < STEPS && status == FL_OK; t++) {
        const double clean = sin(6.283185307179586 * t / STEPS), noisy = clean + 0.5 * noise();
        const float x = (float)(SCALE * noisy);
        float y = 0.0F;
        /* One row and one step, so strides do not matter. */
        const fl_stream_io io = {.x = &x, .y = &y};
        status = fl_stream_process(stream, 1, &io);
        if (status != FL_OK)
            fail("step", status);
        const double smooth = (double)y / SCALE;
        error_in += (noisy - clean) * (noisy - clean);
        error_out += (smooth - clean) * (smooth - clean);
        if (t % 40 == 0)
            printf("t %3d   sine %6.3f   noisy %6.3f   smoothed %6.3f\n", t, clean, noisy, smooth);
    }
    if (status == FL_OK)
        printf("%s: rms error %.3f before, %.3f after\n", fl_isa_active(), sqrt(error_in / STEPS),
               sqrt(error_out / STEPS));

    fl_stream_destroy(stream);
    fl_stack_destroy(stack);
    return status == FL_OK ? 0 : 1;
}
