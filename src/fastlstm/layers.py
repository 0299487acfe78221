# SPDX-License-Identifier: BSD-3-Clause
"""Layers: their parameters, shapes and documentation; calls are in _core.pyx, the arithmetic in csrc/."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["LSTM", "LSTMCell", "Stream"]


# ---- Checks of what a constructor takes --------------------------------------------------------------------


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def _probability(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number from 0 to 1, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
    return float(value)


def _real_dtype(value: DTypeLike) -> np.dtype[Any]:
    try:
        dtype = np.dtype(value)
    except TypeError as error:
        raise TypeError(f"dtype: expected float32 or float64, got {value!r}") from error
    if value is None or dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {value!r}")
    return dtype


# ---- Parameters --------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Which parameters there are."""

    input_size: int
    hidden_size: int
    num_layers: int
    num_directions: int
    bias: bool
    dtype: np.dtype[Any]
    is_numbered: bool  # whether names carry their layer and direction

    def size(self) -> int:
        """Elements of all parameters."""
        per_unit = self.input_size + (self.num_layers - 1) * self.num_directions * self.hidden_size
        per_unit += self.num_layers * (self.hidden_size + 2 * self.bias)
        return 4 * self.hidden_size * self.num_directions * per_unit

    def cells(self) -> list[dict[str, tuple[int, ...]]]:
        """Names and shapes of each layer and direction, all in PyTorch's order."""
        gates = 4 * self.hidden_size
        cells = []
        for layer in range(self.num_layers):
            inputs = self.num_directions * self.hidden_size if layer else self.input_size
            shapes: dict[str, tuple[int, ...]]
            shapes = {"weight_ih": (gates, inputs), "weight_hh": (gates, self.hidden_size)}
            if self.bias:
                shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
            for direction in ("", "_reverse")[: self.num_directions]:
                suffix = f"_l{layer}{direction}" if self.is_numbered else ""
                cells.append({kind + suffix: shape for kind, shape in shapes.items()})
        return cells

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all parameters."""
        return {name: shape for cell in self.cells() for name, shape in cell.items()}


_Values = Callable[[_Layout], "Iterable[NDArray[Any]]"]


class _ParameterSet:
    """All parameters in one buffer, read-only from here on, and views by name."""

    __slots__ = ("flat", "layout", "views")

    def __init__(self, layout: _Layout, values: _Values) -> None:
        size = layout.size()
        if size * layout.dtype.itemsize > sys.maxsize:
            raise OverflowError(
                "input_size, hidden_size, num_layers: expected parameters that fit the address space, "
                f"got {size * layout.dtype.itemsize} bytes"
            )
        self.layout = layout
        self.flat = np.empty(size, layout.dtype)
        for view, value in zip(self._views().values(), values(layout), strict=True):
            view[...] = value
        self.flat.flags.writeable = False
        self.views = self._views()

    def _views(self) -> dict[str, NDArray[Any]]:
        views, begin = {}, 0
        for name, shape in self.layout.shapes().items():
            end = begin + math.prod(shape)
            views[name] = self.flat[begin:end].reshape(shape)
            begin = end
        return views

    def packed(self) -> _core.Weights:
        cells = []
        for names in self.layout.cells():
            cell = [self.views[name] for name in names]
            cells.append((*cell, None, None)[:4])
        return _core.Weights(self.layout.dtype, *self.layout[:4], cells, self)


def _uniform(rng: Any) -> _Values:
    """PyTorch's initialisation: all weights and biases from U(-1/sqrt(H), 1/sqrt(H))."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng: expected what numpy.random.default_rng takes: {error}") from error

    def values(layout: _Layout) -> Iterable[NDArray[Any]]:
        bound = 1 / math.sqrt(layout.hidden_size)
        return (generator.uniform(-bound, bound, shape) for shape in layout.shapes().values())

    return values


