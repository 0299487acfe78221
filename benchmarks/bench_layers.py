# SPDX-License-Identifier: BSD-3-Clause
"""Stacks: layers, directions, and what a layer costs to make, load and save."""

from typing import Any

import numpy as np
import pytest

import fastlstm
from benchmarks import data
from benchmarks.shapes import Shape
from benchmarks.support import run
from fastlstm import reference

STACKS = [
    Shape(50, 1, 64, 128, layers=2),
    Shape(50, 16, 64, 128, layers=2),
    Shape(25, 1, 256, 256, layers=8),
    Shape(50, 1, 64, 128, directions=2),
    Shape(50, 16, 128, 128, layers=2, directions=2),
    Shape(31, 13, 40, 75, layers=3, directions=2),
]


def checked(shape: Shape) -> tuple[fastlstm.LSTM, dict[str, data.Array], data.Array, float]:
    """A stack with its parameters and input, and the error of its answer."""
    rng = data.generator(shape)
    params = data.parameters(shape, rng)
    x = data.noise(shape, rng)
    bidirectional = shape.directions == 2
    lstm = fastlstm.LSTM(shape.I, shape.H, shape.layers, bidirectional=bidirectional)
    lstm.load_state_dict(params)
    y, (h_n, c_n) = lstm(x)
    true_y, (true_h, true_c) = reference.lstm(x, params, bidirectional=bidirectional, dtype=np.float64)
    error = data.largest_error((y, h_n, c_n), (true_y, true_h, true_c))
    assert error <= data.tolerance(np.float32, shape)
    return lstm, params, x, error


@pytest.mark.parametrize("shape", STACKS, ids=lambda shape: shape.name)
def test_stack(benchmark: Any, shape: Shape, num_threads: int) -> None:
    lstm, _, x, error = checked(shape)
    run(benchmark, lstm, x, group=f"stack {shape.label}", error=error, flops=shape.flops(), shape=shape.name)


def test_construct(benchmark: Any) -> None:
    """Making a layer: random weights and their packing."""
    call = fastlstm.LSTM
    sizes = {name: value.shape for name, value in call(64, 128).state_dict().items()}
    assert sizes == {
        name: value.shape for name, value in data.parameters(Shape(1, 1, 64, 128), _rng()).items()
    }
    run(benchmark, call, 64, 128, group="layer", error=0.0, shape=[64, 128])


def test_load_state_dict(benchmark: Any) -> None:
    lstm, params, _, error = checked(Shape(5, 2, 64, 128))
    run(benchmark, lstm.load_state_dict, params, group="layer", error=error, shape=[64, 128])


def test_state_dict(benchmark: Any) -> None:
    lstm, params, _, error = checked(Shape(5, 2, 64, 128))
    saved = lstm.state_dict()
    assert list(saved) == list(params)
    assert all(np.array_equal(saved[name], value) for name, value in params.items())
    run(benchmark, lstm.state_dict, group="layer", error=error, shape=[64, 128])


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
