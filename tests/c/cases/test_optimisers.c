/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Passes over flat buffers against plain loops in long double: steps of optimisers, sums, norms, and the words of a table.
 * Every size up to some vectors, at every alignment that guard pages give, and sizes that are shared among threads.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

#define MOST_SMALL 70 /* more than two vectors of 32 */
#define LARGE ((size_t)600000)

/* Sizes: all small ones, then one that threads share. */
static size_t size_of(size_t n) { return n <= MOST_SMALL ? n : LARGE + 3; }
static size_t sizes(void) { return harness_effort == EFFORT_FULL ? MOST_SMALL + 2 : MOST_SMALL + 1; }

static double least_normal(fl_dtype dtype) { return dtype == FL_F32 ? (double)FLT_MIN : DBL_MIN; }
static double largest_real(fl_dtype dtype) { return dtype == FL_F32 ? (double)FLT_MAX : DBL_MAX; }

static void *random_array(guard_arena *arena, fl_dtype dtype, size_t n, double magnitude)
{
    void *array = guard_new(arena, n, real_bytes(dtype));
    for (size_t k = 0; k < n; k++) real_put(dtype, array, (ptrdiff_t)k, magnitude * random_real(1.0));
    return array;
}

static void *copy_of(guard_arena *arena, fl_dtype dtype, size_t n, const void *array)
{
    void *copy = guard_new(arena, n, real_bytes(dtype));
    if (n != 0)
        memcpy(copy, array, n * real_bytes(dtype));
    return copy;
}

static void expect_near(fl_dtype dtype, const void *got, size_t k, long double want, long double size, const char *what)
{
    const long double error = fabsl((long double)real_get(dtype, got, (ptrdiff_t)k) - want);
    EXPECT(error <= 6.0L * real_epsilon(dtype) * size + (long double)least_normal(dtype),
           "%s: element %zu is %.9g instead of %.9Lg", what, k, real_get(dtype, got, (ptrdiff_t)k), want);
}

static void check_sgd(fl_dtype dtype, size_t n, const fl_sgd_args *args, bool in_place)
{
    guard_arena arena = {0};
    void *p = random_array(&arena, dtype, n, 2.0), *g = random_array(&arena, dtype, n, 1.0);
    void *b = args->momentum != 0.0 ? random_array(&arena, dtype, n, 1.0) : NULL;
    const void *p_before = copy_of(&arena, dtype, n, p);
    const void *b_before = b != NULL ? copy_of(&arena, dtype, n, b) : NULL;
    void *to = in_place ? p : guard_new(&arena, n, real_bytes(dtype));
    EXPECT(fl_sgd_step(dtype, n, args, g, p, to, b), "finite");
    for (size_t k = 0; k < n; k++) {
        const long double old = real_get(dtype, p_before, (ptrdiff_t)k);
        long double d = real_get(dtype, g, (ptrdiff_t)k) + (long double)args->weight_decay * old;
        if (b != NULL) {
            const long double moment = (long double)args->momentum * real_get(dtype, b_before, (ptrdiff_t)k) + d;
            expect_near(dtype, b, k, moment, 4.0L, "momentum");
            d = args->nesterov ? d + (long double)args->momentum * moment : moment;
        }
        expect_near(dtype, to, k, old - (long double)args->lr * d, 4.0L, "SGD");
    }
    guard_release(&arena);
}

static void sgd_against_loops(void)
{
    const fl_sgd_args args[] = {{0.1, 0.0, 0.0, false}, {0.1, 0.0, 0.3, false}, {0.2, 0.9, 0.0, false},
                                {0.2, 0.9, 0.1, false}, {0.2, 0.9, 0.0, true},  {0.1, 0.5, 0.1, true}};
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t n = 0; n < sizes(); n++)
            for (size_t a = 0; a < sizeof args / sizeof *args; a++)
                check_sgd(dtypes[d], size_of(n), &args[a], (n + a) % 2 == 0);
}

