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
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from .. import _core
from . import guards, options
from .checks import checked_dtype, checked_flag, checked_reals, checked_rng
from .pickling import in_pieces
from .tensors import readable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__: list[str] = []

# ---- A set of parameters ---------------------------------------------------------------------------------


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


class LoadedKeys(NamedTuple):
    """What ``load_state_dict`` found, as PyTorch says it: names with their prefix."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def matched(
    mapping: Mapping[str, ArrayLike], names: Iterable[str], prefix: object, strict: bool
) -> LoadedKeys:
    """Which of `names` are missing, and what else begins with `prefix`; with `strict` neither may be.

    Raises
    ------
    TypeError, ValueError
        `mapping` is no mapping, or `strict` and something is missing or unknown.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping: expected a mapping of names to arrays, got {type(mapping).__name__}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    own = [prefix + name for name in names]
    unexpected = [
        name for name in mapping if name not in own and (not isinstance(name, str) or name.startswith(prefix))
    ]
    keys = LoadedKeys([name for name in own if name not in mapping], unexpected)
    if strict and any(keys):
        raise ValueError(
            f"mapping: expected the names {own}, "
            f"got none for {keys.missing_keys} and unknown {keys.unexpected_keys}"
        )
    return keys


def given(
    mapping: Mapping[str, ArrayLike], prefix: str = "", others: Mapping[str, NDArray[Any]] | None = None
) -> Values:
    """What a caller gives, all checked and converted before any is used; `others` has what is not given."""

    def values(layout: Layout) -> Iterable[NDArray[Any]]:
        shapes = layout.shapes()
        if others is None:
            matched(mapping, shapes, prefix, True)
        result = []
        for name, shape in shapes.items():
            own = prefix + name
            if others is not None and own not in mapping:
                result.append(others[name])
            else:
                result.append(_core.real_array(readable(mapping[own]), own, shape, layout.dtype))
        return result

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

    __slots__ = ("flat", "is_stepped", "layout", "products")

    products: _core.Products | None  # of a dense layer, packed for them
    is_stepped: bool  # a step of an optimizer made them: there are no denormal numbers

    def __init__(self, layout: Any, values: Values | NDArray[Any]) -> None:
        self.layout = layout
        if isinstance(values, np.ndarray):
            self.flat = values
        else:
            self.flat = _core.flat_array(checked_size(layout), layout.dtype, False)
            for view, value in zip(views(self.flat, layout).values(), values(layout), strict=True):
                if isinstance(value, np.ndarray):
                    view[...] = value
                else:
                    value(view)
        self.flat.flags.writeable = False
        self.products, self.is_stepped = None, False

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


def warn(text: str) -> None:
    """Warn whoever called the package, or made an object of a subclass."""
    depth = 2
    frame: types.FrameType | None = sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=depth)


# ---- What layers inherit ---------------------------------------------------------------------------------


