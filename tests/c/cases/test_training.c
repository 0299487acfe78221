/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Recorded passes of all cells: the same bits for every way of keeping, any number of threads and any places of arrays;
 * and what is drawn.
 */
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

/* ---- The same bits ------------------------------------------------------------------------------------------- */

static void check_saves(const spec *s, size_t most_threads)
{
    const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1, random_size(2, 12), SIZE_MAX - 1};
    problem p;
    result expected, r;
    gradients right, g;
    fl_tape *tape = NULL;
    problem_make(&p, s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    problem_train(&p, tape, FL_SAVE_ALL, 1, &expected, &right);
    for (size_t threads = 1; threads <= most_threads; threads++)
        for (size_t n = 0; n < sizeof saves / sizeof *saves; n++) {
            problem_train(&p, tape, saves[n], threads, &r, &g);
            EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s: results with save %zu, %zu threads",
                   problem_text(&p), saves[n], threads);
            EXPECT(arenas_equal(&right.outputs, &g.outputs) && arenas_equal(&right.of_dx, &g.of_dx),
                   "%s: gradients with save %zu, %zu threads", problem_text(&p), saves[n], threads);
            result_free(&r);
            gradients_free(&g);
        }
    fl_tape_destroy(tape);
    result_free(&expected);
    gradients_free(&right);
    problem_free(&p);
}

static void any_way_of_keeping(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 120 : 36); repeat++) {
            const spec s = spec_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            check_saves(&s, 1);
        }
}

/* More steps and more rows than a chunk has. */
static void any_way_of_keeping_in_chunks(void)
{
    static const size_t sizes[][4] = {{150, 1, 5, 9}, {60, 6, 3, 7}, {3, 290, 2, 3}};
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < rounds(kind == FL_CELL_LSTM ? 12 : 6); n++) {
            spec s = spec_random((fl_cell_kind)kind, dtypes[(n + (size_t)kind) % 2]);
            spec_resize(&s, sizes[n % 3][0], sizes[n % 3][1], sizes[n % 3][2], sizes[n % 3][3]);
            s.shape.num_layers = random_size(1, 2);
            check_saves(&s, 1);
        }
}

/* Without resets, dropout and draws a recorded pass has the bits of a call. */
static void recorded_pass_equals_call(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 80 : 24); repeat++) {
            spec s = spec_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            problem p;
            result expected, r;
            fl_tape *tape = NULL;
            s.resets = s.draws = false;
            s.dropout = 0.0;
            problem_make(&p, &s);
            problem_run(&p, 1, &expected);
            result_make(&r, &p);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            const size_t save = random_chance(2) ? FL_SAVE_ALL : random_size(1, 5), threads = random_size(1, 2);
            const fl_record_args args = problem_record_args(&p, &r, save, threads);
            EXPECT_STATUS(fl_stack_record(p.stack, &args, tape), FL_OK);
            EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s", problem_text(&p));
            fl_tape_destroy(tape);
            result_free(&expected);
            result_free(&r);
            problem_free(&p);
        }
}

/* Arrays in any order, packed or not. */
static void any_order_of_gradients(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 80 : 24); repeat++) {
            const spec s = spec_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            spec other = s;
            problem a, b;
            result ra, rb;
            gradients ga, gb;
            fl_tape *tape = NULL;
            spec_reorder(&other);
            other.wants_cells = s.wants_cells && random_chance(2);
            problem_make(&a, &s);
            problem_make(&b, &other);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            const size_t save = random_chance(2) ? FL_SAVE_ALL : random_size(1, 5);
            problem_train(&a, tape, save, 1, &ra, &ga);
            problem_train(&b, tape, save, 1, &rb, &gb);
            EXPECT(results_equal(&a, &ra, &b, &rb), "%s: results in orders x %d, y %d", problem_text(&a),
                   (int)other.x_order, (int)other.y_order);
            EXPECT(gradients_equal(&a, &ga, &b, &gb), "%s: gradients in orders x %d, y %d, dy %d, dx %d",
                   problem_text(&a), (int)other.x_order, (int)other.y_order, (int)other.dy_order, (int)other.dx_order);
            fl_tape_destroy(tape);
            result_free(&ra);
            result_free(&rb);
            gradients_free(&ga);
            gradients_free(&gb);
            problem_free(&a);
            problem_free(&b);
        }
}

/* No steps: gradients of parameters are zero, those of states pass through. */
static void no_steps(void)
{
    static const size_t sizes[][2] = {{0, 3}, {3, 0}, {0, 0}};
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < 12; n++) {
            spec s = spec_plain((fl_cell_kind)kind, dtypes[n % 2], sizes[n / 4][0], sizes[n / 4][1], 3, 5);
            problem p;
            result r;
            gradients g;
            fl_tape *tape = NULL;
            s.shape.num_layers = 2;
            problem_make(&p, &s);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            problem_train(&p, tape, n / 2 % 2 == 0 ? FL_SAVE_ALL : 2, 1, &r, &g);
            const size_t rows = p.cells * s.B, first = p.states != 0 ? 2 : 1; /* of outputs, behind dh0 and dc0 */
            EXPECT(memcmp(g.dh0, p.dh_n, rows * problem_h_bytes(&p)) == 0 &&
                       (p.states == 0 || memcmp(g.dc0, p.dc_n, rows * problem_c_bytes(&p)) == 0),
                   "%s: states", problem_text(&p));
            for (size_t k = first; k < g.outputs.count; k++)
                for (size_t at = 0; at < g.outputs.blocks[k].bytes / p.real_size; at++)
                    EXPECT(real_get(s.shape.dtype, g.outputs.blocks[k].data, (ptrdiff_t)at) == 0.0,
                           "%s: array %zu, element %zu", problem_text(&p), k, at);
            fl_tape_destroy(tape);
            result_free(&r);
            gradients_free(&g);
            problem_free(&p);
        }
}

