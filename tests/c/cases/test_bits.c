/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Forward passes of all cells with any options: every access within its array, and the same bits wherever arrays lie,
 * whichever rows are computed together, and however steps are cut into calls.
 */
#include <math.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

/* ---- Places -------------------------------------------------------------------------------------------------- */

static void compare_orders(const spec *s)
{
    spec other = *s;
    problem a, b;
    result ra, rb;
    spec_reorder(&other);
    problem_make(&a, s);
    problem_make(&b, &other);
    problem_run(&a, 1, &ra);
    const size_t threads = random_size(0, 2);
    problem_run(&b, threads, &rb);
    EXPECT(results_equal(&a, &ra, &b, &rb), "%s: not the same in orders x %d, y %d", problem_text(&a),
           (int)other.x_order, (int)other.y_order);
    result_free(&ra);
    result_free(&rb);
    problem_free(&a);
    problem_free(&b);
}

static void any_order_of_arrays(void) { for_all_kinds(24, compare_orders); }

/* What cells are asked for does not change the rest. */
static void compare_without_cells(const spec *s)
{
    spec other = *s;
    problem a, b;
    result ra, rb;
    other.wants_cells = false;
    problem_make(&a, s);
    problem_make(&b, &other);
    problem_run(&a, 1, &ra);
    problem_run(&b, 1, &rb);
    EXPECT(results_equal(&a, &ra, &b, &rb), "%s", problem_text(&a));
    result_free(&ra);
    result_free(&rb);
    problem_free(&a);
    problem_free(&b);
}

/* The cells of the last step of each row are c_n of the last layer, element by element. */
static void compare_cells(const spec *s)
{
    problem p;
    result r;
    problem_make(&p, s);
    problem_run(&p, 1, &r);
    for (size_t b = 0; b < s->B && r.cells != NULL; b++)
        for (size_t d = 0; d < s->shape.num_directions && problem_length(&p, b) != 0; d++) {
            const size_t cell = (s->shape.num_layers - 1) * s->shape.num_directions + d;
            const size_t t = d == 0 ? problem_length(&p, b) - 1 : 0;
            const char *c = r.cells + (placing_of(&p.of_cells, t, b) + (ptrdiff_t)(d * p.H)) * (ptrdiff_t)p.real_size;
            EXPECT(memcmp(c, r.c_n + (cell * s->B + b) * problem_c_bytes(&p), p.H * p.real_size) == 0,
                   "%s: row %zu, direction %zu", problem_text(&p), b, d);
        }
    result_free(&r);
    problem_free(&p);
    compare_without_cells(s);
}

static void cells_of_last_steps(void)
{
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t repeat = 0; repeat < rounds(48); repeat++) {
            spec s = spec_random(repeat % 3 == 0 ? FL_CELL_SLSTM : FL_CELL_LSTM, dtypes[d]);
            s.wants_cells = true;
            compare_cells(&s);
        }
}

/* ---- Rows ---------------------------------------------------------------------------------------------------- */

/* Some rows alone, in any order, by x_at and y_at, and each up to its own end. */
static void compare_some_rows(const problem *p, const result *whole, const size_t *chosen, size_t count)
{
    ptrdiff_t x_at[64], y_at[64];
    int64_t lengths[64];
    guard_arena states = {0};
    result r;
    result_make(&r, p);
    char *h = guard_new(&states, p->cells * count, problem_h_bytes(p));
    char *c = p->states != 0 ? guard_new(&states, p->cells * count, problem_c_bytes(p)) : NULL;
    size_t T = 0;
    for (size_t n = 0; n < count; n++) {
        const size_t b = chosen[n], length = problem_length(p, b);
        x_at[n] = p->of_x.at != NULL ? p->of_x.at[b] : (ptrdiff_t)b;
        y_at[n] = p->of_y.at != NULL ? p->of_y.at[b] : (ptrdiff_t)b;
        lengths[n] = (int64_t)length;
        T = length > T ? length : T;
        if (p->h0 != NULL)
            problem_row_states(p, p->h0, p->c0, b, h, c, count, n, false);
    }
    if (p->h0 == NULL) {
        memset(h, 0, p->cells * count * problem_h_bytes(p));
        if (c != NULL)
            memset(c, 0, p->cells * count * problem_c_bytes(p));
    }
    fl_forward_args args = problem_args(p, &r, 1);
    args.T = T;
    args.B = count;
    args.lengths = count == 1 && random_chance(2) ? NULL : lengths;
    args.x_at = x_at;
    args.y_at = y_at;
    args.h0 = args.h_n = h;
    args.c0 = args.c_n = c;
    EXPECT_STATUS(fl_stack_forward(p->stack, &args), FL_OK);
    for (size_t n = 0; n < count; n++) {
        problem_row_states(p, r.h_n, r.c_n, chosen[n], h, c, count, n, true);
        EXPECT(rows_equal(p, whole, chosen[n], p, &r, chosen[n]), "%s: row %zu, one of %zu", problem_text(p), chosen[n],
               count);
    }
    guard_release(&states);
    result_free(&r);
}

