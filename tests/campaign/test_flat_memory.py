# SPDX-License-Identifier: BSD-3-Clause
"""Many calls of each kind leave memory as it was: 10^7 in a long campaign."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from tests.memory.probes import fails, resident_bytes
from tests.problems.children import announce, in_child

from .effort import count_of

X = np.zeros((2, 1, 2), np.float32)


def calls():
    layer = fastlstm.LSTM(2, 3, rng=0)
    out = np.empty((2, 1, 3), np.float32)
    yield lambda: layer(X)
    yield lambda: layer(X, out=out)
    yield lambda: fails(layer, X[..., :1])


def steps_of_streams():
    whole, parts = fastlstm.LSTM(2, 3, rng=0).stream(), fastlstm.GRU(2, (3, 2), rng=0).stream()
    for stream in (whole, parts):
        yield lambda stream=stream: stream.step(X[0])
        yield lambda stream=stream: stream.process(X)
        yield lambda stream=stream: fails(stream.step, "x")


def passes():
    layer, dense = fastlstm.LSTM(2, 3, rng=0), fastlstm.Dense(3, 2, rng=0)
    dy = np.ones((2, 1, 3), np.float32)

    def both():
        tape = layer.forward(X)
        out = dense.forward(tape.y)
        tape.backward(out.backward(X))

    yield both
    yield lambda: layer.forward(X, save=1).backward(dy)
    yield lambda: layer.forward(X)
    yield lambda: fails(layer.forward(X).backward, X[..., :1])


def steps_of_optimizers():
    layers = [fastlstm.LSTM(2, 3, rng=0), fastlstm.Dense(3, 2, rng=0)]
    for layer in layers:
        layer.flat_grads[...] = 1e-3
    for kind in (fastlstm.optim.SGD, fastlstm.optim.Adam):
        yield kind(layers, lr=1e-6).step
    yield lambda: fastlstm.optim.clip_grad_norm(layers, 1e9)
    yield lambda: layers[1](layers[0](X)[0])


def loads():
    layer = fastlstm.LSTM(2, 3, rng=0)
    state = layer.state_dict()
    yield lambda: layer.load_state_dict(state)
    yield lambda: (layer.load_state_dict(state), layer(X))
    yield lambda: fails(layer.load_state_dict, {})


def files():
    layer = fastlstm.LSTM(2, 3, rng=0)
    model = {"layer": layer, "adam": fastlstm.optim.Adam(layer)}
    folder = tempfile.TemporaryDirectory()

    def both(path=Path(folder.name) / "model.npz", folder=folder):
        fastlstm.save(path, model)
        fastlstm.load(path, model)

    yield both


# Of each kind, how many thousand calls in a run of the tests; a tenth of it shows first how memory settles.
KINDS = {
    "calls": (calls, 12),
    "steps_of_streams": (steps_of_streams, 12),
    "passes": (passes, 4),
    "steps_of_optimizers": (steps_of_optimizers, 4),
    "loads": (loads, 2),
    "files": (files, 0.2),
}
# A leak of 64 bytes in each call would be 128 kB in the fewest calls that count.
MOST_GROWTH = 256 * 1024


def growth_of(name, count):
    """Growth of resident memory, in bytes, over `count` calls of a kind after as many in a first third."""
    each = list(KINDS[name][0]())

    def run(turns):
        for turn in range(turns):
            each[turn % len(each)]()

    run(count // 2)
    before = resident_bytes()
    for tenth in range(10):
        announce(name, tenth, resident_bytes() - before)
        run(count // 10)
    return resident_bytes() - before


@pytest.mark.parametrize("name", KINDS)
def test_memory_stays_flat(name):
    count = count_of(int(1000 * KINDS[name][1]))
    growth = in_child(growth_of, name, count)
    print(name, count, growth)
    assert growth <= MOST_GROWTH
