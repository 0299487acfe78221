# SPDX-License-Identifier: BSD-3-Clause
"""The case as an ONNX graph of LSTM nodes, for the peers that read one.

Layout 0, as all of them support it: X (T, B, I) -> Y (T, D, B, H).  ONNX's gate order is i, o, f, c.
"""

from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.data import Array
from benchmarks.peers.base import Case, gates_reordered, suffixes

onnx: Any = import_module("onnx")
OPSET, IR_VERSION = 22, 10


def output_names(case: Case) -> list[str]:
    """Names of the outputs: y, then each layer's h and c."""
    return ["y"] + [f"{part}_{layer}" for layer in range(case.shape.layers) for part in ("h", "c")]


def inputs(case: Case) -> dict[str, Array]:
    """Arrays by the names of the inputs: x, and each layer's state (D, B, H) where one is given."""
    arrays = {"x": case.x}
    if case.state is not None:
        D = case.shape.directions
        for layer in range(case.shape.layers):
            for part, array in zip(("h0", "c0"), case.state, strict=True):
                arrays[f"{part}_{layer}"] = np.ascontiguousarray(array[layer * D : (layer + 1) * D])
    return arrays


def answer(case: Case, outputs: list[Array]) -> tuple[Array, Array, Array]:
    """Arrays in the order of `output_names`, copied into PyTorch's layout."""
    y, states = outputs[0], outputs[1:]
    return np.array(y), np.concatenate(states[0::2]), np.concatenate(states[1::2])


def build(case: Case) -> bytes:
    """The serialised model with all sizes fixed; y is (T, B, D*H)."""
    shape, helper = case.shape, onnx.helper
    T, B, H, D = shape.T, shape.B, shape.H, shape.directions
    nodes, weights = [], {"squeezed_shape": np.array([T, B, D * H], np.int64)}
    source = "x"
    for layer in range(shape.layers):
        ends = [f"_l{layer}{suffix}" for suffix in suffixes(shape)]
        for name, parameter in (("W", "weight_ih"), ("R", "weight_hh")):
            weights[f"{name}_{layer}"] = np.stack(
                [gates_reordered(case.params[parameter + end], "iofg") for end in ends]
            )
        weights[f"B_{layer}"] = np.stack(
            [
                np.concatenate(
                    [gates_reordered(case.params[name + end], "iofg") for name in ("bias_ih", "bias_hh")]
                )
                for end in ends
            ]
        )
        operands = [source, f"W_{layer}", f"R_{layer}", f"B_{layer}"]
        if case.state is not None:
            operands += ["", f"h0_{layer}", f"c0_{layer}"]  # the empty name: no sequence_lens
        raw, joined = f"raw_{layer}", "y" if layer == shape.layers - 1 else f"y_{layer}"
        direction = "bidirectional" if D == 2 else "forward"
        nodes.append(
            helper.make_node(
                "LSTM", operands, [raw, f"h_{layer}", f"c_{layer}"], hidden_size=H, direction=direction
            )
        )
        if D == 2:
            nodes.append(helper.make_node("Transpose", [raw], [f"swapped_{layer}"], perm=[0, 2, 1, 3]))
            raw = f"swapped_{layer}"
        nodes.append(helper.make_node("Reshape", [raw, "squeezed_shape"], [joined]))
        source = joined
    float32 = onnx.TensorProto.FLOAT
    sizes = {name: [T, B, D * H] if name == "y" else [D, B, H] for name in output_names(case)}
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info(name, float32, array.shape) for name, array in inputs(case).items()],
        [helper.make_tensor_value_info(name, float32, size) for name, size in sizes.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