static void compare_rows(const spec *s)
{
    problem p;
    result whole;
    size_t order[64];
    problem_make(&p, s);
    problem_run(&p, 1, &whole);
    for (size_t n = 0; n < s->B; n++) order[n] = n;
    for (size_t n = s->B; n-- > 1;) {
        const size_t other = random_size(0, n), b = order[n];
        order[n] = order[other];
        order[other] = b;
    }
    for (size_t begin = 0, end; begin < s->B; begin = end) {
        end = random_chance(2) ? begin + 1 : random_size(begin + 1, s->B);
        compare_some_rows(&p, &whole, order + begin, end - begin);
    }
    result_free(&whole);
    problem_free(&p);
}

static void row_is_itself_in_any_batch(void) { for_all_kinds(24, compare_rows); }

/* All widths from 1 on: every tail of every instruction set, of units, of the projection, and of heads. */
static void row_is_itself_of_any_width(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t H = 1; H <= 40; H += harness_effort == EFFORT_FULL ? 1 : 3)
            for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 6 : 2); repeat++) {
                spec s = spec_random((fl_cell_kind)kind, dtypes[(H + repeat) % 2]);
                s.shape.hidden_size = H;
                s.shape.cell = options_random((fl_cell_kind)kind, H);
                s.shape.input_size = random_size(1, 40);
                s.shape.num_layers = 1;
                s.T = random_size(1, 3);
                s.B = random_size(1, 14);
                compare_rows(&s);
            }
}

/* ---- Steps --------------------------------------------------------------------------------------------------- */

/* Steps [begin, end) of all rows, states from and to h and c. */
static void run_part(const problem *p, const result *r, size_t begin, size_t end, char *h, char *c)
{
    int64_t lengths[64];
    fl_forward_args args = problem_args(p, r, 1);
    for (size_t b = 0; b < p->spec.B; b++) {
        const size_t length = problem_length(p, b);
        lengths[b] = length <= begin ? 0 : (int64_t)((length < end ? length : end) - begin);
    }
    const ptrdiff_t t = (ptrdiff_t)begin, size = (ptrdiff_t)p->real_size;
    args.T = end - begin;
    args.lengths = p->lengths != NULL ? lengths : NULL;
    args.x = args.x != NULL ? p->x + t * args.x_stride_t * size : NULL;
    args.x_index = args.x_index != NULL ? p->x_index + t * args.x_stride_t : NULL;
    args.y = r->y + t * args.y_stride_t * size;
    args.cells = r->cells != NULL ? r->cells + t * args.cells_stride_t * size : NULL;
    args.h0 = args.h_n = h;
    args.c0 = args.c_n = c;
    EXPECT_STATUS(fl_stack_forward(p->stack, &args), FL_OK);
}

static void compare_cuts(const spec *given)
{
    spec s = *given;
    problem p;
    result whole, parts;
    s.shape.num_directions = 1;
    problem_make(&p, &s);
    problem_run(&p, 1, &whole);
    result_make(&parts, &p);
    problem_start_states(&p, parts.h_n, parts.c_n);
    for (size_t begin = 0, end; begin < s.T; begin = end) {
        end = random_size(begin, s.T); /* calls of no steps too */
        run_part(&p, &parts, begin, end, parts.h_n, parts.c_n);
    }
    problem_check_clean(&p, &parts);
    EXPECT(results_equal(&p, &whole, &p, &parts), "%s", problem_text(&p));
    result_free(&whole);
    result_free(&parts);
    problem_free(&p);
}

static void cuts_do_not_matter(void) { for_all_kinds(24, compare_cuts); }

