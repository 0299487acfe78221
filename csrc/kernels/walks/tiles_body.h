/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernels that walk tiles over rows, hidden blocks and time.  With many rows the blocks go outside, so that a
 * panel of weights stays in the nearest cache for all rows; with one to three rows several blocks stand beside each
 * other in one tile, so that enough independent chains are in flight.
 */
#ifndef FL_STEPS_BODY_H
#define FL_STEPS_BODY_H

/* `blocks` blocks cut into as few tiles of at most `most` as possible, of sizes as equal as possible. */
typedef struct tile_cut {
    size_t tiles, size, larger; /* the first `larger` tiles have size + 1 blocks */
} tile_cut;

FL_INLINE tile_cut cut_blocks(size_t blocks, size_t most)
{
    tile_cut cut;
    cut.tiles = (blocks + most - 1) / most;
    cut.size = cut.tiles != 0 ? blocks / cut.tiles : 0;
    cut.larger = blocks - cut.tiles * cut.size;
    return cut;
}

FL_INLINE size_t cut_begin(const tile_cut *cut, size_t tile)
{
    return tile * cut->size + (tile < cut->larger ? tile : cut->larger);
}

/* The range of blocks of a call: full ones, and whether the packed tail is among them. */
typedef struct block_range {
    size_t begin, full_end;
    size_t tail_vectors;
    size_t most; /* full blocks in a tile of one row */
} block_range;

/* Nearest cache, between the 32 and 48 KiB of current cores: decides nothing but speed. */
#define L1_BYTES ((size_t)40 << 10)

FL_INLINE block_range range_of(const fl_steps *s)
{
    const size_t full = s->layout.full_blocks;
    block_range range;
    range.begin = s->block_begin;
    range.full_end = s->block_end < full ? s->block_end : full;
    range.tail_vectors = s->block_end > full ? s->layout.tail_vectors : 0;
    /* Weights somewhat larger than the cache: smaller tiles, of which the last one is still there when the next step
     * begins with it. */
    const size_t panel = fl_panel_stride(&s->layout, s->layout.H) * sizeof(real);
    const bool keeps = panel * (range.full_end - range.begin) > L1_BYTES && 2 * panel <= L1_BYTES + L1_BYTES / 4;
    range.most = keeps ? 2 : MAX_BLOCKS_1;
    return range;
}

#if MAX_BLOCKS_1 >= 4
#define FULL_TILES(TILE) TILE(1, 0) TILE(2, 0) TILE(3, 0) TILE(4, 0)
#define TAIL_TILES(TILE) \
    TILE(0, 1) TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(0, 2) TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2)
#else
#define FULL_TILES(TILE) TILE(1, 0) TILE(2, 0) TILE(3, 0)
#define TAIL_TILES(TILE) TILE(0, 1) TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(0, 2) TILE(1, 2) TILE(2, 2) TILE(3, 2)
#endif

/* A tile of one row at block j: `blocks` full ones and `tail` vectors of the packed one. */
FL_INLINE void one_row_called(const fl_steps *s, const step_view *at, size_t j, size_t blocks, size_t tail, const int V,
                              finish_tile *finish)
{
#define TILE(NB, NT) \
    case 8 * (NT) + (NB): tile_of_rows(s, at, 0, j, V, 1, (NB), (NT), finish); break;
    switch (8 * tail + blocks) {
        FULL_TILES(TILE)
        TAIL_TILES(TILE)
    default: break;
    }
#undef TILE
}

/* Not inlined where cells share it. */
static __attribute__((noinline)) void one_row_called_4(const fl_steps *s, const step_view *at, size_t j, size_t blocks,
                                                       size_t tail, finish_tile *finish)
{
    one_row_called(s, at, j, blocks, tail, 4, finish);
}

/* The same with the cell in each tile; of the LSTM with peepholes, in the full ones alone, as code is large. */
FL_INLINE void one_row_inlined(const fl_steps *s, const step_view *at, size_t j, size_t blocks, size_t tail,
                               finish_block *finish, bool is_plain)
{
#define TILE(NB, NT) \
    case 8 * (NT) + (NB): tile_of_one(s, at, j, (NB), (NT), !is_plain, finish); break;
    if (tail == 0) {
        switch (blocks) {
            FULL_TILES(TILE)
        default: break;
        }
    } else if (is_plain) {
        switch (8 * tail + blocks) {
            TAIL_TILES(TILE)
        default: break;
        }
    }
#undef TILE
}

/* One row: several full blocks beside each other; the packed tail joins the last of them, because alone it would be one
 * or two chains and all latency.  `inlined` may be null. */
