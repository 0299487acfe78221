# SPDX-License-Identifier: BSD-3-Clause
"""fastlstm alone over all sizes of a layer: is there a valley between the shapes that have a name?

``python -m benchmarks.sweep``           forward, 1 and 2 threads; writes sweep.json and sweep.png to the
                                         folder of this processor in benchmarks/results: some minutes
``python -m benchmarks.sweep --training`` training steps, to sweep_training.*

H = I from 32 to 2048, each about a fifth larger than the one before and so seldom a multiple of a vector,
with powers of two between them; B = 1, 8 and 64.  The figure is the limit of the call (limits.py) over its
time.  Sizes come in an order of chance, so that what else the machine does is no valley.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm
from benchmarks import data, machine
from benchmarks.limits import Limits
from benchmarks.progress import Progress
from benchmarks.shapes import Shape
from benchmarks.timing import measure

BATCH_SIZES = (1, 8, 64)
SMALLEST, LARGEST, RATIO = 32, 2048, 1.19
CALL_SECONDS = 0.01  # about what a call should take, by its limit
STEPS = (4, 100)  # at least and at most
ROUNDS = 5


def hidden_sizes() -> list[int]:
    """From SMALLEST to LARGEST."""
    count = int(np.log(LARGEST / SMALLEST) / np.log(RATIO)) + 1
    sizes = {round(SMALLEST * RATIO**n) for n in range(count)}
    return sorted(sizes | {SMALLEST << n for n in range((LARGEST // SMALLEST).bit_length())})


def shape_of(H: int, B: int, limits: Limits, is_training: bool) -> Shape:
    """As many steps as a call of CALL_SECONDS has on one thread."""
    kind = "training" if is_training else "sequence"
    step = limits.seconds(Shape(1, B, H, H, kind=kind))
    return Shape(int(np.clip(CALL_SECONDS / step, *STEPS)), B, H, H, kind=kind)


def call_of(shape: Shape) -> Callable[[], Any]:
    """What is timed."""
    rng = np.random.default_rng(0)
    layer = fastlstm.LSTM(shape.I, shape.H, rng=rng)
    x = data.noise(shape, rng)
    if shape.is_training:
        dy = data.output_gradient(shape, rng)
        return lambda: layer.forward(x).backward(dy)
    out = np.empty((shape.T, shape.B, shape.H), np.float32)
    return lambda: layer(x, out=out)


def sweep(threads: list[int], is_training: bool) -> list[dict[str, Any]]:
    """Seconds and limits of all sizes."""
    limits = Limits()
    shapes = [shape_of(H, B, limits, is_training) for B in BATCH_SIZES for H in hidden_sizes()]
    found: dict[Shape, dict[int, list[float]]] = {shape: {n: [] for n in threads} for shape in shapes}
    rng = np.random.default_rng(0)
    with Progress(ROUNDS * len(shapes)) as progress:
        for _ in range(ROUNDS):
            for index in rng.permutation(len(shapes)):
                shape = shapes[index]
                call = call_of(shape)
                for n in threads:
                    with fastlstm.threads(n):
                        found[shape][n].append(measure(call).best)
                progress.say(shape.name)
                progress.update()
    limits.measure_again()
    return [
        {
            "B": shape.B,
            "H": shape.H,
            "T": shape.T,
            "flops": shape.flops(),
            "seconds": {str(n): float(np.median(times)) for n, times in of.items()},
            "limit_seconds": {str(n): limits.seconds(shape, n) for n in of},
        }
        for shape, of in found.items()
    ]


def share(case: dict[str, Any], threads: int) -> float:
    """The limit over the time."""
    return float(case["limit_seconds"][str(threads)] / case["seconds"][str(threads)])


def plot(result: dict[str, Any], path: Path) -> None:
    """Per cent of the limit over H, a line for each batch size and number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5.5))
    for color, B in enumerate(BATCH_SIZES):
        cases = [case for case in result["cases"] if case["B"] == B]
        for threads, style in zip(result["threads"], ("-", "--", ":", "-."), strict=False):
            percent = [100 * share(case, threads) for case in cases]
            label = f"B = {B}, {threads} thread{'s' if threads > 1 else ''}"
            axes.plot(
                [case["H"] for case in cases], percent, style, color=f"C{color}", marker=".", label=label
            )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("H = I")
    axes.set_ylabel("per cent of the limit")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    what = "Training step" if result["is_training"] else "Forward pass"
    axes.set_title(f"{what} of an LSTM, float32, {result['machine']['cpu']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--training", action="store_true", help="training steps")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--output", type=Path, help="the JSON file; the plot goes beside it")
    arguments = parser.parse_args(argv)
    name = "sweep_training.json" if arguments.training else "sweep.json"
    output = arguments.output or Path(__file__).parent / "results" / machine.folder_name() / name
    result: dict[str, Any] = {
        "machine": machine.describe(),
        "threads": arguments.threads,
        "is_training": arguments.training,
        "cases": sweep(arguments.threads, arguments.training),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    plot(result, output.with_suffix(".png"))
    for threads in arguments.threads:
        for B in BATCH_SIZES:
            cases = [case for case in result["cases"] if case["B"] == B]
            low = min(cases, key=lambda case: share(case, threads))
            least = f"{share(low, threads):.0%} of the limit at H = {low['H']}"
            print(f"{threads} thread(s), B = {B}: least {least}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
