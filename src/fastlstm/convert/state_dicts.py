# SPDX-License-Identifier: BSD-3-Clause
"""A layer from weights alone: its kind and sizes follow from their names and shapes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..layers.base import RecurrentCell
from ..model import options as layer_options
from ..model.checks import checked_dtype, checked_rng
from ..model.tensors import readable

if TYPE_CHECKING:
    from ..model.parameters import Parameters, Values

__all__ = ["from_state_dict"]

# Where each kind of layer lives; those behind the others are never found by shapes alone.
HOMES = {
    "LSTM": "lstm",
    "GRU": "gru",
    "RNN": "rnn",
    "MGU": "minimal",
    "IndRNN": "rnn",
    "LSTMCell": "lstm",
    "GRUCell": "gru",
    "RNNCell": "rnn",
    "SLSTM": "slstm",
    "MinGRU": "minimal",
    "MinLSTM": "minimal",
    "Dense": "dense",
    "Embedding": "embedding",
}
NAME = re.compile(
    r"(?P<prefix>(?:.*[._/])?)(?P<kind>weight_(?:ih|hh|ch|hr|ln|ln_ih|ln_hh|ln_c)|bias_(?:ih|hh|hr|ln_c)|[wb]_[ih]h)"
    r"(?:_l(?P<layer>[0-9]{1,6})(?P<reverse>_reverse)?)?",
    re.DOTALL,
)
_SHORT = {"w": "weight", "b": "bias"}  # as files of arrays have it
_BY_GATES = {4: "LSTM", 3: "GRU", 2: "MGU", 1: "RNN"}
# Parameters and options by which three gates are those of an LSTM.
_ONLY_LSTM = ("weight_hr", "weight_ch", "weight_ln", "weight_ln_ih", "coupled", "forget_gate")


def from_state_dict(
    mapping: Mapping[str, Any], *, prefix: str | None = None, kind: str | None = None, **options: Any
) -> Any:
    """Make a layer of weights by PyTorch's names: kind, sizes, directions, biases follow from their shapes.

    Parameters
    ----------
    mapping : mapping of str to array_like
        Arrays, tensors, or anything else that NumPy or DLPack reads; bfloat16 in any form, as
        `LSTM.load_state_dict` reads it.  There may be others beside those of the layer.
    prefix : str, optional
        What stands before each name of the layer, as ``"encoder."``.  None: it is found, if there is one
        layer only.
    kind : str, optional
        Name of the class: "LSTM", "GRU", "RNN", "MGU", "IndRNN", "SLSTM", "MinGRU", "MinLSTM", or a cell.
        None: it is found, if shapes say it: 4, 3, 2 and 1 blocks of gates are LSTM, GRU, MGU and RNN, and
        names without a number are those of a cell.  A layer takes the weights of its cell, too.
    **options
        Options of the layer that weights do not show, as ``batch_first``, ``nonlinearity``, ``dropout``,
        ``reset_after``, ``activations``, ``coupled``, ``reverse``, ``dtype``.  dtype is float64 where all
        weights are, else float32.

    Returns
    -------
    layer
        Of the class `kind`, with these weights.

    Raises
    ------
    TypeError, ValueError
        The names are not those of one layer, or shapes do not go together; the message names the first that
        does not.

    Examples
    --------
    >>> import fastlstm
    >>> lstm = fastlstm.LSTM(3, 4, num_layers=2, bidirectional=True)
    >>> twin = fastlstm.from_state_dict(lstm.state_dict(prefix="encoder."))
    >>> repr(twin) == repr(lstm)
    True
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping: expected a mapping of names to arrays, got {type(mapping).__name__}")
    groups = find_groups(mapping)
    if prefix is None:
        if len(groups) != 1:
            raise ValueError(
                f"prefix: expected one of {list(groups)}, as there are several layers, got None"
                if groups
                else f"mapping: expected names such as 'weight_ih_l0', got {_some(mapping)}"
            )
        prefix = next(iter(groups))
    elif not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    elif prefix not in groups:
        raise ValueError(
            f"mapping: expected {prefix + 'weight_ih_l0'!r}, got none, and layers at {list(groups)}"
        )
    return layer_of(mapping, prefix, groups[prefix], kind, options)


def _some(names: Iterable[Any]) -> str:
    shown = list(names)
    return repr(shown) if len(shown) <= 12 else f"{shown[:12]!r} and {len(shown) - 12} more"


