# SPDX-License-Identifier: BSD-3-Clause
"""Dense: every size, the same bits, denormals, what a tape keeps, batches of sequences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastlstm
from fastlstm import optim
from tests.problems.children import FUSED_ISAS, announce, in_child
from tests.problems.comparing import assert_same_bits, digest
from tests.problems.presenting import variants_of

TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
# Numbers of features on either side of vectors, panels and partial sums, and of rows of tiles and stretches.
WIDTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 64, 65, 70, 129, 200)
ROWS = (1, 2, 5, 6, 7, 8, 9, 24, 25, 63, 64, 65, 255, 257)


def drawn(rows, inputs, outputs, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, n)).astype(dtype) for n in (inputs, outputs))


def passed(layer, x, dy):
    """y, dx and all gradients."""
    layer.zero_grad()
    tape = layer.forward(x)
    dx = tape.backward(dy)
    assert_same_bits(layer(x), tape.y)
    return tape.y, dx, layer.flat_grads.copy()


def check(layer, x, dy):
    """Against float64; errors are relative to sums of sizes."""
    y, dx, flat = passed(layer, x, dy)
    weight, bias = (layer.params[name].astype(np.float64) for name in ("weight", "bias"))
    wide_x, wide_dy = x.astype(np.float64), dy.astype(np.float64)
    size = len(bias) * x.shape[1]
    for found, right, scale in (
        (y, wide_x @ weight.T + bias, np.abs(wide_x) @ np.abs(weight.T) + np.abs(bias)),
        (dx, wide_dy @ weight, np.abs(wide_dy) @ np.abs(weight)),
        (flat[:size].reshape(weight.shape), wide_dy.T @ wide_x, np.abs(wide_dy.T) @ np.abs(wide_x)),
        (flat[size:], wide_dy.sum(0), np.abs(wide_dy).sum(0)),
    ):
        assert (np.abs(found - right) <= TOLERANCE[str(x.dtype)] * scale).all()


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_size_is_right(dtype):
    for n, (inputs, outputs) in enumerate(itertools.product(WIDTHS, WIDTHS)):
        rows = ROWS[n % len(ROWS)]
        x, dy = drawn(rows, inputs, outputs, dtype, n)
        check(fastlstm.Dense(inputs, outputs, dtype=dtype, rng=n), x, dy)


@pytest.mark.parametrize("rows", [1023, 1024, 1025, 3000])
def test_many_rows_are_right(rows):
    x, dy = drawn(rows, 33, 70)
    check(fastlstm.Dense(33, 70, rng=0), x, dy)


def test_wide_layers_are_right():
    """Deeper than a panel takes at once, and more panels than rows."""
    for rows, inputs, outputs in ((40, 2500, 30), (40, 30, 2500), (3, 1200, 1100)):
        x, dy = drawn(rows, inputs, outputs)
        check(fastlstm.Dense(inputs, outputs, rng=0), x, dy)


def test_sums_over_many_rows_do_not_drift():
    x, dy = np.full((200_000, 2), 0.3, np.float32), np.full((200_000, 3), 0.1, np.float32)
    layer = fastlstm.Dense(2, 3, rng=0)
    layer.forward(x).backward(dy)
    for name, right in (
        ("weight", np.float64(x[0, 0]) * dy[0, 0] * 2e5),
        ("bias", np.float64(dy[0, 0]) * 2e5),
    ):
        np.testing.assert_allclose(layer.grads[name], right, rtol=1e-6)


# ---- The same bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(3, 70, 5000), (300, 70, 130), (2500, 40, 90), (1, 600, 900)]
)
def test_the_same_bits_on_any_number_of_threads(rows, inputs, outputs):
    layer = fastlstm.Dense(inputs, outputs, rng=0)
    x, dy = drawn(rows, inputs, outputs)
    found = set()
    for threads in (1, 2, 3, 7):
        with fastlstm.threads(threads):
            found.add(digest(*passed(layer, x, dy)))
    assert len(found) == 1


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_has_the_same_bits_alone_and_beside_others(dtype):
    layer = fastlstm.Dense(130, 75, dtype=dtype, rng=0)
    x, dy = drawn(40, 130, 75, dtype)
    y, dx, _ = passed(layer, x, dy)
    for part in (slice(0, 1), slice(7, 9), slice(30, 40)):
        alone = passed(layer, x[part], dy[part])
        assert_same_bits(alone[0], y[part])
        assert_same_bits(alone[1], dx[part])


def products_of_this_isa():
    found = []
    for dtype, (rows, inputs, outputs) in itertools.product(
        ("float32", "float64"), ((1, 5, 3), (9, 65, 17), (1030, 20, 40), (5, 3, 200), (7, 1100, 33))
    ):
        announce(dtype, rows, inputs, outputs)
        x, dy = drawn(rows, inputs, outputs, dtype)
        found.append(digest(*passed(fastlstm.Dense(inputs, outputs, dtype=dtype, rng=0), x, dy)))
    return found


def test_the_same_bits_on_every_instruction_set_with_fused_multiply_add():
    found = [in_child(products_of_this_isa, isa=isa) for isa in FUSED_ISAS]
    assert all(digests == found[0] for digests in found)


def test_weights_are_packed_anew_when_they_change():
    layer, (x, dy) = fastlstm.Dense(20, 30, rng=0), drawn(6, 20, 30)
    optimizer = optim.SGD(layer, 0.1)
    for change in (
        lambda: layer.load_state_dict({"weight": np.full((30, 20), 0.5), "bias": np.zeros(30)}),
        optimizer.step,
        optimizer.step,
        optimizer.step,
    ):
        passed(layer, x, dy)
        change()
        twin = fastlstm.Dense(20, 30)
        twin.load_state_dict(layer.state_dict())
        assert_same_bits(passed(layer, x, dy), passed(twin, x, dy))
    with layer.editing() as flat:
        flat[...] = 1
    assert_same_bits(layer(np.ones(20))[:1], np.float32([21]))


# ---- Numbers -----------------------------------------------------------------------------------------------


def test_denormals_count_as_zero():
    layer = fastlstm.Dense(20, 30, rng=0)
    tiny = np.full((6, 20), 1e-39, np.float32)
    assert_same_bits(layer(tiny), np.tile(layer.params["bias"], (6, 1)))
    dx = layer.forward(np.ones((6, 20), np.float32)).backward(np.full((6, 30), 1e-39, np.float32))
    assert not dx.any()
    assert not layer.flat_grads.any()
    assert np.float32(1e-39) * np.float32(0.5) != 0  # and the caller's arithmetic is as it was


def test_what_is_not_finite_stays_in_its_row():
    layer = fastlstm.Dense(20, 30, rng=0)
    x, dy = drawn(9, 20, 30)
    x[4, 3] = np.nan
    y, _, flat = passed(layer, x, dy)
    assert np.isnan(y[4]).all()
    assert np.isfinite(np.delete(y, 4, 0)).all()
    weight = flat[:600].reshape(30, 20)
    assert np.isnan(weight[:, 3]).all()
    assert np.isfinite(np.delete(weight, 3, 1)).all()


# ---- What a tape keeps -------------------------------------------------------------------------------------


class Series:
    """An object with `__array__` that gives its own memory."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


