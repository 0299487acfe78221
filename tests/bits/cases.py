# SPDX-License-Identifier: BSD-3-Clause
"""What the stored digests cover: each cell and option times schedules of rows, and each form of a call.

A case is named "variant / schedule dtype".  `SCHEDULES` are for every variant of `VARIANTS`; `FORMS` for
those of `BASES`, one of each way through the C core.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.problems.cells import VARIANTS

# Those with a path of their own through the core.
BASES = (
    "LSTM",
    "projection, clip",
    "gate norm, peephole",
    "all that is drawn",
    "GRU",
    "GRU, reset before",
    "RNN",
    "IndRNN",
    "SLSTM, heads",
    "MinGRU",
    "MinLSTM",
    "MGU",
)

# ---- Sizes and forms ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of one batch."""

    T: int
    B: int
    I: int
    H: int | tuple[int, ...]

    def fitted(self, options: dict[str, Any]) -> Sizes:
        """With hidden sizes that are multiples of `heads` and larger than `proj_size`."""
        heads, least = options.get("heads", 1), options.get("proj_size", 0) + 1

        def fit(size: int) -> int:
            size = max(size, least)
            return size + -size % heads

        return dataclasses.replace(
            self, H=fit(self.H) if isinstance(self.H, int) else tuple(map(fit, self.H))
        )


