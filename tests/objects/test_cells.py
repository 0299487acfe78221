# SPDX-License-Identifier: BSD-3-Clause
"""Cells of one step: GRUCell and RNNCell are one step of their layers, with what they take and refuse."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits
from tests.refusals.checks import refuses

I, H = 5, 6


@pytest.mark.parametrize(
    ("name", "options"),
    [("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("RNN", {"bias": False})],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cell_is_one_step_of_its_layer(name, options, dtype):
    layer = getattr(fastlstm, name)(I, H, dtype=dtype, rng=0, **options)
    cell = getattr(fastlstm, f"{name}Cell")(I, H, dtype=dtype, rng=1, **options)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
    rng = np.random.default_rng(1)
    x, h = (rng.standard_normal((3, n)).astype(dtype) for n in (I, H))
    expected = layer(x[np.newaxis], h[np.newaxis])[0][0]
    assert_same_bits(cell(x, h), expected)
    assert_same_bits(cell(x), layer(x[np.newaxis])[0][0])
    out = np.empty((3, H), dtype)
    assert cell(x, h, out=out) is out
    assert_same_bits(out, expected)
    assert_same_bits(cell(x[0], h[0]), expected[0])
    assert_same_bits(cell(2), cell(np.eye(I)[2]))
    assert_same_bits(pickle.loads(pickle.dumps(cell))(x, h), expected)
    refuses(ValueError, "state", cell, x, h[:2])
    refuses(ValueError, "out", cell, x, h, h)
    refuses(TypeError, "out", cell, x, h, (out, out))
