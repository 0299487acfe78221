# SPDX-License-Identifier: BSD-3-Clause
"""The cells of the family as the race measures them.  Needs the standard library alone.

Letters: H hidden units, P width of h (H, or less where h is projected).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Form:
    """One cell, or the plain LSTM on rows of different lengths."""

    title: str
    cell: str = "LSTM"  # the class of fastlstm, and the name of the cell in its reference
    options: tuple[tuple[str, Any], ...] = ()
    gates: int = 4  # blocks of H rows of weight_ih
    peepholes: int = 0  # gates that see the cell state
    is_recurrent: bool = True  # whether the gates see h
    is_projected: bool = False  # to half of the hidden units
    is_ragged: bool = False

    @property
    def has_c(self) -> bool:
        """Whether the state is (h, c) in place of h alone."""
        return self.cell == "LSTM"

    def width(self, H: int) -> int:
        """P."""
        return H // 2 if self.is_projected else H

    def arguments(self, H: int) -> dict[str, Any]:
        """Options of the layer beyond its sizes."""
        return dict(self.options) | ({"proj_size": self.width(H)} if self.is_projected else {})


PLAIN = "lstm"
CELLS = {
    PLAIN: Form("LSTM"),
    "gru": Form("GRU", "GRU", gates=3),
    "rnn": Form("RNN, tanh", "RNN", gates=1),
    "peephole": Form("LSTM with peepholes", options=(("peephole", True),), peepholes=3),
    "projected": Form("LSTM projected to H/2", is_projected=True),
    "coupled": Form("LSTM with coupled gates, f = 1 - i", options=(("coupled", "f_from_i"),), gates=3),
    "ragged": Form("LSTM, rows of length 1 to T", is_ragged=True),
    "mingru": Form("MinGRU", "MinGRU", gates=2, is_recurrent=False),
    "minlstm": Form("MinLSTM", "MinLSTM", gates=3, is_recurrent=False),
}
# Against peers; the plain LSTM is there for comparison with ragged rows: it is what a padded batch costs.
RACED = ("gru", "rnn", "peephole", "projected", "coupled", "ragged", PLAIN)
# fastlstm against itself, all in the same rounds.
COMPARED = (PLAIN, "gru", "rnn", "peephole", "coupled", "ragged", "mingru", "minlstm")
