/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a caller can ask and say by name: options, activations, what a cell is, its parameters, what a step costs; and the
 * masks of dropout.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "harness/family.h"
#include "harness/training_pass.h"
#include "tests.h"

static const fl_dtype dtypes[] = {FL_F32, FL_F64};

static const char *const kinds[FL_CELL_COUNT] = {
    [FL_CELL_LSTM] = "lstm",   [FL_CELL_GRU] = "gru",       [FL_CELL_RNN] = "rnn",         [FL_CELL_INDRNN] = "indrnn",
    [FL_CELL_SLSTM] = "slstm", [FL_CELL_MINGRU] = "mingru", [FL_CELL_MINLSTM] = "minlstm", [FL_CELL_MGU] = "mgu"};

/* ---- Options by name ----------------------------------------------------------------------------------------- */

/* No field has another value than it has in `wanted`; paddings are not compared. */
static bool options_equal(const fl_cell_options *a, const fl_cell_options *b)
{
    for (size_t n = 0; n < 3; n++)
        if (a->activations[n].kind != b->activations[n].kind || a->activations[n].alpha != b->activations[n].alpha ||
            a->activations[n].beta != b->activations[n].beta)
            return false;
    return a->kind == b->kind && a->gate_clip == b->gate_clip && a->coupling == b->coupling &&
           a->layer_norm == b->layer_norm && a->peephole == b->peephole && a->cell_clip == b->cell_clip &&
           a->proj_size == b->proj_size && a->proj_clip == b->proj_clip && a->zoneout_c == b->zoneout_c &&
           a->zoneout_h == b->zoneout_h && a->zoneout_expectation == b->zoneout_expectation &&
           a->recurrent_dropout == b->recurrent_dropout && a->recurrent_dropout_tied == b->recurrent_dropout_tied &&
           a->reset_before == b->reset_before && a->heads == b->heads && a->n_floor == b->n_floor;
}

static const fl_cell_options some_options = {.kind = FL_CELL_GRU,
                                             .gate_clip = 7.0,
                                             .coupling = FL_F_FROM_I,
                                             .layer_norm = FL_LAYER_NORM_GATE,
                                             .peephole = true,
                                             .cell_clip = 8.0,
                                             .proj_size = 9,
                                             .zoneout_c = 0.25,
                                             .heads = 3};

/* From no options, and from some, one is set and no other. */
#define SET(name, text, number, field, value)                                                      \
    do {                                                                                           \
        fl_cell_options zero = {0}, zero_wanted = {0}, some = some_options, wanted = some_options; \
        zero_wanted.field = wanted.field = (value);                                                \
        EXPECT_STATUS(fl_cell_set_option(&zero, name, text, number), FL_OK);                       \
        EXPECT_STATUS(fl_cell_set_option(&some, name, text, number), FL_OK);                       \
        EXPECT(options_equal(&zero, &zero_wanted) && options_equal(&some, &wanted), "%s", name);   \
    } while (0)

static void refuse_option(const char *name, const char *text, double number)
{
    fl_cell_options o = some_options;
    EXPECT(fl_cell_set_option(&o, name, text, number) == FL_ERROR_ARGUMENT, "%s, %s, %g", name,
           text != NULL ? text : "null", number);
    EXPECT(options_equal(&o, &some_options), "%s: something was set", name);
}

