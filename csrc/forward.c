/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward driver: plans, cuts the call into runs of steps with a constant set of active rows, and hands them to
 * the kernels.  No arithmetic here.  All threads of a plan execute run_thread() and find their part by their place in
 * the plan's grid; they meet only through counters.
 *
 * States live in h_n and c_n from the start: c is updated in place, h is copied there at the end of a run.
 */
#define _GNU_SOURCE
#include "forward.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool.h"

#define INTERRUPT_NS 20000000.0 /* between two calls of the interrupt callback */
#define RUN_NS 5000000.0        /* no kernel call should be estimated to take longer */

/* A sequence of rows in memory, (T, B, features), either end of a layer. */
typedef struct sequence {
    char *base; /* of time step `origin` */
    size_t origin;
    ptrdiff_t stride_t, stride_b; /* elements */
} sequence;

typedef struct call {
    const fl_lstm *lstm;
    const fl_lstm_args *args;
    fl_plan plan;
    size_t *rows;           /* (B) batch rows, group after group, longest first; null where all are T long */
    char *pre;              /* hoisted input products, one part per hidden group */
    size_t pre_bytes;       /* of one part */
    ptrdiff_t *offsets;     /* x offsets of hoisted rows, one part per thread */
    size_t hoisted_rows;    /* most rows of a part */
    char *exchange;         /* h (twice) and c of hidden groups, (B, blocks * lanes) each, one part per hidden group */
    char *between;          /* outputs of layers that are not the last */
    size_t between_bytes;   /* of one buffer */
    fl_counter *progress;   /* per thread: steps (hidden groups), chunks (layer groups) or layers (directions) done */
    size_t turn;            /* see fl_steps */
    atomic_bool stop;
    fl_fp_state *caller_state; /* for the interrupt callback */
    struct timespec last_check;
} call;

/* One thread's place and part. */
typedef struct part {
    call *call;
    size_t thread, group, direction_group, layer_group, hidden_group; /* place in the grid */
    size_t place;           /* number of the hidden group */
    size_t B;               /* rows of the row group */
    size_t first_row;       /* position of the first one */
    const size_t *rows;     /* their batch rows, or null: first_row.. */
    size_t block_begin, block_end;
    uint64_t seq;           /* steps done, the same for all members of a hidden group */
    size_t turn;            /* see fl_steps */
    unsigned slow_waits;    /* for other members of the hidden group */
    bool stopped;
} part;

/* ---- Memory ----------------------------------------------------------------------------------------------- */

/* A batch row and its length, for sorting. */
typedef struct ranked_row {
    int64_t length;
    size_t row;
} ranked_row;

typedef struct memory_map {
    size_t progress, rows, offsets, pre, exchange, between, total;
    size_t pre_bytes, between_bytes, hoisted_rows;
} memory_map;

/* Buffers between layers: two by turns within each layer group, and two for each hand-over to the next group; for two
 * directions one, which takes turns with y. */
static size_t between_count(const fl_lstm *lstm, const fl_plan *plan)
{
    if (lstm->shape.num_layers == 1)
        return 0;
    if (lstm->shape.num_directions == 2)
        return 1;
    return 2 * plan->layer_groups + 2 * (plan->layer_groups - 1);
}

static bool reserve(size_t *total, size_t *offset, size_t count, size_t each, size_t bytes)
{
    *offset = *total;
    if (!fl_add_product(total, count, each, bytes) || !fl_add_product(total, FL_ALIGNMENT, 2, 1))
        return false;
    *total = fl_round_up(*total);
    return true;
}

