# SPDX-License-Identifier: BSD-3-Clause
"""Numbers that NumPy alone cannot read: bfloat16 in every form, tensors that track gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__: list[str] = []


class Stored(NamedTuple):
    """An array that is still in its file."""

    shape: tuple[int, ...]
    dtype: str  # by NumPy's name, or "bfloat16"
    read: Callable[[], NDArray[Any]]


def from_bfloat16(bits: NDArray[Any]) -> NDArray[np.float32]:
    """Numbers whose bits are given, as 16-bit unsigned integers or as raw pairs of bytes; exact."""
    words = bits.astype(np.uint32) if bits.dtype.kind == "u" else bits.view(np.uint16).astype(np.uint32)
    words <<= 16
    return words.view(np.float32)


def is_bfloat16_bits(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of a dtype hold the bits of bfloat16, as NumPy keeps them that does not know it.

    No weight is a 16-bit unsigned integer; ``V2`` is what a file of NumPy makes of bfloat16.
    """
    return (dtype.kind == "u" and dtype.itemsize == 2) or (dtype.str[1:] == "V2" and dtype.names is None)


def readable(value: Any) -> Any:
    """`value` as `_core.real_array` reads it: bfloat16 as float32, tensors without their gradients."""
    if isinstance(value, Stored):
        value = value.read()
    if isinstance(value, np.ndarray):
        if is_bfloat16_bits(value.dtype):
            return from_bfloat16(value)
        return value.astype(np.float32) if value.dtype.name == "bfloat16" else value
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # of PyTorch
        value = value.detach().cpu()
        return value.float() if str(value.dtype) == "torch.bfloat16" else value
    if getattr(getattr(value, "dtype", None), "name", None) == "bfloat16":  # of JAX
        return np.asarray(value).astype(np.float32)
    return value
