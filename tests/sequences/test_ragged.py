# SPDX-License-Identifier: BSD-3-Clause
"""Rows of different lengths: memory is that of their steps, and each row gives what it gives alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastlstm
from tests.memory.test_memory import resident_bytes
from tests.memory.test_training_memory import MEGABYTE, high_water
from tests.problems.family import Problem, largest_errors, make_layer, random_config, random_problem, trained
from tests.problems.helpers import assert_same_bits, in_child
from tests.spec.test_family import SAVES, assert_right

DTYPES = ("float32", "float64")
SLACK = 5 * 256  # five places in one block of memory, each up to the second next line
LENGTHS = {
    "one long": [3, 90, 0, 2, 1, 5, 0, 4],
    "nearly equal": [90, 90, 89, 90, 90, 90, 90, 90],
    "equal": [90] * 8,
    "none": [0] * 8,
}
# A tile cell of each kind, and whole-row cells; what a step saves and the states beside h, in rows of H.
KEPT: dict[str, tuple[Any, int, int]] = {
    "LSTM": (fastlstm.LSTM, 4, 1),
    "GRU": (fastlstm.GRU, 4, 0),
    "SLSTM": (fastlstm.SLSTM, 4, 3),
    "MinGRU": (fastlstm.MinGRU, 2, 0),
}


# ---- Bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", KEPT)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_tape_keeps_what_real_steps_take(lengths, cell, bidirectional, dtype):
    """By real step, layer and direction: what the cell saves and its states, h of all layers but the last."""
    counts = np.array(LENGTHS[lengths])
    N, B, H = int(counts.sum()), len(counts), 33
    x = np.zeros((90, B, 9), dtype)
    make, saved, states = KEPT[cell]
    for L in (1, 3):
        layer = make(9, H, L, bidirectional=bidirectional, dtype=dtype)
        one = layer.num_directions * H * np.dtype(dtype).itemsize
        sizes: dict[str | int, int] = {"all": N * one * (L * (saved + states) + L - 1)}
        if cell == "LSTM":
            sizes["states"] = N * one * (L * states + L - 1)
        for k in (1, 7, 89, 90, 10**15):
            sizes[k] = one * L * (1 + states) * int((np.maximum(counts - 1, 0) // k).sum())
        for save, size in sizes.items():
            nbytes = layer.forward(x, lengths=counts, save=save).nbytes
            assert size <= nbytes <= size + 16 * B + SLACK, (save, L)  # where rows begin, too


def test_a_tape_keeps_the_same_of_any_form_of_ragged_rows():
    counts = np.array(LENGTHS["one long"])
    x = np.ones((90, len(counts), 5), np.float32)
    rows = [np.array(x[:count, b]) for b, count in enumerate(counts)]
    holes = np.zeros(x.shape[:2], bool)
    for b, count in enumerate(counts):
        holes[90 - count - (count < 90) : 90 - (count < 90), b] = True
    for bidirectional, save in itertools.product((False, True), ("all", 4)):
        layer = fastlstm.GRU(5, 12, 2, bidirectional=bidirectional)
        tapes = [
            layer.forward(x, lengths=counts, save=save),
            layer.forward(rows, save=save),
            layer.forward(np.concatenate(rows), offsets=[0, *np.cumsum(counts)], save=save),
            layer.forward(x, mask=holes, save=save),
        ]
        assert len({tape.nbytes for tape in tapes}) == 1
        assert tapes[0].nbytes < layer.forward(x, save=save).nbytes / 5


LONGEST, SHORT = 1000, 250  # one row of so many steps, so many rows of four
WIDTH = 64


def bytes_of_ragged(is_recorded, save):
    """Growth of the most resident bytes over passes of two layers in two directions."""
    layer = fastlstm.LSTM(8, WIDTH, 2, bidirectional=True, dropout=0.2, num_threads=1, rng=0)
    counts = np.full(SHORT + 1, 4)
    counts[0] = LONGEST
    data = np.ones((int(counts.sum()), 8), np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    # Code and scratch memory are there.
    short = np.concatenate([[0], np.cumsum(np.full(SHORT + 1, 3))])
    small = layer.forward(data[: short[-1]], offsets=short, save=save)
    small.backward(np.ones_like(small.y))
    del small
    before = resident_bytes()
    for _ in range(2):
        if is_recorded:
            tape = layer.forward(data, offsets=offsets, save=save)
            tape.backward(np.ones_like(tape.y))
        else:
            layer(data, offsets=offsets)
    return high_water() - before


@pytest.mark.parametrize(
    ("is_recorded", "save"), [(False, "all"), (True, "all"), (True, "states"), (True, 50), (True, 10**6)]
)
def test_resident_memory_of_ragged_rows_in_two_directions(is_recorded, save):
    """What is between layers, its gradient and what is computed again are no arrays (T, B) either."""
    output = 4 * 2 * WIDTH * LONGEST * (SHORT + 1)
    assert output > 120 * MEGABYTE
    # Gates, states and outputs of 2000 steps are 12 MB; scratch memory and huge pages the rest.
    assert in_child(bytes_of_ragged, is_recorded, save) < 64 * MEGABYTE


# ---- Rows alone --------------------------------------------------------------------------------------------


def row_alone(problem: Problem, layer: Any, b: int, save: str | int) -> dict[str, np.ndarray]:
    """A pass of row b as a batch of one that ends with it."""
    count = int(problem.keywords["lengths"][b])

    def states(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(states(member) for member in value)
        return None if value is None else value[:, b : b + 1]

    def steps(value: Any) -> Any:
        return None if value is None else value[:count, b : b + 1]

    changes = {name: steps(getattr(problem, name)) for name in ("x", "dy", "dcells")}
    changes |= {name: states(getattr(problem, name)) for name in ("state", "dstate")}
    changes |= {"lengths": None, "reset": steps(problem.keywords.get("reset"))}
    return trained(problem, layer, save=save, training=False, **changes)


def assert_rows_alone(problem: Problem, save: str | int, threads: int) -> None:
    """All that belongs to a row has the bits of the row alone; parameters get the sum over rows."""
    layer = make_layer(problem.config, problem.params, num_threads=threads)
    whole = trained(problem, layer, save=save, training=False)
    counts = problem.keywords["lengths"]
    sums: dict[str, Any] = {}
    for b, count in enumerate(counts):
        for name, value in row_alone(problem, layer, b, save).items():
            what = (problem.config, save, threads, name)
            if name in ("y0", "cells0", "dx0"):
                assert_same_bits(np.ascontiguousarray(whole[name][:count, b : b + 1]), value, what)
                assert not whole[name][count:, b].any(), what
            elif name.rstrip("0123456789") in ("state", "dstate"):
                assert_same_bits(np.ascontiguousarray(whole[name][:, b : b + 1]), value, what)
            else:
                sums[name] = sums.get(name, 0) + value.astype(np.float64)
    errors = largest_errors({name: whole[name] for name in sums}, sums)
    allowed = 4e-6 if whole["y0"].dtype == np.float32 else 1e-14
    assert max(errors.values()) <= allowed, (problem.config, save, threads, errors)


VARIANTS: dict[str, dict[str, Any]] = {
    "LSTM": {"cell": "LSTM", "layer_norm": None, "peephole": False, "coupled": None, "proj_size": 0},
    "projected": {"cell": "LSTM", "proj_size": 5, "layer_norm": None, "hidden_size": 11},
    "layer norm": {"cell": "LSTM", "layer_norm": "haste", "peephole": False, "proj_size": 0},
    "GRU": {"cell": "GRU", "reset_after": True},
    "SLSTM": {"cell": "SLSTM"},
    "MinLSTM": {"cell": "MinLSTM"},
    "MGU": {"cell": "MGU"},
}


def ragged_problems(variant: str, dtype: str, seed: int) -> Problem:
    """A problem whose layer is one stack of the C core, of rows that are longer than a chunk together."""
    rng = np.random.default_rng([seed, list(VARIANTS).index(variant)])
    fixed: dict[str, Any] = {
        "num_layers": 1 + seed % 3,
        "bidirectional": seed % 2 == 0,
        "reverse": False,
        "hidden_size": int(rng.integers(1, 20)),
        "residual": None,
        "merge": "concat",
        "batch_first": False,
    }
    config = random_config(rng, 20, **(fixed | VARIANTS[variant]))
    return random_problem(
        config, rng, T=60, B=9, dtype=dtype, has_lengths=True, has_mask=False, is_batched=True, pad="zero"
    )


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_row_gives_what_it_gives_alone(variant, dtype):
    for seed, (save, threads) in enumerate(itertools.product(SAVES, (1, 2))):
        assert_rows_alone(ragged_problems(variant, dtype, seed), save, threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_ragged_rows_are_right_however_they_are_kept(variant, dtype):
    """Against the specification, masks of dropout drawn; and the same bits for all ways of keeping."""
    for seed in range(100, 103):
        problem = ragged_problems(variant, dtype, seed)
        expected = trained(problem)
        assert_right(problem, expected, True, variant)
        for save, threads in itertools.product(SAVES, (1, 2)):
            layer = make_layer(problem.config, problem.params, num_threads=threads)
            got = trained(problem, layer, save=save)
            for name, value in expected.items():
                assert_same_bits(got[name], value, (problem.config, save, threads, name))
