# SPDX-License-Identifier: BSD-3-Clause
"""Promise "the same bits" of calls: for any number of threads, batch, position, cut, and way of calling."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_same_bits, assert_same_results
from tests.problems.problem import DTYPES, WHOLE, make_problem, problem_of, shown, transformed
from tests.problems.running import called, make_layer, on_threads, stream_of, streamed

from .batches import EVERY, EVERY_OPTION, SIZES, THREADED, problem_of_option

BATCHES = [case for case in EVERY if case["B"] > 1]
# Streams and cuts take whole rows of one direction.
SEQUENCES = [case | {"has_lengths": False} for case in EVERY if not case.get("bidirectional")]


def assert_rows_of(problem, layer, rows, whole, length=None):
    """Some rows by themselves, and the first steps of them, give what they gave in the whole."""
    for name, value in called(problem.rows(rows, length), layer).items():
        if name.startswith("state"):
            expected = whole[name][:, rows]
        else:
            expected = problem.time_first(problem.time_first(whole[name])[:length, rows])
        assert_same_bits(np.ascontiguousarray(value), np.ascontiguousarray(expected), (name, rows))


@pytest.mark.every_isa
@pytest.mark.parametrize("case", THREADED, ids=shown)
def test_the_same_bits_for_any_number_of_threads(case):
    problem = make_problem(**case)
    expected = called(problem, make_layer(problem, num_threads=1))
    for threads in (2, 3, 4):
        assert_same_results(on_threads(called, problem, threads), expected, threads)


@pytest.mark.parametrize("threads", [4, 1, 2, 3])
def test_the_same_bits_for_any_limit_of_the_process(threads):
    problem = make_problem(30, 1, 64, 300)
    expected = called(problem, make_layer(problem, num_threads=1))
    fastlstm.set_num_threads(threads)
    assert_same_results(on_threads(called, problem, None), expected)


@pytest.mark.every_isa
@pytest.mark.parametrize("case", BATCHES, ids=shown)
def test_the_same_bits_for_a_row_alone_and_anywhere_in_a_batch(case):
    problem = make_problem(**case)
    layer = make_layer(problem)
    whole, B = called(problem, layer), case["B"]
    generator = np.random.default_rng(B)
    choices = [[row] for row in range(min(B, 8))] + [[B - 1]]
    choices += [generator.permutation(B)[:count] for count in (2, 3, 5, 6, B)]
    choices.append([B - 1] * 70)  # copies of one row, so that the batch is larger than any tile
    for rows in choices:
        assert_rows_of(problem, layer, rows, whole)


@pytest.mark.every_isa
@pytest.mark.parametrize("case", [case for case in EVERY if case.get("has_lengths")], ids=shown)
def test_the_same_bits_for_a_short_row_and_that_row_cut_off(case):
    problem = make_problem(**case)
    layer = make_layer(problem)
    whole = called(problem, layer)
    for row, length in enumerate(problem.keywords["lengths"].tolist()):
        assert_rows_of(problem, layer, [row], whole, length)


@pytest.mark.every_isa
@pytest.mark.parametrize("case", EVERY, ids=shown)
def test_the_same_bits_without_a_batch(case):
    problem = make_problem(**case)
    layer = make_layer(problem)
    whole = called(problem, layer)
    length = int(problem.keywords["lengths"][0]) if case.get("has_lengths") else case["T"]
    x = problem.time_first(problem.x)[:length, 0]
    state = transformed(lambda a: a[:, 0], problem.state)
    y, final = layer(x, state)
    assert_same_bits(y, np.ascontiguousarray(problem.time_first(whole["y0"])[:length, 0]))
    for member, value in enumerate(final if isinstance(final, tuple) else (final,)):
        assert_same_bits(value, np.ascontiguousarray(whole[f"state{member}"][:, 0]))


@pytest.mark.every_isa
@pytest.mark.parametrize("case", SEQUENCES, ids=shown)
def test_the_same_bits_for_the_sequence_cut_anywhere(case):
    problem = make_problem(**case)
    layer = make_layer(problem)
    expected, T = called(problem, layer), case["T"]
    for cuts in ([1], [T - 1], [T // 2], [T // 3, T // 3, T // 2], [2, 3, 5, 8, 13]):
        state, parts, begin = problem.state, [], 0
        for end in (*(min(cut, T) for cut in cuts), T):
            piece = problem.time_first(problem.time_first(problem.x)[begin:end])
            y, state = layer(piece, state)
            parts.append(problem.time_first(y))
            begin = max(begin, end)
        y = problem.time_first(np.concatenate(parts))
        assert_same_bits(np.ascontiguousarray(y), expected["y0"], cuts)
        for member, value in enumerate(state if isinstance(state, tuple) else (state,)):
            assert_same_bits(value, expected[f"state{member}"], cuts)


def assert_streams(problem, cuts):
    layer = make_layer(problem)
    expected = called(problem, layer)
    expected = {name: np.ascontiguousarray(a) for name, a in expected.items() if name[:5] != "cells"}
    for blocks in cuts:
        got = streamed(problem, stream_of(problem, layer), blocks)
        got = {name: np.ascontiguousarray(a) for name, a in got.items()}
        assert_same_results(got, expected, (blocks, problem.config))


@pytest.mark.every_isa
@pytest.mark.parametrize("case", SEQUENCES, ids=shown)
def test_the_same_bits_for_a_stream_and_the_whole(case):
    """Step by step (0), in one block, and by turns."""
    T = case["T"]
    by_turns = [0, 3, 0, 7 if T >= 20 else 1, 2]
    rest = T - sum(max(block, 1) for block in by_turns)
    assert_streams(make_problem(**case), ([0] * T, [T], [*by_turns, rest] if rest > 0 else [4, T]))


@pytest.mark.every_isa
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_for_a_stream_of_any_options_and_the_whole(cell):
    for seed in range(1000, 1016):
        fixed = {"bidirectional": False, "reverse": False, "T": 9, "num_layers": 2 + seed % 2} | WHOLE
        problem = problem_of(seed, cell, DTYPES[seed % 2], **fixed, pad="zero")
        assert_streams(problem, ([0] * 9, [4, 4, 1], [0, 3, 0, 0, 3]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_the_same_bits_of_every_option_for_any_number_of_threads(name, size):
    problem = problem_of_option(name, size)
    expected = called(problem, make_layer(problem, num_threads=1))
    for threads in (2, 3):
        assert_same_results(called(problem, make_layer(problem, num_threads=threads)), expected, threads)


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
        expected = {"y": y[:, b : b + 1].copy(), "h": h_n[:, b : b + 1].copy()}
        assert_same_results({"y": alone, "h": h_of_row}, expected, f"row {b}")


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size", [(9, 1, 30, 64, 1), (9, 7, 256, 33, 2), (20, 50, 3, 40, 1), (6, 3, 65, 200, 2)]
)
def test_the_same_bits_for_indices_and_one_hot_rows(size, dtype):
    for cell in CELLS:
        for bidirectional in (False, True):
            problem = make_problem(
                *size, cell=cell, dtype=dtype, bidirectional=bidirectional, is_index=True, has_lengths=True,
                has_state=True,
            )  # fmt: skip
            one_hot = dataclasses.replace(problem, x=np.eye(size[2], dtype=dtype)[problem.x])
            assert_same_results(called(one_hot), called(problem), problem.config)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_for_a_cell_and_its_pieces(dtype):
    for B, I, H in ((1, 1, 16), (1, 30, 40), (7, 5, 33), (64, 20, 9), (13, 64, 100)):
        problem = make_problem(1, B, I, H, has_state=True, dtype=dtype)
        x, state = problem.x[0], tuple(s[0] for s in problem.state)
        expected = called(problem)
        h_n, c_n = expected["state0"][0], expected["state1"][0]
        weights = {name.removesuffix("_l0"): value for name, value in problem.params.items()}
        cell = fastlstm.LSTMCell(I, H, dtype=dtype)
        cell.load_state_dict(weights)
        assert_same_bits(cell(x, state), (h_n, c_n), (B, I, H))
        bias = weights["bias_ih"] + weights["bias_hh"]
        gates = fastlstm.kernels.gate_matmul(x, state[0], weights["weight_ih"], weights["weight_hh"], bias)
        assert_same_bits(fastlstm.kernels.cell_update(gates, state[1]), (h_n, c_n), (B, I, H))
        assert_same_bits(expected["y0"][0], h_n)


def test_the_same_bits_for_the_same_call_again():
    problem = make_problem(25, 8, 40, 72, 2, bidirectional=True, has_lengths=True)
    layer = make_layer(problem)
    expected = called(problem, layer)
    for _ in range(20):
        assert_same_results(called(problem, layer), expected)


@pytest.mark.every_isa
@pytest.mark.parametrize("batch_size", [4, 5, 6, 7, 9, 13, 23, 24, 26, 31])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_the_same_bits_where_weights_are_fetched_ahead(cell, dtype, batch_size, rng):
    """Weights of more than twice an L2, which many rows fetch for those after them; a row alone does not.

    Few rows try it, among the plans that the first calls take in turn.
    """
    hidden_size = 617  # beyond 4 MiB, and neither full blocks nor full tails
    layer = getattr(fastlstm, cell)(hidden_size, hidden_size, dtype=dtype, rng=rng)
    x = rng.standard_normal((2, batch_size, hidden_size)).astype(dtype)
    y, _ = layer(x)
    for _ in range(fastlstm._core.PLAN_WAYS):
        assert_same_bits(layer(x)[0], y)
    for row in (0, batch_size // 2, batch_size - 1):
        assert_same_bits(layer(x[:, row : row + 1])[0], y[:, row : row + 1])
    # One product of 40 rows, ahead of the steps.
    long = rng.standard_normal((40, 1, hidden_size)).astype(dtype)
    steps, state = [], None
    for step in long:
        out, state = layer(step[np.newaxis], state)
        steps.append(out)
    assert_same_bits(layer(long)[0], np.concatenate(steps))
