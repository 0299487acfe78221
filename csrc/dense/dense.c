/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The driver of a dense layer.  Each element of a result is one sum in one order, in partial sums of FL_K_BLOCK; threads and
 * blocks of rows divide outputs.  The sums over rows, of the gradients of weights and bias, are cut into stretches of
 * LONG_SUM rows, which are added up with what rounding loses: a million rows are as exact as a thousand.
 */
#include "dense/dense.h"

#include "base/fp_state.h"
#include "base/memory.h"
#include "base/pool.h"
#include "kernels/choose.h"

#define ROW_UNIT 24                       /* a multiple of most tile heights */
#define ROW_BYTES ((size_t)256 << 10)     /* of rows that pass all panels together: they stay in L2 */
#define MAX_ROWS_TOGETHER (11 * ROW_UNIT) /* of them */
#define DEEPEST 1024                      /* elements of a row that a panel takes at once, about */
#define SUM_ROWS 256                      /* of a panel of x, in the gradient of the weights */
#define LONG_SUM (4 * (size_t)SUM_ROWS)
#define WORK_PER_THREAD 2e5 /* multiply-adds that a thread is worth waking for */

typedef struct dense_call {
    const fl_dense_args *args;
    const fl_kernels *kernels;
    size_t threads, real_size, together;
    /* Of a product of rows: (rows, K) times panels (K, N). */
    const char *a;
    const void *bias;
    char *out;
    size_t K, N;
    fl_panels panels;
    bool by_rows; /* threads divide rows, else panels */
    /* Sums over many rows: those of one stretch, and the low parts of totals (fl_fold); (out_features, in_features),
     * (out_features). */
    char *part, *low, *bias_low;
    char *scratch; /* of all threads */
    size_t scratch_bytes;
} dense_call;

/* What a thread needs for itself. */
typedef struct dense_scratch {
    const void **a;
    void **out;
    void *totals, *panel;
} dense_scratch;

static dense_scratch take_scratch(fl_arena *arena, const dense_call *c)
{
    const size_t most = MAX_ROWS_TOGETHER > SUM_ROWS ? MAX_ROWS_TOGETHER : SUM_ROWS, lanes = c->kernels->lanes;
    dense_scratch scratch;
    scratch.a = fl_arena_take(arena, most, sizeof *scratch.a, 1);
    scratch.out = fl_arena_take(arena, most, sizeof *scratch.out, 1);
    scratch.totals = fl_arena_take(arena, MAX_ROWS_TOGETHER + 8, 4 * lanes, c->real_size);
    scratch.panel = fl_arena_take(arena, SUM_ROWS, 4 * lanes, c->real_size);
    return scratch;
}

static dense_scratch scratch_of(const dense_call *c, size_t thread)
{
    fl_arena arena = {.memory = c->scratch + thread * c->scratch_bytes, .bytes = c->scratch_bytes};
    return take_scratch(&arena, c);
}

/* Share `part` of `count` begins here; shares are multiples of `unit`. */
static size_t share(size_t count, size_t unit, size_t part, size_t parts)
{
    const size_t units = (count + unit - 1) / unit, begin = units * part / parts * unit;
    return begin < count ? begin : count;
}

/* ---- Products of rows --------------------------------------------------------------------------------------- */

static void multiply_rows(void *context, size_t thread)
{
    const dense_call *c = context;
    const dense_scratch scratch = scratch_of(c, thread);
    const size_t rows = c->args->rows, parts = c->threads;
    const size_t begin = c->by_rows ? share(rows, ROW_UNIT, thread, parts) : 0;
    const size_t end = c->by_rows ? share(rows, ROW_UNIT, thread + 1, parts) : rows;
    fl_row_product product = {.panels = c->panels,
                              .panel_begin = c->by_rows ? 0 : share(c->panels.count, 1, thread, parts),
                              .panel_end = c->by_rows ? 0 : share(c->panels.count, 1, thread + 1, parts),
                              .matrix = c->args->packed,
                              .bias = c->bias,
                              .gates = 1,
                              .H = c->K,
                              .a = scratch.a,
                              .out = scratch.out,
                              .totals = scratch.totals};
    const fl_fp_state state = fl_fp_enter(true);
    for (size_t row = begin; row < end; row += product.rows) {
        product.rows = end - row < c->together ? end - row : c->together;
        for (size_t r = 0; r < product.rows; r++) {
            scratch.a[r] = c->a + (row + r) * c->K * c->real_size;
            scratch.out[r] = c->out + (row + r) * c->N * c->real_size;
        }
        c->kernels->row_product(&product);
    }
    fl_fp_leave(state);
}

