/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The packed layout of weights, biases and hoisted pre-activations.
 *
 * Hidden units stand in blocks of one vector of `lanes` units.  For block j one contiguous panel holds, for each k, the
 * gates' weights of its units side by side, panel[k][gate][lane], so that all gates of a unit meet in the registers of one
 * tile.  Where H is no multiple of `lanes`, the last block is
 *     a full one with padded lanes, where more than half of them are used;
 *     two vectors [i | f] [g | o] a k, where at most half are;
 *     one vector [i | f | g | o] a k, where at most a quarter is;
 * three gates leave the last place empty.  With one gate a block is four vectors of units, and the last one may have only one
 * or two.  Padding is zero.  A bias or a row of pre-activations is laid out as one k.
 */
#ifndef FL_LAYOUT_H
#define FL_LAYOUT_H
#include <stdbool.h>
#include <stddef.h>

/* Length of a chain of multiply-adds.  Partial sums of this length, added to the total, lose far less to rounding than one
 * long chain onto a large value: it decides the bits of every result, so it is the same for all. */
#define FL_K_BLOCK 64

typedef struct fl_layout {
    size_t H;
    size_t gates; /* 1, 3 or 4 */
    size_t lanes;
    size_t vectors;      /* of a full block: one a gate, or 4 of one gate */
    size_t units;        /* of a full block */
    size_t full_blocks;  /* a padded one included */
    size_t tail_vectors; /* 0, 1 or 2: vectors of the packed last block */
    size_t blocks;       /* full_blocks + (tail_vectors != 0) */
    size_t last_lanes;   /* units in the last block, 1..units */
    size_t gate_row;     /* elements of one k over all blocks */
} fl_layout;

static inline fl_layout fl_layout_of(size_t H, size_t gates, size_t lanes)
{
    fl_layout layout;
    const size_t vectors = gates == 1 ? 4 : gates, units = gates == 1 ? 4 * lanes : lanes;
    /* Lanes that a unit of the rest takes of a packed vector. */
    const size_t rest = H % units, packed = gates == 1 ? rest : 4 * rest;
    layout.H = H;
    layout.gates = gates;
    layout.lanes = lanes;
    layout.vectors = vectors;
    layout.units = units;
    layout.full_blocks = H / units;
    layout.tail_vectors = (packed + lanes - 1) / lanes;
    if (layout.tail_vectors > 2) {
        layout.tail_vectors = 0;
        layout.full_blocks++;
    }
    layout.blocks = layout.full_blocks + (layout.tail_vectors != 0);
    layout.last_lanes = rest != 0 ? rest : units;
    layout.gate_row = (vectors * layout.full_blocks + layout.tail_vectors) * lanes;
    return layout;
}

/* Element offset of block j in a bias or a row of pre-activations. */
static inline size_t fl_block_offset(const fl_layout *layout, size_t j) { return layout->vectors * j * layout->lanes; }

/* Elements from one panel to the next in K-deep weights. */
static inline size_t fl_panel_stride(const fl_layout *layout, size_t K) { return layout->vectors * layout->lanes * K; }

/* Where `gate` of a hidden unit stands within one k of its block, and the elements from one k to the next. */
static inline size_t fl_gate_offset(const fl_layout *layout, size_t gate, size_t unit, size_t *step)
{
    const size_t within = unit % layout->units;
    const bool is_tail = unit / layout->units >= layout->full_blocks;
    *step = (is_tail ? layout->tail_vectors : layout->vectors) * layout->lanes;
    return gate * (is_tail ? *step / 4 : layout->lanes) + within;
}

/* Panels: a matrix of N columns cut into vectors, and those dealt out to panels of 4 at most, of sizes as equal as
 * possible.  Within a panel, one row follows the other: panel[k][vector][lane].  Padding is zero. */
typedef struct fl_panels {
    size_t N, lanes;
    size_t vectors; /* of all columns: */
    size_t parts;   /* of `together` vectors each, which one panel has all of */
    size_t together;
    size_t count; /* of panels */
} fl_panels;

static inline fl_panels fl_panels_of(size_t N, size_t lanes)
{
    fl_panels panels;
    panels.N = N;
    panels.lanes = lanes;
    panels.vectors = (N + lanes - 1) / lanes;
    panels.parts = panels.vectors;
    panels.together = 1;
    panels.count = (panels.vectors + 3) / 4;
    return panels;
}

/* Panels for up to 4 gates of H units: the columns are [vector of units][gate][lane], all gates of a vector of units in
 * one panel.  Where that is a single vector of units, its gates follow each other without padding between them.  A
 * vector may be read beyond the end. */
static inline fl_panels fl_unit_panels_of(size_t H, size_t gates, size_t lanes)
{
    const size_t widest = 4 / gates;
    fl_panels panels;
    panels.lanes = lanes;
    panels.parts = (H + lanes - 1) / lanes;
    panels.together = panels.parts == 1 ? (gates * H + lanes - 1) / lanes : gates;
    panels.vectors = panels.parts * panels.together;
    panels.N = panels.vectors * lanes;
    panels.count = (panels.parts + widest - 1) / widest;
    return panels;
}

/* From one gate to the next. */
static inline size_t fl_gate_stride(const fl_panels *panels, size_t H)
{
    return panels->parts == 1 ? H : panels->lanes;
}

/* First vector of a panel; of panel `count`, the number of vectors.  The panel of a K-row matrix begins at element
 * fl_panel_first * lanes * K. */
static inline size_t fl_panel_first(const fl_panels *panels, size_t panel)
{
    const size_t larger = panels->parts % panels->count;
    return (panels->parts / panels->count * panel + (panel < larger ? panel : larger)) * panels->together;
}

/* Of unit panels: the column at which `gate` of the units from `unit` on begins, that at which its panel does, and the
 * width of the panel. */
static inline size_t fl_unit_column(const fl_panels *panels, size_t H, size_t gate, size_t unit, size_t *panel,
                                    size_t *width)
{
    const size_t part = unit / panels->lanes;
    size_t p = 0;
    while (fl_panel_first(panels, p + 1) <= part * panels->together) p++;
    *panel = fl_panel_first(panels, p) * panels->lanes;
    *width = fl_panel_first(panels, p + 1) * panels->lanes - *panel;
    return part * panels->together * panels->lanes + gate * fl_gate_stride(panels, H);
}

#endif