FL_INLINE void walk_one_row(const fl_steps *s, const step_view *at, const block_range *range, bool down, const int V,
                            finish_block *inlined, bool is_plain, finish_tile *finish)
{
    tile_cut cut = cut_blocks(range->full_end - range->begin, range->most);
    cut.tiles += cut.tiles == 0; /* the tail alone */
    for (size_t n = 0; n < cut.tiles; n++) {
        const size_t tile = down ? cut.tiles - 1 - n : n;
        const size_t begin = cut_begin(&cut, tile), blocks = cut_begin(&cut, tile + 1) - begin;
        const size_t tail = tile + 1 == cut.tiles ? range->tail_vectors : 0;
        const size_t j = range->begin + begin;
        if (inlined && (is_plain || tail == 0))
            one_row_inlined(s, at, j, blocks, tail, inlined, is_plain);
        else if (V == 4)
            one_row_called_4(s, at, j, blocks, tail, finish);
        else
            one_row_called(s, at, j, blocks, tail, V, finish);
    }
}

/* Full blocks of two or three rows, several blocks a tile. */
FL_INLINE void walk_few_rows(const fl_steps *s, const step_view *at, const block_range *range, bool down, const int V,
                             finish_tile *finish)
{
    const tile_cut cut = cut_blocks(range->full_end - range->begin, s->B == 2 ? MAX_BLOCKS_2 : MAX_BLOCKS_3);
    for (size_t n = 0; n < cut.tiles; n++) {
        const size_t tile = down ? cut.tiles - 1 - n : n;
        const size_t begin = cut_begin(&cut, tile), blocks = cut_begin(&cut, tile + 1) - begin;
        const size_t j = range->begin + begin;
#define TILE(NR, NB) \
    case 8 * (NR) + (NB): tile_of_rows(s, at, 0, j, V, (NR), (NB), 0, finish); break
        switch (8 * s->B + blocks) {
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
#undef TILE
    }
}

/* Ask for what the end of a tile saves before its product begins: memory from the last cache or beyond.  Into L2, because
 * the product's own stream passes through L1. */
static __attribute__((noinline)) void prepare_tile(const fl_steps *s, const step_view *at, size_t position, size_t rows,
                                                   size_t j)
{
    const size_t unit = j * s->layout.units;
    for (size_t r = position; r < position + rows; r++) {
        const size_t b = row_at(s, r);
        const ptrdiff_t place = place_of(s->saved_at, b);
        __builtin_prefetch(at->y + place_of(s->y_at, b) * s->y_stride_b + unit, 0, 2);
        if (at->saved_c)
            __builtin_prefetch(at->saved_c + place * s->saved_c_stride_b + unit, 0, 2);
        if (at->saved_gates)
            for (size_t part = 0; part < s->saved_parts; part++)
                __builtin_prefetch(at->saved_gates + place * s->saved_gates_stride_b + part * s->layout.H + unit, 0, 2);
    }
}

/* All rows of one block. */
FL_INLINE void walk_block(const fl_steps *s, const step_view *at, size_t j, const int V, finish_tile *finish)
{
#define TILE(NR, NB, NT) tile_of_rows(s, at, position, j, V, NR, NB, NT, finish)
    for (size_t position = 0, rows; position < s->B; position += rows) {
        rows = next_tile_rows(s->B - position);
        if (s->saves_far)
            prepare_tile(s, at, position, rows, j);
        TILE_OF_BLOCK(TILE, rows, s->layout, j)
    }
#undef TILE
}

/* All rows of one step, block by block.  Not inlined where cells share it. */
FL_INLINE void walk_rows(const fl_steps *s, const step_view *at, const block_range *range, bool down, const int V,
                         finish_tile *finish)
{
    const size_t end = range->full_end + (range->tail_vectors != 0);
    if (s->B == 2 || s->B == 3) {
        walk_few_rows(s, at, range, down, V, finish);
        if (range->tail_vectors != 0)
            walk_block(s, at, range->full_end, V, finish);
        return;
    }
    for (size_t n = range->begin; n < end; n++) walk_block(s, at, down ? end - 1 - (n - range->begin) : n, V, finish);
}

static __attribute__((noinline)) void walk_rows_4(const fl_steps *s, const step_view *at, const block_range *range,
                                                  bool down, finish_tile *finish)
{
    walk_rows(s, at, range, down, 4, finish);
}

/* Every other step walks the blocks downwards: what the last step left in the nearest cache comes first then, where
 * walking round and round would find nothing of a matrix that is larger than the cache. */
FL_INLINE void walk_steps(const fl_steps *s, const int V, finish_block *inlined, bool is_plain, finish_tile *finish)
{
    const block_range range = range_of(s);
    step_view at = {s->pre, s->x, s->h, s->x_index, s->y, s->h_stride_b, NULL, s->saved_c, s->saved_gates};
    for (size_t t = 0; t < s->T; t++) {
        const bool down = (s->turn + t) % 2 != 0;
        if (s->B == 1)
            walk_one_row(s, &at, &range, down, V, inlined, is_plain, finish);
        else if (V == 4)
            walk_rows_4(s, &at, &range, down, finish);
        else
            walk_rows(s, &at, &range, down, V, finish);
        at.h = at.y;
        at.h_stride_b = s->y_stride_b;
        at.h_at = s->y_at;
        at.y += s->y_stride_t;
        if (at.saved_c)
            at.saved_c += s->saved_c_stride_t;
        if (at.saved_gates)
            at.saved_gates += s->saved_gates_stride_t;
        if (at.pre)
            at.pre += s->pre_stride_t;
        else if (at.x)
            at.x += s->x_stride_t;
        else if (at.x_index)
            at.x_index += s->x_stride_t;
    }
}

static void lstm_steps(const fl_steps *s) { walk_steps(s, 4, lstm_finish, true, lstm_finish_tile); }

/* ---- Other cells: the end of a tile is called ------------------------------------------------------------- */

/* Where the cell of row `position` finds its data. */
FL_INLINE unit_row tile_row(const fl_steps *s, const step_view *at, size_t position)
{
    const size_t b = row_at(s, position), H = s->layout.H;
    unit_row row;
    row.h_before = at->h + place_of(at->h_at, b) * at->h_stride_b;
    row.c = s->c ? (real *)s->c + (ptrdiff_t)b * s->c_stride_b : NULL;
    row.h = s->out ? (real *)s->out + position * H : at->y + place_of(s->y_at, b) * s->y_stride_b;
    row.zoned_c = s->zoned_c ? (const real *)s->zoned_c + position * H : NULL;
    row.zoned_h = s->zoned_h ? (const real *)s->zoned_h + position * H : NULL;
    row.saved = at->saved_gates ? at->saved_gates + place_of(s->saved_at, b) * s->saved_gates_stride_b : NULL;
    return row;
}

/* The cell on a stored tile of V vectors a block, three of which come with a part of the state. */
#define FINISH_TILE(CELL, V)                                                                                         \
    static __attribute__((noinline)) void CELL##_finish_##V(const fl_steps *s, const step_view *at, size_t position, \
                                                            size_t j, const tile_store *store, size_t NR, size_t NB, \
                                                            size_t NT)                                               \
    {                                                                                                                \
        for (size_t r = 0; r < NR; r++) {                                                                            \
            const unit_row row = tile_row(s, at, position + r);                                                      \
            const ptrdiff_t place = place_of(s->saved_at, row_at(s, position + r));                                  \
            real *saved_c = at->saved_c ? at->saved_c + place * s->saved_c_stride_b : NULL;                          \
            for (size_t b = 0; b < NB + (NT != 0); b++) {                                                            \
                const size_t unit = (j + b) * VF_LANES, lanes = block_lanes(&s->layout, j + b);                      \
                vf x[4], h[4];                                                                                       \
                stored_gates(x, store->vectors, r, b, (V), NB, NT);                                                  \
                if ((V) == 3)                                                                                        \
                    stored_gates(h, store->states, r, b, (V), NB, NT);                                               \
                CELL##_unit(s->cell, &row, unit, lanes, x, (V) == 3 ? h : NULL);                                     \
                if (saved_c)                                                                                         \
                    store_lanes(saved_c + unit, load_lanes(row.c + unit, lanes), lanes);                             \
            }                                                                                                        \
        }                                                                                                            \
    }