static void option_names(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) SET("kind", kinds[kind], 77.0, kind, (fl_cell_kind)kind);
    SET("kind", NULL, 0.0, kind, FL_CELL_LSTM);
    SET("coupling", NULL, 1.0, coupling, FL_COUPLING_NONE);
    SET("coupling", "f_from_i", 0.0, coupling, FL_F_FROM_I);
    SET("coupling", "i_from_f", 0.0, coupling, FL_I_FROM_F);
    SET("coupling", "no_forget_gate", 0.0, coupling, FL_NO_FORGET_GATE);
    SET("layer_norm", NULL, 1.0, layer_norm, FL_LAYER_NORM_NONE);
    SET("layer_norm", "gate", 0.0, layer_norm, FL_LAYER_NORM_GATE);
    SET("layer_norm", "haste", 0.0, layer_norm, FL_LAYER_NORM_HASTE);
    for (unsigned flag = 0; flag < 2; flag++) {
        SET("peephole", NULL, (double)flag, peephole, flag != 0);
        SET("zoneout_expectation", NULL, (double)flag, zoneout_expectation, flag != 0);
        SET("recurrent_dropout_tied", NULL, (double)flag, recurrent_dropout_tied, flag != 0);
        SET("reset_before", NULL, (double)flag, reset_before, flag != 0);
    }
    for (unsigned n = 0; n < 2; n++) {
        const double number = n == 0 ? 0.0 : 0.3;
        SET("gate_clip", NULL, number, gate_clip, number);
        SET("cell_clip", NULL, number, cell_clip, number);
        SET("proj_clip", NULL, number, proj_clip, number);
        SET("zoneout_c", NULL, number, zoneout_c, number);
        SET("zoneout_h", NULL, number, zoneout_h, number);
        SET("recurrent_dropout", NULL, number, recurrent_dropout, number);
        SET("n_floor", NULL, number, n_floor, number);
    }
    static const size_t sizes[] = {0, 1, 12, INT32_MAX};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        SET("proj_size", NULL, (double)sizes[n], proj_size, sizes[n]);
        SET("heads", NULL, (double)sizes[n], heads, sizes[n]);
    }
}

static void option_names_refused(void)
{
    static const char *const unknown[] = {"",     "Kind",  "kind ", "kin",         "kinds",
                                          "head", "clips", "bias",  "activations", "activations[0]"};
    static const char *const named[] = {"kind", "coupling", "layer_norm"};
    static const char *const texts[] = {"", "LSTM", "lstm ", "lst", "Gate", "gates", "0", "f_from_i,i_from_f"};
    static const double no_sizes[] = {-1.0,   0.5,   1e-300,           3.0000001,         0x1p53,
                                      0x1p64, 1e300, (double)INFINITY, -(double)INFINITY, (double)NAN};
    fl_cell_options o = {0};
    for (size_t n = 0; n < sizeof unknown / sizeof *unknown; n++) refuse_option(unknown[n], NULL, 1.0);
    for (size_t field = 0; field < sizeof named / sizeof *named; field++)
        for (size_t n = 0; n < sizeof texts / sizeof *texts; n++) refuse_option(named[field], texts[n], 0.0);
    /* Each enumeration has its own names. */
    refuse_option("kind", "gate", 0.0);
    refuse_option("coupling", "gate", 0.0);
    refuse_option("layer_norm", "f_from_i", 0.0);
    for (size_t n = 0; n < sizeof no_sizes / sizeof *no_sizes; n++) {
        refuse_option("proj_size", NULL, no_sizes[n]);
        refuse_option("heads", NULL, no_sizes[n]);
    }
    EXPECT_STATUS(fl_cell_set_option(NULL, "kind", "lstm", 0.0), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_set_option(&o, NULL, "lstm", 0.0), FL_ERROR_ARGUMENT);
}

static void activation_names(void)
{
    static const char *const names[FL_ACTIVATION_COUNT] = {[FL_SIGMOID] = "Sigmoid",
                                                           [FL_TANH] = "Tanh",
                                                           [FL_RELU] = "Relu",
                                                           [FL_AFFINE] = "Affine",
                                                           [FL_LEAKY_RELU] = "LeakyRelu",
                                                           [FL_THRESHOLDED_RELU] = "ThresholdedRelu",
                                                           [FL_SCALED_TANH] = "ScaledTanh",
                                                           [FL_HARD_SIGMOID] = "HardSigmoid",
                                                           [FL_ELU] = "Elu",
                                                           [FL_SOFTSIGN] = "Softsign",
                                                           [FL_SOFTPLUS] = "Softplus"};
    static const char *const unknown[] = {"", "sigmoid", "TANH", "Tanh ", "Tan", "HardSwish"};
    for (size_t index = 0; index < 3; index++) {
        for (int kind = 0; kind < FL_ACTIVATION_COUNT; kind++) { /* null is the cell's own */
            const fl_activation activation = {(fl_activation_kind)kind, 0.5, -2.0};
            fl_cell_options o = some_options, wanted = some_options;
            wanted.activations[index] = activation;
            EXPECT_STATUS(fl_cell_set_activation(&o, index, names[kind], 0.5, -2.0), FL_OK);
            EXPECT(options_equal(&o, &wanted), "activation %zu, %d", index, kind);
        }
        for (size_t n = 0; n < sizeof unknown / sizeof *unknown; n++) {
            fl_cell_options o = some_options;
            EXPECT(fl_cell_set_activation(&o, index, unknown[n], 0.5, 0.5) == FL_ERROR_ARGUMENT, "%s", unknown[n]);
            EXPECT(options_equal(&o, &some_options), "%s: something was set", unknown[n]);
        }
    }
    fl_cell_options o = some_options;
    EXPECT_STATUS(fl_cell_set_activation(&o, 3, "Tanh", 0.0, 0.0), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_set_activation(&o, SIZE_MAX, "Tanh", 0.0, 0.0), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_set_activation(NULL, 0, "Tanh", 0.0, 0.0), FL_ERROR_ARGUMENT);
    EXPECT(options_equal(&o, &some_options), "something was set");
}

