/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The register tile: gates of NR batch rows times NB hidden blocks (and the packed tail block, NT vectors), held in
 * accumulators from the bias to the cell update.  NR, NB and NT are constants at every call, so that after inlining each
 * accumulator is one register.
 *
 * Lanes run over hidden units and tiles over outputs; never over k.  So each gate is one sum in one order, whatever the
 * tile: bias, inputs, hidden state, k ascending in partial sums of FL_K_BLOCK.  Hence the same bits for every batch, tile,
 * thread and vector width.
 */
#ifndef FL_TILE_BODY_H
#define FL_TILE_BODY_H

/* Eight independent chains hide a latency of 4 cycles at 2 multiply-adds a cycle; beyond that more accumulators save
 * loads.  The rest of the registers holds weights and broadcast inputs. */
#if VF_REGISTERS >= 32
#define MAX_ROWS 6
#define MAX_BLOCKS_1 4 /* blocks beside each other for one row */
#define MAX_BLOCKS_2 3
#define MAX_BLOCKS_3 2
#else
#define MAX_ROWS 3
#define MAX_BLOCKS_1 3
#define MAX_BLOCKS_2 1
#define MAX_BLOCKS_3 1
#endif
#define MAX_ACCUMULATORS 24

#define LINE_LANES (64 / sizeof(real)) /* of a cache line */

/* One time step, pointers at its first batch row. */
typedef struct step_view {
    const real *pre, *x, *h;
    const int64_t *x_index;
    real *y;
    ptrdiff_t h_stride_b;
    const ptrdiff_t *h_at;
    real *saved_c, *saved_gates;
} step_view;

FL_INLINE size_t row_at(const fl_steps *s, size_t position) { return s->rows ? s->rows[position] : position; }

FL_INLINE ptrdiff_t place_of(const ptrdiff_t *at, size_t b) { return at ? at[b] : (ptrdiff_t)b; }

/* total += sum over k of a[r][k] * panel[k], FL_K_BLOCK at a time: each partial sum is a chain of multiply-adds from zero.
 * `w` is the first panel, the next ones and the tail's follow at `panel` elements. */
FL_INLINE void accumulate(vf *total, const int V, const int NR, const int NB, const int NT, const real *const *a,
                          size_t K, const real *w, size_t panel)
{
    const int NV = V * NB + NT;
    vf acc[MAX_ACCUMULATORS];
    for (size_t k = 0, end; k < K; k = end) {
        end = K - k > FL_K_BLOCK ? k + FL_K_BLOCK : K;
        FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) acc[v] = vf_set1(0);
        for (; k < end; k++) {
            vf input[MAX_ROWS];
            FL_UNROLL_FOR (int r = 0; r < NR; r++) input[r] = vf_set1(a[r][k]);
            FL_UNROLL_FOR (int b = 0; b < NB; b++) {
                FL_UNROLL_FOR (int v = 0; v < V; v++) {
                    const vf weight = vf_load(w + (size_t)b * panel + ((size_t)V * k + (size_t)v) * VF_LANES);
                    FL_UNROLL_FOR (int r = 0; r < NR; r++)
                        acc[r * NV + V * b + v] = vf_fma(input[r], weight, acc[r * NV + V * b + v]);
                }
            }
            FL_UNROLL_FOR (int v = 0; v < NT; v++) {
                const vf weight = vf_load(w + (size_t)NB * panel + ((size_t)NT * k + (size_t)v) * VF_LANES);
                FL_UNROLL_FOR (int r = 0; r < NR; r++)
                    acc[r * NV + V * NB + v] = vf_fma(input[r], weight, acc[r * NV + V * NB + v]);
            }
        }
        FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) total[v] = vf_add(total[v], acc[v]);
    }
}

/* total += the weights of one input a row; `w` and `panel` as above. */
FL_INLINE void add_one_hot(vf *total, const int64_t *index, const real *w, size_t panel, const int V, const int NR,
                           const int NB, const int NT)
{
    const int NV = V * NB + NT;
    FL_UNROLL_FOR (int r = 0; r < NR; r++) {
        const size_t k = (size_t)index[r];
        FL_UNROLL_FOR (int b = 0; b < NB; b++) {
            const real *weights = w + (size_t)b * panel + (size_t)V * k * VF_LANES;
            FL_UNROLL_FOR (int v = 0; v < V; v++)
                total[r * NV + V * b + v] = vf_add(total[r * NV + V * b + v], vf_load(weights + (size_t)v * VF_LANES));
        }
        const real *tail = w + (size_t)NB * panel + (size_t)NT * k * VF_LANES;
        FL_UNROLL_FOR (int v = 0; v < NT; v++)
            total[r * NV + V * NB + v] = vf_add(total[r * NV + V * NB + v], vf_load(tail + (size_t)v * VF_LANES));
    }
}

/* What comes before the products of the tile at `position` (first row) and block j (first block): the hoisted input product;
 * or the bias, and the weights of one-hot input. */
