# SPDX-License-Identifier: BSD-3-Clause
"""All cells beside each other: parameters, time and error; writes the table of docs/cells.md.

    python -m examples.cells             # measures, and writes the table: below a minute on a quiet machine
    python -m examples.cells --quick     # shows a small table and writes nothing

One layer of each cell reads the same numbers, in float32 on one thread.  Time is that of a whole call over
T steps, divided by T: forward alone, and recorded forward with backward, which gives the gradients of the
input and of all parameters.  Cells take turns, and the least of all rounds counts: what else the machine
does then slows all of them alike, if any.  Errors are the largest against `fastlstm.reference` in float64
with the same parameters: of the outputs, and of the gradients, each relative to the largest element of its
array.  The gradients' is the largest of all arrays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastlstm
from benchmarks import machine
from examples import common
from fastlstm import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

PAGE = Path(__file__).parents[1] / "docs" / "cells.md"
BEGIN, END = "<!-- cells -->", "<!-- /cells -->"
BATCHES = (1, 32)
ERROR_BATCH = 4  # rows that are compared with the reference


class Cell(NamedTuple):
    """A cell as the table has it."""

    title: str
    name: str  # class of fastlstm, and name of the cell in its reference
    options: Mapping[str, Any] = MappingProxyType({})

    def arguments(self, hidden_size: int) -> dict[str, Any]:
        """Options of the layer; "half" is half of `hidden_size`."""
        return {key: hidden_size // 2 if value == "half" else value for key, value in self.options.items()}


CELLS = (
    Cell("LSTM", "LSTM"),
    Cell("LSTM, `peephole=True`", "LSTM", {"peephole": True}),
    Cell('LSTM, `coupled="f_from_i"`', "LSTM", {"coupled": "f_from_i"}),
    Cell('LSTM, `coupled="i_from_f"`', "LSTM", {"coupled": "i_from_f"}),
    Cell("LSTM, `forget_gate=False`", "LSTM", {"forget_gate": False}),
    Cell("LSTM, `proj_size=H // 2`", "LSTM", {"proj_size": "half"}),
    Cell('LSTM, `layer_norm="gate"`', "LSTM", {"layer_norm": "gate"}),
    Cell('LSTM, `layer_norm="haste"`', "LSTM", {"layer_norm": "haste"}),
    Cell("GRU", "GRU"),
    Cell("GRU, `reset_after=False`", "GRU", {"reset_after": False}),
    Cell("RNN", "RNN"),
    Cell("IndRNN", "IndRNN"),
    Cell("SLSTM, `heads=4`", "SLSTM", {"heads": 4}),
    Cell("MGU", "MGU"),
    Cell("MinGRU", "MinGRU"),
    Cell("MinLSTM", "MinLSTM"),
)


class Row(NamedTuple):
    """What is known of a cell."""

    title: str
    parameters: int
    seconds: dict[tuple[int, bool], float]  # of a step, by the batch and whether backward is in it
    output_error: float
    gradient_error: float


def build(cell: Cell, size: int, seed: int) -> Any:
    """One layer of `size` inputs and hidden units on one thread."""
    options = cell.arguments(size)
    return getattr(fastlstm, cell.name)(size, size, num_threads=1, rng=seed, **options)


def errors(cell: Cell, size: int, steps: int, seed: int) -> tuple[float, float]:
    """Return the largest error of the outputs, and of the gradients relative to their arrays' largest."""
    layer = build(cell, size, seed)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, ERROR_BATCH, size)).astype(np.float32)
    tape = layer.forward(x)
    dy = rng.standard_normal(tape.y.shape).astype(np.float32)
    layer.zero_grad()
    dx, _ = tape.backward(dy)
    config = reference.Config(cell.name, size, size, **cell.arguments(size))
    true = reference.forward(config, layer.params, x, dtype=np.float64).y
    true_dx, _, true_grads = reference.backward(config, layer.params, x, dy=dy, dtype=np.float64)
    assert dx is not None
    assert true_dx is not None
    pairs = [(dx, true_dx), *((layer.grads[name], true_grads[name]) for name in true_grads)]
    return float(np.abs(tape.y - true).max()), max(relative(got, wanted) for got, wanted in pairs)


