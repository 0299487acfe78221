# SPDX-License-Identifier: BSD-3-Clause
"""The family of layers as objects: names, shapes, first values, states, streams and copies."""

from __future__ import annotations

import copy
import doctest
import importlib
import itertools
import pickle
import warnings

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from tests.problems.helpers import assert_close, assert_same_bits
from tests.refusals.test_bad_inputs import refuses
from tests.sequences.test_inputs import Tensor

I, H = 5, 6
LAYERS = {
    name: getattr(fastlstm, name)
    for name in ("LSTM", "GRU", "RNN", "IndRNN", "SLSTM", "MGU", "MinGRU", "MinLSTM")
}
# One of each kind, and those whose parameters or passes differ: (class, input size, hidden size, options).
FAMILY = {name: (cls, I, H, {}) for name, cls in LAYERS.items()} | {
    "peephole": (fastlstm.LSTM, I, H, {"peephole": True, "num_layers": 2, "bidirectional": True}),
    "projected": (fastlstm.LSTM, I, H, {"proj_size": 3, "proj_bias": True, "proj_clip": 0.5}),
    "gate": (fastlstm.LSTM, I, H, {"layer_norm": "gate", "coupled": "i_from_f"}),
    "haste": (fastlstm.LSTM, I, H, {"layer_norm": "haste", "cell_clip": 1.0, "num_layers": 2}),
    "zoneout": (fastlstm.LSTM, I, H, {"zoneout_c": 0.25, "zoneout_h": 0.5, "recurrent_dropout": 0.25}),
    "reset before": (fastlstm.GRU, I, H, {"reset_after": False, "num_layers": 2, "dropout": 0.5}),
    "activations": (fastlstm.GRU, I, H, {"activations": ["HardSigmoid", ("Elu", 2.0)], "gate_clip": 2.0}),
    "heads": (fastlstm.SLSTM, I, H, {"heads": 3, "n_floor": 1.0, "num_layers": 2}),
    "sizes": (fastlstm.LSTM, I, (4, 6, 2), {"dropout": 0.25}),
    "sizes of h": (fastlstm.GRU, I, [4, 2], {"bidirectional": True}),
    "residual": (fastlstm.LSTM, I, H, {"num_layers": 3, "residual": 1}),
    "merged": (fastlstm.RNN, I, H, {"num_layers": 2, "bidirectional": True, "merge": "average"}),
    "all joined": (
        fastlstm.SLSTM, H, H,
        {"num_layers": 2, "residual": 0, "bidirectional": True, "merge": "sum", "dropout": 0.5},
    ),
    "reverse": (fastlstm.MinLSTM, I, H, {"reverse": True, "num_layers": 2}),
    "processing": (fastlstm.IndRNN, I, H, {"reverse": True, "reverse_order": "processing"}),
}  # fmt: skip
STREAMED = [
    name
    for name, (_, _, _, options) in FAMILY.items()
    if not (options.get("bidirectional") or options.get("reverse"))
]


def build(name, **changes):
    cls, inputs, size, options = FAMILY[name]
    return cls(inputs, size, **({"rng": 3} | options | changes))


def arrays(value):
    """All arrays of nested tuples and lists."""
    if isinstance(value, np.ndarray):
        return [value]
    return [array for part in value for array in arrays(part)]


def bits(value):
    """For `assert_same_bits`: nested tuples, also where there were lists."""
    return value if isinstance(value, np.ndarray) else tuple(map(bits, value))


def batch(layer, T=4, B=3, seed=0):
    return np.random.default_rng(seed).standard_normal((T, B, layer.input_size)).astype(layer.dtype)


# ---- Parameters --------------------------------------------------------------------------------------------

