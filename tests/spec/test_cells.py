# SPDX-License-Identifier: BSD-3-Clause
"""The cells of the specification: by hand, and as special cases of one another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastlstm import reference
from fastlstm.reference import Config, activation, forward
from tests.problems.comparing import assert_equal
from tests.problems.problem import random_problem

ALWAYS = 50.0  # sigmoid(50) is 1 in float64, and sigmoid(-50) is 2e-22


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def ones_params(config: Config, **values: Any) -> dict[str, np.ndarray]:
    """All parameters 0 but those given, whose gates' values hold for all of a gate's rows."""
    params = {name: np.zeros(shape) for name, shape in reference.param_shapes(config).items()}
    for name, value in values.items():
        rows = np.repeat(np.asarray(value, float), len(params[name]) // np.size(value))
        params[name] += rows.reshape(-1, *[1] * (params[name].ndim - 1))
    return params


def run(config: Config, params: dict[str, np.ndarray], x: Any, state: Any = None, **keywords: Any) -> Any:
    return forward(config, params, np.asarray(x, float), state, **keywords)


# ---- Activations -------------------------------------------------------------------------------------------

BY_HAND = [
    ("Relu", (), lambda x: max(0, x)),
    ("Tanh", (), math.tanh),
    ("Sigmoid", (), sigmoid),
    ("Affine", (0.5, -0.3), lambda x: 0.5 * x - 0.3),
    ("LeakyRelu", (), lambda x: x if x >= 0 else 0.01 * x),
    ("LeakyRelu", (0.3,), lambda x: x if x >= 0 else 0.3 * x),
    ("ThresholdedRelu", (), lambda x: x if x >= 1 else 0),
    ("ThresholdedRelu", (0.4,), lambda x: x if x >= 0.4 else 0),
    ("ScaledTanh", (1.5, 0.7), lambda x: 1.5 * math.tanh(0.7 * x)),
    ("HardSigmoid", (), lambda x: min(max(0.2 * x + 0.5, 0), 1)),
    ("HardSigmoid", (0.6, 0.1), lambda x: min(max(0.6 * x + 0.1, 0), 1)),
    ("Elu", (), lambda x: x if x >= 0 else math.exp(x) - 1),
    ("Elu", (0.6,), lambda x: x if x >= 0 else 0.6 * (math.exp(x) - 1)),
    ("Softsign", (), lambda x: x / (1 + abs(x))),
    ("Softplus", (), lambda x: math.log(1 + math.exp(x))),
]


@pytest.mark.parametrize(("name", "parameters", "by_hand"), BY_HAND)
def test_an_activation_and_its_slope(name, parameters, by_hand):
    function = activation(name, *parameters)
    x = np.array([-7.0, -2.3, -1.0, -0.21, -1e-3, 0.0, 1e-3, 0.37, 0.4, 1.0, 1.3, 2.2, 6.0])
    np.testing.assert_allclose(function(x), [by_hand(v) for v in x.tolist()], rtol=2e-15, atol=1e-16)
    away = np.array([-7.1, -2.3, -1.1, -0.21, 0.11, 0.37, 0.43, 0.95, 1.3, 2.2, 6.0])
    step = 1e-6
    slopes = [(by_hand(v + step) - by_hand(v - step)) / (2 * step) for v in away.tolist()]
    np.testing.assert_allclose(function.slope(away), slopes, rtol=1e-8, atol=1e-9)
    for dtype in (np.float32, np.longdouble):
        assert function(x.astype(dtype)).dtype == function.slope(x.astype(dtype)).dtype == dtype
    assert np.isnan(function(np.array([np.nan]))).all()
    extremes = np.array([-1e4, 1e4])
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(function(extremes)).all()
        assert np.isfinite(function.slope(extremes)).all()


def test_the_table_of_activations_is_that_of_the_operators():
    assert {name for name, _, _ in BY_HAND} == set(reference.activations._TABLE)
    assert len(reference.activations._TABLE) == 11


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("activations: expected one of Relu, Tanh, .*, got 'tanh'", ("tanh",)),
        ("activations: expected a value of alpha for Affine, got none", ("Affine",)),
        ("activations: expected a value of beta for ScaledTanh, got none", ("ScaledTanh", 1.0)),
        ("activations: expected no alpha for Tanh, got 1.0", ("Tanh", 1.0)),
        ("activations: expected no beta for Elu, got 2.0", ("Elu", 1.0, 2.0)),
        ("activations: expected a finite alpha for Elu, got nan", ("Elu", math.nan)),
    ],
)
def test_an_activation_that_does_not_exist(message, arguments):
    with pytest.raises(ValueError, match=message):
        activation(*arguments)


# ---- LSTM --------------------------------------------------------------------------------------------------


def lstm_step(a: dict[str, float], c: float, p: dict[str, float]) -> tuple[float, float]:
    """h and c of one unit with peepholes, from the gates' inputs without them."""
    c_new = sigmoid(a["f"] + p["f"] * c) * c + sigmoid(a["i"] + p["i"] * c) * math.tanh(a["g"])
    return sigmoid(a["o"] + p["o"] * c_new) * math.tanh(c_new), c_new


