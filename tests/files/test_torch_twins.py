# SPDX-License-Identifier: BSD-3-Clause
"""Modules of PyTorch that layers become, and layers of state dicts of PyTorch: both compute the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import fastlstm
from tests.objects.kinds import FAMILY, batch, build
from tests.problems.comparing import assert_same_bits

SAID = ("LSTM", "GRU", "RNN", "stack", "Dense", "Embedding", "LSTMCell", "GRUCell", "RNNCell")


def results(value):
    return [array for part in value for array in results(part)] if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_module_computes_what_the_layer_does(kind, dtype):
    layer = build(kind, dtype=dtype)
    module = fastlstm.to_torch(layer)
    x = batch(layer)
    ours, theirs = results(layer(x)), results(module(torch.from_numpy(x)))
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            own, other.detach().numpy(), rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14
        )
    if kind not in ("Dense", "Embedding"):
        twin = fastlstm.from_state_dict(module.state_dict())
        assert repr(twin) == repr(layer)
        assert_same_bits(twin.flat_params, layer.flat_params)


def test_options_that_both_have_are_kept():
    layer = fastlstm.LSTM(3, 5, 2, batch_first=True, dropout=0.5, bidirectional=True, proj_size=2, bias=False)
    module = fastlstm.to_torch(layer)
    for name in (
        "input_size",
        "hidden_size",
        "num_layers",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
        "bias",
    ):
        assert getattr(module, name) == getattr(layer, name)
    assert fastlstm.to_torch(fastlstm.RNN(3, 4, nonlinearity="relu")).nonlinearity == "relu"


@pytest.mark.parametrize("kind", [kind for kind in FAMILY if kind not in SAID and kind != "zoneout"])
def test_what_pytorch_has_not_is_refused(kind):
    with pytest.raises(ValueError, match=r"^\w+: expected .*PyTorch has"):
        fastlstm.to_torch(build(kind))


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_any_kind_are_read(cast):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = torch.nn.GRU(3, 4, 2).to(cast)
        layer = fastlstm.from_state_dict(dict(module.named_parameters()))  # which track gradients
        other = fastlstm.GRU(3, 4, 2)
        other.load_state_dict(
            dict(module.named_parameters())
            if cast is not torch.float64
            else {name: value.float() for name, value in module.state_dict().items()}
        )
    for name, value in module.state_dict().items():
        assert_same_bits(layer.params[name].astype(np.float64), value.double().numpy())
        np.testing.assert_allclose(other.params[name], value.double().numpy(), rtol=1e-7)
