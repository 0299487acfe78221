# SPDX-License-Identifier: BSD-3-Clause
"""sLSTM: exponential gates, a normaliser, and heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..model.checks import checked_number
from ..model.options import CellOption, Settings, hidden_sizes
from .base import RecurrentLayer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["SLSTM"]


def _refused_heads(o: Settings) -> str | None:
    odd = [size for size in hidden_sizes(o) if size % o["heads"]]
    return f"a divisor of hidden_size = {odd[0]}" if odd else None


def _checked_floor(value: Any, name: str) -> float:
    return checked_number(value, name, "a number of at least 0", lambda n: 0 <= n < float("inf"))


class SLSTM(RecurrentLayer):
    """A stack of sLSTM layers over whole sequences: exponential gates, a normaliser, and heads.

    A call returns ``y, (h_n, c_n, n_n, m_n)``; all else is as of `LSTM`.  For each time step, element by
    element, with W = weight_ih, U = weight_hh and b = bias_ih (Beck et al. 2024, "xLSTM: Extended long
    short-term memory")::

        a_i, a_f, a_z, a_o = W x_t + U h_{t-1} + b
        m_t = max(a_i, log sigmoid(a_f) + m_{t-1}), or a_i where n_{t-1} is 0
        i, f = exp(a_i - m_t), exp(log sigmoid(a_f) + m_{t-1} - m_t)
        c_t = f * c_{t-1} + i * tanh(a_z)
        n_t = max(f * n_{t-1} + i, n_floor)
        h_t = sigmoid(a_o) * c_t / n_t

    U is block-diagonal: each head's gates see the h of that head alone.  Where n_{t-1} is 0, nothing is kept:
    f = 0.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As of `LSTM`.
    heads : int
        Blocks of U; divides H.
    n_floor : float
        Least value of n; 1 is that of FlashRNN, 0 that of the paper.
    input_dropout, dropout_masks, init, reverse, reverse_order, residual, merge, dtype, num_threads, rng
        As of `LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (4H, I), ``weight_hh`` (4H, H / heads), ``bias_ih`` (4H,), gates in the order i, f, z,
        o.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As of `LSTM`.

    Notes
    -----
    Calls are as of `LSTM`, with four states, each (L*D, B, H), in place of two.

    Examples
    --------
    >>> import numpy as np
    >>> layer = SLSTM(3, 4, heads=2, rng=0)
    >>> {name: value.shape for name, value in layer.params.items()}
    {'weight_ih_l0': (16, 3), 'weight_hh_l0': (16, 2), 'bias_ih_l0': (16,)}
    """

    _kind = "slstm"

    heads = CellOption(_core.count, 1, _refused_heads)
    n_floor = CellOption(_checked_floor, 0.0)

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        heads: int = 1,
        n_floor: float = 0.0,
        input_dropout: float = 0.0,
        dropout_masks: str = "step",
        init: str = "torch",
        reverse: bool = False,
        reverse_order: str = "aligned",
        residual: int | None = None,
        merge: str = "concat",
        dtype: DTypeLike = np.float32,
        num_threads: int | None = None,
        rng: Any = None,
    ) -> None:
        self._construct(locals())
