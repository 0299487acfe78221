# SPDX-License-Identifier: BSD-3-Clause
"""Dropout between layers, and all else that is drawn in training: when it acts, and from which generator.

What the masks are, spec/test_draws.py says; that layers have them, test_gradients.py.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_right, assert_same_bits
from tests.problems.problem import arrays_of, make_problem
from tests.problems.running import make_layer, trained

DROPPED = {"dropout": 0.5}


def state_of(layer):
    return layer.rng.bit_generator.state


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_does_not_act_in_a_call_or_outside_of_training(cell):
    for L in (1, 3):
        problem = make_problem(9, 4, 5, 11, L, cell=cell, has_state=True, **DROPPED)
        layer, plain = make_layer(problem), make_layer(problem.with_options(dropout=0.0))
        before = copy.deepcopy(layer.rng)
        assert_same_bits(layer(problem.x, problem.state), plain(problem.x, problem.state))
        results = [
            each.forward(problem.x, problem.state, training=False).backward(problem.dy, problem.dstate)
            for each in (layer, plain)
        ]
        assert_same_bits(*results)
        assert_same_bits(layer.flat_grads, plain.flat_grads)
        assert state_of(layer) == before.bit_generator.state
        layer.forward(problem.x)
        if L > 1:
            before.integers(2**63)
        assert state_of(layer) == before.bit_generator.state


@pytest.mark.parametrize(
    "given",
    [
        *({"cell": cell, "dropout": 0.5} for cell in CELLS),
        {"zoneout_c": 0.5},
        {"zoneout_h": 0.5},
        {"recurrent_dropout": 0.5},
        {"recurrent_dropout": 0.5, "recurrent_dropout_masks": "tied"},
        {"zoneout_c": 0.3, "zoneout_h": 0.2, "recurrent_dropout": 0.4, "dropout": 0.4, "layer_norm": "gate"},
    ],
    ids=str,
)
def test_each_pass_draws_one_seed_whose_masks_are_those_of_the_reference(given):
    problem = make_problem(12, 4, 5, 11, 2, **given)
    outputs = {}
    for threads, seed in ((1, 5), (3, 5), (1, 6)):
        layer = make_layer(problem, num_threads=threads, rng=seed)
        expected = copy.deepcopy(layer.rng)
        outputs[threads, seed] = [layer.forward(problem.x).y for _ in range(2)]
        for y in outputs[threads, seed]:
            problem.seed = int(expected.integers(2**63))
            truth = problem.forward(training=True, dtype=np.float64).y
            np.testing.assert_allclose(y, truth, atol=1e-5 if "layer_norm" in given else 2e-6)
        assert state_of(layer) == expected.bit_generator.state
        layer.forward(problem.x, training=False)
        assert state_of(layer) == expected.bit_generator.state
    assert_same_bits(outputs[3, 5], outputs[1, 5])
    assert len({y.tobytes() for pair in outputs.values() for y in pair}) == 4


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_dropout_of_everything(cell, bidirectional):
    problem = make_problem(6, 3, 4, 7, 2, cell=cell, bidirectional=bidirectional, dropout=1.0)
    got = trained(problem)
    assert_right(problem, got, True)
    # What reaches layer 0 is the gradient of its final states alone; here is none of dy.
    tape = (layer := make_layer(problem)).forward(problem.x)
    dx, dstate = tape.backward(problem.dy)
    assert not dx.any()
    assert all(not member[: 1 + bidirectional].any() for member in arrays_of(dstate))
    below = [name for name in layer.grads if "_l0" in name or name.startswith("weight_ih_l1")]
    assert len(below) >= 3
    assert not any(layer.grads[name].any() for name in below)
    assert any(layer.grads[name].any() for name in layer.grads if "_l1" in name)


def test_layers_that_draw_nothing_leave_the_generator_alone():
    x = np.ones((6, 2, 3), np.float32)
    with pytest.warns(UserWarning, match=r"dropout"):
        of_one = fastlstm.LSTM(3, 4, 1, dropout=0.5, rng=0)
    for layer in (fastlstm.LSTM(3, 4, 2, rng=0), of_one, fastlstm.GRU(3, 4, 2, rng=0)):
        before = state_of(layer)
        layer.forward(x)
        assert state_of(layer) == before
