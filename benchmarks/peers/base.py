# SPDX-License-Identifier: BSD-3-Clause
"""What a peer of the race supplies.  Needs NumPy alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.data import Array
from benchmarks.shapes import Shape


@dataclass(frozen=True)
class Case:
    """One shape with its data, float32: parameters by PyTorch's names, x (T, B, I), states (L*D, B, H).

    Training has `dy`, the gradient of the output (T, B, D*P).  P is H, but for a projected h.
    """

    shape: Shape
    params: Mapping[str, Array]
    x: Array
    state: tuple[Array, Array] | None  # None: zeros, not handed over
    dy: Array | None = None


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be timed."""

    call: Callable[[], Any]  # returns when the outputs are complete
    # The same call; y (T, B, D*P), h_n (L*D, B, P) and, where there is one, c_n (L*D, B, H), or for training
    # what `gradients` returns.
    answer: Callable[[], tuple[Array, ...]]


class PeerProtocol(Protocol):
    """One peer in one process with a fixed number of threads."""

    def __init__(self, threads: int) -> None: ...

    def versions(self) -> dict[str, str]:
        """Versions and settings that a reader of the result wants to know."""
        ...

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        """Ways to do the case, by name; the race takes the fastest whose answer is right."""
        ...


def gates_reordered(weights: Array, order: str, *, back: bool = False, gates: str = "ifgo") -> Array:
    """Rows of an array (4H, ...) from the order i, f, g, o to another, such as ``"iofg"``, or back from it.

    `gates` is the order of another cell, such as ``"rzn"`` of a GRU.
    """
    source, target = (order, gates) if back else (gates, order)
    parts = dict(zip(source, weights.reshape(len(gates), -1, *weights.shape[1:]), strict=True))
    return np.concatenate([parts[gate] for gate in target])


def coupled_as_plain(rows: Array) -> Array:
    """Rows (3H, ...) of i, g, o, with f = 1 - i, as rows (4H, ...) of a plain LSTM that is the same function.

    1 - sigmoid(a) = sigmoid(-a), so that the rows of f are those of i, negative.
    """
    i, g, o = np.split(rows, 3)
    return np.concatenate([i, -i, g, o])


def gradients(case: Case, dx: Array, grads: Mapping[str, Array]) -> tuple[Array, ...]:
    """A training answer: dx (T, B, I), then the gradients of the parameters in the case's order."""
    return dx, *(grads[name] for name in case.params)


def suffixes(shape: Shape) -> list[str]:
    """Parameter suffixes of one layer's directions."""
    return ["", "_reverse"][: shape.directions]


def end_to_end(shape: Shape, padded: Array) -> tuple[Array, Array]:
    """The real steps of (T, B, features), row after row (N, features), and each row's offset (B+1,)."""
    lengths = shape.lengths() or [shape.T] * shape.B
    rows = [padded[:length, row] for row, length in enumerate(lengths)]
    return np.concatenate(rows), np.cumsum([0, *lengths])


def row_by_row(shape: Shape, data: Array) -> Array:
    """The inverse of `end_to_end`, with zeros behind each row."""
    lengths = shape.lengths() or [shape.T] * shape.B
    padded = np.zeros((shape.T, shape.B, data.shape[1]), data.dtype)
    start = 0
    for row, length in enumerate(lengths):
        padded[:length, row] = data[start : start + length]
        start += length
    return padded
