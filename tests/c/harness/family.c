/* SPDX-License-Identifier: BSD-3-Clause */
#include "family.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Sizes and places ---------------------------------------------------------------------------------------- */

static size_t gates_of(const fl_cell_options *o)
{
    static const size_t gates[FL_CELL_COUNT] = {4, 3, 1, 1, 4, 2, 3, 2};
    return o->kind == FL_CELL_LSTM && o->coupling != FL_COUPLING_NONE ? 3 : gates[o->kind];
}

static size_t recurrent_size(const family *f)
{
    const fl_cell_options *o = &f->spec.shape.cell;
    switch (o->kind) {
    case FL_CELL_INDRNN: return f->H;
    case FL_CELL_SLSTM: return f->gates * f->H * (f->H / (o->heads != 0 ? o->heads : 1));
    case FL_CELL_MINGRU:
    case FL_CELL_MINLSTM: return 0;
    default: return f->gates * f->H * f->P;
    }
}

/* Whether the cell has a bias of the state's part. */
static bool has_bias_hh(fl_cell_kind kind)
{
    return kind == FL_CELL_LSTM || kind == FL_CELL_GRU || kind == FL_CELL_RNN || kind == FL_CELL_MGU;
}

static void set_sizes(const family *f, size_t I, size_t sizes[FAMILY_PARAMETERS])
{
    const family_spec *s = &f->spec;
    const fl_cell_options *o = &s->shape.cell;
    const size_t H = f->H, rows = f->gates * H;
    const bool projects = o->proj_size != 0, norms = o->layer_norm != FL_LAYER_NORM_NONE;
    const bool haste = o->layer_norm == FL_LAYER_NORM_HASTE;
    const size_t all[FAMILY_PARAMETERS] = {rows * I,
                                           recurrent_size(f),
                                           s->bias_ih ? rows : 0,
                                           s->bias_hh && has_bias_hh(o->kind) ? rows : 0,
                                           o->peephole ? (f->gates - 1) * H : 0,
                                           projects ? f->P * H : 0,
                                           projects && s->bias_hr ? f->P : 0,
                                           norms ? rows : 0,
                                           haste ? rows : 0,
                                           haste ? H : 0,
                                           haste ? H : 0};
    memcpy(sizes, all, sizeof all);
}

void family_weights(fl_weights *w, const void **slots[FAMILY_PARAMETERS])
{
    const void **const all[FAMILY_PARAMETERS] = {&w->weight_ih,    &w->weight_hh,   &w->bias_ih,  &w->bias_hh,
                                                 &w->weight_ch,    &w->weight_hr,   &w->bias_hr,  &w->weight_ln_ih,
                                                 &w->weight_ln_hh, &w->weight_ln_c, &w->bias_ln_c};
    memcpy(slots, all, sizeof all);
}

void family_gradients_of(fl_gradients *g, void **slots[FAMILY_PARAMETERS])
{
    void **const all[FAMILY_PARAMETERS] = {&g->weight_ih,    &g->weight_hh,   &g->bias_ih,  &g->bias_hh,
                                           &g->weight_ch,    &g->weight_hr,   &g->bias_hr,  &g->weight_ln_ih,
                                           &g->weight_ln_hh, &g->weight_ln_c, &g->bias_ln_c};
    memcpy(slots, all, sizeof all);
}

const size_t *family_sizes(const family *f, size_t cell) { return f->sizes[cell >= f->spec.shape.num_directions]; }

size_t family_length(const family *f, size_t b) { return f->lengths != NULL ? (size_t)f->lengths[b] : f->spec.T; }

size_t family_h_bytes(const family *f) { return f->P * f->real_size; }

size_t family_c_bytes(const family *f) { return f->states * f->H * f->real_size; }

static placing placing_make(const family *f, int how, size_t width)
{
    placing p = {.width = width};
    if (how < ORDER_COUNT) {
        const strided s = strided_of((order)how, f->spec.T, f->spec.B, width);
        p.elements = s.elements;
        p.origin = s.origin;
        p.stride_t = s.stride_t;
        p.stride_b = s.stride_b;
        return p;
    }
    for (size_t b = 0; b < f->spec.B; b++) p.elements += family_length(f, b) * width;
    p.stride_b = (ptrdiff_t)width;
    p.stride_t = how == ORDER_PACKED ? p.stride_b : -p.stride_b;
    p.at = how == ORDER_PACKED ? f->packed : f->packed_backwards;
    return p;
}