/* ---- Draws --------------------------------------------------------------------------------------------------- */

/* Outputs and states of the second layer, of a stack of two and of a stack of its own whose first cell comes later. */
static void first_cell_of_masks(void)
{
    for (size_t repeat = 0; repeat < rounds(48); repeat++) {
        spec s = spec_random(FL_CELL_LSTM, dtypes[repeat % 2]);
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
        spec upper = s;
        upper.shape.num_layers = 1;
        upper.shape.input_size = D * s.shape.hidden_size;
        upper.first_cell = 1 + D;
        upper.indexed = false;
        problem both, top;
        result r_both, r_top, r_below;
        fl_tape *tape = NULL;
        problem_make(&both, &s);
        problem_make(&top, &upper);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        /* The output of the first layer, by a stack of it alone. */
        spec lower = s;
        lower.shape.num_layers = 1;
        problem below;
        problem_make(&below, &lower);
        result_make(&r_both, &both);
        result_make(&r_top, &top);
        result_make(&r_below, &below);
        for (size_t d = 0; d < D; d++) {
            EXPECT_STATUS(fl_stack_pack(below.stack, 0, d, &both.weights[d]), FL_OK);
            EXPECT_STATUS(fl_stack_pack(top.stack, 0, d, &both.weights[D + d]), FL_OK);
        }
        const size_t h_bytes = D * s.B * problem_h_bytes(&both), c_bytes = D * s.B * problem_c_bytes(&both);
        fl_record_args args = problem_record_args(&both, &r_both, FL_SAVE_ALL, 1);
        EXPECT_STATUS(fl_stack_record(both.stack, &args, tape), FL_OK);
        const fl_forward_args call = args.call;
        args.call.y = r_below.y;
        args.call.h_n = r_below.h_n;
        args.call.c_n = r_below.c_n;
        EXPECT_STATUS(fl_stack_record(below.stack, &args, tape), FL_OK);
        fl_record_args upper_args = problem_record_args(&top, &r_top, FL_SAVE_ALL, 1);
        upper_args.call.x = r_below.y;
        upper_args.call.x_at = NULL;
        upper_args.call.x_stride_t = call.y_stride_t;
        upper_args.call.x_stride_b = call.y_stride_b;
        upper_args.call.h0 = call.h0 != NULL ? (const char *)call.h0 + h_bytes : NULL;
        upper_args.call.c0 = call.c0 != NULL ? (const char *)call.c0 + c_bytes : NULL;
        EXPECT_STATUS(fl_stack_record(top.stack, &upper_args, tape), FL_OK);
        EXPECT(memcmp(r_both.y_memory, r_top.y_memory, s.T * s.B * D * problem_h_bytes(&both)) == 0 &&
                   memcmp(r_both.h_n, r_below.h_n, h_bytes) == 0 &&
                   memcmp(r_both.h_n + h_bytes, r_top.h_n, h_bytes) == 0 &&
                   memcmp(r_both.c_n + c_bytes, r_top.c_n, c_bytes) == 0,
               "%s", problem_text(&both));
        fl_tape_destroy(tape);
        result_free(&r_both);
        result_free(&r_top);
        result_free(&r_below);
        problem_free(&both);
        problem_free(&top);
        problem_free(&below);
    }
}

/* ---- Dropout ------------------------------------------------------------------------------------------------- */

/* A layer of a stack by itself, from x to y, (T, B, D*P) both but for the first x. */
static void run_layer(const problem *p, const result *whole, size_t layer, const char *x, char *y, char *h, char *c)
{
    const size_t D = p->spec.shape.num_directions, rows = layer * D * p->spec.B;
    const ptrdiff_t width = (ptrdiff_t)(D * p->P), B = (ptrdiff_t)p->spec.B;
    fl_stack_shape shape = p->spec.shape;
    fl_stack *stack = NULL;
    fl_forward_args args = problem_args(p, whole, 1);
    shape.num_layers = 1;
    if (layer != 0) {
        shape.input_size = D * p->P;
        args.x = x;
        args.x_index = NULL;
        args.x_at = NULL;
        args.x_stride_t = B * width;
        args.x_stride_b = width;
    }
    args.y = y;
    args.y_at = NULL;
    args.y_stride_t = B * width;
    args.y_stride_b = width;
    args.h0 = p->h0 != NULL ? (char *)p->h0 + rows * problem_h_bytes(p) : NULL;
    args.c0 = p->c0 != NULL ? (char *)p->c0 + rows * problem_c_bytes(p) : NULL;
    args.h_n = h;
    args.c_n = c;
    EXPECT_STATUS(fl_stack_create(&shape, &stack), FL_OK);
    for (size_t d = 0; d < D; d++) EXPECT_STATUS(fl_stack_pack(stack, 0, d, &p->weights[layer * D + d]), FL_OK);
    EXPECT_STATUS(fl_stack_forward(stack, &args), FL_OK);
    fl_stack_destroy(stack);
}

