/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Everything that a caller can get wrong has a status of its own, and nothing is written then.  (test_facts.c has options
 * and names.)
 */
#include <math.h>
#include <string.h>

#include "base/machine.h"
#include "harness/problem.h"
#include "tests.h"

#define HUGE_COUNT ((size_t)PTRDIFF_MAX)

static void create(void)
{
    static const fl_stack_shape wrong[] = {
        {FL_F32, 0, 4, 1, 1, {0}}, {FL_F32, 3, 0, 1, 1, {0}}, {FL_F32, 3, 4, 0, 1, {0}},
        {FL_F32, 3, 4, 1, 0, {0}}, {FL_F32, 3, 4, 1, 3, {0}}, {(fl_dtype)7, 3, 4, 1, 1, {0}},
    };
    static const fl_stack_shape too_large[] = {
        {FL_F32, SIZE_MAX, 4, 1, 1, {0}},         {FL_F32, 3, SIZE_MAX, 1, 1, {0}},
        {FL_F32, 3, 4, SIZE_MAX, 1, {0}},         {FL_F64, SIZE_MAX, SIZE_MAX, SIZE_MAX, 2, {0}},
        {FL_F32, 3, HUGE_COUNT, 1, 1, {0}},       {FL_F32, 3, (size_t)1 << 31, 1, 1, {0}},
        {FL_F64, HUGE_COUNT, 1 << 20, 1, 1, {0}}, {FL_F32, HUGE_COUNT / 16, 1, 1, 1, {0}},
        {FL_F32, 1, 1, HUGE_COUNT / 64, 2, {0}},  {FL_F64, 1, HUGE_COUNT / 63, 1, 1, {0}},
    };
    const fl_stack_shape right = {FL_F32, 3, 4, 1, 1, {0}};
    fl_stack *stack = NULL;
    for (size_t n = 0; n < sizeof wrong / sizeof *wrong; n++)
        for (int kind = 0; kind < FL_CELL_COUNT; kind++) {
            fl_stack_shape shape = wrong[n];
            shape.cell.kind = (fl_cell_kind)kind;
            EXPECT(fl_stack_create(&shape, &stack) == FL_ERROR_ARGUMENT, "%s, shape %zu", kind_names[kind], n);
        }
    for (size_t n = 0; n < sizeof too_large / sizeof *too_large; n++)
        EXPECT(fl_stack_create(&too_large[n], &stack) == FL_ERROR_SIZE, "shape %zu", n);
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) {
        static const size_t many = (size_t)PTRDIFF_MAX / 16;
        const fl_stack_shape shapes[] = {{FL_F64, 3, many, 1, 1, {.kind = (fl_cell_kind)kind}},
                                         {FL_F32, many, 3, 1, 1, {.kind = (fl_cell_kind)kind}},
                                         {FL_F32, 3, 3, many, 2, {.kind = (fl_cell_kind)kind}}};
        for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++)
            EXPECT(fl_stack_create(&shapes[n], &stack) == FL_ERROR_SIZE, "%s, shape %zu", kind_names[kind], n);
    }
    EXPECT_STATUS(fl_stack_create(NULL, &stack), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_create(&right, NULL), FL_ERROR_ARGUMENT);
    EXPECT(stack == NULL, "a layer in spite of an error");
    fl_stack_destroy(NULL);
    fl_stream_destroy(NULL);
}

/* ---- Parameters ---------------------------------------------------------------------------------------------- */

