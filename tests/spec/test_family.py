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
from tests.memory.test_training_memory import high_water
from tests.problems.family import (
    CELLS,
    EVERY_OPTION,
    Problem,
    called,
    expected_results,
    largest_errors,
    make_layer,
    named,
    random_config,
    random_problem,
    recorded,
    trained,
)
from tests.problems.helpers import assert_same_bits, in_child

DTYPES = ("float32", "float64")
SAVES: tuple[str | int, ...] = ("all", "states", 1, 3, 1000)
LARGEST = (6, 20, 40)
WHOLE: dict[str, Any] = {"has_lengths": False, "has_mask": False, "has_reset": False, "is_batched": True}
# Largest error in float32 of results and of gradients, and how many times the largest error that the
# specification itself makes in float32 may come on top: some activations and norms amplify what is rounded.
IN_FLOAT32 = (2e-6, 6e-6)
OF_ITS_OWN = 8.0


def assert_right(problem: Problem, got: dict[str, np.ndarray], training: bool | None, what: Any = "") -> None:
    """`got` of `called`, where `training` is None, or `trained`, is what the reference says in float64."""
    truth = expected_results(problem, training, np.float64)
    errors = largest_errors(got, truth)
    allowed = dict.fromkeys(errors, 1e-10)
    if got["y0"].dtype == np.float32:
        own = largest_errors(expected_results(problem, training, np.float32), truth)
        for name in own:
            is_gradient = name.startswith("d")
            kind = [error for other, error in own.items() if other.startswith("d") == is_gradient]
            allowed[name] = IN_FLOAT32[is_gradient] + OF_ITS_OWN * max(kind)
    wrong = {name: error for name, error in errors.items() if not error <= allowed[name]}
    assert not wrong, (what, problem.config, problem.keywords, problem.bptt)


def assert_same_results(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: Any = "") -> None:
    assert list(got) == list(expected), what
    for name, value in expected.items():
        assert_same_bits(got[name], value, (name, what))


def problem_of(seed: int, cell: str, dtype: str = "float64", **fixed: Any) -> Problem:
    """A problem that is a function of its arguments; `fixed` are options and what `random_problem` takes."""
    of_problem = {
        "is_index",
        "is_batched",
        "has_state",
        "has_lengths",
        "has_mask",
        "has_reset",
        "pad",
        "bptt",
    }
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
@pytest.mark.parametrize(("T", "B", "H"), [(131, 5, 13), (97, 7, 9), (5, 300, 7), (300, 1, 17)])
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
        for run in (called, trained):
            given = dict(compact) if run is trained else {"x": compact["x"]}
            options = {"training": False} if run is trained else {}
            got, expected = run(problem, **options), run(prefix, **given, **options)
            for name in {"y0", "cells0", "dx0"} & set(got):
                values = compacted(got[name])
                values = time_first(problem, values)
                assert not values[~is_step].any(), (name, config)
                got[name] = time_first(problem, values)
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
    """Growth of the most memory that was ever resident over calls of many short rows and a long one."""
    layer = fastlstm.LSTM(8, 32, 2, peephole=True, num_threads=1)
    B, longest = 500, 4000
    lengths = np.full(B, 4)
    lengths[0] = longest
    data = np.ones((int(lengths.sum()), 8), np.float32)
    x: Any = {"list": np.split(data, np.cumsum(lengths)[:-1]), "offsets": data}[form]
    keywords = {} if form == "list" else {"offsets": np.concatenate([[0], np.cumsum(lengths)])}
    before = high_water()
    for _ in range(2):
        layer(x, **keywords)
    return [high_water() - before, B * longest * 8 * 4, data.nbytes]


@pytest.mark.parametrize("form", ["list", "offsets"])
def test_ragged_rows_are_never_padded(form):
    growth, padded, data = in_child(memory_of_ragged, form)
    assert padded > 60e6
    assert data < 1e6
    assert growth < 16e6


# ---- Streams -----------------------------------------------------------------------------------------------


