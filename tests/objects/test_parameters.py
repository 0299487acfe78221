# SPDX-License-Identifier: BSD-3-Clause
"""Parameters and gradients: names, shapes, one buffer each with views by name, loading, and editing."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_right, assert_same_bits
from tests.problems.problem import make_problem, transformed
from tests.problems.running import called, make_layer

from .kinds import FAMILY, H, I, batch, build, differ, every_kind, result

# ---- Names and shapes --------------------------------------------------------------------------------------

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


def test_parameters_of_cells_of_one_step_are_those_of_a_layer():
    for name, options in itertools.product(("LSTM", "GRU", "RNN"), ({}, {"bias": False})):
        layer = getattr(fastlstm, name)(I, H, dtype=np.float64, **options).state_dict()
        cell = getattr(fastlstm, f"{name}Cell")(I, H, dtype=np.float64, **options).state_dict()
        expected = {key.removesuffix("_l0"): (value.shape, value.dtype) for key, value in layer.items()}
        assert {key: (value.shape, value.dtype) for key, value in cell.items()} == expected
        assert list(cell) == list(expected)


@every_kind
def test_all_parameters_lie_one_after_the_other_in_one_read_only_buffer(kind):
    layer = build(kind)
    flat, views = layer.flat_params, layer.params
    assert_same_bits(flat, np.concatenate([value.ravel() for value in layer.state_dict().values()]))
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


# ---- Loading -----------------------------------------------------------------------------------------------


@every_kind
def test_a_state_dict_restores_all_that_a_layer_is(kind):
    layer, other = build(kind), build(kind, rng=4)
    assert not np.array_equal(other.flat_params, layer.flat_params)
    other.load_state_dict(dict(reversed(layer.state_dict().items())))
    assert_same_bits(other.flat_params, layer.flat_params)
    assert_same_bits(result(other), result(layer))


@every_kind
def test_a_state_dict_is_a_copy_both_ways(kind):
    layer = build(kind)
    expected = result(layer)
    for value in layer.state_dict().values():
        value[...] = np.nan
    assert_same_bits(result(layer), expected)
    given = layer.state_dict()
    layer.load_state_dict(given)
    for value in given.values():
        value[...] = np.nan
    assert_same_bits(result(layer), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_loading_takes_effect_whichever_parameter_differs(cell):
    """No stale pack: after every load the layer is the one with the new parameters."""
    problem = make_problem(5, 3, 4, 18, 2, cell=cell, bidirectional=True)
    layer = make_layer(problem)
    for name in problem.params:
        for _ in range(2):
            problem.params = problem.params | {name: -problem.params[name] + np.float32(0.01)}
            layer.load_state_dict(problem.params)
            assert_right(problem, called(problem, layer), None, name)
            assert_same_bits(layer.state_dict()[name], problem.params[name])


def test_loading_takes_any_array_like_in_any_order():
    params = fastlstm.LSTM(3, 4, rng=0).state_dict()
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


@pytest.mark.parametrize("name", FAMILY)
def test_every_parameter_and_the_state_matter(name):
    """No parameter is left out when a layer is packed, nor its gradient when it is trained."""
    layer = build(name, dtype=np.float64)
    with layer.editing() as flat:
        flat[:] = np.random.default_rng(5).uniform(-0.5, 0.5, flat.size)
    x = batch(layer)
    before = layer(x)
    end = 0
    for kind, view in layer.params.items():
        begin, end = end, end + view.size
        with layer.editing() as flat:
            flat[begin:end] += 0.125
        after = layer(x)
        assert differ(before, after), kind
        before = after
    tape = layer.forward(x, training=False)
    tape.backward(np.ones_like(tape.y))
    for kind, gradient in layer.grads.items():
        assert gradient.any(), kind
    ones = transformed(np.ones_like, layer(x)[1])
    assert differ(layer(x, ones), before)


# ---- Gradients ---------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_views_of_one_buffer_laid_out_as_the_parameters(kind, dtype):
    layer = build(kind, dtype=dtype)
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


@every_kind
def test_zero_grad_of_a_layer_without_gradients_makes_none(kind):
    layer = build(kind)
    layer.zero_grad()
    assert not any(isinstance(value, np.ndarray) for value in vars(layer).values())
    assert not layer.flat_grads.any()


@every_kind
def test_gradients_stay_when_parameters_change(kind):
    layer = build(kind)
    layer.flat_grads[...] = 1
    flat = layer.flat_grads
    layer.load_state_dict(layer.state_dict())
    with layer.editing() as params:
        params += 1
    assert layer.flat_grads is flat
    assert (flat == 1).all()


@every_kind
def test_threads_that_ask_for_gradients_at_once_get_the_same(kind):
    for _ in range(20):
        layer, got = build(kind), []
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


@every_kind
def test_what_is_edited_is_in_force_after_the_block(kind):
    layer = build(kind)
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
    twin = build(kind)
    twin.load_state_dict({name: 2 * value for name, value in names.items()})
    assert_same_bits(result(layer), result(twin))
    assert not np.array_equal(result(layer), old_result)


@every_kind
def test_what_is_written_after_the_block_has_no_effect(kind):
    layer = build(kind)
    with layer.editing() as flat:
        part = flat[1:3]
        flat += 1
    after, expected = layer.flat_params.copy(), result(layer)
    flat[...] = np.nan
    part[...] = np.nan
    assert_same_bits(layer.flat_params, after)
    assert_same_bits(result(layer), expected)


@every_kind
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_while_editing_leaves_everything_as_it_was(kind, error):
    layer = build(kind)
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


@every_kind
def test_a_change_that_would_be_lost_is_an_error(kind):
    layer = build(kind)
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


@pytest.mark.parametrize("name", FAMILY)
def test_editing_and_optimisers_change_all_kinds(name):
    layer, twin = build(name), build(name)
    x = batch(layer)
    with layer.editing() as flat:
        flat *= 0.5
    twin.load_state_dict({key: value * np.float32(0.5) for key, value in twin.state_dict().items()})
    assert_same_bits(layer(x), twin(x))
    tape = layer.forward(x)
    tape.backward(np.ones_like(tape.y))
    before = layer.flat_params.copy()
    optim.SGD(layer, 0.5).step()
    np.testing.assert_allclose(layer.flat_params, before - 0.5 * layer.flat_grads, rtol=1e-6, atol=1e-7)
    assert layer.flat_grads.any()
    layer.zero_grad()
    assert not layer.flat_grads.any()
