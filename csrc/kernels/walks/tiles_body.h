/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernels that walk tiles over rows, hidden blocks and time.  With many rows the blocks go outside, so that a
 * panel of weights stays in the nearest cache for all rows; with one to three rows several blocks stand beside each
 * other in one tile, so that enough independent chains are in flight.
 */
#ifndef FL_TILES_BODY_H
#define FL_TILES_BODY_H
#include "kernels/cells/lstm_body.h"
#include "kernels/walks/tile_body.h"

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

FL_INLINE size_t cut_begin(const tile_cut *cut, size_t n)
{
    return n * cut->size + (n < cut->larger ? n : cut->larger);
}

/* How a cell's tiles end. */
typedef struct tile_end {
    int V;                 /* vectors of a block */
    finish_tile *finish;   /* a stored tile */
    finish_block *inlined; /* one row and block in registers; or null */
    bool spends_code;      /* it is inlined in packed tails, too, and both products have loops of their own */
} tile_end;

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
    const size_t panel = fl_panel_stride(&s->layout, s->layout.H) * sizeof(weight);
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

/* A tile of one row at block j: `blocks` full ones and `tail` vectors of the packed one; its cell is called. */
FL_INLINE void one_row_called(const fl_steps *s, const step_view *at, size_t j, size_t blocks, size_t tail, const int V,
                              finish_tile *finish)
{
#define TILE(NB, NT) \
    case 8 * (NT) + (NB): tile_of_rows(s, at, (tile){0, j, V, 1, (NB), (NT), 0}, finish); break;
    switch (8 * tail + blocks) {
        FULL_TILES(TILE)
        TAIL_TILES(TILE)
    default: break;
    }
#undef TILE
}

/* Cells of four vectors share the code of these tiles. */
static __attribute__((noinline)) void one_row_called_4(const fl_steps *s, const step_view *at, size_t j, size_t blocks,
                                                       size_t tail, finish_tile *finish)
{
    one_row_called(s, at, j, blocks, tail, 4, finish);
}

/* A tile of one row with its cell inlined. */
FL_INLINE void one_row_inlined(const fl_steps *s, const step_view *at, size_t j, size_t blocks, size_t tail,
                               const tile_end end)
{
#define TILE(NB, NT) \
    case 8 * (NT) + (NB): tile_of_one(s, at, (tile){0, j, 4, 1, (NB), (NT), 0}, !end.spends_code, end.inlined); break;
    if (tail == 0) {
        switch (blocks) {
            FULL_TILES(TILE)
        default: break;
        }
    } else if (end.spends_code) {
        switch (8 * tail + blocks) {
            TAIL_TILES(TILE)
        default: break;
        }
    }
#undef TILE
}

/* One row: several full blocks beside each other; the packed tail joins the last of them, because alone it would be one
 * or two chains and all latency. */
FL_INLINE void walk_one_row(const fl_steps *s, const step_view *at, const block_range *range, bool down,
                            const tile_end end)
{
    tile_cut cut = cut_blocks(range->full_end - range->begin, range->most);
    cut.tiles += cut.tiles == 0; /* the tail alone */
    for (size_t n = 0; n < cut.tiles; n++) {
        const size_t place = down ? cut.tiles - 1 - n : n;
        const size_t begin = cut_begin(&cut, place), blocks = cut_begin(&cut, place + 1) - begin;
        const size_t tail = place + 1 == cut.tiles ? range->tail_vectors : 0;
        const size_t j = range->begin + begin;
        if (end.inlined && (end.spends_code || tail == 0))
            one_row_inlined(s, at, j, blocks, tail, end);
        else if (end.V == 4)
            one_row_called_4(s, at, j, blocks, tail, end.finish);
        else
            one_row_called(s, at, j, blocks, tail, end.V, end.finish);
    }
}