FL_INLINE void tile_begin(vf *total, const fl_steps *s, const step_view *at, size_t position, size_t j, const int V,
                          const int NR, const int NB, const int NT)
{
    const int NV = V * NB + NT;
    const size_t offset = fl_block_offset(&s->layout, j), panel = fl_panel_stride(&s->layout, s->I);
    if (at->pre) {
        FL_UNROLL_FOR (int r = 0; r < NR; r++) {
            const real *pre = at->pre + (ptrdiff_t)(position + (size_t)r) * s->pre_stride_row + offset;
            FL_UNROLL_FOR (int v = 0; v < NV; v++) total[r * NV + v] = vf_load(pre + (size_t)v * VF_LANES);
        }
        return;
    }
    const real *bias = (const real *)s->bias + offset;
    FL_UNROLL_FOR (int v = 0; v < NV; v++) {
        const vf b = vf_load(bias + (size_t)v * VF_LANES);
        FL_UNROLL_FOR (int r = 0; r < NR; r++) total[r * NV + v] = b;
    }
    if (at->x_index) {
        int64_t index[MAX_ROWS];
        FL_UNROLL_FOR (int r = 0; r < NR; r++)
            index[r] = at->x_index[place_of(s->x_at, row_at(s, position + (size_t)r)) * s->x_stride_b];
        add_one_hot(total, index, (const real *)s->W + j * panel, panel, V, NR, NB, NT);
    }
}

/* total += the product with rows of x, or of h. */
FL_INLINE void add_product(vf *total, const fl_steps *s, const step_view *at, size_t position, size_t j, bool is_state,
                           const int V, const int NR, const int NB, const int NT)
{
    const real *base = is_state ? at->h : at->x;
    const ptrdiff_t *places = is_state ? at->h_at : s->x_at;
    const ptrdiff_t stride = is_state ? at->h_stride_b : s->x_stride_b;
    const size_t K = is_state ? s->P : s->I, panel = fl_panel_stride(&s->layout, K);
    const real *row[MAX_ROWS];
    FL_UNROLL_FOR (int r = 0; r < NR; r++) row[r] = base + place_of(places, row_at(s, position + (size_t)r)) * stride;
    accumulate(total, V, NR, NB, NT, row, K, (const real *)(is_state ? s->R : s->W) + j * panel, panel);
}

/* Both products, where that with x is a part of the step.  One loop for both: the code of a tile is large.  Three gates keep
 * the two apart: what stands before the state's part goes to `inputs`. */
FL_INLINE void tile_products(vf *total, const fl_steps *s, const step_view *at, size_t position, size_t j, const int V,
                             const int NR, const int NB, const int NT, real (*inputs)[VF_LANES])
{
    const int NV = V * NB + NT;
    FL_LOOP_FOR (int part = at->x ? 0 : 1; part < 2; part++) {
        if (V == 3 && part == 1) {
            const real *bias = (const real *)s->bias_h + fl_block_offset(&s->layout, j);
            FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) vf_store(inputs[v], total[v]);
            FL_UNROLL_FOR (int v = 0; v < NV; v++) {
                const vf b = vf_load(bias + (size_t)v * VF_LANES);
                FL_UNROLL_FOR (int r = 0; r < NR; r++) total[r * NV + v] = b;
            }
        }
        add_product(total, s, at, position, j, part == 1, V, NR, NB, NT);
    }
}

/* The gates i, f, g, o of row r, block b (b == NB: the packed tail) as four vectors. */
FL_INLINE void unpack_gates(vf gate[4], const vf *acc, int r, int b, const int NB, const int NT)
{
    const vf *v = acc + r * (4 * NB + NT) + 4 * b;
    if (b < NB) {
        FL_UNROLL_FOR (int n = 0; n < 4; n++) gate[n] = v[n];
    } else if (NT == 2) {
        FL_UNROLL_FOR (int n = 0; n < 4; n++) gate[n] = vf_half(v[n / 2], n % 2);
    } else {
        FL_UNROLL_FOR (int n = 0; n < 4; n++) gate[n] = vf_quarter(v[0], n);
    }
}

FL_INLINE size_t block_lanes(const fl_layout *layout, size_t j)
{
    return j + 1 == layout->blocks ? layout->last_lanes : layout->units;
}

FL_INLINE vf load_lanes(const real *p, size_t n) { return n == VF_LANES ? vf_load(p) : vf_load_n(p, n); }

FL_INLINE void store_lanes(real *p, vf a, size_t n)
{
    if (n == VF_LANES)
        vf_store(p, a);
    else
        vf_store_n(p, a, n);
}

/* What a cell does with the gates of one row and block, i, f, g, o before activation.  The functions below take it as a
 * parameter; all are inlined, so that it costs no call. */
typedef void finish_block(const fl_steps *s, const step_view *at, size_t position, size_t block, const vf gate[4]);