static bool map_memory(const fl_lstm *lstm, const fl_plan *plan, size_t T, size_t B, bool ragged, memory_map *map)
{
    const size_t D = lstm->shape.num_directions;
    const size_t deeper = lstm->shape.num_layers > 1 ? D * lstm->layout.H : 0;
    const size_t widest = deeper > lstm->shape.input_size ? deeper : lstm->shape.input_size;
    const size_t parts = plan->row_groups * plan->direction_groups * plan->layer_groups;
    map->hoisted_rows = fl_hoisted_rows(lstm, widest, plan->group_rows, T, ragged);
    map->total = 0;
    map->pre_bytes = 0;
    map->between_bytes = 0;
    if (!fl_add_product(&map->pre_bytes, map->hoisted_rows, lstm->layout.gate_row, lstm->real_size) ||
        !fl_add_product(&map->pre_bytes, FL_ALIGNMENT, 1, 1))
        return false;
    map->pre_bytes = fl_round_up(map->pre_bytes);
    size_t row_bytes = 0;
    const size_t kept = D == 2 ? T : plan->chunk;
    if (!fl_add_product(&row_bytes, D, lstm->layout.H, lstm->real_size) ||
        !fl_add_product(&map->between_bytes, kept, B, row_bytes))
        return false;
    map->between_bytes = fl_round_up(map->between_bytes);
    const size_t unit_bytes = lstm->layout.blocks * lstm->layout.lanes * lstm->real_size;
    return reserve(&map->total, &map->progress, plan->threads, sizeof(fl_counter), 1) &&
           reserve(&map->total, &map->rows, ragged ? B : 0, sizeof(size_t) + sizeof(ranked_row), 1) &&
           reserve(&map->total, &map->offsets, plan->threads, map->hoisted_rows, sizeof(ptrdiff_t)) &&
           reserve(&map->total, &map->pre, parts, map->pre_bytes, 1) &&
           reserve(&map->total, &map->exchange, plan->hidden_groups > 1 ? parts * 3 : 0, B, unit_bytes) &&
           reserve(&map->total, &map->between, between_count(lstm, plan), map->between_bytes, 1);
}

fl_status fl_forward_bytes(const fl_lstm *lstm, const fl_plan *plan, size_t T, size_t B, bool ragged, size_t *bytes)
{
    memory_map map;
    if (!map_memory(lstm, plan, T, B, ragged, &map))
        return FL_ERROR_SIZE;
    *bytes = map.total;
    return FL_OK;
}

/* ---- Rows and lengths ------------------------------------------------------------------------------------- */

static size_t length_at(const part *p, size_t position)
{
    return p->rows != NULL ? (size_t)p->call->args->lengths[p->rows[position]] : p->call->args->T;
}

