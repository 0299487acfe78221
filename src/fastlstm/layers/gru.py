# SPDX-License-Identifier: BSD-3-Clause
"""GRU, and one step of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.checks import checked_flag, checked_limit
from ..model.options import Activations, CellOption
from .base import RecurrentCell, RecurrentLayer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["GRU", "GRUCell"]


class GRU(RecurrentLayer):
    """A stack of GRU layers over whole sequences, with the shapes and meaning of ``torch.nn.GRU``.

    A call returns ``y, h_n``; all else is as of `LSTM`.  For each time step, with W, b = weight_ih, bias_ih
    and U, d = weight_hh, bias_hh (Cho et al. 2014)::

        r, z = sigmoid(W_rz x_t + b_rz + U_rz h_{t-1} + d_rz)
        n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + d_n))      # reset_after
        n = tanh(W_n x_t + b_n + U_n (r * h_{t-1}) + d_n)      # else
        h_t = (1 - z) * n + z * h_{t-1}

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As of `LSTM`.
    reset_after : bool
        Whether the reset gate acts after the recurrent product, as in PyTorch, cuDNN and Keras, or before it,
        as in the paper and by default in ONNX.
    activations : sequence of 2, optional
        f of the gates, g of the candidate; as of `LSTM`.
    gate_clip : float, optional
        Limit of what goes into the activations.
    input_dropout, dropout_masks, init, reverse, reverse_order, residual, merge, dtype, num_threads, rng
        As of `LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), ``bias_ih``, ``bias_hh`` (3H,), gates in the order r, z,
        n.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As of `LSTM`.

    Notes
    -----
    Calls are as of `LSTM`, with one array ``h`` in place of the pair of states, and without ``return_cells``.

    Examples
    --------
    >>> import numpy as np
    >>> gru = GRU(3, 4, num_layers=2, rng=0)
    >>> y, h_n = gru(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape
    ((5, 2, 4), (2, 2, 4))
    """

    _kind = "gru"

    reset_after = CellOption(checked_flag, True, field="reset_before", as_field=lambda is_after: not is_after)
    activations = Activations(f="Sigmoid", g="Tanh")
    gate_clip = CellOption(checked_limit)

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
        reset_after: bool = True,
        activations: Sequence[Any] | None = None,
        gate_clip: float | None = None,
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


class GRUCell(RecurrentCell):
    """One time step of one GRU layer, with the shapes and meaning of ``torch.nn.GRUCell``.

    A call returns ``h``::

        h = cell(x, state=None, out=None)

    The equations are those of `GRU`, with ``reset_after``; all else is as of `LSTMCell`, with one array (B,
    H) in place of the pair of states.

    Parameters
    ----------
    input_size, hidden_size, bias, dtype, num_threads, rng
        As of `LSTMCell`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), ``bias_ih``, ``bias_hh`` (3H,): read-only views.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As of `LSTMCell`.

    Examples
    --------
    >>> import numpy as np
    >>> cell = GRUCell(3, 4, rng=0)
    >>> h = cell(np.ones((2, 3), np.float32))
    >>> cell(np.ones((2, 3), np.float32), h).shape
    (2, 4)
    """

    _kind = "gru"
