/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernels that walk tiles over rows, hidden blocks and time.  With many rows the blocks go outside, so that a
 * panel of weights stays in the nearest cache for all rows; with one to three rows several blocks stand beside each
 * other in one tile, so that enough independent chains are in flight.
 */
#ifndef FL_STEPS_BODY_H
#define FL_STEPS_BODY_H

/* Of `full` blocks that go `most` at a time: how many now, so that all tiles are of similar size. */
FL_INLINE size_t next_tile_blocks(size_t full, size_t most)
{
    const size_t tiles = (full + most - 1) / most;
    return (full + tiles - 1) / tiles;
}

/* One row: NB full blocks beside each other; the packed tail joins the last of them, because alone it would be one or
 * two chains and all latency. */
static void lstm_one_row(const fl_steps *s, const step_view *at)
{
    const size_t blocks = s->layout.full_blocks;
    const size_t full_end = s->block_end < blocks ? s->block_end : blocks;
    size_t j = s->block_begin;
    while (j < s->block_end) {
        const size_t full = full_end - j;
        const size_t now = full > MAX_BLOCKS_1 ? next_tile_blocks(full, MAX_BLOCKS_1) : full;
        const size_t tail = now == full && s->block_end > full_end ? s->layout.tail_vectors : 0;
#define TILE(NB, NT)                                  \
    case 8 * (NT) + (NB):                             \
        lstm_tile(s, at, 0, j, 1, (NB), (NT)); \
        break
        switch (8 * tail + now) {
            TILE(1, 0);
            TILE(2, 0);
            TILE(3, 0);
            TILE(0, 1);
            TILE(1, 1);
            TILE(2, 1);
            TILE(3, 1);
            TILE(0, 2);
            TILE(1, 2);
            TILE(2, 2);
            TILE(3, 2);
#if MAX_BLOCKS_1 >= 4
            TILE(4, 0);
            TILE(4, 1);
            TILE(4, 2);
#endif
        default: break;
        }
#undef TILE
        j += now + (tail != 0);
    }
}

/* Full blocks of two or three rows, several blocks a tile. */
static void lstm_few_rows(const fl_steps *s, const step_view *at, size_t j, size_t full_end)
{
#define TILE(NR, NB)                                       \
    case 8 * (NR) + (NB):                                  \
        lstm_tile(s, at, 0, j, (NR), (NB), 0); \
        break
    const size_t rows = s->B;
    const size_t most = rows == 2 ? MAX_BLOCKS_2 : MAX_BLOCKS_3;
    while (j < full_end) {
        const size_t now = next_tile_blocks(full_end - j, most);
        switch (8 * rows + now) {
            TILE(2, 1);
            TILE(3, 1);
#if MAX_BLOCKS_2 >= 3
            TILE(2, 2);
            TILE(2, 3);
#endif
#if MAX_BLOCKS_3 >= 2
            TILE(3, 2);
#endif
        default: break;
        }
        j += now;
    }
#undef TILE
}

/* All rows, one block after the other. */
static void lstm_many_rows(const fl_steps *s, const step_view *at, size_t j, size_t full_end)
{
#define TILE(NR, NB, NT) lstm_tile(s, at, position, j, NR, NB, NT)
    for (; j < s->block_end; j++) {
        for (size_t position = 0, rows; position < s->B; position += rows) {
            rows = next_tile_rows(s->B - position);
            if (j < full_end)
                TILE_OF_ROWS(TILE, rows, 1, 0)
            else if (s->layout.tail_vectors == 2)
                TILE_OF_ROWS(TILE, rows, 0, 2)
            else
                TILE_OF_ROWS(TILE, rows, 0, 1)
        }
    }
#undef TILE
}

static void lstm_steps(const fl_steps *s)
{
    const size_t rows = s->B;
    const size_t blocks = s->layout.full_blocks;
    const size_t full_end = s->block_end < blocks ? s->block_end : blocks;
    step_view at = {s->pre, s->x, s->h, s->x_index, s->y, s->h_stride_b};
    for (size_t t = 0; t < s->T; t++) {
        if (rows == 1) {
            lstm_one_row(s, &at);
        } else if (rows <= 3) {
            lstm_few_rows(s, &at, s->block_begin, full_end);
            if (s->block_end > full_end)
                lstm_many_rows(s, &at, full_end, full_end);
        } else {
            lstm_many_rows(s, &at, s->block_begin, full_end);
        }
        at.h = at.y;
        at.h_stride_b = s->y_stride_b;
        at.y += s->y_stride_t;
        if (at.pre)
            at.pre += s->pre_stride_t;
        else if (at.x)
            at.x += s->x_stride_t;
        else if (at.x_index)
            at.x_index += s->x_stride_t;
    }
}

static void gate_matmul(const fl_steps *s)
{
    const step_view at = {s->pre, s->x, s->h, s->x_index, s->y, s->h_stride_b};
#define TILE(NR, NB, NT) gates_tile(s, &at, position, j, NR, NB, NT)
    for (size_t j = s->block_begin; j < s->block_end; j++) {
        for (size_t position = 0, rows; position < s->B; position += rows) {
            rows = next_tile_rows(s->B - position);
            if (j < s->layout.full_blocks)
                TILE_OF_ROWS(TILE, rows, 1, 0)
            else if (s->layout.tail_vectors == 2)
                TILE_OF_ROWS(TILE, rows, 0, 2)
            else
                TILE_OF_ROWS(TILE, rows, 0, 1)
        }
    }
#undef TILE
}

/* pre = bias + x W for NR rows and one block. */
FL_INLINE void product_tile(const fl_product *p, size_t m, size_t j, const int NR, const int NB, const int NT)
{
    const int NV = 4 * NB + NT;
    const size_t offset = fl_block_offset(&p->layout, j);
    const real *bias = (const real *)p->bias + offset;
    const real *row[MAX_ROWS];
    vf acc[MAX_ACCUMULATORS];
    FL_UNROLL for (int v = 0; v < NV; v++)
    {
        const vf b = vf_load(bias + (size_t)v * VF_LANES);
        FL_UNROLL for (int r = 0; r < NR; r++) acc[r * NV + v] = b;
    }
    FL_UNROLL for (int r = 0; r < NR; r++) row[r] = (const real *)p->x + p->x_offsets[m + (size_t)r];
    accumulate(acc, NR, NB, NT, row, p->I, (const real *)p->W + offset * p->I);
    FL_UNROLL for (int r = 0; r < NR; r++)
    {
        real *pre = (real *)p->pre + (ptrdiff_t)(m + (size_t)r) * p->pre_stride_row + offset;
        FL_UNROLL for (int v = 0; v < NV; v++) vf_store(pre + (size_t)v * VF_LANES, acc[r * NV + v]);
    }
}

static void input_product(const fl_product *p)
{
#define TILE(NR, NB, NT) product_tile(p, m, j, NR, NB, NT)
    for (size_t j = p->block_begin; j < p->block_end; j++) {
        for (size_t m = 0, rows; m < p->rows; m += rows) {
            rows = next_tile_rows(p->rows - m);
            if (j < p->layout.full_blocks)
                TILE_OF_ROWS(TILE, rows, 1, 0)
            else if (p->layout.tail_vectors == 2)
                TILE_OF_ROWS(TILE, rows, 0, 2)
            else
                TILE_OF_ROWS(TILE, rows, 0, 1)
        }
    }
#undef TILE
}

#endif
