# SPDX-License-Identifier: BSD-3-Clause
"""Inputs are never modified, results are the caller's alone and outlive whatever made them."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest

from tests.problems.cells import CELLS
from tests.problems.comparing import assert_same_bits, assert_same_results
from tests.problems.problem import DTYPES, arrays_of, make_problem, problem_of
from tests.problems.running import called, make_layer, recorded, trained


@pytest.mark.parametrize("cell", CELLS)
def test_inputs_are_not_modified(cell):
    for seed in range(20):
        problem = problem_of(seed, cell, DTYPES[seed % 2])
        given = [problem.x, *problem.params.values(), *arrays_of([problem.state, problem.dy, problem.dstate])]
        given += arrays_of([problem.dcells, [v for v in problem.keywords.values() if not isinstance(v, str)]])
        before = [a.copy() for a in given]
        layer = make_layer(problem)
        params = layer.flat_params.copy()
        called(problem, layer)
        trained(problem, layer, save=3)
        for a, b in zip(given, before, strict=True):
            assert_same_bits(a, b, problem.config)
        assert_same_bits(layer.flat_params, params)


@pytest.mark.parametrize("cell", CELLS)
def test_results_share_no_memory_with_each_other_or_with_arguments(cell):
    problem = make_problem(3, 2, 4, 5, 2, cell=cell, has_state=True)
    layer = make_layer(problem)
    results = [problem.x, problem.dy, *arrays_of(problem.dstate), *arrays_of(problem.state)]
    results += [layer.flat_grads, *layer.state_dict().values()]
    stream = layer.stream(2)
    for _ in range(2):
        results += called(problem, layer).values()
        tape = recorded(problem, layer)
        results += arrays_of([tape.y, tape.state, tape.backward(problem.dy, problem.dstate)])
        results += arrays_of([stream.process(problem.x), stream.state])
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(results, 2))


@pytest.mark.parametrize("cell", CELLS)
def test_results_outlive_the_layer_the_tape_and_later_passes(cell):
    problem = make_problem(30, 4, 4, 50, cell=cell)
    expected = {name: value.copy() for name, value in called(problem).items()}
    results, layer = called(problem, make_layer(problem)), make_layer(problem)
    stream = make_layer(problem).stream(4)
    tape = recorded(problem, layer)
    passed = arrays_of([tape.y, tape.state, tape.backward(problem.dy, problem.dstate)])
    before = tuple(a.copy() for a in passed)
    del tape
    recorded(problem, layer, x=2 * problem.x).backward(3 * problem.dy)
    del layer
    gc.collect()
    scratch = [np.full(60000, np.nan, np.float32) for _ in range(20)]
    assert_same_results(results, expected)
    assert_same_bits(tuple(passed), before)
    assert_same_bits(stream.process(problem.x), expected["y0"])
    del scratch
