# SPDX-License-Identifier: BSD-3-Clause
"""An `out` in the memory of an argument, of whatever type, is refused or right, in all that takes one."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import fastlstm
from fastlstm import kernels
from tests.objects.kinds import CELLS_OF_ONE_STEP, FAMILY, build
from tests.problems.presenting import Array, Interface, Subclass, Tensor

T, B, H = 5, 3, 4


VIEWS = {
    "ndarray": np.asarray,
    "subclass": lambda a: a.view(Subclass),
    "tensor": Tensor,
    "memoryview": memoryview,
    "__array__": Array,
    "__array_interface__": Interface,
    "list of rows": lambda a: [a[0], *a[1:]],
    "tuple of tensors": lambda a: tuple(Tensor(row) for row in a),
}


def numbers(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


REFUSALS = (
    "expected memory apart from",
    "expected None with a list",
    "expected a list of arrays, as x",
    "which is a batch of sequences",
)


def is_right_or_refused(call, want):
    """`call` writes to memory where one of its arguments lies, too."""
    try:
        got = call()
    except (TypeError, ValueError) as error:
        if not any(text in str(error) for text in REFUSALS):
            raise
        return
    np.testing.assert_array_equal(got, want)


FEATURES = {
    "none": {},
    "mask": {"mask": np.arange(T)[:, None] < [5, 2, 3]},
    "mask with holes": {"mask": np.arange(T)[:, None] != [1, 2, 3]},
    "reset": {"reset": np.arange(T)[:, None] == [0, 2, 3]},
    "lengths": {"lengths": [5, 0, 2]},
    "hold": {"lengths": [5, 0, 2], "pad": "hold"},
    "cells": {"return_cells": True},
}
SQUARE = {
    "LSTM": {},
    "GRU": {},
    "RNN": {},
    "SLSTM": {},
    "MinGRU": {},
    "LSTM reverse": {"reverse": True},
    "LSTM residual": {"residual": 0, "num_layers": 2},
    "LSTM merged": {"bidirectional": True, "merge": "average"},
    "LSTM two": {"num_layers": 2},
    "GRU batch first": {"batch_first": True},
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", SQUARE)
def test_out_in_the_memory_of_x(name, feature, view):
    kind, options, given = name.split()[0], SQUARE[name], FEATURES[feature]
    layer = getattr(fastlstm, kind)(H, H, rng=0, **options)
    if layer.batch_first:
        given = {key: value.T if getattr(value, "ndim", 0) == 2 else value for key, value in given.items()}
    if feature == "cells" and kind != "LSTM" and kind != "SLSTM":
        given = {}
    if feature == "hold" and ("residual" in options or "merge" in options):
        given = {"lengths": [5, 0, 2]}
    x = numbers(*((B, T, H) if layer.batch_first else (T, B, H)))
    want = layer(x, **given)[0].copy()
    memory = x.copy()
    is_right_or_refused(lambda: layer(VIEWS[view](memory), out=memory, **given)[0], want)


@pytest.mark.parametrize("view", [name for name in VIEWS if "of" not in name])
@pytest.mark.parametrize("argument", ["mask", "reset", "lengths", "offsets", "state"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "reverse", "residual"])
def test_out_in_the_memory_of_another_argument(kind, argument, view):
    options = {"reverse": {"reverse": True}, "residual": {"residual": 0}}.get(kind, {})
    layer = getattr(fastlstm, kind if not options else "LSTM")(H, H, rng=0, **options)
    x = numbers(B, H) if argument == "offsets" else numbers(1, B, H)
    values = {
        "mask": np.ones((1, B), bool),
        "reset": np.ones((1, B), bool),
        "lengths": np.array([1, 1, 0]),
        "offsets": np.array([0, 1, 3]),
        "state": numbers(1, 2 if argument == "offsets" else B, H),
    }[argument]
    raw = np.zeros(1024, np.uint8)
    raw[: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
    shared = raw[: values.nbytes].view(values.dtype).reshape(values.shape)
    out = raw[: x.nbytes].view(np.float32).reshape(x.shape)

    def given(value):
        if argument == "state" and kind != "GRU":
            return {"state": (np.zeros_like(values), value)}
        return {argument: value}

    want = layer(x, **given(values))[0].copy()
    is_right_or_refused(lambda: layer(x, **given(VIEWS[view](shared)), out=out)[0], want)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("options", [{}, {"residual": 0}, {"hidden_size": (H, H)}, {"num_layers": 2}])
def test_out_of_a_stream(options, view):
    layer = fastlstm.GRU(**({"input_size": H, "hidden_size": H, "rng": 0} | options))
    x = numbers(T, B, H)
    want = layer.stream(B).process(x)
    memory = x.copy()
    is_right_or_refused(lambda: layer.stream(B).process(VIEWS[view](memory), memory), want)
    memory = x[0].copy()
    is_right_or_refused(lambda: layer.stream(B).step(VIEWS[view](memory), memory), want[0])


@pytest.mark.parametrize("view", [name for name in VIEWS if "of" not in name])
@pytest.mark.parametrize("cell", CELLS_OF_ONE_STEP)
def test_outs_of_a_cell(cell, view):
    step = getattr(fastlstm, cell)(H, H, rng=0)
    has_c = isinstance(step(numbers(B, H)), tuple)
    x, h, c = numbers(3, B, H)
    want = step(x, (h, c) if has_c else h)
    for place in range(3 if has_c else 2):
        memory = [x.copy(), h.copy(), c.copy()]
        given = [VIEWS[view](array) for array in memory]
        for which in range(2 if has_c else 1):
            fresh = np.empty((B, H), np.float32)
            out = (memory[place], fresh) if which == 0 else (fresh, memory[place])
            is_right_or_refused(
                lambda given=given, out=out, which=which: (
                    step(given[0], (given[1], given[2]), out)[which]
                    if has_c
                    else step(given[0], given[1], out[0])
                ),
                want[which] if has_c else want,
            )


PIECES = {
    "gate_matmul": ((B, H), (B, H), (4 * H, H), (4 * H, H), (4 * H,)),
    "cell_update": ((B, 4 * H), (B, H)),
    "sigmoid": ((B, H),),
    "tanh": ((B, H),),
}


def test_all_pieces_that_take_out_are_tried():
    taking = {
        name for name in kernels.__all__ if "out" in inspect.signature(getattr(kernels, name)).parameters
    }
    assert taking == set(PIECES)


@pytest.mark.parametrize("view", [name for name in VIEWS if "of" not in name])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("name", PIECES)
def test_out_of_a_piece(name, shift, view):
    piece, shapes = getattr(kernels, name), PIECES[name]
    values = [numbers(*shape) for shape in shapes]
    want = piece(*values)
    results = want if isinstance(want, tuple) else (want,)
    for place, value in enumerate(values):
        for which, result in enumerate(results):
            memory = np.zeros(4096, np.float32)
            memory[: value.size] = value.ravel()
            shared = memory[: value.size].reshape(value.shape)
            out = memory[shift : shift + result.size].reshape(result.shape)
            given = [VIEWS[view](shared) if n == place else other for n, other in enumerate(values)]
            outs = tuple(out if n == which else np.empty_like(other) for n, other in enumerate(results))

            def call(given=given, outs=outs, which=which):
                got = piece(*given, out=outs if len(outs) == 2 else outs[0])
                return got[which] if isinstance(got, tuple) else got

            is_right_or_refused(call, result)


def test_a_packed_weight_leaves_the_state_of_a_product():
    weights = kernels.packed(numbers(4, 4), numbers(4, 1))
    h = Tensor(numbers(4, 1))
    memory = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match=r"^out: expected memory apart from h"):
        kernels.gate_matmul(numbers(4, 4), Tensor(memory[:, :1]), weights, out=memory)
    assert kernels.gate_matmul(numbers(4, 4), h, weights, out=memory) is memory


@pytest.mark.parametrize("name", FAMILY)
def test_a_fresh_out_is_taken(name):
    layer = build(name)
    x = numbers(T, B, layer.input_size)
    want = layer(x)[0]
    out = np.empty_like(want)
    assert layer(Tensor(x), out=out)[0] is out
    np.testing.assert_array_equal(out, want)
