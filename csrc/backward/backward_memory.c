/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory of the backward pass: one block of the tape's, cut into places.
 */
#include <string.h>

#include "backward/backward_call.h"

size_t fl_back_scratch(const back_call *c, char *memory, back_scratch *scratch)
{
    const size_t rows = c->chunk_rows, real_size = c->stack->real_size, lanes = c->stack->layout.lanes;
    const bool is_cell = c->stack->path != FL_PATH_LSTM;
    size_t total = 0, pointers[13], own_b, index, gate_rows, totals, panel, zoned, masked, cell;
    for (size_t n = 0; n < 13; n++)
        if (!fl_take_place(&total, &pointers[n], rows, sizeof(void *), 1))
            return 0;
    const bool recomputes = !is_cell && c->tape->saving.gates == NULL && c->tape->saving.c != NULL;
    const bool draws = fl_draws_zoneout(c->stack, &c->tape->saving);
    const size_t masks = fl_recurrent_masks(c->stack, &c->tape->saving);
    if (!fl_take_place(&total, &own_b, c->B, sizeof(size_t), 1) ||
        !fl_take_place(&total, &index, rows, sizeof(int64_t), 1) ||
        !fl_take_place(&total, &gate_rows, recomputes ? rows : 0, 4 * c->H, real_size) ||
        !fl_take_place(&total, &totals, rows + 8, 4 * lanes, real_size) ||
        !fl_take_place(&total, &panel, rows, 4 * lanes * FL_PANELS_TOGETHER, real_size) ||
        !fl_take_place(&total, &zoned, draws ? 2 * rows : 0, c->H, real_size) ||
        !fl_take_place(&total, &masked, masks != 0 ? rows : 0, c->P, real_size) ||
        !fl_take_place(&total, &cell, is_cell, fl_back_cell_scratch_bytes(c), 1))
        return 0;
    if (scratch == NULL)
        return total;
    scratch->gates = (const void **)(void *)(memory + pointers[0]);
    scratch->c = (const void **)(void *)(memory + pointers[1]);
    scratch->c_before = (const void **)(void *)(memory + pointers[2]);
    scratch->dy = (const void **)(void *)(memory + pointers[3]);
    scratch->x = (const void **)(void *)(memory + pointers[4]);
    scratch->h_before = (const void **)(void *)(memory + pointers[5]);
    scratch->dgates = (void **)(void *)(memory + pointers[6]);
    scratch->dx = (void **)(void *)(memory + pointers[7]);
    scratch->fresh_gates = (void **)(void *)(memory + pointers[8]);
    scratch->y = (const void **)(void *)(memory + pointers[9]);
    scratch->dcells = (const void **)(void *)(memory + pointers[10]);
    scratch->zoned_c = (const void **)(void *)(memory + pointers[11]);
    scratch->zoned_h = (const void **)(void *)(memory + pointers[12]);
    scratch->own_b = (size_t *)(void *)(memory + own_b);
    scratch->index = (int64_t *)(void *)(memory + index);
    scratch->gate_rows = memory + gate_rows;
    scratch->totals = memory + totals;
    scratch->panel = memory + panel;
    scratch->zoned = memory + zoned;
    scratch->masked = memory + masked;
    scratch->cell_scratch = memory + cell;
    return total;
}

static size_t most_of(size_t a, size_t b) { return a > b ? a : b; }

