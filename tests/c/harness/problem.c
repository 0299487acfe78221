/* SPDX-License-Identifier: BSD-3-Clause */
#include "problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double real_get(fl_dtype dtype, const void *array, ptrdiff_t index)
{
    return dtype == FL_F32 ? (double)((const float *)array)[index] : ((const double *)array)[index];
}

void real_put(fl_dtype dtype, void *array, ptrdiff_t index, double value)
{
    if (dtype == FL_F32)
        ((float *)array)[index] = (float)value;
    else
        ((double *)array)[index] = value;
}

double real_epsilon(fl_dtype dtype) { return dtype == FL_F32 ? 0x1p-23 : 0x1p-52; }

size_t real_bytes(fl_dtype dtype) { return dtype == FL_F32 ? sizeof(float) : sizeof(double); }

/* ---- Sizes and places ---------------------------------------------------------------------------------------- */

static size_t gates_of(const fl_cell_options *o)
{
    static const size_t gates[FL_CELL_COUNT] = {4, 3, 1, 1, 4, 2, 3, 2};
    return o->kind == FL_CELL_LSTM && o->coupling != FL_COUPLING_NONE ? 3 : gates[o->kind];
}

static size_t recurrent_size(const problem *p)
{
    const fl_cell_options *o = &p->spec.shape.cell;
    switch (o->kind) {
    case FL_CELL_INDRNN: return p->H;
    case FL_CELL_SLSTM: return p->gates * p->H * (p->H / (o->heads != 0 ? o->heads : 1));
    case FL_CELL_MINGRU:
    case FL_CELL_MINLSTM: return 0;
    default: return p->gates * p->H * p->P;
    }
}

/* Whether the cell has a bias of the state's part. */
static bool has_bias_hh(fl_cell_kind kind)
{
    return kind == FL_CELL_LSTM || kind == FL_CELL_GRU || kind == FL_CELL_RNN || kind == FL_CELL_MGU;
}

static void set_sizes(const problem *p, size_t I, size_t sizes[FL_PARAMETER_COUNT])
{
    const spec *s = &p->spec;
    const fl_cell_options *o = &s->shape.cell;
    const size_t H = p->H, rows = p->gates * H;
    const bool projects = o->proj_size != 0, norms = o->layer_norm != FL_LAYER_NORM_NONE;
    const bool haste = o->layer_norm == FL_LAYER_NORM_HASTE;
    const size_t all[FL_PARAMETER_COUNT] = {rows * I,
                                            recurrent_size(p),
                                            s->bias_ih ? rows : 0,
                                            s->bias_hh && has_bias_hh(o->kind) ? rows : 0,
                                            o->peephole ? (p->gates - 1) * H : 0,
                                            projects ? p->P * H : 0,
                                            projects && s->bias_hr ? p->P : 0,
                                            norms ? rows : 0,
                                            haste ? rows : 0,
                                            haste ? H : 0,
                                            haste ? H : 0};
    memcpy(sizes, all, sizeof all);
}

void weight_slots(fl_weights *w, const void **slots[FL_PARAMETER_COUNT])
{
    const void **const all[FL_PARAMETER_COUNT] = {&w->weight_ih,    &w->weight_hh,   &w->bias_ih,  &w->bias_hh,
                                                  &w->weight_ch,    &w->weight_hr,   &w->bias_hr,  &w->weight_ln_ih,
                                                  &w->weight_ln_hh, &w->weight_ln_c, &w->bias_ln_c};
    memcpy(slots, all, sizeof all);
}

void gradient_slots(fl_gradients *g, void **slots[FL_PARAMETER_COUNT])
{
    void **const all[FL_PARAMETER_COUNT] = {&g->weight_ih,    &g->weight_hh,   &g->bias_ih,  &g->bias_hh,
                                            &g->weight_ch,    &g->weight_hr,   &g->bias_hr,  &g->weight_ln_ih,
                                            &g->weight_ln_hh, &g->weight_ln_c, &g->bias_ln_c};
    memcpy(slots, all, sizeof all);
}

