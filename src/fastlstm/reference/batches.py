# SPDX-License-Identifier: BSD-3-Clause
"""Sequences of unequal length, with holes: from the arguments of a call to whole rows, and back.

A step that `mask` or `lengths` excludes is removed from its row's sequence.  So the first thing that happens
is that each row's real steps move together, to the front: from there on there are only rows of different
lengths, and a step's number is its position among the real steps of its row.  The last thing is that outputs
go back to the times of their steps.  Depends on config.py; read stack.py next.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .config import Config

Array = NDArray[Any]
State = tuple[Array, ...]  # of one layer and direction: each member (B, width)

__all__ = ["pad_ragged"]

# Where an output comes from, in place of a step's number.
INITIAL, ZERO = -1, -2


def pad_ragged(rows: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """Sequences of different lengths as one array and `lengths`.

    Parameters
    ----------
    rows : sequence of array_like, (T_b, I), or integers (T_b,)
        One for each row of the batch.

    Returns
    -------
    x : ndarray, (T, B, I) or (T, B), with T the longest; (0, 0) of integers where there are no sequences
    lengths : ndarray of int, (B,)
    """
    arrays = [np.asarray(row) for row in rows]
    lengths = np.array([len(row) for row in arrays], np.intp)
    shape, dtype = (arrays[0].shape[1:], np.result_type(*arrays)) if arrays else ((), np.dtype(np.intp))
    x = np.zeros((lengths.max(initial=0), len(arrays), *shape), dtype)
    for b, row in enumerate(arrays):
        x[: len(row), b] = row
    return x, lengths


class Batch(NamedTuple):
    """Arguments of a call, checked, with the time first and each row's real steps together at the front."""

    x: Array  # (T, B, I), zero behind the end of a row
    lengths: Array  # (B,), real steps
    is_real: Array  # (T, B) of bool: the steps as they were given
    is_start: Array  # (T, B) of bool: no state passes between this step and the one before
    is_index: bool
    is_batched: bool
    batch_first: bool

    @classmethod
    def read(
        cls,
        config: Config,
        x: ArrayLike,
        lengths: ArrayLike | None,
        mask: ArrayLike | None,
        reset: ArrayLike | None,
        dtype: DTypeLike,
    ) -> "Batch":
        """Check the arguments of a call; see `forward`."""
        x = np.asarray(x)
        is_index = bool(np.issubdtype(x.dtype, np.integer))
        sequence, is_batched = _time_major(x, is_index, config)
        T, B = sequence.shape[:2]
        is_real = np.ones((T, B), bool)
        if lengths is not None:
            is_real &= np.arange(T)[:, np.newaxis] < _checked_lengths(lengths, T, B)
        if mask is not None:
            is_real &= _checked_steps(mask, "mask", T, B, is_batched, config.batch_first)
        if is_index:
            sequence = _one_hot(sequence, is_real, config.input_size)
        times = np.argsort(~is_real, axis=0, kind="stable")  # the k-th real step's is times[k]
        counts = is_real.sum(axis=0)
        is_row = np.arange(T)[:, np.newaxis] < counts
        rows = np.where(is_row[:, :, np.newaxis], np.take_along_axis(sequence, times[:, :, np.newaxis], 0), 0)
        is_start = np.zeros((T, B), bool)
        if reset is not None:
            # A reset at a removed step is one at the next real step.
            resets = np.cumsum(_checked_steps(reset, "reset", T, B, is_batched, config.batch_first), axis=0)
            is_start = is_row & (np.diff(np.take_along_axis(resets, times, 0), axis=0, prepend=0) > 0)
        return cls(rows.astype(dtype), counts, is_real, is_start, is_index, is_batched, config.batch_first)

    def cuts(self, bptt: int | None, from_end: bool) -> Array:
        """Where no gradient passes between a step and the one before: (T, B) of bool."""
        if bptt is None:
            return self.is_start
        steps = np.arange(len(self.x))[:, np.newaxis]
        is_inside = (steps > 0) & (steps < self.lengths)
        counted = self.lengths - steps if from_end else steps
        return np.asarray(self.is_start | (is_inside & (counted % bptt == 0)))

    def sources(self, is_reverse: bool, is_held: bool, in_processing_order: bool = False) -> Array:
        """The number of the step that the output at each time comes from, or INITIAL or ZERO: (T, B).

        A held output is the last one in the order of the direction.
        """
        before = np.cumsum(self.is_real, axis=0) - 1  # the last real step up to this time; -1 for none
        backwards = is_reverse and not in_processing_order
        source = np.where(backwards & ~self.is_real, before + 1, before)
        is_none = (source < 0) | (source >= self.lengths)
        if in_processing_order:
            source = self.lengths - 1 - source
        source = np.where(is_none, INITIAL, source)
        return np.asarray(source if is_held else np.where(self.is_real, source, ZERO))

    def as_given(self, y: Array) -> Array:
        """A result (T, B, features) in the shape of the input."""
        if not self.is_batched:
            return y[:, 0]
        return y.swapaxes(0, 1) if self.batch_first else y

    def as_computed(self, dy: Array) -> Array:
        """The inverse of `as_given`."""
        if not self.is_batched:
            return dy[:, np.newaxis]
        return dy.swapaxes(0, 1) if self.batch_first else dy


