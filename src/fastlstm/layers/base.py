# SPDX-License-Identifier: BSD-3-Clause
"""What all recurrent layers and cells share: their options, parameters and states.

The layers are in lstm.py, gru.py, rnn.py and minimal.py.  A plain call goes straight to _core; what it cannot
do, `RecurrentLayer` does here with sequences.py and stacks.py.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core
from ..model import layouts, options
from ..model.checks import checked_choice, checked_flag, checked_index, checked_probability
from ..model.layouts import Layout
from ..model.options import Option, choice
from ..model.parameters import Parameters, ParameterSet, Values
from ..passes import batch as sequences
from ..passes import parts as stacks
from ..passes.streams import Stream, StreamOfParts, StreamOrigin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__: list[str] = []


class Recurrent(Parameters):
    """What layers and cells share: their parameters are packed for the C core."""

    _kind: ClassVar[str]  # as fl_cell_set_option takes it
    _keras_forget_bias: ClassVar[float | None] = None  # as Keras' layer of this kind has it at first
    _is_numbered: ClassVar[bool]  # whether names of parameters carry their layer and direction
    _not_kept = Parameters._not_kept | {"_plan"}

    if TYPE_CHECKING:
        num_threads: int | None

        @property
        def weights(self) -> _core.Weights: ...
        @weights.setter
        def weights(self, value: Any) -> None: ...

    input_size = Option(_core.count)
    bias = Option(checked_flag, True, is_shown=True)

    def _first_values(self, given: dict[str, Any]) -> Values:
        init = checked_choice(given.pop("init", "torch"), "init", ("torch", "keras"))
        usual = self._keras_forget_bias if init == "keras" else None
        return layouts.initial(self.rng, init, given.pop("forget_bias", None), usual)

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> Layout:
        names = ("input_size", "hidden_size", "num_layers", "bias", "merge", "proj_bias")
        return Layout(
            **{name: settings[name] for name in names if name in settings},
            num_directions=1 + settings.get("bidirectional", False),
            dtype=dtype,
            options=options.fields(type(self), settings),
            in_parts=_is_in_parts(settings),
            is_numbered=self._is_numbered,
        )

    def _set_up(self, values: Values, **given: Any) -> None:
        super()._set_up(values, **given)
        self.num_threads = given["num_threads"]

    def _put_in_force(self, parameter_set: ParameterSet) -> None:
        self.weights = self._packed(parameter_set)

    def _packed(self, parameter_set: ParameterSet) -> Any:
        layout: Layout = parameter_set.layout
        return layout.packed(parameter_set)

    def _parameter_set(self) -> ParameterSet:
        source: ParameterSet = self.weights.source
        return source

    def _config(self) -> dict[str, Any]:
        return self._own_settings() | {"num_threads": self.num_threads}


def _is_in_parts(settings: dict[str, Any]) -> bool:
    """Whether layers are packed one by one: they differ, or more is between them than the C core does."""
    return (
        isinstance(settings["hidden_size"], tuple)
        or settings.get("merge", "concat") != "concat"
        or settings.get("residual") is not None
    )


def _checked_residual(value: Any, name: str) -> int | None:
    return None if value is None else checked_index(value, name, 0)


def _refused_layer_count(o: options.Settings) -> str | bool:
    """A sequence of sizes says how many there are."""
    sizes = o["hidden_size"]
    return (
        isinstance(sizes, tuple)
        and o["num_layers"] != len(sizes)
        and f"{len(sizes)}, as many as hidden_size has"
    )


def _refused_residual(o: options.Settings) -> str | bool:
    count = options.layer_count(o)
    return o["residual"] >= count and f"a layer from 0 to {count - 1}"


class RecurrentLayer(Recurrent, _core.Recurrent):
    """A stack of recurrent layers over whole sequences; see `fastlstm.LSTM`."""

    _is_numbered = True
    _plan: stacks.Plan

    hidden_size: Option[Any] = Option(options.checked_hidden_size)
    num_layers = Option(_core.count, 1, _refused_layer_count, is_shown=True)
    batch_first: Option[bool] = Option(checked_flag, False, is_shown=True)
    dropout: Option[float] = Option(checked_probability, 0.0, is_shown=True)
    bidirectional = Option(checked_flag, False, is_shown=True)
    reverse = Option(
        checked_flag,
        False,
        lambda o: o["bidirectional"] and "False with bidirectional, which has a direction from the end",
    )
    reverse_order = Option(
        choice("aligned", "processing"),
        "aligned",
        lambda o: not o["reverse"] and "'aligned' without reverse, as time is the order of processing",
    )
    residual = Option(_checked_residual, None, _refused_residual)
    merge = Option(
        choice("concat", "sum", "average"),
        "concat",
        lambda o: not o["bidirectional"] and "'concat' without bidirectional, as there is one direction only",
    )

    # ---- Construction --------------------------------------------------------------------------------------

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> Layout:
        settings["num_layers"] = options.layer_count(settings)
        layout = super()._make_layout(settings, dtype)
        residual = settings["residual"]
        for layer in range(layout.num_layers if residual is None else residual, layout.num_layers):
            if layout.inputs(layer) != layout.output(layer):
                raise ValueError(
                    "residual: expected layers that have as many outputs as inputs, got "
                    f"{layout.inputs(layer)} inputs and {layout.output(layer)} outputs of layer {layer}"
                )
        return layout

    def _set_up(self, values: Values, **given: Any) -> None:
        super()._set_up(values, **given)
        joins = self.merge != "concat" or self.residual is not None
        order = sequences.Order(
            self.reverse,
            self.reverse_order == "processing",
            self.num_directions,
            self.batch_first,
            joins,
            False,
        )
        self._plan = stacks.Plan(self.num_directions, self.merge, self.residual, self.dropout, order)
        self.configure(self.batch_first, self.dropout, not self._layout.in_parts and not self.reverse)

    @property
    def num_directions(self) -> int:
        """D: 1, or 2 for a bidirectional layer."""
        return self._layout.num_directions

    @property
    def _layout(self) -> Layout:
        layout: Layout = self._parameter_set().layout
        return layout

    # ---- Calls that are not plain --------------------------------------------------------------------------

    def _call_in_full(
        self,
        x: Any,
        state: Any,
        *,
        lengths: Any,
        mask: Any,
        reset: Any,
        offsets: Any,
        pad: Any,
        return_cells: Any,
        out: Any,
    ) -> Any:
        """The call of _core, for rows that do not lie as in one array, and for stacks of several parts."""
        plan, parts = self._plan, self.parts
        batch = self._read_batch(plan.order, parts, x, lengths, mask, reset, offsets, pad)
        wants_cells = self._checked_cells(return_cells)
        states = self._read_state(state, "state", batch.B, batch.is_batched)
        if out is not None:
            if batch.splits is not None:
                raise ValueError("out: expected None with a list of arrays, got a value")
            given = {"x": x, "lengths": lengths, "mask": mask, "reset": reset, "offsets": offsets}
            self._check_out(out, batch, given, state)
        result = stacks.run(
            self, parts, plan, batch, states, wants_cells, None if out is None else np.asarray(out)
        )
        finals = self._state_as_given(result.states, batch.is_batched)
        y = batch.as_given(result.y) if out is None else out  # which may be of a subclass
        if wants_cells and result.cells is not None:
            return y, finals, batch.as_given(result.cells)
        return y, finals

    def _forward_in_full(
        self,
        x: Any,
        state: Any,
        *,
        lengths: Any,
        mask: Any,
        reset: Any,
        offsets: Any,
        pad: Any,
        return_cells: Any,
        training: bool,
        save: int,
        bptt: int,
    ) -> stacks.TapeOfParts:
        """Likewise, of ``forward``."""
        plan, parts = self._plan, self.parts
        order = dataclasses.replace(plan.order, is_kept=True)
        batch = self._read_batch(order, parts, x, lengths, mask, reset, offsets, pad)
        wants_cells = self._checked_cells(return_cells)
        states = [
            (None if h is None else _core.kept(h), None if c is None else _core.kept(c))
            for h, c in self._read_state(state, "state", batch.B, batch.is_batched)
        ]
        draws = training and (parts[0].draws or (plan.dropout > 0 and self.num_layers > 1))
        recording = stacks.Recording(save, int(self.rng.integers(2**63)) if draws else 0, draws)
        result = stacks.run(self, parts, plan, batch, states, wants_cells, recording=recording)
        result.y.setflags(write=False)
        return stacks.TapeOfParts._of(
            y=batch.as_given(result.y),
            state=self._state_as_given(result.states, batch.is_batched),
            cells=None if result.cells is None else batch.as_given(result.cells),
            nbytes=sum(record.nbytes for record in recording.records),
            _layer=self,
            _parts=parts,
            _plan=plan,
            _batch=batch,
            _recording=recording,
            _result=result,
            _bptt=bptt,
            _lock=threading.Lock(),
        )

    def _read_batch(
        self,
        order: sequences.Order,
        parts: tuple[_core.Weights, ...],
        x: Any,
        lengths: Any,
        mask: Any,
        reset: Any,
        offsets: Any,
        pad: Any,
    ) -> sequences.Batch:
        batch = sequences.read(parts[0], order, x, lengths, mask, reset, offsets, pad)
        if pad == "hold" and self._plan.joins:
            raise ValueError(
                "pad: expected 'zero' with residual or merged directions, whose sums are no state, got 'hold'"
            )
        return batch

    def _checked_cells(self, return_cells: Any) -> bool:
        wanted = checked_flag(return_cells, "return_cells")
        if wanted and self._layout.num_states == 0:
            raise ValueError(f"return_cells: expected False, as {type(self).__name__} has no c, got True")
        return wanted

    def _check_out(self, out: Any, batch: sequences.Batch, given: dict[str, Any], state: Any) -> None:
        width = self._layout.output(self.num_layers - 1)
        _core.check_result(out, (*batch.shape, width), self.dtype)
        members = state if isinstance(state, (tuple, list)) else [state]
        for n, member in enumerate(members):
            for layer, part in enumerate(member if isinstance(member, (tuple, list)) else [member]):
                given[f"state[{n}][{layer}]" if part is not member else f"state[{n}]"] = part
        for name, array in given.items():
            if isinstance(array, np.ndarray) and np.shares_memory(out, array):
                raise ValueError(f"out: expected memory apart from {name}, got an array that overlaps it")

    # ---- States --------------------------------------------------------------------------------------------

    def _read_state(
        self, state: Any, name: str, B: int, is_batched: bool, may_lack: bool = False
    ) -> stacks.States:
        """A state, or its gradient, as `stacks.run` takes it; with `may_lack`, members may be None."""
        layout, parts = self._layout, self.parts
        if state is None:
            return [(None, None)] * len(parts)
        count = layout.num_states
        if count == 0:
            members: tuple[Any, ...] = (state,)
        else:
            names = "(h, c)" if count == 1 else "(h, c, n, m)"
            kind = f"a pair {names} of arrays" if count == 1 else f"arrays {names}"
            if not isinstance(state, (tuple, list)):
                raise TypeError(f"{name}: expected {kind}, got {type(state).__name__}")
            if len(state) != 1 + count:
                raise ValueError(f"{name}: expected {kind}, got {len(state)} items")
            members = tuple(state)
        read = [
            self._read_member(member, name if count == 0 else f"{name}[{n}]", n > 0, B, is_batched, may_lack)
            for n, member in enumerate(members)
        ]
        result: stacks.States = []
        for index, (h, *beside) in enumerate(zip(*read, strict=True)):
            c = None
            if any(array is not None for array in beside):
                size = (*self._state_shape(index, B), layout.hidden(index))
                arrays = [np.zeros(size, self.dtype) if array is None else array for array in beside]
                c = arrays[0] if count == 1 else np.concatenate(arrays, axis=-1)
            result.append((h, c))
        return result

    def _state_shape(self, part: int, B: int) -> tuple[int, int]:
        return (self.parts[part].num_layers * self.num_directions, B)

    def _read_member(
        self, member: Any, name: str, is_beside: bool, B: int, is_batched: bool, may_lack: bool
    ) -> list[Array | None]:
        """One state of each part: (layers and directions, B, width)."""
        layout, parts = self._layout, self.parts
        if member is None and may_lack:
            return [None] * len(parts)
        width = layout.hidden if is_beside else layout.width

        def checked(value: Any, what: str, rows: int, columns: int) -> Array:
            shape = (rows, B, columns) if is_batched else (rows, columns)
            array: Array = _core.real_array(value, what, shape, self.dtype)
            return array.reshape(rows, B, columns)

        if isinstance(layout.hidden_size, int):
            rows = layout.num_layers * layout.num_directions
            whole = checked(member, name, rows, width(0))
            return list(np.split(whole, len(parts)))
        if not isinstance(member, (tuple, list)):
            raise TypeError(
                f"{name}: expected an array for each of {len(parts)} layers, got {type(member).__name__}"
            )
        if len(member) != len(parts):
            raise ValueError(f"{name}: expected an array for each of {len(parts)} layers, got {len(member)}")
        return [
            None
            if may_lack and value is None
            else checked(value, f"{name}[{layer}]", layout.num_directions, width(layer))
            for layer, value in enumerate(member)
        ]

    def _state_as_given(self, states: list[tuple[Array, Array | None]], is_batched: bool) -> Any:
        """The inverse of `_read_state`."""
        layout = self._layout
        members: list[Any] = []
        for n in range(1 + layout.num_states):
            parts = []
            for h, c in states:
                part = h
                if n > 0 and c is not None:
                    part = c if layout.num_states == 1 else np.split(c, layout.num_states, axis=-1)[n - 1]
                parts.append(np.ascontiguousarray(part if is_batched else part[:, 0]))
            if isinstance(layout.hidden_size, tuple):
                members.append(tuple(parts))
            else:
                members.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return tuple(members) if len(members) > 1 else members[0]

    # ---- Streams -------------------------------------------------------------------------------------------

    def stream(self, batch_size: int = 1) -> Stream | StreamOfParts:
        """Return a stream: the layer with a kept state, fed step by step or block by block.

        It keeps the parameters that the layer has now, also when others are loaded later.

        Parameters
        ----------
        batch_size : int
            B, sequences that run side by side.

        Returns
        -------
        Stream or StreamOfParts
            With state zero; the latter where `hidden_size` is a sequence or layers have residual sums.

        Raises
        ------
        TypeError, ValueError
            `batch_size` is not an integer of at least 1, or the layer runs from the end of a sequence.
        """
        if self.num_directions == 2:
            raise ValueError(
                "stream: expected a unidirectional layer, got a bidirectional one, which needs the end of a "
                "sequence first"
            )
        if self.reverse:
            raise ValueError("stream: expected a layer that runs forward in time, got one with reverse=True")
        origin = StreamOrigin(type(self), self._config() | {"num_threads": None})
        if len(self.parts) == 1 and not self._plan.joins and isinstance(self.hidden_size, int):
            stream = Stream(self.weights, batch_size, self.batch_first)
            stream._origin = origin
            return stream
        return StreamOfParts(self, origin, batch_size)


class RecurrentCell(Recurrent, _core.Cell):
    """One time step of one layer; see `fastlstm.LSTMCell`."""

    _is_numbered = False

    hidden_size = Option(_core.count)

    def _packed(self, parameter_set: ParameterSet) -> _core.Weights:
        weights: _core.Weights
        (weights,) = super()._packed(parameter_set)
        return weights