/* Those that the cell needs may not be missing, and then the weights stay; those that it has not are not looked at. */
static void pack(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) {
        const spec s = spec_some(number, FL_F64, 5, 3, 4, 6);
        problem p;
        result before, after;
        guard_arena arena = {0};
        void *nowhere = guard_new(&arena, 0, 1); /* touches a page that must not be touched */
        problem_make(&p, &s);
        problem_run(&p, 1, &before);
        fl_weights weights = p.weights[0], more = p.weights[0];
        const void **slots[FL_PARAMETER_COUNT], **more_slots[FL_PARAMETER_COUNT];
        weight_slots(&weights, slots);
        weight_slots(&more, more_slots);
        EXPECT_STATUS(fl_stack_pack(NULL, 0, 0, &weights), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_pack(p.stack, 0, 0, NULL), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_pack(p.stack, 2, 0, &weights), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_pack(p.stack, 0, 1, &weights), FL_ERROR_ARGUMENT);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
            const void *kept = *slots[n];
            fl_parameter_facts facts;
            EXPECT_STATUS(fl_parameter_get_facts(&s.shape, 0, n, &facts), FL_OK);
            if (facts.dims == 0)
                *more_slots[n] = nowhere;
            if (facts.dims == 0 || facts.is_optional)
                continue;
            *slots[n] = NULL;
            EXPECT(fl_stack_pack(p.stack, 0, 0, &weights) == FL_ERROR_ARGUMENT, "%s: without %s", problem_text(&p),
                   facts.name);
            *slots[n] = kept;
        }
        EXPECT_STATUS(fl_stack_pack(p.stack, 0, 0, &more), FL_OK);
        problem_run(&p, 1, &after);
        EXPECT(arenas_equal(&before.outputs, &after.outputs), "%s: weights changed", problem_text(&p));
        guard_release(&arena);
        result_free(&before);
        result_free(&after);
        problem_free(&p);
    }
}

/* ---- Calls --------------------------------------------------------------------------------------------------- */

