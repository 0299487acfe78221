/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The shared part of a stage: gradients of the parameters, from all rows of the chunk.
 */
#include "backward/backward_call.h"
#include "base/machine.h"

#define ROW_UNIT 24               /* a multiple of most tile heights */
#define GATE_BLOCK (8 * ROW_UNIT) /* of a chunk's dgates, 192 KiB: stays in L2 */
#define FAR 3                     /* times L2 */

/* What one thread does of a stage. */
typedef struct shared_part {
    const back_call *c;
    stage s;
    size_t parity;
    size_t cell;        /* layer and direction */
    size_t part, parts; /* of the outputs */
    size_t rows;        /* of the chunk */
    const back_scratch *scratch;
    fl_gradients gradients;
} shared_part;

/* Which rows a panel is made of. */
typedef enum row_source {
    FROM_INPUT,
    FROM_STATE,  /* h before the step, from element `from` on */
    FROM_MASKED, /* that under the mask of recurrent dropout of gate `from` */
    FROM_SAVED   /* what the cell saved, from element `from` on */
} row_source;

/* Part (rows, N) of a parameter's gradient, from element `at` on: the sum over the chunk's rows of gradients [begin, begin +
 * rows) times N elements of the source. */
typedef struct outer_part {
    row_source source;
    size_t from, begin, rows, N, parameter, at;
} outer_part;

/* h under its mask, into the thread's own memory. */
static const void *masked_row(const shared_part *p, size_t gate, size_t row, size_t b, const void *h)
{
    const back_call *c = p->c;
    const size_t bytes = c->P * c->stack->real_size, masks = fl_recurrent_masks(c->stack, &c->tape->recording);
    const size_t recurrence = p->s.layer * c->D + p->s.direction;
    char *to = p->scratch->masked + row * bytes;
    c->stack->kernels->multiply(c->P, h, c->memory.masks + ((recurrence * masks + gate) * c->B + b) * bytes, to);
    return to;
}

static const void *source_row(const shared_part *p, const outer_part *o, size_t row, size_t t, size_t b)
{
    const back_call *c = p->c;
    const size_t real_size = c->stack->real_size;
    switch (o->source) {
    case FROM_STATE: return (const char *)fl_back_h_before(c, &p->s, t, b) + o->from * real_size;
    case FROM_MASKED: return masked_row(p, o->from, row, b, fl_back_h_before(c, &p->s, t, b));
    case FROM_SAVED: return (const char *)fl_back_saved(c, &p->s, t, b) + o->from * real_size;
    default: break;
    }
    if (p->s.layer == 0)
        return fl_back_input(c, t, b);
    if (c->drops)
        return c->memory.dropped[p->parity] + row * c->D * c->P * real_size;
    return fl_back_output(c, p->s.layer - 1, t, b);
}

/* All rows of the chunk, step after step against time. */
static void point_at_sources(const shared_part *p, const outer_part *o)
{
    const back_call *c = p->c;
    for (size_t n = 0, row = 0; n < p->s.end - p->s.begin; n++) {
        const size_t t = stage_time(&p->s, n), active = fl_back_active(c, t);
        for (size_t rank = 0; rank < active; rank++, row++)
            p->scratch->x[row] = source_row(p, o, row, t, c->memory.rows[rank]);
    }
}

/* Vectors that threads divide among them, some of several products. */
typedef struct shared_vectors {
    size_t done, all;
} shared_vectors;

/* Row at which share `part` of the rows of a panel begins, where `done` of `all` vectors come before it. */
static size_t share_row(const shared_vectors *v, size_t vectors, size_t part, size_t parts, size_t rows)
{
    const double wanted = (double)v->all * (double)part / (double)parts - (double)v->done;
    if (wanted <= 0.0)
        return 0;
    if (part == parts || wanted >= (double)vectors)
        return rows;
    return (size_t)(wanted / (double)vectors * (double)rows / ROW_UNIT) * ROW_UNIT;
}

