# SPDX-License-Identifier: BSD-3-Clause
"""The LSTM family in readable NumPy: the specification of every compiled kernel, and its baseline for speed.

Nothing here uses the compiled module.  All functions work in any floating dtype; run in float64 (or
longdouble) they are the truth that the tests compare with.  `forward` and `backward` are all cells with all
options, `Config` says which; `lstm` and `lstm_backward` are the plain LSTM with PyTorch's parameters alone.

=====================  ==================================================================
file                   what it says
=====================  ==================================================================
``activations.py``     the eleven activations and their slopes
``config.py``          options of a stack, names and shapes of its parameters
``cell_base.py``       what a cell is: a step, and the step's gradient
``cell_rnn.py``        the plain recurrent cell, the independently recurrent one (IndRNN)
``cell_gru.py``        GRU
``cell_mgu.py``        the minimal gated unit
``cell_lstm.py``       LSTM: peepholes, coupled gates, projection, normalisation, zoneout
``cell_slstm.py``      sLSTM
``cell_minimal.py``    minGRU and minLSTM
``draws.py``           random masks, each a function of a seed and of the place
``batches.py``         lengths, masks, resets, paddings, states
``direction.py``       a cell over all steps, and back
``stack.py``           layers, directions, results
``plain.py``           the plain LSTM's pieces and calls
=====================  ==================================================================

Letters: T time, B batch, I input features, H hidden units, P width of h where it is projected, L layers, D
directions.  Gates of an LSTM stand in the order i (input), f (forget), g (candidate), o (output), and
parameters have PyTorch's names and shapes: ``weight_ih_l{layer}`` (4H, I), ``weight_hh_l{layer}`` (4H, H),
``bias_ih_l{layer}`` (4H) and ``bias_hh_l{layer}`` (4H), with the suffix ``_reverse`` for the second
direction; a layer above the first has D*H inputs.

The equations of the plain LSTM are those of Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997), with
the forget gate of Gers, Schmidhuber & Cummins, "Learning to Forget" (2000), written as in
``torch.nn.LSTM``::

    a_i, a_f, a_g, a_o = W x_t + U h_{t-1} + b
    i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
    g = tanh(a_g)
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

The others are in their cells' files, each with its source.  Gradients are those of backpropagation through
time (Werbos 1990).
"""

from .activations import Activation, activation, sigmoid, tanh
from .batches import pad_ragged
from .config import CELL_OPTIONS, Config, param_shapes
from .draws import dropout_mask, recurrent_dropout_mask, variational_mask, zoneout_mask
from .plain import cell_update, gate_matmul, lstm, lstm_backward, lstm_cell
from .stack import Result, backward, forward

__all__ = [
    "CELL_OPTIONS",
    "Activation",
    "Config",
    "Result",
    "activation",
    "backward",
    "cell_update",
    "dropout_mask",
    "forward",
    "gate_matmul",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "pad_ragged",
    "param_shapes",
    "recurrent_dropout_mask",
    "sigmoid",
    "tanh",
    "variational_mask",
    "zoneout_mask",
]
