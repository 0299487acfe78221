# SPDX-License-Identifier: BSD-3-Clause
"""Layers as ONNX graphs: those of which ONNX has the operator, and those that one of its operators can be.

IndRNN is an RNN whose R is diagonal.  The minimal gated unit is a GRU whose update gate is the negated reset
gate, and minGRU a GRU without recurrent products whose candidate is linear, as sigmoid(-a) = 1 - sigmoid(a).
An LSTM without a forget gate has one of bias 100, of which the sigmoid is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..interop.onnx import _PEEPHOLES, _ROWS
from ..layers.gru import GRU
from ..layers.lstm import LSTM
from ..layers.rnn import RNN
from .foreign import _SIZES, activations_of, refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["to_onnx"]

_OPSET, _IR = 17, 8
_ORDERS = {"LSTM": _ROWS[LSTM], "GRU": _ROWS[GRU], "RNN": _ROWS[RNN]}
_OPERATORS = {"LSTM": "LSTM", "GRU": "GRU", "MGU": "GRU", "MinGRU": "GRU", "RNN": "RNN", "IndRNN": "RNN"}
_KNOWN = _SIZES | {
    "merge",
    "residual",
    "reverse",
    "reverse_order",
    "sizes",
    "activations",
    "nonlinearity",
    "reset_after",
    "gate_clip",
    "peephole",
    "coupled",
    "forget_gate",
    "zoneout_eval",
}
_BACKWARDS = np.iinfo(np.int64).min  # an end before every element


def to_onnx(layers: Any, *, states: bool = False) -> Any:
    """Return an ONNX model of layers, opset 17.

    Parameters
    ----------
    layers : layer, sequence of layers, or mapping of str to layer
        LSTM, GRU, RNN, MGU, MinGRU, IndRNN, Dense and Embedding.  A sequence is a chain, each layer's output
        the next one's input.  Of a mapping each layer has an input and outputs of its own, which begin with
        its name and a dot.
    states : bool
        Whether first states are inputs, ``h_0`` and ``c_0``, each (L*D, B, H); else they are zero.

    Returns
    -------
    onnx.ModelProto
        With the input ``x``, as the layer takes it, or indices of an Embedding; and the outputs ``y``, and
        ``h_n`` and ``c_n`` (L*D, B, H) of each recurrent layer, or ``h_n_l0`` and so on where layers differ
        in size; in a chain the states have the number of the layer behind them.

    Raises
    ------
    TypeError, ValueError
        ONNX has no such layer or option; the message names it.
    ModuleNotFoundError
        onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModuleNotFoundError("onnx: expected to be installed: pip install fastlstm[files]") from error
    graph = _Graph(onnx, states)
    if isinstance(layers, Mapping):
        for name, layer in layers.items():
            graph.add(layer, f"{name}.", graph.input(layer, f"{name}."), "", f"{name}.y")
    else:
        chain = list(layers) if isinstance(layers, Sequence) else [layers]
        if not chain:
            raise ValueError("layers: expected at least one layer, got none")
        value = graph.input(chain[0], "")
        for number, layer in enumerate(chain):
            is_last = number == len(chain) - 1
            end = "" if len(chain) == 1 else f"_{number}"
            value = graph.add(layer, "", value, end, "y" if is_last else f"y{end}")
    return graph.model()


