/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fl_forward and fl_backward, whose memory is the caller's: the bits of a tape, from any place, again and again, and at
 * once.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

/* A reserve between guard pages, of exactly the bytes that were asked for. */
static char *reserve_make(guard_arena *arena, const problem *p, const fl_record_args *args, size_t *bytes)
{
    EXPECT_STATUS(fl_reserve_size(p->stack, args, bytes), FL_OK);
    return guard_new(arena, *bytes, 1);
}

/* The arguments as a backward pass may have them: without what it does not look at. */
static fl_record_args without_outputs(fl_record_args args)
{
    args.call.h_n = args.call.c_n = args.call.cells = NULL;
    return args;
}

/* ---- The same bits ------------------------------------------------------------------------------------------- */

static void check_bits(const spec *s)
{
    const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1, random_size(2, 12)};
    problem p;
    result expected;
    gradients right;
    fl_tape *tape = NULL;
    problem_make(&p, s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    problem_train(&p, tape, FL_SAVE_ALL, 1, &expected, &right);
    for (size_t n = 0; n < sizeof saves / sizeof *saves; n++) {
        guard_arena memory = {0}, moved = {0};
        result r;
        size_t bytes = 0;
        result_make(&r, &p);
        const fl_record_args recorded = problem_record_args(&p, &r, saves[n], 1 + n % 2);
        char *reserve = reserve_make(&memory, &p, &recorded, &bytes);
        EXPECT_STATUS(fl_forward(p.stack, &recorded, reserve, bytes), FL_OK);
        EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s: results with save %zu", problem_text(&p), saves[n]);
        char *elsewhere = guard_new(&moved, bytes + p.real_size, 1); /* aligned to an element and no more */
        memcpy(elsewhere + p.real_size, reserve, bytes);
        guard_release(&memory);
        guard_read_only(&moved);
        for (size_t repeat = 0; repeat < 2; repeat++) {
            gradients g;
            gradients_make(&g, &p);
            const fl_record_args again = without_outputs(recorded);
            const fl_backward_args back = problem_backward_args(&p, &g, 1 + repeat);
            EXPECT_STATUS(fl_backward(p.stack, &again, elsewhere + p.real_size, bytes, &back), FL_OK);
            EXPECT(arenas_equal(&right.outputs, &g.outputs) && arenas_equal(&right.of_dx, &g.of_dx),
                   "%s: gradients with save %zu, pass %zu", problem_text(&p), saves[n], repeat);
            gradients_free(&g);
        }
        guard_release(&moved);
        result_free(&r);
    }
    fl_tape_destroy(tape);
    result_free(&expected);
    gradients_free(&right);
    problem_free(&p);
}

static void bits_of_a_tape(void) { for_all_kinds(20, check_bits); }

/* What a tape has recorded serves the functions that have no tape. */
static void reserve_of_a_tape(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) {
        spec s = spec_some(number, dtypes[number % 2], 9, 4, 3, 6);
        problem p;
        result r;
        gradients right, g;
        fl_tape *tape = NULL;
        s.ragged = number % 3 == 0;
        problem_make(&p, &s);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        EXPECT(fl_tape_reserve(tape) == NULL && fl_tape_reserve(NULL) == NULL, "a reserve of nothing");
        problem_train(&p, tape, FL_SAVE_ALL, 1, &r, &right);
        gradients_make(&g, &p);
        const fl_record_args recorded = problem_record_args(&p, &r, FL_SAVE_ALL, 1);
        const fl_backward_args back = problem_backward_args(&p, &g, 1);
        EXPECT_STATUS(fl_backward(p.stack, &recorded, fl_tape_reserve(tape), fl_tape_bytes(tape), &back), FL_OK);
        EXPECT(gradients_equal(&p, &right, &p, &g), "%s", problem_text(&p));
        fl_tape_destroy(tape);
        result_free(&r);
        gradients_free(&right);
        gradients_free(&g);
        problem_free(&p);
    }
}

/* ---- At once ------------------------------------------------------------------------------------------------- */

#define CALLERS 4

