# SPDX-License-Identifier: BSD-3-Clause
"""What the race and its workers say to each other: one JSON object a line over pipes, arrays in .npy files.

The race writes a shape's arrays once, and every worker reads them: weights, input, state, the gradient of the
output, and the float64 truth.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Array
from benchmarks.peers.base import Case
from benchmarks.shapes import Shape

STATE = ("state_h", "state_c")


def save_case(folder: Path, case: Case, truth: tuple[Array, ...]) -> dict[str, Any]:
    """Write a case's arrays; returns what a worker needs to load them."""
    arrays: Mapping[str, Array] = {
        "x": case.x,
        **case.params,
        **{f"truth_{index}": array for index, array in enumerate(truth)},
        **(dict(zip(STATE, case.state, strict=True)) if case.state is not None else {}),
        **({"dy": case.dy} if case.dy is not None else {}),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {
        "folder": str(folder),
        "shape": asdict(case.shape),
        "params": list(case.params),
        "truths": len(truth),
    }


def load_case(message: Mapping[str, Any]) -> tuple[Case, tuple[Array, ...]]:
    """The case, in memory of its own, and the truth, mapped."""
    folder = Path(message["folder"])
    shape = Shape(**message["shape"])
    params = {name: np.load(folder / f"{name}.npy") for name in message["params"]}
    state = (
        (np.load(folder / f"{STATE[0]}.npy"), np.load(folder / f"{STATE[1]}.npy"))
        if shape.has_state
        else None
    )
    dy = np.load(folder / "dy.npy") if shape.is_training else None
    truth = tuple(np.load(folder / f"truth_{index}.npy", mmap_mode="r") for index in range(message["truths"]))
    return Case(shape, params, np.load(folder / "x.npy"), state, dy), truth
