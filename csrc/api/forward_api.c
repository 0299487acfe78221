/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fl_stack_forward: check, plan, take memory and threads, run.
 */
#include "forward/forward.h"
#include "base/pool.h"

static fl_status check_lengths(const fl_forward_args *args)
{
    for (size_t b = 0; b < args->B; b++)
        if (args->lengths[b] < 0 || (uint64_t)args->lengths[b] > args->T)
            return FL_ERROR_LENGTH;
    return FL_OK;
}

/* Indices of real steps only: what stands in the padding is never read. */
static fl_status check_index(const fl_stack *stack, const fl_forward_args *args)
{
    for (size_t b = 0; b < args->B; b++) {
        const size_t length = args->lengths != NULL ? (size_t)args->lengths[b] : args->T;
        const int64_t *row = args->x_index + (args->x_at != NULL ? args->x_at[b] : (ptrdiff_t)b) * args->x_stride_b;
        for (size_t t = 0; t < length; t++) {
            const int64_t index = row[(ptrdiff_t)t * args->x_stride_t];
            if (index < 0 || (uint64_t)index >= stack->shape.input_size)
                return FL_ERROR_INDEX;
        }
    }
    return FL_OK;
}

fl_status fl_check_args(const fl_stack *stack, const fl_forward_args *args)
{
    size_t cells = 0, states = 0, elements = 0;
    if (stack == NULL || args == NULL)
        return FL_ERROR_ARGUMENT;
    const size_t H = stack->sizes.H, has_c = stack->sizes.states;
    const size_t widest = stack->shape.input_size > 2 * H ? stack->shape.input_size : 2 * H;
    if (!fl_add_product(&cells, stack->shape.num_layers, stack->shape.num_directions, args->B) ||
        !fl_add_product(&states, cells, (1 + has_c) * H, stack->real_size) ||
        !fl_add_product(&elements, args->T, args->B, widest) || !fl_add_product(&elements, elements, 8, 1))
        return FL_ERROR_SIZE;
    if (args->B != 0 && (args->h_n == NULL || (has_c != 0 && args->c_n == NULL)))
        return FL_ERROR_ARGUMENT;
    if (args->cells != NULL && has_c == 0)
        return FL_ERROR_ARGUMENT;
    if (args->T != 0 && args->B != 0 && (args->y == NULL || (args->x == NULL) == (args->x_index == NULL)))
        return FL_ERROR_ARGUMENT;
    fl_status status = args->lengths != NULL ? check_lengths(args) : FL_OK;
    if (status == FL_OK && args->x_index != NULL)
        status = check_index(stack, args);
    return status;
}

static size_t thread_limit(const fl_forward_args *args)
{
    return args->num_threads != 0 ? args->num_threads : fl_get_num_threads();
}

fl_status fl_stack_workspace(const fl_stack *stack, const fl_forward_args *args, size_t *bytes)
{
    if (stack == NULL || args == NULL || bytes == NULL)
        return FL_ERROR_ARGUMENT;
    const fl_status status = args->lengths != NULL ? check_lengths(args) : FL_OK;
    if (status != FL_OK)
        return status;
    const fl_fp_state caller_state = fl_fp_enter(true);
    const fl_plan plan = fl_plan_make(stack, args->T, args->B, thread_limit(args), false);
    fl_fp_leave(caller_state);
    return fl_forward_bytes(stack, &plan, args->T, args->B, args->lengths, NULL, bytes);
}

static fl_status run_planned(const fl_stack *stack, const fl_forward_args *args, const fl_plan *plan,
                             const fl_saving *saving, fl_workspace *kept, fl_fp_state *caller_state)
{
    size_t bytes;
    fl_status status = fl_forward_bytes(stack, plan, args->T, args->B, args->lengths, saving, &bytes);
    if (status != FL_OK)
        return status;
    fl_workspace *workspace = kept != NULL ? kept : fl_workspace_take(stack, bytes);
    if (workspace == NULL || !fl_workspace_grow(workspace, bytes))
        return FL_ERROR_MEMORY;
    status = fl_forward_run(stack, args, plan, saving, workspace, caller_state);
    if (kept == NULL)
        fl_workspace_return(stack, workspace);
    return status;
}

fl_status fl_forward_planned(const fl_stack *stack, const fl_forward_args *args, const fl_saving *saving,
                             fl_workspace *workspace, fl_fp_state *caller_state)
{
    const bool rows_only = fl_saving_needs_rows(stack, saving);
    fl_plan plan = fl_plan_make(stack, args->T, args->B, fl_pool_resting() ? 1 : thread_limit(args), rows_only);
    const size_t acquired = plan.threads > 1 ? fl_pool_acquire(plan.threads) : 1;
    if (acquired < plan.threads)
        plan = fl_plan_make(stack, args->T, args->B, acquired, rows_only);
    const fl_status status = run_planned(stack, args, &plan, saving, workspace, caller_state);
    fl_pool_release(acquired);
    return status;
}

fl_status fl_stack_forward(const fl_stack *stack, const fl_forward_args *args)
{
    fl_status status = fl_check_args(stack, args);
    if (status != FL_OK || args->B == 0)
        return status;
    fl_fp_state caller_state = fl_fp_enter(true);
    status = fl_forward_planned(stack, args, NULL, NULL, &caller_state);
    fl_fp_leave(caller_state);
    return status;
}
