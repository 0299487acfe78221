/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Passes over flat buffers of parameters and gradients, on threads where they are large.
 */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/fp_state.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/words.h"
#include "kernels/choose.h"

/* Elements that a thread is worth waking for, and what ranges are multiples of: partial sums of norms do not depend on
 * threads. */
#define SHARE ((size_t)1 << 18)
#define RANGE ((size_t)1 << 16)
/* Parameters that are far, bytes: SGD with momentum at 8.3 million takes 4.6 ms through the caches, see
 * benchmarks/bench_optimisers.py. */
#define FAR_BYTES ((size_t)8 << 20)

/* ---- Threads ------------------------------------------------------------------------------------------------ */

typedef struct pass {
    void (*range)(const struct pass *pass, size_t begin, size_t end); /* some elements; any number of ranges at once */
    const fl_kernels *kernels;
    size_t n, threads, real_size;
    fl_fp_mode mode;
    const void *work;  /* of the kernel */
    const void *x;     /* what is read alone */
    double *sums;      /* of each RANGE; null where there is one thread: */
    double *total;     /* total and what was lost of it */
    atomic_bool *fine; /* whether nothing was wrong */
} pass;

static void run_share(void *context, size_t index)
{
    const pass *p = context;
    const size_t ranges = (p->n + RANGE - 1) / RANGE;
    const size_t begin = ranges * index / p->threads * RANGE, stop = ranges * (index + 1) / p->threads * RANGE;
    const fl_fp_state state = fl_fp_enter_mode(p->mode);
    if (begin < p->n)
        p->range(p, begin, stop < p->n ? stop : p->n);
    fl_fp_leave(state);
}

static size_t threads_for(size_t n)
{
    const size_t limit = fl_get_num_threads(), shares = n / SHARE;
    const size_t threads = limit < shares ? limit : shares;
    return threads < FL_MAX_THREADS ? threads : FL_MAX_THREADS;
}

static void run_pass(pass *p)
{
    const size_t wanted = threads_for(p->n), acquired = wanted > 1 && !fl_pool_resting() ? fl_pool_acquire(wanted) : 1;
    p->threads = acquired;
    if (acquired > 1)
        fl_pool_run(run_share, p, acquired);
    else
        run_share(p, 0);
    fl_pool_release(acquired);
}

/* ---- Passes ------------------------------------------------------------------------------------------------- */

static const void *element(const pass *p, const void *array, size_t index)
{
    return (const char *)array + index * p->real_size;
}

static void *output(const pass *p, void *array, size_t index) { return (char *)array + index * p->real_size; }

static pass pass_of(fl_dtype dtype, size_t n, fl_fp_mode mode,
                    void (*range)(const struct pass *pass, size_t begin, size_t end))
{
    const pass p = {.range = range,
                    .kernels = fl_kernels_active(dtype, FL_STORAGE_REAL),
                    .n = n,
                    .real_size = dtype == FL_F32 ? sizeof(float) : sizeof(double),
                    .mode = mode};
    return p;
}

static void finite_range(const pass *p, size_t begin, size_t end)
{
    for (size_t k = begin; k < end && atomic_load_explicit(p->fine, memory_order_relaxed); k += RANGE)
        if (!p->kernels->all_finite(end - k < RANGE ? end - k : RANGE, element(p, p->x, k)))
            atomic_store_explicit(p->fine, false, memory_order_relaxed);
}

bool fl_all_finite(fl_dtype dtype, size_t n, const void *x)
{
    atomic_bool fine = true;
    pass p = pass_of(dtype, n, FL_FP_FLUSH, finite_range);
    p.x = x;
    p.fine = &fine;
    run_pass(&p);
    return atomic_load(&fine);
}

typedef struct add_work {
    const void *x;
    void *out;
} add_work;

static void add_range(const pass *p, size_t begin, size_t end)
{
    const add_work *w = p->work;
    p->kernels->add(end - begin, element(p, w->x, begin), output(p, w->out, begin));
}

