# SPDX-License-Identifier: BSD-3-Clause
"""Comparisons: every bit the same, or within what float32 and float64 may lose against a wider truth."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from .problem import Problem, arrays_of, transformed
from .running import expected_results

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
# What a truth is computed in.
WIDER = {FLOAT32: np.float64, FLOAT64: np.longdouble}
# Largest absolute error of a result against that truth, for T <= 100 and weights as torch draws them.
TOLERANCE = {FLOAT32: 2e-6, FLOAT64: 1e-13}
# Largest error of an array of gradients as a part of its largest element.  Measured over the tests, the
# worst is about a third of it.
GRADIENT_TOLERANCE = {FLOAT32: 6e-6, FLOAT64: 2e-14}
# Where an option magnifies rounding, or the terms of a gradient cancel: how many times the largest error that
# the specification itself makes in the problem's dtype may come on top; and in float64, where an option
# magnifies, the whole.
OF_ITS_OWN = 8.0
# Gradients whose few sums over all units and steps may cancel, so that their own size is no scale.
CANCELLING = ("dweight_hr", "dbias_hr", "dweight_ch")
MAGNIFIED = 1e-10
# Over how many problems beside the given one that error is taken.
MOVED = 4


def magnifies(problem: Problem) -> bool:
    """Whether rounding may grow by the formulas of an option: norms, and numbers without bounds."""
    config = problem.config
    is_rectified = config.nonlinearity == "relu" or (config.cell == "IndRNN" and config.nonlinearity is None)
    is_odd = config.activations is not None or not config.forget_gate
    return config.layer_norm is not None or is_odd or is_rectified


def assert_right(
    problem: Problem, got: dict[str, np.ndarray], training: bool | None, what: Any = "", dtype: Any = None
) -> None:
    """`got` of `called`, where `training` is None, or `trained`, is what the reference says in `dtype`."""
    is_magnified = magnifies(problem)
    wide = dtype or (np.float64 if is_magnified else WIDER[problem.dtype])
    truth = _specified(problem, training, wide)
    narrow = _specified(problem, training, problem.dtype) if is_magnified else None
    compared = (got, truth) if narrow is None else in_range(got, truth, narrow)
    # The states of an sLSTM are no numbers below 1: a sum, a normaliser, and a logarithm.
    errors = largest_errors(*compared, not is_magnified, is_absolute=problem.config.cell != "SLSTM")
    results, gradients = TOLERANCE[problem.dtype], GRADIENT_TOLERANCE[problem.dtype]
    allowed = {name: gradients if name.startswith("d") else results for name in errors}
    if narrow is not None and problem.dtype == FLOAT64:
        allowed = dict.fromkeys(errors, MAGNIFIED)
    elif any(not error <= allowed[name] for name, error in errors.items()):
        own = own_errors(problem, training, truth, not is_magnified)
        for name in own:
            if is_magnified:
                kind = [error for other, error in own.items() if (other[0] == "d") == (name[0] == "d")]
                allowed[name] += OF_ITS_OWN * max(kind)
            elif name.startswith("d") and np.isfinite(own[name]):  # a sum of few terms that cancel
                allowed[name] += OF_ITS_OWN * own[name]
    wrong = {name: error for name, error in errors.items() if not error <= allowed[name]}
    assert not wrong, (what, wrong, problem.config, problem.keywords, problem.bptt)


def _specified(problem: Problem, training: bool | None, dtype: Any) -> dict[str, np.ndarray]:
    """What the specification says; numbers without bounds may leave the range of the dtype."""
    ignored: Any = {"over": "ignore", "invalid": "ignore"} if magnifies(problem) else {}
    with np.errstate(**ignored):
        return expected_results(problem, training, dtype)


def in_range(
    got: dict[str, np.ndarray], truth: dict[str, np.ndarray], narrow: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`got` and `truth` with 0 where the specification in the dtype of `got`, `narrow`, is not finite.

    There nothing is to be compared: what has left the range of the dtype is infinite, and what follows from
    that is infinite, NaN or, after a bounded function, a number.  But no number may stand where the truth is
    one that the dtype has not.
    """
    assert got.keys() == truth.keys()
    compared, true = dict(got), dict(truth)
    for name, value in truth.items():
        is_out = ~(np.isfinite(value) & np.isfinite(narrow[name]))
        if is_out.any() and got[name].shape == value.shape:
            is_too_large = np.abs(value) > np.finfo(got[name].dtype).max
            assert not np.isfinite(got[name][is_out & is_too_large]).any(), (name, "is beyond the dtype")
            compared[name], true[name] = np.where(is_out, 0, got[name]), np.where(is_out, 0, value)
    return compared, true


