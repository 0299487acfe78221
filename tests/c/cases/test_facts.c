/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a caller can ask and say by name: options, activations, what a cell is, its parameters, what a step costs.
 */
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

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
    for (int kind = 0; kind < FL_CELL_COUNT; kind++) SET("kind", kind_names[kind], 77.0, kind, (fl_cell_kind)kind);
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

/* ---- Options that go together ------------------------------------------------------------------------------------------------- */

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

static void option_values(void)
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
static void compare_with_pack(const problem *p, size_t cell, const fl_parameter_facts *facts)
{
    const size_t D = p->spec.shape.num_directions;
    const double other = 0.0;
    fl_weights least = p->weights[cell];
    const void **slots[FL_PARAMETER_COUNT];
    weight_slots(&least, slots);
    for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
        if (facts[n].is_optional)
            *slots[n] = NULL;
    EXPECT_STATUS(fl_stack_pack(p->stack, cell / D, cell % D, &least), FL_OK);
    for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
        const void *kept = *slots[n];
        if (facts[n].dims != 0 && facts[n].is_optional)
            continue;
        const fl_status expected = facts[n].dims != 0 ? FL_ERROR_ARGUMENT : FL_OK;
        *slots[n] = facts[n].dims != 0 ? NULL : &other;
        EXPECT(fl_stack_pack(p->stack, cell / D, cell % D, &least) == expected, "%s: %s %s", problem_text(p),
               facts[n].dims != 0 ? "without" : "with", facts[n].name);
        *slots[n] = kept;
    }
}

static void compare_parameters(const problem *p, size_t cell)
{
    const size_t layer = cell / p->spec.shape.num_directions, D = p->spec.shape.num_directions;
    const size_t I = layer == 0 ? p->spec.shape.input_size : D * p->P;
    fl_parameter_facts facts[FL_PARAMETER_COUNT];
    for (size_t n = 0; n < FL_PARAMETER_COUNT; n++) {
        fl_parameter_facts *fact = &facts[n];
        EXPECT_STATUS(fl_parameter_get_facts(&p->spec.shape, layer, n, fact), FL_OK);
        const size_t size = fact->dims == 0 ? 0 : fact->dims == 1 ? fact->shape[0] : fact->shape[0] * fact->shape[1];
        EXPECT(strcmp(fact->name, parameter_names[n]) == 0 && size == problem_sizes(p, cell)[n] && fact->dims <= 2,
               "%s: layer %zu, %s: %zu dimensions, %zu elements, not %zu", problem_text(p), layer, fact->name,
               fact->dims, size, problem_sizes(p, cell)[n]);
        EXPECT(fact->is_optional == (strncmp(fact->name, "bias", 4) == 0 && n != 10), "%s", fact->name);
    }
    EXPECT(facts[0].dims == 2 && facts[0].shape[0] == p->gates * p->H && facts[0].shape[1] == I, "%s: weight_ih",
           problem_text(p));
    EXPECT(facts[1].dims == 0 || (facts[1].dims == 1) == (p->spec.shape.cell.kind == FL_CELL_INDRNN), "%s: weight_hh",
           problem_text(p));
    EXPECT(facts[5].dims == 0 || (facts[5].shape[0] == p->P && facts[5].shape[1] == p->H), "%s: weight_hr",
           problem_text(p));
    compare_with_pack(p, cell, facts);
}

static void parameter_facts(void)
{
    for (int kind = 0; kind < FL_CELL_COUNT; kind++)
        for (size_t repeat = 0; repeat < rounds(kind == FL_CELL_LSTM ? 96 : 24); repeat++) {
            spec s = spec_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            const spec plain = spec_plain((fl_cell_kind)kind, dtypes[0], 1, 1, 1, 1);
            problem p;
            s.T = s.B = 1;
            s.bias_ih = s.bias_hr = true;
            s.bias_hh = plain.bias_hh;
            problem_make(&p, &s);
            for (size_t cell = 0; cell < p.cells; cell++) compare_parameters(&p, cell);
            problem_free(&p);
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
            const spec s = spec_random((fl_cell_kind)kind, dtypes[repeat % 2]);
            problem p;
            double products = 0.0;
            problem_make(&p, &s);
            for (size_t cell = 0; cell < p.cells; cell++)
                products +=
                    (double)(problem_sizes(&p, cell)[0] + problem_sizes(&p, cell)[1] + problem_sizes(&p, cell)[5]);
            const double units = (double)(p.cells * p.H), work = fl_shape_step_work(&p.spec.shape);
            EXPECT(work >= products + 25.0 * units && work <= products + 100.0 * units, "%s: %g, with %g of products",
                   problem_text(&p), work, products);
            problem_free(&p);
        }
}

void test_facts(void)
{
    run_test("option_names", option_names);
    run_test("option_names_refused", option_names_refused);
    run_test("activation_names", activation_names);
    run_test("option_values", option_values);
    run_test("cell_facts", cell_facts);
    run_test("parameter_facts", parameter_facts);
    run_test("parameter_facts_refused", parameter_facts_refused);
    run_test("step_work", step_work);
}
