# SPDX-License-Identifier: BSD-3-Clause
"""The race: fastlstm against its peers, same weights and inputs, round by round (the method is in README.md).

``python -m benchmarks.race``            everything; writes benchmarks/results/race.json, race.md and race.png
``python -m benchmarks.race --quick``    one shape of each regime
``python -m benchmarks.race --alone``    fastlstm alone against the stored limits of this machine
``python -m benchmarks.race --render F`` table, plot and findings of a result again
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import data, machine, report
from benchmarks.contestants import Contestant, WorkerError, settle
from benchmarks.envs import DEFAULT_FOLDER, InstallError, python_of
from benchmarks.limits import Limits
from benchmarks.peers import OURS, PEERS
from benchmarks.peers.base import Case
from benchmarks.progress import Progress
from benchmarks.protocol import save_case
from benchmarks.shapes import (
    QUICK_NAMES,
    RACE,
    STEP_BATCH_SIZES,
    STEP_HIDDEN_SIZES,
    Shape,
    select,
    step_shapes,
)

RESULTS = Path(__file__).parent / "results"
PREPARE_TIMEOUT_SECONDS = 300.0
TURN_TIMEOUT_SECONDS = 120.0
LONG_CALL_SECONDS = 0.1  # shapes whose limit is above it take LONG_CALL_ROUNDS rounds
LONG_CALL_ROUNDS = 3


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=list(PEERS),
        default=list(PEERS),
        metavar="PEER",
        help=f"who takes part, of {', '.join(PEERS)} (default: all)",
    )
    parser.add_argument(
        "--shapes", nargs="+", metavar="PATTERN", help="names of shapes, or patterns such as 'step-*'"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of the shapes, with their reasons"
    )
    parser.add_argument(
        "--step-hidden",
        nargs="+",
        type=int,
        default=list(STEP_HIDDEN_SIZES),
        metavar="H",
        help="hidden sizes of the one-step shapes",
    )
    parser.add_argument(
        "--step-batch",
        nargs="+",
        type=int,
        default=list(STEP_BATCH_SIZES),
        metavar="B",
        help="batch sizes of the one-step shapes",
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument(
        "--rounds", type=int, help="turns of each contestant at each shape (default: 7; --quick 3)"
    )
    parser.add_argument(
        "--turn-seconds", type=float, default=0.02, help="least time of a turn (default: 0.02)"
    )
    parser.add_argument("--quick", action="store_true", help="one shape of each regime, three rounds")
    parser.add_argument(
        "--alone", action="store_true", help="fastlstm alone, against stored limits where there are any"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS / "race.json",
        help="the JSON file; table and plot go beside it (default: benchmarks/results/race.json)",
    )
    parser.add_argument(
        "--envs", type=Path, default=DEFAULT_FOLDER, help="folder of the peers' virtual environments"
    )
    parser.add_argument("--pip-args", default="", help="more arguments for pip install, such as an index")
    parser.add_argument("--render", type=Path, metavar="JSON", help="no race: report a result again")
    chosen = parser.parse_args(arguments)
    if min(chosen.threads) < 1:
        parser.error("--threads: expected numbers of at least 1")
    if chosen.alone:
        chosen.peers = [OURS]
    if chosen.rounds is None:
        chosen.rounds = 3 if chosen.quick else 7
    return chosen


def chosen_shapes(arguments: argparse.Namespace) -> list[Shape]:
    """Shapes of the race in the order in which they are run."""
    steps = step_shapes(arguments.step_hidden, arguments.step_batch)
    shapes = [shape for shape in RACE if shape.kind == "sequence"]
    shapes += [*steps, *(shape for shape in RACE if shape.kind in ("stream", "call"))]
    if arguments.shapes:
        return select(shapes, arguments.shapes)
    return select(shapes, QUICK_NAMES) if arguments.quick else shapes


def make_case(shape: Shape) -> tuple[Case, tuple[data.Array, data.Array, data.Array]]:
    """Weights and input of a shape, and the float64 truth."""
    from fastlstm import reference

    rng = data.generator(shape)
    params = data.parameters(shape, rng)
    case = Case(shape, params, data.noise(shape, rng), data.states(shape, rng) if shape.has_state else None)
    y, (h_n, c_n) = reference.lstm(
        case.x, case.params, case.state, bidirectional=shape.directions == 2, dtype="float64"
    )
    return case, (y, h_n, c_n)


def enter(arguments: argparse.Namespace, logs: Path) -> tuple[list[Contestant], list[dict[str, Any]]]:
    """Start all contestants; also who is absent, and why."""
    contestants: list[Contestant] = []
    absent: list[dict[str, Any]] = []

    def miss(peer: str, threads: int, reason: str) -> None:
        absent.append({"peer": peer, "threads": threads, "reason": reason})
        print(f"{peer}, {threads} thread(s): {reason}")

    for name in arguments.peers:
        spec = PEERS[name]
        print(f"{name}: {', '.join(spec.requirements) or 'in this environment'}", flush=True)
        try:
            python = python_of(spec, arguments.envs, arguments.pip_args.split())
        except InstallError as failure:
            for threads in arguments.threads:
                miss(name, threads, f"not installed: {failure}")
            continue
        for threads in arguments.threads:
            contestant = Contestant(spec, threads, python, logs)
            try:
                contestant.start()
            except WorkerError as failure:
                miss(name, threads, f"did not start: {failure}")
                contestant.stop()
                continue
            contestants.append(contestant)
    return contestants, absent


def run_shape(
    shape: Shape, contestants: Iterable[Contestant], rounds: int, turn_seconds: float, progress: Progress
) -> list[dict[str, Any]]:
    """All contestants at one shape: prepare each, then rounds of turns.  One result a contestant."""
    results: dict[str, dict[str, Any]] = {}
    running: list[Contestant] = []
    with tempfile.TemporaryDirectory(prefix="fastlstm-race-") as folder:
        case, truth = make_case(shape)
        message = save_case(Path(folder), case, truth)
        del case, truth
        for contestant in contestants:
            progress.say(f"{shape.name} prepare {contestant.name}")
            result: dict[str, Any] = {
                "peer": contestant.spec.name,
                "threads": contestant.threads,
                "rounds": [],
            }
            results[contestant.name] = result
            try:
                contestant.start()
                result |= contestant.ask(
                    {"op": "prepare", "seconds": turn_seconds, **message}, PREPARE_TIMEOUT_SECONDS
                )
                running.append(contestant)
            except WorkerError as failure:
                result["failed"] = str(failure)
            contestant.settle()
            progress.update()
    for turn in range(rounds):
        # Rotated, so that nobody always follows the same one.
        first = turn % max(len(running), 1)
        for contestant in running[first:] + running[:first]:
            progress.say(f"{shape.name} {contestant.name}")
            result = results[contestant.name]
            if "failed" in result:
                continue
            try:
                timing = contestant.ask({"op": "run", "seconds": turn_seconds}, TURN_TIMEOUT_SECONDS)
                result["rounds"].append(timing)
            except WorkerError as failure:
                result["failed"] = str(failure)
            contestant.settle()
            progress.update()
    for contestant in running:
        try:
            contestant.ask({"op": "release"}, TURN_TIMEOUT_SECONDS)
        except WorkerError as failure:
            results[contestant.name].setdefault("failed", str(failure))
        contestant.settle()
    for result in results.values():
        if result["rounds"]:
            result["seconds"] = median(timing["best"] for timing in result["rounds"])
            result["cores"] = median(timing["cores"] for timing in result["rounds"])
    return list(results.values())


def race(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run it all; the result is what the JSON file holds, which is written after every shape."""
    start = time.perf_counter()
    shapes = chosen_shapes(arguments)
    result: dict[str, Any] = {
        "machine": machine.describe(),
        "settings": {
            "rounds": arguments.rounds,
            "turn_seconds": arguments.turn_seconds,
            "threads": arguments.threads,
            "figure": "median over rounds of the best sample of a turn",
        },
        "cases": [],
    }
    limits = Limits.stored() if arguments.alone else Limits()
    for shape in shapes:
        _limit_seconds(shape, limits, arguments.threads)
    limits.save()
    result["limits"] = limits.figures()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fastlstm-logs-") as logs:
        contestants, result["absent"] = enter(arguments, Path(logs))
        try:
            plan = [
                (shape, _entered(shape, contestants), _rounds(shape, limits, arguments)) for shape in shapes
            ]
            total = sum(len(entered) * (1 + rounds) for _, entered, rounds in plan)
            with Progress(total) as progress:
                for shape, entered, rounds in plan:
                    settle(os.getpid())
                    done = len(entered) * (1 + rounds) + progress.n
                    results = run_shape(shape, entered, rounds, arguments.turn_seconds, progress)
                    progress.skip_to(done)
                    result["cases"].append(_recorded(shape, results, limits, arguments.threads))
                    result["contestants"] = [_contestant(contestant) for contestant in contestants]
                    result["minutes"] = round((time.perf_counter() - start) / 60, 2)
                    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        finally:
            for contestant in contestants:
                contestant.stop()
    limits.measure_again()
    limits.save()
    for case, shape in zip(result["cases"], shapes, strict=True):
        case["limit_seconds"] = _limit_seconds(shape, limits, arguments.threads)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _limit_seconds(shape: Shape, limits: Limits, thread_counts: list[int]) -> dict[str, float]:
    return {str(threads): limits.seconds(shape, threads) for threads in thread_counts}