typedef struct caller {
    const problem *p;
    const fl_record_args *recorded;
    const char *reserve;
    size_t bytes;
    const gradients *right;
    gradients g;
    pthread_barrier_t *barrier;
    size_t threads, wrong;
} caller;

static void *go_back(void *argument)
{
    caller *self = argument;
    const fl_backward_args back = problem_backward_args(self->p, &self->g, self->threads);
    pthread_barrier_wait(self->barrier);
    for (size_t repeat = 0; repeat < rounds(20); repeat++)
        self->wrong += fl_backward(self->p->stack, self->recorded, self->reserve, self->bytes, &back) != FL_OK ||
                       !gradients_equal(self->p, self->right, self->p, &self->g);
    return NULL;
}

/* Of one layer and one reserve, which nobody may write to. */
static void many_backward_passes_at_once(void)
{
    static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 3};
    for (size_t n = 0; n < sizeof saves / sizeof *saves; n++) {
        spec s = spec_stack(FL_CELL_LSTM, dtypes[n % 2], (const size_t[]){40, 3, 5, 8, 2, 2});
        problem p;
        result r;
        gradients right;
        caller callers[CALLERS];
        pthread_t threads[CALLERS];
        pthread_barrier_t barrier;
        guard_arena memory = {0};
        fl_tape *tape = NULL;
        size_t bytes = 0;
        s.ragged = n == 0;
        s.resets = n == 1;
        problem_make(&p, &s);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        problem_train(&p, tape, saves[n], 1, &r, &right);
        fl_tape_destroy(tape);
        const fl_record_args recorded = problem_record_args(&p, &r, saves[n], 1);
        char *reserve = reserve_make(&memory, &p, &recorded, &bytes);
        EXPECT_STATUS(fl_forward(p.stack, &recorded, reserve, bytes), FL_OK);
        guard_read_only(&memory);
        pthread_barrier_init(&barrier, NULL, CALLERS);
        for (size_t k = 0; k < CALLERS; k++) {
            callers[k] = (caller){.p = &p,
                                  .recorded = &recorded,
                                  .reserve = reserve,
                                  .bytes = bytes,
                                  .right = &right,
                                  .barrier = &barrier,
                                  .threads = 1 + k % 2};
            gradients_make(&callers[k].g, &p);
        }
        for (size_t k = 0; k < CALLERS; k++)
            EXPECT(pthread_create(&threads[k], NULL, go_back, &callers[k]) == 0, "no thread");
        for (size_t k = 0; k < CALLERS; k++) {
            pthread_join(threads[k], NULL);
            EXPECT(callers[k].wrong == 0, "save %zu, caller %zu: %zu wrong passes", saves[n], k, callers[k].wrong);
            gradients_free(&callers[k].g);
        }
        pthread_barrier_destroy(&barrier);
        guard_release(&memory);
        gradients_free(&right);
        result_free(&r);
        problem_free(&p);
    }
}

/* ---- What a caller can get wrong ------------------------------------------------------------------------------ */

#define REFUSE_AGAIN(change, wanted)                                                  \
    do {                                                                              \
        fl_record_args changed = without_outputs(right);                              \
        fl_backward_args back = right_back;                                           \
        change;                                                                       \
        EXPECT_STATUS(fl_backward(p.stack, &changed, reserve, bytes, &back), wanted); \
    } while (0)

