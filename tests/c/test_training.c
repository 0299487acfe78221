/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Recorded passes and their backward passes: against a naive one in float64, for every way of keeping and any number of
 * threads the same bits, out of memory, interrupted, and with wrong arguments.  All arrays stand between guard pages.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests.h"
#include "harness/training_pass.h"

/* Bytes between the rows of dx that are not 0xff any more. */
static size_t written_beside_dx(const pass *a, const gradients *g)
{
    const spec *s = &a->p.spec;
    const size_t bytes = a->dx_layout.elements * a->p.real_size;
    size_t written = 0;
    if (g->dx == NULL)
        return 0;
    unsigned char *beside = calloc(bytes + 1, 1);
    if (beside == NULL)
        return SIZE_MAX;
    for (size_t t = 0; t < s->T; t++)
        for (size_t b = 0; b < s->B; b++)
            memset(beside + (at(&a->dx_layout, g->dx, a->p.real_size, t, b) - g->dx_memory), 1,
                   s->shape.input_size * a->p.real_size);
    for (size_t n = 0; n < bytes; n++) written += beside[n] == 0 && (unsigned char)g->dx_memory[n] != 0xff;
    free(beside);
    return written;
}

static double tolerance(fl_dtype dtype) { return dtype == FL_F32 ? 6e-6 : 5e-14; }

/* ---- Values and bits ----------------------------------------------------------------------------------------- */

/* One way of keeping against the truth, the others against it; threads likewise. */
static void check_pass(const spec *s, const options *o, size_t most_threads)
{
    const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1, random_size(2, 12), SIZE_MAX - 1};
    pass a;
    result expected, r;
    gradients right, g;
    truth t;
    fl_tape *tape = NULL;
    pass_make(&a, s, o);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    pass_run(&a, tape, FL_SAVE_ALL, 1, &expected, &right);
    truth_make(&t, &a);
    const double error = truth_error(&t, &a, &right);
    EXPECT(error <= tolerance(s->shape.dtype), "%s: error %.3g", pass_text(&a), error);
    const size_t written = written_beside_dx(&a, &right);
    EXPECT(written == 0, "%s: %zu bytes between the rows of dx were written", pass_text(&a), written);
    for (size_t threads = 1; threads <= most_threads; threads++)
        for (size_t n = 0; n < sizeof saves / sizeof *saves; n++) {
            pass_run(&a, tape, saves[n], threads, &r, &g);
            EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s: results differ with save %zu, %zu threads",
                   pass_text(&a), saves[n], threads);
            EXPECT(arenas_equal(&right.outputs, &g.outputs), "%s: gradients differ with save %zu, %zu threads",
                   pass_text(&a), saves[n], threads);
            pass_results_free(&r, &g);
        }
    truth_free(&t);
    fl_tape_destroy(tape);
    pass_results_free(&expected, &right);
    pass_free(&a);
}

static void training_random(void)
{
    for (size_t repeat = 0; repeat < rounds(120); repeat++) {
        spec s = spec_random(repeat % 2 == 0 ? FL_F32 : FL_F64);
        const options o = options_random(&s);
        check_pass(&s, &o, 1);
    }
}

/* T and B for many chunks, rows that are more than a chunk, and one row. */
static void training_chunks(void)
{
    static const size_t sizes[][4] = {{260, 1, 5, 9}, {90, 6, 3, 7}, {4, 530, 2, 3}, {33, 17, 20, 33}};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
        for (size_t D = 1; D <= 2; D++) {
            if (harness_effort == EFFORT_SHORT && D == 1 + n % 2)
                continue;
            spec s = spec_plain(n % 2 == 0 ? FL_F32 : FL_F64, sizes[n][0], sizes[n][1], sizes[n][2], sizes[n][3]);
            s.shape.num_directions = D;
            s.shape.num_layers = 2;
            s.given_state = true;
            s.ragged = sizes[n][1] > 1;
            options o = options_plain(&s);
            o.resets = n % 2 == 0;
            o.dropout = 0.25;
            o.bptt = n % 2 == 1 ? 7 : 0;
            check_pass(&s, &o, 1);
        }
}

