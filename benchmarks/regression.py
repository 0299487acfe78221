# SPDX-License-Identifier: BSD-3-Clause
"""Two builds of the package side by side: is the new one slower anywhere?

``python -m pip install --no-deps --target DIR .``  keeps a build for later
``python -m benchmarks.regression --old DIR``       compares the installed one with it; ``--new DIR`` another
``python -m benchmarks.regression --old DIR --new DIR``  should find nothing: what the machine itself does

A pair of fresh processes, one for each build, takes turns at every shape; then comes the next pair, since
where a process's memory happens to lie can make it faster or slower for as long as it lives.  A pair's
figure is the median over its rounds of old / new, so above 1 is faster; the result is the median over the
pairs, and its spread the interval that holds the true median in at least 95 of 100 cases.  A shape is
slower if even the upper end of that is below 1 / 1.02.  Exits with 1 if any is, or if a build fails.
Answers are compared first: where bits differ, the largest difference is shown, and that alone is no
failure.
"""

import argparse
import contextlib
import fnmatch
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np

import fastlstm
from benchmarks import machine
from benchmarks.contestants import settle
from benchmarks.regression_cases import CASES
from benchmarks.tables import duration, text_table

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "regression.json"
TOLERATED = 0.02
DOUBT = 0.05  # that the true median is outside of the spread


class BuildError(Exception):
    """A build cannot be used; the message says why."""


class Build:
    """A process with one build of the package."""

    def __init__(self, folder: Path) -> None:
        variables = {name: value for name, value in os.environ.items() if name != "FASTLSTM_NUM_THREADS"}
        variables["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.regression_cases"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=variables,
        )
        try:
            file = self._reply()["file"]
            if Path(file).parent.parent.resolve() != folder.resolve():
                raise BuildError(f"expected the package in {folder}, got {file}")
        except BuildError:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # if it has ended, the reply will say so
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def settle(self) -> None:
        """Wait until its threads sleep."""
        settle(self._process.pid)

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # a line that a dead one has not taken
            self._process.stdin.close()  # it ends at the end of its input
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BuildError(f"the process has ended, with status {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "failed" in reply:
            raise BuildError(reply["failed"])
        return reply


# ---- Judgement ---------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Interval of the median, by the sign test; None of fewer than six values, which say too little."""
    ordered, n = sorted(values), len(values)
    inside, below = 0, 0.0  # how many may be left out at each end
    for count in range(n):
        below += math.comb(n, count) / 2**n
        if 2 * below > DOUBT:
            break
        inside = count + 1
    if inside == 0:
        return None
    return ordered[inside - 1], ordered[n - inside]


@dataclass
class Comparison:
    """One shape."""

    name: str
    answers: str = "same bits"
    old_seconds: list[float] = field(default_factory=list)  # of every turn
    new_seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # old / new of each pair of processes

    @property
    def verdict(self) -> str:
        ends = spread(self.ratios)
        if ends is None:
            return "unknown"
        if ends[1] < 1 / (1 + TOLERATED):
            return "slower"
        return "faster" if ends[0] > 1 + TOLERATED else ""

    def row(self) -> list[str]:
        ends = spread(self.ratios)
        return [
            self.name,
            duration(median(self.old_seconds)),
            duration(median(self.new_seconds)),
            f"{median(self.ratios):.3f}",
            f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "",
            self.answers,
            self.verdict,
        ]


def difference(old: Path, new: Path) -> str:
    """Whether two files hold the same bits, or how far they are apart."""
    with np.load(old) as a, np.load(new) as b:
        if a.files != b.files or any(a[n].shape != b[n].shape or a[n].dtype != b[n].dtype for n in a.files):
            return "other shapes"
        if all(a[name].tobytes() == b[name].tobytes() for name in a.files):
            return "same bits"
        largest = max(float(np.abs(a[n].astype(np.float64) - b[n]).max(initial=0)) for n in a.files)
        return f"differ by {largest:.1e}"


# ---- Turns -------------------------------------------------------------------------------------------------


def run_pair(
    folders: tuple[Path, Path], comparisons: list[Comparison], rounds: int, seconds: float, is_swapped: bool
) -> None:
    """One pair of processes, a turn of each in every round; who is first alternates."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Build(folders[0]) as old,
        Build(folders[1]) as new,
    ):
        for comparison in comparisons:
            files = [Path(scratch) / name for name in ("old.npz", "new.npz")]
            for build, file in zip((old, new), files, strict=True):
                build.ask(op="prepare", case=comparison.name, file=str(file))
            answers = difference(*files)
            if answers != "same bits":
                comparison.answers = answers
            ratios = []
            for number in range(rounds):
                order = (new, old) if (number + is_swapped) % 2 else (old, new)
                times = {}
                for build in order:
                    old.settle()
                    new.settle()
                    times[build] = build.ask(op="run", case=comparison.name, seconds=seconds)["best"]
                comparison.old_seconds.append(times[old])
                comparison.new_seconds.append(times[new])
                ratios.append(times[old] / times[new])
            comparison.ratios.append(median(ratios))


def compare(
    old: Path, new: Path, names: Sequence[str], pairs: int, rounds: int, seconds: float
) -> list[Comparison]:
    comparisons = [Comparison(name) for name in names]
    for number in range(pairs):
        print(f"pair {number + 1} of {pairs}", file=sys.stderr)
        run_pair((old, new), comparisons, rounds, seconds, bool(number % 2))
    return comparisons


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    installed = Path(fastlstm.__file__).parent.parent
    parser.add_argument("--old", type=Path, required=True, metavar="DIR", help="holds fastlstm/")
    parser.add_argument("--new", type=Path, default=installed, metavar="DIR", help="the installed one")
    parser.add_argument("--shapes", default="*", metavar="PATTERN", help="names of shapes, as of files")
    parser.add_argument("--pairs", type=int, default=9, help="of processes; a spread needs 6 (default: 9)")
    parser.add_argument("--rounds", type=int, default=5, help="of each pair (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.02, help="of a turn (default: 0.02)")
    parser.add_argument(
        "--json", type=Path, nargs="?", const=RESULT, metavar="FILE", help=f"default: {RESULT}"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    names = [name for name in CASES if fnmatch.fnmatch(name, given.shapes)]
    if not names or min(given.pairs, given.rounds) < 1:
        print("no shape, pair or round is left", file=sys.stderr)
        return 1
    before = machine.describe()
    try:
        found = compare(given.old, given.new, names, given.pairs, given.rounds, given.seconds)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    head = ("shape", "old", "new", "old / new", "spread", "answers", "")
    print(text_table(head, [comparison.row() for comparison in found]))
    if given.json:
        cases = [asdict(c) | {"spread": spread(c.ratios), "verdict": c.verdict} for c in found]
        result = {"machine": before, "load_average_after": list(os.getloadavg()), "cases": cases}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    slower = [comparison.name for comparison in found if comparison.verdict == "slower"]
    if slower:
        print(f"slower by more than {TOLERATED:.0%}: {', '.join(slower)}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
