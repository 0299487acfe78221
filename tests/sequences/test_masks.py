# SPDX-License-Identifier: BSD-3-Clause
"""Masks, directions and resets: each is the same as another way to say it, in every bit."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from fastlstm import reference
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_right, assert_same_bits, assert_same_results
from tests.problems.problem import Problem, make_problem, problems, transformed
from tests.problems.running import called, make_layer, trained

# ---- Lengths -----------------------------------------------------------------------------------------------


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_of_every_length(threads):
    for cell, (L, bidirectional) in itertools.product(CELLS, ((1, False), (3, False), (1, True), (2, True))):
        problem = make_problem(40, 41, 33, 70, L, cell=cell, bidirectional=bidirectional, has_state=True)
        lengths = np.random.default_rng(1).permutation(41)
        problem.keywords["lengths"] = lengths
        layer = make_layer(problem, num_threads=threads)
        out = np.full((40, 41, (1 + bidirectional) * 70), np.nan, np.float32)
        expected = called(problem, layer, out=out)
        if cell == "LSTM" or L == 1:
            assert_right(problem, expected, None)
        assert all(not out[length:, row].any() for row, length in enumerate(lengths))


@pytest.mark.every_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_what_lies_beyond_the_end_of_a_row_does_not_matter(threads):
    for B, H, bidirectional, is_index in itertools.product((9, 33), (20, 129), (False, True), (False, True)):
        for cell in CELLS:
            problem = make_problem(
                20, B, 5, H, 2, cell=cell, bidirectional=bidirectional, has_lengths=True, is_index=is_index
            )
            layer = make_layer(problem, num_threads=threads)
            others = problem.x.copy()
            for row, length in enumerate(problem.keywords["lengths"]):
                others[length:, row] = [0, 5, -(2**63), 2**63 - 1][row % 4] if is_index else row
            got, expected = called(problem, layer, x=others), called(problem, layer)
            assert_same_results(got, expected, problem.config)
            if cell == "LSTM":
                assert_right(problem, expected, None)


# ---- Masks and directions ----------------------------------------------------------------------------------


def test_a_mask_gives_the_bits_of_the_real_steps_alone():
    for problem in problems(
        10, start=600, has_mask=True, has_lengths=False, has_reset=False, is_batched=True, pad="zero"
    ):
        config = problem.config
        mask = problem.time_first(problem.keywords["mask"])
        T = len(mask)
        counts = mask.sum(axis=0)
        order = np.argsort(~mask, axis=0, kind="stable")  # real steps first
        is_step = np.arange(T)[:, np.newaxis] < counts

        def compacted(values: Any, order: Any = order, problem: Problem = problem) -> Any:
            if values is None:
                return None
            values = problem.time_first(values)
            index = order.reshape(*order.shape, *[1] * (values.ndim - 2))
            return problem.time_first(np.take_along_axis(values, index, axis=0))

        compact = {name: compacted(getattr(problem, name)) for name in ("x", "dy", "dcells")}
        prefix = dataclasses.replace(problem, keywords={"lengths": counts, "pad": "zero"})
        for run in (called, trained):
            given = dict(compact) if run is trained else {"x": compact["x"]}
            options = {"training": False} if run is trained else {}
            got, expected = run(problem, **options), run(prefix, **given, **options)
            for name in {"y0", "cells0", "dx0"} & set(got):
                values = compacted(got[name])
                values = problem.time_first(values)
                assert not values[~is_step].any(), (name, config)
                got[name] = problem.time_first(values)
            assert_same_results(got, expected, config)


def test_reverse_is_the_flipped_input():
    for problem in problems(
        8, start=700, reverse=True, has_mask=False, has_reset=False, is_batched=True, pad="zero", bptt=None
    ):
        config = problem.config
        T, B = problem.time_first(problem.x).shape[:2]
        lengths = np.asarray(problem.keywords.get("lengths", np.full(B, T)))
        steps = np.arange(T)[:, np.newaxis]
        order = np.where(steps < lengths, lengths - 1 - steps, steps)

        def flipped(values: Any, order: Any = order, problem: Problem = problem) -> Any:
            if values is None:
                return None
            values = problem.time_first(values)
            index = order.reshape(*order.shape, *[1] * (values.ndim - 2))
            return problem.time_first(np.take_along_axis(values, index, axis=0))

        is_aligned = config.reverse_order == "aligned"
        forward = problem.with_options(reverse=False, reverse_order="aligned")
        given = {"x": flipped(problem.x)}
        gradients = {name: getattr(problem, name) for name in ("dy", "dcells")}
        if is_aligned:
            gradients = {name: flipped(value) for name, value in gradients.items()}
        for run in (called, trained):
            options = {"training": False} if run is trained else {}
            got = run(problem, **options)
            expected = run(forward, **given, **options, **(gradients if run is trained else {}))
            for name in {"y0", "cells0", "dx0"} & set(expected):
                if is_aligned or name == "dx0":
                    expected[name] = flipped(expected[name])
            assert_same_results(got, expected, config)


def test_directions_are_a_forward_and_a_reverse_layer():
    for problem in problems(8, start=800, bidirectional=True, num_layers=1, merge="concat", residual=None):
        config, got = problem.config, called(problem)
        D, width = 2, config.output_width(0) // 2
        for direction in range(D):
            suffix = ("", "_reverse")[direction]
            names = reference.param_shapes(dataclasses.replace(config, bidirectional=False))
            params = {name: problem.params[name + suffix] for name in names}
            one = dataclasses.replace(
                problem,
                config=dataclasses.replace(config, bidirectional=False, reverse=direction == 1),
                params=params,
                state=transformed(lambda a, d=direction: a[d : d + 1], problem.state),
            )
            expected = called(one)
            part = {name: value[direction : direction + 1] for name, value in got.items() if "state" in name}
            part["y0"] = got["y0"][..., direction * width : (direction + 1) * width]
            if "cells0" in got:
                part["cells0"] = np.split(got["cells0"], 2, axis=-1)[direction]
            for name, value in expected.items():
                assert_same_bits(part[name], value, (name, config))


def test_a_reset_begins_a_new_sequence():
    for problem in problems(
        8, start=900, bidirectional=False, reverse=False, has_mask=False, has_reset=True, has_lengths=False,
        is_batched=True, batch_first=False,
    ):  # fmt: skip
        reset, got = problem.keywords["reset"], called(problem)
        T, B = reset.shape
        for b in range(B):
            begins = sorted({0, *np.flatnonzero(reset[:, b]).tolist()})
            state = transformed(lambda a, b=b: a[:, b : b + 1], problem.state)
            for begin, end in itertools.pairwise([*begins, T]):
                piece = dataclasses.replace(
                    problem,
                    x=problem.x[begin:end, b : b + 1],
                    state=None if reset[begin, b] else state,
                    keywords={},
                )
                expected = called(piece)
                for name in {"y0", "cells0"} & set(got):
                    assert_same_bits(got[name][begin:end, b : b + 1], expected[name], problem.config)
            for name, value in expected.items():
                if "state" in name:
                    assert_same_bits(got[name][:, b : b + 1], value, problem.config)
