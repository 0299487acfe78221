# SPDX-License-Identifier: BSD-3-Clause
"""Random masks: of the dropout between layers, of zoneout, and of recurrent dropout.

Every element of a mask has a number, and its draw is that number of the splitmix64 sequence of the seed
(Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014): a mask is a function of its
arguments, in whatever order and by whatever thread it is made.  Depends on NumPy alone.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

__all__ = ["dropout_mask", "recurrent_dropout_mask", "variational_mask", "zoneout_mask"]

# Each kind of mask has a seed of its own, which is that of the pass plus this.
ZONEOUT_C, ZONEOUT_H, RECURRENT, TIED, INPUT = 1, 2, 3, 4, 5


def dropout_mask(
    seed: int, layer: int, T: int, B: int, features: int, p: float, dtype: DTypeLike = np.float64
) -> Array:
    """What the output of a layer is multiplied with before the next layer reads it.

    Element n = ((layer * T + t) * B + b) * features + j gets number n of the splitmix64 sequence of the seed
    (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014), so that a mask is a
    function of its arguments, in whatever order and by whatever thread it is made.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    layer : int
        The layer whose output it is, from 0.
    T, B, features : int
        Shape of that output; `features` is its width, D*H for two directions side by side.
    p : float
        Probability from 0 to 1 of dropping an element.
    dtype : dtype_like
        Floating dtype of the result.

    Returns
    -------
    ndarray, (T, B, features)
        0 where an element is dropped, 1 / (1 - p) where it is kept.
    """
    is_kept = _is_kept(seed, layer, (T, B, features), p)
    return np.where(is_kept, _scale(p), 0).astype(dtype)


def variational_mask(
    seed: int, layer: int, B: int, features: int, p: float, dtype: DTypeLike = np.float64
) -> Array:
    """One mask for all steps: that of `dropout_mask` where T is 1, without the time: (B, features).

    Gal & Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", 2016.
    Between layers, `layer` is the one whose output it is, from 0, and the seed that of the pass plus 4; for
    the input of the first layer 0, and the seed plus 5.
    """
    return np.asarray(dropout_mask(seed, layer, 1, B, features, p, dtype)[0])


def zoneout_mask(seed: int, cell: int, T: int, B: int, H: int, p: float, dtype: DTypeLike) -> Array:
    """1 where an element of a state keeps its old value, 0 where it takes the new one: (T, B, H).

    Element n = ((cell * T + t) * B + b) * H + j, with cell = layer * D + direction.  The draws are those of
    `dropout_mask`: an element that dropout would not keep is zoned out.
    """
    return (~_is_kept(seed, cell, (T, B, H), p)).astype(dtype)


def recurrent_dropout_mask(
    seed: int, cell: int, masks: int, B: int, width: int, p: float, dtype: DTypeLike
) -> Array:
    """What h is multiplied with on its way into the gates, in every step of a sequence: (masks, B, width).

    Element n = ((cell * masks + g) * B + b) * width + j.  0 where dropped, 1 / (1 - p) where kept.
    """
    is_kept = _is_kept(seed, cell, (masks, B, width), p)
    return np.where(is_kept, _scale(p), 0).astype(dtype)


def _is_kept(seed: int, index: int, shape: tuple[int, int, int], p: float) -> Array:
    """Which elements of the `index`-th array of this shape are kept: (z >> 32) >= p * 2**32."""
    count = shape[0] * shape[1] * shape[2]
    z = np.arange(index * count + 1, (index + 1) * count + 1, dtype=np.uint64)
    z = np.uint64(seed % 2**64) + z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    is_kept = z >> np.uint64(32) >= np.uint64(p * 2**32)  # never so where p = 1
    return np.asarray(is_kept).reshape(shape)


def _scale(p: float) -> Any:
    return 1 / (1 - np.longdouble(p)) if p < 1 else 0