FINISH_TILE(lstm, 4)
FINISH_TILE(lstm_peephole, 4)
FINISH_TILE(lstm, 3)
FINISH_TILE(gru, 3)
#undef FINISH_TILE

/* One gate: a block is four vectors of units, the packed tail one or two. */
static __attribute__((noinline)) void rnn_finish(const fl_steps *s, const step_view *at, size_t position, size_t j,
                                                 const tile_store *store, size_t NR, size_t NB, size_t NT)
{
    for (size_t r = 0; r < NR; r++) {
        const unit_row row = tile_row(s, at, position + r);
        const real(*vectors)[VF_LANES] = store->vectors + r * (4 * NB + NT);
        for (size_t v = 0; v < 4 * NB + NT; v++) {
            const size_t unit = j * s->layout.units + v * VF_LANES, H = s->layout.H;
            if (unit >= H)
                break;
            const vf gate = vf_load(vectors[v]);
            rnn_unit(s->cell, &row, unit, H - unit < VF_LANES ? H - unit : VF_LANES, &gate, NULL);
        }
    }
}

/* The LSTM with peepholes, for one row in the registers. */
FL_INLINE void lstm_peephole_finish(const fl_steps *s, const step_view *at, size_t position, size_t block,
                                    const vf gate[4])
{
    const size_t unit = block * VF_LANES, lanes = block_lanes(&s->layout, block);
    const unit_row row = tile_row(s, at, position);
    lstm_peephole_unit(s->cell, &row, unit, lanes, gate, NULL);
    if (at->saved_c)
        store_lanes(at->saved_c + place_of(s->saved_at, row_at(s, position)) * s->saved_c_stride_b + unit,
                    load_lanes(row.c + unit, lanes), lanes);
}