/* Rows that are longer than t; they are the first ones, since rows are sorted. */
static size_t active_at(const part *p, size_t t)
{
    size_t low = 0, high = p->B;
    if (p->rows == NULL)
        return t < p->call->args->T ? p->B : 0;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (length_at(p, middle) > t)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* First position of a row group: groups differ by one row at most. */
static size_t group_begin(size_t B, size_t groups, size_t group)
{
    return B / groups * group + (group < B % groups ? group : B % groups);
}

/* Longest first; equal lengths in the order of the batch. */
static int compare_rows(const void *a, const void *b)
{
    const ranked_row *left = a, *right = b;
    if (left->length != right->length)
        return left->length > right->length ? -1 : 1;
    return left->row < right->row ? -1 : 1;
}

/* Rows sorted by length and dealt out to the row groups in turn, so that each has its share of long ones. */
static void rank_rows(size_t *rows, ranked_row *ranked, size_t B, size_t groups, const int64_t *lengths)
{
    for (size_t b = 0; b < B; b++) {
        ranked[b].length = lengths[b];
        ranked[b].row = b;
    }
    qsort(ranked, B, sizeof *ranked, compare_rows);
    for (size_t group = 0, position = 0; group < groups; group++)
        for (size_t rank = group; rank < B; rank += groups)
            rows[position++] = ranked[rank].row;
}

/* ---- One run: a constant set of active rows, all steps of it ---------------------------------------------- */

static char *at_time(const sequence *s, size_t t, size_t real_size)
{
    return s->base + ((ptrdiff_t)t - (ptrdiff_t)s->origin) * s->stride_t * (ptrdiff_t)real_size;
}

/* All members of the hidden group have finished `seq` steps. */
static bool wait_for_group(part *p)
{
    const call *c = p->call;
    const size_t members = c->plan.hidden_groups, first = p->thread - p->hidden_group;
    for (size_t member = 0; member < members; member++)
        if (member != p->hidden_group && !fl_wait(&c->progress[first + member], p->seq, &c->stop, &p->slow_waits))
            return false;
    return true;
}

static void publish_step(part *p)
{
    p->seq++;
    atomic_store_explicit(&p->call->progress[p->thread].value, p->seq, memory_order_release);
}

/* Copy this thread's units of the active rows between two arrays of rows by b. */
static void copy_units(const part *p, const fl_steps *s, char *to, ptrdiff_t to_stride_b, const char *from,
                       ptrdiff_t from_stride_b)
{
    const size_t real_size = p->call->lstm->real_size, lanes = s->layout.lanes, H = s->layout.H;
    const size_t begin = p->block_begin * lanes, end = p->block_end * lanes < H ? p->block_end * lanes : H;
    for (size_t position = 0; position < s->B; position++) {
        const ptrdiff_t b = s->rows != NULL ? (ptrdiff_t)s->rows[position] : (ptrdiff_t)position;
        memcpy(to + (b * to_stride_b + (ptrdiff_t)begin) * (ptrdiff_t)real_size,
               from + (b * from_stride_b + (ptrdiff_t)begin) * (ptrdiff_t)real_size, (end - begin) * real_size);
    }
}

/* The steps of `s` on one thread, h from and to h_state. */
static void run_steps(part *p, fl_steps *s, char *h_state)
{
    const ptrdiff_t H = (ptrdiff_t)s->layout.H, real_size = (ptrdiff_t)p->call->lstm->real_size;
    s->h = h_state;
    s->h_stride_b = H;
    p->call->lstm->kernels->lstm_steps(s);
    p->turn += s->T;
    p->seq += s->T;
    copy_units(p, s, h_state, H, (char *)s->y + (ptrdiff_t)(s->T - 1) * s->y_stride_t * real_size, s->y_stride_b);
}

/* The same with the hidden group.  h passes through two buffers by turns, whose rows keep the members' units on cache
 * lines of their own, and c stays in a third: in y and c_n, at whatever address the caller has them, members would write
 * to the same line (measured: 0.64 instead of 0.28 us a step at H = 64).  y is filled after the step is published. */
static void run_shared_steps(part *p, fl_steps *s, char *h_state)
{
    const fl_kernels *kernels = p->call->lstm->kernels;
    const ptrdiff_t H = (ptrdiff_t)s->layout.H, real_size = (ptrdiff_t)p->call->lstm->real_size;
    const ptrdiff_t stride_b = (ptrdiff_t)(s->layout.blocks * s->layout.lanes), y_stride_b = s->y_stride_b;
    const ptrdiff_t buffer_bytes = (ptrdiff_t)p->call->args->B * stride_b * real_size;
    char *exchange = p->call->exchange + (ptrdiff_t)p->place * 3 * buffer_bytes;
    char *y = s->y, *c_state = s->c, *h_new = NULL;
    const size_t T = s->T;
    s->c = exchange + 2 * buffer_bytes;
    s->c_stride_b = stride_b;
    copy_units(p, s, s->c, stride_b, c_state, H);
    s->h = h_state;
    s->h_stride_b = H;
    s->y_stride_b = stride_b;
    s->T = 1;
    for (size_t t = 0; t < T; t++) {
        if (!wait_for_group(p)) {
            p->stopped = true;
            return;
        }
        h_new = exchange + (ptrdiff_t)(t % 2) * buffer_bytes;
        s->y = h_new;
        s->turn = p->turn++;
        kernels->lstm_steps(s);
        publish_step(p);
        copy_units(p, s, y + (ptrdiff_t)t * s->y_stride_t * real_size, y_stride_b, h_new, stride_b);
        s->h = h_new;
        s->h_stride_b = stride_b;
        if (s->pre != NULL)
            s->pre = (const char *)s->pre + s->pre_stride_t * real_size;
        if (s->x != NULL)
            s->x = (const char *)s->x + s->x_stride_t * real_size;
        if (s->x_index != NULL)
            s->x_index += s->x_stride_t;
    }
    copy_units(p, s, c_state, H, s->c, stride_b);
    /* Others may still read the old state in this very step, if it is the first; and the next layer reads y. */
    if (!wait_for_group(p)) {
        p->stopped = true;
        return;
    }
    copy_units(p, s, h_state, H, h_new, stride_b);
    publish_step(p);
}

/* Input products of `steps` steps from the time of s->x on, for this thread's blocks; then s reads them. */
static void hoist(part *p, fl_steps *s, size_t steps)
{
    const call *c = p->call;
    ptrdiff_t *offsets = c->offsets + p->thread * c->hoisted_rows;
    fl_product product;
    for (size_t t = 0, m = 0; t < steps; t++)
        for (size_t position = 0; position < s->B; position++, m++) {
            const ptrdiff_t b = s->rows != NULL ? (ptrdiff_t)s->rows[position] : (ptrdiff_t)position;
            offsets[m] = (ptrdiff_t)t * s->x_stride_t + b * s->x_stride_b;
        }
    product.layout = s->layout;
    product.rows = steps * s->B;
    product.block_begin = s->block_begin;
    product.block_end = s->block_end;
    product.I = s->I;
    product.bias = s->bias;
    product.W = s->W;
    product.x = s->x;
    product.x_offsets = offsets;
    product.pre = c->pre + p->place * c->pre_bytes;
    product.pre_stride_row = (ptrdiff_t)s->layout.gate_row;
    c->lstm->kernels->input_product(&product);
    s->pre = product.pre;
    s->pre_stride_row = product.pre_stride_row;
    s->pre_stride_t = (ptrdiff_t)s->B * product.pre_stride_row;
    s->x = NULL;
}

/* The calling thread asks now and then whether to go on; every thread sees the answer. */
static bool keep_going(part *p)
{
    call *c = p->call;
    if (p->thread == 0 && c->args->interrupt != NULL) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        const double passed = 1e9 * (double)(now.tv_sec - c->last_check.tv_sec) +
                              (double)(now.tv_nsec - c->last_check.tv_nsec);
        if (passed > INTERRUPT_NS) {
            c->last_check = now;
            fl_fp_leave(*c->caller_state);
            const int stop = c->args->interrupt(c->args->interrupt_context);
            *c->caller_state = fl_fp_enter(true);
            if (stop != 0)
                atomic_store(&c->stop, true);
        }
    }
    if (atomic_load_explicit(&c->stop, memory_order_relaxed))
        p->stopped = true;
    return !p->stopped;
}

