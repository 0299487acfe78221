# SPDX-License-Identifier: BSD-3-Clause
"""Random problems against torch and ONNX Runtime, where these are installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest

from tests.interop.onnx_cases import FUNCTIONS, INPUTS, random_call
from tests.problems.comparing import largest_errors
from tests.problems.running import trained

from .effort import PARTS, try_seeds

every_part = pytest.mark.parametrize("part", PARTS)
# ONNX Runtime has kernels for these alone, and its float32 is compared with ours.
CLOSE = 2e-5

if importlib.util.find_spec("torch"):
    import torch

    from tests.interop.test_torch import TWINS, by_torch, problem_of_torch

    @every_part
    def test_training_passes_agree_with_torch(request, part):
        def check(seed):
            name = list(TWINS)[seed % len(TWINS)]
            problem = problem_of_torch(seed, name, "float64")
            expected = by_torch(problem, torch.float64)
            got = {key: value for key, value in trained(problem).items() if key in expected}
            errors = largest_errors(got, expected)
            assert max(errors.values()) <= 1e-12, (seed, errors, problem.config)

        try_seeds(request, part, 40, check)


if importlib.util.find_spec("onnxruntime"):
    import onnxruntime

    def by_onnxruntime(call):
        """All outputs of one node."""
        names = [name for name in INPUTS if name in call.inputs]
        slots = [name if name in call.inputs else "" for name in INPUTS]
        if call.op != "LSTM":
            slots = slots[:6]
        outputs = ["Y", "Y_h", "Y_c"][: 3 if call.op == "LSTM" else 2]
        size = {"hidden_size": call.inputs["R"].shape[-1]}
        node = onnx.helper.make_node(call.op, slots, outputs, **size | call.attributes)
        graph = onnx.helper.make_graph(
            [node],
            "one",
            [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(call.inputs[name].dtype), None
                )
                for name in names
            ],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        )
        opsets = [onnx.helper.make_opsetid("", 21)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return session.run(None, call.inputs)

    @every_part
    def test_operators_agree_with_onnxruntime(request, part):
        def check(seed):
            op = list(FUNCTIONS)[seed % len(FUNCTIONS)]
            rng = np.random.default_rng([seed, 3])
            call = random_call(rng, op, np.float32, layout=0)
            # Where ONNX Runtime has rules of its own: parameters of activations, and rows without steps.
            for name in ("activations", "activation_alpha", "activation_beta"):
                call.attributes.pop(name, None)
            if "sequence_lens" in call.inputs:
                call.inputs["sequence_lens"] = np.maximum(call.inputs["sequence_lens"], 1)
            for ours, theirs in zip(call.run(), by_onnxruntime(call), strict=True):
                assert ours.shape == theirs.shape, (seed, call.attributes)
                error = np.abs(ours - theirs).max(initial=0)
                assert error <= CLOSE, (seed, error, call.attributes, list(call.inputs))

        try_seeds(request, part, 80, check)
