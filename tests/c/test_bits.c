/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The same bits however a sequence is computed: alone or in a batch, cut into calls, as a stream, in place, as indices
 * or as one-hot rows, by the pieces.
 */
#include <stdlib.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

static const fl_dtype dtypes[] = {FL_F32, FL_F64};

/* `p` restricted to row b and to steps [begin, end), with the state in h and c, which take the new one. */
static fl_forward_args row_args(const problem *p, const result *r, size_t b, size_t begin, size_t end, void *h, void *c)
{
    fl_forward_args args = problem_args(p, r, 1);
    const ptrdiff_t x_at = (ptrdiff_t)begin * args.x_stride_t + (ptrdiff_t)b * args.x_stride_b;
    const ptrdiff_t y_at = (ptrdiff_t)begin * args.y_stride_t + (ptrdiff_t)b * args.y_stride_b;
    args.T = end - begin;
    args.B = 1;
    args.x = args.x == NULL ? NULL : p->x + x_at * (ptrdiff_t)p->real_size;
    args.x_index = args.x_index == NULL ? NULL : p->x_index + x_at;
    args.lengths = NULL;
    args.y = r->y + y_at * (ptrdiff_t)p->real_size;
    args.h0 = args.h_n = h;
    args.c0 = args.c_n = c;
    return args;
}

/* Copy row b of a state array (L*D, B, H) to or from an array (L*D, 1, H). */
static void copy_state(const problem *p, char *all, char *one, size_t b, bool out)
{
    const size_t bytes = p->spec.shape.hidden_size * p->real_size;
    for (size_t cell = 0; cell < p->cells; cell++) {
        char *there = all + (cell * p->spec.B + b) * bytes, *here = one + cell * bytes;
        memcpy(out ? there : here, out ? here : there, bytes);
    }
}

/* Start states of row b. */
static void start_state(const problem *p, size_t b, char *h, char *c)
{
    const size_t bytes = p->cells * p->spec.shape.hidden_size * p->real_size;
    memset(h, 0, bytes);
    memset(c, 0, bytes);
    if (p->h0 != NULL) {
        copy_state(p, p->h0, h, b, false);
        copy_state(p, p->c0, c, b, false);
    }
}

static void clear_after(const problem *p, const result *r, size_t b, size_t begin)
{
    const fl_forward_args args = problem_args(p, r, 1);
    for (size_t t = begin; t < p->spec.T; t++)
        memset(r->y + ((ptrdiff_t)t * args.y_stride_t + (ptrdiff_t)b * args.y_stride_b) * (ptrdiff_t)p->real_size, 0,
               p->width * p->real_size);
}

/* Each row alone, up to its own end and without `lengths`; unidirectional ones cut anywhere too. */
static void rows_alone(const spec *s, bool cut)
{
    problem p;
    result whole, rows;
    guard_arena states = {0};
    problem_make(&p, s);
    problem_run(&p, 1, &whole);
    result_make(&rows, &p);
    char *h = guard_new(&states, p.cells * s->shape.hidden_size, p.real_size);
    char *c = guard_new(&states, p.cells * s->shape.hidden_size, p.real_size);
    for (size_t b = 0; b < s->B; b++) {
        const size_t length = problem_length(&p, b);
        start_state(&p, b, h, c);
        for (size_t begin = 0, end; begin < length; begin = end) {
            end = cut ? random_size(begin, length) : length; /* calls of no steps too */
            const fl_forward_args args = row_args(&p, &rows, b, begin, end, h, c);
            EXPECT_STATUS(fl_stack_forward(p.stack, &args), FL_OK);
        }
        copy_state(&p, rows.h_n, h, b, true);
        copy_state(&p, rows.c_n, c, b, true);
        clear_after(&p, &rows, b, length);
        EXPECT(rows_equal(&p, &whole, b, &p, &rows, b), "%s: row %zu %s", spec_text(s), b, cut ? "in parts" : "alone");
    }
    guard_release(&states);
    result_free(&whole);
    result_free(&rows);
    problem_free(&p);
}

static void row_is_itself_in_any_batch(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(60); repeat++) {
            const spec s = spec_random(dtypes[d]);
            rows_alone(&s, false);
        }
}

static void cuts_do_not_matter(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(60); repeat++) {
            spec s = spec_random(dtypes[d]);
            s.shape.num_directions = 1;
            rows_alone(&s, true);
        }
}

static void stream_equals_whole(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(60); repeat++) {
            spec s = spec_random(dtypes[d]);
            s.shape.num_directions = 1;
            s.ragged = false;
            problem p;
            result whole, streamed;
            fl_stream *stream = NULL;
            problem_make(&p, &s);
            problem_run(&p, 1, &whole);
            result_make(&streamed, &p);
            EXPECT_STATUS(fl_stream_create(p.stack, s.B, 1, &stream), FL_OK);
            if (stream == NULL)
                return;
            const size_t bytes = p.cells * s.B * s.shape.hidden_size * p.real_size;
            if (p.h0 != NULL) {
                memcpy(fl_stream_h(stream), p.h0, bytes);
                memcpy(fl_stream_c(stream), p.c0, bytes);
            }
            const long made = atomic_load(&allocations_made);
            for (size_t begin = 0, end; begin < s.T; begin = end) {
                end = random_chance(2) ? begin + 1 : random_size(begin, s.T);
                const fl_forward_args part = row_args(&p, &streamed, 0, begin, end, NULL, NULL);
                const fl_stream_io io = {.x = part.x,
                                         .x_index = part.x_index,
                                         .x_stride_t = part.x_stride_t,
                                         .x_stride_b = part.x_stride_b,
                                         .y = part.y,
                                         .y_stride_t = part.y_stride_t,
                                         .y_stride_b = part.y_stride_b};
                EXPECT_STATUS(fl_stream_process(stream, part.T, &io), FL_OK);
            }
            EXPECT(atomic_load(&allocations_made) == made, "%s: fl_stream_process allocates", spec_text(&s));
            memcpy(streamed.h_n, fl_stream_h(stream), bytes);
            memcpy(streamed.c_n, fl_stream_c(stream), bytes);
            EXPECT(results_equal(&p, &whole, &streamed), "%s", spec_text(&s));
            fl_stream_destroy(stream);
            result_free(&whole);
            result_free(&streamed);
            problem_free(&p);
        }
}

