/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Rows of different lengths: what is kept of them and what stands between layers grows with their steps, not with rows
 * times the longest one; and wherever that lies, each row gives what it gives alone.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/family.h"
#include "tests.h"
#include "harness/training_pass.h"

#define SLACK (5 * 256) /* five places in one block of memory, each up to the second next line */

static const fl_dtype dtypes[] = {FL_F32, FL_F64};

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

static family_spec ragged_spec(fl_cell_kind kind, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H, size_t L,
                               size_t D)
{
    family_spec s = family_plain(kind, dtype, T, B, I, H);
    s.shape.num_layers = L;
    s.shape.num_directions = D;
    s.given_state = true;
    s.dx_order = ORDER_PACKED; /* no padding to clear */
    return s;
}

/* A batch whose data are there for all T steps, and then these lengths. */
static void ragged_make(family *f, const family_spec *s, lengths_kind kind)
{
    family_make(f, s);
    f->lengths = guard_new(&f->inputs, s->B, sizeof *f->lengths);
    for (size_t b = 0; b < s->B; b++) f->lengths[b] = length_of_kind(kind, s->T, s->B, b);
}

static size_t all_steps(const family *f)
{
    size_t steps = 0;
    for (size_t b = 0; b < f->spec.B; b++) steps += family_length(f, b);
    return steps;
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

static size_t bytes_to_keep(const family *f, size_t save)
{
    const size_t H = f->H, outputs = (f->cells - f->spec.shape.num_directions) * H, steps = all_steps(f);
    size_t checkpoints = 0, elements;
    if (save == FL_SAVE_ALL) {
        elements = steps * (f->cells * (saved_rows(f->spec.shape.cell.kind) + f->states) * H + outputs);
    } else if (save == FL_SAVE_STATES) {
        elements = steps * (f->cells * f->states * H + outputs);
    } else {
        for (size_t b = 0; b < f->spec.B; b++)
            checkpoints += family_length(f, b) != 0 ? (family_length(f, b) - 1) / save : 0;
        elements = checkpoints * f->cells * (1 + f->states) * H;
    }
    return elements * f->real_size + 2 * f->spec.B * sizeof(ptrdiff_t) + f->spec.T * f->spec.resets;
}

static void tape_of_ragged_rows(void)
{
    fl_tape *tape = NULL;
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t n = 0; n < (size_t)LENGTHS_KINDS * 4; n++) {
            const size_t saves[] = {FL_SAVE_ALL, kind == FL_CELL_LSTM ? FL_SAVE_STATES : 2, 1, 7, SIZE_MAX - 1};
            family_spec s = ragged_spec((fl_cell_kind)kind, dtypes[n % 2], 120, 30, 3, 9, 1 + n / 2 % 2, 1 + n % 2);
            s.resets = n % 3 == 0;
            family f;
            family_result r;
            ragged_make(&f, &s, (lengths_kind)(n / 4));
            family_result_make(&r, &f);
            for (size_t k = 0; k < sizeof saves / sizeof *saves; k++) {
                const fl_record_args args = family_record_args(&f, &r, saves[k], 1);
                const size_t wanted = bytes_to_keep(&f, saves[k]);
                EXPECT_STATUS(fl_stack_record(f.stack, &args, tape), FL_OK);
                const size_t kept = fl_tape_bytes(tape);
                EXPECT(kept + f.spec.B * sizeof(ptrdiff_t) >= wanted && kept <= wanted + SLACK,
                       "%s, save %zu, lengths %zu: %zu bytes, not %zu", family_text(&f), saves[k], n / 4, kept, wanted);
            }
            family_result_free(&r);
            family_free(&f);
        }
    fl_tape_destroy(tape);
}

/* Between the layers of two directions stands the output of all steps, and of no more. */
static void workspace_of_ragged_rows(void)
{
    for (size_t n = 0; n < 8; n++) {
        const fl_cell_kind kind = n < 4 ? FL_CELL_LSTM : FL_CELL_SLSTM;
        const size_t T = 200, B = 40, D = 1 + n / 2 % 2;
        const family_spec s = ragged_spec(kind, dtypes[n % 2], T, B, 3, 16, 2, D);
        family f;
        family_result r;
        size_t bytes[2] = {0, 0}, steps[2], refused = 0;
        ragged_make(&f, &s, ONE_LONG);
        family_result_make(&r, &f);
        const fl_forward_args args = family_args(&f, &r, 1);
        for (size_t k = 0; k < 2; k++) {
            for (size_t b = 0; b < B; b++) f.lengths[b] = length_of_kind(k == 0 ? ONE_LONG : NEARLY_EQUAL, T, B, b);
            steps[k] = all_steps(&f);
            EXPECT_STATUS(fl_stack_workspace(f.stack, &args, &bytes[k]), FL_OK);
        }
        const size_t more = D == 1 ? 0 : (steps[1] - steps[0]) * D * family_h_bytes(&f);
        EXPECT(bytes[1] >= bytes[0] && bytes[1] - bytes[0] == more,
               "%s: %zu bytes for %zu steps, %zu for %zu, not %zu more", family_text(&f), bytes[0], steps[0], bytes[1],
               steps[1], more);
        f.lengths[1] = -1;
        EXPECT_STATUS(fl_stack_workspace(f.stack, &args, &refused), FL_ERROR_LENGTH);
        f.lengths[1] = (int64_t)T + 1;
        EXPECT_STATUS(fl_stack_workspace(f.stack, &args, &refused), FL_ERROR_LENGTH);
        family_result_free(&r);
        family_free(&f);
    }
}

