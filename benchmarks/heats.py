# SPDX-License-Identifier: BSD-3-Clause
"""A heat: shapes and contestants that take turns.  Usually one shape and everybody.

Of fastlstm compared with itself it is several shapes of one size and fastlstm alone: in a round the shapes
follow each other at once, so that a slow minute of the machine hits both sides of a ratio.
"""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import data, truth
from benchmarks.contestants import Contestant, WorkerError
from benchmarks.peers.base import Case
from benchmarks.progress import Progress
from benchmarks.protocol import save_case
from benchmarks.shapes import Shape

PREPARE_TIMEOUT_SECONDS = 300.0
TURN_TIMEOUT_SECONDS = 120.0
LONG_CALL_SECONDS = 0.1
# Who takes so many times the fastest's time for a long call has no turns beyond the first.
SLOW_FACTOR = 5.0
# The variants of fastlstm that are compared with each other: no ratio of two ways to call it.
COMPARED_VARIANTS = ("layer, out=", "lengths, out=", "save=all")


@dataclass(frozen=True)
class Heat:
    """Who runs what, and how often."""

    shapes: tuple[Shape, ...]
    contestants: tuple[Contestant, ...]
    rounds: int
    is_compared: bool = False  # fastlstm with itself

    def turns(self) -> int:
        """Preparations and turns."""
        return len(self.shapes) * len(self.contestants) * (1 + self.rounds)


def make_case(shape: Shape) -> tuple[Case, tuple[data.Array, ...]]:
    """Weights and input of a shape, and the float64 truth."""
    rng = data.generator(shape)
    params, x = data.parameters(shape, rng), data.noise(shape, rng)
    state = data.states(shape, rng) if shape.has_state else None
    dy = data.output_gradient(shape, rng) if shape.is_training else None
    case = Case(shape, params, x, state, dy)
    return case, truth.answer(case)


class Cases:
    """Cases on disk for the workers to read, made when first asked for; those of one size at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._size: Any = None
        self._messages: dict[Shape, dict[str, Any]] = {}

    def message(self, shape: Shape) -> dict[str, Any]:
        """What a worker needs to load the case."""
        size = (shape.kind, shape.size, shape.layers, shape.directions)
        if size != self._size:
            self.clear()
            self._size = size
        if shape not in self._messages:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            self._messages[shape] = save_case(folder, *make_case(shape))
        return self._messages[shape]

    def clear(self) -> None:
        """Delete them."""
        for message in self._messages.values():
            shutil.rmtree(message["folder"])
        self._messages.clear()


@dataclass
class _Entry:
    """A contestant with one of its cases."""

    contestant: Contestant
    shape: Shape
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.shape.name} {self.contestant.name}"

    def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """The answer, or None, and then the result says what failed."""
        try:
            return self.contestant.ask(message, timeout)
        except WorkerError as failure:
            self.result.setdefault("failed", str(failure))
            return None


def run_heat(
    heat: Heat, cases: Cases, turn_seconds: float, progress: Progress
) -> dict[Shape, list[dict[str, Any]]]:
    """Prepare all, then rounds of turns.  For each shape one result a contestant."""
    entries = _prepared(heat, cases, turn_seconds, progress)
    running = [entry for entry in entries if "failed" not in entry.result]
    for turn in range(heat.rounds):
        # Rotated, so that nobody always follows the same one.
        first = turn % max(len(running), 1)
        for entry in running[first:] + running[:first]:
            progress.say(entry.name)
            if "failed" in entry.result or (turn and _has_had_enough(entry, entries)):
                continue
            timing = entry.ask(
                {"op": "run", "case": entry.shape.name, "seconds": turn_seconds}, TURN_TIMEOUT_SECONDS
            )
            if timing is not None:
                entry.result["rounds"].append({"round": turn, **timing})
            entry.contestant.settle()
            progress.update()
    for contestant in heat.contestants:
        own = [entry for entry in running if entry.contestant is contestant]
        if own:
            own[0].ask({"op": "release"}, TURN_TIMEOUT_SECONDS)
            contestant.settle()
    for entry in entries:
        if entry.result["rounds"]:
            for figure, of_timing in (("seconds", "best"), ("cores", "cores")):
                entry.result[figure] = median(timing[of_timing] for timing in entry.result["rounds"])
    return {shape: [entry.result for entry in entries if entry.shape == shape] for shape in heat.shapes}


def _prepared(heat: Heat, cases: Cases, turn_seconds: float, progress: Progress) -> list[_Entry]:
    """An entry for each contestant and shape; those of one contestant follow each other."""
    messages = {shape: cases.message(shape) for shape in heat.shapes}
    entries = []
    for contestant in heat.contestants:
        for shape in heat.shapes:
            result: dict[str, Any] = {
                "peer": contestant.spec.name,
                "threads": contestant.threads,
                "rounds": [],
            }
            entry = _Entry(contestant, shape, result)
            entries.append(entry)
            progress.say(f"{shape.name} prepare {contestant.name}")
            try:
                contestant.start()
            except WorkerError as failure:
                result["failed"] = str(failure)
            else:
                message = {"op": "prepare", "seconds": turn_seconds, **messages[shape]}
                if heat.is_compared:
                    message["variants"] = COMPARED_VARIANTS
                result |= entry.ask(message, PREPARE_TIMEOUT_SECONDS) or {}
            contestant.settle()
            progress.update()
    return entries


def _has_had_enough(entry: _Entry, entries: Sequence[_Entry]) -> bool:
    return is_slow(entry.result, (other.result for other in entries if other.shape == entry.shape))


def is_slow(result: dict[str, Any], results: Iterable[dict[str, Any]]) -> bool:
    """Whether its long calls take several times those of the fastest with as many threads."""
    seconds = {
        found["peer"]: found["rounds"][0]["best"]
        for found in results
        if found["threads"] == result["threads"] and found["rounds"]
    }
    own = seconds.get(result["peer"], 0.0)
    return bool(own > max(LONG_CALL_SECONDS, SLOW_FACTOR * min(seconds.values(), default=own)))
