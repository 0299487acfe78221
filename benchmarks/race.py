# SPDX-License-Identifier: BSD-3-Clause
"""The race: fastlstm against its peers, same weights and inputs, round by round (the method is in README.md).

``python -m benchmarks.race``            the plain LSTM; writes race.json, race.md, race.png, and for training
                                         race_training.json, .md and .png, to benchmarks/results/PROCESSOR
``python -m benchmarks.race --training`` training steps alone; ``--forward``: all but those
``python -m benchmarks.race --family``   GRU, RNN, the LSTM's other forms, rows of different lengths, forward,
                                         to race_family.*; with ``--training`` their training steps, to
                                         race_family_training.*
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.cells import RACED
from benchmarks.contestants import Contestant, WorkerError, settle
from benchmarks.envs import DEFAULT_FOLDER, InstallError, python_of
from benchmarks.heats import LONG_CALL_SECONDS, Cases, Heat, run_heat
from benchmarks.limits import Limits
from benchmarks.peers import OURS, PEERS
from benchmarks.progress import Progress
from benchmarks.shapes import (
    FAMILY_SIZES,
    PARTS,
    QUICK_NAMES,
    RACE,
    STEP_BATCH_SIZES,
    STEP_HIDDEN_SIZES,
    STREAM_THREADS_HIDDEN,
    TRAINING,
    Shape,
    compared,
    family_shapes,
    select,
    step_shapes,
)

RESULTS = Path(__file__).parent / "results"
LONG_CALL_ROUNDS = 3  # of shapes whose limit is above LONG_CALL_SECONDS
LONG_COMPARED_ROUNDS = 5  # of fastlstm with itself: few contestants, and a ratio wants more


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
    parts = parser.add_mutually_exclusive_group()
    for part in ("forward", "training"):
        parts.add_argument(
            f"--{part}", action="store_const", const=part, dest="only", help=f"the {part} part alone"
        )
    parser.add_argument(
        "--family", action="store_true", help="the other cells: forward, or training with --training"
    )
    parser.add_argument(
        "--alone", action="store_true", help="fastlstm alone, against stored limits where there are any"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=RESULTS / machine.folder_name() / "race.json",
        help="the JSON file; table and plot go beside it, and so do those of the other parts, named "
        "with _training, _family or _family_training at the end (default: %(default)s)",
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
    if chosen.family:
        chosen.parts = ("family_training" if chosen.only == "training" else "family",)
    else:
        chosen.parts = (chosen.only,) if chosen.only else ("forward", "training")
    if not any(part in PEERS[peer].modules for peer in chosen.peers for part in chosen.parts):
        parser.error(f"--peers: none of {', '.join(chosen.peers)} takes part in {', '.join(chosen.parts)}")
    if chosen.rounds is None:
        chosen.rounds = 3 if chosen.quick else 7
    return chosen


def chosen_shapes(arguments: argparse.Namespace) -> list[Shape]:
    """Shapes of the race in the order in which they are run."""
    steps = step_shapes(arguments.step_hidden, arguments.step_batch)
    shapes = [shape for shape in RACE if shape.kind == "sequence"]
    shapes += [*steps, *(shape for shape in RACE if shape.kind in ("stream", "call")), *TRAINING]
    shapes = [shape for shape in shapes if shape.part in arguments.parts] + family_shapes(arguments.parts)
    if arguments.shapes:
        return select(shapes, arguments.shapes)
    if arguments.quick:
        quick = select((*RACE, *shapes), QUICK_NAMES)
        return [shape for shape in shapes if shape in quick]
    return shapes


def planned(
    shapes: list[Shape], contestants: list[Contestant], limits: Limits, arguments: argparse.Namespace
) -> list[Heat]:
    """Heats in their order: all contestants, then, at each size of the family, fastlstm with itself."""

    def against_peers(shape: Shape) -> Heat:
        return Heat((shape,), _entered(shape, contestants), _rounds((shape,), limits, arguments))

    heats = [against_peers(shape) for shape in shapes if not shape.is_family]
    ours = tuple(contestant for contestant in contestants if contestant.spec.name == OURS)
    for kind in dict.fromkeys(shape.kind for shape in shapes if shape.is_family):
        for group in compared(kind):
            own = [shape for shape in shapes if shape.kind == kind and shape.size == group[0].size]
            if group[0].size in FAMILY_SIZES:
                heats += [against_peers(shape) for shape in own if shape.cell in RACED]
            chosen = tuple(shape for shape in group if shape in own)
            if chosen and ours:
                rounds = _rounds(chosen, limits, arguments, is_compared=True)
                heats.append(Heat(chosen, ours, rounds, is_compared=True))
    return heats


def enter(
    arguments: argparse.Namespace, part: str, logs: Path
) -> tuple[list[Contestant], list[dict[str, Any]]]:
    """Start all contestants of a part; also who is absent, and why."""
    contestants: list[Contestant] = []
    absent: list[dict[str, Any]] = []

    def miss(peer: str, threads: int, reason: str) -> None:
        absent.append({"peer": peer, "threads": threads, "reason": reason})
        print(f"{peer}, {threads} thread(s): {reason}")

    for name in arguments.peers:
        spec = PEERS[name]
        if part not in spec.modules:
            continue
        print(f"{name}: {', '.join(spec.requirements) or 'in this environment'}", flush=True)
        try:
            python = python_of(spec, arguments.envs, arguments.pip_args.split())
        except InstallError as failure:
            for threads in arguments.threads:
                miss(name, threads, f"not installed: {failure}")
            continue
        for threads in arguments.threads:
            contestant = Contestant(spec, part, threads, python, logs)
            try:
                contestant.start()
            except WorkerError as failure:
                miss(name, threads, f"did not start: {failure}")
                contestant.stop()
                continue
            contestants.append(contestant)
    return contestants, absent


def race(arguments: argparse.Namespace, part: str, output: Path) -> dict[str, Any]:
    """Run a part; the result is what the JSON file holds, which is written after every shape."""
    start = time.perf_counter()
    shapes = [shape for shape in chosen_shapes(arguments) if shape.part == part]
    result: dict[str, Any] = {
        "part": part,
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
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fastlstm-race-") as scratch:
        contestants, result["absent"] = enter(arguments, part, Path(scratch))
        result["left_out"] = {
            name: dict(PEERS[name].left_out) for name in arguments.peers if part in PEERS[name].modules
        }
        cases = Cases(Path(scratch))
        try:
            heats = planned(shapes, contestants, limits, arguments)
            with Progress(sum(heat.turns() for heat in heats)) as progress:
                for heat in heats:
                    settle(os.getpid())
                    done = heat.turns() + progress.n
                    results = run_heat(heat, cases, arguments.turn_seconds, progress)
                    progress.skip_to(done)
                    of_kind = result.setdefault("compared", []) if heat.is_compared else result["cases"]
                    of_kind += [
                        _recorded(shape, found, limits, arguments.threads) for shape, found in results.items()
                    ]
                    result["contestants"] = [_contestant(contestant) for contestant in contestants]
                    result["minutes"] = round((time.perf_counter() - start) / 60, 2)
                    output.write_text(json.dumps(result, indent=1) + "\n")
        finally:
            for contestant in contestants:
                contestant.stop()
            cases.clear()
    limits.measure_again()
    limits.save()
    for case in (*result["cases"], *result.get("compared", [])):
        case["limit_seconds"] = _limit_seconds(Shape(**case["shape"]), limits, arguments.threads)
    output.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _limit_seconds(shape: Shape, limits: Limits, thread_counts: list[int]) -> dict[str, float]:
    return {str(threads): limits.seconds(shape, threads) for threads in thread_counts}


def _entered(shape: Shape, contestants: list[Contestant]) -> tuple[Contestant, ...]:
    """A small stream is one thread's, and so is the cost of a call; not every peer has every cell."""
    is_small = shape.kind == "call" or (shape.kind == "stream" and shape.H < STREAM_THREADS_HIDDEN)
    return tuple(
        contestant
        for contestant in contestants
        if (contestant.threads == 1 or not is_small) and shape.cell not in contestant.spec.left_out
    )


def _rounds(
    shapes: tuple[Shape, ...], limits: Limits, arguments: argparse.Namespace, is_compared: bool = False
) -> int:
    long_rounds = LONG_COMPARED_ROUNDS if is_compared else LONG_CALL_ROUNDS
    is_long = max(limits.seconds(shape) for shape in shapes) > LONG_CALL_SECONDS
    return int(min(arguments.rounds, long_rounds) if is_long else arguments.rounds)


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
        return _finish(json.loads(arguments.render.read_text()), arguments.render)
    code = 0
    for part in PARTS:
        if any(shape.part == part for shape in chosen_shapes(arguments)):
            output = output_of(arguments.output, part)
            code |= _finish(race(arguments, part, output), output)
    return code


def output_of(path: Path, part: str) -> Path:
    """Where the result of a part goes."""
    return path if part == "forward" else path.with_stem(f"{path.stem}_{part}")


def _finish(result: dict[str, Any], output: Path) -> int:
    """Write and print tables; 1 if an answer of fastlstm is wrong or missing."""
    report.write(result, output)
    print(report.console(result))
    wrong = report.wrong_answers(result)
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