def test_peepholes_see_the_old_cell_and_the_output_gate_the_new_one():
    config = Config("LSTM", 1, 1, peephole=True)
    a, p = {"i": 0.1, "f": -0.4, "g": 0.8, "o": 0.3}, {"i": 1.5, "f": -0.7, "o": 2.0}
    params = ones_params(config, bias_ih_l0=list(a.values()), weight_ch_l0=list(p.values()))
    y, (h, c), cells = run(config, params, [[[0.0]]], (np.zeros((1, 1, 1)), np.full((1, 1, 1), -0.9)))
    expected = lstm_step(a, -0.9, p)
    assert (y.item(), c.item()) == pytest.approx(expected, rel=1e-15)
    assert (h.item(), cells.item()) == (y.item(), c.item())


def rows_of(config: Config, params: dict[str, np.ndarray], rows: dict[str, tuple[int, str]]):
    """Parameters of an LSTM of four gates, each a factor times a gate of another LSTM's parameters."""
    made = {}
    for name, value in params.items():
        gates = config.gates.replace("g", "") if "weight_ch" in name else config.gates
        parts = dict(zip(gates, np.split(value, len(gates)), strict=True))
        order = "ifo" if "weight_ch" in name else "ifgo"
        made[name] = np.concatenate([rows[g][0] * parts[rows[g][1]] for g in order])
    return made


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize(("coupled", "tied"), [("f_from_i", "fi"), ("i_from_f", "if")])
def test_coupled_gates_are_a_plain_lstm_with_tied_weights(coupled, tied, peephole, rng):
    options: dict[str, Any] = {"bidirectional": True, "num_layers": 2, "peephole": peephole}
    config = Config("LSTM", 3, 4, coupled=coupled, **options)
    problem = random_problem(config, rng, B=3)
    rows = {gate: (1, gate) for gate in "ifgo"} | {tied[0]: (-1, tied[1])}  # 1 - sigmoid(a) = sigmoid(-a)
    plain = forward(
        Config("LSTM", 3, 4, **options),
        rows_of(config, problem.params, rows),
        problem.x,
        problem.state,
        **problem.keywords,
    )
    assert_equal(tuple(problem.forward()), tuple(plain), 1e-15)


def test_no_forget_gate_is_a_forget_gate_of_one(rng):
    config = Config("LSTM", 3, 4, forget_gate=False, peephole=True)
    problem = random_problem(config, rng)
    params = rows_of(config, problem.params, {"i": (1, "i"), "f": (0, "i"), "g": (1, "g"), "o": (1, "o")})
    params["bias_ih_l0"][4:8] = ALWAYS
    plain = forward(Config("LSTM", 3, 4, peephole=True), params, problem.x, problem.state, **problem.keywords)
    assert_equal(tuple(problem.forward()), tuple(plain), 1e-15)


