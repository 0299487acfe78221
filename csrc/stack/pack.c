/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layer stacks: memory, and packing of PyTorch's weight layout into that of layout.h.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/choose.h"
#include "stack/stack.h"

static bool shape_is_valid(const fl_stack_shape *shape)
{
    return (shape->dtype == FL_F32 || shape->dtype == FL_F64) && shape->input_size >= 1 && shape->hidden_size >= 1 &&
           shape->num_layers >= 1 && (shape->num_directions == 1 || shape->num_directions == 2) &&
           fl_cell_options_are_valid(&shape->cell, shape->hidden_size);
}

/* Elements of panels for K rows of N. */
static bool panels_size(const fl_stack *stack, size_t K, size_t N, size_t *elements)
{
    const fl_panels panels = fl_panels_of(N, stack->layout.lanes);
    return fl_add_product(elements, panels.vectors * panels.lanes, K, 1);
}

/* Places of one cell's parts in its memory. */
typedef struct cell_places {
    size_t bias, bias_h, W, R, weight_hr, bias_hr, cell_bias, weight_ch, diagonal, ln_ih, ln_hh, ln_c, bias_ln_c, total;
} cell_places;

static bool place_cell(const fl_stack *stack, size_t I, cell_places *at)
{
    const fl_cell_options *o = &stack->shape.cell;
    const fl_cell_sizes *sizes = &stack->sizes;
    const fl_layout *layout = &stack->layout;
    const size_t H = sizes->H, P = sizes->P, gate_rows = sizes->gates * H, real_size = stack->real_size;
    const bool projects = o->proj_size != 0, norms = o->layer_norm != FL_LAYER_NORM_NONE;
    const bool haste = o->layer_norm == FL_LAYER_NORM_HASTE;
    size_t bias = layout->gate_row, W = 0, R = 0, hr = 0, peepholes = 0;
    at->total = 0;
    if (o->peephole &&
        (!fl_add_product(&peepholes, sizes->peepholes, H, 1) || !fl_add_product(&peepholes, layout->lanes, 1, 1)))
        return false;
    if (stack->path == FL_PATH_ROWS) {
        const size_t head = fl_head_size(stack), units = o->kind == FL_CELL_SLSTM ? head : H;
        bias = gate_rows;
        if (!panels_size(stack, I, gate_rows, &W) || !panels_size(stack, head, units, &R))
            return false;
        const size_t one = R;
        R = 0;
        if (sizes->recurs && !fl_add_product(&R, one, sizes->gates, H / units))
            return false;
    } else if (stack->path == FL_PATH_SCAN) {
        const fl_panels panels = fl_unit_panels_of(H, sizes->gates, layout->lanes);
        bias = panels.N + panels.lanes;
        if (!fl_add_product(&W, panels.N, I, 1) || !fl_add_product(&W, panels.lanes, 1, 1))
            return false;
    } else if (!fl_add_product(&W, layout->gate_row, I, 1) || !fl_add_product(&R, layout->gate_row, P, 1)) {
        return false;
    }
    return panels_size(stack, H, P, &hr) && fl_take_place(&at->total, &at->bias, bias, real_size, 1) &&
           fl_take_place(&at->total, &at->bias_h, fl_splits(stack) ? bias : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->W, W, real_size, 1) && fl_take_place(&at->total, &at->R, R, real_size, 1) &&
           fl_take_place(&at->total, &at->weight_hr, projects ? hr : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->bias_hr, projects ? P : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->cell_bias, norms ? gate_rows : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->weight_ch, peepholes, real_size, 1) &&
           fl_take_place(&at->total, &at->diagonal, o->kind == FL_CELL_INDRNN ? H : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->ln_ih, norms ? gate_rows : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->ln_hh, haste ? gate_rows : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->ln_c, haste ? H : 0, real_size, 1) &&
           fl_take_place(&at->total, &at->bias_ln_c, haste ? H : 0, real_size, 1);
}

static void point_at_parts(const fl_stack *stack, size_t I, char *base, fl_packed_cell *cell)
{
    cell_places at;
    place_cell(stack, I, &at);
    cell->I = I;
    cell->bias = base + at.bias;
    cell->bias_h = fl_splits(stack) ? base + at.bias_h : NULL;
    cell->W = base + at.W;
    cell->R = base + at.R;
    cell->weight_hr = base + at.weight_hr;
    cell->bias_hr = base + at.bias_hr;
    cell->cell.options = stack->shape.cell;
    cell->cell.sizes = stack->sizes;
    cell->cell.is_usual = fl_cell_is_usual(&stack->shape.cell);
    cell->cell.bias = base + at.cell_bias;
    cell->cell.weight_ch = base + at.weight_ch;
    cell->cell.weight_hh = base + at.diagonal;
    cell->cell.weight_ln_ih = base + at.ln_ih;
    cell->cell.weight_ln_hh = base + at.ln_hh;
    cell->cell.weight_ln_c = base + at.ln_c;
    cell->cell.bias_ln_c = base + at.bias_ln_c;
}

