# SPDX-License-Identifier: BSD-3-Clause
"""Sequences and stacks of the specification: every cell and option at random, against pieces one by one."""

from __future__ import annotations

import ast
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlstm import reference
from fastlstm.reference import Config, forward
from tests.problems.cells import CELLS, REFUSED, REFUSED_CALLS, random_config
from tests.problems.comparing import assert_equal
from tests.problems.problem import (
    OF_BATCH,
    WHOLE,
    Problem,
    arrays_of,
    random_params,
    random_problem,
    random_state,
    transformed,
)


def problems(rng: np.random.Generator, count: int = 42, **fixed: Any) -> Iterator[Problem]:
    """Random problems of every cell in turn; `fixed` are options, or what `random_problem` takes."""
    batch = {name: value for name, value in fixed.items() if name in OF_BATCH}
    options = {name: value for name, value in fixed.items() if name not in OF_BATCH}
    for number in range(count):
        config = random_config(rng, **({"cell": CELLS[number % len(CELLS)]} | options))
        yield random_problem(config, rng, **batch)


# ---- Parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"cell": "LSTM", "peephole": True, "proj_size": 2, "proj_bias": True, "layer_norm": "gate"},
            "weight_ih 16,3 weight_hh 16,2 bias_ih 16 bias_hh 16 "
            "weight_ch 12 weight_hr 2,4 bias_hr 2 weight_ln 16",
        ),
        (
            {"cell": "LSTM", "coupled": "f_from_i", "peephole": True, "bias": False},
            "weight_ih 12,3 weight_hh 12,4 weight_ch 8",
        ),
        (
            {"cell": "LSTM", "coupled": "i_from_f", "layer_norm": "haste"},
            "weight_ih 12,3 weight_hh 12,4 bias_ih 12 bias_hh 12 "
            "weight_ln_ih 12 weight_ln_hh 12 weight_ln_c 4 bias_ln_c 4",
        ),
        ({"cell": "LSTM", "forget_gate": False, "bias": False}, "weight_ih 12,3 weight_hh 12,4"),
        ({"cell": "GRU"}, "weight_ih 12,3 weight_hh 12,4 bias_ih 12 bias_hh 12"),
        ({"cell": "RNN"}, "weight_ih 4,3 weight_hh 4,4 bias_ih 4 bias_hh 4"),
        ({"cell": "IndRNN"}, "weight_ih 4,3 weight_hh 4 bias_ih 4"),
        ({"cell": "SLSTM", "heads": 2}, "weight_ih 16,3 weight_hh 16,2 bias_ih 16"),
        ({"cell": "MinGRU"}, "weight_ih 8,3 bias_ih 8"),
        ({"cell": "MinLSTM"}, "weight_ih 12,3 bias_ih 12"),
        ({"cell": "MGU"}, "weight_ih 8,3 weight_hh 8,4 bias_ih 8 bias_hh 8"),
    ],
)
def test_parameters_of_each_cell_in_their_order(options, expected):
    words = iter(expected.split())
    shapes = {
        f"{kind}_l0": tuple(map(int, sizes.split(","))) for kind, sizes in zip(words, words, strict=True)
    }
    got = reference.param_shapes(Config(input_size=3, hidden_size=4, **options))
    assert list(got.items()) == list(shapes.items())


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({"num_layers": 2}, [3, 4]),
        ({"num_layers": 2, "bidirectional": True}, [3, 3, 8, 8]),
        ({"num_layers": 2, "bidirectional": True, "merge": "sum"}, [3, 3, 4, 4]),
        ({"num_layers": 2, "bidirectional": True, "proj_size": 2}, [3, 3, 4, 4]),
        ({"hidden_size": (4, 5, 2), "bidirectional": True}, [3, 3, 8, 8, 10, 10]),
        ({"hidden_size": (4, 5, 2), "proj_size": 1}, [3, 1, 1]),
    ],
)
def test_a_layer_reads_the_output_of_the_one_below(options, widths):
    shapes = reference.param_shapes(Config("LSTM", **({"input_size": 3, "hidden_size": 4} | options)))
    assert [shape[1] for name, shape in shapes.items() if name.startswith("weight_ih")] == widths