@pytest.mark.parametrize(
    "given",
    [
        lambda a: a,
        lambda a: a[:],
        lambda a: np.broadcast_to(a, a.shape),
        lambda a: a.view(),
        lambda a: memoryview(a),
        lambda a: Series(a),
        lambda a: a[::1, ::1],
        lambda a: np.frombuffer(a, np.float32).reshape(a.shape),
    ],
)
@pytest.mark.parametrize("is_locked", [False, True])
def test_a_tape_keeps_what_x_was(given, is_locked):
    a = np.ones((4, 3), np.float32)
    x = given(a)
    if is_locked and isinstance(x, np.ndarray) and x is not a:
        x.setflags(write=False)
    layer = fastlstm.Dense(3, 2, rng=0)
    tape = layer.forward(x)
    a[...] = 100
    tape.backward(np.ones((4, 2), np.float32))
    assert_same_bits(layer.grads["weight"], np.full((2, 3), 4, np.float32))


def test_results_of_tapes_are_not_copied():
    first, second = fastlstm.Dense(3, 4, rng=0), fastlstm.Dense(4, 2, rng=1)
    below = first.forward(np.ones((5, 6, 3), np.float32))
    assert np.shares_memory(second.forward(below.y)._x, below.y)
    with pytest.raises(ValueError, match="WRITEABLE"):
        below.y.flags.writeable = True