/* A recorded pass has the bits of a call. */
static void training_same_as_a_call(void)
{
    for (size_t repeat = 0; repeat < rounds(60); repeat++) {
        const spec s = spec_random(repeat % 2 == 0 ? FL_F32 : FL_F64);
        const options o = options_plain(&s);
        pass a;
        result expected, r;
        fl_tape *tape = NULL;
        pass_make(&a, &s, &o);
        problem_run(&a.p, 1, &expected);
        result_make(&r, &a.p);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        const fl_record_args args = record_args(&a, &r, random_chance(2) ? FL_SAVE_ALL : random_size(1, 5), 1);
        EXPECT_STATUS(fl_stack_record(a.p.stack, &args, tape), FL_OK);
        EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s", pass_text(&a));
        fl_tape_destroy(tape);
        result_free(&expected);
        result_free(&r);
        pass_free(&a);
    }
}

/* ---- Errors -------------------------------------------------------------------------------------------------- */

static void training_errors(void)
{
    for (unsigned indexed = 0; indexed < 2; indexed++) {
        spec s = spec_plain(FL_F32, 3, 2, 4, 5);
        s.given_state = s.ragged = true;
        s.indexed = indexed != 0;
        const options o = options_plain(&s);
        pass a;
        result r;
        gradients g;
        fl_tape *tape = NULL;
        fl_stack *other = NULL;
        pass_make(&a, &s, &o);
        result_make(&r, &a.p);
        gradients_make(&g, &a);
        EXPECT_STATUS(fl_tape_create(NULL), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        EXPECT_STATUS(fl_stack_create(&s.shape, &other), FL_OK);
        const fl_record_args recorded = record_args(&a, &r, FL_SAVE_ALL, 1);
        const fl_backward_args right = backward_args(&a, &g, 1);
        EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &right), FL_ERROR_ARGUMENT); /* nothing is recorded */
        EXPECT(fl_tape_bytes(tape) == 0 && fl_tape_bytes(NULL) == 0, "%zu bytes", fl_tape_bytes(tape));

#define REFUSE_RECORD(change, wanted)                                   \
    do {                                                                \
        fl_record_args args = recorded;                                 \
        change;                                                         \
        EXPECT_STATUS(fl_stack_record(a.p.stack, &args, tape), wanted); \
    } while (0)
        REFUSE_RECORD(args.dropout = -0.1, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.dropout = 1.1, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.dropout = (double)NAN, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.call.y = NULL, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.call.h_n = NULL, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.call.h_n = a.p.h0, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.call.c_n = a.p.c0, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.call.x = NULL; args.call.x_index = NULL, FL_ERROR_ARGUMENT);
        REFUSE_RECORD(args.call.T = SIZE_MAX / 2, FL_ERROR_SIZE);
        const int64_t lengths[] = {3, 4};
        REFUSE_RECORD(args.call.lengths = lengths, FL_ERROR_LENGTH);
        EXPECT_STATUS(fl_stack_record(NULL, &recorded, tape), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_record(a.p.stack, NULL, tape), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_record(a.p.stack, &recorded, NULL), FL_ERROR_ARGUMENT);
        EXPECT(result_untouched(&r), "something was written");
        EXPECT_STATUS(fl_stack_record(a.p.stack, &recorded, tape), FL_OK);
        const size_t steps = problem_length(&a.p, 0) + problem_length(&a.p, 1);
        EXPECT(fl_tape_bytes(tape) >= steps * 5 * 5 * sizeof(float), "%zu bytes of %zu steps", fl_tape_bytes(tape),
               steps);

#define REFUSE_BACKWARD(change)                                                      \
    do {                                                                             \
        fl_backward_args args = right;                                               \
        fl_gradients wrong = g.of[0];                                                \
        fl_weights weights = a.p.weights[0];                                         \
        change;                                                                      \
        (void)wrong;                                                                 \
        (void)weights;                                                               \
        EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &args), FL_ERROR_ARGUMENT); \
    } while (0)
        REFUSE_BACKWARD(args.weights = NULL);
        REFUSE_BACKWARD(args.gradients = NULL);
        REFUSE_BACKWARD(args.dh0 = NULL);
        REFUSE_BACKWARD(args.dc0 = NULL);
        REFUSE_BACKWARD(wrong.weight_ih = NULL; args.gradients = &wrong);
        REFUSE_BACKWARD(wrong.weight_hh = NULL; args.gradients = &wrong);
        REFUSE_BACKWARD(weights.weight_ih = NULL; args.weights = &weights);
        REFUSE_BACKWARD(weights.weight_hh = NULL; args.weights = &weights);
        if (s.indexed)
            REFUSE_BACKWARD(args.dx = r.y); /* an index has no gradient */
        EXPECT_STATUS(fl_stack_backward(NULL, tape, &right), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_backward(a.p.stack, NULL, &right), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, NULL), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_backward(other, tape, &right), FL_ERROR_ARGUMENT); /* another layer's tape */
        for (size_t n = 0; n < g.outputs.count; n++)
            for (size_t byte = 0; byte < g.outputs.blocks[n].bytes; byte++)
                EXPECT(g.outputs.blocks[n].data[byte] == 0xff, "output %zu was written", n);
        EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &right), FL_OK);
        REFUSE_RECORD(args.dropout = 2.0, FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &right), FL_OK); /* what was recorded is still there */
        fl_tape_destroy(tape);
        fl_tape_destroy(NULL);
        fl_stack_destroy(other);
        pass_results_free(&r, &g);
        pass_free(&a);
    }
}

