# SPDX-License-Identifier: BSD-3-Clause
"""Promise "exact": calls of every cell within the bounds of float32 and float64 of a wider truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS, EVERY_OPTION, random_config
from tests.problems.comparing import assert_right
from tests.problems.problem import DTYPES, make_problem, problem_of
from tests.problems.running import called

# Options whose results stay bounded over many steps.
BOUNDED = {
    "LSTM": {"activations": None, "layer_norm": None, "forget_gate": True, "zoneout_c": 0.0},
    "GRU": {"activations": None},
    "RNN": {"activations": None, "nonlinearity": "tanh"},
    "IndRNN": {"nonlinearity": "tanh"},
}
# For each cell, the width of a vector and of a tile and one on either side of both, and odd ones.
TAILS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 65)


def options_of(cell: str, H: int, **options):
    """Options, and of cells that need one a bounded function."""
    tanh = {"nonlinearity": "tanh"} if cell in ("RNN", "IndRNN") else {}
    return {"H": H, "cell": cell} | tanh | options


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_random_calls_are_right(cell, dtype):
    for seed in range(100, 142):
        problem = problem_of(seed, cell, dtype)
        assert_right(problem, called(problem), None, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_large_layers_and_long_sequences_are_right(cell, dtype):
    """Small and large alike, to 300 features and units and 100 steps, whatever the option."""
    count = (80 if dtype == "float32" else 12) if cell == "LSTM" else 10 if dtype == "float32" else 4
    for seed in range(count):
        rng = np.random.default_rng([seed, CELLS.index(cell)])
        T, B, I, H = (int(np.rint(np.exp(rng.uniform(0, np.log(n))))) for n in (100, 20, 300, 300))
        bounded = BOUNDED.get(cell, {}) | ({"heads": 1} if cell == "SLSTM" else {})
        bounded |= {"proj_size": H // 2 * (seed % 2)} if cell == "LSTM" else {}
        sizes = {"input_size": I, "hidden_size": H, "residual": None, "T": T, "B": B}
        problem = problem_of(seed, cell, dtype, **sizes, **bounded)
        assert_right(problem, called(problem), None, seed, np.float64)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("H", TAILS)
def test_every_kind_of_tail(H, dtype):
    for cell in CELLS:
        few = cell != "LSTM"
        sizes = itertools.product(
            (1, 5, 7) if few else (1, 2, 5, 6, 7, 13), (3, 17) if few else (1, 3, 5, 17)
        )
        for (B, I), bias in itertools.product(sizes, (True,) if few else (True, False)):
            problem = make_problem(3, B, I, **options_of(cell, H, bias=bias, has_state=True, dtype=dtype))
            assert_right(problem, called(problem), None, (cell, B, I), np.float64)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cell", "L"), [("LSTM", 1), ("LSTM", 2), ("LSTM", 3), *((c, 2) for c in CELLS[1:])])
def test_every_combination_of_what_a_stack_and_a_batch_may_be(cell, L, dtype):
    names = ("bidirectional", "bias", "batch_first", "has_state", "has_lengths", "is_index")
    for flags in itertools.product((False, True), repeat=6):
        given = dict(zip(names, flags, strict=True))
        problem = make_problem(9, 7, 11, L=L, **options_of(cell, 19, dtype=dtype, **given))
        assert_right(problem, called(problem), None, given, np.float64)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_option_at_depth_three_and_in_both_directions(name, dtype):
    cell, options = EVERY_OPTION[name]
    problem = make_problem(
        7, 5, 13, 33, 3, cell=cell, dtype=dtype, bidirectional=True, **options,
        has_mask=True, has_lengths=True, has_state=True, has_cells=True,
    )  # fmt: skip
    assert_right(problem, called(problem), None, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_sizes_that_are_more_than_one_tile(cell, dtype):
    problem = make_problem(5, 13, 65, **options_of(cell, 130, dtype=dtype, bidirectional=True))
    assert_right(problem, called(problem), None)


@pytest.mark.every_isa
@pytest.mark.parametrize("T", [1, 2, 500, 3000])
def test_long_sequences_stay_exact_where_the_dynamics_forget(T):
    # Weights as torch draws them forget within a few steps, so errors do not add up: any T has the bound.
    for cell in ("LSTM", "GRU", "RNN", "MGU", "MinGRU", "MinLSTM") if T < 1000 else ("LSTM",):
        problem = make_problem(T, 2, 3, L=2, **options_of(cell, 24))
        assert_right(problem, called(problem), None, cell)


def test_a_long_memory_is_kept():
    # Input gate shut, forget gate open (sigmoid(20) rounds to 1): c must be the given one after 1000 steps.
    layer = fastlstm.LSTM(1, 5)
    bias = np.repeat(np.float32([-200, 20, 0, 200]), 5)
    zero = {name: np.zeros_like(value) for name, value in layer.state_dict().items()}
    layer.load_state_dict(zero | {"bias_ih_l0": bias})
    c_0 = np.linspace(-2, 2, 5, dtype=np.float32).reshape(1, 1, 5)
    y, (_, c_n) = layer(np.ones((1000, 1, 1), np.float32), (np.zeros_like(c_0), c_0))
    np.testing.assert_allclose(c_n, c_0, rtol=2e-5)
    np.testing.assert_allclose(y[0, 0], np.tanh(c_0[0, 0]), rtol=1e-6)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_gate_does_its_own_work(dtype):
    """Saturated gates make results that differ for every swap of two gates and every lost bias or weight."""
    H = 21
    layer = fastlstm.LSTM(1, H, dtype=dtype)
    zero = {name: np.zeros_like(value) for name, value in layer.state_dict().items()}
    c_0 = np.full((1, 1, H), 0.75, dtype)
    h_0 = np.ones((1, 1, H), dtype)
    x = np.ones((1, 1, 1), dtype)
    for name in zero:
        for i, f, g, o in itertools.product((-30.0, 30.0), (-30.0, 30.0), (-0.5, 0.25), (-30.0, 30.0)):
            rows = np.repeat([i, f, g, o], H).astype(dtype)
            value = np.zeros_like(zero[name])
            # One unit of h_0, or x, or the bias alone carries the gates, the last column first to be dropped.
            value[..., -1] = rows if value.ndim == 2 else 0
            if value.ndim == 1:
                value[:] = rows
            layer.load_state_dict(zero | {name: value})
            y, (_, c_n) = layer(x, (h_0, c_0))
            c = (f > 0) * 0.75 + (i > 0) * math.tanh(g)
            np.testing.assert_allclose(c_n, np.full_like(c_n, c), atol=1e-6, err_msg=f"{name} {i, f, g, o}")
            np.testing.assert_allclose(y, np.full_like(y, (o > 0) * math.tanh(c)), atol=1e-6)


def test_numbers_that_leave_the_range_are_infinite():
    """Gates without bounds: exponential growth is right as far as the dtype goes, and no number beyond it."""
    growing = (("Affine", 1.0, 4.0), ("Tanh",))
    problem = make_problem(90, 2, 3, 8, cell="GRU", activations=growing, scale=0.1)
    problem.params["weight_hh_l0"][...] = 0  # else the gates grow as well, and soon nothing is finite
    got = called(problem)
    y = got["y0"]
    assert np.isfinite(y[:40]).all()
    assert not np.isfinite(y[-1]).any()
    assert_right(problem, got, None)
    for wrong in ((-1, 1.0), (-1, np.finfo(y.dtype).max), (0, np.nan), (40, np.inf)):
        changed = y.copy()
        changed[wrong[0]] = wrong[1]
        with pytest.raises(AssertionError):
            assert_right(problem, got | {"y0": changed}, None)


def test_growth_magnifies_rounding_and_no_more_is_allowed():
    """As much as a last place of the weights changes; a thousandth of the result is too much."""
    growing = (("Elu", 0.6), ("ScaledTanh", 1.2, 0.7))
    problem = problem_of(1000299, "GRU", "float32", activations=growing)
    got = called(problem)
    assert_right(problem, got, None)
    with pytest.raises(AssertionError):
        assert_right(problem, got | {"y0": got["y0"] * np.float32(1.001)}, None)


def test_drawn_sizes_of_projections_fit_a_fixed_size():
    """A projection drawn for a larger layer gives way, so that every problem is one that layers take."""
    rng = np.random.default_rng(0)
    for hidden_size in (1, 2, 3, (2, 5)):
        for _ in range(40):
            config = random_config(rng, 40, cell="LSTM", hidden_size=hidden_size)
            assert config.proj_size < min(config.sizes)
