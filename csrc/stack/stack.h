/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inside of a packed layer stack.  Made by pack.c, read by forward.c, stream.c and pieces.c.
 */
#ifndef FL_STACK_H
#define FL_STACK_H
#include <stdatomic.h>

#include "model/cell.h"
#include "base/memory.h"
#include "kernels/kernels.h"

/* One layer and direction.  For tiles, biases, W and R are packed as layout.h says.  For whole rows, biases are (G*H), W is
 * panels (I, G*H), and R for each gate panels (P, H), or for each gate and head panels (H / heads, H / heads).  For scans,
 * W is fl_unit_panels_of(H, G), and the bias is like one row of it. */
typedef struct fl_packed_cell {
    size_t I;
    void *bias;   /* of the input's part; of both where they are summed */
    void *bias_h; /* of the state's part; null where there is none */
    void *W, *R;
    void *weight_hr, *bias_hr; /* projection: panels (H, P); (P) or null */
    fl_cell cell;
} fl_packed_cell;

/* Scratch memory that a call leaves for the next one. */
typedef struct fl_workspace {
    size_t bytes;
    void *memory;
    size_t turn; /* calls that used it: alternates the order in which weights are walked, see fl_steps */
} fl_workspace;

/* Taken by exchange, so that concurrent calls never share a workspace. */
typedef _Atomic(fl_workspace *) fl_spare;

struct fl_stack {
    fl_stack_shape shape;
    size_t real_size;
    const fl_kernels *kernels;
    fl_cell_sizes sizes;
    fl_path path;
    fl_layout layout;
    void *memory;           /* of all cells */
    size_t weight_bytes;    /* of memory */
    fl_spare *spare;        /* apart, because calls change it and the layer is const to them */
    fl_packed_cell cells[]; /* (L, D) */
};

static inline const fl_packed_cell *fl_cell_of(const fl_stack *stack, size_t layer, size_t direction)
{
    return &stack->cells[layer * stack->shape.num_directions + direction];
}

/* Width of a layer's output. */
static inline size_t fl_output_width(const fl_stack *stack) { return stack->shape.num_directions * stack->sizes.P; }
/* Whether the two parts of the pre-activations, of input and state, stay apart until the cell. */
static inline bool fl_splits(const fl_stack *stack)
{
    return stack->path == FL_PATH_TILES ? stack->layout.vectors == 3 : stack->sizes.split;
}
/* Elements of the states beside h, of one row. */
static inline size_t fl_states_width(const fl_stack *stack) { return stack->sizes.states * stack->sizes.H; }
/* Panels of R in whole rows: one for each gate, or for each gate and head. */
static inline size_t fl_head_size(const fl_stack *stack)
{
    return stack->shape.cell.kind == FL_CELL_SLSTM ? stack->sizes.H / stack->shape.cell.heads : stack->sizes.P;
}

/* One parameter of a layer and direction with I inputs. */
typedef struct fl_parameter {
    const void *weight;
    void *gradient;
    size_t size; /* elements; 0: the cell has no such parameter */
    bool is_needed;
} fl_parameter;

#define FL_PARAMETERS 11
/* All, in the order of fl_weights; `gradients` may be null. */
void fl_parameters(const fl_stack *stack, size_t I, const fl_weights *weights, const fl_gradients *gradients,
                   fl_parameter parameters[FL_PARAMETERS]);
/* Whether everything is there that the cell needs. */
bool fl_parameters_are_complete(const fl_stack *stack, const fl_weights *weights, const fl_gradients *gradients);

/* Rows of a (gates*H, N) matrix, `ld` elements apart, as panels in the order in which the backward products take them:
 * stretches of FL_K_BLOCK hidden units, of each one gate after the other. */
void fl_pack_gate_panels(const fl_panels *panels, size_t real_size, size_t gates, size_t H, const void *source,
                         void *packed);

/* A workspace of at least that many bytes, the spare one if it is large enough; null when out of memory. */
fl_workspace *fl_workspace_take(const fl_stack *stack, size_t bytes);
/* Make it at least that large; its content is lost.  False, and the old one, when out of memory. */
bool fl_workspace_grow(fl_workspace *workspace, size_t bytes);
void fl_workspace_return(const fl_stack *stack, fl_workspace *workspace);

#endif
