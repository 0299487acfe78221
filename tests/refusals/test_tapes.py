# SPDX-License-Identifier: BSD-3-Clause
"""What a recorded pass and its tape refuse, and that a refusal loses nothing and counts nothing twice."""

from __future__ import annotations

import contextlib
import copy
import pickle

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from tests.objects.kinds import FAMILY, batch, build, differ, every_trained_kind
from tests.problems.comparing import assert_same_bits

from .checks import refuses

T, B, I, H = 4, 3, 5, 6
X = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
STATE = (np.zeros((1, B, H), np.float32), np.zeros((1, B, H), np.float32))
DY = np.ones((T, B, H), np.float32)
ROWS = [X[:3, 0].copy(), X[:0, 1].copy(), X[:, 2].copy()]


@pytest.fixture
def lstm():
    return build("LSTM")


def usable(lstm, tape=None):
    """Whether a tape made before still gives what a fresh one does."""
    twin = build("LSTM")
    twin.load_state_dict(lstm.state_dict())
    expected = twin.forward(X).backward(DY)
    lstm.zero_grad()
    assert_same_bits((tape or lstm.forward(X)).backward(DY), expected)
    assert_same_bits(lstm.flat_grads, twin.flat_grads)


# ---- Arguments of forward ----------------------------------------------------------------------------------


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
def test_a_reset_of_another_shape_or_dtype(lstm, reset, error):
    for kind in ("LSTM", "sizes", "GRU"):
        refuses(error, "reset", build(kind).forward, X, reset=reset)
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
def test_what_cannot_be_saved(lstm, save, error):
    for kind in ("LSTM", "sizes", "GRU"):
        refuses(error, "save", build(kind).forward, X, save=save)
    usable(lstm)


@pytest.mark.parametrize(
    ("bptt", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), (False, TypeError), ("2", TypeError)],
)
def test_a_truncation_that_is_no_number_of_steps(lstm, bptt, error):
    for kind in ("LSTM", "sizes", "GRU"):
        refuses(error, "bptt", build(kind).forward, X, bptt=bptt)
    usable(lstm)


@pytest.mark.parametrize("training", [1, 0, None, "yes"])
def test_training_that_is_no_bool(lstm, training):
    refuses(TypeError, "training", lstm.forward, X, training=training)
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
def test_a_gradient_of_y_that_does_not_fit(lstm, save, dy, error):
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
def test_a_gradient_of_a_state_that_does_not_fit(lstm, state, error, name):
    tape = lstm.forward(X)
    refuses(error, f"d{name}", tape.backward, DY, state)
    usable(lstm, tape)


def test_a_list_of_rows_wants_a_list_of_gradients(lstm):
    tape = lstm.forward(ROWS)
    dy = [np.ones_like(row) for row in tape.y]
    refuses(TypeError, "dy", tape.backward, np.concatenate(dy))
    refuses(ValueError, "dy", tape.backward, dy[:2])
    refuses(ValueError, r"dy\[1\]", tape.backward, [dy[0], dy[0], dy[2]])
    dx, dstate = tape.backward(dy)
    packed = lstm.forward(np.concatenate(ROWS), offsets=[0, 3, 3, 7])
    expected, dstate_of_packed = packed.backward(np.concatenate(dy))
    assert [row.shape for row in dx] == [row.shape for row in ROWS]
    assert_same_bits(np.concatenate(dx), expected)
    assert_same_bits(dstate, dstate_of_packed)


# ---- A tape is for one use ---------------------------------------------------------------------------------

