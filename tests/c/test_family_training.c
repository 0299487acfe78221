/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Recorded passes of all cells: the same bits for every way of keeping, any number of threads and any places of arrays;
 * gradients against differences.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/family.h"
#include "tests.h"
#include "harness/training_pass.h"

static const fl_dtype dtypes[] = {FL_F32, FL_F64};

/* ---- The same bits ------------------------------------------------------------------------------------------- */

static void check_saves(const family_spec *s, size_t most_threads)
{
    const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1, random_size(2, 12), SIZE_MAX - 1};
    family f;
    family_result expected, r;
    family_gradients right, g;
    fl_tape *tape = NULL;
    family_make(&f, s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    family_train(&f, tape, FL_SAVE_ALL, 1, &expected, &right);
    for (size_t threads = 1; threads <= most_threads; threads++)
        for (size_t n = 0; n < sizeof saves / sizeof *saves; n++) {
            family_train(&f, tape, saves[n], threads, &r, &g);
            EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s: results with save %zu, %zu threads",
                   family_text(&f), saves[n], threads);
            EXPECT(arenas_equal(&right.outputs, &g.outputs) && arenas_equal(&right.of_dx, &g.of_dx),
                   "%s: gradients with save %zu, %zu threads", family_text(&f), saves[n], threads);
            family_result_free(&r);
            family_gradients_free(&g);
        }
    fl_tape_destroy(tape);
    family_result_free(&expected);
    family_gradients_free(&right);
    family_free(&f);
}

static void family_training_saves(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 120 : 36); repeat++) {
            const family_spec s = family_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            check_saves(&s, 1);
        }
}

/* More steps and more rows than a chunk has. */
static void family_training_chunks(void)
{
    static const size_t sizes[][4] = {{150, 1, 5, 9}, {60, 6, 3, 7}, {3, 290, 2, 3}};
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < rounds(kind == FL_CELL_LSTM ? 12 : 6); n++) {
            family_spec s = family_random((fl_cell_kind)kind, dtypes[(n + (size_t)kind) % 2]);
            s.T = sizes[n % 3][0];
            s.B = sizes[n % 3][1];
            s.shape.input_size = sizes[n % 3][2];
            s.shape.hidden_size = sizes[n % 3][3];
            s.shape.num_layers = random_size(1, 2);
            s.shape.cell = options_of_kind((fl_cell_kind)kind, s.shape.hidden_size);
            check_saves(&s, 1);
        }
}

/* Without resets, dropout and draws a recorded pass has the bits of a call. */
static void family_record_equals_forward(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 80 : 24); repeat++) {
            family_spec s = family_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            family f;
            family_result expected, r;
            fl_tape *tape = NULL;
            s.resets = s.draws = false;
            s.dropout = 0.0;
            family_make(&f, &s);
            family_run(&f, 1, &expected);
            family_result_make(&r, &f);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            const size_t save = random_chance(2) ? FL_SAVE_ALL : random_size(1, 5), threads = random_size(1, 2);
            const fl_record_args args = family_record_args(&f, &r, save, threads);
            EXPECT_STATUS(fl_stack_record(f.stack, &args, tape), FL_OK);
            EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s", family_text(&f));
            fl_tape_destroy(tape);
            family_result_free(&expected);
            family_result_free(&r);
            family_free(&f);
        }
}

/* Arrays in any order, packed or not. */
static void family_training_orders(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 80 : 24); repeat++) {
            const family_spec s = family_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            family_spec other = s;
            family a, b;
            family_result ra, rb;
            family_gradients ga, gb;
            fl_tape *tape = NULL;
            family_reorder(&other);
            other.wants_cells = s.wants_cells && random_chance(2);
            family_make(&a, &s);
            family_make(&b, &other);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            const size_t save = random_chance(2) ? FL_SAVE_ALL : random_size(1, 5);
            family_train(&a, tape, save, 1, &ra, &ga);
            family_train(&b, tape, save, 1, &rb, &gb);
            EXPECT(family_results_equal(&a, &ra, &b, &rb), "%s: results in orders x %d, y %d", family_text(&a),
                   other.x_order, other.y_order);
            EXPECT(family_gradients_equal(&a, &ga, &b, &gb), "%s: gradients in orders x %d, y %d, dy %d, dx %d",
                   family_text(&a), other.x_order, other.y_order, other.dy_order, other.dx_order);
            fl_tape_destroy(tape);
            family_result_free(&ra);
            family_result_free(&rb);
            family_gradients_free(&ga);
            family_gradients_free(&gb);
            family_free(&a);
            family_free(&b);
        }
}

