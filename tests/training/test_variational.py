# SPDX-License-Identifier: BSD-3-Clause
"""Dropout with one mask for all steps, of the input and between layers: the specification, and bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastlstm
from fastlstm.reference import variational_mask
from fastlstm.testing import gradcheck
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_right, assert_same_bits
from tests.problems.problem import make_problem
from tests.problems.running import called, make_layer, trained

BOTH = {"input_dropout": 0.4, "dropout": 0.3, "dropout_masks": "sequence"}
STACKS = {
    "stack": {},
    "both directions": {"bidirectional": True},
    "sum": {"bidirectional": True, "merge": "sum"},
    "residual": {"residual": 1},
    "reverse": {"reverse": True},
    "batch first": {"batch_first": True, "bidirectional": True},
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "options", [BOTH, {"input_dropout": 0.5}, {"dropout": 0.5, "dropout_masks": "sequence"}]
)
def test_a_pass_and_its_gradients_are_those_of_the_specification(cell, stack, options):
    more = {"has_lengths": True, "has_reset": 0.2, "has_state": True}
    problem = make_problem(7, 4, 5, 6, 3, cell=cell, **STACKS[stack], **options, **more)
    layer = make_layer(problem)
    assert_right(problem, called(problem, layer), None)
    assert_right(problem, trained(problem, layer), True)


@pytest.mark.parametrize("stack", STACKS)
def test_the_bits_do_not_depend_on_threads_or_what_is_kept(stack):
    problem = make_problem(40, 8, 5, 32, 3, **STACKS[stack], **BOTH, has_lengths=True)
    expected = trained(problem, make_layer(problem, num_threads=1))
    for threads, save in itertools.product((1, 2), ("all", "states", 3)):
        found = trained(problem, make_layer(problem, num_threads=threads), save=save)
        for name in expected:
            assert_same_bits(found[name], expected[name])


def test_masks_are_the_same_in_all_steps_and_differ_by_row_and_place():
    layer = fastlstm.RNN(
        6, 6, 2, bias=False, nonlinearity="relu", input_dropout=0.5, dropout=0.5, dropout_masks="sequence",
        dtype="float64", rng=0,
    )  # fmt: skip
    eye, none = np.eye(6), np.zeros((6, 6))
    layer.load_state_dict(
        {"weight_ih_l0": eye, "weight_hh_l0": none, "weight_ih_l1": eye, "weight_hh_l1": none}
    )
    x = np.ones((9, 5, 6))
    tape = layer.forward(x)
    y = tape.y
    assert set(np.unique(y)) == {0.0, 4.0}
    assert (y == y[0]).all()
    assert len({row.tobytes() for row in y[0]}) > 2
    dx, _ = tape.backward(np.ones_like(y))
    assert_same_bits(dx, np.array(y))
    assert not np.array_equal(layer.forward(x).y, y)
    assert_same_bits(layer.forward(x, training=False).y, layer(x)[0])
    assert (layer(x)[0] == 1).all()


def test_a_mask_is_a_function_of_seed_layer_row_and_place():
    masks = [variational_mask(seed, layer, 3, 4, 0.5) for seed, layer in itertools.product((1, 2), (0, 1))]
    assert all(mask.shape == (3, 4) for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 4
    many = variational_mask(7, 0, 1000, 100, 0.3)
    assert abs((many == 0).mean() - 0.3) < 0.005
    np.testing.assert_allclose(np.unique(many), [0, 1 / 0.7])


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_derivatives(cell):
    layer = getattr(fastlstm, cell)(4, 6, 2, bidirectional=True, rng=0, **BOTH)
    assert gradcheck(layer, np.random.default_rng(0).standard_normal((5, 3, 4)), samples=8, lengths=[5, 0, 3])


def test_lists_and_packed_rows_have_the_masks_of_their_rows():
    layers = [fastlstm.GRU(4, 5, 2, rng=3, **BOTH) for _ in range(3)]
    x = np.random.default_rng(0).standard_normal((6, 3, 4)).astype(np.float32)
    counts = [6, 2, 4]
    rows = [x[:n, b] for b, n in enumerate(counts)]
    padded = layers[0].forward(x, lengths=counts).y
    listed = layers[1].forward(rows).y
    packed = layers[2].forward(np.concatenate(rows), offsets=np.r_[0, np.cumsum(counts)]).y
    for b, n in enumerate(counts):
        assert_same_bits(np.ascontiguousarray(padded[:n, b]), listed[b])
    assert_same_bits(np.concatenate(listed), packed)


def test_integers_are_as_one_hot_rows():
    index = np.random.default_rng(0).integers(0, 4, (5, 3))
    results = []
    for x in (index, np.eye(4, dtype=np.float32)[index]):
        layer = fastlstm.LSTM(4, 5, input_dropout=0.5, rng=0)
        tape = layer.forward(x)
        dx, _ = tape.backward(np.ones_like(tape.y))
        results.append((tape.y, layer.flat_grads, layer(x)[0]))
    assert_same_bits(*[y for y, _, _ in results])
    assert_same_bits(*[called for _, _, called in results])
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
    assert dx is not None


def test_options_that_do_not_fit():
    for options, error in (({"input_dropout": 1.5}, ValueError), ({"dropout_masks": "row"}, ValueError)):
        with pytest.raises(error, match=rf"^{next(iter(options))}: expected"):
            fastlstm.LSTM(4, 5, **options)
