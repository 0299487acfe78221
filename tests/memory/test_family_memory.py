# SPDX-License-Identifier: BSD-3-Clause
"""Promise "nothing lost", over cells, options and sequences: no access outside an array, no writes to inputs.

As test_memory.py does for the plain LSTM: guard pages around everything that a call is given, in a child,
which prints each case before it runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys

import numpy as np
import pytest

from tests.problems.family import called, make_layer, random_config, random_problem, trained
from tests.problems.guard import guarded, guarded_out
from tests.problems.helpers import ISAS, assert_same_bits, in_child

CELLS = ("LSTM", "GRU", "RNN", "IndRNN", "SLSTM", "MGU", "MinGRU", "MinLSTM")
PLACES = list(itertools.product((True, False), (0, 4)))  # at the end or the start of a page, and 4 bytes off
PROBLEMS = 6  # of a cell, dtype and place
LARGEST = 37  # features and units: beyond two vectors, with every tail


def between_pages(value, place):
    """A copy of nested arrays, each between guard pages; others as they are."""
    if isinstance(value, np.ndarray):
        return guarded(value, **place)
    if isinstance(value, dict):
        return {name: between_pages(part, place) for name, part in value.items()}
    return (
        type(value)(between_pages(part, place) for part in value)
        if isinstance(value, (tuple, list))
        else value
    )


def check_problem(problem, place):
    """A call with `out` and a forward and backward pass: the results of arrays that stand anywhere."""
    layer = make_layer(problem.config, problem.params)
    expected = called(problem, layer)
    expected_training = trained(problem, layer)
    names = ("x", "state", "keywords", "dy", "dstate", "dcells")
    inside = dataclasses.replace(
        problem, **{name: between_pages(getattr(problem, name), place) for name in names}
    )
    itemsize = expected["y0"].dtype.itemsize
    out_place = place | {"offset": place["offset"] * itemsize // 4}  # an output must be aligned
    out = guarded_out(expected["y0"].shape, expected["y0"].dtype, **out_place)
    passed = called(inside, layer, out=out)
    assert passed["y0"] is out
    for got, results in ((passed, expected), (trained(inside, layer), expected_training)):
        assert got.keys() == results.keys()
        for name, value in results.items():
            assert_same_bits(got[name], value, (name, problem.config))


def check_ragged(config, layer, rng, place):
    """Packed rows and a list of them, forward and backward."""
    lengths = rng.permutation([0, 1, 5, 3])
    dtype = layer.dtype
    rows = [rng.standard_normal((n, config.input_size)).astype(dtype) for n in lengths]
    data, offsets = np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)])
    expected = layer(data, offsets=offsets)[0]
    out_place = place | {"offset": place["offset"] * dtype.itemsize // 4}
    out = guarded_out(expected.shape, dtype, **out_place)
    assert_same_bits(layer(guarded(data, **place), offsets=guarded(offsets, **place), out=out)[0], expected)
    assert_same_bits(np.concatenate(layer(between_pages(rows, place))[0]), expected)
    dy = rng.standard_normal(expected.shape).astype(dtype)
    dx = layer.forward(data, offsets=offsets, training=False).backward(dy)[0]
    tape = layer.forward(guarded(data, **place), offsets=guarded(offsets, **place), training=False)
    assert_same_bits(tape.backward(guarded(dy, **place))[0], dx)


def sweep():
    rng = np.random.default_rng(11)
    for cell, dtype, (at_end, offset) in itertools.product(CELLS, (np.float32, np.float64), PLACES):
        place = {"at_end": at_end, "offset": offset}
        for number in range(PROBLEMS):
            config = random_config(rng, LARGEST, cell=cell)
            problem = random_problem(config, rng, dtype=dtype)
            print(config, place, problem.x.shape, problem.keywords, file=sys.stderr)
            check_problem(problem, place)
            if number == 0:
                config = dataclasses.replace(config, batch_first=False)
                layer = make_layer(config, problem.params)
                check_ragged(config, layer, rng, place)
    return "done"


@pytest.mark.parametrize("isa", ISAS)
def test_guard_pages_around_every_array_of_random_cells_and_sequences(isa):
    assert in_child(sweep, isa=isa) == "done"
