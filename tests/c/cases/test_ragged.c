/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Rows of different lengths: what is kept of them and what stands between layers grows with their steps, not with rows
 * times the longest one; and wherever that lies, each row gives what it gives alone.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

#define SLACK (5 * 256) /* five places in one block of memory, each up to the second next line */

/* How the lengths of a batch are. */
typedef enum lengths_kind { ONE_LONG, ANY, NEARLY_EQUAL, EQUAL, NONE, LENGTHS_KINDS } lengths_kind;

static int64_t length_of_kind(lengths_kind kind, size_t T, size_t B, size_t b)
{
    switch (kind) {
    case ONE_LONG: return (int64_t)(b == B / 2 ? T : b % 4 < T ? b % 4 : T);
    case ANY: return (int64_t)random_size(0, T);
    case NEARLY_EQUAL: return (int64_t)(b == 0 ? T - 1 : T);
    case EQUAL: return (int64_t)T;
    default: return 0;
    }
}

static spec ragged_spec(fl_cell_kind kind, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H, size_t L, size_t D)
{
    const size_t sizes[6] = {T, B, I, H, L, D};
    spec s = spec_stack(kind, dtype, sizes);
    s.dx_order = ORDER_PACKED; /* no padding to clear */
    return s;
}

/* A batch whose data are there for all T steps, and then these lengths. */
static void ragged_make(problem *p, const spec *s, lengths_kind kind)
{
    problem_make(p, s);
    p->lengths = guard_new(&p->inputs, s->B, sizeof *p->lengths);
    for (size_t b = 0; b < s->B; b++) p->lengths[b] = length_of_kind(kind, s->T, s->B, b);
}

/* ---- Bytes --------------------------------------------------------------------------------------------------- */

/* What a cell without options saves of a step, in rows of H. */
static size_t saved_rows(fl_cell_kind kind)
{
    static const size_t rows[FL_CELL_COUNT] = {[FL_CELL_LSTM] = 4,    [FL_CELL_GRU] = 4,   [FL_CELL_RNN] = 1,
                                               [FL_CELL_INDRNN] = 1,  [FL_CELL_SLSTM] = 4, [FL_CELL_MINGRU] = 2,
                                               [FL_CELL_MINLSTM] = 3, [FL_CELL_MGU] = 3};
    return rows[kind];
}

static size_t bytes_to_keep(const problem *p, size_t save)
{
    const size_t H = p->H, outputs = (p->cells - p->spec.shape.num_directions) * H, steps = problem_steps(p);
    size_t checkpoints = 0, elements;
    if (save == FL_SAVE_ALL) {
        elements = steps * (p->cells * (saved_rows(p->spec.shape.cell.kind) + p->states) * H + outputs);
    } else if (save == FL_SAVE_STATES) {
        elements = steps * (p->cells * p->states * H + outputs);
    } else {
        for (size_t b = 0; b < p->spec.B; b++)
            checkpoints += problem_length(p, b) != 0 ? (problem_length(p, b) - 1) / save : 0;
        elements = checkpoints * p->cells * (1 + p->states) * H;
    }
    return elements * p->real_size + 2 * p->spec.B * sizeof(ptrdiff_t) + p->spec.T * p->spec.resets;
}

static void tape_of_ragged_rows(void)
{
    fl_tape *tape = NULL;
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < (size_t)LENGTHS_KINDS * 4; n++) {
            const size_t saves[] = {FL_SAVE_ALL, kind == FL_CELL_LSTM ? FL_SAVE_STATES : 2, 1, 7, SIZE_MAX - 1};
            spec s = ragged_spec((fl_cell_kind)kind, dtypes[n % 2], 120, 30, 3, 9, 1 + n / 2 % 2, 1 + n % 2);
            s.resets = n % 3 == 0;
            problem p;
            result r;
            ragged_make(&p, &s, (lengths_kind)(n / 4));
            result_make(&r, &p);
            for (size_t k = 0; k < sizeof saves / sizeof *saves; k++) {
                const fl_record_args args = problem_record_args(&p, &r, saves[k], 1);
                const size_t wanted = bytes_to_keep(&p, saves[k]);
                EXPECT_STATUS(fl_stack_record(p.stack, &args, tape), FL_OK);
                const size_t kept = fl_tape_bytes(tape);
                EXPECT(kept + p.spec.B * sizeof(ptrdiff_t) >= wanted && kept <= wanted + SLACK,
                       "%s, save %zu, lengths %zu: %zu bytes, not %zu", problem_text(&p), saves[k], n / 4, kept,
                       wanted);
            }
            result_free(&r);
            problem_free(&p);
        }
    fl_tape_destroy(tape);
}

