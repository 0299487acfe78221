# SPDX-License-Identifier: BSD-3-Clause
"""Recurrent layers of ONNX files: nodes of the graph and of the graphs within it, by names of the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _core
from ..convert.state_dicts import class_of, find_groups, layer_of
from ..interop.onnx import _DIRECTIONS, _PEEPHOLES, _ROWS, _read_activations
from ..model import options as layer_options
from .onnx_folding import Scope, dequantized, read_tensor
from .parts import Found
from .source import Source, unique

__all__: list[str] = []

_OPERATORS = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "RNN", "DynamicQuantizeLSTM": "LSTM"}
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_QUANTIZED = (*_INPUTS, "W_scale", "W_zero_point", "R_scale", "R_zero_point")
_MOST_DEPTH = 32  # of graphs within each other


def read_onnx(source: Source, found: Found) -> str:
    """Fill `found`; return the name of the format."""
    try:
        import onnx
        import onnx.inliner
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ModuleNotFoundError(
            "onnx: expected to be installed, as .onnx is read by it: pip install fastlstm[files]"
        ) from error
    try:
        model = onnx.ModelProto.FromString(source.read(0, source.size, "file"))
    except (DecodeError, UnicodeDecodeError) as error:
        source.bad("file", "a whole ONNX model", str(error)[:200])
    if not model.HasField("graph") or not (model.graph.node or model.graph.initializer):
        source.bad("graph", "nodes", "none")
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            source.bad("functions", "some that can be put in place", str(error)[:200])
    scopes: list[Scope] = []
    for scope, node, place in _nodes(source, model.graph, scopes):
        if node.op_type in _OPERATORS and node.domain in _DOMAINS:
            _read_node(source, scope, node, place, found)
    for scope in scopes:
        tensors = {name: (tensor, f"initializer {name!r}") for name, tensor in scope.tensors.items()}
        for node in scope.graph.node:
            if (
                node.op_type == "Constant"
                and node.output
                and node.attribute
                and node.attribute[0].HasField("t")
            ):
                tensor = node.attribute[0].t
                if tensor.dims:
                    tensors[node.output[0]] = tensor, f"constant {node.output[0]!r}"
        for name, (tensor, place) in tensors.items():
            if name not in scope.used:
                found.arrays[unique(name, found.arrays)] = read_tensor(source, tensor, place)
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    return f"ONNX, opset {max(versions, default='unknown')}"


def _nodes(
    source: Source,
    graph: Any,
    scopes: list[Scope],
    outer: Scope | None = None,
    path: str = "",
    depth: int = 0,
) -> Iterator[tuple[Scope, Any, str]]:
    """All nodes with the scope and the path of their graph."""
    if depth > _MOST_DEPTH:
        source.bad("graph", f"at most {_MOST_DEPTH} graphs within each other", "more")
    scope = Scope(source, graph, outer)
    scopes.append(scope)
    for number, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{number}"
        yield scope, node, f"{path}{name}"
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(source, inner, scopes, scope, f"{path}{name}/{attribute.name}/", depth + 1)


def _read_node(source: Source, scope: Scope, node: Any, path: str, found: Found) -> None:
    """The layer of a node, if its weights are constants."""
    place, kind = f"node {path!r}", _OPERATORS[node.op_type]
    names = dict(zip(_QUANTIZED, node.input, strict=False))
    if kind != "LSTM" and "initial_c" in names:
        source.bad(place, "at most 6 operands", len(node.input))
    operands = {name: scope.constant(value) for name, value in names.items() if value and name != "X"}
    missing = [name for name in ("W", "R") if operands.get(name) is None]
    missing += [name for name in ("B", "P") if names.get(name) and operands[name] is None]
    if missing:
        found.assumed.append(f"{place}: left out, as {', '.join(missing)} are computed when the model runs")
        return
    try:
        weights = _weights(operands, node.op_type == "DynamicQuantizeLSTM")
        name = path if path.rpartition("/")[2] in found.layers else path.rpartition("/")[2]
        if not node.name:
            name = path
        for end, layer in _layers(kind, node, weights):
            found.layers[unique(name + end, found.layers)] = layer
        if not end:
            _read_states(operands, node, found, list(found.layers)[-1], kind)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        if str(error).startswith(source.name):
            raise
        source.bad(place, "attributes and weights that go together", str(error)[:300])


def _weights(operands: dict[str, Any], is_quantized: bool) -> dict[str, Any]:
    """W (D, G*H, I), R (D, G*H, H), and B and P where there are such; real numbers."""
    result = {name: operands[name] for name in ("W", "R", "B", "P") if operands.get(name) is not None}
    if is_quantized:  # (D, I, 4*H), with a scale for each direction, or for each column, too
        for name in ("W", "R"):
            data, scale = operands[name], np.asarray(operands[f"{name}_scale"], np.float32)
            zero = operands.get(f"{name}_zero_point")
            if data.ndim != 3 or scale.shape[:1] != data.shape[:1]:
                raise ValueError(
                    f"{name}_scale: expected one for each of {data.shape[:1]}, got shape {scale.shape}"
                )
            blocks = [
                dequantized(data[d], scale[d], None if zero is None else np.asarray(zero)[d], 1)
                for d in range(data.shape[0])
            ]
            result[name] = np.stack(blocks).swapaxes(1, 2)
    for name, array in result.items():
        if array.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
            raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
        if array.dtype.name != "float64":
            result[name] = array.astype(np.float32)
    return result


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    values = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    for name, value in values.items():
        if isinstance(value, bytes):
            values[name] = value.decode()
        elif name == "activations":
            values[name] = [each.decode() if isinstance(each, bytes) else each for each in value]
    return values


def _layers(kind: str, node: Any, weights: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The layer, or one for each direction where they differ; each with what is added to the name."""
    given = _attributes(node)
    cls: Any = class_of(kind)
    direction = given.get("direction", "forward")
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: expected one of {list(_DIRECTIONS)}, got {direction!r}")
    D, G = len(_DIRECTIONS[direction]), len(_ROWS[cls])
    R = weights["R"]
    H = R.shape[2] if R.ndim == 3 else 0
    if not H or ("hidden_size" in given and given["hidden_size"] != H):
        raise ValueError(f"R: expected 3 dimensions, the last hidden_size, got shape {R.shape}")
    W = weights["W"]
    shapes = {
        "W": (D, G * H, W.shape[-1] if W.ndim else 0),
        "R": (D, G * H, H),
        "B": (D, 2 * G * H),
        "P": (D, 3 * H),
    }
    for name, array in weights.items():
        if array.shape != shapes[name] or 0 in array.shape:
            raise ValueError(f"{name}: expected shape {shapes[name]}, got {array.shape}")
    functions = _read_activations(
        cls, D, given.get("activations"), given.get("activation_alpha"), given.get("activation_beta")
    )
    options: dict[str, Any] = {
        "batch_first": given.get("layout", 0) == 1,
        "gate_clip": given.get("clip") or None,
    }
    if kind == "LSTM":
        options["coupled"] = "f_from_i" if given.get("input_forget") else None
        options["peephole"] = "P" in weights
    if kind == "GRU":
        options["reset_after"] = bool(given.get("linear_before_reset", 0))
    is_one = D == 1 or functions[0] == functions[1]
    groups = [range(D)] if is_one else [[d] for d in range(D)]
    for directions in groups:
        own = _with_activations(cls, options, functions[directions[0]])
        is_reverse = len(directions) == 1 and _DIRECTIONS[direction][directions[0]]
        own |= {"reverse": is_reverse, "bias": "B" in weights}
        state: dict[str, Any] = {}
        for d in directions:
            end = "_reverse" if d and is_one else ""
            state |= {f"{part}_l0{end}": array for part, array in _direction(cls, own, H, weights, d).items()}
        layer = layer_of(state, "", find_groups(state)[""], kind, own)
        yield "" if is_one else (".forward", ".reverse")[directions[0]], layer


