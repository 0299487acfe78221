# SPDX-License-Identifier: BSD-3-Clause
"""Large and tiny numbers: what is finite stays right, and no state of NumPy's errors matters."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastlstm
from fastlstm import losses
from tests.objects.kinds import FAMILY, build
from tests.problems.comparing import assert_same_bits
from tests.problems.problem import arrays_of


@pytest.mark.parametrize("gap", [1.0, 1e2, 1e10, 1e30, 1e38, 3e38])
def test_cross_entropy_of_wide_gaps(gap):
    gap = float(np.float32(gap))
    logits = np.array([[gap, -gap], [-gap, gap], [gap, gap]], np.float32)
    value, gradient = losses.softmax_cross_entropy(logits, [1, 1, 0])
    wanted = (np.logaddexp(0, 2 * gap) + np.logaddexp(0, -2 * gap) + np.log(2)) / 3
    assert value == pytest.approx(wanted, rel=1e-6)
    p = 1 / (1 + np.exp(-min(2 * gap, 700)))
    np.testing.assert_allclose(gradient[0], [p / 3, -p / 3], rtol=1e-6)
    np.testing.assert_allclose(gradient[2], [-1 / 6, 1 / 6], rtol=1e-6)


def test_cross_entropy_of_sums_that_do_not_fit():
    logits = np.array([[0, 1.5e308], [0, 1.5e308]])
    value, gradient = losses.softmax_cross_entropy(logits, [0, 0])
    assert value == 1.5e308
    assert gradient.tolist() == [[-0.5, 0.5]] * 2


def test_mse_of_wide_gaps():
    y = np.full(8, 3e38, np.float32)
    value, gradient = losses.mse(y, -y)
    assert value == pytest.approx(4 * float(y[0]) ** 2, rel=1e-12)
    np.testing.assert_allclose(gradient, np.full(8, 1.5e38), rtol=1e-6)
    y = np.full(64, 1.5e308)
    value, gradient = losses.mse(y, -y)
    assert value == np.inf
    np.testing.assert_allclose(gradient, np.full(64, 1.5e308 / 16), rtol=1e-12)
    y = np.full(1000, 1e154)
    assert losses.mse(y, 0 * y)[0] == pytest.approx(1e308, rel=1e-12)
    tiny = np.full(2, 1e-45, np.float32)
    value, gradient = losses.mse(tiny, 0 * tiny)
    np.testing.assert_array_equal(gradient, tiny)
    assert value == pytest.approx(float(tiny[0]) ** 2)


def test_infinities_and_nan_stay():
    for bad in (np.inf, np.nan):
        value, gradient = losses.mse([bad, 1.0], [0.0, 0.0])
        assert not np.isfinite(value)
        assert not np.isfinite(gradient[0])
        assert gradient[1] == 1
        assert np.isnan(losses.softmax_cross_entropy([[bad, 1.0]], [0])[0])


@pytest.mark.parametrize("form", ["gate", "haste"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e18, 1e20, 1e30, 1e37])
def test_the_norm_of_a_large_row(form, scale):
    wide = fastlstm.LSTM(2, 5, layer_norm=form, rng=0, dtype=np.float64)
    narrow = fastlstm.LSTM(2, 5, layer_norm=form)
    narrow.load_state_dict(wide.params)
    x = np.random.default_rng(0).standard_normal((4, 3, 2)) * scale
    first, second = wide.forward(x), narrow.forward(x)
    np.testing.assert_allclose(second.y, first.y, atol=1e-5)
    first.backward(np.ones_like(first.y))
    second.backward(np.ones_like(second.y))
    for name in ("weight_ln_ih_l0", "bias_ih_l0"):
        if name in wide.grads:
            np.testing.assert_allclose(narrow.grads[name], wide.grads[name], rtol=1e-3, atol=1e-4)


def test_averages_fit_where_their_sums_do_not():
    layer = fastlstm.RNN(1, 1, nonlinearity="relu", bidirectional=True, merge="average")
    layer.load_state_dict(
        {name: np.ones_like(value) * (name[:9] == "weight_ih") for name, value in layer.params.items()}
    )
    x = np.full((1, 1, 1), 3e38, np.float32)
    np.testing.assert_array_equal(layer(x)[0], x)


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1.0, 1e38])
@pytest.mark.parametrize("name", FAMILY)
def test_errors_of_numpy_do_not_come_from_inside(name, scale):
    results = []
    for how in ("ignore", "raise"):
        layer = build(name)
        x = np.random.default_rng(0).uniform(-1, 1, (5, 3, layer.input_size)).astype(np.float32)
        x *= np.float32(scale)
        with np.errstate(all=how), warnings.catch_warnings():
            warnings.simplefilter("error")
            forms = [{}, {"lengths": [5, 0, 2]}, {"mask": np.arange(5)[:, None] != [1, 2, 3]}]
            for form in forms:
                tape = layer.forward(x, **form)
                dx, dstate = tape.backward(np.full_like(tape.y, min(scale, 1)))
                results.append([layer(x, **form)[0], tape.y, dx, *arrays_of(dstate)])
            layer(x.astype(np.float64) * 1e-3)
            layer([x[:, 0], x[:2, 1]])
            if not (layer._plan.num_directions == 2 or layer.reverse):
                layer.stream(3).process(x)
    half = len(results) // 2
    for first, second in zip(results[:half], results[half:], strict=True):
        assert_same_bits(first, second)


def test_errors_of_numpy_do_not_come_from_losses_and_tables():
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale in (1e-45, 1.0, 3e38):
            y = np.full((4, 3), scale, np.float32)
            y[0] *= -1
            losses.mse(y, -y)
            losses.softmax_cross_entropy(y, [0, 1, 2, 0])
            table = fastlstm.Embedding(3, 3, rng=0)
            table.forward([0, 0, 1, 2]).backward(y)
            table.forward([0, 0, 1, 2]).backward(y)
        fastlstm.LSTM(3, 3).load_state_dict(
            {name: np.full(value.shape, 1e-300) for name, value in fastlstm.LSTM(3, 3).params.items()}
        )
