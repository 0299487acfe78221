# SPDX-License-Identifier: BSD-3-Clause
"""Compiled LSTM kernels for NumPy.

`LSTM`, `GRU` and `RNN` are the layers, with the shapes, names and meaning of ``torch.nn``; `IndRNN`, `MGU`,
`SLSTM`, `MinGRU` and `MinLSTM` are their relatives, `LSTMCell`, `GRUCell` and `RNNCell` single steps.
`kernels` holds the pieces they are made of, and `reference` the same in readable NumPy.  `Dense` and
`Embedding` are layers that they are trained with; `losses`, `optim` and `schedules` are what trains them,
`testing` looks whether gradients are right, and `save` and `load` keep them.  `load` reads models of other
programs, too, `from_state_dict`, `from_gates` and `convert` what is in memory, and `to_torch`, `to_keras` and
`to_onnx` go the other way.  `onnx_lstm`, `onnx_gru` and `onnx_rnn` are ONNX's operators.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .runtime import get_num_threads, set_num_threads, show_runtime, threads

if TYPE_CHECKING:
    from . import convert, kernels, losses, optim, reference, schedules, testing
    from .convert.foreign import to_keras, to_torch
    from .convert.onnx_graphs import to_onnx
    from .convert.separate import from_gates
    from .convert.state_dicts import from_state_dict
    from .interop.onnx import onnx_gru, onnx_lstm, onnx_rnn
    from .layers.dense import Dense
    from .layers.embedding import Embedding
    from .layers.gru import GRU, GRUCell
    from .layers.lstm import LSTM, LSTMCell
    from .layers.minimal import MGU, MinGRU, MinLSTM
    from .layers.packed import Packed, pack
    from .layers.rnn import RNN, IndRNN, RNNCell
    from .layers.slstm import SLSTM
    from .saving import Model, load, save

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "MGU",
    "RNN",
    "SLSTM",
    "Dense",
    "Embedding",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "Model",
    "Packed",
    "RNNCell",
    "convert",
    "from_gates",
    "from_state_dict",
    "get_num_threads",
    "kernels",
    "load",
    "losses",
    "onnx_gru",
    "onnx_lstm",
    "onnx_rnn",
    "optim",
    "pack",
    "reference",
    "save",
    "schedules",
    "set_num_threads",
    "show_runtime",
    "testing",
    "threads",
    "to_keras",
    "to_onnx",
    "to_torch",
]

# Imported when first used: who wants one layer does not wait for the others.
_HOMES = {
    ".convert.foreign": ("to_keras", "to_torch"),
    ".convert.onnx_graphs": ("to_onnx",),
    ".convert.separate": ("from_gates",),
    ".convert.state_dicts": ("from_state_dict",),
    ".interop.onnx": ("onnx_gru", "onnx_lstm", "onnx_rnn"),
    ".layers.dense": ("Dense",),
    ".layers.embedding": ("Embedding",),
    ".layers.gru": ("GRU", "GRUCell"),
    ".layers.lstm": ("LSTM", "LSTMCell"),
    ".layers.minimal": ("MGU", "MinGRU", "MinLSTM"),
    ".layers.packed": ("Packed", "pack"),
    ".layers.rnn": ("RNN", "IndRNN", "RNNCell"),
    ".layers.slstm": ("SLSTM",),
    ".saving": ("Model", "load", "save"),
}
_MODULES = ("convert", "kernels", "losses", "optim", "reference", "schedules", "testing")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    for home, names in _HOMES.items():
        if name in names:
            module = importlib.import_module(home, __name__)
            globals().update({each: getattr(module, each) for each in names})
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