# Of one direction of the first layer with I = 5, H = 6, by hand.
SHAPES = [
    (fastlstm.LSTM, {}, "weight_ih 24,5 weight_hh 24,6 bias_ih 24 bias_hh 24"),
    (fastlstm.LSTM, {"bias": False}, "weight_ih 24,5 weight_hh 24,6"),
    (fastlstm.LSTM, {"coupled": "f_from_i"}, "weight_ih 18,5 weight_hh 18,6 bias_ih 18 bias_hh 18"),
    (fastlstm.LSTM, {"forget_gate": False, "bias": False, "peephole": True},
     "weight_ih 18,5 weight_hh 18,6 weight_ch 12"),
    (fastlstm.LSTM, {"peephole": True}, "weight_ih 24,5 weight_hh 24,6 bias_ih 24 bias_hh 24 weight_ch 18"),
    (fastlstm.LSTM, {"coupled": "i_from_f", "peephole": True, "layer_norm": "gate", "proj_size": 2,
                     "proj_bias": True},
     "weight_ih 18,5 weight_hh 18,2 bias_ih 18 bias_hh 18 weight_ch 12 weight_hr 2,6 bias_hr 2 weight_ln 18"),
    (fastlstm.LSTM, {"proj_size": 5, "bias": False}, "weight_ih 24,5 weight_hh 24,5 weight_hr 5,6"),
    (fastlstm.LSTM, {"layer_norm": "haste"},
     "weight_ih 24,5 weight_hh 24,6 bias_ih 24 bias_hh 24 weight_ln_ih 24 weight_ln_hh 24 weight_ln_c 6 "
     "bias_ln_c 6"),
    (fastlstm.GRU, {}, "weight_ih 18,5 weight_hh 18,6 bias_ih 18 bias_hh 18"),
    (fastlstm.GRU, {"reset_after": False, "bias": False}, "weight_ih 18,5 weight_hh 18,6"),
    (fastlstm.RNN, {}, "weight_ih 6,5 weight_hh 6,6 bias_ih 6 bias_hh 6"),
    (fastlstm.IndRNN, {}, "weight_ih 6,5 weight_hh 6 bias_ih 6"),
    (fastlstm.SLSTM, {"heads": 2}, "weight_ih 24,5 weight_hh 24,3 bias_ih 24"),
    (fastlstm.SLSTM, {"bias": False}, "weight_ih 24,5 weight_hh 24,6"),
    (fastlstm.MinGRU, {}, "weight_ih 12,5 bias_ih 12"),
    (fastlstm.MGU, {}, "weight_ih 12,5 weight_hh 12,6 bias_ih 12 bias_hh 12"),
    (fastlstm.MinLSTM, {}, "weight_ih 18,5 bias_ih 18"),
    (fastlstm.MinLSTM, {"bias": False}, "weight_ih 18,5"),
]  # fmt: skip


def parsed(text):
    words = text.split()
    return {
        name: tuple(map(int, sizes.split(","))) for name, sizes in zip(words[::2], words[1::2], strict=True)
    }


@pytest.mark.parametrize(("cls", "options", "expected"), SHAPES)
@pytest.mark.parametrize("two", [False, True])
def test_names_shapes_and_order_of_parameters(cls, options, expected, two):
    layer = cls(I, H, 2, bidirectional=two, rng=0, **options)
    kinds = parsed(expected)
    width = layer.proj_size if options.get("proj_size") else H
    shapes = {}
    for number, suffix in itertools.product(range(2), ("", "_reverse")[: 1 + two]):
        for kind, shape in kinds.items():
            if kind == "weight_ih" and number:
                shape = (shape[0], width * (1 + two))
            shapes[f"{kind}_l{number}{suffix}"] = shape
    assert {name: value.shape for name, value in layer.params.items()} == shapes
    assert list(layer.params) == list(shapes)
    address = layer.flat_params.ctypes.data
    for view in layer.params.values():
        assert view.ctypes.data == address
        address += view.nbytes
    assert layer.flat_params.size == sum(map(np.prod, shapes.values()))


def test_parameters_of_layers_of_different_sizes():
    layer = fastlstm.LSTM(5, [4, 3], bidirectional=True, merge="sum", rng=0)
    shapes = {name: value.shape for name, value in layer.params.items()}
    assert shapes["weight_ih_l0"] == shapes["weight_ih_l0_reverse"] == (16, 5)
    assert shapes["weight_hh_l0"] == (16, 4)
    assert shapes["weight_ih_l1"] == (12, 4)
    assert shapes["weight_hh_l1_reverse"] == (12, 3)
    assert (layer.hidden_size, layer.num_layers) == ((4, 3), 2)
    wide = fastlstm.LSTM(5, [4, 3], 2, bidirectional=True, rng=0)
    assert wide.params["weight_ih_l1"].shape == (12, 8)