def test_a_projection_by_the_identity_is_none(rng):
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    config = Config("LSTM", 3, 4, proj_size=4, proj_bias=True, **options)
    problem = random_problem(config, rng)
    for name, value in problem.params.items():
        value[...] = np.eye(4) if "weight_hr" in name else 0 if "bias_hr" in name else value
    plain = {name: value for name, value in problem.params.items() if "_hr_" not in name}
    expected = forward(Config("LSTM", 3, 4, **options), plain, problem.x, problem.state, **problem.keywords)
    assert_equal(tuple(problem.forward()), tuple(expected), 1e-15)


def test_a_projection_is_what_the_recurrence_reads():
    config = Config("LSTM", 1, 2, proj_size=1, proj_bias=True, proj_clip=0.5)
    params = ones_params(config, bias_ih_l0=[ALWAYS, -ALWAYS, 0.3, ALWAYS], bias_hr_l0=0.1)
    params["weight_hr_l0"][...] = [[1.0, 0.5]]
    params["weight_hh_l0"][4:6] = 1.0  # g = tanh(0.3 + h)
    y, (h, c), _ = run(config, params, [[0.0], [0.0]])
    first = 1.5 * math.tanh(math.tanh(0.3)) + 0.1
    assert first < 0.6  # and so it is clipped
    second_c = math.tanh(0.3 + 0.5)
    np.testing.assert_allclose(y[:, 0], [0.5 if first > 0.5 else first, 0.5], rtol=1e-15)
    np.testing.assert_allclose(c[0], [second_c] * 2, rtol=1e-15)
    assert (h.shape, c.shape) == ((1, 1), (1, 2))
    wider = Config("LSTM", 1, 2, proj_size=1, proj_bias=True)
    y = run(wider, params, [[0.0], [0.0]])[0]
    g = math.tanh(0.3 + first)
    np.testing.assert_allclose(y[:, 0], [first, 1.5 * math.tanh(g) + 0.1], rtol=1e-14)


def test_the_clip_of_the_cell_comes_before_its_readers():
    config = Config("LSTM", 1, 1, cell_clip=0.5, peephole=True)
    params = ones_params(config, bias_ih_l0=[ALWAYS, ALWAYS, 1.0, 0.2], weight_ch_l0=[0.0, 0.0, 2.0])
    for sign in (1, -1):
        params["bias_ih_l0"][2] = sign
        y, _, cells = run(config, params, [[0.0]] * 3)
        np.testing.assert_array_equal(cells, [[sign * 0.5]] * 3)
        np.testing.assert_allclose(y, sigmoid(0.2 + sign) * math.tanh(sign * 0.5), rtol=1e-15)


def test_the_clip_of_the_gates_comes_before_their_activations():
    config = Config("LSTM", 1, 1, gate_clip=0.5)
    params = ones_params(config, bias_ih_l0=[3.0, -4.0, 2.0, 0.3])
    y, (_, c), _ = run(config, params, [[0.0]], (np.zeros((1, 1)), np.full((1, 1), 0.8)))
    c_new = sigmoid(-0.5) * 0.8 + sigmoid(0.5) * math.tanh(0.5)
    assert c.item() == pytest.approx(c_new, rel=1e-15)
    assert y.item() == pytest.approx(sigmoid(0.3) * math.tanh(c_new), rel=1e-15)


def test_activations_are_f_g_h():
    entries = (("Affine", 0.5, 0.1), "Softsign", ("LeakyRelu", 0.2))
    config = Config("LSTM", 1, 1, activations=entries)
    params = ones_params(config, bias_ih_l0=[0.4, -0.2, -3.0, 0.6])
    y, (_, c), _ = run(config, params, [[0.0]], (np.zeros((1, 1)), np.full((1, 1), 0.8)))
    c_new = (0.5 * -0.2 + 0.1) * 0.8 + (0.5 * 0.4 + 0.1) * (-3 / 4)
    assert c.item() == pytest.approx(c_new, rel=1e-14)
    assert y.item() == pytest.approx((0.5 * 0.6 + 0.1) * 0.2 * c_new, rel=1e-14)


