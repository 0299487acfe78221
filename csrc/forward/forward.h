/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward driver, for the API and for the backward pass, which runs parts of the sequence again.
 */
#ifndef FL_FORWARD_H
#define FL_FORWARD_H
#include "base/fp_state.h"
#include "forward/plan.h"
#include "stack/recording.h"

/* Everything that an outside caller can get wrong. */
fl_status fl_forward_check(const fl_stack *stack, const fl_forward_args *args);
/* Sizes and lengths alone, of arguments that are there. */
fl_status fl_forward_check_sizes(const fl_stack *stack, const fl_forward_args *args);
/* Bytes of workspace of a plan; `recording` is null for a call that is not recorded, here and below. */
fl_status fl_forward_bytes(const fl_stack *stack, const fl_plan *plan, const fl_forward_args *args,
                           const fl_recording *recording, size_t *bytes);
/* Run checked arguments, between fl_fp_enter(true), which returned *caller_state, and fl_fp_leave.  With one thread and a
 * workspace of fl_forward_bytes: no allocation, no lock, no system call (unless args->interrupt is set). */
fl_status fl_forward_run(const fl_stack *stack, const fl_forward_args *args, const fl_plan *plan,
                         const fl_recording *recording, fl_workspace *workspace, fl_fp_state *caller_state);
/* Plan, take threads and memory, run checked arguments; between fl_fp_enter and fl_fp_leave as well.  The workspace grows
 * as needed; null: the layer's spare one.  With num_threads of 1 and a workspace, what is said of fl_forward_run holds. */
fl_status fl_forward_planned(const fl_stack *stack, const fl_forward_args *args, fl_pass pass,
                             const fl_recording *recording, fl_workspace *workspace, fl_fp_state *caller_state);

#endif
