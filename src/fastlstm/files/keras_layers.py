# SPDX-License-Identifier: BSD-3-Clause
"""Layers of what Keras' files say: activations by version, the layouts of cuDNN, gates of Keras 1."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ..convert.separate import from_gates
from ..model.tensors import Stored
from .parts import Found
from .source import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .keras_file import Bundle

__all__: list[str] = []

_KINDS = {
    "LSTM": "LSTM",
    "CuDNNLSTM": "LSTM",
    "GRU": "GRU",
    "CuDNNGRU": "GRU",
    "SimpleRNN": "RNN",
    "LSTMCell": "LSTM",
    "GRUCell": "GRU",
    "SimpleRNNCell": "RNN",
    "LSTMV1": "LSTM",
    "GRUV1": "GRU",
    "GRUV2": "GRU",
    "LSTMV2": "LSTM",
}
_GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}
_ORDERS = {"LSTM": "ifgo", "GRU": "zrn", "RNN": "h"}
_ACTIVATIONS: dict[str, Any] = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "linear": ("Affine", 1.0, 0.0),
    "softsign": "Softsign",
    "softplus": "Softplus",
    "elu": ("Elu", 1.0),
    "leaky_relu": ("LeakyRelu", 0.2),
}
_MERGES = {"concat": "concat", "sum": "sum", "ave": "average"}


class Keras:
    """What is known of the Keras that wrote a file, and what is assumed."""

    def __init__(self, source: Source, found: Found, version: str | None, cudnn: Any, default: Any) -> None:
        self.source, self.found, self.cudnn, self.default = source, found, cudnn, default
        self.version = default if default is not None and default[0].isdigit() else version

    @property
    def number(self) -> tuple[int, int] | None:
        """Major and minor number of the version."""
        match = re.match(r"([0-9]{1,4})(?:\.([0-9]{1,4}))?", self.version or "")
        return (int(match[1]), int(match[2] or 0)) if match else None

    def recurrent_activation(self, name: str) -> str:
        """What gates had by default where the file does not say it."""
        if self.default in ("sigmoid", "hard_sigmoid"):
            return str(self.default)
        number = self.number
        is_old = number is not None and number < (2, 3) and not (self.version or "").startswith("2.2.4-tf")
        usual = "hard_sigmoid" if is_old else "sigmoid"
        if self.default is None:
            self.found.assumed.append(
                f"layer {name!r}: the file says no activations; assumed tanh, and {usual} of the gates, "
                f"the default of Keras {self.version or '2.3 and later'}; keras_default= says another"
            )
        return usual

    def activation(self, value: Any, place: str) -> Any:
        """An activation of Keras as a layer takes it."""
        if isinstance(value, dict):  # a serialised function
            value = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
        if value is None:
            value = "linear"
        if value == "hard_sigmoid":
            is_new = self.number is not None and self.number[0] >= 3
            return ("HardSigmoid", 1 / 6 if is_new else 0.2, 0.5)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            self.source.bad(place, f"one of hard_sigmoid, {', '.join(_ACTIVATIONS)}", repr(value)[:60])
        return _ACTIVATIONS[value]


def wrapped(keras: Keras, kind: str, settings: dict[str, Any], name: str) -> dict[str, Any] | None:
    """What a configuration says of a recurrent layer: cells, direction and merging; None of others."""
    result: dict[str, Any] = {"is_bidirectional": False, "merge": None, "outer": settings}
    if kind == "Bidirectional":
        inner = settings.get("layer")
        if not isinstance(inner, dict) or not isinstance(inner.get("config"), dict):
            keras.source.bad(f"layer {name!r}", "a configuration of its layer", type(inner).__name__)
        result |= {"is_bidirectional": True, "merge": settings.get("merge_mode")}
        other = settings.get("backward_layer")
        if isinstance(other, dict) and isinstance(other.get("config"), dict):
            for option in ("activation", "recurrent_activation", "units", "reset_after"):
                if other["config"].get(option) != inner["config"].get(option):
                    given = other["config"].get(option)
                    keras.source.bad(f"layer {name!r}: {option}", "that of both directions", repr(given)[:60])
        kind, settings = str(inner.get("class_name")).rpartition(">")[2], inner["config"]
        result["outer"] = settings
    if kind == "RNN":
        cell = settings.get("cell")
        cells = [cell]
        if (
            isinstance(cell, dict)
            and cell.get("class_name") == "StackedRNNCells"
            and isinstance(cell.get("config"), dict)
        ):
            cells = cell["config"].get("cells")
        if not isinstance(cells, list) or not all(
            isinstance(c, dict) and isinstance(c.get("config"), dict) for c in cells
        ):
            keras.source.bad(f"layer {name!r}", "configurations of its cells", repr(cells)[:60])
        kinds = [str(each.get("class_name")).rpartition(">")[2] for each in cells]
        if not all(each in _KINDS for each in kinds):
            return None
        return result | {"cells": [(each, cell["config"]) for each, cell in zip(kinds, cells, strict=True)]}
    if kind not in _KINDS:
        return None
    return result | {"cells": [(kind, settings)]}


def layers_of(
    keras: Keras, name: str, inner: dict[str, Any] | None, bundles: list[Bundle], arrays: dict[str, Stored]
) -> None:
    """Make the layers of one of Keras'; `inner` is as of `wrapped`, or None in a file of weights alone."""
    backward = [bundle for bundle in bundles if bundle.is_backward]
    forward = [bundle for bundle in bundles if not bundle.is_backward]
    is_bidirectional = bool(backward) if inner is None else inner["is_bidirectional"]
    count = len(forward) if inner is None else len(inner["cells"])
    if len(forward) != count or (is_bidirectional and len(backward) != count):
        keras.source.bad(
            f"layer {name!r}",
            f"weights of {count} cells in each direction",
            f"{len(forward)} and {len(backward)}",
        )
    for number in range(count):
        cell = None if inner is None else inner["cells"][number]
        directions = [
            _Cell(keras, name, cell, bundle, arrays)
            for bundle in ((forward[number], backward[number]) if is_bidirectional else (forward[number],))
        ]
        own = name if count == 1 else f"{name}.{number}"
        if own in keras.found.layers:
            keras.source.bad(f"layer {own!r}", "each name once", "it twice")
        options = directions[0].options
        outer = {} if inner is None else inner["outer"]
        if outer.get("time_major") is not True:
            options = options | {"batch_first": True}
        if not is_bidirectional:
            if outer.get("go_backwards"):
                options = options | {"reverse": True, "reverse_order": "processing"}
            keras.found.layers[own] = directions[0].made(options)
            continue
        if directions[0].kind != directions[1].kind:
            keras.source.bad(f"layer {own!r}", "directions of one kind", "two")
        merge = "concat" if inner is None else inner["merge"]
        if merge in _MERGES:
            pair = tuple(each.parts for each in directions)
            keras.found.layers[own] = directions[0].made(options | {"merge": _MERGES[merge]}, pair)
        else:  # None, or "mul"
            keras.found.notes.append(f"layer {own!r}: two layers, as merge_mode is {merge!r}")
            keras.found.layers[f"{own}.forward"] = directions[0].made(options)
            keras.found.layers[f"{own}.backward"] = directions[1].made(options | {"reverse": True})


