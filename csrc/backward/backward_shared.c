/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The shared part of a stage: gradients of the parameters, from all rows of the chunk.
 */
#include "backward/backward_call.h"
#include "kernels/choose.h"

#define ROW_UNIT 24               /* a multiple of most tile heights */
#define GATE_BLOCK (8 * ROW_UNIT) /* of a chunk's dgates, 192 KiB: stays in L2 */
#define FAR 3                     /* times L2 */

/* Which rows a panel is made of. */
typedef enum row_source {
    FROM_INPUT,
    FROM_STATE,  /* h before the step, from element `from` on */
    FROM_MASKED, /* that under the mask of recurrent dropout of gate `from` */
    FROM_SAVED   /* what the cell saved, from element `from` on */
} row_source;

/* out (rows, N) (+)= sum over the chunk's rows of gradients [begin, begin + rows) times N elements of the source. */
typedef struct outer_part {
    row_source source;
    size_t from, begin, rows, N;
    void *out;
} outer_part;

static const char *source_row(const back_call *c, const stage *s, const outer_part *o, size_t parity, size_t row,
                              size_t t, size_t b)
{
    const size_t real_size = c->stack->real_size;
    if (o->source == FROM_STATE || o->source == FROM_MASKED)
        return fl_back_h_before(c, s->layer, s->direction, t, b) + (o->source == FROM_STATE ? o->from * real_size : 0);
    if (o->source == FROM_SAVED)
        return fl_back_saved(c, s->layer, s->direction, t, b) + o->from * real_size;
    if (s->layer == 0)
        return fl_back_input(c, t, b);
    if (c->drops)
        return c->dropped[parity] + row * c->D * c->P * real_size;
    return fl_back_output(c, s->layer - 1, t, b);
}

/* h under its mask, into the thread's own memory. */
static const char *masked_row(const back_call *c, const stage *s, const outer_part *o, size_t row, size_t b,
                              const char *h, const back_scratch *scratch)
{
    const size_t real_size = c->stack->real_size, masks = fl_recurrent_masks(c->stack, &c->tape->saving);
    const size_t cell = s->layer * c->D + s->direction;
    const char *mask = c->masks + ((cell * masks + o->from) * c->B + b) * c->P * real_size;
    char *to = scratch->masked + row * c->P * real_size;
    c->stack->kernels->multiply(c->P, h, mask, to);
    return to;
}

/* All rows of the chunk, step after step against time. */
static void point_at_sources(const back_call *c, const stage *s, const outer_part *o, size_t parity,
                             const back_scratch *scratch)
{
    size_t row = 0;
    for (size_t n = 0; n < s->end - s->begin; n++) {
        const size_t t = s->direction == 0 ? s->end - 1 - n : s->begin + n, active = fl_back_active(c, t);
        for (size_t rank = 0; rank < active; rank++, row++) {
            const size_t b = c->rows[rank];
            const char *source = source_row(c, s, o, parity, row, t, b);
            scratch->x[row] = o->source == FROM_MASKED ? masked_row(c, s, o, row, b, source, scratch) : source;
        }
    }
}

static size_t count_rows(const back_call *c, const stage *s)
{
    size_t rows = 0;
    for (size_t t = s->begin; t < s->end; t++) rows += fl_back_active(c, t);
    return rows;
}

/* Share `part` of `parts` of the rows of `panels`, where `done` of `all` vectors come before. */
static size_t share_row(size_t done, size_t all, size_t vectors, size_t part, size_t parts, size_t rows)
{
    const double wanted = (double)all * (double)part / (double)parts - (double)done;
    if (wanted <= 0.0)
        return 0;
    if (part == parts || wanted >= (double)vectors)
        return rows;
    return (size_t)(wanted / (double)vectors * (double)rows / ROW_UNIT) * ROW_UNIT;
}

/* This thread's part of the sum over rows of dgates x', panel after panel.  Where dgates come from the last cache, some
 * panels are filled at a time, and all of them meet a block of gates before the next one does, so that it is fetched once
 * (H = 1024: 84 -> 87 % of the multiply-add peak; nearer, one panel at a time is 1 % faster). */