def _entered(shape: Shape, contestants: list[Contestant]) -> list[Contestant]:
    """A stream is one thread's, and so is the cost of a call."""
    if shape.kind in ("stream", "call"):
        return [contestant for contestant in contestants if contestant.threads == 1]
    return contestants


def _rounds(shape: Shape, limits: Limits, arguments: argparse.Namespace) -> int:
    is_long = limits.seconds(shape) > LONG_CALL_SECONDS
    return int(min(arguments.rounds, LONG_CALL_ROUNDS) if is_long else arguments.rounds)


def _recorded(
    shape: Shape, results: list[dict[str, Any]], limits: Limits, thread_counts: list[int]
) -> dict[str, Any]:
    return {
        "name": shape.name,
        "shape": asdict(shape),
        "flops": shape.flops(),
        "limit_seconds": _limit_seconds(shape, limits, thread_counts),
        "results": results,
    }


def _contestant(contestant: Contestant) -> dict[str, Any]:
    return {
        "peer": contestant.spec.name,
        "threads": contestant.threads,
        "versions": contestant.versions,
        "never_quiet": contestant.never_quiet,
        "longest_settle": contestant.longest_settle,
    }


def main(argv: list[str] | None = None) -> int:
    """Run or render; 1 if an answer of fastlstm is wrong or missing."""
    arguments = parse(argv)
    try:
        chosen_shapes(arguments)
    except ValueError as unknown:
        print(unknown, file=sys.stderr)
        return 2
    if arguments.list:
        for shape in chosen_shapes(arguments):
            print(f"{shape.name:42} {shape.reason}")
        return 0
    if arguments.render:
        result = json.loads(arguments.render.read_text())
        output = arguments.render
    else:
        result = race(arguments)
        output = arguments.output
    report.write(result, output)
    print(report.console(result))
    wrong = report.wrong_answers(result)
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
