# SPDX-License-Identifier: BSD-3-Clause
"""Random shapes, dtypes, strides and options: right, or a clear exception; the same examples every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastlstm
from fastlstm import kernels, reference
from tests.problems import problem as maker
from tests.problems.cells import CELLS
from tests.problems.comparing import (
    TOLERANCE,
    assert_close,
    assert_right,
    assert_same_bits,
    assert_same_results,
)
from tests.problems.problem import make_problem, transformed
from tests.problems.running import called, make_layer

FLAGS = ("bidirectional", "bias", "batch_first", "has_state", "has_lengths", "is_index")


def problems(least_rows=0):
    """Any small problem of the family's cells, the LSTM as often as all others."""
    return st.builds(
        make_problem,
        T=st.integers(0, 12),
        B=st.integers(least_rows, 14),
        I=st.integers(1, 40),
        H=st.integers(1, 40),
        L=st.integers(1, 3),
        cell=st.one_of(st.just("LSTM"), st.sampled_from(CELLS)),
        dtype=st.sampled_from(maker.DTYPES),
        seed=st.integers(0, 2**20),
        **dict.fromkeys(FLAGS, st.booleans()),
    )


DTYPES = st.sampled_from(
    ["f2", "f4", "f8", "g", "<f4", ">f4", ">f8", "i1", "u2", "i8", ">i4", "?", "c8", "S1", "O"]
)


def strided(draw, array):
    """The same numbers with another memory layout: steps of any sign, a repeated or a swapped axis."""
    for axis in range(array.ndim):
        kind = draw(st.sampled_from(["plain", "reversed", "every second", "every third, reversed"]))
        if kind == "reversed":
            array = np.flip(np.flip(array, axis).copy(), axis)
        elif kind != "plain":
            step = 2 if kind == "every second" else -3
            wide = np.zeros(
                [n * abs(step) if a == axis else n for a, n in enumerate(array.shape)], array.dtype
            )
            where = tuple(slice(None, None, step if a == axis else None) for a in range(array.ndim))
            wide[where] = array
            array = wide[where]
    if array.ndim > 1 and draw(st.booleans()):
        array = np.moveaxis(np.moveaxis(array, 0, -1).copy(), -1, 0)
    return array


@given(problems())
def test_any_configuration_is_right(problem):
    assert_right(problem, called(problem), None, dtype=np.float64)


@given(problems(), st.data())
def test_strides_and_byte_order_change_no_bit(problem, data):
    layer = make_layer(problem)
    expected = called(problem, layer)
    problem.x = strided(data.draw, problem.x)
    if data.draw(st.booleans()):
        problem.x = problem.x.astype(problem.x.dtype.newbyteorder())
    problem.state = transformed(lambda a: strided(data.draw, a), problem.state)
    if "lengths" in problem.keywords:
        problem.keywords["lengths"] = strided(data.draw, problem.keywords["lengths"])
    assert_same_results(called(problem, layer), expected)


@given(problems(least_rows=1), st.integers(1, 4), st.data())
def test_threads_rows_and_cuts_change_no_bit(problem, threads, data):
    whole = called(problem, make_layer(problem, num_threads=threads))
    T, B = problem.time_first(problem.x).shape[:2]
    row = data.draw(st.integers(0, B - 1))
    length = int(problem.keywords["lengths"][row]) if "lengths" in problem.keywords else T
    x = problem.time_first(problem.x)[:, row]
    state = transformed(lambda a: a[:, row], problem.state)
    cut = length if problem.config.bidirectional else data.draw(st.integers(0, length))
    parts, alone = [], make_layer(problem, num_threads=1)
    for begin, end in ((0, cut), (cut, length)):
        if end > begin or begin == 0:
            part, state = alone(x[begin:end], state)
            parts.append(part)
    assert_same_bits(np.concatenate(parts), problem.time_first(whole["y0"])[:length, row])
    for member, value in enumerate(state if isinstance(state, tuple) else (state,)):
        assert_same_bits(value, whole[f"state{member}"][:, row])


