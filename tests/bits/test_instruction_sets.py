# SPDX-License-Identifier: BSD-3-Clause
"""Promise "the same bits" of instruction sets: everything on each of them, in a child of its own."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fastlstm import kernels
from tests.problems.cells import EVERY_OPTION
from tests.problems.children import FUSED_ISAS, ISAS, in_child, result_of_child, start_child
from tests.problems.comparing import (
    GRADIENT_TOLERANCE,
    MAGNIFIED,
    TOLERANCE,
    digest,
    largest_errors,
    magnifies,
)
from tests.problems.problem import DTYPES, Problem, in_both_dtypes, make_problem, shown
from tests.problems.running import called, trained

from .batches import EVERY, TRAININGS, problem_of_option, trainings
from .test_training import train


def all_passes() -> dict[str, tuple[Problem, Any]]:
    """By name, a problem and how it is run: calls and trainings of all batches and options."""
    found: dict[str, tuple[Problem, Any]] = {}
    for case in EVERY:
        found[f"call {shown(case)}"] = make_problem(**case), called
    for case in in_both_dtypes(TRAININGS):
        for number, problem in enumerate(trainings(case)):
            found[f"training {number} {shown(case)}"] = problem, trained
    for name, dtype in itertools.product(EVERY_OPTION, DTYPES):
        found[f"option {name} {dtype}"] = problem_of_option(name, dtype=dtype), trained
    return found


def digests_of_this_isa() -> dict[str, str]:
    """Run in a child: digests of everything."""
    digests = {name: digest(*run(problem).values()) for name, (problem, run) in all_passes().items()}
    x = np.concatenate([np.linspace(-20, 20, 4001), np.logspace(-44, 38, 4001), [0.0, -0.0, np.inf, -np.inf]])
    for dtype, name in itertools.product(DTYPES, ("sigmoid", "tanh")):
        digests[f"{name} {dtype}"] = digest(getattr(kernels, name)(x.astype(dtype)))
    return digests | {"adam": digest(*train(2))}


@pytest.mark.long
def test_the_same_bits_on_every_instruction_set_with_fused_multiply_add():
    assert FUSED_ISAS, f"this machine has none: {ISAS}"
    children = {isa: start_child(digests_of_this_isa, isa=isa) for isa in FUSED_ISAS}
    found = {isa: result_of_child(child) for isa, child in children.items()}
    first = found[FUSED_ISAS[0]]
    assert len(first) == len(all_passes()) + 5
    for isa, digests in found.items():
        assert digests.keys() == first.keys()
        assert [name for name in first if digests[name] != first[name]] == [], (isa, FUSED_ISAS[0])


def results_of_this_isa(folder: str) -> str:
    """Run in a child: the numbers of everything."""
    for number, (problem, run) in enumerate(all_passes().values()):
        np.savez(f"{folder}/{number}.npz", **run(problem))
    return "done"


@pytest.mark.long
def test_the_generic_path_differs_by_rounding_alone(tmp_path):
    assert in_child(results_of_this_isa, str(tmp_path), isa="generic") == "done"
    for number, (name, (problem, run)) in enumerate(all_passes().items()):
        is_magnified = magnifies(problem)
        if is_magnified and problem.dtype == np.float32:
            continue  # what a norm makes of rounding has a bound in float64
        generic, best = dict(np.load(tmp_path / f"{number}.npz")), run(problem)
        errors = largest_errors(generic, best, not is_magnified, problem.config.cell != "SLSTM")
        for array, error in errors.items():
            limit = 2 * GRADIENT_TOLERANCE[problem.dtype] if array[0] == "d" else TOLERANCE[problem.dtype]
            assert error <= (MAGNIFIED if is_magnified else limit), (name, array)