static void wrong_arguments(void)
{
    spec s = spec_some(0, FL_F32, 5, 3, 4, 6);
    problem p;
    result r;
    gradients g;
    guard_arena memory = {0};
    size_t bytes = 0, fewer = 0;
    const int64_t beyond[3] = {1, 2, 6};
    problem_make(&p, &s);
    result_make(&r, &p);
    gradients_make(&g, &p);
    const fl_record_args right = problem_record_args(&p, &r, FL_SAVE_ALL, 1);
    const fl_backward_args right_back = problem_backward_args(&p, &g, 1);
    char *reserve = reserve_make(&memory, &p, &right, &bytes);
    EXPECT_STATUS(fl_reserve_size(NULL, &right, &bytes), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_reserve_size(p.stack, NULL, &bytes), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_reserve_size(p.stack, &right, NULL), FL_ERROR_ARGUMENT);
    fl_record_args other = right;
    other.save = FL_SAVE_STATES;
    EXPECT_STATUS(fl_reserve_size(p.stack, &other, &fewer), FL_OK);
    EXPECT(fewer < bytes, "states alone: %zu of %zu bytes", fewer, bytes);
    other.call.T = SIZE_MAX / 64;
    EXPECT_STATUS(fl_reserve_size(p.stack, &other, &fewer), FL_ERROR_SIZE);
    other.call.T = 5;
    other.call.lengths = beyond;
    EXPECT_STATUS(fl_reserve_size(p.stack, &other, &fewer), FL_ERROR_LENGTH);
    EXPECT_STATUS(fl_forward(NULL, &right, reserve, bytes), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_forward(p.stack, NULL, reserve, bytes), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_forward(p.stack, &right, NULL, bytes), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_forward(p.stack, &right, reserve, bytes - 1), FL_ERROR_ARGUMENT);
    EXPECT(arena_untouched(&r.outputs) && arena_untouched(&memory), "something was written");
    EXPECT_STATUS(fl_forward(p.stack, &right, reserve, bytes), FL_OK);
    EXPECT_STATUS(fl_backward(NULL, &right, reserve, bytes, &right_back), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_backward(p.stack, NULL, reserve, bytes, &right_back), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_backward(p.stack, &right, NULL, bytes, &right_back), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_backward(p.stack, &right, reserve, bytes - 1, &right_back), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_backward(p.stack, &right, reserve, bytes, NULL), FL_ERROR_ARGUMENT);
    REFUSE_AGAIN(changed.call.y = NULL, FL_ERROR_ARGUMENT);
    REFUSE_AGAIN(changed.call.x = NULL, FL_ERROR_ARGUMENT);
    REFUSE_AGAIN(changed.dropout = -1.0, FL_ERROR_ARGUMENT);
    REFUSE_AGAIN(changed.call.T = 6, FL_ERROR_ARGUMENT); /* of which a reserve is larger */
    REFUSE_AGAIN(changed.call.lengths = beyond, FL_ERROR_LENGTH);
    REFUSE_AGAIN(back.keeps_index_gradient = true, FL_ERROR_ARGUMENT);
    REFUSE_AGAIN(back.weights = NULL, FL_ERROR_ARGUMENT);
    REFUSE_AGAIN(back.gradients = NULL, FL_ERROR_ARGUMENT);
    REFUSE_AGAIN(back.dh0 = NULL, FL_ERROR_ARGUMENT);
    EXPECT(arena_untouched(&g.outputs) && arena_untouched(&g.of_dx), "something was written");
    guard_release(&memory);
    gradients_free(&g);
    result_free(&r);
    problem_free(&p);
}

/* Whatever stands in a reserve, nothing outside of the arrays is touched. */
static void reserve_of_nonsense(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++)
        for (size_t n = 0; n < 3; n++) {
            static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 2};
            spec s = spec_some(number, dtypes[n % 2], 7, 3, 4, 5);
            problem p;
            result r;
            gradients g;
            guard_arena memory = {0};
            size_t bytes = 0;
            s.ragged = true;
            problem_make(&p, &s);
            problem_run(&p, 1, &r);
            gradients_make(&g, &p);
            const fl_record_args args = problem_record_args(&p, &r, saves[n], 1);
            const fl_backward_args back = problem_backward_args(&p, &g, 1);
            char *reserve = reserve_make(&memory, &p, &args, &bytes); /* all NaN */
            EXPECT_STATUS(fl_backward(p.stack, &args, reserve, bytes, &back), FL_OK);
            guard_release(&memory);
            gradients_free(&g);
            result_free(&r);
            problem_free(&p);
        }
}

void test_reserve(void)
{
    run_test("bits_of_a_tape", bits_of_a_tape);
    run_test("reserve_of_a_tape", reserve_of_a_tape);
    run_test("wrong_arguments_with_a_reserve", wrong_arguments);
    run_test("reserve_of_nonsense", reserve_of_nonsense);
}

void test_reserve_threads(void) { run_test("many_backward_passes_at_once", many_backward_passes_at_once); }