fl_status fl_stack_create(const fl_stack_shape *shape, fl_stack **stack_out)
{
    if (shape == NULL || stack_out == NULL || !shape_is_valid(shape))
        return FL_ERROR_ARGUMENT;
    const fl_kernels *kernels = fl_kernels_active(shape->dtype);
    const size_t D = shape->num_directions, H = shape->hidden_size;
    size_t handle = sizeof(fl_stack), total = 0;
    if (H > (size_t)PTRDIFF_MAX / 64 || shape->input_size > (size_t)PTRDIFF_MAX / 64 ||
        !fl_add_product(&handle, shape->num_layers, D, sizeof(fl_packed_cell)))
        return FL_ERROR_SIZE;

    fl_stack *stack = calloc(1, handle);
    if (stack == NULL)
        return FL_ERROR_MEMORY;
    stack->shape = *shape;
    stack->shape.cell = fl_cell_options_complete(shape->cell);
    stack->real_size = shape->dtype == FL_F32 ? sizeof(float) : sizeof(double);
    stack->kernels = kernels;
    stack->sizes = fl_cell_sizes_of(&stack->shape.cell, H);
    stack->path = fl_cell_path(&shape->cell);
    stack->layout = fl_layout_of(H, stack->sizes.gates == 2 ? 3 : stack->sizes.gates, kernels->lanes);
    cell_places first, deeper;
    if (!place_cell(stack, shape->input_size, &first) || !place_cell(stack, fl_output_width(stack), &deeper) ||
        !fl_add_product(&total, first.total, D, 1) || !fl_add_product(&total, deeper.total, D, shape->num_layers - 1)) {
        free(stack);
        return FL_ERROR_SIZE;
    }
    stack->weight_bytes = total;
    stack->memory = fl_allocate(total);
    stack->spare = malloc(sizeof *stack->spare);
    if (stack->memory == NULL || stack->spare == NULL) {
        fl_release(stack->memory);
        free(stack->spare);
        free(stack);
        return FL_ERROR_MEMORY;
    }
    memset(stack->memory, 0, total);
    atomic_init(stack->spare, NULL);
    char *next = stack->memory;
    for (size_t index = 0; index < shape->num_layers * D; index++) {
        point_at_parts(stack, index < D ? shape->input_size : fl_output_width(stack), next, &stack->cells[index]);
        next += index < D ? first.total : deeper.total;
    }
    *stack_out = stack;
    return FL_OK;
}

static void workspace_free(fl_workspace *workspace)
{
    if (workspace != NULL) {
        fl_release(workspace->memory);
        free(workspace);
    }
}

void fl_stack_destroy(fl_stack *stack)
{
    if (stack == NULL)
        return;
    workspace_free(atomic_load(stack->spare));
    fl_release(stack->memory);
    free(stack->spare);
    free(stack);
}

/* Where `gate` of hidden unit `unit` stands within one k of its block, and the elements from one k to the next. */
static size_t gate_offset(const fl_layout *layout, size_t gate, size_t unit, size_t *step)
{
    const size_t within = unit % layout->units;
    if (unit / layout->units < layout->full_blocks) {
        *step = layout->vectors * layout->lanes;
        return gate * layout->lanes + within;
    }
    *step = layout->tail_vectors * layout->lanes;
    return gate * (*step / 4) + within;
}

/* `count` rows of K elements each, transposed: element k of row n to to[k * step + n].  Rows are in step in the inner loop,
 * so that writes are contiguous and reads find their cache lines again. */
static void interleave_rows(size_t count, size_t K, size_t real_size, const void *source, void *to, size_t step)
{
    if (real_size == sizeof(float)) {
        const float *from = source;
        float *target = to;
        for (size_t k = 0; k < K; k++, target += step)
            for (size_t n = 0; n < count; n++) target[n] = from[n * K + k];
    } else {
        const double *from = source;
        double *target = to;
        for (size_t k = 0; k < K; k++, target += step)
            for (size_t n = 0; n < count; n++) target[n] = from[n * K + k];
    }
}

static void pack_matrix(const fl_layout *layout, size_t real_size, size_t K, const void *source, void *packed)
{
    for (size_t block = 0; block < layout->blocks; block++) {
        const size_t unit = block * layout->units, rest = layout->H - unit;
        for (size_t gate = 0; gate < layout->gates; gate++) {
            size_t step, first = block * fl_panel_stride(layout, K);
            first += gate_offset(layout, gate, unit, &step);
            interleave_rows(rest < layout->units ? rest : layout->units, K, real_size,
                            (const char *)source + (gate * layout->H + unit) * K * real_size,
                            (char *)packed + first * real_size, step);
        }
    }
}

