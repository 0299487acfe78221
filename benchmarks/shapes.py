# SPDX-License-Identifier: BSD-3-Clause
"""The named shapes that are measured, each with the reason why it is there.

Letters: T time, B batch, I input features, H hidden units, layers, directions.
"""

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from benchmarks.cells import CELLS, COMPARED, PLAIN, RACED, Form

# What a case measures.  "sequence": a whole call from a zero state.  "step": one time step from a given
# state.  "stream": from a given state, with an object that keeps it between calls where the peer has one.
# "call": the plainest call, of which only the part that is no arithmetic is of interest.  "training": forward
# and backward from a zero state, to the gradients of the input and of all parameters.  "family" is "sequence"
# and "family_training" is "training" for the other cells (cells.py).
# Each part of the race has its own contestants, files and tables.
PARTS = {
    "forward": ("sequence", "step", "stream", "call"),
    "training": ("training",),
    "family": ("family",),
    "family_training": ("family_training",),
}


@dataclass(frozen=True)
class Shape:
    """One case: sizes, kind, the reason to measure it and, where there is one, the time to reach."""

    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    directions: int = 1
    kind: str = "sequence"
    reason: str = ""
    target_seconds: float | None = None  # a call, one thread
    is_index: bool = False  # integer input that stands for one-hot rows
    cell: str = PLAIN  # of cells.CELLS

    @property
    def form(self) -> Form:
        """The cell."""
        return CELLS[self.cell]

    @property
    def is_training(self) -> bool:
        """Whether a call is forward and backward."""
        return self.part in ("training", "family_training")

    @property
    def is_family(self) -> bool:
        """Whether it belongs to the race of the other cells."""
        return self.part in ("family", "family_training")

    @property
    def size(self) -> tuple[int, int, int, int]:
        """T, B, I, H."""
        return self.T, self.B, self.I, self.H

    @property
    def P(self) -> int:
        """Width of h."""
        return self.form.width(self.H)

    @property
    def name(self) -> str:
        stack = (f"-L{self.layers}" if self.layers > 1 else "") + (
            f"-D{self.directions}" if self.directions > 1 else ""
        )
        kind = self.kind
        if self.is_family:
            kind = f"{self.cell}-training" if self.is_training else self.cell
        return f"{kind}-T{self.T}-B{self.B}-I{self.I}-H{self.H}{stack}"

    @property
    def part(self) -> str:
        """The part of the race that it belongs to."""
        return next(part for part, kinds in PARTS.items() if self.kind in kinds)

    @property
    def label(self) -> str:
        """Short name for a table: ``(T,B,I,H)`` and what else there is."""
        stack = (f" {self.layers} layers" if self.layers > 1 else "") + (
            " 2 directions" if self.directions > 1 else ""
        )
        return f"({self.T},{self.B},{self.I},{self.H}){stack}"

    @property
    def has_state(self) -> bool:
        """Whether the peers are handed a state to start from."""
        return self.kind in ("step", "stream")

    def input_sizes(self) -> list[int]:
        """Input features of each layer."""
        return [self.I] + [self.directions * self.P] * (self.layers - 1)

    def lengths(self) -> list[int] | None:
        """Steps of each row, uniform in 1..T and always the same; None where every row has T."""
        if not self.form.is_ragged:
            return None
        rng = np.random.default_rng(zlib.crc32(f"lengths-T{self.T}-B{self.B}".encode()))
        return [int(length) for length in rng.integers(1, self.T + 1, self.B)]

    def real_steps(self) -> int:
        """Steps of all rows together: T*B where none is shorter."""
        lengths = self.lengths()
        return self.T * self.B if lengths is None else sum(lengths)

    def rows(self) -> Counter[int]:
        """Rows that a time step has, and in how many time steps."""
        lengths = self.lengths()
        if lengths is None:
            return Counter({self.B: self.T})
        return Counter(sum(length > t for length in lengths) for t in range(max(lengths)))

    def input_flops(self) -> float:
        """Floating-point operations of the input products forward; a gathered row: an addition an element."""
        rows = float(self.real_steps() * self.directions)
        per_row = [2 * self.form.gates * self.H * size for size in self.input_sizes()]
        if self.is_index:
            per_row[0] = self.form.gates * self.H
        return rows * sum(per_row)

    def recurrent_weights(self) -> int:
        """Numbers in the matrices that one layer and direction reads at every step."""
        if not self.form.is_recurrent:
            return 0
        projection = self.P * self.H if self.form.is_projected else 0
        return self.form.gates * self.H * self.P + projection

    def step_flops(self, rows: int | None = None) -> float:
        """Floating-point operations of the recurrent product forward: a step of one layer and direction.

        Of the whole batch, or of so many rows.
        """
        return 2.0 * (self.B if rows is None else rows) * self.recurrent_weights()

    def flops(self) -> float:
        """Multiplications and additions of the matrix products of one call; activations are not counted.

        Training has every product three times: the gradient of each of its factors is one of the same size.
        """
        recurrent = self.layers * self.directions * self.step_flops(self.real_steps())
        forward = self.input_flops() + recurrent
        return 3 * forward if self.is_training else forward


