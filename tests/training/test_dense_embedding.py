# SPDX-License-Identifier: BSD-3-Clause
"""Dense and Embedding: results, gradients, initialisation, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits
from tests.problems.inside import set_chunk_of_embeddings

DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 3e-6, "float64": 1e-14}


# ---- Dense -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0,), (4, 0, 2)])
def test_dense_is_a_product_and_its_gradient(shape, bias, dtype, rng):
    layer = fastlstm.Dense(5, 3, bias, dtype=dtype, rng=rng)
    x, dy = (rng.standard_normal((*shape, n)).astype(dtype) for n in (5, 3))
    w = layer.params["weight"].astype(np.float64)
    expected = x.astype(np.float64) @ w.T + (layer.params["bias"] if bias else 0)
    tape = layer.forward(x)
    assert_same_bits(layer(x), tape.y)
    assert (tape.y.shape, tape.y.dtype) == ((*shape, 3), dtype)
    assert not tape.y.flags.writeable
    assert np.abs(tape.y - expected).max(initial=0) <= TOLERANCE[dtype]
    assert tape.nbytes == tape.y.nbytes + x.nbytes
    dx = tape.backward(dy)
    assert (dx.shape, dx.dtype) == (x.shape, dtype)
    assert np.abs(dx - dy.astype(np.float64) @ w).max(initial=0) <= TOLERANCE[dtype]
    # Summed by hand, row by row.
    dw, db = np.zeros((3, 5)), np.zeros(3)
    for place in np.ndindex(shape):
        dw += np.outer(dy[place].astype(np.float64), x[place])
        db += dy[place]
    assert list(layer.grads) == ["weight", "bias"][: 1 + bias]
    assert np.abs(layer.grads["weight"] - dw).max() <= 2 * TOLERANCE[dtype]
    if bias:
        assert np.abs(layer.grads["bias"] - db).max() <= 2 * TOLERANCE[dtype]


def test_dense_takes_anything_that_can_be_cast(rng):
    layer = fastlstm.Dense(4, 3, rng=0)
    x = rng.integers(-5, 5, (6, 4))
    expected = layer(x.astype(np.float32))
    wide = np.zeros((6, 8), np.float32)
    wide[:, ::2] = x
    for given in (x, x.tolist(), x.astype(">f8"), np.asfortranarray(x.astype(np.float32)), wide[:, ::2]):
        assert_same_bits(layer(given), expected)
        tape = layer.forward(given)
        assert_same_bits(tape.y, expected)
        assert tape.backward(np.ones((6, 3), int)).shape == (6, 4)


def test_dense_keeps_its_own_input():
    """The gradient is that of the call, also if the caller has written to x meanwhile."""
    for make in (np.array, lambda a: np.array(a)[::1], lambda a: np.array(a).T.copy().T):
        layer = fastlstm.Dense(2, 1, bias=False, rng=0)
        x = make(np.float32([[1, 2], [3, 4]]))
        tape = layer.forward(x)
        x[...] = np.nan
        tape.backward([[1], [1]])
        np.testing.assert_array_equal(layer.grads["weight"], [[4, 6]])


# ---- Embedding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (70,), (13, 5), (2, 3, 4), (0,), (4, 0)])
@pytest.mark.parametrize("features", [1, 7])
def test_embedding_is_a_choice_of_rows_and_its_gradient(shape, features, dtype, rng):
    layer = fastlstm.Embedding(6, features, dtype=dtype, rng=rng)
    x = rng.integers(0, 6, shape)
    tape = layer.forward(x)
    assert_same_bits(layer(x), tape.y)
    assert (tape.y.shape, tape.y.dtype) == ((*shape, features), dtype)
    assert not tape.y.flags.writeable
    for place in np.ndindex(shape):
        assert_same_bits(tape.y[place], layer.params["weight"][x[place]])
    assert tape.nbytes == tape.y.nbytes + x.nbytes
    dy = rng.standard_normal(tape.y.shape).astype(dtype)
    assert tape.backward(dy) is None
    expected = np.zeros((6, features))
    for place in np.ndindex(shape):
        expected[x[place]] += dy[place]
    assert np.abs(layer.grads["weight"] - expected).max() <= 3 * TOLERANCE[dtype]


def test_gradients_of_an_embedding_are_summed_in_order_and_in_chunks(monkeypatch, rng):
    """The same bits as a loop, wherever chunks end."""
    x, dy = rng.integers(0, 5, 101), rng.standard_normal((101, 3)).astype(np.float32)
    expected = np.zeros((5, 3), np.float32)
    for index, row in zip(x, dy, strict=True):
        expected[index] += row
    for chunk in (1, 3, 10, 300, 303, 2**18):
        set_chunk_of_embeddings(monkeypatch, chunk)
        layer = fastlstm.Embedding(5, 3, rng=0)
        layer.forward(x).backward(dy)
        assert_same_bits(layer.grads["weight"], expected, chunk)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i2"])
def test_embedding_takes_integers_of_any_kind(dtype):
    layer = fastlstm.Embedding(6, 2, rng=0)
    x = np.array([[0, 5], [3, 3]])
    tape = layer.forward(x.astype(dtype))
    assert_same_bits(tape.y, layer.params["weight"][x])
    tape.backward(np.ones((2, 2, 2)))
    np.testing.assert_array_equal(layer.grads["weight"][:, 0], [1, 0, 0, 2, 0, 1])
    assert_same_bits(layer([3])[0], layer(3))


def test_an_embedding_keeps_its_own_indices():
    layer, x = fastlstm.Embedding(6, 2, rng=0), np.array([1, 1])
    tape = layer.forward(x)
    x[...] = 4
    tape.backward(np.ones((2, 2)))
    assert np.flatnonzero(layer.grads["weight"][:, 0]).tolist() == [1]


# ---- Both --------------------------------------------------------------------------------------------------


def test_parameters_are_drawn_as_torch_draws_them():
    for dtype in DTYPES:
        flat = fastlstm.Dense(100, 300, dtype=dtype, rng=0).flat_params
        assert 0.0999 < np.abs(flat).max() <= 0.1
        assert flat.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.03)
        flat = fastlstm.Embedding(100, 300, dtype=dtype, rng=0).flat_params
        assert flat.mean() == pytest.approx(0, abs=0.02)
        assert flat.std() == pytest.approx(1, rel=0.02)
        assert np.abs(flat).max() > 3
        assert flat.dtype == dtype
    dense, embedding = fastlstm.Dense(4, 3), fastlstm.Embedding(4, 3)
    assert {name: value.shape for name, value in dense.params.items()} == {"weight": (3, 4), "bias": (3,)}
    assert {name: value.shape for name, value in embedding.params.items()} == {"weight": (4, 3)}
    assert list(fastlstm.Dense(4, 3, False).params) == ["weight"]


def test_attributes_are_what_was_asked_for():
    dense = fastlstm.Dense(4, 3, False, dtype=np.float64)
    assert (dense.in_features, dense.out_features, dense.bias, dense.dtype) == (4, 3, False, np.float64)
    embedding = fastlstm.Embedding(4, 3)
    assert (embedding.num_embeddings, embedding.embedding_dim, embedding.dtype) == (4, 3, np.float32)
    assert not hasattr(embedding, "bias")
    assert repr(dense) == "Dense(in_features=4, out_features=3, bias=False, dtype=float64)"
    assert repr(embedding) == "Embedding(num_embeddings=4, embedding_dim=3, dtype=float32)"
    for layer, names in (
        (dense, ("in_features", "out_features", "bias", "dtype")),
        (embedding, ("num_embeddings", "embedding_dim", "dtype")),
    ):
        for name in names:
            with pytest.raises(AttributeError):
                setattr(layer, name, getattr(layer, name))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fastlstm.Dense(0, 3), ValueError, "in_features: expected at least 1, got 0"),
        (lambda: fastlstm.Dense(3, 1.5), TypeError, "out_features: expected an integer, got float"),
        (lambda: fastlstm.Dense(3, 3, 1), TypeError, "bias: expected a bool, got int"),
        (lambda: fastlstm.Dense(3, 3, dtype=int), ValueError, "dtype: expected float32 or float64"),
        (lambda: fastlstm.Dense(3, 3, rng="a"), (TypeError, ValueError), "rng: expected"),
        (lambda: fastlstm.Dense(2**40, 2**40), OverflowError, "in_features, out_features: expected"),
        (lambda: fastlstm.Embedding(-1, 3), ValueError, "num_embeddings: expected at least 1, got -1"),
        (lambda: fastlstm.Embedding(3, True), TypeError, "embedding_dim: expected an integer, got bool"),
        (lambda: fastlstm.Embedding(2**40, 2**40), OverflowError, "num_embeddings, embedding_dim: expected"),
        (lambda: fastlstm.Embedding(3, 3, dtype="f2"), ValueError, "dtype: expected float32 or float64"),
    ],
)
def test_bad_arguments_of_constructors_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


DENSE, EMBEDDING = fastlstm.Dense(4, 3, rng=0), fastlstm.Embedding(4, 3, rng=0)


@pytest.mark.parametrize(
    ("layer", "x", "error", "message"),
    [
        (DENSE, np.ones((2, 3)), ValueError, r"x: expected shape \(..., 4\), got \(2, 3\)"),
        (DENSE, 1.0, ValueError, r"x: expected shape \(..., 4\), got \(\)"),
        (DENSE, np.ones(4, complex), TypeError, "x: expected real numbers, got dtype complex128"),
        (DENSE, np.ma.ones(4), TypeError, "x: expected an array without a mask"),
        (DENSE, [[1], [2, 3]], TypeError, "x: expected an array, or a list of arrays for sequences, got "),
        (EMBEDDING, [0, 4], ValueError, r"x\[1\]: expected an index from 0 to 3, got 4"),
        (EMBEDDING, [[0, -1]], ValueError, r"x\[0, 1\]: expected an index from 0 to 3, got -1"),
        (EMBEDDING, 7, ValueError, "x: expected an index from 0 to 3, got 7"),
        (EMBEDDING, [1.0], TypeError, "x: expected integers, got dtype float64"),
        (EMBEDDING, [True], TypeError, "x: expected integers, got dtype bool"),
        (
            EMBEDDING,
            np.uint64(2**64 - 1),
            ValueError,
            "x: expected an index from 0 to 3, got 18446744073709551615",
        ),
    ],
)
def test_bad_inputs_are_named(layer, x, error, message):
    for call in (layer, layer.forward):
        with pytest.raises(error, match=message):
            call(x)


@pytest.mark.parametrize(
    "make", [lambda: fastlstm.Dense(4, 3, rng=0), lambda: fastlstm.Embedding(4, 3, rng=0)]
)
def test_a_bad_gradient_changes_nothing_and_the_tape_stays(make):
    layer = make()
    x = np.array([1, 2]) if isinstance(layer, fastlstm.Embedding) else np.ones((2, 4))
    tape = layer.forward(x)
    for dy, error, message in (
        (np.ones((2, 4)), ValueError, r"dy: expected shape \(2, 3\), got \(2, 4\)"),
        (np.ones(3), ValueError, r"dy: expected shape \(2, 3\), got \(3,\)"),
        (None, TypeError, "dy: expected (real numbers|an array)"),
        ([["a"] * 3] * 2, TypeError, "dy: expected (real numbers|an array)"),
    ):
        with pytest.raises(error, match=message):
            tape.backward(dy)
        assert not layer.flat_grads.any()
    tape.backward(np.ones((2, 3)))
    once = layer.flat_grads.copy()
    assert once.any()
    with pytest.raises(RuntimeError, match="one backward for each forward, got a second"):
        tape.backward(np.ones((2, 3)))
    assert_same_bits(layer.flat_grads, once)


@pytest.mark.parametrize("kind", [fastlstm.Dense, fastlstm.Embedding])
def test_a_layer_without_init_is_an_error(kind):
    empty = kind.__new__(kind)
    for use in (
        lambda: empty(np.ones((2, 3), int)),
        lambda: empty.dtype,
        lambda: empty.flat_grads,
        empty.state_dict,
    ):
        with pytest.raises(RuntimeError, match="__init__ has not been called"):
            use()