static void multiply(const back_call *c, const stage *s, const outer_part *o, size_t parity, size_t part, size_t parts,
                     size_t done, size_t all, size_t rows, const back_scratch *scratch)
{
    const fl_kernels *kernels = c->stack->kernels;
    const size_t N = o->N, gates = o->rows;
    const bool is_far = rows * (size_t)c->dgates_stride * c->stack->real_size > FAR * fl_cache_l2();
    const size_t together = is_far ? FL_PANELS_TOGETHER : 1, block_size = is_far ? GATE_BLOCK : gates;
    const size_t row_bytes = c->stack->layout.lanes * c->stack->real_size * rows;
    fl_outer_product product = {.M = rows,
                                .a = c->dgates[parity] + o->begin * c->stack->real_size,
                                .a_stride = c->dgates_stride,
                                .panels = fl_panels_of(N, c->stack->layout.lanes),
                                .out = o->out,
                                .ld_out = (ptrdiff_t)N,
                                .adds = !s->is_first};
    const fl_panels *panels = &product.panels;
    point_at_sources(c, s, o, parity, scratch);
    for (size_t first = 0, end; first < panels->count; first = end) {
        end = panels->count - first > together ? first + together : panels->count;
        size_t begins[FL_PANELS_TOGETHER], ends[FL_PANELS_TOGETHER];
        const char *filled[FL_PANELS_TOGETHER];
        char *to = scratch->panel;
        for (size_t panel = first, n = 0; panel < end; panel++, n++) {
            const size_t vectors = fl_panel_first(panels, panel + 1) - fl_panel_first(panels, panel);
            begins[n] = share_row(done, all, vectors, part, parts, gates);
            ends[n] = share_row(done, all, vectors, part + 1, parts, gates);
            done += vectors;
            filled[n] = to;
            if (begins[n] >= ends[n])
                continue;
            kernels->fill_panel(panels, panel, rows, (const void *const *)scratch->x, to);
            to += vectors * row_bytes;
        }
        for (size_t block = 0; block < gates; block += block_size) {
            for (size_t panel = first, n = 0; panel < end; panel++, n++) {
                product.panel = panel;
                product.x = filled[n];
                product.row_begin = begins[n] > block ? begins[n] : block;
                product.row_end = ends[n] < block + block_size ? ends[n] : block + block_size;
                if (product.row_begin < product.row_end)
                    kernels->outer_product(&product);
            }
        }
    }
}

/* Products of the recurrent weights; returns their number. */
static size_t recurrent_parts(const back_call *c, const fl_gradients *gradients, outer_part *parts)
{
    const fl_stack *stack = c->stack;
    const size_t H = c->H, P = c->P, G = c->G, masks = fl_recurrent_masks(stack, &c->tape->saving);
    char *out = gradients->weight_hh;
    const outer_part whole = {FROM_STATE, 0, c->dh_offset, G * H, P, out};
    if (!stack->sizes.recurs)
        return 0;
    parts[0] = whole;
    if (masks == 1) {
        parts[0].source = FROM_MASKED;
    } else if (masks > 1) {
        for (size_t gate = 0; gate < G; gate++) {
            const outer_part one = {FROM_MASKED, gate, c->dh_offset + gate * H,
                                    H,           P,    out + gate * H * P * stack->real_size};
            parts[gate] = one;
        }
        return G;
    } else if (stack->shape.cell.reset_before) { /* n saw r h, which the cell keeps behind three rows of gates */
        const outer_part n = {FROM_SAVED, 3 * H, c->dh_offset + 2 * H, H, H, out + 2 * H * H * stack->real_size};
        parts[0].rows = 2 * H;
        parts[1] = n;
        return 2;
    }
    return 1;
}

/* A block-diagonal R: each head of each gate by itself. */
static void multiply_heads(const back_call *c, const stage *s, const fl_gradients *gradients, size_t parity,
                           size_t part, size_t parts, size_t rows, const back_scratch *scratch)
{
    const size_t K = fl_head_size(c->stack), heads = c->H / K;
    for (size_t n = 0; n < c->G * heads; n++) {
        const outer_part head = {FROM_STATE,
                                 n % heads * K,
                                 c->dh_offset + n * K,
                                 K,
                                 K,
                                 (char *)gradients->weight_hh + n * K * K * c->stack->real_size};
        multiply(c, s, &head, parity, part, parts, 0, fl_panels_of(K, c->stack->layout.lanes).vectors, rows, scratch);
    }
}

/* This thread's part of sums of columns [from, from + count) of the chunk's gradients. */
static void sum_columns(const back_call *c, const stage *s, size_t parity, size_t part, size_t parts, size_t rows,
                        size_t from, size_t count, void *out)
{
    const size_t unit = count / parts / ROW_UNIT * ROW_UNIT;
    const size_t begin = part * unit, end = part + 1 == parts ? count : begin + unit;
    if (out != NULL && begin < end)
        c->stack->kernels->column_sums(rows, c->dgates[parity] + from * c->stack->real_size, c->dgates_stride, begin,
                                       end, !s->is_first, out);
}

