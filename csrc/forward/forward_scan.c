/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Cells without a recurrent product: the steps of a run in blocks of rows, whose input product ends in the cell.
 */
#include "forward/forward_call.h"

/* Some rows and steps of a run. */
typedef struct scan_block {
    size_t row, rows; /* positions */
    size_t t, steps;
} scan_block;

/* Pointers to all rows, step after step; h before the run is in h_state. */
static void point_at_block(const part *p, const fl_steps *s, const scan_block *block, const char *h_state,
                           const fl_scan_rows *rows)
{
    const fl_stack *stack = p->call->stack;
    const ptrdiff_t real_size = (ptrdiff_t)stack->real_size, first = (ptrdiff_t)block->t;
    const ptrdiff_t y_step = s->y_stride_t * real_size, saved_step = s->saved_gates_stride_t * real_size;
    int64_t *index = (int64_t *)(void *)rows->x;
    for (size_t n = 0; n < block->rows; n++) {
        const size_t position = block->row + n, b = s->rows != NULL ? s->rows[position] : position;
        const ptrdiff_t x_row = s->x_at != NULL ? s->x_at[b] : (ptrdiff_t)b;
        const ptrdiff_t y_row = s->y_at != NULL ? s->y_at[b] : (ptrdiff_t)b;
        ptrdiff_t x_place = first * s->x_stride_t + x_row * s->x_stride_b;
        char *y = (char *)s->y + y_row * s->y_stride_b * real_size + first * y_step, *saved = NULL;
        const char *h = block->t == 0 ? h_state + b * stack->sizes.P * stack->real_size : y - y_step;
        const ptrdiff_t saved_row = s->saved_at != NULL ? s->saved_at[b] : (ptrdiff_t)b;
        if (s->saved_gates != NULL)
            saved = (char *)s->saved_gates + saved_row * s->saved_gates_stride_b * real_size + first * saved_step;
        for (size_t m = n; m < block->steps * block->rows; m += block->rows) {
            if (s->x_index != NULL)
                index[m] = s->x_index[x_place];
            else
                rows->x[m] = (const char *)s->x + x_place * real_size;
            rows->h_before[m] = h;
            rows->y[m] = y;
            rows->saved[m] = saved;
            h = y;
            x_place += s->x_stride_t;
            y += y_step;
            if (saved != NULL)
                saved += saved_step;
        }
    }
}

void fl_forward_scan(part *p, const fl_steps *s, const char *h_state)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const fl_scan_rows rows = fl_scan_rows_of(c->row_scratch + p->thread * c->row_scratch_bytes, c->hoisted_rows);
    const bool is_index = s->x_index != NULL;
    fl_scan scan = {.cell = s->cell,
                    .panels = fl_unit_panels_of(stack->sizes.H, stack->sizes.gates, stack->layout.lanes),
                    .I = s->I,
                    .W = s->W,
                    .bias = s->bias,
                    .x = is_index ? NULL : rows.x,
                    .x_index = is_index ? (const int64_t *)(const void *)rows.x : NULL,
                    .h_before = rows.h_before,
                    .y = rows.y,
                    .saved = s->saved_gates != NULL ? rows.saved : NULL,
                    .totals = rows.totals};
    scan_block block;
    for (block.row = 0; block.row < s->B; block.row += block.rows) {
        const size_t rest = s->B - block.row, most = c->hoisted_rows;
        block.rows = rest < most ? rest : most;
        for (block.t = 0; block.t < s->T; block.t += block.steps) {
            const size_t left = s->T - block.t, steps = most / block.rows;
            block.steps = left < steps ? left : steps;
            point_at_block(p, s, &block, h_state, &rows);
            scan.rows = block.rows * block.steps;
            scan.apart = block.rows;
            stack->kernels->scan(&scan);
        }
    }
}
