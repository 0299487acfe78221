# SPDX-License-Identifier: BSD-3-Clause
"""What is a batch of sequences and what is one array, for every container and every member."""

from __future__ import annotations

import array
import collections
import itertools

import numpy as np
import pytest

import fastlstm
from fastlstm import losses, reference
from tests.refusals.checks import refuses

I, H = 3, 4


class Array:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class Tensor(Array):
    """Exported without a copy, and with a sign that only its owner knows."""

    is_negated = False

    def __dlpack__(self, **how):
        return self.values.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()

    def is_neg(self):
        return self.is_negated

    def resolve_neg(self):
        return Tensor(-self.values)


class Sub(np.ndarray):
    pass


class Rows(list):
    pass


class Indexed:
    """A length and members, and nothing else."""

    def __init__(self, members):
        self.members = list(members)

    def __len__(self):
        return len(self.members)

    def __getitem__(self, n):
        return self.members[n]


MEMBERS = {
    "ndarray": np.asarray,
    "subclass": lambda a: a.view(Sub),
    "__array__": Array,
    "tensor": Tensor,
    "memoryview": memoryview,
    "Fortran": np.asfortranarray,
    "float64": lambda a: a.astype(np.float64),
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
}
CONTAINERS = {"list": list, "tuple": tuple, "deque": collections.deque, "subclass": Rows, "members": Indexed}
NUMBERS = np.random.default_rng(0).standard_normal((2, 5, I)).astype(np.float32)


def gru(**options):
    return fastlstm.GRU(I, H, rng=0, **options)


LENGTHS = [(5, 5), (5, 2), (0, 4), (0, 0)]
OPTIONS = [{}, {"reverse": True}, {"bidirectional": True, "merge": "sum"}]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(("first", "second"), list(itertools.product(MEMBERS, MEMBERS)))
def test_arrays_with_time_are_sequences(first, second, container):
    for lengths in LENGTHS:
        check_sequences(first, second, container, lengths, {})


@pytest.mark.parametrize("options", OPTIONS[1:])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("member", MEMBERS)
def test_they_are_so_in_any_direction(member, container, options):
    """What a batch is is known before any layer sees it: each member, beside itself and beside an array."""
    for lengths in LENGTHS:
        check_sequences(member, member, container, lengths, options)
        check_sequences(member, "ndarray", container, lengths, options)


def check_sequences(first, second, container, lengths, options):
    layer = gru(**options)
    rows = [row[:n] for row, n in zip(NUMBERS, lengths, strict=True)]
    want = [layer(row)[0] for row in rows]
    if 0 in lengths and "memoryview" in (first, second):
        first = second = "__array__"
    x = CONTAINERS[container]([MEMBERS[first](rows[0]), MEMBERS[second](rows[1])])
    y, _ = layer(x)
    tape = layer.forward(x)
    assert isinstance(y, list)
    for got, kept, expected in zip(y, tape.y, want, strict=True):
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(kept, expected)
    dx, _ = tape.backward([np.ones_like(row) for row in tape.y])
    assert [row.shape for row in dx] == [row.shape for row in rows]


@pytest.mark.parametrize("container", CONTAINERS)
def test_one_array_beside_lists_of_numbers_makes_a_batch(container):
    layer = gru()
    a, b = NUMBERS
    for pair in ([a, b.tolist()], [a.tolist(), b], [a, list(b)], [a, tuple(map(tuple, b.tolist()))]):
        y, _ = layer(CONTAINERS[container](pair))
        assert isinstance(y, list)
        for got, row in zip(y, NUMBERS, strict=True):
            np.testing.assert_array_equal(got, layer(row)[0])


@pytest.mark.parametrize("container", CONTAINERS)
def test_indices_are_sequences(container):
    layer = gru()
    rows = [np.array([0, 1, 2]), array.array("i", [2, 1]), Array(np.array([1]))]
    y, _ = layer(CONTAINERS[container](rows))
    for got, row in zip(y, ([0, 1, 2], [2, 1], [1]), strict=True):
        np.testing.assert_array_equal(got, layer(row)[0])


def test_lists_of_numbers_and_of_frames_are_one_array():
    layer = gru()
    want = layer(NUMBERS)[0]
    np.testing.assert_array_equal(layer(NUMBERS.tolist())[0], want)
    np.testing.assert_array_equal(layer(tuple(NUMBERS.tolist()))[0], want)
    frames = list(NUMBERS[0])
    for x in (frames, tuple(frames), [Array(row) for row in frames], [Tensor(row) for row in frames]):
        np.testing.assert_array_equal(layer(x)[0], layer(NUMBERS[0])[0])
    assert layer([1, np.int64(2), 0])[0].shape == (3, H)
    assert layer([[1, 2], [0, 0], [1, 1]])[0].shape == (3, 2, H)
    assert layer(range(3))[0].shape == (3, H)


