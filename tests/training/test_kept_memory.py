# SPDX-License-Identifier: BSD-3-Clause
"""What a tape keeps does not change when the caller's memory does."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import FAMILY, build
from tests.problems.comparing import assert_same_bits
from tests.problems.problem import arrays_of

T, B = 5, 3


def slice_of(a):
    return a[:]


def wide(a):
    return np.broadcast_to(a, a.shape)


def owner(a):
    """The owner is read-only, and a view of before is not."""
    return a


READ_ONLY = {"a view": slice_of, "a broadcast": wide, "the owner": owner}
FORMS = {
    "whole": {},
    "lengths": {"lengths": [5, 0, 2]},
    "holes": {"mask": np.arange(T)[:, None] != [1, 2, 3]},
    "reset": {"reset": np.arange(T)[:, None] == [0, 2, 3]},
}


@pytest.mark.parametrize("save", ["all", "states", 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", READ_ONLY.values(), ids=READ_ONLY)
@pytest.mark.parametrize("name", FAMILY)
def test_gradients_are_those_of_the_arguments_of_the_call(name, make, form, save):
    results = []
    for spoils in (False, True):
        layer = build(name)
        x = np.random.default_rng(0).standard_normal((T, B, layer.input_size)).astype(np.float32)
        state = layer(x)[1]
        given = {key: np.array(value) for key, value in FORMS[form].items()}
        handle = x[...]
        kept = make(x)
        kept.setflags(write=False)
        tape = layer.forward(kept, state, save=save, training=False, **given)
        dy = np.ones_like(tape.y)
        if spoils:
            for array in (handle, *arrays_of(state), *given.values(), *arrays_of(tape.state)):
                array[...] = 1
        dx, dstate = tape.backward(dy)
        results.append([dx, layer.flat_grads, *arrays_of(dstate)])
    assert_same_bits(*results)


def test_an_output_of_a_tape_is_read_only_for_good_and_not_copied_again():
    first, second = fastlstm.LSTM(3, 3, rng=0), fastlstm.LSTM(3, 3, rng=1)
    for options in ({}, {"lengths": [5, 2, 0]}, {"mask": FORMS["holes"]["mask"]}):
        below = first.forward(np.ones((T, B, 3), np.float32), **options)
        with pytest.raises(ValueError, match="WRITEABLE"):
            below.y.setflags(write=True)
        with pytest.raises(ValueError, match="WRITEABLE"):
            below.y[1:].setflags(write=True)
        second.forward(below.y)
    rows = first.forward([np.ones((2, 3), np.float32), np.ones((1, 3), np.float32)])
    for row in rows.y:
        with pytest.raises(ValueError, match="WRITEABLE"):
            row.setflags(write=True)


def test_an_embedding_keeps_its_indices():
    layer = fastlstm.Embedding(4, 2, rng=0)
    index = np.array([[0, 1], [1, 1]])
    lists = [np.array([0, 1]), np.array([1])]
    for x, want in ((index, [1, 3, 0, 0]), (lists, [1, 2, 0, 0])):
        layer.zero_grad()
        tape = layer.forward(x)
        for array in x:
            array[...] = 3
        tape.backward([np.ones_like(row) for row in tape.y] if x is lists else np.ones_like(tape.y))
        assert layer.grads["weight"][:, 0].tolist() == want
