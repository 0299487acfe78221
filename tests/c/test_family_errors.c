/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What can go wrong with cells of the family: options that do not go together, missing parameters, no memory, interruption.
 */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "harness/family.h"
#include "tests.h"
#include "harness/training_pass.h"

/* ---- Options ------------------------------------------------------------------------------------------------- */

static fl_status create_with(const fl_cell_options *o, size_t H)
{
    const fl_stack_shape shape = {FL_F32, 3, H, 1, 1, *o};
    fl_stack *stack = NULL;
    const long live = atomic_load(&allocations_live);
    const fl_status status = fl_stack_create(&shape, &stack);
    EXPECT((status == FL_OK) == (stack != NULL), "status %d", (int)status);
    fl_stack_destroy(stack);
    EXPECT(atomic_load(&allocations_live) == live, "memory lost");
    return status;
}

/* One change of an option of a kind, which then is FL_ERROR_ARGUMENT, or FL_OK. */
#define WITH(kind_, change, wanted)                \
    do {                                           \
        fl_cell_options o = {.kind = (kind_)};     \
        change;                                    \
        EXPECT_STATUS(create_with(&o, 6), wanted); \
    } while (0)
#define REFUSE(kind_, change) WITH(kind_, change, FL_ERROR_ARGUMENT)
#define ACCEPT(kind_, change) WITH(kind_, change, FL_OK)

static void options_of_all_kinds(fl_cell_kind kind)
{
    static const double no_limits[] = {-1.0, -1e-300, (double)-INFINITY, (double)NAN};
    static const double no_rates[] = {-0.1, 1.0000001, (double)INFINITY, (double)-INFINITY, (double)NAN};
    ACCEPT(kind, (void)o);
    REFUSE(kind, o.coupling = (fl_coupling)(FL_NO_FORGET_GATE + 1));
    REFUSE(kind, o.coupling = (fl_coupling)-1);
    REFUSE(kind, o.layer_norm = (fl_layer_norm)(FL_LAYER_NORM_HASTE + 1));
    REFUSE(kind, o.layer_norm = (fl_layer_norm)-1);
    for (size_t n = 0; n < 3; n++) {
        REFUSE(kind, o.activations[n].kind = FL_ACTIVATION_COUNT);
        REFUSE(kind, o.activations[n].kind = (fl_activation_kind)-1);
    }
    for (size_t n = 0; n < sizeof no_limits / sizeof *no_limits; n++) {
        REFUSE(kind, o.gate_clip = no_limits[n]);
        REFUSE(kind, o.cell_clip = no_limits[n]);
        REFUSE(kind, o.proj_size = kind == FL_CELL_LSTM ? 2 : 0; o.proj_clip = no_limits[n]);
        REFUSE(kind, o.n_floor = no_limits[n]);
    }
    for (size_t n = 0; n < sizeof no_rates / sizeof *no_rates; n++) {
        REFUSE(kind, o.zoneout_c = no_rates[n]);
        REFUSE(kind, o.zoneout_h = no_rates[n]);
        REFUSE(kind, o.recurrent_dropout = no_rates[n]);
    }
}

