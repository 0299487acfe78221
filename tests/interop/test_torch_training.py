# SPDX-License-Identifier: BSD-3-Clause
"""Torch as a witness of what training consists of, where it is installed (see conftest.py)."""

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
