/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The register tile: gates of NR batch rows times NB hidden blocks of V vectors (and the packed tail block, NT vectors),
 * held in accumulators from the bias to the cell update.  V, NR, NB and NT are constants at every call, so that after
 * inlining each accumulator is one register.
 *
 * Lanes run over hidden units and tiles over outputs; never over k.  So each gate is one sum in one order, whatever the
 * tile: bias, inputs, hidden state, k ascending in partial sums of FL_K_BLOCK.  Hence the same bits for every batch, tile,
 * thread and vector width.
 */
#ifndef FL_TILE_BODY_H
#define FL_TILE_BODY_H
#include "kernels/work.h"

/* One time step, pointers at its first batch row. */
typedef struct step_view {
    const real *pre, *x, *h;
    const int64_t *x_index;
    fl_rows h_rows;
    real *y;
    real *saved_c, *saved_gates;
    ptrdiff_t after; /* from a block to the one that is walked after it, for tiles that fetch */
} step_view;

FL_INLINE step_view first_step(const fl_steps *s)
{
    const step_view at = {s->pre, s->x, s->h, s->x_index, s->h_rows, s->y, s->saved_c, s->saved_gates, 0};
    return at;
}

/* The step after, whose h is the last one's y. */
FL_INLINE void next_step(const fl_steps *s, step_view *at)
{
    at->h = at->y;
    at->h_rows = s->y_rows;
    at->y += s->y_rows.stride_t;
    if (at->saved_c)
        at->saved_c += s->saved_c_rows.stride_t;
    if (at->saved_gates)
        at->saved_gates += s->saved_gates_rows.stride_t;
    if (at->pre)
        at->pre += s->pre_stride_t;
    else if (at->x)
        at->x += s->x_rows.stride_t;
    else if (at->x_index)
        at->x_index += s->x_rows.stride_t;
}

FL_INLINE size_t row_at(const fl_steps *s, size_t position) { return s->rows ? s->rows[position] : position; }

/* total = the bias of block j, in all rows. */
FL_INLINE void tile_bias(vf *total, const tile t, const void *bias, const fl_layout *layout)
{
    const int NV = t.V * t.NB + t.NT;
    const real *of_block = (const real *)bias + fl_block_offset(layout, t.j);
    FL_UNROLL_FOR (int v = 0; v < NV; v++) {
        const vf b = vf_load(of_block + (size_t)v * VF_LANES);
        FL_UNROLL_FOR (int r = 0; r < t.NR; r++) total[r * NV + v] = b;
    }
}

/* What comes before the products of a tile: the hoisted input product; or the bias, and the weights of one-hot input. */
FL_INLINE void tile_begin(vf *total, const fl_steps *s, const step_view *at, const tile t)
{
    const int NV = t.V * t.NB + t.NT;
    if (at->pre) {
        FL_UNROLL_FOR (int r = 0; r < t.NR; r++) {
            const real *pre = at->pre + (ptrdiff_t)(t.position + (size_t)r) * s->pre_stride_row;
            pre += fl_block_offset(&s->layout, t.j);
            FL_UNROLL_FOR (int v = 0; v < NV; v++) total[r * NV + v] = vf_load(pre + (size_t)v * VF_LANES);
        }
        return;
    }
    tile_bias(total, t, s->bias, &s->layout);
    if (at->x_index) {
        const size_t panel = fl_panel_stride(&s->layout, s->I);
        int64_t index[MAX_ROWS];
        FL_UNROLL_FOR (int r = 0; r < t.NR; r++)
            index[r] = at->x_index[fl_row_offset(&s->x_rows, row_at(s, t.position + (size_t)r))];
        add_one_hot(total, t, index, (const weight *)s->W + t.j * panel, panel);
    }
}

