/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The recurrent part of a stage: one thread's batch rows through the steps of a chunk, against time.
 */
#include <string.h>

#include "backward/backward_call.h"

/* What one thread does of a stage. */
typedef struct recurrent_part {
    const back_call *c;
    stage s;
    size_t thread, parity;
    size_t recurrence; /* index of the layer and direction */
    const back_scratch *scratch;
} recurrent_part;

/* ---- The chunk's rows --------------------------------------------------------------------------------------- */

/* How many of the active rows are this thread's: ranks thread, thread + groups, ... */
static size_t own_active(const recurrent_part *p, size_t t)
{
    const size_t active = fl_back_active(p->c, t), groups = p->c->plan.groups;
    return active > p->thread ? (active - p->thread + groups - 1) / groups : 0;
}

/* Masks of zoneout for row m. */
static void draw_zoneout(const recurrent_part *p, size_t m, size_t t, size_t b)
{
    const back_call *c = p->c;
    const fl_cell_options *o = &c->stack->shape.cell;
    const size_t bytes = c->H * c->stack->real_size;
    char *of_c = p->scratch->zoned + 2 * m * bytes, *of_h = of_c + bytes;
    /* `t` counts from the start of the whole sequence, as the tape's own recording does. */
    fl_fill_zoneout(c->stack, &c->tape->recording, p->recurrence, t, c->B, b, of_c, of_h);
    p->scratch->zoned_c[m] = o->zoneout_c > 0.0 ? of_c : NULL;
    p->scratch->zoned_h[m] = o->zoneout_h > 0.0 ? of_h : NULL;
}

/* Input of row m, `row` of the chunk. */
static void point_at_input(const recurrent_part *p, size_t m, size_t row, size_t t, size_t b)
{
    const back_call *c = p->c;
    if (c->drops && p->s.layer > 0) {
        char *dropped = c->memory.dropped[p->parity] + row * c->D * c->P * c->stack->real_size;
        fl_drop_row(c->stack, &c->tape->recording, p->s.layer, t, c->B, b, fl_back_output(c, p->s.layer - 1, t, b),
                    dropped);
        p->scratch->x[m] = dropped;
    } else if (p->s.layer > 0) {
        p->scratch->x[m] = fl_back_output(c, p->s.layer - 1, t, b);
    } else if (c->tape->args.call.x != NULL) {
        p->scratch->x[m] = fl_back_input(c, t, b);
    } else {
        p->scratch->index[m] = fl_back_input_index(c, t, b);
    }
}

/* What the cell's gradient of row m reads and writes. */
static void point_at_row(const recurrent_part *p, size_t m, size_t row, size_t t, size_t b)
{
    const back_call *c = p->c;
    const stage *s = &p->s;
    const back_scratch *scratch = p->scratch;
    const size_t real_size = c->stack->real_size, part = s->direction * c->P * real_size;
    const bool fresh = c->saved.gates == NULL;
    const char *dy = fl_back_dy(c, s, t, b);
    scratch->c[m] = fl_back_c_after(c, s, t, b);
    scratch->c_before[m] = fl_back_c_before(c, s, t, b);
    scratch->dy[m] = dy != NULL ? dy + part : NULL;
    scratch->dcells[m] = fl_back_dcells(c, s, t, b);
    scratch->dgates[m] = c->memory.dgates[p->parity] + row * (size_t)c->memory.dgates_stride * real_size;
    scratch->dx[m] = fl_back_dx(c, s, t, b);
    scratch->h_before[m] = fresh || c->stack->sizes.reads_h_before ? fl_back_h_before(c, s, t, b) : NULL;
    if (c->stack->shape.cell.proj_clip != 0.0)
        scratch->y[m] = (const char *)fl_back_output(c, s->layer, t, b) + part;
    if (fresh) {
        scratch->fresh_gates[m] = scratch->gate_rows + m * c->G * c->H * real_size;
        scratch->gates[m] = scratch->fresh_gates[m];
    } else {
        scratch->gates[m] = fl_back_saved(c, s, t, b);
    }
    if (scratch->zoned_c != NULL)
        draw_zoneout(p, m, t, b);
}

