# SPDX-License-Identifier: BSD-3-Clause
"""Elementwise functions of the cells, with their slopes.  Depends on NumPy alone.

The eleven activations are those of the ONNX operators LSTM, GRU and RNN (ONNX operator specification, opset
22), by the same names.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Function = Callable[[Array, float, float], Array]

__all__ = ["Activation", "activation", "clip", "clip_slope", "log_sigmoid", "sigmoid", "tanh"]


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
    x = as_floating(x)
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
        return np.asarray(np.tanh(as_floating(x)))


def log_sigmoid(x: Array) -> Array:
    """``log(sigmoid(x))`` without overflow: ``min(x, 0) - log(1 + exp(-|x|))``.  Its slope is sigmoid(-x)."""
    return np.asarray(np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))))


def sigmoid_slope(a: Array) -> Array:
    """Derivative of `sigmoid`; as 1 - sigmoid(a) = sigmoid(-a), nothing cancels."""
    return sigmoid(a) * sigmoid(-a)


def tanh_slope(a: Array) -> Array:
    """Derivative of `tanh`, which is 2 sigmoid(2 a) - 1."""
    return 4 * sigmoid_slope(2 * a)


def clip(x: Array, limit: float | None) -> Array:
    """`x` limited to -limit .. limit; as it is where there is no limit.  NaN stays NaN."""
    return x if limit is None else np.clip(x, -limit, limit)


def clip_slope(x: Array, limit: float | None) -> Any:
    """Derivative of `clip`: 0 beyond the limit, 1 up to it and at it."""
    return 1 if limit is None else (np.abs(x) <= limit).astype(x.dtype)


class Activation(NamedTuple):
    """One of the eleven activations, with its parameters: callable, and `slope` is its derivative."""

    name: str
    alpha: float
    beta: float

    def __call__(self, x: Array) -> Array:
        """Value at `x`, elementwise."""
        return _TABLE[self.name].value(x, self.alpha, self.beta)

    def slope(self, x: Array) -> Array:
        """Derivative at `x`, elementwise; at a kink, that of the branch that `x` itself belongs to."""
        return _TABLE[self.name].slope(x, self.alpha, self.beta)


def activation(name: str, alpha: float | None = None, beta: float | None = None) -> Activation:
    """An activation of the ONNX specification by its name.

    =================  ===========================  ==================
    name               value                        defaults
    =================  ===========================  ==================
    Relu               max(0, x)
    Tanh               tanh(x)
    Sigmoid            1 / (1 + exp(-x))
    Affine             alpha x + beta               both must be given
    LeakyRelu          x if x >= 0 else alpha x     0.01
    ThresholdedRelu    x if x >= alpha else 0       1.0
    ScaledTanh         alpha tanh(beta x)           both must be given
    HardSigmoid        min(max(alpha x + beta, 0),  0.2, 0.5
                       1)
    Elu                x if x >= 0 else             1.0
                       alpha (exp(x) - 1)
    Softsign           x / (1 + abs(x))
    Softplus           log(1 + exp(x))
    =================  ===========================  ==================

    Parameters
    ----------
    name : str
        As in the table.
    alpha, beta : float, optional
        None is the default of the table.

    Returns
    -------
    Activation
        Callable; ``slope`` is the derivative.

    Raises
    ------
    ValueError
        If there is no such activation, or a parameter is missing or is one that the activation has not.
    """
    if name not in _TABLE:
        raise ValueError(f"activations: expected one of {', '.join(_TABLE)}, got {name!r}")
    defaults = _TABLE[name].defaults
    values = []
    for parameter, value, default in zip(("alpha", "beta"), (alpha, beta), defaults, strict=True):
        if value is None and default is None:
            raise ValueError(f"activations: expected a value of {parameter} for {name}, got none")
        if value is not None and (default == _ABSENT or not math.isfinite(value)):
            expected = "no" if default == _ABSENT else "a finite"
            raise ValueError(f"activations: expected {expected} {parameter} for {name}, got {value}")
        chosen = default if value is None else value
        values.append(0.0 if chosen is None or chosen == _ABSENT else float(chosen))
    return Activation(name, *values)


def read_activations(given: Sequence[Any] | None, defaults: Sequence[str]) -> tuple[Activation, ...]:
    """Activations from the constructor's argument: of each a name, (name, alpha) or (name, alpha, beta)."""
    chosen = defaults if given is None else given
    if isinstance(chosen, str) or len(chosen) != len(defaults):
        raise ValueError(f"activations: expected {len(defaults)} of them, got {given!r}")
    return tuple(activation(entry) if isinstance(entry, str) else activation(*entry) for entry in chosen)


def as_floating(x: ArrayLike) -> Array:
    """`x` as an array of floating dtype; integers become float64."""
    array = np.asarray(x)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


class _Row(NamedTuple):
    value: Function
    slope: Function
    defaults: tuple[float | str | None, float | str | None]  # None: must be given


_ABSENT = "absent"  # the activation has no such parameter
_NONE = (_ABSENT, _ABSENT)


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def _hard_sigmoid_slope(x: Array, alpha: float, beta: float) -> Array:
    line = alpha * x + beta
    return np.asarray(np.where((line > 0) & (line < 1), x.dtype.type(alpha), x.dtype.type(0)))


def _elu_slope(x: Array, alpha: float, beta: float) -> Array:
    return np.asarray(np.where(x >= 0, x.dtype.type(1), alpha * np.exp(np.minimum(x, 0))))


_TABLE = {
    "Relu": _Row(lambda x, a, b: np.maximum(x, 0), lambda x, a, b: (x > 0).astype(x.dtype), _NONE),
    "Tanh": _Row(lambda x, a, b: tanh(x), lambda x, a, b: tanh_slope(x), _NONE),
    "Sigmoid": _Row(lambda x, a, b: sigmoid(x), lambda x, a, b: sigmoid_slope(x), _NONE),
    "Affine": _Row(lambda x, a, b: a * x + b, lambda x, a, b: np.full_like(x, a), (None, None)),
    "LeakyRelu": _Row(
        lambda x, a, b: np.where(x >= 0, x, a * x),
        lambda x, a, b: np.where(x >= 0, x.dtype.type(1), x.dtype.type(a)),
        (0.01, _ABSENT),
    ),
    "ThresholdedRelu": _Row(
        lambda x, a, b: np.where(x < a, 0, x), lambda x, a, b: (x >= a).astype(x.dtype), (1.0, _ABSENT)
    ),
    "ScaledTanh": _Row(
        lambda x, a, b: a * tanh(b * x), lambda x, a, b: a * b * tanh_slope(b * x), (None, None)
    ),
    "HardSigmoid": _Row(lambda x, a, b: np.clip(a * x + b, 0, 1), _hard_sigmoid_slope, (0.2, 0.5)),
    "Elu": _Row(
        lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), _elu_slope, (1.0, _ABSENT)
    ),
    "Softsign": _Row(
        lambda x, a, b: x / (1 + np.abs(x)), lambda x, a, b: 1 / np.square(1 + np.abs(x)), _NONE
    ),
    "Softplus": _Row(lambda x, a, b: _softplus(x), lambda x, a, b: sigmoid(x), _NONE),
}
