# SPDX-License-Identifier: BSD-3-Clause
"""The other cells: forward and training, rows of different lengths in each form of a call, readable twins."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks import data, truth
from benchmarks.cells import CELLS
from benchmarks.heats import make_case
from benchmarks.peers.fastlstm_family import ways
from benchmarks.shapes import Shape
from benchmarks.support import run
from fastlstm import reference

SIZES = [(100, 1, 64, 64), (50, 8, 64, 96), (37, 5, 23, 78)]
RAGGED_SIZE = (50, 16, 128, 128)
WAYS = {
    "family": ["lengths", "lengths, out=", "offsets"],
    "family_training": ["save=all", "save=states", "offsets, save=all", "offsets, save=states"],
}
cells = pytest.mark.parametrize("cell", CELLS)
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size)))


def bench(benchmark: Any, shape: Shape, variant: str) -> None:
    """One of the ways in which the race runs fastlstm, its answer compared with the float64 reference."""
    case, expected = make_case(shape)
    prepared = ways(case)[variant]()
    error = data.error_of(shape, prepared.answer(), expected)
    assert error <= data.tolerance(np.float32, shape)
    group = f"{'training' if shape.is_training else 'forward'} {shape.label}"
    call = prepared.call
    run(benchmark, call, group=group, error=error, flops=shape.flops(), shape=shape.name, variant=variant)


@sizes
@cells
def test_forward(benchmark: Any, cell: str, size: tuple[int, int, int, int], num_threads: int) -> None:
    shape = Shape(*size, kind="family", cell=cell)
    bench(benchmark, shape, "lengths, out=" if shape.form.is_ragged else "layer, out=")


@sizes
@cells
def test_training(benchmark: Any, cell: str, size: tuple[int, int, int, int], num_threads: int) -> None:
    bench(benchmark, Shape(*size, kind="family_training", cell=cell), "save=all")


@pytest.mark.parametrize(("kind", "variant"), [(kind, way) for kind, of in WAYS.items() for way in of])
def test_ragged(benchmark: Any, kind: str, variant: str, num_threads: int) -> None:
    """The same rows padded and end to end; beside them the padded batch in full."""
    bench(benchmark, Shape(*RAGGED_SIZE, kind=kind, cell="ragged"), variant)


@pytest.mark.parametrize(("kind", "variant"), [("family", "layer, out="), ("family_training", "save=all")])
def test_padded(benchmark: Any, kind: str, variant: str, num_threads: int) -> None:
    bench(benchmark, Shape(*RAGGED_SIZE, kind=kind), variant)


@cells
def test_reference(benchmark: Any, cell: str, one_thread: None) -> None:
    """The readable twin in float32."""
    shape = Shape(*SIZES[-1], kind="family", cell=cell)
    case, expected = make_case(shape)
    call = partial(
        reference.forward,
        truth.reference_config(shape),
        case.params,
        case.x,
        lengths=shape.lengths(),
        dtype=np.float32,
    )
    result = call()
    answer = (result.y, *(result.state if shape.form.has_c else (result.state,)))
    error = data.error_of(shape, answer, expected)
    assert error <= data.tolerance(np.float32, shape)
    run(benchmark, call, group=f"forward {shape.label}", error=error, flops=shape.flops(), shape=shape.name)
