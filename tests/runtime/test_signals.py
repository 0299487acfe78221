# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C and other signals in long calls and passes; each in a child, so that a hang is a failed test."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

import fastlstm
from tests.problems.children import in_child
from tests.problems.comparing import assert_same_bits

from .test_processes import wait_for

# ---- Calls -------------------------------------------------------------------------------------------------


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
    rng, outcomes = np.random.default_rng(0), {}
    for name, (T, B, I, H, L) in {
        "units": (30_000, 1, 4, 512, 1),
        "rows": (2000, 48, 64, 512, 1),
        "stack": (20_000, 1, 4, 512, 8),
        "layers": (1_000_000, 1, 1, 16, 24),
        "ragged": (2000, 48, 64, 512, 1),
    }.items():
        x, lengths = rng.standard_normal((T, B, I), dtype=np.float32), None
        if name == "ragged":
            lengths = np.maximum(rng.integers(0, T + 1, B), 1500)
            lengths[[0, -1]] = T
        layer = fastlstm.LSTM(I, H, L, num_threads=threads, rng=0)
        short = layer(x[:5])
        out = np.full((T, B, H), np.nan, np.float32)
        outcomes[name] = interrupted(lambda: layer(x, lengths=lengths, out=out), out)  # noqa: B023
        assert_same_bits(layer(x[:5]), short)
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
    layer = fastlstm.LSTM(64, 128, num_threads=2, rng=0)
    x = np.random.default_rng(0).standard_normal((3000, 16, 64), dtype=np.float32)
    expected = layer(x)
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    out = np.full((3000, 16, 128), np.nan, np.float32)

    def disturb():
        wait_for(lambda: not np.isnan(out.flat[0]))
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGUSR1)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    got = layer(x, out=out)
    disturber.join()
    assert_same_bits(got, expected)
    return len(seen)


def test_a_signal_that_is_handled_changes_nothing():
    assert in_child(handled_signals) >= 1


# ---- Recorded passes ---------------------------------------------------------------------------------------


def was_interrupted(call):
    """Send a signal, from a timer, to a call that takes far longer; whether its exception came out of it."""
    place = []

    def handler(number, frame):
        place.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        call()
    except KeyboardInterrupt:
        return bool(place)
    return False


def interrupt_backward(threads, save):
    """Whether a signal ended a backward pass of a second or more; everything must be as it was."""
    T = 6000
    layer = fastlstm.LSTM(4, 256, num_threads=threads, rng=0)
    layer.flat_grads[:] = 3
    x = np.random.default_rng(0).standard_normal((T, 8, 4)).astype(np.float32)
    tape = layer.forward(x, save=save)
    dy = np.ones_like(tape.y)
    ended = []
    for _ in range(3):
        ended.append(was_interrupted(lambda: tape.backward(dy)))
        assert (layer.flat_grads == 3).all()
    dx, states = tape.backward(dy)
    grads = layer.flat_grads.copy()
    layer.flat_grads[:] = 3
    expected = layer.forward(x).backward(dy)
    assert_same_bits((dx, states), expected)
    assert_same_bits(grads, layer.flat_grads)
    return ended


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("save", ["all", "states", 500])
def test_a_signal_ends_a_long_backward_and_leaves_everything_as_it_was(threads, save):
    assert in_child(interrupt_backward, threads, save) == [True] * 3


def forward_interrupted():
    layer = fastlstm.LSTM(4, 256, rng=0)
    x = np.random.default_rng(0).standard_normal((20000, 8, 4)).astype(np.float32)
    ended = was_interrupted(lambda: layer.forward(x))
    short = layer.forward(x[:50])
    results = short.backward(np.ones_like(short.y))
    twin = fastlstm.LSTM(4, 256, rng=0)
    tape = twin.forward(x[:50])
    assert_same_bits(results, tape.backward(np.ones_like(tape.y)))
    return ended


def test_a_signal_ends_a_long_forward():
    assert in_child(forward_interrupted) is True


def handlers_that_train():
    """A handler that uses the layer in the middle of its backward pass: both passes count."""
    layer = fastlstm.LSTM(4, 256, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((3000, 8, 4))
    small = layer.forward(x[:20])
    small.backward(np.ones_like(small.y))
    part = layer.flat_grads.copy()
    layer.zero_grad()
    tape = layer.forward(x)
    dy = np.ones_like(tape.y)
    tape.backward(dy)
    whole = layer.flat_grads.copy()
    layer.zero_grad()
    tape = layer.forward(x)
    seen = []

    def handler(number, frame):
        try:
            tape.backward(dy)
        except RuntimeError as error:
            seen.append(str(error))
        inner = layer.forward(x[:20])
        inner.backward(np.ones_like(inner.y))

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    tape.backward(dy)
    assert_same_bits(layer.flat_grads, np.zeros_like(part) + part + whole)
    return seen


def test_a_signal_handler_may_use_the_layer():
    (message,) = in_child(handlers_that_train)
    assert message.startswith("tape: expected one call at a time")
