# SPDX-License-Identifier: BSD-3-Clause
"""Weights as an argument: packed once, and called without a layer.

Bridges to other frameworks, which keep parameters, gradients and what a backward pass needs themselves,
stand on this.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..model import guards, options
from ..model.checks import checked_dtype, checked_rng
from ..model.parameters import ParameterSet, given
from ..passes.calls import Calls
from ..passes.streams import Origin
from .base import RecurrentLayer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..model.layouts import Layout

__all__ = ["Packed", "pack"]

_HOMES = {
    "LSTM": ".lstm",
    "GRU": ".gru",
    "RNN": ".rnn",
    "IndRNN": ".rnn",
    "SLSTM": ".slstm",
    "MGU": ".minimal",
    "MinGRU": ".minimal",
    "MinLSTM": ".minimal",
}


class Packed(guards.Guarded, Calls):
    """Parameters of a layer, packed, which never change; `pack` makes it.

    It is called as the layer is, and its ``forward``, ``tape``, ``reserve_size`` and ``stream`` are those of
    the layer.  It has no gradients: ``backward`` of its tapes needs ``grads``.  Any number of threads may
    call it.

    Attributes
    ----------
    config : dict
        ``kind``, the name of the layer's class, and its options.
    num_threads : int or None
        Most threads for a call; None is the limit of the calling thread or the process.
    dtype : numpy.dtype
        Of parameters and results.
    rng : numpy.random.Generator
        What masks are drawn from, where ``forward`` gets no seed.
    """

    _made_of: Origin

    def __init__(self) -> None:
        raise TypeError("Packed: expected to be made by pack(params, config)")

    @property
    def rng(self) -> np.random.Generator:
        """What masks are drawn from, where ``forward`` gets no seed."""
        rng: np.random.Generator | None = self.__dict__.get("_rng")
        if rng is None:
            rng = self.__dict__.setdefault("_rng", checked_rng(None))
        return rng

    @rng.setter
    def rng(self, value: np.random.Generator) -> None:
        if not callable(getattr(value, "integers", None)):
            raise TypeError(f"rng: expected a numpy.random.Generator, got {type(value).__name__}")
        self.__dict__["_rng"] = value

    @property
    def config(self) -> dict[str, Any]:
        """The name of the layer's class, ``kind``, and its options."""
        return {"kind": self._made_of.cls.__name__} | self._made_of.config

    @property
    def flat_params(self) -> NDArray[Any]:
        """All parameters one after the other, in the order of `params`, as one read-only array."""
        source: ParameterSet = self._packed[0].source
        return source.flat

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        """Parameters by name, as read-only views into `flat_params`."""
        source: ParameterSet = self._packed[0].source
        return source.views

    def with_params(self, params: Mapping[str, ArrayLike] | ArrayLike) -> Packed:
        """Pack other parameters for the same options, in memory of others before them that nobody uses.

        Parameters
        ----------
        params : mapping of str to array_like, or array_like
            As of `pack`.

        Returns
        -------
        Packed

        Raises
        ------
        TypeError, ValueError
            Names, shapes or dtypes do not fit; the message says what was expected.
        """
        return self._following(_parameter_set(self._layout, params))

    def _with_flat(self, flat: NDArray[Any]) -> Packed:
        """`with_params`, of a flat buffer that belongs to the result from here on."""
        return self._following(ParameterSet(self._layout, flat))

    def _following(self, parameter_set: ParameterSet) -> Packed:
        packed = parameter_set.layout.packed(parameter_set, self._packed)
        result = _made(packed, self._made_of, self._plan, self._direct, self.num_threads)
        if "_rng" in self.__dict__:
            result.__dict__["_rng"] = self.rng
        return result

    def _origin(self) -> Origin:
        return Origin(self._made_of.cls, self._made_of.config | {"num_threads": None})

    def _own_names(self) -> tuple[str, ...]:
        return ("num_threads",)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"Packed({shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        params = {name: view.copy() for name, view in self.params.items()}
        return pack, (params, self.config | {"num_threads": self.num_threads})


def pack(params: Mapping[str, ArrayLike] | ArrayLike, config: Mapping[str, Any] | RecurrentLayer) -> Packed:
    """Pack parameters for calls without a layer.

    Parameters
    ----------
    params : mapping of str to array_like, or array_like
        Parameters by PyTorch's names, all of them and no others; or all one after the other, as
        ``flat_params`` of a layer.  They are copied.
    config : mapping or layer
        ``kind``, which is the name of a layer's class (``"LSTM"``, ``"GRU"``, ...), and the arguments of
        its constructor; or a layer, which has the options that are wanted.

    Returns
    -------
    Packed

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.

    Examples
    --------
    >>> import numpy as np
    >>> import fastlstm
    >>> layer = fastlstm.LSTM(3, 5, rng=0)
    >>> packed = fastlstm.pack(layer.flat_params, layer)
    >>> x = np.ones((4, 2, 3), np.float32)
    >>> np.array_equal(packed(x)[0], layer(x)[0])
    True
    >>> grads = np.empty_like(packed.flat_params)
    >>> tape = packed.forward(x)
    >>> dx, dstate_0 = tape.backward(np.ones_like(tape.y), grads=grads)
    """
    return _packed(params, config)


def blank(config: Mapping[str, Any] | RecurrentLayer) -> Packed:
    """`pack`, with zeros for parameters: to be followed by others."""
    return _packed(None, config)


def _packed(params: Any, config: Mapping[str, Any] | RecurrentLayer) -> Packed:
    if isinstance(config, RecurrentLayer):
        cls: type[RecurrentLayer] = type(config)
        arguments = config._config()
    elif isinstance(config, Mapping):
        arguments = dict(config)
        kind = arguments.pop("kind", None)
        if kind not in _HOMES:
            raise ValueError(f"config['kind']: expected one of {', '.join(_HOMES)}, got {kind!r}")
        cls = getattr(importlib.import_module(_HOMES[kind], __package__), kind)
        arguments = options.completed(cls, arguments)
    else:
        raise TypeError(f"config: expected a mapping or a layer, got {type(config).__name__}")
    layer = cls.__new__(cls)
    settings = options.checked(cls, arguments)
    layout = layer._make_layout(settings, checked_dtype(arguments["dtype"]))
    parameter_set = _parameter_set(layout, params)
    further = layer._further_attributes(settings, layout, arguments)
    kept = settings | {"dtype": layout.dtype.name, "num_threads": further["num_threads"]}
    packed = layout.packed(parameter_set, None)
    return _made(packed, Origin(cls, kept), further["_plan"], further["_direct"], further["num_threads"])


def _parameter_set(layout: Layout, params: Any) -> ParameterSet:
    if params is None:
        return ParameterSet(layout, _core.flat_array(layout.size(), layout.dtype, True))
    if isinstance(params, Mapping):
        return ParameterSet(layout, given(params))
    flat = _core.flat_array(layout.size(), layout.dtype, False)
    flat[...] = _core.real_array(params, "params", flat.shape, layout.dtype)
    return ParameterSet(layout, flat)


def _made(
    packed: tuple[_core.Weights, ...], origin: Origin, plan: Any, direct: Any, num_threads: int | None
) -> Packed:
    result = Packed.__new__(Packed)
    attributes = [("_packed", packed), ("_made_of", origin), ("_plan", plan), ("_direct", direct)]
    _core.assign_all([(result, name, value) for name, value in attributes])
    if num_threads is not None:
        result.num_threads = num_threads
    return result