def _sequence(T: int, B: int, I: int, H: int, reason: str, layers: int = 1, directions: int = 1) -> Shape:
    return Shape(T, B, I, H, layers, directions, "sequence", reason)


SEQUENCES = (
    _sequence(100, 1, 16, 16, "tiny model, weights in L1: latency of a step"),
    _sequence(100, 1, 64, 64, "small model: recurrent weights just beyond L1"),
    _sequence(100, 1, 128, 128, "voice activity and keyword models: weights in L2"),
    _sequence(100, 1, 256, 256, "recurrent weights as large as an L2"),
    _sequence(100, 1, 512, 512, "recurrent weights in L3"),
    _sequence(50, 1, 1024, 1024, "recurrent weights fill half of an L3"),
    _sequence(100, 4, 128, 128, "a few rows: between bandwidth and arithmetic"),
    _sequence(100, 8, 256, 256, "a small batch"),
    _sequence(100, 32, 128, 128, "a batch, small model"),
    _sequence(100, 32, 256, 256, "a batch, middle model"),
    _sequence(50, 64, 512, 512, "a batch, large model: FMA peak"),
    _sequence(25, 128, 1024, 1024, "a large batch, large model: the peers' best ground"),
    _sequence(1000, 1, 32, 128, "a long sequence with a narrow input"),
    _sequence(365, 256, 30, 256, "a year of days, many sites: hydrology and forecasting"),
    _sequence(100, 16, 128, 128, "tagging: two layers, both directions", layers=2, directions=2),
    _sequence(25, 1, 1024, 1024, "a deep stack at batch 1", layers=8),
    _sequence(37, 5, 23, 77, "sizes that are no multiple of anything"),
    _sequence(61, 13, 40, 150, "sizes that are no multiple of anything"),
    _sequence(20, 16, 768, 768, "a few rows, weights far beyond L2"),
    _sequence(10, 64, 1500, 1500, "a batch, weights as large as an L3"),
    _sequence(40, 3, 512, 512, "three rows, weights in L3"),
    _sequence(40, 1, 320, 384, "one row, weights just beyond L2, sizes between powers of two"),
    _sequence(30, 48, 256, 320, "a batch, sizes between powers of two"),
    _sequence(80, 16, 96, 200, "a small batch, the last block not full"),
)

STEP_HIDDEN_SIZES = (16, 64, 256, 1024)
STEP_BATCH_SIZES = (1, 8, 64)


def step_shapes(hidden_sizes: Iterable[int], batch_sizes: Iterable[int]) -> tuple[Shape, ...]:
    """One time step from a given state, I = H."""
    batch_sizes = tuple(batch_sizes)
    return tuple(
        Shape(1, B, H, H, kind="step", reason="one step from a given state")
        for H in hidden_sizes
        for B in batch_sizes
    )


# Nanoseconds a step to reach for real-time audio, I = 1, B = 1, one thread, on an AMD Zen 4 core.
STREAM_TARGETS_NS = {8: 40, 16: 55, 32: 130, 40: 190, 64: 590, 80: 900}
STREAM_BLOCK = 2000

STREAMS = (
    *(
        Shape(
            STREAM_BLOCK,
            1,
            1,
            H,
            kind="stream",
            reason="real-time audio: a block of samples, one a step",
            target_seconds=STREAM_BLOCK * nanoseconds * 1e-9,
        )
        for H, nanoseconds in STREAM_TARGETS_NS.items()
    ),
    Shape(1, 1, 1, 16, kind="stream", reason="one sample a call from Python", target_seconds=0.5e-6),
    Shape(1, 1, 512, 512, kind="stream", reason="a step of a large model, whose state is kept"),
    Shape(1, 1, 1024, 1024, kind="stream", reason="a step of a larger model, whose state is kept"),
    Shape(1, 64, 256, 256, kind="stream", reason="a step of a server with many callers"),
)
STREAM_THREADS_HIDDEN = 256  # from so many units on, streams of several threads take part

# The straight line through these two gives what a call costs beyond its steps.
CALL_OVERHEAD_STEPS = (1, 101)
CALL_OVERHEAD_TARGET_SECONDS = 2e-6
CALLS = tuple(
    Shape(T, 1, 1, 8, kind="call", reason="what a call costs beyond its arithmetic")
    for T in CALL_OVERHEAD_STEPS
)


def _training(T: int, B: int, I: int, H: int, reason: str, layers: int = 1, directions: int = 1) -> Shape:
    return Shape(T, B, I, H, layers, directions, "training", reason)