/* ---- Draws --------------------------------------------------------------------------------------------------- */

/* Outputs and states of the second layer, of a stack of two and of a stack of its own whose first cell comes later. */
static void family_first_cell(void)
{
    for (size_t repeat = 0; repeat < rounds(48); repeat++) {
        family_spec s = family_random(FL_CELL_LSTM, dtypes[repeat % 2]);
        s.shape.num_layers = 2;
        s.draws = true;
        s.dropout = 0.0;
        s.resets = s.wants_cells = s.ragged = false;
        s.y_order = ORDER_TIME_FIRST;
        s.first_cell = 1;
        s.shape.cell.proj_size = 0;
        s.shape.cell.proj_clip = 0.0;
        s.shape.cell.zoneout_h = s.shape.cell.recurrent_dropout = 0.5;
        s.shape.cell.zoneout_c = 0.25;
        const size_t D = s.shape.num_directions;
        family_spec upper = s;
        upper.shape.num_layers = 1;
        upper.shape.input_size = D * s.shape.hidden_size;
        upper.first_cell = 1 + D;
        upper.indexed = false;
        family both, top;
        family_result r_both, r_top, r_below;
        fl_tape *tape = NULL;
        family_make(&both, &s);
        family_make(&top, &upper);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        /* The output of the first layer, by a stack of it alone. */
        family_spec lower = s;
        lower.shape.num_layers = 1;
        family below;
        family_make(&below, &lower);
        family_result_make(&r_both, &both);
        family_result_make(&r_top, &top);
        family_result_make(&r_below, &below);
        for (size_t d = 0; d < D; d++) {
            EXPECT_STATUS(fl_stack_pack(below.stack, 0, d, &both.weights[d]), FL_OK);
            EXPECT_STATUS(fl_stack_pack(top.stack, 0, d, &both.weights[D + d]), FL_OK);
        }
        const size_t h_bytes = D * s.B * family_h_bytes(&both), c_bytes = D * s.B * family_c_bytes(&both);
        fl_record_args args = family_record_args(&both, &r_both, FL_SAVE_ALL, 1);
        EXPECT_STATUS(fl_stack_record(both.stack, &args, tape), FL_OK);
        const fl_forward_args call = args.call;
        args.call.y = r_below.y;
        args.call.h_n = r_below.h_n;
        args.call.c_n = r_below.c_n;
        EXPECT_STATUS(fl_stack_record(below.stack, &args, tape), FL_OK);
        fl_record_args upper_args = family_record_args(&top, &r_top, FL_SAVE_ALL, 1);
        upper_args.call.x = r_below.y;
        upper_args.call.x_at = NULL;
        upper_args.call.x_stride_t = call.y_stride_t;
        upper_args.call.x_stride_b = call.y_stride_b;
        upper_args.call.h0 = call.h0 != NULL ? (const char *)call.h0 + h_bytes : NULL;
        upper_args.call.c0 = call.c0 != NULL ? (const char *)call.c0 + c_bytes : NULL;
        EXPECT_STATUS(fl_stack_record(top.stack, &upper_args, tape), FL_OK);
        EXPECT(memcmp(r_both.y_memory, r_top.y_memory, s.T * s.B * D * family_h_bytes(&both)) == 0 &&
                   memcmp(r_both.h_n, r_below.h_n, h_bytes) == 0 &&
                   memcmp(r_both.h_n + h_bytes, r_top.h_n, h_bytes) == 0 &&
                   memcmp(r_both.c_n + c_bytes, r_top.c_n, c_bytes) == 0,
               "%s", family_text(&both));
        fl_tape_destroy(tape);
        family_result_free(&r_both);
        family_result_free(&r_top);
        family_result_free(&r_below);
        family_free(&both);
        family_free(&top);
        family_free(&below);
    }
}

/* ---- Gradients against differences --------------------------------------------------------------------------- */

static double product_sum(const family *f, const placing *pa, char *a, const placing *pb, char *b)
{
    double sum = 0.0;
    for (size_t row = 0; row < f->spec.B; row++)
        for (size_t t = 0; t < family_length(f, row); t++)
            for (size_t j = 0; j < pa->width; j++)
                sum += ((double *)a)[placing_of(pa, t, row) + (ptrdiff_t)j] *
                       ((double *)b)[placing_of(pb, t, row) + (ptrdiff_t)j];
    return sum;
}

static double states_sum(const void *a, const void *b, size_t count)
{
    double sum = 0.0;
    for (size_t n = 0; n < count && b != NULL; n++) sum += ((const double *)a)[n] * ((const double *)b)[n];
    return sum;
}