void fl_add(fl_dtype dtype, size_t n, const void *x, void *out)
{
    const add_work work = {x, out};
    pass p = pass_of(dtype, n, FL_FP_EXACT, add_range);
    p.work = &work;
    run_pass(&p);
}

static bool is_far(fl_dtype dtype, size_t n)
{
    return n >= FAR_BYTES / (dtype == FL_F32 ? sizeof(float) : sizeof(double));
}

static void adam_range(const pass *p, size_t begin, size_t end)
{
    fl_adam w = *(const fl_adam *)p->work;
    w.n = end - begin;
    w.new_params = output(p, w.new_params, begin);
    w.m = output(p, w.m, begin);
    w.v = output(p, w.v, begin);
    w.params = element(p, w.params, begin);
    w.grads = element(p, w.grads, begin);
    p->kernels->adam(&w);
}

void fl_adam_step(fl_dtype dtype, size_t n, const fl_adam_args *args, const void *grads, const void *params,
                  void *new_params, void *m, void *v)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    const double step = (double)args->step;
    const fl_adam work = {.new_params = new_params,
                          .m = m,
                          .v = v,
                          .params = params,
                          .grads = grads,
                          .step_size = args->lr / (1.0 - pow(args->beta1, step)),
                          .root_correction = 1.0 / sqrt(1.0 - pow(args->beta2, step)),
                          .beta1 = args->beta1,
                          .beta2 = args->beta2,
                          .eps = args->eps,
                          .l2 = args->decoupled ? 0.0 : args->weight_decay,
                          .decay = args->decoupled ? 1.0 - args->lr * args->weight_decay : 1.0,
                          .is_far = is_far(dtype, n) && new_params != params};
    pass p = pass_of(dtype, n, FL_FP_FLUSH, adam_range); /* m and v decay: denormals would slow every later step */
    p.work = &work;
    run_pass(&p);
    fl_fp_leave(caller_state);
}

static void sgd_range(const pass *p, size_t begin, size_t end)
{
    fl_sgd w = *(const fl_sgd *)p->work;
    w.n = end - begin;
    w.new_params = output(p, w.new_params, begin);
    w.b = w.b != NULL ? output(p, w.b, begin) : NULL;
    w.params = element(p, w.params, begin);
    w.grads = element(p, w.grads, begin);
    if (!p->kernels->sgd(&w))
        atomic_store_explicit(p->fine, false, memory_order_relaxed);
}

bool fl_sgd_step(fl_dtype dtype, size_t n, const fl_sgd_args *args, const void *grads, const void *params,
                 void *new_params, void *b)
{
    atomic_bool fine = true;
    const fl_sgd work = {.new_params = new_params,
                         .b = b,
                         .params = params,
                         .grads = grads,
                         .lr = args->lr,
                         .momentum = args->momentum,
                         .weight_decay = args->weight_decay,
                         .nesterov = args->nesterov,
                         .is_far = is_far(dtype, n) && new_params != params};
    pass p = pass_of(dtype, n, FL_FP_FLUSH, sgd_range);
    p.work = &work;
    p.fine = &fine;
    run_pass(&p);
    return atomic_load(&fine);
}

void fl_add_words(const fl_table *table, const fl_columns *words, void *out)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    fl_words_add(table, words, out);
    fl_fp_leave(caller_state);
}

/* A table passes through the kernel in parts, whose gradients stand in memory that stays near: a row of columns, or some
 * words.  Elements of a part: */
#define WORDS_PART ((size_t)1 << 14)
/* Rows of columns whose gradients are transposed together: a line of each word. */
#define ROWS_TOGETHER 16

static size_t elements_of_part(const fl_table *table)
{
    const size_t together = WORDS_PART / table->width;
    return table->by_columns ? table->words : table->width * (together > 1 ? together : 1);
}

