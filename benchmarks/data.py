# SPDX-License-Identifier: BSD-3-Clause
"""Weights and inputs of the benchmarks: the same in every process and on every run.  Needs NumPy alone."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.shapes import Shape

Array = NDArray[Any]

# Modules of Python's own standard library, whose text is the real input of the main job.
TEXT_MODULES = (
    "argparse.py",
    "ast.py",
    "datetime.py",
    "decimal.py",
    "inspect.py",
    "os.py",
    "pathlib.py",
    "typing.py",
)
BYTE_VALUES = 256

# Largest absolute error that a layer may have against a float64 truth: promised up to I = H = 300.
TOLERANCES = {"float32": 2e-6, "float64": 1e-13}
PROMISED_TERMS = 600


def tolerance(dtype: Any, shape: Shape) -> float:
    """Largest error that an answer may have.

    A gate sums I + H terms; beyond the sizes of the promise the rounding errors of a sum grow with the square
    root of their number.
    """
    terms = max(shape.input_sizes()) + shape.H
    if shape.is_training:
        terms += shape.T * shape.B  # which a weight's gradient sums
    return TOLERANCES[np.dtype(dtype).name] * float(np.sqrt(max(1.0, terms / PROMISED_TERMS)))


def generator(shape: Shape) -> np.random.Generator:
    """Random numbers that depend on the shape alone."""
    return np.random.default_rng(zlib.crc32(shape.name.encode()))


def parameters(shape: Shape, rng: np.random.Generator, dtype: Any = np.float32) -> dict[str, Array]:
    """Weights as PyTorch initialises and names them: uniform within 1/sqrt(H)."""
    bound = 1 / np.sqrt(shape.H)
    return {
        f"{kind}_l{layer}{suffix}": rng.uniform(-bound, bound, size).astype(dtype)
        for layer, input_size in enumerate(shape.input_sizes())
        for suffix in ("", "_reverse")[: shape.directions]
        for kind, size in _parameter_sizes(shape, input_size).items()
    }


def _parameter_sizes(shape: Shape, input_size: int) -> dict[str, tuple[int, ...]]:
    """Parameters of one layer and direction: PyTorch's names, and fastlstm's where it has none."""
    form, H, P = shape.form, shape.H, shape.P
    rows = form.gates * H
    sizes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size)}
    if form.is_recurrent:
        sizes["weight_hh"] = (rows, P)
    sizes["bias_ih"] = (rows,)
    if form.is_recurrent:
        sizes["bias_hh"] = (rows,)
    if form.peepholes:
        sizes["weight_ch"] = (form.peepholes * H,)
    if form.is_projected:
        sizes["weight_hr"] = (P, H)
    return sizes


def output_gradient(shape: Shape, rng: np.random.Generator, dtype: Any = np.float32) -> Array:
    """Standard normal gradient of the output (T, B, D*P)."""
    return rng.standard_normal((shape.T, shape.B, shape.directions * shape.P)).astype(dtype)


def noise(shape: Shape, rng: np.random.Generator, dtype: Any = np.float32) -> Array:
    """Standard normal input (T, B, I)."""
    return rng.standard_normal((shape.T, shape.B, shape.I)).astype(dtype)


def states(shape: Shape, rng: np.random.Generator, dtype: Any = np.float32) -> tuple[Array, Array]:
    """A state in the middle of a sequence, (L*D, B, H) each: |h| < 1."""
    size = (shape.layers * shape.directions, shape.B, shape.H)
    return np.tanh(rng.standard_normal(size)).astype(dtype), rng.standard_normal(size).astype(dtype)


def text(shape: Shape) -> Array:
    """Bytes of the standard library's source text as indices (T, B): each column is a piece of its own."""
    folder = Path(os.path.dirname(os.__file__))
    content = b"".join((folder / name).read_bytes() for name in TEXT_MODULES)
    wanted = shape.T * shape.B
    if len(content) < wanted:
        raise ValueError(f"shape: expected at most {len(content)} bytes of text, got T*B = {wanted}")
    values = np.frombuffer(content, np.uint8, wanted).astype(np.int64)
    return np.ascontiguousarray(values.reshape(shape.B, shape.T).T)


def waves(shape: Shape, dtype: Any = np.float32) -> Array:
    """A plain numeric sequence (T, B, I): each feature is a sine of its own frequency and phase."""
    time = np.arange(shape.T)[:, None, None]
    row = np.arange(shape.B)[None, :, None]
    feature = np.arange(shape.I)[None, None, :]
    return np.asarray(np.sin(0.02 * time * (1 + feature) + 0.7 * row + 0.1 * feature)).astype(dtype)


def error_of(shape: Shape, answer: tuple[Array, ...], truth: tuple[Array, ...]) -> float:
    """Largest error of an answer of the race.

    Of a training step: of each gradient, relative to the largest element of that gradient, because a sum over
    all steps has another size than the gradient of one step's input.
    """
    if not shape.is_training:
        return largest_error(answer, truth)
    return max(
        largest_error((got,), (expected,)) / max(float(np.max(np.abs(expected))), float(np.finfo(float).tiny))
        for got, expected in zip(answer, truth, strict=True)
    )


def largest_error(answer: tuple[Array, ...], truth: tuple[Array, ...]) -> float:
    """Largest absolute difference over all arrays; infinite where a value is not finite.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    largest = 0.0
    for got, expected in zip(answer, truth, strict=True):
        if got.shape != expected.shape:
            raise ValueError(f"answer: expected shape {expected.shape}, got {got.shape}")
        if got.size:
            difference = float(np.max(np.abs(got.astype(np.float64) - expected)))
            largest = max(largest, difference) if np.isfinite(difference) else float("inf")
    return largest