def spread(values: Array, initial: Array, source: Array) -> Array:
    """Outputs at the times of their steps: `values` (T, B, W) and `initial` (B, W), by `source` (T, B)."""
    placed = values
    if (source != np.arange(len(source))[:, np.newaxis]).any():
        placed = np.take_along_axis(values, np.maximum(source, 0)[:, :, np.newaxis], axis=0)
    for number, value in ((INITIAL, initial), (ZERO, 0)):
        is_number = (source == number)[:, :, np.newaxis]
        placed = np.where(is_number, value, placed) if is_number.any() else placed
    return placed


def spread_back(dplaced: Array, source: Array) -> tuple[Array, Array]:
    """Gradients of `values` and `initial`; what stands where the output is zero is not looked at."""
    dvalues, dinitial = np.zeros_like(dplaced), np.zeros_like(dplaced, shape=dplaced.shape[1:])
    time, row = np.nonzero(source >= 0)
    np.add.at(dvalues, (source[time, row], row), dplaced[time, row])
    time, row = np.nonzero(source == INITIAL)
    np.add.at(dinitial, row, dplaced[time, row])
    return dvalues, dinitial


class Walk:
    """The order in which one direction takes the steps: each row from its own first, or its own last.

    Parameters
    ----------
    lengths : ndarray, (B,)
    is_reverse : bool
    is_start, is_cut : ndarray of bool, (T, B)
        See `Batch`.
    """

    def __init__(self, lengths: Array, is_reverse: bool, is_start: Array, is_cut: Array) -> None:
        self.lengths, self.is_reverse, self.is_start, self.is_cut = lengths, is_reverse, is_start, is_cut
        self.num_steps = int(lengths.max(initial=0))
        self.is_even = bool((lengths == self.num_steps).all())

    def at(self, step: int) -> tuple[Any, Any]:
        """Rows that have a `step`-th step, and the number of it in time."""
        if self.is_even:  # all rows: views are faster than copies
            return slice(None), self.num_steps - 1 - step if self.is_reverse else step
        rows = np.flatnonzero(step < self.lengths)
        return rows, self.lengths[rows] - 1 - step if self.is_reverse else step

    def passing(self, state: State, boundary: Array, step: int) -> State:
        """What passes into, or back out of, the `step`-th step of the rows of `at`: 0 at a boundary."""
        if self.is_reverse and step == 0:  # no boundary lies after a row's last step
            return state
        rows, time = self.at(step)
        is_boundary = boundary[time + self.is_reverse, rows]
        if not is_boundary.any():
            return state
        return tuple(np.where(is_boundary[:, np.newaxis], 0, member) for member in state)


# ---- States ------------------------------------------------------------------------------------------------