# ---- Lengths, masks, resets --------------------------------------------------------------------------------


def test_a_mask_removes_steps(rng):
    """Each row by itself, of its real steps alone, gives the same at these steps."""
    for problem in problems(rng, is_batched=True):
        config, is_real = problem.config, problem.real_steps()
        got = problem.forward()
        x, y, cells = (problem.time_first(a) for a in (problem.x, got.y, got.cells))
        reset = problem.time_first(problem.keywords.get("reset"))
        for b in range(x.shape[1]):
            times = np.flatnonzero(is_real[:, b])
            state = transformed(lambda a, b=b: a[:, b : b + 1], problem.state)
            keywords = {}
            if reset is not None:  # any since the step before
                edges = [0, *(times + 1)]
                spans = [reset[s:e, b].any() for s, e in itertools.pairwise(edges)]
                keywords["reset"] = np.array(spans, bool).reshape(-1, 1)
            alone = dataclasses.replace(config, batch_first=False)
            row = forward(alone, problem.params, x[times, b : b + 1], state, **keywords)
            assert_equal(y[times, b], row.y[:, 0], 1e-14, config)
            assert_equal(
                transformed(lambda a, b=b: a[:, b], got.state),
                transformed(lambda a: a[:, 0], row.state),
                1e-14,
                config,
            )
            if cells is not None:
                assert_equal(cells[times, b], row.cells[:, 0], 1e-14, config)


def test_draws_count_the_real_steps(rng):
    """Rows moved together to the front of as long a batch meet the same masks."""
    for problem in problems(
        rng, 56, is_batched=True, has_mask=True, has_reset=False, pad="zero", dropout=0.4
    ):
        is_real = problem.real_steps()
        times = np.argsort(~is_real, axis=0, kind="stable")
        rows = np.arange(is_real.shape[1])
        together = problem.time_first(problem.time_first(problem.x)[times, rows])
        got = problem.forward(training=True)
        lengths = is_real.sum(axis=0)
        expected = problem.forward(training=True, x=together, mask=None, lengths=lengths)
        assert_equal(got.state, expected.state, 0, problem.config)
        y, y_together = (problem.time_first(result.y) for result in (got, expected))
        is_row = np.arange(len(times))[:, None] < lengths
        np.testing.assert_array_equal(y[times, rows][is_row], y_together[is_row])
        assert not y[~is_real].any()


def test_lengths_are_a_mask(rng):
    for problem in problems(rng, is_batched=True, has_lengths=True, has_mask=False):
        mask = problem.time_first(problem.real_steps())
        expected = problem.forward(training=True)
        got = problem.forward(training=True, lengths=None, mask=mask)
        assert_equal(tuple(got), tuple(expected), 0, problem.config)


def test_padding_is_zero_or_held(rng):
    options: dict[str, Any] = {"residual": None, "merge": "concat", "is_batched": True, "has_mask": True}
    for problem in problems(rng, 56, pad="hold", **options):
        config, is_real = problem.config, problem.real_steps()
        held, zero = problem.forward(), problem.forward(pad="zero")
        state = transformed(np.zeros_like, held.state) if problem.state is None else problem.state
        members = state if len(config.states) > 1 else (state,)
        for given, name in zip(members, ("y", "cells"), strict=False):
            values, zeros = (problem.time_first(getattr(result, name)) for result in (held, zero))
            np.testing.assert_array_equal(zeros, np.where(is_real[:, :, None], values, 0))
            last_layer = given if isinstance(config.hidden_size, int) else given[-1]
            for d in range(-config.num_directions, 0):
                backwards = (config.reverse or d + config.num_directions == 1) and (
                    config.reverse_order == "aligned"
                )
                outputs = np.split(values, config.num_directions, axis=-1)[d]
                last = last_layer[d].copy()
                for t in range(len(outputs))[:: -1 if backwards else 1]:
                    last[is_real[t]] = outputs[t, is_real[t]]
                    np.testing.assert_array_equal(outputs[t], last)


