# SPDX-License-Identifier: BSD-3-Clause
"""An assignment takes effect, or raises and names the way that does."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits

from .kinds import (
    CELLS_OF_ONE_STEP,
    FAMILY,
    STREAMED,
    TRAINED,
    batch,
    build,
    every_kind,
    every_trained_kind,
    result,
)

# What other libraries' layers have, and what sounds as if a layer had it.
_IDIOMS = """
training train eval requires_grad trainable device grad data kernel recurrent_kernel weight weights
weight_ih weight_hh_l0 weight_ih_l7_reverse units use_bias activation return_sequences stateful state
hidden h c h0 hx lr momentum learning_rate lengths mask parts params grads flat_params flat_grads dtype
n_threads seed num_thread dropuot hiden_size num_direction input_sizes batchfirst
"""
IDIOMS = _IDIOMS.split()


@every_kind
@pytest.mark.parametrize("name", IDIOMS)
def test_what_would_do_nothing_raises_and_names_a_way(kind, name):
    layer = build(kind)
    flat, before = layer.flat_params.copy(), result(layer)
    kept = dict(vars(layer))
    with pytest.raises(AttributeError, match=rf"^{name}: expected .*"):
        setattr(layer, name, np.zeros(3))
    assert vars(layer) == kept
    assert_same_bits(layer.flat_params, flat)
    assert_same_bits(result(layer), before)


@every_kind
def test_parameters_and_options_cannot_be_assigned(kind):
    layer = build(kind)
    for name, value in layer.params.items():
        with pytest.raises(AttributeError, match=rf"^{name}: .*(load_state_dict|editing)"):
            setattr(layer, name, value)
    for name in set(type(layer)._options) - set(layer.params):
        with pytest.raises(AttributeError, match=rf"^{name}: .*constructor"):
            setattr(layer, name, getattr(layer, name))


@every_kind
def test_what_takes_effect_can_be_assigned(kind):
    layer = build(kind)
    layer.rng = np.random.default_rng(9)
    layer.note = "of the user"
    layer._own = 1
    if kind in FAMILY or kind in CELLS_OF_ONE_STEP:
        layer.num_threads = 2
    twin = copy.copy(layer)
    assert (twin.note, twin._own) == ("of the user", 1)
    layer.flat_grads[...] = 1
    layer.flat_grads *= 3
    for name in layer.grads:
        layer.grads[name] += 2
        layer.grads[name][...] *= 2
    assert (layer.flat_grads == 10).all()


@pytest.mark.parametrize("value", [None, 3, "0", np.random.RandomState])
def test_a_generator_is_checked_where_it_is_assigned(value):
    layer = fastlstm.LSTM(3, 4, 2, dropout=0.5, rng=0)
    with pytest.raises(TypeError, match=r"^rng: expected a numpy.random.Generator, got "):
        layer.rng = value
    layer.forward(np.ones((2, 1, 3)))


CHANGES = {
    "assign": lambda views, name: views.__setitem__(name, np.zeros(3)),
    "a copy": lambda views, name: views.__setitem__(name, views[name].copy()),
    "new": lambda views, _: views.__setitem__("new", np.zeros(3)),
    "delete": lambda views, name: views.__delitem__(name),
    "clear": lambda views, _: views.clear(),
    "pop": lambda views, name: views.pop(name),
    "popitem": lambda views, _: views.popitem(),
    "update": lambda views, name: views.update({name: 1}),
    "setdefault": lambda views, _: views.setdefault("new", 1),
    "or": lambda views, name: views.__ior__({name: 1}),
}


@every_kind
@pytest.mark.parametrize("change", CHANGES)
def test_mappings_of_views_cannot_be_changed(kind, change):
    layer = build(kind)
    for views, way in ((layer.params, "editing"), (layer.grads, "in place")):
        kept = dict(views)
        with pytest.raises(TypeError, match=way):
            CHANGES[change](views, next(iter(views)))
        assert dict(views).keys() == kept.keys()
        assert all(views[name] is kept[name] for name in kept)


@every_kind
def test_mappings_of_views_are_else_as_dicts(kind):
    views = build(kind).params
    assert isinstance(views, dict)
    assert isinstance(views | {"more": 1}, dict)
    (views | {"more": 1})["more"] = 2
    for twin in (copy.copy(views), copy.deepcopy(views), pickle.loads(pickle.dumps(views)), views.copy()):
        twin["new"] = 1
        assert list(twin)[:-1] == list(views)
    assert views.setdefault(next(iter(views))) is views[next(iter(views))]


class Named(fastlstm.GRU):
    """A class of a user, which knows what it declares."""

    training = True

    @property
    def weight_ih_l0(self):
        return self.params["weight_ih_l0"]

    @weight_ih_l0.setter
    def weight_ih_l0(self, value):
        self.load_state_dict({"weight_ih_l0": value}, strict=False)


def test_a_subclass_sets_what_it_declares():
    layer = Named(3, 4, rng=0)
    layer.training = False
    assert layer.training is False
    with pytest.raises(AttributeError, match=r"weight_hh_l0: .*declared"):
        layer.weight_hh_l0 = np.zeros((12, 4))


@every_trained_kind
def test_tapes_cannot_be_changed(kind):
    layer = build(kind)
    tape = layer.forward(batch(layer))
    for name in ("y", "nbytes", "layer", "weight", "note"):
        with pytest.raises(AttributeError, match=name):
            setattr(tape, name, 1)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"in the process that made it"):
            duplicate(tape)


@pytest.mark.parametrize("name", STREAMED)
def test_streams_have_a_state_that_can_be_set_and_all_else_is_of_the_layer(name):
    stream = build(name).stream(2)
    of_the_layer = "batch_size batch_first h c hx hidden weights params training rng dropout weight_ih_l0"
    for attribute in of_the_layer.split():
        with pytest.raises(AttributeError, match=rf"^{attribute}: expected .*(layer|state)"):
            setattr(stream, attribute, 1)
    stream.state = stream.state
    stream.note = "kept"
    assert pickle.loads(pickle.dumps(stream)).note == "kept"


@pytest.mark.parametrize("kind", [*TRAINED, *CELLS_OF_ONE_STEP])
def test_what_looks_public_is_documented(kind):
    layer = build(kind)
    objects = [layer]
    if kind in TRAINED:
        objects.append(layer.forward(batch(layer)))
    if kind in STREAMED:
        objects.append(layer.stream())
    for each in objects:
        public = [name for name in dir(each) if not name.startswith("_")]
        text = " ".join(cls.__doc__ or "" for cls in type(each).__mro__)
        for name in public:
            documented = getattr(getattr(type(each), name, None), "__doc__", None)
            assert documented or name in text, name
        inner = {
            "configure",
            "gradient_scratch",
            "parts",
            "weights",
            "give_back",
            "streams",
            "flat",
            "records",
        }
        assert inner.isdisjoint(public)


# ---- Dropout of one layer --------------------------------------------------------------------------------


class Deeper(fastlstm.LSTM):
    def __init__(self, **options):
        super().__init__(3, 4, **options)


@pytest.mark.parametrize("cls", [fastlstm.LSTM, fastlstm.GRU, fastlstm.RNN, fastlstm.MinGRU])
def test_dropout_without_a_second_layer_warns_whoever_asks_for_it(cls):
    for make in (
        lambda: cls(3, 4, dropout=0.5),
        lambda: cls(3, (4,), dropout=0.5),
        lambda: Deeper(dropout=0.5),
    ):
        with pytest.warns(
            UserWarning, match=r"dropout: expected num_layers of at least 2 .*, got 0\.5"
        ) as caught:
            layer = make()
        assert [warning.filename for warning in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pickle.loads(pickle.dumps(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(3, 4, 2, dropout=0.5)
        cls(3, (4, 5), dropout=0.5)
        cls(3, 4)