/* The range of `product`, pass after pass over the chunk's rows; where a group ends, the totals take up its sums. */
static void multiply_range(const shared_part *p, const outer_part *o, fl_outer_product product)
{
    const back_call *c = p->c;
    const fl_kernels *kernels = c->stack->kernels;
    const size_t real_size = c->stack->real_size, group = c->plan.group, number = p->s.number, at = o->at * real_size;
    const size_t first = fl_panel_first(&product.panels, product.panel) * product.panels.lanes;
    const size_t end = fl_panel_first(&product.panels, product.panel + 1) * product.panels.lanes;
    const size_t corner = (product.row_begin * o->N + first) * real_size;
    const bool closes = (number + 1) % group == 0 || p->s.is_last;
    char *total = (char *)fl_gradient_at(&p->gradients, o->parameter) + at;
    const back_sums none = {total, NULL};
    const back_sums sums = c->plan.folds ? c->memory.sums[p->cell * FL_PARAMETER_COUNT + o->parameter] : none;
    fl_fold fold = {.rows = product.row_end - product.row_begin,
                    .columns = (end < o->N ? end : o->N) - first,
                    .stride = (ptrdiff_t)o->N,
                    .total = total + corner,
                    .is_first = number < group};
    product.out = sums.group;
    product.adds = number % group != 0;
    if (c->plan.folds) {
        product.out = sums.group + at;
        fold.sums = sums.group + at + corner;
        fold.low = sums.low + at + corner;
    }
    size_t rest = p->rows, pass = 0;
    do {
        product.M = rest < FL_PASS_ROWS ? rest : FL_PASS_ROWS;
        kernels->outer_product(&product);
        rest -= product.M;
        product.adds = true;
        product.a = (const char *)product.a + product.M * (size_t)product.a_stride * real_size;
        product.x = (const char *)product.x + product.M * (end - first) * real_size;
        if (c->plan.folds && (++pass % FL_GROUP_PASSES == 0 || (rest == 0 && closes))) {
            fold.is_last = rest == 0 && p->s.is_last;
            kernels->fold_sums(&fold);
            fold.is_first = product.adds = false;
        }
    } while (rest != 0);
}

/* This thread's part of the sum over rows of dgates x', panel after panel.  Where dgates come from the last cache, some
 * panels are filled at a time, and all of them meet a block of gates before the next one does, so that it is fetched once
 * (H = 1024: 84 -> 87 % of the multiply-add peak; nearer, one panel at a time is 1 % faster). */
static void multiply(const shared_part *p, const outer_part *o, shared_vectors v)
{
    const back_call *c = p->c;
    const fl_kernels *kernels = c->stack->kernels;
    const size_t gates = o->rows, lanes = c->stack->layout.lanes, real_size = c->stack->real_size;
    const bool is_far = p->rows * (size_t)c->memory.dgates_stride * real_size > FAR * fl_cache_l2();
    const size_t together = is_far ? FL_PANELS_TOGETHER : 1, block_size = is_far ? GATE_BLOCK : gates;
    fl_outer_product product = {.a = c->memory.dgates[p->parity] + o->begin * real_size,
                                .a_stride = c->memory.dgates_stride,
                                .panels = fl_panels_of(o->N, lanes),
                                .ld_out = (ptrdiff_t)o->N};
    const fl_panels *panels = &product.panels;
    point_at_sources(p, o);
    for (size_t first = 0, end; first < panels->count; first = end) {
        end = panels->count - first > together ? first + together : panels->count;
        size_t begins[FL_PANELS_TOGETHER], ends[FL_PANELS_TOGETHER];
        const char *filled[FL_PANELS_TOGETHER];
        char *to = p->scratch->panel;
        for (size_t panel = first, n = 0; panel < end; panel++, n++) {
            const size_t vectors = fl_panel_first(panels, panel + 1) - fl_panel_first(panels, panel);
            begins[n] = share_row(&v, vectors, p->part, p->parts, gates);
            ends[n] = share_row(&v, vectors, p->part + 1, p->parts, gates);
            v.done += vectors;
            filled[n] = to;
            if (begins[n] >= ends[n])
                continue;
            kernels->fill_panel(panels, panel, p->rows, (const void *const *)p->scratch->x, to);
            to += vectors * lanes * real_size * p->rows;
        }
        for (size_t block = 0; block < gates; block += block_size) {
            for (size_t panel = first, n = 0; panel < end; panel++, n++) {
                product.panel = panel;
                product.x = filled[n];
                product.row_begin = begins[n] > block ? begins[n] : block;
                product.row_end = ends[n] < block + block_size ? ends[n] : block + block_size;
                if (product.row_begin < product.row_end)
                    multiply_range(p, o, product);
            }
        }
    }
}

