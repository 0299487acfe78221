/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All kernels of one instruction set, dtype and storage of weights, and their tables.  A file of this folder defines
 * FL_REAL_BITS and FL_ISA, includes its vocabulary (kernels/simd/simd_<isa>.h) and a product
 * (kernels/products/product_<storage>_body.h), and then this file.
 */
#include "kernels/kernels.h"

#include "kernels/walks/pieces_body.h"
#include "kernels/walks/optimiser_body.h"
#include "kernels/walks/tiles_body.h"
#include "kernels/walks/rows_body.h"
#include "kernels/walks/scan_body.h"
#include "kernels/walks/rows_back_body.h"
#include "kernels/walks/tiles_back_body.h"

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
    [FL_RNN] = {.steps = rnn_steps, .tile_back = rnn_tile_back},
    [FL_INDRNN] = {.scan_tile = indrnn_scan_tile, .scan_rows = indrnn_scan_rows, .row_back = indrnn_row_back},
    [FL_SLSTM] = {.row = slstm_row_4, .row_back = slstm_row_back},
    [FL_MINGRU] = {.scan_tile = mingru_scan_tile, .scan_rows = mingru_scan_rows, .row_back = mingru_row_back},
    [FL_MINLSTM] = {.scan_tile = minlstm_scan_tile, .scan_rows = minlstm_scan_rows, .row_back = minlstm_row_back},
};

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
    .column_sums = column_sums,
    .scatter_rows = scatter_rows,
    .gate_matmul = gate_matmul,
    .lstm_cell_update = lstm_cell_update,
    .sigmoid = sigmoid_array,
    .tanh = tanh_array,
    .add = add_array,
    .multiply = multiply_array,
    .adam = adam,
    .probe_fma = probe_fma,
    .probe_stream = probe_stream,
};
