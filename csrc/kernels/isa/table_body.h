/* SPDX-License-Identifier: BSD-3-Clause
 *
 * All kernels of one instruction set and dtype, and their table.  A kernels_<isa>_<dtype>.c defines FL_REAL_BITS and
 * FL_ISA, includes its simd_<isa>.h and then this file.
 */
#include "kernels/kernels.h"

#include "kernels/simd/vecmath_body.h"
#include "kernels/simd/activations_body.h"
#include "kernels/cells/cell_contract.h"

#include "kernels/walks/tile_body.h"
#include "kernels/cells/lstm_body.h"
#include "kernels/cells/lstm_options_body.h"
#include "kernels/cells/lstm_norm_body.h"
#include "kernels/cells/gru_body.h"
#include "kernels/cells/rnn_body.h"
#include "kernels/cells/slstm_body.h"
#include "kernels/cells/minimal_body.h"
#include "kernels/walks/tiles_body.h"
#include "kernels/products/panel_body.h"
#include "kernels/walks/rows_body.h"
#include "kernels/walks/scan_body.h"
#include "kernels/walks/backward_body.h"
#include "kernels/walks/rows_back_body.h"
#include "kernels/walks/tiles_back_body.h"
#include "kernels/walks/optimiser_body.h"
#include "kernels/walks/pieces_body.h"

#define FL_PASTE_(isa, suffix) fl_kernels_##isa##_##suffix
#define FL_PASTE(isa, suffix) FL_PASTE_(isa, suffix)
#define FL_STRING_(isa) #isa
#define FL_STRING(isa) FL_STRING_(isa)

const fl_kernels FL_PASTE(FL_ISA, FL_SUFFIX) = {
    .isa = FL_STRING(FL_ISA),
    .lanes = VF_LANES,
    .max_rows = MAX_ROWS,
    .lstm_steps = lstm_steps,
    .input_product = input_product,
    .gate_matmul = gate_matmul,
    .lstm_cell_update = lstm_cell_update,
    .lstm_gate_rows = lstm_gate_rows,
    .lstm_back_steps = lstm_back_steps,
    .row_product = row_product,
    .gather_rows = gather_rows,
    .cell_steps = cell_steps,
    .row_steps = row_steps,
    .scan = scan,
    .cell_back_steps = cell_back_steps,
    .project = project,
    .outer_product = outer_product,
    .fill_panel = fill_panel,
    .column_sums = column_sums,
    .scatter_rows = scatter_rows,
    .add = add_array,
    .multiply = multiply_array,
    .adam = adam,
    .sigmoid = sigmoid_array,
    .tanh = tanh_array,
    .probe_fma = probe_fma,
    .probe_stream = probe_stream,
};
