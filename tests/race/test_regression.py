# SPDX-License-Identifier: BSD-3-Clause
"""The comparison of two builds: what it concludes from given times, and one short run of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from benchmarks import regression
from benchmarks.regression import BuildError, Comparison, compare, difference, spread

HERE = Path(fastlstm.__file__).parent.parent


def test_spread_is_that_of_the_sign_test():
    assert spread([1.0] * 5) is None
    assert spread([3, 1, 2, 6, 5, 4]) == (1, 6)  # all below: once in 64, and all above
    assert spread(range(9)) == (1, 7)
    assert spread(range(20)) == (5, 14)  # as in tables of the test


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.97] * 9, "slower"),
        ([0.99] * 9, ""),
        ([1.0] * 9, ""),
        ([1.03] * 9, "faster"),
        ([0.9] * 7 + [1.0] * 2, ""),  # too few to tell
        ([0.9] * 8 + [1.0], "slower"),  # one may be an accident
        ([0.5] * 5, "unknown"),
    ],
)
def test_verdict(ratios, verdict):
    assert Comparison("shape", ratios=ratios).verdict == verdict


def test_difference(tmp_path):
    files = []
    for name, values in (("a", [0.0, 1.0]), ("b", [-0.0, 1.0]), ("c", [0.0, 1.5]), ("d", [0.0])):
        files.append(tmp_path / f"{name}.npz")
        np.savez(files[-1], np.array(values))
    found = [difference(files[0], file) for file in files]
    assert found == ["same bits", "differ by 0.0e+00", "differ by 5.0e-01", "other shapes"]


def test_another_package_than_the_one_that_was_meant_is_no_build(tmp_path):
    with pytest.raises(BuildError, match="expected the package in"):
        compare(HERE, tmp_path, ["stream.step (1,1,1,16)"], 1, 1, 1e-4)


def test_a_build_has_its_own_answers(tmp_path, capsys):
    """Whatever the times are, of one pair nothing is concluded."""
    file = tmp_path / "result.json"
    shapes = ["--shapes", "*64,64)", "--pairs", "1", "--rounds", "1", "--seconds", "1e-4"]
    assert regression.main(["--old", str(HERE), "--json", str(file), *shapes]) == 0
    cases = json.loads(file.read_text())["cases"]
    assert len(cases) == 9
    assert {case["answers"] for case in cases} == {"same bits"}
    assert {case["verdict"] for case in cases} == {"unknown"}
    printed = capsys.readouterr().out
    assert all(case["name"] in printed for case in cases)
