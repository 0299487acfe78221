/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All kernels of one instruction set, dtype and storage of weights, and their tables.  A file of this folder defines
 * FL_REAL_BITS and FL_ISA, includes its vocabulary (kernels/simd/simd_<isa>.h) and a product
 * (kernels/products/product_<storage>_body.h), and then this file.
 */
#include "kernels/kernels.h"

#include "kernels/cells/gru_body.h"
#include "kernels/cells/lstm_norm_body.h"
#include "kernels/cells/lstm_options_body.h"
#include "kernels/cells/mgu_body.h"
#include "kernels/cells/minimal_body.h"
#include "kernels/cells/rnn_body.h"
#include "kernels/cells/slstm_body.h"
#include "kernels/walks/optimiser_body.h"
#include "kernels/walks/pieces_body.h"
#include "kernels/walks/rows_back_body.h"
#include "kernels/walks/rows_body.h"
#include "kernels/walks/scan_body.h"
#include "kernels/walks/tiles_back_body.h"
#include "kernels/walks/tiles_body.h"

/* ---- Cells --------------------------------------------------------------------------------------------------- */

STEPS_OF_INLINED(lstm, true)
TILE_BACK_OF_UNITS(lstm, false)
STEPS_OF_INLINED(lstm_peephole, false)
TILE_BACK_OF_UNITS(lstm_peephole, false)
STEPS_OF_STORED(lstm_options, 4)
STEPS_OF_STORED(lstm_options, 3)
TILE_BACK_OF_UNITS(lstm_options, true)
ROW_OF_UNITS(lstm_options, 4)
ROW_OF_UNITS(lstm_options, 3)
ROW_BACK_OF_UNITS(lstm_options)
STEPS_OF_STORED(gru, 3)
TILE_BACK_OF_UNITS(gru, true)
EARLY_AND_LATE(gru, 2)
ROW_BACK_OF_UNITS(gru_late)
EARLY_ROW_BACK(gru)
EARLY_AND_LATE(mgu, 1)
ROW_BACK_OF_UNITS(mgu_late)
EARLY_ROW_BACK(mgu)
STEPS_OF_STORED_UNITS(rnn)
TILE_BACK_OF_UNITS(rnn, false)
ROW_OF_UNITS(slstm, 4)
ROW_BACK_OF_UNITS(slstm)
SCAN(indrnn, 1)
ROW_BACK_OF_UNITS(indrnn)
SCAN(mingru, 2)
ROW_BACK_OF_UNITS(mingru)
SCAN(minlstm, 3)
ROW_BACK_OF_UNITS(minlstm)

/* What each variant is made of. */
static const cell_functions cell_table[FL_VARIANT_COUNT] = {
    [FL_LSTM] = {.steps = lstm_steps, .tile_back = lstm_tile_back},
    [FL_LSTM_PEEPHOLE] = {.steps = lstm_peephole_steps, .tile_back = lstm_peephole_tile_back},
    [FL_LSTM_OPTIONS] = {.steps = lstm_options_steps_4,
                         .tile_back = lstm_options_tile_back,
                         .row_back = lstm_options_row_back},
    [FL_LSTM_COUPLED] = {.steps = lstm_options_steps_3,
                         .tile_back = lstm_options_tile_back,
                         .row_back = lstm_options_row_back},
    [FL_LSTM_DROPPED] = {.row = lstm_options_row_4, .row_back = lstm_options_row_back},
    [FL_LSTM_COUPLED_DROPPED] = {.row = lstm_options_row_3, .row_back = lstm_options_row_back},
    [FL_LSTM_NORM] = {.row = lstm_norm_row, .row_back = lstm_norm_row_back},
    [FL_GRU] = {.steps = gru_steps_3, .tile_back = gru_tile_back},
    [FL_GRU_RESET_BEFORE] = {.early = gru_early_row,
                             .late = gru_late_row,
                             .row_back = gru_late_row_back,
                             .early_back = gru_early_row_back},
    [FL_MGU] = {.early = mgu_early_row,
                .late = mgu_late_row,
                .row_back = mgu_late_row_back,
                .early_back = mgu_early_row_back},
    [FL_RNN] = {.steps = rnn_steps, .tile_back = rnn_tile_back},
    [FL_INDRNN] = {.scan_tile = indrnn_scan_tile, .scan_rows = indrnn_scan_rows, .row_back = indrnn_row_back},
    [FL_SLSTM] = {.row = slstm_row_4, .row_back = slstm_row_back},
    [FL_MINGRU] = {.scan_tile = mingru_scan_tile, .scan_rows = mingru_scan_rows, .row_back = mingru_row_back},
    [FL_MINLSTM] = {.scan_tile = minlstm_scan_tile, .scan_rows = minlstm_scan_rows, .row_back = minlstm_row_back},
};

/* ---- The table of kernels ------------------------------------------------------------------------------------ */

static void tile_steps(const fl_steps *s) { functions_of(s->cell)->steps(s); }

#define FL_PASTE_(isa, suffix) fl_kernels_##isa##_##suffix
#define FL_PASTE(isa, suffix) FL_PASTE_(isa, suffix)
#define FL_STRING_(isa) #isa
#define FL_STRING(isa) FL_STRING_(isa)

extern const fl_kernels FL_PASTE(FL_ISA, FL_SUFFIX);

const fl_kernels FL_PASTE(FL_ISA, FL_SUFFIX) = {
    .isa = FL_STRING(FL_ISA),
    .lanes = VF_LANES,
    .max_rows = MAX_ROWS,
    .weight_size = sizeof(weight),
    .pack_gates = pack_gates,
    .pack_panels = pack_panels,
    .pack_units = pack_units,
    .pack_gate_panels = pack_gate_panels,
    .tile_steps = tile_steps,
    .row_steps = row_steps,
    .scan = scan,
    .tile_back_steps = tile_back_steps,
    .row_back_steps = row_back_steps,
    .input_product = input_product,
    .gate_rows = gate_rows,
    .row_product = row_product,
    .gather_rows = gather_rows,
    .project = project,
    .outer_product = outer_product,
    .fill_panel = fill_panel,
    .fold_sums = fold_sums,
    .column_sums = column_sums,
    .scatter_rows = scatter_rows,
    .gate_matmul = gate_matmul,
    .lstm_cell_update = lstm_cell_update,
    .sigmoid = sigmoid_array,
    .tanh = tanh_array,
    .add = add_array,
    .multiply = multiply_array,
    .adam = adam,
    .sgd = sgd,
    .all_finite = all_finite,
    .sum_squares = sum_squares,
    .largest = largest,
    .rescale = rescale,
    .probe_fma = probe_fma,
    .probe_stream = probe_stream,
};
