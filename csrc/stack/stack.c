/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layer stacks: their memory.
 */
#include "stack/stack.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/choose.h"

/* Weights of panels for K rows of N, times `count` matrices. */
static void *take_panels(fl_arena *arena, const fl_stack *stack, size_t K, size_t N, size_t count)
{
    const fl_panels panels = fl_panels_of(N, stack->layout.lanes);
    return fl_arena_take(arena, panels.vectors * panels.lanes * count, K, stack->kernels->weight_size);
}

/* A place for one recurrence and all it points at. */
static void place_recurrence(fl_arena *arena, const fl_stack *stack, size_t I, fl_recurrence *r)
{
    const fl_cell_sizes *sizes = &stack->sizes;
    const fl_layout *layout = &stack->layout;
    const size_t H = sizes->H, P = sizes->P, G = sizes->gates, real_size = stack->real_size;
    const fl_panels units = fl_unit_panels_of(H, G, layout->lanes);
    const bool projects = (sizes->parameters & 1U << FL_WEIGHT_HR) != 0;
    const bool has_norm = sizes->norm != FL_LAYER_NORM_NONE;
    void **own = (void **)(void *)&r->own;
    const size_t bias = sizes->path == FL_PATH_SCAN ? units.N + units.lanes : fl_pre_width(stack);
    memset(r, 0, sizeof *r);
    r->I = I;
    r->bias = fl_arena_take(arena, bias, real_size, 1);
    r->bias_h = stack->splits ? fl_arena_take(arena, bias, real_size, 1) : NULL;
    switch (sizes->path) {
    case FL_PATH_TILES:
        r->W = fl_arena_take(arena, layout->gate_row, I, stack->kernels->weight_size);
        r->R = fl_arena_take(arena, layout->gate_row, P, stack->kernels->weight_size);
        break;
    case FL_PATH_ROWS:
        r->W = take_panels(arena, stack, I, G * H, 1);
        r->R = take_panels(arena, stack, fl_head_depth(sizes), fl_head_width(sizes), G * sizes->heads);
        break;
    default: r->W = fl_arena_take(arena, units.N + units.lanes, I, stack->kernels->weight_size);
    }
    if (projects) {
        r->weight_hr = take_panels(arena, stack, H, P, 1);
        r->bias_hr = fl_arena_take(arena, P, real_size, 1);
    }
    for (size_t index = 0; index < FL_PARAMETER_COUNT; index++)
        if (fl_parameter_is_copied(sizes, index) || (has_norm && index == FL_BIAS_IH))
            own[index] = fl_arena_take(arena, fl_parameter_size(sizes, I, index), real_size, 1);
    r->cell.options = stack->shape.cell;
    r->cell.sizes = *sizes;
    r->cell.is_usual = fl_cell_is_usual(&stack->shape.cell);
    memcpy(&r->cell.own, &r->own, sizeof r->cell.own);
}

static void place_all(fl_arena *arena, fl_stack *stack)
{
    const size_t D = stack->shape.num_directions;
    for (size_t index = 0; index < stack->shape.num_layers * D; index++)
        place_recurrence(arena, stack, index < D ? stack->shape.input_size : fl_output_width(stack),
                         &stack->recurrences[index]);
}

/* The handle without weights; null when out of memory. */
static fl_stack *new_handle(const fl_stack_shape *shape, size_t bytes)
{
    fl_stack *stack = calloc(1, bytes);
    if (stack == NULL)
        return NULL;
    stack->shape = *shape;
    stack->shape.cell = fl_cell_options_complete(shape->cell);
    stack->real_size = shape->dtype == FL_F32 ? sizeof(float) : sizeof(double);
    stack->kernels = fl_kernels_active(shape->dtype, FL_STORAGE_REAL);
    stack->sizes = fl_cell_sizes_of(&stack->shape.cell, shape->hidden_size);
    stack->layout = fl_layout_of(shape->hidden_size, stack->sizes.gates, stack->kernels->lanes);
    stack->gradient_row = fl_gradient_row_of(&stack->sizes);
    /* Tiles of three gates keep the parts of all cells apart: there is room for it in the registers. */
    stack->splits = stack->sizes.path == FL_PATH_TILES ? stack->layout.vectors == 3 : stack->sizes.split;
    stack->spare = calloc(1, sizeof *stack->spare);
    if (stack->spare == NULL) {
        free(stack);
        return NULL;
    }
    atomic_init(stack->spare, NULL);
    return stack;
}

fl_status fl_stack_create(const fl_stack_shape *shape, fl_stack **stack_out)
{
    if (stack_out == NULL)
        return FL_ERROR_ARGUMENT;
    const fl_status status = fl_shape_check(shape);
    if (status != FL_OK)
        return status;
    size_t handle = sizeof(fl_stack);
    if (!fl_add_product(&handle, shape->num_layers, shape->num_directions, sizeof(fl_recurrence)))
        return FL_ERROR_SIZE;
    fl_stack *stack = new_handle(shape, handle);
    if (stack == NULL)
        return FL_ERROR_MEMORY;
    fl_arena arena = {0};
    place_all(&arena, stack);
    if (arena.overflows) {
        fl_stack_destroy(stack);
        return FL_ERROR_SIZE;
    }
    stack->memory = fl_allocate(arena.used);
    if (stack->memory == NULL) {
        fl_stack_destroy(stack);
        return FL_ERROR_MEMORY;
    }
    memset(stack->memory, 0, arena.used);
    fl_arena placing = {.memory = stack->memory, .bytes = arena.used};
    place_all(&placing, stack);
    *stack_out = stack;
    return FL_OK;
}

void fl_stack_destroy(fl_stack *stack)
{
    if (stack == NULL)
        return;
    fl_workspace_free(atomic_load(stack->spare));
    fl_release(stack->memory);
    free(stack->spare);
    free(stack);
}

double fl_shape_step_work(const fl_stack_shape *shape)
{
    if (fl_shape_check(shape) != FL_OK)
        return 0.0;
    const fl_cell_options complete = fl_cell_options_complete(shape->cell);
    const fl_cell_sizes sizes = fl_cell_sizes_of(&complete, shape->hidden_size);
    const double per_unit = 50.0 + (double)shape->cell.proj_size; /* activations, in multiply-adds */
    const double recurrent = sizes.recurs ? (double)fl_head_depth(&sizes) : 0.0;
    const double deeper = (double)(shape->num_directions * sizes.P), rest = (double)(shape->num_layers - 1);
    const double columns = (double)shape->input_size + recurrent + rest * (deeper + recurrent);
    return (double)(shape->num_directions * sizes.H) *
           ((double)sizes.gates * columns + per_unit * (double)shape->num_layers);
}

void fl_stack_release(const fl_stack *stack)
{
    if (stack != NULL)
        fl_workspace_free(atomic_exchange(stack->spare, NULL));
}

fl_workspace *fl_workspace_take(const fl_stack *stack)
{
    fl_workspace *workspace = atomic_exchange(stack->spare, NULL);
    return workspace != NULL ? workspace : calloc(1, sizeof *workspace);
}

void fl_workspace_return(const fl_stack *stack, fl_workspace *workspace)
{
    /* Of a call that found no memory nothing is kept. */
    fl_workspace_free(workspace->memory != NULL ? atomic_exchange(stack->spare, workspace) : workspace);
}
