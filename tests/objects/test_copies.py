# SPDX-License-Identifier: BSD-3-Clause
"""Layers as objects: their attributes, what they show of themselves, copies and pickles."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits

from .kinds import COPIES, FAMILY, KINDS, LAYERS, TRAINED, batch, build, every_copy, every_kind, result


@pytest.mark.parametrize("name", FAMILY)
def test_options_are_attributes_that_cannot_be_set(name):
    _, inputs, size, options = FAMILY[name]
    layer = build(name, num_threads=2)
    given = {"input_size": inputs, "hidden_size": size if isinstance(size, int) else tuple(size)} | options
    for option, value in given.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(layer, option) == expected, option
        with pytest.raises(AttributeError):
            setattr(layer, option, value)
        assert f"{option}=" in repr(layer)


def test_attributes_are_what_was_asked_for_or_the_defaults():
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    names += ("dtype", "num_threads", "num_directions")
    asked = fastlstm.LSTM(3, 4, 2, False, True, 0.25, True, dtype=np.float64, num_threads=2)
    expected = (3, 4, 2, False, True, 0.25, True, np.float64, 2, 2)
    assert tuple(getattr(asked, name) for name in names) == expected
    default = fastlstm.LSTM(3, 4)
    expected = (3, 4, 1, True, False, 0.0, False, np.float32, None, 1)
    assert tuple(getattr(default, name) for name in names) == expected
    asked.num_threads = None
    assert asked.num_threads is None
    cell = fastlstm.LSTMCell(3, 4, False)
    assert (cell.input_size, cell.hidden_size, cell.bias, cell.dtype) == (3, 4, False, np.float32)


def test_repr_shows_the_options_that_are_not_the_usual_ones():
    assert repr(fastlstm.GRU(3, 4)) == (
        "GRU(input_size=3, hidden_size=4, num_layers=1, bias=True, batch_first=False, dropout=0.0, "
        "bidirectional=False, dtype=float32, num_threads=None)"
    )
    text = repr(fastlstm.LSTM(3, (4, 5), coupled="f_from_i", activations=["Sigmoid", "Relu", ("Elu", 2)]))
    assert "hidden_size=(4, 5)" in text
    assert "coupled='f_from_i', activations=('Sigmoid', 'Relu', ('Elu', 2.0))" in text
    assert repr(eval(text, {"LSTM": fastlstm.LSTM, "float32": np.float32})) == text


@every_kind
@every_copy
def test_layers_can_be_copied_and_pickled(kind, duplicate):
    layer = build(kind)
    layer.flat_grads[...] = 5
    layer.note = "kept"
    if kind in FAMILY:
        layer.num_threads = 2
    twin = duplicate(layer)
    assert (type(twin), repr(twin), twin.note) == (type(layer), repr(layer), "kept")
    assert_same_bits(twin.flat_params, layer.flat_params)
    assert_same_bits(result(twin), result(layer))
    if kind in TRAINED:  # whatever is drawn
        expected = copy.deepcopy(layer).forward(batch(layer)).y
        assert_same_bits(twin.forward(batch(layer)).y, expected)
    assert not twin.flat_grads.any()
    twin.flat_grads[...] = 7
    assert (layer.flat_grads == 5).all()
    with twin.editing() as flat:
        flat += 1
    assert not np.array_equal(twin.flat_params, layer.flat_params)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(dtype):
    for kind in KINDS:
        layer = build(kind, dtype=dtype)
        for duplicate in COPIES.values():
            assert duplicate(layer).dtype == duplicate(layer).flat_params.dtype == dtype


class Named(fastlstm.LSTM):
    """A subclass with an attribute of its own."""

    name = ""


@every_copy
def test_a_subclass_keeps_its_class_and_attributes(duplicate):
    layer = Named(3, 4, rng=0)
    layer.name = "encoder"
    twin = duplicate(layer)
    assert type(twin) is Named
    assert twin.name == "encoder"
    assert_same_bits(result(twin), result(layer))


@every_kind
def test_layers_that_share_a_generator_share_it_after_pickling(kind):
    generator = np.random.default_rng(0)
    layers = build(kind), fastlstm.Dense(2, 2, rng=generator), fastlstm.Embedding(2, 2, rng=generator)
    twins = pickle.loads(pickle.dumps(layers))
    assert twins[1].rng is twins[2].rng
    assert twins[0].rng is not twins[1].rng


@every_kind
def test_a_second_init_begins_anew(kind):
    layer = build(kind)
    layer.flat_grads[...] = 1
    layer.__init__(5, 6, rng=0)
    assert layer.flat_grads.shape == layer.flat_params.shape
    assert not layer.flat_grads.any()


@pytest.mark.parametrize("cls", [*LAYERS.values(), fastlstm.LSTMCell, fastlstm.GRUCell, fastlstm.RNNCell])
def test_a_layer_without_init_is_an_error_and_no_crash(cls):
    empty = cls.__new__(cls)
    with pytest.raises(RuntimeError, match="__init__ has not been called"):
        empty(np.ones((2, 1, 3)))
    if cls in LAYERS.values():
        for given in ({}, {"mask": np.ones((2, 1), bool)}):
            with pytest.raises(RuntimeError, match="__init__ has not been called"):
                empty.forward(np.ones((2, 1, 3)), **given)
    for attribute in ("hidden_size", "state_dict", "bias", "params"):
        with pytest.raises(RuntimeError, match="__init__ has not been called"):
            getattr(empty, attribute)()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_large_parameters_and_moments_pass_through_pickles_in_pieces(protocol):
    """Of 1.2 pieces and of 2: by each protocol, and in buffers of their own."""
    layer = fastlstm.Embedding(2**20 // 8, 16, rng=0), fastlstm.Embedding(10**5, 12, dtype="f8", rng=1)
    adam = fastlstm.optim.Adam(layer)
    for each in layer:
        each.flat_grads[...] = np.arange(each.flat_grads.size) % 97 + 1.0
    adam.step()
    for others, kept in through_pickles((layer, adam), protocol):
        for one, other, moments in zip(layer, others, kept.state_dict()["layers"], strict=True):
            assert_same_bits(other.flat_params, one.flat_params)
            assert not np.shares_memory(other.flat_params, one.flat_params)
            assert_same_bits(moments["v"], adam.state_dict()["layers"][layer.index(one)]["v"])
        kept.step()  # what came out can be changed


def through_pickles(objects, protocol):
    yield pickle.loads(pickle.dumps(objects, protocol))
    if protocol >= 5:
        buffers = []
        data = pickle.dumps(objects, protocol, buffer_callback=buffers.append)
        assert sum(buffer.raw().nbytes for buffer in buffers) > 10 * len(data)
        yield pickle.loads(data, buffers=buffers)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_large_layers_and_their_optimizers_can_be_copied(duplicate):
    layer = fastlstm.Embedding(2**20 // 8 + 1, 16, rng=0)
    adam = fastlstm.optim.Adam(layer)
    layer.flat_grads[...] = 0.5
    adam.step()
    assert_same_bits(duplicate(layer).flat_params, layer.flat_params)
    other = duplicate(adam)
    before = adam.state_dict()["layers"][0]["m"]
    assert_same_bits(other.state_dict()["layers"][0]["m"], before)
    other.layers[0].flat_grads[...] = 1
    other.step()
    assert_same_bits(adam.state_dict()["layers"][0]["m"], before)  # it has its own