/* total += the product with rows of x, or of h. */
FL_INLINE void add_product(vf *total, const fl_steps *s, const step_view *at, const tile t, bool is_state)
{
    const real *base = is_state ? at->h : at->x;
    const fl_rows *rows = is_state ? &at->h_rows : &s->x_rows;
    const size_t K = is_state ? s->P : s->I, panel = fl_panel_stride(&s->layout, K);
    const real *row[MAX_ROWS];
    FL_UNROLL_FOR (int r = 0; r < t.NR; r++) row[r] = base + fl_row_offset(rows, row_at(s, t.position + (size_t)r));
    const weight *w = (const weight *)(is_state ? s->R : s->W) + t.j * panel;
    const fetch ahead = t.lines != 0 ? fetch_ahead(w, at->after * (ptrdiff_t)panel, K, t, s->B) : FETCH_NOTHING;
    accumulate(total, t, row, K, w, panel, ahead);
}

/* Both products, where that with x is a part of the step.  One loop for both: the code of a tile is large.  Three gates keep
 * the two apart: what stands before the state's part goes to `inputs`. */
FL_INLINE void tile_products(vf *total, const fl_steps *s, const step_view *at, const tile t, real (*inputs)[VF_LANES])
{
    FL_LOOP_FOR (int part = at->x ? 0 : 1; part < 2; part++) {
        if (t.V == 3 && part == 1) {
            FL_UNROLL_FOR (int v = 0; v < t.NR * (t.V * t.NB + t.NT); v++) vf_store(inputs[v], total[v]);
            tile_bias(total, t, s->bias_h, &s->layout);
        }
        add_product(total, s, at, t, part == 1);
    }
}

/* The gates i, f, g, o of row r, block b (b == NB: the packed tail) as four vectors. */
FL_INLINE void unpack_gates(vf gate[4], const vf *acc, int r, int b, const tile t)
{
    const vf *v = acc + r * (4 * t.NB + t.NT) + 4 * b;
    if (b < t.NB) {
        FL_UNROLL_FOR (int n = 0; n < 4; n++) gate[n] = v[n];
    } else if (t.NT == 2) {
        FL_UNROLL_FOR (int n = 0; n < 4; n++) gate[n] = vf_half(v[n / 2], n % 2);
    } else {
        FL_UNROLL_FOR (int n = 0; n < 4; n++) gate[n] = vf_quarter(v[0], n);
    }
}

FL_INLINE size_t block_lanes(const fl_layout *layout, size_t j)
{
    return j + 1 == layout->blocks ? layout->last_lanes : layout->units;
}

/* The gates of several rows on their way from the accumulators to the cell, in the nearest cache.  Through memory,
 * because with the cell inlined next to it the compiler runs out of registers for the product.  Three gates keep the two
 * parts of their pre-activations apart. */
typedef struct tile_store {
    _Alignas(64) real vectors[MAX_ACCUMULATORS][VF_LANES];
    _Alignas(64) real states[MAX_ACCUMULATORS][VF_LANES];
} tile_store;

/* What happens to a whole stored tile: a function of its own for each cell, not inlined. */
typedef void finish_tile(const fl_steps *s, const step_view *at, const tile *t, const tile_store *store);

/* What happens to the gates of one row and block, before activation; inlined. */
typedef void finish_block(const fl_steps *s, const step_view *at, size_t position, size_t block, const vf gate[4]);

/* The gates of row r, block b of a stored tile with V vectors a block. */
FL_INLINE void stored_gates(vf gate[4], const real (*vectors)[VF_LANES], size_t r, size_t b, const int V, const tile *t)
{
    const size_t NB = (size_t)t->NB, NT = (size_t)t->NT;
    const real(*v)[VF_LANES] = vectors + r * ((size_t)V * NB + NT) + (size_t)V * b;
    if (b < NB) {
        for (int n = 0; n < V; n++) gate[n] = vf_load(v[n]);
        if (V < 4)
            gate[3] = vf_set1(0);
    } else if (NT == 2) {
        const vf i_f = vf_load(v[0]), g_o = vf_load(v[1]);
        gate[0] = vf_half(i_f, 0);
        gate[1] = vf_half(i_f, 1);
        gate[2] = vf_half(g_o, 0);
        gate[3] = vf_half(g_o, 1);
    } else {
        const vf all = vf_load(v[0]);
        gate[0] = vf_quarter(all, 0);
        gate[1] = vf_quarter(all, 1);
        gate[2] = vf_quarter(all, 2);
        gate[3] = vf_quarter(all, 3);
    }
}

