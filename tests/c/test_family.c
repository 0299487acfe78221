/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Forward passes of all cells with any options: every access within its array, and the same bits wherever arrays lie,
 * whichever rows are computed together, and however steps are cut into calls.
 */
#include <math.h>
#include <string.h>

#include "harness/family.h"
#include "tests.h"

static const fl_dtype dtypes[] = {FL_F32, FL_F64};

/* Each kind in each dtype; the LSTM, which has most options, more often. */
static void for_all_kinds(size_t full, void (*check)(const family_spec *s))
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t d = 0; d < 2; d++)
            for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 4 * full : full); repeat++) {
                const family_spec s = family_random((fl_cell_kind)kind, dtypes[d]);
                check(&s);
            }
}

/* ---- Places -------------------------------------------------------------------------------------------------- */

static void compare_orders(const family_spec *s)
{
    family_spec other = *s;
    family a, b;
    family_result ra, rb;
    family_reorder(&other);
    family_make(&a, s);
    family_make(&b, &other);
    family_run(&a, 1, &ra);
    family_run(&b, random_size(0, 2), &rb);
    EXPECT(family_results_equal(&a, &ra, &b, &rb), "%s: not the same in orders x %d, y %d", family_text(&a),
           other.x_order, other.y_order);
    family_result_free(&ra);
    family_result_free(&rb);
    family_free(&a);
    family_free(&b);
}

static void family_orders(void) { for_all_kinds(24, compare_orders); }

/* What cells are asked for does not change the rest. */
static void compare_without_cells(const family_spec *s)
{
    family_spec other = *s;
    family a, b;
    family_result ra, rb;
    other.wants_cells = false;
    family_make(&a, s);
    family_make(&b, &other);
    family_run(&a, 1, &ra);
    family_run(&b, 1, &rb);
    EXPECT(family_results_equal(&a, &ra, &b, &rb), "%s", family_text(&a));
    family_result_free(&ra);
    family_result_free(&rb);
    family_free(&a);
    family_free(&b);
}

/* The cells of the last step of each row are c_n of the last layer, element by element. */
static void compare_cells(const family_spec *s)
{
    family f;
    family_result r;
    family_make(&f, s);
    family_run(&f, 1, &r);
    for (size_t b = 0; b < s->B && r.cells != NULL; b++)
        for (size_t d = 0; d < s->shape.num_directions && family_length(&f, b) != 0; d++) {
            const size_t cell = (s->shape.num_layers - 1) * s->shape.num_directions + d;
            const size_t t = d == 0 ? family_length(&f, b) - 1 : 0;
            const char *c = r.cells + (placing_of(&f.of_cells, t, b) + (ptrdiff_t)(d * f.H)) * (ptrdiff_t)f.real_size;
            EXPECT(memcmp(c, r.c_n + (cell * s->B + b) * family_c_bytes(&f), f.H * f.real_size) == 0,
                   "%s: row %zu, direction %zu", family_text(&f), b, d);
        }
    family_result_free(&r);
    family_free(&f);
    compare_without_cells(s);
}

static void family_cells(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(48); repeat++) {
            family_spec s = family_random(repeat % 3 == 0 ? FL_CELL_SLSTM : FL_CELL_LSTM, dtypes[d]);
            s.wants_cells = true;
            compare_cells(&s);
        }
}

/* ---- Rows ---------------------------------------------------------------------------------------------------- */

/* Some rows alone, in any order, by x_at and y_at, and each up to its own end. */
static void compare_some_rows(const family *f, const family_result *whole, const size_t *chosen, size_t count)
{
    ptrdiff_t x_at[64], y_at[64];
    int64_t lengths[64];
    guard_arena states = {0};
    family_result r;
    family_result_make(&r, f);
    char *h = guard_new(&states, f->cells * count, family_h_bytes(f));
    char *c = f->states != 0 ? guard_new(&states, f->cells * count, family_c_bytes(f)) : NULL;
    size_t T = 0;
    for (size_t n = 0; n < count; n++) {
        const size_t b = chosen[n], length = family_length(f, b);
        x_at[n] = f->of_x.at != NULL ? f->of_x.at[b] : (ptrdiff_t)b;
        y_at[n] = f->of_y.at != NULL ? f->of_y.at[b] : (ptrdiff_t)b;
        lengths[n] = (int64_t)length;
        T = length > T ? length : T;
        if (f->h0 != NULL)
            family_row_states(f, f->h0, f->c0, b, h, c, count, n, false);
    }
    if (f->h0 == NULL) {
        memset(h, 0, f->cells * count * family_h_bytes(f));
        if (c != NULL)
            memset(c, 0, f->cells * count * family_c_bytes(f));
    }
    fl_forward_args args = family_args(f, &r, 1);
    args.T = T;
    args.B = count;
    args.lengths = count == 1 && random_chance(2) ? NULL : lengths;
    args.x_at = x_at;
    args.y_at = y_at;
    args.h0 = args.h_n = h;
    args.c0 = args.c_n = c;
    EXPECT_STATUS(fl_stack_forward(f->stack, &args), FL_OK);
    for (size_t n = 0; n < count; n++) {
        family_row_states(f, r.h_n, r.c_n, chosen[n], h, c, count, n, true);
        EXPECT(family_rows_equal(f, whole, chosen[n], f, &r, chosen[n]), "%s: row %zu, one of %zu", family_text(f),
               chosen[n], count);
    }
    guard_release(&states);
    family_result_free(&r);
}

