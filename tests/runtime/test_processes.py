# SPDX-License-Identifier: BSD-3-Clause
"""fork, spawn and many processes; each in a child, so that a hang or a crash is a failed test."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
import warnings

import numpy as np

import fastlstm
from tests.problems.children import in_child, result_of_child, start_child
from tests.problems.comparing import assert_same_bits, assert_same_results, digest
from tests.problems.problem import make_problem
from tests.problems.running import called, make_layer, recorded, trained

# Split over rows, over units, over directions and over layers, so that every kind of waiting is there.
CASES = [
    {"T": 30, "B": 12, "I": 64, "H": 128},
    {"T": 30, "B": 1, "I": 64, "H": 300},
    {"T": 25, "B": 3, "I": 40, "H": 100, "bidirectional": True},
    {"T": 600, "B": 1, "I": 3, "H": 16, "L": 4},
    {"T": 30, "B": 12, "I": 64, "H": 128, "cell": "GRU"},
]


def fork(work):
    """Run ``work()`` in a forked process; its number, for `joined`."""
    with warnings.catch_warnings():  # Python >= 3.12 warns of fork with threads, which is the point here
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def joined(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def wait_for(condition):
    while not condition():
        os.sched_yield()


def made(threads):
    """All problems, their layers, and what these give."""
    problems = [make_problem(**case) for case in CASES]
    layers = [make_layer(problem, num_threads=threads) for problem in problems]
    return problems, layers, list(map(called, problems, layers))


def compute_everything(problems, layers, expected):
    for problem, layer, results in zip(problems, layers, expected, strict=True):
        assert_same_results(called(problem, layer), results, problem.config)


def fork_after_use():
    everything = problems, layers, _ = made(3)
    stream = layers[1].stream()
    y = stream.process(problems[1].x)
    state = stream.state

    def work():
        compute_everything(*everything)
        joined(fork(lambda: compute_everything(*everything)))  # a child of the child
        assert_same_bits(stream.state, state)
        stream.reset()
        assert_same_bits(stream.process(problems[1].x), y)

    for _ in range(3):
        child = fork(work)
        compute_everything(*everything)
        joined(child)
    children = [fork(work) for _ in range(4)]
    compute_everything(*everything)
    for child in children:
        joined(child)
    return "done"


def test_fork_after_use():
    assert in_child(fork_after_use) == "done"


def fork_while_others_compute():
    everything = problems, layers, expected = made(2)
    stop = threading.Event()
    failures = []

    def compute(number):
        try:
            while not stop.is_set():
                assert_same_results(called(problems[number], layers[number]), expected[number])
        except BaseException as error:
            failures.append(repr(error))

    workers = [threading.Thread(target=compute, args=(number,)) for number in range(len(CASES))]
    for worker in workers:
        worker.start()
    try:
        for _ in range(20):
            joined(fork(lambda: compute_everything(*everything)))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not failures, failures
    return "done"


def test_fork_while_other_threads_compute():
    assert in_child(fork_while_others_compute) == "done"


def train_in_forks():
    problem = make_problem(20, 7, 5, 33, 2, has_lengths=True, has_state=True)
    layer = make_layer(problem, num_threads=2)
    expected = trained(problem, layer)
    part = layer.flat_grads.copy()
    tapes = [recorded(problem, layer, save=save) for save in ("all", 5)]
    layer.zero_grad()

    def backward():
        for tape in tapes:  # recorded by the parent
            layer.zero_grad()
            tape.backward(problem.dy, problem.dstate)
            assert_same_bits(layer.flat_grads, part)

    def work():
        backward()
        assert_same_results(trained(problem, layer), expected)

    children = [fork(work) for _ in range(3)]
    backward()
    for child in children:
        joined(child)
    return "done"


def test_backward_in_forked_processes():
    assert in_child(train_in_forks) == "done"


def run_pickled(layer, case):
    return digest(*called(make_problem(**case), layer).values())


def spawn_from_a_process_with_a_pool():
    jobs = list(zip(made(2)[1], CASES, strict=True))
    expected = [run_pickled(*job) for job in jobs]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return [pool.starmap(run_pickled, jobs, chunksize=1), expected]


def test_multiprocessing_spawn():
    results, expected = in_child(spawn_from_a_process_with_a_pool)
    assert results == expected


def compute_much():
    return [digest(*results.values()) for _ in range(5) for results in made(2)[2]]


def test_many_processes_at_once():
    children = [start_child(compute_much) for _ in range(6)]
    results = [result_of_child(child) for child in children]
    assert all(result == results[0] for result in results)


def leave_while_computing():
    """The interpreter ends while daemon threads are in a call."""
    layer, x = fastlstm.LSTM(8, 512, num_threads=2, rng=0), np.ones((50_000, 1, 8), np.float32)
    out = np.full((50_000, 1, 512), np.nan, np.float32)
    for _ in range(2):
        threading.Thread(target=layer, args=(x,), kwargs={"out": out}, daemon=True).start()
    wait_for(lambda: not np.isnan(out[0, 0, 0]))
    return "done"


def test_leaving_while_other_threads_compute_does_not_hang():
    assert in_child(leave_while_computing) == "done"
