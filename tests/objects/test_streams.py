# SPDX-License-Identifier: BSD-3-Clause
"""States and streams as objects: shapes, what is kept, set, copied and reset."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits
from tests.problems.inside import streams_of
from tests.problems.problem import arrays_of, transformed
from tests.sequences.test_forms import Tensor

from .kinds import COPIES, FAMILY, STREAMED, H, batch, build

# ---- States ------------------------------------------------------------------------------------------------

STATE_SHAPES = {
    "LSTM": [(1, 3, 6)] * 2,
    "GRU": [(1, 3, 6)],
    "SLSTM": [(1, 3, 6)] * 4,
    "MinLSTM": [(1, 3, 6)],
    "peephole": [(4, 3, 6)] * 2,
    "projected": [(1, 3, 3), (1, 3, 6)],
    "heads": [(2, 3, 6)] * 4,
    "sizes": [(1, 3, 4), (1, 3, 6), (1, 3, 2)] * 2,
    "sizes of h": [(2, 3, 4), (2, 3, 2)],
    "residual": [(3, 3, 6)] * 2,
    "merged": [(4, 3, 6)],
    "all joined": [(4, 3, 6)] * 4,
    "reverse": [(2, 3, 6)],
}


@pytest.mark.parametrize(("name", "expected"), STATE_SHAPES.items())
def test_shapes_of_states(name, expected):
    layer = build(name)
    x = batch(layer)
    state = layer(x)[1]
    assert [array.shape for array in arrays_of(state)] == expected
    assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in arrays_of(state))
    _, single = layer(x[:, 0])
    assert_same_bits(single, transformed(lambda array: array[:, 0], state))
    assert_same_bits(layer(x[:, 0], single), layer(x[:, 0], transformed(np.copy, single)))
    tape = layer.forward(x, training=False)
    assert_same_bits(tape.state, state)
    _, dstate = tape.backward(None, state)
    assert [array.shape for array in arrays_of(dstate)] == expected


@pytest.mark.parametrize("name", FAMILY)
def test_a_state_carries_a_sequence_on(name):
    layer = build(name)
    x = batch(layer, T=7)
    if layer.num_directions == 2:
        with pytest.raises(ValueError, match=r"^stream: "):
            layer.stream()
        return
    whole, final = layer(x)
    parts = (x[3:], x[:3]) if layer.reverse else (x[:3], x[3:])
    first, state = layer(parts[0])
    second, state = layer(parts[1], state)
    aligned = layer.reverse and layer.reverse_order == "aligned"
    assert_same_bits(np.concatenate((second, first) if aligned else (first, second)), whole)
    assert_same_bits(state, final)


# ---- Streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_is_the_layer(name):
    layer = build(name)
    x = batch(layer, T=9)
    y, final = layer(x)
    stream, stepped = layer.stream(3), layer.stream(3)
    assert_same_bits(np.concatenate([stream.process(x[:4]), stream.process(x[4:])]), y)
    assert_same_bits(np.stack([stepped.step(row) for row in x]), y)
    for used in (stream, stepped):
        assert_same_bits(used.state, final)
    index = np.random.default_rng(0).integers(0, layer.input_size, (5, 3))
    after = layer(index, final)
    assert_same_bits(stream.process(index), after[0])
    stream.state = final
    out = np.empty_like(after[0][0])
    assert stream.step(index[0], out=out) is out
    assert_same_bits(out, after[0][0])
    stream.reset()
    assert not any(array.any() for array in arrays_of(stream.state))
    assert_same_bits(stream.process(x), y)


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_can_be_copied_and_keeps_its_parameters(name):
    layer = build(name, batch_first=True, dtype=np.float64)
    x = batch(layer).swapaxes(0, 1)
    stream = layer.stream(3)
    stream.process(x)
    layer.load_state_dict(build(name, rng=9).state_dict())
    for duplicate in COPIES.values():
        twin = duplicate(stream)
        assert type(twin) is type(stream)
        assert repr(twin) == repr(stream)
        assert_same_bits(twin.state, stream.state)
        kept = stream.state
        assert_same_bits(twin.process(x), stream.process(x))
        stream.state = kept


def test_a_residual_stream_takes_what_others_take():
    layer = fastlstm.LSTM(H, H, num_layers=2, residual=0, rng=0)
    x = batch(layer)[:, 0]
    expected = layer.stream().process(x)
    for given in (x.astype(np.float64), x[::-1].copy()[::-1], Tensor(x)):
        assert_same_bits(layer.stream().process(given), expected)
    assert_same_bits(layer.stream().step(Tensor(x[0])), expected[0])
    index = np.array([[3, 0], [5, 1]])
    features = np.eye(H, dtype=np.float32)[index]
    stream = layer.stream(2)
    assert_same_bits(stream.process(index), layer.stream(2).process(features))
    single = layer.stream()
    assert_same_bits(single.step(4), layer.stream().step(np.eye(H, dtype=np.float32)[4]))


def test_a_stream_starts_at_zero_keeps_its_state_and_can_be_reset():
    layer = fastlstm.LSTM(3, 4, 2, rng=0)
    stream = layer.stream(2)
    assert stream.batch_size == 2
    x = np.ones((3, 2, 3))
    assert not any(s.any() for s in stream.state)
    assert [s.shape for s in stream.state] == [(2, 2, 4)] * 2
    first = stream.process(x)
    y, state = layer(x)
    assert_same_bits((first, stream.state), (y, state))
    second = stream.process(x)
    assert_same_bits((second, stream.state), layer(x, state))
    stream.reset()
    assert not any(s.any() for s in stream.state)
    assert_same_bits(stream.process(x), first)


def test_a_streams_state_is_a_copy_and_can_be_set():
    stream = fastlstm.LSTM(3, 4, rng=0).stream()
    stream.step(np.ones(3))
    kept = stream.state
    expected = stream.step(np.ones(3))
    for s in stream.state:
        s[...] = np.nan
    stream.state = kept
    assert_same_bits(stream.step(np.ones(3)), expected)
    stream.state = [s.astype(np.float64).tolist() for s in kept]
    assert_same_bits(stream.step(np.ones(3)), expected)
    given = tuple(s.copy() for s in kept)
    stream.state = given
    for s in given:
        s[...] = np.nan
    assert_same_bits(stream.step(np.ones(3)), expected)
    stream.state = tuple(s[:, 0] for s in kept)
    assert_same_bits(stream.step(np.ones(3)), expected)


def test_two_streams_of_one_layer_do_not_meet():
    layer = fastlstm.LSTM(3, 20, rng=0)
    one, two = layer.stream(), layer.stream()
    generator = np.random.default_rng(0)
    xs = generator.standard_normal((2, 30, 3))
    ys = [[stream.step(x[t]) for stream, x in zip((one, two), xs, strict=True)] for t in range(30)]
    for k in range(2):
        assert_same_bits(np.stack([y[k] for y in ys]), layer(xs[k])[0])


def test_shapes_of_a_stream():
    layer = fastlstm.LSTM(3, 4, rng=0)
    one, many = layer.stream(), layer.stream(5)
    assert one.step(np.ones(3)).shape == (4,)
    assert one.step(np.ones((1, 3))).shape == (1, 4)
    assert one.process(np.ones((6, 3))).shape == (6, 4)
    assert one.process(np.ones((6, 1, 3))).shape == (6, 1, 4)
    assert one.step(2).shape == (4,)
    assert one.step(np.int8(2)).shape == (4,)
    assert one.step([2]).shape == (1, 4)
    assert one.process([0, 1, 2]).shape == (3, 4)
    assert one.process([[0], [1], [2]]).shape == (3, 1, 4)
    assert many.step(np.ones((5, 3))).shape == (5, 4)
    assert many.step([0, 1, 2, 0, 1]).shape == (5, 4)
    assert many.process(np.ones((6, 5, 3))).shape == (6, 5, 4)
    assert many.process(np.zeros((6, 5), int)).shape == (6, 5, 4)
    first = fastlstm.LSTM(3, 4, batch_first=True, rng=0).stream(5)
    assert first.process(np.ones((5, 6, 3))).shape == (5, 6, 4)
    assert first.process(np.zeros((5, 6), int)).shape == (5, 6, 4)


def test_a_stream_keeps_the_parameters_it_was_made_with():
    layer = fastlstm.LSTM(3, 4, rng=0)
    stream, old = layer.stream(), copy.deepcopy(layer)
    layer.load_state_dict(fastlstm.LSTM(3, 4, rng=1).state_dict())
    x = np.ones((5, 3))
    assert_same_bits(stream.process(x), old(x)[0])
    assert_same_bits(layer.stream().process(x), layer(x)[0])
    del layer, old
    assert np.isfinite(stream.process(x)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("hidden_size", "num_layers", "batch_size"), [(512, 1, 1), (300, 2, 1), (200, 1, 37), (64, 3, 64)]
)
def test_a_stream_on_several_threads_has_the_bits_of_one(hidden_size, num_layers, batch_size, dtype, rng):
    layer = fastlstm.LSTM(40, hidden_size, num_layers, dtype=dtype, rng=rng)
    x = rng.standard_normal((9, batch_size, 40)).astype(dtype)
    expected, final = layer(x)
    for num_threads in (1, 2, 3, None):
        stream = layer.stream(batch_size, num_threads=num_threads)
        assert stream.num_threads == num_threads
        steps = [stream.step(row) for row in x[:5]]
        assert_same_bits(np.concatenate([steps, stream.process(x[5:])]), expected)
        assert_same_bits(stream.state, final)
        twin = pickle.loads(pickle.dumps(stream))
        assert twin.num_threads == num_threads
        assert_same_bits(twin.process(x), stream.process(x))


def test_a_stream_of_several_parts_has_its_threads_in_each(rng):
    layer = fastlstm.LSTM(256, 256, 2, residual=0, rng=rng)
    x = rng.standard_normal((4, 32, 256)).astype(np.float32)
    stream = layer.stream(32, num_threads=2)
    assert [part.num_threads for part in streams_of(stream)] == [2, 2]
    assert_same_bits(np.array([stream.step(row) for row in x]), layer(x)[0])


@pytest.mark.parametrize(
    ("given", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), ("2", TypeError)],
)
def test_a_stream_takes_a_number_of_threads(given, error):
    with pytest.raises(error, match=r"^num_threads: expected "):
        fastlstm.GRU(2, 3).stream(num_threads=given)
