# SPDX-License-Identifier: BSD-3-Clause
"""Passes of a layer over the rows of sequences.py: one stack of the C core, or several and NumPy between.

A stack of equal layers is one part, and the C core runs all of it.  Layers of different sizes, residual sums
and merged directions are parts of one layer each; what passes between them are inner rows.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from . import batch as sequences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..layers.base import RecurrentLayer

    Array = NDArray[Any]
    # For each part, h (L*D, B, P) and what is beside it, (L*D, B, n*H); None is zero.
    States = list[tuple[Array | None, Array | None]]

__all__: list[str] = []


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the parts of a layer are put together."""

    num_directions: int
    merge: str
    residual: int | None
    dropout: float
    order: sequences.Order

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
        total: Array = first + second
        return total if self.merge == "sum" else total / 2

    def merged_back(self, dy: Array) -> Array:
        """The inverse for gradients."""
        if self.merge == "concat":
            return dy
        half = dy if self.merge == "sum" else dy / 2
        return np.concatenate([half, half], axis=-1)


@dataclasses.dataclass
class Recording:
    """What a recorded pass was asked for, and what it keeps of each part."""

    save: int
    seed: int
    draws: bool  # dropout and the cells' own masks
    records: list[_core.Record] = dataclasses.field(default_factory=list)
    inputs: list[_core.Input] = dataclasses.field(default_factory=list)
    frames: list[_core.Frame] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Result:
    """Of a pass: in the caller's layout, the states part by part."""

    y: Array
    cells: Array | None
    states: list[tuple[Array, Array | None]]


def run(
    layer: RecurrentLayer,
    parts: tuple[_core.Weights, ...],
    plan: Plan,
    batch: sequences.Batch,
    states: States,
    wants_cells: bool,
    out: Array | None = None,
    reset: bool = False,
    recording: Recording | None = None,
) -> Result:
    """A forward pass; `out` receives y where that is given."""
    dtype, D = layer.dtype, plan.num_directions
    if recording is None and batch.reset is not None:  # the C core knows resets of recorded passes only
        recording = Recording(max(batch.T, 1), 0, False)
    source, below = batch.x, None
    if plan.is_residual(0):
        below = _as_features(batch.gathered(), parts[0], dtype)
    final, y, cells = [], np.empty(0), None
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
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
        if wants_cells and is_last:
            shape = (frame.rows,) if direct is None else batch.shape
            cells = np.zeros((*shape, D * part.hidden_size), dtype)
        h_0, c_0 = states[index]
        if recording is None:
            h_n, c_n = _core.run_stack(part, source, frame, h_0, c_0, y, cells, layer.num_threads or 0)
        else:
            record, h_n, c_n = _core.record_stack(
                layer,
                part,
                source,
                frame,
                h_0,
                c_0,
                y,
                cells,
                batch.reset,
                recording.save,
                plan.dropout if recording.draws and part.num_layers > 1 else 0.0,
                recording.seed,
                recording.draws and part.draws,
                index * D,
            )
            recording.records.append(record)
            recording.inputs.append(source)
            recording.frames.append(frame)
        final.append((h_n, c_n))
        if plan.joins or not is_last:
            y = plan.merged(y)
            if below is not None and plan.is_residual(index):
                y = y + below
        if not is_last:
            below = y
            if recording is not None and recording.draws and plan.dropout:
                below = _dropped(plan, recording, batch, y, index)
            source = _inner_input(parts[index + 1], batch, below)
    if batch.direct is None:
        given = None if states[-1][0] is None else states[-1][0][-D:]
        y = batch.place(y, given, D, out)
        if cells is not None:
            beside = states[-1][1]
            H = parts[-1].hidden_size
            cells = batch.place(cells, None if beside is None else beside[-D:, :, :H], D)
    return Result(y, cells, final)


def backward(
    layer: RecurrentLayer,
    parts: tuple[_core.Weights, ...],
    plan: Plan,
    batch: sequences.Batch,
    recording: Recording,
    dy: Array | None,
    dcells: Array | None,
    dstates: States,
    bptt: int,
) -> tuple[Array | None, list[tuple[Array, Array | None]]]:
    """Gradients of x and of the given states; those of the parameters are added to the layer's at the end."""
    D = plan.num_directions
    dgiven, dgiven_cells = None, None
    if batch.direct is None:
        if dy is not None:
            dy, dgiven = batch.take_back(dy, D)
        if dcells is not None:
            dcells, dgiven_cells = batch.take_back(dcells, D)
    scratch = layer.gradient_scratch()
    dx: Array | None = None
    dinitial: list[tuple[Array, Array | None]] = []
    for index in reversed(range(len(parts))):
        part, record = parts[index], recording.records[index]
        is_first = index == 0
        dpart = None if dy is None else plan.merged_back(dy)
        direct = batch.dx if is_first and not plan.is_residual(0) else None
        if is_first and batch.x.is_index:
            dx = None
        elif direct is None:
            dx = np.empty((batch.inner.rows, part.input_size), layer.dtype)
        else:
            dx = batch.empty_dx(part.input_size, layer.dtype)
        dh_0, dc_0 = record.backward(
            recording.inputs[index],
            recording.frames[index],
            dpart,
            dcells if index == len(parts) - 1 else None,
            *dstates[index],
            batch.inner if direct is None else direct,
            dx,
            scratch,
            bptt,
            layer.num_threads or 0,
        )
        dinitial.append((dh_0, dc_0))
        if dx is not None and plan.is_residual(index) and dy is not None:
            dx = dx + dy
        if not is_first and dx is not None:
            if recording.draws and plan.dropout:
                dx = _dropped(plan, recording, batch, dx, index - 1)
            dy = dx
        elif dx is not None and direct is None:
            dx = batch.place_dx(dx)
    dinitial.reverse()
    if dgiven is not None:
        dinitial[-1][0][-D:] += dgiven
    last = dinitial[-1][1]
    if dgiven_cells is not None and last is not None:
        last[-D:, :, : parts[-1].hidden_size] += dgiven_cells
    _core.add_gradients(layer, scratch)
    for record in recording.records:
        layer.give_back(record)
    return dx, dinitial