/* One row: latency counts, the gates never leave the registers.  `is_compact`: one loop for both products, less code. */
FL_INLINE void tile_of_one(const fl_steps *s, const step_view *at, size_t j, const int NB, const int NT,
                           const bool is_compact, finish_block *finish)
{
    vf acc[MAX_ACCUMULATORS], gate[4];
    tile_begin(acc, s, at, 0, j, 4, 1, NB, NT);
    if (is_compact) {
        tile_products(acc, s, at, 0, j, 4, 1, NB, NT, NULL);
    } else {
        if (at->x)
            add_product(acc, s, at, 0, j, false, 4, 1, NB, NT);
        add_product(acc, s, at, 0, j, true, 4, 1, NB, NT);
    }
    FL_UNROLL_FOR (int b = 0; b < NB + (NT != 0); b++) {
        unpack_gates(gate, acc, 0, b, NB, NT);
        finish(s, at, 0, j + (size_t)b, gate);
    }
}

/* The gates of several rows on their way from the accumulators to the cell, in the nearest cache.  Through memory,
 * because with the cell inlined next to it the compiler runs out of registers for the product.  Three gates keep the two
 * parts of their pre-activations apart. */
typedef struct tile_store {
    _Alignas(64) real vectors[MAX_ACCUMULATORS][VF_LANES];
    _Alignas(64) real states[MAX_ACCUMULATORS][VF_LANES];
} tile_store;

/* A whole stored tile: a function of its own for each cell, not inlined, made from finish_stored(). */
typedef void finish_tile(const fl_steps *s, const step_view *at, size_t position, size_t j, const tile_store *store,
                         size_t NR, size_t NB, size_t NT);

/* The gates of row r, block b of a stored tile with V vectors a block. */
FL_INLINE void stored_gates(vf gate[4], const real (*vectors)[VF_LANES], size_t r, size_t b, size_t V, size_t NB,
                            size_t NT)
{
    const real(*v)[VF_LANES] = vectors + r * (V * NB + NT) + V * b;
    if (b < NB) {
        for (size_t n = 0; n < V; n++) gate[n] = vf_load(v[n]);
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

FL_INLINE void finish_stored(const fl_steps *s, const step_view *at, size_t position, size_t j, const tile_store *store,
                             size_t NR, size_t NB, size_t NT, finish_block *finish)
{
    vf gate[4];
    for (size_t b = 0; b < NB + (NT != 0); b++) {
        for (size_t r = 0; r < NR; r++) {
            stored_gates(gate, store->vectors, r, b, 4, NB, NT);
            finish(s, at, position + r, j + b, gate);
        }
    }
}

/* Several rows, or one where the cell is not inlined. */
FL_INLINE void tile_of_rows(const fl_steps *s, const step_view *at, size_t position, size_t j, const int V,
                            const int NR, const int NB, const int NT, finish_tile *finish)
{
    const int NV = V * NB + NT;
    vf acc[MAX_ACCUMULATORS];
    tile_store store;
    tile_begin(acc, s, at, position, j, V, NR, NB, NT);
    tile_products(acc, s, at, position, j, V, NR, NB, NT, store.vectors);
    FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) vf_store(V == 3 ? store.states[v] : store.vectors[v], acc[v]);
    finish(s, at, position, j, &store, (size_t)NR, (size_t)NB, (size_t)NT);
}

/* Rows of the next tile when `rest` rows are left: as few tiles as possible, of sizes as equal as possible. */
FL_INLINE size_t next_tile_rows(size_t rest)
{
    const size_t tiles = (rest + MAX_ROWS - 1) / MAX_ROWS;
    return (rest + tiles - 1) / tiles;
}

/* TILE(NR, NB, NT) for a number of rows known at run time. */
#if MAX_ROWS == 6
#define TILE_OF_ROWS(TILE, ROWS, NB, NT) \
    switch (ROWS) {                      \
    case 1: TILE(1, NB, NT); break;      \
    case 2: TILE(2, NB, NT); break;      \
    case 3: TILE(3, NB, NT); break;      \
    case 4: TILE(4, NB, NT); break;      \
    case 5: TILE(5, NB, NT); break;      \
    default: TILE(6, NB, NT); break;     \
    }
#else
#define TILE_OF_ROWS(TILE, ROWS, NB, NT) \
    switch (ROWS) {                      \
    case 1: TILE(1, NB, NT); break;      \
    case 2: TILE(2, NB, NT); break;      \
    default: TILE(3, NB, NT); break;     \
    }
#endif

/* The same for block j of a layout: a full one, or the packed tail. */
#define TILE_OF_BLOCK(TILE, ROWS, LAYOUT, J) \
    if ((J) < (LAYOUT).full_blocks)          \
        TILE_OF_ROWS(TILE, ROWS, 1, 0)       \
    else if ((LAYOUT).tail_vectors == 2)     \
        TILE_OF_ROWS(TILE, ROWS, 0, 2)       \
    else                                     \
        TILE_OF_ROWS(TILE, ROWS, 0, 1)

#endif