def read_state(config: Config, given: Any, name: str, batch: Batch, dtype: DTypeLike) -> list[State]:
    """A copy of a state, or of its gradient, for each layer and direction; zero where there is none."""
    count, L, D = len(config.states), config.num_layers, config.num_directions
    members = (given,) if count == 1 else (None,) * count if given is None else given
    if len(members) != count:
        raise ValueError(f"{name}: expected ({', '.join(config.states)}), got {len(members)} of them")
    by_member: list[list[Array]] = []
    for index, member in enumerate(members):
        what = name if count == 1 else f"{name}[{index}]"
        widths = [config.state_widths(layer)[index] for layer in range(L)]
        if isinstance(config.hidden_size, int):
            by_member.append(list(_checked_state(member, what, L * D, widths[0], batch, dtype)))
            continue
        if member is not None and len(member) != L:
            raise ValueError(f"{what}: expected an array for each of {L} layers, got {len(member)}")
        arrays = (None,) * L if member is None else member
        by_member.append([])
        for layer, (array, width) in enumerate(zip(arrays, widths, strict=True)):
            by_member[-1] += list(_checked_state(array, f"{what}[{layer}]", D, width, batch, dtype))
    return list(zip(*by_member, strict=True))


def state_as_given(config: Config, state: list[State], batch: Batch) -> Any:
    """The inverse of `read_state`."""
    members: list[Any] = []
    for parts in zip(*state, strict=True):
        shaped = [part if batch.is_batched else part[0] for part in parts]
        if isinstance(config.hidden_size, int):
            members.append(np.stack(shaped))
        else:
            D = config.num_directions
            members.append(tuple(np.stack(shaped[first : first + D]) for first in range(0, len(shaped), D)))
    return tuple(members) if len(members) > 1 else members[0]


# ---- Checks ------------------------------------------------------------------------------------------------


def _time_major(x: Array, is_index: bool, config: Config) -> tuple[Array, bool]:
    """`x` as (T, B, I), or (T, B) if it holds indices, and whether it had a batch dimension."""
    batched_ndim = 2 if is_index else 3
    if x.ndim not in (batched_ndim - 1, batched_ndim):
        kind = "integers (indices of one-hot rows)" if is_index else "floating"
        expected = f"{batched_ndim - 1} or {batched_ndim} dimensions if {kind}"
        raise ValueError(f"x: expected {expected}, got {x.ndim}")
    if not is_index and x.shape[-1] != config.input_size:
        raise ValueError(f"x: expected {config.input_size} features in the last dimension, got {x.shape[-1]}")
    if x.ndim < batched_ndim:
        return x[:, np.newaxis], False
    return x.swapaxes(0, 1) if config.batch_first else x, True


def _one_hot(x: Array, is_real: Array, input_size: int) -> Array:
    used = x[is_real]
    if used.size and not (used.min() >= 0 and used.max() < input_size):
        raise ValueError(f"x: expected indices from 0 to {input_size - 1}, got {used.min()} to {used.max()}")
    return np.eye(input_size)[np.where(is_real, x, 0)]


def _checked_lengths(lengths: ArrayLike, T: int, B: int) -> Array:
    """`lengths` as an integer array (B,) with every value from 0 to T."""
    checked = np.asarray(lengths)
    if checked.shape != (B,) or (B and not np.issubdtype(checked.dtype, np.integer)):
        raise ValueError(f"lengths: expected {B} integers, got shape {checked.shape} of {checked.dtype}")
    if B and not (checked.min() >= 0 and checked.max() <= T):
        raise ValueError(f"lengths: expected values from 0 to {T}, got {checked.min()} to {checked.max()}")
    return checked.astype(np.intp)


def _checked_steps(given: ArrayLike, name: str, T: int, B: int, is_batched: bool, batch_first: bool) -> Array:
    """`mask` or `reset` as (T, B) of bool."""
    steps = np.asarray(given)
    expected: tuple[int, ...] = ((B, T) if batch_first else (T, B)) if is_batched else (T,)
    if steps.dtype != np.bool_ or steps.shape != expected:
        raise ValueError(
            f"{name}: expected booleans of shape {expected}, got shape {steps.shape} of {steps.dtype}"
        )
    return steps.swapaxes(0, 1) if is_batched and batch_first else steps.reshape(T, B)


def _checked_state(
    value: ArrayLike | None, name: str, count: int, width: int, batch: Batch, dtype: DTypeLike
) -> Array:
    """A copy of `value` as (count, B, width); zeros where there is none."""
    shape = (count, len(batch.lengths), width)
    if value is None:
        return np.zeros(shape, dtype)
    given = np.array(value, dtype)
    expected = shape if batch.is_batched else (count, width)
    if given.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {given.shape}")
    return given.reshape(shape)
