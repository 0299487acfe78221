# SPDX-License-Identifier: BSD-3-Clause
"""One layer over whole sequences against the reference: shapes, threads, dtypes, lengths, one-hot input."""

from functools import partial
from typing import Any

import numpy as np
import pytest

import fastlstm
from benchmarks import data
from benchmarks.shapes import Shape
from benchmarks.support import run
from fastlstm import reference

SHAPES = [
    Shape(100, 1, 16, 16),
    Shape(100, 1, 128, 128),
    Shape(50, 1, 512, 512),
    Shape(100, 8, 256, 256),
    Shape(25, 64, 256, 256),
    Shape(37, 5, 23, 77),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


def prepared(
    shape: Shape, dtype: Any = np.float32
) -> tuple[fastlstm.LSTM, dict[str, data.Array], data.Array]:
    rng = data.generator(shape)
    params = data.parameters(shape, rng, dtype)
    lstm = fastlstm.LSTM(shape.I, shape.H, shape.layers, bidirectional=shape.directions == 2, dtype=dtype)
    lstm.load_state_dict(params)
    return lstm, params, data.noise(shape, rng, dtype)


def checked_error(
    lstm: fastlstm.LSTM, shape: Shape, params: dict[str, data.Array], x: data.Array, lengths: Any = None
) -> float:
    y, (h_n, c_n) = lstm(x, lengths=lengths)
    true_y, (true_h, true_c) = reference.lstm(x, params, lengths=lengths, dtype=np.float64)
    error = data.largest_error((y, h_n, c_n), (true_y, true_h, true_c))
    assert error <= data.tolerance(params["weight_ih_l0"].dtype, shape)
    return error


@shapes
def test_lstm_float32(benchmark: Any, shape: Shape, num_threads: int) -> None:
    lstm, params, x = prepared(shape)
    error = checked_error(lstm, shape, params, x)
    run(
        benchmark, lstm, x, group=f"float32 {shape.label}", error=error, flops=shape.flops(), shape=shape.name
    )


@shapes
def test_lstm_float64(benchmark: Any, shape: Shape, one_thread: None) -> None:
    lstm, params, x = prepared(shape, np.float64)
    error = checked_error(lstm, shape, params, x)
    run(
        benchmark, lstm, x, group=f"float64 {shape.label}", error=error, flops=shape.flops(), shape=shape.name
    )


@shapes
def test_reference_float32(benchmark: Any, shape: Shape, one_thread: None) -> None:
    _, params, x = prepared(shape)
    y, (h_n, c_n) = reference.lstm(x, params)
    true_y, (true_h, true_c) = reference.lstm(x, params, dtype=np.float64)
    error = data.largest_error((y, h_n, c_n), (true_y, true_h, true_c))
    assert error <= data.tolerance(np.float32, shape)
    flops = shape.flops()
    run(
        benchmark,
        reference.lstm,
        x,
        params,
        group=f"float32 {shape.label}",
        error=error,
        flops=flops,
        shape=shape.name,
    )


def test_lengths(benchmark: Any, num_threads: int) -> None:
    """A ragged batch: half of the steps of the whole one, so at best half of its time."""
    shape = Shape(100, 32, 128, 128)
    lstm, params, x = prepared(shape)
    lengths = np.linspace(0, shape.T, shape.B).astype(np.int64)
    error = checked_error(lstm, shape, params, x, lengths)
    flops = shape.flops() * float(lengths.sum()) / (shape.T * shape.B)
    call = partial(lstm, x, lengths=lengths)
    run(benchmark, call, group=f"lengths {shape.label}", error=error, flops=flops, shape=shape.name)


@pytest.mark.parametrize("is_index", [True, False], ids=["index", "one_hot_rows"])
def test_text(benchmark: Any, is_index: bool, one_thread: None) -> None:
    """Bytes as indices, and as the rows that they stand for."""
    shape = Shape(100, 8, data.BYTE_VALUES, 128, is_index=is_index)
    lstm, params, _ = prepared(shape)
    indices = data.text(shape)
    x = indices if is_index else np.eye(shape.I, dtype=np.float32)[indices]
    error = checked_error(lstm, shape, params, x)
    run(benchmark, lstm, x, group=f"text {shape.label}", error=error, flops=shape.flops(), shape=shape.name)