def _as_features(x: Array, weights: _core.Weights, dtype: np.dtype[Any]) -> Array:
    """Inner rows (N, I) of the first layer's input; indices become one-hot rows."""
    if x.ndim == 2:
        return x
    rows = np.zeros((len(x), weights.input_size), dtype)
    rows[np.arange(len(x)), x] = 1
    return rows


def _inner_input(weights: _core.Weights, batch: sequences.Batch, rows: Array) -> _core.Input:
    if batch.lengths is None:
        return _core.strided_input(weights, rows.reshape(batch.T, batch.B, rows.shape[-1]), None, False)
    return _core.packed_input(weights, rows, batch.T, batch.inner, batch.lengths)


def _dropped(plan: Plan, recording: Recording, batch: sequences.Batch, rows: Array, layer: int) -> Array:
    """The output of a layer (N, W), or its gradient, with some elements dropped: a copy."""
    return _core.drop_rows(rows, batch.T, batch.B, batch.lengths, plan.dropout, recording.seed, layer)


# ---- Tapes -------------------------------------------------------------------------------------------------


class TapeOfParts:
    """What ``forward`` keeps for its one backward pass, where that is more than one call of the C core.

    Attributes
    ----------
    y : ndarray or list of ndarray
        Output of the layer, read-only.
    state
        Final states, as those of a call.
    cells : ndarray, list of ndarray or None
        As those of a call, where they were asked for.
    nbytes : int
        Bytes that are kept beside copies of the arguments and outputs of layers.
    """

    __slots__ = (
        "_batch", "_bptt", "_layer", "_lock", "_parts", "_plan", "_recording", "_result", "cells",
        "nbytes", "state", "y",
    )  # fmt: skip
    y: Any
    state: Any
    cells: Any
    nbytes: int
    _layer: RecurrentLayer
    _parts: tuple[_core.Weights, ...]
    _plan: Plan
    _batch: sequences.Batch
    _recording: Recording | None
    _result: Result
    _bptt: int
    _lock: threading.Lock  # held by a backward pass

    def __init__(self, *_args: Any, **_keywords: Any) -> None:
        raise TypeError("Tape: forward of a layer makes tapes")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Tape: expected {name} to stay as it is, got another value")

    def __reduce__(self) -> Any:
        raise TypeError("Tape: expected to be used in the process that made it; pickle the layer instead")

    @classmethod
    def _of(cls, **attributes: Any) -> TapeOfParts:
        tape = cls.__new__(cls)
        for name, value in attributes.items():
            object.__setattr__(tape, name, value)
        return tape

    def backward(self, dy: Any = None, dstate: Any = None, dcells: Any = None) -> tuple[Any, Any]:
        """Backpropagation through the recorded pass, as of the other tape: see ``fastlstm.LSTM``."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("tape: expected one call at a time, got one while another runs")
        try:
            return self._run_back(dy, dstate, dcells)
        finally:
            self._lock.release()

    def _run_back(self, dy: Any, dstate: Any, dcells: Any) -> tuple[Any, Any]:
        if self._recording is None:
            raise RuntimeError("tape: expected one backward for each forward, got a second one")
        layer, batch = self._layer, self._batch
        if layer.parts is not self._parts:
            raise RuntimeError(
                "tape: expected the parameters of its forward, got others since: call forward again"
            )
        if dcells is not None and self.cells is None:
            raise ValueError("dcells: expected None without return_cells, got a gradient of cells")
        result: Result = self._result
        if dy is not None:
            dy = batch.read_back(dy, "dy", result.y.shape[-1], layer.dtype)
        if dcells is not None and result.cells is not None:
            dcells = batch.read_back(dcells, "dcells", result.cells.shape[-1], layer.dtype)
        dstates = layer._read_state(dstate, "dstate", batch.B, batch.is_batched, True)
        dx, dinitial = backward(
            layer, self._parts, self._plan, batch, self._recording, dy, dcells, dstates, self._bptt
        )
        object.__setattr__(self, "_recording", None)
        return None if dx is None else batch.as_given(dx), layer._state_as_given(dinitial, batch.is_batched)
