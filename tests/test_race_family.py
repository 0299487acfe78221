# SPDX-License-Identifier: BSD-3-Clause
"""The race of the other cells: its shapes, limits, truths, turns, comparisons and tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import comparisons, data, findings, heats, limits, race, readme_table, report, shapes
from benchmarks.cells import CELLS, COMPARED, PLAIN, RACED
from benchmarks.contestants import WorkerError
from benchmarks.heats import Cases, Heat, run_heat
from benchmarks.limits import Limits
from benchmarks.peers import OURS, PEERS
from benchmarks.peers.base import Case, Prepared, coupled_as_plain, end_to_end, row_by_row
from benchmarks.peers.fastlstm_family import Peer
from benchmarks.progress import Progress
from benchmarks.protocol import save_case
from benchmarks.shapes import FAMILY, FAMILY_SIZES, FAMILY_TRAINING, Shape
from benchmarks.truth import reference_config
from benchmarks.worker import Worker
from fastlstm import reference

SIZE = (9, 4, 7, 10)
KINDS = ("family", "family_training")
PEAK, BANDWIDTH = 1e11, 1e10
cells = pytest.mark.parametrize("cell", CELLS)


def shape_of(cell: str, kind: str = "family") -> Shape:
    return Shape(*SIZE, kind=kind, cell=cell)


def known_limits(*sizes: int) -> Limits:
    """Limits of a made-up machine, with the bandwidth over buffers of these sizes."""
    return Limits({"fma": {"float32": PEAK}, "stream": {str(size): BANDWIDTH for size in sizes}})


# ---- Shapes and data ---------------------------------------------------------------------------------------


@cells
def test_parameters_are_those_of_the_cell(cell: str) -> None:
    shape = shape_of(cell)
    params = data.parameters(shape, data.generator(shape))
    expected = reference.param_shapes(reference_config(shape))
    of_minimal = {name for name in expected if name.startswith("bias_hh")} - params.keys()
    assert not of_minimal
    assert {name: value.shape for name, value in params.items()} == expected


def test_the_race_of_the_plain_lstm_keeps_its_weights() -> None:
    """Draws must not depend on what the other cells have."""
    shape = Shape(7, 3, 5, 6, 2, 2, "training")
    rng, bound = data.generator(shape), 1 / np.sqrt(6)
    drawn = data.parameters(shape, data.generator(shape))
    assert list(drawn)[4:8] == [
        f"{name}_l0_reverse" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    for name, value in drawn.items():
        again = rng.uniform(-bound, bound, value.shape).astype(np.float32)
        np.testing.assert_array_equal(value, again, err_msg=name)


@pytest.mark.parametrize(
    ("cell", "per_row"),
    [
        ("lstm", 8 * 10 * (7 + 10)),
        ("peephole", 8 * 10 * (7 + 10)),
        ("coupled", 6 * 10 * (7 + 10)),
        ("gru", 6 * 10 * (7 + 10)),
        ("rnn", 2 * 10 * (7 + 10)),
        ("projected", 8 * 10 * (7 + 5) + 2 * 5 * 10),
        ("mingru", 4 * 10 * 7),
        ("minlstm", 6 * 10 * 7),
    ],
)
def test_flops(cell: str, per_row: int) -> None:
    assert shape_of(cell).flops() == 9 * 4 * per_row
    assert shape_of(cell, "family_training").flops() == 3 * 9 * 4 * per_row


def test_ragged_counts_real_steps() -> None:
    shape = shape_of("ragged")
    lengths = shape.lengths()
    assert lengths is not None
    assert len(lengths) == 4
    assert all(1 <= length <= 9 for length in lengths)
    assert len(set(lengths)) > 1
    assert shape_of("ragged", "family_training").lengths() == lengths
    assert shape.real_steps() == sum(lengths) < 36
    assert shape.flops() == pytest.approx(shape_of(PLAIN).flops() * sum(lengths) / 36)
    assert sum(rows * count for rows, count in shape.rows().items()) == sum(lengths)
    assert sum(shape.rows().values()) == max(lengths)
    assert shape_of(PLAIN).rows() == {4: 9}


def test_lengths_are_uniform_in_1_to_T() -> None:
    lengths = Shape(7, 70000, 1, 2, kind="family", cell="ragged").lengths()
    assert lengths is not None
    counts = np.bincount(lengths, minlength=8)
    assert counts[0] == 0
    assert counts.size == 8
    np.testing.assert_allclose(counts[1:], 10000, rtol=0.05)


def test_shapes_of_the_race() -> None:
    for kind, raced in zip(KINDS, (FAMILY, FAMILY_TRAINING), strict=True):
        assert {(shape.cell, shape.size) for shape in raced} == {(c, s) for c in RACED for s in FAMILY_SIZES}
        found = shapes.family_shapes([kind])
        assert set(raced) < set(found)
        assert len({shape.name for shape in found}) == len(found)
        assert {shape.cell for shape in found} == set(CELLS) == {*RACED, *COMPARED}
        assert all(shape.part == kind and shape.is_family for shape in found)
    assert not any(shape.is_family for shape in shapes.RACE if shape.kind == "sequence")


def test_end_to_end_and_back() -> None:
    shape = shape_of("ragged")
    x = data.noise(shape, data.generator(shape))
    rows, offsets = end_to_end(shape, x)
    lengths = shape.lengths()
    assert lengths is not None
    assert rows.shape == (sum(lengths), 7)
    assert offsets.tolist() == [0, *np.cumsum(lengths)]
    np.testing.assert_array_equal(rows[offsets[2] : offsets[3]], x[: lengths[2], 2])
    padded = row_by_row(shape, rows)
    is_real = np.arange(9)[:, np.newaxis] < np.array(lengths)
    np.testing.assert_array_equal(padded, np.where(is_real[:, :, np.newaxis], x, 0))


# ---- Limits ------------------------------------------------------------------------------------------------


def test_limit_of_a_gru() -> None:
    """At few rows the recurrent weights must be streamed; at many the peak binds."""
    few = Shape(9, 1, 7, 64, kind="family", cell="gru")
    share = 4 * 3 * 64 * 64
    input_seconds = 2 * 3 * 64 * 7 * 9 / PEAK
    assert known_limits(share).seconds(few) == pytest.approx(input_seconds + 9 * share / BANDWIDTH)
    many = Shape(9, 100, 7, 64, kind="family", cell="gru")
    assert known_limits(share).seconds(many) == pytest.approx(many.flops() / PEAK)


def test_limit_of_ragged_rows_goes_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shape, "lengths", lambda self: [2, 100, 2, 2] * 10)
    shape = Shape(100, 40, 7, 64, kind="family", cell="ragged")
    share = 4 * 4 * 64 * 64
    inputs = 2 * 4 * 64 * 7 * (10 * 100 + 30 * 2) / PEAK
    # 40 rows take 40 * 8 * 64^2 / PEAK = 13 us, streaming 6.6 us, 10 rows 3.3 us.
    expected = inputs + 2 * 40 * 8 * 64**2 / PEAK + 98 * share / BANDWIDTH
    assert known_limits(share).seconds(shape) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "ways"), [("family", 1), ("family_training", 3)])
def test_limit_without_recurrence_is_the_slower_of_product_and_memory(kind: str, ways: int) -> None:
    narrow = Shape(1000, 20, 1, 100, kind=kind, cell="mingru")
    traffic = ways * 4 * 1000 * 20 * (1 + 100)
    assert limits.traffic(narrow) == traffic
    assert known_limits(traffic).seconds(narrow) == pytest.approx(traffic / BANDWIDTH)
    assert known_limits(traffic // 2).seconds(narrow, 2) == pytest.approx(traffic / 2 / BANDWIDTH)
    wide = Shape(1000, 20, 500, 500, kind=kind, cell="minlstm")
    assert known_limits(limits.traffic(wide)).seconds(wide) == pytest.approx(wide.flops() / PEAK)


# ---- Truth -------------------------------------------------------------------------------------------------


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


@cells
def test_truth_is_the_formula(cell: str) -> None:
    case, expected = heats.make_case(shape_of(cell))
    assert data.largest_error(by_formula(case), expected) < 1e-14


@cells
def test_truth_of_training_is_the_slope(cell: str) -> None:
    """Of ``sum(y * dy)`` along one direction in which x and all parameters change."""
    case, expected = heats.make_case(shape_of(cell, "family_training"))
    assert [gradient.shape for gradient in expected] == [
        case.x.shape,
        *(value.shape for value in case.params.values()),
    ]
    rng, step = np.random.default_rng(5), 1e-6
    directions = [rng.standard_normal(gradient.shape) for gradient in expected]

    def loss(sign: int) -> float:
        moved = [
            value + sign * step * direction
            for value, direction in zip((case.x, *case.params.values()), directions, strict=True)
        ]
        params = dict(zip(case.params, moved[1:], strict=True))
        y = by_formula(Case(case.shape, params, moved[0], None))[0]
        assert case.dy is not None
        return float(np.sum(y * case.dy))

    slope = (loss(1) - loss(-1)) / (2 * step)
    found = sum(float(np.sum(g * d)) for g, d in zip(expected, directions, strict=True))
    assert found == pytest.approx(slope, rel=1e-6)


def test_coupled_gates_as_a_plain_lstm() -> None:
    case, (y, h_n, c_n) = heats.make_case(shape_of("coupled"))
    params = {name: coupled_as_plain(value) for name, value in case.params.items()}
    plain_y, (plain_h, plain_c) = reference.lstm(case.x, params, dtype="float64")
    assert data.largest_error((plain_y, plain_h, plain_c), (y, h_n, c_n)) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
@cells
def test_our_answers(cell: str, kind: str) -> None:
    """Every way in which the race runs fastlstm."""
    shape = shape_of(cell, kind)
    case, expected = heats.make_case(shape)
    variants = Peer(1).variants(case)
    assert len(variants) == (2 if cell != "ragged" else 3 if kind == "family" else 4)
    for build in variants.values():
        prepared = build()
        prepared.call()  # gradients must not add up from call to call
        error = data.error_of(shape, prepared.answer(), expected)
        assert error <= data.tolerance("float32", shape)


# ---- Turns -------------------------------------------------------------------------------------------------


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
    worker.handle({"op": "release"})
    assert "failed" in worker.handle({"op": "run", "case": shape_of("gru").name, "seconds": 1e-4})


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


def test_heats_of_the_family() -> None:
    arguments = race.parse(["--family", "--rounds", "7"])
    chosen = race.chosen_shapes(arguments)
    people: Any = [FakeContestant([], name) for name in (OURS, "torch", "onnxruntime", "openvino")]
    planned = race.planned(chosen, people, _Flat(), arguments)
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
    long = race.planned(chosen, people, _Flat(0.2), arguments)
    assert {(heat.is_compared, heat.rounds) for heat in long} == {(False, 3), (True, 5)}


class _Flat(Limits):
    """Every shape has the same limit."""

    def __init__(self, value: float = 0.001) -> None:
        super().__init__()
        self.value = value

    def seconds(self, shape: Shape, threads: int = 1) -> float:
        return self.value


def test_chosen_cells_alone() -> None:
    arguments = race.parse(["--family", "--shapes", "gru-T100-B8*", "mingru-T1000*"])
    chosen = race.chosen_shapes(arguments)
    assert [shape.name for shape in chosen] == ["gru-T100-B8-I256-H256", "mingru-T1000-B64-I1-H256"]
    people: Any = [FakeContestant([], OURS)]
    assert [(h.is_compared, h.shapes[0].cell) for h in race.planned(chosen, people, _Flat(), arguments)] == [
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


# ---- What a result says ------------------------------------------------------------------------------------


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
    flat: Any = _Flat(1e-6)
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
def test_readme_section(kind: str) -> None:
    section = readme_table.section(family_result(kind))
    assert "|  | (9,4,7,10) |" in section
    assert "| GRU, 1 thread | 4.00 µs, 1.50x torch |" in section
    assert "| GRU, 2 threads | 4.00 µs, 0.75x torch |" in section
    assert "Where a peer was faster: GRU, 2 threads (9,4,7,10)." in section
    assert "| coupled / LSTM | at most 1.05x | 1.10x |" in section
    assert f"race_{kind}.md" in section
    assert ("--family --training" in section) == (kind == "family_training")
    assert section.endswith("\n")


def test_readme_gets_the_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_table, "ROOT", tmp_path)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    result = family_result()
    (results / "race_family.json").write_text(json.dumps(result))
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- race-family -->\nold\n<!-- /race-family -->\nb\n")
    readme_table.main()
    expected = readme_table.section(result)
    assert readme.read_text() == f"a\n<!-- race-family -->\n{expected}<!-- /race-family -->\nb\n"


def test_plot(tmp_path: Path) -> None:
    report.write(family_result(), tmp_path / "race_family.json")
    assert (tmp_path / "race_family.png").stat().st_size > 1000
    assert (tmp_path / "race_family.md").read_text().startswith("a processor")
