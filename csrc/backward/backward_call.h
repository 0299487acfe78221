/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inside of the backward driver: what its files share.
 *
 * The sequence is cut into chunks of time by T and B alone.  A stage is one chunk of one layer and direction, and has two
 * parts.  The recurrent part goes through the chunk's steps against time, each thread with its own batch rows, and ends
 * with the gradient of the layer's input.  The shared part adds the chunk's rows to the gradients of the parameters; threads
 * divide its outputs.  A shared part begins when all recurrent parts of its stage are done.  What passes from the one to
 * the other has two buffers, so that recurrent parts may be a stage ahead.
 */
#ifndef FL_BACKWARD_CALL_H
#define FL_BACKWARD_CALL_H
#include "base/interrupt.h"
#include "base/pool.h"
#include "base/ragged.h"
#include "backward/tape.h"

/* Where gates, c and h of a range of time are kept: the tape's own arrays, or a part of the sequence computed again. */
typedef struct saved_states {
    size_t origin, T;      /* the range */
    fl_places places;      /* of its steps */
    size_t first_layer;    /* of gates and c */
    size_t top_layer;      /* whose output is y; those below are in h */
    const char *gates, *c; /* as in fl_saving; gates may be null: compute them again */
    const char *h;
    const char *y; /* of step `origin` */
    ptrdiff_t y_stride_t, y_stride_b;
    const ptrdiff_t *y_at;
    /* (L*D, B, P), (L*D, B, n*H): before the first step, for direction 1 after the last; or null */
    const char *h_outside, *c_outside;
} saved_states;

/* Threads: the first `groups` have rows of their own; those from `first_sharing` on do the shared part. */
typedef struct back_plan {
    size_t threads, groups, first_sharing;
    size_t chunk, chunks; /* steps; number */
} back_plan;

typedef struct stage {
    size_t layer, direction;
    size_t begin, end; /* steps */
    bool is_first;     /* of this layer and direction */
} stage;

typedef struct back_call {
    const fl_stack *stack;
    const fl_tape *tape;
    const fl_backward_args *args;
    size_t L, D, H, P, G, T, B;
    size_t states;          /* width of the states beside h */
    const int64_t *lengths; /* or null */
    bool drops;             /* dropout between layers */
    back_plan plan;
    saved_states saved;
    size_t stage_begin, stage_end; /* of the job */
    size_t *rows;                  /* (B) longest first */
    char *zeros;                   /* of any row */
    /* (L*D); W null where no gradient of the input is wanted, hr where there is no projection.  R is panels for all gates
     * together, or on whole rows, as fl_packed_cell has them, for each gate or head. */
    char **R_panels, **W_panels, **hr_panels;
    char *index_gradient[2]; /* (I, G*H) by direction: of weight_ih for one-hot input, transposed; or null */
    char *masks;             /* of recurrent dropout, as in the forward pass; or null */
    /* By parity of the stage: */
    char *dgates[2]; /* rows of the chunk, `dgates_stride` apart: gradients of pre-activations of the input's part, */
    size_t dh_offset, proj_offset, extras_offset; /* the state's part, what was projected, and the extras of the cell */
    char *dropped[2];                             /* their input after dropout */
    ptrdiff_t dgates_stride;
    char *inner[2];         /* gradients of inner layers' outputs, by parity of the layer, (inner_places.count, D*P): */
    fl_places inner_places; /* of the steps of a chunk, for two directions of all */
    char *per_thread;
    size_t per_thread_bytes;
    size_t chunk_rows;                        /* most rows of a chunk */
    fl_counter *recurrent_done, *shared_done; /* per thread: stages of the job */
    fl_interrupt interrupt;
} back_call;

/* Pieces of a thread's memory. */
typedef struct back_scratch {
    const void **gates, **c, **c_before, **dy, **x, **h_before;
    const void **y, **dcells, **zoned_c, **zoned_h; /* of cells other than the plain LSTM */
    void **dgates, **dx, **fresh_gates;
    size_t *own_b;   /* batch rows by position */
    int64_t *index;  /* of one-hot input */
    char *gate_rows; /* gates computed again */
    char *totals;
    char *panel;
    char *zoned;        /* masks of zoneout, c and h */
    char *masked;       /* rows of h under masks of recurrent dropout */
    char *cell_scratch; /* of the kernel */
} back_scratch;

/* A part of the sequence that is computed again. */
typedef struct back_window {
    size_t begin, end, layer; /* what is in it now */
    bool is_filled;
    char *gates, *c, *h, *y, *states; /* states: h0, c0, h_n, c_n */
    int64_t *lengths;
    ptrdiff_t *at; /* of its rows */
} back_window;

#define FL_PANELS_TOGETHER 16 /* of the shared part: 1 MiB for 256 rows */

/* Lays out the memory of one thread; returns its size, 0 where it does not fit.  `scratch` may be null. */
size_t fl_back_scratch(const back_call *c, char *memory, back_scratch *scratch);

/* All memory of a call, and pointers to it. */
fl_status fl_back_take_memory(back_call *c, fl_tape *tape, back_window *w);

/* Steps of rows that are computed again together, at most: chunks widened to whole segments. */
size_t fl_back_window_rows(const back_call *c);
/* Compute what a stage needs again, unless it is there, and let c->saved point at it. */
fl_status fl_back_fill_window(back_call *c, fl_tape *tape, back_window *w, const stage *s);

stage fl_back_stage(const back_call *c, size_t index);
/* Batch rows that are longer than t. */
size_t fl_back_active(const back_call *c, size_t t);
static inline size_t back_length(const back_call *c, size_t b)
{
    return c->lengths != NULL ? (size_t)c->lengths[b] : c->T;
}
/* Output of a layer (all directions) at a step within the saved range. */
const char *fl_back_output(const back_call *c, size_t layer, size_t t, size_t b);
/* h and c before a step, in the order of the direction. */
const char *fl_back_h_before(const back_call *c, size_t layer, size_t direction, size_t t, size_t b);
const char *fl_back_c_before(const back_call *c, size_t layer, size_t direction, size_t t, size_t b);

/* Rows of batch row `b` in arrays that a caller may have laid out by rows of its own. */
static inline ptrdiff_t back_place(const ptrdiff_t *at, size_t b) { return at != NULL ? at[b] : (ptrdiff_t)b; }
/* An input row of the first layer. */
const char *fl_back_input(const back_call *c, size_t t, size_t b);
int64_t fl_back_input_index(const back_call *c, size_t t, size_t b);
/* What cells other than the plain LSTM need beside: for row m, at step t of batch row b. */
void fl_back_point_at_cell(const back_call *c, const stage *s, size_t m, size_t t, size_t b,
                           const back_scratch *scratch);
/* A run of steps of such a cell, rows m and on. */
void fl_back_cell_steps(const back_call *c, const stage *s, size_t m, size_t steps, size_t rows,
                        const back_scratch *scratch);
size_t fl_back_cell_scratch_bytes(const back_call *c);
/* Whether bias_hh has a gradient of its own. */
static inline bool fl_back_has_own_bias_hh(const back_call *c)
{
    return c->stack->sizes.split && c->stack->shape.cell.layer_norm == FL_LAYER_NORM_NONE;
}
/* What a cell saved at a step. */
const char *fl_back_saved(const back_call *c, size_t layer, size_t direction, size_t t, size_t b);

/* The two parts of a stage, `index` of all. */
bool fl_back_recurrent(back_call *c, size_t thread, size_t index);
void fl_back_shared(back_call *c, size_t thread, size_t index);

#endif
