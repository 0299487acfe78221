/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Asking the caller now and then whether to go on.  One thread asks, all threads see the answer.
 */
#ifndef FL_INTERRUPT_H
#define FL_INTERRUPT_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/exact.h"
#include "base/fp_state.h"

typedef struct fl_interrupt {
    int (*callback)(void *context); /* may be null */
    void *context;
    fl_fp_state *caller_state; /* in force while the callback runs */
    int64_t last;              /* nanoseconds */
    atomic_bool stop;
} fl_interrupt;

void fl_interrupt_begin(fl_interrupt *interrupt, int (*callback)(void *context), void *context,
                        fl_fp_state *caller_state);
/* Whether to go on.  The calling thread of the library `asks`, when the last time is long enough ago. */
bool fl_interrupt_poll(fl_interrupt *interrupt, bool asks);

#endif
