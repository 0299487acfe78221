# SPDX-License-Identifier: BSD-3-Clause
"""Gates as other programs keep them: a layer computes what their own formulas say, written out here."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from fastlstm import convert

I, H, T, B = 3, 4, 6, 2


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def uniform(rng, *shape):
    return rng.uniform(-1, 1, shape)


def run(step, count, x):
    """Outputs of a step function over time, in float64, from zero."""
    states = tuple(np.zeros((B, H)) for _ in range(count))
    outputs = []
    for x_t in x:
        states = step(x_t, *states)
        outputs.append(states[0])
    return np.stack(outputs)


def madmom_gate(rng, peephole):
    gate = {"weight_ih": uniform(rng, I, H), "weight_hh": uniform(rng, H, H), "bias": uniform(rng, H)}
    return gate | ({"weight_ch": uniform(rng, H)} if peephole else {})


def madmom_lstm(rng):
    """Of madmom's LSTMLayer: gates by themselves, with peepholes but for the cell."""
    parts = {gate: madmom_gate(rng, gate != "c") for gate in "ifco"}

    def gate(name, x, h, c):
        own = parts[name]
        return x @ own["weight_ih"] + own["bias"] + c * own.get("weight_ch", 0) + h @ own["weight_hh"]

    def step(x, h, c):
        i, f = sigmoid(gate("i", x, h, c)), sigmoid(gate("f", x, h, c))
        c = np.tanh(gate("c", x, h, c)) * i + c * f
        return np.tanh(c) * sigmoid(gate("o", x, h, c)), c

    return step, 2, lambda: fastlstm.from_gates("LSTM", [parts], transposed=True, dtype="float64")


def madmom_gru(rng):
    """Of madmom's GRULayer: the update gate takes the new state."""
    parts = {gate: madmom_gate(rng, False) for gate in "ruh"}

    def part(name, x, h, r=1.0):
        own = parts[name]
        return x @ own["weight_ih"] + own["bias"] + r * (h @ own["weight_hh"])

    def step(x, h):
        r, u = sigmoid(part("r", x, h)), sigmoid(part("u", x, h))
        return (u * np.tanh(part("h", x, h, r)) + (1 - u) * h,)

    return (
        step,
        1,
        lambda: fastlstm.from_gates("GRU", [parts], transposed=True, update="new", dtype="float64"),
    )


def joined_lstm(order, added, transposed=True):
    """Of Haiku ("igfo") and TensorFlow's blocks ("icfo"): one product of [x, h], and a number added to f."""

    def make(rng):
        W, b = uniform(rng, I + H, 4 * H), uniform(rng, 4 * H)

        def step(x, h, c):
            a = dict(zip(order, np.split(np.concatenate([x, h], 1) @ W + b, 4, 1), strict=True))
            g = a.get("g", a.get("c", a.get("j")))
            c = sigmoid(a["f"] + added) * c + sigmoid(a["i"]) * np.tanh(g)
            return sigmoid(a["o"]) * np.tanh(c), c

        return (
            step,
            2,
            lambda: fastlstm.from_gates(
                "LSTM",
                [{"weight": W if transposed else W.T, "bias": b}],
                order=order,
                transposed=transposed,
                forget_bias_added=added,
                dtype="float64",
            ),
        )

    return make


def haiku_gru(rng):
    """Of Haiku: z, r, then the candidate, whose reset gate acts before the product."""
    W, U, b = uniform(rng, I, 3 * H), uniform(rng, H, 3 * H), uniform(rng, 3 * H)

    def step(x, h):
        a = x @ W + b
        z, r = np.split(sigmoid(a[:, : 2 * H] + h @ U[:, : 2 * H]), 2, 1)
        n = np.tanh(a[:, 2 * H :] + (r * h) @ U[:, 2 * H :])
        return ((1 - z) * h + z * n,)

    return (
        step,
        1,
        lambda: fastlstm.from_gates(
            "GRU",
            [{"weight_ih": W, "weight_hh": U, "bias": b}],
            order="zrn",
            transposed=True,
            update="new",
            reset_after=False,
            dtype="float64",
        ),
    )