/* Options that another kind has. */
static void options_of_others(fl_cell_kind kind)
{
    const bool is_lstm = kind == FL_CELL_LSTM, is_gru = kind == FL_CELL_GRU, is_slstm = kind == FL_CELL_SLSTM;
    const bool has_activations = is_lstm || is_gru || kind == FL_CELL_RNN || kind == FL_CELL_INDRNN;
    const bool clips_gates = is_lstm || is_gru || kind == FL_CELL_RNN;
    const fl_status of_lstm = is_lstm ? FL_OK : FL_ERROR_ARGUMENT;
    for (int coupling = FL_F_FROM_I; coupling <= FL_NO_FORGET_GATE; coupling++)
        WITH(kind, o.coupling = (fl_coupling)coupling, of_lstm);
    WITH(kind, o.layer_norm = FL_LAYER_NORM_GATE, of_lstm);
    WITH(kind, o.layer_norm = FL_LAYER_NORM_HASTE, of_lstm);
    WITH(kind, o.peephole = true, of_lstm);
    WITH(kind, o.cell_clip = 1.0, of_lstm);
    WITH(kind, o.proj_size = 2, of_lstm);
    WITH(kind, o.proj_size = 2; o.proj_clip = 1.0, of_lstm);
    WITH(kind, o.zoneout_c = 0.5, of_lstm);
    WITH(kind, o.zoneout_h = 0.5, of_lstm);
    WITH(kind, o.zoneout_c = o.zoneout_h = 1.0, of_lstm);
    WITH(kind, o.recurrent_dropout = 0.5, of_lstm);
    WITH(kind, o.recurrent_dropout = 1.0, of_lstm);
    WITH(kind, o.reset_before = true, is_gru ? FL_OK : FL_ERROR_ARGUMENT);
    for (size_t heads = 1; heads <= 8; heads++)
        WITH(kind, o.heads = heads, is_slstm && 6 % heads == 0 ? FL_OK : FL_ERROR_ARGUMENT);
    WITH(kind, o.n_floor = 1.0, is_slstm ? FL_OK : FL_ERROR_ARGUMENT);
    WITH(kind, o.gate_clip = 1.0, clips_gates ? FL_OK : FL_ERROR_ARGUMENT);
    for (int activation = FL_SIGMOID; activation < FL_ACTIVATION_COUNT; activation++)
        WITH(kind, o.activations[0].kind = (fl_activation_kind)activation, has_activations ? FL_OK : FL_ERROR_ARGUMENT);
    if (is_lstm || is_gru || !has_activations)
        WITH(kind, o.activations[1].kind = FL_RELU, has_activations ? FL_OK : FL_ERROR_ARGUMENT);
}

static void family_options(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) {
        options_of_all_kinds((fl_cell_kind)kind);
        options_of_others((fl_cell_kind)kind);
    }
    REFUSE(FL_CELL_COUNT, (void)o);
    REFUSE((fl_cell_kind)-1, (void)o);
    REFUSE((fl_cell_kind)INT_MAX, (void)o);
    REFUSE(FL_CELL_LSTM, o.layer_norm = FL_LAYER_NORM_HASTE; o.peephole = true);
    ACCEPT(FL_CELL_LSTM, o.layer_norm = FL_LAYER_NORM_GATE; o.peephole = true);
    REFUSE(FL_CELL_LSTM, o.proj_size = 7);
    ACCEPT(FL_CELL_LSTM, o.proj_size = 6);
    REFUSE(FL_CELL_LSTM, o.proj_size = SIZE_MAX);
    REFUSE(FL_CELL_LSTM, o.proj_clip = 1.0);
    REFUSE(FL_CELL_LSTM, o.proj_size = 3; o.zoneout_h = 0.1);
    ACCEPT(FL_CELL_LSTM, o.proj_size = 3; o.zoneout_c = 0.1);
    /* Options that are sums of others' wrongs, and sizes that do not fit. */
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) {
        static const size_t many = (size_t)PTRDIFF_MAX / 16;
        const fl_stack_shape shapes[] = {{FL_F64, 3, many, 1, 1, {.kind = (fl_cell_kind)kind}},
                                         {FL_F32, many, 3, 1, 1, {.kind = (fl_cell_kind)kind}},
                                         {FL_F32, 3, 3, many, 2, {.kind = (fl_cell_kind)kind}}};
        for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++) {
            fl_stack *stack = NULL;
            const fl_status status = fl_stack_create(&shapes[n], &stack);
            EXPECT(status == FL_ERROR_SIZE && stack == NULL, "kind %d, shape %zu: status %d", kind, n, (int)status);
        }
    }
}

/* ---- Some cells that between them have all parameters ------------------------------------------------------- */

#define SOME_CELLS 13

