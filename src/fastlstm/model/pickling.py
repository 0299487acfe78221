# SPDX-License-Identifier: BSD-3-Clause
"""Large arrays in pickles: in pieces, between which other threads may run.

The pickle module copies an array as a whole, and gives back what it read, under the GIL: 50 and 70 ms for
288 MB.  What it calls in Python gives others a turn.
"""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__: list[str] = []

PIECE = 2**20  # elements


class Pieces:
    """Stands for an array that does not change, and becomes one in pickles and deep copies."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._array, dtype, copy=copy)

    def __deepcopy__(self, memo: dict[int, Any]) -> NDArray[Any]:
        return _core.own_array(self._array)

    def __reduce__(self) -> tuple[Any, ...]:
        flat = self._array.reshape(-1)
        pieces = [_Piece(flat[begin : begin + PIECE]) for begin in range(0, flat.size, PIECE)]
        return _joined, (self._array.shape, flat.dtype.name, pieces)


class _Piece:
    """A part of an array, which becomes one in pickles."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Of what can be written pickle makes a bytearray, which can be emptied.
        own: Any = _core.own_array(self._array)
        data = pickle.PickleBuffer(own) if protocol >= 5 else own.tobytes()
        return _taken, (self._array.dtype.str, data)


def _taken(dtype: str, data: Any) -> NDArray[Any]:
    """The array of these bytes, of which no more is kept: pickle holds all that it read to the end."""
    array = np.frombuffer(data, dtype)
    if isinstance(data, bytearray):
        array = _core.own_array(array)
        data.clear()
    return array


def _joined(shape: tuple[int, ...], dtype: str, pieces: list[NDArray[Any]]) -> NDArray[Any]:
    """The array of which these are the parts, one behind the other."""
    flat, begin = _core.flat_array(math.prod(shape), np.dtype(dtype), False), 0
    for piece in pieces:
        flat[begin : begin + piece.size] = piece
        begin += piece.size
    return flat.reshape(shape)


def in_pieces(array: NDArray[Any]) -> Any:
    """What stands for an array in a pickle: a copy, or pieces where it is large and nobody changes it."""
    return array.copy() if array.size <= PIECE else Pieces(array)
