/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inside of the forward driver: what its files share.
 */
#ifndef FL_FORWARD_CALL_H
#define FL_FORWARD_CALL_H
#include "base/interrupt.h"
#include "base/pool.h"
#include "forward/forward.h"

/* Output of a layer, (T, B, features). */
typedef struct target {
    void *base; /* of time step `origin` */
    size_t origin;
    fl_rows rows;
} target;

/* Input of a layer: one of the two. */
typedef struct source {
    const void *base;
    const int64_t *index;
    size_t origin;
    fl_rows rows;
} source;

/* Scratch of a cell without a recurrent product: pointers to rows. */
typedef struct scan_rows {
    const void **x, **h_before; /* x: or indices */
    void **y, **saved;
    void *totals;
} scan_rows;

/* One thread's own memory; what the cell does not take is not set, or null. */
typedef struct forward_scratch {
    ptrdiff_t *offsets;      /* x offsets of hoisted rows */
    void *zoned_c, *zoned_h; /* masks of zoneout for one step, (group_rows, H) */
    void *hidden;            /* (group_rows, H): h before projection */
    fl_row_scratch rows;     /* of cells on whole rows, and of projections */
    scan_rows scan;
} forward_scratch;

/* Memory of a call; where it is per thread or part, of the first one, and the bytes to the next. */
typedef struct forward_memory {
    fl_counter *progress;  /* per thread: steps (hidden groups), chunks (layer groups) or layers (directions) done */
    size_t *rows;          /* (B) batch rows, group after group, longest first; null where all are T long */
    fl_ranked_row *ranked; /* (B) scratch */
    ptrdiff_t *at;         /* (B) of places */
    char *pre;             /* hoisted input products, one part per hidden group */
    char *exchange;        /* h (twice) and c of hidden groups, (B, blocks * units) each, one part per hidden group */
    char *between;         /* outputs of layers that are not the last */
    char *dropped;         /* input of a layer after dropout */
    char *masks;           /* of recurrent dropout, of all recurrences */
    forward_scratch *threads; /* one per thread */
    size_t pre_bytes, between_bytes;
    size_t hoisted_rows; /* most rows of a part of `pre` */
} forward_memory;

typedef struct call {
    const fl_stack *stack;
    const fl_forward_args *args;
    fl_plan plan;
    const fl_recording *recording; /* null in a call that is not recorded */
    fl_places places;              /* of the call's steps, in what is kept of the whole sequence */
    forward_memory memory;
    size_t turn; /* see fl_steps */
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
    const forward_scratch *scratch;
    uint64_t seq;        /* steps done, the same for all members of a hidden group */
    size_t turn;         /* see fl_steps */
    unsigned slow_waits; /* for other members of the hidden group */
    bool stopped;
} part;

/* Layers that the call runs. */
static inline size_t call_layers(const call *c)
{
    return c->recording != NULL ? c->recording->layers : c->stack->shape.num_layers;
}

/* Memory of a call, measured or placed: see fl_arena. */
void fl_forward_place(fl_arena *arena, const fl_stack *stack, const fl_plan *plan, const fl_forward_args *args,
                      const fl_recording *recording, forward_memory *memory);
/* Steps [begin, end) of one layer in one direction for all rows of the part, in the order of the direction. */
void fl_forward_recurrence(part *p, size_t layer, size_t direction, const source *in, const target *out, size_t begin,
                           size_t end);

/* Whether the steps of a layer go to args->cells. */
static inline bool fl_keeps_cells(const call *c, size_t layer)
{
    return c->args->cells != NULL && layer + 1 == call_layers(c);
}

/* A run of steps from time t on, on whole rows; `s` as for tiles. */
void fl_forward_on_rows(part *p, fl_steps *s, size_t layer, size_t direction, size_t t);

/* A run of steps of a cell without a recurrent product. */
void fl_forward_scan(part *p, const fl_steps *s);

/* Draw the masks of one step for the first s->B rows of the part. */
void fl_forward_zoneout(const part *p, fl_steps *s, size_t layer, size_t direction, size_t t);

/* The next step of `s`: its input, and what it saves; h and y are not moved. */
void fl_forward_advance(fl_steps *s, size_t real_size);

static inline size_t batch_row(const fl_steps *s, size_t position)
{
    return s->rows != NULL ? s->rows[position] : position;
}

static inline size_t length_at(const part *p, size_t position)
{
    return p->rows != NULL ? (size_t)p->call->args->lengths[p->rows[position]] : p->call->args->T;
}

#endif
