# SPDX-License-Identifier: BSD-3-Clause
"""One time step as called from Python: streams, cells, and what a call costs beyond its arithmetic."""

from functools import partial
from typing import Any

import numpy as np
import pytest

import fastlstm
from benchmarks import data
from benchmarks.shapes import STREAM_TARGETS_NS, Shape, step_shapes
from benchmarks.support import run
from fastlstm import reference

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK = 256
STEP_SHAPES = step_shapes((16, 64, 256), (1, 8))


def prepared(shape: Shape) -> tuple[fastlstm.LSTM, dict[str, data.Array], data.Array]:
    rng = data.generator(shape)
    params = data.parameters(shape, rng)
    lstm = fastlstm.LSTM(shape.I, shape.H)
    lstm.load_state_dict(params)
    return lstm, params, data.noise(shape, rng)


def stream_error(stream: Any, shape: Shape, params: dict[str, data.Array], x: data.Array) -> float:
    """Error of a stream over x (T, B, I) step by step, and in one block; then it is reset."""
    truth = reference.lstm(x, params, dtype=np.float64)[0]
    stream.reset()
    by_step = np.stack([np.array(stream.step(x_t)) for x_t in x])
    stream.reset()
    error = data.largest_error((by_step, stream.process(x)), (truth, truth))
    assert error <= data.tolerance(np.float32, shape)
    stream.reset()
    return error


@pytest.mark.parametrize("H", STREAM_TARGETS_NS)
def test_stream_step(benchmark: Any, H: int) -> None:
    shape = Shape(BLOCK, 1, 1, H, kind="stream")
    lstm, params, x = prepared(shape)
    stream = lstm.stream()
    error = stream_error(stream, shape, params, x)
    out = np.empty(H, np.float32)
    flops, sizes = 8.0 * H * (1 + H), [1, 1, 1, H]
    run(
        benchmark, stream.step, x[0, 0], out, group="stream.step I1 B1", error=error, flops=flops, shape=sizes
    )


@pytest.mark.parametrize("H", STREAM_TARGETS_NS)
def test_stream_process(benchmark: Any, H: int) -> None:
    shape = Shape(BLOCK, 1, 1, H, kind="stream")
    lstm, params, x = prepared(shape)
    stream = lstm.stream()
    error = stream_error(stream, shape, params, x)
    block, out = np.ascontiguousarray(x[:, 0]), np.empty((BLOCK, H), np.float32)
    group = f"stream.process {BLOCK} steps I1 B1"
    run(
        benchmark, stream.process, block, out, group=group, error=error, flops=shape.flops(), shape=shape.name
    )


@pytest.mark.parametrize("implementation", ["kernel", "reference"])
@pytest.mark.parametrize("shape", STEP_SHAPES, ids=lambda shape: shape.name)
def test_cell(benchmark: Any, implementation: str, shape: Shape) -> None:
    rng = data.generator(shape)
    params = {name.removesuffix("_l0"): value for name, value in data.parameters(shape, rng).items()}
    x = data.noise(shape, rng)[0]
    h, c = (part[0] for part in data.states(shape, rng))
    truth = reference.lstm_cell(x.astype(np.float64), (h.astype(np.float64), c.astype(np.float64)), params)
    call: Any
    arguments: tuple[Any, ...]
    if implementation == "reference":
        call, arguments = reference.lstm_cell, (x, (h, c), params)
    else:
        call = fastlstm.LSTMCell(shape.I, shape.H)
        call.load_state_dict(params)
        arguments = (x, (h, c), (np.empty_like(h), np.empty_like(c)))
    error = data.largest_error(call(*arguments), truth)
    assert error <= data.tolerance(np.float32, shape)
    run(
        benchmark,
        call,
        *arguments,
        group=f"cell {shape.label}",
        error=error,
        flops=shape.flops(),
        shape=shape.name,
    )


@pytest.mark.parametrize("with_out", [False, True], ids=["allocating", "out"])
def test_call_overhead(benchmark: Any, with_out: bool) -> None:
    """A call with next to no arithmetic in it."""
    shape = Shape(1, 1, 1, 1, kind="call")
    lstm, params, x = prepared(shape)
    y, (h_n, c_n) = lstm(x)
    true_y, (true_h, true_c) = reference.lstm(x, params, dtype=np.float64)
    error = data.largest_error((y, h_n, c_n), (true_y, true_h, true_c))
    assert error <= data.tolerance(np.float32, shape)
    out = np.empty_like(y)
    call = partial(lstm, x, out=out) if with_out else partial(lstm, x)
    run(benchmark, call, group="call overhead", error=error, shape=shape.name)
