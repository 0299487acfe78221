/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The forward driver below the public API: for forward.c's callers that bring their own memory and plan.
 */
#ifndef FL_FORWARD_H
#define FL_FORWARD_H
#include "fp_state.h"
#include "plan.h"

/* Everything that an outside caller can get wrong. */
fl_status fl_check_args(const fl_lstm *lstm, const fl_lstm_args *args);
/* Bytes of workspace of a plan. */
fl_status fl_forward_bytes(const fl_lstm *lstm, const fl_plan *plan, size_t T, size_t B, bool ragged, size_t *bytes);
/* Run checked arguments, between fl_fp_enter(true), which returned *caller_state, and fl_fp_leave.  With one thread: no allocation, no lock, no system call (unless args->interrupt is set). */
fl_status fl_forward_run(const fl_lstm *lstm, const fl_lstm_args *args, const fl_plan *plan,
                         fl_workspace *workspace, fl_fp_state *caller_state);

#endif