def test_a_reset_is_a_new_sequence(rng):
    for problem in problems(
        rng, has_reset=False, has_mask=False, has_lengths=False, is_batched=True, num_layers=1, T=7
    ):
        config = problem.config
        if config.bidirectional or config.batch_first:
            continue
        reset = np.zeros((7, problem.x.shape[1]), bool)
        reset[3] = True
        got = problem.forward(reset=reset)
        pieces = [slice(0, 3), slice(3, 7)]
        y, states = [None, None], [None, None]
        for number, piece in enumerate(pieces):
            is_first = number == (1 if config.reverse else 0)
            aligned = dataclasses.replace(config, reverse_order="aligned")
            part = forward(aligned, problem.params, problem.x[piece], problem.state if is_first else None)
            y[number], states[number] = part.y, part.state
        expected = np.concatenate(y)
        expected = expected[::-1] if config.reverse_order == "processing" else expected
        assert_equal(got.y, expected, 1e-14, config)
        assert_equal(got.state, states[0 if config.reverse else 1], 1e-14, config)


def of_direction(d: int, state: Any) -> Any:
    """The state of one of two directions; that of the other is zero."""
    return transformed(lambda a: a * (np.arange(2) == d)[:, None, None], state)


def test_a_reset_is_a_new_sequence_of_both_directions(rng):
    """Forward enters the first piece with its state, reverse the last one; a first reset drops it."""
    for cell in CELLS:
        config = Config(cell, 3, 4, bidirectional=True)
        problem = random_problem(config, rng, T=7, B=1, **WHOLE, has_state=True, pad="zero", is_index=False)
        reset = np.zeros((7, 1), bool)
        reset[3] = True
        got = problem.forward(reset=reset)

        for piece, d in ((slice(0, 3), 0), (slice(3, 7), 1)):
            part = forward(config, problem.params, problem.x[piece], of_direction(d, problem.state))
            assert_equal(got.y[piece], part.y, 1e-14)
            for a, b in zip(arrays_of(got.state), arrays_of(part.state), strict=True):
                assert_equal(a[1 - d], b[1 - d], 1e-14)
        reset[0] = True
        dropped = problem.forward(reset=reset)
        assert_equal(dropped.y, problem.forward(reset=reset, state=of_direction(1, problem.state)).y)
        assert (dropped.y[0] != got.y[0]).any()
        unseen = transformed(lambda a: np.where(np.arange(2)[:, None, None] == 1, a, np.nan), problem.state)
        assert np.isfinite(problem.forward(reset=reset, state=unseen).y).all()


def test_a_reset_at_a_removed_step_holds_for_the_next_real_one(rng):
    matters = set()  # not where a clip leaves nothing of a state
    for problem in problems(
        rng, 24, has_mask=False, has_reset=False, has_lengths=False, T=5, B=1, is_batched=True
    ):
        mask, reset, moved = (np.zeros((5, 1), bool) for _ in range(3))
        mask[[0, 3, 4]] = reset[1] = moved[3] = True
        got, expected = (
            problem.forward(mask=problem.time_first(mask), reset=problem.time_first(r))
            for r in (reset, moved)
        )
        assert_equal(tuple(got), tuple(expected))
        none = problem.forward(mask=problem.time_first(mask))
        if (problem.time_first(got.y) != problem.time_first(none.y)).any():
            matters.add(problem.config.cell)
    assert matters == set(CELLS)


# ---- Directions --------------------------------------------------------------------------------------------


def test_reverse_is_forward_over_the_flipped_sequence(rng):
    for problem in problems(rng, reverse=True, bidirectional=False, dropout=0.0, **WHOLE):
        axis = int(problem.config.batch_first)
        config = dataclasses.replace(problem.config, reverse=False, reverse_order="aligned")
        expected = forward(config, problem.params, np.flip(problem.x, axis), problem.state)
        got = problem.forward()
        assert_equal(got.state, expected.state, 0, problem.config)
        flip = problem.config.reverse_order == "aligned"
        for a, b in ((got.y, expected.y), (got.cells, expected.cells)):
            assert_equal(a, None if b is None else np.flip(b, axis) if flip else b, 0, problem.config)


