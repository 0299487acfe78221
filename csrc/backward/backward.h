/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The backward driver, for the API.
 */
#ifndef FL_BACKWARD_H
#define FL_BACKWARD_H
#include "backward/tape.h"
#include "base/fp_state.h"

/* Memory of a backward pass. */
typedef struct fl_back_room {
    fl_workspace *scratch;
    fl_workspace *forward;             /* of the forward driver; null: the layer's spare one */
    fl_index_gradient *index_gradient; /* what is left in `scratch` for fl_tape_index_gradient; or null */
} fl_back_room;

/* Run checked arguments with at least one step, between fl_fp_enter(true), which returned *caller_state, and fl_fp_leave. */
fl_status fl_back_run(const fl_stack *stack, const fl_recorded *pass, const fl_back_room *room,
                      const fl_backward_args *args, fl_fp_state *caller_state);

/* What of it belongs to a direction. */
fl_columns fl_index_columns(const fl_index_gradient *gradient, size_t direction);

#endif
