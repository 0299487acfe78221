# SPDX-License-Identifier: BSD-3-Clause
"""Messages name the argument, what was expected and what came; calls have their true signatures."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels, losses
from tests.objects.kinds import CELLS_OF_ONE_STEP, KINDS, LAYERS, build
from tests.refusals.checks import refuses

X = np.ones((2, 1, 3), np.float32)
h = np.zeros((1, 1, 4), np.float32)
CALL = ["x", "state", "lengths", "mask", "reset", "offsets", "pad", "return_cells", "out"]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_have_their_signatures(kind):
    layer = build(kind)
    for call in (layer, layer.__call__):
        names = list(inspect.signature(call).parameters)
        if kind in ("Dense", "Embedding"):
            assert names == ["x"]
        else:
            assert names == (["x", "state", "out"] if kind in CELLS_OF_ONE_STEP else CALL)
    assert "input_size" in str(inspect.signature(type(layer))) or kind in ("Dense", "Embedding")
    if hasattr(layer, "forward"):
        assert "args" not in inspect.signature(layer.forward).parameters
    if hasattr(layer, "input_size"):
        x = np.ones((2, layer.input_size), layer.dtype)
        first, second = layer(x), layer.__call__(x)
        np.testing.assert_array_equal(np.asarray(first[0]), np.asarray(second[0]))


def test_streams_tapes_and_pieces_have_their_signatures():
    stream = fastlstm.LSTM(3, 4).stream()
    tape = fastlstm.LSTM(3, 4).forward(X)
    for call, names in ((stream.step, ["x", "out"]), (stream.process, ["x", "out"]), (stream.reset, None)):
        if names:
            assert list(inspect.signature(call).parameters) == names
    assert list(inspect.signature(tape.backward).parameters) == ["dy", "dstate", "dcells", "grads", "keep"]
    for name in kernels.__all__:
        assert "args" not in inspect.signature(getattr(kernels, name)).parameters
    defaults = inspect.signature(fastlstm.LSTM(3, 4).__call__).parameters
    assert defaults["pad"].default == "zero"
    assert defaults["return_cells"].default is False


def test_true_types_in_messages():
    lstm, gru = fastlstm.LSTM(3, 4), fastlstm.GRU(3, 4)
    for dtype in ("u1", "i2", "i8"):
        assert f"of {np.dtype(dtype)}" in refuses(ValueError, "x", lstm, np.ones((2, 1, 3), dtype))
    assert "got None" in refuses(TypeError, r"state\[1\]", lstm, X, (h, None))
    assert "got None" in refuses(TypeError, "x", lstm, None)
    assert "one state" in refuses(TypeError, "state", gru, X, (h, h))
    assert "one state" in refuses(TypeError, "state", gru, X, (h, None))
    assert "got None" in refuses(TypeError, "logits", losses.softmax_cross_entropy, None, [1])
    assert "complex" in refuses(TypeError, "x", gru, X.astype(complex))


@pytest.mark.parametrize("kind", [*LAYERS, "Dense", "Embedding"])
def test_a_generator_is_refused_at_the_assignment(kind):
    layer = build(kind)
    before = layer.rng
    for bad in (3, None, "a", np.random):
        with pytest.raises(TypeError, match=r"^rng: expected a numpy.random.Generator, got "):
            layer.rng = bad
    assert layer.rng is before
    layer.rng = np.random.default_rng(1)


def test_a_stream_of_too_many_rows():
    with pytest.raises(
        (MemoryError, OverflowError), match=r"^batch_size: expected .* got 1099511627776 rows"
    ):
        fastlstm.LSTM(3, 4).stream(2**40)


def test_one_rule_for_lengths():
    layer = fastlstm.GRU(3, 4)
    calls = (
        lambda lengths: layer(X, lengths=lengths),
        lambda lengths: losses.mse(X, X, lengths=lengths),
        lambda lengths: losses.softmax_cross_entropy(X, [[0], [1]], lengths=lengths),
        lambda lengths: fastlstm.GRU(3, 4, reverse=True).forward(X, lengths=lengths),
    )
    for call in calls:
        for good in ([2], [2.0], np.array([1], np.uint8), (0,)):
            call(good)
        for bad, name in (
            ([1.5], r"lengths\[0\]"),
            ([np.nan], r"lengths\[0\]"),
            ([3], r"lengths\[0\]"),
            ([1, 1], "lengths"),
        ):
            refuses(ValueError, name, call, bad)
        for bad in ([True], ["1"], [1j], [None]):
            with pytest.raises(TypeError, match=r"^lengths(\[0\])?: expected .* got "):
                call(bad)
