# SPDX-License-Identifier: BSD-3-Clause
"""Schedules against torch's numbers, which are stored; interop/test_torch_training.py asks torch again."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import fastlstm
from fastlstm import optim, schedules

# Ours and its options, torch's and its options.
CASES = {
    "step": ("StepDecay", {"every": 3, "gamma": 0.5}, "StepLR", {"step_size": 3, "gamma": 0.5}),
    "exponential": ("ExponentialDecay", {"gamma": 0.8}, "ExponentialLR", {"gamma": 0.8}),
    "cosine": (
        "CosineAnnealing", {"max_steps": 8, "min_lr": 0.1}, "CosineAnnealingLR", {"T_max": 8, "eta_min": 0.1},
    ),
    "warm-up": (
        "LinearWarmup", {"max_steps": 5, "start": 0.25}, "LinearLR", {"total_iters": 5, "start_factor": 0.25},
    ),
    "down": (
        "LinearWarmup", {"max_steps": 4, "start": 1.0, "end": 0.5},
        "LinearLR", {"total_iters": 4, "start_factor": 1.0, "end_factor": 0.5},
    ),
    "one cycle": ("OneCycle", {"max_lr": 2.0, "max_steps": 9},
                  "OneCycleLR", {"max_lr": 2.0, "total_steps": 9}),
    "one cycle, lines": (
        "OneCycle",
        {"max_lr": 1.0, "max_steps": 9, "pct_start": 0.6, "anneal": "linear", "div_factor": 5.0,
         "final_div_factor": 20.0},
        "OneCycleLR",
        {"max_lr": 1.0, "total_steps": 9, "pct_start": 0.6, "anneal_strategy": "linear", "div_factor": 5.0,
         "final_div_factor": 20.0},
    ),
}  # fmt: skip
STEPS = 8
# Rates of steps 0, 1, 2, ... with a base of 0.5, by torch 2.14.
STORED = {
    "step": [
        0.5,
        0.5,
        0.5,
        0.25,
        0.25,
        0.25,
        0.125,
        0.125,
        0.125,
    ],
    "exponential": [
        0.5,
        0.4,
        0.32000000000000006,
        0.25600000000000006,
        0.20480000000000007,
        0.16384000000000007,
        0.13107200000000005,
        0.10485760000000005,
        0.08388608000000004,
    ],
    "cosine": [
        0.5,
        0.4847759065022573,
        0.4414213562373095,
        0.37653668647301797,
        0.30000000000000004,
        0.22346331352698207,
        0.1585786437626905,
        0.11522409349774265,
        0.1,
    ],
    "warm-up": [
        0.125,
        0.2,
        0.275,
        0.35000000000000003,
        0.425,
        0.5,
        0.5,
        0.5,
        0.5,
    ],
    "down": [
        0.5,
        0.4375,
        0.375,
        0.3125,
        0.25,
        0.25,
        0.25,
        0.25,
        0.25,
    ],
    "one cycle": [
        0.08000000000000007,
        1.3027164704691998,
        1.9888308709018234,
        1.7971333186928937,
        1.4112894579821993,
        0.9252742053339501,
        0.4574599063192961,
        0.12178593951606481,
        8e-06,
    ],
    "one cycle, lines": [
        0.2,
        0.38181818181818183,
        0.5636363636363637,
        0.7454545454545456,
        0.9272727272727275,
        0.8349999999999999,
        0.5599999999999999,
        0.28500000000000003,
        0.010000000000000009,
    ],
}
MEASURES = [5.0, 4.0, 4.5, 3.99999, 4.2, 4.1, 3.0, math.nan, 3.5, 3.4, 3.3, 3.2, 2.9, 3.0, 3.0, 3.0, 3.0, 3.0]
PLATEAUS = {
    "usual": {"patience": 1},
    "more is better": {"mode": "max", "factor": 0.5, "patience": 2},
    "absolute": {"patience": 0, "threshold": 0.6, "is_relative": False, "factor": 0.25},
    "cooldown": {"patience": 0, "cooldown": 2, "factor": 0.7, "min_lr": 0.05},
    "relative, max": {"mode": "max", "threshold": 0.5, "patience": 1},
}
STORED_PLATEAUS = {
    "usual": [
        0.5,
        0.5,
        0.5,
        0.05,
        0.05,
        0.005000000000000001,
        0.005000000000000001,
        0.005000000000000001,
        0.0005000000000000001,
        0.0005000000000000001,
        5.0000000000000016e-05,
        5.0000000000000016e-05,
        5.0000000000000016e-05,
        5.0000000000000016e-05,
        5.000000000000002e-06,
        5.000000000000002e-06,
        5.000000000000002e-07,
        5.000000000000002e-07,
    ],
    "more is better": [
        0.5,
        0.5,
        0.5,
        0.25,
        0.25,
        0.25,
        0.125,
        0.125,
        0.125,
        0.0625,
        0.0625,
        0.0625,
        0.03125,
        0.03125,
        0.03125,
        0.015625,
        0.015625,
        0.015625,
    ],
    "absolute": [
        0.5,
        0.5,
        0.125,
        0.03125,
        0.0078125,
        0.001953125,
        0.001953125,
        0.00048828125,
        0.0001220703125,
        3.0517578125e-05,
        7.62939453125e-06,
        1.9073486328125e-06,
        4.76837158203125e-07,
        1.1920928955078125e-07,
        2.9802322387695312e-08,
        7.450580596923828e-09,
        7.450580596923828e-09,
        7.450580596923828e-09,
    ],
    "cooldown": [
        0.5,
        0.5,
        0.35,
        0.35,
        0.35,
        0.24499999999999997,
        0.24499999999999997,
        0.24499999999999997,
        0.17149999999999996,
        0.17149999999999996,
        0.17149999999999996,
        0.12004999999999996,
        0.12004999999999996,
        0.12004999999999996,
        0.08403499999999997,
        0.08403499999999997,
        0.08403499999999997,
        0.058824499999999974,
    ],
    "relative, max": [
        0.5,
        0.5,
        0.05,
        0.05,
        0.005000000000000001,
        0.005000000000000001,
        0.0005000000000000001,
        0.0005000000000000001,
        5.0000000000000016e-05,
        5.0000000000000016e-05,
        5.000000000000002e-06,
        5.000000000000002e-06,
        5.000000000000002e-07,
        5.000000000000002e-07,
        5.0000000000000024e-08,
        5.0000000000000024e-08,
        5.0000000000000026e-09,
        5.0000000000000026e-09,
    ],
}


def an_optimizer(lr=0.5):
    return optim.SGD(fastlstm.Dense(2, 1, rng=0), lr)


def rates(kind, options, steps=STEPS):
    optimizer = an_optimizer()
    schedule = getattr(schedules, kind)(optimizer, **options)
    found = [optimizer.lr]
    for _ in range(steps):
        assert schedule.step() == optimizer.lr == schedule.lr
        found.append(optimizer.lr)
    return found


@pytest.mark.parametrize("name", CASES)
def test_rates_are_those_of_torch(name):
    kind, options, _, _ = CASES[name]
    np.testing.assert_allclose(rates(kind, options), STORED[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", PLATEAUS)
def test_rates_on_a_plateau_are_those_of_torch(name):
    optimizer = an_optimizer()
    schedule = schedules.ReduceOnPlateau(optimizer, **PLATEAUS[name])
    np.testing.assert_allclose(
        [schedule.step(m) for m in MEASURES], STORED_PLATEAUS[name], rtol=1e-12, atol=0
    )
    assert len(set(STORED_PLATEAUS[name])) > 2


def test_by_hand():
    assert rates("StepDecay", {"every": 2, "gamma": 0.5}, 4) == [0.5, 0.5, 0.25, 0.25, 0.125]
    assert rates("CosineAnnealing", {"max_steps": 2}, 3) == pytest.approx([0.5, 0.25, 0.0, 0.0], abs=1e-16)
    assert rates("LinearWarmup", {"max_steps": 2, "start": 0.5}, 3) == [0.25, 0.375, 0.5, 0.5]
    assert max(rates("OneCycle", {"max_lr": 3.0, "max_steps": 10, "pct_start": 0.5})) == 3.0


ALL_KINDS = [(kind, options) for kind, options, _, _ in CASES.values()]
ALL_KINDS += [("ReduceOnPlateau", PLATEAUS["cooldown"])]


def go_on(schedule, measure):
    return schedule.step(measure) if isinstance(schedule, schedules.ReduceOnPlateau) else schedule.step()


@pytest.mark.parametrize(("kind", "options"), ALL_KINDS)
def test_a_schedule_goes_on_where_it_was(kind, options):
    schedule = getattr(schedules, kind)(an_optimizer(), **options)
    for measure in MEASURES[:4]:
        go_on(schedule, measure)
    fresh = getattr(schedules, kind)(an_optimizer(0.25), **options)
    fresh.load_state_dict(schedule.state_dict())
    twins = [fresh, pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)]
    for measure in MEASURES[4:8]:
        expected = go_on(schedule, measure)
        assert [go_on(twin, measure) for twin in twins] == [expected] * 3
        assert [twin.optimizer.lr for twin in twins] == [expected] * 3
    assert repr(fresh) == repr(schedule)
    assert fresh.optimizer is not schedule.optimizer


@pytest.mark.parametrize(("kind", "options"), ALL_KINDS)
def test_a_bad_state_changes_nothing(kind, options):
    schedule = getattr(schedules, kind)(an_optimizer(), **options)
    go_on(schedule, 1.0)
    before = schedule.state_dict(), schedule.optimizer.lr
    good = schedule.state_dict()
    for state, message in (
        (good | {"sparkle": 1}, "sparkle"),
        (good | {"num_steps": -1}, "num_steps"),
        (good | {"base_lr": -1.0}, "base_lr"),
        (list(good), "state"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            schedule.load_state_dict(state)
        assert (schedule.state_dict(), schedule.optimizer.lr) == before
    schedule.load_state_dict({"num_steps": good["num_steps"]})  # of a version without the options
    assert schedule.state_dict() == good


@pytest.mark.parametrize(
    ("kind", "options", "error", "name"),
    [
        ("StepDecay", {"every": 0}, ValueError, "every"),
        ("StepDecay", {"every": 1.5}, TypeError, "every"),
        ("StepDecay", {"every": 1, "gamma": 0}, ValueError, "gamma"),
        ("ExponentialDecay", {"gamma": math.nan}, ValueError, "gamma"),
        ("CosineAnnealing", {"max_steps": 0}, ValueError, "max_steps"),
        ("CosineAnnealing", {"max_steps": 1, "min_lr": -1}, ValueError, "min_lr"),
        ("LinearWarmup", {"max_steps": 1, "start": 0}, ValueError, "start"),
        ("LinearWarmup", {"max_steps": 1, "end": 2}, ValueError, "end"),
        ("OneCycle", {"max_lr": 1.0, "max_steps": 1}, ValueError, "max_steps"),
        ("OneCycle", {"max_lr": "1", "max_steps": 5}, TypeError, "max_lr"),
        ("OneCycle", {"max_lr": 1.0, "max_steps": 5, "anneal": "cosine"}, ValueError, "anneal"),
        ("ReduceOnPlateau", {"mode": "least"}, ValueError, "mode"),
        ("ReduceOnPlateau", {"factor": 1.0}, ValueError, "factor"),
        ("ReduceOnPlateau", {"patience": -1}, ValueError, "patience"),
    ],
)
def test_bad_options_are_refused_and_the_rate_stays(kind, options, error, name):
    optimizer = an_optimizer()
    with pytest.raises(error, match=rf"^{name}: expected"):
        getattr(schedules, kind)(optimizer, **options)
    assert optimizer.lr == 0.5
    with pytest.raises(TypeError, match=r"^optimizer: expected an optimizer"):
        schedules.ExponentialDecay(fastlstm.LSTM(2, 3), 0.5)


def test_a_step_too_many_of_one_cycle_and_a_measure_that_is_none():
    schedule = schedules.OneCycle(an_optimizer(), 1.0, 3)
    schedule.step()
    schedule.step()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"at most max_steps - 1 = 2"):
            schedule.step()
    assert schedule.num_steps == 2
    with pytest.raises(TypeError, match=r"measure: expected a number, got str"):
        schedules.ReduceOnPlateau(an_optimizer()).step("1")


def test_what_would_do_nothing_is_refused():
    schedule = schedules.StepDecay(an_optimizer(), 2)
    for name in ("lr", "gamma", "every", "last_epoch", "gama", "base_lr", "note"):
        with pytest.raises(AttributeError, match=name):
            setattr(schedule, name, 1)