/* ---- What a cell is ------------------------------------------------------------------------------------------ */

static void cell_facts(void)
{
    static const struct {
        fl_cell_options options;
        const char *gates, *states;
        size_t width;
        bool draws;
    } cells[] = {
        {{.kind = FL_CELL_LSTM}, "ifgo", "hc", 6, false},
        {{.kind = FL_CELL_LSTM, .peephole = true, .gate_clip = 1.0}, "ifgo", "hc", 6, false},
        {{.kind = FL_CELL_LSTM, .coupling = FL_F_FROM_I}, "igo", "hc", 6, false},
        {{.kind = FL_CELL_LSTM, .coupling = FL_I_FROM_F}, "fgo", "hc", 6, false},
        {{.kind = FL_CELL_LSTM, .coupling = FL_I_FROM_F, .layer_norm = FL_LAYER_NORM_HASTE}, "fgo", "hc", 6, false},
        {{.kind = FL_CELL_LSTM, .coupling = FL_NO_FORGET_GATE}, "igo", "hc", 6, false},
        {{.kind = FL_CELL_LSTM, .layer_norm = FL_LAYER_NORM_GATE}, "ifgo", "hc", 6, false},
        {{.kind = FL_CELL_LSTM, .proj_size = 2}, "ifgo", "hc", 2, false},
        {{.kind = FL_CELL_LSTM, .proj_size = 6, .zoneout_c = 0.1}, "ifgo", "hc", 6, true},
        {{.kind = FL_CELL_LSTM, .zoneout_h = 1.0}, "ifgo", "hc", 6, true},
        {{.kind = FL_CELL_LSTM, .recurrent_dropout = 0.5}, "ifgo", "hc", 6, true},
        {{.kind = FL_CELL_LSTM, .zoneout_expectation = true, .recurrent_dropout_tied = true}, "ifgo", "hc", 6, false},
        {{.kind = FL_CELL_GRU}, "rzn", "h", 6, false},
        {{.kind = FL_CELL_GRU, .reset_before = true}, "rzn", "h", 6, false},
        {{.kind = FL_CELL_INDRNN}, "h", "h", 6, false},
        {{.kind = FL_CELL_SLSTM, .heads = 3}, "ifzo", "hcnm", 6, false},
        {{.kind = FL_CELL_MINGRU}, "zh", "h", 6, false},
        {{.kind = FL_CELL_MINLSTM}, "fih", "h", 6, false},
        {{.kind = FL_CELL_MGU}, "fn", "h", 6, false},
    };
    for (size_t n = 0; n < sizeof cells / sizeof *cells; n++) {
        fl_cell_facts facts;
        EXPECT_STATUS(fl_cell_get_facts(&cells[n].options, 6, &facts), FL_OK);
        EXPECT(strcmp(facts.gates, cells[n].gates) == 0 && strcmp(facts.states, cells[n].states) == 0 &&
                   facts.width == cells[n].width && facts.draws == cells[n].draws,
               "cell %zu: gates %s, states %s, width %zu, draws %d", n, facts.gates, facts.states, facts.width,
               facts.draws);
    }
    static const fl_cell_options wrong[] = {
        {.kind = FL_CELL_COUNT},
        {.kind = FL_CELL_MGU, .peephole = true},
        {.kind = FL_CELL_MGU, .gate_clip = 1.0},
        {.kind = FL_CELL_MGU, .activations = {{FL_TANH, 0.0, 0.0}}},
        {.kind = FL_CELL_LSTM, .proj_size = 7},
        {.kind = FL_CELL_SLSTM, .heads = 4},
    };
    fl_cell_facts facts;
    for (size_t n = 0; n < sizeof wrong / sizeof *wrong; n++)
        EXPECT(fl_cell_get_facts(&wrong[n], 6, &facts) == FL_ERROR_ARGUMENT, "options %zu", n);
    EXPECT_STATUS(fl_cell_get_facts(NULL, 6, &facts), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_get_facts(&cells[0].options, 6, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_cell_get_facts(&cells[0].options, 0, &facts), FL_ERROR_ARGUMENT);
}

/* ---- Parameters ---------------------------------------------------------------------------------------------- */

static const char *const parameter_names[FL_PARAMETER_COUNT] = {
    "weight_ih", "weight_hh",    "bias_ih",      "bias_hh",     "weight_ch", "weight_hr",
    "bias_hr",   "weight_ln_ih", "weight_ln_hh", "weight_ln_c", "bias_ln_c"};

/* The packed layer needs what the facts tell: all but the optional ones; what has no dimensions is not looked at. */
static void compare_with_pack(const family *f, size_t cell, const fl_parameter_facts *facts)
{
    const size_t D = f->spec.shape.num_directions;
    const double other = 0.0;
    fl_weights least = f->weights[cell];
    const void **slots[FAMILY_PARAMETERS];
    family_weights(&least, slots);
    for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
        if (facts[n].is_optional)
            *slots[n] = NULL;
    EXPECT_STATUS(fl_stack_pack(f->stack, cell / D, cell % D, &least), FL_OK);
    for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
        const void *kept = *slots[n];
        if (facts[n].dims != 0 && facts[n].is_optional)
            continue;
        const fl_status expected = facts[n].dims != 0 ? FL_ERROR_ARGUMENT : FL_OK;
        *slots[n] = facts[n].dims != 0 ? NULL : &other;
        EXPECT(fl_stack_pack(f->stack, cell / D, cell % D, &least) == expected, "%s: %s %s", family_text(f),
               facts[n].dims != 0 ? "without" : "with", facts[n].name);
        *slots[n] = kept;
    }
}

