# SPDX-License-Identifier: BSD-3-Clause
"""OpenVINO's CPU plugin in float32, tuned for latency: LSTMSequence in its own layout, or the ONNX graph.

For the first the input is handed over as (B, T, I) and y is taken as (B, T, D*H), so that it has nothing to
transpose; the ONNX graph is (T, B, I), as the other peers have it.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.data import Array
from benchmarks.peers import onnx_model
from benchmarks.peers.base import Case, Prepared, gates_reordered, suffixes

ov: Any = import_module("openvino")
ops: Any = import_module("openvino.opset14")


class Peer:
    graph: Any = onnx_model  # the module that writes the case as a model

    def __init__(self, threads: int) -> None:
        self._core = ov.Core()
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # the default may be bfloat16
        }

    def versions(self) -> dict[str, str]:
        return {"openvino": ov.__version__} | {name: str(value) for name, value in self._settings.items()}

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        return {"LSTMSequence": lambda: self._native(case), "ONNX": lambda: self._onnx(case)}

    def _request(self, model: Any, arrays: dict[str, Array]) -> tuple[Any, Callable[[], Any]]:
        request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        for name, array in arrays.items():
            request.set_tensor(name, ov.Tensor(np.ascontiguousarray(array), shared_memory=True))
        return request, partial(request.infer, share_outputs=True)

    def _onnx(self, case: Case) -> Prepared:
        model = self._core.read_model(self.graph.build(case))
        arrays = self.graph.inputs(case)
        request, call = self._request(model, arrays)

        def answer() -> tuple[Array, ...]:
            call()
            names = self.graph.output_names(case)
            found: tuple[Array, ...] = self.graph.answer(
                case, [request.get_tensor(name).data for name in names]
            )
            return found

        return Prepared(call, partial(keeping, arrays, answer))

    def _native(self, case: Case) -> Prepared:
        T, B, H, D = case.shape.T, case.shape.B, case.shape.H, case.shape.directions
        arrays = {"x": np.ascontiguousarray(case.x.swapaxes(0, 1))}
        source = ops.parameter(list(arrays["x"].shape), np.float32, name="x")
        parameters, outputs = [source], []
        for layer in range(case.shape.layers):
            initial = []
            for index, part in enumerate(("h0", "c0")):
                if case.state is None:
                    initial.append(ops.constant(np.zeros((B, D, H), np.float32)))
                    continue
                name = f"{part}_{layer}"
                arrays[name] = np.ascontiguousarray(
                    case.state[index][layer * D : (layer + 1) * D].swapaxes(0, 1)
                )
                initial.append(ops.parameter([B, D, H], np.float32, name=name))
            parameters += [node for node in initial if case.state is not None]
            ends = [f"_l{layer}{suffix}" for suffix in suffixes(case.shape)]
            weights = [
                ops.constant(np.stack([gates_reordered(values(case, end), "figo") for end in ends]))
                for values in (_input_weight, _recurrent_weight, _bias)
            ]
            lengths = ops.constant(np.full((B,), T, np.int64))
            direction = "bidirectional" if D == 2 else "forward"
            node = ops.lstm_sequence(source, *initial, lengths, *weights, H, direction)
            joined = node.output(0)  # (B, D, T, H)
            if D == 2:
                joined = ops.transpose(joined, ops.constant(np.array([0, 2, 1, 3])))
            source = ops.reshape(joined, ops.constant(np.array([B, T, D * H])), False)
            outputs += [node.output(1), node.output(2)]
        model = ov.Model([source.output(0), *outputs], parameters, "lstm")
        for parameter in parameters:
            parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
        request, call = self._request(model, arrays)

        def answer() -> tuple[Array, Array, Array]:
            call()
            found = [request.get_output_tensor(index).data for index in range(1 + len(outputs))]
            states = [state.swapaxes(0, 1) for state in found[1:]]
            return (
                np.array(found[0].swapaxes(0, 1)),
                np.concatenate(states[0::2]),
                np.concatenate(states[1::2]),
            )

        return Prepared(call, partial(keeping, arrays, answer))


def keeping(arrays: dict[str, Array], answer: Callable[[], tuple[Array, ...]]) -> tuple[Array, ...]:
    """Keep the arrays alive that the request's tensors share memory with."""
    del arrays
    return answer()


def _input_weight(case: Case, end: str) -> Array:
    return case.params["weight_ih" + end]


def _recurrent_weight(case: Case, end: str) -> Array:
    return case.params["weight_hh" + end]


def _bias(case: Case, end: str) -> Array:
    return case.params["bias_ih" + end] + case.params["bias_hh" + end]
