/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How far results may be from the truth: outputs and states 2e-6 in float32 and 1e-13 in float64, gradients 6e-6 and 5e-14 of
 * the largest element of their array; and where that is not enough, some times more by as much as the definition itself
 * errs in float32, for some formulas magnify what is rounded.
 */
#include <math.h>

#include "oracle.h"

#define TIMES_MORE 16.0 /* 7 at most is seen */
/* The most that this may add: in float32 50 times the bound, and in float64 what remains where float32 knows no digit of the
 * result.  (Of some 10000 problems 20 need more than the bound, one of them in float32, with an error of 8e-6; 6e-9 in
 * float64.)  What errs by more is no test of anything and must not be drawn. */
#define MOST_MORE_F32 1e-4
#define MOST_MORE_F64 (TIMES_MORE * 0x1p-29)

/* What is compared with the truth: results, or those of the definition in another precision. */
typedef struct candidate {
    const result *r;
    const gradients *g;
    const oracle_pass *other; /* or null */
} candidate;

/* ---- Outputs and states -------------------------------------------------------------------------------------- */

/* Against max(1, |expected|); infinite where one is NaN and the other is not. */
static double worse(double worst, double expected, double got)
{
    if (isnan(expected) || isnan(got))
        return isnan(expected) && isnan(got) ? worst : INFINITY;
    return expected == got ? worst : fmax(worst, fabs(got - expected) / fmax(1.0, fabs(expected)));
}

/* Of steps (T, B); `others`: their places in the other graph, or null. */
static double sequence_error(const oracle_pass *o, const problem *p, const placing *place, const char *got,
                             const var *of, const oracle_pass *other, const var *others)
{
    double worst = 0.0;
    for (size_t b = 0; b < p->spec.B; b++)
        for (size_t t = 0; t < problem_length(p, b); t++)
            for (size_t j = 0; j < place->width; j++) {
                const size_t n = (t * p->spec.B + b) * place->width + j;
                const double value = other != NULL
                                         ? value_of(&other->g, others[n])
                                         : real_get(p->spec.shape.dtype, got, placing_of(place, t, b) + (ptrdiff_t)j);
                worst = worse(worst, value_of(&o->g, of[n]), value);
            }
    return worst;
}

static double states_error(const oracle_pass *o, const problem *p, const void *got, const var *of,
                           const oracle_pass *other, const var *others, size_t count)
{
    double worst = 0.0;
    for (size_t n = 0; n < count; n++)
        worst =
            worse(worst, value_of(&o->g, of[n]),
                  other != NULL ? value_of(&other->g, others[n]) : real_get(p->spec.shape.dtype, got, (ptrdiff_t)n));
    return worst;
}

static double result_error(const oracle_pass *o, const problem *p, const candidate *is)
{
    static const result none;
    static const oracle_pass nowhere;
    const result *r = is->r != NULL ? is->r : &none;
    const oracle_pass *other = is->other != NULL ? is->other : &nowhere;
    const size_t rows = p->cells * p->spec.B;
    double worst = sequence_error(o, p, &p->of_y, r->y, o->y, is->other, other->y);
    worst = fmax(worst, states_error(o, p, r->h_n, o->h_n, is->other, other->h_n, rows * p->P));
    worst = fmax(worst, states_error(o, p, r->c_n, o->c_n, is->other, other->c_n, rows * p->states * p->H));
    if (p->spec.wants_cells)
        worst = fmax(worst, sequence_error(o, p, &p->of_cells, r->cells, o->cells, is->other, other->cells));
    return worst;
}

/* ---- Gradients ----------------------------------------------------------------------------------------------- */

static void seed_sequence(oracle_pass *o, const problem *p, const placing *place, const char *given, const var *of)
{
    for (size_t b = 0; b < p->spec.B && given != NULL; b++)
        for (size_t t = 0; t < problem_length(p, b); t++)
            for (size_t j = 0; j < place->width; j++)
                o->g.nodes[of[(t * p->spec.B + b) * place->width + j]].gradient +=
                    real_get(p->spec.shape.dtype, given, placing_of(place, t, b) + (ptrdiff_t)j);
}

static void seed_states(oracle_pass *o, const problem *p, const void *given, const var *of, size_t count)
{
    for (size_t n = 0; n < count && given != NULL; n++)
        o->g.nodes[of[n]].gradient += real_get(p->spec.shape.dtype, given, (ptrdiff_t)n);
}

