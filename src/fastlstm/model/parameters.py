# SPDX-License-Identifier: BSD-3-Clause
"""Parameters of a layer and their gradients: each in one flat buffer, with views by name.

A set of parameters never changes: to change any is to put a new set in force, by `load_state_dict`, `editing`
or a step of an optimizer.  So calls in other threads, streams and tapes keep the set they began with.  The
layers are in layers/; this module knows none of them.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .. import _core
from . import options
from .checks import checked_dtype, checked_reals, checked_rng

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__: list[str] = []


# ---- A set of parameters -----------------------------------------------------------------------------------


class Layout(Protocol):
    """Which parameters a layer has."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of all parameters: float32 or float64."""

    @property
    def fan(self) -> int:
        """What `uniform` bounds parameters by: inputs of a dense layer."""

    @property
    def sizes(self) -> str:
        """The arguments that the size of the parameters comes from, for a message."""

    def size(self) -> int:
        """Elements of all parameters."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all parameters, in the order they lie in."""


# Gives the values of the parameters of a layout, in its order: arrays, or functions that fill one.
Filler = Callable[["NDArray[Any]"], None]
Values = Callable[[Any], "Iterable[NDArray[Any] | Filler]"]

DRAWN = 2**15  # numbers that are drawn at a time: they stay in a core's own cache


def filler(draw: Callable[[NDArray[np.float64]], Any], low: float = 0.0, width: float = 1.0) -> Filler:
    """Fill an array with ``low + width * d`` for each d that `draw` writes in float64, block by block.

    The values are those that a generator gives in one call, as each number is drawn after the other.
    """

    def fill(out: NDArray[Any]) -> None:
        flat, block = out.reshape(-1), np.empty(min(DRAWN, out.size))
        for begin in range(0, flat.size, DRAWN):
            drawn = block[: flat.size - begin]
            draw(drawn)
            drawn *= width
            drawn += low
            flat[begin : begin + DRAWN] = drawn

    return fill


def uniform_filler(rng: np.random.Generator, bound: float) -> Filler:
    """``rng.uniform(-bound, bound)``."""
    return filler(lambda out: rng.random(out=out), -bound, bound - -bound)


def uniform(rng: np.random.Generator) -> Values:
    """PyTorch's initialisation: all parameters from U(-1/sqrt(fan), 1/sqrt(fan)); see `Layout.fan`."""

    def values(layout: Layout) -> Iterable[Filler]:
        bound = 1 / math.sqrt(layout.fan)
        return (uniform_filler(rng, bound) for _ in layout.shapes())

    return values


def normal(rng: np.random.Generator) -> Values:
    """All parameters from N(0, 1)."""

    def values(layout: Layout) -> Iterable[Filler]:
        return (filler(lambda out: rng.standard_normal(out=out)) for _ in layout.shapes())

    return values