static void compare_stream(const spec *given)
{
    spec s = *given;
    problem p;
    result whole, streamed;
    fl_stream *stream = NULL;
    s.shape.num_directions = 1;
    s.ragged = s.wants_cells = false;
    s.x_order = order_random(ORDER_LAST_REGULAR); /* a stream has no x_at and y_at */
    s.y_order = order_random(ORDER_LAST_REGULAR);
    problem_make(&p, &s);
    problem_run(&p, 1, &whole);
    result_make(&streamed, &p);
    EXPECT_STATUS(fl_stream_create(p.stack, s.B, 1, &stream), FL_OK);
    if (stream == NULL)
        return;
    const size_t rows = p.cells * s.B;
    EXPECT((fl_stream_c(stream) != NULL) == (p.states != 0), "%s: c", problem_text(&p));
    problem_start_states(&p, fl_stream_h(stream), fl_stream_c(stream));
    const long made = atomic_load(&allocations_made);
    for (size_t begin = 0, end; begin < s.T; begin = end) {
        end = random_chance(2) ? begin + 1 : random_size(begin, s.T);
        const fl_stream_io io = problem_stream_io(&p, &streamed, begin);
        EXPECT_STATUS(fl_stream_process(stream, end - begin, &io), FL_OK);
    }
    EXPECT(atomic_load(&allocations_made) == made, "%s: fl_stream_process allocates", problem_text(&p));
    memcpy(streamed.h_n, fl_stream_h(stream), rows * problem_h_bytes(&p));
    if (p.states != 0)
        memcpy(streamed.c_n, fl_stream_c(stream), rows * problem_c_bytes(&p));
    EXPECT(results_equal(&p, &whole, &p, &streamed), "%s", problem_text(&p));
    fl_stream_destroy(stream);
    result_free(&whole);
    result_free(&streamed);
    problem_free(&p);
}

static void stream_equals_whole(void) { for_all_kinds(24, compare_stream); }

/* ---- Input --------------------------------------------------------------------------------------------------- */

static void compare_index(const spec *given)
{
    spec s = *given;
    problem p;
    result indexed, dense;
    guard_arena more = {0};
    const size_t I = s.shape.input_size;
    s.indexed = true;
    problem_make(&p, &s);
    problem_run(&p, 1, &indexed);
    result_make(&dense, &p);
    char *x = guard_new(&more, s.T * s.B * I, p.real_size);
    for (size_t b = 0; b < s.B; b++)
        for (size_t t = 0; t < problem_length(&p, b); t++)
            for (size_t i = 0; i < I; i++)
                real_put(s.shape.dtype, x, (ptrdiff_t)((t * s.B + b) * I + i),
                         p.x_index[placing_of(&p.of_x, t, b)] == (int64_t)i);
    fl_forward_args args = problem_args(&p, &dense, 1);
    args.x_index = NULL;
    args.x_at = NULL;
    args.x = x;
    args.x_stride_t = (ptrdiff_t)(s.B * I);
    args.x_stride_b = (ptrdiff_t)I;
    EXPECT_STATUS(fl_stack_forward(p.stack, &args), FL_OK);
    EXPECT(results_equal(&p, &indexed, &p, &dense), "%s", problem_text(&p));
    guard_release(&more);
    result_free(&indexed);
    result_free(&dense);
    problem_free(&p);
}

static void index_equals_one_hot(void) { for_all_kinds(12, compare_index); }

/* h_n may be h0, and c_n may be c0. */
static void compare_in_place(const spec *given)
{
    spec s = *given;
    problem p;
    result usual, in_place;
    s.given_state = true;
    problem_make(&p, &s);
    problem_run(&p, 1, &usual);
    result_make(&in_place, &p);
    const size_t threads = random_size(1, 3);
    fl_forward_args args = problem_args(&p, &in_place, threads);
    problem_start_states(&p, in_place.h_n, in_place.c_n);
    args.h0 = args.h_n;
    args.c0 = args.c_n;
    EXPECT_STATUS(fl_stack_forward(p.stack, &args), FL_OK);
    EXPECT(results_equal(&p, &usual, &p, &in_place), "%s", problem_text(&p));
    result_free(&usual);
    result_free(&in_place);
    problem_free(&p);
}

static void states_in_place(void) { for_all_kinds(12, compare_in_place); }

/* ---- The plain LSTM, spelled out ----------------------------------------------------------------------------- */

/* Largest difference of y and states, in units of the last place around 1. */
static double largest_difference(const problem *a, const result *ra, const result *rb)
{
    double worst = 0.0;
    for (size_t n = 0; n < ra->outputs.count; n++)
        for (size_t k = 0; k < ra->outputs.blocks[n].bytes / a->real_size; k++) {
            const double u = real_get(a->spec.shape.dtype, ra->outputs.blocks[n].data, (ptrdiff_t)k);
            const double v = real_get(a->spec.shape.dtype, rb->outputs.blocks[n].data, (ptrdiff_t)k);
            if (isnan(u) && isnan(v))
                continue; /* between the rows */
            worst = fmax(worst, fabs(u - v) <= INFINITY ? fabs(u - v) / fmax(1.0, fabs(u)) : INFINITY);
        }
    return worst / real_epsilon(a->spec.shape.dtype);
}

