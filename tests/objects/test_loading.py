# SPDX-License-Identifier: BSD-3-Clause
"""Loading parts of a mapping, and what other versions wrote; all of it, or nothing, takes effect."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastlstm
from fastlstm.model.parameters import ParameterSet, put_in_force, restore
from tests.problems.comparing import assert_same_bits
from tests.problems.inside import assign_all

from .kinds import FAMILY, KINDS, STREAMED, build, every_kind, result


@every_kind
def test_a_prefix_keeps_layers_apart_in_one_mapping(kind):
    one, two = build(kind), build(kind, rng=8)
    both = one.state_dict(prefix="encoder.") | two.state_dict(prefix="decoder.") | {3: "not a name"}
    twin = build(kind, rng=9)
    with pytest.raises(ValueError, match=r"unknown \[3\]"):
        twin.load_state_dict(both, prefix="decoder.")
    del both[3]
    assert twin.load_state_dict(both, prefix="decoder.") == ([], [])
    assert_same_bits(twin.flat_params, two.flat_params)
    twin.load_state_dict(both, prefix="encoder.")
    assert_same_bits(twin.flat_params, one.flat_params)
    name = list(one.params)[-1]
    del both[f"encoder.{name}"]
    with pytest.raises(ValueError, match=rf"got none for \['encoder.{name}'\]"):
        twin.load_state_dict(both, prefix="encoder.")
    with pytest.raises(ValueError, match=rf"^decoder.{name}: expected shape"):
        twin.load_state_dict(both | {f"decoder.{name}": np.ones(1)}, prefix="decoder.")
    with pytest.raises(ValueError, match=r"unknown"):
        twin.load_state_dict(both)


@every_kind
def test_without_strict_what_is_missing_stays_and_what_is_unknown_is_told(kind):
    layer, other = build(kind), build(kind, rng=8)
    before, new = layer.state_dict(), other.state_dict()
    first, *rest = new
    keys = layer.load_state_dict({first: new[first], "more": 1, 5: 2}, strict=False)
    assert keys == (rest, ["more", 5])
    assert (keys.missing_keys, keys.unexpected_keys) == (rest, ["more", 5])
    assert_same_bits(layer.state_dict()[first], new[first])
    for name in rest:
        assert_same_bits(layer.state_dict()[name], before[name])
    twin = build(kind)
    twin.load_state_dict(before | {first: new[first]})
    assert_same_bits(result(layer), result(twin))
    assert layer.load_state_dict({}, False) == (list(new), [])
    flat = layer.flat_params
    with pytest.raises(ValueError, match=rf"^{first}: expected shape"):  # a wrong shape is no missing name
        layer.load_state_dict({first: np.ones(1)}, strict=False)
    assert layer.flat_params is flat


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strict": 1}, "strict: expected a bool, got int"),
        ({"prefix": None}, "prefix: expected a str, got NoneType"),
    ],
)
def test_arguments_are_checked(arguments, message):
    layer = build("LSTM")
    with pytest.raises(TypeError, match=message):
        layer.load_state_dict(layer.state_dict(), **arguments)
    with pytest.raises(TypeError, match=r"prefix: expected a str, got int"):
        layer.state_dict(prefix=1)


# ---- What other versions wrote ---------------------------------------------------------------------------


@every_kind
def test_options_that_a_pickle_lacks_take_their_defaults(kind):
    layer = build(kind)
    function, (cls, config, params), kept = layer.__reduce__()
    assert function is restore
    options = cls._options
    short = {
        name: value
        for name, value in config.items()
        if name in options and (options[name].is_required or value != options[name].default)
    }
    assert len(short) < len(config)
    twin = restore(cls, short, params)
    assert {name: getattr(twin, name) for name in config} == {name: getattr(layer, name) for name in config}
    assert_same_bits(twin.flat_params, layer.flat_params)
    assert_same_bits(result(twin), result(layer))
    twin.rng.integers(5)  # there is one, also where a pickle has none
    twin.__setstate__(kept)
    assert twin.rng is layer.rng


@every_kind
def test_options_that_are_unknown_or_missing_are_refused_by_name(kind):
    layer = build(kind)
    _, (cls, config, params), _ = layer.__reduce__()
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: .*unknown \['sparkle'\]"):
        restore(cls, config | {"sparkle": 1}, params)
    required = next(name for name, option in cls._options.items() if option.is_required)
    with pytest.raises(ValueError, match=rf"none for \['{required}'\]"):
        restore(cls, {name: value for name, value in config.items() if name != required}, params)
    with pytest.raises(TypeError, match=r"expected a mapping of options, got list"):
        restore(cls, list(config), params)
    with pytest.raises(ValueError, match=r"got none for"):
        restore(cls, config, {})
    for name in ("_settings", "weight_ih_l0", "hidden_size"):
        with pytest.raises((ValueError, AttributeError), match=name):
            layer.__setstate__({name: 1})


def test_a_stream_of_another_version():
    stream = fastlstm.GRU(3, 4, rng=0).stream(2)
    stream.process(np.ones((5, 2, 3), np.float32))
    function, (origin, *rest), _ = stream.__reduce__()
    short = origin._replace(config={"input_size": 3, "hidden_size": 4})
    twin = function(short, *rest)
    x = np.ones((2, 3), np.float32)
    assert_same_bits(twin.step(x), stream.step(x))
    with pytest.raises(ValueError, match=r"sparkle"):
        function(origin._replace(config=origin.config | {"sparkle": 2}), *rest)


# ---- All or nothing --------------------------------------------------------------------------------------


def everything(layers):
    return [(layer.flat_params.tobytes(), [part.tobytes() for part in result(layer)]) for layer in layers]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_parameters_of_several_layers_change_together(monkeypatch, error):
    layers = [build(kind) for kind in KINDS]
    before = everything(layers)
    sets = [ParameterSet(layer._parameter_set().layout, 2 * layer.flat_params) for layer in layers]
    last = layers[-1]

    def fail(_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(last), "_ready", lambda self, _: fail(self))
        with pytest.raises(error):
            put_in_force(zip(layers, sets, strict=True))
    assert everything(layers) == before
    put_in_force(zip(layers, sets, strict=True))
    assert all(layer.flat_params is own.flat for layer, own in zip(layers, sets, strict=True))


@every_kind
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_second_init_that_fails_leaves_the_layer_as_it_was(kind, error, monkeypatch):
    layer = build(kind)
    layer.flat_grads[...] = 1
    before, kept = everything([layer]), dict(vars(layer))
    with monkeypatch.context() as patch:

        def fail(*_):
            raise error

        patch.setattr(type(layer), "_ready", fail)
        with pytest.raises(error):
            layer.__init__(3, 2, rng=0)
    with pytest.raises((TypeError, ValueError)):
        layer.__init__(3, "two", rng=0)
    assert vars(layer) == kept
    assert everything([layer]) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
@pytest.mark.parametrize("name", [name for name in STREAMED if FAMILY[name][3].get("residual") is not None])
def test_a_step_of_a_stream_of_several_layers_is_whole(name, error, monkeypatch):
    stream = build(name).stream(2)
    x = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)
    stream.process(x)
    before = stream.state
    twin = copy.copy(stream)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(fastlstm.passes.streams.Stream, "_features", fail)
        for call, value in ((stream.step, x[0]), (stream.process, x)):
            with pytest.raises(error):
                call(value)
    for a, b in zip(arrays(stream.state), arrays(before), strict=True):
        assert_same_bits(a, b)
    assert_same_bits(stream.step(x[0]), twin.step(x[0]))


def arrays(state):
    return [state] if isinstance(state, np.ndarray) else [a for member in state for a in arrays(member)]


# ---- NumPy's error state ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FAMILY, "Embedding"])
def test_numpys_error_state_changes_nothing(kind):
    """Gradients that underflow, overflow and are not finite: as where nothing is raised, and no warning."""
    found = []
    for state in ("ignore", "raise", "warn"):
        layer = build(kind)
        x = (
            np.ones((3, 2), int)
            if kind == "Embedding"
            else np.ones((3, 2, 6 if kind == "all joined" else 5), "f4")
        )
        with np.errstate(all=state):
            tape = layer.forward(x)
            dy = np.full(tape.y.shape, 1e-45, np.float32)
            dy[0, 0] = 3e38
            dy[1, 0] = np.inf
            layer.flat_grads[...] = 3e38
            tape.backward(dy)
        found.append(layer.flat_grads.copy())
    assert np.isfinite(found[0]).sum() < found[0].size
    assert_same_bits(found[1], found[0])
    assert_same_bits(found[2], found[0])


def test_pickles_have_the_notes_of_the_user():
    for kind in KINDS:
        layer = build(kind)
        layer.note = [1]
        assert pickle.loads(pickle.dumps(layer)).note == [1]


def test_attributes_of_several_objects_are_set_all_or_none():
    """As where the second of them finds no memory: what `load_state_dict` and optimizers put in force."""

    class Owner:
        pass

    class Full(Owner):
        @property
        def place(self):
            return 1

        @place.setter
        def place(self, value):
            raise MemoryError

    first, second, third = Owner(), Owner(), Full()
    first.place = "old"
    with pytest.raises(MemoryError):
        assign_all([(first, "place", "new"), (second, "place", "new"), (third, "place", "new")])
    assert first.place == "old"
    assert not hasattr(second, "place")
    assign_all([(first, "place", "new"), (second, "place", "new")])
    assert (first.place, second.place) == ("new", "new")