def test_normalised_gates_of_two_units_are_signs():
    # Of two numbers, (u - mean) / deviation is 1 of the larger and -1 of the other, but for epsilon.
    config = Config("LSTM", 1, 2, layer_norm="gate")
    gamma, beta = np.array([0.3, 0.5, 0.7, 0.9]), np.array([0.1, -0.2, 0.4, -0.6])
    params = ones_params(config, weight_ln_l0=gamma, bias_hh_l0=beta)
    params["weight_ih_l0"][:, 0] = [5, 1, 2, 9, 1, 3, 8, 7]
    y, (_, c), _ = run(config, params, [[1.0]], (np.zeros((1, 2)), np.full((1, 2), 0.8)))
    for unit in (0, 1):
        sign = np.array([1, -1, -1, 1]) * (1 - 2 * unit)
        a_i, a_f, a_g, a_o = gamma * sign + beta
        c_new = sigmoid(a_f) * 0.8 + sigmoid(a_i) * math.tanh(a_g)
        assert c[0, unit] == pytest.approx(c_new, rel=1e-7)
        assert y[0, unit] == pytest.approx(sigmoid(a_o) * math.tanh(c_new), rel=1e-7)
    tiny = {name: value * (1e-5 if name == "weight_ih_l0" else 1) for name, value in params.items()}
    variance = 0.25e-10  # of the last gate, 8e-5 and 7e-5
    shrunk = math.sqrt(variance / (variance + 1e-8))
    o = sigmoid(gamma[3] * shrunk + beta[3])
    y, (_, c), _ = run(config, tiny, [[1.0]], (np.zeros((1, 2)), np.full((1, 2), 0.8)))
    assert y[0, 0] / math.tanh(c[0, 0]) == pytest.approx(o, rel=1e-12)


def test_peepholes_are_inside_of_the_normalisation(rng):
    """A factor of all weights, of the peepholes too, is normalised away."""
    problem = random_problem(Config("LSTM", 3, 5, layer_norm="gate", peephole=True), rng, has_state=True)
    results = []
    for factor in (1e4, 1e6):
        weights = {
            name: factor * problem.params[name] for name in ("weight_ih_l0", "weight_hh_l0", "weight_ch_l0")
        }
        results.append(tuple(problem.forward(params=problem.params | weights)))
    assert_equal(*results, 1e-13)


