/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/interrupt.h"

#include "platform/platform.h"

#define INTERRUPT_NS 20000000 /* between two calls of the callback */

void fl_interrupt_begin(fl_interrupt *interrupt, int (*callback)(void *context), void *context,
                        fl_fp_state *caller_state)
{
    interrupt->callback = callback;
    interrupt->context = context;
    interrupt->caller_state = caller_state;
    atomic_init(&interrupt->stop, false);
    if (callback != NULL)
        interrupt->last = fl_clock_nanoseconds();
}

bool fl_interrupt_poll(fl_interrupt *interrupt, bool asks)
{
    if (asks && interrupt->callback != NULL) {
        const int64_t now = fl_clock_nanoseconds();
        if (now - interrupt->last > INTERRUPT_NS) {
            interrupt->last = now;
            fl_fp_leave(*interrupt->caller_state);
            const int stop = interrupt->callback(interrupt->context);
            *interrupt->caller_state = fl_fp_enter(true);
            if (stop != 0)
                atomic_store(&interrupt->stop, true);
        }
    }
    return !atomic_load_explicit(&interrupt->stop, memory_order_relaxed);
}