static family_spec some_cell(size_t number, fl_dtype dtype, size_t T, size_t B, size_t I, size_t H)
{
    static const fl_cell_kind kinds[SOME_CELLS] = {
        FL_CELL_LSTM, FL_CELL_LSTM,   FL_CELL_LSTM,  FL_CELL_LSTM,   FL_CELL_LSTM,    FL_CELL_GRU, FL_CELL_GRU,
        FL_CELL_RNN,  FL_CELL_INDRNN, FL_CELL_SLSTM, FL_CELL_MINGRU, FL_CELL_MINLSTM, FL_CELL_MGU};
    family_spec s = family_plain(kinds[number], dtype, T, B, I, H);
    fl_cell_options *o = &s.shape.cell;
    s.shape.num_layers = 2;
    s.draws = true;
    s.bias_hr = true;
    switch (number) {
    case 0: o->peephole = true; break;
    case 1:
        o->layer_norm = FL_LAYER_NORM_GATE;
        o->coupling = FL_I_FROM_F;
        o->peephole = true;
        break;
    case 2:
        o->layer_norm = FL_LAYER_NORM_HASTE;
        o->recurrent_dropout = 0.5;
        o->zoneout_h = 0.5;
        break;
    case 3:
        o->proj_size = H / 2 + 1;
        o->zoneout_c = 0.5;
        o->coupling = FL_F_FROM_I;
        break;
    case 4:
        o->proj_size = H / 3 + 1;
        o->recurrent_dropout = 0.5;
        o->recurrent_dropout_tied = true;
        break;
    case 6: o->reset_before = true; break;
    case 9: o->heads = H % 3 == 0 ? 3 : 1; break;
    default: break;
    }
    return s;
}

/* ---- Parameters and arrays ----------------------------------------------------------------------------------- */

static bool all_untouched(const guard_arena *outputs)
{
    for (size_t n = 0; n < outputs->count; n++)
        for (size_t byte = 0; byte < outputs->blocks[n].bytes; byte++)
            if (outputs->blocks[n].data[byte] != 0xff)
                return false;
    return true;
}

/* Each parameter that the cell needs: not to be missing.  Each that it does not have: not looked at. */
static void check_parameters(const family *f, fl_tape *tape, const fl_backward_args *right)
{
    guard_arena arena = {0};
    void *nowhere = guard_new(&arena, 0, 1); /* touches a page that must not be touched */
    fl_weights weights = f->weights[0], more = f->weights[0];
    const void **slots[FAMILY_PARAMETERS], **more_slots[FAMILY_PARAMETERS];
    family_weights(&weights, slots);
    family_weights(&more, more_slots);
    for (size_t n = 0; n < FAMILY_PARAMETERS; n++) {
        const bool may_be_missing = n == 2 || n == 3 || n == 6; /* a bias */
        if (f->sizes[0][n] == 0) {
            if (!may_be_missing)
                *more_slots[n] = nowhere;
            continue;
        }
        const void *kept = *slots[n];
        fl_weights given[FAMILY_CELLS];
        fl_gradients wanted[FAMILY_CELLS];
        void **wanted_slots[FAMILY_PARAMETERS];
        *slots[n] = NULL;
        EXPECT(fl_stack_pack(f->stack, 0, 0, &weights) == (may_be_missing ? FL_OK : FL_ERROR_ARGUMENT),
               "%s: parameter %zu", family_text(f), n);
        memcpy(given, right->weights, f->cells * sizeof *given);
        memcpy(wanted, right->gradients, f->cells * sizeof *wanted);
        given[0] = weights;
        family_gradients_of(&wanted[f->cells - 1], wanted_slots);
        *wanted_slots[n] = NULL;
        fl_backward_args args = *right;
        args.weights = given;
        if (!may_be_missing)
            EXPECT_STATUS(fl_stack_backward(f->stack, tape, &args), FL_ERROR_ARGUMENT);
        args.weights = right->weights;
        args.gradients = wanted;
        if (!may_be_missing)
            EXPECT_STATUS(fl_stack_backward(f->stack, tape, &args), FL_ERROR_ARGUMENT);
        *slots[n] = kept;
    }
    EXPECT_STATUS(fl_stack_pack(f->stack, 0, 0, &more), FL_OK);
    guard_release(&arena);
}

