/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which of a few plans of the same work is fastest on this machine, learned from the calls themselves.  All plans give the
 * same bits, so trying them changes nothing but time.
 *
 * The first calls of a kind take each plan in turn; then the fastest stays.  It is watched: when it becomes slower than
 * another one was, as where a neighbour takes a CPU away, all are tried again, and from time to time one of the others gets a
 * call to show that it has not become the better one.  One table for the process: layers alike share what was learned.
 */
#ifndef FL_TRIALS_H
#define FL_TRIALS_H
#include <stdint.h>

#include "stack/stack.h"

/* One call that is timed; `slot` is null for one that is not. */
typedef struct fl_trial {
    struct trial_slot *slot;
    uint64_t owner; /* of the slot, which another kind of call may have taken over meanwhile */
    size_t way;
    int64_t began;
    double steps;
} fl_trial;

/* The kind of work, without its plans: `T` mean steps of a row.  Everything but `ways` and what follows it. */
fl_plan_facts fl_trial_kind(const fl_stack *stack, fl_pass pass, size_t T, size_t B, size_t max_threads);

/* Which of the plans in `kind`, kind->ways of them, this call takes.  Not timed where there is one alone, where another
 * thread is at the table, or where fl_set_plan_trials has been given false: then it is plan 0. */
fl_trial fl_trial_begin(const fl_plan_facts *kind, double steps);
/* The call is over; what a call that failed took is not told. */
void fl_trial_end(const fl_trial *trial);
/* The same with a time of the caller's, in nanoseconds a step. */
void fl_trial_report(const fl_trial *trial, double nanoseconds);

#endif
