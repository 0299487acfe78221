# SPDX-License-Identifier: BSD-3-Clause
"""Checks of what a caller gives: each returns the value as it is used, or raises and names the argument."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__: list[str] = []


def checked_flag(value: object, name: str) -> bool:
    """`value` as a bool, or an exception that names the argument."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def checked_number(value: object, name: str, expected: str, is_valid: Callable[[float], bool]) -> float:
    """`value` as a float for which `is_valid` holds, or an exception that says what was `expected`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected {expected}, got an int that fits no float") from None
    if not is_valid(number):
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return number


def checked_not_negative(value: object, name: str) -> float:
    """`value` as a finite float of at least 0, or an exception."""
    return checked_number(value, name, "a finite number of at least 0", lambda v: 0 <= v < math.inf)


def checked_dtype(value: DTypeLike) -> np.dtype[Any]:
    """float32 or float64, or an exception."""
    try:
        dtype = np.dtype(value)
    except TypeError as error:
        raise TypeError(f"dtype: expected float32 or float64, got {value!r}") from error
    if value is None or dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {value!r}")
    return dtype.newbyteorder("=")


def checked_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """`value` as an ndarray, without a copy where there is one, or an exception that names the argument."""
    return _core.read_array(value, name)


def checked_one(value: ArrayLike, name: str) -> NDArray[Any]:
    """`checked_array`, where a batch of sequences has no meaning."""
    return _core.read_one(value, name)


def checked_reals(value: ArrayLike, name: str, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Real numbers as an aligned ndarray of `dtype`; None keeps a floating one and makes integers float64."""
    array = checked_one(value, name)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if dtype is None:
        dtype = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else np.dtype(np.float64)
    with np.errstate(
        under="ignore", invalid="ignore"
    ):  # overflow is for the caller to ignore or raise, as in NumPy
        return array.astype(dtype, copy=not array.flags.aligned)


def checked_rng(rng: Any) -> np.random.Generator:
    """Whatever `numpy.random.default_rng` takes as a generator, or an exception that names the argument."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng: expected what numpy.random.default_rng takes: {error}") from error
    except RuntimeError as error:  # of its lock
        raise MemoryError("rng: expected memory for a generator") from error


def checked_choice(value: object, name: str, choices: Iterable[object]) -> Any:
    """`value` if it is one of `choices`, or an exception that names the argument."""
    choices = tuple(choices)
    if not (value is None or isinstance(value, str)):
        kinds = " or ".join(map(repr, choices))
        raise TypeError(f"{name}: expected {kinds}, got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def checked_probability(value: object, name: str) -> float:
    """`value` as a float from 0 to 1."""
    return checked_number(value, name, "a number from 0 to 1", lambda p: 0 <= p <= 1)


def checked_limit(value: object, name: str) -> float | None:
    """`value` as a float above 0, or None."""
    if value is None:
        return None
    return checked_number(value, name, "None or a number above 0", lambda limit: limit > 0)


def checked_index(value: object, name: str, least: int | None) -> int:
    """`value` as an int of at least `least`, or any."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got bool")
    try:
        index = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if least is not None and index < least:
        raise ValueError(f"{name}: expected at least {least}, got {index}")
    return index


def is_finite(number: float) -> bool:
    """Whether a number is neither infinite nor NaN."""
    return abs(number) < float("inf")


def checked_lengths(lengths: ArrayLike, T: int, B: int, is_batched: bool) -> NDArray[Any]:
    """Steps of each row as int64 (B,), each from 0 to T, in a copy."""
    return _core.read_row_lengths(lengths, T, B, is_batched)


def checked_sequences(value: Any, name: str, count: int) -> list[Any]:
    """An array-like for each of `count` sequences, or an exception that names the argument."""
    rows = value if isinstance(value, (list, tuple)) else _core.read_sequences(value, name)
    if rows is None:
        raise TypeError(f"{name}: expected a list of {count} arrays, got {type(value).__name__}")
    if len(rows) != count:
        raise ValueError(f"{name}: expected a list of {count} arrays, got {len(rows)}")
    return list(rows)