def given(mapping: Mapping[str, ArrayLike]) -> Values:
    """What a caller gives, all checked and converted before any is used."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping: expected a mapping of names to arrays, got {type(mapping).__name__}")

    def values(layout: Layout) -> Iterable[NDArray[Any]]:
        shapes = layout.shapes()
        missing = [name for name in shapes if name not in mapping]
        unexpected = [name for name in mapping if name not in shapes]
        if missing or unexpected:
            raise ValueError(
                f"mapping: expected the names {list(shapes)}, got none for {missing} and unknown {unexpected}"
            )
        return [_core.real_array(mapping[name], name, shape, layout.dtype) for name, shape in shapes.items()]

    return values


class ParameterSet:
    """All parameters in one buffer, read-only from here on, and views by name.

    Parameters
    ----------
    layout : Layout
        Which there are.
    values : Values or ndarray
        Their values, or the buffer itself, which then belongs to the set.
    """

    __slots__ = ("flat", "layout", "products")

    products: _core.Products | None  # of a dense layer, packed for them

    def __init__(self, layout: Any, values: Values | NDArray[Any]) -> None:
        self.layout = layout
        if isinstance(values, np.ndarray):
            self.flat = values
        else:
            self.flat = np.empty(checked_size(layout), layout.dtype)
            for view, value in zip(views(self.flat, layout).values(), values(layout), strict=True):
                if isinstance(value, np.ndarray):
                    view[...] = value
                else:
                    value(view)
        self.flat.flags.writeable = False
        self.products = None

    @property
    def views(self) -> dict[str, NDArray[Any]]:
        """Parts of `flat` by name; made anew, so that nobody has a part of it who does not hold it."""
        return views(self.flat, self.layout)


def checked_size(layout: Layout) -> int:
    """Elements of all parameters, if they fit the address space."""
    size = layout.size()
    if size * layout.dtype.itemsize > sys.maxsize:
        raise OverflowError(
            f"{layout.sizes}: expected parameters that fit the address space, "
            f"got {size * layout.dtype.itemsize} bytes"
        )
    return size


def views(flat: NDArray[Any], layout: Layout) -> dict[str, NDArray[Any]]:
    """Parts of `flat` by the names of the parameters."""
    named, begin = {}, 0
    for name, shape in layout.shapes().items():
        end = begin + math.prod(shape)
        named[name] = flat[begin:end].reshape(shape)
        begin = end
    return named


# ---- What layers inherit -----------------------------------------------------------------------------------


class Parameters:
    """Mixin of the layers: options, and access to parameters and gradients.

    A layer gives its options (see `options.Option`), `_first_values`, `_make_layout`, `_parameter_set`,
    `_put_in_force`, `_in_force` and `_ready`.

    Attributes
    ----------
    rng : numpy.random.Generator
        What the parameters were drawn from, and what training draws from.  Pickles and deep copies keep its
        state.
    """

    rng: np.random.Generator
    _options: ClassVar[dict[str, options.Option[Any]]] = {}
    _settings: dict[str, Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._options = options.find(cls)

    # ---- Construction --------------------------------------------------------------------------------------

    def _construct(self, arguments: Mapping[str, Any]) -> None:
        """Do what a constructor does; `arguments` are its ``locals()``, before it has others."""
        given = {name: value for name, value in arguments.items() if name != "self"}
        self.rng = checked_rng(given.pop("rng"))
        self._set_up(self._first_values(given), **given)

    def _first_values(self, given: dict[str, Any]) -> Values:
        """What the parameters are at first; takes out of `given` the arguments that only this needs."""
        raise NotImplementedError

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> Any:
        """Which parameters there are with these options, which may be completed."""
        raise NotImplementedError

    def _set_up(self, values: Values, **given: Any) -> None:
        """Do what a constructor does, with values of the parameters; `given` is as `_config`."""
        settings = options.checked(type(self), given)
        layout = self._make_layout(settings, checked_dtype(given["dtype"]))
        parameter_set = ParameterSet(layout, values)
        self._settings = settings | {"dtype": layout.dtype.name}
        self._put_in_force(parameter_set)
        self.__dict__.pop("_flat_grads", None)  # of another layout

    def _own_settings(self) -> dict[str, Any]:
        try:
            return self._settings
        except AttributeError:
            raise RuntimeError(f"{type(self).__name__}: __init__ has not been called") from None

    def _config(self) -> dict[str, Any]:
        """Arguments of `_set_up`."""
        return self._own_settings()

    def __repr__(self) -> str:
        known = self._options
        shown = [
            f"{name}={value if name == 'dtype' else repr(value)}"
            for name, value in self._config().items()
            if name not in known or known[name].is_shown or value != known[name].default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    # ---- Parameters and gradients --------------------------------------------------------------------------

    def _parameter_set(self) -> ParameterSet:
        """Return the set in force."""
        raise NotImplementedError

    def _put_in_force(self, parameter_set: ParameterSet) -> None:
        raise NotImplementedError

    def _in_force(self) -> Any:
        """Where `_core.optimiser_step` puts what `_ready` gives."""
        raise NotImplementedError

    def _ready(self, parameter_set: ParameterSet) -> Any:
        """What is to be in force with a set, all made and checked."""
        raise NotImplementedError

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        """Parameters by name, as read-only views into `flat_params`; see `editing` and `load_state_dict`."""
        return dict(self._parameter_set().views)

    @property
    def flat_params(self) -> NDArray[Any]:
        """All parameters one after the other, in the order of `params`, as one read-only array."""
        return self._parameter_set().flat

    @property
    def grads(self) -> dict[str, NDArray[Any]]:
        """Gradients by the names of `params`, as writeable views into `flat_grads`."""
        return views(self.flat_grads, self._parameter_set().layout)

    @property
    def flat_grads(self) -> NDArray[Any]:
        """Gradients of all parameters, laid out as `flat_params`, as one writeable array.

        The array is made, of zeros, when it is first asked for, and stays the same from then on.  Each
        ``tape.backward`` adds to it, until `zero_grad`.  Copies and pickles of a layer have none yet.
        """
        flat: NDArray[Any] | None = self.__dict__.get("_flat_grads")
        if flat is None:
            params = self._parameter_set().flat
            # Two threads that come here at once get the same array.
            flat = self.__dict__.setdefault("_flat_grads", np.zeros(params.size, params.dtype))
        return flat

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        if "_flat_grads" in self.__dict__:
            self.flat_grads.fill(0)

    @contextlib.contextmanager
    def editing(self) -> Iterator[NDArray[Any]]:
        """Change parameters in place: ``with layer.editing() as flat: flat *= 0.9``.

        The new values are in force when the block is left; an exception inside leaves everything as it was.
        Calls that run in other threads, and streams made before, keep the parameters they began with; a tape
        made before can no longer be used.

        Yields
        ------
        ndarray
            A copy of `flat_params`, writeable.  What is written to it after the block has no effect.

        Raises
        ------
        RuntimeError
            Others were put in force meanwhile, and would be lost.
        """
        before = self._parameter_set()
        flat = before.flat.copy()
        yield flat[:]
        if self._parameter_set() is not before:
            raise RuntimeError(
                f"{type(self).__name__}: expected that parameters change in one place at a time, "
                "got others while they were being edited"
            )
        self._replace(flat.copy())

    def _replace(self, flat: NDArray[Any]) -> None:
        """Put these values in force; from here on the array belongs to the layer, and is read-only."""
        self._put_in_force(ParameterSet(self._parameter_set().layout, flat))

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
        and streams made before, keep the parameters they began with; a tape made before can no longer be
        used.

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
        self._put_in_force(ParameterSet(self._parameter_set().layout, given(mapping)))

    # ---- Copies --------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {name: value for name, value in self.__dict__.items() if name not in self._not_kept}
        return restore, (type(self), self._config(), self.state_dict()), kept or None

    # Attributes that copies and pickles get in another way, or not at all.
    _not_kept = frozenset({"_flat_grads", "_set", "_settings"})


def restore(cls: type[Parameters], config: dict[str, Any], params: dict[str, NDArray[Any]]) -> Parameters:
    """Make a layer from what `Parameters.__reduce__` gave, with all the checks of its constructor."""
    layer = cls.__new__(cls)
    layer._set_up(given(params), **config)
    return layer


class NumpyParameters(Parameters):
    """Mixin of layers in NumPy, whose parameters are used as they lie."""

    _set: ParameterSet

    def _parameter_set(self) -> ParameterSet:
        try:
            return self._set
        except AttributeError:
            raise RuntimeError(f"{type(self).__name__}: __init__ has not been called") from None

    def _put_in_force(self, parameter_set: ParameterSet) -> None:
        self._set = parameter_set

    def _in_force(self) -> dict[str, Any]:
        return self.__dict__

    def _ready(self, parameter_set: ParameterSet) -> ParameterSet:
        return parameter_set

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters and results: float32 or float64."""
        layout: Layout = self._parameter_set().layout
        return layout.dtype