@pytest.mark.parametrize("name", FAMILY)
def test_a_state_dict_restores_all_that_a_layer_is(name):
    layer, other = build(name), build(name, rng=4)
    x = batch(layer)
    assert not np.array_equal(other.flat_params, layer.flat_params)
    other.load_state_dict(dict(reversed(layer.state_dict().items())))
    assert_same_bits(other.flat_params, layer.flat_params)
    assert_same_bits(bits(other(x)), bits(layer(x)))
    short = layer.state_dict()
    short.pop(next(reversed(short)))
    with pytest.raises(ValueError, match="mapping: expected the names"):
        layer.load_state_dict(short)


@pytest.mark.parametrize("name", FAMILY)
def test_every_parameter_and_the_state_matter(name):
    """No parameter is left out when a layer is packed, nor its gradient when it is trained."""
    layer = build(name, dtype=np.float64)
    with layer.editing() as flat:
        flat[:] = np.random.default_rng(5).uniform(-0.5, 0.5, flat.size)
    x = batch(layer)
    before = bits(layer(x))
    end = 0
    for kind, view in layer.params.items():
        begin, end = end, end + view.size
        with layer.editing() as flat:
            flat[begin:end] += 0.125
        after = bits(layer(x))
        assert differ(before, after), kind
        before = after
    tape = layer.forward(x, training=False)
    tape.backward(np.ones_like(tape.y))
    for kind, gradient in layer.grads.items():
        assert gradient.any(), kind
    ones = nested(np.ones_like, layer(x)[1])
    assert differ(layer(x, ones), before)


def differ(a, b):
    """Whether any two arrays at the same place do."""
    return not all(itertools.starmap(np.array_equal, zip(arrays(a), arrays(b), strict=True)))


def nested(function, value):
    """The same nesting of tuples, of what `function` makes of each array."""
    return function(value) if isinstance(value, np.ndarray) else tuple(nested(function, v) for v in value)


@pytest.mark.parametrize("name", FAMILY)
def test_editing_and_optimisers_change_all_kinds(name):
    layer, twin = build(name), build(name)
    x = batch(layer)
    with layer.editing() as flat:
        flat *= 0.5
    twin.load_state_dict({key: value * np.float32(0.5) for key, value in twin.state_dict().items()})
    assert_same_bits(bits(layer(x)), bits(twin(x)))
    tape = layer.forward(x)
    tape.backward(np.ones_like(tape.y))
    before = layer.flat_params.copy()
    optim.SGD(layer, 0.5).step()
    np.testing.assert_allclose(layer.flat_params, before - 0.5 * layer.flat_grads, rtol=1e-6, atol=1e-7)
    assert layer.flat_grads.any()
    layer.zero_grad()
    assert not layer.flat_grads.any()


# ---- First values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_are_drawn_as_torch_draws_them(name):
    layer = build(name, dtype=np.float64)
    for key, value in layer.params.items():
        if "_ln" in key:
            assert (value == key.startswith("weight")).all(), key
            continue
        size = layer.hidden_size
        size = size if isinstance(size, int) else size[int(key.split("_l")[1][0])]
        assert np.abs(value).max() <= size**-0.5
        assert np.unique(value).size == value.size, key
    assert_same_bits(build(name, dtype=np.float64).flat_params, layer.flat_params)


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_are_drawn_as_keras_draws_them(name):
    layer = build(name, dtype=np.float64, init="keras")
    for key, value in layer.params.items():
        if key.startswith("bias"):
            rest = value.copy()
            gates = "" if not isinstance(layer, fastlstm.LSTM) else "fgo" if layer.coupled else "ifgo"
            if key.startswith("bias_ih") and gates:
                size = value.size // len(gates)
                forget = slice(gates.index("f") * size, (gates.index("f") + 1) * size)
                assert (value[forget] == 1).all()
                rest[forget] = 0
            assert not rest.any(), key
        elif key.startswith("weight_hh") and value.ndim == 2:
            small = value.T @ value if value.shape[0] >= value.shape[1] else value @ value.T
            np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12, err_msg=key)
        elif key.startswith(("weight_ih", "weight_hr")):
            assert 0.5 < np.abs(value).max() / np.sqrt(6 / sum(value.shape)) <= 1, key