@given(st.lists(st.integers(0, 4), max_size=4), DTYPES, st.booleans(), st.booleans())
def test_any_array_is_right_or_a_clear_exception(shape, dtype, batch_first, as_list):
    layer = fastlstm.LSTM(3, 5, batch_first=batch_first, rng=0)
    array = np.ones(shape, dtype)
    x = array.tolist() if as_list else array
    if isinstance(x, list) and not x:  # a batch of no sequences
        assert layer(x)[0] == []
        return
    kind, shape = np.asarray(x).dtype.kind, np.shape(x)
    ndim = 2 if kind in "iu" else 3
    fits = kind in "fiu" and len(shape) in (ndim - 1, ndim) and (kind in "iu" or shape[-1] == 3)
    if not fits:
        with pytest.raises((TypeError, ValueError), match=r"^x: expected .*, got "):
            layer(x)
        return
    y, (h, c) = layer(x)
    batched = len(shape) == ndim
    steps = shape[1 if batch_first and batched else 0]
    rows = (shape[0 if batch_first else 1],) if batched else ()
    assert y.shape == ((*rows, steps, 5) if batch_first else (steps, *rows, 5))
    assert h.shape == c.shape == (1, *rows, 5)
    dense = np.asarray(x, np.float64) if kind == "f" else np.eye(3)[np.asarray(x)]
    truth = reference.lstm(dense, layer.state_dict(), batch_first=batch_first, dtype=np.float64)
    assert_close((y, h, c), (truth[0], *truth[1]))


@given(st.lists(st.one_of(st.integers(-3, 12), st.floats(-2, 12), st.just(float("nan"))), max_size=6))
def test_any_lengths_are_right_or_a_clear_exception(lengths):
    layer = fastlstm.LSTM(3, 5, bidirectional=True, rng=0)
    x = np.random.default_rng(0).standard_normal((8, 4, 3)).astype(np.float32)
    if len(lengths) == 4 and all(0 <= length <= 8 and length == int(length) for length in lengths):
        y, (h, c) = layer(x, lengths=lengths)
        whole = np.array(lengths, int)
        truth = reference.lstm(x, layer.state_dict(), lengths=whole, bidirectional=True, dtype=np.float64)
        assert_close((y, h, c), (truth[0], *truth[1]))
        return
    with pytest.raises(ValueError, match=r"^lengths(\[\d\])?: expected .*, got "):
        layer(x, lengths=lengths)


@given(
    st.integers(0, 9),
    st.integers(1, 40),
    st.integers(1, 70),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.integers(0, 2**20),
    st.data(),
)
def test_the_pieces_of_any_shape_are_right(B, I, H, dtype, bias, seed, data):
    generator = np.random.default_rng(seed)
    shapes = [(B, I), (B, H), (4 * H, I), (4 * H, H), (4 * H,)][: 4 + bias]
    arguments = [generator.uniform(-1, 1, shape).astype(dtype) for shape in shapes]
    gates = kernels.gate_matmul(*(strided(data.draw, a) for a in arguments))
    truth = reference.gate_matmul(*(a.astype(np.longdouble) for a in arguments))
    bound = (I + H + 2) ** 0.5 * (I + H) ** 0.5 * np.finfo(dtype).eps
    np.testing.assert_allclose(gates, truth.astype(dtype), rtol=0, atol=bound)
    c = generator.uniform(-1, 1, (B, H)).astype(dtype)
    got = kernels.cell_update(strided(data.draw, gates), strided(data.draw, c))
    expected = reference.cell_update(gates.astype(np.longdouble), c.astype(np.longdouble))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b.astype(dtype), rtol=0, atol=TOLERANCE[np.dtype(dtype)])


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=70))
def test_activations_of_any_numbers(numbers):
    x = np.array(numbers, np.float32)
    for function, twin in ((kernels.sigmoid, reference.sigmoid), (kernels.tanh, reference.tanh)):
        got = function(x)
        truth = twin(x.astype(np.float64))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(truth))
        np.testing.assert_allclose(got, truth, rtol=0, atol=2e-7)
        assert np.all(np.isnan(x) | (np.abs(got) <= 1))
