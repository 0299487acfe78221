# SPDX-License-Identifier: BSD-3-Clause
"""The LSTM in readable NumPy: the specification of every compiled kernel, and its baseline for speed.

Nothing here uses the compiled module.  All functions work in any floating dtype; run in float64 (or
longdouble) they are the truth that the tests compare with.

Letters: T time, B batch, I input features, H hidden units, L layers, D directions.  Gates stand in the order
i (input), f (forget), g (candidate), o (output), and parameters have PyTorch's names and shapes:
``weight_ih_l{layer}`` (4H, I), ``weight_hh_l{layer}`` (4H, H), ``bias_ih_l{layer}`` (4H) and
``bias_hh_l{layer}`` (4H), with the suffix ``_reverse`` for the second direction; a layer above the first has
D*H inputs.

The equations are those of Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997), with the forget gate of
Gers, Schmidhuber & Cummins, "Learning to Forget" (2000), written as in ``torch.nn.LSTM``::

    a_i, a_f, a_g, a_o = W x_t + U h_{t-1} + b
    i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
    g = tanh(a_g)
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["cell_update", "gate_matmul", "lstm", "lstm_cell", "sigmoid", "tanh"]

Array = NDArray[Any]
State = tuple[Array, Array]


def sigmoid(x: ArrayLike) -> Array:
    """Logistic function, ``1 / (1 + exp(-x))``, elementwise.

    Parameters
    ----------
    x : array_like
        Any shape.  Integers are taken as float64.

    Returns
    -------
    ndarray
        Same shape and floating dtype as `x`; NaN stays NaN.
    """
    x = _as_floating(x)
    # Only exp of a number <= 0 is ever taken, so nothing overflows:  1 / (1 + e^-x) = e^x / (1 + e^x).
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)))


def tanh(x: ArrayLike) -> Array:
    """Hyperbolic tangent, elementwise.

    Parameters
    ----------
    x : array_like
        Any shape.  Integers are taken as float64.

    Returns
    -------
    ndarray
        Same shape and floating dtype as `x`; NaN stays NaN.
    """
    with np.errstate(under="ignore"):
        return np.asarray(np.tanh(_as_floating(x)))


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
    from_input = weight_ih.T[x] if _is_index(x) else x @ weight_ih.T
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
        If a shape, a length or an index does not fit.
    """
    params = {name: np.asarray(value) for name, value in params.items()}
    if dtype is None:
        dtype = np.result_type(*params.values())
        dtype = dtype if np.issubdtype(dtype, np.floating) else np.float64
    weights = {name: np.asarray(value, dtype) for name, value in params.items()}
    num_layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in weights)
    suffixes = ["", "_reverse"] if bidirectional else [""]
    if bidirectional != ("weight_ih_l0_reverse" in weights):
        raise ValueError(f"params: expected weights of {len(suffixes)} direction(s), got {sorted(weights)}")
    input_size = weights["weight_ih_l0"].shape[1]
    hidden_size = weights["weight_hh_l0"].shape[1]

    x = np.asarray(x)
    sequence, is_batched = _time_major(x if _is_index(x) else x.astype(dtype), input_size, batch_first)
    T, B = sequence.shape[:2]
    states_shape = (num_layers * len(suffixes), B, hidden_size)
    h_n, c_n = (_initial_state(index, state, states_shape, is_batched, dtype) for index in range(2))
    if lengths is not None:
        lengths = _checked_lengths(lengths, T, B)
    if _is_index(sequence):
        used = sequence if lengths is None else sequence[np.arange(T)[:, np.newaxis] < lengths]
        if used.size and not (used.min() >= 0 and used.max() < input_size):
            raise ValueError(
                f"x: expected indices from 0 to {input_size - 1}, got {used.min()} to {used.max()}"
            )

    for layer in range(num_layers):
        outputs = []
        for direction, suffix in enumerate(suffixes):
            cell = {
                name: weights[f"{name}_l{layer}{suffix}"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                if f"{name}_l{layer}{suffix}" in weights
            }
            index = layer * len(suffixes) + direction
            outputs.append(_run(sequence, h_n[index], c_n[index], cell, lengths, is_reverse=direction == 1))
        sequence = np.concatenate(outputs, axis=-1)

    if not is_batched:
        return sequence[:, 0], (h_n[:, 0], c_n[:, 0])
    return sequence.swapaxes(0, 1) if batch_first else sequence, (h_n, c_n)


def _run(
    x: Array, h: Array, c: Array, cell: Mapping[str, Array], lengths: Array | None, is_reverse: bool
) -> Array:
    """One layer in one direction: x (T, B, I) -> y (T, B, H); `h` and `c` (B, H) become the final states."""
    T = x.shape[0]
    y = np.zeros((T, *h.shape), h.dtype)
    for step in range(T):
        if lengths is None:
            rows: Any = slice(None)
            time: Any = T - 1 - step if is_reverse else step
        else:  # only rows that have not ended, each at its own place: reversed, a row starts at its own end
            rows = np.flatnonzero(step < lengths)
            time = lengths[rows] - 1 - step if is_reverse else step
        h[rows], c[rows] = lstm_cell(x[time, rows], (h[rows], c[rows]), cell)
        y[time, rows] = h[rows]
    return y


def _time_major(x: Array, input_size: int, batch_first: bool) -> tuple[Array, bool]:
    """`x` as (T, B, I), or (T, B) if it holds indices, and whether it had a batch dimension."""
    is_index = _is_index(x)
    batched_ndim = 2 if is_index else 3
    if x.ndim not in (batched_ndim - 1, batched_ndim):
        kind = "integers (indices of one-hot rows)" if is_index else "floating"
        expected = f"{batched_ndim - 1} or {batched_ndim} dimensions if {kind}"
        raise ValueError(f"x: expected {expected}, got {x.ndim}")
    if not is_index and x.shape[-1] != input_size:
        raise ValueError(f"x: expected {input_size} features in the last dimension, got {x.shape[-1]}")
    if x.ndim < batched_ndim:
        return x[:, np.newaxis], False
    return x.swapaxes(0, 1) if batch_first else x, True


def _initial_state(
    index: int,
    state: tuple[ArrayLike, ArrayLike] | None,
    shape: tuple[int, ...],
    is_batched: bool,
    dtype: DTypeLike,
) -> Array:
    """A copy of ``state[index]`` as (L*D, B, H); zeros where no state is given."""
    if state is None:
        return np.zeros(shape, dtype)
    given = np.array(state[index], dtype)
    expected = shape if is_batched else (shape[0], shape[2])
    if given.shape != expected:
        raise ValueError(f"state[{index}]: expected shape {expected}, got {given.shape}")
    return given.reshape(shape)


def _checked_lengths(lengths: ArrayLike, T: int, B: int) -> Array:
    """`lengths` as a signed integer array (B,) with every value from 0 to T."""
    checked = np.asarray(lengths)
    if checked.shape != (B,) or (B and not _is_index(checked)):
        raise ValueError(f"lengths: expected {B} integers, got shape {checked.shape} of {checked.dtype}")
    if B and not (checked.min() >= 0 and checked.max() <= T):
        raise ValueError(f"lengths: expected values from 0 to {T}, got {checked.min()} to {checked.max()}")
    return checked.astype(np.intp)


def _is_index(x: Array) -> bool:
    return np.issubdtype(x.dtype, np.integer)


def _as_floating(x: ArrayLike) -> Array:
    array = np.asarray(x)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