def test_haste_normalises_each_product_and_the_cell(rng):
    config = Config("LSTM", 3, 4, layer_norm="haste")
    problem = random_problem(config, rng, has_state=True, has_lengths=False, has_mask=False, has_reset=False)
    p, (h, c) = {n.removesuffix("_l0"): v for n, v in problem.params.items()}, problem.state

    def norm(z):
        return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)

    x = np.eye(3)[problem.x] if problem.x.dtype.kind == "i" else problem.x
    batched = h.ndim == 3
    x, h, c = (x, h[0], c[0]) if batched else (x[:, None], h, c)
    for x_t in x:
        v = norm(x_t @ p["weight_ih"].T) * p["weight_ln_ih"] + norm(h @ p["weight_hh"].T) * p["weight_ln_hh"]
        i, f, g, o = np.split(v + p["bias_ih"] + p["bias_hh"], 4, axis=-1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(norm(c) * p["weight_ln_c"] + p["bias_ln_c"]) / (1 + np.exp(-o))
    got = problem.forward().state
    assert_equal(got, (h[None], c[None]) if batched else (h, c), 1e-14)


def test_zoneout_is_expected_outside_of_training():
    params = ones_params(Config("LSTM", 1, 1), bias_ih_l0=[0.1, -0.4, 0.8, 0.3])
    state = np.full((1, 1), 0.6), np.full((1, 1), -0.9)
    h_hat, c_hat = lstm_step({"i": 0.1, "f": -0.4, "g": 0.8, "o": 0.3}, -0.9, {"i": 0, "f": 0, "o": 0})
    for zc, zh in ((0.25, 0.0), (0.0, 0.25), (0.5, 0.125), (1.0, 1.0)):
        options = {"zoneout_c": zc, "zoneout_h": zh}
        y, (_, c), _ = run(Config("LSTM", 1, 1, **options), params, [[0.0]], state)
        assert c.item() == pytest.approx(zc * -0.9 + (1 - zc) * c_hat, rel=1e-15)
        assert y.item() == pytest.approx(zh * 0.6 + (1 - zh) * h_hat, rel=1e-15)
        y, (_, c), _ = run(Config("LSTM", 1, 1, zoneout_eval="off", **options), params, [[0.0]], state)
        assert (y.item(), c.item()) == pytest.approx((h_hat, c_hat), rel=1e-15)


# ---- GRU, RNN, IndRNN --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset_after", [False, True])
def test_a_gru_is_what_one_computes_by_hand(reset_after):
    config = Config("GRU", 1, 2, reset_after=reset_after)
    params = ones_params(config, bias_ih_l0=[0.1, -0.2, 0.3], bias_hh_l0=[0.4, 0.5, -0.6])
    params["weight_ih_l0"][:, 0] = [1.0, -1.0, 0.5, 0.7, -0.3, 0.2]
    U = params["weight_hh_l0"]
    U[...] = np.arange(12).reshape(6, 2) / 10 - 0.5
    h, x = [0.3, -0.8], 2.0
    W = params["weight_ih_l0"][:, 0]
    r, z = (
        [sigmoid(W[k + j] * x + b + U[k + j] @ h) for j in (0, 1)]
        for k, b in ((0, 0.1 + 0.4), (2, -0.2 + 0.5))
    )
    expected = []
    for j in (0, 1):
        if reset_after:
            inner = r[j] * (U[4 + j] @ h - 0.6)
        else:
            inner = U[4 + j, 0] * r[0] * h[0] + U[4 + j, 1] * r[1] * h[1] - 0.6
        n = math.tanh(W[4 + j] * x + 0.3 + inner)
        expected.append((1 - z[j]) * n + z[j] * h[j])
    y, state, cells = run(config, params, [[x]], np.array([h]))
    np.testing.assert_allclose(y[0], expected, rtol=1e-14)
    np.testing.assert_array_equal(state[0], y[0])
    assert cells is None


def test_both_grus_are_one_where_nothing_is_reset(rng):
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "gate_clip": 60.0}
    problem = random_problem(Config("GRU", 3, 4, **options), rng)
    for name, value in problem.params.items():
        if "bias_ih" in name:
            value[:4] = ALWAYS
    before = Config("GRU", 3, 4, reset_after=False, **options)
    expected = forward(before, problem.params, problem.x, problem.state, **problem.keywords)
    assert_equal(tuple(problem.forward()), tuple(expected), 1e-14)


def test_activations_of_a_gru_are_f_and_g_and_its_gates_are_clipped():
    config = Config("GRU", 1, 1, activations=("Softsign", ("Elu", 0.5)), gate_clip=1.5)
    params = ones_params(config, bias_ih_l0=[2.0, 0.5, -4.0], bias_hh_l0=[0.0, 0.0, 5.0])
    r, z = 1.5 / 2.5, 0.5 / 1.5
    n = 0.5 * (math.exp(-4 + r * 5) - 1)
    y, _, _ = run(config, params, [[0.0]], np.array([[0.9]]))
    assert y.item() == pytest.approx((1 - z) * n + z * 0.9, rel=1e-14)


@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({}, math.tanh),
        ({"nonlinearity": "relu"}, lambda a: max(a, 0)),
        (
            {"activations": (("Affine", 2.0, 1.0),), "gate_clip": 0.7},
            lambda a: 2 * max(-0.7, min(a, 0.7)) + 1,
        ),
    ],
)
def test_an_rnn_is_what_one_computes_by_hand(options, function):
    config = Config("RNN", 1, 1, **options)
    params = ones_params(config, weight_ih_l0=0.5, weight_hh_l0=-1.2, bias_ih_l0=0.1, bias_hh_l0=0.2)
    h, expected = 0.4, []
    for x in (1.0, -2.0, 3.0):
        h = function(0.5 * x - 1.2 * h + 0.3)
        expected.append([h])
    y, state, _ = run(config, params, [[1.0], [-2.0], [3.0]], np.array([[0.4]]))
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    np.testing.assert_array_equal(state, y[-1:])


