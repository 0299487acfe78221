# SPDX-License-Identifier: BSD-3-Clause
"""The LSTM of the specification number by number, its pieces, and its short form `reference.lstm`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from fastlstm import reference
from fastlstm.reference import Config
from tests.problems.comparing import assert_equal
from tests.problems.problem import Problem, arrays_of, random_problem


def scalar_sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a > -700 else 0.0


def scalar_direction(xs, h, c, w_ih, w_hh, bias):
    """One direction over one row of one layer, number by number; `bias` is None or the sum of both."""
    H = len(h)
    ys = []
    for x in xs:
        gates = []
        for row in range(4 * H):
            a = 0.0 if bias is None else bias[row]
            a += math.fsum(w * v for w, v in zip(w_ih[row], x, strict=True))
            a += math.fsum(w * v for w, v in zip(w_hh[row], h, strict=True))
            gates.append(a)
        i, f, g, o = (gates[k * H : (k + 1) * H] for k in range(4))
        c = [scalar_sigmoid(f[j]) * c[j] + scalar_sigmoid(i[j]) * math.tanh(g[j]) for j in range(H)]
        h = [scalar_sigmoid(o[j]) * math.tanh(c[j]) for j in range(H)]
        ys.append(h)
    return ys, h, c


def scalar_stack(problem: Problem):
    """The whole stack, row by row: a shorter row is a shorter list, the reverse direction a reversed one."""
    config, params = problem.config, problem.params
    x = np.eye(config.input_size)[problem.x] if problem.x.dtype.kind == "i" else problem.x
    x = problem.time_first(x)
    T, B, _ = x.shape
    H, D, L = config.hidden_size, config.num_directions, config.num_layers
    y = np.zeros((T, B, D * H))
    h_n, c_n = np.zeros((2, L * D, B, H))
    for b in range(B):
        length = problem.keywords["lengths"][b] if "lengths" in problem.keywords else T
        rows = x[:length, b].tolist()
        for layer in range(L):
            outputs = []
            for direction, suffix in enumerate(config.suffixes):
                index, end = layer * D + direction, f"_l{layer}{suffix}"
                h, c = ([0.0] * H,) * 2
                if problem.state is not None:
                    h, c = (s[index, b].tolist() for s in problem.state)
                bias = (params["bias_ih" + end] + params["bias_hh" + end]).tolist() if config.bias else None
                weights = params["weight_ih" + end].tolist(), params["weight_hh" + end].tolist()
                ys, h, c = scalar_direction(rows[::-1] if direction else rows, h, c, *weights, bias)
                h_n[index, b], c_n[index, b] = h, c
                outputs.append(ys[::-1] if direction else ys)
            rows = [list(itertools.chain(*parts)) for parts in zip(*outputs, strict=True)]
        if length:
            y[:length, b] = rows
    return problem.time_first(y), (h_n, c_n)


def test_agrees_with_a_loop_over_scalars(rng):
    for _ in range(60):
        bidirectional, batch_first, bias = rng.integers(2, size=3).astype(bool).tolist()
        I, H, L = (int(n) for n in rng.integers(1, (7, 7, 4)))
        config = Config("LSTM", I, H, L, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
        problem = random_problem(
            config, rng, has_mask=False, has_reset=False, is_batched=True, pad="zero", has_cells=False
        )
        assert_equal(tuple(problem.forward())[:2], scalar_stack(problem), 1e-14, config)


def test_a_cell_of_one_unit_is_what_one_computes_by_hand():
    # Pre-activations i, f, g, o = log 3, 0, atanh(1/2), log 1/3: sigmoids 3/4, 1/2, 1/4 and tanh 1/2.
    params = {
        "weight_ih": [[math.log(3)], [0.0], [math.atanh(0.5) / 2], [0.0]],
        "weight_hh": [[0.0], [0.0], [math.atanh(0.5)], [0.0]],
        "bias_ih": [0.0, -1.0, 0.0, -math.log(3)],
        "bias_hh": [0.0, 1.0, 0.0, 0.0],
    }
    h, c = reference.lstm_cell([[1.0]], ([[0.5]], [[-2.0]]), params)
    assert c == pytest.approx(0.5 * -2 + 0.75 * 0.5, rel=1e-15)
    assert h == pytest.approx(0.25 * math.tanh(-0.625), rel=1e-15)


def test_gradients_of_one_unit_are_what_one_computes_by_hand():
    # All pre-activations 0: i, f, o = 1/2 with slope 1/4, g = 0 with slope 1; c = c_0/2 = 0, tanh' = 1.
    params = {"weight_ih_l0": np.zeros((4, 1)), "weight_hh_l0": np.array([[1.0], [2.0], [3.0], [4.0]])}
    state = np.zeros((1, 1)), np.zeros((1, 1))
    dx, (dh_0, dc_0), grads = reference.lstm_backward([[5.0]], params, state, dy=[[8.0]])
    # dc = 8/2 = 4; da_g = 4/2 = 2; all others 0, as g, c_0 and tanh(c) are.
    assert dc_0 == 2
    assert dh_0 == 2 * 3
    assert dx == 0
    np.testing.assert_array_equal(grads["weight_ih_l0"], [[0], [0], [10], [0]])
    np.testing.assert_array_equal(grads["weight_hh_l0"], np.zeros((4, 1)))


def test_gates_stand_in_the_order_i_f_g_o():
    gates = np.array([[100.0, -100.0, 100.0, 100.0]])  # writes 1 over whatever c was, and shows it
    h, c = reference.cell_update(gates, np.array([[5.0]]))
    assert c == pytest.approx(1.0, abs=1e-15)
    assert h == pytest.approx(math.tanh(1.0), abs=1e-15)
    kept = reference.cell_update(np.array([[-100.0, 100.0, 3.0, -100.0]]), np.array([[5.0]]))
    assert kept[1] == pytest.approx(5.0, abs=1e-15)
    assert kept[0] == pytest.approx(0.0, abs=1e-15)


def test_activations_neither_overflow_nor_warn():
    x = np.array([-np.inf, -1e308, -1000, -1, -5e-324, 0.0, 5e-324, 1, 1000, 1e308, np.inf, np.nan])
    with np.errstate(all="raise"):
        sigmoid, tanh = reference.sigmoid(x), reference.tanh(x)
    e = math.exp(-1)
    expected = [0, 0, 0, e / (1 + e), 0.5, 0.5, 0.5, 1 / (1 + e), 1, 1, 1, np.nan]
    np.testing.assert_allclose(sigmoid, expected, rtol=1e-15)
    expected = [-1, -1, -1, -math.tanh(1), -5e-324, 0, 5e-324, math.tanh(1), 1, 1, 1, np.nan]
    np.testing.assert_allclose(tanh, expected, rtol=1e-15)
    for dtype in (np.float16, np.float32, np.float64, np.longdouble):
        assert reference.sigmoid(np.ones(2, dtype)).dtype == reference.tanh(np.ones(2, dtype)).dtype == dtype


def test_the_short_form_is_the_family_at_its_defaults(rng):
    for _ in range(10):
        bidirectional, batch_first, bias = rng.integers(2, size=3).astype(bool).tolist()
        config = Config(
            "LSTM", 3, 4, 2, bias=bias, batch_first=batch_first, dropout=0.3, bidirectional=bidirectional
        )
        problem = random_problem(config, rng, has_mask=False, pad="zero")
        keywords = {name: value for name, value in problem.keywords.items() if name != "pad"}
        keywords |= {"batch_first": batch_first, "bidirectional": bidirectional, "dropout": 0.3}
        keywords |= {"dropout_seed": problem.seed}
        arguments = (problem.x, problem.params, problem.state)
        got = reference.lstm(*arguments, **keywords)
        assert_equal(got, tuple(problem.forward(training=True))[:2])
        gradients: dict[str, Any] = {"dy": problem.dy, "dstate": problem.dstate, "bptt": 2}
        got = reference.lstm_backward(*arguments, **gradients, **keywords)
        assert_equal(got, problem.backward(bptt=2, dcells=None))
        assert list(got[2]) == list(problem.params)
        # The dtype is that of the parameters, or the one that is asked for.
        for dtype in (np.float16, np.longdouble):
            typed = {name: value.astype(dtype) for name, value in problem.params.items()}
            own = reference.lstm(problem.x, typed, problem.state, **keywords)
            wider = reference.lstm(*arguments, **keywords, dtype=dtype)
            assert {a.dtype for a in arrays_of((own, wider))} == {np.dtype(dtype)}


def test_the_short_form_needs_the_weights_of_both_directions():
    params = {"weight_ih_l0": np.zeros((12, 2)), "weight_hh_l0": np.zeros((12, 3))}
    with pytest.raises(ValueError, match="params: expected weights of 2 direction"):
        reference.lstm(np.zeros((4, 3, 2)), params, bidirectional=True)
