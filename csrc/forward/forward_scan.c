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

/* Pointers to all rows, step after step. */
static void point_at_block(const part *p, const fl_steps *s, const scan_block *block)
{
    const size_t real_size = p->call->stack->real_size;
    const ptrdiff_t y_step = s->y_rows.stride_t * (ptrdiff_t)real_size;
    const ptrdiff_t saved_step = s->saved_gates_rows.stride_t * (ptrdiff_t)real_size;
    const scan_rows *rows = &p->scratch.scan;
    int64_t *index = (int64_t *)(void *)rows->x;
    for (size_t n = 0; n < block->rows; n++) {
        const size_t b = batch_row(s, block->row + n);
        ptrdiff_t x_place = (ptrdiff_t)block->t * s->x_rows.stride_t + fl_row_offset(&s->x_rows, b);
        char *y = fl_row(s->y, &s->y_rows, block->t, b, real_size), *saved = NULL;
        const char *h = block->t == 0 ? fl_row_const(s->h, &s->h_rows, 0, b, real_size) : y - y_step;
        if (s->saved_gates != NULL)
            saved = fl_row(s->saved_gates, &s->saved_gates_rows, block->t, b, real_size);
        for (size_t m = n; m < block->steps * block->rows; m += block->rows) {
            if (s->x_index != NULL)
                index[m] = s->x_index[x_place];
            else
                rows->x[m] = fl_moved_const(s->x, x_place, real_size);
            rows->h_before[m] = h;
            rows->y[m] = y;
            rows->saved[m] = saved;
            h = y;
            x_place += s->x_rows.stride_t;
            y += y_step;
            if (saved != NULL)
                saved += saved_step;
        }
    }
}

void fl_forward_scan(part *p, const fl_steps *s)
{
    const call *c = p->call;
    const fl_stack *stack = c->stack;
    const scan_rows *rows = &p->scratch.scan;
    const bool is_index = s->x_index != NULL;
    fl_scan scan = {.cell = s->cell,
                    .panels = fl_unit_panels_of(stack->sizes.H, stack->sizes.gates, stack->layout.lanes),
                    .I = s->I,
                    .W = s->W,
                    .bias = s->bias,
                    .x = is_index ? NULL : rows->x,
                    .x_index = is_index ? (const int64_t *)(const void *)rows->x : NULL,
                    .h_before = rows->h_before,
                    .y = rows->y,
                    .saved = s->saved_gates != NULL ? rows->saved : NULL,
                    .totals = rows->totals};
    scan_block block;
    for (block.row = 0; block.row < s->B; block.row += block.rows) {
        const size_t rest = s->B - block.row, most = c->memory.hoisted_rows;
        block.rows = rest < most ? rest : most;
        for (block.t = 0; block.t < s->T; block.t += block.steps) {
            const size_t left = s->T - block.t, steps = most / block.rows;
            block.steps = left < steps ? left : steps;
            point_at_block(p, s, &block);
            scan.rows = block.rows * block.steps;
            scan.apart = block.rows;
            stack->kernels->scan(&scan);
        }
    }
}
