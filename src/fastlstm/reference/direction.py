# SPDX-License-Identifier: BSD-3-Clause
"""One layer in one direction: a cell walked over all steps, and back.

Depends on cell_base.py, draws.py and batches.py; read stack.py next.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batches import Walk
from .cell_base import Cell, Grads, Noise, State
from .config import Config
from .draws import RECURRENT, ZONEOUT_C, ZONEOUT_H, recurrent_dropout_mask, zoneout_mask

Array = NDArray[Any]


class Direction:
    """One layer in one direction, over all steps."""

    def __init__(self, cell: Cell, walk: Walk, noise: Noise) -> None:
        self.cell, self.walk, self.noise = cell, walk, noise
        self.kept: list[Any] = []

    def forward(self, x: Array, state: State, is_recorded: bool) -> tuple[Array, Array, State]:
        """Output (T, B, P), all c (T, B, H), and the state after the last step, from the input (T, B, I)."""
        T, B = x.shape[:2]
        c = min(1, len(state) - 1)  # c is the second member; where there is none, nobody asks for it
        y, cells = (np.zeros((T, B, state[member].shape[-1]), x.dtype) for member in (0, c))
        for step in range(self.walk.num_steps):
            rows, time = self.walk.at(step)
            before = self.walk.passing(_rows_of(state, rows), self.walk.is_start, step)
            after, kept = self.cell.step(x[time, rows], before, _noise_of_step(self.noise, time, rows))
            if is_recorded:
                self.kept.append(kept)
            state = _replaced(state, rows, after)
            y[time, rows], cells[time, rows] = after[0], after[c]
        return y, cells, state

    def backward(self, dy: Array, dcells: Array | None, dstate: State, grads: Grads) -> tuple[Array, State]:
        """Gradients of the input and of the state before the first step; adds to `grads`."""
        dx = np.zeros((*dy.shape[:2], grads["weight_ih"].shape[1]), dy.dtype)
        for step in reversed(range(self.walk.num_steps)):
            rows, time = self.walk.at(step)
            dafter = list(_rows_of(dstate, rows))
            dafter[0] = dafter[0] + dy[time, rows]
            if dcells is not None:
                dafter[1] = dafter[1] + dcells[time, rows]
            dx[time, rows], dbefore = self.cell.step_back(self.kept[step], tuple(dafter), grads)
            dstate = _replaced(dstate, rows, self.walk.passing(dbefore, self.walk.is_cut, step))
        return dx, dstate


def _rows_of(state: State, rows: Any) -> State:
    return tuple(member[rows] for member in state)


def _replaced(state: State, rows: Any, values: State) -> State:
    """The state with some rows replaced, in new arrays: steps keep what they have seen."""
    if isinstance(rows, slice):
        return values
    changed = tuple(member.copy() for member in state)
    for member, value in zip(changed, values, strict=True):
        member[rows] = value
    return changed


def draw_noise(
    config: Config, index: int, layer: int, T: int, B: int, training: bool, seed: int, dtype: Any
) -> Noise:
    """All masks of a layer and direction; outside of training, what stands for them.

    Zoneout: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", 2017,
    whose inference takes the expectation of the mask; without it ("off") as Chainer.
    """
    H, p = config.sizes[layer], config.recurrent_dropout
    if not training:
        is_weighted = config.zoneout_eval == "expectation"
        return Noise(config.zoneout_c * is_weighted, config.zoneout_h * is_weighted)
    zoneouts: list[Any] = [0.0, 0.0]
    for member, (rate, kind) in enumerate(((config.zoneout_c, ZONEOUT_C), (config.zoneout_h, ZONEOUT_H))):
        if rate:
            zoneouts[member] = zoneout_mask(seed + kind, index, T, B, H, rate, dtype)
    recurrent = None
    if p:
        masks = len(config.gates) if config.recurrent_dropout_masks == "gate" else 1
        recurrent = recurrent_dropout_mask(seed + RECURRENT, index, masks, B, config.width(layer), p, dtype)
    return Noise(zoneouts[0], zoneouts[1], recurrent)


def _noise_of_step(noise: Noise, time: Array, rows: Array) -> Noise:
    zoneout_c, zoneout_h = (z[time, rows] if isinstance(z, np.ndarray) else z for z in noise[:2])
    return Noise(zoneout_c, zoneout_h, None if noise.recurrent is None else noise.recurrent[:, rows])
