# SPDX-License-Identifier: BSD-3-Clause
"""Sigmoid and tanh to the last bits, where they saturate, and gates at and beyond that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels, reference
from tests.problems.comparing import assert_same_bits

# Largest errors in units in the last place: a quotient of two rounded sums.
SIGMOID_ULP = 4
TANH_ULP = 4
STRIDE = 211  # of all 2^32 float32 numbers; prime, so that no pattern of the bits is left out

FUNCTIONS = {
    "sigmoid": (kernels.sigmoid, reference.sigmoid, SIGMOID_ULP),
    "tanh": (kernels.tanh, reference.tanh, TANH_ULP),
}
DTYPES = [np.float32, np.float64]


def assert_ulps(got, truth, limit, x):
    """Within `limit` units in the last place; below the smallest normal number, within that number."""
    info = np.finfo(got.dtype)
    rounded = np.abs(truth).astype(got.dtype)
    ulp = np.spacing(np.maximum(rounded, info.tiny)).astype(truth.dtype)
    allowed = np.where(np.abs(truth) < info.tiny, truth.dtype.type(info.tiny), limit * ulp)
    error = np.abs(got.astype(truth.dtype) - truth)
    worst = np.argmax(error / allowed)
    message = (
        f"x = {x[worst]!r}: got {got[worst]!r}, expected {truth[worst]!r}, {error[worst] / ulp[worst]} ulp"
    )
    assert error[worst] <= allowed[worst], message


@pytest.mark.every_isa
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_activations_over_every_211th_number(name):
    function, truth_of, limit = FUNCTIONS[name]
    low = 0.0 if name == "sigmoid" else -1.0
    for begin in range(0, 2**32, 2**28):
        bits = np.arange(begin + (-begin) % STRIDE, begin + 2**28, STRIDE, np.uint64).astype(np.uint32)
        x = bits.view(np.float32)
        got = function(x)
        is_nan = np.isnan(x)
        assert np.isnan(got[is_nan]).all()
        x, got = x[~is_nan], got[~is_nan]
        if x.size:
            assert got.min() >= low
            assert got.max() <= 1
            assert_ulps(got, truth_of(x.astype(np.float64)), limit, x)


@pytest.mark.every_isa
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_activations(name, rng):
    function, truth_of, limit = FUNCTIONS[name]
    magnitudes = np.concatenate(
        [
            np.exp(rng.uniform(-50, 7, 60_000)),
            rng.uniform(0, 45, 60_000),
            rng.uniform(0.08, 0.18, 400_000),  # where the roundings of tanh weigh most
            rng.uniform(0, 708, 60_000),
            [1e-310, 1e300],
        ]
    )
    x = np.concatenate([magnitudes, -magnitudes])
    got = function(x)
    assert got.min() >= (0 if name == "sigmoid" else -1)
    assert got.max() <= 1
    assert_ulps(got, truth_of(x.astype(np.longdouble)), limit, x)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_are_exact_at_zero_and_where_they_saturate(dtype):
    info = np.finfo(dtype)
    zeros = np.array([0.0, -0.0], dtype)
    assert_same_bits(kernels.tanh(zeros), zeros)
    assert_same_bits(kernels.sigmoid(zeros), np.full(2, 0.5, dtype))
    far = np.array([45, 100, 1000, 1e10, info.max, np.inf], dtype)
    ones = np.ones_like(far)
    assert_same_bits(kernels.tanh(far), ones)
    assert_same_bits(kernels.tanh(-far), -ones)
    assert_same_bits(kernels.sigmoid(far), ones)
    assert (kernels.sigmoid(-far[2:]) <= info.tiny).all()
    assert (kernels.sigmoid(-far) >= 0).all()


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd_to_the_last_bit(dtype, rng):
    x = (rng.standard_normal(100_000) * np.exp(rng.uniform(-90, 5, 100_000))).astype(dtype)
    assert_same_bits(kernels.tanh(-x), -kernels.tanh(x))


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_stays_nan_and_its_neighbours_stay_numbers(name, dtype):
    function = FUNCTIONS[name][0]
    for n, sign in itertools.product((1, 2, 3, 4, 7, 8, 15, 16, 17, 33), (1, -1)):
        for where in range(n):
            x = np.linspace(-3, 3, n).astype(dtype)
            expected = function(x)
            x[where] = np.copysign(dtype(np.nan), dtype(sign))
            got = function(x)
            assert np.isnan(got[where])
            expected[where] = got[where]
            assert_same_bits(got, expected)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_does_not_depend_on_its_place(name, dtype, rng):
    function = FUNCTIONS[name][0]
    x = rng.standard_normal(131).astype(dtype) * 4
    whole = function(x)
    for begin, end in itertools.product(range(0, 40, 3), range(90, 131, 7)):
        assert_same_bits(function(x[begin:end]), whole[begin:end])
    assert_same_bits(np.stack([function(x[i]) for i in range(131)]), whole)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [10, 50, 87.5, 89, 100, 710, 1e4, 1e30, 3e38, np.inf])
def test_pre_activations_that_saturate(size, dtype):
    """Every gate at plus and minus `size`, exactly, so that the truth is known; what results are numbers."""
    signs = np.array(list(itertools.product((-1, 1), repeat=4))).T  # (4, 16): gates i, f, g, o of 16 units
    weight_ih = signs.reshape(64, 1).astype(dtype)
    layer = fastlstm.LSTM(1, 16, bias=False, dtype=dtype)
    layer.load_state_dict({"weight_ih_l0": weight_ih, "weight_hh_l0": np.zeros((64, 16), dtype)})
    x = np.full((3, 2, 1), size, dtype)
    state = tuple(np.full((1, 2, 16), 0.5, dtype) for _ in "hc")
    y, (h, c) = layer(x, state)
    expected_c = np.full(16, 0.5)
    gate_i, gate_f, gate_o = (reference.sigmoid(signs[k] * float(size)) for k in (0, 1, 3))
    gate_g = np.tanh(signs[2] * float(size))
    for t in range(3):
        expected_c = gate_f * expected_c + gate_i * gate_g
        expected_y = gate_o * np.tanh(expected_c)
        np.testing.assert_allclose(y[t], np.stack([expected_y] * 2), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(c[0], np.stack([expected_c] * 2), rtol=2e-6, atol=1e-6)
    assert_same_bits(h[0], y[-1])
