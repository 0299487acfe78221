# SPDX-License-Identifier: BSD-3-Clause
"""Layers that keep their state between calls; made by ``stream`` of a layer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..model.parameters import ParameterSet, given

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..layers.base import RecurrentLayer

__all__ = ["Stream", "StreamOfParts"]


class StreamOrigin(NamedTuple):
    """The layer that a stream is made of: its class and options."""

    cls: type[RecurrentLayer]
    config: dict[str, Any]

    def text(self, stream: Any) -> str:
        """For ``repr``."""
        shown = {name: self.config[name] for name in ("input_size", "hidden_size", "num_layers")}
        shown |= {"batch_size": stream.batch_size, "dtype": self.config["dtype"]}
        return f"Stream({', '.join(f'{name}={value}' for name, value in shown.items())})"


class Stream(_core.Stream):
    """A unidirectional layer that keeps its state between calls; made by ``stream`` of a layer.

    A stream is for one thread at a time.  Its steps give the same bits as a call of the layer on the whole
    sequence.

    Attributes
    ----------
    batch_size : int
        B, sequences that run side by side.
    batch_first : bool
        Whether `process` takes and gives (B, T, features).
    state : ndarray or tuple of ndarray
        As a call of the layer gives it, each array (L, B, width): copies when read; can be set.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlstm import LSTM
    >>> stream = LSTM(1, 4, rng=0).stream()
    >>> stream.step(np.float32([0.5])).shape
    (4,)
    >>> stream.process(np.zeros((10, 1), np.float32)).shape
    (10, 4)
    """

    _origin: StreamOrigin

    def __repr__(self) -> str:
        return self._origin.text(self)

    def __reduce__(self) -> tuple[Any, ...]:
        source: ParameterSet = self.weights.source
        kept = {name: value for name, value in self.__dict__.items() if name != "_origin"}
        arguments = (type(self), self._origin, source.views, self.batch_size, self.state)
        return _restore, arguments, kept or None


class StreamOfParts:
    """A `Stream` of a layer whose layers differ in size or have residual sums: one stream for each of them.

    Attributes
    ----------
    batch_size : int
        B, sequences that run side by side.
    batch_first : bool
        Whether `process` takes and gives (B, T, features).
    state : ndarray, or tuple of ndarray or of tuples of ndarray
        As a call of the layer gives it: copies when read; can be set.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlstm import LSTM
    >>> stream = LSTM(1, (4, 3), rng=0).stream()
    >>> stream.step(np.float32([0.5])).shape
    (3,)
    """

    def __init__(self, layer: RecurrentLayer, origin: StreamOrigin, batch_size: int) -> None:
        self.batch_first = layer.batch_first
        self.batch_size = _core.count(batch_size, "batch_size")
        self._origin = origin
        # Of the layer's parameters of now, whatever becomes of it.
        self._layer = _layer_of(origin, layer._parameter_set().views)
        self._streams = [_core.Stream(part, self.batch_size, self.batch_first) for part in self._layer.parts]
        self._lock = threading.Lock()

    def step(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """One time step, as `Stream.step`."""
        return self._advance(x, out, False)

    def process(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """As many time steps as `x` has, as `Stream.process`."""
        return self._advance(x, out, True)

    def _advance(self, x: ArrayLike, out: NDArray[Any] | None, has_time: bool) -> NDArray[Any]:
        plan = self._layer._plan
        with self._claimed():
            below: Any = self._read(x, has_time)
            if out is not None:  # before any layer moves
                shape = np.shape(below) if self._is_index(below) else np.shape(below)[:-1]
                width = self._layer._layout.output(len(self._streams) - 1)
                _core.check_result(out, (*shape, width), self._layer.dtype)
            before = [stream.state for stream in self._streams] if has_time else []
            try:
                for layer, stream in enumerate(self._streams):
                    is_last = layer == len(self._streams) - 1
                    direct = out if is_last and not plan.is_residual(layer) else None
                    y = stream.process(below, direct) if has_time else stream.step(below, direct)
                    if plan.is_residual(layer):
                        y = y + self._features(below)
                        if is_last and out is not None:
                            out[...] = y
                            y = out
                    below = y
            except BaseException:
                for stream, state in zip(self._streams, before, strict=False):
                    stream.state = state
                raise
            result: NDArray[Any] = below
            return result

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[None]:
        """For one thread."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("the stream is in use by another thread; give each thread its own")
        try:
            yield
        finally:
            self._lock.release()

    def _read(self, x: Any, has_time: bool) -> Any:
        """Give x as an array of the layer's dtype, or of indices, which have not been looked at."""
        weights = self._layer.weights
        if has_time:
            return _core.read_sequence(weights, x, self.batch_first)[0]
        return _core.read_step(weights, x)

    def _is_index(self, x: Any) -> bool:
        """Whether `_read` gave indices."""
        return np.asarray(x).dtype != self._layer.dtype

    def _features(self, x: Any) -> NDArray[Any]:
        """Features of what `_read` gave; of indices, one-hot rows."""
        array = np.asarray(x)
        if not self._is_index(array):
            return array
        rows = np.zeros((*array.shape, self._layer.input_size), self._layer.dtype)
        np.put_along_axis(rows, array[..., np.newaxis], 1, axis=-1)
        return rows

    def reset(self) -> None:
        """Set the state to zero."""
        with self._claimed():
            for stream in self._streams:
                stream.reset()

    @property
    def state(self) -> Any:
        """The kept state as a call of the layer gives it: copies when read; can be set."""
        with self._claimed():
            states = [_halves(stream.state) for stream in self._streams]
        return self._layer._state_as_given(states, True)

    @state.setter
    def state(self, value: Any) -> None:
        layer = self._layer
        states = layer._read_state(value, "state", self.batch_size, True)
        count = layer._layout.num_states
        with self._claimed():
            for stream, (h, c) in zip(self._streams, states, strict=True):
                stream.state = h if c is None else (h, *np.split(c, count, axis=-1))

    def __repr__(self) -> str:
        return self._origin.text(self)

    def __reduce__(self) -> tuple[Any, ...]:
        views = self._layer._parameter_set().views
        return _restore, (type(self), self._origin, views, self.batch_size, self.state)


def _halves(state: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """h, and what is beside it."""
    if not isinstance(state, tuple):
        return state, None
    return state[0], np.concatenate(state[1:], axis=-1)


def _layer_of(origin: StreamOrigin, params: dict[str, NDArray[Any]]) -> RecurrentLayer:
    layer = origin.cls.__new__(origin.cls)
    layer._set_up(given(params), **origin.config)
    return layer


def _restore(
    cls: type[Any], origin: StreamOrigin, params: dict[str, NDArray[Any]], batch_size: int, state: Any
) -> Any:
    """Make a stream from what `__reduce__` gave, with all checks."""
    layer = _layer_of(origin, params)
    if cls is StreamOfParts:
        stream: Any = StreamOfParts(layer, origin, batch_size)
    else:
        stream = cls(layer.weights, batch_size, layer.batch_first)
        stream._origin = origin
    stream.state = state
    return stream