static void compare_parameters(const family *f, size_t cell)
{
    const size_t layer = cell / f->spec.shape.num_directions, D = f->spec.shape.num_directions;
    const size_t I = layer == 0 ? f->spec.shape.input_size : D * f->P;
    fl_parameter_facts facts[FL_PARAMETER_COUNT];
    for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
        fl_parameter_facts *fact = &facts[n];
        EXPECT_STATUS(fl_parameter_get_facts(&f->spec.shape, layer, n, fact), FL_OK);
        const size_t size = fact->dims == 0 ? 0 : fact->dims == 1 ? fact->shape[0] : fact->shape[0] * fact->shape[1];
        EXPECT(strcmp(fact->name, parameter_names[n]) == 0 && size == family_sizes(f, cell)[n] && fact->dims <= 2,
               "%s: layer %zu, %s: %zu dimensions, %zu elements, not %zu", family_text(f), layer, fact->name,
               fact->dims, size, family_sizes(f, cell)[n]);
        EXPECT(fact->is_optional == (strncmp(fact->name, "bias", 4) == 0 && n != 10), "%s", fact->name);
    }
    EXPECT(facts[0].dims == 2 && facts[0].shape[0] == f->gates * f->H && facts[0].shape[1] == I, "%s: weight_ih",
           family_text(f));
    EXPECT(facts[1].dims == 0 || (facts[1].dims == 1) == (f->spec.shape.cell.kind == FL_CELL_INDRNN), "%s: weight_hh",
           family_text(f));
    EXPECT(facts[5].dims == 0 || (facts[5].shape[0] == f->P && facts[5].shape[1] == f->H), "%s: weight_hr",
           family_text(f));
    compare_with_pack(f, cell, facts);
}

