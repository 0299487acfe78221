/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The matrix products of the backward pass.  Like the gates, each element of a result is one sum in one order, in
 * partial sums of FL_K_BLOCK, or over rows of OUTER_BLOCK, whatever the tile: lanes and tiles run over outputs.
 *
 * Products with a gate row (G*H elements) take, for each stretch of FL_K_BLOCK hidden units, one gate after the other; so G
 * chains are independent where there is only one row.  Any other row is one gate.
 */
#ifndef FL_PANEL_BODY_H
#define FL_PANEL_BODY_H
#include <math.h>

#include "kernels/simd/lanes_body.h"
#include "kernels/work.h"

#define PANEL_VECTORS 4 /* of the widest panel */

/* Rows of a partial sum over rows: in a chain of n equal terms rounding may go one way all along, and loses up to n / 64
 * units in the last place of float32 (1e-6 at 64, 5e-7 at 32). */
#define OUTER_BLOCK 32

#define PRODUCT_MAX_ROWS 8
/* Rows of a tile, for panels of 1 to 4 vectors. */
#if VF_REGISTERS >= 32
static const unsigned char product_rows[PANEL_VECTORS] = {8, 8, 8, 6};
#else
static const unsigned char product_rows[PANEL_VECTORS] = {8, 6, 4, 3};
#endif

/* A part of a panel that stays in a core's L2 while all rows pass: decides nothing but speed. */
#define FILL_AHEAD 32 /* rows: a wait for the last cache */
#define PASS_BYTES ((size_t)256 << 10)

/* Totals live in memory: there are no registers for them, and copies on the stack are no gain. */
#define KEEP_IN_MEMORY() __asm__ volatile("" : : : "memory")

/* total[r][v] += a[r] M for hidden units [k_begin, k_end) of all gates; `panel` is that of M, G*H rows. */
FL_INLINE void gate_product(real *total, const real *const *a, size_t gates, size_t H, size_t k_begin, size_t k_end,
                            const weight *panel, const int NR, const int NV)
{
    for (size_t k = k_begin, end; k < k_end; k = end) {
        end = k_end - k > FL_K_BLOCK ? k + FL_K_BLOCK : k_end;
        const weight *w = panel + gates * k * (size_t)NV * VF_LANES;
        for (size_t gate = 0; gate < gates; gate++) {
            vf acc[PRODUCT_MAX_ROWS * PANEL_VECTORS];
            const real *row[PRODUCT_MAX_ROWS];
            FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) acc[v] = vf_set1(0);
            FL_UNROLL_FOR (int r = 0; r < NR; r++) row[r] = a[r] + gate * H + k;
            for (size_t n = 0; n < end - k; n++, w += NV * VF_LANES) {
                vf input[PRODUCT_MAX_ROWS];
                FL_UNROLL_FOR (int r = 0; r < NR; r++) input[r] = vf_set1(row[r][n]);
                FL_UNROLL_FOR (int v = 0; v < NV; v++) {
                    const vf factor = load_weight(w + v * VF_LANES);
                    FL_UNROLL_FOR (int r = 0; r < NR; r++) acc[r * NV + v] = vf_fma(input[r], factor, acc[r * NV + v]);
                }
            }
            FL_UNROLL_FOR (int v = 0; v < NR * NV; v++)
                vf_store(total + v * VF_LANES, vf_add(vf_load(total + v * VF_LANES), acc[v]));
            KEEP_IN_MEMORY();
        }
    }
}

/* The same for one row: the gates' partial sums run side by side. */
FL_INLINE void gate_product_one(real *total, const real *a, size_t H, const weight *panel, const int G, const int NV)
{
    vf sum[PANEL_VECTORS];
    FL_UNROLL_FOR (int v = 0; v < NV; v++) sum[v] = vf_load(total + v * VF_LANES);
    for (size_t k = 0, end; k < H; k = end) {
        end = H - k > FL_K_BLOCK ? k + FL_K_BLOCK : H;
        const weight *w = panel + (size_t)G * k * (size_t)NV * VF_LANES;
        const size_t stretch = (end - k) * (size_t)NV * VF_LANES;
        vf acc[FL_MAX_GATES * PANEL_VECTORS];
        FL_UNROLL_FOR (int v = 0; v < G * NV; v++) acc[v] = vf_set1(0);
        for (size_t n = k; n < end; n++, w += NV * VF_LANES) {
            FL_UNROLL_FOR (int gate = 0; gate < G; gate++) {
                const vf input = vf_set1(a[(size_t)gate * H + n]);
                FL_UNROLL_FOR (int v = 0; v < NV; v++)
                    acc[gate * NV + v] =
                        vf_fma(input, load_weight(w + (size_t)gate * stretch + v * VF_LANES), acc[gate * NV + v]);
            }
        }
        FL_UNROLL_FOR (int gate = 0; gate < G; gate++)
            FL_UNROLL_FOR (int v = 0; v < NV; v++) sum[v] = vf_add(sum[v], acc[gate * NV + v]);
    }
    FL_UNROLL_FOR (int v = 0; v < NV; v++) vf_store(total + v * VF_LANES, sum[v]);
}