/* A product by itself. */
static void multiply_alone(const shared_part *p, const outer_part *o)
{
    const shared_vectors v = {0, fl_panels_of(o->N, p->c->stack->layout.lanes).vectors};
    multiply(p, o, v);
}

/* Products of the recurrent weights; returns their number.  Those of heads are not among them. */
static size_t recurrent_parts(const back_call *c, outer_part *parts)
{
    const fl_cell_sizes *sizes = &c->stack->sizes;
    const size_t H = c->H, P = c->P, G = c->G, early = sizes->early_gates;
    const size_t masks = fl_recurrent_masks(c->stack, &c->tape->recording);
    const outer_part whole = {FROM_STATE, 0, c->stack->gradient_row.state, G * H, P, FL_WEIGHT_HH, 0};
    if (!sizes->recurs || sizes->heads > 1)
        return 0;
    parts[0] = whole;
    if (masks == 1) {
        parts[0].source = FROM_MASKED;
    } else if (masks > 1) {
        for (size_t gate = 0; gate < G; gate++) {
            const outer_part one = {FROM_MASKED,  gate,        c->stack->gradient_row.state + gate * H, H, P,
                                    FL_WEIGHT_HH, gate * H * P};
            parts[gate] = one;
        }
        return G;
    } else if (early != 0) { /* the last gate saw r h, which the cell keeps behind rows of all gates */
        const outer_part last = {FROM_SAVED,   G * H,        c->stack->gradient_row.state + early * H, H, H,
                                 FL_WEIGHT_HH, early * H * H};
        parts[0].rows = early * H;
        parts[1] = last;
        return 2;
    }
    return 1;
}

/* A block-diagonal R: each head of each gate by itself. */
static void multiply_heads(const shared_part *p)
{
    const size_t heads = p->c->stack->sizes.heads, K = p->c->H / heads;
    for (size_t n = 0; n < p->c->G * heads; n++) {
        const outer_part head = {FROM_STATE,   n % heads * K, p->c->stack->gradient_row.state + n * K, K, K,
                                 FL_WEIGHT_HH, n * K * K};
        multiply_alone(p, &head);
    }
}

static void multiply_all(const shared_part *p)
{
    const back_call *c = p->c;
    const fl_stack *stack = c->stack;
    const size_t lanes = stack->layout.lanes, I = fl_recurrence_of(stack, p->s.layer, p->s.direction)->I;
    const bool is_index = p->s.layer == 0 && c->tape->args.call.x_index != NULL;
    const outer_part input = {FROM_INPUT, 0, 0, c->G * c->H, I, FL_WEIGHT_IH, 0};
    outer_part recurrent[FL_MAX_GATES];
    const size_t count = recurrent_parts(c, recurrent);
    /* Threads share all vectors of W and R together, where R is one product. */
    shared_vectors v = {0, is_index ? 0 : fl_panels_of(I, lanes).vectors};
    const size_t W_vectors = v.all;
    v.all += count == 1 ? fl_panels_of(c->P, lanes).vectors : 0;
    if (!is_index)
        multiply(p, &input, v);
    v.done = W_vectors;
    if (count == 1)
        multiply(p, &recurrent[0], v);
    for (size_t n = 0; n < count && count > 1; n++) multiply_alone(p, &recurrent[n]);
    if (stack->sizes.heads > 1)
        multiply_heads(p);
    if (p->gradients.weight_hr != NULL) {
        const outer_part projection = {
            FROM_SAVED, stack->sizes.saved - c->H, c->stack->gradient_row.projected, c->P, c->H, FL_WEIGHT_HR, 0};
        multiply_alone(p, &projection);
    }
}

