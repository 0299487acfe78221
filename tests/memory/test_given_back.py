# SPDX-License-Identifier: BSD-3-Clause
"""Memory that a layer keeps for its next call: when it is given back, and that nothing else changes by it."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS
from tests.problems.children import in_child
from tests.problems.comparing import assert_same_bits

from .probes import MEGABYTE, resident_bytes

FEW_CALLS = 4  # FL_FEW_CALLS in csrc/base/memory.h


def train(layer, T, save="all"):
    tape = layer.forward(np.zeros((T, 16, layer.input_size), np.float32), save=save)
    tape.backward(np.ones_like(tape.y))


def resident_after_long_and_short_steps():
    """Megabytes above those of a layer that was in use: after a long step, fewer short ones, all of them."""
    layer = fastlstm.LSTM(16, 64, rng=0)
    train(layer, 5)
    before, found = resident_bytes(), []
    train(layer, 10_000)
    found.append(resident_bytes())
    for _ in range(FEW_CALLS - 1):
        train(layer, 5)
    found.append(resident_bytes())
    train(layer, 5)
    found.append(resident_bytes())
    return [(resident - before) // MEGABYTE for resident in found]


def test_a_long_step_among_short_ones_leaves_nothing():
    long, few, enough = in_child(resident_after_long_and_short_steps)
    assert long > 200
    assert few > 0.9 * long
    assert enough < 0.1 * long


def resident_after_release():
    layer = fastlstm.LSTM(16, 64, 2, rng=0)
    train(layer, 5)
    before = resident_bytes()
    train(layer, 10_000)
    layer(np.zeros((2000, 500, 16), np.float32))
    long = resident_bytes() - before
    layer.release()
    return [long // MEGABYTE, (resident_bytes() - before) // MEGABYTE]


def test_release_gives_back_what_calls_have_left():
    long, released = in_child(resident_after_release)
    assert long > 200
    assert released < 0.1 * long


@pytest.mark.parametrize("save", ["all", "states", 3])
@pytest.mark.parametrize("cell", CELLS)
def test_release_and_shrinking_change_no_bits_and_no_tape(cell, save):
    layers = [getattr(fastlstm, cell)(5, 9, num_layers=2, rng=0) for _ in range(2)]
    rng = np.random.default_rng(1)
    for T in (3000, 2, 2, 2, 2, 2, 3000, 7):
        x = rng.standard_normal((T, 8, 5)).astype(np.float32)
        found = []
        for layer, releases in zip(layers, (False, True), strict=True):
            layer.zero_grad()
            tape = layer.forward(x, save=save)
            if releases:
                layer.release()
            dx, _ = tape.backward(np.ones_like(tape.y))
            found.append((tape.y, dx, layer.flat_grads.copy()))
        assert_same_bits(*found, (cell, save, T))


def test_release_of_cells_and_of_layers_in_parts():
    x = np.ones((4, 3, 5), np.float32)
    layer = fastlstm.LSTM(5, (4, 6), rng=0)
    expected = layer(x)[0]
    layer.release()
    assert_same_bits(layer(x)[0], expected)
    cell = fastlstm.LSTMCell(5, 4, rng=0)
    expected = cell(x[0])
    cell.release()
    assert_same_bits(cell(x[0]), expected)