/* ---- Sums over rows ----------------------------------------------------------------------------------------- */

/* Sums of outputs [begin, end) over one stretch of rows; where there are several, totals take them up. */
static void add_stretch(const dense_call *c, const dense_scratch *scratch, size_t begin, size_t end, size_t row,
                        size_t rows)
{
    const fl_dense_args *args = c->args;
    const size_t I = args->shape.in_features, O = args->shape.out_features, first = begin * I * c->real_size;
    const bool is_long = args->rows > LONG_SUM;
    fl_outer_product product = {.a_stride = (ptrdiff_t)O,
                                .row_begin = begin,
                                .row_end = end,
                                .panels = c->panels,
                                .x = scratch->panel,
                                .out = is_long ? c->part : args->dweight,
                                .ld_out = (ptrdiff_t)I};
    fl_fold fold = {.rows = end - begin,
                    .columns = I,
                    .stride = (ptrdiff_t)I,
                    .total = (char *)args->dweight + first,
                    .is_first = row == 0,
                    .is_last = row + rows == args->rows};
    const char *dy = (const char *)args->dy + row * O * c->real_size;
    for (size_t m = 0; m < rows; m += product.M) {
        product.M = rows - m < SUM_ROWS ? rows - m : SUM_ROWS;
        product.a = dy + m * O * c->real_size;
        product.adds = m != 0;
        for (size_t r = 0; r < product.M; r++) scratch->a[r] = (const char *)args->x + (row + m + r) * I * c->real_size;
        for (product.panel = 0; product.panel < c->panels.count; product.panel++) {
            c->kernels->fill_panel(&c->panels, product.panel, product.M, scratch->a, scratch->panel);
            c->kernels->outer_product(&product);
        }
    }
    if (is_long) {
        fold.sums = c->part + first;
        fold.low = c->low + first;
        c->kernels->fold_sums(&fold);
    }
    if (args->dbias != NULL) {
        fold.columns = end - begin;
        fold.total = (char *)args->dbias + begin * c->real_size;
        fold.low = is_long ? c->bias_low + begin * c->real_size : fold.total; /* not looked at in one stretch */
        c->kernels->column_sums(rows, dy + begin * c->real_size, (ptrdiff_t)O, &fold);
    }
}

static void sum_rows(void *context, size_t thread)
{
    const dense_call *c = context;
    const fl_dense_args *args = c->args;
    const dense_scratch scratch = scratch_of(c, thread);
    const size_t O = args->shape.out_features;
    const size_t begin = share(O, ROW_UNIT, thread, c->threads), end = share(O, ROW_UNIT, thread + 1, c->threads);
    const fl_fp_state state = fl_fp_enter(true);
    for (size_t row = 0, rows; row < args->rows && begin < end; row += rows) {
        rows = args->rows - row < LONG_SUM ? args->rows - row : LONG_SUM;
        add_stretch(c, &scratch, begin, end, row, rows);
    }
    fl_fp_leave(state);
}

/* ---- Calls -------------------------------------------------------------------------------------------------- */