/* Between the layers of two directions stands the output of all steps, and of no more. */
static void workspace_of_ragged_rows(void)
{
    for (size_t n = 0; n < 8; n++) {
        const fl_cell_kind kind = n < 4 ? FL_CELL_LSTM : FL_CELL_SLSTM;
        const size_t T = 200, B = 40, D = 1 + n / 2 % 2;
        const spec s = ragged_spec(kind, dtypes[n % 2], T, B, 3, 16, 2, D);
        problem p;
        result r;
        size_t bytes[2] = {0, 0}, steps[2], refused = 0;
        ragged_make(&p, &s, ONE_LONG);
        result_make(&r, &p);
        const fl_forward_args args = problem_args(&p, &r, 1);
        for (size_t k = 0; k < 2; k++) {
            for (size_t b = 0; b < B; b++) p.lengths[b] = length_of_kind(k == 0 ? ONE_LONG : NEARLY_EQUAL, T, B, b);
            steps[k] = problem_steps(&p);
            EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &bytes[k]), FL_OK);
        }
        const size_t more = D == 1 ? 0 : (steps[1] - steps[0]) * D * problem_h_bytes(&p);
        EXPECT(bytes[1] >= bytes[0] && bytes[1] - bytes[0] == more,
               "%s: %zu bytes for %zu steps, %zu for %zu, not %zu more", problem_text(&p), bytes[0], steps[0], bytes[1],
               steps[1], more);
        p.lengths[1] = -1;
        EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &refused), FL_ERROR_LENGTH);
        p.lengths[1] = (int64_t)T + 1;
        EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &refused), FL_ERROR_LENGTH);
        result_free(&r);
        problem_free(&p);
    }
}

/* All that the core asks for in a pass there and back, by a new layer with a new tape. */
static size_t bytes_of_training(problem *p, size_t save)
{
    result r;
    gradients g;
    fl_tape *tape = NULL;
    fl_stack_destroy(p->stack);
    p->stack = NULL;
    problem_pack(p);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    const size_t before = atomic_load(&allocation_bytes);
    problem_train(p, tape, save, 1, &r, &g);
    const size_t bytes = atomic_load(&allocation_bytes) - before;
    fl_tape_destroy(tape);
    result_free(&r);
    gradients_free(&g);
    return bytes;
}

/* Many short rows beside a long one: no array has T * B places, whatever is kept; and steps that no row has take
 * nothing. */
static void training_of_ragged_rows(void)
{
    static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1, 40, SIZE_MAX - 1};
    static const fl_cell_kind kinds[] = {FL_CELL_LSTM, FL_CELL_GRU, FL_CELL_SLSTM, FL_CELL_MGU};
    for (size_t n = 0; n < 20; n += harness_effort == EFFORT_FULL ? 1 : 7) { /* all kinds with all ways of keeping */
        const size_t save = saves[n % 5];
        spec s = ragged_spec(kinds[n % 4], dtypes[n % 2], 500, 200, 3, 16, 2, 1 + n / 2 % 2);
        s.dropout = 0.25;
        s.x_order = s.y_order = s.dy_order = ORDER_PACKED;
        problem p;
        ragged_make(&p, &s, ONE_LONG);
        const size_t padded = s.T * s.B * p.H * p.real_size; /* the smallest of all arrays */
        const size_t bytes = bytes_of_training(&p, save);
        p.lengths[s.B / 2] = 200; /* more than pass between layers together */
        const size_t beyond = bytes_of_training(&p, save);
        p.spec.T = 200;
        const size_t least = bytes_of_training(&p, save);
        EXPECT(bytes < padded, "%s, save %zu: %zu bytes, where (T, B, H) takes %zu", problem_text(&p), save, bytes,
               padded);
        EXPECT(beyond <= least + SLACK, "%s, save %zu: %zu bytes, %zu where all T steps are there", problem_text(&p),
               save, beyond, least);
        problem_free(&p);
    }
}