/* Pointers to all rows of this thread, step after step against time; returns their number. */
static size_t point_at_rows(const recurrent_part *p)
{
    const back_call *c = p->c;
    size_t m = 0;
    for (size_t n = 0, row = 0; n < p->s.end - p->s.begin; n++) {
        const size_t t = stage_time(&p->s, n), active = fl_back_active(c, t);
        for (size_t rank = p->thread; rank < active; rank += c->plan.groups, m++) {
            point_at_row(p, m, row + rank, t, c->memory.rows[rank]);
            point_at_input(p, m, row + rank, t, c->memory.rows[rank]);
        }
        row += active;
    }
    return m;
}

static void compute_gates(const recurrent_part *p, size_t rows)
{
    const fl_recurrence *r = &p->c->stack->recurrences[p->recurrence];
    const bool is_index = p->s.layer == 0 && p->c->tape->args.call.x_index != NULL;
    const fl_gate_rows gates = {.layout = p->c->stack->layout,
                                .rows = rows,
                                .I = r->I,
                                .bias = r->bias,
                                .W = r->W,
                                .R = r->R,
                                .x = is_index ? NULL : p->scratch->x,
                                .x_index = p->scratch->index,
                                .h = p->scratch->h_before,
                                .gates = p->scratch->fresh_gates};
    p->c->stack->kernels->gate_rows(&gates);
}

/* ---- Runs of steps ------------------------------------------------------------------------------------------ */

static bool truncates(const back_call *c, size_t t) { return t != 0 && c->args->bptt != 0 && t % c->args->bptt == 0; }

/* Whether the gradient of some state ends at the boundary between steps t - 1 and t. */
static bool is_cut(const back_call *c, size_t t)
{
    return t != c->T && (truncates(c, t) || (c->tape->args.reset != NULL && c->tape->recording.any_reset[t]));
}

/* Ends it: the gradient that has just been carried over this boundary is zero. */
static void cut(const recurrent_part *p, size_t t)
{
    const back_call *c = p->c;
    const size_t h_bytes = c->P * c->stack->real_size, c_bytes = c->states * c->stack->real_size;
    const uint8_t *reset = c->tape->args.reset;
    if (!is_cut(c, t) || (p->s.direction == 1 && t == 0))
        return;
    for (size_t rank = p->thread; rank < c->B; rank += c->plan.groups) {
        const size_t b = c->memory.rows[rank], row = p->recurrence * c->B + b;
        /* The row has both steps; or it begins here, and the given state was replaced. */
        const bool crosses = back_length(c, b) > t;
        if (!crosses || !(truncates(c, t) || (reset != NULL && reset[t * c->B + b] != 0)))
            continue;
        memset((char *)c->args->dh0 + row * h_bytes, 0, h_bytes);
        if (c_bytes != 0)
            memset((char *)c->args->dc0 + row * c_bytes, 0, c_bytes);
    }
}

/* Steps from step n of the stage on with the same rows and nothing cut in between. */
static size_t run_length(const recurrent_part *p, size_t n, size_t active)
{
    const size_t steps = p->s.end - p->s.begin;
    size_t run = 1;
    while (n + run < steps) {
        const size_t t = stage_time(&p->s, n + run), boundary = p->s.direction == 0 ? t + 1 : t;
        if (is_cut(p->c, boundary) || own_active(p, t) != active)
            break;
        run++;
    }
    return run;
}

