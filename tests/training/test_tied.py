# SPDX-License-Identifier: BSD-3-Clause
"""A Dense whose weight is the table of an Embedding: one parameter in gradients, steps and copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from fastlstm.testing import gradcheck
from tests.problems.comparing import assert_same_bits

WORDS, F = 7, 4


def a_model(bias=True, dtype="float64", **options):
    embedding = fastlstm.Embedding(WORDS, F, dtype=dtype, rng=0, **options)
    lstm = fastlstm.LSTM(F, F, dtype=dtype, rng=1)
    return [embedding, lstm, fastlstm.Dense(F, WORDS, bias, tied=embedding, dtype=dtype, rng=2)]


def run(model, words, draws):
    """Forward and backward; what each layer got."""
    embedding, lstm, dense = model
    e = embedding.forward(words)
    h = lstm.forward(e.y)
    z = dense.forward(h.y)
    dz = draws.standard_normal(z.y.shape)
    embedding_dy = lstm_dy = dense.grads["weight"].copy()
    lstm_dy = z.backward(dz)
    by_dense = dense.grads["weight"] - embedding_dy
    e_dy, _ = h.backward(lstm_dy)
    e.backward(e_dy)
    return by_dense, e_dy, dz, h.y


def test_a_tied_weight_is_the_table_in_results_and_gradients(rng):
    model = embedding, lstm, dense = a_model()
    words = rng.integers(0, WORDS, (5, 3))
    y = lstm(embedding(words))[0]
    np.testing.assert_allclose(dense(y), y @ embedding.params["weight"].T + dense.params["bias"], rtol=1e-13)
    plain = fastlstm.Dense(F, WORDS, dtype="float64")
    plain.load_state_dict(dense.state_dict())
    assert_same_bits(dense(y), plain(y))
    by_dense, e_dy, dz, h = run(model, words, rng)
    expected = np.zeros((WORDS, F))
    np.add.at(expected, words, e_dy)
    from_dense = np.einsum("tbk,tbf->kf", dz, h)
    np.testing.assert_allclose(by_dense, from_dense, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(embedding.grads["weight"], expected + from_dense, rtol=1e-12, atol=1e-14)
    assert np.shares_memory(dense.grads["weight"], embedding.flat_grads)
    np.testing.assert_allclose(dense.grads["bias"], dz.sum((0, 1)), rtol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_tied_model_are_derivatives(bias):
    words = np.random.default_rng(3).integers(0, WORDS, (4, 2))
    assert gradcheck(a_model(bias), words, samples=100)
    assert gradcheck(a_model(bias, "float32"), words, samples=100)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_an_optimiser_steps_a_tied_weight_once_by_both_gradients(kind, bias, rng):
    model = embedding, _lstm, dense = a_model(bias)
    words = rng.integers(0, WORDS, (5, 3))
    optimizer = kind(model, 0.1)
    twin = fastlstm.Embedding(WORDS, F, dtype="float64")
    twin.load_state_dict(embedding.state_dict())
    alone = kind(twin, 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        assert not any(value.any() for value in dense.grads.values())
        run(model, words, rng)
        twin.flat_grads[...] = embedding.flat_grads
        optimizer.step()
        alone.step()
        assert_same_bits(embedding.flat_params, twin.flat_params)
        assert_same_bits(dense.params["weight"], twin.params["weight"])
    norm = np.sqrt(sum(np.square(layer.flat_grads).sum() for layer in model))
    assert optim.clip_grad_norm(model, 1e9) == pytest.approx(norm, rel=1e-12)
    assert dense.flat_params.size == (WORDS if bias else 0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_model_keep_the_tie(duplicate, rng):
    model = a_model()
    twins = duplicate(model)
    assert twins[2].tied is twins[0]
    assert twins[0] is not model[0]
    with twins[0].editing() as flat:
        flat += 1
    assert_same_bits(twins[2].params["weight"], twins[0].params["weight"])
    assert not np.array_equal(twins[2].params["weight"], model[2].params["weight"])
    alone = duplicate(model[2])
    assert alone.tied is not model[0]
    assert_same_bits(alone(np.ones((2, F))), model[2](np.ones((2, F))))
    shared = copy.copy(model[2])
    assert shared.tied is model[0]


def test_loading_either_layer_loads_both():
    embedding, _, dense = a_model()
    _, _, other = a_model()
    new = {name: value + 1 for name, value in dense.state_dict().items()}
    assert list(new) == ["weight", "bias"]
    dense.load_state_dict(new)
    assert_same_bits(embedding.state_dict()["weight"], new["weight"])
    assert_same_bits(dense.state_dict()["bias"], new["bias"])
    embedding.load_state_dict({"weight": new["weight"] * 2})
    assert_same_bits(dense.params["weight"], new["weight"] * 2)
    before = embedding.flat_params, dense.flat_params
    for bad in (
        {"weight": new["weight"], "bias": np.ones(2)},
        {"weight": np.ones(2), "bias": new["bias"]},
        {},
    ):
        with pytest.raises(ValueError, match=r"expected"):
            dense.load_state_dict(bad)
        assert (embedding.flat_params, dense.flat_params) == before or (
            embedding.flat_params is before[0] and dense.flat_params is before[1]
        )
    assert dense.load_state_dict({"bias": new["bias"]}, strict=False) == (["weight"], [])
    assert embedding.flat_params is before[0]
    both = embedding.state_dict(prefix="in.") | dense.state_dict(prefix="out.")
    other.load_state_dict(both, prefix="out.")
    other.tied.load_state_dict(both, prefix="in.")
    assert_same_bits(other.params["weight"], dense.params["weight"])


def test_a_tape_is_for_the_parameters_of_both():
    embedding, _, dense = a_model()
    for change in (embedding, dense):
        tape = dense.forward(np.ones((2, F)))
        with change.editing() as flat:
            flat += 0.5
        with pytest.raises(RuntimeError, match=r"others since"):
            tape.backward(np.ones((2, WORDS)))
    dense.forward(np.ones((2, F))).backward(np.ones((2, WORDS)))


@pytest.mark.parametrize(
    ("tied", "error", "message"),
    [
        (3, TypeError, "tied: expected an Embedding or None, got int"),
        (fastlstm.Dense(WORDS, F), TypeError, "tied: expected an Embedding"),
        (fastlstm.Embedding(F, WORDS), ValueError, "tied: expected an Embedding of 7 rows"),
        (
            fastlstm.Embedding(WORDS, F, dtype="float64"),
            ValueError,
            "tied: expected an Embedding of dtype float32",
        ),
    ],
)
def test_what_cannot_be_tied(tied, error, message):
    with pytest.raises(error, match=message):
        fastlstm.Dense(F, WORDS, tied=tied)


# ---- Rows that stand for no word -------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 3, -1])
def test_a_padding_row_is_zero_and_gets_no_gradient(padding, rng):
    layer = fastlstm.Embedding(WORDS, F, padding, dtype="float64", rng=0)
    row = padding % WORDS
    assert layer.padding_idx == row
    plain = fastlstm.Embedding(WORDS, F, dtype="float64", rng=0)
    expected = plain.state_dict()["weight"]
    expected[row] = 0
    assert_same_bits(layer.state_dict()["weight"], expected)
    words = np.r_[row, rng.integers(0, WORDS, 30), row]
    dy = rng.standard_normal((32, F))
    for each in (layer, plain):
        each.forward(words).backward(dy)
    gradient = plain.grads["weight"].copy()
    gradient[row] = 0
    assert_same_bits(layer.grads["weight"], gradient)
    layer.grads["weight"][row] = 5  # of another part of the program: it stays
    layer.forward(words).backward(dy)
    assert (layer.grads["weight"][row] == 5).all()
    optim.Adam(layer, 0.1)
    for duplicate in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        assert duplicate(layer).padding_idx == row


def test_bad_padding_rows():
    for padding, error in ((WORDS, ValueError), (-WORDS - 1, ValueError), (1.0, TypeError), ("0", TypeError)):
        with pytest.raises(error, match=r"^padding_idx: expected"):
            fastlstm.Embedding(WORDS, F, padding)
