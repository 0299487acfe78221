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
    """One shape with its data, float32: parameters by PyTorch's names, x (T, B, I), states (L*D, B, H)."""

    shape: Shape
    params: Mapping[str, Array]
    x: Array
    state: tuple[Array, Array] | None  # None: zeros, not handed over


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be timed."""

    call: Callable[[], Any]  # returns when the outputs are complete
    answer: Callable[[], tuple[Array, Array, Array]]  # the same call; y (T, B, D*H), h_n, c_n (L*D, B, H)


class PeerProtocol(Protocol):
    """One peer in one process with a fixed number of threads."""

    def __init__(self, threads: int) -> None: ...

    def versions(self) -> dict[str, str]:
        """Versions and settings that a reader of the result wants to know."""
        ...

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        """Ways to do the case, by name; the race takes the fastest whose answer is right."""
        ...


def gates_reordered(weights: Array, order: str) -> Array:
    """Rows of a (4H, ...) array from the order i, f, g, o to another, such as ``"iofg"``."""
    parts = dict(zip("ifgo", weights.reshape(4, -1, *weights.shape[1:]), strict=True))
    return np.concatenate([parts[gate] for gate in order])


def suffixes(shape: Shape) -> list[str]:
    """Parameter suffixes of one layer's directions."""
    return ["", "_reverse"][: shape.directions]