static void check_arguments(size_t number)
{
    const family_spec s = some_cell(number, FL_F64, 5, 3, 4, 6);
    family f;
    family_result r;
    family_gradients g;
    fl_tape *tape = NULL;
    family_make(&f, &s);
    family_result_make(&r, &f);
    family_gradients_make(&g, &f);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    const fl_record_args recorded = family_record_args(&f, &r, FL_SAVE_ALL, 1);
    const fl_backward_args right = family_backward_args(&f, &g, 1);
#define REFUSE_CALL(change)                                                      \
    do {                                                                         \
        fl_record_args args = recorded;                                          \
        change;                                                                  \
        EXPECT_STATUS(fl_stack_forward(f.stack, &args.call), FL_ERROR_ARGUMENT); \
        EXPECT_STATUS(fl_stack_record(f.stack, &args, tape), FL_ERROR_ARGUMENT); \
    } while (0)
    REFUSE_CALL(args.call.h_n = NULL);
    REFUSE_CALL(args.call.y = NULL);
    if (f.states != 0)
        REFUSE_CALL(args.call.c_n = NULL);
    else
        REFUSE_CALL(args.call.cells = r.y);
    EXPECT(all_untouched(&r.outputs), "%s: something was written", family_text(&f));
    EXPECT_STATUS(fl_gate_matmul(f.stack, 1, f.x, 4, f.h0, 6, r.y, 24),
                  FL_ERROR_ARGUMENT); /* of the plain LSTM alone */
    EXPECT_STATUS(fl_stack_record(f.stack, &recorded, tape), FL_OK);
#define REFUSE_BACKWARD(change)                                                    \
    do {                                                                           \
        fl_backward_args args = right;                                             \
        change;                                                                    \
        EXPECT_STATUS(fl_stack_backward(f.stack, tape, &args), FL_ERROR_ARGUMENT); \
    } while (0)
    REFUSE_BACKWARD(args.dh0 = NULL);
    if (f.states != 0)
        REFUSE_BACKWARD(args.dc0 = NULL);
    else
        REFUSE_BACKWARD(args.dcells = f.dy);
    check_parameters(&f, tape, &right);
    EXPECT(all_untouched(&g.outputs) && all_untouched(&g.of_dx), "%s: something was written", family_text(&f));
    EXPECT_STATUS(fl_stack_backward(f.stack, tape, &right), FL_OK);
    /* Gradients of biases may be left out; the others stay the same. */
    family_gradients fewer;
    family_gradients_make(&fewer, &f);
    fl_gradients wanted[FAMILY_CELLS];
    memcpy(wanted, fewer.of, sizeof wanted);
    for (size_t cell = 0; cell < f.cells; cell++)
        wanted[cell].bias_ih = wanted[cell].bias_hh = wanted[cell].bias_hr = NULL;
    fl_backward_args args = family_backward_args(&f, &fewer, 1);
    args.gradients = wanted;
    EXPECT_STATUS(fl_stack_backward(f.stack, tape, &args), FL_OK);
    for (size_t cell = 0; cell < f.cells; cell++) {
        void **slots[FAMILY_PARAMETERS], **fewer_slots[FAMILY_PARAMETERS];
        family_gradients_of(&g.of[cell], slots);
        family_gradients_of(&wanted[cell], fewer_slots);
        for (size_t n = 0; n < FAMILY_PARAMETERS; n++)
            EXPECT(*fewer_slots[n] == NULL ||
                       memcmp(*slots[n], *fewer_slots[n], family_sizes(&f, cell)[n] * f.real_size) == 0,
                   "%s: parameter %zu without gradients of biases", family_text(&f), n);
    }
    family_gradients_free(&fewer);
    fl_tape_destroy(tape);
    family_result_free(&r);
    family_gradients_free(&g);
    family_free(&f);
}

static void family_arguments(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) check_arguments(number);
}

/* ---- No memory ----------------------------------------------------------------------------------------------- */

