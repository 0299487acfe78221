# SPDX-License-Identifier: BSD-3-Clause
"""Forms of arguments: any array-like, strides, byte order and dtype, indices, with and without a batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_same_bits, assert_same_results
from tests.problems.presenting import Tensor, variants_of
from tests.problems.problem import DTYPES, WHOLE, arrays_of, make_problem, problem_of, problems, transformed
from tests.problems.running import called, make_layer, named, trained

T, B, I, H = 4, 3, 5, 6
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, B, I)).astype(np.float32)


@pytest.fixture(scope="module")
def lstm():
    return fastlstm.LSTM(I, H, rng=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_array_like_of_any_layout(dtype):
    for options in ({}, {"L": 2, "bidirectional": True}, {"peephole": True}, {"cell": "GRU"}):
        problem = make_problem(T, B, I, H, has_state=True, dtype=dtype, **options)
        layer = make_layer(problem)
        expected = layer(problem.x, problem.state)
        for name, x in variants_of(problem.x):
            assert_same_bits(layer(x, problem.state), expected, name)
        members = arrays_of(problem.state)
        for parts in zip(*map(variants_of, members), strict=True):
            state = [value for _, value in parts]
            state = state if len(members) > 1 else state[0]
            if isinstance(state, tuple) and not isinstance(problem.state, tuple):
                continue  # a tuple is a state of several members
            assert_same_bits(layer(problem.x, state), expected, parts[0][0])
        stepped = fastlstm.LSTMCell(I, H, dtype=dtype, rng=1)
        stream = None if options.get("bidirectional") else layer.stream(B)
        for name, x in variants_of(problem.x[1]):
            assert_same_bits(stepped(x), stepped(problem.x[1]), name)
            if stream is not None:
                stream.state = problem.state
                stream.step(problem.x[0])
                assert_same_bits(stream.step(x), expected[0][1], name)


def test_a_view_that_repeats_a_row(lstm):
    row = X[:, :1]
    y, _ = lstm(np.broadcast_to(row, (T, B, I)))
    assert_same_bits(y, np.repeat(lstm(row)[0], B, axis=1))
    y, _ = lstm(np.broadcast_to(X[0], (T, B, I)))
    assert_same_bits(y, lstm(np.stack([X[0]] * T))[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble])
def test_other_floating_dtypes_are_cast_as_same_kind(lstm, dtype):
    x = RNG.standard_normal((T, B, I)).astype(dtype)
    state = tuple(RNG.standard_normal((1, B, H)).astype(dtype) for _ in "hc")
    expected = lstm(x.astype(np.float32), tuple(s.astype(np.float32) for s in state))
    assert_same_bits(lstm(x, state), expected)
    wide = fastlstm.LSTM(I, H, dtype=np.float64)
    assert_same_bits(wide(X), wide(X.astype(np.float64)))


def test_an_overflow_in_the_cast_is_infinity_and_a_warning_as_in_numpy(lstm):
    x = X.astype(np.float64)
    x[1, 1, 1] = 1e300
    expected = X.copy()
    expected[1, 1, 1] = np.inf
    with pytest.warns(RuntimeWarning, match="overflow encountered in cast"):
        y = lstm(x)[0]
    assert_same_bits(y, lstm(expected)[0])


def test_dlpack_is_asked_for_and_bytes_are_not_copied(lstm):
    tensor = Tensor(X)
    assert_same_bits(lstm(tensor)[0], lstm(X)[0])
    assert tensor.exports >= 1


def strided(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 7, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


KINDS = {
    "other dtypes": lambda a: a.astype({"f": np.float64, "i": np.int32}.get(a.dtype.kind, a.dtype)),
    "lists": lambda a: a.tolist(),
    "Fortran": np.asfortranarray,
    "byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "strided": strided,
    "backwards": lambda a: a[::-1].copy()[::-1],
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_arguments_of_a_pass_may_be_of_any_kind(kind):
    """x, states, lengths, masks, resets and gradients, through a call, forward and backward."""
    function = KINDS[kind]
    # With one layer of one part the binding reads the arguments, with more layers of other sizes passes do.
    for dtype in DTYPES:
        for problem in problems(6, dtype, 1500, is_batched=True):
            is_empty = any(0 in a.shape for a in arrays_of(problem.x))
            assert not is_empty
            given = {name: function(getattr(problem, name)) for name in ("x", "dy")}
            states = {}
            for name in ("state", "dstate"):
                value = getattr(problem, name)
                states[name] = nested_lists(value, function)
            if problem.dcells is not None:
                given["dcells"] = function(problem.dcells)
            names = {"mask", "reset", "lengths"} & set(problem.keywords)
            given |= {name: function(problem.keywords[name]) for name in names}
            others = {"bptt": None if problem.bptt is None else np.int64(problem.bptt), "training": np.True_}
            if kind == "lists":
                given["x"] = problem.x if problem.x.size == 0 else given["x"]
            assert_same_results(
                trained(problem, **given, **states, **others), trained(problem), problem.config
            )
            of_call = {
                n: v for n, v in (given | states).items() if n in ("x", "state", "lengths", "mask", "reset")
            }
            assert_same_results(called(problem, **of_call), called(problem), problem.config)


def nested_lists(value, function):
    """A state, or a gradient of one, of other arrays, a list in place of each tuple."""
    if isinstance(value, tuple):
        return [nested_lists(member, function) for member in value]
    return None if value is None else function(value)


def test_integers_of_any_dtype_and_layout_are_indices(lstm):
    x = RNG.integers(0, I, (T, B))
    expected = lstm(np.eye(I, dtype=np.float32)[x])[0]
    for dtype in "bhilqBHILQ":
        assert_same_bits(lstm(x.astype(dtype))[0], expected, dtype)
    assert_same_bits(lstm(x.tolist())[0], expected)
    assert_same_bits(lstm(np.asfortranarray(x))[0], expected)
    assert_same_bits(lstm(x[::-1][::-1])[0], expected)
    assert_same_bits(lstm(x.astype(">i8"))[0], expected)
    assert_same_bits(lstm(np.repeat(x, 2, 1)[:, ::2])[0], expected)
    assert_same_bits(lstm(x[:, 1])[0], expected[:, 1])
    assert_same_bits(fastlstm.LSTM(I, H, batch_first=True, rng=0)(x.T)[0], expected.swapaxes(0, 1).copy())
    # (T, B) with B = I is ambiguous to the eye only.
    square = RNG.integers(0, I, (T, I))
    assert lstm(square)[0].shape == (T, I, H)


def test_lengths_of_any_integer_dtype_and_layout(lstm):
    lengths = np.array([2, 0, 4])
    expected = lstm(X, lengths=lengths)
    for dtype in "bhilqBHILQ":
        assert_same_bits(lstm(X, lengths=lengths.astype(dtype)), expected, dtype)
    for given in (
        [2, 0, 4],
        (2, 0, 4),
        np.repeat(lengths, 2)[::2],
        lengths[::-1].copy()[::-1],
        lengths.astype(">i4"),
    ):
        assert_same_bits(lstm(X, lengths=given), expected)
    assert_same_bits(lstm(X, lengths=[T] * B), lstm(X))


# ---- With and without a batch ------------------------------------------------------------------------------


def test_the_batch_may_be_first():
    for problem in problems(6, start=1100, batch_first=True, is_batched=True):
        names = ("x", "dy", "dcells")
        sequences = {name: problem.time_first(getattr(problem, name)) for name in names}
        keywords = {
            n: problem.time_first(v) if n in ("mask", "reset") else v for n, v in problem.keywords.items()
        }
        second = dataclasses.replace(problem, **sequences, keywords=keywords).with_options(batch_first=False)
        expected = trained(second)
        for name in {"y0", "cells0", "dx0"} & set(expected):
            expected[name] = expected[name].swapaxes(0, 1)
        assert_same_results(trained(problem), expected, problem.config)


def test_one_sequence_is_a_batch_of_one():
    for problem in problems(8, start=1200, is_batched=False):
        keywords = {n: v[:, np.newaxis] if n in ("mask", "reset") else v for n, v in problem.keywords.items()}
        changes = {
            name: transformed(lambda a: a[:, np.newaxis], getattr(problem, name))
            for name in ("x", "dy", "dcells", "state", "dstate")
        }
        batch = dataclasses.replace(problem, **changes, keywords=keywords).with_options(batch_first=False)
        for save in ("all", 2):
            got, expected = trained(problem, save=save), trained(batch, save=save)
            for name, value in expected.items():
                if name in ("y0", "cells0", "dx0") or name.strip("0123456789") in ("state", "dstate"):
                    expected[name] = value[:, 0].copy()
            assert_same_results(got, expected, problem.config)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("is_index", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("L", [1, 2])
def test_no_steps_or_no_rows_is_an_empty_result(L, T, B, is_index, batch_first):
    for cell in CELLS:
        for bidirectional in (False, True):
            for has_lengths in (False, True):
                problem = make_problem(
                    T, B, I, H, L, cell=cell, bidirectional=bidirectional, batch_first=batch_first,
                    has_state=True, is_index=is_index,
                )  # fmt: skip
                given = {"lengths": np.zeros(B, int)} if has_lengths else {}
                got = called(problem, **given)
                shape = (B, T) if batch_first else (T, B)
                assert got.pop("y0").shape == (*shape, (1 + bidirectional) * H)
                assert_same_results(got, named("state", problem.state))
                got = called(problem, state=None, **given)
                assert not any(value.any() for value in got.values())
                assert {v.shape for n, v in got.items() if n != "y0"} == {(L * (1 + bidirectional), B, H)}


def test_nothing_at_all_for_cells_streams_and_unbatched(lstm):
    h, c = fastlstm.LSTMCell(I, H)(np.zeros((0, I), np.float32))
    assert h.shape == c.shape == (0, H)
    stream = lstm.stream(B)
    assert stream.process(np.zeros((0, B, I))).shape == (0, B, H)
    assert not stream.state[0].any()
    y, (h, c) = lstm(np.zeros((0, I)))
    assert (y.shape, h.shape, c.shape) == ((0, H), (1, H), (1, H))


@pytest.mark.parametrize(
    ("shape", "batch_first", "y_shape", "state_shape"),
    [
        ((T, B, I), False, (T, B, H), (1, B, H)),
        ((B, T, I), True, (B, T, H), (1, B, H)),
        ((T, I), False, (T, H), (1, H)),
        ((T, I), True, (T, H), (1, H)),
    ],
)
def test_shapes_are_those_of_torch(shape, batch_first, y_shape, state_shape):
    y, (h, c) = fastlstm.LSTM(I, H, batch_first=batch_first)(np.zeros(shape))
    assert y.shape == y_shape
    assert h.shape == c.shape == state_shape


# ---- Where results go --------------------------------------------------------------------------------------


def test_out_receives_y():
    for problem in problems(8, start=1400):
        expected = called(problem)
        layer = make_layer(problem)
        for kind in (np.ndarray, type("Subclass", (np.ndarray,), {})):  # as arrays in files are
            out = np.full_like(expected["y0"], np.nan, order="C").view(kind)
            got = called(problem, layer, out=out)
            assert got["y0"] is out
            got["y0"] = np.asarray(out)
            assert_same_results(got, expected, problem.config)


def test_whole_rows_of_streams_and_cells_receive_theirs():
    for cell in CELLS:
        problem = problem_of(7, cell, bidirectional=False, reverse=False, **WHOLE)
        x = problem.time_first(problem.x)
        streams = [make_layer(problem).stream(x.shape[1]) for _ in range(4)]
        out = np.full_like(expected := streams[0].step(x[0]), np.nan)
        assert streams[1].step(x[0], out=out) is out
        assert_same_bits(out, expected)
        block = np.full_like(expected := streams[2].process(problem.x), np.nan, order="C")
        assert streams[3].process(problem.x, out=block) is block
        assert_same_bits(block, np.ascontiguousarray(expected))
    cell, pair = fastlstm.LSTMCell(I, H, rng=0), tuple(np.zeros((B, H), np.float32) for _ in "hc")
    h, c = cell(X[0], out=pair)
    assert h is pair[0]
    assert c is pair[1]
    assert_same_bits(pair, cell(X[0]))
