# SPDX-License-Identifier: BSD-3-Clause
"""Batches for the tests of bits: each is there for a schedule or a kernel."""

from __future__ import annotations

from typing import Any

from tests.problems.cells import CELLS, EVERY_OPTION
from tests.problems.problem import Problem, in_both_dtypes, make_problem

# Units split over threads, rows split, directions side by side, layers as a pipeline, hoisted and merged
# input products, gathered rows, packed tails of every kind, ragged batches.
LSTMS: list[dict[str, Any]] = [
    {"T": 30, "B": 1, "I": 64, "H": 300},
    {"T": 30, "B": 2, "I": 3, "H": 256, "has_state": True},
    {"T": 200, "B": 1, "I": 1, "H": 64},
    {"T": 24, "B": 13, "I": 40, "H": 150, "bias": False},
    {"T": 12, "B": 64, "I": 100, "H": 96, "batch_first": True},
    {"T": 37, "B": 5, "I": 23, "H": 77, "has_lengths": True},
    {"T": 30, "B": 33, "I": 9, "H": 129, "has_lengths": True, "has_state": True},
    {"T": 25, "B": 3, "I": 40, "H": 100, "bidirectional": True},
    {
        "T": 25, "B": 8, "I": 40, "H": 72, "L": 2, "bidirectional": True, "has_lengths": True,
        "has_state": True,
    },
    {"T": 160, "B": 1, "I": 64, "H": 96, "L": 5},
    {"T": 600, "B": 1, "I": 3, "H": 16, "L": 4},
    {"T": 300, "B": 2, "I": 9, "H": 12, "L": 5, "has_state": True},
    {"T": 200, "B": 6, "I": 9, "H": 16, "L": 6, "has_lengths": True},
    {"T": 120, "B": 60, "I": 9, "H": 80, "L": 3, "has_lengths": True},
    {"T": 90, "B": 2, "I": 20, "H": 65, "L": 3, "has_lengths": True},
    {"T": 40, "B": 7, "I": 256, "H": 66, "L": 2, "is_index": True, "has_lengths": True},
    {"T": 40, "B": 1, "I": 17, "H": 257, "L": 2, "is_index": True, "has_state": True},
]  # fmt: skip
# Cells and options with paths of their own, rows split and units split.
OTHERS: list[dict[str, Any]] = [
    {
        "T": 24,
        "B": 13,
        "I": 33,
        "H": 72,
        "L": 2,
        "has_lengths": True,
        "has_state": True,
        "cell": cell,
        **options,
    }
    for cell, options in (
        *((cell, {}) for cell in CELLS[1:]),
        *(
            EVERY_OPTION[name]
            for name in (
                "peephole",
                "f from i",
                "projection, clip",
                "gate norm",
                "haste",
                "GRU, reset before",
                "SLSTM, heads",
            )
        ),
    )
]
OTHERS += [case | {"T": 60, "B": 1, "H": 129, "L": 1} for case in OTHERS if "heads" not in case]
TAILS = [
    {"T": 20, "B": 7, "I": 5, "H": H, "L": 2}
    for H in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33)
]
THREADED = in_both_dtypes(LSTMS + OTHERS)
EVERY = in_both_dtypes(LSTMS + OTHERS + TAILS)

# Of training: one thread for the steps and the others for the parameters, or rows divided, also where all
# have ended but one thread's; layers, directions, many chunks, panels larger than a cache.
TRAININGS: list[dict[str, Any]] = [
    {"T": 200, "B": 1, "I": 17, "H": 129},
    {"T": 80, "B": 2, "I": 130, "H": 77, "L": 2, "has_state": True},
    {"T": 40, "B": 13, "I": 40, "H": 65, "L": 3, "has_lengths": True},
    {"T": 30, "B": 33, "I": 9, "H": 129, "has_lengths": True, "has_state": True, "bias": False},
    {
        "T": 37, "B": 25, "I": 31, "H": 33, "L": 2, "bidirectional": True, "has_lengths": True,
        "has_state": True,
    },
    {"T": 50, "B": 5, "I": 23, "H": 48, "L": 2, "bidirectional": True, "batch_first": True},
    {"T": 60, "B": 7, "I": 256, "H": 66, "L": 2, "is_index": True, "has_lengths": True},
    {"T": 20, "B": 40, "I": 500, "H": 31, "bidirectional": True, "is_index": True},
    {"T": 3, "B": 600, "I": 7, "H": 64},
    {"T": 12, "B": 8, "I": 13, "H": 300},
    {"T": 30, "B": 300, "I": 23, "H": 33, "has_lengths": True, "bidirectional": True},
]  # fmt: skip
EVERYTHING = {"has_reset": 0.03, "dropout": 0.3, "bptt": 17}


def trainings(case: dict[str, Any]) -> tuple[Problem, Problem]:
    """The batch as it is, and with all that a recorded pass can have."""
    return make_problem(**case), make_problem(**case, **EVERYTHING)


# Every option with its rows divided among threads, and with units of one row.
SIZES = {"rows": {"T": 12, "B": 13, "H": 72}, "units": {"T": 40, "B": 1, "H": 129}}


def problem_of_option(name: str, size: str = "rows", dtype: str = "float32") -> Problem:
    cell, options = EVERY_OPTION[name]
    sizes: dict[str, Any] = {"I": 33, "L": 2, "bidirectional": True, "dtype": dtype} | SIZES[size] | options
    has = {"has_state": True, "has_lengths": True, "has_reset": True, "has_cells": True}
    return make_problem(cell=cell, **sizes, **has)
