# SPDX-License-Identifier: BSD-3-Clause
"""Comparisons: every bit the same, or within what float32 and float64 may lose against a wider truth."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from .problem import Problem, arrays_of
from .running import expected_results

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
# What a truth is computed in.
WIDER = {FLOAT32: np.float64, FLOAT64: np.longdouble}
# Largest absolute error of a result against that truth, for T <= 100 and weights as torch draws them.
TOLERANCE = {FLOAT32: 2e-6, FLOAT64: 1e-13}
# Largest error of an array of gradients as a part of its largest element.  Measured over the tests, the
# worst is about a third of it.
GRADIENT_TOLERANCE = {FLOAT32: 6e-6, FLOAT64: 2e-14}
# Where an option magnifies rounding: how many times the largest error that the specification itself makes in
# float32 may come on top; and in float64 the whole.
OF_ITS_OWN = 8.0
# Gradients whose few sums over all units and steps may cancel, so that their own size is no scale.
CANCELLING = ("dweight_hr", "dbias_hr", "dweight_ch")
MAGNIFIED = 1e-10


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
    truth = expected_results(problem, training, wide)
    # The states of an sLSTM are no numbers below 1: a sum, a normaliser, and a logarithm.
    errors = largest_errors(got, truth, not is_magnified, is_absolute=problem.config.cell != "SLSTM")
    results, gradients = TOLERANCE[problem.dtype], GRADIENT_TOLERANCE[problem.dtype]
    allowed = {name: gradients if name.startswith("d") else results for name in errors}
    if is_magnified and problem.dtype == FLOAT64:
        allowed = dict.fromkeys(errors, MAGNIFIED)
    elif is_magnified:
        own = largest_errors(expected_results(problem, training, np.float32), truth)
        for name in own:
            kind = [error for other, error in own.items() if (other[0] == "d") == (name[0] == "d")]
            allowed[name] += OF_ITS_OWN * max(kind)
    wrong = {name: error for name, error in errors.items() if not error <= allowed[name]}
    assert not wrong, (what, wrong, problem.config, problem.keywords, problem.bptt)


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