static void go_back(oracle_pass *o, const problem *p)
{
    const size_t rows = p->cells * p->spec.B;
    seed_sequence(o, p, &p->of_dy, p->dy, o->y);
    seed_sequence(o, p, &p->of_dcells, p->dcells, o->cells);
    seed_states(o, p, p->dh_n, o->h_n, rows * p->P);
    seed_states(o, p, p->dc_n, o->c_n, rows * p->states * p->H);
    graph_backward(&o->g);
}

/* Of an array, or of parts of it. */
typedef struct array_error {
    double error, largest;
} array_error;

/* Elements of one place on: what a pass is given has the same places in every graph. */
static void add_part(array_error *e, const oracle_pass *o, const problem *p, const candidate *is, const void *got,
                     ptrdiff_t first, var expected, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        const double right = o->g.nodes[expected + n].gradient;
        const double value = is->other != NULL ? is->other->g.nodes[expected + n].gradient
                                               : real_get(p->spec.shape.dtype, got, first + (ptrdiff_t)n);
        const double error = fabs(value - right);
        e->error = error <= INFINITY ? fmax(e->error, error) : INFINITY;
        e->largest = fmax(e->largest, fabs(right));
    }
}

static double part_of_largest(array_error e) { return e.error == 0.0 ? 0.0 : e.error / e.largest; }

static double whole_error(const oracle_pass *o, const problem *p, const candidate *is, const void *got, var expected,
                          size_t count)
{
    array_error e = {0};
    add_part(&e, o, p, is, got, 0, expected, count);
    return part_of_largest(e);
}

static double gradient_error(const oracle_pass *o, const problem *p, const candidate *is)
{
    static const gradients none;
    const gradients *g = is->g != NULL ? is->g : &none;
    const size_t rows = p->cells * p->spec.B, I = p->spec.shape.input_size;
    double worst = whole_error(o, p, is, g->dh0, o->h0, rows * p->P);
    worst = fmax(worst, whole_error(o, p, is, g->dc0, o->c0, rows * p->states * p->H));
    for (size_t cell = 0; cell < p->cells; cell++) {
        fl_gradients of = g->of[cell];
        void **slots[FL_PARAMETER_COUNT];
        gradient_slots(&of, slots);
        for (size_t n = 0; n < FL_PARAMETER_COUNT; n++)
            worst = fmax(worst, whole_error(o, p, is, *slots[n], o->weights[cell][n], problem_sizes(p, cell)[n]));
    }
    array_error dx = {0};
    for (size_t b = 0; b < p->spec.B && p->spec.wants_dx; b++)
        for (size_t t = 0; t < problem_length(p, b); t++)
            add_part(&dx, o, p, is, g->dx, placing_of(&p->of_dx, t, b), o->x + (t * p->spec.B + b) * I, I);
    return fmax(worst, part_of_largest(dx));
}

/* ---- Expectations -------------------------------------------------------------------------------------------- */

static void expect_right(const problem *p, const candidate *is, bool recorded)
{
    const bool is_single = p->spec.shape.dtype == FL_F32;
    double bound = is_single ? 2e-6 : 1e-13, gradient_bound = is_single ? 6e-6 : 5e-14;
    oracle_pass o;
    oracle_run(&o, p, recorded, false);
    if (is->g != NULL)
        go_back(&o, p);
    const double error = result_error(&o, p, is), of_gradients = is->g != NULL ? gradient_error(&o, p, is) : 0.0;
    if (!(error <= bound && of_gradients <= gradient_bound)) {
        oracle_pass single;
        oracle_run(&single, p, recorded, true);
        if (is->g != NULL)
            go_back(&single, p);
        const candidate other = {.other = &single};
        const double more = TIMES_MORE * real_epsilon(p->spec.shape.dtype) / real_epsilon(FL_F32);
        const double most = is_single ? MOST_MORE_F32 : MOST_MORE_F64;
        bound += fmin(more * result_error(&o, p, &other), most);
        if (is->g != NULL)
            gradient_bound += fmin(more * gradient_error(&o, p, &other), most);
        oracle_release(&single);
    }
    EXPECT(error <= bound, "%s: error %.3g, may be %.3g%s", problem_text(p), error, bound,
           recorded ? ", of a recorded pass" : "");
    EXPECT(of_gradients <= gradient_bound, "%s: error %.3g of gradients, may be %.3g", problem_text(p), of_gradients,
           gradient_bound);
    oracle_release(&o);
}

void expect_truth(const problem *p, const result *r)
{
    const candidate is = {.r = r};
    expect_right(p, &is, false);
}

void expect_truth_of_training(const problem *p, const result *r, const gradients *g)
{
    const candidate is = {.r = r, .g = g};
    expect_right(p, &is, true);
}