/* Gradients that are sums of columns: biases, and the cell's own parameters in the order of cells.h. */
static void sum_all_columns(const back_call *c, const stage *s, const fl_gradients *gradients, size_t parity,
                            size_t part, size_t parts, size_t rows)
{
    const fl_cell_options *o = &c->stack->shape.cell;
    const size_t H = c->H, gate_rows = c->G * H;
    const bool norms = o->layer_norm != FL_LAYER_NORM_NONE, haste = o->layer_norm == FL_LAYER_NORM_HASTE;
    void *bias =
        gradients->bias_ih != NULL ? gradients->bias_ih : gradients->bias_hh; /* mostly they have the same one */
    size_t extra = c->extras_offset;
    const struct {
        bool is_there;
        size_t count;
        void *out;
    } extras[] = {
        {o->peephole, c->stack->sizes.peepholes * H, gradients->weight_ch},
        {o->kind == FL_CELL_INDRNN, H, gradients->weight_hh},
        {norms, gate_rows, bias},
        {norms, gate_rows, gradients->weight_ln_ih},
        {haste, gate_rows, gradients->weight_ln_hh},
        {haste, H, gradients->weight_ln_c},
        {haste, H, gradients->bias_ln_c},
    };
    if (!norms)
        sum_columns(c, s, parity, part, parts, rows, 0, gate_rows,
                    fl_back_has_own_bias_hh(c) ? gradients->bias_ih : bias);
    if (fl_back_has_own_bias_hh(c))
        sum_columns(c, s, parity, part, parts, rows, c->dh_offset, gate_rows, gradients->bias_hh);
    if (o->proj_size != 0)
        sum_columns(c, s, parity, part, parts, rows, c->proj_offset, c->P, gradients->bias_hr);
    for (size_t n = 0; n < sizeof extras / sizeof *extras; n++) {
        if (!extras[n].is_there)
            continue;
        sum_columns(c, s, parity, part, parts, rows, extra, extras[n].count, extras[n].out);
        extra += extras[n].count;
    }
}

/* Gradient of weight_ih for one-hot input, transposed. */
static void scatter_index(const back_call *c, const stage *s, size_t parity, size_t part, size_t parts, size_t rows,
                          const back_scratch *scratch)
{
    const size_t gates = c->G * c->H, unit = gates / parts / ROW_UNIT * ROW_UNIT;
    const size_t begin = part * unit, end = part + 1 == parts ? gates : begin + unit;
    size_t m = 0;
    for (size_t n = 0; n < s->end - s->begin; n++) {
        const size_t t = s->direction == 0 ? s->end - 1 - n : s->begin + n, active = fl_back_active(c, t);
        for (size_t rank = 0; rank < active; rank++, m++) scratch->index[m] = fl_back_input_index(c, t, c->rows[rank]);
    }
    c->stack->kernels->scatter_rows(rows, c->dgates[parity], c->dgates_stride, scratch->index, begin, end,
                                    c->index_gradient[s->direction], (ptrdiff_t)gates);
}

void fl_back_shared(back_call *c, size_t thread, size_t index)
{
    const stage s = fl_back_stage(c, index);
    const fl_stack *stack = c->stack;
    const size_t part = thread - c->plan.first_sharing, parts = c->plan.threads - c->plan.first_sharing;
    const size_t parity = index % 2, lanes = stack->layout.lanes, rows = count_rows(c, &s);
    const fl_gradients *gradients = &c->args->gradients[s.layer * c->D + s.direction];
    const bool is_index = s.layer == 0 && c->tape->args.call.x_index != NULL;
    const outer_part input = {FROM_INPUT,          0, 0, c->G * c->H, fl_cell_of(stack, s.layer, s.direction)->I,
                              gradients->weight_ih};
    outer_part recurrent[FL_MAX_GATES];
    back_scratch scratch;
    fl_back_scratch(c, c->per_thread + thread * c->per_thread_bytes, &scratch);
    const bool has_heads = stack->shape.cell.kind == FL_CELL_SLSTM;
    const size_t count = has_heads ? 0 : recurrent_parts(c, gradients, recurrent);
    /* Threads share all vectors of W and R together, where R is one product. */
    const size_t W_vectors = is_index ? 0 : fl_panels_of(input.N, lanes).vectors;
    const size_t R_vectors = fl_panels_of(c->P, lanes).vectors,
                 together = count == 1 ? W_vectors + R_vectors : W_vectors;
    if (!is_index)
        multiply(c, &s, &input, parity, part, parts, 0, together, rows, &scratch);
    if (count == 1)
        multiply(c, &s, &recurrent[0], parity, part, parts, W_vectors, together, rows, &scratch);
    for (size_t n = 0; n < count && count > 1; n++)
        multiply(c, &s, &recurrent[n], parity, part, parts, 0, R_vectors, rows, &scratch);
    if (has_heads)
        multiply_heads(c, &s, gradients, parity, part, parts, rows, &scratch);
    if (stack->shape.cell.proj_size != 0) {
        const outer_part projection = {FROM_SAVED, stack->sizes.saved - c->H, c->proj_offset, c->P,
                                       c->H,       gradients->weight_hr};
        multiply(c, &s, &projection, parity, part, parts, 0, fl_panels_of(c->H, lanes).vectors, rows, &scratch);
    }
    sum_all_columns(c, &s, gradients, parity, part, parts, rows);
    if (is_index)
        scatter_index(c, &s, parity, part, parts, rows, &scratch);
}