/* One change of right arguments each, of a call and of a recorded pass. */
static void check_calls(size_t number, bool indexed)
{
    spec s = spec_some(number, FL_F32, 3, 2, 4, 6);
    problem p;
    result r;
    fl_tape *tape = NULL;
    s.shape.num_directions = 1 + number % 2;
    s.ragged = true;
    s.indexed = indexed;
    problem_make(&p, &s);
    result_make(&r, &p);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    const fl_record_args right = problem_record_args(&p, &r, FL_SAVE_ALL, 1);
    const int64_t some_index[6] = {0};
    const float some_x[24] = {0};
    size_t bytes = 0;
    EXPECT_STATUS(fl_stack_forward(NULL, &right.call), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_forward(p.stack, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_record(NULL, &right, tape), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_record(p.stack, NULL, tape), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_record(p.stack, &right, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_workspace(NULL, &right.call, &bytes), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_workspace(p.stack, NULL, &bytes), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_workspace(p.stack, &right.call, NULL), FL_ERROR_ARGUMENT);
#define REFUSE_RECORD(change, wanted)                                 \
    do {                                                              \
        fl_record_args args = right;                                  \
        change;                                                       \
        EXPECT_STATUS(fl_stack_record(p.stack, &args, tape), wanted); \
    } while (0)
#define REFUSE(change, wanted)                                        \
    do {                                                              \
        fl_record_args args = right;                                  \
        change;                                                       \
        EXPECT_STATUS(fl_stack_forward(p.stack, &args.call), wanted); \
        EXPECT_STATUS(fl_stack_record(p.stack, &args, tape), wanted); \
    } while (0)
    REFUSE(args.call.y = NULL, FL_ERROR_ARGUMENT);
    REFUSE(args.call.h_n = NULL, FL_ERROR_ARGUMENT);
    if (p.states != 0)
        REFUSE(args.call.c_n = NULL, FL_ERROR_ARGUMENT);
    else
        REFUSE(args.call.cells = r.y, FL_ERROR_ARGUMENT);
    REFUSE((args.call.x = NULL, args.call.x_index = NULL), FL_ERROR_ARGUMENT);
    REFUSE((args.call.x = some_x, args.call.x_index = some_index), FL_ERROR_ARGUMENT);
    REFUSE(args.call.T = SIZE_MAX, FL_ERROR_SIZE);
    REFUSE(args.call.B = SIZE_MAX, FL_ERROR_SIZE);
    REFUSE(args.call.T = HUGE_COUNT, FL_ERROR_SIZE);
    REFUSE((args.call.T = HUGE_COUNT, args.call.B = HUGE_COUNT), FL_ERROR_SIZE);
    REFUSE((args.call.T = 0, args.call.B = SIZE_MAX / 8), FL_ERROR_SIZE);
    for (size_t n = 0; n < 8; n++) {
        static const int64_t bad[] = {-1, 4, INT64_MIN, INT64_MAX};
        int64_t lengths[2] = {3, 3};
        lengths[n / 4] = bad[n % 4];
        REFUSE(args.call.lengths = lengths, FL_ERROR_LENGTH);
    }
    for (size_t n = 0; indexed && n < 3; n++) {
        static const int64_t bad[] = {-1, 4, INT64_MIN};
        const int64_t index[6] = {0, 1, 2, 3, 0, bad[n]}; /* (2, 1) */
        REFUSE((args.call.lengths = NULL, args.call.x_index = index), FL_ERROR_INDEX);
    }
    REFUSE_RECORD(args.dropout = -0.1, FL_ERROR_ARGUMENT);
    REFUSE_RECORD(args.dropout = 1.1, FL_ERROR_ARGUMENT);
    REFUSE_RECORD(args.dropout = (double)NAN, FL_ERROR_ARGUMENT);
    REFUSE_RECORD(args.call.h_n = p.h0, FL_ERROR_ARGUMENT);
    if (p.states != 0)
        REFUSE_RECORD(args.call.c_n = p.c0, FL_ERROR_ARGUMENT);
    EXPECT(arena_untouched(&r.outputs), "%s: outputs are written in spite of an error", problem_text(&p));
    fl_tape_destroy(tape);
    result_free(&r);
    problem_free(&p);
}

static void calls(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) {
        check_calls(number, false);
        check_calls(number, true);
    }
}

/* Steps times layers that wrap to nothing, though the steps of each layer are a size that fits. */
static void recorded_too_long(void)
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

/* ---- Backward ------------------------------------------------------------------------------------------------ */

#define REFUSE_BACKWARD(change)                                                     \
    do {                                                                            \
        fl_backward_args args = *right;                                             \
        fl_gradients wanted[MOST_CELLS];                                            \
        fl_weights given[MOST_CELLS];                                               \
        void **wanted_slots[FL_PARAMETER_COUNT];                                    \
        const void **given_slots[FL_PARAMETER_COUNT];                               \
        memcpy(wanted, right->gradients, p->cells * sizeof *wanted);                \
        memcpy(given, right->weights, p->cells * sizeof *given);                    \
        gradient_slots(&wanted[p->cells - 1], wanted_slots);                        \
        weight_slots(&given[0], given_slots);                                       \
        args.gradients = wanted;                                                    \
        args.weights = given;                                                       \
        change;                                                                     \
        EXPECT_STATUS(fl_stack_backward(p->stack, tape, &args), FL_ERROR_ARGUMENT); \
    } while (0)

static void refuse_backward(const problem *p, fl_tape *tape, const fl_backward_args *right, void *y)
{
    fl_stack *other = NULL;
    EXPECT_STATUS(fl_stack_create(&p->spec.shape, &other), FL_OK);
    REFUSE_BACKWARD(args.weights = NULL);
    REFUSE_BACKWARD(args.gradients = NULL);
    REFUSE_BACKWARD(args.dh0 = NULL);
    if (p->states != 0)
        REFUSE_BACKWARD(args.dc0 = NULL);
    else
        REFUSE_BACKWARD(args.dcells = p->dy);
    if (p->spec.indexed)
        REFUSE_BACKWARD(args.dx = y); /* an index has no gradient */
    for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
        fl_parameter_facts facts;
        EXPECT_STATUS(fl_parameter_get_facts(&p->spec.shape, 0, n, &facts), FL_OK);
        if (facts.dims == 0 || facts.is_optional)
            continue;
        REFUSE_BACKWARD(*wanted_slots[n] = NULL);
        REFUSE_BACKWARD(*given_slots[n] = NULL);
    }
    EXPECT_STATUS(fl_stack_backward(NULL, tape, right), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_backward(p->stack, NULL, right), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_backward(p->stack, tape, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_backward(other, tape, right), FL_ERROR_ARGUMENT); /* another layer's tape */
    fl_stack_destroy(other);
}

/* Gradients of biases may be left out; the others stay the same. */
static void leave_out_biases(const problem *p, fl_tape *tape, const gradients *all)
{
    gradients fewer;
    gradients_make(&fewer, p);
    for (size_t cell = 0; cell < p->cells; cell++)
        fewer.of[cell].bias_ih = fewer.of[cell].bias_hh = fewer.of[cell].bias_hr = NULL;
    const fl_backward_args args = problem_backward_args(p, &fewer, 1);
    EXPECT_STATUS(fl_stack_backward(p->stack, tape, &args), FL_OK);
    for (size_t cell = 0; cell < p->cells; cell++) {
        fl_gradients of = all->of[cell];
        void **slots[FL_PARAMETER_COUNT], **fewer_slots[FL_PARAMETER_COUNT];
        gradient_slots(&of, slots);
        gradient_slots(&fewer.of[cell], fewer_slots);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
            EXPECT(*fewer_slots[n] == NULL ||
                       memcmp(*slots[n], *fewer_slots[n], problem_sizes(p, cell)[n] * p->real_size) == 0,
                   "%s: parameter %zu without gradients of biases", problem_text(p), n);
    }
    gradients_free(&fewer);
}

static void check_backward(size_t number, bool indexed)
{
    spec s = spec_some(number, FL_F64, 5, 3, 4, 6);
    problem p;
    result r;
    gradients g;
    fl_tape *tape = NULL;
    s.ragged = true;
    s.indexed = indexed;
    s.wants_dx = !indexed;
    problem_make(&p, &s);
    while (problem_steps(&p) == 0) { /* of which nothing would have to be kept */
        problem_free(&p);
        s.seed = random_bits();
        problem_make(&p, &s);
    }
    result_make(&r, &p);
    gradients_make(&g, &p);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    fl_record_args recorded = problem_record_args(&p, &r, FL_SAVE_ALL, 1);
    const fl_backward_args right = problem_backward_args(&p, &g, 1);
    const size_t steps = problem_steps(&p);
    EXPECT_STATUS(fl_stack_backward(p.stack, tape, &right), FL_ERROR_ARGUMENT); /* nothing is recorded */
    EXPECT(fl_tape_bytes(tape) == 0 && fl_tape_bytes(NULL) == 0, "%zu bytes", fl_tape_bytes(tape));
    EXPECT_STATUS(fl_stack_record(p.stack, &recorded, tape), FL_OK);
    EXPECT(fl_tape_bytes(tape) >= steps * p.gates * p.H * sizeof(double), "%s: %zu bytes of %zu steps",
           problem_text(&p), fl_tape_bytes(tape), steps);
    refuse_backward(&p, tape, &right, r.y);
    EXPECT(arena_untouched(&g.outputs) && arena_untouched(&g.of_dx), "%s: something was written", problem_text(&p));
    EXPECT_STATUS(fl_stack_backward(p.stack, tape, &right), FL_OK);
    recorded.dropout = 2.0;
    EXPECT_STATUS(fl_stack_record(p.stack, &recorded, tape), FL_ERROR_ARGUMENT);
    leave_out_biases(&p, tape, &g); /* what was recorded is still there */
    fl_tape_destroy(tape);
    result_free(&r);
    gradients_free(&g);
    problem_free(&p);
}

static void backward(void)
{
    EXPECT_STATUS(fl_tape_create(NULL), FL_ERROR_ARGUMENT);
    fl_tape_destroy(NULL);
    for (size_t number = 0; number < SOME_CELLS; number++) {
        check_backward(number, false);
        check_backward(number, true);
    }
}

/* ---- The rest ------------------------------------------------------------------------------------------------ */

static void workspace(void)
{
    const size_t many = SIZE_MAX / 16 + 1;
    for (size_t D = 1; D <= 2; D++)
        for (size_t L = 1; L <= 3; L += 2) {
            const size_t sizes[6] = {0, 0, 4, 20, L, D};
            const spec s = spec_stack(FL_CELL_LSTM, FL_F64, sizes);
            problem p;
            problem_make(&p, &s);
            size_t bytes = 0, short_one = 0, long_one = 0;
            fl_forward_args args = {.T = 0, .B = 3, .num_threads = 1};
            EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &bytes), FL_OK);
            args.T = 3;
            args.B = 0;
            EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &bytes), FL_OK);
            args.B = 3;
            args.T = 100000;
            EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &short_one), FL_OK);
            args.T = 10000000;
            EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &long_one), FL_OK);
            if (D == 1 || L == 1)
                EXPECT(long_one == short_one, "L=%zu: %zu bytes, then %zu", L, short_one, long_one);
            else
                EXPECT(long_one - short_one == (size_t)9900000 * 3 * 2 * 20 * sizeof(double), "%zu bytes, then %zu",
                       short_one, long_one);
            args.T = args.B = many;
            EXPECT_STATUS(fl_stack_workspace(p.stack, &args, &bytes), FL_ERROR_SIZE);
            problem_free(&p);
        }
}