/* Each allocation of a call fails, one after the other, until it succeeds. */
#define UNTIL_MEMORY(call, after)                                                                  \
    do {                                                                                           \
        fl_status status_ = FL_ERROR_MEMORY;                                                       \
        size_t nth_ = 0;                                                                           \
        for (; status_ == FL_ERROR_MEMORY && nth_ < 100; nth_++) {                                 \
            allocation_fail(1 + nth_ / 2); /* what was taken before may be kept: fewer are left */ \
            status_ = (call);                                                                      \
            allocation_fail(0);                                                                    \
            if (status_ != FL_OK) {                                                                \
                after;                                                                             \
            }                                                                                      \
        }                                                                                          \
        EXPECT_STATUS(status_, FL_OK);                                                             \
        EXPECT(nth_ > 1, "%s: no allocation failed", family_text(&f));                             \
    } while (0)

static void check_without_memory(size_t number, size_t threads)
{
    const family_spec s = some_cell(number, FL_F32, 12, 9, 10, 33);
    const size_t save = number % 3 == 0 ? FL_SAVE_ALL : number % 3 == 1 ? FL_SAVE_STATES : 4;
    family f;
    family_result forward, expected, r;
    family_gradients right, g;
    fl_tape *tape = NULL;
    fl_stack *made = NULL;
    fl_stream *stream = NULL;
    family_make(&f, &s);
    family_run(&f, threads, &forward);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    family_train(&f, tape, save, threads, &expected, &right);
    fl_tape_destroy(tape);
    fl_stack_destroy(f.stack);
    f.stack = NULL;
    const long live = atomic_load(&allocations_live);
    UNTIL_MEMORY(fl_stack_create(&s.shape, &made), EXPECT(atomic_load(&allocations_live) == live, "memory lost"));
    f.stack = made;
    family_pack(&f);
    family_result_make(&r, &f);
    const fl_forward_args call = family_args(&f, &r, threads);
    UNTIL_MEMORY(fl_stack_forward(f.stack, &call), EXPECT(all_untouched(&r.outputs), "something was written"));
    EXPECT(arenas_equal(&forward.outputs, &r.outputs), "%s: wrong results", family_text(&f));
    UNTIL_MEMORY(fl_stream_create(f.stack, s.B, 1, &stream), EXPECT(stream == NULL, "a stream in spite of an error"));
    fl_stream_destroy(stream);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    family_gradients_make(&g, &f);
    const fl_record_args recorded = family_record_args(&f, &r, save, threads);
    const fl_backward_args args = family_backward_args(&f, &g, threads);
    UNTIL_MEMORY(fl_stack_record(f.stack, &recorded, tape),
                 EXPECT_STATUS(fl_stack_backward(f.stack, tape, &args), FL_ERROR_ARGUMENT));
    UNTIL_MEMORY(fl_stack_backward(f.stack, tape, &args), (void)0);
    EXPECT(arenas_equal(&expected.outputs, &r.outputs), "%s: wrong results", family_text(&f));
    EXPECT(family_gradients_equal(&f, &right, &f, &g), "%s: wrong gradients", family_text(&f));
    fl_tape_destroy(tape);
    fl_stack_destroy(f.stack);
    f.stack = NULL;
    EXPECT(atomic_load(&allocations_live) == live, "%s: %ld blocks, then %ld", family_text(&f), live,
           atomic_load(&allocations_live));
    family_result_free(&forward);
    family_result_free(&expected);
    family_result_free(&r);
    family_gradients_free(&right);
    family_gradients_free(&g);
    family_free(&f);
}

static void family_without_memory(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) {
        check_without_memory(number, 1);
        if (harness_effort == EFFORT_FULL)
            check_without_memory(number, 3);
    }
}

