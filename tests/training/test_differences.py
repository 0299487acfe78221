# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of compiled layers are the derivatives of what they compute, by central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastlstm.reference import Config
from tests.problems.cells import EVERY_OPTION
from tests.problems.problem import Problem, arrays_of, random_problem
from tests.problems.running import make_layer, recorded, trained

# Steps, and how near the difference is as a part of itself: where nothing bends, and where something may.
SMOOTH, BENT = (1e-5, 1e-7), (1e-6, 1e-5)


def value_of(problem: Problem, layer: Any, x: np.ndarray, state: Any) -> float:
    """A number of which the problem's gradients of results are the derivatives."""
    tape = recorded(problem, layer, x=x, state=state, bptt=None)
    results = [tape.y, *arrays_of(tape.state), *arrays_of(tape.cells)]
    gradients = [problem.dy, *arrays_of(problem.dstate), *arrays_of(problem.dcells)]
    return sum(float(np.vdot(a, b)) for a, b in zip(results, gradients, strict=True))


@pytest.mark.parametrize("save", ["all", 2])
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_parameter_at_depth_three_and_in_both_directions(name, save):
    """In training, with the draws of one seed: every parameter, x, and the given state."""
    cell, options = EVERY_OPTION[name]
    config = Config(
        cell, **({"input_size": 4, "hidden_size": 6, "num_layers": 3, "bidirectional": True} | options)
    )
    rng = np.random.default_rng([1, *name.encode()])
    problem = random_problem(
        config, rng, 5, 3, has_state=True, has_lengths=True, has_cells=True, has_mask=False, is_index=False,
        has_reset=0.1, is_batched=True, bptt=None, pad="zero",
    )  # fmt: skip
    # What is behind an end is given no gradient, and NaN times zero would be one.
    problem.x, problem.dy = np.nan_to_num(problem.x), np.nan_to_num(problem.dy)
    problem.dcells = None if problem.dcells is None else np.nan_to_num(problem.dcells)
    layer = make_layer(problem)
    got = trained(problem, layer, save=save)
    states = problem.state if isinstance(problem.state, tuple) else (problem.state,)
    inputs = {f"d{key}": value for key, value in problem.params.items()} | {"dx0": problem.x}
    inputs |= {f"dstate{number}": value for number, value in enumerate(states)}
    assert inputs.keys() == {key for key in got if key.startswith("d")}

    def value(changed: dict[str, np.ndarray]) -> float:
        layer.load_state_dict({key: changed[f"d{key}"] for key in problem.params})
        members = tuple(changed[f"dstate{number}"] for number in range(len(states)))
        return value_of(problem, layer, changed["dx0"], members if len(members) > 1 else members[0])

    is_smooth = config.activations is None and config.layer_norm is None and config.nonlinearity != "relu"
    is_smooth = is_smooth and not any((config.proj_clip, config.cell_clip, config.gate_clip, config.n_floor))
    step, near = SMOOTH if is_smooth and cell != "IndRNN" else BENT
    for key, given in inputs.items():
        assert got[key].any(), key
        direction = rng.standard_normal(given.shape)
        ahead, behind = (value(inputs | {key: given + s * step * direction}) for s in (1, -1))
        expected = (ahead - behind) / (2 * step)
        scale = np.sqrt(np.square(got[key]).sum())
        assert float(np.vdot(got[key], direction)) == pytest.approx(
            expected, rel=near, abs=1e-7 * scale + 1e-8
        ), key