ptrdiff_t placing_of(const placing *p, size_t t, size_t b)
{
    return (ptrdiff_t)t * p->stride_t + (p->at != NULL ? p->at[b] : (ptrdiff_t)b) * p->stride_b;
}

static char *element(const family *f, const placing *p, char *origin, size_t t, size_t b)
{
    return origin + placing_of(p, t, b) * (ptrdiff_t)f->real_size;
}

/* ---- Passes -------------------------------------------------------------------------------------------------- */

static void *random_array(family *f, size_t count, double centre, double magnitude)
{
    void *array = guard_new(&f->inputs, count, f->real_size);
    for (size_t n = 0; n < count; n++)
        real_put(f->spec.shape.dtype, array, (ptrdiff_t)n, centre + random_real(magnitude));
    return array;
}

/* Elements of all real steps, in an order that does not depend on their places. */
static char *random_sequence(family *f, const placing *p, double magnitude)
{
    char *origin = guard_new(&f->inputs, p->elements, f->real_size);
    origin += p->origin * (ptrdiff_t)f->real_size;
    for (size_t b = 0; b < f->spec.B; b++)
        for (size_t t = 0; t < family_length(f, b); t++)
            for (size_t j = 0; j < p->width; j++)
                real_put(f->spec.shape.dtype, element(f, p, origin, t, b), (ptrdiff_t)j, random_real(magnitude));
    return origin;
}

static void make_lengths(family *f)
{
    const size_t B = f->spec.B, T = f->spec.T;
    ptrdiff_t rows = 0;
    if (f->spec.ragged) {
        f->lengths = guard_new(&f->inputs, B, sizeof *f->lengths);
        for (size_t b = 0; b < B; b++)
            f->lengths[b] = random_chance(5) ? 0 : random_chance(4) ? (int64_t)T : (int64_t)random_size(0, T);
    }
    f->packed = guard_new(&f->inputs, B, sizeof *f->packed);
    f->packed_backwards = guard_new(&f->inputs, B, sizeof *f->packed);
    for (size_t b = 0; b < B; b++) {
        f->packed[b] = rows;
        rows += (ptrdiff_t)family_length(f, b);
        f->packed_backwards[b] = rows - 1;
    }
}

static void make_weights(family *f)
{
    const double magnitude = 1.0 / sqrt((double)f->H);
    const size_t width = f->spec.shape.num_directions * f->P;
    set_sizes(f, f->spec.shape.input_size, f->sizes[0]);
    set_sizes(f, width, f->sizes[1]);
    for (size_t cell = 0; cell < f->cells; cell++) {
        const void **slots[FAMILY_PARAMETERS];
        family_weights(&f->weights[cell], slots);
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++) {
            const size_t size = family_sizes(f, cell)[n];
            const bool scales = n >= 7 && n < 10; /* of layer norm */
            if (size != 0)
                *slots[n] = random_array(f, size, scales ? 1.0 : 0.0, scales ? 0.3 : magnitude);
        }
    }
}

/* c, or c, n > 0 and m; some elements before their first step. */
static void *random_states(family *f)
{
    const fl_dtype dtype = f->spec.shape.dtype;
    const size_t rows = f->cells * f->spec.B, H = f->H;
    void *states = random_array(f, rows * f->states * H, 0.0, 1.0);
    for (size_t row = 0; row < rows && f->states == 3; row++)
        for (size_t j = 0; j < H; j++) {
            const ptrdiff_t c = (ptrdiff_t)(row * 3 * H + j), n = c + (ptrdiff_t)H;
            const bool is_new = random_chance(4);
            real_put(dtype, states, n, is_new ? 0.0 : 1.0 + 0.5 * real_get(dtype, states, n));
            if (is_new) {
                real_put(dtype, states, c, 0.0);
                real_put(dtype, states, n + (ptrdiff_t)H, 0.0);
            }
        }
    return states;
}

static void make_input(family *f)
{
    const family_spec *s = &f->spec;
    f->of_x = placing_make(f, s->x_order, s->indexed ? 1 : s->shape.input_size);
    if (!s->indexed) {
        f->x = random_sequence(f, &f->of_x, 2.0);
        return;
    }
    f->x_index = guard_new(&f->inputs, f->of_x.elements, sizeof *f->x_index);
    f->x_index += f->of_x.origin;
    for (size_t b = 0; b < s->B; b++)
        for (size_t t = 0; t < family_length(f, b); t++)
            f->x_index[placing_of(&f->of_x, t, b)] = (int64_t)random_size(0, s->shape.input_size - 1);
}

