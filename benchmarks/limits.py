# SPDX-License-Identifier: BSD-3-Clause
"""What this machine can do, and the least time that a call could take on it.

Limit of a call = the input product at the FMA peak + for every step, layer and direction the slower of the
FMA peak and streaming the 16 H^2 bytes of the (float32) recurrent weights at the read bandwidth of the cache
level they live in.  With p threads the peak is p times as high, and each thread streams its 1/p of the bytes
from the level that share lives in.  It is a bound from two resources only: the latency of a step's chain of
operations, activations, the input weights' way from memory, and hand-over between threads are not in it, so a
shape that is bound by those stays below it.  The limit of a training step is its arithmetic at the FMA peak
alone: 24 T B H (I + H) operations for every layer and direction.

Of the other cells the same, with the numbers of their own matrices (`Shape.recurrent_weights`), and where
rows have different lengths, with the rows that each step has.  MinGRU and MinLSTM have no recurrent weights:
their limit is the slower of the product at the FMA peak and each sequence's way from or to memory once
(`traffic`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.shapes import PARTS, RACE, Shape, family_shapes

PROBE_SECONDS = 0.02
PROBE_REPEATS = 8  # the best of them: a limit is what the machine can do undisturbed
SMALLEST_BUFFER = 4096  # below it the loop around the probe is measured, not the cache
STORED = Path(__file__).parent / "results" / "limits.json"


class Limits:
    """Measured figures, each measured once and then kept."""

    def __init__(self, figures: dict[str, Any] | None = None) -> None:
        self._figures: dict[str, Any] = figures or {"fma": {}, "stream": {}}

    def fma(self, dtype: Any = np.float32) -> float:
        """Multiply-add peak of one core with the active instruction set, in flop/s."""
        name = np.dtype(dtype).name
        if name not in self._figures["fma"]:
            self._measure("fma", name)
        return float(self._figures["fma"][name])

    def bandwidth(self, size: int) -> float:
        """Read bandwidth of one core over a buffer of `size` bytes, in bytes/s."""
        key = str(max(size, SMALLEST_BUFFER))
        if key not in self._figures["stream"]:
            self._measure("stream", key)
        return float(self._figures["stream"][key])

    def measure_again(self) -> None:
        """Measure all figures once more and keep the better ones: the machine may have been busy before."""
        for kind, figures in self._figures.items():
            for key in list(figures):
                self._measure(kind, key)

    def _measure(self, kind: str, key: str) -> None:
        from fastlstm import _core

        for _ in range(PROBE_REPEATS):
            if kind == "fma":
                found = _core.probe_fma(key, PROBE_SECONDS)
            else:
                found = _core.probe_stream(int(key), PROBE_SECONDS)
            self._figures[kind][key] = max(found, self._figures[kind].get(key, 0.0))

    def seconds(self, shape: Shape, threads: int = 1) -> float:
        """The limit of a float32 call; see the top of this file."""
        peak = self.fma() * threads
        if not shape.form.is_recurrent:
            share = traffic(shape) / threads
            return max(shape.flops() / peak, share / self.bandwidth(round(share)))
        if shape.is_training:
            return shape.flops() / peak
        share = 4 * shape.recurrent_weights() / threads
        fetched = share / self.bandwidth(round(share))
        steps = sum(
            count * max(shape.step_flops(rows) / peak, fetched) for rows, count in shape.rows().items()
        )
        return shape.input_flops() / peak + shape.layers * shape.directions * steps

    def figures(self) -> dict[str, Any]:
        """All that was measured so far, for a file."""
        return self._figures

    def save(self, path: Path = STORED) -> None:
        """Write the figures; those of this machine that are in the file and were not measured now stay."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before = Limits.stored(path).figures()
        merged = {kind: before.get(kind, {}) | figures for kind, figures in self._figures.items()}
        path.write_text(json.dumps({"key": _key(), **merged}, indent=1) + "\n")

    @classmethod
    def stored(cls, path: Path = STORED) -> "Limits":
        """What was measured before on the same processor with the same instruction set; else nothing yet."""
        try:
            figures = json.loads(path.read_text())
        except (OSError, ValueError):
            return cls()
        return cls(figures) if figures.pop("key", None) == _key() else cls()


def traffic(shape: Shape) -> int:
    """Bytes (float32) that a call of a cell without recurrence reads or writes at least: its sequences, once.

    Forward x and y; backward those again, and both gradients.
    """
    sequences = shape.I + shape.directions * shape.H
    return 4 * shape.T * shape.B * sequences * (3 if shape.is_training else 1)


def _key() -> list[str]:
    from fastlstm import _core

    return [machine.cpu_model(), _core.isa_active()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure this machine and print the limit of every shape of the race."
    )
    parser.add_argument(
        "--stored", action="store_true", help="use what was measured before, where there is something"
    )
    arguments = parser.parse_args()
    limits = Limits.stored() if arguments.stored else Limits()
    print(f"{machine.cpu_model()}: FMA peak of one core {limits.fma() / 1e9:.1f} GFLOP/s float32")
    print(f"{limits.fma(np.float64) / 1e9:.1f} GFLOP/s float64")
    for shape in (*RACE, *(shape for shape in family_shapes(PARTS) if shape not in RACE)):
        one, two = (limits.seconds(shape, threads) * 1e6 for threads in (1, 2))
        bandwidth = limits.bandwidth(4 * shape.recurrent_weights()) / 1e9
        print(f"{shape.name:42} {one:12.2f} us  2 threads {two:12.2f} us  weights {bandwidth:6.1f} GB/s")
    limits.save()


if __name__ == "__main__":
    main()
