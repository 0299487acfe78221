# SPDX-License-Identifier: BSD-3-Clause
"""What the constructors and calls of the family refuse, and what a refusal leaves behind."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastlstm
from tests.objects.test_family_api import FAMILY, arrays, batch, bits, build
from tests.problems.family import REFUSED, REFUSED_CALLS
from tests.problems.helpers import assert_same_bits
from tests.refusals.test_bad_inputs import refuses

I, H, T, B = 5, 6, 4, 3
LSTM, GRU, RNN, SLSTM = fastlstm.LSTM, fastlstm.GRU, fastlstm.RNN, fastlstm.SLSTM
X = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
ROWS = [X[:3, 0].copy(), X[:0, 1].copy(), X[:, 2].copy()]
DATA, OFFSETS = np.concatenate(ROWS), np.array([0, 3, 3, 7])

BAD_OPTIONS = [
    (LSTM, {"coupled": "f_from_i", "forget_gate": False}, ValueError, "coupled"),
    (LSTM, {"coupled": "f"}, ValueError, "coupled"),
    (LSTM, {"coupled": True}, TypeError, "coupled"),
    (LSTM, {"forget_gate": 0}, TypeError, "forget_gate"),
    (LSTM, {"peephole": "yes"}, TypeError, "peephole"),
    (LSTM, {"peephole": True, "layer_norm": "haste"}, ValueError, "peephole"),
    (LSTM, {"layer_norm": "layer"}, ValueError, "layer_norm"),
    (LSTM, {"proj_size": -1}, ValueError, "proj_size"),
    (LSTM, {"proj_size": H}, ValueError, "proj_size"),
    (LSTM, {"proj_size": 2.0}, TypeError, "proj_size"),
    (LSTM, {"proj_size": True}, TypeError, "proj_size"),
    (LSTM, {"proj_bias": True}, ValueError, "proj_bias"),
    (LSTM, {"proj_clip": 1.0}, ValueError, "proj_clip"),
    (LSTM, {"proj_clip": 0.0, "proj_size": 2}, ValueError, "proj_clip"),
    (LSTM, {"cell_clip": -1.0}, ValueError, "cell_clip"),
    (LSTM, {"cell_clip": "1"}, TypeError, "cell_clip"),
    (LSTM, {"cell_clip": 10**400}, ValueError, "cell_clip"),
    (LSTM, {"gate_clip": float("nan")}, ValueError, "gate_clip"),
    (LSTM, {"zoneout_c": 1.5}, ValueError, "zoneout_c"),
    (LSTM, {"zoneout_h": -0.5}, ValueError, "zoneout_h"),
    (LSTM, {"zoneout_h": 0.5, "proj_size": 2}, ValueError, "zoneout_h"),
    (LSTM, {"zoneout_eval": "mean"}, ValueError, "zoneout_eval"),
    (LSTM, {"recurrent_dropout": float("nan")}, ValueError, "recurrent_dropout"),
    (LSTM, {"recurrent_dropout_masks": "all"}, ValueError, "recurrent_dropout_masks"),
    (LSTM, {"recurrent_dropout_masks": None}, ValueError, "recurrent_dropout_masks"),
    (LSTM, {"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias"),
    (LSTM, {"forget_bias": 1.0, "forget_gate": False}, ValueError, "forget_bias"),
    (LSTM, {"forget_bias": 1.0, "coupled": "f_from_i"}, ValueError, "forget_bias"),
    (LSTM, {"forget_bias": float("inf")}, ValueError, "forget_bias"),
    (LSTM, {"forget_bias": "1"}, TypeError, "forget_bias"),
    (LSTM, {"init": "xavier"}, ValueError, "init"),
    (LSTM, {"init": None}, ValueError, "init"),
    (LSTM, {"activations": "Tanh"}, TypeError, "activations"),
    (LSTM, {"activations": ["Tanh", "Tanh"]}, ValueError, "activations"),
    (LSTM, {"activations": ["Tanh", "Tanh", "tanh"]}, ValueError, r"activations\[2\]"),
    (LSTM, {"activations": ["Tanh", "Affine", "Tanh"]}, ValueError, r"activations\[1\]"),
    (LSTM, {"activations": ["Tanh", ("ScaledTanh", 1.0), "Tanh"]}, ValueError, r"activations\[1\]"),
    (LSTM, {"activations": [("Relu", 1.0), "Tanh", "Tanh"]}, ValueError, r"activations\[0\]"),
    (LSTM, {"activations": [("Elu", 1.0, 1.0), "Tanh", "Tanh"]}, ValueError, r"activations\[0\]"),
    (LSTM, {"activations": [("Elu", "1"), "Tanh", "Tanh"]}, TypeError, r"activations\[0\]"),
    (LSTM, {"activations": [("Elu", float("inf")), "Tanh", "Tanh"]}, ValueError, r"activations\[0\]"),
    (LSTM, {"activations": [None, "Tanh", "Tanh"]}, TypeError, r"activations\[0\]"),
    (LSTM, {"reverse": True, "bidirectional": True}, ValueError, "reverse"),
    (LSTM, {"reverse": 1}, TypeError, "reverse"),
    (LSTM, {"reverse_order": "processing"}, ValueError, "reverse_order"),
    (LSTM, {"reverse_order": "back", "reverse": True}, ValueError, "reverse_order"),
    (LSTM, {"merge": "sum"}, ValueError, "merge"),
    (LSTM, {"merge": "max", "bidirectional": True}, ValueError, "merge"),
    (LSTM, {"residual": 0}, ValueError, "residual"),  # I and H differ
    (LSTM, {"residual": 1}, ValueError, "residual"),
    (LSTM, {"residual": -1}, ValueError, "residual"),
    (LSTM, {"residual": True, "num_layers": 2}, TypeError, "residual"),
    (LSTM, {"residual": 1, "hidden_size": (4, 3)}, ValueError, "residual"),
    (LSTM, {"hidden_size": ()}, ValueError, "hidden_size"),
    (LSTM, {"hidden_size": (4, 0)}, ValueError, r"hidden_size\[1\]"),
    (LSTM, {"hidden_size": (4, 2.0)}, TypeError, r"hidden_size\[1\]"),
    (LSTM, {"hidden_size": (4, 3), "num_layers": 3}, ValueError, "num_layers"),
    (LSTM, {"hidden_size": (4, 3), "proj_size": 3}, ValueError, "proj_size"),
    (GRU, {"reset_after": None}, TypeError, "reset_after"),
    (GRU, {"activations": ["Tanh"]}, ValueError, "activations"),
    (GRU, {"gate_clip": 0}, ValueError, "gate_clip"),
    (RNN, {"nonlinearity": "Tanh"}, ValueError, "nonlinearity"),
    (RNN, {"nonlinearity": None}, TypeError, "nonlinearity"),
    (RNN, {"nonlinearity": "relu", "activations": ["Tanh"]}, ValueError, "nonlinearity"),
    (fastlstm.IndRNN, {"nonlinearity": "elu"}, ValueError, "nonlinearity"),
    (SLSTM, {"heads": 4}, ValueError, "heads"),
    (SLSTM, {"heads": 0}, ValueError, "heads"),
    (SLSTM, {"heads": 3, "hidden_size": (6, 4)}, ValueError, "heads"),
    (SLSTM, {"n_floor": -1.0}, ValueError, "n_floor"),
    (SLSTM, {"n_floor": float("inf")}, ValueError, "n_floor"),
    (SLSTM, {"n_floor": 10**400}, ValueError, "n_floor"),
]


@pytest.mark.parametrize(("cls", "options", "error", "name"), BAD_OPTIONS)
def test_options(cls, options, error, name):
    refuses(error, name, cls, **({"input_size": I, "hidden_size": H} | options))


@pytest.mark.parametrize("cls", [GRU, RNN, SLSTM, fastlstm.MinGRU, fastlstm.GRUCell])
@pytest.mark.parametrize("option", ["peephole", "proj_size", "forget_bias", "zoneout_c"])
def test_options_of_another_cell(cls, option):
    with pytest.raises(TypeError, match=option):
        cls(I, H, **{option: 0})


@pytest.mark.parametrize(
    ("sizes", "options"), [(2**40, {}), (3, {"num_layers": 2**60}), (2**62, {"num_layers": 3})]
)
@pytest.mark.parametrize("cls", [LSTM, GRU, fastlstm.MinGRU, fastlstm.IndRNN])
def test_parameters_that_fit_no_memory(cls, sizes, options):
    with pytest.raises((OverflowError, MemoryError)):
        cls(sizes, sizes, **options)


# ---- Arguments of calls ------------------------------------------------------------------------------------

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
def test_calls(kind, arguments, error, name):
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
def test_states(name):
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
        refuses(TypeError, "state", layer, x, arrays(state)[0])


@pytest.mark.parametrize("cls", [GRU, RNN, fastlstm.IndRNN, fastlstm.MGU, fastlstm.MinGRU, fastlstm.MinLSTM])
def test_cells_without_a_c_return_none(cls):
    refuses(ValueError, "return_cells", cls(I, H), X, return_cells=True)
    refuses(ValueError, "return_cells", cls(I, H).forward, X, return_cells=True)


@pytest.mark.parametrize("name", ["residual", "merged", "all joined"])
def test_sums_are_not_held(name):
    layer = build(name)
    refuses(ValueError, "pad", layer, batch(layer), lengths=[1, 2, 3], pad="hold")


class Marked(np.ndarray):
    """A subclass, as that of files in memory is."""


@pytest.mark.parametrize("name", ["LSTM", "SLSTM", "sizes", "residual", "reverse", "peephole"])
def test_out(name):
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
        subclass = np.full_like(y, np.nan).view(Marked)
        assert layer(x, out=subclass, **given)[0] is subclass
        assert_same_bits(np.asarray(subclass), y)
    packed = np.full((6, y.shape[-1]), np.nan, np.float32)
    data = np.concatenate([x[:, 0], x[:2, 2]])
    assert layer(data, offsets=[0, 4, 4, 6], out=packed)[0] is packed
    assert_same_bits(packed, np.concatenate([y[:, 0], y[:2, 2]]))
    refuses(ValueError, "out", layer, [x[:, 0]], out=packed)
    square = fastlstm.LSTM(H, H, rng=0)
    same = np.zeros((T, B, H), np.float32)
    refuses(ValueError, "out", square, same, mask=np.ones((T, B), bool), out=same)


# ---- Tapes -------------------------------------------------------------------------------------------------

PASSES = {
    "plain": ("LSTM", {}),
    "cells": ("SLSTM", {"return_cells": True}),
    "mask": ("GRU", {"mask": np.eye(4, 3, dtype=bool)}),
    "sizes": ("sizes", {"lengths": [4, 0, 2]}),
    "residual": ("residual", {}),
    "joined": ("all joined", {}),
    "reverse": ("reverse", {"lengths": [1, 2, 3]}),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_tape_is_for_one_use_and_a_refusal_loses_nothing(name):
    kind, given = PASSES[name]
    layer, x = build(kind), batch(build(kind))
    dy = np.ones_like(layer.forward(x, training=False, **given).y)
    expected = layer.forward(x, training=False, **given).backward(dy)
    grads = layer.flat_grads.copy()
    layer.flat_grads[:] = 1
    tape = layer.forward(x, training=False, **given)
    for bad in (dy[:-1], dy[..., :-1], dy > 0):
        with pytest.raises((TypeError, ValueError), match=r"^dy: expected .* got "):
            tape.backward(bad)
    if tape.cells is None:
        refuses(ValueError, "dcells", tape.backward, dy, None, dy)
    for attribute in ("y", "state", "cells", "nbytes"):
        with pytest.raises(AttributeError):
            setattr(tape, attribute, None)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="pickle the layer"):
            copied(tape)
    with pytest.raises(TypeError, match="forward"):
        type(tape)()
    with pytest.raises(ValueError, match="read-only"):
        tape.y[...] = 0
    assert (layer.flat_grads == 1).all()
    layer.zero_grad()
    assert_same_bits(bits(tape.backward(dy)), bits(expected))
    assert_same_bits(layer.flat_grads, grads)
    with pytest.raises(RuntimeError, match="second"):
        tape.backward(dy)
    tape = layer.forward(x, **given)
    with layer.editing() as flat:
        flat[0] += 1
    with pytest.raises(RuntimeError, match="parameters"):
        tape.backward(dy)
    assert_same_bits(layer.flat_grads, grads)


@pytest.mark.parametrize("name", PASSES)
def test_a_backward_pass_is_alone_from_the_reading_of_its_arguments_on(name):
    """Reading them may run anything: another thread, or code of the caller's."""
    kind, given = PASSES[name]
    layer = build(kind)
    tape = layer.forward(batch(layer), training=False, **given)
    dy = np.ones_like(tape.y)
    seen = []

    class Gradient:
        def __array__(self, dtype=None, copy=None):
            with pytest.raises(RuntimeError, match=r"^tape: expected one call at a time, got "):
                tape.backward(dy)
            seen.append(layer.flat_grads.any())
            return dy.astype(np.float64)

    tape.backward(Gradient())
    assert seen == [False]
    grads = layer.flat_grads.copy()
    with pytest.raises(RuntimeError, match="second"):
        tape.backward(dy)
    layer.zero_grad()
    layer.forward(batch(layer), training=False, **given).backward(dy)
    assert_same_bits(layer.flat_grads, grads)