static void parameter_facts(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 96 : 24); repeat++) {
            family_spec s = family_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            const family_spec plain = family_plain((fl_cell_kind)kind, dtypes[0], 1, 1, 1, 1);
            family f;
            s.T = s.B = 1;
            s.bias_ih = s.bias_hr = true;
            s.bias_hh = plain.bias_hh;
            family_make(&f, &s);
            for (size_t cell = 0; cell < f.cells; cell++) compare_parameters(&f, cell);
            family_free(&f);
        }
}

static void parameter_facts_refused(void)
{
    const fl_stack_shape right = {FL_F64, 3, 6, 2, 2, {.kind = FL_CELL_GRU}};
    const size_t many = (size_t)PTRDIFF_MAX / 16;
    const fl_stack_shape wrong[] = {
        {(fl_dtype)2, 3, 6, 2, 2, {.kind = FL_CELL_GRU}}, {FL_F64, 0, 6, 2, 2, {.kind = FL_CELL_GRU}},
        {FL_F64, 3, 0, 2, 2, {.kind = FL_CELL_GRU}},      {FL_F64, 3, 6, 0, 2, {.kind = FL_CELL_GRU}},
        {FL_F64, 3, 6, 2, 0, {.kind = FL_CELL_GRU}},      {FL_F64, 3, 6, 2, 3, {.kind = FL_CELL_GRU}},
        {FL_F64, 3, 6, 2, 2, {.kind = FL_CELL_COUNT}},    {FL_F64, 3, 6, 2, 2, {.kind = FL_CELL_GRU, .peephole = true}},
    };
    const fl_stack_shape too_large[] = {{FL_F64, many, 6, 2, 2, {.kind = FL_CELL_GRU}},
                                        {FL_F64, 3, many, 2, 2, {.kind = FL_CELL_GRU}}};
    fl_parameter_facts facts;
    fl_stack *stack = NULL;
    for (size_t n = 0; n < sizeof wrong / sizeof *wrong; n++) {
        EXPECT(fl_parameter_get_facts(&wrong[n], 0, 0, &facts) == FL_ERROR_ARGUMENT, "shape %zu", n);
        EXPECT(fl_stack_create(&wrong[n], &stack) == FL_ERROR_ARGUMENT, "shape %zu", n);
    }
    for (size_t n = 0; n < sizeof too_large / sizeof *too_large; n++) {
        EXPECT(fl_parameter_get_facts(&too_large[n], 0, 0, &facts) == FL_ERROR_SIZE, "shape %zu", n);
        EXPECT(fl_stack_create(&too_large[n], &stack) == FL_ERROR_SIZE, "shape %zu", n);
    }
    EXPECT_STATUS(fl_parameter_get_facts(NULL, 0, 0, &facts), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_parameter_get_facts(&right, 0, 0, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_parameter_get_facts(&right, 2, 0, &facts), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_parameter_get_facts(&right, SIZE_MAX, 0, &facts), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_parameter_get_facts(&right, 0, FL_PARAMETER_COUNT, &facts), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_parameter_get_facts(&right, 1, FL_PARAMETER_COUNT - 1, &facts), FL_OK);
}

/* ---- The cost of a step -------------------------------------------------------------------------------------- */

/* All weights of matrices, and about fifty multiply-adds for a unit's activations, if not twice or half that. */
static void step_work(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(24); repeat++) {
            const family_spec s = family_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            family f;
            double products = 0.0;
            family_make(&f, &s);
            for (size_t cell = 0; cell < f.cells; cell++)
                products += (double)(family_sizes(&f, cell)[0] + family_sizes(&f, cell)[1] + family_sizes(&f, cell)[5]);
            const double units = (double)(f.cells * f.H), work = fl_shape_step_work(&f.spec.shape);
            EXPECT(work >= products + 25.0 * units && work <= products + 100.0 * units, "%s: %g, with %g of products",
                   family_text(&f), work, products);
            family_free(&f);
        }
}

/* ---- Dropout ------------------------------------------------------------------------------------------------- */

