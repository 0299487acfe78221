# SPDX-License-Identifier: BSD-3-Clause
"""Compiled LSTM kernels for NumPy.

`LSTM` and `LSTMCell` are the layers, with the shapes, names and meaning of ``torch.nn``; `kernels` holds the
pieces they are made of, and `reference` the same in readable NumPy.
"""

from . import kernels, reference
from .layers import LSTM, LSTMCell
from .runtime import get_num_threads, set_num_threads, show_runtime, threads

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "LSTMCell",
    "get_num_threads",
    "kernels",
    "reference",
    "set_num_threads",
    "show_runtime",
    "threads",
]
