/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernels/work.h"

fl_row_scratch fl_row_scratch_take(fl_arena *arena, const fl_cell_sizes *sizes, size_t products, size_t rows,
                                   size_t lanes, size_t real_size, bool backward)
{
    const size_t H = sizes->H, P = sizes->P;
    fl_row_scratch scratch = {0};
    scratch.totals = fl_arena_take(arena, products + 8, 4 * lanes, real_size);
    scratch.a = fl_arena_take(arena, products, sizeof(int64_t), 1);
    scratch.out = fl_arena_take(arena, products, sizeof(int64_t), 1);
    scratch.states = fl_arena_take(arena, rows * sizes->gates, H, real_size);
    scratch.hidden = fl_arena_take(arena, rows, H, real_size);
    scratch.masked = fl_arena_take(arena, rows, P, real_size);
    if (backward) {
        scratch.bypass = fl_arena_take(arena, rows, H, real_size);
        scratch.carried = fl_arena_take(arena, rows, P, real_size);
        scratch.norm = fl_arena_take(arena, FL_NORM_SCRATCH, H, real_size);
    }
    return scratch;
}
