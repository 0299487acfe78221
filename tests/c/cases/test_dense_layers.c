/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Dense layers against plain loops in long double: every remainder of rows and features, threads, and what is refused.
 */
#include <math.h>
#include <string.h>

#include "harness/problem.h"
#include "tests.h"

static void *random_rows(guard_arena *arena, fl_dtype dtype, size_t n)
{
    void *rows = guard_new(arena, n, real_bytes(dtype));
    for (size_t k = 0; k < n; k++) real_put(dtype, rows, (ptrdiff_t)k, random_real(1.0));
    return rows;
}

static long double at(const fl_dense_args *a, const void *array, size_t row, size_t width, size_t k)
{
    return real_get(a->shape.dtype, array, (ptrdiff_t)(row * width + k));
}

/* A sum of so many products, each below 1, and the bias. */
static void expect_sum(const fl_dense_args *a, const void *array, size_t at, long double want, size_t terms,
                       const char *what)
{
    const long double error = fabsl((long double)real_get(a->shape.dtype, array, (ptrdiff_t)at) - want);
    EXPECT(error <= (long double)real_epsilon(a->shape.dtype) * (long double)(terms + 2) * 2.0L,
           "%s: rows %zu, %zu to %zu: element %zu is wrong by %.3Lg", what, a->rows, a->shape.in_features,
           a->shape.out_features, at, error);
}

static void check_forward(const fl_dense_args *a, const void *weight)
{
    const size_t in = a->shape.in_features, out = a->shape.out_features;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t n = 0; n < out; n++) {
            long double sum = a->bias != NULL ? at(a, a->bias, 0, out, n) : 0.0L;
            for (size_t k = 0; k < in; k++) sum += at(a, a->x, row, in, k) * at(a, weight, n, in, k);
            expect_sum(a, a->y, row * out + n, sum, in, "y");
        }
}

static void check_backward(const fl_dense_args *a, const void *weight)
{
    const size_t in = a->shape.in_features, out = a->shape.out_features;
    for (size_t row = 0; row < a->rows && a->dx != NULL; row++)
        for (size_t k = 0; k < in; k++) {
            long double sum = 0.0L;
            for (size_t n = 0; n < out; n++) sum += at(a, a->dy, row, out, n) * at(a, weight, n, in, k);
            expect_sum(a, a->dx, row * in + k, sum, out, "dx");
        }
    for (size_t n = 0; n < out; n++) {
        long double bias = 0.0L;
        for (size_t row = 0; row < a->rows; row++) bias += at(a, a->dy, row, out, n);
        if (a->dbias != NULL)
            expect_sum(a, a->dbias, n, bias, a->rows, "dbias");
        for (size_t k = 0; k < in; k++) {
            long double sum = 0.0L;
            for (size_t row = 0; row < a->rows; row++) sum += at(a, a->dy, row, out, n) * at(a, a->x, row, in, k);
            expect_sum(a, a->dweight, n * in + k, sum, a->rows, "dweight");
        }
    }
}

static void check_layer(fl_dtype dtype, size_t rows, size_t in, size_t out, size_t threads)
{
    guard_arena arena = {0};
    const size_t real_size = real_bytes(dtype);
    const bool has_bias = random_chance(2), wants_dx = !random_chance(4);
    fl_dense_args a = {.shape = {dtype, in, out}, .rows = rows, .num_threads = threads};
    void *packed[2] = {NULL, NULL};
    const void *weight = random_rows(&arena, dtype, out * in), *others = random_rows(&arena, dtype, out * in);
    a.x = random_rows(&arena, dtype, rows * in);
    a.dy = random_rows(&arena, dtype, rows * out);
    a.bias = has_bias ? random_rows(&arena, dtype, out) : NULL;
    a.y = guard_new(&arena, rows * out, real_size);
    a.dx = wants_dx ? guard_new(&arena, rows * in, real_size) : NULL;
    a.dweight = guard_new(&arena, out * in, real_size);
    a.dbias = has_bias ? guard_new(&arena, out, real_size) : NULL;
    for (int pass = 0; pass < 2; pass++) { /* over others, in their memory */
        EXPECT_STATUS(fl_dense_pack(&a.shape, (fl_dense_pass)pass, others, &packed[pass]), FL_OK);
        EXPECT_STATUS(fl_dense_pack(&a.shape, (fl_dense_pass)pass, weight, &packed[pass]), FL_OK);
    }
    a.packed = packed[0];
    EXPECT_STATUS(fl_dense_forward(&a), FL_OK);
    check_forward(&a, weight);
    a.packed = wants_dx ? packed[1] : NULL;
    EXPECT_STATUS(fl_dense_backward(&a), FL_OK);
    check_backward(&a, weight);
    fl_dense_release(packed[0]);
    fl_dense_release(packed[1]);
    guard_release(&arena);
}

