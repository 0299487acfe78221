# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch modules that run in fastlstm's kernels, training included; needs torch (``fastlstm[torch]``).

`LSTM`, `GRU`, `RNN` and their cells are as ``torch.nn`` has them, with further options of fastlstm's layers;
`accelerate` puts them into a model that is there, in place, and `restore` takes them out.  `freeze` says
that the weights of a model no longer change, so that calls need not look.
"""

from .accelerating import Report, accelerate, restore
from .modules import (
    GRU,
    LSTM,
    MGU,
    RNN,
    GRUCell,
    IndRNN,
    LSTMCell,
    MinGRU,
    MinLSTM,
    RNNCell,
    freeze,
    unfreeze,
)

__all__ = [
    "GRU",
    "LSTM",
    "MGU",
    "RNN",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "RNNCell",
    "Report",
    "accelerate",
    "freeze",
    "restore",
    "unfreeze",
]