/* h_n may be h0, and c_n may be c0. */
static void states_in_place(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(40); repeat++) {
            spec s = spec_random(dtypes[d]);
            s.given_state = true;
            problem p;
            result usual, in_place;
            problem_make(&p, &s);
            problem_run(&p, 1, &usual);
            result_make(&in_place, &p);
            const size_t bytes = p.cells * s.B * s.shape.hidden_size * p.real_size;
            fl_forward_args args = problem_args(&p, &in_place, random_size(1, 3));
            memcpy(args.h_n, p.h0, bytes);
            memcpy(args.c_n, p.c0, bytes);
            args.h0 = args.h_n;
            args.c0 = args.c_n;
            EXPECT_STATUS(fl_stack_forward(p.stack, &args), FL_OK);
            EXPECT(results_equal(&p, &usual, &in_place), "%s", spec_text(&s));
            result_free(&usual);
            result_free(&in_place);
            problem_free(&p);
        }
}

/* Where the row has ended the dense input is NaN, as everywhere in these tests. */
static void index_equals_one_hot(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(40); repeat++) {
            spec s = spec_random(dtypes[d]);
            s.indexed = true;
            problem p;
            result indexed, dense;
            guard_arena more = {0};
            problem_make(&p, &s);
            problem_run(&p, 1, &indexed);
            result_make(&dense, &p);
            const size_t I = s.shape.input_size;
            char *x = guard_new(&more, s.T * s.B * I, p.real_size);
            for (size_t b = 0; b < s.B; b++)
                for (size_t t = 0; t < problem_length(&p, b); t++)
                    for (size_t i = 0; i < I; i++)
                        real_put(dtypes[d], x, (ptrdiff_t)((t * s.B + b) * I + i),
                                 p.x_index[(ptrdiff_t)t * p.x_layout.stride_t + (ptrdiff_t)b * p.x_layout.stride_b] ==
                                     (int64_t)i);
            fl_forward_args args = problem_args(&p, &dense, 1);
            args.x_index = NULL;
            args.x = x;
            args.x_stride_t = (ptrdiff_t)(s.B * I);
            args.x_stride_b = (ptrdiff_t)I;
            EXPECT_STATUS(fl_stack_forward(p.stack, &args), FL_OK);
            EXPECT(results_equal(&p, &indexed, &dense), "%s", spec_text(&s));
            guard_release(&more);
            result_free(&indexed);
            result_free(&dense);
            problem_free(&p);
        }
}

/* One step by fl_gate_matmul and fl_cell_update. */
static void pieces_equal_forward(void)
{
    for (size_t d = 0; d < 2; d++)
        for (size_t repeat = 0; repeat < rounds(60); repeat++) {
            spec s = spec_random(dtypes[d]);
            s.T = s.shape.num_layers = s.shape.num_directions = 1;
            s.given_state = true;
            s.ragged = s.indexed = false;
            s.x_order = s.y_order = ORDER_TIME_FIRST;
            problem p;
            result whole, pieces;
            guard_arena more = {0};
            problem_make(&p, &s);
            problem_run(&p, 1, &whole);
            result_make(&pieces, &p);
            const size_t H = s.shape.hidden_size;
            const ptrdiff_t row = (ptrdiff_t)H;
            void *gates = guard_new(&more, 4 * s.B * H, p.real_size);
            EXPECT_STATUS(fl_gate_matmul(p.stack, s.B, p.x, p.x_layout.stride_b, p.h0, row, gates, 4 * row), FL_OK);
            EXPECT_STATUS(
                fl_cell_update(dtypes[d], s.B, H, gates, 4 * row, p.c0, row, pieces.h_n, row, pieces.c_n, row), FL_OK);
            memcpy(pieces.y, pieces.h_n, s.B * H * p.real_size);
            EXPECT(results_equal(&p, &whole, &pieces), "%s", spec_text(&s));
            guard_release(&more);
            result_free(&whole);
            result_free(&pieces);
            problem_free(&p);
        }
}

void test_bits(void)
{
    run_test("row_is_itself_in_any_batch", row_is_itself_in_any_batch);
    run_test("cuts_do_not_matter", cuts_do_not_matter);
    run_test("stream_equals_whole", stream_equals_whole);
    run_test("states_in_place", states_in_place);
    run_test("index_equals_one_hot", index_equals_one_hot);
    run_test("pieces_equal_forward", pieces_equal_forward);
}