/* ---- Rows alone ---------------------------------------------------------------------------------------------- */

static ptrdiff_t row_place(const placing *place, size_t b) { return place->at != NULL ? place->at[b] : (ptrdiff_t)b; }

/* Row b's states of `all`, or null. */
static void *row_states(guard_arena *arena, const problem *p, const void *all, size_t b, size_t bytes)
{
    char *row = guard_new(arena, p->cells, bytes);
    for (size_t cell = 0; cell < p->cells && all != NULL; cell++)
        memcpy(row + cell * bytes, (const char *)all + (cell * p->spec.B + b) * bytes, bytes);
    return all != NULL ? row : NULL;
}

static void put_states(const problem *p, void *all, size_t b, const char *row, size_t bytes)
{
    for (size_t cell = 0; cell < p->cells && bytes != 0; cell++)
        memcpy((char *)all + (cell * p->spec.B + b) * bytes, row + cell * bytes, bytes);
}

/* A pass of row b as a batch of one; its gradients of parameters are added to `sums`. */
static void train_row(const problem *p, fl_tape *tape, size_t save, size_t b, result *r, gradients *g, double *sums)
{
    const size_t length = problem_length(p, b), h_bytes = problem_h_bytes(p), c_bytes = problem_c_bytes(p);
    const ptrdiff_t x_at = row_place(&p->of_x, b), y_at = row_place(&p->of_y, b);
    const ptrdiff_t dx_at = row_place(&p->of_dx, b), dy_at = row_place(&p->of_dy, b);
    guard_arena rows = {0};
    fl_record_args recorded = problem_record_args(p, r, save, 1);
    fl_backward_args args = problem_backward_args(p, g, 1);
    uint8_t *reset = guard_new(&rows, length, 1);
    for (size_t t = 0; t < length && p->reset != NULL; t++) reset[t] = p->reset[t * p->spec.B + b];
    recorded.reset = p->reset != NULL ? reset : NULL;
    recorded.call.T = length;
    recorded.call.B = 1;
    recorded.call.lengths = NULL;
    recorded.call.x_at = &x_at;
    recorded.call.y_at = &y_at;
    recorded.call.h0 = row_states(&rows, p, p->h0, b, h_bytes);
    recorded.call.c0 = row_states(&rows, p, p->c0, b, c_bytes);
    recorded.call.h_n = guard_new(&rows, p->cells, h_bytes);
    recorded.call.c_n = guard_new(&rows, p->cells, c_bytes);
    args.dx_at = &dx_at;
    args.dy_at = &dy_at;
    args.dh_n = row_states(&rows, p, p->dh_n, b, h_bytes);
    args.dc_n = row_states(&rows, p, p->dc_n, b, c_bytes);
    args.dh0 = guard_new(&rows, p->cells, h_bytes);
    args.dc0 = guard_new(&rows, p->cells, c_bytes);
    EXPECT_STATUS(fl_stack_record(p->stack, &recorded, tape), FL_OK);
    EXPECT_STATUS(fl_stack_backward(p->stack, tape, &args), FL_OK);
    put_states(p, r->h_n, b, recorded.call.h_n, h_bytes);
    put_states(p, r->c_n, b, recorded.call.c_n, c_bytes);
    put_states(p, g->dh0, b, args.dh0, h_bytes);
    put_states(p, g->dc0, b, args.dc0, c_bytes);
    for (size_t cell = 0; cell < p->cells; cell++) {
        void **slots[FL_PARAMETER_COUNT];
        gradient_slots(&g->of[cell], slots);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
            for (size_t k = 0; k < problem_sizes(p, cell)[n]; k++)
                *sums++ += real_get(p->spec.shape.dtype, *slots[n], (ptrdiff_t)k);
    }
    guard_release(&rows);
}

/* Largest distance of gradients of parameters from sums over rows, as a part of the largest of them. */
static double distance_from_sums(const problem *p, const gradients *g, const double *sums)
{
    double largest = 0.0, worst = 0.0;
    for (size_t cell = 0; cell < p->cells; cell++) {
        fl_gradients of = g->of[cell];
        void **slots[FL_PARAMETER_COUNT];
        gradient_slots(&of, slots);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
            for (size_t k = 0; k < problem_sizes(p, cell)[n]; k++, sums++) {
                const double error = fabs(real_get(p->spec.shape.dtype, *slots[n], (ptrdiff_t)k) - *sums);
                worst = error <= INFINITY ? fmax(worst, error) : INFINITY;
                largest = fmax(largest, fabs(*sums));
            }
    }
    return worst / fmax(largest, 1.0);
}