/* The same again takes nothing. */
static void family_leaves_memory_flat(void)
{
    for (size_t number = 0; number < SOME_CELLS; number++) {
        family_spec s = some_cell(number, FL_F32, 12, 9, 10, 33);
        family f;
        family_result r;
        family_gradients g;
        fl_tape *tape = NULL;
        s.ragged = true;
        family_make(&f, &s);
        EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
        family_train(&f, tape, number % 2 == 0 ? FL_SAVE_ALL : 5, 1, &r, &g);
        const fl_record_args recorded = family_record_args(&f, &r, number % 2 == 0 ? FL_SAVE_ALL : 5, 1);
        const fl_backward_args args = family_backward_args(&f, &g, 1);
        EXPECT_STATUS(fl_stack_forward(f.stack, &recorded.call), FL_OK);
        const long live = atomic_load(&allocations_live), made = atomic_load(&allocations_made);
        for (size_t repeat = 0; repeat < rounds(12); repeat++) {
            EXPECT_STATUS(fl_stack_forward(f.stack, &recorded.call), FL_OK);
            EXPECT_STATUS(fl_stack_record(f.stack, &recorded, tape), FL_OK);
            EXPECT_STATUS(fl_stack_backward(f.stack, tape, &args), FL_OK);
        }
        EXPECT(atomic_load(&allocations_live) == live && atomic_load(&allocations_made) == made, "%s: %ld allocations",
               family_text(&f), atomic_load(&allocations_made) - made);
        fl_tape_destroy(tape);
        family_result_free(&r);
        family_gradients_free(&g);
        family_free(&f);
    }
}

void test_family_errors(void)
{
    run_test("family_options", family_options);
    run_test("family_arguments", family_arguments);
    run_test("family_without_memory", family_without_memory);
    run_test("family_leaves_memory_flat", family_leaves_memory_flat);
}

/* ---- Interruption -------------------------------------------------------------------------------------------- */

static int stop_at_once(void *context)
{
    ++*(size_t *)context;
    return 1;
}

/* Far too long a call, over the first step again and again; and a backward pass that is then done again. */
static void check_interruption(size_t number, size_t threads)
{
    /* Asked about every 20 ms, for which one thread is not too fast in full; sanitizers are slow. */
    const bool full = harness_effort == EFFORT_FULL;
    family_spec s = some_cell(number, FL_F32, full ? 4000 : 250, 4, 4, full ? 192 : 48);
    const size_t save = number % 2 == 0 ? FL_SAVE_ALL : 200;
    family f;
    family_result r;
    family_gradients right, g;
    fl_tape *tape = NULL;
    size_t asked = 0;
    s.shape.num_layers = 1;
    s.shape.cell.heads = 0;
    s.bptt = 30; /* lest gradients explode */
    s.gives_dcells = s.wants_cells = false;
    family_make(&f, &s);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    family_train(&f, tape, save, 1, &r, &right);
    family_gradients_make(&g, &f);
    fl_record_args recorded = family_record_args(&f, &r, save, threads);
    fl_backward_args args = family_backward_args(&f, &g, 1);
    args.interrupt = stop_at_once;
    args.interrupt_context = &asked;
    const fl_status status = fl_stack_backward(f.stack, tape, &args);
    EXPECT(asked == 1 || (asked == 0 && !full), "%s: asked %zu times", family_text(&f), asked);
    EXPECT_STATUS(status, asked != 0 ? FL_ERROR_INTERRUPTED : FL_OK);
    args.interrupt = NULL;
    args.num_threads = threads;
    EXPECT_STATUS(fl_stack_backward(f.stack, tape, &args), FL_OK);
    EXPECT(family_gradients_equal(&f, &right, &f, &g), "%s: gradients after an interruption", family_text(&f));
    recorded.call.interrupt = stop_at_once;
    recorded.call.interrupt_context = &asked;
    recorded.call.T = (size_t)1 << 24;
    recorded.call.x_stride_t = recorded.call.y_stride_t = 0;
    recorded.save = SIZE_MAX - 1;
    EXPECT_STATUS(fl_stack_forward(f.stack, &recorded.call), FL_ERROR_INTERRUPTED);
    EXPECT_STATUS(fl_stack_record(f.stack, &recorded, tape), FL_ERROR_INTERRUPTED);
    EXPECT_STATUS(fl_stack_backward(f.stack, tape, &args), FL_ERROR_ARGUMENT);
    fl_tape_destroy(tape);
    family_result_free(&r);
    family_gradients_free(&right);
    family_gradients_free(&g);
    family_free(&f);
}

static void family_interrupted(void)
{
    /* Whole rows with masks of zoneout, single steps, tiles, whole rows. */
    static const size_t numbers[] = {2, 3, 5, 9};
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) check_interruption(numbers[n], 1 + n % 2);
}

void test_family_interruptions(void) { run_test("family_interrupted", family_interrupted); }