/* Steps [begin, end) of one cell for the first `active` rows, in the order of the direction. */
static void run_active(part *p, size_t layer, size_t direction, const sequence *in, const int64_t *x_index,
                       const sequence *out, size_t begin, size_t end, size_t active)
{
    const call *c = p->call;
    const fl_lstm *lstm = c->lstm;
    const fl_packed_cell *cell = fl_cell_of(lstm, layer, direction);
    const size_t real_size = lstm->real_size, H = lstm->layout.H;
    const ptrdiff_t sign = direction == 0 ? 1 : -1;
    const size_t first_row = p->rows == NULL ? p->first_row : 0;
    const size_t state = (layer * lstm->shape.num_directions + direction) * c->args->B * H + first_row * H;
    char *h_state = (char *)c->args->h_n + state * real_size;
    const size_t hoisted = x_index == NULL ? fl_hoisted_steps(lstm, cell->I, active, end - begin) : 0;
    size_t most = hoisted;
    if (hoisted == 0) {
        const double fit = RUN_NS / fl_step_nanoseconds(lstm, active, c->plan.hidden_groups);
        most = fit < 1.0 ? 1 : (size_t)fit;
    }
    for (size_t done = 0, steps; done < end - begin && keep_going(p); done += steps) {
        const size_t rest = end - begin - done;
        steps = rest < most ? rest : most;
        const size_t t = direction == 0 ? begin + done : end - 1 - done;
        const ptrdiff_t x_row = (ptrdiff_t)first_row * in->stride_b, y_row = (ptrdiff_t)first_row * out->stride_b;
        fl_steps s = {.layout = lstm->layout,
                      .T = steps,
                      .B = active,
                      .rows = p->rows,
                      .block_begin = p->block_begin,
                      .block_end = p->block_end,
                      .turn = p->turn,
                      .bias = cell->bias,
                      .W = cell->W,
                      .R = cell->R,
                      .I = cell->I,
                      .x_stride_t = sign * in->stride_t,
                      .x_stride_b = in->stride_b,
                      .y_stride_t = sign * out->stride_t,
                      .y_stride_b = out->stride_b,
                      .c = (char *)c->args->c_n + state * real_size,
                      .c_stride_b = (ptrdiff_t)H};
        s.y = at_time(out, t, real_size) + (y_row + (ptrdiff_t)(direction * H)) * (ptrdiff_t)real_size;
        if (x_index != NULL)
            s.x_index = x_index + (ptrdiff_t)t * in->stride_t + x_row;
        else
            s.x = at_time(in, t, real_size) + x_row * (ptrdiff_t)real_size;
        if (hoisted != 0) {
            /* The layer below may not be finished yet in the other members; a merged product waits in its step. */
            if (layer > 0 && !wait_for_group(p)) {
                p->stopped = true;
                return;
            }
            hoist(p, &s, steps);
        }
        if (c->plan.hidden_groups == 1)
            run_steps(p, &s, h_state);
        else
            run_shared_steps(p, &s, h_state);
    }
}