/* A tile of one row: latency counts, the gates never leave the registers.  `is_compact`: one loop for both products, less
 * code. */
FL_INLINE void tile_of_one(const fl_steps *s, const step_view *at, const tile t, const bool is_compact,
                           finish_block *finish)
{
    vf acc[MAX_ACCUMULATORS], gate[4];
    tile_begin(acc, s, at, t);
    if (is_compact) {
        tile_products(acc, s, at, t, NULL);
    } else {
        if (at->x)
            add_product(acc, s, at, t, false);
        add_product(acc, s, at, t, true);
    }
    FL_UNROLL_FOR (int b = 0; b < t.NB + (t.NT != 0); b++) {
        unpack_gates(gate, acc, 0, b, t);
        finish(s, at, 0, t.j + (size_t)b, gate);
    }
}

/* A tile of several rows, or of one where the cell is not inlined. */
FL_INLINE void tile_of_rows(const fl_steps *s, const step_view *at, const tile t, finish_tile *finish)
{
    vf acc[MAX_ACCUMULATORS];
    tile_store store;
    tile_begin(acc, s, at, t);
    tile_products(acc, s, at, t, store.vectors);
    FL_UNROLL_FOR (int v = 0; v < t.NR * (t.V * t.NB + t.NT); v++)
        vf_store(t.V == 3 ? store.states[v] : store.vectors[v], acc[v]);
    const tile shape = t; /* so that `t` itself has no address */
    finish(s, at, &shape, &store);
}

/* Rows of the next tile when `rest` rows are left: as few tiles as possible, of sizes as equal as possible. */
FL_INLINE size_t next_tile_rows(size_t rest)
{
    const size_t tiles = (rest + MAX_ROWS - 1) / MAX_ROWS;
    return (rest + tiles - 1) / tiles;
}

/* DO(NR, NB, NT) for a number of rows known at run time. */
#if MAX_ROWS == 6
#define TILE_OF_ROWS(DO, ROWS, NB, NT) \
    switch (ROWS) {                    \
    case 1: DO(1, NB, NT); break;      \
    case 2: DO(2, NB, NT); break;      \
    case 3: DO(3, NB, NT); break;      \
    case 4: DO(4, NB, NT); break;      \
    case 5: DO(5, NB, NT); break;      \
    default: DO(6, NB, NT); break;     \
    }
#else
#define TILE_OF_ROWS(DO, ROWS, NB, NT) \
    switch (ROWS) {                    \
    case 1: DO(1, NB, NT); break;      \
    case 2: DO(2, NB, NT); break;      \
    default: DO(3, NB, NT); break;     \
    }
#endif

/* DO(NR) for a number of rows as tiles have it that fetch one line for each k: of very many rows. */
#define TILE_OF_MANY(DO, ROWS) \
    if ((ROWS) == MAX_ROWS)    \
        DO(MAX_ROWS);          \
    else                       \
        DO(MAX_ROWS - 1)

/* The same where they fetch more. */
#if MAX_ROWS == 6
#define TILE_OF_SEVERAL(DO, ROWS) \
    switch (ROWS) {               \
    case 3: DO(3); break;         \
    case 4: DO(4); break;         \
    case 5: DO(5); break;         \
    default: DO(6); break;        \
    }
#else
#define TILE_OF_SEVERAL(DO, ROWS) TILE_OF_MANY(DO, ROWS)
#endif

/* DO(NR, NB, NT) for block j of a layout: a full one, or the packed tail. */
#define TILE_OF_BLOCK(DO, ROWS, LAYOUT, J) \
    if ((J) < (LAYOUT).full_blocks)        \
        TILE_OF_ROWS(DO, ROWS, 1, 0)       \
    else if ((LAYOUT).tail_vectors == 2)   \
        TILE_OF_ROWS(DO, ROWS, 0, 2)       \
    else                                   \
        TILE_OF_ROWS(DO, ROWS, 0, 1)

#endif