class _Graph:
    """A graph that grows."""

    def __init__(self, onnx: Any, states: bool) -> None:
        self.helper, self.numpy, self.types = onnx.helper, onnx.numpy_helper, onnx.TensorProto
        self.states = states
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.count = self.before = 0

    def model(self) -> Any:
        """The whole."""
        graph = self.helper.make_graph(self.nodes, "fastlstm", self.inputs, self.outputs, self.tensors)
        made = self.helper.make_model(graph, opset_imports=[self.helper.make_opsetid("", _OPSET)])
        made.ir_version, made.producer_name = _IR, "fastlstm"
        return made

    def value(self, name: str, dtype: Any, shape: Sequence[Any]) -> Any:
        """An input or output."""
        return self.helper.make_tensor_value_info(
            name, self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
        )

    def constant(self, array: Any, name: str) -> str:
        """A constant of the graph; its name is made unique."""
        self.count += 1
        own = f"{name}#{self.count}"
        self.tensors.append(self.numpy.from_array(np.ascontiguousarray(array), own))
        return own

    def node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str] | None = None, **attributes: Any
    ) -> str:
        """A node; returns the name of its first output."""
        self.count += 1
        names = [f"{kind}#{self.count}"] if outputs is None else list(outputs)
        self.nodes.append(
            self.helper.make_node(kind, list(inputs), names, f"{kind}_{self.count}", **attributes)
        )
        return names[0]

    def numbers(self, *values: int) -> str:
        """A constant of integers."""
        return self.constant(np.array(values, np.int64), "numbers")

    def input(self, layer: Any, prefix: str) -> str:
        """The input that a layer takes."""
        kind = type(layer).__name__
        axes: list[Any] = (
            [f"{prefix}B", f"{prefix}T"]
            if getattr(layer, "batch_first", False)
            else [f"{prefix}T", f"{prefix}B"]
        )
        if kind == "Embedding":
            value = self.value(f"{prefix}x", np.int64, axes)
        elif kind == "Dense":
            value = self.value(f"{prefix}x", layer.dtype, [*axes, layer.in_features])
        elif kind in _OPERATORS:
            value = self.value(f"{prefix}x", layer.dtype, [*axes, layer.input_size])
        else:
            raise ValueError(
                f"layers: expected {', '.join(_OPERATORS)}, Dense or Embedding, as ONNX has them, got {kind}"
            )
        self.inputs.append(value)
        return f"{prefix}x"

    def output(self, name: str, value: str, dtype: Any, shape: Sequence[Any]) -> None:
        """Make a value an output of the graph; y comes before the states."""
        self.node("Identity", [value], [name])
        made = self.value(name, dtype, shape)
        if name.rpartition(".")[2] == "y":
            self.outputs.insert(self.before, made)
        else:
            self.outputs.append(made)

    # ---- Layers ------------------------------------------------------------------------------------------

    def add(self, layer: Any, prefix: str, x: str, end: str, y: str) -> str:
        """A layer; returns the name of its output, which is one of the graph if `y` is named so."""
        kind = type(layer).__name__
        self.before = len(self.outputs) if prefix else 0
        if kind == "Dense":
            value = self.node("MatMul", [x, self.constant(layer.params["weight"].T, f"{prefix}weight")])
            if layer.bias:
                value = self.node("Add", [value, self.constant(layer.params["bias"], f"{prefix}bias")])
            width = layer.out_features
        elif kind == "Embedding":
            value = self.node("Gather", [self.constant(layer.params["weight"], f"{prefix}weight"), x])
            width = layer.embedding_dim
        elif kind in _OPERATORS:
            value, width = self.recurrent(layer, prefix, x, end), layer._layout.output(layer.num_layers - 1)
        else:
            raise ValueError(
                f"layers: expected {', '.join(_OPERATORS)}, Dense or Embedding, as ONNX has them, got {kind}"
            )
        if y.endswith("y"):
            self.output(y, value, layer.dtype, [f"{prefix}axis 0", f"{prefix}axis 1", width])
        return value

    def recurrent(self, layer: Any, prefix: str, x: str, end: str) -> str:
        """A stack; its states are outputs of the graph."""
        refuse(layer, "ONNX", _KNOWN | _unused(layer))
        value = self.node("Transpose", [x], perm=[1, 0, 2]) if layer.batch_first else x
        finals: list[list[str]] = [[], []]
        firsts = self.firsts(layer, prefix, end) if self.states else {}
        for number in range(layer.num_layers):
            before = value
            value, *last = self.one(layer, number, prefix, before, firsts)
            if layer.residual is not None and number >= layer.residual:
                value = self.node("Add", [value, before])
            for member, name in zip(finals, last, strict=False):
                member.append(name)
        H, D = layer.hidden_size, layer.num_directions
        for letter, member in zip("hc", finals, strict=True):
            if member and isinstance(H, tuple):
                for number, name in enumerate(member):
                    self.output(
                        f"{prefix}{letter}_n{end}_l{number}", name, layer.dtype, [D, f"{prefix}B", H[number]]
                    )
            elif member:
                whole = self.node("Concat", member, axis=0)
                self.output(
                    f"{prefix}{letter}_n{end}", whole, layer.dtype, [len(member) * D, f"{prefix}B", H]
                )
        return self.node("Transpose", [value], perm=[1, 0, 2]) if layer.batch_first else value

    def firsts(self, layer: Any, prefix: str, end: str) -> dict[tuple[str, int], str]:
        """Inputs of first states, cut into those of each layer."""
        D, H, result = layer.num_directions, layer.hidden_size, {}
        if isinstance(H, tuple):
            raise ValueError("states: expected False where layers differ in size, got True")
        for letter in "hc" if type(layer).__name__ == "LSTM" else "h":
            name = f"{prefix}{letter}_0{end}"
            self.inputs.append(self.value(name, layer.dtype, [layer.num_layers * D, f"{prefix}B", H]))
            for number in range(layer.num_layers):
                span = [self.numbers(at) for at in (number * D, (number + 1) * D, 0)]
                result[letter, number] = self.node("Slice", [name, *span])
        return result

    def one(
        self, layer: Any, number: int, prefix: str, x: str, firsts: dict[tuple[str, int], str]
    ) -> list[str]:
        """A layer of a stack: its output (T, B, features), and its last states."""
        operator = _OPERATORS[type(layer).__name__]
        parts = [
            _operands(layer, f"_l{number}{suffix}", layer._layout.hidden(number))
            for suffix in layer._layout.suffixes
        ]
        W, R, B, P = (None if part[0] is None else np.stack(part) for part in zip(*parts, strict=True))
        names = [x, *(self.constant(array, f"{prefix}{name}") for array, name in ((W, "W"), (R, "R")))]
        names += ["" if B is None else self.constant(B, f"{prefix}B"), "", firsts.get(("h", number), "")]
        if operator == "LSTM":
            names += [firsts.get(("c", number), ""), "" if P is None else self.constant(P, f"{prefix}P")]
        self.count += 1
        outputs = [f"{name}#{self.count}" for name in ("Y", "Y_h", "Y_c")[: 3 if operator == "LSTM" else 2]]
        self.node(operator, names, outputs, **_attributes(layer, number))
        y = outputs[0]
        if layer.num_directions == 1:
            y = self.node("Squeeze", [y, self.numbers(1)])
        elif layer.merge == "concat":
            y = self.node("Reshape", [self.node("Transpose", [y], perm=[0, 2, 1, 3]), self.numbers(0, 0, -1)])
        elif layer.merge == "sum":
            y = self.node("ReduceSum", [y, self.numbers(1)], keepdims=0)
        else:
            y = self.node("ReduceMean", [y], axes=[1], keepdims=0)
        if layer.reverse and layer.reverse_order == "processing" and number == layer.num_layers - 1:
            y = self.node("Slice", [y, *(self.numbers(at) for at in (-1, _BACKWARDS, 0, -1))])
        return [y, *outputs[1:]]


