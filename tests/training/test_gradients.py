# SPDX-License-Identifier: BSD-3-Clause
"""Gradients of every parameter, input and initial state of every cell: against the reference."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS, EVERY_OPTION
from tests.problems.comparing import (
    CANCELLING,
    GRADIENT_TOLERANCE,
    assert_right,
    assert_same_bits,
    assert_same_results,
    largest_errors,
)
from tests.problems.problem import (
    DTYPES,
    arrays_of,
    make_problem,
    problem_of,
    problems,
    random_state,
    shown,
)
from tests.problems.running import SAVES, called, make_layer, named, recorded, results_of, trained

EVERYTHING = {"has_reset": 0.2, "dropout": 0.4, "bptt": 4}
# Functions whose values stay bounded over many steps.
TANH = {"RNN": {"nonlinearity": "tanh"}, "IndRNN": {"nonlinearity": "tanh"}}


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_random_configurations_are_right(cell, dtype):
    bounded = {"activations": None, "layer_norm": None, "forget_gate": True}
    for seed in range(300, 400 if cell == "LSTM" else 330):
        problem = problem_of(seed, cell, dtype, **(bounded if seed >= 330 else {}))
        training = seed % 4 != 0
        assert_right(problem, trained(problem, training=training, save=SAVES[seed % 5]), training, seed)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_option_at_depth_three_and_in_both_directions(name, dtype):
    cell, options = EVERY_OPTION[name]
    problem = make_problem(
        7, 5, 13, 33, 3, cell=cell, dtype=dtype, bidirectional=True, **options, has_mask=True,
        has_lengths=True, has_state=True, has_cells=True, has_reset=True, bptt=3,
    )  # fmt: skip
    for save in ("all", 2):
        assert_right(problem, trained(problem, save=save), True, (name, save))


@pytest.mark.every_isa
@pytest.mark.parametrize("H", [1, 2, 7, 13, 17, 31, 33, 65, 77, 130])
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_that_a_pass_may_have_for_odd_sizes(dtype, H):
    sizes = [("LSTM", I, B, has) for I, B, has in ((130, 5, 0), (13, 1, 0), (1, 9, 1), (33, 17, 1))]
    sizes += [(cell, I, B, is_index) for cell in CELLS[1:] for I, B, is_index in ((33, 5, 0), (13, 1, 1))]
    for cell, I, B, is_index in sizes:
        problem = make_problem(
            9, B, I, H, 2, cell=cell, dtype=dtype, bidirectional=I == 33, is_index=bool(is_index),
            has_state=True, has_lengths=True, **EVERYTHING, **TANH.get(cell, {}),
        )  # fmt: skip
        for save in ("all", 2):
            assert_right(problem, trained(problem, save=save), True, (cell, save), np.float64)


# The backward pass goes through time in chunks, by T and B alone: many chunks, one of them shorter than the
# others; rows of a batch that are more than a chunk; sequences that end within each of the chunks.
CHUNKED = [
    {"T": 400, "B": 1, "I": 3, "H": 9},
    {"T": 401, "B": 1, "I": 7, "H": 17, "L": 2, "has_state": True},
    {"T": 131, "B": 5, "I": 3, "H": 13, "L": 3, "has_lengths": True, "has_state": True},
    {
        "T": 97, "B": 7, "I": 33, "H": 31, "L": 2, "bidirectional": True, "has_lengths": True,
        "has_state": True,
    },
    {
        "T": 150, "B": 6, "I": 17, "H": 10, "L": 2, "bidirectional": True, "is_index": True,
        "has_lengths": True,
    },
    {"T": 60, "B": 65, "I": 1, "H": 7, "L": 2, "has_lengths": True},
    {
        "T": 5, "B": 700, "I": 5, "H": 8, "L": 2, "bidirectional": True, "has_lengths": True,
        "has_state": True,
    },
    {"T": 2, "B": 1030, "I": 3, "H": 5, "is_index": True, "has_lengths": True},
]  # fmt: skip


@pytest.mark.every_isa
@pytest.mark.parametrize("save", ["all", "states", 1, 50, 1000])
@pytest.mark.parametrize("case", CHUNKED, ids=shown)
def test_sequences_and_batches_of_several_chunks(case, save):
    for options in ({}, {"has_reset": 0.02, "dropout": 0.3, "bptt": 30}):
        problem = make_problem(**case, **options)
        assert_right(problem, trained(problem, save=save), True, options)


@pytest.mark.parametrize("case", [case for case in CHUNKED if case["B"] < 100], ids=shown)
def test_sequences_of_several_chunks_in_float64(case):
    problem = make_problem(**case, dtype="float64", has_reset=0.02, bptt=41)
    assert_right(problem, trained(problem, save=7), True)


@pytest.mark.parametrize(("T", "B", "H"), [(131, 5, 13), (97, 7, 9), (5, 300, 7), (300, 1, 17)])
@pytest.mark.parametrize("cell", CELLS)
def test_several_chunks_of_any_options(cell, T, B, H):
    bound = {"activations": None} if cell in ("LSTM", "GRU", "RNN") else {}  # others may grow with time
    bound |= TANH.get(cell, {}) | ({"heads": 1} if cell == "SLSTM" else {})
    sizes = {"largest": H, "hidden_size": H, "num_layers": 2, "T": T, "B": B}
    problem = problem_of(T, cell, **sizes, bptt=30, is_batched=True, **bound)
    for save in ("all", 50):
        assert_right(problem, trained(problem, save=save), True, save, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_sizes_that_are_more_than_one_tile(cell, dtype):
    problem = make_problem(5, 13, 65, 130, cell=cell, dtype=dtype, bidirectional=True, has_state=True)
    assert_right(problem, trained(problem), True, dtype)


# ---- Where gradients begin and end -------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["all", 4])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_given_is_zero(cell, save):
    for bidirectional in (False, True):
        problem = make_problem(
            9, 4, 5, 7, 2, cell=cell, bidirectional=bidirectional, has_state=True, has_lengths=True,
            has_cells=True,
        )  # fmt: skip
        dy, dcells = (None if a is None else np.nan_to_num(a) for a in (problem.dy, problem.dcells))
        dstate = problem.dstate
        members = dstate if isinstance(dstate, tuple) else (dstate,)
        for flags in itertools.product((False, True), repeat=1 + len(members)):
            has_y, *has = flags
            absent = tuple(a if here else None for a, here in zip(members, has, strict=True))
            zeros = tuple(a if here else np.zeros_like(a) for a, here in zip(members, has, strict=True))
            if not isinstance(dstate, tuple):
                absent, zeros = absent[0], zeros[0]
            given = {"dy": dy if has_y else None, "dstate": absent, "dcells": dcells if has_y else None}
            full = {"dy": dy if has_y else np.zeros_like(dy), "dstate": zeros}
            full["dcells"] = dcells if has_y or dcells is None else np.zeros_like(dcells)
            got, expected = (trained(problem, save=save, **gradients) for gradients in (given, full))
            for name, value in expected.items():
                np.testing.assert_array_equal(got[name], value, err_msg=f"{name} {flags}")
        assert_right(dataclasses.replace(problem, **full), got, True)
        layer = make_layer(problem)
        dx, dstate = recorded(problem, layer, save=save).backward()
        assert not any(a.any() for a in (dx, *arrays_of(dstate), layer.flat_grads))


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_not_looked_at_and_gets_no_gradient(dtype):
    for problem in problems(10, dtype, 2000, has_lengths=True, is_batched=True, pad="zero"):
        got = trained(problem)
        behind = problem.time_first(~problem.real_steps())
        for name in ("y0", "cells0", "dx0"):
            assert not got.get(name, behind[..., None] & False)[behind].any()
        is_index = problem.x.dtype.kind == "i"
        other = dataclasses.replace(  # other numbers, that are numbers now
            problem,
            x=np.where(behind if is_index else behind[..., None], 10**9 if is_index else 5, problem.x),
            dy=np.where(behind[..., None], np.inf, problem.dy),
            dcells=None if problem.dcells is None else np.where(behind[..., None], -np.inf, problem.dcells),
        )
        other.dy = other.dy.astype(dtype)
        other.x = other.x.astype(problem.x.dtype)
        assert_same_results(trained(other), got, problem.config)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_reset_is_the_same_as_two_sequences(cell, bidirectional):
    """Rows cut at a reset, as rows of their own: the same numbers, whatever the direction."""
    problem = make_problem(12, 1, 5, 9, 2, cell=cell, bidirectional=bidirectional)
    reset = np.zeros((12, 1), bool)
    reset[5] = True
    layer, parts = make_layer(problem), make_layer(problem)
    dx, _ = layer.forward(problem.x, reset=reset).backward(problem.dy)
    for part in (slice(0, 5), slice(5, 12)):
        dx_part, _ = parts.forward(problem.x[part]).backward(problem.dy[part])
        assert_same_bits(dx_part, dx[part])
    errors = largest_errors({"d": layer.flat_grads}, {"d": parts.flat_grads}, is_strict=True)
    assert errors["d"] <= GRADIENT_TOLERANCE[problem.dtype]


@pytest.mark.parametrize("cell", CELLS)
def test_truncation_ends_gradients_and_no_states(cell):
    problem = make_problem(9, 2, 3, 5, cell=cell, has_state=True, bptt=4, **TANH.get(cell, {}))
    layer = make_layer(problem)
    tape = recorded(problem, layer)
    assert_same_results(results_of(tape), called(problem))
    dy = np.zeros_like(problem.dy)
    dy[6] = 1
    dx, dstate = tape.backward(dy)
    assert [bool(step.any()) for step in dx] == [t in (4, 5, 6) for t in range(9)]
    assert not any(member.any() for member in arrays_of(dstate))


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("is_index", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0), (3, 2), (300, 2)])
def test_no_steps_at_all(T, B, is_index, save):
    """T or B is zero, or every length is: state and its gradient pass through, all else is zero."""
    for cell, bidirectional, batch_first in itertools.product(CELLS, (False, True), (False, True)):
        layer = getattr(fastlstm, cell)(4, 5, 2, True, batch_first, bidirectional=bidirectional, rng=0)
        config = make_problem(1, 1, 4, 5, 2, cell=cell, bidirectional=bidirectional).config
        shape = (B, T) if batch_first else (T, B)
        x = np.full(shape, -1) if is_index else np.full((*shape, 4), np.nan, np.float32)
        rng = np.random.default_rng(0)
        state, dstate = (random_state(config, rng, B, np.float32) for _ in range(2))
        layer.flat_grads[:] = 3
        lengths, reset = np.zeros(B, int), np.ones(shape, bool)
        tape = layer.forward(x, state, lengths=lengths, reset=reset, save=save, bptt=1)
        assert_same_bits(tape.state, state)
        y = np.zeros((*shape, config.output_width(1)), np.float32)
        assert_same_bits(tape.y, y)
        dx, dstate_0 = tape.backward(np.full_like(y, np.nan), dstate)
        assert_same_bits(dstate_0, dstate)
        assert_same_results(named("dx", dx), {} if is_index else {"dx0": np.zeros(x.shape, np.float32)})
        assert (layer.flat_grads == 3).all()


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}, {"merge": "sum", "bidirectional": True}]
)
def test_index_input_changes_gradients_of_its_own_columns_alone(options):
    """Columns of inputs that do not occur are not read; the others are those of one-hot rows, and add up."""
    rng = np.random.default_rng(0)
    layer, twin = (fastlstm.LSTM(40, 9, rng=1, dtype=np.float64, **options) for _ in range(2))
    x, lengths = rng.integers(3, 30, (6, 4)), [6, 2, 0, 5]
    x[2:, 1], x[:, 2], x[5, 3] = 35, 36, 37  # behind the ends of their rows
    used = np.unique(np.concatenate([x[:n, b] for b, n in enumerate(lengths)]))
    assert used.max() < 30
    unused = np.setdiff1d(np.arange(40), used)
    firsts = [name for name in layer.grads if name.startswith("weight_ih_l0")]
    for name in firsts:
        layer.grads[name][:, unused] = np.nan
    for _ in range(2):
        tape = layer.forward(x, lengths=lengths)
        dy = rng.standard_normal(tape.y.shape)
        assert tape.backward(dy)[0] is None
        twin.forward(np.eye(40)[x], lengths=lengths).backward(dy)
    for name, grad in layer.grads.items():
        right = twin.grads[name]
        if name in firsts:
            assert np.isnan(grad[:, unused]).all()
            assert not right[:, unused].any()
            grad, right = grad[:, used], right[:, used]
        np.testing.assert_allclose(grad, right, rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.parametrize(
    ("seed", "cell", "dtype", "largest"),
    [
        (1001475, "LSTM", "float64", 6),
        (1004377, "LSTM", "float32", 6),
        (1007648, "MGU", "float32", 6),
        (1011539, "MGU", "float32", 40),
    ],
)
def test_gradients_whose_terms_cancel(seed, cell, dtype, largest):
    """More than the usual error is right where the specification rounds as much; a thousandth never is."""
    problem = problem_of(seed, cell, dtype, largest=largest)
    got = trained(problem)
    assert_right(problem, got, True)
    own_scale = [n for n, a in got.items() if n[0] == "d" and a.size > 1 and not n.startswith(CANCELLING)]
    for name in own_scale:
        if got[name].any():
            changed = got[name] * got[name].dtype.type(1.001)
            with pytest.raises(AssertionError):
                assert_right(problem, got | {name: changed}, True)
