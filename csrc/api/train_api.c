/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Recording a forward pass, and its backward pass.
 */
#include <string.h>

#include "backward/backward.h"
#include "forward/forward.h"

static fl_status check_record(const fl_stack *stack, const fl_record_args *args)
{
    if (stack == NULL || args == NULL || !(args->dropout >= 0.0 && args->dropout <= 1.0))
        return FL_ERROR_ARGUMENT;
    const fl_forward_args *call = &args->call;
    const fl_status status = fl_forward_check(stack, call);
    if (status != FL_OK)
        return status;
    if (call->B != 0 && (call->h_n == call->h0 || (call->c_n != NULL && call->c_n == call->c0)))
        return FL_ERROR_ARGUMENT;
    return FL_OK;
}

static fl_status record(const fl_stack *stack, const fl_recorded *pass, fl_workspace *workspace)
{
    if (pass->args.call.B == 0)
        return FL_OK;
    fl_fp_state caller_state = fl_fp_enter(true);
    const fl_status status =
        fl_forward_planned(stack, &pass->args.call, FL_PASS_RECORD, &pass->recording, workspace, &caller_state);
    fl_fp_leave(caller_state);
    return status;
}

static fl_status check_back(const fl_stack *stack, const fl_record_args *recorded, const fl_backward_args *args)
{
    if (args->gradients == NULL || args->weights == NULL)
        return FL_ERROR_ARGUMENT;
    const bool is_index = recorded->call.x_index != NULL, needs_dc = stack->sizes.states != 0;
    if (recorded->call.B != 0 &&
        (args->dh0 == NULL || (needs_dc && args->dc0 == NULL) || (is_index && args->dx != NULL)))
        return FL_ERROR_ARGUMENT;
    if (args->dcells != NULL && !needs_dc)
        return FL_ERROR_ARGUMENT;
    for (size_t n = 0; n < stack->shape.num_layers * stack->shape.num_directions; n++)
        if (!fl_parameters_are_complete(&stack->sizes, &args->weights[n], &args->gradients[n]))
            return FL_ERROR_ARGUMENT;
    return FL_OK;
}

static void copy_or_clear(void *to, const void *from, size_t bytes)
{
    if (from == NULL && bytes != 0)
        memset(to, 0, bytes);
    else if (from != to && bytes != 0)
        memcpy(to, from, bytes);
}

static void clear_gradients(const fl_stack *stack, const fl_backward_args *args)
{
    for (size_t n = 0; n < stack->shape.num_layers * stack->shape.num_directions; n++)
        for (size_t index = 0; index < FL_PARAMETER_COUNT; index++) {
            void *gradient = fl_gradient_at(&args->gradients[n], index);
            const size_t size = fl_parameter_size(&stack->sizes, stack->recurrences[n].I, index);
            if (gradient != NULL && size != 0)
                memset(gradient, 0, size * stack->real_size);
        }
}

static fl_status run_back(const fl_stack *stack, const fl_recorded *pass, const fl_back_room *room,
                          const fl_backward_args *args)
{
    const fl_forward_args *call = &pass->args.call;
    const size_t rows = stack->shape.num_layers * stack->shape.num_directions * call->B;
    copy_or_clear(args->dh0, args->dh_n, rows * stack->sizes.P * stack->real_size);
    copy_or_clear(args->dc0, args->dc_n, rows * fl_states_width(&stack->sizes) * stack->real_size);
    if (call->B == 0 || call->T == 0) {
        clear_gradients(stack, args);
        return FL_OK;
    }
    fl_fp_state caller_state = fl_fp_enter(true);
    const fl_status status = fl_back_run(stack, pass, room, args, &caller_state);
    fl_fp_leave(caller_state);
    return status;
}

/* ---- The memory is the caller's ------------------------------------------------------------------------------- */

/* Checks that a record which is read again needs: final states are not looked at. */
static fl_status check_again(const fl_stack *stack, const fl_record_args *args, const fl_backward_args *back)
{
    if (stack == NULL || args == NULL || back == NULL || back->keeps_index_gradient)
        return FL_ERROR_ARGUMENT;
    const fl_status status = check_back(stack, args, back);
    if (status != FL_OK)
        return status;
    fl_record_args written = *args;
    written.call.h_n = back->dh0;
    written.call.c_n = back->dc0;
    written.call.cells = NULL;
    return check_record(stack, &written);
}

fl_status fl_reserve_size(const fl_stack *stack, const fl_record_args *args, size_t *bytes)
{
    if (stack == NULL || args == NULL || bytes == NULL)
        return FL_ERROR_ARGUMENT;
    const fl_status status = fl_forward_check_sizes(stack, &args->call);
    return status == FL_OK ? fl_recorded_size(stack, args, bytes) : status;
}

fl_status fl_forward(const fl_stack *stack, const fl_record_args *args, void *reserve, size_t bytes)
{
    fl_recorded pass;
    fl_workspace small = {0};
    fl_status status = check_record(stack, args);
    if (status == FL_OK)
        status = fl_recorded_in(&pass, stack, args, reserve, bytes, &small);
    if (status == FL_OK)
        status = record(stack, &pass, NULL);
    fl_release(small.memory);
    return status;
}

fl_status fl_backward(const fl_stack *stack, const fl_record_args *args, const void *reserve, size_t bytes,
                      const fl_backward_args *back)
{
    fl_recorded pass;
    fl_workspace small = {0};
    fl_status status = check_again(stack, args, back);
    if (status == FL_OK) /* nobody writes to a reserve here */
        status = fl_recorded_in(&pass, stack, args, (void *)reserve, bytes, &small);
    fl_workspace *scratch = status == FL_OK ? fl_workspace_take(stack) : NULL;
    if (status == FL_OK && scratch == NULL)
        status = FL_ERROR_MEMORY;
    if (status == FL_OK) {
        const fl_back_room room = {.scratch = scratch};
        status = run_back(stack, &pass, &room, back);
    }
    if (scratch != NULL)
        fl_workspace_return(stack, scratch);
    fl_release(small.memory);
    return status;
}

/* ---- The memory is a tape's ----------------------------------------------------------------------------------- */

fl_status fl_stack_record(const fl_stack *stack, const fl_record_args *args, fl_tape *tape)
{
    if (tape == NULL)
        return FL_ERROR_ARGUMENT;
    fl_status status = check_record(stack, args);
    if (status != FL_OK)
        return status;
    tape->stack = NULL;
    status = fl_recorded_take(&tape->pass, stack, args, &tape->kept);
    if (status == FL_OK)
        status = record(stack, &tape->pass, &tape->workspace);
    if (status == FL_OK)
        tape->stack = stack;
    return status;
}

fl_status fl_stack_backward(const fl_stack *stack, fl_tape *tape, const fl_backward_args *args)
{
    if (stack == NULL || tape == NULL || args == NULL || tape->stack != stack)
        return FL_ERROR_ARGUMENT;
    const fl_status status = check_back(stack, &tape->pass.args, args);
    if (status != FL_OK)
        return status;
    tape->index_gradient.count = 0;
    const fl_back_room room = {&tape->scratch, &tape->workspace, &tape->index_gradient};
    return run_back(stack, &tape->pass, &room, args);
}

fl_status fl_tape_index_gradient(const fl_tape *tape, size_t direction, fl_columns *columns)
{
    if (tape == NULL || tape->stack == NULL || tape->pass.args.call.x_index == NULL || columns == NULL ||
        direction >= tape->stack->shape.num_directions)
        return FL_ERROR_ARGUMENT;
    *columns = fl_index_columns(&tape->index_gradient, direction);
    return FL_OK;
}
