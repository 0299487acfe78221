# SPDX-License-Identifier: BSD-3-Clause
"""What a recorded pass refuses, and what it leaves: no gradient lost, none counted twice."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import signal
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from tests.problems.helpers import Config, assert_same_bits, in_child
from tests.problems.training import Options, Training, as_tuple
from tests.refusals.test_bad_inputs import refuses
from tests.runtime.test_processes import fork, joined

T, B, I, H = 5, 3, 4, 6
X = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
STATE = (np.zeros((1, B, H), np.float32), np.zeros((1, B, H), np.float32))
DY = np.ones((T, B, H), np.float32)


@pytest.fixture
def lstm():
    return fastlstm.LSTM(I, H, rng=0)


def usable(lstm, tape=None):
    """Whether a tape made before still gives what a fresh one does."""
    twin = fastlstm.LSTM(I, H, rng=0)
    twin.load_state_dict(lstm.state_dict())
    expected = twin.forward(X).backward(DY)
    lstm.zero_grad()
    assert_same_bits((tape or lstm.forward(X)).backward(DY), expected)
    assert_same_bits(lstm.flat_grads, twin.flat_grads)


# ---- Arguments of forward ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (X[..., :-1], ValueError),
        (X[0, 0], ValueError),
        (X[np.newaxis], ValueError),
        (X.astype(complex), TypeError),
        (X > 0, TypeError),
        (X.astype(object), TypeError),
        (X.astype(str), TypeError),
        (np.ma.masked_array(X, X > 0), TypeError),
        (np.zeros((T, B, I), int), ValueError),
        (None, TypeError),
        ([[1.0], [1.0, 2.0]], TypeError),
    ],
)
def test_x(lstm, x, error):
    refuses(error, "x", lstm.forward, x)
    usable(lstm)


@pytest.mark.parametrize("index", [-1, I, 2**40])
def test_an_index_out_of_range(lstm, index):
    x = np.zeros((T, B), int)
    x[2, 1] = index
    refuses(ValueError, r"x\[2, 1\]", lstm.forward, x)
    lstm.forward(x, lengths=[5, 2, 5])  # behind the end of a row nobody looks
    usable(lstm)


@pytest.mark.parametrize(
    ("state", "error", "name"),
    [
        (STATE[0], TypeError, "state"),
        ((STATE[0],), ValueError, "state"),
        ((*STATE, STATE[0]), ValueError, "state"),
        ((STATE[0][0], STATE[1]), ValueError, r"state\[0\]"),
        ((STATE[0], STATE[1][:, :2]), ValueError, r"state\[1\]"),
        ((STATE[0], STATE[1].astype(complex)), TypeError, r"state\[1\]"),
        ((STATE[0] > 0, STATE[1]), TypeError, r"state\[0\]"),
    ],
)
def test_state_and_dstate(lstm, state, error, name):
    refuses(error, name, lstm.forward, X, state)
    tape = lstm.forward(X)
    refuses(error, f"d{name}", tape.backward, DY, state)
    usable(lstm, tape)


@pytest.mark.parametrize(
    ("lengths", "error", "name"),
    [
        ([1, 2], ValueError, "lengths"),
        ([[1, 2, 3]], ValueError, "lengths"),
        (3, ValueError, "lengths"),
        ([1, 2, T + 1], ValueError, r"lengths\[2\]"),
        ([1, -1, 2], ValueError, r"lengths\[1\]"),
        ([1.5, 1, 2], ValueError, r"lengths\[0\]"),
        (["1", "2", "3"], TypeError, "lengths"),
        ([True, True, False], TypeError, "lengths"),
    ],
)
def test_lengths(lstm, lengths, error, name):
    refuses(error, name, lstm.forward, X, lengths=lengths)
    usable(lstm)


@pytest.mark.parametrize(
    ("reset", "error"),
    [
        (np.zeros((T, B)), TypeError),
        (np.zeros((T, B), int), TypeError),
        (np.zeros((B, T), bool), ValueError),
        (np.zeros(T, bool), ValueError),
        (np.zeros((T, B, 1), bool), ValueError),
        (True, ValueError),
        ("x", TypeError),
    ],
)
def test_reset(lstm, reset, error):
    refuses(error, "reset", lstm.forward, X, reset=reset)
    usable(lstm)


@pytest.mark.parametrize(
    ("save", "error"),
    [
        ("gates", ValueError),
        ("", ValueError),
        (0, ValueError),
        (-3, ValueError),
        (2.0, TypeError),
        (True, TypeError),
        (None, TypeError),
        (2**64, OverflowError),
        (b"all", TypeError),
    ],
)
def test_save(lstm, save, error):
    refuses(error, "save", lstm.forward, X, save=save)
    usable(lstm)


@pytest.mark.parametrize(
    ("bptt", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), (False, TypeError), ("2", TypeError)],
)
def test_bptt(lstm, bptt, error):
    refuses(error, "bptt", lstm.forward, X, bptt=bptt)
    usable(lstm)


@pytest.mark.parametrize("training", [1, 0, None, "yes"])
def test_training(lstm, training):
    refuses(TypeError, "training", lstm.forward, X, training=training)
    usable(lstm)


def test_an_unknown_keyword(lstm):
    with pytest.raises(TypeError, match="out"):
        lstm.forward(X, out=DY)
    with pytest.raises(TypeError):
        lstm.forward(X, STATE, [1, 2, 3])  # keywords only, as in a call
    usable(lstm)


# ---- Arguments of backward ---------------------------------------------------------------------------------

BAD_DY = [
    (DY[:-1], ValueError),
    (DY[..., :-1], ValueError),
    (DY[0], ValueError),
    (1.0, ValueError),
    (DY.astype(complex), TypeError),
    (DY > 0, TypeError),
    (DY.astype(str), TypeError),
    ([[1.0], [1.0, 2.0]], TypeError),
]


@pytest.mark.parametrize(("dy", "error"), BAD_DY)
@pytest.mark.parametrize("save", ["all", "states", 2])
def test_dy(lstm, save, dy, error):
    tape = lstm.forward(X, save=save)
    lstm.flat_grads[:] = np.arange(lstm.flat_grads.size)
    before = lstm.flat_grads.copy()
    message = refuses(error, "dy", tape.backward, dy)
    if isinstance(dy, np.ndarray) and error is ValueError:
        assert str(DY.shape) in message
        assert str(dy.shape) in message
    assert_same_bits(lstm.flat_grads, before)
    usable(lstm, tape)


def test_the_message_has_the_shape_that_the_layer_has():
    layer = fastlstm.LSTM(4, 3, batch_first=True, bidirectional=True, rng=0)
    tape = layer.forward(np.zeros((2, 5, 4), np.float32))
    with pytest.raises(ValueError, match=r"^dy: expected shape \(2, 5, 6\), got \(5, 2, 6\)$"):
        tape.backward(np.zeros((5, 2, 6)))


# ---- A tape is for one use ---------------------------------------------------------------------------------


def test_a_second_backward_is_refused(lstm):
    tape = lstm.forward(X)
    y = tape.y.copy()
    tape.backward(DY)
    before = lstm.flat_grads.copy()
    with pytest.raises(RuntimeError, match="second"):
        tape.backward(DY)
    with pytest.raises(RuntimeError, match="second"):
        tape.backward("not even looked at")
    assert_same_bits(lstm.flat_grads, before)
    assert_same_bits(tape.y, y)
    usable(lstm)


def edit(lstm):
    with lstm.editing() as flat:
        flat[0] += 1


CHANGES = [
    edit,
    lambda lstm: lstm.load_state_dict(lstm.state_dict()),
    lambda lstm: optim.SGD(lstm, 0.1).step(),
    lambda lstm: optim.Adam(lstm).step(),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("save", ["all", 2])
def test_a_tape_of_other_parameters_is_refused(lstm, save, change):
    tape = lstm.forward(X, save=save)
    lstm.flat_grads[:] = 1
    change(lstm)
    before = lstm.flat_grads.copy()
    with pytest.raises(RuntimeError, match="parameters"):
        tape.backward(DY)
    assert_same_bits(lstm.flat_grads, before)
    usable(lstm)


def test_parameters_that_were_not_changed_after_all_are_no_others(lstm):
    tape = lstm.forward(X)
    with contextlib.suppress(KeyError), lstm.editing() as flat:
        flat[:] = 0
        raise KeyError
    with pytest.raises(ValueError, match="mapping"):
        lstm.load_state_dict({})
    usable(lstm, tape)


def test_a_tape_is_made_by_forward_alone_and_stays_in_its_process(lstm):
    tape = lstm.forward(X)
    with pytest.raises(TypeError, match="forward"):
        type(tape)()
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="pickle the layer"):
            copied(tape)
    for name in ("y", "state", "nbytes"):
        with pytest.raises(AttributeError):
            setattr(tape, name, None)
    with pytest.raises(ValueError, match="read-only"):
        tape.y[0] = 0
    usable(lstm, tape)


def test_a_tape_outlives_the_variable_of_its_layer(lstm):
    expected = lstm.forward(X).backward(DY)
    tape = lstm.forward(X, save=2)
    del lstm
    gc.collect()
    scratch = [np.full(60000, np.nan, np.float32) for _ in range(20)]
    assert_same_bits(tape.backward(DY), expected)
    del scratch


def test_results_outlive_the_tape_and_later_passes(lstm):
    tape = lstm.forward(X, STATE)
    results = tape.y, *tape.state, *(pair := tape.backward(DY))[1], pair[0]
    before = tuple(a.copy() for a in results)
    del tape
    for _ in range(3):
        lstm.forward(2 * X).backward(3 * DY)
    assert_same_bits(results, before)
    assert not any(np.shares_memory(a, lstm.flat_grads) for a in results)


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
    training = Training(Config(T=9, B=4, I=5, H=7, L=2, has_state=True, has_lengths=True), Options(reset=0.2))
    expected = training.run()
    layer = training.layer()
    given = [a.copy() for a in (training.x, *training.case.state, training.case.lengths, training.reset)]
    x, h_0, c_0, lengths, reset = map(wrapped, given)
    tape = layer.forward(x, (h_0, c_0), lengths=lengths, reset=reset)
    for array in given:
        array[...] = 1
    dx, states = tape.backward(training.dy, training.dstate)
    assert_same_bits((dx, *states), (expected["dx"], expected["dh_0"], expected["dc_0"]))
    for name, value in layer.grads.items():
        assert_same_bits(value, expected[name], name)


# ---- Gradients add up --------------------------------------------------------------------------------------


def pass_of(seed, **options):
    return Training(Config(T=20, B=7, I=5, H=33, L=2, has_lengths=True, has_state=True, seed=seed), **options)


def alone(layer, training):
    """Gradients of one pass on a layer that has none yet."""
    layer.zero_grad()
    training.forward(layer).backward(training.dy, training.dstate)
    return layer.flat_grads.copy()


def test_gradients_of_tapes_add_up_exactly():
    first, second, third = map(pass_of, range(3))
    layer = first.layer()
    parts = [alone(layer, training) for training in (first, second, third)]
    layer.zero_grad()
    tapes = [
        training.forward(layer, save) for training, save in ((first, "all"), (second, 3), (third, "states"))
    ]
    total = np.zeros_like(parts[0])
    for number in (1, 0, 2):  # in any order
        tapes[number].backward((first, second, third)[number].dy, (first, second, third)[number].dstate)
        total += parts[number]
        assert_same_bits(layer.flat_grads, total, number)
    for name, value in layer.grads.items():
        assert np.shares_memory(value, layer.flat_grads), name


def test_exceptions_in_between_change_nothing():
    first, second = pass_of(0), pass_of(1)
    layer = first.layer()
    parts = [alone(layer, training) for training in (first, second)]
    layer.zero_grad()
    tape = first.forward(layer)
    for dy, _ in BAD_DY:
        with pytest.raises((TypeError, ValueError)):
            tape.backward(dy)
        with pytest.raises((TypeError, ValueError)):
            first.forward(layer, lengths=[99])
    assert not layer.flat_grads.any()
    tape.backward(first.dy, first.dstate)
    assert_same_bits(layer.flat_grads, np.zeros_like(parts[0]) + parts[0])
    with pytest.raises(RuntimeError):
        tape.backward(first.dy, first.dstate)
    second.forward(layer).backward(second.dy, second.dstate)
    assert_same_bits(layer.flat_grads, parts[0] + parts[1])


def test_gradients_that_are_in_the_way_are_refused_or_kept():
    """flat_grads is one array from the first use on; what stands in it is added to, whatever it is."""
    layer = fastlstm.LSTM(I, H, rng=0)
    flat = layer.flat_grads
    flat[:] = np.nan
    layer.forward(X).backward(DY)
    assert np.isnan(flat).all()
    layer.zero_grad()
    assert layer.flat_grads is flat
    usable(layer)


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


# ---- Signals and processes ---------------------------------------------------------------------------------


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


def ctrl_c(threads, save):
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
    assert in_child(ctrl_c, threads, save) == [True] * 3


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


def train_in_forks():
    training = pass_of(0)
    layer = training.layer(num_threads=2)
    expected = training.run(layer)
    part = layer.flat_grads.copy()
    tapes = [training.forward(layer, save) for save in ("all", 5)]
    layer.zero_grad()

    def work():
        for tape in tapes:  # recorded by the parent
            layer.zero_grad()
            tape.backward(training.dy, training.dstate)
            assert_same_bits(layer.flat_grads, part)
        assert_same_bits(as_tuple(training.run(layer)), as_tuple(expected))

    children = [fork(work) for _ in range(3)]
    for tape in tapes:
        layer.zero_grad()
        tape.backward(training.dy, training.dstate)
        assert_same_bits(layer.flat_grads, part)
    for child in children:
        joined(child)
    return os.getpid() > 0


def test_backward_in_forked_processes():
    assert in_child(train_in_forks) is True