def _unused(layer: Any) -> set[str]:
    """Options that change nothing in a call of this layer."""
    is_off = getattr(layer, "zoneout_eval", "") == "off"
    return {"zoneout_c", "zoneout_h"} if is_off else set()


def _attributes(layer: Any, number: int) -> dict[str, Any]:
    kind, H = type(layer).__name__, layer._layout.hidden(number)
    direction = "bidirectional" if layer.bidirectional else "reverse" if layer.reverse else "forward"
    result: dict[str, Any] = {"hidden_size": H, "direction": direction}
    if kind == "MinGRU":
        functions: list[tuple[Any, ...]] = [("Sigmoid",), ("Affine", 1.0, 0.0)]
    elif kind == "MGU":
        functions = [("Sigmoid",), ("Tanh",)]
    elif kind == "IndRNN":
        functions = [("Relu",) if layer.nonlinearity == "relu" else ("Tanh",)]
    else:
        functions = activations_of(layer)
    functions = functions * layer.num_directions
    result["activations"] = [name for name, *_ in functions]
    full = [_with_defaults(function) for function in functions]
    for at, name in ((0, "activation_alpha"), (1, "activation_beta")):
        numbers = [each[at] for each in full if len(each) > at]
        result |= {name: numbers} if numbers else {}
    if getattr(layer, "gate_clip", None) is not None:
        result["clip"] = layer.gate_clip
    if getattr(layer, "coupled", None) == "f_from_i":
        result["input_forget"] = 1
    elif getattr(layer, "coupled", None) is not None:
        raise ValueError(f"coupled: expected None or 'f_from_i', as ONNX has it, got {layer.coupled!r}")
    if _OPERATORS[kind] == "GRU":
        result["linear_before_reset"] = int(kind == "GRU" and layer.reset_after)
    return result


