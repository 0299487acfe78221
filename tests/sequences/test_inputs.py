# SPDX-License-Identifier: BSD-3-Clause
"""What a call takes: any array-like, strides, byte order and dtype, integers as one-hot rows, nothing."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.problems.helpers import Case, Config, assert_same_bits

T, B, I, H = 4, 3, 5, 6
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, B, I)).astype(np.float32)


@pytest.fixture(scope="module")
def lstm():
    return fastlstm.LSTM(I, H, rng=0)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def variants_of(x):
    """The same numbers in other memory layouts and containers."""
    every_other = (slice(None, None, 2),) * x.ndim
    wide = np.zeros([2 * n for n in x.shape], x.dtype)
    wide[every_other] = x
    backwards = (slice(None, None, -1),) * x.ndim
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    yield "Fortran", np.asfortranarray(x)
    yield "strided", wide[every_other]
    yield "rows apart", np.concatenate([x, x], -1)[..., : x.shape[-1]]
    yield "time and batch swapped", x.swapaxes(0, 1).copy().swapaxes(0, 1)
    yield "reversed", x[backwards].copy()[backwards]
    yield "reversed but for features", x[backwards[1:]].copy()[backwards[1:]]
    yield "read-only", read_only(x)
    yield "byte order", x.astype(x.dtype.newbyteorder())
    yield "misaligned", misaligned
    yield "list", x.tolist()
    yield "tuple of arrays", tuple(x)
    yield "subclass", x.view(type("Subclass", (np.ndarray,), {}))
    yield "memoryview", memoryview(x)
    yield "object with __array__", type("Array", (), {"__array__": lambda self, dtype=None, copy=None: x})()
    yield "object with __dlpack__", Tensor(x)


class Tensor:
    """What another library's array shows of itself."""

    def __init__(self, array):
        self.array = array
        self.exports = 0

    def __dlpack__(self, **keywords):
        self.exports += 1
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_array_like_of_any_layout(dtype):
    for options in ({}, {"L": 2, "bidirectional": True}):
        case = Case(Config(T=T, B=B, I=I, H=H, has_state=True, dtype=dtype, **options))
        layer = case.layer()
        expected = case.run(layer)
        for name, x in variants_of(case.x):
            y, state = layer(x, case.state)
            assert_same_bits((y, *state), expected, name)
        for (name, h), (_, c) in zip(*map(variants_of, case.state), strict=True):
            y, state = layer(case.x, [h, c])
            assert_same_bits((y, *state), expected, name)
        cell = fastlstm.LSTMCell(I, H, dtype=dtype, rng=1)
        stream = layer.stream(B) if not options else None
        stepped = cell(case.x[1])
        for name, x in variants_of(case.x[1]):
            assert_same_bits(cell(x), stepped, name)
            if stream is not None:
                stream.state = case.state
                stream.step(case.x[0])
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
    y, (h, c) = lstm(x, state)
    expected, (h_n, c_n) = lstm(x.astype(np.float32), tuple(s.astype(np.float32) for s in state))
    assert_same_bits((y, h, c), (expected, h_n, c_n))
    assert y.dtype == np.float32


def test_float32_into_a_float64_layer():
    layer = fastlstm.LSTM(I, H, dtype=np.float64)
    y, _ = layer(X)
    assert y.dtype == np.float64
    assert_same_bits(y, layer(X.astype(np.float64))[0])


def test_an_overflow_in_the_cast_is_infinity_and_a_warning_as_in_numpy(lstm):
    x = X.astype(np.float64)
    x[1, 1, 1] = 1e300
    expected = X.copy()
    expected[1, 1, 1] = np.inf
    with pytest.warns(RuntimeWarning, match="overflow encountered in cast"):
        y = lstm(x)[0]
    assert_same_bits(y, lstm(expected)[0])


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
    assert_same_bits(fastlstm.LSTM(I, H, batch_first=True, rng=0)(x.T)[0], expected.swapaxes(0, 1))
    # (T, B) with B = I is ambiguous to the eye only.
    square = RNG.integers(0, I, (T, I))
    assert lstm(square)[0].shape == (T, I, H)


def test_dlpack_is_asked_for_and_bytes_are_not_copied(lstm):
    tensor = Tensor(X)
    assert_same_bits(lstm(tensor)[0], lstm(X)[0])
    assert tensor.exports >= 1


def test_torch_tensors_are_taken(lstm):
    torch = pytest.importorskip("torch")
    assert_same_bits(lstm(torch.from_numpy(X))[0], lstm(X)[0])
    assert_same_bits(lstm(torch.zeros(T, B, dtype=torch.int64))[0], lstm(np.zeros((T, B), int))[0])
    state = tuple(torch.ones(1, B, H) for _ in "hc")
    assert_same_bits(lstm(X, state), lstm(X, tuple(s.numpy() for s in state)))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("is_index", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("L", [1, 2])
def test_no_steps_or_no_rows_is_an_empty_result(L, T, B, is_index, batch_first):
    for is_bidirectional in (False, True):
        for has_lengths in (False, True):
            config = Config(
                T, B, I, H, L, is_bidirectional, batch_first=batch_first, has_state=True, is_index=is_index
            )
            case = Case(config)
            case.lengths = np.zeros(B, int) if has_lengths else None
            y, h, c = case.run()
            assert y.shape == ((B, T) if batch_first else (T, B)) + (config.D * H,)
            assert_same_bits((h, c), case.state)
            case.state = None
            y, h, c = case.run()
            assert not h.any()
            assert not c.any()
            assert h.shape == c.shape == (L * config.D, B, H)


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