def test_each_row_is_reversed_from_its_own_last_step(rng):
    for problem in problems(
        rng,
        14,
        reverse=True,
        reverse_order="processing",
        is_batched=True,
        pad="zero",
        has_mask=True,
        bidirectional=False,
    ):
        config = dataclasses.replace(problem.config, reverse_order="aligned")
        aligned = problem.time_first(
            forward(config, problem.params, problem.x, problem.state, **problem.keywords).y
        )
        y = problem.time_first(problem.forward().y)
        is_real = problem.real_steps()
        for b in range(y.shape[1]):
            np.testing.assert_array_equal(y[is_real[:, b], b], aligned[is_real[:, b], b][::-1])


def one_direction(params: dict[str, np.ndarray], layer: int, suffix: str) -> dict[str, np.ndarray]:
    end = f"_l{layer}{suffix}"
    return {name.removesuffix(end) + "_l0": value for name, value in params.items() if name.endswith(end)}


def by_hand(problem: Problem, training: bool) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """A stack from layers of one direction: y (T, B, W), and all final states, layer by layer."""
    config = problem.config
    x = np.eye(config.input_size)[problem.x] if problem.x.dtype.kind == "i" else problem.x
    x, finals = problem.time_first(x), []
    T, B = x.shape[:2]
    for layer in range(config.num_layers):
        if layer and training and config.dropout:
            x = x * reference.dropout_mask(problem.seed, layer - 1, T, B, x.shape[2], config.dropout)
        outputs = []
        for d, suffix in enumerate(config.suffixes):
            one = dataclasses.replace(
                config,
                input_size=x.shape[2],
                hidden_size=config.sizes[layer],
                num_layers=1,
                bidirectional=False,
                batch_first=False,
                reverse=config.reverse or d == 1,
                reverse_order="aligned",
                residual=None,
                merge="concat",
            )
            members = problem.state if len(config.states) > 1 else (problem.state,)
            state: Any = None
            if problem.state is not None:
                index = layer * config.num_directions + d
                state = tuple(
                    m[index : index + 1] if isinstance(config.hidden_size, int) else m[layer][d : d + 1]
                    for m in members
                )
                state = state if len(config.states) > 1 else state[0]
            keywords = problem.keywords | {"pad": "zero"}
            for name in ("mask", "reset"):
                if name in keywords:
                    keywords[name] = problem.time_first(keywords[name])
            part = forward(one, one_direction(problem.params, layer, suffix), x, state, **keywords)
            outputs.append(part.y)
            finals.append([a[0] for a in arrays_of(part.state)])
        out = np.concatenate(outputs, axis=-1) if config.merge == "concat" else sum(outputs)
        out = out / 2 if config.merge == "average" else out
        if config.residual is not None and layer >= config.residual:
            out = out + np.where(problem.real_steps()[:, :, None], x, 0)
        x = out
    return x, finals


@pytest.mark.parametrize("training", [False, True])
def test_a_stack_is_layers_of_one_direction(training, rng):
    options: dict[str, Any] = {
        "reverse_order": "aligned",
        "is_batched": True,
        "pad": "zero",
        "is_index": False,
    }
    # A direction by itself would be given other draws; and without a mask, and not in reverse, steps are
    # where their draws are.
    options |= {"zoneout_c": 0.0, "zoneout_h": 0.0, "recurrent_dropout": 0.0}
    options |= {"has_mask": False, "reverse": False, "dropout": 0.4} if training else {}
    for problem in problems(rng, 84, **options):
        y, finals = by_hand(problem, training)
        got = problem.forward(training)
        assert_equal(problem.time_first(got.y), y, 1e-14, problem.config)
        members = got.state if len(problem.config.states) > 1 else (got.state,)
        for member, values in enumerate(members):
            arrays = values if isinstance(problem.config.hidden_size, int) else itertools.chain(*values)
            for a, final in zip(arrays, finals, strict=True):
                assert_equal(a, final[member], 1e-14, problem.config)


# ---- Steps, shapes, dtypes ---------------------------------------------------------------------------------


