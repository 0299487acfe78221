# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of the family's race share: small shapes, formulas, made-up contestants and limits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import data
from benchmarks.cells import CELLS
from benchmarks.contestants import WorkerError
from benchmarks.limits import Limits
from benchmarks.peers import PEERS
from benchmarks.peers.base import Case, Prepared
from benchmarks.shapes import Shape

SIZE = (9, 4, 7, 10)
KINDS = ("family", "family_training")
PEAK, BANDWIDTH = 1e11, 1e10
cells = pytest.mark.parametrize("cell", CELLS)


def shape_of(cell: str, kind: str = "family") -> Shape:
    return Shape(*SIZE, kind=kind, cell=cell)


def known_limits(*sizes: int) -> Limits:
    """Limits of a made-up machine, with the bandwidth over buffers of these sizes."""
    return Limits({"fma": {"float32": PEAK}, "stream": {str(size): BANDWIDTH for size in sizes}})


class FlatLimits(Limits):
    """Every shape has the same limit."""

    def __init__(self, value: float = 0.001) -> None:
        super().__init__()
        self.value = value

    def seconds(self, shape: Shape, threads: int = 1) -> float:
        return self.value


def sigmoid(a: data.Array) -> data.Array:
    return 1 / (1 + np.exp(-a))


def by_formula(case: Case) -> tuple[data.Array, ...]:
    """Each cell in a few lines, row by row."""
    shape, w = (
        case.shape,
        {name.removesuffix("_l0"): value.astype(float) for name, value in case.params.items()},
    )
    lengths = shape.lengths() or [shape.T] * shape.B
    y = np.zeros((shape.T, shape.B, shape.P))
    last_h, last_c = np.zeros((1, shape.B, shape.P)), np.zeros((1, shape.B, shape.H))
    for row, length in enumerate(lengths):
        h, c = np.zeros(shape.P), np.zeros(shape.H)
        for t in range(length):
            a = np.split(w["weight_ih"] @ case.x[t, row].astype(float) + w["bias_ih"], shape.form.gates)
            u: list[Any] = [0.0] * shape.form.gates
            if "weight_hh" in w:
                u = np.split(w["weight_hh"] @ h + w["bias_hh"], shape.form.gates)
            if shape.cell == "gru":
                r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
                h = (1 - z) * np.tanh(a[2] + r * u[2]) + z * h
            elif shape.cell == "rnn":
                h = np.tanh(a[0] + u[0])
            elif shape.cell == "mingru":
                h = (1 - sigmoid(a[0])) * h + sigmoid(a[0]) * a[1]
            elif shape.cell == "minlstm":
                f, i = sigmoid(a[0]), sigmoid(a[1])
                h = (f * h + i * a[2]) / (f + i)
            else:
                p_i, p_f, p_o = np.split(w.get("weight_ch", np.zeros(3 * shape.H)), 3)
                i, g = sigmoid(a[0] + u[0] + p_i * c), np.tanh(a[-2] + u[-2])
                f = 1 - i if shape.cell == "coupled" else sigmoid(a[1] + u[1] + p_f * c)
                c = f * c + i * g
                h = w.get("weight_hr", np.eye(shape.H)) @ (sigmoid(a[-1] + u[-1] + p_o * c) * np.tanh(c))
            y[t, row] = h
        last_h[0, row], last_c[0, row] = h, c
    return (y, last_h, last_c) if shape.form.has_c else (y, last_h)


class FakePeer:
    """Answers right, and counts its calls by case; the case of `wrong` it gets wrong."""

    def __init__(self, wrong: str = "") -> None:
        self.calls: dict[str, int] = {}
        self.wrong = wrong

    def versions(self) -> dict[str, str]:
        return {"fake": "1"}

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        def answer() -> tuple[data.Array, ...]:
            found = by_formula(case)
            return tuple(part + (0.1 if case.shape.cell == self.wrong else 0) for part in found)

        def call() -> None:
            self.calls[case.shape.cell] = self.calls.get(case.shape.cell, 0) + 1

        return {"only": lambda: Prepared(call, answer)}


class FakeContestant:
    """Writes down what it is asked; fails where it is told to."""

    def __init__(self, log: list[str], name: str, threads: int = 1, fails: str = "") -> None:
        self.spec, self.threads = PEERS[name], threads
        self.name = f"{name}/{threads}"
        self.log, self.fails = log, fails

    def start(self) -> None:
        pass

    def settle(self) -> None:
        pass

    def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        what = message.get("case") or (Shape(**message["shape"]).name if "shape" in message else "")
        self.log.append(f"{self.name} {message['op']} {what}".strip())
        if self.fails and self.fails in what:
            raise WorkerError("broke")
        if message["op"] == "run":
            return {"best": float(len(self.log)), "mean": 1.0, "calls": 1, "cores": 1.0}
        return {"variant": "v", "error": 0.0, "tried": {}}