def dynet_lstm(rng):
    """Of DyNet's vanilla LSTM: matrices for x and h, gates i, f, o, g, and 1 more for f."""
    W, U, b = uniform(rng, 4 * H, I), uniform(rng, 4 * H, H), uniform(rng, 4 * H)

    def step(x, h, c):
        i, f, o, g = np.split(x @ W.T + h @ U.T + b, 4, 1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    return (
        step,
        2,
        lambda: fastlstm.from_gates(
            "LSTM",
            [{"weight_ih": W, "weight_hh": U, "bias": b}],
            order="ifog",
            forget_bias_added=1,
            dtype="float64",
        ),
    )


def cudnn_lstm(rng):
    """Of cuDNN's canonical form: i, f, c, o, and two biases."""
    W, U, b, d = uniform(rng, 4 * H, I), uniform(rng, 4 * H, H), uniform(rng, 4 * H), uniform(rng, 4 * H)

    def step(x, h, c):
        i, f, g, o = np.split(x @ W.T + h @ U.T + b + d, 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    parts = {"weight_ih": W, "weight_hh": U, "bias_ih": b, "bias_hh": d}
    return step, 2, lambda: fastlstm.from_gates("LSTM", [parts], order="ifco", dtype="float64")


PROGRAMS = {
    "madmom LSTM": madmom_lstm,
    "madmom GRU": madmom_gru,
    "Haiku LSTM": joined_lstm("igfo", 1.0),
    "TensorFlow block": joined_lstm("icfo", 1.0),
    "TensorFlow basic": joined_lstm("ijfo", 1.0),
    "rows": joined_lstm("oigf", 0.0, False),
    "Haiku GRU, Paddle": haiku_gru,
    "DyNet": dynet_lstm,
    "cuDNN": cudnn_lstm,
}


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_a_layer_computes_the_formulas_of_the_program(make, rng):
    step, count, layer = make(rng)
    x = rng.standard_normal((T, B, I))
    np.testing.assert_allclose(layer()(x)[0], run(step, count, x), rtol=0, atol=1e-14)


def test_layers_and_directions(rng):
    def cell(inputs):
        return {
            "weight_ih": uniform(rng, 4 * H, inputs),
            "weight_hh": uniform(rng, 4 * H, H),
            "bias": uniform(rng, 4 * H),
        }

    parts = [[cell(I), cell(I)], [cell(2 * H), cell(2 * H)]]
    layer = fastlstm.from_gates("LSTM", parts, batch_first=True, dtype="float32")
    assert (layer.num_layers, layer.bidirectional, layer.batch_first) == (2, True, True)
    for number, pair in enumerate(parts):
        for direction, end in zip(pair, ("", "_reverse"), strict=True):
            for ours, theirs in (("weight_ih", "weight_ih"), ("weight_hh", "weight_hh"), ("bias_ih", "bias")):
                np.testing.assert_array_equal(
                    layer.params[f"{ours}_l{number}{end}"], direction[theirs].astype(np.float32)
                )
            assert not layer.params[f"bias_hh_l{number}{end}"].any()


def test_orders_go_there_and_back(rng):
    array = rng.standard_normal((5, 12, 2))
    for source, target, axis in (("ifgo", "ogif", 1), ("rzn", "nzr", -2), ("h", "h", 0)):
        turned = convert.gates(array, source, target, axis)
        np.testing.assert_array_equal(convert.gates(turned, target, source, axis), array)
        size = array.shape[axis] // len(source)
        for at, letter in enumerate(target):
            part = np.take(turned, range(at * size, (at + 1) * size), axis)
            begin = source.index(letter) * size
            np.testing.assert_array_equal(part, np.take(array, range(begin, begin + size), axis))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, "ab", "ab", 0), ValueError, "axis: expected one of the 0 axes"),
        (([1, 2], "ab", "ac"), ValueError, "target: expected the letters of source"),
        (([1, 2], "aa", "aa"), ValueError, "source: expected a letter for each gate, each once"),
        (([1, 2], "", ""), ValueError, "source: expected a letter"),
        (([1, 2, 3], "ab", "ba"), ValueError, "array: expected a size along axis 0 that 2 gates divide"),
        (([1, 2], 3, "ab"), TypeError, "source: expected a str"),
        (([1, 2], "ab", "ba", 1), ValueError, "axis: expected"),
        (([1, 2], "ab", "ba", 0.5), TypeError, "axis: expected an integer"),
    ],
)
def test_orders_are_checked(arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        convert.gates(*arguments)


def ones(*shape):
    return np.ones(shape)


GATE = {"weight_ih": ones(3, 4), "weight_hh": ones(4, 4), "bias": ones(4)}
WHOLE = {"weight_ih": ones(16, 3), "weight_hh": ones(16, 4)}


@pytest.mark.parametrize(
    ("cell", "layers", "options", "message"),
    [
        ("CNN", [WHOLE], {}, r"cell: expected"),
        ("LSTM", WHOLE, {}, r"layers: expected a sequence"),
        ("LSTM", [], {}, r"layers: expected a sequence"),
        ("LSTM", [3], {}, r""),
        ("LSTM", [[WHOLE, WHOLE, WHOLE]], {}, r"layers\[0\]: expected one mapping, or two"),
        ("LSTM", [WHOLE, [WHOLE, WHOLE]], {}, r"layers\[1\]: expected one mapping, or two"),
        ("LSTM", [WHOLE], {"order": "ifg"}, r"order: expected the gates of LSTM, 'ifgo', got 'ifg'"),
        ("LSTM", [WHOLE], {"order": 3}, r"order: expected None or letters"),
        ("LSTM", [WHOLE], {"update": "new"}, r"update: expected 'keep' with LSTM"),
        ("LSTM", [WHOLE], {"update": "old"}, r"update: expected 'keep' or 'new'"),
        (
            "GRU",
            [{"r": GATE, "z": GATE, "n": GATE}],
            {"forget_bias_added": 1},
            r"forget_bias_added: expected 0 with GRU",
        ),
        ("GRU", [{"r": GATE, "z": GATE}], {}, r"layers\[0\]: expected the gate 'n', got none"),
        (
            "GRU",
            [{"r": GATE, "z": GATE, "u": GATE}],
            {},
            r"layers\[0\]: expected one each of the gates 'rzn', got 'u'",
        ),
        (
            "GRU",
            [{"r": GATE, "z": GATE, "n": {"weight_ih": ones(3, 4)}}],
            {},
            r"layers\[0\]\['n'\]: expected 'weight_hh'",
        ),
        (
            "GRU",
            [{"r": GATE, "z": GATE, "n": GATE | {"bias": ones(5)}}],
            {},
            r"layers\[0\]\['n'\]\['bias_ih'\]: expected shape \(4,\)",
        ),
        ("LSTM", [WHOLE | {"weight_ih": ones(3)}], {}, r"layers\[0\]\['weight_ih'\]: expected 2 dimensions"),
        ("LSTM", [WHOLE | {"wieght": ones(3)}], {}, r"layers\[0\]: expected gates of .* got 'wieght'"),
        ("LSTM", [{"weight_ih": ones(16, 3)}], {}, r"layers\[0\]: expected 'weight_hh', got none"),
        (
            "LSTM",
            [WHOLE | {"weight_ih": ones(15, 3)}],
            {},
            r"layers\[0\]\['weight_ih'\]: expected a multiple of 4",
        ),
        ("LSTM", [{"weight": ones(16, 4)}], {}, r"layers\[0\]\['weight'\]: expected I \+ 4 columns, got 4"),
        ("LSTM", [WHOLE], {"transposed": 1}, r"transposed: expected a bool"),
        ("LSTM", [WHOLE], {"forget_bias_added": np.nan}, r"forget_bias_added: expected a number"),
        (
            "GRU",
            [{"r": GATE, "z": GATE, "n": GATE}],
            {"transposed": True, "update": "new", "activations": ["Relu", "Tanh"]},
            r"update: expected 'keep' with",
        ),
    ],
)
def test_what_does_not_fit_is_named(cell, layers, options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        fastlstm.from_gates(cell, layers, **options)
