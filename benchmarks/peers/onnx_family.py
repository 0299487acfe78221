# SPDX-License-Identifier: BSD-3-Clause
"""The other cells as ONNX graphs of one node: GRU, RNN, LSTM with peepholes, coupled gates, sequence_lens.

Layout 0: X (T, B, I) -> Y (T, 1, B, H).  ONNX's orders are i, o, f, c and z, r, h, of peepholes i, o, f.
Of a coupled LSTM the forget gate's weights are the input gate's, negative: without ``input_forget`` it is the
same function, and with it they are not looked at.
"""

from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.data import Array
from benchmarks.peers.base import Case, coupled_as_plain, gates_reordered
from benchmarks.peers.onnx_model import IR_VERSION, OPSET

onnx: Any = import_module("onnx")
LENGTHS = "sequence_lens"


def output_names(case: Case) -> list[str]:
    """Names of the outputs: y, h and, where there is one, c."""
    return ["y", "h", "c"] if case.shape.form.has_c else ["y", "h"]


def inputs(case: Case) -> dict[str, Array]:
    """Arrays by the names of the inputs: x, and the lengths where there are any."""
    lengths = case.shape.lengths()
    return {"x": case.x} | ({} if lengths is None else {LENGTHS: np.array(lengths, np.int32)})


def answer(case: Case, outputs: list[Array]) -> tuple[Array, ...]:
    """Arrays in the order of `output_names`, copied."""
    del case
    return tuple(np.array(output) for output in outputs)


def build(case: Case, **attributes: int) -> bytes:
    """The serialised model with all sizes fixed and more attributes of the node; y is (T, B, H)."""
    shape, helper = case.shape, onnx.helper
    T, B, H = shape.T, shape.B, shape.H
    weights = {
        "W": _rows(case, "weight_ih_l0")[np.newaxis],
        "R": _rows(case, "weight_hh_l0")[np.newaxis],
        "B": np.concatenate([_rows(case, "bias_ih_l0"), _rows(case, "bias_hh_l0")])[np.newaxis],
        "squeezed_shape": np.array([T, B, H], np.int64),
    }
    operands = ["x", "W", "R", "B", LENGTHS if shape.form.is_ragged else ""]
    if shape.form.peepholes:
        weights["P"] = gates_reordered(case.params["weight_ch_l0"], "iof", gates="ifo")[np.newaxis]
        operands += ["", "", "P"]
    if shape.cell == "gru":
        attributes["linear_before_reset"] = 1
    raw = ["raw", *output_names(case)[1:]]
    nodes = [
        helper.make_node(shape.form.cell, operands, raw, hidden_size=H, **attributes),
        helper.make_node("Reshape", ["raw", "squeezed_shape"], ["y"]),
    ]
    float32, int32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        shape.cell,
        [
            helper.make_tensor_value_info(name, int32 if name == LENGTHS else float32, array.shape)
            for name, array in inputs(case).items()
        ],
        [
            helper.make_tensor_value_info(name, float32, [T, B, H] if name == "y" else [1, B, H])
            for name in output_names(case)
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _rows(case: Case, name: str) -> Array:
    """Rows of a parameter in ONNX's order."""
    rows = case.params[name]
    if case.shape.cell == "rnn":
        return rows
    if case.shape.cell == "gru":
        return gates_reordered(rows, "zrh", gates="rzh")
    return gates_reordered(coupled_as_plain(rows) if case.shape.cell == "coupled" else rows, "iofg")
