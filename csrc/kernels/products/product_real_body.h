/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The product of weights that are stored in the layer's dtype.  A product file says, for one storage: what a packed weight
 * is (`weight`) and how it becomes a vector (load_weight); the shape of the tile; how weights are packed; and what
 * accumulates (accumulate, add_one_hot).  Walks and cells see nothing else of it.
 */
#ifndef FL_PRODUCT_REAL_BODY_H
#define FL_PRODUCT_REAL_BODY_H
#include <string.h>

#include "kernels/simd/lanes_body.h"
#include "kernels/work.h"
#include "model/layout.h"

typedef real weight;

FL_INLINE vf load_weight(const weight *w) { return vf_load(w); }

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

/* ---- Packing ------------------------------------------------------------------------------------------------ */

/* How far ahead of what is packed lines are asked for, in lines of a row: so many rows and columns at once are more than
 * processors foresee.  4 H = 512 rows of 30 000 took 15 ms without and 5.3 ms with it (Zen 5, AVX-512). */
#define PACK_AHEAD_FROM 8
#define PACK_AHEAD_TO 2

/* `count` rows of K weights each, transposed: weight k of row n to to[k * step + n].  A line of a row at a time, because
 * lines of several rows may fall on the same places of a cache. */
static void interleave_rows(size_t count, size_t K, const real *source, weight *to, size_t step)
{
    for (size_t k = 0; k < K; k += LINE_LANES) {
        const size_t together = K - k < LINE_LANES ? K - k : LINE_LANES;
        weight *first = to + k * step;
        for (size_t n = 0; n < count; n++) {
            const real *from = source + n * K + k;
            __builtin_prefetch((const char *)from + PACK_AHEAD_FROM * LINE_LANES * sizeof(real), 0, 3);
            __builtin_prefetch((char *)first + (PACK_AHEAD_TO * LINE_LANES + n) * step * sizeof(weight), 1, 3);
            if (together == LINE_LANES)
                FL_UNROLL_FOR (size_t j = 0; j < LINE_LANES; j++) first[j * step + n] = from[j];
            else
                for (size_t j = 0; j < together; j++) first[j * step + n] = from[j];
        }
    }
}

/* `count` rows of a matrix from `row` on, transposed: all columns, or those that are new. */
static void pack_some_rows(const fl_matrix *matrix, size_t row, size_t count, weight *to, size_t step)
{
    const fl_columns *columns = matrix->columns;
    if (columns == NULL) {
        interleave_rows(count, matrix->K, (const real *)matrix->data + row * matrix->K, to, step);
        return;
    }
    const real *from = (const real *)columns->values + row;
    for (size_t n = 0; n < columns->count; n++)
        memcpy(to + (size_t)columns->index[n] * step, from + n * matrix->rows, count * sizeof(weight));
}

static void pack_gates(const fl_layout *layout, const fl_matrix *source, void *packed)
{
    for (size_t block = 0; block < layout->blocks; block++) {
        const size_t unit = block * layout->units, rest = layout->H - unit;
        for (size_t gate = 0; gate < layout->gates; gate++) {
            size_t step;
            const size_t at = block * fl_panel_stride(layout, source->K) + fl_gate_offset(layout, gate, unit, &step);
            pack_some_rows(source, gate * layout->H + unit, rest < layout->units ? rest : layout->units,
                           (weight *)packed + at, step);
        }
    }
}

static void pack_panels(const fl_panels *panels, const fl_matrix *source, void *packed)
{
    for (size_t p = 0; p < panels->count; p++) {
        const size_t first = fl_panel_first(panels, p) * VF_LANES, end = fl_panel_first(panels, p + 1) * VF_LANES;
        pack_some_rows(source, first, (end < panels->N ? end : panels->N) - first, (weight *)packed + first * source->K,
                       end - first);
    }
}

static void pack_units(const fl_panels *panels, size_t H, size_t gates, const fl_matrix *source, void *packed)
{
    for (size_t unit = 0; unit < H; unit += VF_LANES) {
        for (size_t gate = 0; gate < gates; gate++) {
            size_t panel, width;
            const size_t column = fl_unit_column(panels, H, gate, unit, &panel, &width);
            pack_some_rows(source, gate * H + unit, lanes_at(H, unit),
                           (weight *)packed + panel * source->K + column - panel, width);
        }
    }
}

static void pack_gate_panels(const fl_panels *panels, size_t gates, size_t H, const void *source, void *packed)
{
    const size_t N = panels->N;
    weight *to = packed;
    for (size_t p = 0; p < panels->count; p++) {
        const size_t first = fl_panel_first(panels, p) * VF_LANES, end = fl_panel_first(panels, p + 1) * VF_LANES;
        const size_t width = end - first, used = (end < N ? end : N) - first;
        for (size_t k = 0; k < H; k += FL_K_BLOCK) {
            const size_t stretch = H - k < FL_K_BLOCK ? H - k : FL_K_BLOCK;
            for (size_t gate = 0; gate < gates; gate++) {
                const real *from = (const real *)source + (gate * H + k) * N + first;
                for (size_t row = 0; row < stretch; row++, to += width, from += N) {
                    memcpy(to, from, used * sizeof(weight));
                    memset(to + used, 0, (width - used) * sizeof(weight));
                }
            }
        }
    }
}

/* ---- Accumulation ------------------------------------------------------------------------------------------- */

