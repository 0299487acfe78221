# SPDX-License-Identifier: BSD-3-Clause
"""What calls refuse of masks, resets, lists and packed rows, and of the array for their output."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import FAMILY, LAYERS, batch, build
from tests.problems.cells import REFUSED_CALLS
from tests.problems.comparing import assert_same_bits
from tests.problems.problem import arrays_of

from .checks import read_only, refuses

T, B, I, H = 4, 3, 5, 6
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, B, I)).astype(np.float32)
STATE = (np.zeros((1, B, H), np.float32), np.zeros((1, B, H), np.float32))
ROWS = [X[:3, 0].copy(), X[:0, 1].copy(), X[:, 2].copy()]
DATA, OFFSETS = np.concatenate(ROWS), np.array([0, 3, 3, 7])


@pytest.fixture(scope="module")
def lstm():
    return fastlstm.LSTM(I, H, rng=0)


BAD_CALLS = [
    ({"pad": "last"}, ValueError, "pad"),
    ({"pad": None}, TypeError, "pad"),
    ({"mask": np.ones((T, B))}, TypeError, "mask"),
    ({"mask": np.ones((B, T), bool)}, ValueError, "mask"),
    ({"mask": np.ones((T, B, 1), bool)}, ValueError, "mask"),
    ({"reset": np.ones((T, B), int)}, TypeError, "reset"),
    ({"reset": np.ones(T, bool)}, ValueError, "reset"),
    ({"return_cells": 1}, TypeError, "return_cells"),
    ({"lengths": [1, 2, T + 1], "mask": np.ones((T, B), bool)}, ValueError, r"lengths\[2\]"),
    ({"lengths": [1, 2], "pad": "hold"}, ValueError, "lengths"),
    ({"x": X[..., :-1], "mask": np.ones((T, B), bool)}, ValueError, "x"),
    ({"x": X.astype(complex), "reset": np.ones((T, B), bool)}, TypeError, "x"),
    ({"offsets": OFFSETS}, ValueError, "x"),
    ({"x": DATA, "offsets": OFFSETS[:-1]}, ValueError, "offsets"),
    ({"x": DATA, "offsets": OFFSETS + 1}, ValueError, "offsets"),
    ({"x": DATA, "offsets": OFFSETS.astype(float)}, TypeError, "offsets"),
    ({"x": DATA, "offsets": OFFSETS[None]}, ValueError, "offsets"),
    ({"x": DATA, "offsets": np.ma.array(OFFSETS)}, TypeError, "offsets"),
    ({"x": DATA, "offsets": [[0], [3, 7]]}, TypeError, "offsets"),
    ({"x": DATA, "offsets": [0, 5, 3, 7]}, ValueError, r"offsets\[2\]"),
    ({"x": DATA, "offsets": []}, (TypeError, ValueError), "offsets"),
    ({"x": DATA, "offsets": OFFSETS, "lengths": [1, 2, 3]}, ValueError, "lengths"),
    ({"x": DATA, "offsets": OFFSETS, "mask": np.ones(7, bool)}, ValueError, "mask"),
    ({"x": DATA, "offsets": OFFSETS, "reset": np.ones(6, bool)}, ValueError, "reset"),
    ({"x": DATA[:, :2], "offsets": OFFSETS}, ValueError, "x"),
    ({"x": ROWS, "lengths": [1, 2, 3]}, ValueError, "lengths"),
    ({"x": ROWS, "mask": np.ones((T, B), bool)}, ValueError, "mask"),
    ({"x": [*ROWS[:2], ROWS[2][:, 1:]]}, ValueError, r"x\[2\]"),
    ({"x": [*ROWS[:2], X]}, ValueError, r"x\[2\]"),
    ({"x": [*ROWS[:2], ROWS[2] > 0]}, TypeError, r"x\[2\]"),
    ({"x": [*ROWS[:2], np.zeros(4, int)]}, TypeError, r"x\[2\]"),
    ({"x": ROWS, "reset": np.ones(7, bool)}, TypeError, "reset"),
    ({"x": ROWS, "reset": [np.ones(3, bool)] * 2}, ValueError, "reset"),
    ({"x": ROWS, "reset": [np.ones(3, bool)] * 3}, ValueError, r"reset\[1\]"),
    ({"x": np.full((T, B), I), "mask": np.eye(T, B, dtype=bool)}, ValueError, r"x\[0, 0\]"),
    ({"x": np.array([0, -1, 2]), "offsets": [0, 1, 3]}, ValueError, r"x\[1\]"),
    ({"x": [np.array([0]), np.array([1, I])]}, ValueError, r"x\[1\]\[1\]"),
]


@pytest.mark.parametrize(("arguments", "error", "name"), BAD_CALLS)
@pytest.mark.parametrize("kind", ["LSTM", "sizes"])
def test_masks_resets_offsets_and_lists(kind, arguments, error, name):
    layer = build(kind)
    given = {"x": X} | arguments
    x = given.pop("x")
    if isinstance(error, tuple):
        with pytest.raises(error, match=f"^{name}: expected .* got "):
            layer(x, **given)
        return
    refuses(error, name, layer, x, **given)
    refuses(error, name, layer.forward, x, **given)


@pytest.mark.parametrize("name", FAMILY)
def test_a_state_of_other_members(name):
    layer = build(name)
    x = batch(layer)
    state = layer(x)[1]
    is_tuple = isinstance(state, tuple)
    short = state[:-1] if is_tuple else state[:, :-1]
    for call in (layer, layer.forward, lambda x, state, **given: layer(x, state, pad="zero"[:], **given)):
        refuses(ValueError, "state", call, x, short)
    with pytest.raises((TypeError, ValueError), match=r"^d?state(\[\d\])*: expected .* got "):
        layer.forward(x).backward(None, short)
    if is_tuple:
        refuses(TypeError, "state", layer, x, arrays_of(state)[0])


@pytest.mark.parametrize("cls", [cls for name, cls in LAYERS.items() if name not in ("LSTM", "SLSTM")])
def test_cells_without_a_c_return_none(cls):
    refuses(ValueError, "return_cells", cls(I, H), X, return_cells=True)
    refuses(ValueError, "return_cells", cls(I, H).forward, X, return_cells=True)


@pytest.mark.parametrize("name", ["residual", "merged", "all joined"])
def test_sums_are_not_held(name):
    layer = build(name)
    refuses(ValueError, "pad", layer, batch(layer), lengths=[1, 2, 3], pad="hold")


@pytest.mark.parametrize("name", REFUSED_CALLS)
def test_calls_that_do_not_go_with_the_options(name):
    cell, options, given, _why = REFUSED_CALLS[name]
    layer = getattr(fastlstm, cell)(**({"input_size": 3, "hidden_size": 3} | options))
    for call in (layer, layer.forward):
        refuses(ValueError, name, call, np.ones((4, 3, 3), np.float32), **given)


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


@pytest.mark.parametrize("name", ["LSTM", "SLSTM", "sizes", "residual", "reverse", "peephole"])
def test_an_out_of_any_layer(name):
    layer = build(name)
    x = batch(layer)
    y, _ = layer(x, lengths=[4, 0, 2])
    for given in ({"lengths": [4, 0, 2]}, {"mask": np.arange(4)[:, None] < np.array([4, 0, 2])}):
        out = np.full_like(y, np.nan)
        assert layer(x, out=out, **given)[0] is out
        assert_same_bits(out, y)
        refuses(ValueError, "out", layer, x, out=out[:-1], **given)
        refuses(TypeError, "out", layer, x, out=[out], **given)
        refuses(ValueError, "out", layer, x, out=out.astype(np.float64), **given)
        refuses(ValueError, "out", layer, x, out=np.asfortranarray(out), **given)
    packed = np.full((6, y.shape[-1]), np.nan, np.float32)
    data = np.concatenate([x[:, 0], x[:2, 2]])
    assert layer(data, offsets=[0, 4, 4, 6], out=packed)[0] is packed
    assert_same_bits(packed, np.concatenate([y[:, 0], y[:2, 2]]))
    refuses(ValueError, "out", layer, [x[:, 0]], out=packed)
    square = fastlstm.LSTM(H, H, rng=0)
    same = np.zeros((T, B, H), np.float32)
    refuses(ValueError, "out", square, same, mask=np.ones((T, B), bool), out=same)


@pytest.mark.parametrize("name", ["residual", "sizes"])
def test_a_stream_of_parts_has_its_state_of_before_after_an_error(name):
    layer = build(name)
    stream = layer.stream(3)
    x = batch(layer)
    width = layer(x)[0].shape[-1]
    stream.process(x)
    before = stream.state
    refuses(ValueError, r"x\[1, 0\]", stream.process, np.array([[0] * 3, [I] * 3]))
    refuses(ValueError, "out", stream.process, x, np.empty((4, 3, width + 1), np.float32))
    refuses(ValueError, "out", stream.step, x[0], np.empty((3, width + 1), np.float32))
    refuses(ValueError, "x", stream.step, x)
    assert_same_bits(stream.state, before)
