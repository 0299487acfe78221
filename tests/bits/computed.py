# SPDX-License-Identifier: BSD-3-Clause
"""The digests of this process's build and instruction set."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tests.problems.comparing import digest

from .cases import layer_cases
from .passes import Arrays, layer_arrays
from .pieces import piece_cases

# Half of SHA-256 tells cases apart as well, and keeps the file short.
DIGITS = 32
# What is stored where results that must have the same bits have not.
DIFFERS = "differs: "


def all_cases() -> dict[str, Callable[[], list[Arrays]]]:
    """By name: results in all ways, such as numbers of threads, that must give the same bits."""
    cases: dict[str, Callable[[], list[Arrays]]] = {
        name: functools.partial(layer_arrays, name, *case) for name, case in layer_cases().items()
    }
    return cases | piece_cases()


def digest_of(ways: list[Arrays]) -> str:
    """Of all arrays, or the names of those that are not the same in all ways."""
    each = [{name: digest(array) for name, array in arrays.items()} for arrays in ways]
    for way in each[1:]:
        if way != each[0]:
            names = [name for name in each[0] | way if each[0].get(name) != way.get(name)]
            return DIFFERS + ", ".join(names[:5])
    return digest(*ways[0].values())[:DIGITS]


def digests_of_this_isa() -> dict[str, str]:
    return {name: digest_of(compute()) for name, compute in all_cases().items()}