static void make_gradients_given(family *f)
{
    const family_spec *s = &f->spec;
    const size_t rows = f->cells * s->B;
    f->dy = s->gives_dy ? random_sequence(f, &f->of_dy, 1.0) : NULL;
    f->dcells = s->gives_dcells ? random_sequence(f, &f->of_dcells, 1.0) : NULL;
    f->dh_n = s->gives_dh ? random_array(f, rows * f->P, 0.0, 1.0) : NULL;
    f->dc_n = s->gives_dc ? random_array(f, rows * f->states * f->H, 0.0, 1.0) : NULL;
    if (s->resets) {
        f->reset = guard_new(&f->inputs, s->T * s->B, 1);
        for (size_t n = 0; n < s->T * s->B; n++) f->reset[n] = random_chance(8) ? (uint8_t)random_size(1, 255) : 0;
    }
}

void family_pack(family *f)
{
    const size_t D = f->spec.shape.num_directions;
    if (f->stack == NULL)
        EXPECT_STATUS(fl_stack_create(&f->spec.shape, &f->stack), FL_OK);
    for (size_t cell = 0; cell < f->cells; cell++)
        EXPECT_STATUS(fl_stack_pack(f->stack, cell / D, cell % D, &f->weights[cell]), FL_OK);
}

void family_make(family *f, const family_spec *s)
{
    const uint64_t next = random_bits();
    const size_t D = s->shape.num_directions;
    random_seed(s->seed * 6364136223846793005U + 77);
    memset(f, 0, sizeof *f);
    f->spec = *s;
    f->real_size = s->shape.dtype == FL_F32 ? sizeof(float) : sizeof(double);
    f->cells = s->shape.num_layers * D;
    f->H = s->shape.hidden_size;
    f->P = s->shape.cell.proj_size != 0 ? s->shape.cell.proj_size : f->H;
    f->gates = gates_of(&s->shape.cell);
    f->states = s->shape.cell.kind == FL_CELL_LSTM ? 1 : s->shape.cell.kind == FL_CELL_SLSTM ? 3 : 0;
    make_lengths(f);
    f->of_y = placing_make(f, s->y_order, D * f->P);
    f->of_cells = placing_make(f, s->y_order, D * f->H);
    f->of_dy = placing_make(f, s->dy_order, D * f->P);
    f->of_dcells = placing_make(f, s->dy_order, D * f->H);
    f->of_dx = placing_make(f, s->dx_order, s->shape.input_size);
    make_weights(f);
    make_input(f);
    if (s->given_state) {
        f->h0 = random_array(f, f->cells * s->B * f->P, 0.0, 1.0);
        f->c0 = f->states != 0 ? random_states(f) : NULL;
    }
    make_gradients_given(f);
    if (!s->writable)
        guard_read_only(&f->inputs);
    family_pack(f);
    random_seed(next * 6364136223846793005U + 1);
}

void family_free(family *f)
{
    fl_stack_destroy(f->stack);
    guard_release(&f->inputs);
}

/* ---- Results ------------------------------------------------------------------------------------------------- */

void family_result_make(family_result *r, const family *f)
{
    const size_t rows = f->cells * f->spec.B;
    memset(r, 0, sizeof *r);
    r->y_memory = guard_new(&r->outputs, f->of_y.elements, f->real_size);
    r->y = r->y_memory + f->of_y.origin * (ptrdiff_t)f->real_size;
    if (f->spec.wants_cells) {
        r->cells_memory = guard_new(&r->outputs, f->of_cells.elements, f->real_size);
        r->cells = r->cells_memory + f->of_cells.origin * (ptrdiff_t)f->real_size;
    }
    r->h_n = guard_new(&r->outputs, rows, family_h_bytes(f));
    r->c_n = f->states != 0 ? guard_new(&r->outputs, rows, family_c_bytes(f)) : NULL;
}

void family_result_free(family_result *r) { guard_release(&r->outputs); }