# ---- Batches of sequences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [list, tuple])
def test_a_batch_of_sequences_as_a_layer_returns_it(container):
    rng = np.random.default_rng(0)
    gru, dense = fastlstm.GRU(8, 5, rng=0), fastlstm.Dense(5, 2, rng=1)
    for lengths in ((4, 1, 7), (3, 3), (6,), (2, 0, 1)):
        y, _ = gru([rng.standard_normal((n, 8)).astype(np.float32) for n in lengths])
        z = dense(container(y))
        assert isinstance(z, list)
        tape, whole = dense.forward(container(y)), dense.forward(np.concatenate(y))
        for part, kept, rows in zip(z, tape.y, y, strict=True):
            assert_same_bits(part, dense(rows))
            assert_same_bits(kept, part)
            assert not kept.flags.writeable
        dz = [rng.standard_normal(part.shape).astype(np.float32) for part in z]
        dense.zero_grad()
        expected = whole.backward(np.concatenate(dz)), dense.flat_grads.copy()
        dense.zero_grad()
        dx = tape.backward(container(dz))
        assert [part.shape for part in dx] == [part.shape for part in y]
        assert_same_bits(np.concatenate(dx), expected[0])
        assert_same_bits(dense.flat_grads, expected[1])


def test_which_lists_are_one_array():
    dense, row = fastlstm.Dense(3, 2, rng=0), np.ones(3, np.float32)
    assert dense([1.0, 2.0, 3.0]).shape == (2,)
    assert dense([row, row]).shape == (2, 2)
    with pytest.raises(TypeError, match="got a list of arrays, which may be steps or sequences"):
        dense([[row, row]])
    assert dense([]) == []
    assert [part.shape for part in dense([np.ones((4, 3)), [[1, 2, 3]]])] == [(4, 2), (1, 2)]


@pytest.mark.parametrize(
    ("dy", "error", "message"),
    [
        (np.ones((2, 2)), TypeError, "dy: expected a list of 2 arrays, got ndarray"),
        ([np.ones((2, 2))], ValueError, "dy: expected a list of 2 arrays, got 1"),
        ([np.ones((2, 2)), np.ones((2, 2))], ValueError, r"dy\[1\]: expected shape \(3, 2\), got \(2, 2\)"),
        ([np.ones((2, 2)), None], TypeError, r"dy\[1\]: expected an array, got None"),
    ],
)
def test_bad_gradients_of_batches_are_named(dy, error, message):
    dense = fastlstm.Dense(3, 2, rng=0)
    with pytest.raises(ValueError, match=r"x\[1\]: expected shape \(..., 3\), got \(2, 4\)"):
        dense([np.ones((2, 3)), np.ones((2, 4))])
    tape = dense.forward([np.ones((2, 3)), np.ones((3, 3))])
    with pytest.raises(error, match=message):
        tape.backward(dy)
    assert not dense.flat_grads.any()
    tape.backward([np.ones((2, 2)), np.ones((3, 2))])


# ---- Forms of arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_form_of_the_same_numbers_gives_the_same_bits(dtype):
    layer = fastlstm.Dense(5, 3, dtype=dtype, rng=0)
    x, dy = (values.reshape(2, 4, -1) for values in drawn(8, 5, 3, dtype))
    expected = passed(layer, x, dy)
    for name, other in variants_of(x):
        assert_same_bits(passed(layer, other, dy), expected, name)
    for name, other in variants_of(dy):
        assert_same_bits(passed(layer, x, other), expected, name)
