# SPDX-License-Identifier: BSD-3-Clause
"""What the race computes around its timings: errors, limits, judgements, tables."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import data, docs_tables, findings, heats, machine, race, report, sweep
from benchmarks.limits import Limits
from benchmarks.peers import PEERS
from benchmarks.peers.base import gates_reordered
from benchmarks.protocol import load_case, save_case
from benchmarks.shapes import PARTS, RACE, TRAINING, Shape, limit_target

SHAPE = Shape(7, 3, 5, 6, 2, 2, "training")
SMALL = Shape(7, 3, 5, 6, kind="training")
PEAK = 1e11


def step_result(seconds: dict[tuple[str, int], float], shape: Shape = SMALL) -> dict[str, Any]:
    """A result of one shape, as the race would write it."""
    limits = Limits({"fma": {"float32": PEAK}, "stream": {}})
    results = [
        {"peer": peer, "threads": threads, "seconds": value, "error": 1e-7, "rounds": []}
        for (peer, threads), value in seconds.items()
    ]
    threads = sorted({count for _, count in seconds})
    return {
        "part": "training",
        "machine": {
            "cpu": "a processor",
            "cpus": 2,
            "system": "a system",
            "time": "2000-01-01",
            "caches": {},
        },
        "limits": limits.figures(),
        "absent": [],
        "cases": [race._recorded(shape, results, limits, threads)],
    }


def test_training_flops_are_three_forward_passes() -> None:
    T, B, I, H = 7, 3, 5, 6
    assert SMALL.flops() == 24 * T * B * H * (I + H)
    # Two directions of two layers; the second reads both directions of the first.
    assert SHAPE.flops() == 2 * (24 * T * B * H * (I + H) + 24 * T * B * H * (2 * H + H))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_training_limit_is_the_peak_alone(threads: int) -> None:
    limits = Limits({"fma": {"float32": PEAK}, "stream": {}})
    assert limits.seconds(SHAPE, threads) == pytest.approx(SHAPE.flops() / PEAK / threads)
    assert limits.figures()["stream"] == {}  # nothing had to be measured


def test_training_goals() -> None:
    large = Shape(5, 32, 1, 128, kind="training")
    assert [limit_target(large, threads, 1 << 20) for threads in (1, 2, 3)] == [0.85, 0.8, None]
    assert limit_target(Shape(5, 31, 1, 128, kind="training"), 1, 1 << 20) is None
    assert limit_target(Shape(5, 32, 1, 127, kind="training"), 1, 1 << 20) is None


def test_each_shape_is_in_one_part() -> None:
    assert {shape.part for shape in RACE} == set(PARTS)
    assert {shape for shape in RACE if shape.part == "training"} == set(TRAINING)
    assert len({shape.name for shape in RACE}) == len(RACE)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], {"forward", "training"}),
        (["--training"], {"training"}),
        (["--forward", "--quick"], {"forward"}),
        (["--family"], {"family"}),
        (["--family", "--training", "--quick"], {"family_training"}),
    ],
)
def test_parts_that_are_asked_for(arguments: list[str], parts: set[str]) -> None:
    assert {shape.part for shape in race.chosen_shapes(race.parse(arguments))} == parts


def test_peers_without_the_part_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        race.parse(["--training", "--peers", "openvino", "numpy"])
    assert "none of openvino, numpy takes part in training" in capsys.readouterr().err
    assert "training" in PEERS["fastlstm"].modules


def test_error_is_relative_to_each_gradient() -> None:
    truth = (np.array([2.0, -1000.0]), np.array([0.001, 0.0]))
    answer = (np.array([2.0, -1000.1]), np.array([0.001, 1e-8]))
    assert data.error_of(SMALL, answer, truth) == pytest.approx(1e-4)
    answer = (np.array([2.0, -1000.0]), np.array([0.001, 1e-6]))
    assert data.error_of(SMALL, answer, truth) == pytest.approx(1e-3)
    assert data.error_of(SMALL, (truth[0], np.array([np.nan, 0.0])), truth) == np.inf
    with pytest.raises(ValueError, match="shape"):
        data.error_of(SMALL, (truth[0], truth[1][:1]), truth)


def test_case_on_disk(tmp_path: Path) -> None:
    case, truth = heats.make_case(SHAPE)
    message = json.loads(json.dumps(save_case(tmp_path, case, truth)))
    again, true_again = load_case(message)
    assert again.shape == SHAPE
    assert list(again.params) == list(case.params)
    assert case.dy is not None
    np.testing.assert_array_equal(again.dy, case.dy)
    assert case.dy.shape == (7, 3, 12)
    assert len(true_again) == 1 + len(case.params)
    for mine, other in zip(truth, true_again, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_array_equal(mine, other)


def test_our_step_has_the_right_answer() -> None:
    from benchmarks.peers.fastlstm_training import Peer

    case, truth = heats.make_case(SHAPE)
    variants = Peer(1).variants(case)
    assert variants
    for build in variants.values():
        prepared = build()
        prepared.call()  # gradients must not add up from call to call
        error = data.error_of(SHAPE, prepared.answer(), truth)
        assert error <= data.tolerance("float32", SHAPE)


def test_gates_reordered_and_back() -> None:
    gates = np.repeat(np.arange(4), 2)
    assert gates_reordered(gates, "ofgi").tolist() == [3, 3, 1, 1, 2, 2, 0, 0]
    weights = np.random.default_rng(0).standard_normal((4 * 3, 5))
    np.testing.assert_array_equal(
        gates_reordered(gates_reordered(weights, "igof"), "igof", back=True), weights
    )


def test_geometric_means() -> None:
    result = step_result(
        {("fastlstm", 1): 1.0, ("torch", 1): 2.0, ("jax", 1): 3.0, ("fastlstm", 2): 1.0, ("torch", 2): 0.5}
    )
    result["cases"] += step_result({("fastlstm", 1): 1.0, ("torch", 1): 8.0, ("jax", 1): 3.0})["cases"]
    means = findings.geometric_means(result)
    assert means[1] == pytest.approx({"best peer": 6**0.5, "torch": 4.0, "jax": 3.0})
    assert means[2] == pytest.approx({"best peer": 0.5, "torch": 0.5})


def test_losses_name_goal_and_peer() -> None:
    shape = Shape(5, 32, 30, 130, kind="training")
    limit = shape.flops() / PEAK
    lines = findings.losses(step_result({("fastlstm", 1): limit / 0.8, ("torch", 1): limit / 0.9}, shape))
    assert len(lines) == 2
    assert "torch" in lines[0]
    assert "80 % of the limit, goal 85 %" in lines[1]
    assert (
        findings.losses(step_result({("fastlstm", 1): limit / 0.9, ("torch", 1): limit / 0.8}, shape)) == []
    )


def test_slow_contestants_have_one_turn() -> None:
    def found(peer: str, seconds: float, threads: int = 1) -> dict[str, Any]:
        return {"peer": peer, "threads": threads, "rounds": [{"best": seconds}]}

    fast, slow, other = found("a", 0.1), found("b", 0.6), found("b", 0.6, threads=2)
    failed: dict[str, Any] = {"peer": "c", "threads": 1, "rounds": []}
    everybody = [fast, slow, other, failed]
    assert [heats.is_slow(result, everybody) for result in everybody] == [False, True, False, False]
    short = [found("a", 0.001), found("b", 0.01)]
    assert not heats.is_slow(short[1], short)


def test_tables() -> None:
    seconds = {("fastlstm", 1): 2e-6, ("torch", 1): 3e-6, ("fastlstm", 2): 1e-6, ("torch", 2): 9e-7}
    result = step_result(seconds)
    result["contestants"] = [
        {"peer": peer, "threads": 1, "versions": {peer: "1.0"}, "never_quiet": 0}
        for peer in ("fastlstm", "torch")
    ]
    for text in (report.markdown(result), report.console(result)):
        assert "A training step: forward, backward, all gradients" in text
        assert "24 T B H" in text or text == report.console(result)
        assert "1.50x torch" in text
        assert "0.90x torch" in text
    section = docs_tables.section(result)
    assert "torch 1.0" in section
    assert "| (7,3,5,6) | 2.00 µs (1e-7) | torch 3.00 µs (1e-7) | 1.50x |" in section
    assert "2 thread(s): 1.00 µs, torch 900 ns (0.90x)" in section  # where fastlstm loses
    assert "race_training.png" in section


def test_page_has_a_section_for_each_processor_and_the_readme_the_worst_and_the_median(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs_tables, "ROOT", tmp_path)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    seconds = {("fastlstm", 1): 2e-6, ("torch", 1): 3e-6, ("fastlstm", 2): 1e-6, ("torch", 2): 9e-7}
    here, elsewhere = step_result(seconds), step_result(seconds | {("torch", 2): 4e-6})
    elsewhere["machine"] = elsewhere["machine"] | {"cpu": "Another (model 2)", "time": "2000-01-02"}
    own_folder = machine.folder_name(here["machine"]["cpu"])
    for folder, result in ((own_folder, here), ("another-model-2", elsewhere)):
        (results / folder).mkdir()
        (results / folder / "race_training.json").write_text(json.dumps(result))
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{docs_tables.BEGIN}old\n{docs_tables.END}\nb\n")
    docs_tables.main()
    page = (tmp_path / "docs" / "speed.md").read_text()
    for name, result, other in (
        (f"{own_folder}/race_training", here, elsewhere),
        ("another-model-2/race_training", elsewhere, here),
    ):
        own = page.partition(f"\n## {result['machine']['cpu']}\n")[2].partition("\n## ")[0]
        assert f"Measured on {result['machine']['time']} on {result['machine']['cpu']}" in own
        assert f"[race_training.md](../benchmarks/results/{name}.md)" in own
        assert docs_tables.section(result | {"name": name}).rstrip() in own
        assert other["machine"]["cpu"] not in own
    assert "- [Another (model 2)](#another-model-2): LSTM, training step" in page
    text = readme.read_text()
    before, _, rest = text.partition(docs_tables.BEGIN)
    assert before == "a\n"
    assert rest.endswith(f"{docs_tables.END}\nb\n")
    assert "old" not in text
    # Of the newest result of a part; of two comparisons the lower one is the median.
    kept = "| (7,3,5,6) | 1 | 2.00 µs | torch 3.00 µs | 1.50x |"
    assert all(f"| LSTM, training step (A), {kind} of 2 {kept}" in text for kind in ("worst", "median"))
    assert "a peer was faster in 0 of 2 comparisons" in text
    lost = "| (7,3,5,6) | 2 | 1.00 µs | torch 900 ns | 0.90x |"
    assert f"| LSTM, training step (A), worst of 2 {lost}" in docs_tables.readme_table([here])
    docs_tables.main()
    assert readme.read_text() == text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match=r"README.md: expected one"):
        docs_tables.main()


def test_sweep_covers_all_sizes_and_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = sweep.hidden_sizes()
    assert sizes[0] == sweep.SMALLEST
    assert sizes[-1] == sweep.LARGEST
    assert all(below < above <= 1.25 * below for below, above in itertools.pairwise(sizes))
    assert {1 << n for n in range(5, 12)} <= set(sizes)
    monkeypatch.setattr(sweep, "hidden_sizes", lambda: [32, 38])
    monkeypatch.setattr(sweep, "BATCH_SIZES", (1, 8))
    monkeypatch.setattr(sweep, "ROUNDS", 1)
    for arguments in ([], ["--training"]):
        output = tmp_path / "own" / "sweep.json"
        assert sweep.main([*arguments, "--threads", "1", "--output", str(output)]) == 0
        result = json.loads(output.read_text())
        assert [(case["B"], case["H"]) for case in result["cases"]] == [(1, 32), (1, 38), (8, 32), (8, 38)]
        assert all(0 < sweep.share(case, 1) < 10 for case in result["cases"])
        assert result["is_training"] == bool(arguments)
        assert output.with_suffix(".png").stat().st_size > 1000
