# SPDX-License-Identifier: BSD-3-Clause
"""Numbers for the stored digests: a function of a name alone, whatever the version of NumPy."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SEED = 0x1234_5678_9ABC_DEF  # of every pass that draws masks


def words(name: str, count: int) -> np.ndarray:
    """`count` numbers of 64 bits of SplitMix64, whose start is a hash of `name`."""
    start = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], "<u8")
    z = start + GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(name: str, shape: tuple[int, ...], dtype: Any = np.float64, bound: float = 1.0) -> np.ndarray:
    """Numbers from -bound to bound; every operation is exact or rounds as IEEE 754 says."""
    fractions = (words(name, math.prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return ((2 * fractions - 1) * bound).astype(dtype).reshape(shape)


def indices(name: str, shape: tuple[int, ...], limit: int) -> np.ndarray:
    """Integers from 0 to limit - 1."""
    return (words(name, math.prod(shape)) % np.uint64(limit)).astype(np.int64).reshape(shape)


def coins(name: str, shape: tuple[int, ...], percent: int) -> np.ndarray:
    """True so often."""
    return np.asarray(indices(name, shape, 100) < percent)


def parameters(name: str, shapes: dict[str, tuple[int, ...]], dtype: Any) -> dict[str, np.ndarray]:
    """Weights of about the size that layers begin with; factors of a normalisation about 1."""
    values = {}
    for key, shape in shapes.items():
        bound = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.5
        drawn = uniform(f"{name} {key}", shape, bound=bound)
        values[key] = (drawn + key.startswith("weight_ln")).astype(dtype)
    return values


class Draws(np.random.Generator):
    """In place of a layer's generator: every integer that is drawn is the same."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, *args: Any, **keywords: Any) -> Any:
        return SEED