fl_forward_args family_args(const family *f, const family_result *r, size_t threads)
{
    const fl_forward_args args = {.T = f->spec.T,
                                  .B = f->spec.B,
                                  .x = f->x,
                                  .x_index = f->x_index,
                                  .x_stride_t = f->of_x.stride_t,
                                  .x_stride_b = f->of_x.stride_b,
                                  .x_at = f->of_x.at,
                                  .lengths = f->lengths,
                                  .h0 = f->h0,
                                  .c0 = f->c0,
                                  .y = r->y,
                                  .y_stride_t = f->of_y.stride_t,
                                  .y_stride_b = f->of_y.stride_b,
                                  .y_at = f->of_y.at,
                                  .cells = r->cells,
                                  .cells_stride_t = f->of_cells.stride_t,
                                  .cells_stride_b = f->of_cells.stride_b,
                                  .h_n = r->h_n,
                                  .c_n = r->c_n,
                                  .num_threads = threads};
    return args;
}

/* Numbers in rows, zeros behind their ends, and nothing written between them. */
static void check_places(const family *f, const placing *p, const char *memory, char *origin, const char *name)
{
    const size_t bytes = p->elements * f->real_size, row_bytes = p->width * f->real_size;
    size_t written = 0, not_zero = 0, not_finite = 0;
    char *beside = calloc(bytes + 1, 1);
    if (beside == NULL)
        exit(2);
    for (size_t b = 0; b < f->spec.B; b++)
        for (size_t t = 0; t < (p->at != NULL ? family_length(f, b) : f->spec.T); t++) {
            const char *row = element(f, p, origin, t, b);
            memset(beside + (row - memory), 1, row_bytes);
            for (size_t n = 0; n < row_bytes; n++) not_zero += t >= family_length(f, b) && row[n] != 0;
            for (size_t j = 0; j < p->width; j++)
                not_finite += isfinite(real_get(f->spec.shape.dtype, row, (ptrdiff_t)j)) ? 0 : 1;
        }
    for (size_t n = 0; n < bytes; n++) written += beside[n] == 0 && (unsigned char)memory[n] != 0xff;
    free(beside);
    EXPECT(written == 0 && not_zero == 0 && not_finite == 0,
           "%s: %s: %zu bytes between rows written, %zu bytes of padding not zero, %zu elements not finite",
           family_text(f), name, written, not_zero, not_finite);
}

void family_check_clean(const family *f, const family_result *r)
{
    check_places(f, &f->of_y, r->y_memory, r->y, "y");
    if (r->cells != NULL)
        check_places(f, &f->of_cells, r->cells_memory, r->cells, "cells");
}

void family_run(const family *f, size_t threads, family_result *r)
{
    family_result_make(r, f);
    const fl_forward_args args = family_args(f, r, threads);
    EXPECT_STATUS(fl_stack_forward(f->stack, &args), FL_OK);
    family_check_clean(f, r);
}

/* Steps of a row of one array, wherever they lie. */
static bool steps_equal(const family *a, const placing *pa, char *from_a, size_t b_a, const family *b,
                        const placing *pb, char *from_b, size_t b_b)
{
    for (size_t t = 0; t < family_length(a, b_a); t++)
        if (memcmp(element(a, pa, from_a, t, b_a), element(b, pb, from_b, t, b_b), pa->width * a->real_size) != 0)
            return false;
    return true;
}

bool family_rows_equal(const family *a, const family_result *ra, size_t b_a, const family *b, const family_result *rb,
                       size_t b_b)
{
    const size_t h_bytes = family_h_bytes(a), c_bytes = family_c_bytes(a);
    for (size_t cell = 0; cell < a->cells; cell++) {
        const size_t at_a = cell * a->spec.B + b_a, at_b = cell * b->spec.B + b_b;
        if (memcmp(ra->h_n + at_a * h_bytes, rb->h_n + at_b * h_bytes, h_bytes) != 0 ||
            (c_bytes != 0 && memcmp(ra->c_n + at_a * c_bytes, rb->c_n + at_b * c_bytes, c_bytes) != 0))
            return false;
    }
    if (ra->cells != NULL && rb->cells != NULL &&
        !steps_equal(a, &a->of_cells, ra->cells, b_a, b, &b->of_cells, rb->cells, b_b))
        return false;
    return family_length(a, b_a) == family_length(b, b_b) &&
           steps_equal(a, &a->of_y, ra->y, b_a, b, &b->of_y, rb->y, b_b);
}

bool family_results_equal(const family *a, const family_result *ra, const family *b, const family_result *rb)
{
    for (size_t row = 0; row < a->spec.B; row++)
        if (!family_rows_equal(a, ra, row, b, rb, row))
            return false;
    return true;
}