static void cell_steps(const fl_steps *s)
{
    if (s->cell->sizes.keeps_gates) {
        walk_steps(s, 4, lstm_peephole_finish, false, lstm_peephole_finish_4);
        return;
    }
    if (s->layout.vectors == 3)
        walk_steps(s, 3, NULL, false, s->cell->options.kind == FL_CELL_GRU ? gru_finish_3 : lstm_finish_3);
    else
        walk_steps(s, 4, NULL, false, s->cell->options.kind == FL_CELL_RNN ? rnn_finish : lstm_finish_4);
}

/* No cell: the gates themselves, as (B, 4H). */
FL_INLINE void gates_finish(const fl_steps *s, const step_view *at, size_t position, size_t block, const vf gate[4])
{
    real *gates = at->y + (ptrdiff_t)row_at(s, position) * s->y_stride_b + block * VF_LANES;
    for (size_t n = 0; n < 4; n++) store_lanes(gates + n * s->layout.H, gate[n], block_lanes(&s->layout, block));
}

static __attribute__((noinline)) void gates_finish_tile(const fl_steps *s, const step_view *at, size_t position,
                                                        size_t j, const tile_store *store, size_t NR, size_t NB,
                                                        size_t NT)
{
    finish_stored(s, at, position, j, store, NR, NB, NT, gates_finish);
}

static void gate_matmul(const fl_steps *s)
{
    const step_view at = {s->pre, s->x, s->h, s->x_index, s->y, s->h_stride_b, NULL, s->saved_c, s->saved_gates};
    const block_range range = range_of(s);
    walk_rows_4(s, &at, &range, false, gates_finish_tile);
}

/* pre = bias + x W for NR rows and one block of V vectors. */
FL_INLINE void product_tile(const fl_product *p, size_t m, size_t j, const int V, const int NR, const int NB,
                            const int NT)
{
    const int NV = V * NB + NT;
    const size_t offset = fl_block_offset(&p->layout, j);
    const real *bias = (const real *)p->bias + offset;
    const real *row[MAX_ROWS];
    vf acc[MAX_ACCUMULATORS];
    FL_UNROLL_FOR (int v = 0; v < NV; v++) {
        const vf b = vf_load(bias + (size_t)v * VF_LANES);
        FL_UNROLL_FOR (int r = 0; r < NR; r++) acc[r * NV + v] = b;
    }
    FL_UNROLL_FOR (int r = 0; r < NR; r++) row[r] = (const real *)p->x + p->x_offsets[m + (size_t)r];
    const size_t panel = fl_panel_stride(&p->layout, p->I);
    accumulate(acc, V, NR, NB, NT, row, p->I, (const real *)p->W + j * panel, panel);
    FL_UNROLL_FOR (int r = 0; r < NR; r++) {
        real *pre = (real *)p->pre + (ptrdiff_t)(m + (size_t)r) * p->pre_stride_row + offset;
        FL_UNROLL_FOR (int v = 0; v < NV; v++) vf_store(pre + (size_t)v * VF_LANES, acc[r * NV + v]);
    }
}

FL_INLINE void walk_input_product(const fl_product *p, const int V)
{
#define TILE(NR, NB, NT) product_tile(p, m, j, V, NR, NB, NT)
    for (size_t j = p->block_begin; j < p->block_end; j++) {
        for (size_t m = 0, rows; m < p->rows; m += rows) {
            rows = next_tile_rows(p->rows - m);
            TILE_OF_BLOCK(TILE, rows, p->layout, j)
        }
    }
#undef TILE
}

static void input_product(const fl_product *p)
{
    if (p->layout.vectors == 3)
        walk_input_product(p, 3);
    else
        walk_input_product(p, 4);
}

#endif