static void check_adam(fl_dtype dtype, size_t n, const fl_adam_args *args, bool in_place)
{
    guard_arena arena = {0};
    void *p = random_array(&arena, dtype, n, 2.0), *g = random_array(&arena, dtype, n, 1.0);
    void *m = random_array(&arena, dtype, n, 1.0), *v = random_array(&arena, dtype, n, 1.0);
    for (size_t k = 0; k < n; k++) real_put(dtype, v, (ptrdiff_t)k, fabs(real_get(dtype, v, (ptrdiff_t)k)));
    const void *p0 = copy_of(&arena, dtype, n, p), *m0 = copy_of(&arena, dtype, n, m),
               *v0 = copy_of(&arena, dtype, n, v);
    void *to = in_place ? p : guard_new(&arena, n, real_bytes(dtype));
    fl_adam_step(dtype, n, args, g, p, to, m, v);
    const long double correction1 = 1.0L - powl((long double)args->beta1, (long double)args->step);
    const long double correction2 = 1.0L - powl((long double)args->beta2, (long double)args->step);
    for (size_t k = 0; k < n; k++) {
        long double old = real_get(dtype, p0, (ptrdiff_t)k), d = real_get(dtype, g, (ptrdiff_t)k);
        if (args->decoupled)
            old -= (long double)(args->lr * args->weight_decay) * old;
        else
            d += (long double)args->weight_decay * old;
        const long double first = args->beta1 * (long double)real_get(dtype, m0, (ptrdiff_t)k) + (1 - args->beta1) * d;
        const long double second =
            args->beta2 * (long double)real_get(dtype, v0, (ptrdiff_t)k) + (1 - args->beta2) * d * d;
        const long double update =
            (long double)args->lr * first / correction1 / (sqrtl(second / correction2) + (long double)args->eps);
        expect_near(dtype, m, k, first, 2.0L, "m");
        expect_near(dtype, v, k, second, 4.0L, "v");
        /* First and second are sums that may cancel, so that the quotient loses more. */
        const long double root = sqrtl(second / correction2) + (long double)args->eps;
        expect_near(dtype, to, k, old - update,
                    4.0L + 4.0L * (long double)args->lr / correction1 / root * (1.0L + fabsl(update)), "Adam");
    }
    guard_release(&arena);
}

static void adam_against_loops(void)
{
    const fl_adam_args args[] = {{0.1, 0.9, 0.999, 1e-8, 0.0, false, 1},
                                 {0.01, 0.8, 0.99, 1e-3, 0.1, false, 5},
                                 {0.1, 0.9, 0.99, 1e-8, 0.1, true, 1000}};
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t n = 0; n < sizes(); n++)
            for (size_t a = 0; a < sizeof args / sizeof *args; a++)
                check_adam(dtypes[d], size_of(n), &args[a], (n + a) % 2 == 0);
}

static void anything_infinite_is_found(void)
{
    const double bad[] = {INFINITY, -INFINITY, (double)NAN};
    const fl_sgd_args args = {.lr = 0.1};
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t n = 0; n < sizes(); n++) {
            const fl_dtype dtype = dtypes[d];
            const size_t size = size_of(n);
            guard_arena arena = {0};
            void *x = random_array(&arena, dtype, size, 1.0), *out = guard_new(&arena, size, real_bytes(dtype));
            if (size > 1) { /* the ends of what is finite are */
                real_put(dtype, x, 0, largest_real(dtype));
                real_put(dtype, x, 1, -largest_real(dtype));
            }
            EXPECT(fl_all_finite(dtype, size, x), "%zu", size);
            for (size_t place = 0; place<size; place += size> MOST_SMALL ? size / 7 : 1) {
                const double before = real_get(dtype, x, (ptrdiff_t)place);
                real_put(dtype, x, (ptrdiff_t)place, bad[place % 3]);
                EXPECT(!fl_all_finite(dtype, size, x), "%zu of %zu", place, size);
                EXPECT(!fl_sgd_step(dtype, size, &args, x, x, out, NULL), "%zu of %zu", place, size);
                real_put(dtype, x, (ptrdiff_t)place, before);
            }
            guard_release(&arena);
        }
}

static void sums_and_norms_against_loops(void)
{
    const double magnitudes[] = {1.0, 3e38, 1e-30, 1e-38};
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t n = 0; n < sizes(); n++)
            for (size_t m = 0; m < 4; m++) {
                const fl_dtype dtype = dtypes[d];
                const size_t size = size_of(n);
                guard_arena arena = {0};
                void *x = random_array(&arena, dtype, size, magnitudes[m]);
                void *out = random_array(&arena, dtype, size, 1.0);
                const void *before = copy_of(&arena, dtype, size, out);
                long double sum = 0.0L;
                double most = 0.0;
                for (size_t k = 0; k < size; k++) {
                    const long double value = 0.25L * real_get(dtype, x, (ptrdiff_t)k);
                    sum += value * value;
                    most = fmax(most, fabs(real_get(dtype, x, (ptrdiff_t)k)));
                }
                const double got = fl_sum_squares(dtype, size, x, 0.25);
                EXPECT(fabsl((long double)got - sum) <= 1e-14L * sum, "%zu: %.17g instead of %.17Lg", size, got, sum);
                EXPECT(fl_largest(dtype, size, x) == most, "%zu", size);
                fl_add(dtype, size, x, out);
                for (size_t k = 0; k < size; k++) {
                    const double a = real_get(dtype, before, (ptrdiff_t)k), b = real_get(dtype, x, (ptrdiff_t)k);
                    const double want = dtype == FL_F32 ? (double)((float)a + (float)b) : a + b;
                    EXPECT(real_get(dtype, out, (ptrdiff_t)k) == want, "sum %zu of %zu", k, size);
                }
                guard_release(&arena);
            }
}