/* Steps [begin, end) of one cell for all rows of the part: runs over which the active rows stay the same. */
static void run_cell(part *p, size_t layer, size_t direction, const sequence *in, const int64_t *x_index,
                     const sequence *out, size_t begin, size_t end)
{
    while (begin < end && !p->stopped) {
        size_t run_begin = begin, run_end = end, active;
        if (direction == 0) {
            active = active_at(p, begin);
            if (active == 0)
                return;
            const size_t shortest = length_at(p, active - 1);
            run_end = shortest < end ? shortest : end;
            begin = run_end;
        } else {
            active = active_at(p, end - 1);
            const size_t next = active < p->B ? length_at(p, active) : begin;
            run_begin = next > begin ? next : begin;
            end = run_begin;
        }
        if (active != 0)
            run_active(p, layer, direction, in, x_index, out, run_begin, run_end, active);
    }
}

/* ---- Layers ----------------------------------------------------------------------------------------------- */

static char *between_buffer(const call *c, size_t index) { return c->between + index * c->between_bytes; }

/* Unidirectional: chunks of time pass through the layers; layer groups form a pipeline. */
static void run_stack(part *p)
{
    const call *c = p->call;
    const fl_lstm_args *args = c->args;
    const size_t L = c->lstm->shape.num_layers, H = c->lstm->layout.H, groups = c->plan.layer_groups;
    const size_t first = group_begin(L, groups, p->layer_group), last = group_begin(L, groups, p->layer_group + 1);
    const size_t hidden = c->plan.hidden_groups;
    const fl_counter *before = &c->progress[p->thread - (p->layer_group > 0 ? hidden : 0)];
    const fl_counter *after = &c->progress[p->thread + hidden * (p->layer_group + 1 < groups)];
    uint64_t chunk = 0;
    for (size_t begin = 0, end; begin < args->T && !p->stopped; begin = end, chunk++) {
        end = args->T - begin > c->plan.chunk ? begin + c->plan.chunk : args->T;
        /* Input from the group before, and room in the hand-over to the group after. */
        if ((p->layer_group > 0 && !fl_wait(before, chunk + 1, &c->stop, NULL)) ||
            (p->layer_group + 1 < groups && chunk >= 2 && !fl_wait(after, chunk - 1, &c->stop, NULL))) {
            p->stopped = true;
            return;
        }
        for (size_t layer = first; layer < last && !p->stopped; layer++) {
            sequence in = {(char *)(uintptr_t)args->x, 0, args->x_stride_t, args->x_stride_b};
            sequence out = {args->y, 0, args->y_stride_t, args->y_stride_b};
            const sequence inner = {NULL, begin, (ptrdiff_t)(args->B * H), (ptrdiff_t)H};
            const size_t hand_over = 2 * groups + (size_t)(chunk % 2);
            if (layer > 0) {
                in = inner;
                in.base = layer == first ? between_buffer(c, hand_over + 2 * (p->layer_group - 1))
                                         : between_buffer(c, 2 * p->layer_group + (layer - 1) % 2);
            }
            if (layer + 1 < L) {
                out = inner;
                out.base = layer + 1 == last ? between_buffer(c, hand_over + 2 * p->layer_group)
                                             : between_buffer(c, 2 * p->layer_group + layer % 2);
            }
            run_cell(p, layer, 0, &in, layer == 0 ? args->x_index : NULL, &out, begin, end);
        }
        if (groups > 1 && !p->stopped)
            atomic_store_explicit(&c->progress[p->thread].value, chunk + 1, memory_order_release);
    }
}

