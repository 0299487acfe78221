# SPDX-License-Identifier: BSD-3-Clause
"""The readable NumPy path, in float32: what the same user would have without a compiled package."""

from collections.abc import Callable

import numpy as np

from benchmarks.data import Array
from benchmarks.peers.base import Case, Prepared
from fastlstm import reference


class Peer:
    def __init__(self, threads: int) -> None:
        del threads  # the environment tells the BLAS, before NumPy is imported

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        return {"reference.lstm": lambda: _whole(case)}


def _whole(case: Case) -> Prepared:
    def answer() -> tuple[Array, Array, Array]:
        y, (h_n, c_n) = reference.lstm(
            case.x, case.params, case.state, bidirectional=case.shape.directions == 2
        )
        return y, h_n, c_n

    return Prepared(answer, answer)
