# SPDX-License-Identifier: BSD-3-Clause
"""Options of layers: each is one attribute of the layer's class, from which all else about it follows.

What an option means is said by the docstring of the layer; which ones cannot go together, and why, by the
options themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Self, TypeVar, overload

from .. import _core
from .checks import checked_choice, checked_index, checked_number, is_finite

__all__: list[str] = []

T = TypeVar("T")
Settings = Mapping[str, Any]


NO_DEFAULT: Any = object()


class Option(Generic[T]):
    """An argument of a layer's constructor, and a read-only attribute of the layer.

    Parameters
    ----------
    check : callable
        Takes what is given and the name; returns the value, or raises.
    default : optional
        As in the constructor's signature; where there is none, the argument is required.
    refusal : callable, optional
        Takes all options of the layer; where the value does not go with the others, it returns what is
        expected instead, and why.  A value that is the default is never refused.
    is_shown : bool
        Whether ``repr`` shows the default, too.
    """

    def __init__(
        self,
        check: Callable[[Any, str], T],
        default: Any = NO_DEFAULT,
        refusal: Callable[[Settings], str | bool | None] | None = None,
        *,
        is_shown: bool = False,
    ) -> None:
        self.check = check
        self.is_required = default is NO_DEFAULT
        self.default = None if self.is_required else default
        self.refusal = refusal
        self.is_shown = is_shown

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, layer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, layer: object, owner: type) -> T: ...
    def __get__(self, layer: Any, owner: type) -> T | Self:
        if layer is None:
            return self
        value: T = layer._own_settings()[self.name]
        return value

    def __set__(self, layer: object, value: object) -> None:
        raise AttributeError(f"{self.name}: expected to be set by the constructor, got {value!r} afterwards")


class CellOption(Option[T]):
    """An option of the cell, which the C core knows as a field of fl_cell_options.

    Parameters
    ----------
    check, default, refusal
        As of `Option`.
    field : str, optional
        Name of the field; None is the option's own.
    as_field : callable
        Gives what the field is set to.  What is false is not set: there, all zero is the default.
    """

    def __init__(
        self,
        check: Callable[[Any, str], T],
        default: Any = None,
        refusal: Callable[[Settings], str | bool | None] | None = None,
        *,
        field: str | None = None,
        as_field: Callable[[T], Any] = lambda value: value,
    ) -> None:
        super().__init__(check, default, refusal)
        self.field = field
        self.as_field = as_field


def find(cls: type[Any]) -> dict[str, Option[Any]]:
    """All options of a class of layers, by name; the class keeps them as ``_options``."""
    members = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    return {name: value for name, value in members.items() if isinstance(value, Option)}


def defaults(cls: type[Any]) -> dict[str, Any]:
    """What the options of a class of layers are where nothing is said."""
    return {name: option.default for name, option in cls._options.items()}


def completed(cls: type[Any], config: Settings) -> dict[str, Any]:
    """Settings that another version may have written, with the defaults of those it did not know.

    Raises
    ------
    TypeError, ValueError
        `config` is no mapping, or one of its names is unknown here, or one without a default is missing.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"{cls.__name__}: expected a mapping of options, got {type(config).__name__}")
    known = defaults(cls) | cls._other_settings
    unknown = [name for name in config if name not in known]
    required = [name for name, option in cls._options.items() if option.is_required]
    missing = [name for name in required if name not in config]
    if unknown or missing:
        raise ValueError(
            f"{cls.__name__}: expected options among {list(known)}, "
            f"got unknown {unknown} and none for {missing}"
        )
    return dict(config) | {name: value for name, value in known.items() if name not in config}


def checked(cls: type[Any], given: Settings) -> dict[str, Any]:
    """Check options, each and all together; their order is that of `given`, which may hold more."""
    options = cls._options
    settings = {name: options[name].check(value, name) for name, value in given.items() if name in options}
    for name, value in settings.items():
        refusal = options[name].refusal
        if refusal is not None and value != options[name].default and (expected := refusal(settings)):
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return settings


def fields(cls: type[Any], settings: Settings) -> dict[str, Any]:
    """Fields of fl_cell_options by name, only those that are not zero."""
    values = {
        option.field or name: value
        for name, option in cls._options.items()
        if isinstance(option, CellOption) and (value := option.as_field(settings[name]))
    }
    return {"kind": cls._kind, **values}


# ---- Checks for options ----------------------------------------------------------------------------------


def choice(*choices: str | None) -> Callable[[Any, str], Any]:
    """A check that takes one of these."""
    return lambda value, name: checked_choice(value, name, choices)