/* out[at] = a[row] + b[row], of those that are given. */
static void add_bias(size_t real_size, const void *a, const void *b, size_t row, void *out, size_t at)
{
    if (real_size == sizeof(float)) {
        const float first = a != NULL ? ((const float *)a)[row] : 0.0F;
        ((float *)out)[at] = b != NULL ? first + ((const float *)b)[row] : first;
    } else {
        const double first = a != NULL ? ((const double *)a)[row] : 0.0;
        ((double *)out)[at] = b != NULL ? first + ((const double *)b)[row] : first;
    }
}

static void pack_bias(const fl_layout *layout, size_t real_size, const void *bias_ih, const void *bias_hh, void *packed)
{
    for (size_t gate = 0; gate < layout->gates; gate++) {
        for (size_t unit = 0; unit < layout->H; unit++) {
            size_t step, at = fl_block_offset(layout, unit / layout->units);
            at += gate_offset(layout, gate, unit, &step);
            add_bias(real_size, bias_ih, bias_hh, gate * layout->H + unit, packed, at);
        }
    }
}

static void add_biases(size_t real_size, size_t n, const void *a, const void *b, void *out)
{
    for (size_t row = 0; row < n; row++) add_bias(real_size, a, b, row, out, row);
}

/* The transpose of an (N, K) matrix as panels. */
static void pack_transposed(const fl_panels *panels, size_t real_size, size_t K, const void *source, void *packed)
{
    for (size_t p = 0; p < panels->count; p++) {
        const size_t first = fl_panel_first(panels, p) * panels->lanes,
                     end = fl_panel_first(panels, p + 1) * panels->lanes;
        const size_t rows = (end < panels->N ? end : panels->N) - first;
        interleave_rows(rows, K, real_size, (const char *)source + first * K * real_size,
                        (char *)packed + first * K * real_size, end - first);
    }
}

static void pack_rows(const fl_stack *stack, const fl_packed_cell *cell, const fl_weights *weights)
{
    const size_t H = stack->sizes.H, gates = stack->sizes.gates, K = fl_head_size(stack), real_size = stack->real_size;
    const size_t units = stack->shape.cell.kind == FL_CELL_SLSTM ? K : H;
    const fl_panels W = fl_panels_of(gates * H, stack->layout.lanes), R = fl_panels_of(units, stack->layout.lanes);
    pack_transposed(&W, real_size, cell->I, weights->weight_ih, cell->W);
    for (size_t n = 0; n < gates * H / units && stack->sizes.recurs; n++)
        pack_transposed(&R, real_size, K, (const char *)weights->weight_hh + n * units * K * real_size,
                        (char *)cell->R + n * R.vectors * R.lanes * K * real_size);
}

/* Weights and biases of a cell without a recurrent product. */
static void pack_scan(const fl_stack *stack, const fl_packed_cell *cell, const fl_weights *weights)
{
    const size_t H = stack->sizes.H, G = stack->sizes.gates, lanes = stack->layout.lanes, I = cell->I;
    const size_t real_size = stack->real_size;
    const fl_panels panels = fl_unit_panels_of(H, G, lanes);
    const size_t stride = fl_gate_stride(&panels, H);
    for (size_t p = 0; p < panels.count; p++) {
        const size_t first = fl_panel_first(&panels, p), width = (fl_panel_first(&panels, p + 1) - first) * lanes;
        for (size_t at = 0; at < width; at += panels.together * lanes) {
            const size_t unit = (first + at / lanes) / panels.together * lanes;
            const size_t units = H - unit < lanes ? H - unit : lanes;
            for (size_t gate = 0; gate < G; gate++) {
                const size_t row = gate * H + unit, column = at + gate * stride, place = first * lanes + column;
                interleave_rows(units, I, real_size, (const char *)weights->weight_ih + row * I * real_size,
                                (char *)cell->W + (first * lanes * I + column) * real_size, width);
                for (size_t n = 0; n < units; n++)
                    add_bias(real_size, weights->bias_ih, weights->bias_hh, row + n, cell->bias, place + n);
            }
        }
    }
}

static void pack_biases(const fl_stack *stack, const fl_packed_cell *cell, const fl_weights *weights)
{
    const size_t rows = stack->sizes.gates * stack->sizes.H, real_size = stack->real_size;
    const bool splits = fl_splits(stack);
    if (stack->path != FL_PATH_ROWS) {
        pack_bias(&stack->layout, real_size, weights->bias_ih, splits ? NULL : weights->bias_hh, cell->bias);
        if (splits)
            pack_bias(&stack->layout, real_size, weights->bias_hh, NULL, cell->bias_h);
    } else if (stack->shape.cell.layer_norm != FL_LAYER_NORM_NONE) {
        add_biases(real_size, rows, weights->bias_ih, weights->bias_hh, (void *)(uintptr_t)cell->cell.bias);
    } else {
        add_biases(real_size, rows, weights->bias_ih, splits ? NULL : weights->bias_hh, cell->bias);
        if (splits)
            add_biases(real_size, rows, weights->bias_hh, NULL, cell->bias_h);
    }
}

