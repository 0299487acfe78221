# SPDX-License-Identifier: BSD-3-Clause
"""What all layers share: gradients in one buffer, editing, tapes of old parameters, copies and pickles."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import fastlstm
from tests.problems.helpers import assert_same_bits

MAKERS = {
    "LSTM": lambda dtype="float32": fastlstm.LSTM(3, 4, 2, bidirectional=True, dtype=dtype, rng=0),
    "LSTMCell": lambda dtype="float32": fastlstm.LSTMCell(3, 4, dtype=dtype, rng=0),
    "Dense": lambda dtype="float32": fastlstm.Dense(3, 4, dtype=dtype, rng=0),
    "Embedding": lambda dtype="float32": fastlstm.Embedding(3, 4, dtype=dtype, rng=0),
}
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle 0": lambda value: pickle.loads(pickle.dumps(value, 0)),
    "pickle 5": lambda value: pickle.loads(pickle.dumps(value, 5)),
}
every_layer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
# A cell has no backward.
every_trained_layer = pytest.mark.parametrize(
    "make",
    [make for name, make in MAKERS.items() if name != "LSTMCell"],
    ids=lambda make: make().__class__.__name__,
)


def an_input(layer):
    return np.array([[0, 2], [1, 1]]) if isinstance(layer, fastlstm.Embedding) else np.ones((2, 2, 3))


def result(layer):
    """The result of a call as one array."""
    x = an_input(layer)
    called = layer(x[0]) if isinstance(layer, fastlstm.LSTMCell) else layer(x)
    return called[0] if isinstance(called, tuple) else called


# ---- Gradients ---------------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_views_of_one_buffer_laid_out_as_the_parameters(make, dtype):
    layer = make(dtype)
    flat, params = layer.flat_grads, layer.flat_params
    assert (flat.shape, flat.dtype) == (params.shape, params.dtype)
    assert flat.flags.c_contiguous
    assert flat.flags.writeable
    assert flat.flags.aligned
    assert not flat.any()
    assert layer.flat_grads is flat
    assert list(layer.grads) == list(layer.params)
    flat[...] = np.arange(flat.size)
    begin = 0
    for name, view in layer.grads.items():
        assert view.shape == layer.params[name].shape
        assert view.ctypes.data == flat.ctypes.data + begin * flat.itemsize
        assert view.flags.writeable
        begin += view.size
        view[...] = -1
    assert begin == flat.size
    assert (flat == -1).all()
    layer.zero_grad()
    assert not flat.any()
    assert layer.flat_grads is flat
    with pytest.raises(AttributeError):
        layer.flat_grads = params


@every_layer
def test_zero_grad_of_a_layer_without_gradients_makes_none(make):
    layer = make()
    layer.zero_grad()
    assert not any(isinstance(value, np.ndarray) for value in vars(layer).values())
    assert not layer.flat_grads.any()


@every_layer
def test_gradients_stay_when_parameters_change(make):
    layer = make()
    layer.flat_grads[...] = 1
    flat = layer.flat_grads
    layer.load_state_dict(layer.state_dict())
    with layer.editing() as params:
        params += 1
    assert layer.flat_grads is flat
    assert (flat == 1).all()


@every_trained_layer
def test_gradients_of_two_tapes_add_up(make, rng):
    layer = make("float64")
    x = an_input(layer)
    sums = np.zeros(layer.flat_params.size)
    dys = rng.standard_normal((2, *layer.forward(x).y.shape))
    for dy in dys:
        layer.zero_grad()
        layer.forward(x).backward(dy)
        sums += layer.flat_grads
    layer.zero_grad()
    tapes = [layer.forward(x) for _ in dys]
    for tape, dy in zip(tapes, dys, strict=True):
        tape.backward(dy)
    np.testing.assert_allclose(layer.flat_grads, sums, rtol=1e-12, atol=1e-15)
    assert sums.any()


@every_layer
def test_threads_that_ask_for_gradients_at_once_get_the_same(make):
    for _ in range(20):
        layer, got = make(), []
        barrier = threading.Barrier(4)

        def ask(layer=layer, got=got, barrier=barrier):
            barrier.wait()
            got.append(layer.flat_grads)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(flat is got[0] for flat in got)


# ---- Editing -----------------------------------------------------------------------------------------------


@every_layer
def test_what_is_edited_is_in_force_after_the_block(make):
    layer = make()
    before, names, old_result = layer.flat_params, layer.state_dict(), result(layer)
    kept = before.copy()
    with layer.editing() as flat:
        assert_same_bits(flat, before)
        assert flat.flags.writeable
        flat *= 2
        assert_same_bits(layer.flat_params, kept)
        assert_same_bits(result(layer), old_result)
    assert_same_bits(layer.flat_params, 2 * kept)
    assert_same_bits(before, kept)
    for name, view in layer.params.items():
        assert_same_bits(view, 2 * names[name])
        assert not view.flags.writeable
    twin = make()
    twin.load_state_dict({name: 2 * value for name, value in names.items()})
    assert_same_bits(result(layer), result(twin))
    assert not np.array_equal(result(layer), old_result)


@every_layer
def test_what_is_written_after_the_block_has_no_effect(make):
    layer = make()
    with layer.editing() as flat:
        part = flat[1:3]
        flat += 1
    after, expected = layer.flat_params.copy(), result(layer)
    flat[...] = np.nan
    part[...] = np.nan
    assert_same_bits(layer.flat_params, after)
    assert_same_bits(result(layer), expected)


@every_layer
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_while_editing_leaves_everything_as_it_was(make, error):
    layer = make()
    flat_params, expected = layer.flat_params, result(layer)
    kept = flat_params.copy()

    def fail():
        with layer.editing() as flat:
            flat[...] = 0
            raise error

    with pytest.raises(error):
        fail()
    assert layer.flat_params is flat_params
    assert_same_bits(flat_params, kept)
    assert_same_bits(result(layer), expected)


@every_layer
def test_a_change_that_would_be_lost_is_an_error(make):
    layer = make()
    loaded = {name: np.full(value.shape, 3) for name, value in layer.params.items()}

    def load_while_editing():
        with layer.editing() as flat:
            flat += 1
            layer.load_state_dict(loaded)

    def edit_while_editing():
        with layer.editing() as outer:
            outer += 1
            with layer.editing() as inner:
                inner += 5

    with pytest.raises(RuntimeError, match=f"{type(layer).__name__}: .*others while"):
        load_while_editing()
    assert (layer.flat_params == 3).all()
    with pytest.raises(RuntimeError, match="others while"):
        edit_while_editing()
    assert (layer.flat_params == 8).all()


@every_trained_layer
def test_a_tape_of_old_parameters_is_an_error_and_adds_nothing(make):
    def edit(layer):
        with layer.editing():
            pass

    for change in (edit, lambda layer: layer.load_state_dict(layer.state_dict())):
        layer = make()
        tape = layer.forward(an_input(layer))
        change(layer)
        with pytest.raises(RuntimeError, match="since"):
            tape.backward(np.ones(tape.y.shape))
        assert not layer.flat_grads.any()
        layer.forward(an_input(layer)).backward(np.ones(tape.y.shape))
        assert layer.flat_grads.any()


@every_trained_layer
def test_a_tape_is_for_one_backward(make):
    layer = make()
    tape = layer.forward(an_input(layer))
    dy = np.ones(tape.y.shape)
    tape.backward(dy)
    once = layer.flat_grads.copy()
    with pytest.raises(RuntimeError, match="second"):
        tape.backward(dy)
    assert_same_bits(layer.flat_grads, once)
    with pytest.raises(ValueError, match="read-only"):
        tape.y[...] = 0


# ---- Copies and generators ---------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_layers_can_be_copied_and_pickled(make, duplicate):
    layer = make()
    layer.flat_grads[...] = 5
    layer.name = "mine"
    twin = duplicate(layer)
    assert type(twin) is type(layer)
    assert repr(twin) == repr(layer)
    assert twin.name == "mine"
    assert_same_bits(twin.flat_params, layer.flat_params)
    assert_same_bits(result(twin), result(layer))
    assert not twin.flat_grads.any()
    twin.flat_grads[...] = 7
    assert (layer.flat_grads == 5).all()
    with twin.editing() as flat:
        flat += 1
    assert not np.array_equal(twin.flat_params, layer.flat_params)


@every_layer
def test_the_generator_goes_on_after_the_parameters(make):
    layer = make()
    generator = np.random.default_rng(0)
    kind = type(layer)
    arguments = (3, 4, 2, True, False, 0.0, True) if kind is fastlstm.LSTM else (3, 4)
    twin = kind(*arguments, rng=generator)
    assert_same_bits(twin.flat_params, layer.flat_params)
    assert twin.rng is generator
    expected = generator.bit_generator.state
    for duplicate in COPIES.values():
        assert duplicate(layer).rng.bit_generator.state == expected
    assert layer.rng.random() == generator.random()
    assert make().rng.bit_generator.state == expected
    fresh = copy.deepcopy(layer)
    fresh.rng.random(5)
    assert layer.rng.bit_generator.state == generator.bit_generator.state


@every_layer
def test_layers_that_share_a_generator_share_it_after_pickling(make):
    generator = np.random.default_rng(0)
    layers = make(), fastlstm.Dense(2, 2, rng=generator), fastlstm.Embedding(2, 2, rng=generator)
    twins = pickle.loads(pickle.dumps(layers))
    assert twins[1].rng is twins[2].rng
    assert twins[0].rng is not twins[1].rng


def test_dropout_draws_one_seed_for_each_forward_in_training():
    layer = fastlstm.LSTM(3, 4, 2, dropout=0.5, rng=0)
    twin = copy.deepcopy(layer)
    x = np.ones((6, 2, 3), np.float32)
    first, second = layer.forward(x).y, layer.forward(x).y
    assert not np.array_equal(first, second)
    seeds = [int(twin.rng.integers(2**63)) for _ in range(2)]
    assert layer.rng.bit_generator.state == twin.rng.bit_generator.state
    for seed, y in zip(seeds, (first, second), strict=True):
        truth, _ = fastlstm.reference.lstm(x, layer.params, dropout=0.5, dropout_seed=seed)
        np.testing.assert_allclose(y, truth, atol=2e-6)
    state = layer.rng.bit_generator.state
    np.testing.assert_allclose(layer.forward(x, training=False).y, layer(x)[0], atol=2e-6)
    assert layer.rng.bit_generator.state == state
    for plain in (fastlstm.LSTM(3, 4, 2, rng=0), fastlstm.LSTM(3, 4, 1, dropout=0.5, rng=0)):
        state = plain.rng.bit_generator.state
        plain.forward(x)
        assert plain.rng.bit_generator.state == state


@every_layer
def test_a_second_init_begins_anew(make):
    layer = make()
    layer.flat_grads[...] = 1
    layer.__init__(5, 6, rng=0)
    assert layer.flat_grads.shape == layer.flat_params.shape
    assert not layer.flat_grads.any()


@every_layer
@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        ({}, ValueError, "mapping: expected the names"),
        (None, TypeError, "mapping: expected a mapping"),
    ],
)
def test_a_bad_mapping_is_refused_and_nothing_is_changed(make, mapping, error, message):
    layer = make()
    flat = layer.flat_params
    with pytest.raises(error, match=message):
        layer.load_state_dict(mapping)
    last = list(layer.params)[-1]
    with pytest.raises(ValueError, match=f"{last}: expected shape"):
        layer.load_state_dict(layer.state_dict() | {last: np.ones(1)})
    assert layer.flat_params is flat
