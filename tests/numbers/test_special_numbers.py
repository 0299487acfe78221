# SPDX-License-Identifier: BSD-3-Clause
"""NaN, infinity and denormals in layers, and the caller's floating-point state."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels, reference
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_right, assert_same_bits
from tests.problems.problem import DTYPES, arrays_of, make_problem
from tests.problems.running import called, expected_results, make_layer, recorded

SIZES = [(13, 5, 20, 1), (13, 70, 140, 2), (50, 3, 33, 1), (3, 20, 200, 2)]


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_nan_and_infinity_in_one_row_stay_in_that_row(bad, dtype, threads):
    cases = [("LSTM", *sizes) for sizes in SIZES] + [(cell, *SIZES[0]) for cell in CELLS[1:]]
    for cell, B, I, H, L in cases:
        tanh = {"nonlinearity": "tanh"} if cell == "IndRNN" else {}
        problem = make_problem(
            9, B, I, H, L, cell=cell, has_state=True, has_lengths=True, dtype=dtype, **tanh
        )
        layer = make_layer(problem, num_threads=threads)
        clean = called(problem, layer)
        states = arrays_of(problem.state)
        for row in {0, 1, B // 2, B - 2, B - 1}:
            for what in (
                problem.x[4, row, -1:],
                problem.x[4, row],
                states[0][0, row, -1:],
                states[min(1, len(states) - 1)][-1, row],
            ):
                kept = what.copy()
                what[...] = bad
                got = called(problem, layer)
                with np.errstate(all="ignore"):
                    truth = expected_results(problem, None, np.float64)
                what[...] = kept
                others = [b for b in range(B) if b != row]
                for name, value in got.items():
                    assert_same_bits(value[:, others], clean[name][:, others], (cell, B, row))
                    if cell != "LSTM" and not np.isnan(bad):
                        continue  # whether inf - inf arises depends on how a formula is written
                    np.testing.assert_array_equal(np.isnan(value[:, row]), np.isnan(truth[name][:, row]))
                    np.testing.assert_allclose(value[:, row], truth[name][:, row], rtol=1e-5, atol=1e-5)


@pytest.mark.every_isa
@pytest.mark.parametrize("cell", CELLS)
def test_nan_in_a_row_is_never_hidden(cell):
    problem = make_problem(6, 7, 5, 37, cell=cell)
    problem.x[2, 3, 1] = np.nan
    got = called(problem)
    y = got.pop("y0")
    assert np.isfinite(y[:2]).all()
    assert np.isnan(y[2:, 3]).all()
    assert all(np.isnan(state[:, 3]).all() for state in got.values())
    dy = np.ones_like(problem.dy)
    layer = make_layer(problem)
    recorded(problem, layer).backward(dy)
    assert np.isnan(layer.grads["weight_ih_l0"]).any()


@pytest.mark.every_isa
def test_nan_in_a_weight_reaches_the_units_it_should():
    for name, column in (("weight_ih_l0", 2), ("weight_hh_l0", 17), ("bias_ih_l0", None)):
        problem = make_problem(3, 7, 5, 18)
        row = 2 * 18 + 17  # gate g of the last unit
        problem.params[name][row if column is None else (row, column)] = np.nan
        with np.errstate(invalid="ignore"):
            truth = expected_results(problem, None, np.float64)
        got = called(problem)
        for key, value in got.items():
            np.testing.assert_array_equal(np.isnan(value), np.isnan(truth[key]))
        assert np.isnan(got["y0"][0]).sum() == 7


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
    assert (np.abs(tape.y) == np.dtype(dtype).type(1e-3)).all()
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
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_denormals_give_right_values(cell, dtype, threads):
    tiny = np.finfo(dtype).tiny
    for B, H in ((1, 20), (9, 40), (2, 300)) if cell == "LSTM" else ((9, 40),):
        problem = make_problem(20, B, 12, H, cell=cell, has_state=True, dtype=dtype)
        factors = np.array([1, 0.25, 1e-3, -1e-5, 3, 0])
        problem.x *= np.resize(factors, 12).astype(dtype) * tiny
        for s in arrays_of(problem.state)[: 2 if cell == "LSTM" else 1]:
            s *= np.resize(factors, H).astype(dtype) * tiny
        assert_right(problem, called(problem, make_layer(problem, num_threads=threads)), None)
        for name in problem.params:
            if name.startswith("bias"):
                problem.params[name] *= tiny / 4
        assert_right(problem, called(problem, make_layer(problem, num_threads=threads)), None)


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
    problems = {
        "rows": make_problem(30, 16, 64, 128, has_lengths=True),
        "units": make_problem(30, 1, 64, 300),
        "directions": make_problem(30, 5, 64, 128, bidirectional=True),
        "whole rows": make_problem(30, 5, 64, 128, layer_norm="haste"),
        "scan": make_problem(30, 5, 64, 128, cell="MinGRU"),
        "parts": make_problem(30, 5, 64, (64, 100), cell="GRU", has_mask=True),
    }
    layers = {name: make_layer(problem, num_threads=threads) for name, problem in problems.items()}
    large, wide = problems["rows"], problems["units"]
    cell, stream = fastlstm.LSTMCell(64, 128), layers["units"].stream()
    special = np.array([np.nan, np.inf, -np.inf, 1e-40, 3e38, -3e38, 0, -1000, 1000], np.float32)
    weights = large.params["weight_ih_l0"], large.params["weight_hh_l0"]
    h = np.ones((16, 128), np.float32)
    spoiled = np.nan_to_num(large.x)
    spoiled[0, :, :9] = special

    def training():
        layers["rows"].zero_grad()
        tape = recorded(large, layers["rows"])
        return tuple(arrays_of(tape.backward(large.dy, large.dstate)))

    return {
        **{name: lambda name=name: tuple(called(problems[name], layers[name]).values()) for name in problems},
        "training": training,
        "special": lambda: layers["rows"](spoiled)[0],
        "cell": lambda: cell(spoiled[1]),
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
    assert len(outcomes) == 200 + 4 * 20 * len(calls_of_all_kinds(1))
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
        if name not in ("sigmoid", "tanh", "gate_matmul", "cell_update"):
            assert_same_bits(got, expected, name)


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_no_floating_point_exception_leaks_to_the_caller(threads):
    for name, call in calls_of_all_kinds(threads).items():
        _libm.feclearexcept(FE_ALL)
        call()
        assert _libm.fetestexcept(FE_ERRORS) == 0, name
