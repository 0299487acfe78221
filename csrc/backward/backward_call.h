/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inside of the backward driver: what its files share.
 */
#ifndef FL_BACKWARD_CALL_H
#define FL_BACKWARD_CALL_H
#include "backward/backward.h"
#include "backward/backward_plan.h"
#include "backward/tape.h"
#include "base/interrupt.h"
#include "base/pool.h"

/* Where gates, c and h of a range of time are kept: the tape's own arrays, or a part of the sequence computed again. */
typedef struct saved_states {
    size_t origin, T;      /* the range */
    fl_places places;      /* of its steps */
    size_t first_layer;    /* of gates and c */
    size_t top_layer;      /* whose output is y; those below are in h */
    const char *gates, *c; /* as in fl_recording; gates may be null: compute them again */
    const char *h;
    const void *y; /* of step `origin` */
    fl_rows y_rows;
    /* (L*D, B, P), (L*D, B, n*H): before the first step, for direction 1 after the last; or null */
    const void *h_outside, *c_outside;
} saved_states;

/* A part of the sequence that is computed again. */
typedef struct back_window {
    size_t begin, end, layer; /* what is in it now */
    bool is_filled;
    char *gates, *c, *h, *y, *states; /* states: h0, c0, h_n, c_n */
    int64_t *lengths;
    ptrdiff_t *at; /* of its rows */
} back_window;

/* Memory of a thread, most of it pointers to rows of a chunk. */
typedef struct back_scratch {
    const void **gates, **c, **c_before, **dy, **x, **h_before, **y, **dcells, **zoned_c, **zoned_h;
    void **dgates, **dx, **fresh_gates;
    size_t *own_b;       /* batch rows by position */
    int64_t *index;      /* of one-hot input */
    char *gate_rows;     /* gates computed again */
    char *panel;         /* of the shared part */
    char *zoned;         /* masks of zoneout, c and h */
    char *masked;        /* rows of h under masks of recurrent dropout */
    fl_row_scratch rows; /* of the kernel */
} back_scratch;

/* Sums of a group of chunks, and the low part of totals over all groups; laid out as the gradient, which is the high one. */
typedef struct back_sums {
    char *group, *low;
} back_sums;

/* Memory of a call. */
typedef struct back_memory {
    fl_counter *recurrent_done, *shared_done; /* per thread: stages of the job */
    size_t *rows;                             /* (B) longest first */
    fl_ranked_row *ranked;                    /* (B) scratch */
    void *zeros;                              /* of any row */
    /* (L*D); W null where no gradient of the input is wanted, hr where there is no projection.  R is panels for all gates
     * together, or on whole rows, as fl_recurrence has them, for each gate or head. */
    void **R_panels, **W_panels, **hr_panels;
    fl_index_gradient index_gradient; /* for one-hot input, else empty */
    char *index_low[2];               /* the low part of those totals */
    int64_t *index_slot;              /* (I): which of their rows belongs to an input */
    back_sums *sums;                  /* (L*D, FL_PARAMETER_COUNT) of products, where the plan folds */
    char *column_low;                 /* (L*D, width of fl_gradient_row): the low part of totals of columns */
    char *masks;                      /* of recurrent dropout, as in the forward pass; or null */
    char *dgates[2];                  /* by parity of the stage: rows of fl_gradient_row, `dgates_stride` apart */
    char *dropped[2];                 /* by parity of the stage: their input after dropout */
    char *inner[2];         /* by parity of the layer: gradients of inner layers' outputs, (inner_places.count, D*P) */
    fl_places inner_places; /* of the steps of a chunk, for two directions of all */
    back_scratch *threads;  /* one per thread */
    ptrdiff_t dgates_stride;
    back_window window;
} back_memory;

typedef struct back_call {
    const fl_stack *stack;
    const fl_recorded *tape;
    const fl_back_room *room;
    const fl_backward_args *args;
    size_t L, D, H, P, G, T, B;
    size_t states;          /* width of the states beside h */
    const int64_t *lengths; /* or null */
    bool drops;             /* dropout between layers */
    bool is_far;            /* what steps read and write is more than a core's own cache keeps */
    back_plan plan;
    saved_states saved;
    size_t stage_begin, stage_end; /* of the job */
    back_memory memory;
    fl_interrupt interrupt;
} back_call;

#define FL_PANELS_TOGETHER 16 /* of the shared part: 1 MiB for 256 rows */

/* All memory of a call, from c->room->scratch. */
fl_status fl_back_take_memory(back_call *c);
/* Steps of rows that are computed again together, at most: chunks widened to whole segments. */
size_t fl_back_window_rows(const back_call *c);
/* Compute what a stage needs again, unless it is there, and let c->saved point at it. */
fl_status fl_back_fill_window(back_call *c, const stage *s);

/* ---- Where rows are (backward_places.c) ------------------------------------------------------------------- */

/* Batch rows that are longer than t. */
size_t fl_back_active(const back_call *c, size_t t);
static inline size_t back_length(const back_call *c, size_t b)
{
    return c->lengths != NULL ? (size_t)c->lengths[b] : c->T;
}
/* Step n of a stage, against time. */
static inline size_t stage_time(const stage *s, size_t n) { return s->direction == 0 ? s->end - 1 - n : s->begin + n; }
/* Output of a layer (all directions) at a step within the saved range. */
const void *fl_back_output(const back_call *c, size_t layer, size_t t, size_t b);
/* h and c before a step, in the order of the direction. */
const void *fl_back_h_before(const back_call *c, const stage *s, size_t t, size_t b);
const void *fl_back_c_before(const back_call *c, const stage *s, size_t t, size_t b);
/* States beside h after a step, and what the cell saved at it. */
const void *fl_back_c_after(const back_call *c, const stage *s, size_t t, size_t b);
const void *fl_back_saved(const back_call *c, const stage *s, size_t t, size_t b);
/* An input row of the first layer. */
const void *fl_back_input(const back_call *c, size_t t, size_t b);
int64_t fl_back_input_index(const back_call *c, size_t t, size_t b);
/* Gradient of a layer's output, for all directions, of c from outside, and of its input; null for zero. */
const void *fl_back_dy(const back_call *c, const stage *s, size_t t, size_t b);
const void *fl_back_dcells(const back_call *c, const stage *s, size_t t, size_t b);
void *fl_back_dx(const back_call *c, const stage *s, size_t t, size_t b);

/* The two parts of a stage, `index` of all. */
bool fl_back_recurrent(back_call *c, size_t thread, size_t index);
void fl_back_shared(back_call *c, size_t thread, size_t index);

#endif
