# SPDX-License-Identifier: BSD-3-Clause
"""fork, spawn, many processes, and Ctrl-C; each in a child, so that a hang or a crash is a failed test."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
import warnings

import numpy as np
import pytest

import fastlstm
from tests.problems.helpers import (
    Case,
    Config,
    assert_same_bits,
    digest,
    in_child,
    result_of_child,
    start_child,
)

# Split over rows, over units, over directions and over layers, so that every kind of waiting is there.
CONFIGS = [
    Config(T=30, B=12, I=64, H=128),
    Config(T=30, B=1, I=64, H=300),
    Config(T=25, B=3, I=40, H=100, bidirectional=True),
    Config(T=600, B=1, I=3, H=16, L=4),
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


def compute_everything(layers, expected):
    for case, layer, result in zip(map(Case, CONFIGS), layers, expected, strict=True):
        assert_same_bits(case.run(layer), result, case.config)


def fork_after_use():
    cases = [Case(config) for config in CONFIGS]
    layers = [case.layer(num_threads=3) for case in cases]
    expected = [case.run(layer) for case, layer in zip(cases, layers, strict=True)]
    stream = layers[1].stream()
    y = stream.process(cases[1].x)
    state = stream.state

    def work():
        compute_everything(layers, expected)
        joined(fork(lambda: compute_everything(layers, expected)))  # a child of the child
        assert_same_bits(stream.state, state)
        stream.reset()
        assert_same_bits(stream.process(cases[1].x), y)

    for _ in range(3):
        child = fork(work)
        compute_everything(layers, expected)
        joined(child)
    children = [fork(work) for _ in range(4)]
    compute_everything(layers, expected)
    for child in children:
        joined(child)
    return "done"


def test_fork_after_use():
    assert in_child(fork_after_use) == "done"


def fork_while_others_compute():
    cases = [Case(config) for config in CONFIGS]
    layers = [case.layer(num_threads=2) for case in cases]
    expected = [case.run(layer) for case, layer in zip(cases, layers, strict=True)]
    stop = threading.Event()
    failures = []

    def compute(number):
        try:
            while not stop.is_set():
                assert_same_bits(cases[number].run(layers[number]), expected[number])
        except BaseException as error:
            failures.append(repr(error))

    workers = [threading.Thread(target=compute, args=(number,)) for number in range(len(CONFIGS))]
    for worker in workers:
        worker.start()
    try:
        for _ in range(20):
            joined(fork(lambda: compute_everything(layers, expected)))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not failures, failures
    return "done"


def test_fork_while_other_threads_compute():
    assert in_child(fork_while_others_compute) == "done"


def run_pickled(layer, config):
    return digest(*Case(config).run(layer))


def spawn_from_a_process_with_a_pool():
    jobs = []
    for config in CONFIGS:
        case = Case(config)
        layer = case.layer(num_threads=2)
        jobs.append((layer, config, digest(*case.run(layer))))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(run_pickled, [job[:2] for job in jobs], chunksize=1)
    return [results, [job[2] for job in jobs]]


def test_multiprocessing_spawn():
    results, expected = in_child(spawn_from_a_process_with_a_pool)
    assert results == expected


def compute_much():
    return [
        digest(*Case(config).run(Case(config).layer(num_threads=2))) for config in CONFIGS for _ in range(5)
    ]


def test_many_processes_at_once():
    children = [start_child(compute_much) for _ in range(6)]
    results = [result_of_child(child) for child in children]
    assert all(result == results[0] for result in results)


def leave_while_computing():
    """The interpreter ends while daemon threads are in a call."""
    case = Case(Config(T=50_000, B=1, I=8, H=512))
    layer = case.layer(num_threads=2)
    out = np.full((50_000, 1, 512), np.nan, np.float32)
    for _ in range(2):
        threading.Thread(target=layer, args=(case.x,), kwargs={"out": out}, daemon=True).start()
    wait_for(lambda: not np.isnan(out[0, 0, 0]))
    return "done"


def test_leaving_while_other_threads_compute_does_not_hang():
    assert in_child(leave_while_computing) == "done"


def wait_for(condition):
    while not condition():
        os.sched_yield()


def interrupted(call, out):
    """Call, and send SIGINT once the first output is there; whether the call ended before its last output."""

    def interrupt():
        wait_for(lambda: not np.isnan(out.flat[0]))
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    interrupter.join()
    return bool(np.isnan(out.flat[-1]))


def ctrl_c(threads):
    """Long calls of every schedule; afterwards the layer must give what it gave before."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    outcomes = {}
    for name, config in {
        "units": Config(T=30_000, B=1, I=4, H=512),
        "rows": Config(T=2000, B=48, I=64, H=512),
        "stack": Config(T=20_000, B=1, I=4, H=512, L=8),
        "layers": Config(T=1_000_000, B=1, I=1, H=16, L=24),
        "ragged": Config(T=2000, B=48, I=64, H=512, has_lengths=True),
    }.items():
        case = Case(config)
        if case.lengths is not None:
            case.lengths = np.maximum(case.lengths, 1500)
            case.lengths[[0, -1]] = config.T
        layer = case.layer(num_threads=threads)
        short, (h, c) = layer(case.x[:5])
        out = np.full((config.T, config.B, config.H), np.nan, np.float32)
        outcomes[name] = interrupted(lambda: layer(case.x, lengths=case.lengths, out=out), out)  # noqa: B023
        y, state = layer(case.x[:5])
        assert_same_bits((y, *state), (short, h, c))
    stream = fastlstm.LSTM(4, 512, 8).stream()
    stream.step(np.ones(4))
    before = stream.state
    out = np.full((20_000, 512), np.nan, np.float32)
    outcomes["stream"] = interrupted(lambda: stream.process(np.zeros((20_000, 4), np.float32), out=out), out)
    assert_same_bits(stream.state, before)
    assert np.isfinite(stream.step(np.ones(4))).all()
    return outcomes


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_in_a_long_call_raises_and_the_layer_stays_usable(threads):
    outcomes = in_child(ctrl_c, threads)
    assert len(outcomes) == 6
    assert all(outcomes.values()), outcomes


def handled_signals():
    """A signal whose handler returns does not end the call; the result is that of an undisturbed one."""
    case = Case(Config(T=3000, B=16, I=64, H=128))
    layer = case.layer(num_threads=2)
    expected = case.run(layer)
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    out = np.full((3000, 16, 128), np.nan, np.float32)

    def disturb():
        wait_for(lambda: not np.isnan(out.flat[0]))
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGUSR1)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    y, (h, c) = layer(case.x, out=out)
    disturber.join()
    assert_same_bits((y, h, c), expected)
    return len(seen)


def test_a_signal_that_is_handled_changes_nothing():
    assert in_child(handled_signals) >= 1