/* Steps times layers that wrap to nothing, though the steps of each layer are a size that fits. */
static void training_too_long(void)
{
    static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 1};
    const fl_stack_shape shape = {FL_F32, 1, 1, 128, 1, {.kind = FL_CELL_LSTM}};
    fl_stack *stack = NULL;
    fl_tape *tape = NULL;
    float x = 0.0F, y = 0.0F, h[128], c[128];
    EXPECT_STATUS(fl_stack_create(&shape, &stack), FL_OK);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    for (size_t n = 0; n < sizeof saves / sizeof *saves && sizeof(size_t) == 8; n++) {
        const size_t steps = (size_t)(SIZE_MAX / 128 + 1);
        fl_record_args args = {.save = saves[n]};
        args.call.T = saves[n] == 1 ? steps + 1 : steps;
        args.call.B = 1;
        args.call.x = &x;
        args.call.y = &y;
        args.call.h_n = h;
        args.call.c_n = c;
        EXPECT_STATUS(fl_stack_record(stack, &args, tape), FL_ERROR_SIZE);
    }
    fl_tape_destroy(tape);
    fl_stack_destroy(stack);
}

/* No steps: gradients of parameters are zero, those of states pass through. */
static void training_without_steps(void)
{
    static const size_t sizes[][2] = {{0, 3}, {3, 0}, {0, 0}};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
        for (unsigned keeps = 0; keeps < 2; keeps++) {
            spec s = spec_plain(FL_F64, sizes[n][0], sizes[n][1], 3, 5);
            s.shape.num_layers = 2;
            const options o = options_plain(&s);
            pass a;
            result r;
            gradients g;
            fl_tape *tape = NULL;
            pass_make(&a, &s, &o);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            pass_run(&a, tape, keeps == 0 ? FL_SAVE_ALL : 2, 1, &r, &g);
            const size_t bytes = a.p.cells * s.B * 5 * sizeof(double);
            EXPECT(memcmp(g.dh0, a.dh_n, bytes) == 0 && memcmp(g.dc0, a.dc_n, bytes) == 0, "states");
            for (size_t k = 0; k < 4 * 5 * 5; k++) EXPECT(((double *)g.of[1].weight_hh)[k] == 0.0, "element %zu", k);
            fl_tape_destroy(tape);
            pass_results_free(&r, &g);
            pass_free(&a);
        }
}

/* ---- Memory -------------------------------------------------------------------------------------------------- */