/* This thread's range of `count` columns. */
static void share_columns(const shared_part *p, size_t count, size_t *begin, size_t *end)
{
    const size_t unit = count / p->parts / ROW_UNIT * ROW_UNIT;
    *begin = p->part * unit;
    *end = p->part + 1 == p->parts ? count : *begin + unit;
}

/* Gradients that are sums of columns: biases, and the cell's own parameters. */
static void sum_columns(const shared_part *p)
{
    const back_call *c = p->c;
    const fl_gradient_row *row = &c->stack->gradient_row;
    for (size_t index = 0; index < FL_PARAMETER_COUNT; index++) {
        size_t begin, end;
        char *out = fl_gradient_at(&p->gradients, index);
        if (index == FL_BIAS_IH && out == NULL && row->columns[FL_BIAS_HH].count == 0) /* both have the same gradient */
            out = p->gradients.bias_hh;
        if (out == NULL || row->columns[index].count == 0)
            continue;
        share_columns(p, row->columns[index].count, &begin, &end);
        const size_t real_size = c->stack->real_size, from = row->columns[index].from + begin;
        const fl_fold fold = {.columns = end - begin,
                              .total = out + begin * real_size,
                              .low = c->memory.column_low + (p->cell * row->width + from) * real_size,
                              .is_first = p->s.is_first,
                              .is_last = p->s.is_last};
        c->stack->kernels->column_sums(p->rows, c->memory.dgates[p->parity] + from * real_size, c->memory.dgates_stride,
                                       &fold);
    }
}

/* Gradient of weight_ih for one-hot input, of the inputs that occur: totals take up each row by itself. */
static void scatter_index(const shared_part *p)
{
    const back_call *c = p->c;
    const size_t gates = c->G * c->H;
    size_t begin, end, m = 0;
    char *total = c->memory.index_gradient.rows[p->s.direction], *low = c->memory.index_low[p->s.direction];
    share_columns(p, gates, &begin, &end);
    for (size_t n = 0; n < p->s.end - p->s.begin; n++) {
        const size_t t = stage_time(&p->s, n), active = fl_back_active(c, t);
        for (size_t rank = 0; rank < active; rank++, m++)
            p->scratch->index[m] = c->memory.index_slot[fl_back_input_index(c, t, c->memory.rows[rank])];
    }
    c->stack->kernels->scatter_rows(p->rows, c->memory.dgates[p->parity], c->memory.dgates_stride, p->scratch->index,
                                    begin, end, total, low, (ptrdiff_t)gates);
    const fl_fold last = {.rows = c->memory.index_gradient.count,
                          .columns = end - begin,
                          .stride = (ptrdiff_t)gates,
                          .total = total + begin * c->stack->real_size,
                          .low = low + begin * c->stack->real_size,
                          .is_last = true};
    if (p->s.is_last)
        c->stack->kernels->fold_sums(&last);
}

void fl_back_shared(back_call *c, size_t thread, size_t index)
{
    shared_part p = {.c = c,
                     .s = fl_back_stage(c->stack, &c->plan, c->T, index),
                     .parity = index % 2,
                     .part = thread - c->plan.first_sharing,
                     .parts = c->plan.threads - c->plan.first_sharing,
                     .scratch = &c->memory.threads[thread]};
    p.cell = p.s.layer * c->D + p.s.direction;
    p.gradients = fl_gradients_of(&c->stack->sizes, &c->args->gradients[p.cell]);
    for (size_t t = p.s.begin; t < p.s.end; t++) p.rows += fl_back_active(c, t);
    multiply_all(&p);
    sum_columns(&p);
    if (p.s.layer == 0 && c->tape->args.call.x_index != NULL)
        scatter_index(&p);
}
