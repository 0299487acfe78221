# SPDX-License-Identifier: BSD-3-Clause
"""The package's main job on real input: ``python -m benchmarks.run``.

Text of Python's standard library, byte by byte as one-hot input, through a two-layer LSTM, and a plain
numeric sequence through others.  Every answer is checked against the float64 reference before it is timed;
the exit code is 1 if one is wrong.  Writes benchmarks/results/run.json and run.png.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm
from benchmarks import data, import_time, machine
from benchmarks.limits import Limits
from benchmarks.progress import Progress
from benchmarks.shapes import Shape
from benchmarks.tables import duration, error, percent, ratio, text_table
from benchmarks.timing import measure
from fastlstm import _core, reference

RESULTS = Path(__file__).parent / "results"
TURN_SECONDS = 0.3
ROUNDS = 3  # reference, one thread and all threads take turns, so that a slow minute hits all of them

TEXT = tuple(
    Shape(T, B, data.BYTE_VALUES, H, layers=2, reason=reason, is_index=True)
    for T, B, H, reason in (
        (1000, 1, 128, "one text, byte by byte"),
        (200, 32, 128, "a batch of lines"),
        (200, 16, 256, "a batch of lines, middle model"),
        (50, 64, 512, "a batch of snippets, large model"),
    )
)
NUMERIC = (
    Shape(1000, 1, 1, 16, reason="one sensor, tiny model"),
    Shape(100, 1, 64, 64, reason="a few features, batch 1"),
    Shape(100, 1, 256, 256, reason="recurrent weights as large as an L2"),
    Shape(100, 32, 128, 128, reason="a batch"),
    Shape(50, 64, 512, 512, reason="a batch, large model"),
    Shape(61, 13, 40, 150, layers=2, directions=2, reason="odd sizes, both directions"),
)


def prepare(shape: Shape) -> tuple[fastlstm.LSTM, dict[str, data.Array], data.Array]:
    """A layer stack with its parameters, and its input."""
    params = data.parameters(shape, data.generator(shape))
    lstm = fastlstm.LSTM(shape.I, shape.H, shape.layers, bidirectional=shape.directions == 2)
    lstm.load_state_dict(params)
    return lstm, params, data.text(shape) if shape.is_index else data.waves(shape)


def answer_error(lstm: fastlstm.LSTM, x: data.Array, truth: tuple[data.Array, ...], threads: int) -> float:
    with fastlstm.threads(threads):
        y, (h_n, c_n) = lstm(x)
    return data.largest_error((y, h_n, c_n), truth)


def run_shape(shape: Shape, all_threads: int, tick: Callable[[], Any]) -> dict[str, Any]:
    """Check one shape, then time it."""
    lstm, params, x = prepare(shape)
    bidirectional = shape.directions == 2
    y, (h_n, c_n) = reference.lstm(x, params, bidirectional=bidirectional, dtype=np.float64)
    counts = sorted({1, all_threads})
    largest = max(answer_error(lstm, x, (y, h_n, c_n), threads) for threads in counts)
    result: dict[str, Any] = {
        "name": shape.name,
        "input": "text" if shape.is_index else "numeric",
        "shape": asdict(shape),
        "flops": shape.flops(),
        "error": largest,
        "is_right": largest <= data.tolerance(np.float32, shape),
    }
    tick()
    if not result["is_right"]:
        for _ in range(ROUNDS):
            tick()
        return result
    calls = {"reference": partial(reference.lstm, x, params, bidirectional=bidirectional)}
    calls |= {str(threads): partial(lstm, x, out=np.empty_like(y, np.float32)) for threads in counts}
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            with fastlstm.threads(1 if name == "reference" else int(name)):
                best[name] = min(best[name], measure(call, TURN_SECONDS).best)
        tick()
    result["reference_seconds"] = best.pop("reference")
    result["seconds"] = best
    return result


def row(result: dict[str, Any], all_threads: int, peak: float) -> list[str]:
    shape = Shape(**result["shape"])
    label = f"{result['input']} {shape.label}"
    if not result["is_right"]:
        return [label, "", "", "", "", "", "", f"WRONG {error(result['error'])}"]
    seconds = result["seconds"]["1"]
    speed = result["flops"] / seconds
    return [
        label,
        duration(result["reference_seconds"]),
        duration(seconds),
        ratio(result["reference_seconds"] / seconds),
        f"{speed / 1e9:.1f}",
        percent(speed / peak),
        duration(result["seconds"][str(all_threads)]),
        error(result["error"]),
    ]


def plot(results: list[dict[str, Any]], all_threads: int, peak: float, path: Path) -> None:
    """Speed of every shape as part of the machine's peak, and the speed-up over the reference."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    right = [result for result in results if result["is_right"]]
    labels = [f"{result['input']} {Shape(**result['shape']).label}" for result in right]
    places = np.arange(len(right))
    figure, (speed, gain) = pyplot.subplots(1, 2, figsize=(13, 1.5 + 0.45 * len(right)), sharey=True)
    for offset, threads in ((-0.2, 1), (0.2, all_threads)):
        gflops = [result["flops"] / result["seconds"][str(threads)] / 1e9 for result in right]
        speed.barh(places + offset, gflops, 0.38, label=f"{threads} thread(s)")
        if all_threads == 1:
            break
    speed.axvline(peak / 1e9, color="black", linewidth=1, label="FMA peak of one core")
    speed.set_xlabel("GFLOP/s")
    speed.legend(fontsize=8)
    gain.barh(places, [result["reference_seconds"] / result["seconds"]["1"] for result in right], 0.6)
    gain.set_xscale("log")
    gain.set_xlabel("reference time / fastlstm time, one thread")
    speed.set_yticks(places, labels, fontsize=8)
    speed.invert_yaxis()
    figure.suptitle(
        f"fastlstm {fastlstm.__version__}, {_core.isa_active()}, {machine.cpu_model()}", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "run.json", help="the JSON file; the plot goes beside it"
    )
    parser.add_argument(
        "--quick", action="store_true", help="the smallest text and the smallest numeric shape only"
    )
    arguments = parser.parse_args(argv)
    start = time.perf_counter()
    shapes = (TEXT[0], NUMERIC[0]) if arguments.quick else (*TEXT, *NUMERIC)
    all_threads = fastlstm.get_num_threads()
    limits = Limits()
    peak = limits.fma()
    results = []
    with Progress(len(shapes) * (1 + ROUNDS)) as progress:
        for shape in shapes:
            progress.say(shape.label)
            results.append(run_shape(shape, all_threads, progress.update))
    imported = import_time.measure_import()
    head = ["input and shape (T,B,I,H)", "reference", "fastlstm", "speed-up", "GFLOP/s", "of FMA peak"]
    head += [f"{all_threads} thread(s)", "error"]
    print()
    print(text_table(head, [row(result, all_threads, peak) for result in results]))
    print(
        f"\n{machine.cpu_model()}, {_core.isa_active()}: FMA peak of one core {peak / 1e9:.1f} GFLOP/s; "
        f"one thread where nothing else is said\n"
        f"reference: fastlstm.reference in float32; error: largest against it in float64; "
        f"import beyond NumPy: {duration(imported['import_seconds'])}, "
        f"installed: {imported['installed_bytes'] / 1e6:.2f} MB"
    )
    document = {
        "machine": machine.describe(),
        "isa": _core.isa_active(),
        "threads": all_threads,
        "limits": limits.figures(),
        "import": imported,
        "results": results,
        "seconds": time.perf_counter() - start,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    plot(results, all_threads, peak, arguments.output.with_suffix(".png"))
    print(
        f"wrote {arguments.output} and {arguments.output.with_suffix('.png').name} "
        f"in {document['seconds']:.0f} s"
    )
    wrong = [result["name"] for result in results if not result["is_right"]]
    if wrong:
        print(f"WRONG: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
