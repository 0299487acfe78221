# SPDX-License-Identifier: BSD-3-Clause
"""Each allocation of each entry fails once: MemoryError, nothing has changed, and the next call is right.

Also those of Python's own objects, where the interpreter takes all memory from malloc.  Where all fail from
one on, it has small objects from a pool of its own: without any Python itself does not reach an `except`.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels, losses, optim
from tests.memory.allocations import Allocations
from tests.problems.children import announce, in_child
from tests.problems.problem import arrays_of

from .effort import EFFORT, PARTS

T, B, I, H = 4, 3, 5, 6
X = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
WORDS = np.ones((T, B), int)
PAIR = np.ones((8, I)), np.ones((8, 2))
MASK = np.arange(T)[:, None] != [1, 2, 3]


def kept(*objects):
    """Bytes of what layers, optimizers, and streams keep."""
    found = []
    for each in objects:
        if hasattr(each, "process"):
            found += arrays_of([each.state])
        elif hasattr(each, "num_steps"):
            state = each.state_dict()
            found += [np.array(state["num_steps"])] + [v for part in state["layers"] for v in part.values()]
        else:
            found += [each.flat_params] + ([each.flat_grads] if hasattr(each, "flat_grads") else [])
    return [array.tobytes() for array in found]


def calls(make, *arguments, **keywords):
    """An entry that calls a layer."""

    def entry():
        layer = make()
        return lambda: layer(*arguments, **keywords), lambda: kept(layer)

    return entry


def records(make, x=X, save="all", **keywords):
    def entry():
        layer = make()
        return lambda: layer.forward(x, save=save, **keywords).y, lambda: kept(layer)

    return entry


def goes_back(make, x=X, **keywords):
    """The tape can be used again after a failure."""

    def entry():
        layer = make()
        tape = layer.forward(x, **keywords)
        dy = [np.ones_like(y) for y in tape.y] if isinstance(tape.y, list) else np.ones_like(tape.y)
        return lambda: tape.backward(dy), lambda: kept(layer)

    return entry


def steps(make_optimizer):
    def entry():
        layers = [fastlstm.LSTM(I, H, rng=0), fastlstm.Dense(H, 2, rng=0)]
        optimizer = make_optimizer(layers)
        for layer in layers:
            layer.flat_grads[...] = 0.5
        return optimizer.step, lambda: kept(optimizer, *layers)

    return entry


def streams(make, act):
    def entry():
        layer = make()
        stream = layer.stream(B)
        stream.process(X)
        return lambda: act(stream), lambda: kept(layer, stream)

    return entry


def changes(make, act):
    """What changes a layer, and gives nothing."""

    def entry():
        layer, other = make(), make()
        with other.editing() as flat:
            flat *= 2
        return lambda: act(layer, other), lambda: kept(layer)

    return entry


def makes(make):
    """What makes an object: nothing is there that could have changed."""
    return lambda: (lambda: kept(make()), list)


def function(call):
    return lambda: (call, list)


def lstm(**options):
    return lambda: fastlstm.LSTM(I, H, rng=0, **options)


def gru(**options):
    return lambda: fastlstm.GRU(I, H, rng=0, **options)


def edit(layer, _other):
    with layer.editing() as flat:
        flat *= 2


def through_a_file(layer, other):
    """No error but MemoryError is promised of files; that nothing has changed is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        fastlstm.save(path, other)
        fastlstm.load(path, layer)


