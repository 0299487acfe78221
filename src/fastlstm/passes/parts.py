# SPDX-License-Identifier: BSD-3-Clause
"""Passes of a layer over the rows of batch.py: one stack of the C core, or several and NumPy between.

A stack of equal layers is one part, and the C core runs all of it.  Layers of different sizes, residual sums
and merged directions are parts of one layer each; what passes between them are inner rows.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .batch import Batch, Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    # For each part, h (L*D, B, P) and what is beside it, (L*D, B, n*H); None is zero.
    States = list[tuple[Array | None, Array | None]]

__all__: list[str] = []

# Distances of seeds from that of a pass, beside those of the C core: masks for all steps, between layers and
# of x.
SEED_TIED, SEED_INPUT = 4, 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the parts of a layer are put together."""

    num_directions: int
    merge: str
    residual: int | None
    dropout: float
    is_tied: bool  # one mask of dropout for all steps
    input_dropout: float  # one mask for all steps
    is_listed: bool  # whether states are lists, as layers differ in size
    order: Order

    @property
    def joins(self) -> bool:
        """Whether outputs are more than what the C core writes."""
        return self.merge != "concat" or self.residual is not None

    def is_residual(self, layer: int) -> bool:
        """Whether the input of this layer is added to its output."""
        return self.residual is not None and layer >= self.residual

    def merged(self, y: Array) -> Array:
        """One output (N, W) of both directions' (N, D*P)."""
        if self.merge == "concat":
            return y
        first, second = np.split(y, 2, axis=-1)
        # Half of each first: the sum of both may be too large where the average is not.
        total: Array = first + second if self.merge == "sum" else first / 2 + second / 2
        return total

    def merged_back(self, dy: Array) -> Array:
        """The inverse for gradients."""
        if self.merge == "concat":
            return dy
        half = dy if self.merge == "sum" else dy / 2
        return np.concatenate([half, half], axis=-1)


@dataclasses.dataclass(frozen=True)
class Recording:
    """What a recorded pass is asked for."""

    save: int
    seed: int
    draws: bool  # dropout and the cells' own masks


@dataclasses.dataclass(frozen=True)
class _Back:
    """What a backward pass is asked for."""

    bptt: int
    grads: Array  # receives the gradients of the parameters
    is_apart: bool  # no memory of the tape is used