@pytest.mark.parametrize("nonlinearity", [None, "relu", "tanh"])
def test_an_indrnn_is_an_rnn_with_a_diagonal_matrix(nonlinearity, rng):
    config = Config("IndRNN", 3, 4, 2, bidirectional=True, nonlinearity=nonlinearity)
    problem = random_problem(config, rng)
    params = {}
    for name, value in problem.params.items():
        params[name] = np.diag(value) if "weight_hh" in name else value
        if "bias_ih" in name:
            params[name.replace("ih", "hh")] = np.zeros(4)
    twin = Config("RNN", 3, 4, 2, bidirectional=True, nonlinearity=nonlinearity or "relu")
    expected = forward(twin, params, problem.x, problem.state, **problem.keywords)
    assert_equal(tuple(problem.forward()), tuple(expected), 1e-14)


# ---- sLSTM -------------------------------------------------------------------------------------------------


def test_an_slstm_is_what_one_computes_without_a_stabiliser():
    config = Config("SLSTM", 1, 1)
    params = ones_params(
        config,
        weight_ih_l0=[1.0, 0.5, -0.7, 0.2],
        weight_hh_l0=[0.3, -0.4, 0.6, 0.9],
        bias_ih_l0=[0.1, 0.2, 0.3, 0.4],
    )
    h, c, n = 0.0, 0.0, 0.0
    expected = []
    for x in (1.0, -2.0, 0.5):
        a_i, a_f, a_z, a_o = (
            params["weight_ih_l0"][:, 0] * x + params["weight_hh_l0"][:, 0] * h + params["bias_ih_l0"]
        )
        c = sigmoid(a_f) * c + math.exp(a_i) * math.tanh(a_z)
        n = sigmoid(a_f) * n + math.exp(a_i)
        h = sigmoid(a_o) * c / n
        expected.append([h])
    y, state, cells = run(config, params, [[1.0], [-2.0], [0.5]])
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    scale = math.exp(state[3].item())
    np.testing.assert_allclose((state[1] * scale, state[2] * scale), ([[c]], [[n]]), rtol=1e-14)
    np.testing.assert_array_equal(cells[-1:], state[1])


def test_the_output_of_an_slstm_does_not_depend_on_its_stabiliser(rng):
    problem = random_problem(Config("SLSTM", 3, 4, 2, bidirectional=True, heads=2), rng, has_state=True)
    h, c, n, m = problem.state
    k = rng.uniform(-20, 20, m.shape)
    got = problem.forward(state=(h, c * np.exp(-k), n * np.exp(-k), m + k), pad="zero")
    expected = problem.forward(pad="zero")
    assert_equal((got.y, got.state[0]), (expected.y, expected.state[0]), 1e-13)


def test_an_slstm_without_a_past_takes_its_input_gate_as_the_stabiliser():
    config = Config("SLSTM", 1, 3)
    params = ones_params(config, bias_ih_l0=[0.3, 0.2, 0.5, ALWAYS])
    zero, n, m = np.zeros((1, 3)), np.array([[0.0, 1.0, 0.0]]), np.array([[7.0, 7.0, -7.0]])
    _, (h, c, n, m), _ = run(config, params, [[0.0]], (zero, zero, n, m))
    past = math.log(sigmoid(0.2)) + 7
    np.testing.assert_allclose(m, [[0.3, past, 0.3]], rtol=1e-15)  # each element by itself
    np.testing.assert_allclose(n, [[1, 1 + math.exp(0.3 - past), 1]], rtol=1e-15)
    np.testing.assert_allclose(c, math.tanh(0.5) * np.array([[1, math.exp(0.3 - past), 1]]), rtol=1e-15)
    np.testing.assert_allclose(h, c / n, rtol=1e-15)


