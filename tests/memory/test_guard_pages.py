# SPDX-License-Identifier: BSD-3-Clause
"""Promise "nothing lost": no access outside an array that Python hands over, and no write to an input.

Guard pages find what sanitizers miss: masked vector loads and stores (see guard.py).  Those around results
and internal memory are in tests/c.  The sweeps run in a child, so that a fault is a failed test; the child
says each case before it runs.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import time

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels
from tests.problems.cells import CELLS, random_config
from tests.problems.children import ISAS, announce, in_child
from tests.problems.comparing import assert_same_bits, assert_same_results
from tests.problems.inside import set_flat_grads
from tests.problems.problem import DTYPES, make_problem, random_problem
from tests.problems.running import REST_SECONDS, SAVES, called, make_layer, trained

from .guard import guarded, guarded_out

LANES, ROWS = 16, 6  # the largest tile: rows of the batch, lanes of hidden units (two blocks for one row)
# At the end or the start of a page, and 4 bytes off.
PLACES = [{"at_end": at_end, "offset": offset} for at_end, offset in itertools.product((True, False), (0, 4))]
PROBLEMS = 6  # of a cell, dtype and place
LARGEST = 37  # features and units: beyond two vectors, with every tail


def place_of_out(dtype, place):
    """Of an output, which must be aligned: 8 bytes off instead of 4 for float64."""
    return place | {"offset": place["offset"] * np.dtype(dtype).itemsize // 4}


def between_pages(value, place):
    """A copy of nested arrays, each between guard pages and read-only; others as they are."""
    if isinstance(value, np.ndarray):
        return guarded(value, **place)
    if isinstance(value, dict):
        return {name: between_pages(part, place) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(between_pages(part, place) for part in value)
    return value


def inside_of(problem, place):
    names = ("x", "state", "keywords", "dy", "dstate", "dcells")
    return dataclasses.replace(
        problem, **{name: between_pages(getattr(problem, name), place) for name in names}
    )


def check_call(problem, layer, place):
    """A call with `out`: the results of arrays that stand anywhere."""
    expected = called(problem, layer)
    y = expected["y0"]
    out = guarded_out(y.shape, y.dtype, **place_of_out(y.dtype, place))
    got = called(inside_of(problem, place), layer, out=out)
    assert got["y0"] is out
    assert_same_results(got, {n: np.ascontiguousarray(a) for n, a in expected.items()}, problem.config)


def check_training(problem, place, save="all"):
    """A forward and a backward pass, whose gradients are added between guard pages too."""
    expected = trained(problem)
    layer = make_layer(problem)
    memory = guarded_out((layer.flat_params.size,), problem.dtype, **place_of_out(problem.dtype, place))
    memory[:] = 0
    set_flat_grads(layer, memory)
    assert_same_results(trained(inside_of(problem, place), layer, save=save), expected, problem.config)
    assert all(np.shares_memory(value, memory) for value in layer.grads.values())


def sweep_sizes(dtype):
    """Every B and H to beyond twice the tile; I, T and the options go along."""
    for B, H in itertools.product(range(1, 2 * ROWS + 6), range(1, 4 * LANES + 2)):
        number = B * 67 + H
        given = {
            "bidirectional": number % 3 == 0,
            "bias": number % 7 != 0,
            "batch_first": number % 2 == 0,
            "has_state": number % 13 != 0,
            "has_lengths": number % 4 == 0,
            "has_reset": 0.3 * (number % 6 == 0),
            "is_index": number % 11 == 0,
            "dropout": 0.4 * (number % 5 == 0),
            "bptt": 2 if number % 9 == 0 else None,
        }
        L = 1 + (number % 5 == 0)
        announce(dtype, B, H, given)
        problem = make_problem(1 + number % 4, B, 1 + number % 35, H, L, dtype=dtype, **given)
        place = PLACES[number % 4] if number % 5 else PLACES[0]
        check_training(problem, place, SAVES[number % len(SAVES)])
        problem.keywords.pop("reset", None)  # as the fast way into a call has none
        layer = make_layer(problem)
        check_call(problem, layer, place)
        check_call(problem, layer, place | {"at_end": not place["at_end"]})


def sweep_inputs(dtype):
    """Every I, for one row, a few and many, with a product of its own and merged into the step."""
    for I, B, T in itertools.product(range(1, 2 * LANES + 2), (1, 2, 7, 50), (1, 9)):
        announce(dtype, I, B, T)
        problem = make_problem(T, B, I, 1 + (I + B) % 37, has_state=True, dtype=dtype)
        layer = make_layer(problem)
        for place in PLACES[::2]:
            check_call(problem, layer, place)


def sweep_threads(dtype):
    """Units and rows split over threads: each writes its own part and no more."""
    for B, H, bidirectional, L in itertools.product((1, 3, 13), (65, 130, 257), (False, True), (1, 3)):
        announce(dtype, B, H, bidirectional, L)
        problem = make_problem(12, B, 33, H, L, bidirectional=bidirectional, has_state=True, dtype=dtype)
        time.sleep(REST_SECONDS)
        for threads, place in itertools.product((2, 3), PLACES[::2]):
            check_call(problem, make_layer(problem, num_threads=threads), place)


def sweep_cells_and_streams(dtype):
    for B, H in itertools.product(range(1, 2 * ROWS + 2), range(1, 2 * LANES + 2)):
        I = 1 + (B + H) % 33
        announce("cell, stream", dtype, B, H)
        problem = make_problem(5, B, I, H, has_state=True, dtype=dtype)
        layer = make_layer(problem)
        y, (h_n, c_n) = layer(problem.x, problem.state)
        cell = fastlstm.LSTMCell(I, H, dtype=dtype)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in problem.params.items()})
        for place in PLACES:
            out_place = place_of_out(dtype, place)
            state = tuple(s[0] for s in problem.state)
            stream = layer.stream(B)
            stream.state = problem.state
            for t, x in enumerate(problem.x):
                given = tuple(guarded(s, **place) for s in state)
                out = tuple(guarded_out((B, H), dtype, **out_place) for _ in "hc")
                state = cell(guarded(x, **place), given, out=out)
                y_t = stream.step(guarded(x, **place), out=guarded_out((B, H), dtype, **out_place))
                assert_same_bits((state[0], y_t), (y[t], y[t]), t)
            assert_same_bits(state, (h_n[0], c_n[0]))
            stream.state = tuple(guarded(s, **place) for s in problem.state)
            out = guarded_out((5, B, H), dtype, **out_place)
            assert_same_bits(stream.process(guarded(problem.x, **place), out=out), y)


def sweep_pieces(dtype):
    generator = np.random.default_rng(0)

    def random(*shape):
        return generator.standard_normal(shape).astype(dtype)

    for n in range(2 * 64 + 2):
        announce("activations of", n)
        x = random(n)
        for place, function in itertools.product(PLACES, (kernels.sigmoid, kernels.tanh)):
            out = guarded_out((n,), dtype, **place_of_out(dtype, place))
            function(guarded(x, **place), out=out)
            assert_same_bits(out, function(x), n)
    for B, H in itertools.product(range(1, 2 * ROWS + 2), range(1, 4 * LANES + 2)):
        I = 1 + (3 * B + H) % 33
        announce("pieces", B, I, H)
        x, h, c, gates = random(B, I), random(B, H), random(B, H), random(B, 4 * H)
        w_ih, w_hh, bias = random(4 * H, I), random(4 * H, H), random(4 * H)
        product, update = kernels.gate_matmul(x, h, w_ih, w_hh, bias), kernels.cell_update(gates, c)
        place = PLACES[(B + H) % 4]
        out_place = place_of_out(dtype, place)
        arguments = (guarded(a, **place) for a in (x, h, w_ih, w_hh, bias))
        out = guarded_out((B, 4 * H), dtype, **out_place)
        assert_same_bits(kernels.gate_matmul(*arguments, out=out), product)
        packed = kernels.packed(*(guarded(a, **place) for a in (w_ih, w_hh, bias)))
        out = guarded_out((B, 4 * H), dtype, **out_place)
        assert_same_bits(
            kernels.gate_matmul(guarded(x, **place), guarded(h, **place), packed, out=out), product
        )
        pair = tuple(guarded_out((B, H), dtype, **out_place) for _ in "hc")
        assert_same_bits(kernels.cell_update(guarded(gates, **place), guarded(c, **place), out=pair), update)


def check_ragged(problem, rng, place):
    """Packed rows and a list of them, forward and backward."""
    problem = problem.with_options(batch_first=False)
    layer, dtype = make_layer(problem), problem.dtype
    lengths = rng.permutation([0, 1, 5, 3])
    rows = [rng.standard_normal((n, problem.config.input_size)).astype(dtype) for n in lengths]
    data, offsets = np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)])
    expected = layer(data, offsets=offsets)[0]
    out = guarded_out(expected.shape, dtype, **place_of_out(dtype, place))
    assert_same_bits(layer(guarded(data, **place), offsets=guarded(offsets, **place), out=out)[0], expected)
    assert_same_bits(np.concatenate(layer(between_pages(rows, place))[0]), expected)
    dy = rng.standard_normal(expected.shape).astype(dtype)
    dx = layer.forward(data, offsets=offsets, training=False).backward(dy)[0]
    tape = layer.forward(guarded(data, **place), offsets=guarded(offsets, **place), training=False)
    assert_same_bits(tape.backward(guarded(dy, **place))[0], dx)


def sweep_family(dtype):
    """Random problems of every cell with every option."""
    rng = np.random.default_rng(11)
    for cell, place, number in itertools.product(CELLS, PLACES, range(PROBLEMS)):
        problem = random_problem(random_config(rng, LARGEST, cell=cell), rng, dtype=dtype)
        announce(problem.config, place, problem.x.shape, problem.keywords)
        check_call(problem, make_layer(problem), place)
        check_training(problem, place)
        if number == 0:
            check_ragged(problem, rng, place)


SWEEPS = {
    "sizes": sweep_sizes,
    "inputs": sweep_inputs,
    "threads": sweep_threads,
    "cells and streams": sweep_cells_and_streams,
    "pieces": sweep_pieces,
    "family": sweep_family,
}


def sweeps(*names):
    for dtype, name in itertools.product(DTYPES, names):
        SWEEPS[name](dtype)
    return "done"


@pytest.mark.long  # two children for each instruction set, of about the same work
@pytest.mark.parametrize("names", [tuple(SWEEPS)[:3], tuple(SWEEPS)[3:]], ids=" ".join)
@pytest.mark.parametrize("isa", ISAS)
def test_guard_pages_around_every_array_for_every_dimension_to_twice_the_tile(isa, names):
    assert in_child(sweeps, *names, isa=isa) == "done"


def touch(where):
    array = guarded(np.arange(5, dtype=np.float32), at_end=where != "before")
    address = array.ctypes.data + {"before": -4, "behind": 20, "inside": 0}[where]
    (ctypes.c_float.from_address(address)).value = 1.0


@pytest.mark.parametrize("where", ["before", "behind", "inside"])
def test_the_guard_pages_do_fault(where):
    """One element before, one behind, and a write to a read-only input."""
    with pytest.raises(AssertionError, match="exit status -"):
        in_child(touch, where)