def find_groups(names: Iterable[Any]) -> dict[str, dict[str, tuple[str, int | None, bool]]]:
    """Prefixes of recurrent layers, each with its names: kind, number of the layer or None, and direction."""
    groups: dict[str, dict[str, tuple[str, int | None, bool]]] = {}
    for name in names:
        match = NAME.fullmatch(name) if isinstance(name, str) else None
        if match:
            layer = None if match["layer"] is None else int(match["layer"])
            first, _, rest = match["kind"].partition("_")
            kind = f"{_SHORT.get(first, first)}_{rest}"
            groups.setdefault(match["prefix"], {})[name] = (
                kind,
                layer,
                match["reverse"] is not None,
            )
    return {
        prefix: names
        for prefix, names in groups.items()
        if any(kind == "weight_ih" for kind, _, _ in names.values())
    }


def class_of(kind: Any) -> type[Parameters]:
    """The class of a name."""
    if not isinstance(kind, str):
        raise TypeError(f"kind: expected None or the name of a class, got {type(kind).__name__}")
    if kind not in HOMES:
        raise ValueError(f"kind: expected one of {list(HOMES)}, got {kind!r}")
    module = importlib.import_module(f"..layers.{HOMES[kind]}", __package__)
    cls: type[Parameters] = getattr(module, kind)
    return cls


def layer_of(
    mapping: Mapping[str, Any],
    prefix: str,
    members: Mapping[str, tuple[str, int | None, bool]],
    kind: str | None,
    options: Mapping[str, Any],
    has_cells: bool = True,
) -> Any:
    """A layer of these members of a mapping, as `find_groups` gives them; or a cell, if there may be such."""
    shapes = {name: _shape(mapping[name]) for name in members}
    numbers = sorted({-1 if layer is None else layer for _, layer, _ in members.values()})
    is_numbered = numbers != [-1]
    end = "_l0" if is_numbered else ""
    for expected, number in enumerate(numbers if is_numbered else ()):
        if number != expected:
            missing = f"{prefix}weight_ih_l{expected}" if number >= 0 else f"{prefix}weight_ih_l0"
            raise ValueError(f"mapping: expected {missing!r}, got none, and others of layer {numbers[-1]}")
    first = _first(members, shapes)
    if "weight_ih" not in first:
        raise ValueError(f"mapping: expected {prefix + 'weight_ih' + end!r}, got none")
    if not is_numbered and f"{prefix}bias" in mapping:
        raise ValueError(f"mapping: expected {prefix + 'bias_ih'!r} and {prefix + 'bias_hh'!r}, got 'bias'")
    cls = class_of(
        kind or _kind_of(first, prefix, end, options) + ("Cell" if has_cells and not is_numbered else "")
    )
    found = _sizes(cls, first, prefix, end)
    if issubclass(cls, RecurrentCell):
        if is_numbered:
            raise ValueError(f"kind: expected a layer, as names have numbers, got {kind!r}")
    elif is_numbered:
        found["num_layers"] = len(numbers)
        found["bidirectional"] = any(is_reverse for _, _, is_reverse in members.values())
        rows = {layer: shapes[name][:1] for name, (part, layer, _) in members.items() if part == "weight_ih"}
        sizes = [_hidden_of(found["hidden_size"], rows, layer) for layer in numbers]
        if len(set(sizes)) > 1:
            found["hidden_size"] = tuple(sizes)
    for name, value in found.items():
        if name in options and options[name] != value:
            raise ValueError(f"{name}: expected {value}, as the weights have it, got {options[name]!r}")
    dtypes = {str(getattr(mapping[name], "dtype", "float32")).rpartition(".")[2] for name in members}
    dtype = "float64" if dtypes == {"float64"} else "float32"
    return made(cls, {"dtype": dtype} | found | dict(options), _values_of(mapping, prefix, members))