/* Full blocks of two or three rows, several blocks a tile. */
FL_INLINE void walk_few_rows(const fl_steps *s, const step_view *at, const block_range *range, bool down, const int V,
                             finish_tile *finish)
{
    const tile_cut cut = cut_blocks(range->full_end - range->begin, s->B == 2 ? MAX_BLOCKS_2 : MAX_BLOCKS_3);
    for (size_t n = 0; n < cut.tiles; n++) {
        const size_t place = down ? cut.tiles - 1 - n : n;
        const size_t begin = cut_begin(&cut, place), blocks = cut_begin(&cut, place + 1) - begin;
        const size_t j = range->begin + begin;
#define TILE(NR, NB) \
    case 8 * (NR) + (NB): tile_of_rows(s, at, (tile){0, j, V, (NR), (NB), 0, 0}, finish); break
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
        __builtin_prefetch(at->y + fl_row_offset(&s->y_rows, b) + unit, 0, 2);
        if (at->saved_c)
            __builtin_prefetch(at->saved_c + fl_row_offset(&s->saved_c_rows, b) + unit, 0, 2);
        if (at->saved_gates)
            for (size_t part = 0; part < s->saved_parts; part++)
                __builtin_prefetch(at->saved_gates + fl_row_offset(&s->saved_gates_rows, b) + part * s->layout.H + unit,
                                   0, 2);
    }
}

/* All rows of one block. */
FL_INLINE void walk_block(const fl_steps *s, const step_view *at, size_t j, const int V, finish_tile *finish)
{
#define TILE(NR, NB, NT) tile_of_rows(s, at, (tile){position, j, V, NR, NB, NT, 0}, finish)
    for (size_t position = 0, rows; position < s->B; position += rows) {
        rows = next_tile_rows(s->B - position);
        if (s->saves_far)
            prepare_tile(s, at, position, rows, j);
        TILE_OF_BLOCK(TILE, rows, s->layout, j)
    }
#undef TILE
}

/* The same for a full block and FETCH_ROWS rows at least, whose tiles fetch weights on their way.  Functions of their own:
 * beside the other tiles the compiler runs out of registers in them. */
FL_INLINE void walk_block_fetching(const fl_steps *s, const step_view *at, size_t j, const int V, const int lines,
                                   finish_tile *finish)
{
#define TILE(NR) tile_of_rows(s, at, (tile){position, j, V, NR, 1, 0, lines}, finish)
    for (size_t position = 0, rows; position < s->B; position += rows) {
        rows = next_tile_rows(s->B - position);
        if (s->saves_far)
            prepare_tile(s, at, position, rows, j);
        if (lines == 1) {
            TILE_OF_MANY(TILE, rows);
        } else {
            TILE_OF_SEVERAL(TILE, rows);
        }
    }
#undef TILE
}

typedef void block_walk(const fl_steps *s, const step_view *at, size_t j, finish_tile *finish);

#define BLOCK_WALK(NAME, V, LINES)                                                                                    \
    static __attribute__((noinline)) void NAME(const fl_steps *s, const step_view *at, size_t j, finish_tile *finish) \
    {                                                                                                                 \
        walk_block_fetching(s, at, j, V, LINES, finish);                                                              \
    }

BLOCK_WALK(walk_block_fetching_one_3, 3, 1)
BLOCK_WALK(walk_block_fetching_one_4, 4, 1)
#ifdef FETCH_TWO_ROWS
BLOCK_WALK(walk_block_fetching_two_3, 3, 2)
BLOCK_WALK(walk_block_fetching_two_4, 4, 2)
BLOCK_WALK(walk_block_fetching_all_3, 3, PANEL_LINES(3))
BLOCK_WALK(walk_block_fetching_all_4, 4, PANEL_LINES(4))
#endif

/* The walk of a block of weights that lie far, or null where nothing is fetched. */
FL_INLINE block_walk *fetching_walk(const fl_steps *s, const int V)
{
    if (!s->weights_far || s->B < FETCH_ROWS)
        return NULL;
#ifdef FETCH_TWO_ROWS
    if (s->B < FETCH_TWO_ROWS)
        return V == 3 ? walk_block_fetching_all_3 : walk_block_fetching_all_4;
    if (s->B < FETCH_ONE_ROWS)
        return V == 3 ? walk_block_fetching_two_3 : walk_block_fetching_two_4;
#endif
    return V == 3 ? walk_block_fetching_one_3 : walk_block_fetching_one_4;
}

/* All rows of one step, block by block. */
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
    block_walk *const fetching = fetching_walk(s, V);
    step_view view = *at;
    view.after = down ? -1 : 1;
    for (size_t n = range->begin; n < end; n++) {
        const size_t j = down ? end - 1 - (n - range->begin) : n;
        if (fetching != NULL && n + 1 < end && j < range->full_end)
            fetching(s, &view, j, finish);
        else
            walk_block(s, &view, j, V, finish);
    }
}

