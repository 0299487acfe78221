# SPDX-License-Identifier: BSD-3-Clause
"""Sums over many rows: gradients of all parameters within 1e-6 of sums without rounding, to 10**6 terms.

Equal terms are the worst: rounding goes one way over long stretches, and nothing averages out.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.bits.cases import BASES
from tests.problems.cells import EVERY_OPTION, VARIANTS
from tests.problems.comparing import assert_right
from tests.problems.problem import make_problem
from tests.problems.running import make_layer, trained

EXACT = 1e-6


def gradients(layer, x, state, dy):
    """Of a pass whose rows are all as the one that is given."""
    layer.zero_grad()
    tape = layer.forward(x, state, training=False)
    tape.backward(np.broadcast_to(dy, tape.y.shape))
    return {name: value.copy() for name, value in layer.grads.items()}


def assert_sums_of_equal_rows_are_exact(cell, options, counts, **batch):
    given = {"bidirectional": "merge" in options, "has_state": True} | options | batch
    problem = make_problem(1, 1, 6, 6, 2, cell=cell, **given)
    layer, dy = make_layer(problem), problem.dy
    one = gradients(layer, problem.x, problem.state, dy)
    states = problem.state if isinstance(problem.state, tuple) else (problem.state,)
    for count in counts:
        x = np.repeat(problem.x, count, axis=1)
        many = tuple(np.repeat(member, count, axis=1) for member in states)
        state = many if isinstance(problem.state, tuple) else many[0]
        for name, value in gradients(layer, x, state, dy).items():
            exact = count * one[name].astype(np.float64)
            np.testing.assert_allclose(
                value, exact, rtol=EXACT, atol=0, err_msg=f"{cell} {options} {name} {count}"
            )


# One partial sum or several, one pass over rows or several, one group of passes or several.
@pytest.mark.every_isa
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_many_equal_rows_of_every_option(name):
    cell, options = EVERY_OPTION[name]
    assert_sums_of_equal_rows_are_exact(cell, options, (2, 33, 300, 4097, 30_000))


@pytest.mark.parametrize("cell", ["LSTM", "RNN", "MGU"])
def test_many_equal_indices(cell):
    assert_sums_of_equal_rows_are_exact(cell, {}, (2, 33, 300, 4097, 200_000), is_index=True)


@pytest.mark.long
@pytest.mark.parametrize("base", BASES)
def test_a_million_equal_rows(base):
    assert_sums_of_equal_rows_are_exact(*VARIANTS[base], (10**6,))


# With parameters for which the terms are well conditioned, so that float64 is their truth too: a term's own
# rounding is the same in every step.  Peepholes of 0.2 would make it 1.7e-6 where multiply-adds round twice.
STEPS = {
    "RNN": ("RNN", {}, 0.2),
    "LSTM": ("LSTM", {}, 0.2),
    "peephole": ("LSTM", {"peephole": True}, 0.1),
    "MGU": ("MGU", {}, 0.2),
    "MinGRU": ("MinGRU", {}, 0.2),
}


@pytest.mark.every_isa
@pytest.mark.parametrize("name", STEPS)
def test_a_million_equal_steps(name):
    cell, options, parameter = STEPS[name]
    found = {}
    for dtype in ("float32", "float64"):
        layer = getattr(fastlstm, cell)(1, 1, **options, dtype=dtype)
        layer.load_state_dict({key: np.full(value.shape, parameter) for key, value in layer.params.items()})
        tape = layer.forward(np.ones((10**6, 1, 1), dtype), save=1000)
        tape.backward(np.full(tape.y.shape, 0.1, dtype))
        found[dtype] = layer.grads
    for key, value in found["float32"].items():
        np.testing.assert_allclose(value, found["float64"][key], rtol=EXACT, atol=0, err_msg=f"{name} {key}")


# Groups of rows whose number differs from chunk to chunk, and in which sequences end.
LONG = [
    {"T": 9000, "B": 1, "I": 3, "H": 5},
    {"T": 300, "B": 40, "I": 5, "H": 17, "has_lengths": True, "bidirectional": True},
    {"T": 12, "B": 1100, "I": 3, "H": 9, "L": 2, "has_lengths": True, "has_state": True},
    {"T": 3, "B": 5000, "I": 4, "H": 5, "has_lengths": True},
    {"T": 200, "B": 30, "I": 40, "H": 9, "is_index": True, "has_lengths": True},
]


@pytest.mark.every_isa
@pytest.mark.parametrize("case", LONG, ids=str)
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_different_rows_of_several_groups(case, cell):
    for dtype in ("float32", "float64"):
        problem = make_problem(**case, cell=cell, dtype=dtype, bptt=20)
        assert_right(problem, trained(problem), True, dtype, None if dtype == "float32" else np.longdouble)


@pytest.mark.parametrize("count", [1, 40, 10_000])
def test_a_sum_that_overflows_is_infinite_and_one_that_does_not_is_none(count):
    layer = fastlstm.RNN(2, 1, rng=0)
    x = np.zeros((1, count, 2), np.float32)
    x[0, :, 0] = 1e30
    layer.load_state_dict({name: np.zeros_like(value) for name, value in layer.params.items()})
    tape = layer.forward(x)
    tape.backward(np.full(tape.y.shape, 1e20, np.float32))
    np.testing.assert_array_equal(layer.grads["weight_ih_l0"], [[np.inf, 0.0]])
    np.testing.assert_allclose(layer.grads["bias_ih_l0"], [count * np.float64(1e20)], rtol=1e-6)
    expected = np.float32(3e38) if count == 1 else np.inf
    layer.zero_grad()
    tape = layer.forward(x)
    tape.backward(np.full(tape.y.shape, 3e38, np.float32))
    np.testing.assert_array_equal(layer.grads["bias_ih_l0"], [expected])
