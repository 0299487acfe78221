# SPDX-License-Identifier: BSD-3-Clause
"""What is drawn in training, by the specification: masks of dropout, zoneout and recurrent dropout."""

from __future__ import annotations

import numpy as np
import pytest

from fastlstm import reference
from fastlstm.reference import Config, forward
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_equal
from tests.problems.problem import random_params, random_problem


def scalar_splitmix(seed: int, n: int) -> int:
    mask = 2**64 - 1
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_splitmix_is_that_of_its_authors():
    # The first numbers of the seed 1234567, as the authors' program gives them.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [scalar_splitmix(1234567, n) for n in range(3)] == expected


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_a_mask_is_a_function_of_place_and_seed(p):
    T, B, F, seed = 3, 2, 5, 2**63 - 1
    for layer in range(3):
        mask = reference.dropout_mask(seed, layer, T, B, F, p)
        assert mask.shape == (T, B, F)
        for t, b, j in np.ndindex(T, B, F):
            number = scalar_splitmix(seed, ((layer * T + t) * B + b) * F + j)
            kept = (number >> 32) >= int(p * 2**32)
            assert mask[t, b, j] == (pytest.approx(1 / (1 - p), rel=1e-15) if kept else 0)
    assert reference.dropout_mask(1, 0, 2, 2, 2, 0.5, np.float32).dtype == np.float32


def test_an_element_is_dropped_below_the_threshold_and_kept_at_it():
    number = scalar_splitmix(5, 0) >> 32
    for threshold in (number, number + 1):
        mask = reference.dropout_mask(5, 0, 1, 1, 1, threshold / 2**32)
        assert (mask[0, 0, 0] > 0) == (number >= threshold)


def test_a_mask_drops_as_many_as_it_should():
    for p in (0.1, 0.5, 0.9):
        mask = reference.dropout_mask(3, 0, 100, 10, 50, p)
        assert (mask == 0).mean() == pytest.approx(p, abs=0.01)
        assert mask.mean() == pytest.approx(1, abs=0.05)


def test_dropout_is_between_layers_alone(rng):
    for cell in CELLS:
        stack, single = (
            Config(cell, 3, 4, 2, bidirectional=True, dropout=0.5),
            Config(cell, 3, 4, bidirectional=True),
        )
        params = random_params(stack, rng)
        x = rng.standard_normal((5, 2, 3))
        one = {name: value for name, value in params.items() if "_l0" in name}
        plain = forward(single, one, x).y
        dropped = Config(cell, 3, 4, bidirectional=True, dropout=0.5)
        np.testing.assert_array_equal(forward(dropped, one, x, seed=7, training=True).y, plain)
        two = {name.replace("_l1", "_l0"): value for name, value in params.items() if "_l1" in name}
        masked = plain * reference.dropout_mask(7, 0, 5, 2, 8, 0.5)
        expected = forward(Config(cell, 8, 4, bidirectional=True), two, masked).y
        np.testing.assert_array_equal(forward(stack, params, x, seed=7, training=True).y, expected)


def test_masks_of_zoneout_and_recurrent_dropout_are_functions_of_place_and_seed():
    for seed in (5, 2**64 - 1):
        for cell, p in ((0, 0.3), (3, 0.7)):
            mask = reference.zoneout_mask(seed, cell, 4, 3, 5, p, np.float64)
            dropped = reference.recurrent_dropout_mask(seed, cell, 4, 3, 5, p, np.float64)
            for t, b, j in np.ndindex(4, 3, 5):
                is_kept = (scalar_splitmix(seed, ((cell * 4 + t) * 3 + b) * 5 + j) >> 32) >= int(p * 2**32)
                assert mask[t, b, j] == (not is_kept)
                assert dropped[t, b, j] == (1 / (1 - p) if is_kept else 0)


def test_zoneout_holds_what_its_masks_say(rng):
    """In training, an element that is zoned out is the one before, bit by bit."""
    config = Config("LSTM", 3, 4, num_layers=2, zoneout_c=0.4, zoneout_h=0.3)
    problem = random_problem(
        config, rng, T=6, B=3, is_batched=True, has_lengths=False, has_mask=False, has_reset=False
    )
    seed = problem.seed
    y, _, cells = problem.forward(training=True)
    for values, kind, p in ((cells, 1, 0.4), (y, 2, 0.3)):
        is_held = reference.zoneout_mask((seed + kind) % 2**64, 1, 6, 3, 4, p, bool)[1:]
        assert is_held.any()
        np.testing.assert_array_equal(values[1:] == values[:-1], is_held)


@pytest.mark.parametrize("masks", ["gate", "tied"])
def test_recurrent_dropout_is_a_dropout_of_recurrent_weights(masks, rng):
    """A mask that stays the same for a sequence can as well be in the weights, for each row by itself."""
    H, B, p = 4, 3, 0.4
    config = Config("LSTM", 3, H, 2, bidirectional=True, recurrent_dropout=p, recurrent_dropout_masks=masks)
    problem = random_problem(
        config, rng, T=5, B=B, is_batched=True, is_index=False, has_state=True, has_lengths=True
    )
    got = problem.forward(training=True)
    count = 4 if masks == "gate" else 1
    for b in range(B):
        params = dict(problem.params)
        for cell, suffix in enumerate(("_l0", "_l0_reverse", "_l1", "_l1_reverse")):
            drawn = reference.recurrent_dropout_mask(problem.seed + 3, cell, count, B, H, p, float)[:, b]
            params[f"weight_hh{suffix}"] = params[f"weight_hh{suffix}"] * np.repeat(
                drawn, 4 * H // count, axis=0
            )
        keywords = {
            k: v[b : b + 1] if k == "lengths" else v[:, b : b + 1]
            for k, v in problem.keywords.items()
            if k != "pad"
        }
        state = tuple(member[:, b : b + 1] for member in problem.state)
        plain = Config("LSTM", 3, H, 2, bidirectional=True)
        y, (h, c), _ = forward(
            plain, params, problem.x[:, b : b + 1], state, **keywords, pad=problem.keywords.get("pad", "zero")
        )
        assert_equal(
            (y[:, 0], h[:, 0], c[:, 0]), (got.y[:, b], got.state[0][:, b], got.state[1][:, b]), 1e-14
        )
    assert_equal(
        tuple(problem.forward()),
        tuple(forward(plain, problem.params, problem.x, problem.state, **problem.keywords)),
    )