void family_row_states(const family *f, char *all_h, char *all_c, size_t b, char *h, char *c, size_t rows, size_t row,
                       bool to_all)
{
    const size_t h_bytes = family_h_bytes(f), c_bytes = family_c_bytes(f);
    for (size_t cell = 0; cell < f->cells; cell++) {
        char *there = all_h + (cell * f->spec.B + b) * h_bytes, *here = h + (cell * rows + row) * h_bytes;
        memcpy(to_all ? there : here, to_all ? here : there, h_bytes);
        if (c_bytes == 0)
            continue;
        there = all_c + (cell * f->spec.B + b) * c_bytes;
        here = c + (cell * rows + row) * c_bytes;
        memcpy(to_all ? there : here, to_all ? here : there, c_bytes);
    }
}

/* ---- Training ------------------------------------------------------------------------------------------------ */

void family_gradients_make(family_gradients *g, const family *f)
{
    const size_t rows = f->cells * f->spec.B;
    memset(g, 0, sizeof *g);
    if (f->spec.wants_dx) {
        g->dx_memory = guard_new(&g->of_dx, f->of_dx.elements, f->real_size);
        g->dx = g->dx_memory + f->of_dx.origin * (ptrdiff_t)f->real_size;
    }
    g->dh0 = guard_new(&g->outputs, rows, family_h_bytes(f));
    g->dc0 = f->states != 0 ? guard_new(&g->outputs, rows, family_c_bytes(f)) : NULL;
    for (size_t cell = 0; cell < f->cells; cell++) {
        void **slots[FAMILY_PARAMETERS];
        family_gradients_of(&g->of[cell], slots);
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++)
            if (family_sizes(f, cell)[n] != 0)
                *slots[n] = guard_new(&g->outputs, family_sizes(f, cell)[n], f->real_size);
    }
}

void family_gradients_free(family_gradients *g)
{
    guard_release(&g->outputs);
    guard_release(&g->of_dx);
}

fl_record_args family_record_args(const family *f, const family_result *r, size_t save, size_t threads)
{
    const fl_record_args args = {.call = family_args(f, r, threads),
                                 .save = save,
                                 .reset = f->reset,
                                 .dropout = f->spec.dropout,
                                 .seed = FAMILY_SEED,
                                 .draws = f->spec.draws,
                                 .first_cell = f->spec.first_cell};
    return args;
}

fl_backward_args family_backward_args(const family *f, const family_gradients *g, size_t threads)
{
    const fl_backward_args args = {.weights = f->weights,
                                   .dy = f->dy,
                                   .dy_stride_t = f->of_dy.stride_t,
                                   .dy_stride_b = f->of_dy.stride_b,
                                   .dcells = f->dcells,
                                   .dcells_stride_t = f->of_dcells.stride_t,
                                   .dcells_stride_b = f->of_dcells.stride_b,
                                   .dh_n = f->dh_n,
                                   .dc_n = f->dc_n,
                                   .dx = g->dx,
                                   .dx_stride_t = f->of_dx.stride_t,
                                   .dx_stride_b = f->of_dx.stride_b,
                                   .dx_at = f->of_dx.at,
                                   .dy_at = f->of_dy.at,
                                   .dh0 = g->dh0,
                                   .dc0 = g->dc0,
                                   .gradients = g->of,
                                   .bptt = f->spec.bptt,
                                   .num_threads = threads};
    return args;
}

void family_train(const family *f, fl_tape *tape, size_t save, size_t threads, family_result *r, family_gradients *g)
{
    family_result_make(r, f);
    family_gradients_make(g, f);
    const fl_record_args recorded = family_record_args(f, r, save, threads);
    const fl_backward_args args = family_backward_args(f, g, threads);
    EXPECT_STATUS(fl_stack_record(f->stack, &recorded, tape), FL_OK);
    EXPECT_STATUS(fl_stack_backward(f->stack, tape, &args), FL_OK);
    family_check_clean(f, r);
    if (g->dx != NULL)
        check_places(f, &f->of_dx, g->dx_memory, g->dx, "dx");
}

bool family_gradients_equal(const family *a, const family_gradients *ga, const family *b, const family_gradients *gb)
{
    for (size_t n = 0; n < ga->outputs.count; n++)
        if (memcmp(ga->outputs.blocks[n].data, gb->outputs.blocks[n].data, ga->outputs.blocks[n].bytes) != 0)
            return false;
    for (size_t row = 0; row < a->spec.B && ga->dx != NULL; row++)
        if (!steps_equal(a, &a->of_dx, ga->dx, row, b, &b->of_dx, gb->dx, row))
            return false;
    return ga->outputs.count == gb->outputs.count;
}