static void compare_rows(const family_spec *s)
{
    family f;
    family_result whole;
    size_t order[64];
    family_make(&f, s);
    family_run(&f, 1, &whole);
    for (size_t n = 0; n < s->B; n++) order[n] = n;
    for (size_t n = s->B; n-- > 1;) {
        const size_t other = random_size(0, n), b = order[n];
        order[n] = order[other];
        order[other] = b;
    }
    for (size_t begin = 0, end; begin < s->B; begin = end) {
        end = random_chance(2) ? begin + 1 : random_size(begin + 1, s->B);
        compare_some_rows(&f, &whole, order + begin, end - begin);
    }
    family_result_free(&whole);
    family_free(&f);
}

static void family_rows(void) { for_all_kinds(24, compare_rows); }

/* All widths from 1 on: every tail of every instruction set, of units, of the projection, and of heads. */
static void family_tails(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t H = 1; H <= 40; H += harness_effort == EFFORT_FULL ? 1 : 3)
            for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 6 : 2); repeat++) {
                family_spec s = family_random((fl_cell_kind)kind, dtypes[(H + repeat) % 2]);
                s.shape.hidden_size = H;
                s.shape.cell = options_of_kind((fl_cell_kind)kind, H);
                s.shape.input_size = random_size(1, 40);
                s.shape.num_layers = 1;
                s.T = random_size(1, 3);
                s.B = random_size(1, 14);
                compare_rows(&s);
            }
}

/* ---- Steps --------------------------------------------------------------------------------------------------- */

/* Steps [begin, end) of all rows, states from and to h and c. */
static void run_part(const family *f, const family_result *r, size_t begin, size_t end, char *h, char *c)
{
    int64_t lengths[64];
    fl_forward_args args = family_args(f, r, 1);
    for (size_t b = 0; b < f->spec.B; b++) {
        const size_t length = family_length(f, b);
        lengths[b] = length <= begin ? 0 : (int64_t)((length < end ? length : end) - begin);
    }
    const ptrdiff_t t = (ptrdiff_t)begin, size = (ptrdiff_t)f->real_size;
    args.T = end - begin;
    args.lengths = f->lengths != NULL ? lengths : NULL;
    args.x = args.x != NULL ? f->x + t * args.x_stride_t * size : NULL;
    args.x_index = args.x_index != NULL ? f->x_index + t * args.x_stride_t : NULL;
    args.y = r->y + t * args.y_stride_t * size;
    args.cells = r->cells != NULL ? r->cells + t * args.cells_stride_t * size : NULL;
    args.h0 = args.h_n = h;
    args.c0 = args.c_n = c;
    EXPECT_STATUS(fl_stack_forward(f->stack, &args), FL_OK);
}

static void start_states(const family *f, char *h, char *c)
{
    const size_t rows = f->cells * f->spec.B;
    memset(h, 0, rows * family_h_bytes(f));
    if (f->h0 != NULL)
        memcpy(h, f->h0, rows * family_h_bytes(f));
    if (c == NULL)
        return;
    memset(c, 0, rows * family_c_bytes(f));
    if (f->c0 != NULL)
        memcpy(c, f->c0, rows * family_c_bytes(f));
}

static void compare_cuts(const family_spec *given)
{
    family_spec s = *given;
    family f;
    family_result whole, parts;
    s.shape.num_directions = 1;
    family_make(&f, &s);
    family_run(&f, 1, &whole);
    family_result_make(&parts, &f);
    start_states(&f, parts.h_n, parts.c_n);
    for (size_t begin = 0, end; begin < s.T; begin = end) {
        end = random_size(begin, s.T); /* calls of no steps too */
        run_part(&f, &parts, begin, end, parts.h_n, parts.c_n);
    }
    family_check_clean(&f, &parts);
    EXPECT(family_results_equal(&f, &whole, &f, &parts), "%s", family_text(&f));
    family_result_free(&whole);
    family_result_free(&parts);
    family_free(&f);
}

