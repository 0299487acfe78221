# SPDX-License-Identifier: BSD-3-Clause
"""The plain LSTM by itself, as ``torch.nn.LSTM``: its pieces, and its stacks by PyTorch's names alone.

`gate_matmul` and `cell_update` are the twins of the functions in `fastlstm.kernels`.  `lstm` and
`lstm_backward` are `forward` and `backward` of stack.py with everything at its default.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .activations import sigmoid, tanh
from .config import Config
from .stack import backward, forward

Array = NDArray[Any]
State = tuple[Array, Array]

__all__ = ["cell_update", "gate_matmul", "lstm", "lstm_backward", "lstm_cell"]


def gate_matmul(
    x: ArrayLike, h: ArrayLike, weight_ih: ArrayLike, weight_hh: ArrayLike, bias: ArrayLike | None = None
) -> Array:
    """Gates before their activation: ``x @ weight_ih.T + h @ weight_hh.T + bias``.

    Parameters
    ----------
    x : array_like, (B, I), or integers (B,)
        Input.  Integers are indices: row ``b`` is the one-hot row of ``x[b]``, so that its product is a
        column of `weight_ih`.
    h : array_like, (B, H)
        Hidden state.
    weight_ih : array_like, (4H, I)
        Input weights, gates in the order i, f, g, o.
    weight_hh : array_like, (4H, H)
        Recurrent weights.
    bias : array_like, (4H,), optional
        Bias; none is zero.

    Returns
    -------
    ndarray, (B, 4H)
        Pre-activation gates in the order i, f, g, o.
    """
    x, h, weight_ih, weight_hh = np.asarray(x), np.asarray(h), np.asarray(weight_ih), np.asarray(weight_hh)
    from_input = weight_ih.T[x] if np.issubdtype(x.dtype, np.integer) else x @ weight_ih.T
    gates = from_input + h @ weight_hh.T
    return np.asarray(gates if bias is None else gates + np.asarray(bias))


def cell_update(gates: ArrayLike, c: ArrayLike) -> State:
    """One elementwise cell update: ``c' = f * c + i * g`` and ``h' = o * tanh(c')``.

    Parameters
    ----------
    gates : array_like, (B, 4H)
        Pre-activation gates in the order i, f, g, o.
    c : array_like, (B, H)
        Cell state.

    Returns
    -------
    h, c : ndarray, (B, H)
        The new hidden state and cell state.
    """
    gate_i, gate_f, gate_g, gate_o = np.split(np.asarray(gates), 4, axis=-1)
    c_new = sigmoid(gate_f) * np.asarray(c) + sigmoid(gate_i) * tanh(gate_g)
    return sigmoid(gate_o) * tanh(c_new), c_new


def lstm_cell(x: ArrayLike, state: tuple[ArrayLike, ArrayLike], params: Mapping[str, ArrayLike]) -> State:
    """One time step of one layer, as ``torch.nn.LSTMCell``.

    Parameters
    ----------
    x : array_like, (B, I), or integers (B,)
        Input; integers mean one-hot rows.
    state : tuple of array_like, (B, H)
        ``(h, c)`` before the step.
    params : mapping
        ``weight_ih``, ``weight_hh``, and ``bias_ih`` and ``bias_hh`` unless the cell has no bias.

    Returns
    -------
    h, c : ndarray, (B, H)
        The state after the step.
    """
    h, c = state
    bias = np.asarray(params["bias_ih"]) + np.asarray(params["bias_hh"]) if "bias_ih" in params else None
    return cell_update(gate_matmul(x, h, params["weight_ih"], params["weight_hh"], bias), c)


def lstm(
    x: ArrayLike,
    params: Mapping[str, ArrayLike],
    state: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    dropout: float = 0.0,
    dropout_seed: int = 0,
    batch_first: bool = False,
    bidirectional: bool = False,
    dtype: DTypeLike | None = None,
) -> tuple[Array, State]:
    """A stack of LSTM layers over a batch of sequences, as ``torch.nn.LSTM``.

    Parameters
    ----------
    x : array_like, (T, B, I), or (B, T, I) if `batch_first`, or (T, I) unbatched
        Input.  Integers are always indices, of one dimension less: the input is the one-hot row of each.
        What stands behind the end of a row is not looked at.
    params : mapping
        Parameters by PyTorch's names; the number of layers is the number of ``weight_ih_l{layer}``.
    state : tuple of array_like, (L*D, B, H), or (L*D, H) unbatched, optional
        ``(h_0, c_0)``; index ``layer * D + direction``.  None is zero.
    lengths : array_like of int, (B,), or (1,) unbatched, optional
        Number of time steps of each row, 0 to T.  A row's output is zero after its end, its final states are
        those at its own end (the given state where the length is 0), and the reverse direction starts at its
        own end.
    reset : array_like of bool, (T, B), or (B, T) if `batch_first`, or (T,) unbatched, optional
        Where a new sequence begins: no state passes between the step and the one before it, in neither
        direction, and a forward direction that begins there drops the given state.  A reverse direction
        takes the given state at its own first step in any case.
    dropout : float
        Probability of dropping an element between layers, as in training; see `dropout_mask`.
    dropout_seed : int
        Seed of `dropout_mask`.
    batch_first : bool
        Whether `x` and the output have the batch before the time.  States always have it in the middle.
    bidirectional : bool
        Whether each layer has a second direction, which runs from the end to the start.
    dtype : dtype_like, optional
        Floating dtype to compute in; None is that of `params`.

    Returns
    -------
    y : ndarray, (T, B, D*H), or (B, T, D*H), or (T, D*H)
        The last layer's hidden states, forward direction first.
    (h_n, c_n) : tuple of ndarray, (L*D, B, H), or (L*D, H)
        Final states.

    Raises
    ------
    ValueError
        If a shape, a name, a length or an index does not fit.
    """
    config = _config(params, dropout, batch_first, bidirectional)
    y, (h_n, c_n), _ = forward(
        config,
        params,
        x,
        state,
        lengths=lengths,
        reset=reset,
        training=True,
        seed=dropout_seed,
        dtype=dtype,
    )
    return y, (h_n, c_n)


def lstm_backward(
    x: ArrayLike,
    params: Mapping[str, ArrayLike],
    state: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    dy: ArrayLike | None = None,
    dstate: tuple[ArrayLike | None, ArrayLike | None] | None = None,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    bptt: int | None = None,
    dropout: float = 0.0,
    dropout_seed: int = 0,
    batch_first: bool = False,
    bidirectional: bool = False,
    dtype: DTypeLike | None = None,
) -> tuple[Array | None, State, dict[str, Array]]:
    """Gradients of ``sum(y * dy) + sum(h_n * dh_n) + sum(c_n * dc_n)`` by backpropagation through time.

    With d before a name for the gradient of what is named, from the last step to the first::

        dh = dy_t + dh_t                          # dh_t, dc_t: from the step after, or dh_n, dc_n
        dc = dc_t + dh * o * tanh'(c_t)
        da_i, da_f = dc * g * sigmoid'(a_i), dc * c_{t-1} * sigmoid'(a_f)
        da_g, da_o = dc * i * tanh'(a_g), dh * tanh(c_t) * sigmoid'(a_o)
        dh_{t-1}, dc_{t-1}, dx_t = U' da, dc * f, W' da
        dW, dU, db += da x_t', da h_{t-1}', da

    which is the chain rule on the equations of the module (Werbos, "Backpropagation through time: what it
    does and how to do it", 1990, with the gates of Graves & Schmidhuber 2005).

    Parameters
    ----------
    x, params, state, lengths, reset, dropout, dropout_seed, batch_first, bidirectional, dtype
        As in `lstm`.
    dy : array_like, shaped as the output, optional
        Gradient of the output; None is zero.  What stands behind the end of a row is not looked at.
    dstate : pair of array_like ``(dh_n, dc_n)``, shaped as the states, optional
        Gradients of the final states; None, also for one of them, is zero.
    bptt : int, optional
        Truncation: with k, no gradient passes between steps n*k - 1 and n*k, in neither direction.  States
        pass as ever.

    Returns
    -------
    dx : ndarray, shaped as `x`, or None where that holds indices
        Zero behind the end of a row.
    (dh_0, dc_0) : tuple of ndarray, shaped as the states
    grads : dict of str to ndarray
        By the names of `params`; both biases of a cell have the same gradient.

    Raises
    ------
    ValueError
        If a shape, a length, an index or `bptt` does not fit.
    """
    config = _config(params, dropout, batch_first, bidirectional)
    dx, (dh_0, dc_0), grads = backward(
        config,
        params,
        x,
        state,
        lengths=lengths,
        reset=reset,
        training=True,
        seed=dropout_seed,
        dtype=dtype,
        bptt=bptt,
        dy=dy,
        dstate=dstate,
    )
    return dx, (dh_0, dc_0), {name: grads[name] for name in params}


def _config(
    params: Mapping[str, ArrayLike], dropout: float, batch_first: bool, bidirectional: bool
) -> Config:
    """What the names and shapes of the parameters say, and the other arguments."""
    num_layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in params)
    if bidirectional != ("weight_ih_l0_reverse" in params):
        raise ValueError(
            f"params: expected weights of {1 + bidirectional} direction(s), got {sorted(params)}"
        )
    return Config(
        "LSTM",
        input_size=np.shape(params["weight_ih_l0"])[1],
        hidden_size=np.shape(params["weight_hh_l0"])[1],
        num_layers=num_layers,
        bias="bias_ih_l0" in params,
        dropout=dropout,
        batch_first=batch_first,
        bidirectional=bidirectional,
    )
