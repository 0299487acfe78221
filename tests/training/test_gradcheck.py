# SPDX-License-Identifier: BSD-3-Clause
"""The check of gradients for users: it finds what is right right, and every kind of mistake wrong."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from fastlstm import losses
from fastlstm.testing import gradcheck
from tests.objects.kinds import FAMILY, batch, build
from tests.problems.comparing import assert_same_bits


@pytest.mark.parametrize("kind", [*FAMILY, "Dense", "Embedding"])
def test_layers_of_all_kinds_pass_and_stay_as_they_are(kind):
    layer = build(kind)
    x = batch(layer)
    layer.flat_grads[...] = 3
    params, state = layer.flat_params, layer.rng.bit_generator.state
    report = gradcheck(layer, x, samples=4, raises=False)
    assert report.is_right, str(report)
    assert len(report.rows) == len(layer.params) + (kind != "Embedding")
    assert layer.flat_params is params
    assert layer.rng.bit_generator.state == state
    assert (layer.flat_grads == 3).all()


def test_layers_one_after_the_other_with_lengths_and_masks_that_are_drawn():
    layers = [
        fastlstm.Embedding(9, 4, rng=0),
        fastlstm.GRU(4, 5, 2, dropout=0.5, bidirectional=True, rng=1),
        fastlstm.LSTM(10, 3, zoneout_h=0.3, rng=2),
        fastlstm.Dense(3, 2, rng=3),
    ]
    x = np.random.default_rng(0).integers(0, 9, (6, 3))
    assert gradcheck(layers, x, lengths=[6, 0, 3])
    assert gradcheck(layers, x, mask=x > 3, training=False)


def model(dtype="float64"):
    return fastlstm.LSTM(3, 4, dtype=dtype, rng=0), fastlstm.Dense(4, 5, dtype=dtype, rng=1)


def of_a_user(layers, x, targets, mistake=None):
    lstm, dense = layers

    def compute():
        first = lstm.forward(x)
        second = dense.forward(first.y)
        value, dlogits = losses.softmax_cross_entropy(second.y, targets)
        if mistake == "twice":
            dlogits = 2 * dlogits
        dx, _ = first.backward(second.backward(dlogits))
        if mistake == "bias":
            dense.grads["bias"][2] += 1e-4
        if mistake == "nan":
            lstm.grads["weight_hh_l0"][3, 1] = np.nan
        if mistake == "forgotten":
            lstm.zero_grad()
        return value, {"x": -dx if mistake == "sign" else dx}

    return compute


def test_a_function_of_a_user():
    layers, rng = model(), np.random.default_rng(0)
    x, targets = rng.standard_normal((4, 2, 3)), rng.integers(0, 5, (4, 2))
    kept = x.copy()
    assert gradcheck(layers, of_a_user(layers, x, targets), inputs={"x": x}, samples=100)
    assert_same_bits(x, kept)
    wrong = {
        "twice": "all", "bias": {"layers[1].bias"}, "nan": {"layers[0].weight_hh_l0"}, "sign": {"x"},
        "forgotten": {f"layers[0].{name}" for name in layers[0].params},
    }  # fmt: skip
    for mistake, names in wrong.items():
        compute = of_a_user(layers, x, targets, mistake)
        report = gradcheck(layers, compute, inputs={"x": x}, samples=100, raises=False)
        found = {row.name for row in report.rows if not row.excess <= 1}
        assert found == ({row.name for row in report.rows} if names == "all" else names), mistake
        assert not report
        assert report.rows[0].name in found
        with pytest.raises(AssertionError, match=rf"{len(found)} of 7 arrays have a wrong gradient"):
            gradcheck(layers, compute, inputs={"x": x}, samples=100)
    place = next(row for row in gradcheck(
        layers, of_a_user(layers, x, targets, "bias"), inputs={"x": x}, raises=False
    ).rows if row.name == "layers[1].bias")  # fmt: skip
    assert place.place == (2,)
    assert place.gradient - place.difference == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gradcheck([], np.ones((2, 3))), TypeError, "layers: expected a layer or several"),
        (
            lambda: gradcheck([3], np.ones((2, 3))),
            TypeError,
            r"layers\[0\]: expected a layer with forward, got int",
        ),
        (lambda: gradcheck(fastlstm.LSTMCell(2, 3), np.ones(2)), TypeError, "got LSTMCell"),
        (lambda: gradcheck(model("float32"), lambda: 0.0), ValueError, "expected dtype float64"),
        (
            lambda: gradcheck(model(), lambda: 0.0, inputs={"x": np.ones(3, "f4")}),
            TypeError,
            r"inputs\['x'\]",
        ),
        (
            lambda: gradcheck(model(), lambda: 0.0, inputs={"x": np.ones(3)}),
            ValueError,
            r"gradients of \['x'\]",
        ),
        (lambda: gradcheck(model(), np.ones((2, 1, 3)), inputs={}), TypeError, "inputs: expected None"),
        (lambda: gradcheck(model(), np.ones((2, 1, 3)), samples=0), ValueError, "samples"),
        (lambda: gradcheck(model(), np.ones((2, 1, 3)), rtol=-1), ValueError, "rtol"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