class Pass:
    """A forward pass of a layer over a batch, and its backward pass where it is recorded.

    Attributes
    ----------
    y, cells : ndarray, list of ndarray or None
        Results in the form of x.
    state
        Final states as a call gives them.
    nbytes : int
        Bytes that are kept beside copies of the arguments and outputs of layers.
    records : list of Record
        What the C core keeps of each part.
    """

    y: Any
    cells: Any
    state: Any

    def __init__(
        self, layer: _core.Recurrent, plan: Plan, batch: Batch, recording: Recording | None = None
    ) -> None:
        self._is_kept = recording is not None
        if recording is None and batch.reset is not None:  # the C core knows resets of recorded passes only
            recording = Recording(max(batch.T, 1), 0, False)
        self._layer, self._plan, self._batch, self._recording = layer, plan, batch, recording
        self._parts = layer._packed
        self.records: list[_core.Record] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the C core keeps."""
        return sum(record.nbytes for record in self.records)

    # ---- Forward ------------------------------------------------------------------------------------------

    def run(self, states: States, wants_cells: bool, out: Array | None = None) -> None:
        """Compute; `out` receives y where that is given."""
        # As in the C core: what overflows or is not finite gives what it gives.
        with np.errstate(all="ignore"):
            self._run(states, wants_cells, out)

    def _run(self, states: States, wants_cells: bool, out: Array | None) -> None:
        plan, batch, parts = self._plan, self._batch, self._parts
        source, below = batch.x, None
        if plan.is_residual(0):
            below = _as_features(batch.gathered(), parts[0])
        if self._drops_input:
            below = self._dropped_input(_as_features(batch.gathered(), parts[0]))
            source = _inner_input(parts[0], batch, below)
        finals, y, c_steps = [], np.empty(0), None
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            frame, y, c_steps = self._results(part, is_last, wants_cells, out)
            call = _core.StackCall(part, source, frame, states[index], y, c_steps)
            self._compute(call, part, index)
            finals.append(call.final)
            if plan.joins or not is_last:
                y = plan.merged(y)
                if below is not None and plan.is_residual(index):
                    y = y + below
            if not is_last:
                below = self._dropped(y, index)
                source = _inner_input(parts[index + 1], batch, below)
        if batch.direct is None:
            y, c_steps = self._placed(y, c_steps, states[-1], out)
        if self._is_kept:
            y = _core.frozen(y)
        self.y = batch.as_given(y)
        self.cells = None if c_steps is None else batch.as_given(c_steps)
        self.state = _core.states_as_given(parts, finals, batch.is_batched, plan.is_listed)
        self._y_width = y.shape[-1]
        self._c_width = 0 if c_steps is None else c_steps.shape[-1]

    def _results(
        self, part: _core.Weights, is_last: bool, wants_cells: bool, out: Array | None
    ) -> tuple[_core.Frame, Array, Array | None]:
        """Where the C core writes y of a part, and c at every step: in the caller's layout if it can."""
        batch, D, dtype = self._batch, self._plan.num_directions, self._layer.dtype
        direct = batch.direct if is_last else None
        frame = batch.inner if direct is None else direct
        width = D * part.output_size
        if direct is None:
            y = np.empty((frame.rows, width), dtype)
        elif out is not None:
            y = out
            if frame.at is not None and batch.lengths is not None:
                y[...] = 0
        else:
            y = batch.empty(width, dtype, frame.at is not None)
        c_steps = None
        if wants_cells and is_last:
            shape = (frame.rows,) if direct is None else batch.shape
            c_steps = np.zeros((*shape, D * part.hidden_size), dtype)
        return frame, y, c_steps

    def _compute(self, call: _core.StackCall, part: _core.Weights, index: int) -> None:
        recording, layer = self._recording, self._layer
        if recording is None:
            call.run(layer.num_threads or 0)
            return
        dropout = self._plan.dropout if recording.draws and part.num_layers > 1 else 0.0
        draws = recording.draws and part.draws
        first = index * self._plan.num_directions
        self.records.append(
            call.record(layer, self._batch.reset, recording.save, dropout, recording.seed, draws, first)
        )

    def _placed(
        self, y: Array, c_steps: Array | None, given: tuple[Array | None, Array | None], out: Array | None
    ) -> tuple[Array, Array | None]:
        """The results in the caller's layout, from inner rows; `given` are the states of the last part."""
        batch, D = self._batch, self._plan.num_directions
        h, beside = given
        y = batch.place(y, None if h is None else h[-D:], D, out)
        if c_steps is not None:
            H = self._parts[-1].hidden_size
            c_steps = batch.place(c_steps, None if beside is None else beside[-D:, :, :H], D)
        return y, c_steps

    def _dropped(self, rows: Array, index: int) -> Array:
        """The output of a part (N, W), or its gradient, with what dropout leaves of it."""
        recording, batch, p = self._recording, self._batch, self._plan.dropout
        if recording is None or not recording.draws or not p:
            return rows
        seed = recording.seed + SEED_TIED * self._plan.is_tied
        return _core.drop_rows(
            rows, batch.T, batch.B, batch.lengths, p, seed % 2**64, index, is_tied=self._plan.is_tied
        )

    @property
    def _drops_input(self) -> bool:
        recording = self._recording
        return recording is not None and recording.draws and self._plan.input_dropout > 0

    def _dropped_input(self, rows: Array) -> Array:
        """Inner rows of x, or their gradient, with what dropout leaves of them."""
        recording, batch, p = self._recording, self._batch, self._plan.input_dropout
        if recording is None or not self._drops_input:
            return rows
        seed = (recording.seed + SEED_INPUT) % 2**64
        return _core.drop_rows(rows, batch.T, batch.B, batch.lengths, p, seed, 0, is_tied=True)

    # ---- Backward -----------------------------------------------------------------------------------------

    def backward(
        self, dy: Any, dstate: Any, dcells: Any, bptt: int, grads: Array, is_apart: bool
    ) -> tuple[Any, Any]:
        """Return gradients of x and of the given state; those of the parameters are written to `grads`.

        If `is_apart`, several threads may come here at once.
        """
        with np.errstate(all="ignore"):
            return self._backward(dy, dstate, dcells, _Back(bptt, grads, is_apart))

    def _backward(self, dy: Any, dstate: Any, dcells: Any, back: _Back) -> tuple[Any, Any]:
        layer, plan, batch, parts = self._layer, self._plan, self._batch, self._parts
        D = plan.num_directions
        if dy is not None:
            dy = batch.read_back(dy, "dy", self._y_width, layer.dtype)
        if dcells is not None:
            dcells = batch.read_back(dcells, "dcells", self._c_width, layer.dtype)
        dstates = _core.read_states(parts, dstate, "dstate", batch.B, batch.is_batched, plan.is_listed, True)
        dgiven, dgiven_cells = None, None
        if batch.direct is None:
            if dy is not None:
                dy, dgiven = batch.take_back(dy, D)
            if dcells is not None:
                dcells, dgiven_cells = batch.take_back(dcells, D)
        dinitial: list[tuple[Array, Array | None]] = []
        dx: Array | None = None
        for index in reversed(range(len(parts))):
            own_dcells = dcells if index == len(parts) - 1 else None
            dx, dinitial_of_part = self._back_through(index, dy, own_dcells, dstates[index], back)
            dinitial.insert(0, dinitial_of_part)
            dy = dx
        if dgiven is not None:
            dinitial[-1][0][-D:] += dgiven
        last = dinitial[-1][1]
        if dgiven_cells is not None and last is not None:
            last[-D:, :, : parts[-1].hidden_size] += dgiven_cells
        state = _core.states_as_given(parts, dinitial, batch.is_batched, plan.is_listed)
        return None if dx is None else batch.as_given(dx), state

    def _back_through(
        self,
        index: int,
        dy: Array | None,
        dcells: Array | None,
        dstate: tuple[Array | None, Array | None],
        back: _Back,
    ) -> tuple[Array | None, tuple[Array, Array | None]]:
        """Gradients of the input of a part, which is the output of the one below, and of its given state."""
        plan, batch, part = self._plan, self._batch, self._parts[index]
        dtype = self._layer.dtype
        direct = batch.dx if index == 0 and not plan.is_residual(0) and not self._drops_input else None
        if index == 0 and batch.x.is_index:
            dx = None
        elif direct is None:
            dx = np.empty((batch.inner.rows, part.input_size), dtype)
        else:
            dx = batch.empty_dx(part.input_size, dtype)
        dpart = None if dy is None else plan.merged_back(dy)
        frame = batch.inner if direct is None else direct
        threads = self._layer.num_threads or 0
        dinitial = self.records[index].backward(
            dpart, dcells, dstate, frame, dx, back.grads, back.bptt, threads, back.is_apart
        )
        if dx is not None and plan.is_residual(index) and dy is not None:
            dx = dx + dy
        if dx is not None and index > 0:
            dx = self._dropped(dx, index - 1)
        elif dx is not None and direct is None:
            dx = batch.place_dx(self._dropped_input(dx))
        return dx, dinitial


def _as_features(x: Array, weights: _core.Weights) -> Array:
    """Inner rows (N, I) of the first layer's input; indices become one-hot rows."""
    if x.ndim == 2:
        return x
    rows = np.zeros((len(x), weights.input_size), weights.dtype)
    rows[np.arange(len(x)), x] = 1
    return rows


def _inner_input(weights: _core.Weights, batch: Batch, rows: Array) -> _core.Input:
    if batch.lengths is None:
        return _core.strided_input(weights, rows.reshape(batch.T, batch.B, rows.shape[-1]), None, False)
    return _core.packed_input(weights, rows, batch.T, batch.inner, batch.lengths)