static dense_call call_of(const fl_dense_args *args)
{
    const dense_call c = {.args = args,
                          .kernels = fl_kernels_active(args->shape.dtype, FL_STORAGE_REAL),
                          .real_size = args->shape.dtype == FL_F32 ? sizeof(float) : sizeof(double)};
    return c;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Threads that the work of a product is worth, at least 1. */
static size_t worthy_threads(const fl_dense_args *args)
{
    const double work = (double)args->rows * (double)args->shape.in_features * (double)args->shape.out_features;
    const size_t limit = fl_pool_resting() ? 1 : least(fl_thread_limit(args->num_threads), FL_MAX_THREADS);
    const double worth = work / WORK_PER_THREAD;
    return worth < 1.0 ? 1 : worth < (double)limit ? (size_t)worth : limit;
}

static fl_status take_memory(dense_call *c, size_t threads, bool sums, void **memory)
{
    const size_t I = c->args->shape.in_features, O = c->args->shape.out_features, size = c->real_size;
    const bool is_long = sums && c->args->rows > LONG_SUM;
    fl_arena each = {0};
    take_scratch(&each, c);
    c->scratch_bytes = each.used;
    fl_arena arena = {0};
    for (int round = 0; round < 2; round++) {
        if (is_long) {
            c->part = fl_arena_take(&arena, O, I, size);
            c->low = fl_arena_take(&arena, O, I, size);
            c->bias_low = fl_arena_take(&arena, O, size, 1);
        }
        c->scratch = fl_arena_take(&arena, threads, each.used, 1);
        if (each.overflows || arena.overflows)
            return FL_ERROR_SIZE;
        if (round == 0) {
            *memory = fl_allocate(arena.used);
            if (*memory == NULL)
                return FL_ERROR_MEMORY;
            const fl_arena placed = {.memory = *memory, .bytes = arena.used};
            arena = placed;
        }
    }
    return FL_OK;
}

static void run(dense_call *c, void (*job)(void *context, size_t thread), size_t threads)
{
    c->threads = threads;
    if (threads > 1)
        fl_pool_run(job, c, threads);
    else
        job(c, 0);
}

/* out = a times the packed matrix, of K rows and N columns. */
static void run_product(dense_call *c, const void *a, size_t K, size_t N, void *out, size_t acquired)
{
    const size_t rows = c->args->rows, deep = least(K, DEEPEST) * c->real_size, fit = ROW_BYTES / deep;
    c->a = a;
    c->out = out;
    c->K = K;
    c->N = N;
    c->panels = fl_panels_of(N, c->kernels->lanes);
    c->together = least(fit < ROW_UNIT ? ROW_UNIT : fit / ROW_UNIT * ROW_UNIT, MAX_ROWS_TOGETHER);
    c->by_rows = rows >= 2 * ROW_UNIT * acquired || rows > c->panels.count * ROW_UNIT;
    run(c, multiply_rows, least(acquired, c->by_rows ? (rows + ROW_UNIT - 1) / ROW_UNIT : c->panels.count));
}

fl_status fl_dense_run_forward(const fl_dense_args *args)
{
    dense_call c = call_of(args);
    const size_t wanted = worthy_threads(args), acquired = wanted > 1 ? fl_pool_acquire(wanted) : 1;
    void *memory = NULL;
    const fl_status status = take_memory(&c, acquired, false, &memory);
    if (status == FL_OK) {
        c.bias = args->bias;
        run_product(&c, args->x, args->shape.in_features, args->shape.out_features, args->y, acquired);
    }
    fl_release(memory);
    fl_pool_release(acquired);
    return status;
}

fl_status fl_dense_run_backward(const fl_dense_args *args)
{
    dense_call c = call_of(args);
    const size_t I = args->shape.in_features, O = args->shape.out_features;
    const size_t wanted = worthy_threads(args), acquired = wanted > 1 ? fl_pool_acquire(wanted) : 1;
    void *memory = NULL;
    const fl_status status = take_memory(&c, acquired, true, &memory);
    if (status == FL_OK) {
        if (args->dx != NULL)
            run_product(&c, args->dy, O, I, args->dx, acquired);
        c.panels = fl_panels_of(I, c.kernels->lanes);
        run(&c, sum_rows, least(acquired, (O + ROW_UNIT - 1) / ROW_UNIT));
    }
    fl_release(memory);
    fl_pool_release(acquired);
    return status;
}
