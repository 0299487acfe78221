# SPDX-License-Identifier: BSD-3-Clause
"""Many threads on one layer, and how many threads a call may use."""

from __future__ import annotations

import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from tests.problems.children import in_child
from tests.problems.comparing import assert_same_bits, assert_same_results
from tests.problems.problem import make_problem, shown
from tests.problems.running import called, make_layer, on_threads

CASES = [
    {"T": 5, "B": 2, "I": 4, "H": 20},
    {"T": 30, "B": 9, "I": 30, "H": 80, "has_lengths": True},
    {"T": 25, "B": 1, "I": 64, "H": 256},
    {"T": 20, "B": 4, "I": 30, "H": 64, "L": 2, "bidirectional": True},
    {"T": 300, "B": 1, "I": 3, "H": 16, "L": 4},
    {"T": 20, "B": 4, "I": 30, "H": 64, "L": 2, "cell": "GRU", "has_mask": True},
    {"T": 20, "B": 9, "I": 30, "H": (64, 20), "cell": "SLSTM", "has_reset": True},
]


def together(count, work):
    """Run ``work(number)`` in `count` threads that start at once; the first exception of any is raised."""
    barrier = threading.Barrier(count)

    def start(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(start, number) for number in range(count)]]


@pytest.fixture
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=shown)
def test_eight_threads_on_one_layer_get_the_bits_of_one(case, threads):
    problem = make_problem(**case)
    layer = make_layer(problem, num_threads=threads)
    expected = called(problem, layer)

    def work(_):
        for _ in range(25):
            assert_same_results(called(problem, layer), expected)

    together(8, work)


@pytest.mark.usefixtures("frequent_switches")
def test_threads_with_layers_and_streams_of_their_own():
    def work(number):
        problem = make_problem(20, 1 + number % 3, 5, 20 + 9 * number, seed=number)
        expected = called(problem)["y0"]
        for _ in range(10):
            layer = make_layer(problem)
            stream = layer.stream(1 + number % 3)
            assert_same_bits(called(problem, layer)["y0"], expected)
            assert_same_bits(stream.process(problem.x), expected)

    together(8, work)


@pytest.mark.usefixtures("frequent_switches")
def test_new_weights_while_others_call_are_seen_as_a_whole_or_not_at_all():
    problems = [make_problem(12, 3, 8, 70, 2, seed=seed) for seed in range(2)]
    layer = make_layer(problems[0], num_threads=2)
    x = problems[0].x
    expected = []
    for problem in problems:
        layer.load_state_dict(problem.params)
        expected.append(layer(x)[0].tobytes())
    assert expected[0] != expected[1]
    stop = threading.Event()
    seen = set()

    def work(number):
        if number == 0:
            for turn in range(300):
                layer.load_state_dict(problems[turn % 2].params)
            stop.set()
            return
        while not stop.is_set():
            if number % 2:
                seen.add(layer(x)[0].tobytes())
            else:
                got = layer.state_dict()
                assert any(all(np.array_equal(got[k], p.params[k]) for k in got) for p in problems)

    together(5, work)
    assert seen <= set(expected)
    assert seen


@pytest.mark.parametrize("H", [120, (120, 40)])
def test_a_stream_used_by_two_threads_is_an_error_or_takes_turns(H):
    """A stream belongs to one thread at a time: never a crash, and never a step that is half of another."""
    problem = make_problem(200, 1, 30, H)
    layer = make_layer(problem)
    stream = layer.stream()
    expected = layer(problem.x)[0]

    def work(_):
        busy = 0
        for _ in range(20):
            try:
                y = stream.process(problem.x)
            except RuntimeError:
                busy += 1
            else:
                assert np.isfinite(y).all()
        return busy

    assert sum(together(4, work)) < 80
    stream.reset()
    assert_same_bits(stream.process(problem.x), expected)


def test_the_number_of_threads_is_that_of_the_process():
    fastlstm.set_num_threads(3)
    assert fastlstm.get_num_threads() == 3
    assert together(2, lambda _: fastlstm.get_num_threads()) == [3, 3]
    fastlstm.set_num_threads(1)
    assert fastlstm.get_num_threads() == 1


def test_threads_limits_the_calls_of_a_block_and_of_its_thread_alone():
    fastlstm.set_num_threads(2)
    with fastlstm.threads(4):
        assert fastlstm.get_num_threads() == 4
        assert together(1, lambda _: fastlstm.get_num_threads()) == [2]
        with fastlstm.threads(1):
            assert fastlstm.get_num_threads() == 1
        assert fastlstm.get_num_threads() == 4
        with contextlib.suppress(KeyError), fastlstm.threads(3):
            assert fastlstm.get_num_threads() == 3
            raise KeyError
        assert fastlstm.get_num_threads() == 4
    assert fastlstm.get_num_threads() == 2


def test_one_threads_object_can_be_entered_again():
    fastlstm.set_num_threads(2)
    limit = fastlstm.threads(3)
    for _ in range(2):
        with limit:
            assert fastlstm.get_num_threads() == 3
            with fastlstm.threads(1), limit:
                assert fastlstm.get_num_threads() == 3
            assert fastlstm.get_num_threads() == 3
        assert fastlstm.get_num_threads() == 2


@pytest.mark.parametrize("function", ["set_num_threads", "threads"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (1.5, TypeError),
        ("2", TypeError),
        (True, TypeError),
        (2**70, OverflowError),
    ],
)
def test_a_number_of_threads_that_is_none_is_an_error(function, value, error):
    before = fastlstm.get_num_threads()
    with pytest.raises(error, match=r"^n: expected .*, got "):
        getattr(fastlstm, function)(value)
    assert fastlstm.get_num_threads() == before


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), ("1", TypeError)]
)
def test_a_layers_number_of_threads_is_checked(value, error):
    with pytest.raises(error, match=r"^num_threads: expected .*, got "):
        fastlstm.LSTM(2, 3, num_threads=value)
    layer = fastlstm.LSTM(2, 3)
    with pytest.raises(error, match=r"^num_threads: expected .*, got "):
        layer.num_threads = value
    assert layer.num_threads is None


def test_more_threads_than_anything_is_no_error():
    problem = make_problem(30, 5, 20, 100)
    expected = called(problem, make_layer(problem, num_threads=1))
    assert_same_results(called(problem, make_layer(problem, num_threads=64)), expected)
    with fastlstm.threads(100_000):
        assert_same_results(called(problem), expected)


def tasks():
    return len(list(Path("/proc/self/task").iterdir()))


def tasks_by_call():
    """Threads of the process after import, after small work, and after large work for 1, 2 and 3 threads."""
    counts = [tasks()]
    small = make_problem(2, 1, 4, 8)
    called(small, make_layer(small, num_threads=4))
    counts.append(tasks())
    for threads in (1, 2, 3):
        for B, H in ((12, 256), (1, 512)):
            on_threads(called, make_problem(60, B, 64, H), threads)
        counts.append(tasks())
    return counts


def test_threads_start_when_work_is_large_and_no_earlier():
    counts = np.array(in_child(tasks_by_call))
    assert (counts - counts[0]).tolist() == [0, 0, 0, 1, 2]