ENTRIES = {
    "call": calls(lstm(), X),
    "call, threads": calls(lstm(num_threads=2, num_layers=2), X),
    "call, lengths": calls(lstm(bidirectional=True), X, lengths=[4, 0, 2]),
    "call, mask": calls(gru(), X, mask=MASK),
    "call, reset and cells": calls(lstm(), X, reset=MASK, return_cells=True),
    "call, list": calls(gru(), [X[:, 0], X[:2, 1]]),
    "call, offsets": calls(gru(), X[:, 0], offsets=[0, 1, 4]),
    "call, list of lists": calls(lstm(), X.tolist()),
    "call, strides": calls(lstm(), X[:, ::-1]),
    "call, indices": calls(lstm(), WORDS),
    "call, merged": calls(gru(bidirectional=True, merge="average"), X),
    "call, sizes": calls(lambda: fastlstm.LSTM(I, (4, 6, 2), rng=0), X),
    "call, SLSTM": calls(lambda: fastlstm.SLSTM(I, H, heads=2, rng=0), X),
    "call, MinGRU": calls(lambda: fastlstm.MinGRU(I, H, rng=0), X),
    "call, reverse": calls(lstm(reverse=True), X),
    "call, cell": calls(lambda: fastlstm.LSTMCell(I, H, rng=0), X[0]),
    "record": records(lstm()),
    "record, states": records(lstm(num_layers=2), save="states"),
    "record, steps": records(gru(), save=2, lengths=[4, 1, 0]),
    "record, mask": records(gru(bidirectional=True, merge="sum"), mask=MASK),
    "back": goes_back(lstm(num_layers=2)),
    "back, steps": goes_back(lstm(bidirectional=True), save=1),
    "back, threads": goes_back(lstm(num_threads=2)),
    "back, mask": goes_back(gru(), mask=MASK),
    "back, list": goes_back(gru(), [X[:, 0], X[:2, 1]]),
    "back, residual": goes_back(lambda: fastlstm.GRU(I, I, 2, residual=1, rng=0)),
    "back, indices": goes_back(lstm(), WORDS),
    "back, layer norm": goes_back(lstm(layer_norm="gate", peephole=True)),
    "dense": calls(lambda: fastlstm.Dense(I, 2, rng=0), X),
    "dense, list": calls(lambda: fastlstm.Dense(I, 2, rng=0), [X[:, 0], X[:2, 1]]),
    "dense, record": records(lambda: Recorded(fastlstm.Dense(I, 2, rng=0))),
    "dense, back": goes_back(lambda: fastlstm.Dense(I, 2, rng=0)),
    "dense, back, list": goes_back(lambda: fastlstm.Dense(I, 2, rng=0), [X[:, 0], X[:2, 1]]),
    "embedding": calls(lambda: fastlstm.Embedding(9, 3, rng=0), WORDS),
    "embedding, back": goes_back(lambda: fastlstm.Embedding(9, 3, rng=0), WORDS),
    "SGD": steps(lambda layers: optim.SGD(layers, 0.1)),
    "SGD, momentum": steps(lambda layers: optim.SGD(layers, 0.1, momentum=0.5)),
    "Adam": steps(lambda layers: optim.Adam(layers, 0.1)),
    "stream": function(lambda: fastlstm.GRU(I, H, rng=0).stream(B).process(X)),
    "stream, step": streams(lstm(), lambda stream: stream.step(X[0])),
    "stream, block": streams(lstm(num_layers=2), lambda stream: stream.process(X)),
    "stream, parts": streams(lambda: fastlstm.GRU(I, (4, 6), rng=0), lambda stream: stream.step(X[0])),
    "stream, block of parts": streams(lambda: fastlstm.GRU(I, (4, 6), rng=0), lambda s: s.process(X)),
    "stream, row": streams(lambda: fastlstm.GRU(I, (4, 6), rng=0), lambda stream: stream.reset([1])),
    "stream, state": streams(lstm(), lambda s: setattr(s, "state", (np.ones((1, B, H)),) * 2)),
    "stream, pickle": streams(lstm(), lambda s: pickle.loads(pickle.dumps(s)).process(X)),
    "load_state_dict": changes(lstm(), lambda layer, other: layer.load_state_dict(other.state_dict())),
    "load_state_dict, tied": function(lambda: tied().load_state_dict(tied().state_dict())),
    "editing": changes(lstm(), edit),
    "file": changes(lstm(), through_a_file),
    "grads": changes(lstm(), lambda layer, _: layer.grads["bias_ih_l0"].sum()),
    "release": changes(lstm(), lambda layer, _: layer.release()),
    "repr": changes(lstm(), lambda layer, _: repr(layer)),
    "LSTM": makes(lstm(num_layers=2, peephole=True)),
    "GRU, keras": makes(gru(init="keras")),
    "Dense": makes(lambda: fastlstm.Dense(I, H, rng=0)),
    "copy": makes(lambda: copy.copy(fastlstm.LSTM(I, H, rng=0))),
    "deepcopy": makes(lambda: copy.deepcopy(fastlstm.LSTM(I, H, rng=0))),
    "pickle": makes(lambda: pickle.load(io.BytesIO(pickle.dumps(fastlstm.LSTM(I, H, rng=0))))),
    "clip": function(lambda: optim.clip_grad_norm(fastlstm.LSTM(I, H, rng=0), 1.0)),
    "cross entropy": function(lambda: losses.softmax_cross_entropy(X, WORDS, lengths=[4, 1, 2])),
    "mse": function(lambda: losses.mse(X, 0 * X, mask=MASK)),
    "sigmoid": function(lambda: kernels.sigmoid(X)),
    "gate_matmul": function(lambda: kernels.gate_matmul(X[0], X[0, :, :2], *PAIR)),
    "packed": function(lambda: kernels.gate_matmul(X[0], X[0, :, :2], kernels.packed(*PAIR))),
    "cell_update": function(lambda: kernels.cell_update(np.ones((3, 80)), np.ones((3, 20)))),
    "onnx_gru": function(lambda: fastlstm.onnx_gru(X, np.ones((1, 6, I), "f4"), np.ones((1, 6, 2), "f4"))),
}  # fmt: skip
# Where others than MemoryError come from Python's own modules.
FILES = ("file", "pickle", "stream, pickle", "copy", "deepcopy")