/* Cells of four vectors share the code of these tiles. */
static __attribute__((noinline)) void walk_rows_4(const fl_steps *s, const step_view *at, const block_range *range,
                                                  bool down, finish_tile *finish)
{
    walk_rows(s, at, range, down, 4, finish);
}

/* Every other step walks the blocks downwards: what the last step left in the nearest cache comes first then, where
 * walking round and round would find nothing of a matrix that is larger than the cache. */
FL_INLINE void walk_steps(const fl_steps *s, const tile_end end)
{
    const block_range range = range_of(s);
    step_view at = first_step(s);
    for (size_t t = 0; t < s->T; t++, next_step(s, &at)) {
        const bool down = (s->turn + t) % 2 != 0;
        if (s->B == 1)
            walk_one_row(s, &at, &range, down, end);
        else if (end.V == 4)
            walk_rows_4(s, &at, &range, down, end.finish);
        else
            walk_rows(s, &at, &range, down, end.V, end.finish);
    }
}

/* ---- Where tiles meet cells ---------------------------------------------------------------------------------- */

/* Where the cell of row `position` finds its data.  With no options, a constant, there is c, and nothing between the cell
 * and y. */
FL_INLINE unit_row tile_row(const fl_steps *s, const step_view *at, size_t position, const bool has_options)
{
    const size_t b = row_at(s, position), H = s->layout.H;
    unit_row row = {.h_before = at->h + fl_row_offset(&at->h_rows, b)};
    if (!has_options || s->c)
        row.c = (real *)s->c + (ptrdiff_t)b * s->c_stride_b;
    if (has_options && s->out)
        row.h = (real *)s->out + position * H;
    else
        row.h = at->y + fl_row_offset(&s->y_rows, b);
    if (has_options && s->zoned_c)
        row.zoned_c = (const real *)s->zoned_c + position * H;
    if (has_options && s->zoned_h)
        row.zoned_h = (const real *)s->zoned_h + position * H;
    if (at->saved_gates)
        row.saved = at->saved_gates + fl_row_offset(&s->saved_gates_rows, b);
    if (!has_options && at->saved_c)
        row.saved_c = at->saved_c + fl_row_offset(&s->saved_c_rows, b);
    return row;
}

/* What a recorded pass keeps of c.  Not inlined: the common call has none of it. */
static __attribute__((noinline)) void save_c(const fl_steps *s, const step_view *at, size_t position, size_t block)
{
    const size_t b = row_at(s, position), unit = block * VF_LANES, lanes = block_lanes(&s->layout, block);
    const real *c = (const real *)s->c + (ptrdiff_t)b * s->c_stride_b;
    store_lanes(at->saved_c + fl_row_offset(&s->saved_c_rows, b) + unit, load_lanes(c + unit, lanes), lanes);
}

/* A vector of units. */
FL_INLINE void finish_unit(const fl_steps *s, const step_view *at, size_t position, size_t block, const vf *x,
                           const vf *h, const bool has_options, cell_unit *cell)
{
    const unit_row row = tile_row(s, at, position, has_options);
    cell(s->cell, &row, block * VF_LANES, block_lanes(&s->layout, block), x, h);
    if (has_options && at->saved_c)
        save_c(s, at, position, block);
}

/* A stored tile; of three vectors a block, each comes with a part of the state. */
FL_INLINE void finish_stored(const fl_steps *s, const step_view *at, const tile *t, const tile_store *store,
                             const int V, const bool has_options, cell_unit *cell)
{
    for (size_t r = 0; r < (size_t)t->NR; r++) {
        for (size_t b = 0; b < (size_t)(t->NB + (t->NT != 0)); b++) {
            vf x[4], h[4];
            stored_gates(x, store->vectors, r, b, V, t);
            if (V == 3)
                stored_gates(h, store->states, r, b, V, t);
            finish_unit(s, at, t->position + r, t->j + b, x, V == 3 ? h : NULL, has_options, cell);
        }
    }
}

/* A stored tile of one gate: a block is four vectors of units, the packed tail one or two. */
FL_INLINE void finish_stored_units(const fl_steps *s, const step_view *at, const tile *t, const tile_store *store,
                                   cell_unit *cell)
{
    const size_t vectors = (size_t)(4 * t->NB + t->NT), H = s->layout.H;
    for (size_t r = 0; r < (size_t)t->NR; r++) {
        const unit_row row = tile_row(s, at, t->position + r, true);
        for (size_t v = 0; v < vectors; v++) {
            const size_t unit = t->j * s->layout.units + v * VF_LANES;
            if (unit >= H)
                break;
            const vf gate = vf_load(store->vectors[r * vectors + v]);
            cell(s->cell, &row, unit, lanes_at(H, unit), &gate, NULL);
        }
    }
}