@pytest.mark.every_isa
@pytest.mark.parametrize("cell", CELLS)
def test_streams_have_the_bits_of_the_whole_call(cell):
    for seed in range(1000, 1016):
        fixed = {"bidirectional": False, "reverse": False, "T": 9, "num_layers": 2 + seed % 2} | WHOLE
        problem = problem_of(seed, cell, DTYPES[seed % 2], **fixed)
        config = problem.config
        layer = make_layer(config, problem.params)
        x = time_first(problem, problem.x)
        y, final = layer(problem.x, problem.state)
        y = time_first(problem, y)
        streams = [layer.stream(x.shape[1]) for _ in range(3)]
        for stream in streams:
            if problem.state is not None:
                stream.state = problem.state
        blocks = [time_first(problem, x[begin : begin + 4]) for begin in range(0, 9, 4)]
        results = [
            np.stack([streams[0].step(row) for row in x]),
            np.concatenate([time_first(problem, streams[1].process(block)) for block in blocks]),
        ]
        out = np.full((9, *y.shape[1:]), np.nan, y.dtype)
        for t, row in enumerate(x):
            assert streams[2].step(row, out=out[t]).base is out
        for result in (*results, out):
            assert_same_bits(result, np.ascontiguousarray(y), (seed, config))
        for stream in streams:
            assert_same_results(named("state", stream.state), named("state", final), (seed, config))


# ---- Forms of arguments ------------------------------------------------------------------------------------


def test_the_batch_may_be_first():
    for problem in problems(6, start=1100, batch_first=True, is_batched=True):
        second = without(problem, batch_first=False)
        sequences = {name: getattr(problem, name) for name in ("x", "dy", "dcells")}
        sequences |= {name: problem.keywords.get(name) for name in ("mask", "reset")}
        given = {name: None if a is None else a.swapaxes(0, 1) for name, a in sequences.items()}
        got, expected = trained(problem), trained(second, **given)
        for name in {"y0", "cells0", "dx0"} & set(expected):
            expected[name] = expected[name].swapaxes(0, 1)
        assert_same_results(got, expected, problem.config)


def test_one_sequence_is_a_batch_of_one():
    for problem in problems(8, start=1200, is_batched=False, batch_first=False):
        given = {name: getattr(problem, name) for name in ("x", "dy", "dcells")}
        given |= {name: problem.keywords.get(name) for name in ("mask", "reset")}
        given = {name: None if a is None else a[:, np.newaxis] for name, a in given.items()}
        for name in ("state", "dstate"):
            given[name] = transformed(lambda a: a[:, np.newaxis], getattr(problem, name))
        got, expected = trained(problem), trained(problem, **given)
        for name, value in expected.items():
            if name in ("y0", "cells0", "dx0") or name.strip("0123456789") in ("state", "dstate"):
                expected[name] = value[:, 0]
        assert_same_results(got, expected, problem.config)


def test_indices_are_one_hot_rows():
    for problem in problems(8, start=1300, is_index=True, has_mask=False, has_lengths=False):
        eye = np.eye(problem.config.input_size)
        assert_same_results(called(problem), called(problem, x=eye[problem.x]), problem.config)
        got, expected = trained(problem), trained(problem, x=eye[problem.x])
        assert "dx0" not in got
        for name, value in got.items():
            if name.startswith("dweight_ih_l0"):  # a sum over all rows, or over those of the index
                np.testing.assert_allclose(value, expected[name], 1e-12, 1e-12)
            else:
                assert_same_bits(value, expected[name], (name, problem.config))


def test_out_receives_y():
    for problem in problems(8, start=1400):
        expected = called(problem)
        out = np.full_like(expected["y0"], np.nan)
        layer = make_layer(problem.config, problem.params)
        assert layer(problem.x, problem.state, **problem.keywords, out=out)[0] is out
        assert_same_bits(out, expected["y0"], problem.config)


def test_arguments_of_any_dtype_and_strides():
    for problem in problems(6, start=1500, is_index=False, batch_first=False, is_batched=True):
        expected = trained(problem)

        def strided(a: np.ndarray) -> np.ndarray:
            wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 7, a.dtype)
            wide[..., ::2] = a
            return wide[..., ::2]

        def swapped(a: np.ndarray) -> np.ndarray:
            return a.astype(a.dtype.newbyteorder())

        for kind in (strided, swapped, np.asfortranarray):
            given = {name: kind(getattr(problem, name)) for name in ("x", "dy")}
            given |= {name: transformed(kind, getattr(problem, name)) for name in ("state", "dstate")}
            given |= {
                name: strided(problem.keywords[name]) for name in {"mask", "reset"} & set(problem.keywords)
            }
            assert_same_results(trained(problem, **given), expected, (kind, problem.config))