static void general_cell_equals_plain(void)
{
    for (size_t repeat = 0; repeat < rounds(48); repeat++) {
        spec s = spec_random(FL_CELL_LSTM, dtypes[repeat % 2]);
        const fl_cell_options none = {.kind = FL_CELL_LSTM};
        const fl_activation_kind given[3] = {FL_SIGMOID, FL_TANH, FL_TANH};
        s.shape.cell = none;
        spec spelled = s;
        for (size_t n = 0; n < 3; n++)
            if (repeat % 4 == 0 || !random_chance(3))
                spelled.shape.cell.activations[n].kind = given[n];
        /* Far away, so that the general cell is taken and nothing is clipped. */
        spelled.shape.cell.gate_clip = random_chance(2) ? 1000.0 : 0.0;
        spelled.shape.cell.cell_clip = random_chance(2) ? 1000.0 : 0.0;
        spelled.shape.cell.zoneout_c = random_chance(2) ? 0.5 : 0.0; /* in inference, where it is not expected: off */
        problem a, b;
        result ra, rb;
        problem_make(&a, &s);
        problem_make(&b, &spelled);
        problem_run(&a, 1, &ra);
        problem_run(&b, 1, &rb);
        const double worst = largest_difference(&a, &ra, &rb);
        EXPECT(worst <= 8.0, "%s: %.1f ulp", problem_text(&b), worst);
        result_free(&ra);
        result_free(&rb);
        problem_free(&a);
        problem_free(&b);
    }
}

/* ---- Usual activations, given -------------------------------------------------------------------------------- */

/* They are the cell's own: the same bits, there and back. */
static void usual_activations_given(void)
{
    static const fl_activation_kind usual[FL_CELL_COUNT][3] = {[FL_CELL_LSTM] = {FL_SIGMOID, FL_TANH, FL_TANH},
                                                               [FL_CELL_GRU] = {FL_SIGMOID, FL_TANH},
                                                               [FL_CELL_RNN] = {FL_TANH},
                                                               [FL_CELL_INDRNN] = {FL_TANH}};
    for (int kind = 0; kind <= FL_CELL_INDRNN; kind++)
        for (size_t repeat = 0; repeat < rounds(48); repeat++) {
            spec s = spec_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            const fl_cell_options none = {.kind = (fl_cell_kind)kind};
            if (repeat % 3 != 0)
                s.shape.cell = none;
            memset(s.shape.cell.activations, 0, sizeof s.shape.cell.activations);
            spec spelled = s;
            for (size_t n = 0; n < 3; n++) spelled.shape.cell.activations[n].kind = usual[kind][n];
            problem a, b;
            result ra, rb;
            gradients ga, gb;
            fl_tape *tape = NULL;
            problem_make(&a, &s);
            problem_make(&b, &spelled);
            problem_run(&a, 1, &ra);
            problem_run(&b, 1, &rb);
            EXPECT(arenas_equal(&ra.outputs, &rb.outputs), "%s", problem_text(&b));
            result_free(&ra);
            result_free(&rb);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            problem_train(&a, tape, FL_SAVE_ALL, 1, &ra, &ga);
            problem_train(&b, tape, FL_SAVE_STATES, 1, &rb, &gb);
            EXPECT(arenas_equal(&ra.outputs, &rb.outputs) && gradients_equal(&a, &ga, &b, &gb), "%s: recorded",
                   problem_text(&b));
            fl_tape_destroy(tape);
            result_free(&ra);
            result_free(&rb);
            gradients_free(&ga);
            gradients_free(&gb);
            problem_free(&a);
            problem_free(&b);
        }
}

void test_bits(void)
{
    run_test("any_order_of_arrays", any_order_of_arrays);
    run_test("cells_of_last_steps", cells_of_last_steps);
    run_test("row_is_itself_in_any_batch", row_is_itself_in_any_batch);
    run_test("row_is_itself_of_any_width", row_is_itself_of_any_width);
    run_test("cuts_do_not_matter", cuts_do_not_matter);
    run_test("stream_equals_whole", stream_equals_whole);
    run_test("states_in_place", states_in_place);
    run_test("index_equals_one_hot", index_equals_one_hot);
    run_test("general_cell_equals_plain", general_cell_equals_plain);
    run_test("usual_activations_given", usual_activations_given);
}
