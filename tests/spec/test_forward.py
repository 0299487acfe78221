# SPDX-License-Identifier: BSD-3-Clause
"""Promise "exact": the forward pass against truths of higher precision, and against torch's own error."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import fastlstm
from tests.problems.helpers import (
    TOLERANCE,
    Case,
    Config,
    assert_close,
    assert_same_bits,
    largest_error,
    random_config,
)


def random_cases(rng, count, largest, longest, **fixed):
    for _ in range(count):
        config = random_config(rng, largest, longest, **fixed)
        print(config)
        yield Case(config)


def test_float32_is_within_2e_6_of_a_float64_truth(rng):
    for case in random_cases(rng, 120, 300, 100):
        assert_close(case.run(), case.truth(), case.config)


def test_float64_is_within_1e_13_of_a_truth_in_more_than_float64(rng):
    assert np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant
    for case in random_cases(rng, 40, 60, 40, dtype="float64"):
        assert_close(case.run(), case.truth(), case.config)


def test_float64_of_large_sizes_is_within_1e_13(rng):
    for case in random_cases(rng, 15, 300, 100, dtype="float64"):
        assert_close(case.run(), case.truth(np.float64), case.config)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("H", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 65])
def test_every_kind_of_tail(H, dtype):
    for B, I, bias in itertools.product((1, 2, 5, 6, 7, 13), (1, 3, 5, 17), (True, False)):
        case = Case(Config(T=3, B=B, I=I, H=H, bias=bias, has_state=True, dtype=dtype))
        assert_close(case.run(), case.truth(np.float64), case.config)


OPTIONS = [
    dict(
        zip(
            ("bidirectional", "bias", "batch_first", "has_state", "has_lengths", "is_index"),
            flags,
            strict=True,
        )
    )
    for flags in itertools.product((False, True), repeat=6)
]


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("L", [1, 2, 3])
def test_every_combination_of_options(L, dtype):
    for options in OPTIONS:
        case = Case(Config(T=9, B=7, I=11, H=19, L=L, dtype=dtype, **options))
        assert_close(case.run(), case.truth(np.float64), case.config)


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_of_every_length(threads):
    for L, bidirectional in ((1, False), (3, False), (1, True), (2, True)):
        config = Config(T=40, B=41, I=33, H=70, L=L, bidirectional=bidirectional, has_state=True)
        case = Case(config)
        case.lengths = np.random.default_rng(1).permutation(41)
        layer = case.layer(num_threads=threads)
        assert_close(case.run(layer), case.truth(), config)
        out = np.full((40, 41, config.D * 70), np.nan, np.float32)
        layer(case.x, case.state, lengths=case.lengths, out=out)
        assert all(not out[length:, row].any() for row, length in enumerate(case.lengths))


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_what_lies_beyond_the_end_of_a_row_does_not_matter(threads):
    for B, H, bidirectional, is_index in itertools.product((9, 33), (20, 129), (False, True), (False, True)):
        config = Config(20, B, 5, H, 2, bidirectional, has_lengths=True, is_index=is_index)
        case = Case(config)
        layer = case.layer(num_threads=threads)
        expected = case.run(layer)
        for row, length in enumerate(case.lengths):
            case.x[length:, row] = [-1, 5, -(2**63), 2**63 - 1][row % 4] if is_index else np.nan
        assert_same_bits(case.run(layer), expected, config)
        assert_close(expected, case.truth(), config)


@pytest.mark.every_isa
@pytest.mark.parametrize("T", [1, 2, 500, 3000])
def test_long_sequences_stay_exact_where_the_dynamics_forget(T):
    # Weights as torch draws them forget within a few steps, so errors do not add up: any T has the bound.
    case = Case(Config(T=T, B=2, I=3, H=24, L=2))
    assert_close(case.run(), case.truth(), case.config)


def test_a_long_memory_is_kept():
    # Input gate shut, forget gate open (sigmoid(20) rounds to 1): c must be the given one after 1000 steps.
    layer = fastlstm.LSTM(1, 5)
    bias = np.repeat(np.float32([-200, 20, 0, 200]), 5)
    zero = {name: np.zeros_like(value) for name, value in layer.state_dict().items()}
    layer.load_state_dict(zero | {"bias_ih_l0": bias})
    c_0 = np.linspace(-2, 2, 5, dtype=np.float32).reshape(1, 1, 5)
    y, (_, c_n) = layer(np.ones((1000, 1, 1), np.float32), (np.zeros_like(c_0), c_0))
    np.testing.assert_allclose(c_n, c_0, rtol=2e-5)
    np.testing.assert_allclose(y[0, 0], np.tanh(c_0[0, 0]), rtol=1e-6)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_gate_does_its_own_work(dtype):
    """Saturated gates make results that differ for every swap of two gates and every lost bias or weight."""
    H = 21
    layer = fastlstm.LSTM(1, H, dtype=dtype)
    zero = {name: np.zeros_like(value) for name, value in layer.state_dict().items()}
    c_0 = np.full((1, 1, H), 0.75, dtype)
    h_0 = np.ones((1, 1, H), dtype)
    x = np.ones((1, 1, 1), dtype)
    for name in zero:
        for i, f, g, o in itertools.product((-30.0, 30.0), (-30.0, 30.0), (-0.5, 0.25), (-30.0, 30.0)):
            rows = np.repeat([i, f, g, o], H).astype(dtype)
            value = np.zeros_like(zero[name])
            # One unit of h_0, or x, or the bias alone carries the gates, the last column first to be dropped.
            value[..., -1] = rows if value.ndim == 2 else 0
            if value.ndim == 1:
                value[:] = rows
            layer.load_state_dict(zero | {name: value})
            y, (_, c_n) = layer(x, (h_0, c_0))
            c = (f > 0) * 0.75 + (i > 0) * math.tanh(g)
            np.testing.assert_allclose(c_n, np.full_like(c_n, c), atol=1e-6, err_msg=f"{name} {i, f, g, o}")
            np.testing.assert_allclose(y, np.full_like(y, (o > 0) * math.tanh(c)), atol=1e-6)


def torch_twin(torch, case, dtype):
    config = case.config
    layer = torch.nn.LSTM(
        config.I,
        config.H,
        config.L,
        bias=config.bias,
        batch_first=config.batch_first,
        bidirectional=config.bidirectional,
        dtype=dtype,
    )
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in case.params.items()})
    return layer


def torch_result(torch, case, dtype):
    layer = torch_twin(torch, case, dtype)
    state = None if case.state is None else tuple(map(torch.from_numpy, case.state))
    with torch.no_grad():
        y, (h, c) = layer(torch.from_numpy(case.x), state)
    return y.numpy(), h.numpy(), c.numpy()


def test_the_error_is_at_most_twice_that_of_torch(rng):
    torch = pytest.importorskip("torch")
    worst_of_all = np.zeros(2)
    # The largest of a few errors is chance, so the comparison one by one is for configurations with many
    # outputs; the largest over all configurations is compared as well.
    for case in random_cases(rng, 60, 300, 100, is_index=False, has_lengths=False):
        truth = case.truth()
        errors = [
            largest_error(case.run(), truth),
            largest_error(torch_result(torch, case, torch.float32), truth),
        ]
        print(errors)
        worst_of_all = np.maximum(worst_of_all, errors)
        if truth[0].size >= 2000:
            assert errors[0] <= 2 * errors[1], case.config
    assert worst_of_all[0] <= 2 * worst_of_all[1]
    assert worst_of_all[0] <= TOLERANCE[np.dtype(np.float32)]


def test_a_layer_made_from_a_torch_state_dict_is_that_layer():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    twin = torch.nn.LSTM(7, 12, 2, bidirectional=True, batch_first=True)
    layer = fastlstm.LSTM(7, 12, 2, bidirectional=True, batch_first=True)
    layer.load_state_dict(twin.state_dict())
    assert list(layer.state_dict()) == list(twin.state_dict())
    x = torch.randn(3, 5, 7)
    with torch.no_grad():
        expected, (h, c) = twin(x)
    y, (h_n, c_n) = layer(x)
    assert isinstance(y, np.ndarray)
    assert_close((y, h_n, c_n), (expected.numpy(), h.numpy(), c.numpy()))
