# SPDX-License-Identifier: BSD-3-Clause
"""fastlstm itself, by each of the calls that its documentation offers for a case."""

from collections.abc import Callable
from functools import partial

import numpy as np

import fastlstm
from benchmarks.data import Array
from benchmarks.peers.base import Case, Prepared
from fastlstm import _core


class Peer:
    def __init__(self, threads: int) -> None:
        fastlstm.set_num_threads(threads)

    def versions(self) -> dict[str, str]:
        return {"fastlstm": fastlstm.__version__, "isa": _core.isa_active(), "numpy": np.__version__}

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        if case.shape.kind == "stream":
            return {"stream.step" if case.shape.T == 1 else "stream.process": lambda: _stream(case)}
        if case.shape.kind == "call":
            return {"lstm(x)": lambda: _layer(case, with_out=False)}
        variants = {
            "lstm": lambda: _layer(case, with_out=False),
            "lstm, out=": lambda: _layer(case, with_out=True),
        }
        if case.shape.kind == "step":
            variants["LSTMCell, out="] = lambda: _cell(case)
        return variants


def loaded(case: Case) -> fastlstm.LSTM:
    """The layer with the weights of the case."""
    shape = case.shape
    lstm = fastlstm.LSTM(shape.I, shape.H, shape.layers, bidirectional=shape.directions == 2)
    lstm.load_state_dict(case.params)
    return lstm


def _layer(case: Case, *, with_out: bool) -> Prepared:
    lstm, shape = loaded(case), case.shape
    arguments = (case.x,) if case.state is None else (case.x, case.state)
    out = np.empty((shape.T, shape.B, shape.directions * shape.H), np.float32) if with_out else None
    call = partial(lstm, *arguments, out=out) if with_out else partial(lstm, *arguments)

    def answer() -> tuple[Array, Array, Array]:
        y, (h_n, c_n) = call()
        return y, h_n, c_n

    return Prepared(call, answer)


def _cell(case: Case) -> Prepared:
    assert case.state is not None
    cell = fastlstm.LSTMCell(case.shape.I, case.shape.H)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in case.params.items()})
    h, c = case.state[0][0], case.state[1][0]
    out = (np.empty_like(h), np.empty_like(c))
    call = partial(cell, case.x[0], (h, c), out=out)

    def answer() -> tuple[Array, Array, Array]:
        call()
        return out[0][None], out[0][None], out[1][None]

    return Prepared(call, answer)


def _stream(case: Case) -> Prepared:
    state = case.state
    assert state is not None
    shape = case.shape
    stream = loaded(case).stream(shape.B, num_threads=None)
    x = np.ascontiguousarray(case.x)
    y = np.empty((shape.T, shape.B, shape.H), np.float32)
    if shape.B == 1:
        x, y = x[:, 0], y[:, 0]
    call = partial(stream.step, x[0], out=y[0]) if shape.T == 1 else partial(stream.process, x, out=y)

    def answer() -> tuple[Array, Array, Array]:
        stream.state = state
        call()
        h, c = (np.asarray(part).reshape(shape.layers, shape.B, shape.H) for part in stream.state)
        return y.reshape(shape.T, shape.B, shape.H), h, c

    return Prepared(call, answer)