def _with_activations(cls: Any, options: dict[str, Any], functions: tuple[Any, ...]) -> dict[str, Any]:
    usual = tuple((name,) for name in cls.activations.roles.values())
    return options | ({} if functions == usual else {"activations": functions})


def _direction(cls: Any, options: dict[str, Any], H: int, weights: dict[str, Any], d: int) -> dict[str, Any]:
    """Parameters of a direction, gates in the package's order."""
    config = layer_options.defaults(cls) | {"input_size": 1, "hidden_size": H} | options
    gates, _states, _width = _core.cell_facts(layer_options.fields(cls, config), H)

    def blocks(rows: Any, order: str, wanted: str) -> Any:
        parts = np.split(rows, len(order))
        return np.concatenate([parts[order.index(gate)] for gate in wanted])

    order = _ROWS[cls]
    result = {
        "weight_ih": blocks(weights["W"][d], order, gates),
        "weight_hh": blocks(weights["R"][d], order, gates),
    }
    if "B" in weights:
        for name, part in zip(("bias_ih", "bias_hh"), np.split(weights["B"][d], 2), strict=True):
            result[name] = blocks(part, order, gates)
    if "P" in weights:
        result["weight_ch"] = blocks(weights["P"][d], _PEEPHOLES, gates.replace("g", ""))
    return result


def _read_states(operands: dict[str, Any], node: Any, found: Found, name: str, kind: str) -> None:
    """First states that are constants and not zero, as (D, B, H)."""
    members = [
        operands.get(each) for each in (("initial_h", "initial_c") if kind == "LSTM" else ("initial_h",))
    ]
    if all(member is None or not np.any(member) for member in members):
        return
    layer = found.layers[name]
    shape = next(member.shape for member in members if member is not None)
    if layer.batch_first:
        members = [None if member is None else np.swapaxes(member, 0, 1) for member in members]
        shape = (shape[1], shape[0], *shape[2:])
    expected = (layer.num_directions, shape[1] if len(shape) > 1 else 1, layer.hidden_size)
    whole = tuple(
        np.zeros(expected, layer.dtype) if each is None else each.astype(layer.dtype) for each in members
    )
    if any(each.shape != expected for each in whole):
        raise ValueError(f"initial_h: expected shape {expected}, got {shape}")
    found.states[name] = whole if kind == "LSTM" else whole[0]
