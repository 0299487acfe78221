# SPDX-License-Identifier: BSD-3-Clause
"""Layers that keep their state between calls; made by ``stream`` of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..model.guards import LAYER_WAYS, Guarded, option_way, parameter_way
from ..model.parameters import Parameters, ParameterSet, restore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..model.layouts import Layout
    from .parts import Plan

__all__ = ["Stream"]


class Origin(NamedTuple):
    """The layer that a stream is made of: its class and options."""

    cls: type[Parameters]
    config: dict[str, Any]


class Stream(Guarded, _core.Stream):
    """A unidirectional layer that keeps its state between calls; made by ``stream`` of a layer.

    A stream is for one thread at a time.  Its steps give the same bits as a call of the layer on the whole
    sequence.

    Attributes
    ----------
    batch_size : int
        B, sequences that run side by side.
    num_threads : int or None
        Most threads of a call.
    batch_first : bool
        Whether `process` takes and gives (B, T, features).
    state : ndarray, or tuple of ndarray or of tuples of ndarray
        As a call of the layer gives it, each array (L, B, width): copies when read; can be set.  `read_rows`,
        `write_rows` and ``reset(rows)`` are of single sequences of the batch, for servers with many callers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlstm import LSTM
    >>> stream = LSTM(1, 4, rng=0).stream()
    >>> stream.step(np.float32([0.5])).shape
    (4,)
    >>> stream.process(np.zeros((10, 1), np.float32)).shape
    (10, 4)
    >>> stream = LSTM(1, (4, 3), rng=0).stream()
    >>> stream.step(np.float32([0.5])).shape
    (3,)
    """

    _origin: Origin
    _plan: Plan
    # It keeps the parameters and options that the layer had.
    _ways = dict.fromkeys(
        [
            *(name for name in LAYER_WAYS if name != "state"),
            "batch_size",
            "batch_first",
            "input_size",
            "hidden_size",
            "num_layers",
            "rng",
            "num_threads",
        ],
        "to be changed at the layer, of which stream() then makes a new stream",
    ) | dict.fromkeys(
        ("states", "h", "c", "h0", "c0", "h_0", "c_0", "hx", "cx", "hidden", "hidden_state", "initial_state"),
        "to be set as state",
    )

    def _way_of(self, name: str) -> str:
        is_of_layer = parameter_way(name) or option_way(name)
        return self._ways["weights"] if is_of_layer else super()._way_of(name)

    def _through(self, x: Any, out: NDArray[Any] | None, has_time: bool) -> NDArray[Any]:
        """Lead x through the streams of all layers, as `step` or `process` do."""
        plan, streams, weights = self._plan, self._streams, self._first
        if has_time:
            below: Any = _core.read_sequence(weights, x, self.batch_first)[0]
        else:
            below = _core.read_step(weights, x)
        if out is not None:  # before any layer moves
            shape = np.shape(below) if self._is_index(below) else np.shape(below)[:-1]
            layout: Layout = self._source.layout
            width = layout.output(len(streams) - 1)
            _core.check_result(out, (*shape, width), weights.dtype, [("x", x), ("x", below)])
        before = [stream.state for stream in streams]
        try:
            for layer, stream in enumerate(streams):
                is_last = layer == len(streams) - 1
                direct = out if is_last and not plan.is_residual(layer) else None
                y = stream.process(below, direct) if has_time else stream.step(below, direct)
                if plan.is_residual(layer):
                    with np.errstate(all="ignore"):
                        y = y + self._features(below)
                    if is_last and out is not None:
                        out[...] = y
                        y = out
                below = y
        except BaseException:
            for stream, state in zip(streams, before, strict=True):
                stream.state = state
            raise
        result: NDArray[Any] = below
        return result

    @property
    def _source(self) -> ParameterSet:
        source: ParameterSet = self._first.source
        return source

    def _is_index(self, x: Any) -> bool:
        """Whether x has been read as indices."""
        return np.asarray(x).dtype != self._first.dtype

    def _features(self, x: Any) -> NDArray[Any]:
        """Features of x as it has been read; of indices, one-hot rows."""
        array = np.asarray(x)
        if not self._is_index(array):
            return array
        rows = np.zeros((*array.shape, self._first.input_size), self._first.dtype)
        np.put_along_axis(rows, array[..., np.newaxis], 1, axis=-1)
        return rows

    def __repr__(self) -> str:
        config = self._origin.config
        shown = {name: config[name] for name in ("input_size", "hidden_size", "num_layers")}
        shown |= {"batch_size": self.batch_size, "dtype": config["dtype"]}
        return f"Stream({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_origin", "_plan")}
        made_of = (self._origin, self._source.views, self.batch_size, self.state, self.num_threads)
        return _restore, made_of, kept or None


def _restore(
    origin: Origin,
    params: dict[str, NDArray[Any]],
    batch_size: int,
    state: Any,
    num_threads: int | None = 1,  # pickles of 0.1.0 have none
) -> Stream:
    """Make a stream from what `__reduce__` gave, with all checks."""
    layer: Any = restore(origin.cls, origin.config, params)
    stream: Stream = layer.stream(batch_size, num_threads=num_threads)
    stream.state = state
    return stream