static void family_cuts(void) { for_all_kinds(18, compare_cuts); }

static void compare_stream(const family_spec *given)
{
    family_spec s = *given;
    family f;
    family_result whole, streamed;
    fl_stream *stream = NULL;
    s.shape.num_directions = 1;
    s.ragged = s.wants_cells = false;
    s.x_order = (int)random_size(0, ORDER_COUNT - 1); /* a stream has no x_at and y_at */
    s.y_order = (int)random_size(0, ORDER_COUNT - 1);
    family_make(&f, &s);
    family_run(&f, 1, &whole);
    family_result_make(&streamed, &f);
    EXPECT_STATUS(fl_stream_create(f.stack, s.B, 1, &stream), FL_OK);
    if (stream == NULL)
        return;
    const size_t rows = f.cells * s.B;
    EXPECT((fl_stream_c(stream) != NULL) == (f.states != 0), "%s: c", family_text(&f));
    start_states(&f, fl_stream_h(stream), fl_stream_c(stream));
    const fl_forward_args args = family_args(&f, &streamed, 1);
    const long made = atomic_load(&allocations_made);
    for (size_t begin = 0, end; begin < s.T; begin = end) {
        end = random_chance(2) ? begin + 1 : random_size(begin, s.T);
        const ptrdiff_t t = (ptrdiff_t)begin, size = (ptrdiff_t)f.real_size;
        const fl_stream_io io = {.x = f.x != NULL ? f.x + t * args.x_stride_t * size : NULL,
                                 .x_index = f.x_index != NULL ? f.x_index + t * args.x_stride_t : NULL,
                                 .x_stride_t = args.x_stride_t,
                                 .x_stride_b = args.x_stride_b,
                                 .y = streamed.y + t * args.y_stride_t * size,
                                 .y_stride_t = args.y_stride_t,
                                 .y_stride_b = args.y_stride_b};
        EXPECT_STATUS(fl_stream_process(stream, end - begin, &io), FL_OK);
    }
    EXPECT(atomic_load(&allocations_made) == made, "%s: fl_stream_process allocates", family_text(&f));
    memcpy(streamed.h_n, fl_stream_h(stream), rows * family_h_bytes(&f));
    if (f.states != 0)
        memcpy(streamed.c_n, fl_stream_c(stream), rows * family_c_bytes(&f));
    EXPECT(family_results_equal(&f, &whole, &f, &streamed), "%s", family_text(&f));
    fl_stream_destroy(stream);
    family_result_free(&whole);
    family_result_free(&streamed);
    family_free(&f);
}

static void family_streams(void) { for_all_kinds(18, compare_stream); }

/* ---- Input --------------------------------------------------------------------------------------------------- */

static void compare_index(const family_spec *given)
{
    family_spec s = *given;
    family f;
    family_result indexed, dense;
    guard_arena more = {0};
    const size_t I = s.shape.input_size;
    s.indexed = true;
    family_make(&f, &s);
    family_run(&f, 1, &indexed);
    family_result_make(&dense, &f);
    char *x = guard_new(&more, s.T * s.B * I, f.real_size);
    for (size_t b = 0; b < s.B; b++)
        for (size_t t = 0; t < family_length(&f, b); t++)
            for (size_t i = 0; i < I; i++)
                real_put(s.shape.dtype, x, (ptrdiff_t)((t * s.B + b) * I + i),
                         f.x_index[placing_of(&f.of_x, t, b)] == (int64_t)i);
    fl_forward_args args = family_args(&f, &dense, 1);
    args.x_index = NULL;
    args.x_at = NULL;
    args.x = x;
    args.x_stride_t = (ptrdiff_t)(s.B * I);
    args.x_stride_b = (ptrdiff_t)I;
    EXPECT_STATUS(fl_stack_forward(f.stack, &args), FL_OK);
    EXPECT(family_results_equal(&f, &indexed, &f, &dense), "%s", family_text(&f));
    guard_release(&more);
    family_result_free(&indexed);
    family_result_free(&dense);
    family_free(&f);
}

static void family_index_equals_one_hot(void) { for_all_kinds(12, compare_index); }

