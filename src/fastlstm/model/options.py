# SPDX-License-Identifier: BSD-3-Clause
"""Options of the cells: checks of what a constructor is given, and their form for the C core.

`LSTM`, `GRU` and the others say what the options mean; which of them cannot go together, and why, is said
here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, overload

from .. import _core
from .parameters import checked_flag, checked_number

__all__: list[str] = []

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
# The names that a cell's activations have, with what they are by default.
ROLES = {
    "lstm": {"f": "Sigmoid", "g": "Tanh", "h": "Tanh"},
    "gru": {"f": "Sigmoid", "g": "Tanh"},
    "rnn": {"f": "Tanh"},
    "indrnn": {"f": "Tanh"},
}
NONLINEARITIES = {"tanh": "Tanh", "relu": "Relu"}


# ---- Single values -----------------------------------------------------------------------------------------


def checked_choice(value: object, name: str, choices: Iterable[object]) -> Any:
    """`value` if it is one of `choices`, or an exception that names the argument."""
    choices = tuple(choices)
    if not (value is None or isinstance(value, str)):
        kinds = " or ".join(map(repr, choices))
        raise TypeError(f"{name}: expected {kinds}, got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def checked_probability(value: object, name: str) -> float:
    """`value` as a float from 0 to 1."""
    return checked_number(value, name, "a number from 0 to 1", lambda p: 0 <= p <= 1)


def checked_limit(value: object, name: str) -> float | None:
    """`value` as a float above 0, or None."""
    if value is None:
        return None
    return checked_number(value, name, "None or a number above 0", lambda limit: limit > 0)


def checked_floor(value: object, name: str) -> float:
    """`value` as a finite float of at least 0."""
    return checked_number(value, name, "a number of at least 0", lambda n: 0 <= n < float("inf"))


def checked_size(value: object, name: str) -> int:
    """`value` as an int of at least 0."""
    return checked_index(value, name, 0)


def checked_index(value: object, name: str, least: int) -> int:
    """`value` as an int of at least `least`."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got bool")
    try:
        index = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if index < least:
        raise ValueError(f"{name}: expected at least {least}, got {index}")
    return index


def checked_sizes(value: Any, num_layers: Any) -> tuple[int | tuple[int, ...], int]:
    """H, or one for each layer, and L; a sequence says how many layers there are."""
    if not isinstance(value, (list, tuple)):
        return _core.count(value, "hidden_size"), _core.count(num_layers, "num_layers")
    count = _core.count(num_layers, "num_layers")
    sizes = tuple(_core.count(size, f"hidden_size[{layer}]") for layer, size in enumerate(value))
    if not sizes:
        raise ValueError("hidden_size: expected at least one size, got none")
    if count not in (1, len(sizes)):
        raise ValueError(f"num_layers: expected {len(sizes)}, as many as hidden_size has, got {count}")
    return sizes, len(sizes)


Entry = str | tuple[str | float, ...]


def checked_activations(value: Any, kind: str) -> tuple[Entry, ...] | None:
    """Names, or tuples of a name and parameters, one for each role that the cell has."""
    if value is None:
        return None
    roles = ROLES[kind]
    expected = f"{len(roles)} activations ({', '.join(roles)})"
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise TypeError(f"activations: expected a sequence of {expected}, got {type(value).__name__}")
    if len(value) != len(roles):
        raise ValueError(f"activations: expected {expected}, got {len(value)}")
    return tuple(_checked_activation(entry, f"activations[{n}]") for n, entry in enumerate(value))


def _checked_activation(entry: Any, name: str) -> Entry:
    parts = (entry,) if isinstance(entry, str) else entry
    if not isinstance(parts, (list, tuple)) or not parts or not isinstance(parts[0], str):
        raise TypeError(f"{name}: expected a name, or a tuple of a name and numbers, got {entry!r}")
    function, *given = parts
    if function not in ACTIVATIONS:
        raise ValueError(f"{name}: expected one of {', '.join(ACTIVATIONS)}, got {function!r}")
    defaults = ACTIVATIONS[function]
    numbers = tuple(checked_number(number, name, "finite numbers", _is_finite) for number in given)
    if len(numbers) > len(defaults) or None in defaults[len(numbers) :]:
        names = ("alpha", "beta")[: len(defaults)]
        raise ValueError(f"{name}: expected ({', '.join((repr(function), *names))}), got {entry!r}")
    return (function, *numbers) if numbers else function


def _is_finite(number: float) -> bool:
    return abs(number) < float("inf")


# ---- Options of a cell -------------------------------------------------------------------------------------

T = TypeVar("T")


