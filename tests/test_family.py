# SPDX-License-Identifier: BSD-3-Clause
"""Compiled layers of every cell with every option, against the specification and against themselves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastlstm
from fastlstm import reference
from fastlstm.reference import Config

from .family import (
    CELLS,
    EVERY_OPTION,
    Problem,
    arrays_of,
    called,
    expected_results,
    largest_errors,
    make_layer,
    named,
    random_config,
    random_params,
    random_problem,
    random_state,
    recorded,
    trained,
)
from .helpers import assert_same_bits, in_child
from .test_training_memory import high_water

DTYPES = ("float32", "float64")
SAVES: tuple[str | int, ...] = ("all", "states", 1, 3, 1000)
LARGEST = (6, 20, 40)
WHOLE: dict[str, Any] = {"has_lengths": False, "has_mask": False, "has_reset": False, "is_batched": True}
# Largest error in float32 of a result and of a gradient, and how many times the error that the specification
# itself makes in float32 may come on top: some activations amplify what is rounded.
IN_FLOAT32 = (2e-6, 6e-6)
OF_ITS_OWN = 4.0


def assert_right(problem: Problem, got: dict[str, np.ndarray], training: bool | None, what: Any = "") -> None:
    """`got` of `called`, where `training` is None, or `trained`, is what the reference says in float64."""
    truth = expected_results(problem, training, np.float64)
    errors = largest_errors(got, truth)
    allowed = dict.fromkeys(errors, 1e-10)
    if got["y0"].dtype == np.float32:
        own = largest_errors(expected_results(problem, training, np.float32), truth)
        for name, error in own.items():
            allowed[name] = IN_FLOAT32[name.startswith("d")] + OF_ITS_OWN * error
    wrong = {name: error for name, error in errors.items() if not error <= allowed[name]}
    assert not wrong, (what, problem.config, problem.keywords, problem.bptt)


def assert_same_results(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: Any = "") -> None:
    assert list(got) == list(expected), what
    for name, value in expected.items():
        assert_same_bits(got[name], value, (name, what))


def problem_of(seed: int, cell: str, dtype: str = "float64", **fixed: Any) -> Problem:
    """A problem that is a function of its arguments; `fixed` are options and what `random_problem` takes."""
    of_problem = {"is_index", "is_batched", "has_state", "has_lengths", "has_mask", "has_reset", "pad", "bptt"}
    of_problem |= {"T", "B"}
    rng = np.random.default_rng([seed, CELLS.index(cell), dtype == "float32"])
    options = {name: value for name, value in fixed.items() if name not in of_problem}
    largest = options.pop("largest", LARGEST[seed % 3])
    config = random_config(rng, largest, cell=cell, **options)
    if dtype == "float32" and config.layer_norm and min(config.sizes) < 5:
        # The norm of a few units is badly conditioned: their deviations from the mean may be all rounding.
        options |= {"hidden_size": 7 + seed % 9}
        config = random_config(rng, largest, cell=cell, **options)
    return random_problem(
        config, rng, dtype=dtype, **{name: value for name, value in fixed.items() if name in of_problem}
    )


def problems(count: int, dtype: str = "float64", start: int = 0, **fixed: Any) -> Iterator[Problem]:
    """`count` problems of each cell."""
    for cell, seed in itertools.product(CELLS, range(start, start + count)):
        yield problem_of(seed, cell, dtype, **fixed)


def transformed(function: Any, value: Any) -> Any:
    """`function` of every array of a state."""
    if value is None or isinstance(value, np.ndarray):
        return None if value is None else function(value)
    return tuple(transformed(function, member) for member in value)


def without(problem: Problem, **config: Any) -> Problem:
    """The same problem with other options."""
    return dataclasses.replace(problem, config=dataclasses.replace(problem.config, **config))


# ---- Against the specification -----------------------------------------------------------------------------


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_call(cell, dtype):
    for seed in range(100, 142):
        problem = problem_of(seed, cell, dtype)
        assert_right(problem, called(problem), None, seed)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_training(cell, dtype):
    for seed in range(200, 230):
        problem = problem_of(seed, cell, dtype)
        training = seed % 4 != 0
        assert_right(problem, trained(problem, training=training, save=SAVES[seed % 5]), training, seed)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_option_at_depth_three_and_in_both_directions(name, dtype):
    cell, options = EVERY_OPTION[name]
    sizes = {"input_size": 13, "hidden_size": 33, "num_layers": 3, "bidirectional": True}
    rng = np.random.default_rng(list(name.encode()))
    config = Config(cell, **(sizes | options))
    problem = random_problem(config, rng, 7, 5, dtype, has_mask=True, has_lengths=True, has_state=True)
    assert_right(problem, called(problem), None, name)
    for save in ("all", 2):
        assert_right(problem, trained(problem, save=save), True, (name, save))


# Many chunks of time, and batches that are more than one.
@pytest.mark.parametrize(
    ("T", "B", "H"), [(131, 5, 13), (97, 7, 9), (5, 300, 7), (300, 1, 17)])
@pytest.mark.parametrize("cell", CELLS)
def test_sequences_and_batches_of_several_chunks(cell, T, B, H):
    bound = {"activations": None} if cell in ("LSTM", "GRU", "RNN") else {}  # others may grow with time
    bound |= {"nonlinearity": "tanh"} if cell in ("RNN", "IndRNN") else {}
    heads = {"heads": 1} if cell == "SLSTM" else {}
    problem = problem_of(
        T, cell, largest=H, hidden_size=H, num_layers=2, T=T, B=B, bptt=30, is_batched=True, **bound, **heads
    )
    for save in ("all", 50):
        assert_right(problem, trained(problem, save=save), True, save)


def test_sizes_that_are_more_than_one_tile(rng):
    for cell, dtype in itertools.product(CELLS, DTYPES):
        config = Config(cell, 65, 130, bidirectional=True)
        problem = random_problem(config, rng, 5, 13, dtype)
        assert_right(problem, trained(problem), True, dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_whatever_a_tape_keeps_gives_the_same_bits(cell):
    for seed in range(300, 312):
        problem = problem_of(seed, cell, DTYPES[seed % 2])
        expected = trained(problem)
        for save in SAVES[1:]:
            assert_same_results(trained(problem, save=save), expected, (seed, save, problem.config))


@pytest.mark.parametrize("cell", CELLS)
def test_a_recorded_pass_without_draws_has_the_bits_of_a_call(cell):
    for seed in range(400, 420):
        problem = problem_of(seed, cell, DTYPES[seed % 2])
        expected = called(problem)
        for save in ("all", 3):
            tape = recorded(problem, training=False, save=save)
            got = named("y", tape.y) | named("state", tape.state) | named("cells", tape.cells)
            assert_same_results(got, expected, (seed, problem.config))


# ---- Rows of different lengths -----------------------------------------------------------------------------


def time_first(problem: Problem, values: Any) -> Any:
    """The sequence of a batched problem with time and batch exchanged where the batch is first."""
    return values.swapaxes(0, 1) if problem.config.batch_first else values


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


def test_a_list_of_rows_and_packed_rows_have_the_bits_of_the_padded_ones():
    for problem in problems(
        8, start=500, has_lengths=True, has_mask=False, has_reset=True, is_batched=True, pad="zero"
    ):
        changes = ragged_of(problem)
        without_lengths = dataclasses.replace(problem, keywords={"pad": "zero"})
        lengths = np.asarray(problem.keywords["lengths"])
        # Draws are by the number of steps, which is that of the longest row: a length is the whole of it.
        is_float32 = problem.seed % 2
        packed = {name: None if rows is None else np.concatenate(rows) for name, rows in changes.items()}
        packed["offsets"] = np.concatenate([[0], np.cumsum(lengths)])
        if is_float32:
            problem.params.update({name: value.astype("f4") for name, value in problem.params.items()})
        expected = one_behind_the_other(called(problem), problem)
        for form in (changes, packed):
            given = {name: value for name, value in form.items() if not name.startswith("d")}
            assert_same_results(called(without_lengths, **given), expected, problem.config)
        for save in ("all", 3):
            expected = one_behind_the_other(trained(problem, save=save), problem)
            for form in (changes, packed):
                assert_same_results(trained(without_lengths, save=save, **form), expected, problem.config)


def test_a_mask_gives_the_bits_of_the_real_steps_alone():
    for problem in problems(
        10, start=600, has_mask=True, has_lengths=False, has_reset=False, is_batched=True, pad="zero"
    ):
        config = problem.config
        mask = time_first(problem, problem.keywords["mask"])
        T = len(mask)
        counts = mask.sum(axis=0)
        order = np.argsort(~mask, axis=0, kind="stable")  # real steps first
        is_step = np.arange(T)[:, np.newaxis] < counts

        def compacted(values: Any, order: Any = order, problem: Problem = problem) -> Any:
            if values is None:
                return None
            values = time_first(problem, values)
            index = order.reshape(*order.shape, *[1] * (values.ndim - 2))
            return time_first(problem, np.take_along_axis(values, index, axis=0))

        compact = {name: compacted(getattr(problem, name)) for name in ("x", "dy", "dcells")}
        prefix = dataclasses.replace(problem, keywords={"lengths": counts, "pad": "zero"})
        in_processing_order = config.reverse_order == "processing"
        for run in (called, trained):
            given = dict(compact) if run is trained else {"x": compact["x"]}
            options = {"training": False} if run is trained else {}
            got, expected = run(problem, **options), run(prefix, **given, **options)
            for name in {"y0", "cells0", "dx0"} & set(got):
                values = compacted(got[name])
                values = time_first(problem, values)
                assert not values[~is_step].any(), (name, config)
                got[name] = time_first(problem, values)
            if in_processing_order:  # steps of y are where they are in time, all the same
                assert config.reverse
            assert_same_results(got, expected, config)


def test_reverse_is_the_flipped_input():
    for problem in problems(
        8, start=700, reverse=True, has_mask=False, has_reset=False, is_batched=True, pad="zero", bptt=None
    ):
        config = problem.config
        T, B = time_first(problem, problem.x).shape[:2]
        lengths = np.asarray(problem.keywords.get("lengths", np.full(B, T)))
        steps = np.arange(T)[:, np.newaxis]
        order = np.where(steps < lengths, lengths - 1 - steps, steps)

        def flipped(values: Any, order: Any = order, problem: Problem = problem) -> Any:
            if values is None:
                return None
            values = time_first(problem, values)
            index = order.reshape(*order.shape, *[1] * (values.ndim - 2))
            return time_first(problem, np.take_along_axis(values, index, axis=0))

        is_aligned = config.reverse_order == "aligned"
        forward = without(problem, reverse=False, reverse_order="aligned")
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


def memory_of_ragged(form):
    """Growth of the most memory that was ever resident: of short rows, then of as many and a long one."""
    layer = fastlstm.LSTM(8, 32, 2, peephole=True, num_threads=1)
    B, long = 500, 4000
    lengths = np.full(B, 4)
    lengths[0] = long
    data = np.ones((int(lengths.sum()), 8), np.float32)
    rows = np.split(data, np.cumsum(lengths)[:-1])
    x: Any = {"list": rows, "offsets": data}[form]
    keywords = {} if form == "list" else {"offsets": np.concatenate([[0], np.cumsum(lengths)])}

    def use(times):
        for _ in range(times):
            layer(x, **keywords)
            tape = layer.forward(x, save=64, **keywords)
            tape.backward(tape.y)

    before = high_water()
    use(2)
    return [high_water() - before, B * long * 32 * 4, data.nbytes]


@pytest.mark.parametrize("form", ["list", "offsets"])
def test_ragged_rows_are_never_padded(form):
    growth, padded, data = in_child(memory_of_ragged, form)
    assert padded > 200e6
    assert data < 1e6
    assert growth < 30e6
