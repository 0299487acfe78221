# SPDX-License-Identifier: BSD-3-Clause
"""Where the real steps of a batch lie: from the arguments of a call to rows that the C core runs, and back.

The C core runs B rows, each from its own first step in the order of processing, wherever rows begin in x and
in y: so `reverse`, `lengths`, lists and packed data need no copies.  Only steps with holes between them, and
outputs that are more than rows (held ones, residual sums), pass through packed arrays in which the steps of a
row lie one behind the other: "inner" rows, here and in parts.py, which runs the layers.  What a real step
is, and the order of the rest, is said in ``fastlstm.reference``.  Indexing is NumPy's; no element is looked
at in Python.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..model.checks import checked_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__: list[str] = []


@dataclasses.dataclass
class Batch:
    """One call's rows.

    Attributes
    ----------
    T, B : int
        Rows, and more steps than any of them has, or as many.
    is_batched : bool
        Whether there was a dimension B.
    lengths : ndarray of int64, (B,), or None
        Steps of the rows; None is T everywhere.
    x : Input
        For the C core.
    inner : Frame
        Where inner rows stand: all steps of a row one behind the other, or (T, B) where all are equal.
    direct : Frame or None
        Where the C core can write y in the caller's layout; None where it must be placed from inner rows.
    dx : Frame or None
        Where the C core can write dx, as `direct` says of y.
    shape : tuple of int
        Dimensions of y before the features.
    order, x_order : ndarray or None
        Of each inner row, its row in y and in x: flat indices in the caller's layout; None for the same.
    held : tuple of ndarray or None
        Of each direction, for each row of y in the order b, t: the inner row that it repeats, or how many
        there are, plus b, for the given state.  With `by_row`, the rows of y in that order.
    reset : ndarray of uint8, (T, B), or None
        As the C core takes it.
    splits : ndarray of int64 or None
        Bounds of the sequences that a list is made of, (B + 1,).
    source : ndarray or list
        x, as it has been read.
    """

    T: int
    B: int
    is_batched: bool
    lengths: Array | None
    x: _core.Input
    inner: _core.Frame
    direct: _core.Frame | None
    dx: _core.Frame | None
    shape: tuple[int, ...]
    source: Any
    order: Array | None = None
    x_order: Array | None = None
    held: tuple[Array, ...] | None = None
    by_row: Array | None = None
    reset: Array | None = None
    splits: Array | None = None
    is_gathered: bool = False

    @property
    def rows(self) -> int:
        """Rows of features in y."""
        return int(np.prod(self.shape, dtype=np.int64))

    def empty(self, width: int, dtype: np.dtype[Any], has_gaps: bool) -> Array:
        """For the C core: y in the caller's layout, zero where it does not write."""
        make = np.zeros if has_gaps and self.lengths is not None else np.empty
        return make((*self.shape, width), dtype)

    def place(
        self, values: Array, given: Array | None, num_directions: int, out: Array | None = None
    ) -> Array:
        """Inner rows (N, D*W) at the places of y; `given` (D, B, W) is what comes before a row."""
        width = values.shape[-1]
        if self.held is None:
            if self.order is None:
                y = values.reshape(*self.shape, width)
                if out is None:
                    return y
                out[...] = y
                return out
            if out is None:
                make = np.zeros if self.rows > len(values) else np.empty
                out = make((*self.shape, width), values.dtype)
            elif self.rows > len(values):
                out[...] = 0
            out.reshape(-1, width)[self.order] = values
            return out
        if out is None:
            out = np.empty((*self.shape, width), values.dtype)
        part = width // num_directions
        rows = out.reshape(-1, width)
        for d, held in enumerate(self.held):
            columns = slice(d * part, (d + 1) * part)
            before = np.zeros((self.B, part), values.dtype) if given is None else given[d]
            rows[self.by_row, columns] = np.concatenate([values[:, columns], before])[held]
        return out

    def take_back(self, dy: Array, num_directions: int) -> tuple[Array, Array | None]:
        """The inverse of `place` for gradients: those of inner rows, and of what comes before, (D, B, W)."""
        width = dy.shape[-1]
        rows = dy.reshape(-1, width)
        if self.held is None:
            return np.ascontiguousarray(rows if self.order is None else rows[self.order]), None
        count, part = self.inner.rows, width // num_directions
        values = np.zeros((count, width), dy.dtype)
        before = np.zeros((num_directions, self.B, part), dy.dtype)
        sums = np.zeros((count + self.B, part), dy.dtype)
        for d, held in enumerate(self.held):
            if len(held) == 0:
                continue
            # In this order, all that repeats one row stands together.
            begins = np.flatnonzero(np.diff(held, prepend=-1))
            columns = slice(d * part, (d + 1) * part)
            sums[...] = 0
            sums[held[begins]] = np.add.reduceat(rows[self.by_row, columns], begins, axis=0)
            values[:, columns], before[d] = sums[:count], sums[count:]
        return values, before

    def gathered(self) -> Array:
        """Inner rows of x: (N, I), or indices (N,)."""
        if self.is_gathered:
            return np.asarray(self.source)
        if isinstance(self.source, list):
            rows = np.concatenate(self.source)
        else:
            rows = self.source.reshape(-1, *self.source.shape[len(self.shape) :])
        return np.asarray(rows if self.x_order is None else rows[self.x_order])

    def empty_dx(self, width: int, dtype: np.dtype[Any]) -> Array:
        """For the C core: dx in the caller's layout, zero where it does not write."""
        make = np.empty if self.lengths is None and self.x_order is None else np.zeros
        return make((*self.shape, width), dtype)

    def place_dx(self, values: Array) -> Array:
        """Gradients of inner rows (N, I) at the places of x."""
        dx = self.empty_dx(values.shape[-1], values.dtype)
        if self.x_order is None:
            dx.reshape(values.shape)[...] = values
        else:
            dx.reshape(-1, values.shape[-1])[self.x_order] = values
        return dx

    def as_given(self, array: Array) -> Any:
        """A result in the form of x: a list of views for a list."""
        return array if self.splits is None else _core.split_sequences(array, self.splits)

    def read_back(self, value: Any, name: str, width: int, dtype: np.dtype[Any]) -> Array:
        """A gradient in the form of a result, as one array (*shape, width)."""
        if self.splits is None:
            return _checked(value, name, (*self.shape, width), dtype)
        sizes = np.diff(self.splits).tolist()
        if not isinstance(value, (list, tuple)) or len(value) != self.B:
            got = f"{len(value)} of them" if isinstance(value, (list, tuple)) else type(value).__name__
            raise (ValueError if isinstance(value, (list, tuple)) else TypeError)(
                f"{name}: expected a list of {self.B} arrays, got {got}"
            )
        parts = [
            _checked(part, f"{name}[{b}]", (size, width), dtype)
            for b, (part, size) in enumerate(zip(value, sizes, strict=True))
        ]
        return np.concatenate([np.empty((0, width), dtype), *parts])


