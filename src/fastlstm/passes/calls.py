# SPDX-License-Identifier: BSD-3-Clause
"""Calls of packed weights: what layers do, and `fastlstm.Packed` without one.

One stack on one array is all in _core; here is what finds rows that lie anywhere (batch.py), runs several
stacks (parts.py), and keeps a state (streams.py).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..model.checks import checked_flag
from .batch import Batch, Order, read_batch
from .parts import Pass, Plan, Recording
from .streams import Origin, Stream

if TYPE_CHECKING:
    from ..model.layouts import Layout
    from .parts import States

__all__: list[str] = []


class Calls(_core.Recurrent):
    """Mixin of what has packed weights (`_packed`), a plan of its parts (`_plan`) and an `rng`."""

    _plan: Plan

    if TYPE_CHECKING:

        @property
        def rng(self) -> np.random.Generator:
            """What training draws from."""

    def _origin(self) -> Origin:
        """The class and options of the layer."""
        raise NotImplementedError

    @property
    def num_directions(self) -> int:
        """D: 1, or 2 for a bidirectional layer."""
        return self._layout.num_directions

    @property
    def _layout(self) -> Layout:
        layout: Layout = self._packed[0].source.layout
        return layout

    # ---- Calls whose rows lie anywhere, or of several stacks ----------------------------------------------

    def _run_rows(self, given: dict[str, Any], state: Any, pad: Any, return_cells: Any, out: Any) -> Any:
        """The call of _core; `given` are the arguments that say what rows there are, by name."""
        plan = self._plan
        batch = self._read_batch(plan.order, given, pad)
        wants_cells = self._checked_cells(return_cells)
        states = self._read_state(state, batch)
        if out is not None:
            if batch.splits is not None:
                raise ValueError("out: expected None with a list of arrays, got a value")
            shape = (*batch.shape, self._layout.output(self._layout.num_layers - 1))
            # What was made of an argument may be a view of memory that the argument only stands for.
            read = [("x", batch.source), ("state", [array for pair in states for array in pair])]
            _core.check_result(out, shape, self.dtype, [*given.items(), ("state", state), *read])
        done = Pass(self, plan, batch)
        with np.errstate(all="ignore"):
            done.run(states, wants_cells, None if out is None else np.asarray(out))
        y = done.y if out is None else out  # which may be of a subclass
        return (y, done.state) if done.cells is None else (y, done.state, done.cells)

    def _record_rows(
        self,
        given: dict[str, Any],
        state: Any,
        pad: Any,
        return_cells: Any,
        training: bool,
        save: int,
        seed: int | None,
    ) -> Pass:
        """``forward`` of _core; `given` are the arguments that say what rows there are, by name."""
        plan, parts = self._plan, self._packed
        batch = self._read_batch(dataclasses.replace(plan.order, is_kept=True), given, pad)
        wants_cells = self._checked_cells(return_cells)
        states = [(_core.kept(h), _core.kept(beside)) for h, beside in self._read_state(state, batch)]
        drops = plan.input_dropout > 0 or (plan.dropout > 0 and self._layout.num_layers > 1)
        draws = training and (parts[0].draws or drops)
        if not draws:
            seed = 0
        elif seed is None:
            seed = int(self.rng.integers(2**63))
        done = Pass(self, plan, batch, Recording(save, seed, draws))
        with np.errstate(all="ignore"):
            done.run(states, wants_cells)
        return done

    def _read_batch(self, order: Order, given: dict[str, Any], pad: Any) -> Batch:
        batch = read_batch(self._packed[0], order, given, pad)
        if pad == "hold" and self._plan.joins:
            raise ValueError(
                "pad: expected 'zero' with residual or merged directions, whose sums are no state, got 'hold'"
            )
        return batch

    def _read_state(self, state: Any, batch: Batch) -> States:
        plan = self._plan
        return _core.read_states(
            self._packed, state, "state", batch.B, batch.is_batched, plan.is_listed, False
        )

    def _checked_cells(self, return_cells: Any) -> bool:
        wanted = checked_flag(return_cells, "return_cells")
        if wanted and "c" not in self._layout.states:
            raise ValueError(
                f"return_cells: expected False, as {self._origin().cls.__name__} has no c, got True"
            )
        return wanted

    # ---- Streams ------------------------------------------------------------------------------------------

    def stream(self, batch_size: int = 1, *, num_threads: int | None = 1) -> Stream:
        """Return a stream: the layer with a kept state, fed step by step or block by block.

        It keeps the parameters that the layer has now, also when others are loaded later.

        Parameters
        ----------
        batch_size : int
            B, sequences that run side by side.
        num_threads : int or None
            Most threads of a call of the stream.  More than one pay for large layers and batches, with the
            same bits; with one, no call allocates, locks or waits, so that a real-time thread may make it.
            None: as many as other calls may have (`get_num_threads`).

        Returns
        -------
        Stream
            With state zero.

        Raises
        ------
        TypeError, ValueError
            `batch_size` or `num_threads` is not an integer of at least 1, or the layer runs from the end of a
            sequence.
        """
        if self._plan.order.is_reverse:
            raise ValueError("stream: expected a layer that runs forward in time, got one with reverse=True")
        plan = self._plan
        stream = Stream(
            self._packed, batch_size, num_threads, plan.order.batch_first, plan.is_listed, plan.joins
        )
        stream._origin = self._origin()
        stream._plan = plan
        return stream
