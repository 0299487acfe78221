/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Memory of the backward pass: one block of scratch.
 */
#include <string.h>

#include "backward/backward_call.h"

/* Pointers to rows of a chunk. */
static void *take_pointers(fl_arena *arena, const back_call *c)
{
    return fl_arena_take(arena, c->plan.chunk * c->B, sizeof(void *), 1);
}

/* Memory of one thread. */
static void place_thread(fl_arena *arena, const back_call *c, back_scratch *s)
{
    const fl_stack *stack = c->stack;
    const size_t rows = c->plan.chunk * c->B, real_size = stack->real_size, lanes = stack->layout.lanes;
    const bool draws = fl_draws_zoneout(stack, &c->tape->recording);
    s->gates = take_pointers(arena, c);
    s->c = take_pointers(arena, c);
    s->c_before = take_pointers(arena, c);
    s->dy = take_pointers(arena, c);
    s->x = take_pointers(arena, c);
    s->h_before = take_pointers(arena, c);
    s->dgates = take_pointers(arena, c);
    s->dx = take_pointers(arena, c);
    s->fresh_gates = take_pointers(arena, c);
    s->y = take_pointers(arena, c);
    s->dcells = take_pointers(arena, c);
    s->zoned_c = draws ? take_pointers(arena, c) : NULL;
    s->zoned_h = draws ? take_pointers(arena, c) : NULL;
    s->own_b = fl_arena_take(arena, c->B, sizeof(size_t), 1);
    s->index = fl_arena_take(arena, rows, sizeof(int64_t), 1);
    const bool recomputes = c->tape->recording.gates == NULL && c->tape->recording.segment == 0;
    s->gate_rows = fl_arena_take(arena, recomputes ? rows : 0, c->G * c->H, real_size);
    s->rows = fl_row_scratch_take(arena, &stack->sizes, rows, c->B, lanes, real_size, true);
    s->panel = fl_arena_take(arena, rows, 4 * lanes * FL_PANELS_TOGETHER, real_size);
    s->zoned = fl_arena_take(arena, draws ? 2 * rows : 0, c->H, real_size);
    s->masked = fl_arena_take(arena, fl_recurrent_masks(stack, &c->tape->recording) != 0 ? rows : 0, c->P, real_size);
}

static size_t most_of(size_t a, size_t b) { return a > b ? a : b; }

/* A place for panels of K rows of N weights, null unless wanted. */
static void *take_panels(fl_arena *arena, const back_call *c, bool is_wanted, size_t K, size_t N)
{
    const fl_panels panels = fl_panels_of(N, c->stack->layout.lanes);
    if (!is_wanted)
        return NULL;
    return fl_arena_take(arena, panels.vectors * panels.lanes, K, c->stack->kernels->weight_size);
}

static void place_panels(fl_arena *arena, const back_call *c, back_memory *m)
{
    const size_t count = c->L * c->D, gate_rows = c->G * c->H;
    const bool projects = c->stack->shape.cell.proj_size != 0;
    m->R_panels = fl_arena_take(arena, count, sizeof(void *), 1);
    m->W_panels = fl_arena_take(arena, count, sizeof(void *), 1);
    m->hr_panels = fl_arena_take(arena, count, sizeof(void *), 1);
    for (size_t n = 0; n < count; n++) {
        const size_t I = c->stack->recurrences[n].I;
        void *R = take_panels(arena, c, c->stack->sizes.recurs, gate_rows, fl_head_depth(&c->stack->sizes));
        void *W = take_panels(arena, c, n >= c->D || c->args->dx != NULL, gate_rows, I);
        void *hr = take_panels(arena, c, projects, c->P, c->H);
        if (m->hr_panels != NULL) { /* taken last */
            m->R_panels[n] = R;
            m->W_panels[n] = W;
            m->hr_panels[n] = hr;
        }
    }
}

/* What sums over all rows need beside the gradients. */
static void place_sums(fl_arena *arena, const back_call *c, back_memory *m)
{
    const fl_stack *stack = c->stack;
    const size_t count = c->L * c->D, real_size = stack->real_size, gate_rows = c->G * c->H;
    const bool has_index = c->tape->args.call.x_index != NULL;
    const size_t I = stack->shape.input_size, steps = c->T * c->B, different = steps < I ? steps : I;
    m->index_slot = has_index ? fl_arena_take(arena, I, sizeof(int64_t), 1) : NULL;
    m->index_gradient.used = has_index ? fl_arena_take(arena, different, sizeof(int64_t), 1) : NULL;
    for (size_t n = 0; n < 2; n++) {
        const bool is_there = has_index && n < c->D;
        m->index_gradient.rows[n] = is_there ? fl_arena_take(arena, different, gate_rows, real_size) : NULL;
        m->index_low[n] = is_there ? fl_arena_take(arena, different, gate_rows, real_size) : NULL;
    }
    m->column_low = fl_arena_take(arena, count, stack->gradient_row.width, real_size);
    m->sums = fl_arena_take(arena, c->plan.folds ? count : 0, FL_PARAMETER_COUNT, sizeof *m->sums);
    for (size_t n = 0; n < count && c->plan.folds; n++) {
        for (size_t index = 0; index < FL_PARAMETER_COUNT; index++) {
            const bool is_product = stack->gradient_row.columns[index].count == 0 &&
                                    !(index == FL_BIAS_HH || (index == FL_WEIGHT_IH && n < c->D && has_index));
            const size_t size = is_product ? fl_parameter_size(&stack->sizes, stack->recurrences[n].I, index) : 0;
            const back_sums sums = {fl_arena_take(arena, size, real_size, 1), fl_arena_take(arena, size, real_size, 1)};
            if (m->sums != NULL)
                m->sums[n * FL_PARAMETER_COUNT + index] = sums;
        }
    }
}

