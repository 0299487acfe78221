# SPDX-License-Identifier: BSD-3-Clause
"""The other cells of fastlstm, forward and in training; rows of different lengths padded and end to end."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastlstm
from benchmarks.data import Array
from benchmarks.peers import fastlstm_peer
from benchmarks.peers.base import Case, Prepared, end_to_end, gradients, row_by_row

SAVES = ("all", "states")


class Peer(fastlstm_peer.Peer):
    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        return ways(case)


def ways(case: Case) -> dict[str, Callable[[], Prepared]]:
    """Ways to do the case, by name."""
    is_ragged = case.shape.form.is_ragged
    found: dict[str, Callable[[], Prepared]] = {}
    if case.shape.is_training:
        found |= {f"save={save}": partial(_trained, case, save) for save in SAVES}
        if is_ragged:
            found |= {f"offsets, save={save}": partial(_trained_end_to_end, case, save) for save in SAVES}
        return found
    name = "lengths" if is_ragged else "layer"
    found |= {name: partial(_padded, case, with_out=False), f"{name}, out=": partial(_padded, case)}
    if is_ragged:
        found["offsets"] = partial(_end_to_end, case)
    return found


def loaded(case: Case) -> Any:
    """The layer with the weights of the case."""
    shape = case.shape
    layer = getattr(fastlstm, shape.form.cell)(
        shape.I,
        shape.H,
        shape.layers,
        bidirectional=shape.directions == 2,
        **shape.form.arguments(shape.H),
    )
    layer.load_state_dict(case.params)
    return layer


def _answer(case: Case, y: Array, state: Any) -> tuple[Array, ...]:
    return (y, *(state if case.shape.form.has_c else (state,)))


def _padded(case: Case, *, with_out: bool = True) -> Prepared:
    shape = case.shape
    call = partial(loaded(case), case.x, lengths=shape.lengths())
    if with_out:
        call = partial(call, out=np.empty((shape.T, shape.B, shape.directions * shape.P), np.float32))
    return Prepared(call, lambda: _answer(case, *call()))


def _end_to_end(case: Case) -> Prepared:
    data, offsets = end_to_end(case.shape, case.x)
    call = partial(loaded(case), data, offsets=offsets)

    def answer() -> tuple[Array, ...]:
        y, state = call()
        return _answer(case, row_by_row(case.shape, y), state)

    return Prepared(call, answer)


def _trained(case: Case, save: str) -> Prepared:
    layer, lengths = loaded(case), case.shape.lengths()

    def call() -> Any:
        layer.zero_grad()
        return layer.forward(case.x, lengths=lengths, save=save).backward(case.dy)

    return Prepared(call, lambda: gradients(case, call()[0], layer.grads))


def _trained_end_to_end(case: Case, save: str) -> Prepared:
    assert case.dy is not None
    layer = loaded(case)
    data, offsets = end_to_end(case.shape, case.x)
    dy, _ = end_to_end(case.shape, case.dy)

    def call() -> Any:
        layer.zero_grad()
        return layer.forward(data, offsets=offsets, save=save).backward(dy)

    return Prepared(call, lambda: gradients(case, row_by_row(case.shape, call()[0]), layer.grads))