/* Bidirectional: layer after layer over the whole sequence; y and one buffer take turns, so that the last layer's
 * output is y. */
static void run_bidirectional(part *p)
{
    const call *c = p->call;
    const fl_lstm_args *args = c->args;
    const size_t L = c->lstm->shape.num_layers, H = c->lstm->layout.H;
    const size_t members = c->plan.direction_groups * c->plan.hidden_groups;
    const size_t first = p->group * members;
    const sequence y = {args->y, 0, args->y_stride_t, args->y_stride_b};
    const sequence buffer = {c->between, 0, (ptrdiff_t)(args->B * 2 * H), (ptrdiff_t)(2 * H)};
    const sequence x = {(char *)(uintptr_t)args->x, 0, args->x_stride_t, args->x_stride_b};
    for (size_t layer = 0; layer < L && !p->stopped; layer++) {
        const sequence *out = (L - 1 - layer) % 2 == 0 ? &y : &buffer;
        const sequence *in = layer == 0 ? &x : out == &y ? &buffer : &y;
        for (size_t direction = 0; direction < 2; direction++)
            if (c->plan.direction_groups == 1 || direction == p->direction_group)
                run_cell(p, layer, direction, in, layer == 0 ? args->x_index : NULL, out, 0, args->T);
        if (members > 1 && !p->stopped) {
            /* Hidden groups count steps on the same counter; a layer ends for all of them at the same count. */
            if (c->plan.hidden_groups == 1)
                atomic_store_explicit(&c->progress[p->thread].value, p->seq, memory_order_release);
            for (size_t member = first; member < first + members; member++)
                if (!fl_wait(&c->progress[member], p->seq, &c->stop, NULL)) {
                    p->stopped = true;
                    break;
                }
        }
    }
}

/* y is zero from the end of each row on. */
static void clear_padding(const part *p)
{
    const fl_lstm_args *args = p->call->args;
    const size_t real_size = p->call->lstm->real_size;
    const size_t width = p->call->lstm->shape.num_directions * p->call->lstm->layout.H * real_size;
    for (size_t position = 0; position < p->B && p->rows != NULL; position++)
        for (size_t t = length_at(p, position); t < args->T; t++)
            memset((char *)args->y + ((ptrdiff_t)t * args->y_stride_t + (ptrdiff_t)p->rows[position] * args->y_stride_b) *
                                         (ptrdiff_t)real_size,
                   0, width);
}