def test_steps_one_by_one_are_the_sequence(rng):
    for problem in problems(rng, bidirectional=False, reverse=False, **WHOLE):
        config = dataclasses.replace(problem.config, batch_first=False)
        x, got, state = problem.time_first(problem.x), problem.forward(), problem.state
        y, cells = problem.time_first(got.y), problem.time_first(got.cells)
        for t in range(len(x)):
            step = forward(config, problem.params, x[t : t + 1], state)
            state = step.state
            assert_equal(y[t], step.y[0], 1e-14, config)
            if cells is not None:
                c = state[1] if isinstance(config.hidden_size, int) else state[1][-1]
                assert_equal(cells[t], c[-1], 1e-14, config)
        assert_equal(got.state, state, 1e-14, config)


def test_integers_are_one_hot_rows(rng):
    for problem in problems(rng, 28, is_index=True, has_mask=False, has_lengths=False):
        hot = problem.forward(training=True, x=np.eye(problem.config.input_size)[problem.x])
        assert_equal(tuple(problem.forward(training=True)), tuple(hot), 0, problem.config)


def test_unbatched_is_a_batch_of_one(rng):
    for problem in problems(rng, 28, is_batched=False):

        def batched(values):
            return None if values is None else values[:, None]

        keywords = {n: batched(v) if n in ("mask", "reset") else v for n, v in problem.keywords.items()}
        sequences = {name: batched(getattr(problem, name)) for name in ("x", "dy", "dcells")}
        states = {name: transformed(batched, getattr(problem, name)) for name in ("state", "dstate")}
        batch = dataclasses.replace(problem, **sequences, **states, keywords=keywords)
        batch = batch.with_options(batch_first=False)
        for got, expected in zip(
            [*problem.forward(), *problem.backward()], [*batch.forward(), *batch.backward()], strict=True
        ):
            is_grads = isinstance(expected, dict)
            assert_equal(got, expected if is_grads else transformed(lambda a: a[:, 0], expected))


def test_ragged_rows_are_padded_and_cut(rng):
    for cell in CELLS:
        config = random_config(rng, cell=cell, batch_first=False, hidden_size=4, residual=None)
        params = random_params(config, rng)
        rows = [rng.standard_normal((T, config.input_size)) for T in (3, 0, 5, 1)]
        x, lengths = reference.pad_ragged(rows)
        y = forward(config, params, x, lengths=lengths).y
        for b, row in enumerate(rows):
            assert_equal(y[: len(row), b], forward(config, params, row).y, 1e-14, config)
    x, lengths = reference.pad_ragged([[1, 2, 3], [4]])
    np.testing.assert_array_equal(x, [[1, 4], [2, 0], [3, 0]])


@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_rows_return_the_given_state_and_its_gradient(T, B, rng):
    for problem in problems(rng, 24, T=T, B=B, has_state=True, is_batched=True):
        got = problem.forward(training=True)
        assert problem.time_first(got.y).shape == (
            T,
            B,
            problem.config.output_width(problem.config.num_layers - 1),
        )
        assert_equal(got.state, problem.state)
        dx, dstate, grads = problem.backward()
        assert dx is None or dx.shape == problem.x.shape
        assert_equal(dstate, problem.dstate)
        assert not any(grad.any() for grad in grads.values())


def test_an_empty_row_returns_the_given_state_and_passes_its_gradient_on(rng):
    for problem in problems(
        rng, T=3, B=4, is_batched=True, has_mask=False, has_lengths=False, has_state=True, pad="zero"
    ):
        lengths = [0, 3, 0, 1]
        got = problem.forward(lengths=lengths)
        _, dstate, _ = problem.backward(lengths=lengths)
        for results, given in ((got.state, problem.state), (dstate, problem.dstate)):
            for a, b in zip(arrays_of(results), arrays_of(given), strict=True):
                np.testing.assert_array_equal(a[:, ::2], b[:, ::2])
        assert not problem.time_first(got.y)[:, ::2].any()


