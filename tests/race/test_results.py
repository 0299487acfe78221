# SPDX-License-Identifier: BSD-3-Clause
"""What a result of the race of the other cells says: comparisons, findings, tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import comparisons, docs_tables, findings, race, report
from benchmarks.cells import PLAIN
from benchmarks.peers import OURS
from benchmarks.shapes import Shape
from tests.race.race_cells import (
    KINDS,
    SIZE,
    FlatLimits,
    known_limits,
    shape_of,
)


def recorded(cell: str, times: dict[tuple[str, int], list[float]], kind: str = "family") -> dict[str, Any]:
    shape = shape_of(cell, kind)
    results = [
        {
            "peer": peer,
            "threads": threads,
            "seconds": float(np.median(best)),
            "error": 1e-7,
            "rounds": [{"round": turn, "best": value} for turn, value in enumerate(best)],
        }
        for (peer, threads), best in times.items()
    ]
    flat: Any = FlatLimits(1e-6)
    return race._recorded(shape, results, flat, sorted({threads for _, threads in times}))


def family_result(kind: str = "family") -> dict[str, Any]:
    """GRU behind its peer at two threads, coupled gates too slow, rounds of which the second was slow."""
    one = (OURS, 1)
    of_peers = {
        "gru": {one: [4e-6], ("torch", 1): [6e-6], (OURS, 2): [4e-6], ("torch", 2): [3e-6]},
        "peephole": {one: [9e-6], ("jax", 1): [18e-6]},
        "ragged": {one: [2e-6], ("torch", 1): [5e-6]},
        PLAIN: {one: [4e-6], ("torch", 1): [8e-6]},
    }
    compared = {
        PLAIN: [4e-6, 8e-6, 4.0e-6],
        "gru": [3e-6, 6.6e-6, 3.9e-6],
        "coupled": [4.4e-6, 8.8e-6, 4.4e-6],
        "ragged": [2e-6, 4e-6, 2e-6],
        "mingru": [4e-6, 4e-6, 4e-6],
    }
    return {
        "part": kind,
        "machine": {
            "cpu": "a processor",
            "cpus": 2,
            "system": "a system",
            "time": "2000-01-01",
            "caches": {},
        },
        "limits": known_limits().figures(),
        "absent": [{"peer": "openvino", "threads": 1, "reason": "gone"}],
        "left_out": {"torch": {"peephole": "has none"}, "openvino": {"peephole": "ignores them"}},
        "contestants": [
            {"peer": peer, "threads": 1, "versions": {peer: "1.0"}, "never_quiet": 0}
            for peer in (OURS, "torch")
        ],
        "cases": [recorded(cell, times, kind) for cell, times in of_peers.items()],
        "compared": [recorded(cell, {one: times}, kind) for cell, times in compared.items()],
    }


def comparison_of(title: str) -> comparisons.Comparison:
    return next(found for found in comparisons.COMPARISONS if found.title.startswith(title))


def test_comparisons_are_made_round_by_round() -> None:
    result = family_result()
    assert comparisons.sizes(result) == [SIZE]
    assert comparisons.thread_counts(result) == [1]

    def value(title: str) -> float | None:
        return comparisons.value(result, comparison_of(title), SIZE, 1)

    assert value("GRU") == pytest.approx(6.6 / 8 * 4 / 3)
    assert value("coupled") == pytest.approx(1.1)
    real = shape_of("ragged").real_steps()
    assert value("ragged") == pytest.approx(0.5 * 36 / real)
    assert value("LSTM on the padded") == pytest.approx(2.0)
    assert value("RNN") is None
    assert comparisons.value(result, comparison_of("GRU"), SIZE, 2) is None


def test_goals_of_comparisons() -> None:
    (coupled,) = (line for line in comparisons.missed(family_result()) if line.startswith("coupled"))
    assert coupled == "coupled / LSTM, (9,4,7,10), 1 thread(s): 1.10x, goal at most 1.05x"
    speed_up = comparison_of("LSTM on the padded")
    assert speed_up.is_missed(Shape(9, 8, 7, 10), 1.59)
    assert not speed_up.is_missed(Shape(9, 8, 7, 10), 1.6)
    assert not speed_up.is_missed(Shape(9, 1, 7, 10), 1.1)  # one row: its draw decides
    gru = comparison_of("GRU")
    assert gru.is_missed(shape_of("gru"), 1.11)
    assert not gru.is_missed(shape_of("gru"), 1.09)
    assert comparison_of("RNN").goal() == ""


def test_comparisons_table() -> None:
    result = family_result()
    head, rows = comparisons.rows(result, 1)
    assert head == ["", "goal", "(9,4,7,10)"]
    table = {title: value for title, _, value in rows}
    possible = 36 / shape_of("ragged").real_steps()
    assert table["GRU / (3/4 LSTM)"] == "1.10x"
    assert table["LSTM on the padded batch / ragged"] == f"2.00x of {possible:.2f}x"
    assert table["torch's LSTM on the padded batch / ragged"] == "4.00x"
    assert table["MinGRU, of its limit"] == "25 %"
    assert "MinLSTM, of its limit" not in table
    assert "RNN / (1/4 LSTM)" not in table


def test_losses_means_and_wrong_answers() -> None:
    result = family_result()
    lines = findings.losses(result)
    assert any(
        line.startswith("gru-T9-B4-I7-H10, 2 thread(s): 4.00 µs, torch 3.00 µs (0.75x)") for line in lines
    )
    assert any(line.startswith("coupled / LSTM") for line in lines)
    # The padded batch is no shape of the race: 2.0x there must not count.
    assert findings.geometric_means(result)[1] == pytest.approx(
        {"best peer": (1.5 * 2 * 2.5) ** (1 / 3), "torch": (1.5 * 2.5) ** 0.5, "jax": 2.0}
    )
    assert findings.wrong_answers(result) == []
    result["compared"][1]["results"][0]["tried"] = {"a": {"error": 1e-3, "seconds": 1.0}}
    assert findings.wrong_answers(result) == ["gru-T9-B4-I7-H10, 1 thread(s), a: error 1.0e-03 > 2.0e-06"]


@pytest.mark.parametrize("kind", KINDS)
def test_tables(kind: str) -> None:
    result = json.loads(json.dumps(family_result(kind)))
    text = report.markdown(result)
    step = ", a training step" if kind == "family_training" else ""
    assert f"### GRU{step}, shape (T,B,I,H), 2 threads" in text
    # Absent is who could have taken part.
    gru, peephole = (
        next(part for part in text.split("### ") if part.startswith(f"{title}{step}, shape"))
        for title in ("GRU", "LSTM with peepholes")
    )
    assert "absent" in gru
    assert "absent" not in peephole
    assert "| (9,4,7,10) | 1.00 µs | 9.00 µs (1e-7) | 18.0 µs (1e-7) |" in peephole
    assert "- torch, LSTM with peepholes: has none" in text
    assert "### fastlstm compared with itself, 1 thread" in text
    assert "three times those of the forward products" in text or kind == "family"
    assert "compared with itself" in report.console(result)


@pytest.mark.parametrize("kind", KINDS)
def test_section_of_the_page(kind: str) -> None:
    section = docs_tables.section(family_result(kind))
    assert "|  | (9,4,7,10) |" in section
    assert "| GRU, 1 thread | 4.00 µs, 1.50x torch |" in section
    assert "| GRU, 2 threads | 4.00 µs, 0.75x torch |" in section
    name = "gru-training" if kind == "family_training" else "gru"
    assert f"- {name}-T9-B4-I7-H10, 2 thread(s): 4.00 µs, torch 3.00 µs (0.75x)" in section
    assert "| padded LSTM, 1 thread | 4.00 µs, 2.00x torch |" in section
    assert "| coupled / LSTM | at most 1.05x | 1.10x |" in section
    assert f"race_{kind}.md" in section
    assert ("--family --training" in section) == (kind == "family_training")
    assert section.endswith("\n")


def test_plot(tmp_path: Path) -> None:
    report.write(family_result(), tmp_path / "race_family.json")
    assert (tmp_path / "race_family.png").stat().st_size > 1000
    assert (tmp_path / "race_family.md").read_text().startswith("a processor")
