# SPDX-License-Identifier: BSD-3-Clause
"""Ragged rows as lists and packed: the bits of padded ones, and of each row alone."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from tests.problems.cells import random_config
from tests.problems.comparing import assert_right, assert_same_bits, assert_same_results, largest_errors
from tests.problems.problem import DTYPES, Problem, problems, random_problem
from tests.problems.running import SAVES, called, make_layer, trained

# ---- Lists and packed rows --------------------------------------------------------------------------------


def ragged_of(problem: Problem) -> dict[str, Any]:
    """The sequences of a problem with lengths and resets as lists of rows."""
    config = problem.config
    lengths = [int(n) for n in problem.keywords["lengths"]]

    def rows(values: np.ndarray) -> list[np.ndarray]:
        values = values.swapaxes(0, 1) if not config.batch_first else values
        return [np.array(row[:n]) for row, n in zip(values, lengths, strict=True)]

    changes: dict[str, Any] = {"x": rows(problem.x), "dy": rows(problem.dy)}
    changes["dcells"] = None if problem.dcells is None else rows(problem.dcells)
    changes["reset"] = rows(problem.keywords["reset"])
    return changes


def one_behind_the_other(results: dict[str, np.ndarray], problem: Problem) -> dict[str, np.ndarray]:
    """Results of a padded pass with sequences one behind the other."""
    found = dict(results)
    for name in {"y0", "cells0", "dx0"} & set(found):
        values = found[name] if problem.config.batch_first else found[name].swapaxes(0, 1)
        lengths = problem.keywords["lengths"]
        found[name] = np.concatenate([row[:n] for row, n in zip(values, lengths, strict=True)])
    return found


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_list_of_rows_and_packed_rows_have_the_bits_of_the_padded_ones(dtype):
    # Of three rows, one has T steps: draws are by the number of steps of the longest.
    for problem in problems(
        8, dtype, 500, B=4, has_lengths=True, has_mask=False, has_reset=True, is_batched=True, pad="zero"
    ):
        rows = ragged_of(problem)
        packed = {name: None if value is None else np.concatenate(value) for name, value in rows.items()}
        packed["offsets"] = np.concatenate([[0], np.cumsum(problem.keywords["lengths"])])
        ragged = dataclasses.replace(problem, keywords={"pad": "zero"})
        expected = one_behind_the_other(called(problem), problem)
        for form in (rows, packed):
            given = {name: value for name, value in form.items() if not name.startswith("d")}
            assert_same_results(called(ragged, **given), expected, problem.config)
        for save in ("all", 3):
            expected = one_behind_the_other(trained(problem, save=save), problem)
            for form in (rows, packed):
                assert_same_results(trained(ragged, save=save, **form), expected, problem.config)


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
    layer = make_layer(problem, num_threads=threads)
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
            layer = make_layer(problem, num_threads=threads)
            got = trained(problem, layer, save=save)
            for name, value in expected.items():
                assert_same_bits(got[name], value, (problem.config, save, threads, name))
