# SPDX-License-Identifier: BSD-3-Clause
"""Every instruction set of this machine runs the tests in its own process, and really is the active one."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import pytest

import fastlstm
from tests.problems.children import HANG, ISAS, ROOT, child_environment, in_child
from tests.problems.inside import isa_active, isa_table

NAMES = {"generic", "neon", "avx2", "avx512"}


def isa_active_of_child():
    return isa_active()


# Folders with tests that are marked `every_isa`, and the least number of these.
MARKED = {"numbers": 250, "bits": 500, "training sequences interop": 150}


def marked_files():
    """Of the tests that are marked every_isa; no other file is collected for nothing."""
    mark = "pytest.mark." + "every_isa"
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if mark in path.read_text()]


def run_marked(isa, folders, report):
    """Run the tests of some folders that are marked every_isa under `isa`; how many of each outcome."""
    command = [sys.executable, "-m", "pytest", "-m", "every_isa", "-p", "no:cacheprovider"]
    files = [str(path) for path in marked_files() if path.parent.name in folders.split()]
    finished = subprocess.run(
        [*command, f"--junitxml={report}", *files],
        cwd=ROOT,
        env=child_environment(isa, FASTLSTM_TEST_ISA=isa),
        capture_output=True,
        text=True,
        timeout=3 * HANG,
    )
    assert finished.returncode == 0, finished.stdout[-5000:] + finished.stderr
    assert f", {isa}, " in finished.stdout  # the header line of conftest.py
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    return {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}


# This process runs the tests on its own.
@pytest.mark.long
@pytest.mark.parametrize("folders", MARKED)
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != isa_active()])
def test_an_instruction_set_passes_the_tests_in_its_own_process(isa, folders, tmp_path):
    outcome = run_marked(isa, folders, tmp_path / "report.xml")
    assert outcome["tests"] >= MARKED[folders]
    assert outcome["failures"] == outcome["errors"] == outcome["skipped"] == 0


def test_no_folder_with_marked_tests_is_left_out():
    assert {path.parent.name for path in marked_files()} == set(" ".join(MARKED).split())


@pytest.mark.parametrize("isa", ISAS)
def test_the_cap_is_the_active_one(isa):
    assert in_child(isa_active_of_child, isa=isa) == isa


def test_without_a_cap_the_best_one_is_active():
    environment = child_environment()
    del environment["FASTLSTM_MAX_ISA"]
    code = "from fastlstm import _core; print(_core.isa_active())"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG,
    )
    assert finished.stdout.strip() == ISAS[-1]


def test_the_table_names_all_instruction_sets_slowest_first():
    table = isa_table()
    names = [name for name, _, _ in table]
    assert len(names) == len(NAMES)
    assert set(names) == NAMES
    assert table[0] == ("generic", True, True)
    assert names.index("avx2") < names.index("avx512")
    assert all(built or not available for _, built, available in table)
    assert isa_active() in ISAS


NOT_BUILT = sorted(name for name, is_built, _ in isa_table() if not is_built)


@pytest.mark.parametrize("value", ["sse2", "AVX512F", "avx512 avx2", "1", "none", *NOT_BUILT])
# That a name above this machine is at most that: tests/c/cases/test_errors.c, which takes abilities away.
def test_an_unknown_cap_or_one_of_another_architecture_is_an_error_that_lists_the_valid_ones(value):
    finished = subprocess.run(
        [sys.executable, "-c", "import fastlstm"],
        env=child_environment(value),
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError", "ValueError"))
    assert "FASTLSTM_MAX_ISA" in last
    assert value in last
    assert all(isa in last for isa in ISAS), last


def test_show_runtime_tells_the_active_one(capsys):
    fastlstm.show_runtime()
    assert isa_active() in capsys.readouterr().out