/* out[r][v] (+)= sum over m of a[m][r] x[m][v]; the last vector has `lanes` lanes.  Partial sums of OUTER_BLOCK rows meet
 * before what they give is added to `out`. */
FL_INLINE void outer_tile(real *out, ptrdiff_t ld_out, size_t lanes, bool adds, const real *a, ptrdiff_t a_stride,
                          size_t M, const real *x, const int NR, const int NV)
{
    real met[PRODUCT_MAX_ROWS * PANEL_VECTORS * VF_LANES];
    vf acc[PRODUCT_MAX_ROWS * PANEL_VECTORS];
    FL_UNROLL_FOR (int r = 0; r < NR; r++) /* gradients come from the last cache or beyond */
        FL_UNROLL_FOR (int v = 0; v < NV; v++) __builtin_prefetch(out + r * ld_out + v * VF_LANES, 1);
    for (size_t m = 0;;) {
        const bool is_first = m == 0;
        const size_t end = M - m > OUTER_BLOCK ? m + OUTER_BLOCK : M;
        FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) acc[v] = vf_set1(0);
        for (; m < end; m++, a += a_stride, x += NV * VF_LANES) {
            vf input[PRODUCT_MAX_ROWS];
            FL_UNROLL_FOR (int r = 0; r < NR; r++) input[r] = vf_set1(a[r]);
            FL_UNROLL_FOR (int v = 0; v < NV; v++) {
                const vf factor = vf_load(x + v * VF_LANES);
                FL_UNROLL_FOR (int r = 0; r < NR; r++) acc[r * NV + v] = vf_fma(input[r], factor, acc[r * NV + v]);
            }
        }
        if (!is_first)
            FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) acc[v] = vf_add(vf_load(met + v * VF_LANES), acc[v]);
        if (m == M)
            break;
        FL_UNROLL_FOR (int v = 0; v < NR * NV; v++) vf_store(met + v * VF_LANES, acc[v]);
        KEEP_IN_MEMORY();
    }
    FL_UNROLL_FOR (int r = 0; r < NR; r++) {
        FL_UNROLL_FOR (int v = 0; v < NV; v++) {
            real *element = out + r * ld_out + v * VF_LANES;
            const size_t n = v + 1 == NV ? lanes : VF_LANES;
            const vf sum = adds ? load_lanes(element, n) : vf_set1(0);
            store_lanes(element, vf_add(sum, acc[r * NV + v]), n);
        }
    }
}

/* One function a tile, and tables of them. */
typedef void gate_product_tile(real *total, const real *const *a, size_t gates, size_t H, size_t k_begin, size_t k_end,
                               const weight *panel);
typedef void outer_product_tile(real *out, ptrdiff_t ld_out, size_t lanes, bool adds, const real *a, ptrdiff_t a_stride,
                                size_t M, const real *x);

#define PRODUCT_TILE(NR, NV)                                                                                        \
    static void gate_product_##NR##_##NV(real *total, const real *const *a, size_t gates, size_t H, size_t k_begin, \
                                         size_t k_end, const weight *panel)                                         \
    {                                                                                                               \
        gate_product(total, a, gates, H, k_begin, k_end, panel, NR, NV);                                            \
    }                                                                                                               \
    static void outer_product_##NR##_##NV(real *out, ptrdiff_t ld_out, size_t lanes, bool adds, const real *a,      \
                                          ptrdiff_t a_stride, size_t M, const real *x)                              \
    {                                                                                                               \
        outer_tile(out, ld_out, lanes, adds, a, a_stride, M, x, NR, NV);                                            \
    }

