# SPDX-License-Identifier: BSD-3-Clause
"""The same numbers as callers may bring them: other memory layouts, containers, dtypes that hold them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np


class Tensor:
    """As a tensor on a CPU: it can be exported without a copy, and counts how often."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.exports = 0

    def __dlpack__(self, **how: Any) -> Any:
        self.exports += 1
        return self.values.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class Array:
    """What numpy.asarray reads, and nothing else."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


class Interface:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.__array_interface__ = values.__array_interface__


class Subclass(np.ndarray):
    pass


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def variants_of(x: np.ndarray) -> Iterator[tuple[str, Any]]:
    """The same numbers in other memory layouts and containers."""
    every_other = (slice(None, None, 2),) * x.ndim
    wide = np.zeros([2 * n for n in x.shape], x.dtype)
    wide[every_other] = x
    backwards = (slice(None, None, -1),) * x.ndim
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    yield "Fortran", np.asfortranarray(x)
    yield "strided", wide[every_other]
    yield "rows apart", np.concatenate([x, x], -1)[..., : x.shape[-1]]
    if x.ndim > 1:
        yield "time and batch swapped", x.swapaxes(0, 1).copy().swapaxes(0, 1)
    yield "reversed", x[backwards].copy()[backwards]
    yield "reversed but for features", x[backwards[1:]].copy()[backwards[1:]]
    yield "read-only", read_only(x)
    yield "byte order", x.astype(x.dtype.newbyteorder())
    yield "misaligned", misaligned
    if x.size:  # lists of nothing have no shape
        yield "list", x.tolist()
        yield "tuple of lists", tuple(x.tolist())
        yield "memoryview", memoryview(np.ascontiguousarray(x))
    yield "subclass", x.view(Subclass)
    yield "object with __array__", Array(x)
    yield "object with __array_interface__", Interface(x)
    if x.dtype.kind != "b":
        yield "object with __dlpack__", Tensor(x.copy())
    if x.dtype == np.float32:
        yield "float64", x.astype(np.float64)
    if x.dtype.kind in "iu":
        yield "int16", x.astype(np.int16)
        yield "big-endian int32", x.astype(">i4")
    if importlib.util.find_spec("torch"):
        import torch

        yield "torch", torch.from_numpy(x.copy())
        if x.dtype.kind == "f":
            negated = np.zeros(x.shape, np.result_type(x, np.complex64))
            negated.imag = -x
            yield "negative bit of torch", torch.imag(torch.from_numpy(negated).conj())
