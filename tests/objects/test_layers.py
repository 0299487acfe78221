# SPDX-License-Identifier: BSD-3-Clause
"""Layers, cells and streams as objects: parameters by torch's names, loading, copying, kept states."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastlstm
from fastlstm import reference
from tests.problems.helpers import Case, Config, assert_close, assert_same_bits, random_params

OPTIONS = [
    {"num_layers": L, "bidirectional": two, "bias": bias}
    for L, two, bias in itertools.product((1, 2, 3), (False, True), (False, True))
]


# ---- Parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parameters_have_torchs_names_shapes_and_order(options):
    L, two, bias = options.values()
    names = []
    for layer, suffix in itertools.product(range(L), ("", "_reverse")[: 1 + two]):
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 2 + 2 * bias]
        names += [f"{kind}_l{layer}{suffix}" for kind in kinds]
    params = fastlstm.LSTM(5, 7, dtype=np.float64, **options).state_dict()
    assert list(params) == names
    for name, value in params.items():
        width = {"weight_ih": 5 if "_l0" in name else 7 * (1 + two), "weight_hh": 7}.get(name[:9])
        assert value.shape == ((28,) if width is None else (28, width))
        assert value.dtype == np.float64
    cell = fastlstm.LSTMCell(5, 7, bias).state_dict()
    assert {name: value.shape for name, value in cell.items()} == {
        name.removesuffix("_l0"): value.shape
        for name, value in params.items()
        if name.endswith("_l0") and "l0_" not in name
    }


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parameters_are_those_of_torch(options):
    torch = pytest.importorskip("torch")
    twin = torch.nn.LSTM(5, 7, **options).state_dict()
    ours = fastlstm.LSTM(5, 7, **options).state_dict()
    assert {name: tuple(value.shape) for name, value in twin.items()} == {n: v.shape for n, v in ours.items()}
    assert list(twin) == list(ours)
    cell = torch.nn.LSTMCell(5, 7, bias=options["bias"])
    ours_cell = fastlstm.LSTMCell(5, 7, bias=options["bias"])
    assert list(cell.state_dict()) == list(ours_cell.state_dict())
    ours_cell.load_state_dict(cell.state_dict())
    x = torch.randn(3, 5)
    with torch.no_grad():
        expected = cell(x)
    assert_close(ours_cell(x), tuple(a.numpy() for a in expected))


def test_torch_takes_a_state_dict():
    torch = pytest.importorskip("torch")
    layer = fastlstm.LSTM(5, 7, 2, bidirectional=True, rng=3)
    twin = torch.nn.LSTM(5, 7, 2, bidirectional=True)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    x = torch.randn(4, 2, 5)
    with torch.no_grad():
        expected, (h, c) = twin(x)
    y, (h_n, c_n) = layer(x)
    assert_close((y, h_n, c_n), (expected.numpy(), h.numpy(), c.numpy()))


def test_a_state_dict_is_a_copy():
    layer = fastlstm.LSTM(3, 4, rng=0)
    x = np.ones((2, 1, 3))
    expected = layer(x)
    for value in layer.state_dict().values():
        value[...] = np.nan
    assert_same_bits(layer(x), expected)
    given = layer.state_dict()
    layer.load_state_dict(given)
    for value in given.values():
        value[...] = np.nan
    assert_same_bits(layer(x), expected)


def test_all_parameters_lie_one_after_the_other_in_one_read_only_buffer():
    layer = fastlstm.LSTM(3, 4, 2, bidirectional=True, rng=0)
    flat, views = layer.flat_params, layer.params
    np.testing.assert_array_equal(
        flat, np.concatenate([value.ravel() for value in layer.state_dict().values()])
    )
    assert flat.flags.c_contiguous
    assert list(views) == list(layer.state_dict())
    address = flat.ctypes.data
    for name, view in views.items():
        assert view.ctypes.data == address, name
        assert np.shares_memory(view, flat)
        address += view.nbytes
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
    assert address == flat.ctypes.data + flat.nbytes
    with pytest.raises(ValueError, match="read-only"):
        flat[0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        next(iter(views.values())).flags.writeable = True


def test_loading_takes_effect_whichever_parameter_differs():
    """No stale pack: after every load the layer is the one with the new parameters."""
    case = Case(Config(T=5, B=3, I=4, H=18, L=2, bidirectional=True))
    layer = case.layer()
    for name in case.params:
        for _ in range(2):
            case.params = case.params | {name: -case.params[name] + np.float32(0.01)}
            layer.load_state_dict(case.params)
            assert_close(case.run(layer), case.truth(), name)
            assert_same_bits(layer.state_dict()[name], case.params[name])


def test_loading_takes_any_array_like_in_any_order():
    params = random_params(np.random.default_rng(0), 3, 4)
    expected = fastlstm.LSTM(3, 4)
    expected.load_state_dict(params)
    for convert in (
        lambda a: a.tolist(),
        np.asfortranarray,
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    ):
        layer = fastlstm.LSTM(3, 4)
        layer.load_state_dict({name: convert(params[name]) for name in reversed(params)})
        assert_same_bits(layer.flat_params, expected.flat_params)
    integers = fastlstm.LSTM(3, 4)
    integers.load_state_dict({name: np.ones(value.shape, int) for name, value in params.items()})
    assert (integers.flat_params == 1).all()


GOOD = random_params(np.random.default_rng(1), 3, 4, 2)
BAD_MAPPINGS = [
    ({name: value for name, value in GOOD.items() if name != "bias_hh_l1"}, ValueError, "bias_hh_l1"),
    (GOOD | {"weight_ih_l2": GOOD["weight_ih_l1"]}, ValueError, "weight_ih_l2"),
    (GOOD | {"weight_ih_l0_reverse": GOOD["weight_ih_l0"]}, ValueError, "weight_ih_l0_reverse"),
    (GOOD | {"bias_hh_l1": GOOD["bias_hh_l1"][:-1]}, ValueError, "bias_hh_l1"),
    (GOOD | {"bias_hh_l1": GOOD["bias_hh_l1"][None]}, ValueError, "bias_hh_l1"),
    (GOOD | {"weight_hh_l1": GOOD["weight_hh_l1"].T}, ValueError, "weight_hh_l1"),
    (GOOD | {"weight_ih_l1": GOOD["weight_ih_l0"]}, ValueError, "weight_ih_l1"),
    (GOOD | {"bias_hh_l1": GOOD["bias_hh_l1"].astype(complex)}, TypeError, "bias_hh_l1"),
    (GOOD | {"bias_hh_l1": ["zero"] * 16}, TypeError, "bias_hh_l1"),
    (GOOD | {"bias_hh_l1": None}, ValueError, "bias_hh_l1"),
    ({}, ValueError, "weight_ih_l0"),
    (list(GOOD.items()), TypeError, "mapping"),
    (None, TypeError, "mapping"),
]


@pytest.mark.parametrize(("mapping", "error", "name"), BAD_MAPPINGS)
def test_a_bad_mapping_is_refused_and_nothing_is_changed(mapping, error, name):
    layer = fastlstm.LSTM(3, 4, 2, rng=0)
    before, expected = layer.state_dict(), layer(np.ones((3, 2, 3)))
    with pytest.raises(error, match=rf"(?s){name}.*") as caught:
        layer.load_state_dict(mapping)
    assert "expected" in str(caught.value)
    assert type(caught.value) is error
    for key, value in layer.state_dict().items():
        assert_same_bits(value, before[key])
    assert_same_bits(layer(np.ones((3, 2, 3))), expected)


# ---- Initialisation ----------------------------------------------------------------------------------------


def test_parameters_are_drawn_as_torch_draws_them():
    for H in (1, 16, 100):
        for dtype in (np.float32, np.float64):
            flat = fastlstm.LSTM(50, H, 2, dtype=dtype, rng=0).flat_params
            bound = 1 / np.sqrt(H)
            assert np.abs(flat).max() <= bound * (1 + 1e-7)
            if flat.size > 10_000:
                assert np.abs(flat).max() > 0.99 * bound
                assert abs(flat.mean()) < 0.05 * bound
                assert flat.std() == pytest.approx(bound / np.sqrt(3), rel=0.03)


@pytest.mark.parametrize("make", [fastlstm.LSTM, fastlstm.LSTMCell])
def test_rng_is_anything_that_default_rng_takes(make):
    def flat(rng):
        return make(3, 4, rng=rng).flat_params.copy()

    assert_same_bits(flat(7), flat(7))
    assert_same_bits(flat(np.random.default_rng(7)), flat(7))
    assert_same_bits(flat(np.random.SeedSequence(7)), flat(7))
    assert_same_bits(flat([7, 8]), flat([7, 8]))
    assert not np.array_equal(flat(7), flat(8))
    assert not np.array_equal(flat(None), flat(None))
    generator = np.random.default_rng(7)
    assert not np.array_equal(flat(generator), flat(generator))
    assert np.unique(flat(7)).size == flat(7).size
    with pytest.raises((TypeError, ValueError)):
        flat("seed")


# ---- Attributes and copies ---------------------------------------------------------------------------------


def test_attributes_are_what_was_asked_for():
    layer = fastlstm.LSTM(3, 4, 2, False, True, 0.25, True, dtype=np.float64, num_threads=2)
    expected = {
        "input_size": 3,
        "hidden_size": 4,
        "num_layers": 2,
        "bias": False,
        "batch_first": True,
        "dropout": 0.25,
        "bidirectional": True,
        "dtype": np.float64,
        "num_threads": 2,
        "num_directions": 2,
    }
    assert {name: getattr(layer, name) for name in expected} == expected
    for name in expected:
        if name != "num_threads":
            with pytest.raises(AttributeError):
                setattr(layer, name, getattr(layer, name))
    layer.num_threads = None
    assert layer.num_threads is None
    default = fastlstm.LSTM(3, 4)
    assert (default.bias, default.batch_first, default.dropout, default.bidirectional) == (
        True,
        False,
        0.0,
        False,
    )
    assert (default.dtype, default.num_layers, default.num_threads) == (np.float32, 1, None)
    cell = fastlstm.LSTMCell(3, 4, False)
    assert (cell.input_size, cell.hidden_size, cell.bias, cell.dtype) == (3, 4, False, np.float32)
    for text in ("LSTM", "input_size=3", "hidden_size=4", "bidirectional=True"):
        assert text in repr(layer)


def test_dropout_does_not_act_in_a_call():
    kept, dropped = (fastlstm.LSTM(3, 4, 3, dropout=p, rng=0) for p in (0.0, 0.9))
    x = np.ones((5, 2, 3))
    assert_same_bits(dropped(x), kept(x))


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda value, p=protocol: pickle.loads(pickle.dumps(value, p))
        for protocol in range(6)
    },
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_layers_cells_and_streams_can_be_copied_and_pickled(duplicate):
    x = np.ones((5, 2, 3))
    for options in (
        {},
        {"bidirectional": True, "bias": False},
        {"batch_first": True, "dtype": np.float64, "dropout": 0.5},
    ):
        layer = fastlstm.LSTM(3, 20, 2, num_threads=2, rng=0, **options)
        twin = duplicate(layer)
        assert type(twin) is fastlstm.LSTM
        assert repr(twin) == repr(layer)
        assert twin.num_threads == 2
        assert_same_bits(twin(x), layer(x))
        assert_same_bits(twin.flat_params, layer.flat_params)
        twin.load_state_dict({name: np.zeros_like(value) for name, value in twin.state_dict().items()})
        assert layer.flat_params.any()
    cell = fastlstm.LSTMCell(3, 20, rng=0)
    assert_same_bits(duplicate(cell)(x[0]), cell(x[0]))
    stream = fastlstm.LSTM(3, 20, 2, batch_first=True, rng=0).stream(5)
    stream.step(x[:, 0])
    twin = duplicate(stream)
    assert_same_bits(twin.state, stream.state)
    assert_same_bits(twin.process(x), stream.process(x))
    before = stream.state
    twin.reset()
    assert_same_bits(stream.state, before)


class Named(fastlstm.LSTM):
    """A subclass with an attribute of its own."""

    name = ""


def test_a_subclass_keeps_its_class_and_attributes():
    layer = Named(3, 4, rng=0)
    layer.name = "encoder"
    for duplicate in COPIES.values():
        twin = duplicate(layer)
        assert type(twin) is Named
        assert twin.name == "encoder"
        assert_same_bits(twin(np.ones((2, 1, 3))), layer(np.ones((2, 1, 3))))


def test_a_layer_without_init_is_an_error_and_no_crash():
    for kind in (fastlstm.LSTM, fastlstm.LSTMCell):
        empty = kind.__new__(kind)
        for use in ("__call__", "hidden_size", "state_dict"):
            with pytest.raises(RuntimeError, match="__init__ has not been called"):
                empty(np.ones((2, 1, 3))) if use == "__call__" else getattr(empty, use)()


# ---- Cells -------------------------------------------------------------------------------------------------


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_against_the_reference(dtype, bias, rng):
    for B, I, H in ((1, 1, 1), (2, 5, 16), (7, 40, 33), (64, 30, 100)):
        cell = fastlstm.LSTMCell(I, H, bias, dtype=dtype, rng=0)
        x = rng.standard_normal((B, I)).astype(dtype)
        state = tuple(rng.standard_normal((B, H)).astype(dtype) for _ in "hc")
        params = {name: value.astype(np.longdouble) for name, value in cell.state_dict().items()}
        assert_close(cell(x, state), reference.lstm_cell(x, state, params))
        assert_same_bits(cell(x), cell(x, tuple(np.zeros((B, H), dtype) for _ in "hc")))
        assert_same_bits(cell(x[0], tuple(s[0] for s in state)), tuple(a[0] for a in cell(x, state)))
        index = rng.integers(0, I, B)
        assert_same_bits(cell(index, state), cell(np.eye(I, dtype=dtype)[index], state))
        assert_same_bits(cell(int(index[0]))[0], cell(index[:1])[0][0])


# ---- Streams -----------------------------------------------------------------------------------------------


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


def test_a_stream_of_indices_is_one_of_one_hot_rows():
    case = Case(Config(T=20, B=3, I=9, H=20, L=2, is_index=True))
    y, _, _ = case.run()
    stream = case.layer().stream(3)
    assert_same_bits(np.stack([stream.step(row) for row in case.x]), y)
    single = case.layer().stream()
    assert_same_bits(np.stack([single.step(int(i)) for i in case.x[:, 1]]), y[:, 1])


def test_a_stream_keeps_the_parameters_it_was_made_with():
    layer = fastlstm.LSTM(3, 4, rng=0)
    stream, old = layer.stream(), copy.deepcopy(layer)
    layer.load_state_dict(fastlstm.LSTM(3, 4, rng=1).state_dict())
    x = np.ones((5, 3))
    assert_same_bits(stream.process(x), old(x)[0])
    assert_same_bits(layer.stream().process(x), layer(x)[0])
    del layer, old
    assert np.isfinite(stream.process(x)).all()


def test_outs_of_a_stream_are_returned():
    layer = fastlstm.LSTM(3, 4, rng=0)
    stream, twin = layer.stream(2), layer.stream(2)
    out = np.empty((2, 4), np.float32)
    assert stream.step(np.ones((2, 3)), out=out) is out
    assert_same_bits(out, twin.step(np.ones((2, 3))))
    block = np.empty((5, 2, 4), np.float32)
    assert stream.process(np.ones((5, 2, 3)), out=block) is block
    assert_same_bits(block, twin.process(np.ones((5, 2, 3))))