#define EACH_OF_8(DO, NV) DO(1, NV) DO(2, NV) DO(3, NV) DO(4, NV) DO(5, NV) DO(6, NV) DO(7, NV) DO(8, NV)
#define EACH_OF_6(DO, NV) DO(1, NV) DO(2, NV) DO(3, NV) DO(4, NV) DO(5, NV) DO(6, NV)
#define EACH_OF_4(DO, NV) DO(1, NV) DO(2, NV) DO(3, NV) DO(4, NV)
#define EACH_OF_4_BY(DO, G) DO(G, 1) DO(G, 2) DO(G, 3) DO(G, 4)
#define EACH_OF_3(DO, NV) DO(1, NV) DO(2, NV) DO(3, NV)
#if VF_REGISTERS >= 32
#define EACH_WITH_1(DO) EACH_OF_8(DO, 1)
#define EACH_WITH_2(DO) EACH_OF_8(DO, 2)
#define EACH_WITH_3(DO) EACH_OF_8(DO, 3)
#define EACH_WITH_4(DO) EACH_OF_6(DO, 4)
#else
#define EACH_WITH_1(DO) EACH_OF_8(DO, 1)
#define EACH_WITH_2(DO) EACH_OF_6(DO, 2)
#define EACH_WITH_3(DO) EACH_OF_4(DO, 3)
#define EACH_WITH_4(DO) EACH_OF_3(DO, 4)
#endif
EACH_WITH_1(PRODUCT_TILE)
EACH_WITH_2(PRODUCT_TILE)
EACH_WITH_3(PRODUCT_TILE)
EACH_WITH_4(PRODUCT_TILE)

#define GATE_PRODUCT_OF(NR, NV) gate_product_##NR##_##NV,
#define OUTER_PRODUCT_OF(NR, NV) outer_product_##NR##_##NV,
static gate_product_tile *const gate_product_tiles[PANEL_VECTORS][PRODUCT_MAX_ROWS] = {{EACH_WITH_1(GATE_PRODUCT_OF)},
                                                                                       {EACH_WITH_2(GATE_PRODUCT_OF)},
                                                                                       {EACH_WITH_3(GATE_PRODUCT_OF)},
                                                                                       {EACH_WITH_4(GATE_PRODUCT_OF)}};
static outer_product_tile *const outer_product_tiles[PANEL_VECTORS][PRODUCT_MAX_ROWS] = {
    {EACH_WITH_1(OUTER_PRODUCT_OF)},
    {EACH_WITH_2(OUTER_PRODUCT_OF)},
    {EACH_WITH_3(OUTER_PRODUCT_OF)},
    {EACH_WITH_4(OUTER_PRODUCT_OF)}};

static void gate_product_row(real *total, const real *a, size_t gates, size_t H, const weight *panel, size_t vectors)
{
#define ROW(G, NV) \
    case 8 * (G) + (NV): gate_product_one(total, a, H, panel, (G), (NV)); break;
    switch (8 * gates + vectors) {
        EACH_OF_4_BY(ROW, 1) EACH_OF_4_BY(ROW, 2) EACH_OF_4_BY(ROW, 3) EACH_OF_4_BY(ROW, 4) default : break;
    }
#undef ROW
}

/* Rows of the next tile when `rest` are left: as few tiles as possible, of sizes as equal as possible. */
FL_INLINE size_t next_product_rows(size_t rest, size_t most)
{
    const size_t tiles = (rest + most - 1) / most;
    return (rest + tiles - 1) / tiles;
}

/* A tile of a product: some rows, and the vectors of a panel. */
typedef struct product_tile {
    size_t row, rows, first, vectors;
} product_tile;

/* What happens to the totals of a tile. */
typedef void finish_totals(const void *context, const product_tile *t, const real *total);

/* What a tile's end will read, asked for before its product begins; may be null. */
typedef void prepare_totals(const void *context, const product_tile *t);

/* Rows `a` times all panels; `a`, `out`, `bias` and `adds` of the product are not looked at.  Where a panel is larger than
 * what should stay in L2, the rows pass it in parts, and their totals wait in `totals`; there is room for those of all rows
 * and one panel. */