def _first(
    members: Mapping[str, tuple[str, int | None, bool]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the first layer's first direction, by kind, with dimensions as they must be."""
    first = {}
    for name, (part, layer, is_reverse) in members.items():
        if layer in (None, 0) and not is_reverse:
            shape = first[part] = shapes[name]
            rank = 2 if part in ("weight_ih", "weight_hr") else 1 if part.startswith("bias") else len(shape)
            if len(shape) != max(rank, 1) or 0 in shape:
                raise ValueError(f"{name}: expected {max(rank, 1)} dimensions, none of them 0, got {shape}")
    return first


def made(cls: type[Parameters], config: Mapping[str, Any], values: Values) -> Any:
    """A layer with options and values; nothing is drawn."""
    config = dict(config)
    layer = cls.__new__(cls)
    layer.rng = checked_rng(config.pop("rng", None))
    whole = layer_options.completed(cls, config)
    usual = [name for name in inspect.signature(cls).parameters if name in whole]
    layer._set_up(values, **{name: whole[name] for name in usual})
    return layer


def check_size(cls: type[Parameters], config: Mapping[str, Any], layers: int, elements: int) -> None:
    """Raise if a layer of these options has more layers or parameters, before there is memory for them."""
    settings = layer_options.checked(cls, layer_options.completed(cls, config))
    sizes = settings.get("hidden_size", 1)
    count = max(settings.get("num_layers", 1), len(sizes) if isinstance(sizes, tuple) else 1)
    if count > layers:
        raise ValueError(f"num_layers: expected at most {layers} layers, got {count}")
    size = cls.__new__(cls)._make_layout(settings, checked_dtype(config.get("dtype", "float32"))).size()
    if size > elements:
        raise ValueError(f"{cls.__name__}: expected at most {elements} parameters, got {size}")


def _shape(value: Any) -> tuple[int, ...]:
    shape = getattr(value, "shape", None)
    if shape is None:
        shape = np.shape(value)
    return tuple(int(size) for size in shape)


def _kind_of(first: Mapping[str, tuple[int, ...]], prefix: str, end: str, options: Iterable[str]) -> str:
    """Name of the class that has such shapes."""
    rows = first["weight_ih"][0]
    recurrent = first.get("weight_hh")
    if recurrent is None:
        raise ValueError(
            f"mapping: expected {prefix + 'weight_hh' + end!r}, or kind='MinGRU' or 'MinLSTM', got neither"
        )
    if len(recurrent) == 1:
        return "IndRNN"
    width = first["weight_hr"][1] if "weight_hr" in first else recurrent[-1]
    count, rest = divmod(rows, width)
    if len(recurrent) != 2 or rest or count not in _BY_GATES or recurrent[0] != rows:
        raise ValueError(
            f"{prefix}weight_hh{end}: expected shape (G*H, H) with G*H = {rows}, the rows of weight_ih, "
            f"and G from 1 to 4, got {recurrent}"
        )
    if count == 3 and not {*first, *options}.isdisjoint(_ONLY_LSTM):
        return "LSTM"
    return _BY_GATES[count]


def _sizes(
    cls: type[Parameters], first: Mapping[str, tuple[int, ...]], prefix: str, end: str
) -> dict[str, Any]:
    """Options of a class that shapes show."""
    rows, inputs = first["weight_ih"]
    recurrent = first.get("weight_hh", ())
    name = cls.__name__.removesuffix("Cell")
    found: dict[str, Any] = {"input_size": inputs, "bias": "bias_ih" in first or "bias_hh" in first}
    if name == "LSTM":
        if "weight_hr" in first:
            found |= {"proj_size": first["weight_hr"][0], "proj_bias": "bias_hr" in first}
        found |= {"peephole": True} if "weight_ch" in first else {}
        found |= {"layer_norm": "gate"} if "weight_ln" in first else {}
        found |= {"layer_norm": "haste"} if "weight_ln_ih" in first else {}
        hidden = first["weight_hr"][1] if "weight_hr" in first else recurrent[-1]
    elif name in ("MinGRU", "MinLSTM"):
        hidden = rows // (2 if name == "MinGRU" else 3)
    elif name == "SLSTM":
        hidden = rows // 4
        found["heads"] = max(1, hidden // recurrent[-1])
    else:
        hidden = recurrent[-1] if recurrent else rows
    if hidden < 1:
        raise ValueError(f"{prefix}weight_ih{end}: expected a row for each gate and unit, got {rows} rows")
    return found | {"hidden_size": hidden}


def _hidden_of(first: int, rows: Mapping[int | None, tuple[int, ...]], layer: int) -> int:
    """H of a layer, whose gates are as many as those of the first; `rows` are those of ``weight_ih``."""
    own = rows.get(layer, rows[0])
    return max(1, own[0] * first // rows[0][0]) if own else first


def _values_of(
    mapping: Mapping[str, Any], prefix: str, members: Mapping[str, tuple[str, int | None, bool]]
) -> Values:
    """Values, each read when it is asked for: what is in a file need not lie in memory twice."""
    names = {what: name for name, what in members.items()}
    is_numbered = any(layer is not None for _, layer, _ in members.values())

    def values(layout: Any) -> Iterator[Any]:
        keys = {}
        for name in layout.shapes():
            match = NAME.fullmatch(name)
            assert match is not None, name
            layer = int(match["layer"]) if is_numbered else None
            key = names.get((match["kind"], layer, match["reverse"] is not None))
            if key is None:
                shown = prefix + (name if is_numbered else name.removesuffix("_l0"))
                raise ValueError(f"mapping: expected {shown!r}, got none")
            keys[name] = key
        unknown = [name for name in members if name not in keys.values()]
        if unknown:
            raise ValueError(f"mapping: expected {list(keys.values())}, got {unknown[0]!r} as well")
        for name, shape in layout.shapes().items():
            yield _core.real_array(readable(mapping[keys[name]]), keys[name], shape, layout.dtype)

    return values
