# SPDX-License-Identifier: BSD-3-Clause
"""Keras 3 itself: what it saves is read, and what layers become in it computes the same."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import FAMILY, I, batch, build

# Keras' own, of the way in which it reads tensors.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
L = keras.layers
H = 6
SAID = ("LSTM", "GRU", "RNN", "stack", "reset before", "sizes", "sizes of h", "merged")
MORE = {
    "hard": lambda: fastlstm.LSTM(I, H, activations=[("HardSigmoid", 1 / 6, 0.5), "Softsign", "Softsign"]),
    "linear": lambda: fastlstm.GRU(
        I, H, 2, activations=["Sigmoid", ("Affine", 1.0, 0.0)], bidirectional=True, merge="sum"
    ),
    "relu": lambda: fastlstm.RNN(I, H, nonlinearity="relu", batch_first=True),
    "backwards": lambda: fastlstm.LSTM(I, H, reverse=True, reverse_order="processing"),
}


@pytest.mark.parametrize("kind", [*SAID, *MORE])
def test_a_layer_of_keras_computes_what_ours_does(kind):
    layer = MORE[kind]() if kind in MORE else build(kind)
    x = batch(layer)
    rows = x if layer.batch_first else x.swapaxes(0, 1)
    theirs = keras.ops.convert_to_numpy(fastlstm.to_keras(layer)(rows))
    ours = layer(x)[0]
    np.testing.assert_allclose(theirs, ours if layer.batch_first else ours.swapaxes(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in FAMILY if kind not in SAID])
def test_what_keras_has_not_is_refused(kind):
    with pytest.raises(ValueError, match=r"^\w+: expected .*Keras"):
        fastlstm.to_keras(build(kind))


def a_model():
    inner = keras.Sequential(
        [L.Input((None, 3)), L.GRU(4, return_sequences=True), L.LSTM(5, return_sequences=True, name="deep")]
    )
    x = L.Input((None, 3))
    h = inner(x)
    h = L.Bidirectional(L.LSTM(6, return_sequences=True, recurrent_activation="hard_sigmoid"), name="bi")(h)
    h = L.LSTM(3, return_sequences=True, name="b", use_bias=False, activation="leaky_relu")(h)
    h = L.GRU(4, reset_after=False, go_backwards=True, return_sequences=True, name="a")(h)
    h = L.RNN(L.LSTMCell(3), return_sequences=True, name="cell")(h)
    h = L.RNN([L.GRUCell(3), L.GRUCell(2)], return_sequences=True, name="cells")(h)
    h = L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="ave", name="mean")(h)
    h = L.TimeDistributed(L.Dense(2))(h)
    return keras.Model(x, L.SimpleRNN(3, activation="relu", name="plain", return_sequences=True)(h))


ORDER = ("gru", "deep", "bi", "b", "a", "cell", "cells.0", "cells.1", "mean")


@pytest.mark.parametrize("form", ["a.keras", "a.h5", "a.weights.h5"])
def test_files_of_keras_are_read(form, rng, tmp_path):
    keras.utils.clear_session()
    model = a_model()
    for weight in model.weights:  # also biases, which are zero at first
        weight.assign(rng.uniform(-0.5, 0.5, weight.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (model.save_weights if "weights" in form else model.save)(tmp_path / form)
        read = fastlstm.load(tmp_path / form)
    x = rng.standard_normal((2, 7, 3)).astype(np.float32)
    if "weights" in form:  # which say no activations, directions or merging
        assert set(read.layers) == {*ORDER, "plain"}
        assert sum("says no activation" in note for note in read.notes) == 9
        return
    value = x
    for name in ORDER:
        value = read.layers[name](value)[0]
    dense = next(layer for layer in model.layers if isinstance(layer, L.TimeDistributed))
    value = read.layers["plain"](keras.ops.convert_to_numpy(dense(value)))[0]
    np.testing.assert_allclose(value, keras.ops.convert_to_numpy(model(x)), rtol=0, atol=3e-6)
    assert any("time_distributed" in name for name in read.arrays)