/* sum(y dy) + sum(states dstates) + sum(cells dcells) */
static double loss(const family *f, fl_tape *tape, const family_result *r)
{
    const size_t rows = f->cells * f->spec.B;
    const fl_record_args args = family_record_args(f, r, SIZE_MAX - 1, 1);
    if (fl_stack_record(f->stack, &args, tape) != FL_OK)
        return (double)NAN;
    double sum = f->dy != NULL ? product_sum(f, &f->of_y, r->y, &f->of_dy, f->dy) : 0.0;
    if (f->dcells != NULL)
        sum += product_sum(f, &f->of_cells, r->cells, &f->of_dcells, f->dcells);
    sum += states_sum(r->h_n, f->dh_n, rows * f->P);
    return f->states != 0 ? sum + states_sum(r->c_n, f->dc_n, rows * f->states * f->H) : sum;
}

typedef struct checked {
    size_t smooth, kinks;
    double worst;
    char where[80];
} checked;

#define STEP 0x1p-10

/* Compare gradients of `count` elements with differences of fourth order, or some of them; where those of steps on either
 * side disagree, there is a kink between them. */
static void check_elements(family *f, fl_tape *tape, const family_result *r, size_t cell, double *elements,
                           const double *gradient, size_t count, const char *name, checked *c)
{
    const size_t most = harness_effort == EFFORT_FULL ? 40 : 12;
    const double here = loss(f, tape, r);
    for (size_t n = 0; n < (count < most ? count : most); n++) {
        const size_t at = count <= most ? n : random_size(0, count - 1);
        const double kept = elements[at];
        /* n = 0 of an sLSTM is that of the first step, and no other number is. */
        if (elements == f->c0 && f->states == 3 && kept == 0.0)
            continue;
        double values[4];
        for (int k = 0; k < 4; k++) {
            static const double steps[4] = {-2 * STEP, -STEP, STEP, 2 * STEP};
            elements[at] = kept + steps[k];
            if (cell < f->cells)
                EXPECT_STATUS(fl_stack_pack(f->stack, cell / f->spec.shape.num_directions,
                                            cell % f->spec.shape.num_directions, &f->weights[cell]),
                              FL_OK);
            values[k] = loss(f, tape, r);
        }
        elements[at] = kept;
        if (cell < f->cells)
            EXPECT_STATUS(fl_stack_pack(f->stack, cell / f->spec.shape.num_directions,
                                        cell % f->spec.shape.num_directions, &f->weights[cell]),
                          FL_OK);
        /* Fourth differences of a smooth function are tiny; those of a kink or of a jump are not. */
        const double fourth = values[0] - 4 * values[1] + 6 * here - 4 * values[2] + values[3];
        const double difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * STEP);
        const double distance = fabs(difference - gradient[at]) / (1.0 + fabs(difference));
        const double error = isnan(distance) ? INFINITY : distance; /* what was not written */
        if (!(fabs(fourth) < 1e-9 * (1.0 + fabs(here)))) {
            c->kinks++;
            continue;
        }
        c->smooth++;
        if (error > c->worst) {
            c->worst = error;
            snprintf(c->where, sizeof c->where, "%s of cell %zu, element %zu: %.9g, not %.9g", name, cell, at,
                     gradient[at], difference);
        }
    }
}

static void check_states(family *f, fl_tape *tape, const family_result *r, const family_gradients *g, checked *c)
{
    const size_t rows = f->cells * f->spec.B;
    if (f->h0 == NULL)
        return;
    check_elements(f, tape, r, f->cells, f->h0, g->dh0, rows * f->P, "h0", c);
    if (f->states != 0)
        check_elements(f, tape, r, f->cells, f->c0, g->dc0, rows * f->states * f->H, "c0", c);
}

