# SPDX-License-Identifier: BSD-3-Clause
"""RNN, one step of it, and IndRNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.checks import checked_limit
from ..model.options import Activations, CellOption, Nonlinearity
from .base import RecurrentCell, RecurrentLayer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["RNN", "IndRNN", "RNNCell"]


class RNN(RecurrentLayer):
    """A stack of simple recurrent layers over whole sequences, as ``torch.nn.RNN``.

    A call returns ``y, h_n``; all else is as of `LSTM`.  For each time step (Elman 1990)::

        h_t = f(W x_t + bias_ih + U h_{t-1} + bias_hh)

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As of `LSTM`.
    nonlinearity : {"tanh", "relu"}
        f.
    activations : sequence of 1, optional
        f as of `LSTM`, in place of `nonlinearity`.
    gate_clip : float, optional
        Limit of what goes into f.
    input_dropout, dropout_masks, init, reverse, reverse_order, residual, merge, dtype, num_threads, rng
        As of `LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (H, I), ``weight_hh`` (H, H), ``bias_ih``, ``bias_hh`` (H,).

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
    >>> rnn = RNN(3, 4, nonlinearity="relu", rng=0)
    >>> y, h_n = rnn(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape, bool((y >= 0).all())
    ((5, 2, 4), (1, 2, 4), True)
    """

    _kind = "rnn"

    nonlinearity = Nonlinearity(
        "tanh",
        lambda o: o["activations"] is not None and "none beside activations, which say the same",
    )
    activations = Activations(f="Tanh")
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
        nonlinearity: str = "tanh",
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


class IndRNN(RecurrentLayer):
    """A stack of independently recurrent layers over whole sequences: each unit sees its own past alone.

    A call returns ``y, h_n``; all else is as of `LSTM`.  For each time step (Li et al. 2018)::

        h_t = f(W x_t + u * h_{t-1} + bias_ih)

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As of `LSTM`.
    nonlinearity : {"relu", "tanh"}
        f.
    input_dropout, dropout_masks, init, reverse, reverse_order, residual, merge, dtype, num_threads, rng
        As of `LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (H, I), ``weight_hh`` (H,), which is u, and ``bias_ih`` (H,).

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
    >>> layer = IndRNN(3, 4, rng=0)
    >>> {name: value.shape for name, value in layer.params.items()}
    {'weight_ih_l0': (4, 3), 'weight_hh_l0': (4,), 'bias_ih_l0': (4,)}
    """

    _kind = "indrnn"

    nonlinearity = Nonlinearity("relu")

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
        nonlinearity: str = "relu",
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


class RNNCell(RecurrentCell):
    """One time step of one simple recurrent layer, with the shapes and meaning of ``torch.nn.RNNCell``.

    A call returns ``h``::

        h = cell(x, state=None, out=None)

    The equation is that of `RNN`; all else is as of `LSTMCell`, with one array (B, H) in place of the pair of
    states.

    Parameters
    ----------
    input_size, hidden_size, bias
        As of `LSTMCell`.
    nonlinearity : {"tanh", "relu"}
        f.
    dtype, num_threads, rng
        As of `LSTMCell`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (H, I), ``weight_hh`` (H, H), ``bias_ih``, ``bias_hh`` (H,): read-only views.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As of `LSTMCell`.

    Examples
    --------
    >>> import numpy as np
    >>> cell = RNNCell(3, 4, rng=0)
    >>> h = cell(np.ones((2, 3), np.float32))
    >>> cell(np.ones((2, 3), np.float32), h).shape
    (2, 4)
    """

    _kind = "rnn"

    nonlinearity = Nonlinearity("tanh")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: DTypeLike = np.float32,
        num_threads: int | None = None,
        rng: Any = None,
    ) -> None:
        self._construct(locals())