def own_errors(
    problem: Problem, training: bool | None, truth: dict[str, np.ndarray], is_strict: bool
) -> dict[str, float]:
    """The largest errors that the specification makes in the problem's dtype, by name, as `largest_errors`.

    Of the problem, and of some whose weights, inputs, states and gradients are the next numbers of the
    dtype, up or down: rounding does to a sum what a change of its terms in the last place does, and the
    roundings of a single run may happen to cancel where those of another order of the sum do not.
    """
    rng = np.random.default_rng(problem.seed)

    def moved(array: np.ndarray) -> np.ndarray:
        if array.dtype != problem.dtype:
            return array
        towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
        return np.nextafter(array, towards)

    near = [problem]
    for _ in range(MOVED):
        params = {name: moved(value) for name, value in problem.params.items()}
        changed = ("x", "state", "dy", "dstate", "dcells")
        others: dict[str, Any] = {name: transformed(moved, getattr(problem, name)) for name in changed}
        near.append(dataclasses.replace(problem, params=params, **others))
    worst = dict.fromkeys(truth, 0.0)
    is_absolute = problem.config.cell != "SLSTM"
    for each in near:
        narrow = _specified(each, training, problem.dtype)
        errors = largest_errors(*in_range(narrow, truth, narrow), is_strict, is_absolute)
        worst = {name: max(value, errors.get(name, 0.0)) for name, value in worst.items()}
    return worst


def largest_errors(
    got: dict[str, np.ndarray],
    truth: dict[str, np.ndarray],
    is_strict: bool = False,
    is_absolute: bool = True,
) -> dict[str, float]:
    """Of each array the largest error as a part of its largest element, or of 1 where all are smaller.

    Strictly: of gradients as a part of their largest element however small, if they have several, as a single
    sum may cancel; and of results, if absolute, as it is.  What is not finite where the truth is, or has
    another shape or name, is infinitely wrong.
    """
    assert got.keys() == truth.keys()
    errors = {}
    for name, value in truth.items():
        value, a = np.asarray(value), got[name]
        if a.shape != value.shape or not np.isfinite(a).all():
            errors[name] = np.inf
        elif a.size:
            error = np.abs(a.astype(value.dtype) - value).max()
            scale = max(np.abs(value).max(), 1)
            is_sum = value.size == 1 or name.startswith(CANCELLING)
            if is_strict and name.startswith("d") and not is_sum:
                scale = np.abs(value).max() if error else 1
            elif is_strict and is_absolute:
                scale = 1
            errors[name] = float(error / scale) if scale else np.inf
    return errors


def assert_close(got: tuple[np.ndarray, ...], truth: tuple[np.ndarray, ...], what: object = "") -> None:
    """Results within the absolute tolerance of their dtype."""
    names = [f"result {number}" for number in range(len(got))]
    errors = largest_errors(*(dict(zip(names, a, strict=True)) for a in (got, truth)), is_strict=True)
    assert all(error <= TOLERANCE[got[0].dtype] for error in errors.values()), (what, errors)


def assert_same_bits(got: Any, expected: Any, what: object = "") -> None:
    """Arrays, or nested tuples of them, equal in shape, dtype and every bit: -0 is not 0, NaN is NaN."""
    if isinstance(expected, (tuple, list)):
        assert type(got) is type(expected), what
        assert len(got) == len(expected), what
        for a, b in zip(got, expected, strict=True):
            assert_same_bits(a, b, what)
        return
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), what
    if got.tobytes() != expected.tobytes():
        bits = np.dtype(f"u{got.itemsize}")
        differs = np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(expected).view(bits)
        where = np.argwhere(differs)[0] if got.ndim else ()
        raise AssertionError(f"{what}: {differs.sum()} of {got.size} differ, first at {tuple(where)}")


def assert_same_results(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: Any = "") -> None:
    """The same names in the same order, and the same bits."""
    assert list(got) == list(expected), what
    for name, value in expected.items():
        assert_same_bits(got[name], value, (name, what))


def assert_equal(got: Any, expected: Any, tolerance: float = 0.0, what: object = "") -> None:
    """All arrays of two nested results, within an absolute tolerance."""
    for a, b in zip(arrays_of(got), arrays_of(expected), strict=True):
        assert a.shape == b.shape, what
        assert np.abs(a - b).max(initial=0) <= tolerance, what


def digest(*arrays: np.ndarray) -> str:
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(repr((array.shape, array.dtype.str)).encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()
