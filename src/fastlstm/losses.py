# SPDX-License-Identifier: BSD-3-Clause
"""Losses: a value, and the gradient to give to ``tape.backward``.

Each is a mean over what counts.  What does not count, steps behind the end of a row or where a mask is
False, has a gradient of exactly 0 and is not looked at, NaN included.  Where nothing counts, the value is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .model.checks import (
    checked_index,
    checked_lengths,
    checked_one,
    checked_probability,
    checked_reals,
    checked_sequences,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["mse", "softmax_cross_entropy"]


def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    batch_first: bool = False,
    ignore_index: int | None = None,
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Any]:
    """Mean of ``-log softmax(logits)[target]`` over the steps that count, and its gradient.

    With n steps that count, the gradient is ``(softmax(logits) - onehot(target)) / n`` (Bishop, "Pattern
    Recognition and Machine Learning", 2006, equation 4.109).  With weights w of the classes and a label
    smoothing
    s, as ``torch.nn.functional.cross_entropy`` has them, it is with p = softmax(logits)::

        sum over steps ((1 - s) * w[target] * -log p[target] + s / K * sum over k (w[k] * -log p[k]))
            / sum over steps (w[target])

    Parameters
    ----------
    logits : array_like, (T, B, K), or (B, T, K) if `batch_first`; or (..., K) without `lengths`
        Scores of K classes, before the softmax.  Or a list of arrays (T_b, K), as a ragged call returns; then
        `targets`, `mask` and the gradient are lists, too, and there are no `lengths`.
    targets : array_like of integers, shaped as `logits` without K
        The right class of each step, from 0 to K - 1.
    lengths : array_like of integers, (B,), or (1,) where `logits` is (T, K), optional
        Steps of each row that count, 0 to T.
    mask : array_like of bool, shaped as `targets`, optional
        Which steps count; with `lengths`, those that count by both.
    batch_first : bool
        Whether the batch stands before the time; matters with `lengths` alone.
    ignore_index : int, optional
        Steps with this target do not count; it need be no class.  (PyTorch has -100 where nothing is said;
        here any target below 0 is an error then.)
    weight : array_like, (K,), optional
        How much each class counts, at least 0; None is 1.
    label_smoothing : float
        The part of each target that all classes share, from 0 to 1 (Szegedy et al., "Rethinking the Inception
        Architecture for Computer Vision", 2016).

    Returns
    -------
    value : float
        Summed in float64.
    dlogits : ndarray, or list of ndarray, shaped as `logits`
        Of the dtype of `logits` if that is floating, else float64.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """
    rows = _core.read_sequences(logits, "logits")
    if rows is not None:
        return _listed(softmax_cross_entropy, ("logits", "targets"), rows, targets, lengths, mask)
    scores = checked_reals(logits, "logits")
    if scores.ndim < 1 or scores.shape[-1] < 1:
        raise ValueError(f"logits: expected shape (..., K) with K at least 1, got {scores.shape}")
    classes = checked_one(targets, "targets")
    if classes.dtype.kind not in "iu":
        raise TypeError(f"targets: expected integers, got dtype {classes.dtype}")
    if classes.shape != scores.shape[:-1]:
        raise ValueError(f"targets: expected shape {scores.shape[:-1]}, got {classes.shape}")
    counts = _counted(scores.shape[:-1], lengths, mask, batch_first, "logits")
    if ignore_index is not None:
        counts = counts & (classes != checked_index(ignore_index, "ignore_index", None))
    weights = None if weight is None else _checked_weights(weight, scores.shape[-1])
    smoothing = checked_probability(label_smoothing, "label_smoothing")
    is_bad = counts & ((classes < 0) | (classes >= scores.shape[-1]))
    if is_bad.any():
        place = tuple(np.argwhere(is_bad)[0].tolist())
        raise ValueError(
            f"targets{list(place) if place else ''}: expected an index from 0 to {scores.shape[-1] - 1}, "
            f"got {classes[place]}"
        )

    dlogits = np.zeros(scores.shape, scores.dtype)
    number = int(counts.sum())
    picked, right = scores[counts], classes[counts][:, np.newaxis].astype(np.intp)
    own = None if weights is None else weights[right]
    scale = number if own is None else float(own.sum())
    if scale == 0:
        return 0.0, dlogits
    # A logit that is not finite gives NaN, as it should.
    with np.errstate(all="ignore"):
        most = picked.max(axis=1, keepdims=True)
        # In float64: between finite logits of float32 there may be more than float32 holds.
        score = np.take_along_axis(picked, right, axis=1).astype(np.float64) - most
        all_scores = _sum_of_classes(picked.astype(np.float64) - most, weights) if smoothing else 0.0
        picked -= most
        e = np.exp(picked, out=picked)
        right_e = np.take_along_axis(e, right, axis=1).astype(np.float64)
        # The others are summed apart: where the right class has nearly all, 1 - softmax keeps its digits so.
        np.put_along_axis(e, right, 0, axis=1)
        others = e.sum(axis=1, keepdims=True, dtype=np.float64)
        total = right_e + others
        each = np.where(right_e > others, np.log1p(others / right_e), np.log(total) - score)
        value = _mean(each if own is None else own * each, scale)
        gradient = e / (total * scale)
        np.put_along_axis(gradient, right, -others / (total * scale), axis=1)
        gradient = gradient if own is None else gradient * own
        if smoothing:
            all_weights = float(picked.shape[1] if weights is None else weights.sum())
            shared = float((all_weights * np.log(total) - all_scores).sum()) / scale
            share = smoothing / picked.shape[1]
            value = (1 - smoothing) * value + share * shared
            np.put_along_axis(e, right, right_e, axis=1)
            smooth = all_weights * (e / total) - (1 if weights is None else weights)
            gradient = (1 - smoothing) * gradient + share / scale * smooth
        dlogits[counts] = gradient
    return value, dlogits


def _sum_of_classes(scores: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[Any]:
    """Of each row (N, K), with its weight: (N, 1)."""
    weighted = scores if weights is None else scores * weights
    return np.asarray(weighted.sum(axis=1, keepdims=True, dtype=np.float64))


def _checked_weights(weight: ArrayLike, count: int) -> NDArray[Any]:
    weights = checked_reals(weight, "weight", np.dtype(np.float64))
    if weights.shape != (count,):
        raise ValueError(f"weight: expected shape ({count},), got {weights.shape}")
    is_bad = ~((weights >= 0) & (weights < np.inf))
    if is_bad.any():
        place = int(np.argmax(is_bad))
        raise ValueError(f"weight[{place}]: expected a finite number of at least 0, got {weights[place]}")
    return weights


def mse(
    y: ArrayLike,
    target: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Any]:
    """Mean of ``(y - target)**2`` over the elements that count, and its gradient.

    With n elements that count, the gradient is ``2 (y - target) / n``.

    Parameters
    ----------
    y : array_like, (T, B, F), or (B, T, F) if `batch_first`; or any shape without `lengths`
        What came.  Or a list of arrays (T_b, F), as a ragged call returns; then `target`, `mask` and the
        gradient are lists, too, and there are no `lengths`.
    target : array_like, shaped as `y`
        What should have come.
    lengths : array_like of integers, (B,), or (1,) where `y` is (T, F), optional
        Steps of each row that count, 0 to T.
    mask : array_like of bool, shaped as `y`, or as `y` without its last dimension, optional
        Which elements, or steps, count; with `lengths`, those that count by both.
    batch_first : bool
        Whether the batch stands before the time; matters with `lengths` alone.

    Returns
    -------
    value : float
        Summed in float64.
    dy : ndarray, or list of ndarray, shaped as `y`
        Of the dtype of `y` if that is floating, else float64.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """
    rows = _core.read_sequences(y, "y")
    if rows is not None:
        return _listed(mse, ("y", "target"), rows, target, lengths, mask)
    got = checked_reals(y, "y")
    wanted = checked_reals(target, "target", got.dtype)
    if wanted.shape != got.shape:
        raise ValueError(f"target: expected shape {got.shape}, got {wanted.shape}")
    counts = np.ones(got.shape, bool)
    if lengths is not None:
        counts &= _counted(got.shape[:-1], lengths, None, batch_first, "y")[..., np.newaxis]
    if mask is not None:
        by_step = np.ndim(mask) == got.ndim - 1
        given = _checked_mask(mask, got.shape[:-1] if by_step else got.shape)
        counts &= given[..., np.newaxis] if by_step else given
    dy = np.zeros(got.shape, got.dtype)
    number = int(counts.sum())
    if number == 0:
        return 0.0, dy
    # What does not fit gives inf, and infinities that meet NaN, as they should.
    with np.errstate(all="ignore"):
        picked, right = got[counts], wanted[counts]
        difference = picked - right
        scale = 1.0
        if not np.isfinite(difference).all():  # halves of finite numbers have a difference that is finite
            difference, scale = picked / 2 - right / 2, 2.0
        value = _mean(np.square(difference, dtype=np.float64), number, scale * scale)
        # Squares may not fit where their mean does.
        if not np.isfinite(value) and np.isfinite(difference).all():
            most = float(np.abs(difference).max())
            value = float(np.square(difference / most, dtype=np.float64).mean()) * scale * scale * most * most
        dy[counts] = difference * (2 * scale / number)
    return value, dy


def _mean(values: NDArray[Any], number: float, factor: float = 1.0) -> float:
    """`factor` times the sum over `number`, also where the sum alone would not fit."""
    total = float(values.sum())
    if np.isinf(total) and np.isfinite(values).all():
        return float((values / number).sum()) * factor
    return total * factor / number


def _listed(
    loss: Callable[..., tuple[float, NDArray[Any]]],
    names: tuple[str, str],
    rows: list[Any],
    targets: Any,
    lengths: Any,
    mask: Any,
) -> tuple[float, list[NDArray[Any]]]:
    """A loss of a list of sequences: the mean is over the steps of all."""
    if lengths is not None:
        raise ValueError(
            "lengths: expected None with a list of arrays, which says what rows there are, got a value"
        )
    wanted = [
        checked_one(row, f"{names[1]}[{b}]")
        for b, row in enumerate(checked_sequences(targets, names[1], len(rows)))
    ]
    got = [checked_reals(row, f"{names[0]}[{b}]") for b, row in enumerate(rows)]
    if not rows:
        return 0.0, []
    is_class = loss is softmax_cross_entropy
    for b, (row, other) in enumerate(zip(got, wanted, strict=True)):
        if row.ndim != 2 or row.shape[1] != got[0].shape[1]:
            raise ValueError(f"{names[0]}[{b}]: expected shape (T, {got[0].shape[-1]}), got {row.shape}")
        expected = row.shape[:1] if is_class else row.shape
        if other.shape != expected:
            raise ValueError(f"{names[1]}[{b}]: expected shape {expected}, got {other.shape}")
        if is_class and len(other) == 0:  # NumPy has no dtype for nothing
            wanted[b] = np.empty(0, np.intp)
    flags = None
    if mask is not None:
        given = checked_sequences(mask, "mask", len(rows))
        flags = np.concatenate(
            [
                _checked_mask(flag, row.shape[: max(1, np.ndim(flag))], f"mask[{b}]")
                for b, (flag, row) in enumerate(zip(given, got, strict=True))
            ]
        )
    value, gradient = loss(np.concatenate(got), np.concatenate(wanted), mask=flags)
    return value, np.split(gradient, np.cumsum([len(row) for row in got])[:-1])


def _counted(
    shape: tuple[int, ...],
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    batch_first: bool,
    name: str,
) -> NDArray[np.bool_]:
    """Which steps of `shape`, (T, B), (B, T) or (T,), count; `name` is the argument that has this shape."""
    if lengths is None:
        counts = np.ones(shape, bool)
    else:
        if len(shape) not in (1, 2):
            raise ValueError(
                f"{name}: expected 2 or 3 dimensions where lengths are given, got {len(shape) + 1}"
            )
        T, B = (*shape, 1)[:2] if len(shape) == 1 or not batch_first else (shape[1], shape[0])
        ends = checked_lengths(lengths, T, B, len(shape) == 2)
        counts = np.arange(T)[:, np.newaxis] < ends
        counts = counts.reshape(shape) if len(shape) == 1 or not batch_first else counts.T
    return counts if mask is None else counts & _checked_mask(mask, shape)


def _checked_mask(mask: ArrayLike, shape: tuple[int, ...], name: str = "mask") -> NDArray[np.bool_]:
    given = checked_one(mask, name)
    if given.dtype != np.bool_:
        raise TypeError(f"{name}: expected booleans, got dtype {given.dtype}")
    if given.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {given.shape}")
    return given
