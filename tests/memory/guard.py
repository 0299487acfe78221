# SPDX-License-Identifier: BSD-3-Clause
"""Arrays between guard pages: one element too far is a fault, even for masked vector loads and stores."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import Any

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_PROT_NONE = 0
_PAGE = mmap.PAGESIZE


def guarded(
    values: Any, *, at_end: bool = True, offset: int = 0, is_writable: bool = False, dtype: Any = None
) -> np.ndarray:
    """Copy `values` into pages of its own, flush against a page that may not be touched.

    Parameters
    ----------
    at_end : bool
        Against the page after the array; else against the page before it.
    offset : int
        Bytes between the array and that page.
    is_writable : bool
        False maps the pages read-only, so that a write to an input is a fault too.
    """
    values = np.ascontiguousarray(values, dtype)
    body = -(-(values.nbytes + offset) // _PAGE) * _PAGE
    size = body + 2 * _PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        raise MemoryError("mmap")
    first = start + _PAGE + (body - values.nbytes - offset if at_end else offset)
    memory = (ctypes.c_char * values.nbytes).from_address(first)
    weakref.finalize(memory, _libc.munmap, start, size)
    array = np.frombuffer(memory, values.dtype).reshape(values.shape)
    array[...] = values
    for page, length, protection in (
        (start, _PAGE, _PROT_NONE),
        (start + _PAGE + body, _PAGE, _PROT_NONE),
        (start + _PAGE, body, mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)),
    ):
        if length and _libc.mprotect(page, length, protection) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    array.flags.writeable = is_writable
    return array


def guarded_out(shape: tuple[int, ...], dtype: Any, *, at_end: bool = True, offset: int = 0) -> np.ndarray:
    """An output of NaN between guard pages."""
    return guarded(np.full(shape, np.nan, dtype), at_end=at_end, offset=offset, is_writable=True)
