# SPDX-License-Identifier: BSD-3-Clause
"""Compiled LSTM kernels for NumPy.

`LSTM`, `GRU` and `RNN` are the layers, with the shapes, names and meaning of ``torch.nn``; `IndRNN`, `SLSTM`,
`MinGRU` and `MinLSTM` are their relatives, `LSTMCell`, `GRUCell` and `RNNCell` single steps.  `kernels` holds
the pieces they are made of, and `reference` the same in readable NumPy.  `Dense` and `Embedding` are layers
that they are trained with; `losses` and `optim` are what trains them.  `onnx_lstm`, `onnx_gru` and
`onnx_rnn` are ONNX's operators.
"""

from . import kernels, losses, optim, reference
from .dense import Dense
from .embedding import Embedding
from .layers import GRU, LSTM, RNN, SLSTM, GRUCell, IndRNN, LSTMCell, MinGRU, MinLSTM, RNNCell
from .onnx_ops import onnx_gru, onnx_lstm, onnx_rnn
from .runtime import get_num_threads, set_num_threads, show_runtime, threads

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Dense",
    "Embedding",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "RNNCell",
    "get_num_threads",
    "kernels",
    "losses",
    "onnx_gru",
    "onnx_lstm",
    "onnx_rnn",
    "optim",
    "reference",
    "set_num_threads",
    "show_runtime",
    "threads",
]
