# SPDX-License-Identifier: BSD-3-Clause
"""Assignments that would do nothing raise, and name the way that does something.

Attributes of an object that its class does not know are its user's own notes: copies and pickles keep them.
A name that says something in this package, in PyTorch or in Keras, or nearly so, is no note.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NoReturn

__all__: list[str] = []

_PACKAGE = __name__.partition(".")[0]
# A parameter's name, of any layer here or elsewhere.
_PARAMETER = re.compile(
    r"(weights?|bias(es)?|kernel|recurrent_kernel|embeddings?)(_(ih|hh|ch|hr|ln|ln_ih|ln_hh|ln_c))?"
    r"(_l\d+)?(_reverse)?(_raw|_orig)?"
)

_PARAMETERS = "to be changed by load_state_dict, or by 'with layer.editing() as flat'"
_GRADIENTS = "to be changed in place: layer.grads[name][...] = value, or layer.flat_grads[...] = value"
_CALL = "to be given to a call, as an argument"
_CONSTRUCTOR = "to be given to the constructor"
_OPTIMIZER = "to be given to an optimizer of fastlstm.optim"
_TRAINING = "no mode: forward(x, training=True) draws masks, and a call of the layer never does"
_FROZEN = "no flag: an optimizer trains those layers that it is given"

_STATE = "to be given to a call, layer(x, state), or kept by layer.stream()"
# What names would be on a layer, by the way that takes effect.
_NAMES = {
    _PARAMETERS: "params parameters flat_params parts weights data",
    _GRADIENTS: "grads grad gradients flat_grads",
    _TRAINING: "training train eval is_training train_mode eval_mode",
    _FROZEN: "requires_grad trainable frozen freeze",
    _CALL: "lengths mask reset offsets pad return_cells out save bptt sequence_length sequence_lengths "
    "return_sequences return_state padding_mask",
    _STATE: "state states initial_state hidden hidden_state hx cx h c h0 c0 h_0 c_0 stateful",
    _OPTIMIZER: "lr learning_rate momentum betas weight_decay optimizer",
    _CONSTRUCTOR: "dtype num_directions units use_bias activation recurrent_activation go_backwards "
    "time_major input_shape batch_input_shape return_sequence recurrent_initializer kernel_initializer "
    "bias_initializer unroll implementation num_embedding max_norm norm_type scale_grad_by_freq sparse "
    "init forget_bias hidden_dim input_dim n_layers nlayers bidir p",
    "to be set as num_threads": "threads n_threads n_jobs nthreads",
    "to be set as rng, a numpy.random.Generator": "seed random_state generator",
    "nothing: layers are in the memory of the process": "device",
}
LAYER_WAYS = {name: way for way, names in _NAMES.items() for name in names.split()}
# Names of options: the most usual ones, and those of all layers that have been imported.
_USUAL = """
input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size in_features out_features
num_embeddings embedding_dim padding_idx nonlinearity peephole zoneout_h zoneout_c recurrent_dropout
layer_norm reset_after residual merge reverse
"""
OPTIONS = set(_USUAL.split())


def refuse(name: str, way: str) -> NoReturn:
    """Raise the exception of an assignment that would do nothing."""
    raise AttributeError(f"{name}: expected {way}, got an assignment, which would do nothing")


class Guarded:
    """Mixin: public attributes can be set where that does something, or where they are notes.

    A class of another package may declare what names it likes, and set them.
    """

    # Ways by name; whether all other names are refused as well.
    _ways: ClassVar[Mapping[str, str]] = {}
    _has_notes: ClassVar[bool] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._check_assignment(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if not name.startswith("_") and name not in self.__dict__:
            self._check_assignment(name)
        super().__delattr__(name)

    def _check_assignment(self, name: str) -> None:
        """Raise for a name whose assignment would do nothing."""
        owner = next((cls for cls in type(self).__mro__ if name in vars(cls)), None)
        if owner is not None and owner.__module__.partition(".")[0] != _PACKAGE:
            return  # a subclass knows what it does
        member = None if owner is None else vars(owner)[name]
        if name in self._ways and not _can_be_set(member):
            refuse(name, self._ways[name])
        if owner is not None:
            if isinstance(member, property) and member.fset is None:
                refuse(name, "to be read")
            return  # methods can be replaced, and other descriptors say what is wrong
        if name in self._own_names():
            return
        is_foreign = type(self).__module__.partition(".")[0] != _PACKAGE
        if way := self._way_of(name):
            refuse(name, f"{way} (or declared by the class, if it is its own)" if is_foreign else way)
        if near := difflib.get_close_matches(name, self._known_names(), 1, 0.8):
            raise AttributeError(
                f"{name}: expected an attribute of {type(self).__name__}, is {near[0]!r} meant?"
            )
        if not self._has_notes and not is_foreign:
            known = ", ".join(
                sorted(name for name in dir(type(self)) if _can_be_set(getattr(type(self), name)))
            )
            refuse(name, f"one of the attributes that can be set ({known or 'none'})")

    def _own_names(self) -> Iterable[str]:
        """Attributes of an instance that can be set."""
        return ()

    def _way_of(self, name: str) -> str:
        """The way that takes effect, of a name that the class does not have; else nothing."""
        return self._ways.get(name, "")

    def _known_names(self) -> list[str]:
        """Names that another may be meant for."""
        return [*(name for name in dir(type(self)) if not name.startswith("_")), *self._ways, *OPTIONS]


def _can_be_set(member: object) -> bool:
    return isinstance(member, property) and member.fset is not None


def parameter_way(name: str) -> str:
    """The way to change a parameter, if this is a name of one, of any layer; else nothing."""
    return _PARAMETERS if _PARAMETER.fullmatch(name) else ""


def option_way(name: str) -> str:
    """The way of an option that this layer does not have, but others do; else nothing."""
    return f"{_CONSTRUCTOR} of a layer that has it" if name in OPTIONS else ""


class Views(dict[str, Any]):
    """Views of parameters or gradients by name: a dict that cannot be changed, with arrays that may be.

    Parameters
    ----------
    views : mapping
        What it holds.
    name : str
        Of the attribute that gives it.
    way : str
        What a message says to do instead.
    """

    __slots__ = ("_name", "_way")

    def __init__(self, views: Mapping[str, Any], name: str, way: str) -> None:
        super().__init__(views)
        self._name, self._way = name, way

    def __setitem__(self, name: str, value: Any) -> None:
        # As after grads[name] += value, which has changed the array itself.
        if name not in self or self[name] is not value:
            self._refuse(f"[{name!r}]")

    def __delitem__(self, name: str) -> None:
        self._refuse(f"[{name!r}]")

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self._refuse("")

    def clear(self) -> None:
        """Raise."""
        self._refuse("")

    def pop(self, *args: Any) -> Any:
        """Raise."""
        self._refuse("")

    def popitem(self) -> Any:
        """Raise."""
        self._refuse("")

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return what there is, or raise."""
        if name not in self:
            self._refuse(f"[{name!r}]")
        return self[name]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Raise."""
        self._refuse("")

    def copy(self) -> dict[str, Any]:
        """Return a dict of the same arrays, which can be changed."""
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # copies belong to nobody

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def _refuse(self, place: str) -> NoReturn:
        raise TypeError(
            f"{self._name}{place}: expected {self._way}; got a change of the mapping, which would do nothing"
        )


def parameter_views(views: Mapping[str, Any]) -> Views:
    """Parameters by name, for ``layer.params``."""
    return Views(views, "params", _PARAMETERS)


def gradient_views(views: Mapping[str, Any]) -> Views:
    """Gradients by name, for ``layer.grads``."""
    return Views(views, "grads", _GRADIENTS)