/* All that the core asks for in a pass there and back, by a new layer with a new tape. */
static size_t bytes_of_training(family *f, size_t save)
{
    family_result r;
    family_gradients g;
    fl_tape *tape = NULL;
    fl_stack_destroy(f->stack);
    f->stack = NULL;
    family_pack(f);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    const size_t before = atomic_load(&allocation_bytes);
    family_train(f, tape, save, 1, &r, &g);
    const size_t bytes = atomic_load(&allocation_bytes) - before;
    fl_tape_destroy(tape);
    family_result_free(&r);
    family_gradients_free(&g);
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
        family_spec s = ragged_spec(kinds[n % 4], dtypes[n % 2], 500, 400, 3, 16, 2, 1 + n / 2 % 2);
        s.dropout = 0.25;
        s.x_order = s.y_order = s.dy_order = ORDER_PACKED;
        family f;
        ragged_make(&f, &s, ONE_LONG);
        const size_t padded = s.T * s.B * f.H * f.real_size; /* the smallest of all arrays */
        const size_t bytes = bytes_of_training(&f, save);
        f.lengths[s.B / 2] = 200; /* more than pass between layers together */
        const size_t beyond = bytes_of_training(&f, save);
        f.spec.T = 200;
        const size_t least = bytes_of_training(&f, save);
        EXPECT(bytes < padded, "%s, save %zu: %zu bytes, where (T, B, H) takes %zu", family_text(&f), save, bytes,
               padded);
        EXPECT(beyond <= least + SLACK, "%s, save %zu: %zu bytes, %zu where all T steps are there", family_text(&f),
               save, beyond, least);
        family_free(&f);
    }
}

/* ---- Rows alone ---------------------------------------------------------------------------------------------- */

static ptrdiff_t row_place(const placing *p, size_t b) { return p->at != NULL ? p->at[b] : (ptrdiff_t)b; }

/* Row b's states of `all`, or null. */
static void *row_states(guard_arena *arena, const family *f, const void *all, size_t b, size_t bytes)
{
    char *row = guard_new(arena, f->cells, bytes);
    for (size_t cell = 0; cell < f->cells && all != NULL; cell++)
        memcpy(row + cell * bytes, (const char *)all + (cell * f->spec.B + b) * bytes, bytes);
    return all != NULL ? row : NULL;
}

static void put_states(const family *f, void *all, size_t b, const char *row, size_t bytes)
{
    for (size_t cell = 0; cell < f->cells && bytes != 0; cell++)
        memcpy((char *)all + (cell * f->spec.B + b) * bytes, row + cell * bytes, bytes);
}

/* A pass of row b as a batch of one; its gradients of parameters are added to `sums`. */
static void train_row(const family *f, fl_tape *tape, size_t save, size_t b, family_result *r, family_gradients *g,
                      double *sums)
{
    const size_t length = family_length(f, b), h_bytes = family_h_bytes(f), c_bytes = family_c_bytes(f);
    const ptrdiff_t x_at = row_place(&f->of_x, b), y_at = row_place(&f->of_y, b);
    const ptrdiff_t dx_at = row_place(&f->of_dx, b), dy_at = row_place(&f->of_dy, b);
    guard_arena rows = {0};
    fl_record_args recorded = family_record_args(f, r, save, 1);
    fl_backward_args args = family_backward_args(f, g, 1);
    uint8_t *reset = guard_new(&rows, length, 1);
    for (size_t t = 0; t < length && f->reset != NULL; t++) reset[t] = f->reset[t * f->spec.B + b];
    recorded.reset = f->reset != NULL ? reset : NULL;
    recorded.call.T = length;
    recorded.call.B = 1;
    recorded.call.lengths = NULL;
    recorded.call.x_at = &x_at;
    recorded.call.y_at = &y_at;
    recorded.call.h0 = row_states(&rows, f, f->h0, b, h_bytes);
    recorded.call.c0 = row_states(&rows, f, f->c0, b, c_bytes);
    recorded.call.h_n = guard_new(&rows, f->cells, h_bytes);
    recorded.call.c_n = guard_new(&rows, f->cells, c_bytes);
    args.dx_at = &dx_at;
    args.dy_at = &dy_at;
    args.dh_n = row_states(&rows, f, f->dh_n, b, h_bytes);
    args.dc_n = row_states(&rows, f, f->dc_n, b, c_bytes);
    args.dh0 = guard_new(&rows, f->cells, h_bytes);
    args.dc0 = guard_new(&rows, f->cells, c_bytes);
    EXPECT_STATUS(fl_stack_record(f->stack, &recorded, tape), FL_OK);
    EXPECT_STATUS(fl_stack_backward(f->stack, tape, &args), FL_OK);
    put_states(f, r->h_n, b, recorded.call.h_n, h_bytes);
    put_states(f, r->c_n, b, recorded.call.c_n, c_bytes);
    put_states(f, g->dh0, b, args.dh0, h_bytes);
    put_states(f, g->dc0, b, args.dc0, c_bytes);
    for (size_t cell = 0; cell < f->cells; cell++) {
        void **slots[FAMILY_PARAMETERS];
        family_gradients_of(&g->of[cell], slots);
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++)
            for (size_t k = 0; k < family_sizes(f, cell)[n]; k++)
                *sums++ += real_get(f->spec.shape.dtype, *slots[n], (ptrdiff_t)k);
    }
    guard_release(&rows);
}