/* A layer of a stack by itself, from x to y, (T, B, D*P) both but for the first x. */
static void run_layer(const family *f, const family_result *whole, size_t layer, const char *x, char *y, char *h,
                      char *c)
{
    const size_t D = f->spec.shape.num_directions, rows = layer * D * f->spec.B;
    const ptrdiff_t width = (ptrdiff_t)(D * f->P), B = (ptrdiff_t)f->spec.B;
    fl_stack_shape shape = f->spec.shape;
    fl_stack *stack = NULL;
    fl_forward_args args = family_args(f, whole, 1);
    shape.num_layers = 1;
    if (layer != 0) {
        shape.input_size = D * f->P;
        args.x = x;
        args.x_index = NULL;
        args.x_at = NULL;
        args.x_stride_t = B * width;
        args.x_stride_b = width;
    }
    args.y = y;
    args.y_at = NULL;
    args.y_stride_t = B * width;
    args.y_stride_b = width;
    args.h0 = f->h0 != NULL ? (char *)f->h0 + rows * family_h_bytes(f) : NULL;
    args.c0 = f->c0 != NULL ? (char *)f->c0 + rows * family_c_bytes(f) : NULL;
    args.h_n = h;
    args.c_n = c;
    EXPECT_STATUS(fl_stack_create(&shape, &stack), FL_OK);
    for (size_t d = 0; d < D; d++) EXPECT_STATUS(fl_stack_pack(stack, 0, d, &f->weights[layer * D + d]), FL_OK);
    EXPECT_STATUS(fl_stack_forward(stack, &args), FL_OK);
    fl_stack_destroy(stack);
}

/* Layers one by one with fl_dropout between them are the recorded pass of the stack. */
static void compare_dropout(const family_spec *s)
{
    family f;
    family_result whole;
    guard_arena arena = {0};
    fl_tape *tape = NULL;
    family_make(&f, s);
    family_result_make(&whole, &f);
    EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
    const fl_record_args args = family_record_args(&f, &whole, FL_SAVE_ALL, random_size(1, 2));
    EXPECT_STATUS(fl_stack_record(f.stack, &args, tape), FL_OK);
    const size_t D = s->shape.num_directions, L = s->shape.num_layers, elements = s->T * s->B * D * f.P;
    const size_t rows = D * s->B, h_bytes = rows * family_h_bytes(&f), c_bytes = rows * family_c_bytes(&f);
    char *x = guard_new(&arena, elements, f.real_size), *y = guard_new(&arena, elements, f.real_size);
    char *h = guard_new(&arena, h_bytes, 1), *c = f.states != 0 ? guard_new(&arena, c_bytes, 1) : NULL;
    for (size_t layer = 0; layer < L; layer++) {
        run_layer(&f, &whole, layer, x, y, h, c);
        EXPECT(memcmp(h, whole.h_n + layer * h_bytes, h_bytes) == 0 &&
                   (c == NULL || memcmp(c, whole.c_n + layer * c_bytes, c_bytes) == 0),
               "%s: states of layer %zu", family_text(&f), layer);
        if (layer + 1 < L)
            fl_dropout(s->shape.dtype, s->dropout, FAMILY_SEED, (uint64_t)(layer * elements), elements, y, x);
    }
    EXPECT(memcmp(y, whole.y_memory, elements * f.real_size) == 0, "%s: y", family_text(&f));
    fl_tape_destroy(tape);
    guard_release(&arena);
    family_result_free(&whole);
    family_free(&f);
}

static void dropout_between_layers(void)
{
    static const double rates[] = {0.375, 0.5, 0.999, 1.0};
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(24); repeat++) {
            family_spec s = family_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            s.shape.num_layers = random_size(2, 3);
            s.ragged = s.resets = s.draws = s.wants_cells = false;
            s.x_order = s.y_order = ORDER_TIME_FIRST;
            s.dropout = rates[repeat % 4];
            compare_dropout(&s);
        }
}

