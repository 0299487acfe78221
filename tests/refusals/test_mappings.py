# SPDX-License-Identifier: BSD-3-Clause
"""Mappings of parameters that do not fit are refused as a whole."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import build, every_kind
from tests.problems.comparing import assert_same_bits

GOOD = fastlstm.LSTM(3, 4, 2, rng=1).state_dict()
BAD_MAPPINGS = [
    ({name: value for name, value in GOOD.items() if name != "bias_hh_l1"}, ValueError, "bias_hh_l1"),
    (GOOD | {"weight_ih_l2": GOOD["weight_ih_l1"]}, ValueError, "weight_ih_l2"),
    (GOOD | {"weight_ih_l0_reverse": GOOD["weight_ih_l0"]}, ValueError, "weight_ih_l0_reverse"),
    (GOOD | {"bias_hh_l1": GOOD["bias_hh_l1"][:-1]}, ValueError, "bias_hh_l1"),
    (GOOD | {"bias_hh_l1": GOOD["bias_hh_l1"][None]}, ValueError, "bias_hh_l1"),
    (GOOD | {"weight_hh_l1": GOOD["weight_hh_l1"].T}, ValueError, "weight_hh_l1"),
    (GOOD | {"weight_ih_l1": GOOD["weight_ih_l0"]}, ValueError, "weight_ih_l1"),
    (GOOD | {"bias_hh_l1": GOOD["bias_hh_l1"].astype(complex)}, TypeError, "bias_hh_l1"),
    (GOOD | {"bias_hh_l1": ["zero"] * 16}, TypeError, "bias_hh_l1"),
    (GOOD | {"bias_hh_l1": None}, TypeError, "bias_hh_l1"),
    ({}, ValueError, "weight_ih_l0"),
    (list(GOOD.items()), TypeError, "mapping"),
    (None, TypeError, "mapping"),
]


@pytest.mark.parametrize(("mapping", "error", "name"), BAD_MAPPINGS)
def test_a_bad_mapping_of_a_stack(mapping, error, name):
    layer = fastlstm.LSTM(3, 4, 2, rng=0)
    before, expected = layer.state_dict(), layer(np.ones((3, 2, 3)))
    with pytest.raises(error, match=rf"(?s){name}.*") as caught:
        layer.load_state_dict(mapping)
    assert "expected" in str(caught.value)
    assert type(caught.value) is error
    for key, value in layer.state_dict().items():
        assert_same_bits(value, before[key])
    assert_same_bits(layer(np.ones((3, 2, 3))), expected)


@every_kind
@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        ({}, ValueError, "mapping: expected the names"),
        (None, TypeError, "mapping: expected a mapping"),
    ],
)
def test_a_bad_mapping_is_refused_and_nothing_is_changed(kind, mapping, error, message):
    layer = build(kind)
    flat = layer.flat_params
    with pytest.raises(error, match=message):
        layer.load_state_dict(mapping)
    last = list(layer.params)[-1]
    with pytest.raises(ValueError, match=f"{last}: expected shape"):
        layer.load_state_dict(layer.state_dict() | {last: np.ones(1)})
    short = layer.state_dict()
    short.pop(last)
    with pytest.raises(ValueError, match="mapping: expected the names"):
        layer.load_state_dict(short)
    assert layer.flat_params is flat