const size_t *problem_sizes(const problem *p, size_t cell) { return p->sizes[cell >= p->spec.shape.num_directions]; }

size_t problem_length(const problem *p, size_t b) { return p->lengths != NULL ? (size_t)p->lengths[b] : p->spec.T; }

size_t problem_steps(const problem *p)
{
    size_t steps = 0;
    for (size_t b = 0; b < p->spec.B; b++) steps += problem_length(p, b);
    return steps;
}

size_t problem_h_bytes(const problem *p) { return p->P * p->real_size; }

size_t problem_c_bytes(const problem *p) { return p->states * p->H * p->real_size; }

static placing placing_make(const problem *p, order how, size_t width)
{
    const ptrdiff_t T = (ptrdiff_t)p->spec.T, B = (ptrdiff_t)p->spec.B, w = (ptrdiff_t)width;
    placing place = {.width = width, .elements = p->spec.T * p->spec.B * width, .stride_t = B * w, .stride_b = w};
    switch (how) {
    case ORDER_BATCH_FIRST:
        place.stride_t = w;
        place.stride_b = T * w;
        break;
    case ORDER_GAPS:
        place.stride_b = w + 3;
        place.stride_t = B * place.stride_b + 2;
        if (place.elements != 0)
            place.elements = (size_t)((T - 1) * place.stride_t + (B - 1) * place.stride_b + w);
        break;
    case ORDER_BACKWARDS:
        place.stride_t = -B * w;
        place.origin = T > 0 ? (T - 1) * B * w : 0;
        break;
    case ORDER_PACKED:
    case ORDER_PACKED_BACKWARDS:
        place.elements = 0;
        for (size_t b = 0; b < p->spec.B; b++) place.elements += problem_length(p, b) * width;
        place.stride_t = how == ORDER_PACKED ? w : -w;
        place.at = how == ORDER_PACKED ? p->packed : p->packed_backwards;
        break;
    default: break;
    }
    return place;
}

ptrdiff_t placing_of(const placing *place, size_t t, size_t b)
{
    return (ptrdiff_t)t * place->stride_t + (place->at != NULL ? place->at[b] : (ptrdiff_t)b) * place->stride_b;
}

static char *element(const problem *p, const placing *place, char *origin, size_t t, size_t b)
{
    return origin + placing_of(place, t, b) * (ptrdiff_t)p->real_size;
}

/* ---- Passes -------------------------------------------------------------------------------------------------- */

static void *random_array(problem *p, size_t count, double centre, double magnitude)
{
    void *array = guard_new(&p->inputs, count, p->real_size);
    for (size_t n = 0; n < count; n++)
        real_put(p->spec.shape.dtype, array, (ptrdiff_t)n, centre + random_real(magnitude));
    return array;
}

/* Elements of all real steps, in an order that does not depend on their places. */
static char *random_sequence(problem *p, const placing *place, double magnitude)
{
    char *origin = guard_new(&p->inputs, place->elements, p->real_size);
    origin += place->origin * (ptrdiff_t)p->real_size;
    for (size_t b = 0; b < p->spec.B; b++)
        for (size_t t = 0; t < problem_length(p, b); t++)
            for (size_t j = 0; j < place->width; j++)
                real_put(p->spec.shape.dtype, element(p, place, origin, t, b), (ptrdiff_t)j, random_real(magnitude));
    return origin;
}

static void make_lengths(problem *p)
{
    const size_t B = p->spec.B, T = p->spec.T;
    ptrdiff_t rows = 0;
    if (p->spec.ragged) {
        p->lengths = guard_new(&p->inputs, B, sizeof *p->lengths);
        for (size_t b = 0; b < B; b++)
            p->lengths[b] = random_chance(5) ? 0 : random_chance(4) ? (int64_t)T : (int64_t)random_size(0, T);
    }
    p->packed = guard_new(&p->inputs, B, sizeof *p->packed);
    p->packed_backwards = guard_new(&p->inputs, B, sizeof *p->packed);
    for (size_t b = 0; b < B; b++) {
        p->packed[b] = rows;
        rows += (ptrdiff_t)problem_length(p, b);
        p->packed_backwards[b] = rows - 1;
    }
}

