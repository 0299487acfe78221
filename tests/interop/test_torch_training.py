# SPDX-License-Identifier: BSD-3-Clause
"""Torch as a witness of what training consists of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import fastlstm
from fastlstm.losses import softmax_cross_entropy
from tests.training.test_schedules import CASES, MEASURES, PLATEAUS, STEPS, STORED, STORED_PLATEAUS


def an_sgd():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)


def rate_of(sgd):
    return sgd.param_groups[0]["lr"]


@pytest.mark.parametrize("name", CASES)
def test_stored_rates_are_those_of_torch(name):
    _, _, kind, options = CASES[name]
    sgd = an_sgd()
    schedule = getattr(torch.optim.lr_scheduler, kind)(sgd, **options)
    rates = [rate_of(sgd)]
    for _ in range(STEPS):
        sgd.step()
        schedule.step()
        rates.append(rate_of(sgd))
    np.testing.assert_allclose(rates, STORED[name], rtol=1e-12)


@pytest.mark.parametrize("name", PLATEAUS)
def test_stored_rates_on_a_plateau_are_those_of_torch(name):
    sgd, options = an_sgd(), dict(PLATEAUS[name])
    mode = "rel" if options.pop("is_relative", True) else "abs"
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, threshold_mode=mode, **options)
    rates = []
    for measure in MEASURES:
        schedule.step(measure)
        rates.append(rate_of(sgd))
    np.testing.assert_allclose(rates, STORED_PLATEAUS[name], rtol=1e-12)


EXTRAS = itertools.product((None, -100, 2), (None, [0.5, 2.0, 0.25, 1.0, 3.0]), (0.0, 0.2))


@pytest.mark.parametrize(("ignore", "weight", "smoothing"), list(EXTRAS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_and_its_gradient_are_those_of_torch(ignore, weight, smoothing, dtype, rng):
    logits = (4 * rng.standard_normal((30, 5))).astype(dtype)
    targets = rng.integers(0, 5, 30)
    if ignore == -100:
        targets[::4] = -100
    z = torch.tensor(logits, requires_grad=True)
    w = None if weight is None else torch.tensor(weight, dtype=z.dtype)
    options = {"label_smoothing": smoothing} | ({} if ignore is None else {"ignore_index": ignore})
    expected = torch.nn.functional.cross_entropy(z, torch.tensor(targets), w, **options)
    expected.backward()
    value, gradient = softmax_cross_entropy(
        logits, targets, ignore_index=ignore, weight=weight, label_smoothing=smoothing
    )
    near = 1e-12 if dtype == "float64" else 2e-6
    assert value == pytest.approx(expected.item(), rel=near)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=0, atol=near)


@pytest.mark.parametrize("padding", [None, 0, 3, -1])
def test_a_tied_model_is_that_of_torch(padding, rng):
    words, targets = rng.integers(0, 7, (5, 3)), rng.integers(0, 7, (5, 3))
    embedding = fastlstm.Embedding(7, 4, padding, dtype="float64", rng=0)
    lstm = fastlstm.LSTM(4, 4, dtype="float64", rng=1)
    dense = fastlstm.Dense(4, 7, tied=embedding, dtype="float64", rng=2)
    theirs = [
        torch.nn.Embedding(7, 4, padding, dtype=torch.float64),
        torch.nn.LSTM(4, 4, dtype=torch.float64),
        torch.nn.Linear(4, 7, dtype=torch.float64),
    ]
    theirs[2].weight = theirs[0].weight
    for module, layer in zip(theirs, (embedding, lstm, dense), strict=True):
        module.load_state_dict({name: torch.tensor(value) for name, value in layer.state_dict().items()})
    parameters = [*theirs[0].parameters(), *theirs[1].parameters(), theirs[2].bias]
    sgd, ours = torch.optim.SGD(parameters, 0.5), fastlstm.optim.SGD([embedding, lstm, dense], 0.5)
    for _ in range(3):
        ours.zero_grad()
        e = embedding.forward(words)
        h = lstm.forward(e.y)
        z = dense.forward(h.y)
        value, dz = softmax_cross_entropy(z.y, targets)
        e.backward(h.backward(z.backward(dz))[0])
        ours.step()
        sgd.zero_grad()
        scores = theirs[2](theirs[1](theirs[0](torch.tensor(words)))[0])
        expected = torch.nn.functional.cross_entropy(scores.reshape(-1, 7), torch.tensor(targets).reshape(-1))
        expected.backward()
        sgd.step()
        assert value == pytest.approx(expected.item(), rel=1e-12)
    for module, layer in zip(theirs, (embedding, lstm, dense), strict=True):
        for name, tensor in module.state_dict().items():
            np.testing.assert_allclose(layer.state_dict()[name], tensor.numpy(), rtol=1e-10, atol=1e-13)
