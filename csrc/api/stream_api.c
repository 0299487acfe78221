/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Streams: the forward driver with kept state, and with one thread memory taken beforehand.
 */
#include <stdlib.h>
#include <string.h>

#include "forward/forward.h"

struct fl_stream {
    const fl_stack *stack;
    size_t B, num_threads;
    void *h, *c; /* (L, B, P), (L, B, n*H); c null where the cell has none */
    fl_workspace workspace;
};

/* Large enough for every T: memory of a unidirectional stack stops growing long before.  A 32-bit machine has no arrays of
 * more steps. */
#define ANY_T ((size_t)1 << (SIZE_MAX > UINT32_MAX ? 24 : 16))

fl_status fl_stream_create(const fl_stack *stack, size_t B, size_t num_threads, fl_stream **stream_out)
{
    size_t h_bytes = 0, c_bytes = 0, scratch = 0;
    if (stack == NULL || stream_out == NULL || B == 0 || stack->shape.num_directions != 1)
        return FL_ERROR_ARGUMENT;
    const fl_fp_state caller_state = fl_fp_enter(true);
    const fl_plan plan = fl_plan_make(stack, ANY_T, B, 1, false);
    fl_fp_leave(caller_state);
    const size_t L = stack->shape.num_layers, real_size = stack->real_size;
    const fl_forward_args any = {.T = ANY_T, .B = B};
    if (!fl_add_product(&h_bytes, L * real_size, B, stack->sizes.P) ||
        !fl_add_product(&c_bytes, L * real_size, B, fl_states_width(&stack->sizes)) ||
        fl_forward_bytes(stack, &plan, &any, NULL, &scratch) != FL_OK)
        return FL_ERROR_SIZE;
    fl_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL)
        return FL_ERROR_MEMORY;
    stream->stack = stack;
    stream->B = B;
    stream->num_threads = num_threads;
    stream->workspace.is_fixed = true;
    stream->h = fl_allocate(h_bytes);
    stream->c = c_bytes != 0 ? fl_allocate(c_bytes) : NULL;
    if (stream->h == NULL || (c_bytes != 0 && stream->c == NULL) || !fl_workspace_fit(&stream->workspace, scratch)) {
        fl_stream_destroy(stream);
        return FL_ERROR_MEMORY;
    }
    memset(stream->h, 0, h_bytes);
    if (c_bytes != 0)
        memset(stream->c, 0, c_bytes);
    memset(stream->workspace.memory, 0, scratch); /* so that the real-time path meets no page fault */
    *stream_out = stream;
    return FL_OK;
}

void fl_stream_destroy(fl_stream *stream)
{
    if (stream == NULL)
        return;
    fl_release(stream->h);
    fl_release(stream->c);
    fl_release(stream->workspace.memory);
    free(stream);
}

fl_status fl_stream_process(fl_stream *stream, size_t T, const fl_stream_io *io)
{
    if (stream == NULL || io == NULL)
        return FL_ERROR_ARGUMENT;
    const fl_forward_args args = {.T = T,
                                  .B = stream->B,
                                  .x = io->x,
                                  .x_index = io->x_index,
                                  .x_stride_t = io->x_stride_t,
                                  .x_stride_b = io->x_stride_b,
                                  .h0 = stream->h,
                                  .c0 = stream->c,
                                  .y = io->y,
                                  .y_stride_t = io->y_stride_t,
                                  .y_stride_b = io->y_stride_b,
                                  .h_n = stream->h,
                                  .c_n = stream->c,
                                  .num_threads = stream->num_threads,
                                  .interrupt = io->interrupt,
                                  .interrupt_context = io->interrupt_context};
    const fl_status status = fl_forward_check(stream->stack, &args);
    if (status != FL_OK || T == 0)
        return status;
    fl_fp_state caller_state = fl_fp_enter(true);
    const fl_status run =
        fl_forward_planned(stream->stack, &args, FL_PASS_STREAM, NULL, &stream->workspace, &caller_state);
    fl_fp_leave(caller_state);
    return run;
}

void *fl_stream_h(fl_stream *stream) { return stream->h; }

void *fl_stream_c(fl_stream *stream) { return stream->c; }
