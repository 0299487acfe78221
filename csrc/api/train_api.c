/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Recording a forward pass, and its backward pass.
 */
#include <string.h>

#include "backward/backward.h"
#include "forward/forward.h"

fl_status fl_stack_record(const fl_stack *stack, const fl_record_args *args, fl_tape *tape)
{
    if (args == NULL || tape == NULL || !(args->dropout >= 0.0 && args->dropout <= 1.0))
        return FL_ERROR_ARGUMENT;
    const fl_forward_args *call = &args->call;
    fl_status status = fl_forward_check(stack, call);
    if (status != FL_OK)
        return status;
    if (call->B != 0 && (call->h_n == call->h0 || (call->c_n != NULL && call->c_n == call->c0)))
        return FL_ERROR_ARGUMENT;
    tape->stack = NULL;
    status = fl_tape_prepare(tape, stack, args);
    if (status == FL_OK && call->B != 0) {
        fl_fp_state caller_state = fl_fp_enter(true);
        status = fl_forward_planned(stack, call, FL_PASS_RECORD, &tape->recording, &tape->workspace, &caller_state);
        fl_fp_leave(caller_state);
    }
    if (status == FL_OK) {
        tape->args = *args;
        tape->stack = stack;
    }
    return status;
}

static fl_status check(const fl_stack *stack, const fl_tape *tape, const fl_backward_args *args)
{
    if (stack == NULL || tape == NULL || args == NULL || tape->stack != stack || args->gradients == NULL ||
        args->weights == NULL)
        return FL_ERROR_ARGUMENT;
    const bool is_index = tape->args.call.x_index != NULL, needs_dc = stack->sizes.states != 0;
    if (tape->args.call.B != 0 &&
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

fl_status fl_stack_backward(const fl_stack *stack, fl_tape *tape, const fl_backward_args *args)
{
    fl_status status = check(stack, tape, args);
    if (status != FL_OK)
        return status;
    const fl_forward_args *call = &tape->args.call;
    tape->index_gradient.count = 0;
    const size_t rows = stack->shape.num_layers * stack->shape.num_directions * call->B;
    copy_or_clear(args->dh0, args->dh_n, rows * stack->sizes.P * stack->real_size);
    copy_or_clear(args->dc0, args->dc_n, rows * fl_states_width(&stack->sizes) * stack->real_size);
    if (call->B == 0 || call->T == 0) {
        clear_gradients(stack, args);
        return FL_OK;
    }
    fl_fp_state caller_state = fl_fp_enter(true);
    status = fl_back_run(stack, tape, args, &caller_state);
    fl_fp_leave(caller_state);
    return status;
}

fl_status fl_tape_index_gradient(const fl_tape *tape, size_t direction, fl_columns *columns)
{
    if (tape == NULL || tape->stack == NULL || tape->args.call.x_index == NULL || columns == NULL ||
        direction >= tape->stack->shape.num_directions)
        return FL_ERROR_ARGUMENT;
    *columns = fl_index_columns(&tape->index_gradient, direction);
    return FL_OK;
}