static void run_thread(void *context, size_t thread)
{
    call *c = context;
    const fl_plan *plan = &c->plan;
    const size_t blocks = c->lstm->layout.blocks, B = c->args->B;
    part p = {.call = c, .thread = thread, .turn = c->turn};
    size_t place = thread;
    p.hidden_group = place % plan->hidden_groups;
    place /= plan->hidden_groups;
    p.place = place;
    p.layer_group = place % plan->layer_groups;
    place /= plan->layer_groups;
    p.direction_group = place % plan->direction_groups;
    p.group = place / plan->direction_groups;
    p.first_row = group_begin(B, plan->row_groups, p.group);
    p.B = group_begin(B, plan->row_groups, p.group + 1) - p.first_row;
    p.rows = c->rows != NULL ? c->rows + p.first_row : NULL;
    const size_t lines = fl_unit_lines(c->lstm), line_blocks = (blocks + lines - 1) / lines;
    p.block_begin = line_blocks * group_begin(lines, plan->hidden_groups, p.hidden_group);
    p.block_end = line_blocks * group_begin(lines, plan->hidden_groups, p.hidden_group + 1);
    p.block_end = p.block_end < blocks ? p.block_end : blocks;

    const fl_fp_state thread_state = fl_fp_enter(true);
    if (c->lstm->shape.num_directions == 1)
        run_stack(&p);
    else
        run_bidirectional(&p);
    if (thread % (plan->threads / plan->row_groups) == 0)
        clear_padding(&p);
    if (p.slow_waits > 2 + p.seq / 32)
        fl_pool_rest();
    fl_fp_leave(thread_state);
}

static void set_states(const fl_lstm *lstm, const fl_lstm_args *args)
{
    const size_t bytes = lstm->shape.num_layers * lstm->shape.num_directions * args->B * lstm->layout.H *
                         lstm->real_size;
    if (args->h0 == NULL)
        memset(args->h_n, 0, bytes);
    else if (args->h0 != args->h_n)
        memcpy(args->h_n, args->h0, bytes);
    if (args->c0 == NULL)
        memset(args->c_n, 0, bytes);
    else if (args->c0 != args->c_n)
        memcpy(args->c_n, args->c0, bytes);
}

fl_status fl_forward_run(const fl_lstm *lstm, const fl_lstm_args *args, const fl_plan *plan, fl_workspace *workspace,
                         fl_fp_state *caller_state)
{
    memory_map map;
    if (!map_memory(lstm, plan, args->T, args->B, args->lengths != NULL, &map))
        return FL_ERROR_SIZE;
    char *base = workspace->memory;
    call c = {.lstm = lstm, .args = args, .plan = *plan, .turn = workspace->turn++, .caller_state = caller_state};
    c.progress = (fl_counter *)(void *)(base + map.progress);
    c.offsets = (ptrdiff_t *)(void *)(base + map.offsets);
    c.pre = base + map.pre;
    c.pre_bytes = map.pre_bytes;
    c.hoisted_rows = map.hoisted_rows;
    c.exchange = base + map.exchange;
    c.between = base + map.between;
    c.between_bytes = map.between_bytes;
    for (size_t thread = 0; thread < plan->threads; thread++)
        atomic_init(&c.progress[thread].value, 0);
    set_states(lstm, args);
    if (args->lengths != NULL) {
        c.rows = (size_t *)(void *)(base + map.rows);
        rank_rows(c.rows, (ranked_row *)(void *)(c.rows + args->B), args->B, plan->row_groups, args->lengths);
    }
    if (args->interrupt != NULL)
        clock_gettime(CLOCK_MONOTONIC, &c.last_check);
    if (plan->threads > 1)
        fl_pool_run(run_thread, &c, plan->threads);
    else
        run_thread(&c, 0);
    return atomic_load(&c.stop) ? FL_ERROR_INTERRUPTED : FL_OK;
}