/* A run of steps of `active` rows, rows m and on. */
static void run_steps(const recurrent_part *p, size_t m, size_t run, size_t active)
{
    const back_call *c = p->c;
    const fl_stack *stack = c->stack;
    const back_scratch *scratch = p->scratch;
    const size_t real_size = stack->real_size, masks = fl_recurrent_masks(stack, &c->tape->recording);
    const size_t rows = p->recurrence * c->B;
    const bool draws = scratch->zoned_c != NULL;
    const fl_back_steps work = {.cell = &stack->recurrences[p->recurrence].cell,
                                .steps = run,
                                .rows = active,
                                .b = scratch->own_b,
                                .R = c->memory.R_panels[p->recurrence],
                                .weight_hr = c->memory.hr_panels[p->recurrence],
                                .saved = scratch->gates + m,
                                .c = scratch->c + m,
                                .c_before = scratch->c_before + m,
                                .h_before = scratch->h_before + m,
                                .y = scratch->y + m,
                                .dy = scratch->dy + m,
                                .dcells = c->args->dcells != NULL ? scratch->dcells + m : NULL,
                                .zoned_c = draws ? scratch->zoned_c + m : NULL,
                                .zoned_h = draws ? scratch->zoned_h + m : NULL,
                                .mask = masks != 0 ? c->memory.masks + rows * masks * c->P * real_size : NULL,
                                .mask_stride_gate = masks > 1 ? (ptrdiff_t)(c->B * c->P) : 0,
                                .dgates = scratch->dgates + m,
                                .state_part = c->stack->gradient_row.state,
                                .projected_part = c->stack->gradient_row.projected,
                                .extras_part = c->stack->gradient_row.extras,
                                .is_far = c->is_far,
                                .dh = (char *)c->args->dh0 + rows * c->P * real_size,
                                .dc = c->states != 0 ? (char *)c->args->dc0 + rows * c->states * real_size : NULL,
                                .scratch = scratch->rows};
    if (stack->sizes.path == FL_PATH_TILES && work.weight_hr == NULL)
        stack->kernels->tile_back_steps(&work);
    else
        stack->kernels->row_back_steps(&work);
}

/* ---- The stage ---------------------------------------------------------------------------------------------- */

/* Gradient of the layer's input, of all rows of this thread. */
static void carry_to_input(const recurrent_part *p, size_t rows)
{
    const back_call *c = p->c;
    const size_t I = c->stack->recurrences[p->recurrence].I;
    const fl_row_product product = {.panels = fl_panels_of(I, c->stack->layout.lanes),
                                    .matrix = c->memory.W_panels[p->recurrence],
                                    .gates = c->G,
                                    .H = c->H,
                                    .rows = rows,
                                    .a = (const void *const *)p->scratch->dgates,
                                    .out = p->scratch->dx,
                                    .adds = p->s.direction == 1,
                                    .totals = p->scratch->rows.totals};
    c->stack->kernels->row_product(&product);
    if (!c->drops || p->s.layer == 0 || p->s.direction + 1 != c->D)
        return;
    for (size_t n = 0, m = 0; n < p->s.end - p->s.begin; n++) {
        const size_t t = stage_time(&p->s, n), active = fl_back_active(c, t);
        for (size_t rank = p->thread; rank < active; rank += c->plan.groups, m++)
            fl_drop_row(c->stack, &c->tape->recording, p->s.layer, t, c->B, c->memory.rows[rank], p->scratch->dx[m],
                        p->scratch->dx[m]);
    }
}

bool fl_back_recurrent(back_call *c, size_t thread, size_t index)
{
    recurrent_part p = {.c = c,
                        .s = fl_back_stage(c->stack, &c->plan, c->T, index),
                        .thread = thread,
                        .parity = index % 2,
                        .scratch = &c->memory.threads[thread]};
    p.recurrence = p.s.layer * c->D + p.s.direction;
    const size_t rows = point_at_rows(&p);
    if (c->saved.gates == NULL && rows != 0)
        compute_gates(&p, rows);
    for (size_t n = 0, m = 0, run; n < p.s.end - p.s.begin; n += run) {
        if (!fl_interrupt_poll(&c->interrupt, thread == 0))
            return false;
        const size_t active = own_active(&p, stage_time(&p.s, n));
        run = run_length(&p, n, active);
        if (active != 0)
            run_steps(&p, m, run, active);
        const size_t last = stage_time(&p.s, n + run - 1);
        cut(&p, p.s.direction == 0 ? last : last + 1);
        m += run * active;
    }
    if (c->memory.W_panels[p.recurrence] != NULL && rows != 0)
        carry_to_input(&p, rows);
    return true;
}