/* Layers one by one with fl_dropout between them are the recorded pass of the stack. */
static void compare_dropout(const spec *s)
{
    problem p;
    result whole;
    guard_arena arena = {0};
    fl_tape *tape = NULL;
    problem_make(&p, s);
    result_make(&whole, &p);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    const size_t threads = random_size(1, 2);
    const fl_record_args args = problem_record_args(&p, &whole, FL_SAVE_ALL, threads);
    EXPECT_STATUS(fl_stack_record(p.stack, &args, tape), FL_OK);
    const size_t D = s->shape.num_directions, L = s->shape.num_layers, elements = s->T * s->B * D * p.P;
    const size_t rows = D * s->B, h_bytes = rows * problem_h_bytes(&p), c_bytes = rows * problem_c_bytes(&p);
    char *x = guard_new(&arena, elements, p.real_size), *y = guard_new(&arena, elements, p.real_size);
    char *h = guard_new(&arena, h_bytes, 1), *c = p.states != 0 ? guard_new(&arena, c_bytes, 1) : NULL;
    for (size_t layer = 0; layer < L; layer++) {
        run_layer(&p, &whole, layer, x, y, h, c);
        EXPECT(memcmp(h, whole.h_n + layer * h_bytes, h_bytes) == 0 &&
                   (c == NULL || memcmp(c, whole.c_n + layer * c_bytes, c_bytes) == 0),
               "%s: states of layer %zu", problem_text(&p), layer);
        if (layer + 1 < L)
            fl_dropout(s->shape.dtype, s->dropout, MASK_SEED, (uint64_t)(layer * elements), elements, y, x);
    }
    EXPECT(memcmp(y, whole.y_memory, elements * p.real_size) == 0, "%s: y", problem_text(&p));
    fl_tape_destroy(tape);
    guard_release(&arena);
    result_free(&whole);
    problem_free(&p);
}

static void dropout_between_layers(void)
{
    static const double rates[] = {0.375, 0.5, 0.999, 1.0};
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(24); repeat++) {
            spec s = spec_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            s.shape.num_layers = random_size(2, 3);
            s.ragged = s.resets = s.draws = s.wants_cells = false;
            s.x_order = s.y_order = ORDER_TIME_FIRST;
            s.dropout = rates[repeat % 4];
            compare_dropout(&s);
        }
}

void test_training(void)
{
    run_test("any_way_of_keeping", any_way_of_keeping);
    run_test("any_way_of_keeping_in_chunks", any_way_of_keeping_in_chunks);
    run_test("recorded_pass_equals_call", recorded_pass_equals_call);
    run_test("any_order_of_gradients", any_order_of_gradients);
    run_test("no_steps", no_steps);
    run_test("first_cell_of_masks", first_cell_of_masks);
    run_test("dropout_between_layers", dropout_between_layers);
}

/* ---- Several threads ----------------------------------------------------------------------------------------- */

/* Few rows: one thread for the steps, the others for the parameters; many: each its own. */
static void training_schedules(void)
{
    static const size_t sizes[][6] = {{40, 1, 20, 48, 1, 1}, {20, 21, 7, 24, 2, 1}, {16, 5, 12, 33, 1, 2}};
    static const size_t plain[][6] = {{70, 1, 20, 48, 1, 1},  {40, 3, 9, 40, 2, 1},  {20, 33, 7, 24, 2, 1},
                                      {24, 31, 12, 20, 1, 2}, {30, 2, 16, 30, 2, 2}, {4, 150, 9, 17, 1, 1}};
    clock_pace(CLOCK_HURRIES); /* as in test_schedules.c */
    for (size_t n = 0; n < sizeof plain / sizeof *plain; n++) {
        spec s = spec_stack(FL_CELL_LSTM, dtypes[n % 2], plain[n]);
        s.ragged = n >= 1 && n <= 3;
        s.indexed = n >= 4;
        s.wants_dx = !s.indexed;
        s.resets = n % 2 != 0;
        s.dropout = n % 2 == 0 ? 0.5 : 0.0;
        check_saves(&s, 4);
    }
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < rounds(kind == FL_CELL_LSTM ? 24 : 6); n++) {
            const size_t *size = sizes[(n + (size_t)kind) % 3];
            spec s = spec_random((fl_cell_kind)kind, dtypes[n / 3 % 2]);
            spec_resize(&s, size[0], size[1], size[2], size[3]);
            s.shape.num_layers = size[4];
            s.shape.num_directions = size[5];
            check_saves(&s, 3);
        }
}

void test_training_schedules(void) { run_test("training_schedules", training_schedules); }
