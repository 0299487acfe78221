# SPDX-License-Identifier: BSD-3-Clause
"""Each kernel of fastlstm.kernels against its reference twin, in one group a kernel, shape and dtype."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.data import TOLERANCES, largest_error
from benchmarks.support import run
from fastlstm import kernels, reference

pytestmark = pytest.mark.usefixtures("one_thread")

GATE_SHAPES = [(1, 16, 16), (1, 128, 128), (8, 64, 256), (32, 256, 256), (5, 23, 77)]  # (B, I, H)
CELL_SHAPES = [(1, 16), (1, 256), (32, 256), (5, 77)]  # (B, H)
LENGTHS = [16, 1000, 100_000]
DTYPES = ["float32", "float64"]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def gate_arguments(B: int, I: int, H: int, dtype: str) -> tuple[Any, ...]:
    rng = np.random.default_rng(B + I + H)
    bound = 1 / np.sqrt(H)
    sizes = ((4 * H, I), (4 * H, H), (4 * H,))
    weights = [rng.uniform(-bound, bound, size).astype(dtype) for size in sizes]
    return rng.standard_normal((B, I)).astype(dtype), rng.uniform(-1, 1, (B, H)).astype(dtype), *weights


def checked_gates(gates: Any, arguments: tuple[Any, ...]) -> float:
    """Largest error of a gate product.

    Each element is allowed sqrt(k) u sum(|terms|) for its k roundings: the probabilistic bound of Higham &
    Mary, "A new approach to probabilistic rounding error analysis" (2019), with the constant 1.
    """
    x, h, *weights = exact = [argument.astype(np.float64) for argument in arguments]
    roundings = x.shape[1] + h.shape[1] + 1
    unit = np.finfo(arguments[0].dtype).eps / 2
    bound = np.sqrt(roundings) * unit * reference.gate_matmul(*map(np.abs, exact))
    truth = reference.gate_matmul(x, h, *weights)
    assert np.all(np.abs(gates - truth) <= bound)
    return largest_error((gates,), (truth,))


@dtypes
@pytest.mark.parametrize("implementation", ["packed", "kernel", "reference"])
@pytest.mark.parametrize(("B", "I", "H"), GATE_SHAPES)
def test_gate_matmul(benchmark: Any, implementation: str, B: int, I: int, H: int, dtype: str) -> None:
    arguments = gate_arguments(B, I, H, dtype)
    out = np.empty((B, 4 * H), dtype)
    call: Callable[..., Any]
    if implementation == "reference":
        call, call_arguments = reference.gate_matmul, arguments
    elif implementation == "kernel":
        call, call_arguments = kernels.gate_matmul, (*arguments, out)
    else:
        x, h, *weights = arguments
        call, call_arguments = kernels.gate_matmul, (x, h, kernels.packed(*weights), None, None, out)
    error = checked_gates(call(*call_arguments), arguments)
    flops = 8.0 * B * H * (I + H)
    group = f"gate_matmul {dtype} B{B} I{I} H{H}"
    run(benchmark, call, *call_arguments, group=group, error=error, flops=flops, shape=[B, I, H])


@dtypes
@pytest.mark.parametrize(("B", "I", "H"), GATE_SHAPES)
def test_packed(benchmark: Any, B: int, I: int, H: int, dtype: str) -> None:
    """Packing itself, which is paid once when weights are set; no twin: the reference packs nothing."""
    x, h, *weights = arguments = gate_arguments(B, I, H, dtype)
    error = checked_gates(kernels.gate_matmul(x, h, kernels.packed(*weights)), arguments)
    run(benchmark, kernels.packed, *weights, group=f"packed {dtype} I{I} H{H}", error=error, shape=[I, H])


@dtypes
@pytest.mark.parametrize("implementation", ["kernel", "reference"])
@pytest.mark.parametrize(("B", "H"), CELL_SHAPES)
def test_cell_update(benchmark: Any, implementation: str, B: int, H: int, dtype: str) -> None:
    rng = np.random.default_rng(B + H)
    gates = (3 * rng.standard_normal((B, 4 * H))).astype(dtype)
    c = rng.standard_normal((B, H)).astype(dtype)
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    if implementation == "reference":
        call, arguments = reference.cell_update, (gates, c)
    else:
        call, arguments = kernels.cell_update, (gates, c, (np.empty_like(c), np.empty_like(c)))
    error = largest_error(
        call(*arguments), reference.cell_update(gates.astype(np.float64), c.astype(np.float64))
    )
    assert error <= TOLERANCES[dtype]
    run(benchmark, call, *arguments, group=f"cell_update {dtype} B{B} H{H}", error=error, shape=[B, H])


@dtypes
@pytest.mark.parametrize("implementation", ["kernel", "reference"])
@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
@pytest.mark.parametrize("length", LENGTHS)
def test_activation(benchmark: Any, function: str, implementation: str, length: int, dtype: str) -> None:
    x = np.linspace(-20, 20, length).astype(dtype)
    twin = getattr(reference, function)
    call, arguments = (
        (twin, (x,)) if implementation == "reference" else (getattr(kernels, function), (x, x.copy()))
    )
    error = largest_error((call(*arguments),), (twin(x.astype(np.float64)),))
    assert error <= TOLERANCES[dtype]
    run(benchmark, call, *arguments, group=f"{function} {dtype} n{length}", error=error, shape=[length])