@pytest.mark.parametrize("name", PASSES)
def test_arguments_may_change_between_forward_and_backward(name):
    kind, given = PASSES[name]
    layer = build(kind)
    x = batch(layer)
    state = layer(x)[1]
    dy = np.ones_like(layer(x)[0])
    expected = layer.forward(x, state, training=False, **given).backward(dy)
    grads = layer.flat_grads.copy()
    layer.zero_grad()
    tape = layer.forward(x, state, training=False, **given)
    for array in (x, *arrays(state)):
        array[...] = 1
    assert_same_bits(bits(tape.backward(dy)), bits(expected))
    assert_same_bits(layer.flat_grads, grads)


def test_a_list_of_rows_goes_through_training():
    layer = build("LSTM")
    tape = layer.forward(ROWS)
    dy = [np.ones_like(row) for row in tape.y]
    assert [row.shape for row in tape.y] == [(3, H), (0, H), (4, H)]
    dx, (dh, dc) = tape.backward(dy)
    assert [row.shape for row in dx] == [row.shape for row in ROWS]
    packed = layer.forward(DATA, offsets=OFFSETS)
    expected, dstate = packed.backward(np.concatenate(dy))
    assert_same_bits(np.concatenate(dx), expected)
    assert_same_bits((dh, dc), dstate)
    again = layer.forward(ROWS)
    refuses(TypeError, "dy", again.backward, np.concatenate(dy))
    refuses(ValueError, "dy", again.backward, dy[:2])
    refuses(ValueError, r"dy\[1\]", again.backward, [dy[0], dy[0], dy[2]])


# ---- What the specification refuses, layers refuse, and say why --------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_go_together(name):
    cell, options, _why = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got ") as caught:
        getattr(fastlstm, cell)(**({"input_size": 3, "hidden_size": 4} | options))
    assert len(str(caught.value).split()) > 5


@pytest.mark.parametrize("name", REFUSED_CALLS)
def test_calls_that_do_not_go_with_the_options(name):
    cell, options, given, _why = REFUSED_CALLS[name]
    layer = getattr(fastlstm, cell)(**({"input_size": 3, "hidden_size": 3} | options))
    for call in (layer, layer.forward):
        refuses(ValueError, name, call, np.ones((4, 3, 3), np.float32), **given)