static void make_weights(problem *p)
{
    const double magnitude = 1.0 / sqrt((double)p->H);
    const size_t width = p->spec.shape.num_directions * p->P;
    set_sizes(p, p->spec.shape.input_size, p->sizes[0]);
    set_sizes(p, width, p->sizes[1]);
    for (size_t cell = 0; cell < p->cells; cell++) {
        const void **slots[FL_PARAMETER_COUNT];
        weight_slots(&p->weights[cell], slots);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
            const size_t size = problem_sizes(p, cell)[n];
            const bool scales = n >= 7 && n < 10; /* of layer norm */
            if (size != 0)
                *slots[n] = random_array(p, size, scales ? 1.0 : 0.0, scales ? 0.3 : magnitude);
        }
    }
}

/* c, or c, n > 0 and m; some elements before their first step. */
static void *random_states(problem *p)
{
    const fl_dtype dtype = p->spec.shape.dtype;
    const size_t rows = p->cells * p->spec.B, H = p->H;
    void *states = random_array(p, rows * p->states * H, 0.0, 1.0);
    for (size_t row = 0; row < rows && p->states == 3; row++)
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

static void make_input(problem *p)
{
    const spec *s = &p->spec;
    p->of_x = placing_make(p, s->x_order, s->indexed ? 1 : s->shape.input_size);
    if (!s->indexed) {
        p->x = random_sequence(p, &p->of_x, 2.0);
        return;
    }
    p->x_index = guard_new(&p->inputs, p->of_x.elements, sizeof *p->x_index);
    p->x_index += p->of_x.origin;
    for (size_t b = 0; b < s->B; b++)
        for (size_t t = 0; t < problem_length(p, b); t++)
            p->x_index[placing_of(&p->of_x, t, b)] = (int64_t)random_size(0, s->shape.input_size - 1);
}

static void make_gradients_given(problem *p)
{
    const spec *s = &p->spec;
    const size_t rows = p->cells * s->B;
    p->dy = s->gives_dy ? random_sequence(p, &p->of_dy, 1.0) : NULL;
    p->dcells = s->gives_dcells ? random_sequence(p, &p->of_dcells, 1.0) : NULL;
    p->dh_n = s->gives_dh ? random_array(p, rows * p->P, 0.0, 1.0) : NULL;
    p->dc_n = s->gives_dc ? random_array(p, rows * p->states * p->H, 0.0, 1.0) : NULL;
    if (s->resets) {
        p->reset = guard_new(&p->inputs, s->T * s->B, 1);
        for (size_t n = 0; n < s->T * s->B; n++) p->reset[n] = random_chance(8) ? (uint8_t)random_size(1, 255) : 0;
    }
}

void problem_pack(problem *p)
{
    const size_t D = p->spec.shape.num_directions;
    if (p->stack == NULL)
        EXPECT_STATUS(fl_stack_create(&p->spec.shape, &p->stack), FL_OK);
    for (size_t cell = 0; cell < p->cells; cell++)
        EXPECT_STATUS(fl_stack_pack(p->stack, cell / D, cell % D, &p->weights[cell]), FL_OK);
}

void problem_make(problem *p, const spec *s)
{
    const uint64_t next = random_bits();
    const size_t D = s->shape.num_directions;
    random_seed(s->seed * 6364136223846793005U + 77);
    memset(p, 0, sizeof *p);
    p->spec = *s;
    p->real_size = real_bytes(s->shape.dtype);
    p->cells = s->shape.num_layers * D;
    p->H = s->shape.hidden_size;
    p->P = s->shape.cell.proj_size != 0 ? s->shape.cell.proj_size : p->H;
    p->gates = gates_of(&s->shape.cell);
    p->states = s->shape.cell.kind == FL_CELL_LSTM ? 1 : s->shape.cell.kind == FL_CELL_SLSTM ? 3 : 0;
    make_lengths(p);
    p->of_y = placing_make(p, s->y_order, D * p->P);
    p->of_cells = placing_make(p, s->y_order, D * p->H);
    p->of_dy = placing_make(p, s->dy_order, D * p->P);
    p->of_dcells = placing_make(p, s->dy_order, D * p->H);
    p->of_dx = placing_make(p, s->dx_order, s->shape.input_size);
    make_weights(p);
    make_input(p);
    if (s->given_state) {
        p->h0 = random_array(p, p->cells * s->B * p->P, 0.0, 1.0);
        p->c0 = p->states != 0 ? random_states(p) : NULL;
    }
    make_gradients_given(p);
    if (!s->writable)
        guard_read_only(&p->inputs);
    problem_pack(p);
    random_seed(next * 6364136223846793005U + 1);
}

void problem_free(problem *p)
{
    fl_stack_destroy(p->stack);
    guard_release(&p->inputs);
}

/* ---- Results ------------------------------------------------------------------------------------------------- */

void result_make(result *r, const problem *p)
{
    const size_t rows = p->cells * p->spec.B;
    memset(r, 0, sizeof *r);
    r->y_memory = guard_new(&r->outputs, p->of_y.elements, p->real_size);
    r->y = r->y_memory + p->of_y.origin * (ptrdiff_t)p->real_size;
    if (p->spec.wants_cells) {
        r->cells_memory = guard_new(&r->outputs, p->of_cells.elements, p->real_size);
        r->cells = r->cells_memory + p->of_cells.origin * (ptrdiff_t)p->real_size;
    }
    r->h_n = guard_new(&r->outputs, rows, problem_h_bytes(p));
    r->c_n = p->states != 0 ? guard_new(&r->outputs, rows, problem_c_bytes(p)) : NULL;
}

void result_free(result *r) { guard_release(&r->outputs); }

fl_forward_args problem_args(const problem *p, const result *r, size_t threads)
{
    const fl_forward_args args = {.T = p->spec.T,
                                  .B = p->spec.B,
                                  .x = p->x,
                                  .x_index = p->x_index,
                                  .x_stride_t = p->of_x.stride_t,
                                  .x_stride_b = p->of_x.stride_b,
                                  .x_at = p->of_x.at,
                                  .lengths = p->lengths,
                                  .h0 = p->h0,
                                  .c0 = p->c0,
                                  .y = r->y,
                                  .y_stride_t = p->of_y.stride_t,
                                  .y_stride_b = p->of_y.stride_b,
                                  .y_at = p->of_y.at,
                                  .cells = r->cells,
                                  .cells_stride_t = p->of_cells.stride_t,
                                  .cells_stride_b = p->of_cells.stride_b,
                                  .h_n = r->h_n,
                                  .c_n = r->c_n,
                                  .num_threads = threads};
    return args;
}

/* Numbers in rows, zeros behind their ends, and nothing written between them. */
static void check_places(const problem *p, const placing *place, const char *memory, char *origin, const char *name)
{
    const size_t bytes = place->elements * p->real_size, row_bytes = place->width * p->real_size;
    size_t written = 0, not_zero = 0, not_finite = 0;
    char *beside = calloc(bytes + 1, 1);
    if (beside == NULL)
        exit(2);
    for (size_t b = 0; b < p->spec.B; b++)
        for (size_t t = 0; t < (place->at != NULL ? problem_length(p, b) : p->spec.T); t++) {
            const char *row = element(p, place, origin, t, b);
            memset(beside + (row - memory), 1, row_bytes);
            for (size_t n = 0; n < row_bytes; n++) not_zero += t >= problem_length(p, b) && row[n] != 0;
            for (size_t j = 0; j < place->width; j++)
                not_finite += isfinite(real_get(p->spec.shape.dtype, row, (ptrdiff_t)j)) ? 0 : 1;
        }
    for (size_t n = 0; n < bytes; n++) written += beside[n] == 0 && (unsigned char)memory[n] != 0xff;
    free(beside);
    EXPECT(written == 0 && not_zero == 0 && not_finite == 0,
           "%s: %s: %zu bytes between rows written, %zu bytes of padding not zero, %zu elements not finite",
           problem_text(p), name, written, not_zero, not_finite);
}

void problem_check_clean(const problem *p, const result *r)
{
    check_places(p, &p->of_y, r->y_memory, r->y, "y");
    if (r->cells != NULL)
        check_places(p, &p->of_cells, r->cells_memory, r->cells, "cells");
}

void problem_run(const problem *p, size_t threads, result *r)
{
    result_make(r, p);
    const fl_forward_args args = problem_args(p, r, threads);
    EXPECT_STATUS(fl_stack_forward(p->stack, &args), FL_OK);
    problem_check_clean(p, r);
}

fl_stream_io problem_stream_io(const problem *p, const result *r, size_t begin)
{
    const ptrdiff_t t = (ptrdiff_t)begin, size = (ptrdiff_t)p->real_size;
    const fl_stream_io io = {.x = p->x != NULL ? p->x + t * p->of_x.stride_t * size : NULL,
                             .x_index = p->x_index != NULL ? p->x_index + t * p->of_x.stride_t : NULL,
                             .x_stride_t = p->of_x.stride_t,
                             .x_stride_b = p->of_x.stride_b,
                             .y = r->y + t * p->of_y.stride_t * size,
                             .y_stride_t = p->of_y.stride_t,
                             .y_stride_b = p->of_y.stride_b};
    return io;
}

/* Steps of a row of one array, wherever they lie. */
static bool steps_equal(const problem *a, const placing *pa, char *from_a, size_t b_a, const problem *b,
                        const placing *pb, char *from_b, size_t b_b)
{
    for (size_t t = 0; t < problem_length(a, b_a); t++)
        if (memcmp(element(a, pa, from_a, t, b_a), element(b, pb, from_b, t, b_b), pa->width * a->real_size) != 0)
            return false;
    return true;
}

bool rows_equal(const problem *a, const result *ra, size_t b_a, const problem *b, const result *rb, size_t b_b)
{
    const size_t h_bytes = problem_h_bytes(a), c_bytes = problem_c_bytes(a);
    for (size_t cell = 0; cell < a->cells; cell++) {
        const size_t at_a = cell * a->spec.B + b_a, at_b = cell * b->spec.B + b_b;
        if (memcmp(ra->h_n + at_a * h_bytes, rb->h_n + at_b * h_bytes, h_bytes) != 0 ||
            (c_bytes != 0 && memcmp(ra->c_n + at_a * c_bytes, rb->c_n + at_b * c_bytes, c_bytes) != 0))
            return false;
    }
    if (ra->cells != NULL && rb->cells != NULL &&
        !steps_equal(a, &a->of_cells, ra->cells, b_a, b, &b->of_cells, rb->cells, b_b))
        return false;
    return problem_length(a, b_a) == problem_length(b, b_b) &&
           steps_equal(a, &a->of_y, ra->y, b_a, b, &b->of_y, rb->y, b_b);
}

bool results_equal(const problem *a, const result *ra, const problem *b, const result *rb)
{
    for (size_t row = 0; row < a->spec.B; row++)
        if (!rows_equal(a, ra, row, b, rb, row))
            return false;
    return true;
}

void problem_start_states(const problem *p, char *h, char *c)
{
    const size_t h_bytes = p->cells * p->spec.B * problem_h_bytes(p),
                 c_bytes = p->cells * p->spec.B * problem_c_bytes(p);
    memset(h, 0, h_bytes);
    if (p->h0 != NULL)
        memcpy(h, p->h0, h_bytes);
    if (c != NULL)
        memset(c, 0, c_bytes);
    if (c != NULL && p->c0 != NULL)
        memcpy(c, p->c0, c_bytes);
}

void problem_row_states(const problem *p, char *all_h, char *all_c, size_t b, char *h, char *c, size_t rows, size_t row,
                        bool to_all)
{
    const size_t h_bytes = problem_h_bytes(p), c_bytes = problem_c_bytes(p);
    for (size_t cell = 0; cell < p->cells; cell++) {
        char *there = all_h + (cell * p->spec.B + b) * h_bytes, *here = h + (cell * rows + row) * h_bytes;
        memcpy(to_all ? there : here, to_all ? here : there, h_bytes);
        if (c_bytes == 0)
            continue;
        there = all_c + (cell * p->spec.B + b) * c_bytes;
        here = c + (cell * rows + row) * c_bytes;
        memcpy(to_all ? there : here, to_all ? here : there, c_bytes);
    }
}

/* ---- Training ------------------------------------------------------------------------------------------------ */

void gradients_make(gradients *g, const problem *p)
{
    const size_t rows = p->cells * p->spec.B;
    memset(g, 0, sizeof *g);
    if (p->spec.wants_dx) {
        g->dx_memory = guard_new(&g->of_dx, p->of_dx.elements, p->real_size);
        g->dx = g->dx_memory + p->of_dx.origin * (ptrdiff_t)p->real_size;
    }
    g->dh0 = guard_new(&g->outputs, rows, problem_h_bytes(p));
    g->dc0 = p->states != 0 ? guard_new(&g->outputs, rows, problem_c_bytes(p)) : NULL;
    for (size_t cell = 0; cell < p->cells; cell++) {
        void **slots[FL_PARAMETER_COUNT];
        gradient_slots(&g->of[cell], slots);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
            if (problem_sizes(p, cell)[n] != 0)
                *slots[n] = guard_new(&g->outputs, problem_sizes(p, cell)[n], p->real_size);
    }
}

void gradients_free(gradients *g)
{
    guard_release(&g->outputs);
    guard_release(&g->of_dx);
}

fl_record_args problem_record_args(const problem *p, const result *r, size_t save, size_t threads)
{
    const fl_record_args args = {.call = problem_args(p, r, threads),
                                 .save = save,
                                 .reset = p->reset,
                                 .dropout = p->spec.dropout,
                                 .seed = MASK_SEED,
                                 .draws = p->spec.draws,
                                 .first_cell = p->spec.first_cell};
    return args;
}

fl_backward_args problem_backward_args(const problem *p, const gradients *g, size_t threads)
{
    const fl_backward_args args = {.weights = p->weights,
                                   .dy = p->dy,
                                   .dy_stride_t = p->of_dy.stride_t,
                                   .dy_stride_b = p->of_dy.stride_b,
                                   .dcells = p->dcells,
                                   .dcells_stride_t = p->of_dcells.stride_t,
                                   .dcells_stride_b = p->of_dcells.stride_b,
                                   .dh_n = p->dh_n,
                                   .dc_n = p->dc_n,
                                   .dx = g->dx,
                                   .dx_stride_t = p->of_dx.stride_t,
                                   .dx_stride_b = p->of_dx.stride_b,
                                   .dx_at = p->of_dx.at,
                                   .dy_at = p->of_dy.at,
                                   .dh0 = g->dh0,
                                   .dc0 = g->dc0,
                                   .gradients = g->of,
                                   .bptt = p->spec.bptt,
                                   .num_threads = threads};
    return args;
}

void problem_train(const problem *p, fl_tape *tape, size_t save, size_t threads, result *r, gradients *g)
{
    result_make(r, p);
    gradients_make(g, p);
    const fl_record_args recorded = problem_record_args(p, r, save, threads);
    const fl_backward_args args = problem_backward_args(p, g, threads);
    EXPECT_STATUS(fl_stack_record(p->stack, &recorded, tape), FL_OK);
    EXPECT_STATUS(fl_stack_backward(p->stack, tape, &args), FL_OK);
    problem_check_clean(p, r);
    if (g->dx != NULL)
        check_places(p, &p->of_dx, g->dx_memory, g->dx, "dx");
}

bool gradients_equal(const problem *a, const gradients *ga, const problem *b, const gradients *gb)
{
    for (size_t n = 0; n < ga->outputs.count; n++)
        if (memcmp(ga->outputs.blocks[n].data, gb->outputs.blocks[n].data, ga->outputs.blocks[n].bytes) != 0)
            return false;
    for (size_t row = 0; row < a->spec.B && ga->dx != NULL; row++)
        if (!steps_equal(a, &a->of_dx, ga->dx, row, b, &b->of_dx, gb->dx, row))
            return false;
    return ga->outputs.count == gb->outputs.count;
}