a, b = NUMBERS
AMBIGUOUS = {
    "lists of unequal lengths": [a.tolist(), b[:2].tolist()],
    "lists of lists of arrays": [[a, b], [a, b]],
    "lists of frames": [list(a), list(b)],
    "lists of frames of unequal lengths": [list(a), list(b[:2])],
    "none": None,
    "a member None": [a, None],
    "None first": [None, a],
    "a number": [a, 1.0],
    "a frame": [a, a[0]],
    "four dimensions": [NUMBERS, NUMBERS],
    "masked": [np.ma.masked_array(a[0]), a[1]],
    "text": ["a", "b"],
    "objects": [object()],
    "a set": {1.0, 2.0},
    "a generator": (row for row in a),
}


@pytest.mark.parametrize("x", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_is_neither_is_refused_by_name(x):
    for call in (gru(), gru().forward, gru(reverse=True)):
        with pytest.raises((TypeError, ValueError), match=r"^x(\[\d\])*: expected (.|\n)*got "):
            call(x)


def test_a_list_that_holds_itself_is_refused():
    x = []
    x.append(x)
    with pytest.raises((TypeError, ValueError), match=r"^x"):
        gru()(x)


def test_packed_sequences_are_named():
    PackedSequence = collections.namedtuple(
        "PackedSequence", ["data", "batch_sizes", "sorted_indices", "unsorted_indices"]
    )
    packed = PackedSequence(a, np.array([1] * 5), None, None)
    calls = (
        gru(),
        gru().forward,
        gru().stream().process,
        fastlstm.Embedding(3, 2),
        lambda x: losses.mse(x, x),
    )
    for call in calls:
        with pytest.raises(TypeError, match=r"^(x|y): expected .* got a PackedSequence"):
            call(packed)


@pytest.mark.parametrize("empty", [[], (), collections.deque()])
def test_no_sequences_are_a_batch_of_none(empty):
    for kind in ("LSTM", "GRU", "RNN", "SLSTM", "MinGRU"):
        for options in ({}, {"reverse": True}, {"residual": 0}, {"bidirectional": True}):
            layer = getattr(fastlstm, kind)(H, H, rng=0, **options)
            y, state = layer(empty, reset=[])
            assert y == []
            assert (state[0] if isinstance(state, tuple) else state).shape[1] == 0
            dx, _ = layer.forward(empty).backward([])
            assert dx == []
            assert not layer.flat_grads.any()
    table = fastlstm.Embedding(3, 2)
    assert table(empty) == []
    assert table.forward(empty).backward([]) is None
    assert losses.mse(empty, []) == (0.0, [])
    assert losses.softmax_cross_entropy(empty, []) == (0.0, [])
    x, lengths = reference.pad_ragged(empty)
    assert x.shape[:2] == (0, 0)
    assert lengths.shape == (0,)


def test_where_a_batch_of_sequences_has_no_meaning_it_is_refused():
    square = np.zeros((2, 2, I), np.float32)
    layer = gru()
    refuses(TypeError, "x", layer.stream(2).process, list(square))
    refuses(TypeError, "mask", layer, square, mask=list(np.ones((2, 2), bool)[:, None]))
    tape = layer.forward(square)
    refuses(TypeError, "dy", tape.backward, list(np.ones_like(tape.y)))
    refuses(TypeError, "targets", losses.softmax_cross_entropy, square, [np.zeros(2, int), np.zeros(2, int)])
    refuses(TypeError, "x", layer, list(square), offsets=[0, 2])


def test_embedding_and_losses_take_what_a_ragged_call_takes_and_gives():
    table, layer = fastlstm.Embedding(7, I, rng=0), gru()
    rows = [np.array([0, 1, 6]), np.array([2]), np.array([], int)]
    tape = table.forward(rows)
    for got, row in zip(tape.y, rows, strict=True):
        np.testing.assert_array_equal(got, table(row))
    y, _ = layer(tape.y)
    value, dy = losses.softmax_cross_entropy(y, [np.zeros(len(row), int) for row in rows])
    whole, dwhole = losses.softmax_cross_entropy(np.concatenate(y), np.zeros(4, int))
    assert value == whole
    np.testing.assert_array_equal(np.concatenate(dy), dwhole)
    value, dy = losses.mse(y, [row + 1 for row in y], mask=[np.ones(len(row), bool) for row in rows])
    assert value == pytest.approx(1)
    tape.backward([np.ones_like(row) for row in tape.y])
    np.testing.assert_array_equal(table.grads["weight"][:, 0], [1, 1, 1, 0, 0, 0, 1])
    refuses(ValueError, "targets", losses.softmax_cross_entropy, y, [np.zeros(3, int)])
    refuses(ValueError, r"targets\[1\]", losses.softmax_cross_entropy, y, [np.zeros(3, int)] * 3)
    refuses(ValueError, "lengths", losses.mse, y, y, lengths=[3, 1, 0])


def test_a_sign_that_is_a_note_beside_the_memory_counts():
    layer = gru()
    negated = Tensor(a)
    negated.is_negated = True
    want = layer(-a)[0]
    np.testing.assert_array_equal(layer(negated)[0], want)
    np.testing.assert_array_equal(layer([negated, negated])[0][1], want)
    state = Tensor(np.ones((1, H), np.float32))
    state.is_negated = True
    np.testing.assert_array_equal(layer(a, state)[0], layer(a, -state.values)[0])
    assert losses.mse(negated, -a)[0] == 0
    assert losses.mse(-a, negated)[0] == 0
