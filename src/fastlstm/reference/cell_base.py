# SPDX-License-Identifier: BSD-3-Clause
"""What a cell is: one time step of one layer in one direction, and that step's gradient.

A cell knows nothing of time, of other layers or of sequences; stack.py walks it.  Here stand the interface
and the pieces that cells share.  Depends on activations.py and config.py; read cell_rnn.py, the smallest
cell, next.

Gradients are those of backpropagation through time (Werbos, "Backpropagation through time: what it does and
how to do it", 1990).  A name with d before it is the gradient of what is named.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .activations import Activation, clip, clip_slope
from .config import Config

Array = NDArray[Any]
State = tuple[Array, ...]
Weights = Mapping[str, Array]
Grads = dict[str, Array]


class Noise(NamedTuple):
    """What is random in one step, see draws.py; outside of training, what stands for it."""

    zoneout_c: Any = 0.0  # (B, H), or a number: how much of the old c stays
    zoneout_h: Any = 0.0
    recurrent: Array | None = None  # (masks, B, P), what h is multiplied with


class Cell(Protocol):
    """One layer in one direction.  B is here the number of rows that have this step."""

    def __init__(self, config: Config, weights: Weights) -> None:
        """`weights` is by kind: ``weight_ih``, ``bias_ih``, ..., without layer and direction."""

    def step(self, x: Array, state: State, noise: Noise) -> tuple[State, Any]:
        """The state after a step, from the input (B, I) and the state before, and what `step_back` needs."""

    def step_back(self, kept: Any, dstate: State, grads: Grads) -> tuple[Array, State]:
        """Gradients of the input and of the state before, from those of the state after; adds to `grads`."""


def split_gates(a: Array, count: int) -> list[Array]:
    """Parts of a product, or of a parameter, for each of `count` gates: views of it."""
    H = a.shape[-1] // count
    return [a[..., gate * H : (gate + 1) * H] for gate in range(count)]


def total_bias(weights: Weights) -> Any:
    """The sum of the biases that there are, or 0."""
    biases = [weights[kind] for kind in ("bias_ih", "bias_hh") if kind in weights]
    return sum(biases[1:], biases[0]) if biases else 0


def product_back(da: Array, x: Array, kind: str, weights: Weights, grads: Grads) -> Array:
    """Gradient of x in ``a = x @ weights[kind].T``; adds that of the weights."""
    grads[kind] += da.T @ x
    return np.asarray(da @ weights[kind])


def add_grad(grads: Grads, kind: str, rows: Array) -> None:
    """Add the gradient of a vector that all rows share, if the cell has this parameter."""
    if kind in grads:
        grads[kind] += rows.sum(axis=0)


def add_bias_grads(grads: Grads, da: Array) -> None:
    """Both biases are added to the same, so that they have the same gradient."""
    add_grad(grads, "bias_ih", da)
    add_grad(grads, "bias_hh", da)


def activate(function: Activation, a: Array, limit: float | None) -> Array:
    """Activation of a gate, its input limited: ``clip`` of the ONNX operators."""
    return function(clip(a, limit))


def activate_back(function: Activation, a: Array, limit: float | None, dvalue: Array) -> Array:
    """Gradient of the input of `activate`: nothing passes where the limit acts."""
    return np.asarray(dvalue * function.slope(clip(a, limit)) * clip_slope(a, limit))
