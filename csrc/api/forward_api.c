/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Calls of a stack: check, then the driver plans, takes memory and threads, and runs.
 */
#include "base/pool.h"
#include "forward/forward.h"

fl_status fl_stack_forward(const fl_stack *stack, const fl_forward_args *args)
{
    fl_status status = fl_forward_check(stack, args);
    if (status != FL_OK || args->B == 0)
        return status;
    fl_fp_state caller_state = fl_fp_enter(true);
    status = fl_forward_planned(stack, args, FL_PASS_FORWARD, NULL, NULL, &caller_state);
    fl_fp_leave(caller_state);
    return status;
}

fl_status fl_stack_workspace(const fl_stack *stack, const fl_forward_args *args, size_t *bytes)
{
    if (stack == NULL || args == NULL || bytes == NULL)
        return FL_ERROR_ARGUMENT;
    const fl_status status = fl_forward_check_sizes(stack, args);
    if (status != FL_OK)
        return status;
    const fl_fp_state caller_state = fl_fp_enter(true);
    fl_plan plans[FL_PLAN_WAYS];
    const size_t limit = fl_thread_limit(args->num_threads);
    const size_t ways = fl_plan_candidates(stack, args->T, args->B, limit, false, plans);
    fl_fp_leave(caller_state);
    size_t most = 0;
    for (size_t n = 0; n < ways; n++) {
        size_t of_plan = 0;
        const fl_status fits = fl_forward_bytes(stack, &plans[n], args, NULL, &of_plan);
        if (fits != FL_OK)
            return fits;
        most = of_plan > most ? of_plan : most;
    }
    *bytes = most;
    return FL_OK;
}