def test_orthogonal_matrices_have_no_preferred_sign():
    signs = [
        np.sign(np.linalg.det(fastlstm.RNN(1, 3, init="keras", rng=seed).params["weight_hh_l0"]))
        for seed in range(40)
    ]
    assert abs(sum(signs)) < 30


@pytest.mark.parametrize(("options", "gates"), [({}, "ifgo"), ({"coupled": "i_from_f"}, "fgo")])
@pytest.mark.parametrize("init", ["torch", "keras"])
def test_forget_bias(options, gates, init):
    layer = fastlstm.LSTM(I, H, 2, forget_bias=-1.5, init=init, rng=0, **options)
    plain = fastlstm.LSTM(I, H, 2, init=init, rng=0, **options)
    for key, value in layer.params.items():
        blocks = value.reshape(len(gates), H, -1)
        expected = plain.params[key].reshape(blocks.shape).copy()
        if key.startswith("bias"):
            expected[gates.index("f")] = -1.5 if key.startswith("bias_ih") else 0
        assert_same_bits(blocks, expected, key)


# ---- Twins of torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "name", "options"),
    [
        (fastlstm.GRU, "GRU", {}),
        (fastlstm.RNN, "RNN", {}),
        (fastlstm.RNN, "RNN", {"nonlinearity": "relu"}),
        (fastlstm.LSTM, "LSTM", {"proj_size": 4}),
    ],
)
@pytest.mark.parametrize("two", [False, True])
def test_torch_gives_the_same(cls, name, options, two):
    torch = pytest.importorskip("torch")
    layer = cls(I, H, 2, bidirectional=two, rng=0, **options)
    twin = getattr(torch.nn, name)(I, H, 2, bidirectional=two, **options)
    assert {key: tuple(value.shape) for key, value in twin.state_dict().items()} == {
        key: value.shape for key, value in layer.state_dict().items()
    }
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in layer.state_dict().items()})
    x = batch(layer)
    y, state = layer(x)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a projection takes longer
        twin_y, twin_state = twin(torch.from_numpy(x))
    assert_close(tuple(arrays((y, state))), tuple(a.numpy() for a in (twin_y, *_tensors(twin_state))))