class _Cell:
    """One direction of one layer: its kind, options, and weights as `from_gates` takes them."""

    def __init__(self, keras: Keras, name: str, cell: Any, bundle: Bundle, arrays: dict[str, Stored]) -> None:
        self.keras, self.name = keras, name
        self.parts: dict[str, Any]
        taken = {key: arrays[path].read() for key, path in bundle.arrays.items()}
        if any(array.dtype.kind != "f" for array in taken.values()):
            keras.source.bad(f"layer {name!r}", "weights that are real numbers", "others")
        settings: dict[str, Any] = {} if cell is None else cell[1]
        self.order: str | None = None
        self.is_cudnn = False
        if any(gate for _, gate in taken):
            self._read_old(taken, cell)
        else:
            self._read(taken, cell, settings)
        self.options = self._options(settings, cell)

    # ---- Weights ---------------------------------------------------------------------------------------

    def _read_old(self, taken: dict[tuple[str, str], NDArray[Any]], cell: Any) -> None:
        """Keras 1: arrays of each gate alone."""
        letters = {gate for _, gate in taken}
        kind = {"icfo": "LSTM", "zrh": "GRU"}.get("".join(g for g in "icfozrh" if g in letters))
        if kind is None or (cell is not None and _KINDS[cell[0]] != kind):
            self.keras.source.bad(f"layer {self.name!r}", "gates of an LSTM or GRU", sorted(letters))
        self.kind, self.reset_after = kind, False
        names = {"W": "weight_ih", "U": "weight_hh", "b": "bias"}
        self.parts = {
            letter: {names[part]: array for (part, own), array in taken.items() if own == letter}
            for letter in letters
        }

    def _read(self, taken: dict[tuple[str, str], NDArray[Any]], cell: Any, settings: dict[str, Any]) -> None:
        bad, place = self.keras.source.bad, f"layer {self.name!r}"
        W, U, b = taken["W", ""], taken["U", ""], taken.get(("b", ""))
        if W.ndim != 2 or U.ndim != 2 or not U.shape[0] or not W.shape[0] or W.shape[1] != U.shape[1]:
            bad(
                place, "a kernel and a recurrent kernel of as many columns", f"shapes {W.shape} and {U.shape}"
            )
        H = U.shape[0]
        G, rest = divmod(U.shape[1], H)
        self.kind = _KINDS[cell[0]] if cell is not None else _GATES.get(G, "")
        if rest or _GATES.get(G) != self.kind:
            bad(
                place,
                f"kernels of {self.kind or 'LSTM, GRU or SimpleRNN'}",
                f"shapes {W.shape} and {U.shape}",
            )
        if cell is not None and settings.get("units", settings.get("output_dim", H)) != H:
            bad(place, f"{settings.get('units')} units", H)
        self.order = _ORDERS[self.kind]
        is_flat = b is not None and self.kind != "RNN" and b.shape == (2 * G * H,)
        is_cudnn = self.is_cudnn = self._is_cudnn(cell, is_flat)
        allowed = {(G * H,)} | ({(2, G * H), (2 * G * H,)} if self.kind == "GRU" or is_cudnn else set())
        if b is not None and b.shape not in allowed:
            bad(place, f"a bias of shape {' or '.join(map(str, sorted(allowed)))}", b.shape)
        if is_cudnn:  # each block is the transposed matrix, in the order of memory
            W = np.concatenate([block.T.reshape(block.shape, order="F") for block in np.split(W, G, 1)], 1)
            U = np.concatenate([block.T for block in np.split(U, G, 1)], 1)
        self.parts = {"weight_ih": W, "weight_hh": U}
        self.reset_after = is_cudnn or (b is not None and b.size == 2 * G * H)
        if b is not None and b.size == 2 * G * H:
            self.parts["bias_ih"], self.parts["bias_hh"] = b.reshape(2, G * H)
        elif b is not None:
            self.parts["bias"] = b
        elif self.kind == "GRU":
            self.reset_after = is_cudnn or bool(settings.get("reset_after", cell is None))
            if cell is None:
                self.keras.found.assumed.append(
                    f"layer {self.name!r}: without biases; assumed reset_after=True"
                )
        if cell is not None and self.kind == "GRU" and not is_cudnn:
            stated = bool(settings.get("reset_after", False))
            if b is not None and stated != self.reset_after:
                bad(place, f"a bias of reset_after={stated}", f"shape {b.shape}")

    def _is_cudnn(self, cell: Any, is_flat: bool) -> bool:
        if cell is not None and cell[0].startswith("CuDNN"):
            return True
        if self.kind == "LSTM":
            return is_flat
        if self.kind != "GRU":
            return False
        if is_flat and cell is None and self.keras.cudnn is None:
            self.keras.source.bad(
                f"layer {self.name!r}",
                "cudnn=True or cudnn=False, as shapes do not tell CuDNNGRU from GRU",
                "neither",
            )
        return bool(self.keras.cudnn) if self.keras.cudnn is not None and cell is None else is_flat

    # ---- Options ---------------------------------------------------------------------------------------

    def _options(self, settings: dict[str, Any], cell: Any) -> dict[str, Any]:
        keras, place = self.keras, f"layer {self.name!r}"
        options: dict[str, Any] = {"reset_after": self.reset_after} if self.kind == "GRU" else {}
        first = next(iter(self.parts.values()))
        weights = first["weight_ih"] if isinstance(first, dict) else first
        if weights.dtype == np.float64:
            options["dtype"] = "float64"
        if self.is_cudnn:  # which has no others
            return options
        inner = keras.activation(settings.get("activation", "tanh"), f"{place}: activation")
        if self.kind == "RNN":
            if "activation" not in settings:
                keras.found.assumed.append(f"{place}: the file says no activation; assumed tanh")
            return options | ({} if inner == "Tanh" else {"activations": (inner,)})
        name = settings.get("recurrent_activation", settings.get("inner_activation", ...))
        outer = keras.activation(
            keras.recurrent_activation(self.name) if name is ... else name, f"{place}: recurrent_activation"
        )
        functions = (outer, inner, inner) if self.kind == "LSTM" else (outer, inner)
        usual = ("Sigmoid", "Tanh", "Tanh")[: len(functions)]
        return options if functions == usual else options | {"activations": functions}

    def made(self, options: dict[str, Any], pair: Any = None) -> Any:
        """The layer."""
        try:
            return from_gates(
                self.kind,
                [self.parts if pair is None else pair],
                order=self.order,
                transposed=True,
                **options,
            )
        except (TypeError, ValueError) as error:
            self.keras.source.bad(f"layer {self.name!r}", "weights that go together", str(error))