/* Largest distance of gradients of parameters from sums over rows, as a part of the largest of them. */
static double distance_from_sums(const family *f, const family_gradients *g, const double *sums)
{
    double largest = 0.0, worst = 0.0;
    for (size_t cell = 0; cell < f->cells; cell++) {
        fl_gradients of = g->of[cell];
        void **slots[FAMILY_PARAMETERS];
        family_gradients_of(&of, slots);
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++)
            for (size_t k = 0; k < family_sizes(f, cell)[n]; k++, sums++) {
                const double error = fabs(real_get(f->spec.shape.dtype, *slots[n], (ptrdiff_t)k) - *sums);
                worst = error <= INFINITY ? fmax(worst, error) : INFINITY;
                largest = fmax(largest, fabs(*sums));
            }
    }
    return worst / fmax(largest, 1.0);
}

static size_t parameters_of(const family *f)
{
    size_t count = 0;
    for (size_t cell = 0; cell < f->cells; cell++)
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++) count += family_sizes(f, cell)[n];
    return count;
}

static void compare_with_rows_alone(const family_spec *s, lengths_kind kind, size_t save, size_t threads)
{
    family f;
    family_result whole, alone;
    family_gradients right, g;
    fl_tape *tape = NULL;
    ragged_make(&f, s, kind);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    family_train(&f, tape, save, threads, &whole, &right);
    family_result_make(&alone, &f);
    family_gradients_make(&g, &f);
    double *sums = calloc(parameters_of(&f), sizeof *sums);
    if (sums == NULL)
        exit(2);
    for (size_t b = 0; b < s->B; b++) train_row(&f, tape, save, b, &alone, &g, sums);
    const double distance = distance_from_sums(&f, &right, sums);
    const size_t h_bytes = f.cells * s->B * family_h_bytes(&f), c_bytes = f.cells * s->B * family_c_bytes(&f);
    EXPECT(family_results_equal(&f, &whole, &f, &alone), "%s, save %zu, %zu threads: results of rows", family_text(&f),
           save, threads);
    EXPECT(arenas_equal(&right.of_dx, &g.of_dx) && memcmp(right.dh0, g.dh0, h_bytes) == 0 &&
               (c_bytes == 0 || memcmp(right.dc0, g.dc0, c_bytes) == 0),
           "%s, save %zu, %zu threads: gradients of rows", family_text(&f), save, threads);
    EXPECT(distance < (s->shape.dtype == FL_F32 ? 2e-6 : 4e-15),
           "%s, save %zu, %zu threads: %.3g from the sum over rows", family_text(&f), save, threads, distance);
    free(sums);
    fl_tape_destroy(tape);
    family_result_free(&whole);
    family_result_free(&alone);
    family_gradients_free(&right);
    family_gradients_free(&g);
    family_free(&f);
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
            family_spec s = ragged_spec((fl_cell_kind)kind, dtypes[repeat % 2], T, B, I, H, L, D);
            s.shape.cell = options_of_kind((fl_cell_kind)kind, s.shape.hidden_size);
            s.resets = random_chance(2);
            s.bptt = random_chance(3) ? random_size(1, 9) : 0;
            s.x_order = (int)random_size(0, FAMILY_ORDERS - 1);
            s.y_order = (int)random_size(0, FAMILY_ORDERS - 1);
            s.dy_order = (int)random_size(0, FAMILY_ORDERS - 1);
            compare_with_rows_alone(&s, (lengths_kind)random_size(0, LENGTHS_KINDS - 1), saves[repeat % 5],
                                    1 + repeat % most_threads);
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

static void ragged_schedules(void) { ragged_rows_alone(rounds(24), 3); }

void test_ragged_schedules(void) { run_test("ragged_schedules", ragged_schedules); }
