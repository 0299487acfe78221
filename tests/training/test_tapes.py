# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of several tapes add up, in any order and from any thread, and a tape keeps what it needs."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import FAMILY, batch, build, every_trained_kind
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_same_bits, assert_same_results
from tests.problems.problem import arrays_of, make_problem, problem_of
from tests.problems.running import make_layer, recorded, trained


def pass_of(seed, cell="LSTM"):
    return make_problem(20, 7, 5, 33, 2, cell=cell, has_lengths=True, has_state=True, seed=seed)


def alone(layer, problem):
    """Gradients of one pass on a layer that has none yet."""
    layer.zero_grad()
    recorded(problem, layer).backward(problem.dy, problem.dstate)
    return layer.flat_grads.copy()


# ---- Gradients add up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_tapes_add_up_exactly(cell):
    problems = [pass_of(seed, cell) for seed in range(3)]
    layer = make_layer(problems[0])
    parts = [alone(layer, problem) for problem in problems]
    layer.zero_grad()
    saves = ("all", 3, "states")
    tapes = [recorded(problem, layer, save=save) for problem, save in zip(problems, saves, strict=True)]
    total = np.zeros_like(parts[0])
    for number in (1, 0, 2):  # in any order
        tapes[number].backward(problems[number].dy, problems[number].dstate)
        total += parts[number]
        assert_same_bits(layer.flat_grads, total, number)
    for name, value in layer.grads.items():
        assert np.shares_memory(value, layer.flat_grads), name


@every_trained_kind
def test_gradients_of_two_tapes_add_up(kind, rng):
    layer = build(kind, dtype="float64")
    x = batch(layer)
    keywords = {"training": False} if kind in FAMILY else {}
    sums = np.zeros(layer.flat_params.size)
    dys = rng.standard_normal((2, *layer.forward(x).y.shape))
    for dy in dys:
        layer.zero_grad()
        layer.forward(x, **keywords).backward(dy)
        sums += layer.flat_grads
    layer.zero_grad()
    tapes = [layer.forward(x, **keywords) for _ in dys]
    for tape, dy in zip(tapes, dys, strict=True):
        tape.backward(dy)
    np.testing.assert_allclose(layer.flat_grads, sums, rtol=1e-12, atol=1e-15)
    assert sums.any()


def test_exceptions_in_between_change_nothing():
    first, second = pass_of(0), pass_of(1)
    layer = make_layer(first)
    parts = [alone(layer, problem) for problem in (first, second)]
    layer.zero_grad()
    tape = recorded(first, layer)
    for dy in (first.dy[:-1], first.dy > 0, 1.0, "dy"):
        with pytest.raises((TypeError, ValueError)):
            tape.backward(dy)
        with pytest.raises((TypeError, ValueError)):
            recorded(first, layer, lengths=[99])
    assert not layer.flat_grads.any()
    tape.backward(first.dy, first.dstate)
    assert_same_bits(layer.flat_grads, np.zeros_like(parts[0]) + parts[0])
    with pytest.raises(RuntimeError):
        tape.backward(first.dy, first.dstate)
    recorded(second, layer).backward(second.dy, second.dstate)
    assert_same_bits(layer.flat_grads, parts[0] + parts[1])


def test_gradients_that_are_in_the_way_are_refused_or_kept():
    """flat_grads is one array from the first use on; what stands in it is added to, whatever it is."""
    layer = build("LSTM")
    x, flat = batch(layer), layer.flat_grads
    flat[:] = np.nan
    tape = layer.forward(x)
    tape.backward(np.ones_like(tape.y))
    assert np.isnan(flat).all()
    layer.zero_grad()
    assert layer.flat_grads is flat
    tape = layer.forward(x)
    tape.backward(np.ones_like(tape.y))
    assert np.isfinite(flat).all()
    assert flat.any()


def test_threads_lose_nothing():
    """Passes of one layer in several threads at once: their gradients are all there, in some order."""
    layer = fastlstm.LSTM(8, 64, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((40, 8, 8))
    tape = layer.forward(x)
    dy = np.ones_like(tape.y)
    tape.backward(dy)
    one = layer.flat_grads.copy()
    layer.zero_grad()
    failures = []

    def work():
        try:
            for turn in range(10):
                tape = layer.forward(x, save=("all", "states", 7)[turn % 3])
                tape.backward(dy)
        except BaseException as error:
            failures.append(repr(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures
    # 40 equal terms: each sum is rounded, but one that is missing or doubled is far more than that.
    assert np.abs(layer.flat_grads - 40 * one).max() <= 1e-12 * np.abs(one).max() * 40


def test_one_tape_in_two_threads_is_used_once():
    layer = fastlstm.LSTM(8, 128, rng=0)
    x = np.random.default_rng(0).standard_normal((200, 8, 8)).astype(np.float32)
    tape = layer.forward(x)
    dy = np.ones_like(tape.y)
    tape.backward(dy)
    one = layer.flat_grads.copy()
    layer.zero_grad()
    tape = layer.forward(x)
    outcomes = []
    ready = threading.Barrier(4)

    def work():
        ready.wait()
        try:
            tape.backward(dy)
            outcomes.append("done")
        except RuntimeError as error:
            outcomes.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert outcomes.count("done") == 1
    assert all(text == "done" or text.startswith("tape: expected one ") for text in outcomes)
    assert_same_bits(layer.flat_grads, one)


# ---- A tape keeps what it needs ----------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_a_tape_outlives_the_variable_of_its_layer(cell):
    for seed in range(4):
        problem = problem_of(seed, cell)
        expected = arrays_of(recorded(problem).backward(problem.dy, problem.dstate, problem.dcells))
        tape = recorded(problem, save=2)
        gc.collect()
        scratch = [np.full(60000, np.nan, np.float32) for _ in range(20)]
        got = arrays_of(tape.backward(problem.dy, problem.dstate, problem.dcells))
        assert_same_bits(tuple(got), tuple(expected), problem.config)
        del scratch


class Wrapped:
    """Gives its array to whoever asks, as it is."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize(
    "wrapped", [lambda a: a, lambda a: a[:], Wrapped, memoryview], ids=["", "view", "object", "buffer"]
)
def test_arguments_may_change_between_forward_and_backward(wrapped):
    def changeable(value, kept):
        """Copies of arrays, wrapped, and kept beside."""
        if isinstance(value, tuple):
            return tuple(changeable(part, kept) for part in value)
        if value is None:
            return None
        kept.append(np.array(value))
        return wrapped(kept[-1])

    for cell, seed in itertools.product(CELLS, range(1600, 1604)):
        problem = problem_of(seed, cell, is_batched=True)
        expected, kept = trained(problem), []
        given = {name: changeable(getattr(problem, name), kept) for name in ("x", "state")}
        names = {"lengths", "mask", "reset"} & set(problem.keywords)
        given |= {name: changeable(problem.keywords[name], kept) for name in names}
        layer = make_layer(problem)
        tape = recorded(problem, layer, **given)
        for array in kept:
            array[...] = 1
        dx, dstate = tape.backward(problem.dy, problem.dstate, problem.dcells)
        got = {f"d{name}": value for name, value in layer.grads.items()}
        got |= {f"dstate{k}": value for k, value in enumerate(arrays_of(dstate))}
        got |= {} if dx is None else {"dx0": dx}
        expected = {name: value for name, value in expected.items() if name in got}
        assert_same_results(dict(sorted(got.items())), dict(sorted(expected.items())), problem.config)