/* Each allocation of record fails, then each of backward; nothing is lost, and in the end the result is right. */
static void training_without_memory(void)
{
    static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 4};
    for (size_t number = 0; number < 12; number += harness_effort == EFFORT_FULL ? 1 : 5) {
        const size_t save = saves[number % 3], threads = number < 6 ? 1 : 3;
        spec s = spec_plain(FL_F32, 20, 14, 10, 33);
        s.shape.num_layers = 2;
        s.shape.num_directions = 1 + number / 3 % 2;
        s.ragged = s.given_state = true;
        options o = options_plain(&s);
        o.resets = true;
        o.dropout = 0.5;
        pass a;
        result expected, r;
        gradients right, g;
        fl_tape *tape = NULL;
        pass_make(&a, &s, &o);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        pass_run(&a, tape, save, threads, &expected, &right);
        fl_tape_destroy(tape);
        const long live = atomic_load(&allocations_live);
        allocation_fail(1);
        EXPECT_STATUS(fl_tape_create(&tape), FL_ERROR_MEMORY);
        allocation_fail(0);
        EXPECT(atomic_load(&allocations_live) == live, "memory lost");
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        result_make(&r, &a.p);
        gradients_make(&g, &a);
        const fl_record_args recorded = record_args(&a, &r, save, threads);
        const fl_backward_args args = backward_args(&a, &g, threads);
        fl_status status = FL_ERROR_MEMORY;
        size_t nth = 0;
        for (; status == FL_ERROR_MEMORY && nth < 50; nth++) {
            allocation_fail(1 + nth / 2); /* what was taken before is kept: fewer are left */
            status = fl_stack_record(a.p.stack, &recorded, tape);
            allocation_fail(0);
            if (status != FL_OK) {
                EXPECT(fl_tape_bytes(tape) == 0, "%zu bytes of nothing", fl_tape_bytes(tape));
                EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &args), FL_ERROR_ARGUMENT);
            }
        }
        EXPECT_STATUS(status, FL_OK);
        EXPECT(nth > 1, "no allocation of record failed");
        status = FL_ERROR_MEMORY;
        for (nth = 0; status == FL_ERROR_MEMORY && nth < 50; nth++) {
            allocation_fail(1 + nth / 2);
            status = fl_stack_backward(a.p.stack, tape, &args);
            allocation_fail(0);
        }
        EXPECT_STATUS(status, FL_OK);
        EXPECT(nth > 1, "no allocation of backward failed");
        EXPECT(arenas_equal(&expected.outputs, &r.outputs), "wrong results");
        EXPECT(arenas_equal(&right.outputs, &g.outputs), "wrong gradients");
        fl_tape_destroy(tape);
        EXPECT(atomic_load(&allocations_live) == live, "%ld blocks, then %ld", live, atomic_load(&allocations_live));
        pass_results_free(&expected, &right);
        pass_results_free(&r, &g);
        pass_free(&a);
    }
}

/* The same again, on one thread, takes nothing; and destroying the tape gives back what it had. */
static void training_leaves_memory_flat(void)
{
    for (size_t save = 0; save < 4; save++) {
        spec s = spec_plain(FL_F32, 30, 20, 10, 33);
        s.shape.num_layers = 2;
        s.ragged = true;
        const options o = options_plain(&s);
        pass a;
        result r;
        gradients g;
        fl_tape *tape = NULL;
        pass_make(&a, &s, &o);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        pass_run(&a, tape, save == 3 ? FL_SAVE_STATES : save, 1, &r, &g);
        const fl_record_args recorded = record_args(&a, &r, save == 3 ? FL_SAVE_STATES : save, 1);
        const fl_backward_args args = backward_args(&a, &g, 1);
        const long live = atomic_load(&allocations_live), made = atomic_load(&allocations_made);
        for (size_t repeat = 0; repeat < rounds(50); repeat++) {
            EXPECT_STATUS(fl_stack_record(a.p.stack, &recorded, tape), FL_OK);
            EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &args), FL_OK);
        }
        EXPECT(atomic_load(&allocations_live) == live, "%ld blocks, then %ld", live, atomic_load(&allocations_live));
        EXPECT(atomic_load(&allocations_made) == made, "%ld allocations", atomic_load(&allocations_made) - made);
        fl_tape_destroy(tape);
        pass_results_free(&r, &g);
        pass_free(&a);
    }
}