@dataclasses.dataclass(frozen=True)
class Form:
    """How the layer is put together and called; one digest is over all of `sizes`."""

    sizes: tuple[Sizes, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    x: str = "array"  # "unbatched", "index", "list" or "offsets"
    has_state: bool = False
    has_lengths: bool = False
    has_mask: bool = False
    has_reset: bool = False
    pad: str = "zero"
    bptt: int | None = None
    is_stream: bool = False


# Vectors have 2 to 16 lanes, tiles 1 to 6 rows and 1 to 4 blocks.  With 16, 8 and 4 lanes, H = 5 has a
# padded or packed block only, 16 and 64 full ones, 19, 37 and 70 packed tails of one and of two vectors
# behind one or more full ones; 13 and 30 a last block that is too full to pack.  The products of I = 40
# are made before the steps, those of 3 within them.
SCHEDULES: dict[str, Form] = {
    "one row": Form(
        tuple(
            Sizes(T, 1, I, H)
            for T, I, H in (
                (6, 3, 5),
                (7, 40, 16),
                (5, 3, 19),
                (60, 40, 37),
                (4, 1, 64),
                (9, 20, 70),
                (3, 5, 13),
            )
        )
    ),
    "rows": Form(
        (
            Sizes(5, 2, 3, 37),
            Sizes(5, 3, 40, 70),
            Sizes(4, 4, 3, 16),
            Sizes(3, 5, 9, 30),
            Sizes(4, 6, 3, 19),
            Sizes(11, 7, 40, 37),
            Sizes(3, 33, 70, 19),
            Sizes(2, 33, 9, 64),
            Sizes(3, 7, 3, 5),
        ),
        has_state=True,
    ),
    "ragged stack": Form(
        (Sizes(9, 7, 5, 19), Sizes(8, 3, 40, 37)),
        {"num_layers": 2, "bidirectional": True},
        has_state=True,
        has_lengths=True,
        has_reset=True,
        bptt=4,
    ),
}

_SMALL = (Sizes(9, 3, 5, 19), Sizes(7, 8, 33, 37))
_STACK = {"num_layers": 2}
_BOTH = {"bidirectional": True}
FORMS: dict[str, Form] = {
    # Each remainder of tiles of 6, 3 and 1 rows; and blocks beside each other.
    "every tile": Form(tuple(Sizes(2, B, 3, H) for B in (1, 2, 3, 4, 5, 6, 7, 13) for H in (5, 16, 37, 70))),
    "every tail": Form(
        tuple(Sizes(2, B, 3, H) for B in (1, 4) for H in (*range(1, 21), 31, 32, 33, 34, 48, 129))
    ),
    "wide": Form((Sizes(5, 1, 64, 130), Sizes(4, 3, 300, 128), Sizes(3, 14, 20, 150))),
    "long": Form((Sizes(150, 1, 3, 16), Sizes(130, 2, 40, 20))),
    # Rows of several passes and of several groups of passes (csrc/backward/backward_plan.h).
    "sums": Form((Sizes(1, 4500, 3, 5), Sizes(5000, 1, 2, 3), Sizes(20, 300, 5, 4)), _BOTH, has_lengths=True),
    "two layers": Form(_SMALL, _STACK, has_state=True),
    "five layers": Form((Sizes(40, 1, 3, 16), Sizes(12, 6, 20, 24)), {"num_layers": 5}),
    "bidirectional": Form(_SMALL, _BOTH, has_state=True),
    "batch first": Form(_SMALL, _BOTH | {"batch_first": True}, has_lengths=True),
    "dropout": Form(_SMALL, {"num_layers": 3, "dropout": 0.3} | _BOTH, has_lengths=True),
    "lengths": Form(_SMALL, _STACK, has_lengths=True, has_state=True),
    "lengths, hold": Form(_SMALL, _BOTH, has_lengths=True, has_state=True, pad="hold"),
    "mask": Form(_SMALL, _STACK | _BOTH, has_mask=True),
    "mask, hold": Form(_SMALL, _BOTH, has_mask=True, has_lengths=True, has_state=True, pad="hold"),
    "reset": Form(_SMALL, _STACK | _BOTH, has_reset=True, has_state=True),
    "reset, lengths, mask": Form(_SMALL, _BOTH, has_reset=True, has_lengths=True, has_mask=True),
    "truncated": Form(_SMALL, _STACK | _BOTH, bptt=2, has_state=True),
    "reverse": Form(_SMALL, {"reverse": True}, has_lengths=True, has_reset=True, bptt=3),
    "reverse, processing order": Form(
        _SMALL, {"reverse": True, "reverse_order": "processing"}, has_mask=True, has_state=True
    ),
    "unbatched": Form(_SMALL, _STACK, x="unbatched", has_state=True),
    "indices": Form(_SMALL, _STACK, x="index", has_lengths=True),
    "list": Form(_SMALL, _BOTH, x="list", has_state=True, has_reset=True),
    "offsets": Form(_SMALL, _STACK, x="offsets", has_state=True, has_reset=True),
    "offsets of indices, reverse": Form(_SMALL, {"reverse": True}, x="offsets index"),
    "residual": Form(_SMALL, {"num_layers": 3, "residual": 1, "dropout": 0.3}, has_lengths=True),
    "sum of directions": Form(_SMALL, _STACK | _BOTH | {"merge": "sum"}, has_lengths=True, has_state=True),
    "average of directions": Form(_SMALL, _STACK | _BOTH | {"merge": "average"}),
    "sizes": Form(
        (Sizes(6, 3, 5, (19, 8, 37)), Sizes(5, 7, 20, (12, 34))), {}, has_state=True, has_reset=True
    ),
    "sizes, bidirectional": Form((Sizes(6, 3, 5, (19, 37)),), _BOTH, has_lengths=True, bptt=3),
    "stream": Form((Sizes(11, 1, 1, 16), Sizes(10, 3, 20, 37)), _STACK, has_state=True, is_stream=True),
    "stream of indices": Form((Sizes(9, 2, 20, 19),), x="index", is_stream=True),
    "stream of parts": Form((Sizes(9, 2, 6, (12, 19)),), {}, has_state=True, is_stream=True),
}

DTYPES = ("float32", "float64")


def layer_cases() -> dict[str, tuple[str, dict[str, Any], Form, str]]:
    """By name: the layer's class, its options, the form and the dtype."""
    cases = {}
    tables = [(VARIANTS, SCHEDULES), (BASES, FORMS)]
    for variants, forms in tables:
        for variant in variants:
            cell, options = VARIANTS[variant]
            for form_name, form in forms.items():
                for dtype in DTYPES:
                    cases[f"{variant} / {form_name} {dtype}"] = (cell, options | form.options, form, dtype)
    return cases
