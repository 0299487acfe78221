/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Inside of a packed layer stack.
 */
#ifndef FL_STACK_H
#define FL_STACK_H
#include <stdatomic.h>

#include "base/memory.h"
#include "kernels/kernels.h"
#include "model/parameters.h"

/* One layer in one direction.  For tiles, biases, W and R are packed as layout.h says.  For whole rows, biases are (G*H), W
 * is panels (I, G*H), and R for each gate panels (P, H), or for each gate and head panels (H / heads, H / heads).  For scans,
 * W is fl_unit_panels_of(H, G), and the bias is like one row of it. */
typedef struct fl_recurrence {
    size_t I;
    void *bias;   /* of the input's part; of both where they are summed */
    void *bias_h; /* of the state's part; null where there is none */
    void *W, *R;
    void *weight_hr, *bias_hr; /* projection: panels (H, P); (P) */
    fl_gradients own;          /* what fl_cell.own points at */
    fl_cell cell;
} fl_recurrence;

/* Taken by exchange, so that concurrent calls never share a workspace. */
typedef _Atomic(fl_workspace *) fl_spare;

struct fl_stack {
    fl_stack_shape shape;
    size_t real_size;
    const fl_kernels *kernels;
    fl_cell_sizes sizes;
    fl_layout layout;
    fl_gradient_row gradient_row;
    bool splits;                 /* the two parts of pre-activations, of input and state, stay apart until the cell */
    void *memory;                /* of all recurrences */
    fl_spare *spare;             /* apart, because calls change it and the layer is const to them */
    fl_recurrence recurrences[]; /* (L, D) */
};

static inline const fl_recurrence *fl_recurrence_of(const fl_stack *stack, size_t layer, size_t direction)
{
    return &stack->recurrences[layer * stack->shape.num_directions + direction];
}

/* Width of a layer's output. */
static inline size_t fl_output_width(const fl_stack *stack) { return stack->shape.num_directions * stack->sizes.P; }

/* Elements of a row of pre-activations as the products leave it. */
static inline size_t fl_pre_width(const fl_stack *stack)
{
    return stack->sizes.path == FL_PATH_TILES ? stack->layout.gate_row : stack->sizes.gates * stack->sizes.H;
}

/* The spare workspace, or a new one; null when out of memory. */
fl_workspace *fl_workspace_take(const fl_stack *stack);
void fl_workspace_return(const fl_stack *stack, fl_workspace *workspace);

#endif
