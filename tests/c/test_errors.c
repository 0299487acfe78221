/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Everything that a caller can get wrong has a status of its own, and nothing is written then.
 */
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
        {FL_F32, SIZE_MAX, 4, 1, 1, {0}},
        {FL_F32, 3, SIZE_MAX, 1, 1, {0}},
        {FL_F32, 3, 4, SIZE_MAX, 1, {0}},
        {FL_F64, SIZE_MAX, SIZE_MAX, SIZE_MAX, 2, {0}},
        {FL_F32, 3, HUGE_COUNT, 1, 1, {0}},
        {FL_F32, 3, (size_t)1 << 31, 1, 1, {0}},
        {FL_F64, (size_t)1 << 40, 1 << 20, 1, 1, {0}},
        {FL_F32, HUGE_COUNT / 16, 1, 1, 1, {0}},
        {FL_F32, 1, 1, HUGE_COUNT / 64, 2, {0}},
        {FL_F64, 1, HUGE_COUNT / 63, 1, 1, {0}},
    };
    const fl_stack_shape right = {FL_F32, 3, 4, 1, 1, {0}};
    fl_stack *stack = NULL;
    for (size_t n = 0; n < sizeof wrong / sizeof *wrong; n++)
        EXPECT_STATUS(fl_stack_create(&wrong[n], &stack), FL_ERROR_ARGUMENT);
    for (size_t n = 0; n < sizeof too_large / sizeof *too_large; n++)
        EXPECT(fl_stack_create(&too_large[n], &stack) == FL_ERROR_SIZE, "shape %zu", n);
    EXPECT_STATUS(fl_stack_create(NULL, &stack), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_create(&right, NULL), FL_ERROR_ARGUMENT);
    EXPECT(stack == NULL, "a layer in spite of an error");
    fl_stack_destroy(NULL);
    fl_stream_destroy(NULL);
}

static void pack(void)
{
    const spec s = spec_plain(FL_F32, 2, 2, 3, 5);
    problem p;
    result before, after;
    problem_make(&p, &s);
    problem_run(&p, 1, &before);
    fl_weights weights = p.weights[0];
    EXPECT_STATUS(fl_stack_pack(NULL, 0, 0, &weights), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_pack(p.stack, 0, 0, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_pack(p.stack, 1, 0, &weights), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_stack_pack(p.stack, 0, 1, &weights), FL_ERROR_ARGUMENT);
    weights.weight_ih = NULL;
    EXPECT_STATUS(fl_stack_pack(p.stack, 0, 0, &weights), FL_ERROR_ARGUMENT);
    weights = p.weights[0];
    weights.weight_hh = NULL;
    EXPECT_STATUS(fl_stack_pack(p.stack, 0, 0, &weights), FL_ERROR_ARGUMENT);
    problem_run(&p, 1, &after);
    EXPECT(results_equal(&p, &before, &after), "weights changed");
    result_free(&before);
    result_free(&after);
    problem_free(&p);
}

/* One change of right arguments each. */
static void forward(void)
{
    for (unsigned indexed = 0; indexed < 2; indexed++) {
        spec s = spec_plain(FL_F32, 3, 2, 4, 5);
        s.shape.num_layers = s.shape.num_directions = 2;
        s.ragged = true;
        s.indexed = indexed != 0;
        problem p;
        result r;
        problem_make(&p, &s);
        result_make(&r, &p);
        const fl_forward_args right = problem_args(&p, &r, 1);
        const int64_t some_index[6] = {0};
        const float some_x[24] = {0};
        fl_forward_args args;
        size_t bytes = 0;
        EXPECT_STATUS(fl_stack_forward(NULL, &right), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_forward(p.stack, NULL), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_workspace(NULL, &right, &bytes), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_workspace(p.stack, NULL, &bytes), FL_ERROR_ARGUMENT);
        EXPECT_STATUS(fl_stack_workspace(p.stack, &right, NULL), FL_ERROR_ARGUMENT);
#define EXPECT_WITH(change, status)                              \
    do {                                                         \
        args = right;                                            \
        change;                                                  \
        EXPECT_STATUS(fl_stack_forward(p.stack, &args), status); \
    } while (0)
        EXPECT_WITH(args.y = NULL, FL_ERROR_ARGUMENT);
        EXPECT_WITH(args.h_n = NULL, FL_ERROR_ARGUMENT);
        EXPECT_WITH(args.c_n = NULL, FL_ERROR_ARGUMENT);
        EXPECT_WITH((args.x = NULL, args.x_index = NULL), FL_ERROR_ARGUMENT);
        EXPECT_WITH((args.x = some_x, args.x_index = some_index), FL_ERROR_ARGUMENT);
        EXPECT_WITH(args.T = SIZE_MAX, FL_ERROR_SIZE);
        EXPECT_WITH(args.B = SIZE_MAX, FL_ERROR_SIZE);
        EXPECT_WITH(args.T = HUGE_COUNT, FL_ERROR_SIZE);
        EXPECT_WITH((args.T = (size_t)1 << 40, args.B = (size_t)1 << 40), FL_ERROR_SIZE);
        EXPECT_WITH((args.T = 0, args.B = SIZE_MAX / 8), FL_ERROR_SIZE);
        int64_t lengths[2] = {3, 0};
        for (size_t b = 0; b < 2; b++) {
            static const int64_t bad[] = {-1, 4, INT64_MIN, INT64_MAX};
            for (size_t n = 0; n < 4; n++) {
                lengths[0] = lengths[1] = 3;
                lengths[b] = bad[n];
                EXPECT_WITH(args.lengths = lengths, FL_ERROR_LENGTH);
            }
        }
        for (size_t n = 0; indexed && n < 3; n++) {
            static const int64_t bad[] = {-1, 4, INT64_MIN};
            int64_t index[6] = {0, 1, 2, 3, 0, bad[n]}; /* (2, 1) */
            EXPECT_WITH((args.lengths = NULL, args.x_index = index), FL_ERROR_INDEX);
        }
        EXPECT(result_untouched(&r), "outputs are written in spite of an error");
#undef EXPECT_WITH
        result_free(&r);
        problem_free(&p);
    }
}

static void workspace(void)
{
    const size_t many = (size_t)1 << 60;
    for (size_t D = 1; D <= 2; D++)
        for (size_t L = 1; L <= 3; L += 2) {
            spec s = spec_plain(FL_F64, 0, 0, 4, 20);
            s.shape.num_layers = L;
            s.shape.num_directions = D;
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
    spec s = spec_plain(FL_F32, 3, 2, 4, 5);
    s.indexed = true;
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
        EXPECT(result_untouched(&r), "outputs are written in spite of an error");
    }
    fl_stream_destroy(stream);
    result_free(&r);
    problem_free(&p);
    problem_free(&both);
}

static void pieces(void)
{
    const spec s = spec_plain(FL_F32, 1, 1, 2, 1);
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
    run_test("errors_forward", forward);
    run_test("workspace", workspace);
    run_test("errors_stream", stream);
    run_test("errors_pieces", pieces);
    run_test("errors_instruction_sets", instruction_sets);
    run_test("errors_instruction_sets_of_lesser_machines", instruction_sets_of_lesser_machines);
    run_test("status_texts", status_texts);
}