class Parameters(guards.Guarded):
    """Mixin of the layers: options, and access to parameters and gradients.

    A layer gives its options (see `options.Option`), `_first_values`, `_make_layout`, `_parameter_set`,
    `_place` and `_ready`.

    Attributes
    ----------
    rng : numpy.random.Generator
        What the parameters were drawn from, and what training draws from.  Pickles and deep copies keep its
        state.
    """

    _options: ClassVar[dict[str, options.Option[Any]]] = {}
    _other_settings: ClassVar[dict[str, Any]] = {"dtype": "float32"}  # of `_config`, beside options
    _ways = guards.LAYER_WAYS
    _place: ClassVar[str]  # name of the attribute that holds what `_ready` returns
    _settings: dict[str, Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._options = options.find(cls)
        guards.OPTIONS.update(cls._options)

    @property
    def rng(self) -> np.random.Generator:
        """What the parameters were drawn from, and what training draws from."""
        generator: np.random.Generator = self.__dict__["rng"]
        return generator

    @rng.setter
    def rng(self, value: np.random.Generator) -> None:
        if not callable(getattr(value, "integers", None)):
            raise TypeError(f"rng: expected a numpy.random.Generator, got {type(value).__name__}")
        self.__dict__["rng"] = value

    # ---- Construction --------------------------------------------------------------------------------------

    def _construct(self, arguments: Mapping[str, Any]) -> None:
        """Do what a constructor does; `arguments` are its ``locals()``, before it has others."""
        given = {name: value for name, value in arguments.items() if name != "self"}
        before = self.__dict__.get("rng")
        self.rng = checked_rng(given.pop("rng"))
        try:
            self._set_up(self._first_values(given), **given)
        except BaseException:
            if before is not None:
                self.rng = before
            raise

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
        ready = self._ready(ParameterSet(layout, values))
        further = self._further_attributes(settings, layout, given)
        kept = settings | {"dtype": layout.dtype.name}
        for name in ("_words", "_flat_grads"):
            self.__dict__.pop(name, None)  # of another layout
        _core.assign_all(
            [(self, "_settings", kept), (self, self._place, ready)]
            + [(self, name, value) for name, value in further.items()]
        )

    def _further_attributes(
        self, settings: dict[str, Any], layout: Any, given: dict[str, Any]
    ) -> dict[str, Any]:
        """What else a constructor sets, by name; `given` has what is no option."""
        return {}

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

    # ---- Parameters and gradients -------------------------------------------------------------------------

    def _parameter_set(self) -> ParameterSet:
        """Return the set in force."""
        raise NotImplementedError

    def _ready(self, parameter_set: ParameterSet) -> Any:
        """Make of a set what puts it in force once it is the value of `_place`."""
        raise NotImplementedError

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        """Parameters by name, as read-only views into `flat_params`; see `editing` and `load_state_dict`.

        The mapping cannot be changed.
        """
        return guards.parameter_views(self._parameter_set().views)

    @property
    def flat_params(self) -> NDArray[Any]:
        """All parameters one after the other, in the order of `params`, as one read-only array."""
        return self._parameter_set().flat

    @property
    def grads(self) -> dict[str, NDArray[Any]]:
        """Gradients by the names of `params`, as writeable views into `flat_grads`.

        The mapping cannot be changed; ``layer.grads[name][...] = value`` and ``layer.grads[name] += value``
        can be written.
        """
        return guards.gradient_views(views(self.flat_grads, self._parameter_set().layout))

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
            flat = self.__dict__.setdefault("_flat_grads", _core.flat_array(params.size, params.dtype, True))
        words: _core.Words | None = self.__dict__.get("_words")
        if words is not None:
            words.settle(flat)
        return flat

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        if "_flat_grads" not in self.__dict__:
            return
        words: _core.Words | None = self.__dict__.get("_words")
        if words is None:
            self.flat_grads.fill(0)
        else:
            words.clear(self.__dict__)

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
        flat = _core.own_array(before.flat)
        yield flat[:]
        if self._parameter_set() is not before:
            raise RuntimeError(
                f"{type(self).__name__}: expected that parameters change in one place at a time, "
                "got others while they were being edited"
            )
        self._replace(_core.own_array(flat))

    def _replace(self, flat: NDArray[Any]) -> None:
        """Put these values in force; from here on the array belongs to the layer, and is read-only."""
        put_in_force([(self, ParameterSet(self._parameter_set().layout, flat))])

    def state_dict(self, *, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Return copies of all parameters by PyTorch's names, in PyTorch's order.

        Parameters
        ----------
        prefix : str
            What stands before each name, as ``"encoder."``: parameters of several layers in one mapping.

        Returns
        -------
        dict of str to ndarray
            Arrays of the layer's dtype, which the caller may change.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
        return {prefix + name: _core.own_array(view) for name, view in self._parameter_set().views.items()}

    def load_state_dict(
        self, mapping: Mapping[str, ArrayLike], strict: bool = True, *, prefix: str = ""
    ) -> LoadedKeys:
        """Replace all parameters, or those that are given.

        All names, shapes and dtypes are checked before anything changes.  Calls that run in other threads,
        and streams made before, keep the parameters they began with; a tape made before can no longer be
        used.

        Parameters
        ----------
        mapping : mapping of str to array_like
            By PyTorch's names, in any order; arrays, tensors, or anything else that NumPy or DLPack reads.
            Values are cast as NumPy does with ``casting="same_kind"``.  bfloat16 is read from ml_dtypes, from
            tensors, and as bits: uint16, or the raw ``V2`` that NumPy's files make of it.
        strict : bool
            Whether all names must be there, and no others; else parameters that are missing stay what they
            are, and what is unknown is not looked at.
        prefix : str
            What stands before each name in `mapping`.  Names that do not begin with it are of other layers,
            and not looked at.

        Returns
        -------
        LoadedKeys
            ``(missing_keys, unexpected_keys)``, lists of names with their prefix, as PyTorch returns them.

        Raises
        ------
        TypeError
            `mapping` is no mapping, or a parameter does not hold real numbers.
        ValueError
            Names are missing or unknown, and `strict`; or a shape is wrong.
        """
        keys, changes = self._loaded(mapping, prefix, checked_flag(strict, "strict"))
        put_in_force(changes)
        return keys

    def _loaded(
        self, mapping: Mapping[str, ArrayLike], prefix: str, strict: bool
    ) -> tuple[LoadedKeys, list[tuple[Parameters, ParameterSet]]]:
        """What `load_state_dict` returns, and the sets that it puts in force."""
        before = self._parameter_set()
        keys = matched(mapping, before.views, prefix, strict)
        return keys, [(self, ParameterSet(before.layout, given(mapping, prefix, before.views)))]

    # ---- Attributes ---------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "rng" and not callable(getattr(value, "integers", None)):  # what training asks of it
            raise TypeError(f"rng: expected a numpy.random.Generator, got {type(value).__name__}")
        if name == "flat_grads" and value is self.__dict__.get("_flat_grads"):
            return  # after layer.flat_grads *= value, which has changed the array itself
        super().__setattr__(name, value)

    def _check_assignment(self, name: str) -> None:
        is_there = "_settings" in self.__dict__ and name in self.params
        if is_there and isinstance(getattr(type(self), name, None), options.Option):  # as the bias of Dense
            guards.refuse(name, self._way_of(name))
        super()._check_assignment(name)

    def _own_names(self) -> Iterable[str]:
        return ("rng",)

    def _way_of(self, name: str) -> str:
        return guards.parameter_way(name) or guards.option_way(name) or super()._way_of(name)

    # ---- Copies -------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {name: value for name, value in self.__dict__.items() if name not in self._not_kept}
        views = self._parameter_set().views
        params = {name: in_pieces(view) for name, view in views.items()}  # of a tied layer: its own
        return restore, (type(self), self._config(), params), kept or None

    def __setstate__(self, kept: Mapping[str, Any]) -> None:
        """Attributes of a copy or pickle: those that could be set."""
        for name, value in kept.items():
            if name in self._not_kept:
                raise ValueError(
                    f"{type(self).__name__}: expected attributes that pickles keep, got {name!r}"
                )
            setattr(self, name, value)

    # Attributes that copies and pickles get in another way, or not at all.
    _not_kept = frozenset({"_flat_grads", "_words", "_set", "_settings", "_joined", "_lock"})


def restore(cls: type[Parameters], config: Mapping[str, Any], params: Mapping[str, ArrayLike]) -> Parameters:
    """Make a layer from what `Parameters.__reduce__` gave, with all the checks of its constructor.

    Options that a pickle of another version lacks take their defaults; what is unknown is refused.
    """
    layer = cls.__new__(cls)
    layer.rng = checked_rng(None)  # unless the pickle has another
    layer._set_up(given(params), **options.completed(cls, config))
    return layer


def ready_for(changes: Iterable[tuple[Parameters, ParameterSet]]) -> list[tuple[Parameters, str, Any]]:
    """What `_core.assign_all` has to do for sets to be in force, all made and checked."""
    return [(layer, layer._place, layer._ready(parameter_set)) for layer, parameter_set in changes]


def put_in_force(changes: Iterable[tuple[Parameters, ParameterSet]]) -> None:
    """Put sets of one or more layers in force: of all layers or, after any exception, of none."""
    _core.assign_all(ready_for(changes))  # no signal handler runs in between


class NumpyParameters(Parameters):
    """Mixin of layers in NumPy, whose parameters are used as they lie."""

    _set: ParameterSet
    _place = "_set"

    def _parameter_set(self) -> ParameterSet:
        try:
            return self._set
        except AttributeError:
            raise RuntimeError(f"{type(self).__name__}: __init__ has not been called") from None

    def _ready(self, parameter_set: ParameterSet) -> ParameterSet:
        return parameter_set

    @property
    def _adding(self) -> threading.Lock:
        """Held while gradients are added to those of the layer."""
        lock: threading.Lock = self.__dict__.setdefault("_lock", _core.new_lock())
        return lock

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters and results: float32 or float64."""
        layout: Layout = self._parameter_set().layout
        return layout.dtype


class NumpyTape(guards.Guarded):
    """What tapes of layers in NumPy share: they are for one use, and for the parameters of their call.

    Attributes
    ----------
    y : ndarray
        Result of the call, read-only.
    """

    _has_notes = False

    def __init__(self, layer: NumpyParameters, params: ParameterSet, y: NDArray[Any]) -> None:
        self._y: Any = _core.frozen(y)
        self._layer = layer
        self._params = params
        self._is_used = False

    @property
    def y(self) -> Any:
        """Result of the call, read-only."""
        return self._y

    def _is_in_force(self) -> bool:
        """Whether the layer still has the parameters of the call."""
        return self._layer._parameter_set() is self._params

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"{type(self).__name__}: expected to be used in the process that made it; "
            "pickle the layer instead"
        )

    def _check_unused(self) -> None:
        """Raise unless the tape can still be used."""
        if self._is_used:
            raise RuntimeError("tape: expected one backward for each forward, got a second one")
        if not self._is_in_force():
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
        self._check_unused()
        return self._checked(dy, "dy", self.y.shape)