class Setting(Generic[T]):
    """An option of a layer as a read-only attribute."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, layer: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, layer: Any, owner: type) -> T: ...
    def __get__(self, layer: Any, owner: type) -> T | Setting[T]:
        if layer is None:
            return self
        value: T = layer._own_settings()[self.name]
        return value

    def __set__(self, layer: Any, value: object) -> None:
        raise AttributeError(f"{self.name}: expected to be set by the constructor, got {value!r} afterwards")


class Option(Setting[T]):
    """An option of a cell, in one place: what it may be, what it is by default, and what the core is told.

    Parameters
    ----------
    check : callable
        Of a value and the name of the argument: the value to keep, or an exception.
    default
        That of the constructor; others are shown by ``repr``.
    core : str
        Field of fl_cell_options that it decides; "" is none, or one that another option decides.
    told : callable, optional
        Of all options of the cell: the value of that field, where 0 is the default.  None: the value itself.
    """

    def __init__(
        self,
        check: Callable[[Any, str], Any],
        default: Any,
        core: str = "",
        told: Callable[[Mapping[str, Any]], Any] | None = None,
    ) -> None:
        self.check, self.default, self.core, self.told = check, default, core, told


class Rule(NamedTuple):
    """Two options that do not go together, and why."""

    name: str  # of the one that is refused
    is_broken: Callable[[Mapping[str, Any]], bool]
    expected: str  # with the reason


def options_of(cls: type) -> dict[str, Option[Any]]:
    """All options of a class of layers, in the order in which it names them."""
    found: dict[str, Option[Any]] = {}
    for base in reversed(cls.__mro__):
        found |= {name: value for name, value in vars(base).items() if isinstance(value, Option)}
    return found


def checked_options(
    options: Mapping[str, Option[Any]], rules: Iterable[Rule], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of a cell from what a constructor was given, each checked, and then together."""
    values = {name: option.check(given[name], name) for name, option in options.items()}
    for rule in rules:
        if rule.is_broken(values):
            raise ValueError(f"{rule.name}: expected {rule.expected}, got {values[rule.name]!r}")
    return values


def core_options(kind: str, options: Mapping[str, Option[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of fl_cell_options by name, only those that are not zero."""
    fields = {
        option.core: values[name] if option.told is None else option.told(values)
        for name, option in options.items()
        if option.core
    }
    return {"kind": kind} | {name: value for name, value in fields.items() if value}


def one_of(*choices: object) -> Callable[[object, str], Any]:
    """Return the check of an option that is one of `choices`."""
    return lambda value, name: checked_choice(value, name, choices)


def core_activations(kind: str, entries: Iterable[Entry] | None) -> list[tuple[Any, ...]]:
    """Activations as the core is told them: name, alpha, beta; [] where all are the cell's own."""
    defaults = ROLES[kind].values()
    activations = []
    for entry, default in zip(entries or defaults, defaults, strict=True):
        name, *given = (entry,) if isinstance(entry, str) else entry
        numbers = (*given, *ACTIVATIONS[str(name)][len(given) :], 0.0, 0.0)[:2]
        activations.append((None if name == default else name, *numbers))
    return activations if any(name is not None for name, _, _ in activations) else []


def lstm_gates(options: Mapping[str, Any]) -> str:
    """Gates that have weights, in the order of their rows."""
    if not options["forget_gate"] or options["coupled"] == "f_from_i":
        return "igo"
    return "fgo" if options["coupled"] == "i_from_f" else "ifgo"


def checked_forget_bias(value: object, gates: str, bias: bool) -> float | None:
    """`value` as a float, if there is a forget gate with a bias."""
    if value is None:
        return None
    number = checked_number(value, "forget_bias", "None or a number", _is_finite)
    if "f" not in gates:
        raise ValueError(
            f"forget_bias: expected None where the forget gate has no parameters of its own, got {number}"
        )
    if not bias:
        raise ValueError(
            f"forget_bias: expected None with bias=False, as there is no bias to set, got {number}"
        )
    return number


# ---- Options of a stack ------------------------------------------------------------------------------------


def checked_stack(given: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """Options of how layers and directions are put together."""
    options = {
        "bias": checked_flag(given["bias"], "bias"),
        "batch_first": checked_flag(given["batch_first"], "batch_first"),
        "dropout": checked_probability(given["dropout"], "dropout"),
        "bidirectional": checked_flag(given["bidirectional"], "bidirectional"),
        "reverse": checked_flag(given["reverse"], "reverse"),
        "reverse_order": checked_choice(given["reverse_order"], "reverse_order", ("aligned", "processing")),
        "merge": checked_choice(given["merge"], "merge", ("concat", "sum", "average")),
        "residual": None,
    }
    if given["residual"] is not None:
        residual = options["residual"] = checked_index(given["residual"], "residual", 0)
        if residual >= num_layers:
            raise ValueError(f"residual: expected a layer from 0 to {num_layers - 1}, got {residual}")
    if options["reverse"] and options["bidirectional"]:
        raise ValueError(
            "reverse: expected False with bidirectional, which has a direction from the end, got True"
        )
    if options["reverse_order"] != "aligned" and not options["reverse"]:
        raise ValueError(
            "reverse_order: expected 'aligned' without reverse, as time is the order of processing, "
            f"got {options['reverse_order']!r}"
        )
    if options["merge"] != "concat" and not options["bidirectional"]:
        raise ValueError(
            "merge: expected 'concat' without bidirectional, as there is one direction only, "
            f"got {options['merge']!r}"
        )
    return options