static void check_gradients(const family_spec *s, checked *c)
{
    static const char *const names[FAMILY_PARAMETERS] = {"weight_ih",    "weight_hh",   "bias_ih",  "bias_hh",
                                                         "weight_ch",    "weight_hr",   "bias_hr",  "weight_ln_ih",
                                                         "weight_ln_hh", "weight_ln_c", "bias_ln_c"};
    family f;
    family_result r;
    family_gradients g;
    fl_tape *tape = NULL;
    family_make(&f, s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    family_train(&f, tape, random_chance(2) ? FL_SAVE_ALL : random_size(1, 3), 1, &r, &g);
    for (size_t cell = 0; cell < f.cells; cell++) {
        const void **weights[FAMILY_PARAMETERS];
        void **gradients[FAMILY_PARAMETERS];
        family_weights(&f.weights[cell], weights);
        family_gradients_of(&g.of[cell], gradients);
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++)
            if (family_sizes(&f, cell)[n] != 0)
                check_elements(&f, tape, &r, cell, (double *)(uintptr_t)*weights[n], *gradients[n],
                               family_sizes(&f, cell)[n], names[n], c);
    }
    check_states(&f, tape, &r, &g, c);
    for (size_t b = 0; b < s->B && g.dx != NULL; b++)
        for (size_t t = 0; t < family_length(&f, b); t++)
            check_elements(&f, tape, &r, f.cells, (double *)(void *)f.x + placing_of(&f.of_x, t, b),
                           (double *)(void *)g.dx + placing_of(&f.of_dx, t, b), f.of_x.width, "dx", c);
    EXPECT(c->worst < 2e-6, "%s: %s", family_text(&f), c->where);
    fl_tape_destroy(tape);
    family_result_free(&r);
    family_gradients_free(&g);
    family_free(&f);
}

static bool is_smooth(fl_activation_kind kind)
{
    return kind != FL_RELU && kind != FL_LEAKY_RELU && kind != FL_THRESHOLDED_RELU && kind != FL_HARD_SIGMOID &&
           kind != FL_ELU;
}

/* Every other pass has all the options, with their kinks; the others only smooth ones. */
static void family_gradients_of_kind(fl_cell_kind kind)
{
    checked c = {0};
    for (size_t repeat = 0; repeat < 2 + rounds(kind == FL_CELL_LSTM ? 72 : 24); repeat++) {
        family_spec s = family_random(kind, FL_F64);
        fl_cell_options *o = &s.shape.cell;
        s.T = random_size(1, 4);
        s.B = random_size(1, 3);
        s.shape.input_size = random_size(1, 4);
        s.shape.hidden_size = random_size(1, kind == FL_CELL_SLSTM ? 6 : 5);
        s.shape.num_layers = random_size(1, 2);
        *o = options_of_kind(kind, s.shape.hidden_size);
        for (size_t n = 0; n < 3 && repeat % 2 == 0; n++)
            if (!is_smooth(o->activations[n].kind))
                o->activations[n].kind = FL_SOFTPLUS;
        if (repeat % 2 == 0)
            o->gate_clip = o->cell_clip = o->proj_clip = o->n_floor = 0.0;
        else if (random_chance(2))
            o->gate_clip = 0.0; /* nothing grows far in so few steps */
        s.wants_cells = s.gives_dcells;
        s.writable = true;
        s.bptt = 0; /* its gradient is none of the sum above */
        if (!s.gives_dy && !s.gives_dh)
            s.gives_dy = true;
        check_gradients(&s, &c);
    }
    EXPECT(c.smooth > 4 * c.kinks && c.smooth >= (harness_effort == EFFORT_FULL ? 500 : 20),
           "kind %d: %zu elements, beside %zu at kinks", (int)kind, c.smooth, c.kinks);
}

static void family_differences(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) family_gradients_of_kind((fl_cell_kind)kind);
}

/* ---- Truncation ---------------------------------------------------------------------------------------------- */

/* Backward through steps [begin, end) alone, from the states that a call of the steps before it left. */
static void add_part(const family *f, fl_tape *tape, size_t begin, size_t end, const char *h0, const char *c0,
                     const family_gradients *sum)
{
    family_result r;
    family_gradients g;
    family_result_make(&r, f);
    family_gradients_make(&g, f);
    fl_record_args recorded = family_record_args(f, &r, FL_SAVE_ALL, 1);
    fl_backward_args args = family_backward_args(f, &g, 1);
    const ptrdiff_t t = (ptrdiff_t)begin;
    recorded.call.T = end - begin;
    recorded.call.x = (const double *)recorded.call.x + t * recorded.call.x_stride_t;
    recorded.call.y = (double *)recorded.call.y + t * recorded.call.y_stride_t;
    if (recorded.call.cells != NULL)
        recorded.call.cells = (double *)recorded.call.cells + t * recorded.call.cells_stride_t;
    recorded.call.h0 = h0;
    recorded.call.c0 = c0;
    args.dy = args.dy != NULL ? (const double *)args.dy + t * args.dy_stride_t : NULL;
    args.dcells = args.dcells != NULL ? (const double *)args.dcells + t * args.dcells_stride_t : NULL;
    args.dx = args.dx != NULL ? (double *)args.dx + t * args.dx_stride_t : NULL;
    args.dh_n = end == f->spec.T ? args.dh_n : NULL;
    args.dc_n = end == f->spec.T ? args.dc_n : NULL;
    args.bptt = 0;
    EXPECT_STATUS(fl_stack_record(f->stack, &recorded, tape), FL_OK);
    EXPECT_STATUS(fl_stack_backward(f->stack, tape, &args), FL_OK);
    for (size_t cell = 0; cell < f->cells; cell++) {
        fl_gradients total = sum->of[cell];
        void **from[FAMILY_PARAMETERS], **to[FAMILY_PARAMETERS];
        family_gradients_of(&g.of[cell], from);
        family_gradients_of(&total, to);
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++)
            for (size_t k = 0; k < family_sizes(f, cell)[n]; k++) ((double *)*to[n])[k] += ((double *)*from[n])[k];
    }
    family_result_free(&r);
    family_gradients_free(&g);
}