static void dense_against_loops(void)
{
    for (size_t d = 0; d < DTYPES; d++) {
        for (size_t n = 1; n <= 70; n += harness_effort == EFFORT_FULL ? 1 : 9) {
            const size_t rows = random_size(0, 14), other = random_size(1, 70), few = random_size(1, 20);
            check_layer(dtypes[d], rows, n, other, 1);
            check_layer(dtypes[d], rows, other, n, 1);
            const size_t fewer = random_size(1, 20);
            check_layer(dtypes[d], n - 1, few, fewer, 1);
        }
        check_layer(dtypes[d], 0, 3, 5, 2);
        check_layer(dtypes[d], 150, 70, 90, 3);
    }
}

/* For any number of threads, and of rows beside each other, the same bits. */
static void dense_has_the_same_bits(void)
{
    for (size_t d = 0; d < DTYPES; d++)
        for (size_t repeat = 0; repeat < rounds(24); repeat++) {
            const size_t rows = random_size(1, 130), in = random_size(1, 150), out = random_size(1, 150);
            const size_t real_size = real_bytes(dtypes[d]);
            guard_arena arena = {0}, found[2] = {{0}, {0}};
            fl_dense_args a = {.shape = {dtypes[d], in, out}, .rows = rows};
            void *packed[2] = {NULL, NULL};
            const void *weight = random_rows(&arena, dtypes[d], out * in);
            a.x = random_rows(&arena, dtypes[d], rows * in);
            a.dy = random_rows(&arena, dtypes[d], rows * out);
            for (int pass = 0; pass < 2; pass++)
                EXPECT_STATUS(fl_dense_pack(&a.shape, (fl_dense_pass)pass, weight, &packed[pass]), FL_OK);
            for (size_t n = 0; n < 2; n++) {
                a.num_threads = n == 0 ? 1 : random_size(2, 4);
                a.y = guard_new(&found[n], rows * out, real_size);
                a.dx = guard_new(&found[n], rows * in, real_size);
                a.dweight = guard_new(&found[n], out * in, real_size);
                a.dbias = guard_new(&found[n], out, real_size);
                a.packed = packed[0];
                EXPECT_STATUS(fl_dense_forward(&a), FL_OK);
                a.packed = packed[1];
                EXPECT_STATUS(fl_dense_backward(&a), FL_OK);
            }
            EXPECT(arenas_equal(&found[0], &found[1]), "rows %zu, %zu to %zu", rows, in, out);
            const size_t row = random_size(0, rows - 1);
            char *alone = guard_new(&arena, out, real_size);
            const char *all = (const char *)found[0].blocks[0].data;
            fl_dense_args one = a;
            one.rows = 1;
            one.x = (const char *)a.x + row * in * real_size;
            one.y = alone;
            one.packed = packed[0];
            EXPECT_STATUS(fl_dense_forward(&one), FL_OK);
            EXPECT(memcmp(alone, all + row * out * real_size, out * real_size) == 0, "row %zu alone", row);
            for (size_t n = 0; n < 2; n++) {
                fl_dense_release(packed[n]);
                guard_release(&found[n]);
            }
            guard_release(&arena);
        }
}

static void dense_refuses(void)
{
    const fl_dense_shape good = {FL_F32, 3, 2}, none = {FL_F32, 0, 2}, huge = {FL_F64, SIZE_MAX / 4, 8};
    const float weight[6] = {1, 2, 3, 4, 5, 6}, x[3] = {1, 1, 1};
    float y[2] = {0, 0};
    void *packed = NULL;
    EXPECT_STATUS(fl_dense_pack(NULL, FL_DENSE_FORWARD, weight, &packed), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_dense_pack(&good, FL_DENSE_FORWARD, NULL, &packed), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_dense_pack(&good, FL_DENSE_FORWARD, weight, NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_dense_pack(&good, (fl_dense_pass)2, weight, &packed), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_dense_pack(&none, FL_DENSE_FORWARD, weight, &packed), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_dense_pack(&huge, FL_DENSE_FORWARD, weight, &packed), FL_ERROR_SIZE);
    allocation_fail(1);
    EXPECT_STATUS(fl_dense_pack(&good, FL_DENSE_FORWARD, weight, &packed), FL_ERROR_MEMORY);
    allocation_fail(0);
    EXPECT(packed == NULL, "nothing was made");
    EXPECT_STATUS(fl_dense_pack(&good, FL_DENSE_FORWARD, weight, &packed), FL_OK);
    fl_dense_args a = {.shape = good, .rows = 1, .packed = packed, .x = x, .y = y};
    EXPECT_STATUS(fl_dense_forward(&a), FL_OK);
    EXPECT(y[0] == 6.0F && y[1] == 15.0F, "%g, %g", (double)y[0], (double)y[1]);
    EXPECT_STATUS(fl_dense_forward(NULL), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_dense_backward(NULL), FL_ERROR_ARGUMENT);
    a.packed = NULL;
    EXPECT_STATUS(fl_dense_forward(&a), FL_ERROR_ARGUMENT);
    EXPECT_STATUS(fl_dense_backward(&a), FL_ERROR_ARGUMENT);
    fl_dense_release(packed);
    fl_dense_release(NULL);
}

void test_dense_layers(void)
{
    run_test("dense_against_loops", dense_against_loops);
    run_test("dense_has_the_same_bits", dense_has_the_same_bits);
    run_test("dense_refuses", dense_refuses);
}