def _tensors(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize(
    ("cls", "name", "options"),
    [
        (fastlstm.GRUCell, "GRUCell", {}),
        (fastlstm.RNNCell, "RNNCell", {}),
        (fastlstm.RNNCell, "RNNCell", {"nonlinearity": "relu"}),
    ],
)
def test_cells_are_those_of_torch(cls, name, options):
    torch = pytest.importorskip("torch")
    cell, twin = cls(I, H, rng=0, **options), getattr(torch.nn, name)(I, H, **options)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in cell.state_dict().items()})
    rng = np.random.default_rng(1)
    x, h = (rng.standard_normal((3, n)).astype(np.float32) for n in (I, H))
    with torch.no_grad():
        expected = twin(torch.from_numpy(x), torch.from_numpy(h)).numpy()
    assert_close((cell(x, h),), (expected,))
    out = np.empty((3, H), np.float32)
    assert cell(x, h, out=out) is out
    assert_same_bits(out, cell(x, h))
    assert_same_bits(cell(x[0], h[0]), cell(x, h)[0])
    assert_same_bits(cell(2), cell(np.eye(I)[2]))
    assert_same_bits(pickle.loads(pickle.dumps(cell))(x, h), out)
    refuses(ValueError, "state", cell, x, h[:2])
    refuses(ValueError, "out", cell, x, h, h)
    refuses(TypeError, "out", cell, x, h, (out, out))


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
    assert [array.shape for array in arrays(state)] == expected
    assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in arrays(state))
    _, single = layer(x[:, 0])
    assert_same_bits(bits(single), nested(lambda array: array[:, 0], state))
    assert_same_bits(bits(layer(x[:, 0], single)), bits(layer(x[:, 0], nested(np.copy, single))))
    tape = layer.forward(x, training=False)
    assert_same_bits(bits(tape.state), bits(state))
    _, dstate = tape.backward(None, state)
    assert [array.shape for array in arrays(dstate)] == expected


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
    assert_same_bits(bits(state), bits(final))


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
        assert_same_bits(bits(used.state), bits(final))
    index = np.random.default_rng(0).integers(0, layer.input_size, (5, 3))
    after = layer(index, final)
    assert_same_bits(stream.process(index), after[0])
    stream.state = final
    out = np.empty_like(after[0][0])
    assert stream.step(index[0], out=out) is out
    assert_same_bits(out, after[0][0])
    stream.reset()
    assert not any(array.any() for array in arrays(stream.state))
    assert_same_bits(stream.process(x), y)


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_can_be_copied_and_keeps_its_parameters(name):
    layer = build(name, batch_first=True, dtype=np.float64)
    x = batch(layer).swapaxes(0, 1)
    stream = layer.stream(3)
    stream.process(x)
    layer.load_state_dict(build(name, rng=9).state_dict())
    for duplicate in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        twin = duplicate(stream)
        assert type(twin) is type(stream)
        assert repr(twin) == repr(stream)
        assert_same_bits(bits(twin.state), bits(stream.state))
        kept = stream.state
        assert_same_bits(twin.process(x), stream.process(x))
        stream.state = kept


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
    assert_same_bits(bits(stream.state), bits(before))


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


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True}])
@pytest.mark.parametrize("cls", LAYERS.values())
def test_a_layer_that_runs_from_the_end_is_no_stream(cls, options):
    refuses(ValueError, "stream", cls(I, H, **options).stream)


# ---- Attributes and copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
def test_options_are_attributes_and_survive_copies(name):
    cls, inputs, size, options = FAMILY[name]
    layer = build(name, num_threads=2)
    given = {"input_size": inputs, "hidden_size": size if isinstance(size, int) else tuple(size)} | options
    for option, value in given.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(layer, option) == expected, option
        with pytest.raises(AttributeError):
            setattr(layer, option, value)
        assert f"{option}=" in repr(layer)
    layer.note = "kept"
    x = batch(layer)
    for duplicate in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        twin = duplicate(layer)
        assert (type(twin), repr(twin), twin.note, twin.num_threads) == (cls, repr(layer), "kept", 2)
        assert_same_bits(bits(twin(x)), bits(layer(x)))
        drawn = copy.deepcopy(layer).forward(x).y
        assert_same_bits(twin.forward(x).y, drawn)


def test_repr_shows_the_options_that_are_not_the_usual_ones():
    assert repr(fastlstm.GRU(3, 4)) == (
        "GRU(input_size=3, hidden_size=4, num_layers=1, bias=True, batch_first=False, dropout=0.0, "
        "bidirectional=False, dtype=float32, num_threads=None)"
    )
    text = repr(fastlstm.LSTM(3, (4, 5), coupled="f_from_i", activations=["Sigmoid", "Relu", ("Elu", 2)]))
    assert "hidden_size=(4, 5)" in text
    assert "coupled='f_from_i', activations=('Sigmoid', 'Relu', ('Elu', 2.0))" in text
    assert repr(eval(text, {"LSTM": fastlstm.LSTM, "float32": np.float32})) == text


@pytest.mark.parametrize("cls", [*LAYERS.values(), fastlstm.GRUCell, fastlstm.RNNCell])
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


@pytest.mark.parametrize(
    "module",
    ["layers.gru", "layers.lstm", "layers.minimal", "layers.rnn", "layers.slstm", "passes.streams"],
)
def test_examples_in_docstrings(module):
    assert doctest.testmod(importlib.import_module(f"fastlstm.{module}")).failed == 0