@pytest.mark.parametrize("a_i", [-1e5, -800.0, 800.0, 1e5])
@pytest.mark.parametrize("a_f", [-1e5, -800.0, 800.0, 1e5])
def test_the_gates_of_an_slstm_do_not_overflow(a_i, a_f):
    params = ones_params(Config("SLSTM", 1, 2), bias_ih_l0=[a_i, a_f, 0.5, ALWAYS])
    with np.errstate(all="raise", under="ignore"):
        y, state, _ = run(Config("SLSTM", 1, 2), params, [[0.0]] * 4)
    np.testing.assert_allclose(y, math.tanh(0.5), rtol=1e-14)  # a mean of what is always the same
    assert all(np.isfinite(member).all() for member in state)


def test_the_normaliser_has_a_floor():
    params = ones_params(Config("SLSTM", 1, 1), bias_ih_l0=[-3.0, 4.0, 0.5, ALWAYS])
    state = np.zeros((1, 1)), np.full((1, 1), 0.2), np.full((1, 1), 0.1), np.zeros((1, 1))
    m = math.log(sigmoid(4.0))
    c, n = 0.2 + math.exp(-3 - m) * math.tanh(0.5), 0.1 + math.exp(-3 - m)
    for floor in (0.0, 0.1, 1.0):
        y, (_, _, n_got, _), _ = run(Config("SLSTM", 1, 1, n_floor=floor), params, [[0.0]], state)
        assert n_got.item() == pytest.approx(max(n, floor), rel=1e-14)
        assert y.item() == pytest.approx(c / max(n, floor), rel=1e-14)


def test_heads_are_blocks_of_the_recurrent_matrix(rng):
    config = Config("SLSTM", 3, 6, 2, bidirectional=True, heads=3)
    problem = random_problem(config, rng)
    params = dict(problem.params)
    for name, value in params.items():
        if "weight_hh" in name:
            full = np.zeros((24, 6))
            for row in range(24):
                head = row % 6 // 2
                full[row, 2 * head : 2 * head + 2] = value[row]
            params[name] = full
    one = Config("SLSTM", 3, 6, 2, bidirectional=True)
    expected = forward(one, params, problem.x, problem.state, **problem.keywords)
    assert_equal(tuple(problem.forward()), tuple(expected), 1e-14)


# ---- minGRU and minLSTM ------------------------------------------------------------------------------------


def test_minimal_cells_are_what_one_computes_by_hand():
    xs, h, expected = (1.0, -2.0, 0.5), 0.7, []
    config = Config("MinGRU", 1, 1)
    params = ones_params(config, weight_ih_l0=[0.8, -0.3], bias_ih_l0=[0.1, 0.2])
    for x in xs:
        z = sigmoid(0.8 * x + 0.1)
        h = (1 - z) * h + z * (-0.3 * x + 0.2)
        expected.append([h])
    np.testing.assert_allclose(run(config, params, [[x] for x in xs], [[0.7]]).y, expected, rtol=1e-14)

    h, expected = 0.7, []
    config = Config("MinLSTM", 1, 1)
    params = ones_params(config, weight_ih_l0=[0.8, -0.3, 1.1], bias_ih_l0=[0.1, 0.2, 0.3])
    for x in xs:
        f, i = sigmoid(0.8 * x + 0.1), sigmoid(-0.3 * x + 0.2)
        h = f / (f + i) * h + i / (f + i) * (1.1 * x + 0.3)
        expected.append([h])
    np.testing.assert_allclose(run(config, params, [[x] for x in xs], [[0.7]]).y, expected, rtol=1e-14)


def test_the_gates_of_a_minlstm_may_both_underflow():
    config = Config("MinLSTM", 1, 1)
    params = ones_params(config, bias_ih_l0=[-1000.0 + math.log(3), -1000.0, 5.0])
    y, _, _ = run(config, params, [[0.0]], [[1.0]])
    assert y.item() == pytest.approx(0.75 * 1 + 0.25 * 5, rel=1e-12)
