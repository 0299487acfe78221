# SPDX-License-Identifier: BSD-3-Clause
"""Options of the cells: checks of what a constructor is given, and their form for the C core.

`LSTM`, `GRU` and the others say what the options mean; which of them cannot go together, and why, is said
here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

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


def checked_lstm(given: Mapping[str, Any], smallest: int) -> dict[str, Any]:
    """Options that only the LSTM has; `smallest` is the smallest H."""
    options = {
        "proj_size": checked_index(given["proj_size"], "proj_size", 0),
        "peephole": checked_flag(given["peephole"], "peephole"),
        "coupled": checked_choice(given["coupled"], "coupled", (None, "f_from_i", "i_from_f")),
        "forget_gate": checked_flag(given["forget_gate"], "forget_gate"),
        "proj_bias": checked_flag(given["proj_bias"], "proj_bias"),
        "proj_clip": checked_limit(given["proj_clip"], "proj_clip"),
        "cell_clip": checked_limit(given["cell_clip"], "cell_clip"),
        "gate_clip": checked_limit(given["gate_clip"], "gate_clip"),
        "layer_norm": checked_choice(given["layer_norm"], "layer_norm", (None, "gate", "haste")),
        "zoneout_c": checked_probability(given["zoneout_c"], "zoneout_c"),
        "zoneout_h": checked_probability(given["zoneout_h"], "zoneout_h"),
        "zoneout_eval": checked_choice(given["zoneout_eval"], "zoneout_eval", ("expectation", "off")),
        "recurrent_dropout": checked_probability(given["recurrent_dropout"], "recurrent_dropout"),
        "recurrent_dropout_masks": checked_choice(
            given["recurrent_dropout_masks"], "recurrent_dropout_masks", ("gate", "tied")
        ),
        "activations": checked_activations(given["activations"], "lstm"),
    }
    projected: int = options["proj_size"]
    if projected >= smallest:
        raise ValueError(f"proj_size: expected 0, or less than hidden_size = {smallest}, got {projected}")
    if options["coupled"] is not None and not options["forget_gate"]:
        raise ValueError(
            "coupled: expected None with forget_gate=False, as there is no forget gate to couple, "
            f"got {options['coupled']!r}"
        )
    if options["zoneout_h"] > 0 and projected:
        raise ValueError(
            "zoneout_h: expected 0 with proj_size, as the projected h has no elements of its own to keep, "
            f"got {options['zoneout_h']}"
        )
    if options["peephole"] and options["layer_norm"] == "haste":
        raise ValueError(
            "peephole: expected False with layer_norm='haste', whose norms have no place for them, got True"
        )
    if options["proj_bias"] and not projected:
        raise ValueError("proj_bias: expected False without proj_size, as nothing is projected, got True")
    if options["proj_clip"] is not None and not projected:
        raise ValueError(
            f"proj_clip: expected None without proj_size, as nothing is projected, got {options['proj_clip']}"
        )
    return options


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


def core_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of fl_cell_options by name, only those that are not zero."""
    entries = list(options.get("activations") or ROLES.get(kind, {}).values())
    if kind in ("rnn", "indrnn") and options.get("activations") is None:
        entries = [NONLINEARITIES[options["nonlinearity"]]]
    activations = []
    for entry, default in zip(entries, ROLES.get(kind, {}).values(), strict=True):
        name, *given = (entry,) if isinstance(entry, str) else entry
        # The C core has a faster path where all are the cell's own.
        numbers = (*given, *ACTIVATIONS[str(name)][len(given) :], 0.0, 0.0)[:2]
        activations.append((None if name == default else name, *numbers))
    fields: dict[str, Any] = {
        "gate_clip": options.get("gate_clip") or 0.0,
        "cell_clip": options.get("cell_clip") or 0.0,
        "proj_clip": options.get("proj_clip") or 0.0,
        "coupling": options.get("coupled") if options.get("forget_gate", True) else "no_forget_gate",
        "recurrent_dropout_tied": bool(
            options.get("recurrent_dropout") and options["recurrent_dropout_masks"] == "tied"
        ),
        "reset_before": not options.get("reset_after", True),
        "heads": options.get("heads", 1) if options.get("heads", 1) > 1 else 0,
    }
    for name in (
        "layer_norm",
        "peephole",
        "proj_size",
        "zoneout_c",
        "zoneout_h",
        "recurrent_dropout",
        "n_floor",
    ):
        fields[name] = options.get(name)
    fields["zoneout_expectation"] = bool(
        (fields["zoneout_c"] or fields["zoneout_h"]) and options["zoneout_eval"] == "expectation"
    )
    if any(name is not None for name, _, _ in activations):
        fields["activations"] = activations
    return {"kind": kind} | {name: value for name, value in fields.items() if value}


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