size_t fl_sgd_words_room(const fl_table *table, size_t count)
{
    return elements_of_part(table) + (table->by_columns ? 2 * ROWS_TOGETHER * count : 0);
}

/* A step of rows [first, first + rows): gradients are put where they belong in a row of zeros, and taken away again; what the
 * words are then is computed by the kernel's operations. */
#define COLUMNS(name, real)                                                                                 \
    static void step_##name(const fl_kernels *kernels, const fl_columns *words, size_t width, size_t first, \
                            size_t rows, fl_sgd step, real *new_values)                                     \
    {                                                                                                       \
        const size_t count = words->count;                                                                  \
        const real *values = (const real *)words->values + first, lr = (real)step.lr;                       \
        real *grads = (real *)step.grads, *own = grads + step.n, *then = own + ROWS_TOGETHER * count;       \
        for (size_t n = 0; n < count; n++)                                                                  \
            for (size_t j = 0; j < rows; j++) own[j * count + n] = values[n * width + j];                   \
        for (size_t j = 0; j < rows; j++) {                                                                 \
            const real *row = own + j * count, *params = step.params;                                       \
            for (size_t n = 0; n < count; n++) grads[words->index[n]] = row[n];                             \
            kernels->sgd(&step);                                                                            \
            for (size_t n = 0; n < count; n++) {                                                            \
                grads[words->index[n]] = 0;                                                                 \
                then[j * count + n] = params[words->index[n]] - row[n] * lr;                                \
            }                                                                                               \
            step.params = params + step.n;                                                                  \
            step.new_params = (real *)step.new_params + step.n;                                             \
        }                                                                                                   \
        for (size_t n = 0; n < count; n++)                                                                  \
            for (size_t j = 0; j < rows; j++) new_values[n * width + first + j] = then[j * count + n];      \
    }
COLUMNS(columns_f32, float)
COLUMNS(columns_f64, double)

static void step_columns(const fl_table *table, const fl_columns *words, fl_sgd step, void *new_values)
{
    const fl_kernels *kernels = fl_kernels_active(table->dtype, FL_STORAGE_REAL);
    const size_t row = table->words * (table->dtype == FL_F32 ? sizeof(float) : sizeof(double));
    step.n = table->words;
    for (size_t j = 0; j < table->width; j += ROWS_TOGETHER) {
        const size_t rows = table->width - j < ROWS_TOGETHER ? table->width - j : ROWS_TOGETHER;
        if (table->dtype == FL_F32)
            step_columns_f32(kernels, words, table->width, j, rows, step, new_values);
        else
            step_columns_f64(kernels, words, table->width, j, rows, step, new_values);
        step.params = (const char *)step.params + rows * row;
        step.new_params = (char *)step.new_params + rows * row;
    }
}

static void step_rows(const fl_table *table, const fl_columns *words, fl_sgd step, void *new_values)
{
    const fl_kernels *kernels = fl_kernels_active(table->dtype, FL_STORAGE_REAL);
    const size_t together = elements_of_part(table) / table->width;
    const size_t row = table->width * (table->dtype == FL_F32 ? sizeof(float) : sizeof(double));
    char *grads = (char *)step.grads;
    for (size_t first = 0, n = 0, next; first < table->words; first += together, n = next) {
        const size_t count = table->words - first < together ? table->words - first : together;
        step.n = count * table->width;
        for (next = n; next < words->count && (size_t)words->index[next] < first + count; next++)
            memcpy(grads + ((size_t)words->index[next] - first) * row, (const char *)words->values + next * row, row);
        kernels->sgd(&step);
        for (; n < next; n++) {
            const size_t at = ((size_t)words->index[n] - first) * row;
            memset(grads + at, 0, row);
            memcpy((char *)new_values + n * row, (const char *)step.new_params + at, row);
        }
        step.params = (const char *)step.params + count * row;
        step.new_params = (char *)step.new_params + count * row;
    }
}