/* No steps, or no rows: states pass through, y has nothing but padding. */
static void family_empty_calls(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t which = 0; which < 8; which++) {
            family_spec s = family_random((fl_cell_kind)kind, dtypes[which % 2]);
            family f;
            family_result r;
            s.T = which & 2 ? 0 : 5;
            s.B = which & 4 ? 0 : 3;
            s.given_state = true;
            family_make(&f, &s);
            family_run(&f, 1, &r);
            for (size_t b = 0; b < s.B && s.T == 0; b++)
                EXPECT(memcmp(r.h_n, f.h0, f.cells * s.B * family_h_bytes(&f)) == 0, "%s", family_text(&f));
            family_result_free(&r);
            family_free(&f);
        }
}

/* ---- The minimal gated unit ---------------------------------------------------------------------------------- */

/* A row of a parameter times v; as all of the definition below in float64 and nothing else. */
static double row_product(const family *f, const void *weight, size_t row, const double *v, size_t count)
{
    double sum = 0.0;
    for (size_t k = 0; k < count; k++)
        sum += real_get(f->spec.shape.dtype, weight, (ptrdiff_t)(row * count + k)) * v[k];
    return sum;
}

static double biases(const family *f, size_t row)
{
    const fl_weights *w = &f->weights[0];
    double sum = w->bias_ih != NULL ? real_get(f->spec.shape.dtype, w->bias_ih, (ptrdiff_t)row) : 0.0;
    if (w->bias_hh != NULL)
        sum += real_get(f->spec.shape.dtype, w->bias_hh, (ptrdiff_t)row);
    return sum;
}

/* f = sigmoid(W_f x + U_f h + b_f),  n = tanh(W_n x + U_n (f h) + b_n),  h = (1 - f) h + f n */
static void mgu_step(const family *f, const double *x, double *h)
{
    const fl_weights *w = &f->weights[0];
    const size_t H = f->H, I = f->spec.shape.input_size;
    double gate[64], reset[64], next[64];
    for (size_t j = 0; j < H; j++) {
        gate[j] =
            1.0 /
            (1.0 + exp(-row_product(f, w->weight_ih, j, x, I) - row_product(f, w->weight_hh, j, h, H) - biases(f, j)));
        reset[j] = gate[j] * h[j];
    }
    for (size_t j = 0; j < H; j++)
        next[j] = tanh(row_product(f, w->weight_ih, H + j, x, I) + row_product(f, w->weight_hh, H + j, reset, H) +
                       biases(f, H + j));
    for (size_t j = 0; j < H; j++) h[j] = (1.0 - gate[j]) * h[j] + gate[j] * next[j];
}

/* Largest error of row b. */
static double mgu_error(const family *f, const family_result *r, size_t b)
{
    const fl_dtype dtype = f->spec.shape.dtype;
    double h[64] = {0}, x[64], worst = 0.0;
    for (size_t j = 0; j < f->H && f->h0 != NULL; j++) h[j] = real_get(dtype, f->h0, (ptrdiff_t)(b * f->H + j));
    for (size_t t = 0; t < family_length(f, b); t++) {
        const ptrdiff_t x_at = placing_of(&f->of_x, t, b), y_at = placing_of(&f->of_y, t, b);
        for (size_t i = 0; i < f->spec.shape.input_size; i++)
            x[i] = f->x_index != NULL ? (f->x_index[x_at] == (int64_t)i ? 1.0 : 0.0)
                                      : real_get(dtype, f->x, x_at + (ptrdiff_t)i);
        mgu_step(f, x, h);
        for (size_t j = 0; j < f->H; j++) worst = fmax(worst, fabs(h[j] - real_get(dtype, r->y, y_at + (ptrdiff_t)j)));
    }
    for (size_t j = 0; j < f->H; j++)
        worst = fmax(worst, fabs(h[j] - real_get(dtype, r->h_n, (ptrdiff_t)(b * f->H + j))));
    return worst;
}

static void family_mgu_by_its_definition(void)
{
    for (size_t repeat = 0; repeat < rounds(96); repeat++) {
        family_spec s = family_random(FL_CELL_MGU, dtypes[repeat % 2]);
        family f;
        family_result r;
        s.shape.num_layers = s.shape.num_directions = 1;
        family_make(&f, &s);
        family_run(&f, 1, &r);
        for (size_t b = 0; b < s.B; b++) {
            const double error = mgu_error(&f, &r, b);
            EXPECT(error <= oracle_tolerance(s.shape.dtype), "%s: row %zu, error %.3g", family_text(&f), b, error);
        }
        family_result_free(&r);
        family_free(&f);
    }
}

/* ---- The plain LSTM, spelled out ----------------------------------------------------------------------------- */