PASSES = {
    "plain": ("LSTM", {}),
    "cells": ("SLSTM", {"return_cells": True}),
    "mask": ("GRU", {"mask": np.eye(4, 3, dtype=bool)}),
    "sizes": ("sizes", {"lengths": [4, 0, 2]}),
    "residual": ("residual", {}),
    "joined": ("all joined", {}),
    "list": ("LSTM", {"lengths": [1, 4, 0], "save": 2}),
    "reverse": ("reverse", {"lengths": [1, 2, 3]}),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_tape_is_for_one_use_and_a_refusal_loses_nothing(name):
    kind, given = PASSES[name]
    layer, x = build(kind), batch(build(kind))
    dy = np.ones_like(layer.forward(x, training=False, **given).y)
    expected = layer.forward(x, training=False, **given).backward(dy)
    grads = layer.flat_grads.copy()
    layer.flat_grads[:] = 1
    tape = layer.forward(x, training=False, **given)
    for bad in (dy[:-1], dy[..., :-1], dy > 0):
        with pytest.raises((TypeError, ValueError), match=r"^dy: expected .* got "):
            tape.backward(bad)
    if tape.cells is None:
        refuses(ValueError, "dcells", tape.backward, dy, None, dy)
    for attribute in ("y", "state", "cells", "nbytes"):
        with pytest.raises(AttributeError):
            setattr(tape, attribute, None)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="pickle the layer"):
            copied(tape)
    with pytest.raises(TypeError, match="forward"):
        type(tape)()
    with pytest.raises(ValueError, match="read-only"):
        tape.y[...] = 0
    assert (layer.flat_grads == 1).all()
    layer.zero_grad()
    assert_same_bits(tape.backward(dy), expected)
    assert_same_bits(layer.flat_grads, grads)
    with pytest.raises(RuntimeError, match="second"):
        tape.backward(dy)
    tape = layer.forward(x, **given)
    with layer.editing() as flat:
        flat[0] += 1
    with pytest.raises(RuntimeError, match="parameters"):
        tape.backward(dy)
    assert_same_bits(layer.flat_grads, grads)


@pytest.mark.parametrize("name", PASSES)
def test_a_backward_pass_is_alone_from_the_reading_of_its_arguments_on(name):
    """Reading them may run anything: another thread, or code of the caller's."""
    kind, given = PASSES[name]
    layer = build(kind)
    tape = layer.forward(batch(layer), training=False, **given)
    dy = np.ones_like(tape.y)
    seen = []

    class Gradient:
        def __array__(self, dtype=None, copy=None):
            with pytest.raises(RuntimeError, match=r"^tape: expected one call at a time, got "):
                tape.backward(dy)
            seen.append(layer.flat_grads.any())
            return dy.astype(np.float64)

    tape.backward(Gradient())
    assert seen == [False]
    grads = layer.flat_grads.copy()
    with pytest.raises(RuntimeError, match="second"):
        tape.backward(dy)
    layer.zero_grad()
    layer.forward(batch(layer), training=False, **given).backward(dy)
    assert_same_bits(layer.flat_grads, grads)


def edit(layer):
    with layer.editing() as flat:
        flat[0] += 1


CHANGES = [
    edit,
    lambda layer: layer.load_state_dict(layer.state_dict()),
    lambda layer: optim.SGD(layer, 0.1).step(),
    lambda layer: optim.Adam(layer).step(),
]


@every_trained_kind
@pytest.mark.parametrize("change", CHANGES)
def test_a_tape_of_other_parameters_is_refused(kind, change):
    for given in ({}, {"save": 2}) if kind in FAMILY else ({},):
        layer = build(kind)
        x = batch(layer)
        tape = layer.forward(x, **given)
        layer.flat_grads[:] = 1
        change(layer)
        before = layer.flat_grads.copy()
        with pytest.raises(RuntimeError, match=r"since|parameters"):
            tape.backward(np.ones_like(tape.y))
        assert_same_bits(layer.flat_grads, before)
        layer.forward(x).backward(np.ones_like(tape.y))
        assert differ(layer.flat_grads, before)


@every_trained_kind
def test_a_second_backward_is_refused(kind):
    layer = build(kind)
    tape = layer.forward(batch(layer))
    y, dy = tape.y.copy(), np.ones_like(tape.y)
    tape.backward(dy)
    once = layer.flat_grads.copy()
    for given in (dy, "not even looked at"):
        with pytest.raises(RuntimeError, match="second"):
            tape.backward(given)
    assert_same_bits(layer.flat_grads, once)
    assert_same_bits(tape.y, y)
    with pytest.raises(ValueError, match="read-only"):
        tape.y[...] = 0


def test_parameters_that_were_not_changed_after_all_are_no_others(lstm):
    tape = lstm.forward(X)
    with contextlib.suppress(KeyError), lstm.editing() as flat:
        flat[:] = 0
        raise KeyError
    with pytest.raises(ValueError, match="mapping"):
        lstm.load_state_dict({})
    usable(lstm, tape)
