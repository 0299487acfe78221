# SPDX-License-Identifier: BSD-3-Clause
"""How long the campaign is, which seeds it takes, and how a failure is made again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Times the length of a run of the tests; 0 is one draw of each.
EFFORT = float(os.environ.get("FASTLSTM_CAMPAIGN", "1"))
SEED = int(os.environ.get("FASTLSTM_CAMPAIGN_SEED", "0"))
# A long run is cut into parts, for several processes.
PARTS = range(8)
MOST_FAILURES = 5  # that are shown


def count_of(short: int) -> int:
    """How many there are of something of which a run of the tests has `short`."""
    return max(1, round(short * EFFORT))


def again(test: str, seed: int) -> str:
    """The line that makes one failure again."""
    return f"again: FASTLSTM_CAMPAIGN=0 FASTLSTM_CAMPAIGN_SEED={seed} python -m pytest '{test}'"


def try_seeds(request: Any, part: int, short: int, check: Callable[[int], Any]) -> None:
    """`check` for the seeds of this part; after a failure the others are tried all the same."""
    test = f"{request.node.nodeid.partition('[')[0]}"
    failures: list[Exception] = []
    for seed in range(SEED, SEED + count_of(short)):
        if (seed - SEED) % len(PARTS) != part:
            continue
        try:
            check(seed)
        except Exception as error:
            print(again(test, seed), flush=True)
            print(f"    {type(error).__name__}: {str(error)[:600]}", flush=True)
            error.add_note(again(test, seed))
            failures.append(error)
            if len(failures) == MOST_FAILURES:
                break
    if failures:
        raise failures[0]