/* Largest difference of y and states, in units of the last place around 1. */
static double largest_difference(const family *a, const family_result *ra, const family_result *rb)
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

static void family_plain_spelled_out(void)
{
    for (size_t repeat = 0; repeat < rounds(48); repeat++) {
        family_spec s = family_random(FL_CELL_LSTM, dtypes[repeat % 2]);
        const fl_cell_options none = {.kind = FL_CELL_LSTM};
        const fl_activation_kind given[3] = {FL_SIGMOID, FL_TANH, FL_TANH};
        s.shape.cell = none;
        family_spec spelled = s;
        for (size_t n = 0; n < 3; n++)
            if (repeat % 4 == 0 || !random_chance(3))
                spelled.shape.cell.activations[n].kind = given[n];
        /* Far away, so that the general cell is taken and nothing is clipped. */
        spelled.shape.cell.gate_clip = random_chance(2) ? 1000.0 : 0.0;
        spelled.shape.cell.cell_clip = random_chance(2) ? 1000.0 : 0.0;
        spelled.shape.cell.zoneout_c = random_chance(2) ? 0.5 : 0.0; /* in inference, where it is not expected: off */
        family a, b;
        family_result ra, rb;
        family_make(&a, &s);
        family_make(&b, &spelled);
        family_run(&a, 1, &ra);
        family_run(&b, 1, &rb);
        const double worst = largest_difference(&a, &ra, &rb);
        EXPECT(worst <= 8.0, "%s: %.1f ulp", family_text(&b), worst);
        family_result_free(&ra);
        family_result_free(&rb);
        family_free(&a);
        family_free(&b);
    }
}

void test_family(void)
{
    run_test("family_orders", family_orders);
    run_test("family_cells", family_cells);
    run_test("family_rows", family_rows);
    run_test("family_tails", family_tails);
    run_test("family_cuts", family_cuts);
    run_test("family_streams", family_streams);
    run_test("family_index_equals_one_hot", family_index_equals_one_hot);
    run_test("family_empty_calls", family_empty_calls);
    run_test("family_mgu_by_its_definition", family_mgu_by_its_definition);
    run_test("family_plain_spelled_out", family_plain_spelled_out);
}

/* ---- Several threads ----------------------------------------------------------------------------------------- */

/* Whether more threads are used is the library's choice; its workspace tells, which holds a counter a thread. */
static bool is_split(const family *f, const family_result *r, size_t threads)
{
    size_t alone = 0, together = 0;
    const fl_forward_args one = family_args(f, r, 1), many = family_args(f, r, threads);
    EXPECT_STATUS(fl_stack_workspace(f->stack, &one, &alone), FL_OK);
    EXPECT_STATUS(fl_stack_workspace(f->stack, &many, &together), FL_OK);
    return together != alone;
}

/* Large enough for threads to take part, with few rows and with many. */
static void family_schedules(void)
{
    static const struct {
        size_t T, B, I, H, L, D;
        bool ragged;
    } shapes[] = {{60, 1, 20, 120, 1, 1, false}, {30, 3, 30, 96, 2, 2, true}, {40, 17, 9, 40, 3, 1, true}};
    const size_t count = sizeof shapes / sizeof *shapes;
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) {
        size_t split = 0;
        for (size_t n = 0; n < count * rounds(kind == FL_CELL_LSTM ? 4 : 2); n++) {
            const size_t shape = n % count;
            family_spec s = family_random((fl_cell_kind)kind, dtypes[(n + (size_t)kind) % 2]);
            s.T = shapes[shape].T;
            s.B = shapes[shape].B;
            s.shape.input_size = shapes[shape].I;
            s.shape.hidden_size = shapes[shape].H;
            s.shape.num_layers = shapes[shape].L;
            s.shape.num_directions = shapes[shape].D;
            s.ragged = shapes[shape].ragged;
            s.shape.cell = options_of_kind((fl_cell_kind)kind, s.shape.hidden_size);
            family f;
            family_result expected, r;
            family_make(&f, &s);
            family_run(&f, 1, &expected);
            for (size_t threads = 2; threads <= 4; threads++) {
                family_run(&f, threads, &r);
                EXPECT(family_results_equal(&f, &expected, &f, &r), "%s: %zu threads", family_text(&f), threads);
                split += is_split(&f, &r, threads);
                family_result_free(&r);
            }
            family_result_free(&expected);
            family_free(&f);
        }
        EXPECT(split > count, "kind %d: %zu calls were split", kind, split);
    }
}

void test_family_schedules(void) { run_test("family_schedules", family_schedules); }