def _checked(value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return _core.real_array(value, name, shape, dtype)


# ---- From the arguments of a call --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Order:
    """How a layer walks, and what it needs of its rows."""

    is_reverse: bool  # the one direction runs from the end
    in_processing_order: bool  # and so stands y
    num_directions: int
    batch_first: bool
    needs_inner: bool  # y is not written by the C core as it is
    is_kept: bool  # for a backward pass: arguments must not change


def read_batch(weights: _core.Weights, order: Order, given: dict[str, Any], pad: Any) -> Batch:
    """Check the arguments of a call, and find its rows.

    `given` has x, lengths, mask, reset and offsets by name; `weights` are those of the first layer.
    """
    if not isinstance(pad, str):
        raise TypeError(f"pad: expected 'zero' or 'hold', got {type(pad).__name__}")
    if pad not in ("zero", "hold"):
        raise ValueError(f"pad: expected 'zero' or 'hold', got {pad!r}")
    x, offsets, reset = given["x"], given["offsets"], given["reset"]
    rows = None if offsets is not None else _core.read_sequences(x, "x")
    if rows is None and offsets is None:
        return _read_regular(weights, order, given, pad == "hold")
    form = "offsets" if rows is None else "a list of arrays"
    for name in ("lengths", "mask"):
        if given[name] is not None:
            raise ValueError(
                f"{name}: expected None with {form}, which says what rows there are, got a value"
            )
    if rows is not None:
        return _read_list(weights, order, rows, reset)
    return _read_packed(weights, order, x, offsets, reset)


# ---- Rows of one array -------------------------------------------------------------------------------------


class _Grid:
    """An array with time, and with a batch or without one, in the caller's layout.

    Attributes
    ----------
    swaps : bool
        Whether the batch stands before the time.
    sequence : ndarray
        The array with dimensions T and B first.
    shape : tuple of int
        Dimensions before the features.
    """

    def __init__(self, array: Array, is_batched: bool, batch_first: bool) -> None:
        self.array, self.is_batched, self.batch_first = array, is_batched, batch_first
        self.swaps = batch_first and is_batched
        self.sequence = (
            array[:, np.newaxis] if not is_batched else array.swapaxes(0, 1) if self.swaps else array
        )
        self.T: int = self.sequence.shape[0]
        self.B: int = self.sequence.shape[1]
        self.shape: tuple[int, ...] = array.shape[: 1 + is_batched]

    def flat(self, t: Any, b: Any) -> Array:
        """Rows of an array in the caller's layout."""
        return np.asarray(b * self.T + t if self.swaps else t * self.B + b, np.intp)

    def forward_frame(self) -> _core.Frame:
        """Where rows stand that begin at their first step."""
        T, B = self.T, self.B
        return _core.Frame(T * B, 1, T) if self.swaps else _core.Frame(T * B, B, 1)

    def back_frame(self, last: Array) -> _core.Frame:
        """Where rows stand that begin at their `last` step."""
        T, B = self.T, self.B
        return _core.Frame(T * B, -1 if self.swaps else -B, 0, self.flat(last, np.arange(B)))

    def flags(self, value: Any, name: str) -> Array:
        """Booleans as uint8 (T, B)."""
        return _core.read_flags(value, name, self.T, self.B, self.is_batched, self.batch_first)


def _read_regular(weights: _core.Weights, order: Order, given: dict[str, Any], is_held: bool) -> Batch:
    """Of x (T, B, I), or with the batch first, or without one."""
    array, is_batched = _core.read_sequence(weights, given["x"], order.batch_first)
    grid = _Grid(array, is_batched, order.batch_first)
    is_real = _real_steps(grid, given["lengths"], given["mask"])
    counts, is_prefix = np.empty(0), True
    if is_real is not None:
        counts = is_real.sum(axis=0, dtype=np.int64)
        is_prefix = np.array_equal(is_real, np.arange(grid.T)[:, np.newaxis] < counts)
    if order.is_kept and is_prefix:  # others are gathered, which is a copy
        grid = _Grid(_core.kept(array), is_batched, order.batch_first)
    starts = None if given["reset"] is None else grid.flags(given["reset"], "reset")
    _check_indices(weights, grid, is_real)
    if is_real is None:
        return _read_alike(weights, order, grid, starts)
    result = _read_unlike(weights, order, grid, is_real, counts, is_prefix, is_held)
    if starts is not None:
        t, b, s = _walk(is_real, counts, order.is_reverse)
        resets = np.cumsum(starts, axis=0)[t, b]
        result.reset = _boundaries(resets, s, b, order.is_reverse, grid.T, grid.B)
    return result


def _real_steps(grid: _Grid, lengths: Any, mask: Any) -> Array | None:
    """Which steps there are, (T, B); None is all."""
    T, B = grid.T, grid.B
    is_real = None
    if lengths is not None:
        counts = _core.read_row_lengths(lengths, T, B, grid.is_batched)
        is_real = np.arange(T)[:, np.newaxis] < counts
    if mask is not None:
        masked = grid.flags(mask, "mask").view(bool)
        is_real = masked if is_real is None else masked & is_real
    return None if is_real is None or is_real.all() else is_real


def _walk(is_real: Array, counts: Array, is_reverse: bool) -> tuple[Array, Array, Array]:
    """Of each inner row: the time of its input, its row of the batch, its number in that."""
    b, t = np.nonzero(is_real.T)  # in the order b, t
    begins = np.cumsum(counts) - counts
    s = np.arange(len(b)) - begins[b]
    return t[begins[b] + counts[b] - 1 - s] if is_reverse else t, b, s


def _read_alike(weights: _core.Weights, order: Order, grid: _Grid, starts: Array | None) -> Batch:
    """Of rows that have all steps: inner ones stand as (T, B)."""
    T, B, sequence = grid.T, grid.B, grid.sequence
    source = _core.strided_input(weights, sequence[::-1] if order.is_reverse else sequence, None, False)
    dx = grid.back_frame(np.full(B, max(T - 1, 0))) if order.is_reverse else grid.forward_frame()
    direct = grid.forward_frame() if order.in_processing_order else dx
    inner = _core.Frame(T * B, B, 1)
    result = Batch(T, B, grid.is_batched, None, source, inner, direct, dx, grid.shape, grid.array)
    if order.needs_inner:
        steps, rows = np.arange(T)[:, np.newaxis], np.arange(B)
        t, b = np.broadcast_arrays(steps[::-1] if order.is_reverse else steps, rows)
        result.x_order = _unless_same(grid.flat(t, b).ravel())
        out = steps if order.in_processing_order else t
        result.order = _unless_same(grid.flat(*np.broadcast_arrays(out, rows)).ravel())
        result.direct = None
    if starts is not None and order.is_reverse:
        starts = np.concatenate([np.zeros_like(starts[:1]), starts[:0:-1]])
    result.reset = starts
    return result


def _read_unlike(
    weights: _core.Weights,
    order: Order,
    grid: _Grid,
    is_real: Array,
    counts: Array,
    is_prefix: bool,
    is_held: bool,
) -> Batch:
    """Of rows that lack steps; `is_prefix` where each has its first ones."""
    T, B, sequence = grid.T, grid.B, grid.sequence
    t, b, _s = _walk(is_real, counts, order.is_reverse)
    begins = np.cumsum(counts) - counts
    inner = _core.Frame(len(b), 1, 0, begins.astype(np.intp))
    values: Any = grid.array
    if is_prefix:
        source = _core.strided_input(weights, sequence, counts, order.is_reverse)
    else:
        values = sequence[t, b]
        source = _core.packed_input(weights, values, T, inner, counts)
    result = Batch(T, B, grid.is_batched, counts, source, inner, None, None, grid.shape, values)
    result.is_gathered = not is_prefix
    result.x_order = result.order = grid.flat(t, b)
    if order.in_processing_order:
        result.order = grid.flat(_walk(is_real, counts, False)[0], b)
    if is_prefix:
        back, forward = grid.back_frame(np.maximum(counts - 1, 0)), grid.forward_frame()
        result.dx = back if order.is_reverse else forward
        if not order.needs_inner and not is_held:
            result.direct = forward if order.in_processing_order else result.dx
    if is_held:
        steps = np.arange(T)[:, np.newaxis]
        result.by_row = grid.flat(*np.broadcast_arrays(steps.T, np.arange(B)[:, np.newaxis])).ravel()
        result.held = tuple(
            _held(is_real, begins, counts, order, direction == 1) for direction in range(order.num_directions)
        )
    return result


def _held(is_real: Array, begins: Array, counts: Array, order: Order, is_second: bool) -> Array:
    """`Batch.held` of one direction."""
    B = is_real.shape[1]
    last = np.cumsum(is_real, axis=0) - 1  # number of the last real step up to here, in time; -1 for none
    if (order.is_reverse or is_second) and not order.in_processing_order:
        last = np.where(is_real, last, last + 1)
        if order.is_reverse:  # inner rows stand in the order of processing
            last = counts - 1 - last
    is_none = (last < 0) | (last >= counts)
    return np.asarray(np.where(is_none, counts.sum() + np.arange(B), begins + last).T.ravel())


def _boundaries(resets: Array, s: Array, b: Array, is_reverse: bool, T: int, B: int) -> Array:
    """Where no state passes into step s of row b; `resets` counts them in time, up to each inner row."""
    is_start = np.empty(len(resets), bool)
    is_start[1:] = resets[1:] != resets[:-1]
    is_first = s == 0
    is_start[is_first] = False if is_reverse else resets[is_first] != 0
    placed = np.zeros((T, B), np.uint8)
    placed[s, b] = is_start
    return placed


def _unless_same(order: Array) -> Array | None:
    return None if np.array_equal(order, np.arange(len(order))) else order


def _check_indices(weights: _core.Weights, grid: _Grid, is_real: Array | None) -> None:
    """Whether all indices of real steps are in range."""
    x = grid.sequence
    if x.dtype != np.int64 or x.ndim != 2:
        return
    is_bad = (x < 0) | (x >= weights.input_size)
    if is_real is not None:
        is_bad &= is_real
    if is_bad.any():
        t, b = np.argwhere(is_bad)[0].tolist()
        place = [t] if not grid.is_batched else [b, t] if grid.swaps else [t, b]
        raise ValueError(f"x{place}: expected an index from 0 to {weights.input_size - 1}, got {x[t, b]}")


# ---- Rows of different lengths -----------------------------------------------------------------------------


def _read_packed(weights: _core.Weights, order: Order, x: Any, offsets: Any, reset: Any) -> Batch:
    """Of x (N, I), of which row b is ``x[offsets[b] : offsets[b + 1]]``."""
    data, is_batched = _core.read_sequence(weights, x, False)
    if is_batched:
        raise ValueError(
            f"x: expected shape (N, {weights.input_size}), or (N,) of integers, with offsets, "
            f"got {data.shape}"
        )
    if order.is_kept:
        data = _core.kept(data)
    bounds = _checked_offsets(offsets, len(data))
    _check_packed_indices(weights, data)
    starts = None if reset is None else _checked_flags(reset, "reset", len(data))
    return _packed(weights, order, data, bounds, starts)


def _read_list(weights: _core.Weights, order: Order, x: list[Any], reset: Any) -> Batch:
    """Of x as a list of arrays (T_b, I)."""
    arrays, bounds = _core.read_rows(weights, x)
    is_index = bool(arrays) and arrays[0].ndim == 1
    data: Array | list[Array] = arrays
    # They are copied in any case where they are kept; indices are looked at as one array.
    if order.is_kept or is_index or not arrays:
        shape = (0,) if is_index else (0, weights.input_size)
        dtype = np.dtype(np.int64) if is_index else weights.dtype
        data = np.concatenate([np.empty(shape, dtype), *arrays])
        if is_index:
            _check_listed_indices(weights, data, bounds)
    starts = None if reset is None else _listed_flags(reset, bounds)
    result = _packed(weights, order, data, bounds, starts)
    result.splits = bounds
    return result


def _listed_flags(reset: Any, bounds: Array) -> Array:
    """One array of booleans a sequence, as one."""
    counts = np.diff(bounds).tolist()
    if not isinstance(reset, (list, tuple)):
        raise TypeError(f"reset: expected a list of arrays, as x, got {type(reset).__name__}")
    if len(reset) != len(counts):
        raise ValueError(f"reset: expected {len(counts)} arrays, got {len(reset)}")
    rows = [
        _checked_flags(row, f"reset[{b}]", count)
        for b, (row, count) in enumerate(zip(reset, counts, strict=True))
    ]
    return np.concatenate([np.empty(0, np.uint8), *rows])


def _check_listed_indices(weights: _core.Weights, x: Array, bounds: Array) -> None:
    bad = np.flatnonzero((x < 0) | (x >= weights.input_size))
    if len(bad):
        b = int(np.searchsorted(bounds, bad[0], side="right")) - 1
        raise ValueError(
            f"x[{b}][{bad[0] - bounds[b]}]: expected an index from 0 to {weights.input_size - 1}, "
            f"got {x[bad[0]]}"
        )


def _packed(
    weights: _core.Weights, order: Order, data: Array | list[Array], bounds: Array, starts: Array | None
) -> Batch:
    """Rows one behind the other; `data` may also have them one by one."""
    counts = np.diff(bounds)
    begins = bounds[:-1].astype(np.intp)
    N, B, T = int(bounds[-1]), len(counts), int(counts.max(initial=0))
    inner = _core.Frame(N, 1, 0, begins)
    aligned = inner
    if order.is_reverse:
        aligned = _core.Frame(N, -1, 0, begins + np.maximum(counts - 1, 0).astype(np.intp))
    if isinstance(data, list):
        source = _core.listed_input(weights, data, T, counts, order.is_reverse)
    else:
        source = _core.packed_input(weights, data, T, aligned, counts)
    direct = inner if order.in_processing_order else aligned
    result = Batch(T, B, True, counts, source, inner, direct, aligned, (N,), data)
    if order.is_reverse or starts is not None:
        b = np.repeat(np.arange(B), counts)
        s = np.arange(N) - begins[b]
        rows = begins[b] + (counts[b] - 1 - s if order.is_reverse else s)
        if order.is_reverse and order.needs_inner:
            result.x_order = rows
            result.order = None if order.in_processing_order else rows
        if starts is not None:
            resets = np.cumsum(starts, dtype=np.int64)
            before = np.concatenate([[0], resets])[begins]
            result.reset = _boundaries((resets - before[b])[rows], s, b, order.is_reverse, T, B)
    if order.needs_inner:
        result.direct = None
    return result


def _checked_offsets(offsets: Any, N: int) -> Array:
    array = checked_array(offsets, "offsets")
    if array.dtype.kind not in "iu":
        raise TypeError(f"offsets: expected integers, got dtype {array.dtype}")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"offsets: expected shape (B + 1,), got {array.shape}")
    bounds = array.astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != N:
        raise ValueError(
            f"offsets: expected numbers from 0 to N = {N}, the rows of x, got {array[0]} to {array[-1]}"
        )
    falls = np.flatnonzero(np.diff(bounds) < 0)
    if len(falls):
        b = int(falls[0])
        raise ValueError(f"offsets[{b + 1}]: expected at least offsets[{b}] = {array[b]}, got {array[b + 1]}")
    return bounds


def _checked_flags(value: Any, name: str, count: int) -> Array:
    array: Array = _core.read_flags(value, name, count, 1, False, False)
    return array.reshape(count)


def _check_packed_indices(weights: _core.Weights, x: Array) -> None:
    if x.dtype == np.int64 and x.ndim == 1:
        bad = np.flatnonzero((x < 0) | (x >= weights.input_size))
        if len(bad):
            raise ValueError(
                f"x[{bad[0]}]: expected an index from 0 to {weights.input_size - 1}, got {x[bad[0]]}"
            )
