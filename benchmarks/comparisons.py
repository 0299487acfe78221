# SPDX-License-Identifier: BSD-3-Clause
"""fastlstm compared with itself: what a cell costs beside the plain LSTM, and what padding costs.

A ratio is taken round by round, of turns that followed each other, and the median over the rounds counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.cells import CELLS, PLAIN
from benchmarks.peers import OURS
from benchmarks.shapes import Shape
from benchmarks.tables import percent, ratio

SMALLEST_RAGGED_BATCH = 8  # below, one draw of the lengths decides what could be gained
Size = tuple[int, int, int, int]


@dataclass(frozen=True)
class Comparison:
    """A ratio of two of our times, and what it should be."""

    title: str
    cell: str
    against: str = PLAIN
    scale: float = 1.0  # what the ratio is multiplied with
    at_most: float | None = None
    at_least: float | None = None
    is_per_step: bool = False  # times are divided by the real steps of all rows

    def goal(self) -> str:
        """For a table."""
        if self.at_most is not None:
            return f"at most {ratio(self.at_most)}"
        return "" if self.at_least is None else f"at least {ratio(self.at_least)}"

    def is_missed(self, shape: Shape, value: float) -> bool:
        """Whether there is a goal at this shape that the value does not reach."""
        if self.at_least is not None:
            return shape.B >= SMALLEST_RAGGED_BATCH and value < self.at_least
        return self.at_most is not None and value > self.at_most


COMPARISONS = (
    Comparison("GRU / (3/4 LSTM)", "gru", scale=4 / 3, at_most=1.10),
    Comparison("RNN / (1/4 LSTM)", "rnn", scale=4.0),
    Comparison("peepholes / LSTM", "peephole", at_most=1.05),
    Comparison("coupled / LSTM", "coupled", at_most=1.05),
    Comparison("ragged / LSTM, per real step", "ragged", is_per_step=True, at_most=1.10),
    Comparison("LSTM on the padded batch / ragged", PLAIN, "ragged", at_least=1.6),
)
OF_LIMIT = ("mingru", "minlstm")


def sizes(result: dict[str, Any]) -> list[Size]:
    """Sizes (T, B, I, H) at which there is a comparison, in their order."""
    return list(dict.fromkeys(Shape(**case["shape"]).size for case in result.get("compared", [])))


def value(result: dict[str, Any], comparison: Comparison, size: Size, threads: int) -> float | None:
    """The ratio, or None where one of the times is missing."""
    one, other = (_found(result, cell, size, threads) for cell in (comparison.cell, comparison.against))
    if one is None or other is None:
        return None
    (shape, times), (other_shape, other_times) = one, other
    rounds = times.keys() & other_times.keys()
    if not rounds:
        return None
    scale = comparison.scale
    if comparison.is_per_step:
        scale *= other_shape.real_steps() / shape.real_steps()
    return scale * median(times[turn] / other_times[turn] for turn in rounds)


def missed(result: dict[str, Any]) -> Iterator[str]:
    """Goals that were not reached."""
    for size in sizes(result):
        for threads in thread_counts(result):
            for comparison in COMPARISONS:
                found = value(result, comparison, size, threads)
                shape = Shape(*size)
                if found is not None and comparison.is_missed(shape, found):
                    where = f"{comparison.title}, {shape.label}, {threads} thread(s)"
                    yield f"{where}: {ratio(found)}, goal {comparison.goal()}"


def rows(result: dict[str, Any], threads: int) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: a row for each comparison, a column for each size."""
    columns = sizes(result)
    lines: list[tuple[str, str, Callable[[Size, int], str]]] = [
        (comparison.title, comparison.goal(), partial(_cell, result, comparison))
        for comparison in COMPARISONS
    ]
    lines.append(("torch's LSTM on the padded batch / ragged", "", partial(_torch_padded, result)))
    lines += [
        (f"{CELLS[cell].title}, of its limit", "", partial(_of_limit, result, cell)) for cell in OF_LIMIT
    ]
    table = [[title, goal, *(cell_of(size, threads) for size in columns)] for title, goal, cell_of in lines]
    head = ["", "goal", *(Shape(*size).label for size in columns)]
    return head, [row for row in table if any(row[2:])]


def thread_counts(result: dict[str, Any]) -> list[int]:
    """Numbers of threads that fastlstm was compared with itself with."""
    return sorted({found["threads"] for case in result.get("compared", []) for found in case["results"]})


def _cell(result: dict[str, Any], comparison: Comparison, size: Size, threads: int) -> str:
    found = value(result, comparison, size, threads)
    if found is None:
        return ""
    text = ratio(found)
    if comparison.at_least is not None:
        ragged = Shape(*size, cell=comparison.against)
        text += f" of {ratio(size[0] * size[1] / ragged.real_steps())}"
    return text


def _of_limit(result: dict[str, Any], cell: str, size: Size, threads: int) -> str:
    for case in result["compared"]:
        shape = Shape(**case["shape"])
        if shape.cell == cell and shape.size == size:
            for found in case["results"]:
                if found["threads"] == threads and "seconds" in found:
                    return percent(case["limit_seconds"][str(threads)] / found["seconds"])
    return ""


def _torch_padded(result: dict[str, Any], size: Size, threads: int) -> str:
    """Both from the race against the peers."""
    seconds: dict[tuple[str, str], float] = {}
    for case in result["cases"]:
        shape = Shape(**case["shape"])
        if shape.size == size:
            for found in case["results"]:
                if found["threads"] == threads and "seconds" in found:
                    seconds[found["peer"], shape.cell] = found["seconds"]
    padded, ragged = seconds.get(("torch", PLAIN)), seconds.get((OURS, "ragged"))
    return "" if padded is None or ragged is None else ratio(padded / ragged)


def _found(
    result: dict[str, Any], cell: str, size: Size, threads: int
) -> tuple[Shape, dict[int, float]] | None:
    """The shape, and the time of each round."""
    for case in result.get("compared", []):
        shape = Shape(**case["shape"])
        if shape.cell == cell and shape.size == size:
            for found in case["results"]:
                if found["threads"] == threads:
                    return shape, {timing["round"]: timing["best"] for timing in found["rounds"]}
    return None
