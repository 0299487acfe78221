/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a cell is: its variant, the sizes that follow, and its own parameters as kernels take them.  The table of variants
 * is in cells.c.
 *
 * Products give each cell two rows of pre-activations, of the input and of the state; each holds its own bias.  A cell
 * that tells the two apart is `split`; the others take the sum.  For the backward pass a step leaves `saved` elements, and
 * gives gradients of both rows, beside `extras` columns whose sums over all rows are gradients of parameters that are no
 * matrices: see fl_gradient_row in parameters.h.
 */
#ifndef FL_CELL_H
#define FL_CELL_H
#include <stdbool.h>
#include <stddef.h>

#include "base/exact.h"
#include "fastlstm.h"

#define FL_MAX_GATES 4

/* How a step is computed; results depend on it, so it is a function of the variant alone. */
typedef enum fl_path {
    FL_PATH_TILES, /* tiles of the gates' products, which end in a unit of the cell */
    FL_PATH_ROWS,  /* products to rows of pre-activations, and the cell on whole rows */
    FL_PATH_SCAN   /* no recurrent product: tiles of input products over rows of all steps, which end in the cell */
} fl_path;

/* Kinds of cells, with those options that decide how they are computed. */
typedef enum fl_variant {
    FL_LSTM,          /* PyTorch's */
    FL_LSTM_PEEPHOLE, /* with peepholes, and nothing else */
    FL_LSTM_OPTIONS,  /* of four gates, with any other option */
    FL_LSTM_COUPLED,  /* of three gates */
    FL_LSTM_DROPPED,  /* with recurrent dropout: h under a mask for each gate */
    FL_LSTM_COUPLED_DROPPED,
    FL_LSTM_NORM, /* with layer norm */
    FL_GRU,
    FL_GRU_RESET_BEFORE,
    FL_MGU,
    FL_RNN,
    FL_INDRNN,
    FL_SLSTM,
    FL_MINGRU,
    FL_MINLSTM,
    FL_VARIANT_COUNT
} fl_variant;

typedef struct fl_cell_sizes {
    fl_variant variant;
    fl_path path;
    const char *gate_names; /* a letter for each */
    size_t H, P;            /* units; width of h */
    size_t gates;           /* G: rows of weight_ih, in units */
    size_t states;          /* beside h, each (H): c; or c, n, m */
    size_t heads;           /* blocks of a block-diagonal weight_hh, else 1 */
    size_t early_gates;  /* gates that are computed ahead of the last one, which sees r h in place of h; 0: no such */
    size_t saved;        /* elements a row and step */
    size_t peepholes;    /* n */
    unsigned parameters; /* bits of fl_parameter_index */
    fl_layer_norm norm;
    bool split;
    bool recurs;            /* has a recurrent product */
    bool is_diagonal;       /* weight_hh is (H) */
    bool bypasses;          /* a part of the gradient of h before the step does not go through that product */
    bool reads_h_before;    /* the cell's gradient takes h before the step */
    bool gates_from_states; /* the backward pass may compute gates again from h and c of each step */
} fl_cell_sizes;

/* One layer and direction, as kernels see it beside the matrices. */
typedef struct fl_cell {
    fl_cell_options options; /* no activation is the default one */
    fl_cell_sizes sizes;
    bool is_usual;  /* LSTM, GRU: usual activations, no clip of gates or c, no zoneout */
    fl_weights own; /* parameters that are no matrices; with layer norm bias_ih is the sum of both biases */
} fl_cell;

/* As fl_cell_set_option takes it; null beyond the last. */
const char *fl_cell_kind_name(size_t kind);

bool fl_cell_options_are_valid(const fl_cell_options *options, size_t H);
/* The options with defaults written out. */
fl_cell_options fl_cell_options_complete(fl_cell_options options);
/* fl_cell.is_usual, of complete options. */
bool fl_cell_is_usual(const fl_cell_options *options);
/* Of complete options. */
fl_cell_sizes fl_cell_sizes_of(const fl_cell_options *options, size_t H);

/* Elements of the states beside h, of one row. */
static inline size_t fl_states_width(const fl_cell_sizes *sizes) { return sizes->states * sizes->H; }

/* Depth and width of one matrix of weight_hh as whole rows take it: of a gate, or of a gate and head. */
static inline size_t fl_head_depth(const fl_cell_sizes *sizes) { return sizes->P / sizes->heads; }
static inline size_t fl_head_width(const fl_cell_sizes *sizes) { return sizes->H / sizes->heads; }

#endif
