# SPDX-License-Identifier: BSD-3-Clause
"""ONNX Runtime's CPU provider: one session with all graph optimisations, inputs and outputs bound before."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.data import Array
from benchmarks.peers import onnx_model
from benchmarks.peers.base import Case, Prepared

ort: Any = import_module("onnxruntime")


class Peer:
    graph: Any = onnx_model  # the module that writes the case as a model

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": ort.__version__, "intra_op_num_threads": str(self._threads)}

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        return {"run_with_iobinding": lambda: self._bound(case), "run": lambda: self._plain(case)}

    def _session(self, case: Case, **attributes: int) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        return ort.InferenceSession(
            self.graph.build(case, **attributes), options, providers=["CPUExecutionProvider"]
        )

    def _bound(self, case: Case, **attributes: int) -> Prepared:
        session = self._session(case, **attributes)
        binding = session.io_binding()
        arrays = self.graph.inputs(case)
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        values = [
            ort.OrtValue.ortvalue_from_shape_and_type(out.shape, np.float32) for out in session.get_outputs()
        ]
        for out, value in zip(session.get_outputs(), values, strict=True):
            binding.bind_ortvalue_output(out.name, value)
        call = partial(session.run_with_iobinding, binding)

        def answer() -> tuple[Array, ...]:
            call()
            found: tuple[Array, ...] = self.graph.answer(case, [value.numpy() for value in values])
            return found

        return Prepared(call, answer)

    def _plain(self, case: Case, **attributes: int) -> Prepared:
        call = partial(self._session(case, **attributes).run, None, self.graph.inputs(case))
        return Prepared(call, lambda: self.graph.answer(case, call()))