/* Never above what was asked for, and no further below than three roundings. */
static void shrinking_is_towards_zero(void)
{
    const int exponents[] = {0, -1, -20, -90, -140, -300};
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t n = 0; n < sizes(); n++)
            for (size_t e = 0; e < sizeof exponents / sizeof *exponents; e++) {
                const fl_dtype dtype = dtypes[d];
                const size_t size = size_of(n);
                const double factor = 0.75 - fabs(random_real(0.24));
                guard_arena arena = {0};
                void *x = random_array(&arena, dtype, size, e % 2 != 0 ? 1.0 : largest_real(dtype));
                if (size != 0)
                    real_put(dtype, x, (ptrdiff_t)random_size(0, size - 1), -largest_real(dtype));
                const void *before = copy_of(&arena, dtype, size, x);
                fl_shrink(dtype, size, factor, exponents[e], x);
                for (size_t k = 0; k < size; k++) {
                    const long double want =
                        ldexpl((long double)factor * real_get(dtype, before, (ptrdiff_t)k), exponents[e]);
                    const long double got = real_get(dtype, x, (ptrdiff_t)k);
                    const long double lost = 4.0L * real_epsilon(dtype) * (fabsl(want) + 2.0L * least_normal(dtype));
                    EXPECT(fabsl(got) <= fabsl(want) && fabsl(got - want) <= lost, "2^%d: %.9Lg instead of %.9Lg",
                           exponents[e], got, want);
                }
                guard_release(&arena);
            }
}

/* ---- Words of a table ----------------------------------------------------------------------------------------- */

static ptrdiff_t place_of(const fl_table *table, size_t word, size_t j)
{
    return (ptrdiff_t)(table->by_columns ? j * table->words + word : word * table->width + j);
}

/* Some words, ascending; `values` belong to them. */
static fl_columns some_words(guard_arena *arena, const fl_table *table)
{
    int64_t *index = guard_new(arena, table->words, sizeof *index);
    fl_columns words = {0, index, NULL};
    for (size_t word = 0; word < table->words; word++)
        if (random_chance(4) || word + 1 == table->words)
            index[words.count++] = (int64_t)word;
    words.values = random_array(arena, table->dtype, words.count * table->width, 1.0);
    return words;
}

/* The same bits as whole passes over gradients that are zero elsewhere. */
static void words_are_as_whole_passes(void)
{
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t repeat = 0; repeat < rounds(240); repeat++) {
            const size_t all = random_size(1, repeat % 3 == 0 ? 2000 : 60), width = random_size(1, 70);
            const fl_table table = {dtypes[d], all, width, repeat % 2 != 0};
            const size_t n = table.words * table.width, real_size = real_bytes(table.dtype);
            const fl_sgd_args args = {.lr = 0.3};
            guard_arena arena = {0};
            const fl_columns words = some_words(&arena, &table);
            const size_t kept = words.count * table.width, room_size = fl_sgd_words_room(&table, words.count);
            void *p = random_array(&arena, table.dtype, n, 1.0), *dense = guard_new(&arena, n, real_size);
            void *want = guard_new(&arena, n, real_size), *got = guard_new(&arena, n, real_size);
            void *new_values = guard_new(&arena, kept, real_size), *room = guard_new(&arena, room_size, real_size);
            memset(dense, 0, n * real_size);
            memset(room, 0, room_size * real_size);
            real_put(table.dtype, p, 0, least_normal(table.dtype) / 4.0); /* which a step makes zero */
            for (size_t w = 0; w < words.count; w++)
                for (size_t j = 0; j < table.width; j++)
                    real_put(table.dtype, dense, place_of(&table, (size_t)words.index[w], j),
                             real_get(table.dtype, words.values, (ptrdiff_t)(w * table.width + j)));
            fl_sgd_step(table.dtype, n, &args, dense, p, want, NULL);
            for (size_t turn = 0; turn < 2; turn++) { /* the room is as it was */
                fl_sgd_words(&table, &words, args.lr, p, got, new_values, room);
                EXPECT(memcmp(got, want, n * real_size) == 0, "step, words %zu, width %zu", table.words, table.width);
            }
            for (size_t w = 0; w < words.count; w++)
                for (size_t j = 0; j < table.width; j++)
                    EXPECT(real_get(table.dtype, new_values, (ptrdiff_t)(w * table.width + j)) ==
                               real_get(table.dtype, want, place_of(&table, (size_t)words.index[w], j)),
                           "word %zu, element %zu", w, j);
            fl_add(table.dtype, n, dense, want);
            fl_add_words(&table, &words, got);
            EXPECT(memcmp(got, want, n * real_size) == 0, "sum, words %zu, width %zu", table.words, table.width);
            guard_release(&arena);
        }
}

/* Apart, since Valgrind rounds to nearest alone. */
void test_optimisers_that_truncate(void) { run_test("shrinking_is_towards_zero", shrinking_is_towards_zero); }

void test_optimisers(void)
{
    run_test("sgd_against_loops", sgd_against_loops);
    run_test("adam_against_loops", adam_against_loops);
    run_test("anything_infinite_is_found", anything_infinite_is_found);
    run_test("sums_and_norms_against_loops", sums_and_norms_against_loops);
    run_test("words_are_as_whole_passes", words_are_as_whole_passes);
}