static size_t parameters_of(const problem *p)
{
    size_t count = 0;
    for (size_t cell = 0; cell < p->cells; cell++)
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) count += problem_sizes(p, cell)[n];
    return count;
}

static void compare_with_rows_alone(const spec *s, lengths_kind kind, size_t save, size_t threads)
{
    problem p;
    result whole, alone;
    gradients right, g;
    fl_tape *tape = NULL;
    ragged_make(&p, s, kind);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    problem_train(&p, tape, save, threads, &whole, &right);
    result_make(&alone, &p);
    gradients_make(&g, &p);
    double *sums = calloc(parameters_of(&p), sizeof *sums);
    if (sums == NULL)
        exit(2);
    for (size_t b = 0; b < s->B; b++) train_row(&p, tape, save, b, &alone, &g, sums);
    const double distance = distance_from_sums(&p, &right, sums);
    const size_t h_bytes = p.cells * s->B * problem_h_bytes(&p), c_bytes = p.cells * s->B * problem_c_bytes(&p);
    EXPECT(results_equal(&p, &whole, &p, &alone), "%s, save %zu, %zu threads: results of rows", problem_text(&p), save,
           threads);
    EXPECT(arenas_equal(&right.of_dx, &g.of_dx) && memcmp(right.dh0, g.dh0, h_bytes) == 0 &&
               (c_bytes == 0 || memcmp(right.dc0, g.dc0, c_bytes) == 0),
           "%s, save %zu, %zu threads: gradients of rows", problem_text(&p), save, threads);
    EXPECT(distance < (s->shape.dtype == FL_F32 ? 2e-6 : 4e-15),
           "%s, save %zu, %zu threads: %.3g from the sum over rows", problem_text(&p), save, threads, distance);
    free(sums);
    fl_tape_destroy(tape);
    result_free(&whole);
    result_free(&alone);
    gradients_free(&right);
    gradients_free(&g);
    problem_free(&p);
}

static void ragged_rows_alone(size_t repeats, size_t most_threads)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < repeats; repeat++) {
            const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1, random_size(2, 12), SIZE_MAX - 1};
            const bool is_long = most_threads > 1 || repeat % 3 == 0;
            const size_t T = is_long ? 70 : random_size(1, 12), B = is_long ? 11 : random_size(1, 9);
            const size_t I = random_size(1, 12), H = most_threads > 1 ? 24 : random_size(1, 20);
            const size_t L = random_size(1, 3), D = random_size(1, 2);
            spec s = ragged_spec((fl_cell_kind)kind, dtypes[repeat % 2], T, B, I, H, L, D);
            s.shape.cell = options_random((fl_cell_kind)kind, s.shape.hidden_size);
            s.resets = random_chance(2);
            s.bptt = random_chance(3) ? random_size(1, 9) : 0;
            s.x_order = order_random(ORDER_COUNT - 1);
            s.y_order = order_random(ORDER_COUNT - 1);
            s.dy_order = order_random(ORDER_COUNT - 1);
            const lengths_kind lengths = (lengths_kind)random_size(0, LENGTHS_KINDS - 1);
            compare_with_rows_alone(&s, lengths, saves[repeat % 5], 1 + repeat % most_threads);
        }
}

static void ragged_rows_one_by_one(void) { ragged_rows_alone(rounds(60), 1); }

void test_ragged(void)
{
    run_test("tape_of_ragged_rows", tape_of_ragged_rows);
    run_test("workspace_of_ragged_rows", workspace_of_ragged_rows);
    run_test("training_of_ragged_rows", training_of_ragged_rows);
    run_test("ragged_rows_one_by_one", ragged_rows_one_by_one);
}

/* ---- Several threads ----------------------------------------------------------------------------------------- */

static void ragged_schedules(void)
{
    clock_pace(CLOCK_HURRIES); /* as in test_schedules.c */
    ragged_rows_alone(rounds(24), 3);
}

void test_ragged_schedules(void) { run_test("ragged_schedules", ragged_schedules); }
