# SPDX-License-Identifier: BSD-3-Clause
"""All recurrent layers and cells, their streams and tapes, by name; recurrent.py has what they share."""

from ._core import Tape
from .gru import GRU, GRUCell
from .lstm import LSTM, SLSTM, LSTMCell
from .minimal import MinGRU, MinLSTM
from .rnn import RNN, IndRNN, RNNCell
from .stacks import TapeOfParts
from .streams import Stream, StreamOfParts

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "RNNCell",
    "Stream",
    "StreamOfParts",
    "Tape",
    "TapeOfParts",
]