FL_INLINE void walk_product(const fl_row_product *p, const real *const *a, prepare_totals *prepare,
                            finish_totals *finish, const void *context)
{
    const size_t gates = p->gates, H = p->H, rows = p->rows;
    const size_t panel_end = p->panel_end != 0 ? p->panel_end : p->panels.count;
    for (size_t n = p->panel_begin; n < panel_end; n++) {
        const size_t first = fl_panel_first(&p->panels, n), NV = fl_panel_first(&p->panels, n + 1) - first;
        const weight *panel = (const weight *)p->matrix + first * VF_LANES * gates * H;
        const size_t most = product_rows[NV - 1], tile_size = NV * VF_LANES;
        size_t pass = PASS_BYTES / (gates * FL_K_BLOCK * tile_size * sizeof(weight)) * FL_K_BLOCK;
        const bool whole = rows <= most || H <= pass + pass / 2;
        pass = whole ? H : pass;
        for (size_t k = 0, end; k < H; k = end) {
            end = H - k > pass ? k + pass : H;
            product_tile t = {0, 0, first, NV};
            for (; t.row < rows; t.row += t.rows) {
                t.rows = next_product_rows(rows - t.row, most);
                real *total = (real *)p->totals + (whole ? 0 : t.row * tile_size);
                if (prepare && end == H)
                    prepare(context, &t);
                if (k == 0)
                    for (size_t v = 0; v < t.rows * NV; v++) vf_store(total + v * VF_LANES, vf_set1(0));
                if (rows == 1)
                    gate_product_row(total, a[0], gates, H, panel, NV);
                else
                    gate_product_tiles[NV - 1][t.rows - 1](total, a + t.row, gates, H, k, end, panel);
                if (end == H)
                    finish(context, &t, total);
            }
        }
    }
}

FL_INLINE size_t vector_lanes(const fl_panels *panels, size_t vector)
{
    return vector + 1 == panels->vectors ? panels->N - vector * VF_LANES : VF_LANES;
}

FL_INLINE void row_product_finish(const void *context, const product_tile *t, const real *total)
{
    const fl_row_product *p = context;
    for (size_t r = t->row; r < t->row + t->rows; r++) {
        for (size_t v = t->first; v < t->first + t->vectors; v++, total += VF_LANES) {
            const size_t lanes = vector_lanes(&p->panels, v);
            real *out = (real *)p->out[r] + v * VF_LANES;
            vf sum = vf_load(total);
            if (p->adds)
                sum = vf_add(load_lanes(out, lanes), sum);
            else if (p->bias)
                sum = vf_add(load_lanes((const real *)p->bias + v * VF_LANES, lanes), sum);
            store_lanes(out, sum, lanes);
        }
    }
}

static __attribute__((noinline)) void row_product_prepare(const void *context, const product_tile *t)
{
    const fl_row_product *p = context;
    const size_t stop = (t->first + t->vectors) * VF_LANES, end = stop < p->panels.N ? stop : p->panels.N;
    for (size_t r = t->row; r < t->row + t->rows; r++)
        for (size_t n = t->first * VF_LANES; n < end; n += LINE_LANES)
            __builtin_prefetch((const real *)p->out[r] + n, 0, 2);
}

static void row_product(const fl_row_product *p)
{
    walk_product(p, (const real *const *)p->a, row_product_prepare, row_product_finish, p);
}

/* out[m] = row index[m] of a matrix in panels, plus a bias. */
static void gather_rows(const fl_panels *panels, const void *matrix, size_t K, const void *bias, size_t M,
                        const int64_t *index, void *const *out)
{
    for (size_t m = 0; m < M; m++) {
        for (size_t p = 0; p < panels->count; p++) {
            const size_t first = fl_panel_first(panels, p), NV = fl_panel_first(panels, p + 1) - first;
            const weight *row = (const weight *)matrix + (first * K + NV * (size_t)index[m]) * VF_LANES;
            for (size_t v = 0; v < NV; v++) {
                const size_t begin = (first + v) * VF_LANES, lanes = vector_lanes(panels, first + v);
                const vf sum = vf_add(load_lanes((const real *)bias + begin, lanes), load_weight(row + v * VF_LANES));
                store_lanes((real *)out[m] + begin, sum, lanes);
            }
        }
    }
}

static void outer_product(const fl_outer_product *p)
{
    const size_t first = fl_panel_first(&p->panels, p->panel), NV = fl_panel_first(&p->panels, p->panel + 1) - first;
    const size_t most = product_rows[NV - 1], lanes = vector_lanes(&p->panels, first + NV - 1);
    for (size_t row = p->row_begin, n; row < p->row_end; row += n) {
        n = next_product_rows(p->row_end - row, most);
        real *out = (real *)p->out + (ptrdiff_t)row * p->ld_out + first * VF_LANES;
        outer_product_tiles[NV - 1][n - 1](out, p->ld_out, lanes, p->adds, (const real *)p->a + row, p->a_stride, p->M,
                                           p->x);
    }
}