def relative(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference, by the largest element that is wanted."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def calls(cell: Cell, size: int, steps: int, seed: int) -> dict[tuple[int, bool], Callable[[], Any]]:
    """What is timed, by the batch and whether backward is in it."""
    layer = build(cell, size, seed)
    rng = np.random.default_rng(seed)
    made: dict[tuple[int, bool], Callable[[], Any]] = {}
    for B in BATCHES:
        x = rng.standard_normal((steps, B, size)).astype(np.float32)
        dy = rng.standard_normal(layer(x)[0].shape).astype(np.float32)

        def forward(x: NDArray[Any] = x) -> None:
            layer(x)

        def training(x: NDArray[Any] = x, dy: NDArray[Any] = dy) -> None:
            layer.forward(x).backward(dy)

        made[B, False], made[B, True] = forward, training
    return made


def measure(size: int = 128, steps: int = 100, rounds: int = 20, seed: int = 0) -> list[Row]:
    """Measure all cells.

    Parameters
    ----------
    size : int
        I = H, a multiple of 4 (heads).
    steps : int
        T.
    rounds : int
        In how many each call is timed once; one more is for warming up.
    seed : int
        Of parameters and inputs.

    Returns
    -------
    list of Row
        In the order of `CELLS`.
    """
    timed = {
        (cell.title, *key): call for cell in CELLS for key, call in calls(cell, size, steps, seed).items()
    }
    least = dict.fromkeys(timed, np.inf)
    for turn in common.progress(range(rounds + 1), "cells, rounds"):
        for key, call in timed.items():
            begin = time.perf_counter()
            call()
            if turn:
                least[key] = min(least[key], (time.perf_counter() - begin) / steps)
    return [
        Row(
            cell.title,
            build(cell, size, seed).flat_params.size,
            {(B, back): float(least[cell.title, B, back]) for B in BATCHES for back in (False, True)},
            *errors(cell, size, steps, seed),
        )
        for cell in CELLS
    ]


# ---- Showing -----------------------------------------------------------------------------------------------


def section(rows: Sequence[Row], size: int, steps: int, rounds: int) -> str:
    """The table as Markdown, with what it was measured with."""
    where = machine.describe()
    kinds = [(B, back) for B in BATCHES for back in (False, True)]
    header = ["cell", "parameters"]
    header += [f"{'forward + backward' if back else 'forward'}, B = {B}" for B, back in kinds]
    header += ["error of outputs", "error of gradients"]
    lines = [
        f"I = H = {size}, T = {steps}, float32, one thread; microseconds a step, least of {rounds} rounds. "
        f"Measured on {where['cpu']}, {where['time'][:10]}; fastlstm {where['fastlstm']}, "
        f"NumPy {where['numpy']}, Python {where['python']}.",
        "",
        "| " + " | ".join(header) + " |",
        "|---|" + "---:|" * (len(header) - 1),
    ]
    for row in rows:
        cells = [row.title, f"{row.parameters:,}".replace(",", " ")]
        cells += [f"{1e6 * row.seconds[kind]:.3g}" for kind in kinds]
        cells += [f"{row.output_error:.0e}", f"{row.gradient_error:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(text: str, page: Path) -> None:
    """Put `text` between the marks of `page`.

    Raises
    ------
    ValueError
        The page has not one pair of marks.
    """
    old = page.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise ValueError(f"page: expected one {BEGIN} and then one {END} in {page}")
    before, after = old[: old.index(BEGIN)], old[old.index(END) :]
    page.write_text(f"{before}{BEGIN}\n{text}\n{after}", encoding="utf-8")
    print(f"table: {page}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = common.parser(__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="of the table (default: docs/cells.md)")
    parser.add_argument("--rounds", type=int, default=20, help="of timing (default: %(default)s)")
    options = parser.parse_args(arguments)
    size, steps, rounds = (8, 5, 2) if options.quick else (128, 100, options.rounds)
    rows = measure(size, steps, rounds, options.seed)
    text = section(rows, size, steps, rounds)
    print(text)
    if not options.quick:
        write(text, options.page)


if __name__ == "__main__":
    main()