void fl_sgd_words(const fl_table *table, const fl_columns *words, double lr, const void *params, void *new_params,
                  void *new_values, void *room)
{
    const fl_fp_state caller_state = fl_fp_enter_mode(FL_FP_FLUSH); /* as fl_sgd_step */
    const fl_sgd step = {.new_params = new_params,
                         .params = params,
                         .grads = room,
                         .lr = lr,
                         .is_far = is_far(table->dtype, table->words * table->width) && new_params != params};
    if (table->by_columns)
        step_columns(table, words, step, new_values);
    else
        step_rows(table, words, step, new_values);
    fl_fp_leave(caller_state);
}

/* ---- Clipping ----------------------------------------------------------------------------------------------- */

/* total += x, and what rounding loses to `lost` (Neumaier 1974). */
static void add_to(double *total, double x)
{
    const double next = total[0] + x;
    const double lost = fabs(total[0]) >= fabs(x) ? (total[0] - next) + x : (x - next) + total[0];
    total[1] += isfinite(next) ? lost : 0.0;
    total[0] = next;
}

static void squares_range(const pass *p, size_t begin, size_t end)
{
    const double scale = *(const double *)p->work;
    for (size_t k = begin; k < end; k += RANGE) {
        const double sum = p->kernels->sum_squares(end - k < RANGE ? end - k : RANGE, element(p, p->x, k), scale);
        if (p->threads > 1)
            p->sums[k / RANGE] = sum;
        else
            add_to(p->total, sum);
    }
}

double fl_sum_squares(fl_dtype dtype, size_t n, const void *x, double scale)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    double total[2] = {0.0, 0.0};
    const size_t ranges = (n + RANGE - 1) / RANGE;
    pass p = pass_of(dtype, n, FL_FP_EXACT, squares_range);
    p.x = x;
    p.work = &scale;
    p.total = total;
    p.sums = threads_for(n) > 1 ? fl_allocate(ranges * sizeof *p.sums) : NULL;
    if (threads_for(n) > 1 && p.sums == NULL) {
        p.threads = 1;
        run_share(&p, 0);
    } else {
        run_pass(&p);
    }
    if (p.threads > 1)
        for (size_t range = 0; range < ranges; range++) add_to(total, p.sums[range]);
    fl_release(p.sums);
    const double sum = total[0] + total[1];
    fl_fp_leave(caller_state);
    return sum;
}

double fl_largest(fl_dtype dtype, size_t n, const void *x)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    const double most = fl_kernels_active(dtype, FL_STORAGE_REAL)->largest(n, x);
    fl_fp_leave(caller_state);
    return most;
}

typedef struct shrink_work {
    void *x;
    double factor, power;
} shrink_work;

static void shrink_range(const pass *p, size_t begin, size_t end)
{
    const shrink_work *w = p->work;
    p->kernels->rescale(end - begin, w->factor, w->power, output(p, w->x, begin));
}

/* The next float32 towards zero. */
static double truncated(double x)
{
    const float nearest = (float)x;
    return fabs((double)nearest) > fabs(x) ? (double)nextafterf(nearest, 0.0F) : (double)nearest;
}

void fl_shrink(fl_dtype dtype, size_t n, double factor, int exponent, void *x)
{
    const fl_fp_state caller_state = fl_fp_enter(false);
    /* factor * power * power, of which each is a normal number of the dtype. */
    const int least = dtype == FL_F32 ? -100 : -1000, each = exponent >= least ? 0 : (exponent - least) / 2;
    const double fraction = dtype == FL_F32 ? truncated(factor) : factor;
    const shrink_work work = {x, ldexp(fraction, exponent - 2 * each), ldexp(1.0, each < least ? least : each)};
    pass p = pass_of(dtype, n, FL_FP_TRUNCATE, shrink_range);
    p.work = &work;
    run_pass(&p);
    fl_fp_leave(caller_state);
}
