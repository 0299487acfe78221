# SPDX-License-Identifier: BSD-3-Clause
"""Random problems, brought in any form, against the float64 reference; spoiled ones are refused by name."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS
from tests.problems.comparing import assert_right, assert_same_bits, assert_same_results
from tests.problems.presenting import variants_of
from tests.problems.problem import LARGEST, WHOLE, arrays_of, problem_of, transformed
from tests.problems.running import SAVES, called, make_layer, stream_of, streamed, trained

from .effort import PARTS, try_seeds

every_part = pytest.mark.parametrize("part", PARTS)


def draw(seed, **fixed):
    """A problem of any cell, and a generator for what is done with it."""
    rng = np.random.default_rng([seed, 1])
    dtype = ("float32", "float64")[int(rng.random() < 0.3)]
    largest = int(rng.choice(LARGEST))
    return problem_of(seed, str(rng.choice(CELLS)), dtype, largest=largest, **fixed), rng


def presented(rng, array):
    """The array in another form, or as it is."""
    forms = [("as it is", array), *variants_of(array)]
    name, value = forms[int(rng.integers(len(forms)))]
    if name == "torch" and array.dtype.kind == "u":  # of which torch has one type alone
        return array
    return value


def changes_of(rng, problem):
    """Other forms of all arguments of the problem, by name."""
    changes = {"x": presented(rng, problem.x)}
    if problem.state is not None:
        changes["state"] = transformed(lambda a: presented(rng, a), problem.state)
    for name in ("lengths", "mask", "reset"):
        if name in problem.keywords:
            changes[name] = presented(rng, problem.keywords[name])
    return changes


def check_out(rng, problem, layer, changes, plain):
    """The result in a given array, which must be contiguous; else it is refused and left as it was."""
    y = plain["y0"]
    wide = np.full((*y.shape[:-1], y.shape[-1] + 3), np.nan, y.dtype)[..., : y.shape[-1]]
    out = wide if rng.random() < 0.3 else np.full((len(y) + 2, *y.shape[1:]), np.nan, y.dtype)[1:-1]
    if out.flags.c_contiguous:
        assert_same_results(called(problem, layer, out=out, **changes), plain, problem.config)
        assert_same_bits(out, y)
        return
    with pytest.raises(ValueError, match=r"^out: expected a C-contiguous array"):
        called(problem, layer, out=out, **changes)
    assert np.isnan(wide).all()


@every_part
def test_calls(request, part):
    """A call is right, and has the same bits whatever form its arguments and its result have."""

    def check(seed):
        problem, rng = draw(seed)
        layer = make_layer(problem, num_threads=int(rng.integers(1, 4)))
        plain = called(problem, layer)
        assert_right(problem, plain, None, seed)
        changes = changes_of(rng, problem)
        assert_same_results(called(problem, layer, **changes), plain, (seed, problem.config, changes))
        check_out(rng, problem, layer, changes, plain)

    try_seeds(request, part, 160, check)


@every_part
def test_training_passes(request, part):
    """Gradients are right, and have the same bits whatever is kept, and in whatever form gradients come."""

    def check(seed):
        problem, rng = draw(seed)
        layer = make_layer(problem, num_threads=int(rng.integers(1, 4)))
        training = bool(rng.random() < 0.7)
        plain = trained(problem, layer, training=training)
        assert_right(problem, plain, training, seed)
        changes = changes_of(rng, problem)
        changes |= {"dy": presented(rng, problem.dy), "save": SAVES[int(rng.integers(len(SAVES)))]}
        changes["dstate"] = transformed(lambda a: presented(rng, a), problem.dstate)
        if problem.dcells is not None:
            changes["dcells"] = presented(rng, problem.dcells)
        again = trained(problem, layer, training=training, **changes)
        assert_same_results(again, plain, (seed, problem.config, changes))

    try_seeds(request, part, 80, check)


@every_part
def test_streams_and_lists(request, part):
    """A stream in any blocks, and a list of the rows, have the bits of the call."""

    def check(seed):
        problem, rng = draw(seed, bidirectional=False, reverse=False, merge="concat", **WHOLE)
        layer = make_layer(problem)
        plain = called(problem, layer)
        T, B = problem.time_first(problem.x).shape[:2]
        blocks = rng.integers(0, T + 1, 2 * T)
        cut = int(np.searchsorted(np.maximum(blocks, 1).cumsum(), T)) + 1
        got = streamed(problem, stream_of(problem, layer), blocks[:cut])
        names = [name for name in plain if not name.startswith("cells")]
        assert_same_results(got, {name: plain[name] for name in names}, (seed, problem.config, blocks))
        rows = [problem.time_first(problem.x)[:, b].copy() for b in range(B)]
        for b in range(1, B):  # the first says that they are sequences, whatever the others are
            rows[b] = presented(rng, rows[b])
        got = called(problem, layer, x=rows, return_cells=False, pad="zero")
        y = problem.time_first(plain["y0"]).swapaxes(0, 1).reshape(T * B, -1)
        assert_same_bits(got["y0"].reshape(T * B, -1), y, (seed, problem.config))

    try_seeds(request, part, 80, check)


# What no argument of a call can be, and what may be wrong or right.
ODD = (
    None, "text", b"bytes", 1j, object(), {}, [], (), [[]], np.nan, -1, 0, 1.5, True, 10**30, [None], ["a"],
    np.zeros((0, 0)), np.zeros((2, 2, 2, 2)), np.array("s"), np.datetime64("now"), range(3), iter([1]),
    np.ma.masked_array([1.0], [True]), np.array([1, "a", None], object), np.full((3, 2, 1), 1j),
    np.zeros(3, [("a", "f4")]), float("inf"), [1e300], lambda: 0, type, np.float32, slice(3), [1, [2, [3]]],
    memoryview(b"ab"),
)  # fmt: skip
NAMES = (
    "x",
    "state",
    "lengths",
    "mask",
    "reset",
    "offsets",
    "pad",
    "return_cells",
    "out",
    "training",
    "save",
)
NAMED = re.compile(r"^(x|state|lengths|mask|reset|offsets|pad|return_cells|out|training|save|bptt|d\w+)\b")


def spoiled(rng, value):
    """One value changed so that it need not fit."""
    if isinstance(value, np.ndarray) and value.ndim and rng.random() < 0.7:
        way = int(rng.integers(6))
        if way == 0:
            return value[..., :-1]
        if way == 1:
            return value[np.newaxis]
        if way == 2:
            return np.concatenate([value, value], int(rng.integers(value.ndim)))
        if way == 3:
            return value.astype(str(rng.choice(["i1", "u8", "f2", "g", "c16", "?", "S3", "O", "M8[s]"])))
        if way == 4:
            return [value, value]
        return np.full_like(value, 127) if value.dtype.kind != "b" else ~value
    return ODD[int(rng.integers(len(ODD)))]


@every_part
@pytest.mark.filterwarnings("ignore")
def test_spoiled_calls(request, part):
    """One argument that need not fit: a result, or an exception that names one; then all is as before."""

    def check(seed):
        problem, rng = draw(seed)
        layer = make_layer(problem)
        plain = called(problem, layer)
        arguments = {"x": problem.x, "state": problem.state, **problem.keywords}
        name = NAMES[int(rng.integers(len(NAMES)))]
        value = spoiled(rng, arguments.get(name))
        entry = layer if name not in ("training", "save", "bptt") and rng.random() < 0.5 else layer.forward
        text = ""
        try:
            entry(**arguments | {name: value})
        except (TypeError, ValueError, OverflowError, MemoryError) as error:
            text = str(error)
        is_unknown = "unexpected keyword" in text
        assert not text or is_unknown or NAMED.match(text), (seed, name, value, text)
        again = called(problem, layer)
        assert_same_results(again, plain, (seed, name, value))

    try_seeds(request, part, 160, check)


# ---- What is beside the layers -----------------------------------------------------------------------------


@every_part
def test_dense_embedding_and_losses(request, part):
    """Against formulas in float64, in any form."""

    def check(seed):
        rng = np.random.default_rng([seed, 2])
        dtype = ("float32", "float64")[seed % 2]
        tolerance = 1e-5 if seed % 2 == 0 else 1e-12
        I, O = (int(n) for n in rng.integers(1, 40, 2))
        rows = tuple(int(n) for n in rng.integers(0, 6, rng.integers(0, 4)))
        dense = fastlstm.Dense(I, O, bool(rng.integers(2)), dtype=dtype, rng=seed)
        x, dy = (rng.standard_normal((*rows, n)).astype(dtype) for n in (I, O))
        wide = {name: value.astype("f8") for name, value in dense.params.items()}
        tape = dense.forward(presented(rng, x))
        y = x.astype("f8") @ wide["weight"].T + wide.get("bias", 0)
        dx = tape.backward(presented(rng, dy))
        flat_x, flat_dy = x.reshape(-1, I).astype("f8"), dy.reshape(-1, O).astype("f8")
        close(tape.y, y, tolerance, seed)
        close(dx, dy.astype("f8") @ wide["weight"], tolerance, seed)
        close(dense.grads["weight"], flat_dy.T @ flat_x, tolerance, seed)
        if "bias" in wide:
            close(dense.grads["bias"], flat_dy.sum(0), tolerance, seed)
        assert_same_bits(dense(presented(rng, x)), tape.y, seed)

        table = fastlstm.Embedding(I, O, dtype=dtype, rng=seed)
        words = rng.integers(0, I, rows[:2] or 3)
        tape = table.forward(presented(rng, words))
        assert_same_bits(tape.y, table.params["weight"][words], seed)
        dw = rng.standard_normal(tape.y.shape).astype(dtype)
        tape.backward(presented(rng, dw))
        sums = np.zeros((I, O))
        np.add.at(sums, words, dw.astype("f8"))
        close(table.grads["weight"], sums, tolerance, seed)
        check_losses(rng, dtype, tolerance, seed)

    def check_losses(rng, dtype, tolerance, seed):
        T, B, C = (int(n) for n in rng.integers(1, 6, 3))
        logits = (rng.standard_normal((T, B, C)) * 10.0 ** rng.integers(-3, 4)).astype(dtype)
        target, lengths = rng.integers(0, C, (T, B)), rng.integers(0, T + 1, B)
        lengths[0] = T
        is_real = np.arange(T)[:, None] < lengths
        loss, dz = fastlstm.losses.softmax_cross_entropy(
            presented(rng, logits), presented(rng, target), lengths=presented(rng, lengths)
        )
        wide = logits.astype("f8") - logits.max(-1, keepdims=True)
        logs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
        chosen = np.take_along_axis(logs, target[..., None], -1)[..., 0]
        close(loss, -(chosen * is_real).sum() / is_real.sum(), tolerance, seed)
        expected = (np.exp(logs) - (np.arange(C) == target[..., None])) * is_real[..., None] / is_real.sum()
        close(dz, expected, tolerance, seed)
        loss, dz = fastlstm.losses.mse(presented(rng, logits), presented(rng, 0 * logits), lengths=lengths)
        square = (logits.astype("f8") * is_real[..., None]) ** 2
        close(loss, square.sum() / (is_real.sum() * C), tolerance, seed)
        close(dz, 2 * logits.astype("f8") * is_real[..., None] / (is_real.sum() * C), tolerance, seed)

    try_seeds(request, part, 80, check)


def close(got, expected, tolerance, what):
    """As a part of the largest element, or of 1."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, what
    error = np.abs(got - expected).max(initial=0)
    assert error <= tolerance * max(1, np.abs(expected).max(initial=0)), (what, error)


@every_part
def test_arguments_are_left_alone(request, part):
    """No call changes what it is given."""

    def check(seed):
        problem, rng = draw(seed)
        layer = make_layer(problem)
        given = [problem.x, problem.dy, *arrays_of(problem.state), *arrays_of(problem.dstate)]
        given += [value for value in problem.keywords.values() if isinstance(value, np.ndarray)]
        before = [array.copy() for array in given]
        trained(problem, layer, save=SAVES[int(rng.integers(len(SAVES)))])
        for array, old in zip(given, before, strict=True):
            assert_same_bits(array, old, seed)

    try_seeds(request, part, 16, check)
