# SPDX-License-Identifier: BSD-3-Clause
"""Bits of the family: for any number of threads and instruction set, and draws that `rng` alone decides."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastlstm
from fastlstm.reference import Config
from tests.problems.family import (
    EVERY_OPTION,
    Problem,
    called,
    largest_errors,
    make_layer,
    named,
    random_problem,
    trained,
)
from tests.problems.helpers import FUSED_ISAS, ISAS, digest, in_child
from tests.spec.test_family import assert_same_results

# Rows divided among threads, and units of one row.
SIZES = {"rows": (12, 13, 70), "units": (40, 1, 129)}


def problem_named(name: str, size: str = "rows", dtype: str = "float32") -> Problem:
    cell, options = EVERY_OPTION[name]
    T, B, H = SIZES[size]
    H += -H % options.get("heads", 1)
    config = Config(
        cell, **({"input_size": 33, "hidden_size": H, "num_layers": 2, "bidirectional": True} | options)
    )
    return random_problem(config, np.random.default_rng(list(name.encode())), T, B, dtype, is_batched=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_the_same_bits_for_any_number_of_threads(name, size):
    problem = problem_named(name, size)
    expected = {}
    for threads in (1, 2, 3):
        layer = make_layer(problem.config, problem.params, num_threads=threads)
        got = called(problem, layer) | {f"training {k}": v for k, v in trained(problem, layer).items()}
        expected = expected or got
        assert_same_results(got, expected, threads)


@pytest.mark.parametrize("cell", ["IndRNN", "MinGRU", "MinLSTM"])
@pytest.mark.parametrize("sizes", [(700, 2, 3, 21), (3, 600, 70, 5), (30, 130, 65, 40)])
def test_blocks_of_rows_do_not_show(cell, sizes):
    """Without a recurrent product, many steps and rows are computed together: not so in calls of one."""
    T, B, I, H = sizes
    x = np.random.default_rng(T).standard_normal((T, B, I)).astype(np.float32)
    layer = getattr(fastlstm, cell)(I, H, rng=0)
    y, h_n = layer(x)
    steps, state = [], None
    for t in range(T):
        step, state = layer(x[t : t + 1], state)
        steps.append(step)
    assert_same_results({"y": np.concatenate(steps), "h": state}, {"y": y, "h": h_n}, "steps")
    for b in (0, B // 2, B - 1):
        alone, h_of_row = layer(x[:, b : b + 1])
        expected = {"y": y[:, b : b + 1], "h": h_n[:, b : b + 1]}
        assert_same_results({"y": alone, "h": h_of_row}, expected, f"row {b}")


@pytest.mark.parametrize("name", ["all that is drawn", "tied recurrent dropout", "GRU without bias", "heads"])
def test_draws_are_of_the_generator_alone(name):
    problem = problem_named(name)
    outputs = []
    for threads, seed in ((1, 5), (3, 5), (1, 6)):
        layer = make_layer(problem.config, problem.params, num_threads=threads, rng=seed)
        expected = copy.deepcopy(layer.rng)
        outputs.append([layer.forward(problem.x, problem.state, **problem.keywords).y for _ in range(2)])
        expected.integers(2**63, size=2)
        assert layer.rng.bit_generator.state == expected.bit_generator.state
        layer.forward(problem.x, problem.state, **problem.keywords, training=False)
        assert layer.rng.bit_generator.state == expected.bit_generator.state
    for a, b in zip(outputs[0], outputs[1], strict=True):
        assert_same_results(named("y", a), named("y", b))
    assert len({y.tobytes() for pair in outputs for y in pair}) == 4


def digests_of_this_isa(folder):
    found = {}
    for number, name in enumerate(EVERY_OPTION):
        for dtype in ("float32", "float64"):
            results = trained(problem_named(name, dtype=dtype))
            found[f"{name} {dtype}"] = digest(*results.values())
            if dtype == "float64":
                np.savez(f"{folder}/{number}.npz", **results)
    return found


def every_isa(folder):
    for isa in ISAS:
        (folder / isa).mkdir()
    return {isa: in_child(digests_of_this_isa, str(folder / isa), isa=isa) for isa in ISAS}


def test_instruction_sets(tmp_path):
    """The same bits on all with fused multiply-add; the generic one differs by rounding alone."""
    digests = every_isa(tmp_path)
    assert FUSED_ISAS
    for isa in FUSED_ISAS[1:]:
        assert digests[isa] == digests[FUSED_ISAS[0]], isa
    for number, name in enumerate(EVERY_OPTION):
        generic, best = (dict(np.load(tmp_path / isa / f"{number}.npz")) for isa in ("generic", ISAS[-1]))
        assert max(largest_errors(generic, best).values()) < 1e-10, name
