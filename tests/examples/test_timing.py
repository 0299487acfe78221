# SPDX-License-Identifier: BSD-3-Clause
"""The example timing and the table of cells, at small sizes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from examples import cells, timing


def test_trains(rng):
    x, target, mask = timing.draw(rng, 400, 49)
    assert (x.dtype, x.shape) == (np.float32, (199, 400, 1))
    assert target.shape == mask.shape == (199, 400)
    assert set(np.unique(x)) == {0, timing.HEIGHT}
    firsts, intervals = [], []
    for row in range(400):
        spikes = np.flatnonzero(x[:, row, 0])
        firsts.append(spikes[0])
        intervals.append(np.diff(spikes))
        assert np.array_equal(np.flatnonzero(mask[:, row]), spikes[1:])
        assert np.array_equal(target[spikes[1:], row], intervals[-1] - 49)
    assert set(firsts) == set(range(49))
    assert np.shape(intervals) == (400, 3)
    assert set(np.unique(intervals)) == {49, 50}
    assert np.mean(intervals) == pytest.approx(49.5, abs=0.06)
    assert not target[~mask].any()


def test_networks_begin_alike_and_blind(rng):
    x = timing.draw(rng, 50, 49).x
    spikes = x[..., 0] > 0
    before = np.roll(spikes, -1, axis=0) & (np.arange(len(x)) >= 49)[:, np.newaxis]
    runs = {}
    for peephole in (True, False):
        lstm = timing.make_lstm(4, peephole, 3)
        assert ("weight_ch_l0" in lstm.params) == peephole
        y, _, cells = lstm(x, return_cells=True)
        runs[peephole] = y
        assert np.abs(y[~spikes]).max() < 0.02
        assert np.abs(cells[before]).min() > 1
        assert np.abs(cells[before]).max() > 10
        assert np.abs(cells[spikes]).max() <= 1
    assert np.array_equal(runs[True], runs[False])
    y, _ = timing.make_lstm(4, False, 3, blind=False)(x)
    assert np.abs(y[before]).max() > 1


def test_right_answers_are_sure():
    class Head:
        def __call__(self, outputs):
            return outputs

    target, mask = np.array([[0, 1, 1, 0]]), np.array([[True, True, True, False]])
    trains = timing.Trains(np.zeros((1, 4, 1), np.float32), target, mask)
    for lead, expected in ((2.3, 0), (2.1, 3), (-9.0, 3), (np.nan, 3)):
        outputs = np.where(np.arange(2) == target[..., np.newaxis], lead, 0.0)
        assert timing.wrong(lambda x, y=outputs: (y, None), Head(), trains) == expected


def test_short_intervals_are_learned_with_peepholes_only_and_again_the_same():
    options = {"max_updates": 800, "short": 9, "num_tests": 200, "num_afterwards": 500}
    first, again = (timing.train(0, True, **options) for _ in range(2))
    assert first["loss"] == again["loss"]
    assert first["checks"] == again["checks"]
    assert first["solved_at"] == first["checks"][-1][0]
    assert first["right_afterwards"] > 0.99
    without = timing.train(0, False, **options)
    assert without["loss"][0] == first["loss"][0] > 0.5
    assert without["solved_at"] is None
    assert without["right_afterwards"] < 0.5


def test_quick_timing(tmp_path, capsys):
    timing.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "timing.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "timing.json").read_text(encoding="utf-8"))["results"]
    assert [result["peephole"] for result in results] == [True, False]
    assert "with peepholes 1 of 1 seeds, without 0 of 1" in capsys.readouterr().out


def test_table_of_cells():
    H = 8
    rows = {row.title: row for row in cells.measure(H, 5, 1)}
    square = H * H + H * H + 2 * H  # one gate: two matrices, two biases
    expected = [4 * square, 4 * square + 3 * H, *[3 * square] * 3]
    expected.append(4 * (H * H + H * H // 2 + 2 * H) + H * H // 2)
    expected += [4 * square + 4 * H, 4 * square + 10 * H, 3 * square, 3 * square, square]
    expected += [H * H + 2 * H, 4 * (H * H + H * H // 4 + H)]  # IndRNN, SLSTM
    expected += [2 * square, 2 * (H * H + H), 3 * (H * H + H)]
    assert [row.parameters for row in rows.values()] == expected
    assert list(rows) == [cell.title for cell in cells.CELLS]
    assert {cell.name for cell in cells.CELLS} == set(cells.reference.CELL_OPTIONS)
    for row in rows.values():
        assert set(row.seconds) == {(1, False), (1, True), (32, False), (32, True)}
        assert 0 < min(row.seconds.values()) < max(row.seconds.values()) < np.inf
        assert 0 < row.output_error < 1e-5
        assert 0 < row.gradient_error < 1e-4


def test_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"a\n{cells.BEGIN}\nold\n{cells.END}\nb\n", encoding="utf-8")
    cells.write("new", page)
    assert page.read_text(encoding="utf-8") == f"a\n{cells.BEGIN}\nnew\n{cells.END}\nb\n"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="page: expected one"):
        cells.write("new", page)


def test_page_says_when_to_use_each_cell():
    text = cells.PAGE.read_text(encoding="utf-8").partition("## When to use which")[2]
    assert all(f"\n| {cell.title} | " in text for cell in cells.CELLS)
