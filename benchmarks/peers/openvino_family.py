# SPDX-License-Identifier: BSD-3-Clause
"""OpenVINO's CPU plugin with the other cells: GRUSequence, RNNSequence, LSTMSequence, or the ONNX graph.

As in the race of the plain LSTM, the sequences take the input as (B, T, I), and y is (B, T, H).
"""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.data import Array
from benchmarks.peers import onnx_family, openvino_peer
from benchmarks.peers.base import Case, Prepared, coupled_as_plain, gates_reordered

ov: Any = import_module("openvino")
ops: Any = import_module("openvino.opset14")


class Peer(openvino_peer.Peer):
    graph = onnx_family

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        return {
            f"{case.shape.form.cell}Sequence": partial(self._sequence, case),
            "ONNX": partial(self._onnx, case),
        }

    def _sequence(self, case: Case) -> Prepared:
        shape = case.shape
        T, B, H = shape.T, shape.B, shape.H
        arrays = {"x": np.ascontiguousarray(case.x.swapaxes(0, 1))}
        parameters = [ops.parameter(list(arrays["x"].shape), np.float32, name="x")]
        lengths = ops.constant(np.full((B,), T, np.int32))
        if shape.form.is_ragged:
            arrays["lengths"] = np.array(shape.lengths(), np.int32)
            lengths = ops.parameter([B], np.int32, name="lengths")
            parameters.append(lengths)
        zeros = ops.constant(np.zeros((B, 1, H), np.float32))
        node = _node(case, parameters[0], zeros, lengths)
        y = ops.reshape(node.output(0), ops.constant(np.array([B, T, H])), False)
        outputs = [y.output(0), *node.outputs()[1:]]
        model = ov.Model(outputs, parameters, shape.cell)
        for parameter in parameters:
            parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
        request, call = self._request(model, arrays)

        def answer() -> tuple[Array, ...]:
            call()
            found = (request.get_output_tensor(index).data for index in range(len(outputs)))
            return tuple(np.array(output.swapaxes(0, 1)) for output in found)

        return Prepared(call, partial(openvino_peer.keeping, arrays, answer))


def _node(case: Case, x: Any, zeros: Any, lengths: Any) -> Any:
    shape, params = case.shape, case.params
    weights = params["weight_ih_l0"], params["weight_hh_l0"]
    bias = params["bias_ih_l0"] + params["bias_hh_l0"]
    parts: Iterable[Array]

    def constants(*arrays: Array) -> list[Any]:
        return [ops.constant(array[np.newaxis]) for array in arrays]

    if shape.cell == "rnn":
        return ops.rnn_sequence(x, zeros, lengths, *constants(*weights, bias), shape.H, "forward")
    if shape.cell == "gru":
        # The candidate's two biases stand apart.
        bias[-shape.H :] = params["bias_ih_l0"][-shape.H :]
        W, R, B = (gates_reordered(part, "zrh", gates="rzh") for part in (*weights, bias))
        B = np.concatenate([B, params["bias_hh_l0"][-shape.H :]])
        node = partial(ops.gru_sequence, linear_before_reset=True)
        return node(x, zeros, lengths, *constants(W, R, B), shape.H, "forward")
    parts = (*weights, bias)
    if shape.cell == "coupled":
        parts = map(coupled_as_plain, parts)
    parts = (gates_reordered(part, "figo") for part in parts)
    return ops.lstm_sequence(x, zeros, zeros, lengths, *constants(*parts), shape.H, "forward")