/* NR rows from `position` on, times NB blocks of V vectors from block j on, and NT vectors of the packed tail behind them.
 * `lines` that are fetched for each k are a constant too: one costs 1 to 2 % where the weights are near, and a loop 10 %. */
typedef struct tile {
    size_t position, j;
    int V, NR, NB, NT, lines;
} tile;

/* What a tile that fetches asks for on its way: from `at` on, `step` bytes for each k.  An address, since a stream reads
 * ahead of the matrix too. */
typedef struct fetch {
    uintptr_t at;
    size_t step;
} fetch;

#define FETCH_NOTHING ((fetch){0, 0})
#define FETCH_LINE 64                                                        /* bytes */
#define PANEL_LINES(V) ((int)((V) * VF_LANES * sizeof(weight)) / FETCH_LINE) /* of a panel, for each k */

/* Rows from which a tile's own loads do not reach far enough ahead; those of so many rows that a share of a panel is two
 * lines for each k, or one. */
#define FETCH_ROWS 4
#if MAX_ROWS == 6
#define FETCH_TWO_ROWS (MAX_ROWS + 1)
#define FETCH_ONE_ROWS 24
#else
#define FETCH_ONE_ROWS FETCH_ROWS
#endif

/* How far a tile is ahead of itself: half of a small L1.  With 4 KiB four rows take 46 GB/s from memory, not 58 (Zen 5). */
#define STREAM_AHEAD (16 << 10)

/* Of the panel `now`, K deep, which a tile of all `rows` walks alone: itself, some way ahead.  Of one that more tiles walk,
 * each from a near cache after the first: a share, by rows, of the panel that comes `after` it. */
FL_INLINE fetch fetch_ahead(const weight *now, ptrdiff_t after, size_t K, const tile t, size_t rows)
{
    const size_t deep = (size_t)(t.V * t.NB + t.NT) * VF_LANES * sizeof(weight);
    if ((size_t)t.NR == rows)
        return (fetch){(uintptr_t)now + STREAM_AHEAD, deep};
    return (fetch){(uintptr_t)(now + after) + t.position * deep * K / rows, (size_t)t.NR * deep / rows};
}

/* total += sum over k of a[r][k] * panel[k], FL_K_BLOCK at a time: each partial sum is a chain of multiply-adds from zero.
 * `w` is the first panel, the next ones and the tail's follow at `panel` elements. */
FL_INLINE void accumulate(vf *total, const tile t, const real *const *a, size_t K, const weight *w, size_t panel,
                          const fetch ahead)
{
    const int V = t.V, NR = t.NR, NB = t.NB, NT = t.NT, NV = V * NB + NT;
    vf acc[MAX_ACCUMULATORS];
    for (size_t k = 0, end; k < K; k = end) {
        end = K - k > FL_K_BLOCK ? k + FL_K_BLOCK : K;
        FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) acc[v] = vf_set1(0);
        for (; k < end; k++) {
            vf input[MAX_ROWS];
            FL_UNROLL_FOR (int line = 0; line < t.lines; line++)
                __builtin_prefetch((const void *)(ahead.at + k * ahead.step + (size_t)line * FETCH_LINE));
            FL_UNROLL_FOR (int r = 0; r < NR; r++) input[r] = vf_set1(a[r][k]);
            FL_UNROLL_FOR (int b = 0; b < NB; b++) {
                FL_UNROLL_FOR (int v = 0; v < V; v++) {
                    const vf factor = load_weight(w + (size_t)b * panel + ((size_t)V * k + (size_t)v) * VF_LANES);
                    FL_UNROLL_FOR (int r = 0; r < NR; r++)
                        acc[r * NV + V * b + v] = vf_fma(input[r], factor, acc[r * NV + V * b + v]);
                }
            }
            FL_UNROLL_FOR (int v = 0; v < NT; v++) {
                const vf factor = load_weight(w + (size_t)NB * panel + ((size_t)NT * k + (size_t)v) * VF_LANES);
                FL_UNROLL_FOR (int r = 0; r < NR; r++)
                    acc[r * NV + V * NB + v] = vf_fma(input[r], factor, acc[r * NV + V * NB + v]);
            }
        }
        FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) total[v] = vf_add(total[v], acc[v]);
    }
}

/* total += the weights of one input a row; `w` and `panel` as in accumulate(). */
FL_INLINE void add_one_hot(vf *total, const tile t, const int64_t *index, const weight *w, size_t panel)
{
    const int V = t.V, NR = t.NR, NB = t.NB, NT = t.NT, NV = V * NB + NT;
    FL_UNROLL_FOR (int r = 0; r < NR; r++) {
        const size_t k = (size_t)index[r];
        FL_UNROLL_FOR (int b = 0; b < NB; b++) {
            const weight *weights = w + (size_t)b * panel + (size_t)V * k * VF_LANES;
            FL_UNROLL_FOR (int v = 0; v < V; v++)
                total[r * NV + V * b + v] = vf_add(total[r * NV + V * b + v], load_weight(weights + v * VF_LANES));
        }
        const weight *tail = w + (size_t)NB * panel + (size_t)NT * k * VF_LANES;
        FL_UNROLL_FOR (int v = 0; v < NT; v++)
            total[r * NV + V * NB + v] = vf_add(total[r * NV + V * NB + v], load_weight(tail + v * VF_LANES));
    }
}

#endif