/* Cells whose tiles are stored share the code of these walks. */
static __attribute__((noinline)) void stored_steps_3(const fl_steps *s, finish_tile *finish)
{
    walk_steps(s, (tile_end){3, finish, NULL, false});
}

static __attribute__((noinline)) void stored_steps_4(const fl_steps *s, finish_tile *finish)
{
    walk_steps(s, (tile_end){4, finish, NULL, false});
}

#define STEPS_OF_STORED(CELL, V)                                                                                   \
    static __attribute__((noinline)) void CELL##_finish_##V(const fl_steps *s, const step_view *at, const tile *t, \
                                                            const tile_store *store)                               \
    {                                                                                                              \
        finish_stored(s, at, t, store, V, true, CELL##_unit);                                                      \
    }                                                                                                              \
    static void CELL##_steps_##V(const fl_steps *s) { stored_steps_##V(s, CELL##_finish_##V); }

/* Cells that are inlined for one row. */
#define STEPS_OF_INLINED(CELL, SPENDS_CODE)                                                                    \
    static __attribute__((noinline)) void CELL##_finish(const fl_steps *s, const step_view *at, const tile *t, \
                                                        const tile_store *store)                               \
    {                                                                                                          \
        finish_stored(s, at, t, store, 4, false, CELL##_unit);                                                 \
    }                                                                                                          \
    FL_INLINE void CELL##_inlined(const fl_steps *s, const step_view *at, size_t position, size_t block,       \
                                  const vf gate[4])                                                            \
    {                                                                                                          \
        finish_unit(s, at, position, block, gate, NULL, false, CELL##_unit);                                   \
    }                                                                                                          \
    static void CELL##_steps(const fl_steps *s)                                                                \
    {                                                                                                          \
        walk_steps(s, (tile_end){4, CELL##_finish, CELL##_inlined, SPENDS_CODE});                              \
    }

/* Cells of one gate. */
#define STEPS_OF_STORED_UNITS(CELL)                                                                            \
    static __attribute__((noinline)) void CELL##_finish(const fl_steps *s, const step_view *at, const tile *t, \
                                                        const tile_store *store)                               \
    {                                                                                                          \
        finish_stored_units(s, at, t, store, CELL##_unit);                                                     \
    }                                                                                                          \
    static void CELL##_steps(const fl_steps *s) { stored_steps_4(s, CELL##_finish); }

/* ---- Products without a cell --------------------------------------------------------------------------------- */

/* The gates themselves, as (B, 4H). */
static __attribute__((noinline)) void gates_finish(const fl_steps *s, const step_view *at, const tile *t,
                                                   const tile_store *store)
{
    vf gate[4];
    for (size_t b = 0; b < (size_t)(t->NB + (t->NT != 0)); b++) {
        for (size_t r = 0; r < (size_t)t->NR; r++) {
            real *gates = at->y + fl_row_offset(&s->y_rows, row_at(s, t->position + r)) + (t->j + b) * VF_LANES;
            stored_gates(gate, store->vectors, r, b, 4, t);
            for (size_t n = 0; n < 4; n++)
                store_lanes(gates + n * s->layout.H, gate[n], block_lanes(&s->layout, t->j + b));
        }
    }
}

static void gate_matmul(const fl_steps *s)
{
    const step_view at = first_step(s);
    const block_range range = range_of(s);
    walk_rows_4(s, &at, &range, false, gates_finish);
}

/* pre = bias + x W for a tile of one block. */
FL_INLINE void input_tile(const fl_input_product *p, const tile t)
{
    const int NV = t.V * t.NB + t.NT;
    const size_t panel = fl_panel_stride(&p->layout, p->I);
    const real *row[MAX_ROWS];
    vf acc[MAX_ACCUMULATORS];
    tile_bias(acc, t, p->bias, &p->layout);
    FL_UNROLL_FOR (int r = 0; r < t.NR; r++) row[r] = (const real *)p->x + p->x_offsets[t.position + (size_t)r];
    const weight *w = (const weight *)p->W + t.j * panel;
    accumulate(acc, t, row, p->I, w, panel,
               t.lines != 0 ? fetch_ahead(w, (ptrdiff_t)panel, p->I, t, p->rows) : FETCH_NOTHING);
    FL_UNROLL_FOR (int r = 0; r < t.NR; r++) {
        real *pre = (real *)p->pre + (ptrdiff_t)(t.position + (size_t)r) * p->pre_stride_row;
        pre += fl_block_offset(&p->layout, t.j);
        FL_UNROLL_FOR (int v = 0; v < NV; v++) vf_store(pre + (size_t)v * VF_LANES, acc[r * NV + v]);
    }
}

/* All rows of a full block, whose tiles fetch the panel of the next.  Functions of their own, as in walk_block_fetching. */
FL_INLINE void input_block_fetching(const fl_input_product *p, size_t j, const int V)
{
#define TILE(NR) input_tile(p, (tile){m, j, V, NR, 1, 0, 1})
    for (size_t m = 0, rows; m < p->rows; m += rows) {
        rows = next_tile_rows(p->rows - m);
        TILE_OF_MANY(TILE, rows);
    }
#undef TILE
}

static __attribute__((noinline)) void input_block_fetching_3(const fl_input_product *p, size_t j)
{
    input_block_fetching(p, j, 3);
}

static __attribute__((noinline)) void input_block_fetching_4(const fl_input_product *p, size_t j)
{
    input_block_fetching(p, j, 4);
}

FL_INLINE void walk_input_product(const fl_input_product *p, const int V)
{
    const bool fetches = p->weights_far && p->rows >= FETCH_ONE_ROWS;
#define TILE(NR, NB, NT) input_tile(p, (tile){m, j, V, NR, NB, NT, 0})
    for (size_t j = p->block_begin; j < p->block_end; j++) {
        if (fetches && j + 1 < p->block_end) {
            (V == 3 ? input_block_fetching_3 : input_block_fetching_4)(p, j);
            continue;
        }
        for (size_t m = 0, rows; m < p->rows; m += rows) {
            rows = next_tile_rows(p->rows - m);
            TILE_OF_BLOCK(TILE, rows, p->layout, j)
        }
    }
#undef TILE
}

static void input_product(const fl_input_product *p)
{
    if (p->layout.vectors == 3)
        walk_input_product(p, 3);
    else
        walk_input_product(p, 4);
}

/* ---- Gates of rows whose states are known -------------------------------------------------------------------- */

static __attribute__((noinline)) void gate_rows_finish(const fl_gate_rows *s, const tile *t, const tile_store *store)
{
    for (size_t r = 0; r < (size_t)t->NR; r++) {
        vf gate[4];
        stored_gates(gate, store->vectors, r, 0, 4, t);
        const lstm_parts parts = lstm_parts_of(gate[0], gate[1], gate[2], gate[3]);
        store_gates(&parts, s->layout.H, block_lanes(&s->layout, t->j),
                    (real *)s->gates[t->position + r] + t->j * VF_LANES);
    }
}

FL_INLINE void gate_rows_tile(const fl_gate_rows *s, const tile t)
{
    const size_t x_panel = fl_panel_stride(&s->layout, s->I), h_panel = fl_panel_stride(&s->layout, s->layout.H);
    const weight *W = (const weight *)s->W + t.j * x_panel, *R = (const weight *)s->R + t.j * h_panel;
    vf total[MAX_ACCUMULATORS];
    tile_store store;
    tile_bias(total, t, s->bias, &s->layout);
    if (s->x)
        accumulate(total, t, (const real *const *)s->x + t.position, s->I, W, x_panel, FETCH_NOTHING);
    else
        add_one_hot(total, t, s->x_index + t.position, W, x_panel);
    accumulate(total, t, (const real *const *)s->h + t.position, s->layout.H, R, h_panel, FETCH_NOTHING);
    FL_UNROLL_FOR (int v = 0; v < t.NR * (4 * t.NB + t.NT); v++) vf_store(store.vectors[v], total[v]);
    const tile shape = t;
    gate_rows_finish(s, &shape, &store);
}

static void gate_rows(const fl_gate_rows *s)
{
#define TILE(NR, NB, NT) gate_rows_tile(s, (tile){m, j, 4, NR, NB, NT, 0})
    for (size_t j = 0; j < s->layout.blocks; j++) {
        for (size_t m = 0, rows; m < s->rows; m += rows) {
            rows = next_tile_rows(s->rows - m);
            TILE_OF_BLOCK(TILE, rows, s->layout, j)
        }
    }
#undef TILE
}

#endif