class Recorded:
    """A layer whose forward takes no `save`."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x, save):
        return self.layer.forward(x)

    def __getattr__(self, name):
        return getattr(self.layer, name)


def tied():
    return fastlstm.Dense(3, 9, tied=fastlstm.Embedding(9, 3, rng=0), rng=1)


def results(value):
    """A result as bytes."""
    if isinstance(value, (bytes, int, float, str, np.generic)) or value is None:
        return repr(value)
    try:
        return [np.asarray(a).tobytes() for a in arrays_of([value])]
    except TypeError:
        return [results(part) for part in value]


def is_of_numpy(error):
    """Whether it was raised within NumPy, which has others where memory lacks, such as SystemError."""
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    return "numpy" in where or (isinstance(error, SystemError) and where.endswith(".py"))


def fails_at(fail, name, n, and_all_later):
    """What is wrong where the `n`-th allocation of an entry fails; False if it has not so many."""
    call, state = ENTRIES[name]()
    expected, after = results(call()), state()
    call, state = ENTRIES[name]()
    before, error, value = state(), None, None
    fail.allocation_fail(n, and_all_later)
    try:
        value = call()
    except BaseException as caught:
        fail.allocation_fail_stop()
        error = caught
    fail.allocation_fail_stop()
    if not fail.allocation_failures():
        return False if error is None else f"raised {error!r}"
    if error is None:  # it did without
        return "" if (results(value), state()) == (expected, after) else "is wrong, without an exception"
    if not isinstance(error, MemoryError) and name not in FILES and not is_of_numpy(error):
        return "".join(traceback.format_exception(error))
    del error, value
    if state() != before:
        return "has changed"
    if results(call()) != expected or state() != after:
        return "is not right afterwards"
    return ""


def failures_of(names, and_all_later, most):
    """How many allocations of each entry were made to fail, and what was wrong then, by name and number."""
    fail = Allocations().library
    warnings.simplefilter("ignore")
    counts, wrong = {}, {}
    for name in names:
        for _ in range(2):  # what is made once a process is there
            call, state = ENTRIES[name]()
            results(call()), state()
        for n in itertools.count(1):
            announce(name, n)
            what = fails_at(fail, name, n, and_all_later) if n <= most else False
            if what is False:
                counts[name] = n - 1
                break
            if what:
                wrong[f"{name}, {n}"] = what
    return [counts, wrong]


@pytest.mark.parametrize("and_all_later", [False, True], ids=["one", "all from one on"])
@pytest.mark.parametrize("part", PARTS)
def test_every_allocation_may_fail(part, and_all_later, allocation_counter):
    most = 10**6 if EFFORT > 1 else 25
    names = list(ENTRIES)[part :: len(PARTS)]
    own = {} if and_all_later else {"PYTHONMALLOC": "malloc"}
    counts, wrong = in_child(failures_of, names, and_all_later, most, LD_PRELOAD=allocation_counter, **own)
    print(counts)
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())
    assert and_all_later or all(count > 0 or name == "release" for name, count in counts.items()), counts
