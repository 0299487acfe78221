# SPDX-License-Identifier: BSD-3-Clause
"""What a call refuses: each error names the argument, what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import LAYERS, build
from tests.problems.comparing import assert_same_bits

from .checks import refuses

T, B, I, H = 4, 3, 5, 6
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, B, I)).astype(np.float32)
STATE = (np.zeros((1, B, H), np.float32), np.zeros((1, B, H), np.float32))


@pytest.fixture(scope="module")
def lstm():
    return fastlstm.LSTM(I, H, rng=0)


@pytest.fixture(scope="module")
def bidirectional():
    return fastlstm.LSTM(I, H, 2, bidirectional=True, rng=0)


# A call and a recorded pass, through the binding at once and in parts.
@pytest.fixture(
    scope="module", params=["LSTM", "stack", "sizes", "GRU", "residual", "recorded", "recorded sizes"]
)
def call(request):
    kind = request.param.removeprefix("recorded ").replace("recorded", "LSTM")
    layer = build(kind)
    return layer.forward if request.param.startswith("recorded") else layer


@pytest.fixture(scope="module", params=["call", "recorded"])
def call_of_lstm(request, lstm):
    return lstm if request.param == "call" else lstm.forward


# ---- x -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(), (5,), (1, T, B, I), (T, B, I + 1), (T, B, I - 1), (T, I + 1), (T, B, 0)]
)
def test_x_of_a_wrong_shape(call, shape):
    assert str(shape) in refuses(ValueError, "x", call, np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(), (T, B, I), (1, T, B, I)])
def test_integer_x_of_a_wrong_rank_says_that_integers_are_indices(call, shape):
    message = refuses(ValueError, "x", call, np.zeros(shape, np.int64))
    assert "indices" in message
    assert "integer" in message


@pytest.mark.parametrize(
    "x",
    [
        X.astype(np.complex64),
        X.astype(bool),
        X.astype(object),
        X.astype(str),
        np.zeros((T, B, I), "datetime64[s]"),
        np.zeros((T, B), [("a", float)]),
        np.ma.masked_array(X, X > 0),
        "text",
        None,
        object(),
        {"a": 1},
    ],
    ids=lambda x: str(getattr(x, "dtype", type(x).__name__)),
)
def test_x_that_is_not_of_real_numbers(call, x):
    refuses(TypeError, "x", call, x)


def test_x_that_is_ragged(call):
    with pytest.raises((TypeError, ValueError), match=r"^x: expected .* got "):
        call([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64])
@pytest.mark.parametrize("bad", [-1, I, I + 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_index_out_of_range(dtype, bad, threads):
    x = np.zeros((T, B), dtype)
    x[2, 1] = np.array(bad).astype(dtype)
    layer = fastlstm.LSTM(I, H, num_threads=threads)
    message = refuses(ValueError, r"x\[2, 1\]", layer, x)
    assert f"from 0 to {I - 1}" in message
    assert message.endswith(f"got {x[2, 1]}")
    refuses(ValueError, r"x\[2\]", layer, x[:, 1])
    refuses(ValueError, r"x\[1, 2\]", fastlstm.LSTM(I, H, batch_first=True), x.T)
    refuses(ValueError, r"x\[1\]", fastlstm.LSTMCell(I, H), x[2])
    refuses(ValueError, r"x\[1\]", layer.stream(B).step, x[2])
    refuses(ValueError, r"x\[2, 1\]", layer.stream(B).process, x)
    refuses(ValueError, r"x\[2, 1\]", layer.forward, x)
    layer.forward(x, lengths=[T, 2, T])  # behind the end of a row nobody looks
    assert np.isfinite(layer(np.zeros((T, B), dtype))[0]).all()


def test_a_huge_unsigned_index_is_out_of_range(call):
    refuses(ValueError, r"x\[0, 0\]", call, np.full((T, B), 2**63 + 1, np.uint64))


# ---- state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "shape", [(1, B, H + 1), (1, B + 1, H), (2, B, H), (B, H), (1, 1, B, H), (), (1, B, 0)]
)
def test_a_state_of_a_wrong_shape(call_of_lstm, index, shape):
    state = list(STATE)
    state[index] = np.zeros(shape, np.float32)
    message = refuses(ValueError, rf"state\[{index}\]", call_of_lstm, X, tuple(state))
    assert str((1, B, H)) in message
    assert str(shape) in message


def test_a_state_of_a_wrong_shape_unbatched_bidirectional_and_of_a_cell(lstm, bidirectional):
    refuses(ValueError, r"state\[0\]", lstm, X[:, 0], STATE)
    refuses(ValueError, r"state\[1\]", bidirectional, X, (np.zeros((4, B, H)), np.zeros((2, B, H))))
    cell = fastlstm.LSTMCell(I, H)
    refuses(ValueError, r"state\[0\]", cell, X[0], STATE)
    refuses(ValueError, r"state\[1\]", cell, X[0], (np.zeros((B, H)), np.zeros((1, H))))


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (STATE[:1], ValueError),
        ((*STATE, STATE[0]), ValueError),
        ((), ValueError),
        (np.zeros((1, B, H)), TypeError),
        (5, TypeError),
        ("hc", TypeError),
    ],
)
def test_a_state_that_is_no_pair(call_of_lstm, state, error):
    refuses(error, "state", call_of_lstm, X, state)
    refuses(error, "state", fastlstm.LSTMCell(I, H), X[0], state)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("bad", [np.zeros((1, B, H), complex), np.zeros((1, B, H), bool), None, "h"])
def test_a_state_that_is_not_of_real_numbers(call_of_lstm, index, bad):
    state = list(STATE)
    state[index] = bad
    with pytest.raises((TypeError, ValueError), match=rf"^state\[{index}\]: expected .*, got "):
        call_of_lstm(X, tuple(state))


# ---- lengths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, T + 1, 2**62, -(2**62)])
@pytest.mark.parametrize("row", [0, 2])
def test_a_length_that_is_negative_or_too_long(call, bad, row):
    lengths = np.full(B, 2)
    lengths[row] = bad
    message = refuses(ValueError, rf"lengths\[{row}\]", call, X, lengths=lengths)
    assert str(bad) in message
    assert str(T) in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.5, 1e300])
def test_a_length_that_is_nan_or_no_whole_number(call, bad):
    refuses(ValueError, r"lengths\[1\]", call, X, lengths=[1, bad, 2])


@pytest.mark.parametrize(
    "lengths",
    [np.zeros(B, complex), np.zeros(B, bool), np.zeros(B, object), ["1", "2", "3"], "123", object()],
)
def test_lengths_that_are_not_integers(call, lengths):
    refuses(TypeError, "lengths", call, X, lengths=lengths)


@pytest.mark.parametrize("shape", [(), (B + 1,), (B - 1,), (0,), (B, 1), (1, B)])
def test_lengths_of_a_wrong_shape(call, shape):
    message = refuses(ValueError, "lengths", call, X, lengths=np.zeros(shape, int))
    assert str(shape) in message


def test_a_huge_unsigned_length_is_too_long(call):
    refuses(ValueError, r"lengths\[1\]", call, X, lengths=np.array([1, 2**63 + 2, 0], np.uint64))


# ---- Streams, sizes, the rest ------------------------------------------------------------------------------


def test_after_a_bad_index_a_stream_has_its_state_of_before(lstm):
    stream = lstm.stream(B)
    stream.process(X)
    before = stream.state
    refuses(ValueError, r"x\[1, 0\]", stream.process, np.array([[0] * B, [I] * B]))
    assert_same_bits(stream.state, before)


def test_batches_that_overflow(lstm):
    for batch_size in (2**61, 2**70):
        with pytest.raises((OverflowError, MemoryError)):
            lstm.stream(batch_size)
    # Views of one number cost no memory, but their output would.
    for shape in ((2**58, 1, I), (1, 2**58, I), (2**30, 2**28, I)):
        with pytest.raises((OverflowError, MemoryError, ValueError)):
            lstm(np.broadcast_to(np.float32(0), shape))


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True}])
@pytest.mark.parametrize("cls", LAYERS.values())
def test_a_layer_that_runs_from_the_end_is_no_stream(cls, options):
    refuses(ValueError, "stream", cls(I, H, **options).stream)


def test_a_streams_input_and_state_are_checked(lstm):
    stream = lstm.stream(B)
    for shape in ((I,), (B, I + 1), (B + 1, I), (1, B, I), ()):
        refuses(ValueError, "x", stream.step, np.zeros(shape, np.float32))
    for shape in ((T, I), (T, B, I + 1), (T, B + 1, I), (1, T, B, I)):
        refuses(ValueError, "x", stream.process, np.zeros(shape, np.float32))
    refuses(TypeError, "x", stream.step, "x")
    for index in range(2):
        for shape in ((B, H), (1, B + 1, H), (2, B, H)):
            state = list(STATE)
            state[index] = np.zeros(shape)
            refuses(ValueError, rf"state\[{index}\]", setattr, stream, "state", tuple(state))
    refuses(TypeError, "state", setattr, stream, "state", None)
    assert not stream.state[0].any()


def test_unknown_and_missing_arguments_are_type_errors(call, lstm):
    for arguments, keywords in (((), {}), ((X, None, [1]), {}), ((X,), {"length": [1, 2, 3]})):
        with pytest.raises(TypeError):
            call(*arguments, **keywords)
    with pytest.raises(TypeError, match="outs"):
        lstm.forward(X, outs=X)
    with pytest.raises(TypeError):
        fastlstm.LSTM(3)


def test_a_failed_call_leaves_the_layer_as_it_was(lstm):
    expected = lstm(X)
    for bad in (X[..., :2], "x", np.full((T, B), 99)):
        with pytest.raises((TypeError, ValueError)):
            lstm(bad)
    assert_same_bits(lstm(X), expected)