/* One panel of rows from many places. */
static void fill_panel(const fl_panels *panels, size_t panel, size_t M, const void *const *rows, void *out)
{
    const size_t first = fl_panel_first(panels, panel), NV = fl_panel_first(panels, panel + 1) - first;
    const size_t lanes = vector_lanes(panels, first + NV - 1);
    real *to = out;
    for (size_t m = 0; m < M; m++) {
        const real *from = (const real *)rows[m] + first * VF_LANES;
        if (m + FILL_AHEAD < M)
            for (size_t v = 0; v < NV; v++)
                __builtin_prefetch((const real *)rows[m + FILL_AHEAD] + (first + v) * VF_LANES);
        for (size_t v = 0; v + 1 < NV; v++, from += VF_LANES, to += VF_LANES) vf_store(to, vf_load(from));
        vf_store(to, load_lanes(from, lanes));
        to += VF_LANES;
    }
}

/* ---- Totals over all rows ------------------------------------------------------------------------------------- */

/* A number in two parts: what rounding takes from the high one is in the low one, and joins what is added next (Kahan,
 * "Further remarks on reducing truncation errors", 1965). */
typedef struct two_parts {
    vf high, low;
} two_parts;

/* The sum and its error (Knuth, The Art of Computer Programming, volume 2, section 4.2.2); none behind an overflow. */
FL_INLINE void add_exactly(two_parts *to, vf a)
{
    const vf before = to->high, given = vf_add(a, to->low), zero = vf_set1(0);
    to->high = vf_add(before, given);
    const vf added = vf_sub(to->high, before);
    const vf error = vf_add(vf_sub(before, vf_sub(to->high, added)), vf_sub(given, added));
    to->low = vf_select_lt(vf_abs(to->high), vf_set1((real)INFINITY), error, zero);
}

FL_INLINE void add_to_total(real *total, real *low, two_parts sum, size_t lanes, bool is_first, bool is_last)
{
    if (!is_first) {
        const two_parts part = sum;
        sum.high = load_lanes(total, lanes);
        sum.low = vf_add(load_lanes(low, lanes), part.low);
        add_exactly(&sum, part.high);
    }
    if (!is_last)
        store_lanes(low, sum.low, lanes);
    store_lanes(total, is_last ? vf_add(sum.high, sum.low) : sum.high, lanes);
}

static void fold_sums(const fl_fold *f)
{
    for (size_t row = 0; row < f->rows; row++) {
        const ptrdiff_t at = (ptrdiff_t)row * f->stride;
        for (size_t n = 0; n < f->columns; n += VF_LANES) {
            const size_t lanes = lanes_at(f->columns, n);
            const vf high = f->sums ? load_lanes((const real *)f->sums + at + n, lanes) : vf_set1(0);
            const two_parts sum = {high, vf_set1(0)};
            add_to_total((real *)f->total + at + n, (real *)f->low + at + n, sum, lanes, f->is_first, f->is_last);
        }
    }
}

#define TOGETHER 8 /* rows that are added in pairs, the pairs in pairs, before that counts as one */

static void column_sums(size_t M, const void *a, ptrdiff_t a_stride, const fl_fold *f)
{
    for (size_t n = 0; n < f->columns; n += VF_LANES) {
        const size_t lanes = lanes_at(f->columns, n);
        const real *element = (const real *)a + n;
        two_parts sum = {vf_set1(0), vf_set1(0)};
        for (size_t m = 0; m < M; m += TOGETHER) {
            vf row[TOGETHER];
            FL_UNROLL_FOR (size_t r = 0; r < TOGETHER; r++) row[r] = vf_set1(0);
            for (size_t r = 0; r < TOGETHER && m + r < M; r++, element += a_stride) row[r] = load_lanes(element, lanes);
            const vf pairs[2] = {vf_add(vf_add(row[0], row[1]), vf_add(row[2], row[3])),
                                 vf_add(vf_add(row[4], row[5]), vf_add(row[6], row[7]))};
            add_exactly(&sum, vf_add(pairs[0], pairs[1]));
        }
        add_to_total((real *)f->total + n, (real *)f->low + n, sum, lanes, f->is_first, f->is_last);
    }
}

static void scatter_rows(size_t M, const void *a, ptrdiff_t a_stride, const int64_t *index, size_t begin, size_t end,
                         void *total, void *low, ptrdiff_t ld_out)
{
    for (size_t m = 0; m < M; m++) {
        const real *from = (const real *)a + (ptrdiff_t)m * a_stride;
        real *to = (real *)total + (ptrdiff_t)index[m] * ld_out, *low_to = (real *)low + (ptrdiff_t)index[m] * ld_out;
        for (size_t n = begin; n < end; n += VF_LANES) {
            const size_t lanes = lanes_at(end, n);
            const two_parts one = {load_lanes(from + n, lanes), vf_set1(0)};
            add_to_total(to + n, low_to + n, one, lanes, false, false);
        }
    }
}

#endif
