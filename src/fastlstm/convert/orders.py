# SPDX-License-Identifier: BSD-3-Clause
"""Blocks of gates in the orders that programs keep them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.checks import checked_index, checked_one

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["gates"]


def gates(array: ArrayLike, source: str, target: str, axis: int = 0) -> NDArray[Any]:
    """Return `array` with its blocks of gates in another order.

    Parameters
    ----------
    array : array_like
        With a block of the same size for each gate along `axis`.
    source, target : str
        A letter for each gate, in the order that is and the order that shall be: ``"ifgo"`` of PyTorch's and
        Keras' LSTM, ``"iofg"`` of ONNX's, ``"igfo"`` of TensorFlow's blocks and Haiku's, ``"rzn"`` of
        PyTorch's GRU, ``"zrn"`` of Keras' and ONNX's.  Any letters do, if both have the same ones.
    axis : int
        Where the gates lie: 0 in matrices of PyTorch, -1 in those of Keras.

    Returns
    -------
    ndarray
        A copy.

    Raises
    ------
    TypeError, ValueError
        The letters are not the same, or repeat, or do not divide the axis; or there is no such axis.

    Examples
    --------
    >>> gates([1, 1, 2, 2, 3, 3, 4, 4], "iofg", "ifgo")
    array([1, 1, 3, 3, 4, 4, 2, 2])
    """
    whole = checked_one(array, "array")
    for name, letters in (("source", source), ("target", target)):
        if not isinstance(letters, str):
            raise TypeError(
                f"{name}: expected a str with a letter for each gate, got {type(letters).__name__}"
            )
    if not source or len(set(source)) != len(source):
        raise ValueError(f"source: expected a letter for each gate, each once, got {source!r}")
    if sorted(target) != sorted(source):
        raise ValueError(f"target: expected the letters of source, {source!r}, got {target!r}")
    place = checked_index(axis, "axis", None)
    if not -whole.ndim <= place < whole.ndim:
        raise ValueError(f"axis: expected one of the {whole.ndim} axes of array, got {axis}")
    if whole.shape[place] % len(source):
        raise ValueError(
            f"array: expected a size along axis {axis} that {len(source)} gates divide, "
            f"got shape {whole.shape}"
        )
    parts = np.split(whole, len(source), place)
    return np.concatenate([parts[source.index(letter)] for letter in target], place)
