# SPDX-License-Identifier: BSD-3-Clause
"""What a call refuses: each error names the argument, what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.problems.helpers import assert_same_bits

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


def refuses(error, name, call, *arguments, **keywords):
    """The message begins with the argument, and tells what was expected and what came."""
    with pytest.raises(error, match=rf"^{name}: expected (.|\n)*got ") as caught:
        call(*arguments, **keywords)
    assert type(caught.value) is error
    return str(caught.value)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# ---- x -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(), (5,), (1, T, B, I), (T, B, I + 1), (T, B, I - 1), (T, I + 1), (T, B, 0)]
)
def test_x_of_a_wrong_shape(lstm, bidirectional, shape):
    for layer in (lstm, bidirectional):
        message = refuses(ValueError, "x", layer, np.zeros(shape, np.float32))
        assert str(shape) in message


@pytest.mark.parametrize("shape", [(), (T, B, I), (1, T, B, I)])
def test_integer_x_of_a_wrong_rank_says_that_integers_are_indices(lstm, shape):
    message = refuses(ValueError, "x", lstm, np.zeros(shape, np.int64))
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
def test_x_that_is_not_of_real_numbers(lstm, x):
    refuses(TypeError, "x", lstm, x)


def test_x_that_is_ragged(lstm):
    with pytest.raises((TypeError, ValueError), match=r"^x: expected .* got "):
        lstm([[1.0, 2.0], [3.0]])


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
    assert np.isfinite(layer(np.zeros((T, B), dtype))[0]).all()


def test_a_huge_unsigned_index_is_out_of_range(lstm):
    refuses(ValueError, r"x\[0, 0\]", lstm, np.full((T, B), 2**63 + 1, np.uint64))


def test_after_a_bad_index_a_stream_has_its_state_of_before(lstm):
    stream = lstm.stream(B)
    stream.process(X)
    before = stream.state
    refuses(ValueError, r"x\[1, 0\]", stream.process, np.array([[0] * B, [I] * B]))
    assert_same_bits(stream.state, before)


# ---- state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "shape", [(1, B, H + 1), (1, B + 1, H), (2, B, H), (B, H), (1, 1, B, H), (), (1, B, 0)]
)
def test_a_state_of_a_wrong_shape(lstm, index, shape):
    state = list(STATE)
    state[index] = np.zeros(shape, np.float32)
    message = refuses(ValueError, rf"state\[{index}\]", lstm, X, tuple(state))
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
def test_a_state_that_is_no_pair(lstm, state, error):
    refuses(error, "state", lstm, X, state)
    refuses(error, "state", fastlstm.LSTMCell(I, H), X[0], state)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("bad", [np.zeros((1, B, H), complex), np.zeros((1, B, H), bool), None, "h"])
def test_a_state_that_is_not_of_real_numbers(lstm, index, bad):
    state = list(STATE)
    state[index] = bad
    with pytest.raises((TypeError, ValueError), match=rf"^state\[{index}\]: expected .*, got "):
        lstm(X, tuple(state))


# ---- lengths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, T + 1, 2**62, -(2**62)])
@pytest.mark.parametrize("row", [0, 2])
def test_a_length_that_is_negative_or_too_long(lstm, bidirectional, bad, row):
    lengths = np.full(B, 2)
    lengths[row] = bad
    for layer in (lstm, bidirectional):
        message = refuses(ValueError, rf"lengths\[{row}\]", layer, X, lengths=lengths)
        assert str(bad) in message
        assert str(T) in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.5, 1e300])
def test_a_length_that_is_nan_or_no_whole_number(lstm, bad):
    refuses(ValueError, r"lengths\[1\]", lstm, X, lengths=[1, bad, 2])


@pytest.mark.parametrize(
    "lengths",
    [np.zeros(B, complex), np.zeros(B, bool), np.zeros(B, object), ["1", "2", "3"], "123", object()],
)
def test_lengths_that_are_not_integers(lstm, lengths):
    refuses(TypeError, "lengths", lstm, X, lengths=lengths)


@pytest.mark.parametrize("shape", [(), (B + 1,), (B - 1,), (0,), (B, 1), (1, B)])
def test_lengths_of_a_wrong_shape(lstm, shape):
    message = refuses(ValueError, "lengths", lstm, X, lengths=np.zeros(shape, int))
    assert str(shape) in message


def test_a_huge_unsigned_length_is_too_long(lstm):
    refuses(ValueError, r"lengths\[1\]", lstm, X, lengths=np.array([1, 2**63 + 2, 0], np.uint64))


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


# ---- out ---------------------------------------------------------------------------------------------------


def fresh(*shape):
    return np.zeros(shape, np.float32)


WRONG_OUTS = [
    (fresh(T, B, H + 1), ValueError),
    (fresh(B, T, H), ValueError),
    (fresh(T, B), ValueError),
    (fresh(T * B * H), ValueError),
    (np.zeros((T, B, H)), ValueError),
    (np.zeros((T, B, H), np.int32), ValueError),
    (np.zeros((T, B, H), ">f4"), ValueError),
    (np.asfortranarray(fresh(T, B, H)), ValueError),
    (fresh(T, B, 2 * H)[..., ::2], ValueError),
    (fresh(2 * T, B, H)[::2], ValueError),
    (fresh(T, B, H)[::-1], ValueError),
    (read_only(fresh(T, B, H)), ValueError),
    (np.zeros(4 * T * B * H + 1, np.uint8)[1:].view(np.float32).reshape(T, B, H), ValueError),
    (np.ma.masked_array(fresh(T, B, H)), TypeError),
    (fresh(T, B, H).tolist(), TypeError),
    (memoryview(fresh(T, B, H)), TypeError),
    (5, TypeError),
]


@pytest.mark.parametrize(("out", "error"), WRONG_OUTS)
def test_an_out_of_wrong_shape_dtype_or_layout(lstm, out, error):
    refuses(error, "out", lstm, X, out=out)


def test_an_out_of_a_cell_or_a_stream_is_checked_as_well(lstm):
    cell, stream = fastlstm.LSTMCell(I, H), lstm.stream(B)
    good = fresh(B, H)
    wrong = [fresh(B, H + 1), fresh(B, 2 * H)[:, ::2], np.zeros((B, H)), read_only(good), fresh(H, B).T]
    for bad in wrong:
        refuses(ValueError, r"out\[0\]", cell, X[0], out=(bad, good))
        refuses(ValueError, r"out\[1\]", cell, X[0], out=(good, bad))
        refuses(ValueError, "out", stream.step, X[0], out=bad)
    refuses(ValueError, "out", stream.process, X, out=fresh(T, B, H + 1))
    refuses(ValueError, "out", stream.process, X, out=fresh(B, T, H).swapaxes(0, 1))
    refuses(TypeError, "out", cell, X[0], out=good)
    refuses(ValueError, "out", cell, X[0], out=(good,))
    refuses(TypeError, r"out\[0\]", cell, X[0], out=(None, good))
    assert not stream.state[0].any()


def test_an_out_that_overlaps_an_input(lstm):
    square = fastlstm.LSTM(H, H, rng=0)
    memory = np.zeros(4 * T * B * H, np.float32)
    x = memory[: T * B * H].reshape(T, B, H)
    for shift in (0, 1, H, T * B * H - 1):
        out = memory[shift : shift + T * B * H].reshape(T, B, H)
        refuses(ValueError, "out", square, x, out=out)
    after = memory[T * B * H : 2 * T * B * H].reshape(T, B, H)
    assert square(x, out=after)[0] is after
    out = fresh(1, B, H)
    refuses(ValueError, "out", square, x[:1], (out, STATE[1]), out=out)
    refuses(ValueError, "out", square, x[:1], (STATE[0], out), out=out)
    lengths = np.zeros(B, np.int64)
    refuses(
        ValueError,
        "out",
        fastlstm.LSTM(I, 2),
        fresh(1, B, I),
        lengths=lengths,
        out=lengths.view(np.float32).reshape(1, B, 2),
    )
    wide = fresh(T, B, H).astype(np.float64)
    refuses(
        ValueError, "out", square, wide, out=wide.view(np.float32).reshape(-1)[: T * B * H].reshape(T, B, H)
    )
    # Next to each other in one buffer, even interleaved, is no overlap.
    pair = np.zeros((T, 2, B, H), np.float32)
    square(pair[:, 0], out=fresh(T, B, H))
    both = np.zeros((2, T, B, H), np.float32)
    assert square(both[0], out=both[1])[0].base is both


def test_outs_of_a_cell_or_a_stream_that_overlap():
    cell, square = fastlstm.LSTMCell(H, H), fastlstm.LSTM(H, H)
    x, h, c, other = (fresh(B, H) for _ in range(4))
    refuses(ValueError, r"out\[0\]", cell, x, (h, c), out=(x, other))
    refuses(ValueError, r"out\[1\]", cell, x, (h, c), out=(other, x))
    refuses(ValueError, r"out\[0\]", cell, x, (h, c), out=(c, other))
    with pytest.raises(ValueError, match=r"^out(\[[01]\])?: expected .*, got "):
        cell(x, (h, c), out=(other, other))
    refuses(ValueError, "out", square.stream(B).step, x, out=x)
    block = fresh(T, B, H)
    refuses(ValueError, "out", square.stream(B).process, block, out=block)


def test_out_receives_the_result_and_is_returned(lstm, bidirectional):
    for layer, width in ((lstm, H), (bidirectional, 2 * H)):
        out = np.full((T, B, width), np.nan, np.float32)
        expected = layer(X, lengths=[4, 2, 0])
        y, state = layer(X, lengths=[4, 2, 0], out=out)
        assert y is out
        assert_same_bits((y, state), expected)
    subclass = fresh(T, B, H).view(type("Subclass", (np.ndarray,), {}))
    assert lstm(X, out=subclass)[0] is subclass
    assert_same_bits(np.asarray(subclass), lstm(X)[0])
    cell = fastlstm.LSTMCell(I, H, rng=0)
    pair = (fresh(B, H), fresh(B, H))
    h, c = cell(X[0], out=pair)
    assert h is pair[0]
    assert c is pair[1]
    assert_same_bits(pair, cell(X[0]))


# ---- Sizes and options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (2.0, TypeError),
        ("3", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_sizes_that_are_no_positive_integers(name, value, error):
    refuses(error, name, fastlstm.LSTM, **({"input_size": 2, "hidden_size": 3} | {name: value}))
    if name != "num_layers":
        refuses(error, name, fastlstm.LSTMCell, **({"input_size": 2, "hidden_size": 3} | {name: value}))
    refuses(error, "batch_size", fastlstm.LSTM(2, 3).stream, value)


@pytest.mark.parametrize(
    "sizes", [(2**62, 1), (1, 2**61), (2**40, 2**40), (2**80, 1), (1, 2**31, 2**31), (2**33, 2**33)]
)
def test_sizes_that_overflow(sizes):
    with pytest.raises((OverflowError, MemoryError)):
        fastlstm.LSTM(*sizes)
    if len(sizes) == 2:
        with pytest.raises((OverflowError, MemoryError)):
            fastlstm.LSTMCell(*sizes)


def test_batches_that_overflow(lstm):
    for batch_size in (2**61, 2**70):
        with pytest.raises((OverflowError, MemoryError)):
            lstm.stream(batch_size)
    # Views of one number cost no memory, but their output would.
    for shape in ((2**58, 1, I), (1, 2**58, I), (2**30, 2**28, I)):
        with pytest.raises((OverflowError, MemoryError, ValueError)):
            lstm(np.broadcast_to(np.float32(0), shape))


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"dtype": np.float16}, ValueError),
        ({"dtype": np.int32}, ValueError),
        ({"dtype": "complex64"}, ValueError),
        ({"dtype": "nonsense"}, TypeError),
        ({"dropout": -0.1}, ValueError),
        ({"dropout": 1.1}, ValueError),
        ({"dropout": np.nan}, ValueError),
        ({"dropout": "0"}, TypeError),
        ({"bias": 1}, TypeError),
        ({"bidirectional": "yes"}, TypeError),
        ({"batch_first": None}, TypeError),
    ],
    ids=str,
)
def test_options_that_are_none(keywords, error):
    refuses(error, next(iter(keywords)), fastlstm.LSTM, 2, 3, **keywords)


def test_a_bidirectional_layer_is_no_stream(bidirectional):
    with pytest.raises(ValueError, match=r"^stream: expected a unidirectional layer, got a bidirectional"):
        bidirectional.stream()


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


def test_unknown_and_missing_arguments_are_type_errors(lstm):
    for arguments, keywords in (((), {}), ((X, None, [1]), {}), ((X,), {"length": [1, 2, 3]})):
        with pytest.raises(TypeError):
            lstm(*arguments, **keywords)
    with pytest.raises(TypeError):
        fastlstm.LSTM(3)


def test_a_failed_call_leaves_the_layer_as_it_was(lstm):
    expected = lstm(X)
    for bad in (X[..., :2], "x", np.full((T, B), 99)):
        with pytest.raises((TypeError, ValueError)):
            lstm(bad)
    assert_same_bits(lstm(X), expected)
