# SPDX-License-Identifier: BSD-3-Clause
"""Activations to the last bits, saturation, NaN, infinity, denormals, the caller's floating-point state."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import platform
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels, reference
from tests.problems.helpers import Case, Config, assert_close, assert_same_bits

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


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_nan_and_infinity_in_one_row_stay_in_that_row(bad, dtype, threads):
    for B, I, H, L in ((13, 5, 20, 1), (13, 70, 140, 2), (50, 3, 33, 1), (3, 20, 200, 2)):
        case = Case(Config(T=9, B=B, I=I, H=H, L=L, has_state=True, has_lengths=True, dtype=dtype))
        layer = case.layer(num_threads=threads)
        clean = case.run(layer)
        for row in {0, 1, B // 2, B - 2, B - 1}:
            for what in (
                case.x[4, row, -1:],
                case.x[4, row],
                case.state[0][0, row, -1:],
                case.state[1][-1, row],
            ):
                kept = what.copy()
                what[...] = bad
                got = case.run(layer)
                with np.errstate(all="ignore"):
                    truth = case.truth(np.float64)
                what[...] = kept
                others = [b for b in range(B) if b != row]
                for a, b in zip(got, clean, strict=True):
                    assert_same_bits(a[:, others], b[:, others], (B, row))
                for a, b in zip(got, truth, strict=True):
                    np.testing.assert_array_equal(np.isnan(a[:, row]), np.isnan(b[:, row]))
                    np.testing.assert_allclose(a[:, row], b[:, row], atol=1e-5)


@pytest.mark.every_isa
def test_nan_in_a_row_is_never_hidden():
    case = Case(Config(T=6, B=7, I=5, H=37))
    case.x[2, 3, 1] = np.nan
    y, h, c = case.run()
    assert np.isfinite(y[:2]).all()
    assert np.isnan(y[2:, 3]).all()
    assert np.isnan(h[:, 3]).all()
    assert np.isnan(c[:, 3]).all()


@pytest.mark.every_isa
def test_nan_in_a_weight_reaches_the_units_it_should():
    for name, column in (("weight_ih_l0", 2), ("weight_hh_l0", 17), ("bias_ih_l0", None)):
        case = Case(Config(T=3, B=7, I=5, H=18))
        row = 2 * 18 + 17  # gate g of the last unit
        case.params[name][row if column is None else (row, column)] = np.nan
        with np.errstate(invalid="ignore"):
            truth = case.truth()
        got = case.run()
        for a, b in zip(got, truth, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        assert np.isnan(got[0][0]).sum() == 7


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate", range(4))
def test_nan_in_a_gate_of_slstm_is_not_hidden_by_a_fresh_state(gate, dtype):
    """There i is 1 and f is 0, whatever numbers they are made of."""
    layer = fastlstm.SLSTM(2, 5, dtype=dtype, rng=0)
    with layer.editing() as flat:
        flat[-20 + 5 * gate] = np.nan  # of bias_ih
    tape = layer.forward(np.ones((1, 3, 2)))
    is_seen = gate != 1  # f has no say in the first step
    np.testing.assert_array_equal(np.isnan(tape.y[0]), [[is_seen, False, False, False, False]] * 3)
    tape.backward(np.ones_like(tape.y))
    assert np.isnan(layer.grads["bias_ih_l0"]).any()


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_clip_of_the_projection_hides_no_nan_in_its_gradient(dtype):
    layer = fastlstm.LSTM(2, 5, proj_size=3, proj_clip=1e-3, dtype=dtype, rng=0)
    tape = layer.forward(np.ones((2, 3, 2)))
    assert (np.abs(tape.y) == dtype(1e-3)).all()
    dy = np.zeros_like(tape.y)
    dy[1, 0, 1] = np.nan
    tape.backward(dy)
    assert np.isnan(layer.grads["weight_hr_l0"][1]).all()


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_limit_of_the_projection_the_gradient_is_0_as_the_reference_says(dtype):
    layer = fastlstm.LSTM(2, 5, proj_size=3, proj_bias=True, proj_clip=0.5, dtype=dtype, rng=0)
    with layer.editing() as flat:
        flat[-18:] = [0] * 15 + [0.5, -0.5, 0.25]  # weight_hr and bias_hr
    x, dy = np.ones((2, 3, 2)), np.ones((2, 3, 3))
    layer.forward(x).backward(dy)
    config = reference.Config("LSTM", 2, 5, proj_size=3, proj_bias=True, proj_clip=0.5)
    _, _, grads = reference.backward(config, layer.params, x, dy=dy)
    np.testing.assert_array_equal(grads["bias_hr_l0"], [0, 0, 6])
    np.testing.assert_array_equal(layer.grads["bias_hr_l0"], [0, 0, 6])


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_give_right_values(dtype, threads):
    tiny = np.finfo(dtype).tiny
    for B, H in ((1, 20), (9, 40), (2, 300)):
        case = Case(Config(T=20, B=B, I=12, H=H, has_state=True, dtype=dtype))
        factors = np.array([1, 0.25, 1e-3, -1e-5, 3, 0])
        case.x *= np.resize(factors, 12).astype(dtype) * tiny
        for s in case.state:
            s *= np.resize(factors, H).astype(dtype) * tiny
        assert_close(case.run(case.layer(num_threads=threads)), case.truth())
        for name in case.params:
            if name.startswith("bias"):
                case.params[name] *= tiny / 4
        assert_close(case.run(case.layer(num_threads=threads)), case.truth())


def test_a_state_decays_through_the_denormals_to_nothing():
    layer = fastlstm.LSTM(1, 20, bias=False)
    layer.load_state_dict({name: np.zeros_like(value) for name, value in layer.state_dict().items()})
    state = tuple(np.ones((1, 3, 20), np.float32) for _ in "hc")
    y, (_, c) = layer(np.zeros((300, 3, 1), np.float32), state)
    expected = 0.5 * np.tanh(0.5 ** np.arange(1, 301))
    np.testing.assert_allclose(y, np.broadcast_to(expected[:, None, None], y.shape), rtol=1e-6, atol=1.2e-38)
    assert (np.abs(c) <= np.finfo(np.float32).tiny).all()


# ---- The caller's floating-point state ---------------------------------------------------------------------

_libm = ctypes.CDLL(None)
FE_UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}[platform.machine()]
# invalid, divide by zero, overflow
FE_ERRORS = {"x86_64": 0x01 | 0x04 | 0x08, "aarch64": 0x01 | 0x02 | 0x04}[platform.machine()]
FE_ALL = {"x86_64": 0x3D, "aarch64": 0x1F}[platform.machine()]


def denormals_work():
    """Whether this thread computes with denormals, one by one and in vectors."""
    small = np.full(67, 1e-40, np.float32)
    return bool(np.all(small * np.float32(0.5) != 0)) and np.float32(1e-40) * np.float32(0.5) != 0


def calls_of_all_kinds(threads):
    """Functions that go through the C core in every way, some of them in its own threads."""
    large = Case(Config(T=30, B=16, I=64, H=128, has_lengths=True))
    wide = Case(Config(T=30, B=1, I=64, H=300))
    both = Case(Config(T=30, B=5, I=64, H=128, bidirectional=True))
    cell = fastlstm.LSTMCell(64, 128)
    large_layer, wide_layer, both_layer = (case.layer(num_threads=threads) for case in (large, wide, both))
    stream = wide_layer.stream()
    special = np.array([np.nan, np.inf, -np.inf, 1e-40, 3e38, -3e38, 0, -1000, 1000], np.float32)
    weights = large.params["weight_ih_l0"], large.params["weight_hh_l0"]
    h = np.ones((16, 128), np.float32)
    spoiled = large.x.copy()
    spoiled[0, :, :9] = special
    return {
        "rows": lambda: large.run(large_layer),
        "units": lambda: wide.run(wide_layer),
        "directions": lambda: both.run(both_layer),
        "special": lambda: large_layer(spoiled)[0],
        "cell": lambda: cell(large.x[0]),
        "step": lambda: stream.step(wide.x[0, 0]),
        "process": lambda: stream.process(wide.x),
        "sigmoid": lambda: kernels.sigmoid(special),
        "tanh": lambda: kernels.tanh(special),
        "gate_matmul": lambda: kernels.gate_matmul(spoiled[0], h, *weights),
        "cell_update": lambda: kernels.cell_update(np.resize(special, (16, 512)), h),
    }


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_still_work_after_a_call(threads):
    assert denormals_work()
    for name, call in calls_of_all_kinds(threads).items():
        call()
        assert denormals_work(), name
    with contextlib.suppress(ValueError):
        fastlstm.LSTM(4, 4)(np.full((3, 2), 9))
    assert denormals_work()


def test_denormals_still_work_in_every_thread_that_calls():
    outcomes = []

    def work():
        calls = calls_of_all_kinds(2)
        for _ in range(20):
            for call in calls.values():
                call()
                outcomes.append(denormals_work())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(200):
        outcomes.append(denormals_work())
    for worker in workers:
        worker.join()
    assert len(outcomes) == 200 + 4 * 20 * 11
    assert all(outcomes)


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_the_rounding_mode_of_the_caller_is_kept_and_does_not_change_a_layers_bits(threads):
    for name, call in calls_of_all_kinds(threads).items():
        expected = call()
        if name in ("step", "process"):
            continue  # they go on from a kept state
        assert _libm.fesetround(FE_UPWARD) == 0
        try:
            got = call()
            mode = _libm.fegetround()
        finally:
            _libm.fesetround(0)
        assert mode == FE_UPWARD, name
        assert _libm.fegetround() == 0
        if name in ("rows", "units", "directions", "special", "cell"):
            assert_same_bits(got, expected, name)


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_no_floating_point_exception_leaks_to_the_caller(threads):
    for name, call in calls_of_all_kinds(threads).items():
        _libm.feclearexcept(FE_ALL)
        call()
        assert _libm.fetestexcept(FE_ERRORS) == 0, name
