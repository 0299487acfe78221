/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a cell is: its sizes, and its parameters beside the matrices, as kernels take them.
 *
 * Products give each cell two rows of pre-activations, of the input and of the state; each holds its own bias.  A cell
 * that tells the two apart is `split`; the others take the sum.  For the backward pass a step leaves `saved` elements, and
 * gives gradients of both rows, beside `extras` columns whose sums over all rows are gradients of the other parameters:
 *     peepholes (n*H), then with layer norm: bias (G*H), weight_ln_ih (G*H), weight_ln_hh (G*H), weight_ln_c, bias_ln_c (H);
 *     IndRNN: weight_hh (H).
 */
#ifndef FL_CELLS_H
#define FL_CELLS_H
#include <stdbool.h>
#include <stddef.h>

#include "fastlstm.h"

#define FL_MAX_GATES 4

typedef struct fl_cell_sizes {
    size_t H, P;      /* units; width of h */
    size_t gates;     /* G: rows of weight_ih, in units */
    size_t states;    /* beside h, each (H): c; or c, n, m */
    size_t saved;     /* elements a row and step */
    size_t peepholes; /* n */
    size_t extras;    /* elements */
    bool split;
    bool
        keeps_gates; /* what is saved are gates after activation: the LSTM with usual activations, and peepholes or not */
    bool recurs;     /* has a recurrent product */
    bool bypasses;   /* a part of the gradient of h before the step does not go through that product */
} fl_cell_sizes;

/* Parameters of one layer and direction beside the matrices, in the dtype of the layer and in the order of fl_weights. */
typedef struct fl_cell {
    fl_cell_options options; /* no activation is the default one */
    fl_cell_sizes sizes;
    bool is_usual;         /* LSTM, GRU: usual activations, no clip of gates or c, no zoneout */
    const void *bias;      /* (G*H): bias_ih + bias_hh; with layer norm alone */
    const void *weight_ch; /* a vector may be read beyond its end */
    const void *weight_hh; /* IndRNN */
    const void *weight_ln_ih, *weight_ln_hh, *weight_ln_c, *bias_ln_c;
} fl_cell;

/* How a step of a cell is computed; results depend on it, so it is a function of the options alone. */
typedef enum fl_path {
    FL_PATH_LSTM,  /* tiles that end in the plain LSTM */
    FL_PATH_TILES, /* tiles that end in a unit of the cell */
    FL_PATH_ROWS,  /* products to rows of pre-activations, and the cell on whole rows */
    FL_PATH_SCAN   /* no recurrent product: tiles of input products over rows of all steps, which end in the cell */
} fl_path;

/* fl_cell.is_usual, of complete options. */
bool fl_cell_is_usual(const fl_cell_options *options);
bool fl_cell_options_are_valid(const fl_cell_options *options, size_t H);
fl_cell_sizes fl_cell_sizes_of(const fl_cell_options *options, size_t H);
/* The options with defaults written out. */
fl_cell_options fl_cell_options_complete(fl_cell_options options);
fl_path fl_cell_path(const fl_cell_options *options);

#endif