static void stream(void)
{
    spec s = spec_plain(FL_CELL_LSTM, FL_F32, 3, 2, 4, 5);
    s.indexed = true;
    s.wants_cells = s.wants_dx = false;
    problem p, both;
    result r;
    fl_stream *stream = NULL;
    problem_make(&p, &s);
    result_make(&r, &p);
    s.shape.num_directions = 2;
    problem_make(&both, &s);
    EXPECT_STATUS(fl_stream_create(NULL, 1, 1, &stream), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stream_create(p.stack, 1, 1, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stream_create(p.stack, 0, 1, &stream), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stream_create(both.stack, 1, 1, &stream), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stream_create(p.stack, SIZE_MAX, 1, &stream), FL_ERROR_SIZE);
    EXPECT_STATUS(fl_stream_create(p.stack, HUGE_COUNT / 4, 1, &stream), FL_ERROR_SIZE);
    EXPECT(stream == NULL, "a stream in spite of an error");
    EXPECT_STATUS(fl_stream_create(p.stack, 2, 1, &stream), FL_OK);
    if (stream != NULL) {
        const fl_stream_io right = {
            .x_index = p.x_index, .x_stride_t = 2, .x_stride_b = 1, .y = r.y, .y_stride_t = 10, .y_stride_b = 5};
        fl_stream_io io = right;
        int64_t index[6] = {0, 1, 2, 3, 0, 4};
        EXPECT_STATUS(fl_stream_process(NULL, 1, &right), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stream_process(stream, 1, NULL), FL_ERROR_ARGUMENT);
        io.y = NULL;
        EXPECT_STATUS(fl_stream_process(stream, 1, &io), FL_ERROR_ARGUMENT);
        io = right;
        io.x_index = NULL;
        EXPECT_STATUS(fl_stream_process(stream, 1, &io), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stream_process(stream, 0, &io), FL_OK);
        io.x_index = index;
        EXPECT_STATUS(fl_stream_process(stream, 3, &io), FL_ERROR_INDEX);
        EXPECT_STATUS(fl_stream_process(stream, SIZE_MAX, &right), FL_ERROR_SIZE);
        for (size_t n = 0; n < 10; n++)
            EXPECT(((float *)fl_stream_h(stream))[n] == 0.0F && ((float *)fl_stream_c(stream))[n] == 0.0F,
                   "state %zu changed", n);
        EXPECT(arena_untouched(&r.outputs), "outputs are written in spite of an error");
    }
    fl_stream_destroy(stream);
    result_free(&r);
    problem_free(&p);
    problem_free(&both);
}

static void pieces(void)
{
    const spec s = spec_plain(FL_CELL_LSTM, FL_F32, 1, 1, 2, 1);
    const float in[4] = {0};
    float out[4] = {-1.0F, -1.0F, -1.0F, -1.0F};
    problem p;
    problem_make(&p, &s);
    EXPECT_STATUS(fl_gate_matmul(NULL, 1, in, 2, in, 1, out, 4), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_gate_matmul(p.stack, 1, NULL, 2, in, 1, out, 4), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_gate_matmul(p.stack, 1, in, 2, NULL, 1, out, 4), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_gate_matmul(p.stack, 1, in, 2, in, 1, NULL, 4), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_gate_matmul(p.stack, 0, NULL, 2, NULL, 1, NULL, 4), FL_OK);
    EXPECT_STATUS(fl_cell_update((fl_dtype)5, 1, 1, in, 4, in, 1, out, 1, out + 1, 1), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_update(FL_F32, 1, 1, NULL, 4, in, 1, out, 1, out + 1, 1), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_update(FL_F32, 1, 1, in, 4, NULL, 1, out, 1, out + 1, 1), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_update(FL_F32, 1, 1, in, 4, in, 1, NULL, 1, out + 1, 1), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_update(FL_F32, 1, 1, in, 4, in, 1, out, 1, NULL, 1), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_update(FL_F32, 0, 1, NULL, 4, NULL, 1, NULL, 1, NULL, 1), FL_OK);
    EXPECT(out[0] == -1.0F && out[1] == -1.0F, "outputs are written in spite of an error");
    problem_free(&p);
    for (size_t number = 1; number < SOME_CELLS; number++) { /* of the plain LSTM alone */
        const spec other = spec_some(number, FL_F32, 1, 1, 2, 1);
        problem_make(&p, &other);
        EXPECT_STATUS(fl_gate_matmul(p.stack, 1, in, 2, in, 1, out, 4), FL_ERROR_ARGUMENT);
        problem_free(&p);
    }
}

static void instruction_sets(void)
{
    const char *active = fl_isa_active();
    EXPECT_STATUS(fl_isa_select("sse9"), FL_ERROR_ISA);
    EXPECT_STATUS(fl_isa_select(""), FL_ERROR_ISA);
    for (size_t n = 0; n < FL_ISA_COUNT; n++) {
        const fl_isa_info info = fl_isa_get(n);
        EXPECT(info.built || !info.available, "%s is available and not built", info.name);
        EXPECT(n != 0 || (strcmp(info.name, "generic") == 0 && info.available), "the first one is %s", info.name);
        if (!info.built)
            EXPECT_STATUS(fl_isa_select(info.name), FL_ERROR_ISA);
    }
    EXPECT(fl_isa_active() == active, "%s after an error", fl_isa_active());
}

/* A name is the most that may be used: a machine that has less takes the best it has. */
static void instruction_sets_of_lesser_machines(void)
{
    static const unsigned lacking[] = {0, FL_CAN_AVX512, FL_CAN_AVX512 | FL_CAN_AVX2, FL_CAN_NEON, ~0U};
    const char *before = fl_isa_active();
    size_t less = 0;
    for (size_t m = 0; m < sizeof lacking / sizeof *lacking; m++) {
        machine_lacks(lacking[m]);
        const char *best = "generic";
        for (size_t n = 0; n < FL_ISA_COUNT; n++) {
            const fl_isa_info info = fl_isa_get(n);
            best = info.available ? info.name : best;
            if (!info.built)
                continue;
            EXPECT_STATUS(fl_isa_select(info.name), FL_OK);
            EXPECT(strcmp(fl_isa_active(), best) == 0, "%s for at most %s, not %s", fl_isa_active(), info.name, best);
            less += !info.available;
        }
        EXPECT_STATUS(fl_isa_select(NULL), FL_OK);
        EXPECT(strcmp(fl_isa_active(), best) == 0, "%s without a cap, not %s", fl_isa_active(), best);
    }
    machine_lacks(0);
    EXPECT(less != 0 || !fl_isa_get(FL_ISA_COUNT - 1).built, "no machine was lesser");
    EXPECT_STATUS(fl_isa_select(before), FL_OK);
    EXPECT(strcmp(fl_isa_active(), before) == 0, "%s afterwards", fl_isa_active());
}

static void status_texts(void)
{
    for (int status = FL_OK - 1; status <= FL_ERROR_ISA + 1; status++)
        for (int other = FL_OK; other < status && status <= FL_ERROR_ISA; other++)
            EXPECT(strcmp(fl_status_text((fl_status)status), fl_status_text((fl_status)other)) != 0,
                   "%d and %d are both %s", status, other, fl_status_text((fl_status)status));
    EXPECT(strlen(fl_status_text((fl_status)99)) > 0, "no text for an unknown status");
}

void test_errors(void)
{
    run_test("errors_create", create);
    run_test("errors_pack", pack);
    run_test("errors_calls", calls);
    run_test("errors_recorded_too_long", recorded_too_long);
    run_test("errors_backward", backward);
    run_test("workspace", workspace);
    run_test("errors_stream", stream);
    run_test("errors_pieces", pieces);
    run_test("errors_instruction_sets", instruction_sets);
    run_test("errors_instruction_sets_of_lesser_machines", instruction_sets_of_lesser_machines);
    run_test("status_texts", status_texts);
}