class NumpyTape:
    """What tapes of layers in NumPy share: they are for one use, and for the parameters of their call.

    Attributes
    ----------
    y : ndarray
        Result of the call, read-only.
    """

    y: NDArray[Any]

    def __init__(self, layer: NumpyParameters, params: ParameterSet, y: NDArray[Any]) -> None:
        memory: Any = y
        while isinstance(memory, np.ndarray):  # of which y may be a view
            memory.flags.writeable = False
            memory = memory.base
        self.y = y
        self._layer = layer
        self._params = params
        self._is_used = False

    def _check_use(self) -> None:
        """Raise unless the tape can still be used."""
        if self._is_used:
            raise RuntimeError("tape: expected one backward for each forward, got a second one")
        if self._layer._parameter_set() is not self._params:
            raise RuntimeError(
                "tape: expected the parameters of its forward, got others since: call forward again"
            )

    def _checked(self, dy: ArrayLike, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """`dy` as an array of the layer's dtype."""
        checked = checked_reals(dy, name, self._layer.dtype)
        if checked.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {checked.shape}")
        return checked

    def _check(self, dy: ArrayLike) -> NDArray[Any]:
        """`dy` in the shape and dtype of `y`, if the tape can still be used."""
        self._check_use()
        return self._checked(dy, "dy", self.y.shape)


def kept_for_backward(x: NDArray[Any]) -> NDArray[Any]:
    """`x`, contiguous, or a copy of it where anybody could still change it."""
    memory: Any = x
    while isinstance(memory, np.ndarray) and not memory.flags.writeable:
        if memory.base is None:
            return np.ascontiguousarray(x) if memory.flags.owndata else x.copy()
        memory = memory.base
    return x.copy()