def checked_size(value: Any, name: str) -> int:
    """`value` as an int of at least 0."""
    return checked_index(value, name, 0)


def checked_hidden_size(value: Any, name: str) -> int | tuple[int, ...]:
    """H, or one for each layer."""
    if not isinstance(value, (list, tuple)):
        return _core.count(value, name)
    sizes = tuple(_core.count(size, f"{name}[{layer}]") for layer, size in enumerate(value))
    if not sizes:
        raise ValueError(f"{name}: expected at least one size, got none")
    return sizes


def layer_count(settings: Settings) -> int:
    """L: a sequence of sizes says how many layers there are."""
    sizes, count = settings["hidden_size"], settings["num_layers"]
    return len(sizes) if isinstance(sizes, tuple) else int(count)


def hidden_sizes(settings: Settings) -> tuple[int, ...]:
    """H of all layers, or the one that they share."""
    sizes = settings["hidden_size"]
    return sizes if isinstance(sizes, tuple) else (sizes,)


# ---- Activations -----------------------------------------------------------------------------------------

# Parameters that each activation of ONNX takes, and their defaults; None must be given.
ACTIVATIONS: dict[str, tuple[float | None, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Affine": (None, None),
    "LeakyRelu": (0.01,),
    "ThresholdedRelu": (1.0,),
    "ScaledTanh": (None, None),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0,),
    "Softsign": (),
    "Softplus": (),
}
Entry = str | tuple[str | float, ...]


class Activations(CellOption["tuple[Entry, ...] | None"]):
    """The option of which activations a cell has; `roles` are their names, with what they are by default."""

    def __init__(self, **roles: str) -> None:
        super().__init__(self._checked, as_field=self._as_field)
        self.roles = roles

    def _checked(self, value: Any, name: str) -> tuple[Entry, ...] | None:
        """Names, or tuples of a name and parameters, one for each role."""
        if value is None:
            return None
        expected = f"{len(self.roles)} activations ({', '.join(self.roles)})"
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise TypeError(f"{name}: expected a sequence of {expected}, got {type(value).__name__}")
        if len(value) != len(self.roles):
            raise ValueError(f"{name}: expected {expected}, got {len(value)}")
        return tuple(_checked_activation(entry, f"{name}[{n}]") for n, entry in enumerate(value))

    @staticmethod
    def _as_field(value: tuple[Entry, ...] | None) -> list[tuple[Any, ...]]:
        """Name, alpha and beta of each."""
        entries = []
        for entry in value or ():
            function, *given = (entry,) if isinstance(entry, str) else entry
            numbers = (*given, *ACTIVATIONS[str(function)][len(given) :], 0.0, 0.0)
            entries.append((function, *numbers[:2]))
        return entries


def _checked_activation(entry: Any, name: str) -> Entry:
    parts = (entry,) if isinstance(entry, str) else entry
    if not isinstance(parts, (list, tuple)) or not parts or not isinstance(parts[0], str):
        raise TypeError(f"{name}: expected a name, or a tuple of a name and numbers, got {entry!r}")
    function, *given = parts
    if function not in ACTIVATIONS:
        raise ValueError(f"{name}: expected one of {', '.join(ACTIVATIONS)}, got {function!r}")
    defaults = ACTIVATIONS[function]
    numbers = tuple(checked_number(number, name, "finite numbers", is_finite) for number in given)
    if len(numbers) > len(defaults) or None in defaults[len(numbers) :]:
        names = ("alpha", "beta")[: len(defaults)]
        raise ValueError(f"{name}: expected ({', '.join((repr(function), *names))}), got {entry!r}")
    return (function, *numbers) if numbers else function


class Nonlinearity(CellOption[str]):
    """The option of PyTorch's name for it: of a cell with one activation, which is Tanh or Relu."""

    def __init__(self, default: str, refusal: Callable[[Settings], str | bool | None] | None = None) -> None:
        super().__init__(self._checked, default, refusal, field="activations", as_field=self._as_field)

    @staticmethod
    def _checked(value: Any, name: str) -> str:
        if value is None:
            raise TypeError(f"{name}: expected 'tanh' or 'relu', got NoneType")
        chosen: str = checked_choice(value, name, ("tanh", "relu"))
        return chosen

    @staticmethod
    def _as_field(value: str) -> list[tuple[Any, ...]]:
        # The cell's own is Tanh, so that `activations` may stand beside it.
        return [("Relu", 0.0, 0.0)] if value == "relu" else []