/* With bptt = k gradients are the sums of those of parts of k steps. */
static void check_truncation(const family_spec *s)
{
    family f;
    family_result r, states;
    family_gradients g, sum;
    fl_tape *tape = NULL;
    family_make(&f, s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    family_train(&f, tape, random_chance(2) ? FL_SAVE_ALL : random_size(1, 5), 1, &r, &g);
    family_gradients_make(&sum, &f);
    for (size_t n = 0; n < sum.outputs.count; n++) memset(sum.outputs.blocks[n].data, 0, sum.outputs.blocks[n].bytes);
    for (size_t begin = 0; begin < s->T; begin += s->bptt) {
        const size_t end = s->T - begin < s->bptt ? s->T : begin + s->bptt;
        family_result_make(&states, &f);
        fl_forward_args before = family_args(&f, &states, 1);
        before.T = begin;
        EXPECT_STATUS(fl_stack_forward(f.stack, &before), FL_OK);
        add_part(&f, tape, begin, end, states.h_n, states.c_n, &sum);
        family_result_free(&states);
    }
    double worst = 0.0;
    for (size_t n = f.states != 0 ? 2 : 1; n < g.outputs.count; n++) /* but dh0 and dc0 */
        for (size_t k = 0; k < g.outputs.blocks[n].bytes / sizeof(double); k++) {
            const double u = ((double *)(void *)g.outputs.blocks[n].data)[k];
            const double v = ((double *)(void *)sum.outputs.blocks[n].data)[k];
            worst = fmax(worst, fabs(u - v) <= INFINITY ? fabs(u - v) / (1.0 + fabs(v)) : INFINITY);
        }
    EXPECT(worst < 1e-12, "%s: %.3g", family_text(&f), worst);
    fl_tape_destroy(tape);
    family_result_free(&r);
    family_gradients_free(&g);
    family_gradients_free(&sum);
    family_free(&f);
}

static void family_truncation(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 48 : 12); repeat++) {
            family_spec s = family_random((fl_cell_kind)kind, FL_F64);
            s.T = random_size(2, 14);
            s.shape.num_directions = 1;
            s.draws = s.resets = s.ragged = s.indexed = false;
            s.dropout = 0.0;
            s.bptt = random_size(1, s.T - 1);
            s.x_order = s.y_order = s.dy_order = s.dx_order = ORDER_TIME_FIRST;
            check_truncation(&s);
        }
}

void test_family_training(void)
{
    run_test("family_training_saves", family_training_saves);
    run_test("family_training_chunks", family_training_chunks);
    run_test("family_record_equals_forward", family_record_equals_forward);
    run_test("family_training_orders", family_training_orders);
    run_test("family_first_cell", family_first_cell);
    run_test("family_differences", family_differences);
    run_test("family_truncation", family_truncation);
}

/* ---- Several threads ----------------------------------------------------------------------------------------- */

static void family_training_schedules(void)
{
    static const struct {
        size_t T, B, I, H, L, D;
    } shapes[] = {{40, 1, 20, 48, 1, 1}, {20, 21, 7, 24, 2, 1}, {16, 5, 12, 33, 1, 2}};
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < rounds(kind == FL_CELL_LSTM ? 24 : 6); n++) {
            const size_t shape = (n + (size_t)kind) % 3;
            family_spec s = family_random((fl_cell_kind)kind, dtypes[n / 3 % 2]);
            s.T = shapes[shape].T;
            s.B = shapes[shape].B;
            s.shape.input_size = shapes[shape].I;
            s.shape.hidden_size = shapes[shape].H;
            s.shape.num_layers = shapes[shape].L;
            s.shape.num_directions = shapes[shape].D;
            s.shape.cell = options_of_kind((fl_cell_kind)kind, s.shape.hidden_size);
            check_saves(&s, 3);
        }
}

void test_family_training_schedules(void) { run_test("family_training_schedules", family_training_schedules); }