static void copy_if(const void *from, size_t elements, size_t real_size, const void *to)
{
    if (from != NULL)
        memcpy((void *)(uintptr_t)to, from, elements * real_size);
}

fl_status fl_stack_pack(fl_stack *stack, size_t layer, size_t direction, const fl_weights *weights)
{
    if (stack == NULL || weights == NULL || layer >= stack->shape.num_layers ||
        direction >= stack->shape.num_directions || !fl_parameters_are_complete(stack, weights, NULL))
        return FL_ERROR_ARGUMENT;
    const fl_packed_cell *cell = fl_cell_of(stack, layer, direction);
    const fl_cell_options *o = &stack->shape.cell;
    const size_t H = stack->sizes.H, P = stack->sizes.P, rows = stack->sizes.gates * H, real_size = stack->real_size;
    if (stack->path == FL_PATH_ROWS) {
        pack_rows(stack, cell, weights);
    } else if (stack->path == FL_PATH_SCAN) {
        pack_scan(stack, cell, weights);
    } else {
        pack_matrix(&stack->layout, real_size, cell->I, weights->weight_ih, cell->W);
        pack_matrix(&stack->layout, real_size, P, weights->weight_hh, cell->R);
    }
    if (stack->path != FL_PATH_SCAN)
        pack_biases(stack, cell, weights);
    if (o->proj_size != 0) {
        const fl_panels panels = fl_panels_of(P, stack->layout.lanes);
        pack_transposed(&panels, real_size, H, weights->weight_hr, cell->weight_hr);
        add_biases(real_size, P, weights->bias_hr, NULL, cell->bias_hr);
    }
    copy_if(o->peephole ? weights->weight_ch : NULL, stack->sizes.peepholes * H, real_size, cell->cell.weight_ch);
    copy_if(o->kind == FL_CELL_INDRNN ? weights->weight_hh : NULL, H, real_size, cell->cell.weight_hh);
    if (o->layer_norm != FL_LAYER_NORM_NONE)
        copy_if(weights->weight_ln_ih, rows, real_size, cell->cell.weight_ln_ih);
    if (o->layer_norm == FL_LAYER_NORM_HASTE) {
        copy_if(weights->weight_ln_hh, rows, real_size, cell->cell.weight_ln_hh);
        copy_if(weights->weight_ln_c, H, real_size, cell->cell.weight_ln_c);
        copy_if(weights->bias_ln_c, H, real_size, cell->cell.bias_ln_c);
    }
    return FL_OK;
}

void fl_pack_gate_panels(const fl_panels *panels, size_t real_size, size_t gates, size_t H, const void *source,
                         void *packed)
{
    const size_t N = panels->N, lanes = panels->lanes;
    char *to = packed;
    for (size_t p = 0; p < panels->count; p++) {
        const size_t first = fl_panel_first(panels, p) * lanes, end = fl_panel_first(panels, p + 1) * lanes;
        const size_t width = (end - first) * real_size, used = (end < N ? end - first : N - first) * real_size;
        for (size_t k = 0; k < H; k += FL_K_BLOCK) {
            const size_t stretch = H - k < FL_K_BLOCK ? H - k : FL_K_BLOCK;
            for (size_t gate = 0; gate < gates; gate++) {
                const char *from = (const char *)source + ((gate * H + k) * N + first) * real_size;
                for (size_t row = 0; row < stretch; row++, to += width, from += N * real_size) {
                    memcpy(to, from, used);
                    memset(to + used, 0, width - used);
                }
            }
        }
    }
}

bool fl_workspace_grow(fl_workspace *workspace, size_t bytes)
{
    if (workspace->memory != NULL && workspace->bytes >= bytes)
        return true;
    void *memory = fl_allocate(bytes);
    if (memory == NULL)
        return false;
    fl_release(workspace->memory);
    workspace->memory = memory;
    workspace->bytes = bytes;
    return true;
}

fl_workspace *fl_workspace_take(const fl_stack *stack, size_t bytes)
{
    fl_workspace *workspace = atomic_exchange(stack->spare, NULL);
    if (workspace == NULL)
        workspace = calloc(1, sizeof *workspace);
    if (workspace != NULL && !fl_workspace_grow(workspace, bytes)) {
        workspace_free(workspace);
        return NULL;
    }
    return workspace;
}

void fl_workspace_return(const fl_stack *stack, fl_workspace *workspace)
{
    workspace_free(atomic_exchange(stack->spare, workspace));
}