TRAINING = (
    _training(100, 1, 64, 64, "one sequence at a time: latency of a step"),
    _training(100, 8, 64, 64, "a small batch, small model"),
    _training(100, 32, 128, 128, "a batch, small model"),
    _training(100, 32, 256, 256, "a batch, middle model"),
    _training(50, 64, 512, 512, "a batch, large model: FMA peak"),
    _training(25, 128, 1024, 1024, "a large batch, large model: the peers' best ground"),
    _training(365, 256, 30, 256, "a year of days, many sites: what is kept for backward is far beyond L3"),
    _training(50, 50, 128, 512, "a text model of two layers", layers=2),
    _training(100, 16, 128, 128, "tagging: two layers, both directions", layers=2, directions=2),
    _training(1000, 8, 32, 128, "a long sequence with a narrow input"),
)

FAMILY_SIZES = (
    (100, 1, 64, 64),
    (100, 1, 256, 256),
    (100, 8, 256, 256),
    (100, 32, 256, 256),
    (50, 64, 512, 512),
)
# A narrow input, where an output costs few operations: cells without recurrence are bound by memory.
NARROW_SIZE = (1000, 64, 1, 256)
NARROW_CELLS = ("mingru", "minlstm")


def _family(cell: str, size: tuple[int, int, int, int], kind: str) -> Shape:
    return Shape(*size, kind=kind, reason=CELLS[cell].title, cell=cell)


def compared(kind: str) -> tuple[tuple[Shape, ...], ...]:
    """Shapes at which fastlstm is compared with itself, those of one size together."""
    return (
        *(tuple(_family(cell, size, kind) for cell in COMPARED) for size in FAMILY_SIZES),
        tuple(_family(cell, NARROW_SIZE, kind) for cell in NARROW_CELLS),
    )


FAMILY, FAMILY_TRAINING = (
    tuple(_family(cell, size, kind) for size in FAMILY_SIZES for cell in RACED)
    for kind in ("family", "family_training")
)

RACE = (
    *SEQUENCES,
    *step_shapes(STEP_HIDDEN_SIZES, STEP_BATCH_SIZES),
    *STREAMS,
    *CALLS,
    *TRAINING,
    *FAMILY,
    *FAMILY_TRAINING,
)

# One of each regime, none that takes long.
QUICK_NAMES = (
    "sequence-T100-B1-I16-H16",
    "sequence-T100-B1-I128-H128",
    "sequence-T100-B1-I512-H512",
    "sequence-T100-B8-I256-H256",
    "sequence-T100-B32-I256-H256",
    "sequence-T100-B16-I128-H128-L2-D2",
    "sequence-T37-B5-I23-H77",
    "step-T1-B1-I64-H64",
    "step-T1-B8-I256-H256",
    "stream-*",
    "call-*",
    "training-T100-B1-I64-H64",
    "training-T100-B32-I128-H128",
    "training-T100-B16-I128-H128-L2-D2",
    *(
        shape.name
        for shape in (*FAMILY, *FAMILY_TRAINING)
        if shape.size in (FAMILY_SIZES[0], FAMILY_SIZES[2])
    ),
)


def select(shapes: Iterable[Shape], patterns: Iterable[str]) -> list[Shape]:
    """The shapes whose name matches one of the patterns, in their own order.

    Raises
    ------
    ValueError
        If a pattern matches no shape.
    """
    shapes = list(shapes)
    chosen: set[Shape] = set()
    for pattern in patterns:
        matching = [shape for shape in shapes if fnmatchcase(shape.name, pattern)]
        if not matching:
            names = "\n  ".join(shape.name for shape in shapes)
            raise ValueError(
                f"--shapes: expected a name or a pattern of one, got {pattern!r}; there are\n  {names}"
            )
        chosen.update(matching)
    return [shape for shape in shapes if shape in chosen]


def family_shapes(parts: Iterable[str]) -> list[Shape]:
    """Every shape of the family's parts, size by size: those against peers, then those compared alone."""
    kinds = [kind for part in parts for kind in PARTS[part] if kind.startswith("family")]
    shapes: dict[Shape, None] = {}
    for kind in kinds:
        for group in compared(kind):
            raced = (_family(cell, group[0].size, kind) for cell in RACED if group[0].size in FAMILY_SIZES)
            shapes |= dict.fromkeys((*raced, *group))
    return list(shapes)


def is_memory_bound_in_l3(shape: Shape, l2_bytes: int) -> bool:
    """Whether the recurrent weights (float32) of one row must come from L3 at every step."""
    return shape.B == 1 and 0.8 * l2_bytes < 16 * shape.H**2


def limit_target(shape: Shape, threads: int, l2_bytes: int) -> float | None:
    """Fraction of the machine's limit to reach, or None where none is set."""
    if shape.kind == "training" and shape.B >= 32 and shape.H >= 128:
        return {1: 0.85, 2: 0.8}.get(threads)
    if shape.kind != "sequence" or shape.T < 25:
        return None
    if threads == 1 and shape.H >= 64:
        return 0.8 if is_memory_bound_in_l3(shape, l2_bytes) else 0.9
    if threads == 2 and (shape.H >= 256 or shape.B >= 4):
        return 0.8
    return None
