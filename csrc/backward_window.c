/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Steps that are computed again, from the states that a tape keeps before every k-th step: the forward driver runs over a
 * part of the sequence, and keeps all.
 */
#include <string.h>

#include "backward_call.h"

size_t fl_back_longest_window(const back_call *c)
{
    const size_t segment = c->tape->saving.segment;
    size_t longest = 0;
    for (size_t begin = 0; begin < c->T && segment != 0; begin += c->plan.chunk) {
        const size_t end = c->T - begin < c->plan.chunk ? c->T : begin + c->plan.chunk;
        const size_t from = begin / segment * segment;
        const size_t to = c->D == 1 || end % segment == 0 ? end : end + segment - end % segment;
        const size_t steps = (to < c->T ? to : c->T) - from;
        longest = steps > longest ? steps : longest;
    }
    return longest;
}

static void copy_state(char *to, const char *from, size_t bytes)
{
    if (from != NULL)
        memcpy(to, from, bytes);
    else
        memset(to, 0, bytes);
}

/* States of cell (layer, direction) at the window's edge where it begins, from the checkpoints. */
static void edge_states(const back_call *c, const back_window *w, size_t cell)
{
    const size_t h_bytes = c->B * c->P * c->stack->real_size, c_bytes = c->B * c->states * c->stack->real_size;
    const size_t cells = c->L * c->D, edge = cell % c->D == 0 ? w->begin : w->end;
    const fl_forward_args *call = &c->tape->args.call;
    const char *h = call->h0 != NULL ? (const char *)call->h0 + cell * h_bytes : NULL;
    const char *c_state = call->c0 != NULL ? (const char *)call->c0 + cell * c_bytes : NULL;
    if (edge != 0 && edge != c->T) {
        const char *checkpoint =
            c->tape->saving.checkpoints + (edge / c->tape->saving.segment - 1) * cells * (h_bytes + c_bytes);
        h = checkpoint + cell * h_bytes;
        c_state = checkpoint + cells * h_bytes + cell * c_bytes;
    }
    copy_state(w->states + cell * h_bytes, h, h_bytes);
    copy_state(w->states + cells * h_bytes + cell * c_bytes, c_state, c_bytes);
}

fl_status fl_back_fill_window(back_call *c, fl_tape *tape, back_window *w, const stage *s)
{
    const size_t segment = tape->saving.segment, begin = s->begin / segment * segment;
    size_t end = c->D == 1 || s->end % segment == 0 ? s->end : s->end + segment - s->end % segment;
    end = end < c->T ? end : c->T;
    const size_t layer = c->D == 1 ? c->L - 1 : s->layer, first = c->D == 1 ? 0 : layer;
    const size_t cells = c->L * c->D * c->B * c->stack->real_size, width = c->D * c->P;
    if (w->is_filled && w->layer == layer && w->begin <= s->begin && s->end <= w->end)
        return FL_OK;
    w->is_filled = true;
    w->begin = begin;
    w->end = end;
    w->layer = layer;
    for (size_t cell = 0; cell < c->L * c->D; cell++)
        edge_states(c, w, cell);
    fl_saving saving = tape->saving;
    saving.layers = layer + 1;
    saving.first_layer = first;
    saving.gates = w->gates;
    saving.c = w->c;
    saving.h = layer > 0 ? w->h : NULL;
    saving.checkpoints = NULL;
    if (saving.reset != NULL) {
        saving.reset += begin * c->B;
        saving.any_reset += begin;
    }
    saving.mask_origin = begin;
    fl_forward_args call = tape->args.call;
    const ptrdiff_t offset = (ptrdiff_t)begin * call.x_stride_t;
    call.T = end - begin;
    if (call.x != NULL)
        call.x = (const char *)call.x + offset * (ptrdiff_t)c->stack->real_size;
    else
        call.x_index += offset;
    if (c->lengths != NULL) {
        for (size_t b = 0; b < c->B; b++) {
            const size_t length = (size_t)c->lengths[b];
            w->lengths[b] = length <= begin ? 0 : (int64_t)((length < end ? length : end) - begin);
        }
        call.lengths = w->lengths;
    }
    call.h0 = w->states;
    call.c0 = w->states + cells * c->P;
    call.h_n = w->states + cells * (c->P + c->states);
    call.c_n = w->states + cells * (2 * c->P + c->states);
    call.y_at = NULL;
    call.cells = NULL;
    call.y = w->y;
    call.y_stride_b = (ptrdiff_t)width;
    call.y_stride_t = (ptrdiff_t)(c->B * width);
    call.num_threads = c->args->num_threads;
    call.interrupt = c->args->interrupt;
    call.interrupt_context = c->args->interrupt_context;
    const fl_status status = fl_forward_planned(c->stack, &call, &saving, &tape->workspace, c->interrupt.caller_state);
    const saved_states saved = {.origin = begin,
                                .T = call.T,
                                .first_layer = first,
                                .top_layer = layer,
                                .gates = w->gates,
                                .c = w->c,
                                .h = w->h,
                                .y = w->y,
                                .y_stride_t = call.y_stride_t,
                                .y_stride_b = call.y_stride_b,
                                .h_outside = call.h0,
                                .c_outside = call.c0};
    c->saved = saved;
    return status;
}
