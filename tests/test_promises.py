# SPDX-License-Identifier: BSD-3-Clause
"""The promises of the README, one test each: fast, exact, the same bits, nothing hidden, nothing lost.

Each is a short check of the whole promise; the folders numbers/, bits/, runtime/, memory/ and refusals/ hold
the long ones.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from benchmarks import docs_tables
from tests.problems.cells import CELLS
from tests.problems.children import FUSED_ISAS, in_child
from tests.problems.comparing import assert_same_bits, assert_same_results, digest, largest_errors
from tests.problems.problem import make_problem, transformed
from tests.problems.running import called, expected_results, make_layer, trained

ROOT = Path(__file__).resolve().parents[1]


# ---- Fast --------------------------------------------------------------------------------------------------


def test_fast_every_figure_of_speed_is_a_stored_result_and_losses_are_shown():
    results = docs_tables.stored()
    table = docs_tables.readme_table(results)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{docs_tables.BEGIN}{table}{docs_tables.END}" in readme
    without = readme.replace(table, "")
    assert not re.search(r"\d(\.\d+)?x\b", without), "a ratio that no stored result says"
    lost = [float(ratio) for ratio in re.findall(r"\| (0\.\d+)x \|", table)]
    worst = min(float(ratio) for ratio in re.findall(r"\| (\d+\.\d+)x \|", table))
    assert worst < 1
    assert worst in lost


# ---- Exact -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_exact_float32_is_within_2e_6_of_a_float64_truth(cell):
    tanh = {"nonlinearity": "tanh"} if cell == "IndRNN" else {}
    for seed, H in enumerate((1, 16, 33, 128, 300)):
        problem = make_problem(100, 5, 24, H, 2, cell=cell, seed=seed, has_state=True, **tanh)
        truth = expected_results(problem, None, np.float64)
        errors = largest_errors(called(problem), truth, True, is_absolute=cell != "SLSTM")
        assert max(errors.values()) <= 2e-6, (H, errors)


@pytest.mark.parametrize("options", [{"layer_norm": "haste"}, {"forget_gate": False}], ids=str)
def test_the_exceptions_from_the_bound_are_named(options):
    name, value = next(iter(options.items()))
    text = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
    assert re.search(rf'{name}="?{value}"?', text)


# ---- The same bits -----------------------------------------------------------------------------------------


def digests_of_cells():
    """Of calls and gradients of every cell, each in another way on this instruction set."""
    found = {}
    for number, cell in enumerate(CELLS):
        problem = make_problem(30, 13, 24, 72, 2, cell=cell, has_state=True, has_lengths=True)
        layer = make_layer(problem, num_threads=1 + number % 3)
        found[cell] = digest(*trained(problem, layer, save=("all", "states", 7)[number % 3]).values())
    return found


def test_the_same_bits_for_threads_batches_cuts_instruction_sets_and_what_is_kept():
    for cell in CELLS:
        problem = make_problem(30, 13, 24, 72, 2, cell=cell, has_state=True)
        whole = called(problem, make_layer(problem, num_threads=1))
        layer = make_layer(problem, num_threads=3)
        assert_same_results(called(problem, layer), whole)
        parts, state = [], transformed(lambda a: a[:, 4:5], problem.state)
        for begin, end in ((0, 11), (11, 30)):  # a row alone, cut into two calls
            y, state = layer(problem.x[begin:end, 4:5], state)
            parts.append(y)
        assert_same_bits(np.concatenate(parts), whole["y0"][:, 4:5])
        expected = trained(problem)
        for save in ("states", 7):
            assert_same_results(trained(problem, layer, save=save), expected, (cell, save))
    digests = [in_child(digests_of_cells, isa=isa) for isa in FUSED_ISAS]
    assert FUSED_ISAS
    assert all(found == digests[0] for found in digests)


# ---- Nothing hidden ----------------------------------------------------------------------------------------


def ran_beside_a_call() -> bool:
    """Whether this thread saw the first step of a large call written and the last one not yet.

    While a call that held the GIL lasts, nobody can look; one that releases it may still end while this
    thread waits for a CPU, so it is tried again.
    """
    layer, x = fastlstm.LSTM(16, 256, num_threads=2), np.zeros((5000, 16, 16), np.float32)
    out = np.empty((5000, 16, 256), np.float32)
    for _ in range(20):
        out.fill(np.nan)
        worker = threading.Thread(target=layer, args=(x,), kwargs={"out": out})
        worker.start()
        while worker.is_alive() and np.isnan(out[0, 0, 0]):
            pass
        has_seen_the_middle = not np.isnan(out[0, 0, 0]) and np.isnan(out[-1, -1, -1])
        worker.join()
        if has_seen_the_middle:
            return True
    return False


def what_calls_show():
    """Threads after a small call, what ran beside a large one, libraries, and what becomes of subnormals."""
    fastlstm.LSTM(4, 8)(np.zeros((5, 2, 4), np.float32))
    threads = len(list(Path("/proc/self/task").iterdir()))
    ran = ran_beside_a_call()
    maps = Path("/proc/self/maps").read_text().splitlines()
    libraries = {Path(line.split()[-1]).name for line in maps if ".so" in line}
    halved = np.float32(1e-40) * np.float32(0.5)
    return {
        "threads": threads,
        "ran": ran,
        "libraries": sorted(libraries),
        "keeps subnormals": bool(halved > 0),
    }


def test_nothing_hidden_no_openmp_no_threads_for_small_work_and_the_gil_is_free():
    shown = in_child(what_calls_show)
    assert shown["threads"] == 1
    assert shown["ran"]
    assert shown["keeps subnormals"]
    assert any(name.startswith("_core.") for name in shown["libraries"])
    assert not [name for name in shown["libraries"] if re.search(r"gomp|iomp|libomp|torch|mkl", name)]


# ---- Nothing lost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_lost_bad_input_is_named_and_changes_nothing(cell):
    problem = make_problem(6, 3, 5, 8, cell=cell, has_state=True)
    layer = make_layer(problem)
    given = [problem.x.copy(), transformed(np.copy, problem.state)]
    expected = called(problem, layer)
    for name, change in {
        "x": {"x": problem.x[..., :-1]},
        "lengths": {"lengths": [1, 2]},
        r"lengths\[2\]": {"lengths": [1, 2, 7]},
        "mask": {"mask": np.ones((6, 3))},
        "reset": {"reset": np.ones((3, 6), bool)},
        r"state(\[0\])?": {"state": transformed(lambda a: a[:, :2], problem.state)},
        "out": {"out": np.zeros((6, 3, 9), np.float32)},
        r"x\[1, 2\]": {"x": np.array([[0] * 3, [0, 0, 5]])},
    }.items():
        change = {"state": None} | change if name.startswith("x") else change
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected .*, got "):
            called(problem, layer, **change)
    assert_same_results(called(problem, layer), expected)
    trained(problem, layer)
    assert_same_bits([problem.x, problem.state], given)