def _with_defaults(function: tuple[Any, ...]) -> list[float]:
    """Numbers of an activation, also those that are the usual ones: operators may take them by position."""
    from ..model.options import ACTIVATIONS

    name, *given = function
    return [float(value) for value in (*given, *ACTIVATIONS[name][len(given) :]) if value is not None]


def _operands(layer: Any, end: str, H: int) -> tuple[Array, Array, Array | None, Array | None]:
    """W, R, B and P of one direction in ONNX' order of gates."""
    kind, params = type(layer).__name__, layer.params
    order = _ORDERS[_OPERATORS[kind]]
    G = len(order)
    blocks = {}
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        array = params.get(name + end)
        if array is None and name == "weight_hh":
            array = np.zeros((len(layer._layout.gates) * H, H), layer.dtype)
        if array is not None and array.ndim == 1 and name == "weight_hh":
            array = np.diag(array)
        if array is None and name == "bias_hh" and layer.bias:
            array = np.zeros_like(params[f"bias_ih{end}"])
        if array is None:
            continue
        own = dict(zip(layer._layout.gates, np.split(array, len(layer._layout.gates)), strict=True))
        if kind == "MGU":
            own = {"r": own["f"], "z": -own["f"], "n": own["n"]}
        elif kind == "MinGRU":
            own = {"r": np.zeros_like(own["z"]), "z": -own["z"], "n": own["h"]}
        elif len(own) == 1:
            own = {"h": array}
        elif "f" not in own and kind == "LSTM":
            own["f"] = np.zeros_like(own["i"])
        blocks[name] = np.concatenate([own[gate] for gate in order])
    if kind == "LSTM" and not layer.forget_gate:
        if layer.gate_clip is not None or activations_of(layer)[0] != ("Sigmoid",):
            raise ValueError(
                "forget_gate: expected True with gate_clip or another activation f in ONNX, got False"
            )
        at = order.index("f") * H
        blocks.setdefault("bias_ih", np.zeros(G * H, layer.dtype))
        blocks.setdefault("bias_hh", np.zeros(G * H, layer.dtype))
        blocks["bias_ih"][at : at + H] = 100
    B = np.concatenate([blocks["bias_ih"], blocks["bias_hh"]]) if "bias_ih" in blocks else None
    P = params.get(f"weight_ch{end}")
    if P is not None:
        letters = layer._layout.gates.replace("g", "")
        own = dict(zip(letters, np.split(P, len(letters)), strict=True))
        P = np.concatenate([own.get(gate, np.zeros(H, layer.dtype)) for gate in _PEEPHOLES])
    return blocks["weight_ih"], blocks["weight_hh"], B, P