fl_status fl_back_take_memory(back_call *c, fl_tape *tape, back_window *w)
{
    const fl_stack *stack = c->stack;
    const size_t real_size = stack->real_size, H = c->H, P = c->P, B = c->B, D = c->D, L = c->L;
    const size_t lanes = stack->layout.lanes, gate_rows = c->G * H, head = fl_head_size(stack);
    const bool projects = stack->shape.cell.proj_size != 0, splits = stack->sizes.split;
    const size_t cells = L * D, rows = c->chunk_rows, window_rows = fl_back_window_rows(c);
    const bool recomputes = tape->saving.segment != 0;
    const bool wants_dx = c->args->dx != NULL;
    const size_t kept_cells = D == 1 ? L : D;
    const fl_forward_args *call = &tape->args.call;
    size_t total = 0, at_rows, ranked, zeros, panels, R, W0, W1, hr, index, masks, dgates, dropped, inner, per_thread,
           counters;
    size_t w_gates, w_c, w_h, w_y, w_states, w_lengths, w_at;
    const size_t widest = most_of(most_of(gate_rows, stack->shape.input_size), most_of(P, c->states));
    const fl_places of_chunk = {c->plan.chunk * B, B, NULL};
    c->inner_places = D == 1 ? of_chunk : tape->saving.places;
    c->dh_offset = splits ? gate_rows : 0;
    c->proj_offset = c->dh_offset + gate_rows;
    c->extras_offset = c->proj_offset + (projects ? P : 0);
    /* Whole lines; a power of two would meet in few cache sets. */
    const size_t stride = (c->extras_offset + stack->sizes.extras + 15) / 16 * 16 + 16;
    const size_t recurrent_masks = cells * fl_recurrent_masks(stack, &tape->saving);
    c->dgates_stride = (ptrdiff_t)stride;
    c->per_thread_bytes = fl_back_scratch(c, NULL, NULL);
    if (c->per_thread_bytes == 0)
        return FL_ERROR_SIZE;
    const size_t R_size = stack->sizes.recurs ? fl_panels_of(head, lanes).vectors * lanes : 0;
    const size_t W0_size = fl_panels_of(stack->shape.input_size, lanes).vectors * lanes;
    const size_t W1_size = fl_panels_of(D * P, lanes).vectors * lanes;
    const size_t hr_size = projects ? fl_panels_of(H, lanes).vectors * lanes : 0;
    size_t dgates_rows = 0;
    if (!fl_add_product(&dgates_rows, rows, stride, 1) ||
        !fl_take_place(&total, &counters, 2 * c->plan.threads, sizeof(fl_counter), 1) ||
        !fl_take_place(&total, &at_rows, B, sizeof(size_t), 1) ||
        !fl_take_place(&total, &ranked, B, sizeof(fl_ranked_row), 1) ||
        !fl_take_place(&total, &zeros, widest, real_size, 1) ||
        !fl_take_place(&total, &panels, 3 * cells, sizeof(char *), 1) ||
        !fl_take_place(&total, &R, cells * R_size, gate_rows, real_size) ||
        !fl_take_place(&total, &W0, wants_dx ? D * W0_size : 0, gate_rows, real_size) ||
        !fl_take_place(&total, &W1, (L - 1) * D * W1_size, gate_rows, real_size) ||
        !fl_take_place(&total, &hr, cells * hr_size, P, real_size) ||
        !fl_take_place(&total, &index, call->x_index != NULL ? D * stack->shape.input_size : 0, gate_rows, real_size) ||
        !fl_take_place(&total, &masks, recurrent_masks * B, P, real_size) ||
        !fl_take_place(&total, &dgates, 2, dgates_rows, real_size) ||
        !fl_take_place(&total, &dropped, c->drops ? 2 * rows : 0, D * P, real_size) ||
        !fl_take_place(&total, &inner, L > 1 ? 2 : 0, c->inner_places.count, D * P * real_size) ||
        !fl_take_place(&total, &per_thread, c->plan.threads, c->per_thread_bytes, 1) ||
        !fl_take_place(&total, &w_gates, kept_cells * stack->sizes.saved, window_rows, real_size) ||
        !fl_take_place(&total, &w_c, kept_cells * c->states, window_rows, real_size) ||
        !fl_take_place(&total, &w_h, (L - 1) * D * P, window_rows, real_size) ||
        !fl_take_place(&total, &w_y, D * P, window_rows, real_size) ||
        !fl_take_place(&total, &w_states, recomputes ? 2 * cells : 0, B * (P + c->states), real_size) ||
        !fl_take_place(&total, &w_lengths, recomputes ? B : 0, sizeof(int64_t), 1) ||
        !fl_take_place(&total, &w_at, recomputes ? B : 0, sizeof(ptrdiff_t), 1))
        return FL_ERROR_SIZE;
    if (!fl_block_grow(&tape->scratch, total))
        return FL_ERROR_MEMORY;
    char *base = tape->scratch.memory;
    c->recurrent_done = (fl_counter *)(void *)(base + counters);
    c->shared_done = c->recurrent_done + c->plan.threads;
    c->rows = (size_t *)(void *)(base + at_rows);
    for (size_t b = 0; b < B; b++) c->rows[b] = b;
    if (c->lengths != NULL)
        fl_rank_rows(c->rows, (fl_ranked_row *)(void *)(base + ranked), B, 1, c->lengths);
    c->zeros = base + zeros;
    memset(c->zeros, 0, widest * real_size);
    c->R_panels = (char **)(void *)(base + panels);
    c->W_panels = c->R_panels + cells;
    c->hr_panels = c->W_panels + cells;
    for (size_t cell = 0; cell < cells; cell++) {
        c->R_panels[cell] = base + R + cell * R_size * gate_rows * real_size;
        c->W_panels[cell] = cell >= D  ? base + W1 + (cell - D) * W1_size * gate_rows * real_size
                            : wants_dx ? base + W0 + cell * W0_size * gate_rows * real_size
                                       : NULL;
        c->hr_panels[cell] = projects ? base + hr + cell * hr_size * P * real_size : NULL;
    }
    if (recurrent_masks != 0) {
        c->masks = base + masks;
        fl_fill_recurrent_masks(stack, &tape->saving, B, c->masks);
    }
    for (size_t n = 0; n < 2; n++) {
        c->dgates[n] = base + dgates + n * dgates_rows * real_size;
        c->dropped[n] = base + dropped + n * rows * D * P * real_size;
        c->inner[n] = base + inner + n * c->inner_places.count * D * P * real_size;
        c->index_gradient[n] = base + index + (n % D) * stack->shape.input_size * gate_rows * real_size;
    }
    if (call->x_index != NULL)
        memset(base + index, 0, D * stack->shape.input_size * gate_rows * real_size);
    c->per_thread = base + per_thread;
    w->is_filled = false;
    w->gates = base + w_gates;
    w->c = base + w_c;
    w->h = base + w_h;
    w->y = base + w_y;
    w->states = base + w_states;
    w->lengths = (int64_t *)(void *)(base + w_lengths);
    w->at = (ptrdiff_t *)(void *)(base + w_at);
    return FL_OK;
}
