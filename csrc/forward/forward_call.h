/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inside of the forward driver: what its files share.
 */
#ifndef FL_FORWARD_CALL_H
#define FL_FORWARD_CALL_H
#include "forward/forward.h"
#include "base/interrupt.h"
#include "base/pool.h"
#include "base/ragged.h"

/* A sequence of rows in memory, (T, B, features), either end of a layer. */
typedef struct sequence {
    char *base; /* of time step `origin` */
    size_t origin;
    ptrdiff_t stride_t, stride_b; /* elements */
    const ptrdiff_t *at;          /* rows by b; null: b itself */
} sequence;

typedef struct call {
    const fl_stack *stack;
    const fl_forward_args *args;
    fl_plan plan;
    size_t *rows;        /* (B) batch rows, group after group, longest first; null where all are T long */
    fl_places places;    /* of the call's steps, in what is kept of the whole sequence */
    char *pre;           /* hoisted input products, one part per hidden group */
    size_t pre_bytes;    /* of one part */
    ptrdiff_t *offsets;  /* x offsets of hoisted rows, one part per thread; on whole rows pointers to them and to pre */
    size_t hoisted_rows; /* most rows of a part */
    char *exchange;      /* h (twice) and c of hidden groups, (B, blocks * lanes) each, one part per hidden group */
    char *between;       /* outputs of layers that are not the last */
    size_t between_bytes; /* of one buffer */
    fl_counter *progress; /* per thread: steps (hidden groups), chunks (layer groups) or layers (directions) done */
    size_t turn;          /* see fl_steps */
    char *dropped;        /* input of a layer after dropout */
    char *masks;          /* of recurrent dropout, as fl_mask_layout says, of all cells */
    char *zoned;          /* masks of zoneout for one step, c and h, one part per thread */
    char *row_scratch;    /* fl_row_scratch or fl_scan_rows, one part per thread */
    char *hidden;         /* (B, H): h before projection, one part per thread */
    size_t zoned_bytes, row_scratch_bytes, hidden_bytes; /* of one part */
    const fl_saving *saving;                             /* null in a call that is not recorded */
    fl_interrupt interrupt;
} call;

/* One thread's place and part. */
typedef struct part {
    call *call;
    size_t thread, group, direction_group, layer_group, hidden_group; /* place in the grid */
    size_t place;                                                     /* number of the hidden group */
    size_t B;                                                         /* rows of the row group */
    size_t first_row;                                                 /* position of the first one */
    const size_t *rows;                                               /* their batch rows, or null: first_row.. */
    size_t block_begin, block_end;
    uint64_t seq;        /* steps done, the same for all members of a hidden group */
    size_t turn;         /* see fl_steps */
    unsigned slow_waits; /* for other members of the hidden group */
    bool stopped;
} part;

typedef struct memory_map {
    size_t progress, rows, offsets, pre, exchange, between, dropped, masks, zoned, row_scratch, hidden, total;
    size_t zoned_bytes, row_scratch_bytes, hidden_bytes;
    size_t pre_bytes, between_bytes, hoisted_rows;
} memory_map;

/* Layers that the call runs. */
static inline size_t call_layers(const fl_stack *stack, const fl_saving *saving)
{
    return saving != NULL ? saving->layers : stack->shape.num_layers;
}

/* Where each buffer stands in the workspace; false where a size does not fit. */
bool fl_forward_map(const fl_stack *stack, const fl_plan *plan, size_t T, size_t B, const int64_t *lengths,
                    const fl_saving *saving, memory_map *map);

/* Steps [begin, end) of one cell for all rows of the part, in the order of the direction. */
void fl_forward_cell(part *p, size_t layer, size_t direction, const sequence *in, const int64_t *x_index,
                     const sequence *out, size_t begin, size_t end);

/* Whether the steps of a layer go to args->cells. */
static inline bool fl_keeps_cells(const call *c, size_t layer)
{
    return c->args->cells != NULL && layer + 1 == call_layers(c->stack, c->saving);
}

/* A run of steps from time t on, on whole rows; `s` as for tiles. */
void fl_forward_on_rows(part *p, const fl_steps *s, size_t layer, size_t direction, size_t t, const char *h_state);

/* The same of a cell without a recurrent product. */
void fl_forward_scan(part *p, const fl_steps *s, const char *h_state);

/* Draw the masks of one step for the part's first `active` rows. */
void fl_forward_zoneout(const part *p, size_t layer, size_t direction, size_t t, size_t active, const void **zoned_c,
                        const void **zoned_h);

static inline char *at_time(const sequence *s, size_t t, size_t real_size)
{
    return s->base + ((ptrdiff_t)t - (ptrdiff_t)s->origin) * s->stride_t * (ptrdiff_t)real_size;
}

static inline size_t length_at(const part *p, size_t position)
{
    return p->rows != NULL ? (size_t)p->call->args->lengths[p->rows[position]] : p->call->args->T;
}

#endif
