# SPDX-License-Identifier: BSD-3-Clause
"""The minimal gated unit, minGRU and minLSTM."""

from __future__ import annotations

from .base import RecurrentLayer

__all__ = ["MGU", "MinGRU", "MinLSTM"]


class MGU(RecurrentLayer):
    """A stack of minimal gated units over whole sequences: GRUs whose reset and update gates are one.

    A call returns ``y, h_n``; all else is as of `LSTM`.  For each time step, with W, b = weight_ih, bias_ih
    and U, d = weight_hh, bias_hh (Zhou et al. 2016, "Minimal gated unit for recurrent neural networks")::

        f = sigmoid(W_f x_t + b_f + U_f h_{t-1} + d_f)
        n = tanh(W_n x_t + b_n + U_n (f * h_{t-1}) + d_n)
        h_t = (1 - f) * h_{t-1} + f * n

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As of `LSTM`.
    input_dropout, dropout_masks, init, reverse, reverse_order, residual, merge, dtype, num_threads, rng
        As of `LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (2H, I), ``weight_hh`` (2H, H), ``bias_ih``, ``bias_hh`` (2H,), gates in the order f, n.

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
    >>> y, h_n = MGU(3, 4, rng=0)(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    _kind = "mgu"


class MinGRU(RecurrentLayer):
    """A stack of minimal GRU layers over whole sequences: one product and a scan, as gates see x alone.

    A call returns ``y, h_n``; all else is as of `LSTM`.  For each time step (Feng et al. 2024, "Were RNNs all
    we needed?")::

        a_z, a_h = W x_t + bias_ih
        h_t = (1 - sigmoid(a_z)) * h_{t-1} + sigmoid(a_z) * a_h

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As of `LSTM`.
    input_dropout, dropout_masks, init, reverse, reverse_order, residual, merge, dtype, num_threads, rng
        As of `LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (2H, I), ``bias_ih`` (2H,), gates in the order z, h.

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
    >>> y, h_n = MinGRU(3, 4, rng=0)(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    _kind = "mingru"


class MinLSTM(RecurrentLayer):
    """A stack of minimal LSTM layers over whole sequences: one product and a scan, as gates see x alone.

    A call returns ``y, h_n``; all else is as of `LSTM`.  For each time step (Feng et al. 2024, "Were RNNs all
    we needed?")::

        a_f, a_i, a_h = W x_t + bias_ih
        f, i = sigmoid(a_f), sigmoid(a_i)
        h_t = f / (f + i) * h_{t-1} + i / (f + i) * a_h

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As of `LSTM`.
    input_dropout, dropout_masks, init, reverse, reverse_order, residual, merge, dtype, num_threads, rng
        As of `LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        ``weight_ih`` (3H, I), ``bias_ih`` (3H,), gates in the order f, i, h.

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
    >>> y, h_n = MinLSTM(3, 4, rng=0)(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    _kind = "minlstm"