void test_training(void)
{
    run_test("training_random", training_random);
    run_test("training_chunks", training_chunks);
    run_test("training_same_as_a_call", training_same_as_a_call);
    run_test("training_errors", training_errors);
    run_test("training_too_long", training_too_long);
    run_test("training_without_steps", training_without_steps);
    run_test("training_without_memory", training_without_memory);
    run_test("training_leaves_memory_flat", training_leaves_memory_flat);
}

/* ---- Several threads ----------------------------------------------------------------------------------------- */

/* Few rows: one thread for the steps, the others for the parameters; many: each its own. */
static void training_schedules(void)
{
    static const struct {
        size_t T, B, I, H, L, D;
        bool ragged, indexed, resets;
    } shapes[] = {
        {70, 1, 20, 48, 1, 1, false, false, false}, {40, 3, 9, 40, 2, 1, true, false, true},
        {20, 33, 7, 24, 2, 1, true, false, false},  {24, 31, 12, 20, 1, 2, true, false, true},
        {30, 2, 16, 30, 2, 2, false, true, false},  {4, 150, 9, 17, 1, 1, false, true, false},
    };
    for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++) {
        spec s = spec_plain(n % 2 == 0 ? FL_F32 : FL_F64, shapes[n].T, shapes[n].B, shapes[n].I, shapes[n].H);
        s.shape.num_layers = shapes[n].L;
        s.shape.num_directions = shapes[n].D;
        s.ragged = shapes[n].ragged;
        s.indexed = shapes[n].indexed;
        s.given_state = true;
        options o = options_plain(&s);
        o.resets = shapes[n].resets;
        o.dropout = n % 2 == 0 ? 0.5 : 0.0;
        check_pass(&s, &o, 4);
    }
}

void test_training_schedules(void) { run_test("training_schedules", training_schedules); }

/* ---- Interruption -------------------------------------------------------------------------------------------- */

static int stop_at_once(void *context)
{
    ++*(size_t *)context;
    return 1;
}

/* A backward pass that is stopped may be done again; each way of keeping asks in other places. */
static void training_interrupted(void)
{
    static const size_t saves[] = {FL_SAVE_ALL, FL_SAVE_STATES, 100};
    /* Asked about every 20 ms; sanitizers are slow. */
    const spec s = spec_plain(FL_F32, harness_effort == EFFORT_FULL ? 8000 : 700, 4, 4, 192);
    const options o = options_plain(&s);
    pass a;
    result r;
    gradients right, g;
    fl_tape *tape = NULL;
    pass_make(&a, &s, &o);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    pass_run(&a, tape, FL_SAVE_ALL, 1, &r, &right);
    for (size_t n = 0; n < 3; n++)
        for (size_t threads = 1; threads <= 2; threads++) {
            size_t asked = 0;
            fl_record_args recorded = record_args(&a, &r, saves[n], threads);
            gradients_make(&g, &a);
            fl_backward_args args = backward_args(&a, &g, threads);
            EXPECT_STATUS(fl_stack_record(a.p.stack, &recorded, tape), FL_OK);
            args.interrupt = stop_at_once;
            args.interrupt_context = &asked;
            EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &args), FL_ERROR_INTERRUPTED);
            EXPECT(asked == 1, "asked %zu times", asked);
            args.interrupt = NULL;
            EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &args), FL_OK);
            EXPECT(arenas_equal(&right.outputs, &g.outputs), "save %zu, %zu threads", saves[n], threads);
            recorded.call.interrupt = stop_at_once;
            recorded.call.interrupt_context = &asked;
            recorded.call.T = (size_t)1 << 24; /* far too long, over the first step again and again */
            recorded.call.x_stride_t = recorded.call.y_stride_t = 0;
            recorded.save = SIZE_MAX - 1;
            EXPECT_STATUS(fl_stack_record(a.p.stack, &recorded, tape), FL_ERROR_INTERRUPTED);
            EXPECT_STATUS(fl_stack_backward(a.p.stack, tape, &args), FL_ERROR_ARGUMENT);
            guard_release(&g.outputs);
        }
    fl_tape_destroy(tape);
    pass_results_free(&r, &right);
    pass_free(&a);
}

void test_training_interruptions(void) { run_test("training_interrupted", training_interrupted); }