static void place_window(fl_arena *arena, const back_call *c, back_window *w)
{
    const size_t real_size = c->stack->real_size, rows = fl_back_window_rows(c), B = c->B;
    const size_t kept = c->D == 1 ? c->L : c->D;
    w->is_filled = false;
    w->gates = fl_arena_take(arena, kept * c->stack->sizes.saved, rows, real_size);
    w->c = fl_arena_take(arena, kept * c->states, rows, real_size);
    w->h = fl_arena_take(arena, (c->L - 1) * c->D * c->P, rows, real_size);
    w->y = fl_arena_take(arena, c->D * c->P, rows, real_size);
    w->states = fl_arena_take(arena, 2 * c->L * c->D, B * (c->P + c->states), real_size);
    w->lengths = fl_arena_take(arena, B, sizeof(int64_t), 1);
    w->at = fl_arena_take(arena, B, sizeof(ptrdiff_t), 1);
}

static void place(fl_arena *arena, const back_call *c, back_memory *m)
{
    const fl_stack *stack = c->stack;
    const size_t real_size = stack->real_size, B = c->B, D = c->D, P = c->P, I = stack->shape.input_size;
    const size_t gate_rows = c->G * c->H, rows = c->plan.chunk * B, width = D * P;
    const size_t widest = most_of(most_of(gate_rows, I), most_of(P, c->states));
    const fl_places of_chunk = {rows, B, NULL};
    m->inner_places = D == 1 ? of_chunk : c->tape->recording.places;
    /* Whole lines; a power of two would meet in few cache sets. */
    const size_t stride = (c->stack->gradient_row.width + 15) / 16 * 16 + 16;
    m->dgates_stride = (ptrdiff_t)stride;
    m->recurrent_done = fl_arena_take(arena, c->plan.threads, sizeof(fl_counter), 1);
    m->shared_done = fl_arena_take(arena, c->plan.threads, sizeof(fl_counter), 1);
    m->rows = fl_arena_take(arena, B, sizeof(size_t), 1);
    m->ranked = fl_arena_take(arena, B, sizeof(fl_ranked_row), 1);
    m->zeros = fl_arena_take(arena, widest, real_size, 1);
    place_panels(arena, c, m);
    place_sums(arena, c, m);
    m->masks = fl_arena_take(arena, c->L * D * fl_recurrent_masks(stack, &c->tape->recording) * B, P, real_size);
    for (size_t n = 0; n < 2; n++) m->dgates[n] = fl_arena_take(arena, rows, stride, real_size);
    for (size_t n = 0; n < 2; n++) m->dropped[n] = fl_arena_take(arena, c->drops ? rows : 0, width, real_size);
    for (size_t n = 0; n < 2; n++)
        m->inner[n] = fl_arena_take(arena, c->L > 1 ? m->inner_places.count : 0, width, real_size);
    m->threads = fl_arena_take(arena, c->plan.threads, sizeof *m->threads, 1);
    for (size_t thread = 0; thread < c->plan.threads; thread++) {
        back_scratch measured, *scratch = m->threads != NULL ? &m->threads[thread] : &measured;
        place_thread(arena, c, scratch);
    }
    if (c->tape->recording.segment != 0)
        place_window(arena, c, &m->window);
}

/* Which inputs occur, and no gradient of them yet. */
static void find_used_inputs(const back_call *c, back_memory *m)
{
    const size_t I = c->stack->shape.input_size;
    fl_index_gradient *gradient = &m->index_gradient;
    memset(m->index_slot, 0, I * sizeof *m->index_slot);
    for (size_t b = 0; b < c->B; b++) {
        const size_t steps = c->lengths != NULL ? (size_t)c->lengths[b] : c->T;
        for (size_t t = 0; t < steps; t++) m->index_slot[fl_back_input_index(c, t, b)] = 1;
    }
    gradient->count = 0;
    for (size_t index = 0; index < I; index++) {
        if (m->index_slot[index] == 0)
            continue;
        m->index_slot[index] = (int64_t)gradient->count;
        gradient->used[gradient->count++] = (int64_t)index;
    }
    const size_t bytes = gradient->count * c->G * c->H * c->stack->real_size;
    for (size_t n = 0; n < c->D; n++) {
        memset(gradient->rows[n], 0, bytes);
        memset(m->index_low[n], 0, bytes);
    }
}

fl_status fl_back_take_memory(back_call *c)
{
    fl_workspace *scratch = c->room->scratch;
    const size_t real_size = c->stack->real_size, B = c->B, gate_rows = c->G * c->H;
    back_memory *m = &c->memory;
    fl_arena arena = fl_arena_of(scratch);
    place(&arena, c, m);
    if (arena.overflows)
        return FL_ERROR_SIZE;
    if (!fl_workspace_fit(scratch, arena.used))
        return FL_ERROR_MEMORY;
    if (scratch->memory != arena.memory || scratch->bytes != arena.bytes) {
        arena = fl_arena_of(scratch);
        place(&arena, c, m);
    }
    for (size_t b = 0; b < B; b++) m->rows[b] = b;
    if (c->lengths != NULL)
        fl_rank_rows(m->rows, m->ranked, B, 1, c->lengths);
    memset(m->zeros, 0, most_of(most_of(gate_rows, c->stack->shape.input_size), most_of(c->P, c->states)) * real_size);
    fl_fill_recurrent_masks(c->stack, &c->tape->recording, B, m->masks);
    if (m->index_slot != NULL)
        find_used_inputs(c, m);
    return FL_OK;
}