def test_padding_is_not_looked_at(rng):
    for problem in problems(rng, is_batched=True, has_lengths=True):
        behind = problem.time_first(~problem.real_steps())
        is_index = problem.x.dtype.kind == "i"

        def filled(values, by, behind=behind):
            return (
                None
                if values is None
                else np.where(behind.reshape(*behind.shape, *[1] * (values.ndim - 2)), by, values)
            )

        pad = problem.keywords.get("pad", "zero")
        other = dataclasses.replace(problem, x=filled(problem.x, 10**9 if is_index else np.inf))
        if pad == "zero":  # or what is held has a gradient
            other.dy, other.dcells = filled(problem.dy, 7), filled(problem.dcells, -7)
        assert_equal(tuple(other.forward()), tuple(problem.forward()))
        assert_equal(other.backward(), problem.backward())
        dx = problem.backward()[0]
        assert dx is None or not dx[behind].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_everything_is_computed_in_the_dtype_of_the_parameters(dtype, rng):
    for cell in CELLS:
        config = random_config(rng, cell=cell)
        problem = random_problem(config, rng, params=random_params(config, rng, dtype))
        assert {a.dtype for a in arrays_of(tuple(problem.forward(training=True)))} == {np.dtype(dtype)}
        assert {a.dtype for a in arrays_of(problem.backward())} == {np.dtype(dtype)}
        wider = problem.forward(training=True, dtype=np.longdouble)
        assert {a.dtype for a in arrays_of(tuple(wider))} == {np.dtype(np.longdouble)}


def test_nothing_given_is_modified(rng):
    for problem in problems(rng):
        of_a_call = [value for value in problem.keywords.values() if isinstance(value, np.ndarray)]
        given = arrays_of([problem.params, problem.state, problem.x, of_a_call])
        given += arrays_of([problem.dy, problem.dstate, problem.dcells])
        before = [a.copy() for a in given]
        problem.forward(training=True)
        problem.backward()
        for a, b in zip(given, before, strict=True):
            np.testing.assert_array_equal(a, b)


# ---- What does not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_go_together(name):
    cell, options, _why = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got "):
        Config(cell, **({"input_size": 3, "hidden_size": 4} | options))


@pytest.mark.parametrize("name", REFUSED_CALLS)
def test_a_call_that_does_not_go_with_the_options(name, rng):
    cell, options, keywords, _why = REFUSED_CALLS[name]
    problem = random_problem(Config(cell, **({"input_size": 3, "hidden_size": 4} | options)), rng)
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got "):
        problem.forward(**keywords)