/* Each element is its own: any part, in place or not; and as many are dropped as were asked for. */
static void dropout_by_places(void)
{
    enum { COUNT = 4000 };
    static const double rates[] = {0.0, 0.1, 0.5, 1.0};
    for (size_t n = 0; n < 8; n++) {
        const fl_dtype dtype = dtypes[n % 2];
        const double p = rates[n / 2];
        const size_t size = dtype == FL_F32 ? sizeof(float) : sizeof(double);
        const uint64_t seed = random_bits(), first = random_bits();
        const size_t begin = random_size(0, COUNT), end = random_size(begin, COUNT);
        guard_arena arena = {0};
        char *x = guard_new(&arena, COUNT, size), *whole = guard_new(&arena, COUNT, size);
        char *part = guard_new(&arena, end - begin, size);
        for (ptrdiff_t k = 0; k < COUNT; k++) real_put(dtype, x, k, 1.0 + fabs(random_real(1.0)));
        fl_dropout(dtype, p, seed, first, COUNT, x, whole);
        memcpy(part, x + begin * size, (end - begin) * size);
        fl_dropout(dtype, p, seed, first + begin, end - begin, part, part);
        EXPECT(memcmp(part, whole + begin * size, (end - begin) * size) == 0, "p = %g: [%zu, %zu)", p, begin, end);
        const double tolerance = 2.0 * real_epsilon(dtype);
        size_t dropped = 0, wrong = 0;
        for (ptrdiff_t k = 0; k < COUNT; k++) {
            const double in = real_get(dtype, x, k), out = real_get(dtype, whole, k);
            dropped += out == 0.0;
            wrong += out != 0.0 && !(fabs(out * (1.0 - p) / in - 1.0) <= tolerance);
        }
        EXPECT(wrong == 0 &&
                   fabs((double)dropped - p * COUNT) <= 5.0 * sqrt(p * (1.0 - p) * COUNT), /* five deviations */
               "p = %g: %zu of %d dropped, %zu elements scaled wrongly", p, dropped, COUNT, wrong);
        const double beyond = p < 0.5 ? (n % 2 == 0 ? -INFINITY : (double)NAN) : 1.0 + p; /* the nearest end is meant */
        fl_dropout(dtype, beyond, seed, first + begin, end - begin, x + begin * size, part);
        fl_dropout(dtype, p < 0.5 ? 0.0 : 1.0, seed, first, COUNT, x, whole);
        EXPECT(memcmp(part, whole + begin * size, (end - begin) * size) == 0, "p = %g", beyond);
        guard_release(&arena);
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
            family_spec s = family_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            const fl_cell_options none = {.kind = (fl_cell_kind)kind};
            if (repeat % 3 != 0)
                s.shape.cell = none;
            memset(s.shape.cell.activations, 0, sizeof s.shape.cell.activations);
            family_spec spelled = s;
            for (size_t n = 0; n < 3; n++) spelled.shape.cell.activations[n].kind = usual[kind][n];
            family a, b;
            family_result ra, rb;
            family_gradients ga, gb;
            fl_tape *tape = NULL;
            family_make(&a, &s);
            family_make(&b, &spelled);
            family_run(&a, 1, &ra);
            family_run(&b, 1, &rb);
            EXPECT(arenas_equal(&ra.outputs, &rb.outputs), "%s", family_text(&b));
            family_result_free(&ra);
            family_result_free(&rb);
            EXPECT_STATUS(fl_tape_create(&tape), FL_OK);
            family_train(&a, tape, FL_SAVE_ALL, 1, &ra, &ga);
            family_train(&b, tape, FL_SAVE_STATES, 1, &rb, &gb);
            EXPECT(arenas_equal(&ra.outputs, &rb.outputs) && family_gradients_equal(&a, &ga, &b, &gb), "%s: recorded",
                   family_text(&b));
            fl_tape_destroy(tape);
            family_result_free(&ra);
            family_result_free(&rb);
            family_gradients_free(&ga);
            family_gradients_free(&gb);
            family_free(&a);
            family_free(&b);
        }
}

void test_facts(void)
{
    run_test("option_names", option_names);
    run_test("option_names_refused", option_names_refused);
    run_test("activation_names", activation_names);
    run_test("cell_facts", cell_facts);
    run_test("parameter_facts", parameter_facts);
    run_test("parameter_facts_refused", parameter_facts_refused);
    run_test("step_work", step_work);
    run_test("dropout_between_layers", dropout_between_layers);
    run_test("dropout_by_places", dropout_by_places);
    run_test("usual_activations_given", usual_activations_given);
}