def _given(mapping: Mapping[str, ArrayLike]) -> _Values:
    """What a caller gives, all checked and converted before any is used."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping: expected a mapping of names to arrays, got {type(mapping).__name__}")

    def values(layout: _Layout) -> Iterable[NDArray[Any]]:
        shapes = layout.shapes()
        missing = [name for name in shapes if name not in mapping]
        unexpected = [name for name in mapping if name not in shapes]
        if missing or unexpected:
            raise ValueError(
                f"mapping: expected the names {list(shapes)}, got none for {missing} and unknown {unexpected}"
            )
        return [_core.real_array(mapping[name], name, shape, layout.dtype) for name, shape in shapes.items()]

    return values


class _Parameters:
    """Mixin of the layers: access to the parameters."""

    if TYPE_CHECKING:
        weights: _core.Weights

    @property
    def bias(self) -> bool:
        """Whether the layer has biases."""
        return self._parameter_set().layout.bias

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        """Parameters by name, as read-only views into `flat_params`; `load_state_dict` writes."""
        return dict(self._parameter_set().views)

    @property
    def flat_params(self) -> NDArray[Any]:
        """All parameters one after the other, in the order of `params`, as one read-only array."""
        return self._parameter_set().flat

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of all parameters by PyTorch's names, in PyTorch's order.

        Returns
        -------
        dict of str to ndarray
            Arrays of the layer's dtype, which the caller may change.
        """
        return {name: view.copy() for name, view in self._parameter_set().views.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Replace all parameters.

        All names, shapes and dtypes are checked before anything changes.  Calls that run in other threads,
        and streams made before, keep the parameters they began with.

        Parameters
        ----------
        mapping : mapping of str to array_like
            By PyTorch's names, in any order; arrays, tensors, or anything else that NumPy or DLPack reads.
            Values are cast as NumPy does with ``casting="same_kind"``.

        Raises
        ------
        TypeError
            `mapping` is no mapping, or a parameter does not hold real numbers.
        ValueError
            Names are missing or unknown, or a shape is wrong.
        """
        self.weights = _ParameterSet(self._parameter_set().layout, _given(mapping)).packed()

    def _parameter_set(self) -> _ParameterSet:
        source: _ParameterSet = self.weights.source
        return source

    def _config(self) -> dict[str, Any]:
        raise NotImplementedError

    def _set_up(self, values: _Values, **config: Any) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        config = ", ".join(f"{name}={value}" for name, value in self._config().items())
        return f"{type(self).__name__}({config})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._config(), self.state_dict()), self.__dict__ or None


def _restore(cls: type[_Parameters], config: dict[str, Any], params: dict[str, NDArray[Any]]) -> _Parameters:
    """Make a layer from what `__reduce__` gave, with all the checks of its constructor."""
    layer = cls.__new__(cls)
    layer._set_up(_given(params), **config)
    return layer


# ---- Layers ------------------------------------------------------------------------------------------------


class LSTM(_Parameters, _core.LSTM):
    """A stack of LSTM layers over whole sequences, with the shapes and meaning of ``torch.nn.LSTM``.

    A call returns ``y, (h_n, c_n)``::

        y, (h_n, c_n) = lstm(x, state=None, *, lengths=None, out=None)

    For each time step, with W = weight_ih, U = weight_hh and b = bias_ih + bias_hh (Hochreiter & Schmidhuber
    1997, with the forget gate of Gers, Schmidhuber & Cummins 2000)::

        a_i, a_f, a_g, a_o = W x_t + U h_{t-1} + b
        c_t = sigmoid(a_f) * c_{t-1} + sigmoid(a_i) * tanh(a_g)
        h_t = sigmoid(a_o) * tanh(c_t)

    Letters of shapes: T time, B batch, I input features, H hidden units, L layers, D directions.

    Parameters
    ----------
    input_size : int
        I, features of the input.
    hidden_size : int
        H, hidden units of each layer and direction.
    num_layers : int
        L; layer l > 0 reads the output of layer l - 1.
    bias : bool
        Whether the layers have biases.
    batch_first : bool
        Whether `x` and `y` are (B, T, features) instead of (T, B, features).  States are always (L*D, B, H).
    dropout : float
        Probability from 0 to 1 of dropping an output between layers.  It acts only in training, hence not in
        a call.
    bidirectional : bool
        Whether each layer has a second direction, from the end to the start: D = 2, else D = 1.
    dtype : dtype_like
        float32 or float64.
    num_threads : int, optional
        Most threads for a call of this layer; None is the limit of `threads` or `set_num_threads`.
    rng : optional
        Anything that `numpy.random.default_rng` takes.  All parameters are drawn from U(-1/sqrt(H),
        1/sqrt(H)), as in PyTorch.

    Attributes
    ----------
    input_size, hidden_size, num_layers, num_directions, bias, batch_first, dropout, bidirectional, dtype
        As above; read-only.
    num_threads : int or None
        As above; can be set.
    params : dict of str to ndarray
        Parameters by PyTorch's names (``weight_ih_l0``, ``bias_hh_l1_reverse``, ...): read-only views.
    flat_params : ndarray
        All parameters in one read-only buffer, in the order of `params`.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument does not fit; the message names it, what was expected and what came.

    Notes
    -----
    Arguments of a call:

    ``x`` : array_like, (T, B, I), (B, T, I) if `batch_first`, or (T, I) for one sequence
        Any dtype that NumPy casts to the layer's with ``casting="same_kind"``, and any strides; where the
        dtype is the layer's and features are contiguous, it is read where it stands, and so are objects with
        ``__dlpack__``.  An integer dtype always means indices, with one dimension less: the input is the
        one-hot row of each index.  Complex, bool, string, object and masked arrays raise TypeError.
    ``state`` : pair of array_like ``(h_0, c_0)``, each (L*D, B, H), or (L*D, H) for one sequence, optional
        Index ``layer * D + direction``.  None is zero.
    ``lengths`` : array_like of integers, (B,), optional
        Steps of each row, 0 to T.  After its end a row's output is zero; its final states are those at its
        own end, the given state where the length is 0; the reverse direction starts at its own end.  Indices
        behind the end of a row are not looked at.
    ``out`` : ndarray of the shape and dtype of ``y``, optional
        Receives ``y``; C-contiguous, writeable, apart from the memory of all other arguments.  After an
        exception its content is unspecified.

    Results are ``y`` (T, B, D*H), (B, T, D*H) or (T, D*H), the last layer's hidden states with the forward
    direction first, and ``h_n`` and ``c_n``, shaped as ``state``.  T = 0 and B = 0 give empty results.

    A call releases the GIL unless it takes only microseconds; several threads may call one layer.  An
    argument that another thread changes meanwhile gives unspecified numbers.  Signal handlers run during a
    call, so Ctrl-C stops it.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = LSTM(3, 4, num_layers=2, rng=0)
    >>> y, (h_n, c_n) = lstm(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape, c_n.shape
    ((5, 2, 4), (2, 2, 4), (2, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DTypeLike = np.float32,
        num_threads: int | None = None,
        rng: Any = None,
    ) -> None:
        self._set_up(
            _uniform(rng),
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            num_threads=num_threads,
        )

    def _set_up(self, values: _Values, **config: Any) -> None:
        layout = _Layout(
            _core.count(config["input_size"], "input_size"),
            _core.count(config["hidden_size"], "hidden_size"),
            _core.count(config["num_layers"], "num_layers"),
            1 + _flag(config["bidirectional"], "bidirectional"),
            _flag(config["bias"], "bias"),
            _real_dtype(config["dtype"]),
            True,
        )
        batch_first = _flag(config["batch_first"], "batch_first")
        self.configure(batch_first, _probability(config["dropout"], "dropout"))
        self.num_threads = config["num_threads"]
        self.weights = _ParameterSet(layout, values).packed()

    @property
    def bidirectional(self) -> bool:
        """Whether each layer has a second direction."""
        return self.num_directions == 2

    def _config(self) -> dict[str, Any]:
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            "dtype": self.dtype.name,
            "num_threads": self.num_threads,
        }

    def stream(self, batch_size: int = 1) -> Stream:
        """Return a stream: the layer with a kept state, fed step by step or block by block.

        It keeps the parameters that the layer has now, also when others are loaded later.

        Parameters
        ----------
        batch_size : int
            B, sequences that run side by side.

        Returns
        -------
        Stream
            With state zero.

        Raises
        ------
        TypeError, ValueError
            `batch_size` is not an integer of at least 1, or the layer is bidirectional.
        """
        return Stream(self.weights, batch_size, self.batch_first)


class LSTMCell(_Parameters, _core.LSTMCell):
    """One time step of one LSTM layer, with the shapes and meaning of ``torch.nn.LSTMCell``.

    A call returns ``h, c``::

        h, c = cell(x, state=None, out=None)

    The equations are those of `LSTM`.  Letters of shapes: B batch, I input features, H hidden units.

    Parameters
    ----------
    input_size : int
        I, features of the input.
    hidden_size : int
        H, hidden units.
    bias : bool
        Whether the cell has biases.
    dtype : dtype_like
        float32 or float64.
    num_threads : int, optional
        Most threads for a call of this cell; None is the limit of `threads` or `set_num_threads`.
    rng : optional
        Anything that `numpy.random.default_rng` takes.  All parameters are drawn from U(-1/sqrt(H),
        1/sqrt(H)), as in PyTorch.

    Attributes
    ----------
    input_size, hidden_size, bias, dtype
        As above; read-only.
    num_threads : int or None
        As above; can be set.
    params : dict of str to ndarray
        ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``: read-only views.
    flat_params : ndarray
        All parameters in one read-only buffer, in the order of `params`.

    Raises
    ------
    TypeError, ValueError, OverflowError
        An argument does not fit; the message names it, what was expected and what came.

    Notes
    -----
    Arguments of a call, which is otherwise as one of `LSTM`:

    ``x`` : array_like, (B, I) or (I,); or integers (B,) or (), the indices of one-hot rows
        The input of the step.
    ``state`` : pair of array_like ``(h, c)``, each (B, H), or (H,) without B, optional
        None is zero.
    ``out`` : pair of ndarray, shaped as ``state``, optional
        Receive ``(h, c)``; of the cell's dtype, C-contiguous, writeable, apart from each other and from the
        memory of all other arguments.

    Examples
    --------
    >>> import numpy as np
    >>> cell = LSTMCell(3, 4, rng=0)
    >>> h, c = cell(np.ones((2, 3), np.float32))
    >>> h, c = cell(np.ones((2, 3), np.float32), (h, c))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        num_threads: int | None = None,
        rng: Any = None,
    ) -> None:
        self._set_up(
            _uniform(rng),
            input_size=input_size,
            hidden_size=hidden_size,
            bias=bias,
            dtype=dtype,
            num_threads=num_threads,
        )

    def _set_up(self, values: _Values, **config: Any) -> None:
        layout = _Layout(
            _core.count(config["input_size"], "input_size"),
            _core.count(config["hidden_size"], "hidden_size"),
            1,
            1,
            _flag(config["bias"], "bias"),
            _real_dtype(config["dtype"]),
            False,
        )
        self.num_threads = config["num_threads"]
        self.weights = _ParameterSet(layout, values).packed()

    def _config(self) -> dict[str, Any]:
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "bias": self.bias,
            "dtype": self.dtype.name,
            "num_threads": self.num_threads,
        }


class Stream(_core.Stream):
    """A unidirectional LSTM that keeps its state between calls; made by `LSTM.stream`.

    A stream is for one thread at a time.  Its steps give the same bits as a call of the layer on the whole
    sequence.

    Attributes
    ----------
    batch_size : int
        B, sequences that run side by side.
    batch_first : bool
        Whether `process` takes and gives (B, T, features).
    state : tuple of ndarray
        ``(h, c)``, each (L, B, H): copies when read; can be set.

    Examples
    --------
    >>> import numpy as np
    >>> stream = LSTM(1, 4, rng=0).stream()
    >>> stream.step(np.float32([0.5])).shape
    (4,)
    >>> stream.process(np.zeros((10, 1), np.float32)).shape
    (10, 4)
    """

    def __repr__(self) -> str:
        layout = self.weights.source.layout
        return (
            f"Stream(input_size={layout.input_size}, hidden_size={layout.hidden_size}, "
            f"num_layers={layout.num_layers}, batch_size={self.batch_size}, dtype={layout.dtype.name})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        source: _ParameterSet = self.weights.source
        layout = source.layout
        config = {
            "input_size": layout.input_size,
            "hidden_size": layout.hidden_size,
            "num_layers": layout.num_layers,
            "bias": layout.bias,
            "dtype": layout.dtype.name,
            "batch_first": self.batch_first,
        }
        arguments = (type(self), config, source.views, self.batch_size, self.state)
        return _restore_stream, arguments, self.__dict__ or None


def _restore_stream(
    cls: type[Stream],
    config: dict[str, Any],
    params: dict[str, NDArray[Any]],
    batch_size: int,
    state: tuple[NDArray[Any], NDArray[Any]],
) -> Stream:
    """Make a stream from what `__reduce__` gave, with all checks."""
    layer = LSTM.__new__(LSTM)
    layer._set_up(_given(params), dropout=0.0, bidirectional=False, num_threads=None, **config)
    stream = cls(layer.weights, batch_size, layer.batch_first)
    stream.state = state
    return stream