@pytest.mark.parametrize(
    ("message", "cell", "options"),
    [
        ("cell: expected one of LSTM, GRU, .*, got 'lstm'", "lstm", {}),
        ("peephole: no option of GRU, got True", "GRU", {"peephole": True}),
        ("gate_clip: no option of IndRNN, got 1.0", "IndRNN", {"gate_clip": 1.0}),
        ("reset_after: no option of LSTM, got False", "LSTM", {"reset_after": False}),
        ("coupled: expected one of .*, got 'both'", "LSTM", {"coupled": "both"}),
        ("merge: expected one of .*, got 'mean'", "GRU", {"merge": "mean", "bidirectional": True}),
        ("nonlinearity: expected one of .*, got 'sigmoid'", "RNN", {"nonlinearity": "sigmoid"}),
        ("dropout: expected a number from 0 to 1, got 1.5", "GRU", {"dropout": 1.5}),
        ("zoneout_c: expected a number from 0 to 1, got nan", "LSTM", {"zoneout_c": float("nan")}),
        ("cell_clip: expected None or a number above 0, got 0.0", "LSTM", {"cell_clip": 0.0}),
        ("proj_size: expected at least 0, got -1", "LSTM", {"proj_size": -1}),
        ("hidden_size: expected at least 1, got 0", "GRU", {"hidden_size": (4, 0)}),
        ("num_layers: expected 2 as of hidden_size, got 3", "GRU", {"hidden_size": (4, 5), "num_layers": 3}),
        ("n_floor: expected a finite number of at least 0, got -1.0", "SLSTM", {"n_floor": -1.0}),
        ("residual: expected None or a layer from 0 to 1, got 2", "GRU", {"residual": 2, "num_layers": 2}),
        ("activations: expected 3 of them, got ", "LSTM", {"activations": ("Relu", "Tanh")}),
        ("activations: expected one of .*, got 'Swish'", "RNN", {"activations": ("Swish",)}),
    ],
)
def test_an_option_that_does_not_fit(message, cell, options):
    with pytest.raises(ValueError, match=f"^{message}"):
        Config(cell, **({"input_size": 3, "hidden_size": 4} | options))


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("x: expected 2 or 3 dimensions if floating, got 1", {"x": np.zeros(4)}),
        ("x: expected 2 or 3 dimensions if floating, got 4", {"x": np.zeros((1, 5, 2, 3))}),
        ("x: expected 1 or 2 dimensions if integers", {"x": np.zeros((5, 2, 3), int)}),
        ("x: expected 3 features", {"x": np.zeros((5, 2, 4))}),
        ("x: expected indices from 0 to 2, got -1 to 0", {"x": [[0, -1]] * 5}),
        ("x: expected indices from 0 to 2, got 3 to 3", {"x": np.full((5, 2), 3)}),
        (r"mask: expected booleans of shape \(5, 2\), got shape \(5, 3\)", {"mask": np.ones((5, 3), bool)}),
        ("mask: expected booleans .* of int64", {"mask": np.ones((5, 2), np.int64)}),
        (r"reset: expected booleans of shape \(5, 2\)", {"reset": np.ones(5, bool)}),
        ("lengths: expected values from 0 to 5, got 2 to 6", {"lengths": [2, 6]}),
        ("lengths: expected values from 0 to 5, got -1 to 2", {"lengths": [2, -1]}),
        ("lengths: expected 2 integers", {"lengths": [1, 2, 3]}),
        ("lengths: expected 2 integers", {"lengths": [1.0, np.nan]}),
        (r"state: expected \(h, c, n, m\), got 2 of them", {"state": (None, None)}),
        (r"state\[2\]: expected shape \(2, 2, 4\), got", {"state": (None, None, np.zeros((2, 4)), None)}),
        ("pad: expected 'zero' or 'hold', got 'keep'", {"pad": "keep"}),
        (r"params: expected \['bias_ih_l0'", {"params": {}}),
    ],
)
def test_an_argument_that_does_not_fit(message, changes, rng):
    problem = random_problem(
        Config("SLSTM", 3, 4, 2),
        rng,
        T=5,
        B=2,
        has_mask=False,
        **{k: v for k, v in WHOLE.items() if k != "has_mask"},
        is_index=False,
    )
    with pytest.raises(ValueError, match=f"^{message}"):
        problem.forward(**changes)


def test_a_state_of_layers_of_different_sizes(rng):
    config = Config("LSTM", 3, (4, 2), bidirectional=True, proj_size=1)
    problem = random_problem(config, rng, B=3, has_state=True, is_batched=True)
    h, c = problem.forward().state
    assert [a.shape for a in (*h, *c)] == [(2, 3, 1), (2, 3, 1), (2, 3, 4), (2, 3, 2)]
    with pytest.raises(ValueError, match=r"^state\[1\]: expected an array for each of 2 layers, got 3"):
        problem.forward(state=(h, (*c, c[0])))
    with pytest.raises(ValueError, match=r"^state\[1\]\[0\]: expected shape \(2, 3, 4\), got \(2, 3, 2\)"):
        problem.forward(state=(h, c[::-1]))
    state = random_state(Config("GRU", 3, (4, 2)), rng, 3)
    assert [
        a.shape
        for a in forward(
            Config("GRU", 3, (4, 2)), random_params(Config("GRU", 3, (4, 2)), rng), np.zeros((1, 3, 3)), state
        ).state
    ] == [(1, 3, 4), (1, 3, 2)]


def test_the_reference_imports_numpy_and_nothing_else():
    """The package's modules import one another, NumPy and the standard library: nothing that is compiled."""
    folder = Path(reference.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (node.level, node.module in modules) == (1, True), path
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                roots = {str(name).partition(".")[0] for name in names}
                assert roots <= {"collections", "dataclasses", "math", "typing", "numpy"}, path
