/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Steps that are computed again, from the states that a tape keeps before every k-th step: the forward driver runs over a
 * part of the sequence, and keeps all.
 */
#include <string.h>

#include "backward/backward_call.h"
#include "forward/forward.h"

/* The window of a chunk. */
static void window_of(const back_call *c, size_t chunk_begin, size_t chunk_end, size_t *begin, size_t *end)
{
    const size_t segment = c->tape->recording.segment;
    *begin = chunk_begin / segment * segment;
    *end = c->D == 1 || chunk_end % segment == 0 ? chunk_end : chunk_end + segment - chunk_end % segment;
    *end = *end < c->T ? *end : c->T;
}

/* Steps of row b in [begin, end). */
static size_t steps_between(const back_call *c, size_t b, size_t begin, size_t end)
{
    const size_t length = back_length(c, b);
    return length <= begin ? 0 : (length < end ? length : end) - begin;
}

size_t fl_back_window_rows(const back_call *c)
{
    size_t most = 0;
    for (size_t chunk = 0; chunk < c->T && c->tape->recording.segment != 0; chunk += c->plan.chunk) {
        size_t begin, end, rows = 0;
        window_of(c, chunk, c->T - chunk < c->plan.chunk ? c->T : chunk + c->plan.chunk, &begin, &end);
        for (size_t b = 0; b < c->B; b++) rows += steps_between(c, b, begin, end);
        most = rows > most ? rows : most;
    }
    return most;
}

static void copy_state(char *to, const char *from, size_t bytes)
{
    if (from != NULL)
        memcpy(to, from, bytes);
    else
        memset(to, 0, bytes);
}

/* States of a recurrence at the window's edge where it begins: those of rows that go on beyond it from the checkpoints, the
 * given ones of others. */
static void edge_states(const back_call *c, size_t recurrence)
{
    const back_window *w = &c->memory.window;
    const fl_recording *recording = &c->tape->recording;
    const size_t h_bytes = c->P * c->stack->real_size, c_bytes = c->states * c->stack->real_size;
    const size_t edge = recurrence % c->D == 0 ? w->begin : w->end;
    const fl_forward_args *call = &c->tape->args.call;
    char *h = w->states, *c_state = h + c->L * c->D * c->B * h_bytes;
    for (size_t b = 0, row = recurrence * c->B; b < c->B; b++, row++) {
        const char *from_h = call->h0 != NULL ? (const char *)call->h0 + row * h_bytes : NULL;
        const char *from_c = call->c0 != NULL ? (const char *)call->c0 + row * c_bytes : NULL;
        if (edge != 0 && edge < back_length(c, b)) {
            const size_t place = fl_place(&recording->checked, edge / recording->segment - 1, b);
            from_h = recording->checkpoints + (recurrence * recording->checked.count + place) * (h_bytes + c_bytes);
            from_c = from_h + h_bytes;
        }
        copy_state(h + row * h_bytes, from_h, h_bytes);
        if (c_bytes != 0)
            copy_state(c_state + row * c_bytes, from_c, c_bytes);
    }
}

/* What the forward driver is to keep of the window. */
static fl_recording window_recording(const back_call *c, size_t first_layer, size_t top_layer)
{
    const back_window *w = &c->memory.window;
    fl_recording r = c->tape->recording;
    r.layers = top_layer + 1;
    r.first_layer = first_layer;
    r.gates = w->gates;
    r.c = w->c;
    r.h = top_layer > 0 ? w->h : NULL;
    r.checkpoints = NULL;
    for (size_t b = 0; b < c->B; b++) w->lengths[b] = (int64_t)steps_between(c, b, w->begin, w->end);
    r.places = fl_places_of(c->lengths != NULL ? w->lengths : NULL, w->end - w->begin, c->B, 0, w->at);
    if (r.reset != NULL) {
        r.reset += w->begin * c->B;
        r.any_reset += w->begin;
    }
    r.mask_origin = w->begin;
    return r;
}

/* The recorded call, of the window alone. */
static fl_forward_args window_call(const back_call *c, const fl_recording *recording)
{
    const back_window *w = &c->memory.window;
    const size_t states = c->L * c->D * c->B * c->stack->real_size, width = c->D * c->P;
    fl_forward_args call = c->tape->args.call;
    const ptrdiff_t offset = (ptrdiff_t)w->begin * call.x_stride_t;
    call.T = w->end - w->begin;
    if (call.x != NULL)
        call.x = fl_moved_const(call.x, offset, c->stack->real_size);
    else
        call.x_index += offset;
    call.lengths = c->lengths != NULL ? w->lengths : NULL;
    call.h0 = w->states;
    call.c0 = w->states + states * c->P;
    call.h_n = w->states + states * (c->P + c->states);
    call.c_n = w->states + states * (2 * c->P + c->states);
    call.cells = NULL;
    call.y = w->y;
    call.y_at = recording->places.at;
    call.y_stride_b = (ptrdiff_t)width;
    call.y_stride_t = (ptrdiff_t)(recording->places.stride_t * width);
    call.num_threads = c->args->num_threads;
    call.interrupt = c->args->interrupt;
    call.interrupt_context = c->args->interrupt_context;
    return call;
}

fl_status fl_back_fill_window(back_call *c, const stage *s)
{
    back_window *w = &c->memory.window;
    const size_t top = c->D == 1 ? c->L - 1 : s->layer, first = c->D == 1 ? 0 : top;
    if (w->is_filled && w->layer == top && w->begin <= s->begin && s->end <= w->end)
        return FL_OK;
    window_of(c, s->begin, s->end, &w->begin, &w->end);
    w->is_filled = true;
    w->layer = top;
    for (size_t recurrence = 0; recurrence < c->L * c->D; recurrence++) edge_states(c, recurrence);
    const fl_recording recording = window_recording(c, first, top);
    const fl_forward_args call = window_call(c, &recording);
    const saved_states saved = {.origin = w->begin,
                                .T = call.T,
                                .places = recording.places,
                                .first_layer = first,
                                .top_layer = top,
                                .gates = w->gates,
                                .c = w->c,
                                .h = w->h,
                                .y = w->y,
                                .y_rows = {call.y_stride_t, call.y_stride_b, call.y_at},
                                .h_outside = call.h0,
                                .c_outside = call.c0};
    c->saved = saved;
    return fl_forward_planned(c->stack, &call, FL_PASS_RECORD, &recording, c->room->forward, c->interrupt.caller_state);
}
