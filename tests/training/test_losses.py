# SPDX-License-Identifier: BSD-3-Clause
"""Losses: values by hand, gradients against central differences, and that padding is not looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastlstm import losses

STEP = 1e-6


def cross_entropy_by_hand(logits, targets, counts):
    """Step by step, with numbers of Python."""
    values = []
    for place in np.argwhere(counts):
        row = [float(a) for a in logits[tuple(place)]]
        top = max(row)
        total = math.fsum(math.exp(a - top) for a in row)
        values.append(math.log(total) + top - row[int(targets[tuple(place)])])
    return math.fsum(values) / len(values) if values else 0.0


def mse_by_hand(y, target, counts):
    values = [(float(y[tuple(p)]) - float(target[tuple(p)])) ** 2 for p in np.argwhere(counts)]
    return math.fsum(values) / len(values) if values else 0.0


def counted(T, B, lengths, mask, batch_first):
    """Which steps count, as (T, B), or (B, T) if `batch_first`."""
    counts = np.ones((T, B), bool)
    if lengths is not None:
        counts &= np.arange(T)[:, None] < np.asarray(lengths)
    counts = counts.T if batch_first else counts
    return counts if mask is None else counts & mask


def assert_is_gradient(loss, y, gradient):
    """Every element, where the value is that of float64."""
    expected = np.zeros(y.shape)
    for place in np.ndindex(y.shape):
        moved = [y.copy(), y.copy()]
        moved[0][place] += STEP
        moved[1][place] -= STEP
        expected[place] = (loss(moved[0])[0] - loss(moved[1])[0]) / (2 * STEP)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


OPTIONS = [
    (has_lengths, has_mask, batch_first)
    for has_lengths in (False, True)
    for has_mask in (False, True)
    for batch_first in (False, True)
]


@pytest.mark.parametrize(("has_lengths", "has_mask", "batch_first"), OPTIONS)
def test_cross_entropy_and_its_gradient(has_lengths, has_mask, batch_first, rng):
    T, B, K = 5, 4, 3
    shape = (B, T) if batch_first else (T, B)
    logits, targets = 3 * rng.standard_normal((*shape, K)), rng.integers(0, K, shape)
    lengths = np.array([0, 1, 5, 3]) if has_lengths else None
    mask = rng.random(shape) < 0.6 if has_mask else None
    counts = counted(T, B, lengths, mask, batch_first)

    def loss(logits):
        return losses.softmax_cross_entropy(
            logits, targets, lengths=lengths, mask=mask, batch_first=batch_first
        )

    value, gradient = loss(logits)
    assert type(value) is float
    assert value == pytest.approx(cross_entropy_by_hand(logits, targets, counts), rel=1e-14)
    assert_is_gradient(loss, logits, gradient)
    assert not gradient[~counts].any()
    # What does not count is not looked at, in neither argument.
    expected = value, gradient
    logits[~counts], targets[~counts] = np.nan, -99
    got = loss(logits)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize(("has_lengths", "has_mask", "batch_first"), OPTIONS)
def test_mse_and_its_gradient(has_lengths, has_mask, batch_first, by_step, rng):
    T, B, F = 5, 4, 3
    shape = (B, T) if batch_first else (T, B)
    y, target = rng.standard_normal((2, *shape, F))
    lengths = [0, 1, 5, 3] if has_lengths else None
    mask = rng.random(shape if by_step else (*shape, F)) < 0.6 if has_mask else None
    steps = counted(T, B, lengths, None, batch_first)
    counts = np.repeat(steps[..., None], F, axis=-1)
    if mask is not None:
        counts &= mask[..., None] if by_step else mask

    def loss(y):
        return losses.mse(y, target, lengths=lengths, mask=mask, batch_first=batch_first)

    value, gradient = loss(y)
    assert type(value) is float
    assert value == pytest.approx(mse_by_hand(y, target, counts), rel=1e-14)
    assert_is_gradient(loss, y, gradient)
    expected = value, gradient
    y[~counts], target[~counts] = np.nan, np.inf
    got = loss(y)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])
    assert not got[1][~counts].any()


def test_values_by_hand():
    value, gradient = losses.softmax_cross_entropy([[math.log(3), 0.0]], [1])
    assert value == pytest.approx(math.log(4), rel=1e-15)
    np.testing.assert_allclose(gradient, [[0.75, -0.75]], rtol=1e-15)
    value, gradient = losses.mse([1.0, 2.0], [0.0, 4.0])
    assert value == 2.5
    np.testing.assert_array_equal(gradient, [1.0, -2.0])


def test_one_sequence_and_one_step(rng):
    logits, targets = rng.standard_normal((6, 3)), rng.integers(0, 3, 6)
    for lengths in ([4], 4, np.array([4], np.int8)):
        value, gradient = losses.softmax_cross_entropy(logits, targets, lengths=lengths)
        expected, part = losses.softmax_cross_entropy(logits[:4], targets[:4])
        assert value == expected
        np.testing.assert_array_equal(gradient, np.concatenate([part, np.zeros((2, 3))]))
        first = losses.softmax_cross_entropy(logits, targets, lengths=lengths, batch_first=True)
        np.testing.assert_array_equal(first[1], gradient)
        value, gradient = losses.mse(logits, logits + 1, lengths=lengths)
        assert value == pytest.approx(1, rel=1e-14)
        assert not gradient[4:].any()
    value, gradient = losses.softmax_cross_entropy(logits[0], targets[0])
    assert value == losses.softmax_cross_entropy(logits[:1], targets[:1])[0]
    assert gradient.shape == (3,)
    assert losses.mse(3.0, 1.0) == (4.0, 4.0)


def test_where_nothing_counts_the_value_is_zero():
    nan = np.full((3, 2, 4), np.nan)
    targets = np.full((3, 2), -1)
    for options in ({"lengths": [0, 0]}, {"mask": np.zeros((3, 2), bool)}):
        for loss, target in ((losses.softmax_cross_entropy, targets), (losses.mse, nan)):
            value, gradient = loss(nan, target, **options)
            assert value == 0.0
            assert gradient.shape == nan.shape
            assert not gradient.any()
    value, gradient = losses.softmax_cross_entropy(np.ones((0, 2, 4)), np.ones((0, 2), int))
    assert (value, gradient.shape) == (0.0, (0, 2, 4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_have_the_dtype_of_their_argument(dtype, rng):
    logits = rng.standard_normal((3, 2, 4)).astype(dtype)
    targets = rng.integers(0, 4, (3, 2), np.int16)
    value, gradient = losses.softmax_cross_entropy(logits, targets)
    assert gradient.dtype == dtype
    truth, exact = losses.softmax_cross_entropy(logits.astype(np.longdouble), targets)
    eps = float(np.finfo(dtype).eps)
    assert value == pytest.approx(truth, rel=4 * eps)
    assert np.abs(gradient - exact).max() <= 2 * eps
    value, gradient = losses.mse(logits, np.zeros((3, 2, 4)))
    assert gradient.dtype == dtype
    assert losses.mse([1, 2], [0, 0])[1].dtype == np.float64


def test_large_logits_neither_overflow_nor_lose_the_gradient():
    for dtype, large in ((np.float32, 3e38), (np.float64, 1e308)):
        with np.errstate(all="raise"):
            value, gradient = losses.softmax_cross_entropy(np.array([[large, -large, 0]], dtype)[:, ::2], [0])
        assert value == 0
        np.testing.assert_array_equal(gradient, [[0, 0]])
    # Where softmax is 1 - 1e-12, float64 itself would keep four digits of 1 - softmax, and float32 none.
    for dtype, small in ((np.float32, 1e-8), (np.float64, 1e-12)):
        logits = np.array([[0, np.log(small)]], dtype)
        value, gradient = losses.softmax_cross_entropy(logits, [0])
        assert value == pytest.approx(math.log1p(small), rel=30 * float(np.finfo(dtype).eps))
        part = small / (1 + small)
        np.testing.assert_allclose(gradient, [[-part, part]], rtol=30 * np.finfo(dtype).eps)


def test_what_is_not_finite_shows():
    for bad in (np.nan, np.inf):
        logits = np.zeros((3, 1, 2))
        logits[1, 0, 0] = bad
        value, gradient = losses.softmax_cross_entropy(logits, np.zeros((3, 1), int))
        assert math.isnan(value)
        assert np.isnan(gradient[1]).all()
        assert np.isfinite(gradient[::2]).all()
        value, gradient = losses.mse(logits, np.zeros((3, 1, 2)))
        assert not math.isfinite(value)
        assert not np.isfinite(gradient[1, 0, 0])


def test_nothing_given_is_modified(rng):
    logits, targets = rng.standard_normal((5, 2, 3)), rng.integers(0, 3, (5, 2))
    target = rng.standard_normal((5, 2, 3))
    for a in (logits, targets, target):
        a.flags.writeable = False
    losses.softmax_cross_entropy(logits, targets, lengths=[2, 5])
    value, gradient = losses.mse(logits, target)
    gradient[...] = 0
    assert losses.mse(logits, target)[0] == value


LOGITS, TARGETS = np.zeros((4, 2, 3)), np.zeros((4, 2), int)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": np.zeros(())}, ValueError, r"logits: expected shape \(..., K\)"),
        ({"logits": np.zeros((4, 2, 0))}, ValueError, "logits: expected shape"),
        (
            {"logits": np.zeros((4, 2, 3), complex)},
            TypeError,
            "logits: expected real numbers, got dtype complex",
        ),
        ({"logits": np.ma.zeros((4, 2, 3))}, TypeError, "logits: expected an array without a mask"),
        ({"targets": np.zeros((4, 2))}, TypeError, "targets: expected integers, got dtype float64"),
        ({"targets": np.zeros((2, 4), int)}, ValueError, r"targets: expected shape \(4, 2\), got \(2, 4\)"),
        ({"targets": TARGETS + 3}, ValueError, r"targets\[0, 0\]: expected an index from 0 to 2, got 3"),
        ({"targets": TARGETS - 1}, ValueError, r"targets\[0, 0\]: expected an index from 0 to 2, got -1"),
        ({"lengths": [1, 2, 3]}, ValueError, r"lengths: expected shape \(2,\), got \(3,\)"),
        ({"lengths": [1, 5]}, ValueError, r"lengths\[1\]: expected an integer from 0 to T = 4, got 5"),
        ({"lengths": [-1, 4]}, ValueError, r"lengths\[0\]: expected an integer from 0 to T = 4, got -1"),
        ({"lengths": [1.5, 2.0]}, ValueError, r"lengths\[0\]: expected an integer from 0 to T = 4, got 1.5"),
        ({"lengths": [1, 3], "batch_first": True}, ValueError, r"lengths: expected shape \(4,\), got \(2,\)"),
        ({"mask": np.ones((4, 2), int)}, TypeError, "mask: expected booleans, got dtype int64"),
        ({"mask": np.ones((2, 4), bool)}, ValueError, r"mask: expected shape \(4, 2\), got \(2, 4\)"),
    ],
)
def test_bad_arguments_of_cross_entropy_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        losses.softmax_cross_entropy(**({"logits": LOGITS, "targets": TARGETS} | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"y": ["a"]}, TypeError, "y: expected real numbers"),
        ({"target": np.zeros((4, 2))}, ValueError, r"target: expected shape \(4, 2, 3\), got \(4, 2\)"),
        ({"target": [None]}, TypeError, r"target\[0\]: expected an array, got None"),
        ({"lengths": [1, 5]}, ValueError, r"lengths\[1\]: expected an integer from 0 to T = 4, got 5"),
        (
            {"mask": np.ones((4, 2, 1), bool)},
            ValueError,
            r"mask: expected shape \(4, 2, 3\), got \(4, 2, 1\)",
        ),
        ({"mask": np.ones((2, 4), bool)}, ValueError, r"mask: expected shape \(4, 2\), got \(2, 4\)"),
        (
            {"y": np.zeros((1, 4, 2, 3)), "target": np.zeros((1, 4, 2, 3)), "lengths": [1, 2]},
            ValueError,
            "y: expected 2 or 3 dimensions where lengths are given, got 4",
        ),
    ],
)
def test_bad_arguments_of_mse_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        losses.mse(**({"y": LOGITS, "target": LOGITS} | changes))


# ---- Weights of classes, smoothing, targets that do not count --------------------------------------------


def as_torch_has_it(logits, targets, ignore, weight, smoothing):
    """The definition of torch.nn.functional.cross_entropy, in float64, step by step."""
    above = below = 0.0
    K = logits.shape[-1]
    w = np.ones(K) if weight is None else np.asarray(weight)
    for z, target in zip(np.float64(logits).reshape(-1, K), targets.reshape(-1), strict=True):
        if target == ignore:
            continue
        minus_log_p = math.log(math.fsum(np.exp(z - z.max()))) + z.max() - z
        above += (1 - smoothing) * w[target] * minus_log_p[target] + smoothing / K * math.fsum(
            w * minus_log_p
        )
        below += w[target]
    return above / below


EXTRAS = [
    {"ignore_index": -100},
    {"ignore_index": 2},
    {"weight": [0.5, 2.0, 0.0, 1.0, 3.0]},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"ignore_index": 4, "weight": [0.5, 2.0, 0.25, 1.0, 3.0], "label_smoothing": 0.3},
]


@pytest.mark.parametrize("extra", EXTRAS, ids=str)
def test_weights_smoothing_and_targets_that_do_not_count(extra, rng):
    logits, targets = 3 * rng.standard_normal((6, 3, 5)), rng.integers(0, 5, (6, 3))
    ignore = extra.get("ignore_index")
    if ignore == -100:
        targets[rng.random(targets.shape) < 0.4] = ignore
    arguments = ignore, extra.get("weight"), extra.get("label_smoothing", 0.0)

    def loss(logits):
        return losses.softmax_cross_entropy(logits, targets, **extra)

    value, gradient = loss(logits)
    assert value == pytest.approx(as_torch_has_it(logits, targets, *arguments), rel=1e-13)
    assert_is_gradient(loss, logits, gradient)
    assert not gradient[targets == ignore].any()
    logits[targets == ignore] = np.nan
    assert losses.softmax_cross_entropy(logits, targets, **extra)[0] == value
    single, of_single = losses.softmax_cross_entropy(np.float32(logits), targets, **extra)
    assert of_single.dtype == np.float32
    assert single == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(of_single, gradient, rtol=1e-3, atol=1e-6)


def test_what_is_said_and_the_usual_is_as_nothing_said(rng):
    logits, targets = rng.standard_normal((4, 5)), rng.integers(0, 5, 4)
    plain = losses.softmax_cross_entropy(logits, targets)
    for extra in ({"ignore_index": -1}, {"label_smoothing": 0}, {"weight": np.ones(5)}):
        value, gradient = losses.softmax_cross_entropy(logits, targets, **extra)
        assert value == plain[0]
        np.testing.assert_array_equal(gradient, plain[1])
    lengths = losses.softmax_cross_entropy(logits, targets, lengths=[2], ignore_index=int(targets[0]))
    counts = (np.arange(4) < 2) & (targets != targets[0])
    assert lengths[0] == pytest.approx(cross_entropy_by_hand(logits, targets, counts))


def test_where_no_target_counts_the_value_is_zero(rng):
    logits, targets = rng.standard_normal((4, 3)), np.zeros(4, int)
    for extra in ({"ignore_index": 0}, {"weight": [0, 1, 1]}, {"weight": [0, 1, 1], "label_smoothing": 0.5}):
        value, gradient = losses.softmax_cross_entropy(logits, targets, **extra)
        assert value == 0.0
        assert not gradient.any()


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"ignore_index": 1.0}, TypeError, "ignore_index: expected an integer"),
        ({"ignore_index": True}, TypeError, "ignore_index: expected an integer"),
        ({"weight": [1, 2]}, ValueError, r"weight: expected shape \(3,\), got \(2,\)"),
        ({"weight": [1, -2, 1]}, ValueError, r"weight\[1\]: expected a finite number"),
        ({"weight": [1, 2, np.nan]}, ValueError, r"weight\[2\]"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing"),
        ({"label_smoothing": "0"}, TypeError, "label_smoothing"),
        ({}, ValueError, r"targets\[1\]: expected an index from 0 to 2, got -100"),
    ],
)
def test_extras_that_do_not_fit(extra, error, message):
    with pytest.raises(error, match=message):
        losses.softmax_cross_entropy(np.zeros((2, 3)), [0, -100], **extra)


@pytest.mark.parametrize("state", ["raise", "warn"])
def test_losses_do_not_look_at_numpys_error_state(state):
    logits = np.float32([[3e38, -3e38, 0], [1e-45, 0, -1e-45]])
    expected = losses.softmax_cross_entropy(logits, [1, 0]), losses.mse(logits, -logits)
    with np.errstate(all=state):
        found = losses.softmax_cross_entropy(logits, [1, 0]), losses.mse(logits, -logits)
    for (a, da), (b, db) in zip(expected, found, strict=True):
        assert a == b
        np.testing.assert_array_equal(da, db)
