# SPDX-License-Identifier: BSD-3-Clause
"""Promise "the same bits" of gradients: for any number of threads, and whatever a tape keeps."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

import fastlstm
from fastlstm import losses, optim
from tests.problems.cells import CELLS, EVERY_OPTION
from tests.problems.children import in_child
from tests.problems.comparing import GRADIENT_TOLERANCE, assert_same_bits, assert_same_results, largest_errors
from tests.problems.problem import DTYPES, in_both_dtypes, make_problem, problem_of, shown
from tests.problems.running import SAVES, called, make_layer, on_threads, recorded, results_of, trained

from .batches import SIZES, TRAININGS, problem_of_option, trainings


@pytest.mark.every_isa
@pytest.mark.parametrize("case", in_both_dtypes(TRAININGS), ids=shown)
def test_the_same_bits_for_any_number_of_threads(case):
    for problem, save in zip(trainings(case), ("all", 7), strict=True):
        expected = trained(problem, make_layer(problem, num_threads=1), save=save)
        for threads in (2, 3, 4):
            assert_same_results(on_threads(trained, problem, threads, save=save), expected, (threads, save))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_the_same_bits_of_every_option_for_any_number_of_threads(name, size):
    problem = problem_of_option(name, size)
    expected = trained(problem, make_layer(problem, num_threads=1))
    for threads in (2, 3):
        assert_same_results(trained(problem, make_layer(problem, num_threads=threads)), expected, threads)


def threads_of_this_process():
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("Threads:")))


def threads_of_one(case):
    """Threads that a backward pass on up to 3 starts, where the forward pass is on one."""
    problem = make_problem(**case)
    layer = make_layer(problem, num_threads=1)
    tape = recorded(problem, layer)
    before = threads_of_this_process()
    layer.num_threads = 3
    tape.backward(problem.dy, problem.dstate)
    return threads_of_this_process() - before


def threads_of_all():
    """Of each batch, in a forked process without threads."""
    started = []
    for case in TRAININGS:
        pid = os.fork()
        if pid == 0:
            os._exit(threads_of_one(case))
        started.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return started


def test_these_batches_do_use_several_threads():
    assert in_child(threads_of_all) == [2] * len(TRAININGS)


@pytest.mark.every_isa
@pytest.mark.parametrize("case", in_both_dtypes(TRAININGS), ids=shown)
def test_the_same_bits_whatever_is_kept(case):
    for problem in trainings(case):
        expected = trained(problem)
        for save in (*SAVES[1:], 16, case["T"], case["T"] + 1, 2**62):
            assert_same_results(trained(problem, save=save), expected, save)


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_of_any_options_whatever_is_kept(cell):
    for seed in range(300, 312):
        problem = problem_of(seed, cell, DTYPES[seed % 2])
        expected = trained(problem)
        for save in SAVES[1:]:
            assert_same_results(trained(problem, save=save), expected, (seed, save, problem.config))


@pytest.mark.every_isa
@pytest.mark.parametrize("cell", CELLS)
def test_a_recorded_pass_without_draws_has_the_bits_of_a_call(cell):
    for seed in range(400, 460 if cell == "LSTM" else 420):
        problem = problem_of(seed, cell, DTYPES[seed % 2], largest=60 if seed % 5 == 0 else 20)
        expected = called(problem)
        for save in SAVES:
            got = results_of(recorded(problem, training=False, save=save))
            assert_same_results(got, expected, (seed, save, problem.config))


@pytest.mark.parametrize("case", TRAININGS, ids=shown)
def test_the_same_bits_for_the_same_pass_again(case):
    problem = make_problem(**case)
    layer = make_layer(problem, num_threads=2)
    expected = trained(problem, layer)
    for save in ("all", "all", "states", "all", 5, 5, "states"):
        assert_same_results(trained(problem, layer, save=save), expected, save)


def test_the_same_bits_on_memory_that_larger_and_smaller_passes_have_left():
    layer = fastlstm.LSTM(9, 40, 2, bidirectional=True, rng=0)
    rng = np.random.default_rng(0)
    for T, B, save in ((3, 2, "all"), (60, 20, "states"), (5, 7, 2), (61, 3, "all"), (1, 1, 1), (40, 9, 9)):
        x = rng.standard_normal((T, B, 9)).astype(np.float32)
        results = []
        for maker in (lambda: layer, lambda: fastlstm.LSTM(9, 40, 2, bidirectional=True, rng=0)):
            made = maker()
            made.zero_grad()
            tape = made.forward(x, save=save)
            dx, states = tape.backward(np.cos(tape.y))
            results.append((dx, *states, made.flat_grads.copy()))
        assert_same_bits(*results, (T, B, save))


@pytest.mark.parametrize("cell", CELLS)
def test_indices_and_one_hot_rows_have_the_same_gradients(cell):
    """But for the sum of the input's weights: over all rows, or over those of the index."""
    cases = [make_problem(40, 6, 17, 33, 2, cell=cell, bidirectional=True, is_index=True, has_lengths=True)]
    cases += [
        problem_of(seed, cell, is_index=True, has_mask=False, has_lengths=False) for seed in range(1300, 1308)
    ]
    for problem in cases:
        got = trained(problem)
        one_hot = np.eye(problem.config.input_size, dtype=problem.dtype)[problem.x]
        expected = trained(dataclasses.replace(problem, x=one_hot))
        assert "dx0" not in got
        for name, value in got.items():
            if name.startswith("dweight_ih_l0"):
                errors = largest_errors({name: value}, {name: expected[name]}, is_strict=True)
                assert errors[name] <= GRADIENT_TOLERANCE[problem.dtype], problem.config
            else:
                assert_same_bits(value, expected[name], (name, problem.config))


# ---- Whole trainings ---------------------------------------------------------------------------------------


def train(threads, save="all", steps=60):
    """A few steps of Adam: from the first and last input of each row to their sum; losses and parameters."""
    rng = np.random.default_rng(0)
    layer = fastlstm.LSTM(3, 32, 2, dropout=0.1, num_threads=threads, rng=0)
    head = fastlstm.Dense(32, 1, rng=1)
    adam = optim.Adam([layer, head], lr=2e-2)
    seen = []
    for _ in range(steps):
        x = rng.standard_normal((6, 24, 3)).astype(np.float32)
        target = (x[0, :, :1] + x[-1, :, :1])[np.newaxis]
        tape = layer.forward(x, save=save)
        head_tape = head.forward(tape.y[-1:])
        value, dy = losses.mse(head_tape.y, target)
        seen.append(value)
        adam.zero_grad()
        dy_layer = np.zeros_like(tape.y)
        dy_layer[-1:] = head_tape.backward(dy)
        tape.backward(dy_layer)
        optim.clip_grad_norm([layer, head], 1.0)
        assert adam.step() is True
    return np.array(seen), layer.flat_params, head.flat_params


def test_a_training_learns_and_has_the_same_bits_for_any_number_of_threads():
    expected = train(1)
    seen = expected[0]
    assert seen[-5:].mean() < 0.5 * seen[:5].mean()
    assert_same_bits(train(2), expected)
    assert_same_bits(train(3, save=5), expected)
