# SPDX-License-Identifier: BSD-3-Clause
"""Turns of the race: worker, contestants, heats, and who takes part with which cell."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import heats, race, shapes
from benchmarks.cells import PLAIN, RACED
from benchmarks.heats import Cases, Heat, run_heat
from benchmarks.peers import OURS, PEERS
from benchmarks.peers.fastlstm_family import Peer
from benchmarks.progress import Progress
from benchmarks.protocol import save_case
from benchmarks.shapes import FAMILY, Shape
from benchmarks.worker import Worker
from tests.race.race_cells import (
    KINDS,
    FakeContestant,
    FakePeer,
    FlatLimits,
    cells,
    shape_of,
)


def test_worker_keeps_several_cases(tmp_path: Path) -> None:
    peer = FakePeer(wrong="rnn")
    worker = Worker(peer)
    replies = {}
    for cell in ("gru", "rnn", PLAIN):
        (tmp_path / cell).mkdir()
        message = save_case(tmp_path / cell, *heats.make_case(shape_of(cell)))
        replies[cell] = worker.handle({"op": "prepare", "seconds": 1e-4, **json.loads(json.dumps(message))})
    assert replies["gru"]["variant"] == replies[PLAIN]["variant"] == "only"
    assert "wrong answer: largest error 1.0e-01" in replies["rnn"]["failed"]
    peer.calls.clear()
    assert worker.handle({"op": "run", "case": shape_of("gru").name, "seconds": 1e-4})["calls"] > 0
    assert peer.calls.keys() == {"gru"}
    assert (
        "is not prepared"
        in worker.handle({"op": "run", "case": shape_of("rnn").name, "seconds": 1e-4})["failed"]
    )
    message |= {"op": "prepare", "seconds": 1e-4}
    assert "variant" in worker.handle(message | {"variants": ["only", "other"]})
    assert "variant" not in worker.handle(message | {"variants": ["other"]})
    worker.handle({"op": "release"})
    assert "failed" in worker.handle({"op": "run", "case": shape_of("gru").name, "seconds": 1e-4})


def heat_of(contestants: list[FakeContestant], cells: list[str], rounds: int) -> Heat:
    people: Any = tuple(contestants)
    return Heat(tuple(shape_of(cell) for cell in cells), people, rounds, is_compared=True)


def run(heat: Heat, folder: Path) -> dict[Shape, list[dict[str, Any]]]:
    with Progress(heat.turns()) as progress:
        return run_heat(heat, Cases(folder), 0.001, progress)


def test_turns_of_a_heat(tmp_path: Path) -> None:
    log: list[str] = []
    people = [FakeContestant(log, OURS, threads) for threads in (1, 2)]
    heat = heat_of(people, ["gru", PLAIN], rounds=2)
    assert heat.turns() == 12
    results = run(heat, tmp_path)
    gru, plain = shape_of("gru").name, shape_of(PLAIN).name
    ours = [f"{OURS}/{threads}" for threads in (1, 2)]
    order = [f"{who} {{}} {what}" for who in ours for what in (gru, plain)]
    assert log == [
        *(entry.format("prepare") for entry in order),
        *(entry.format("run") for entry in order),
        *(entry.format("run") for entry in order[1:] + order[:1]),
        *(f"{who} release" for who in ours),
    ]
    assert list(results) == [shape_of("gru"), shape_of(PLAIN)]
    assert [found["threads"] for found in results[shape_of("gru")]] == [1, 2]
    first = results[shape_of("gru")][0]
    assert [(timing["round"], timing["best"]) for timing in first["rounds"]] == [(0, 5.0), (1, 12.0)]
    assert first["seconds"] == 8.5


def test_a_failure_ends_one_entry_alone(tmp_path: Path) -> None:
    log: list[str] = []
    results = run(heat_of([FakeContestant(log, OURS, fails="gru")], ["gru", "rnn"], rounds=3), tmp_path)
    assert results[shape_of("gru")][0]["failed"] == "broke"
    assert "seconds" not in results[shape_of("gru")][0]
    assert len(results[shape_of("rnn")][0]["rounds"]) == 3


def test_cases_are_made_once_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Shape] = []
    make = heats.make_case
    monkeypatch.setattr(heats, "make_case", lambda shape: (made.append(shape), make(shape))[1])
    cases = Cases(tmp_path)
    folder = Path(cases.message(shape_of("gru"))["folder"])
    cases.message(shape_of("rnn"))
    assert cases.message(shape_of("gru"))["folder"] == str(folder)
    assert made == [shape_of("gru"), shape_of("rnn")]
    assert (folder / "x.npy").exists()
    cases.message(Shape(2, 1, 2, 4, kind="family", cell="gru"))
    assert not folder.exists()
    cases.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@cells
def test_compared_in_one_way(cell: str, kind: str) -> None:
    variants = Peer(1).variants(heats.make_case(shape_of(cell, kind))[0])
    assert len(variants.keys() & set(heats.COMPARED_VARIANTS)) == 1


def test_heats_of_the_family() -> None:
    arguments = race.parse(["--family", "--rounds", "7"])
    chosen = race.chosen_shapes(arguments)
    people: Any = [FakeContestant([], name) for name in (OURS, "torch", "onnxruntime", "openvino")]
    planned = race.planned(chosen, people, FlatLimits(), arguments)
    against = [heat for heat in planned if not heat.is_compared]
    assert [heat.shapes for heat in against] == [(shape,) for shape in FAMILY]
    for heat in against:
        names = [contestant.spec.name for contestant in heat.contestants]
        expected = [
            name
            for name in (OURS, "torch", "onnxruntime", "openvino")
            if name == OURS or heat.shapes[0].cell not in PEERS[name].left_out
        ]
        assert names == expected
        assert len(names) > 1
    compared = [heat for heat in planned if heat.is_compared]
    assert [heat.shapes for heat in compared] == list(shapes.compared("family"))
    assert all([c.spec.name for c in heat.contestants] == [OURS] for heat in compared)
    # A comparison stands with the other shapes of its size, whose cases are then still there.
    order = [heat.shapes[0].size for heat in planned]
    assert order == sorted(order, key=order.index)
    assert {heat.rounds for heat in planned} == {7}
    long = race.planned(chosen, people, FlatLimits(0.2), arguments)
    assert {(heat.is_compared, heat.rounds) for heat in long} == {(False, 3), (True, 5)}


def test_chosen_cells_alone() -> None:
    arguments = race.parse(["--family", "--shapes", "gru-T100-B8*", "mingru-T1000*"])
    chosen = race.chosen_shapes(arguments)
    assert [shape.name for shape in chosen] == ["gru-T100-B8-I256-H256", "mingru-T1000-B64-I1-H256"]
    people: Any = [FakeContestant([], OURS)]
    assert [
        (h.is_compared, h.shapes[0].cell) for h in race.planned(chosen, people, FlatLimits(), arguments)
    ] == [
        (False, "gru"),
        (True, "gru"),
        (True, "mingru"),
    ]
    with pytest.raises(ValueError, match="step-"):
        race.chosen_shapes(race.parse(["--family", "--shapes", "step-*"]))


def test_results_have_files_of_their_own() -> None:
    path = Path("somewhere/race.json")
    assert [race.output_of(path, part).name for part in shapes.PARTS] == [
        "race.json",
        "race_training.json",
        "race_family.json",
        "race_family_training.json",
    ]


@pytest.mark.parametrize("part", KINDS)
def test_every_cell_has_a_peer(part: str) -> None:
    for cell in RACED:
        taking_part = [
            name for name, spec in PEERS.items() if part in spec.modules and cell not in spec.left_out
        ]
        assert OURS in taking_part
        assert len(taking_part) > 1, cell
    assert all(set(spec.left_out) <= set(RACED) for spec in PEERS.values())
