# SPDX-License-Identifier: BSD-3-Clause
"""JSON of guitar amplifiers: small files written out, and the formulas of the programs that play them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits

from . import keras_samples as samples


def put(path, content):
    path.write_text(json.dumps(content))
    return path


def a_nam(rng, I=1, H=3, L=2, outputs=1):
    numbers = sum(4 * H * ((H if layer else I) + H) + 6 * H for layer in range(L)) + outputs * (H + 1)
    weights = [float(number) for number in rng.uniform(-1, 1, numbers).astype(np.float32)]
    config = {"input_size": I, "hidden_size": H, "num_layers": L}
    return {
        "version": "0.5.4",
        "architecture": "LSTM",
        "config": config,
        "weights": weights,
        "sample_rate": 48000,
    }


def play_nam(content, x):
    """Sample by sample as the player does it: [W U] [x h] + b, gates i, f, g, o, from first states."""
    I, H, L = (content["config"][name] for name in ("input_size", "hidden_size", "num_layers"))
    numbers = iter(content["weights"])

    def take(*shape):
        return np.array([next(numbers) for _ in range(int(np.prod(shape)))]).reshape(shape)

    layers = []
    for layer in range(L):
        width = (H if layer else I) + H
        layers.append([take(4 * H, width), take(4 * H), take(H), take(H)])
    head, bias = take(1, H), take(1)
    outputs = []
    for value in x:
        for layer in layers:
            W, b, h, c = layer
            i, f, g, o = np.split(W @ np.concatenate([value, h]) + b, 4)
            layer[3] = c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            layer[2] = value = np.tanh(c) / (1 + np.exp(-o))
        outputs.append(head @ value + bias)
    return np.stack(outputs)


@pytest.mark.parametrize(("I", "L"), [(1, 1), (2, 3)])
def test_a_nam_plays_as_its_player_does(I, L, rng, tmp_path):
    content = a_nam(rng, I=I, L=L)
    model = fastlstm.load(put(tmp_path / "amp.nam", content))
    x = rng.standard_normal((20, I)).astype(np.float32)
    y = model.layer(x, model.states["lstm"])[0] @ model.arrays["head.weight"].T + model.arrays["head.bias"]
    np.testing.assert_allclose(y, play_nam(content, x), rtol=0, atol=1e-6)
    assert model.format == "NAM"
    model.save(tmp_path / "amp.safetensors")
    assert_same_bits(fastlstm.load(tmp_path / "amp.safetensors").states["lstm"][1], model.states["lstm"][1])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_model_of_rtneural_is_in_keras_layout(kind, rng, tmp_path):
    arrays = samples.arrays_of(rng, 4 if kind == "lstm" else 3, bias=None if kind == "lstm" else (2, 12))
    W, b = rng.uniform(-1, 1, (4, 1)), rng.uniform(-1, 1, 1)
    layers = [
        {
            "type": kind,
            "activation": "",
            "shape": [None, None, 4],
            "weights": [array.tolist() for array in arrays],
        },
        {"type": "dense", "activation": "", "shape": [None, None, 1], "weights": [W.tolist(), b.tolist()]},
    ]
    model = fastlstm.load(put(tmp_path / "r.json", {"in_shape": [None, None, 3], "layers": layers}))
    x = rng.standard_normal((1, 9, 3)).astype(np.float32)
    expected = samples.lstm(x, arrays) if kind == "lstm" else samples.gru(x, arrays, reset_after=True)
    np.testing.assert_allclose(model.layer(x.swapaxes(0, 1))[0], expected.swapaxes(0, 1), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.arrays["layers[1].dense.0"], W.astype(np.float32))


def test_what_is_written_for_rtneural_is_read(rng, tmp_path):
    chain = {
        "a": fastlstm.GRU(2, 4, 2, rng=0),
        "b": fastlstm.LSTM(4, 3, rng=1),
        "head": fastlstm.Dense(3, 1, rng=2),
    }
    fastlstm.save(tmp_path / "r.json", chain)
    content = json.loads((tmp_path / "r.json").read_text())
    assert [(layer["type"], layer["shape"][-1]) for layer in content["layers"]] == [
        ("gru", 4),
        ("gru", 4),
        ("lstm", 3),
        ("dense", 1),
    ]
    assert content["in_shape"] == [None, None, 2]
    model = fastlstm.load(tmp_path / "r.json")
    x = rng.standard_normal((7, 3, 2)).astype(np.float32)
    ours, theirs = x, x
    for layer in (chain["a"], chain["b"]):
        ours = layer(ours)[0]
    for layer in model.layers.values():
        theirs = layer(theirs)[0]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)
    weight, bias = (model.arrays[f"layers[3].dense.{n}"] for n in range(2))
    np.testing.assert_allclose(ours @ weight + bias, chain["head"](ours), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (fastlstm.LSTM(2, 3, bidirectional=True), "bidirectional: expected False"),
        (fastlstm.LSTM(2, 3, peephole=True), "peephole: expected False"),
        (fastlstm.GRU(2, 3, reset_after=False), "reset_after: expected True"),
        (fastlstm.RNN(2, 3), "layers: expected LSTM, GRU and Dense"),
        ({"a": fastlstm.LSTM(2, 3), "b": fastlstm.Dense(4, 1)}, "layers: expected one of 3 inputs"),
    ],
)
def test_what_rtneural_has_not_is_refused(layers, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{message}"):
        fastlstm.save(tmp_path / "r.json", layers)
    assert not list(tmp_path.iterdir())


def test_a_state_dict_in_json(rng, tmp_path):
    lstm = fastlstm.LSTM(1, 4, rng=0)
    state = {name: value.tolist() for name, value in lstm.state_dict(prefix="rec.").items()}
    state |= {"lin.weight": [[1, 2, 3, 4]], "lin.bias": [0.5]}
    data = {
        "model": "SimpleRNN",
        "input_size": 1,
        "skip": 1,
        "output_size": 1,
        "unit_type": "LSTM",
        "num_layers": 1,
        "hidden_size": 4,
        "bias_fl": True,
    }
    for content, kind in (({"model_data": data, "state_dict": state}, "GuitarML"), (state, "JSON of arrays")):
        model = fastlstm.load(put(tmp_path / "g.json", content))
        assert model.format == kind
        assert_same_bits(model.layers["rec"].flat_params, lstm.flat_params)
        assert model.arrays["lin.weight"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match=r"g.json: layer 'rec.': hidden_size: expected 5, got 4"):
        fastlstm.load(
            put(tmp_path / "g.json", {"model_data": data | {"hidden_size": 5}, "state_dict": state})
        )


def changed(content, **changes):
    return content | changes


NAM = a_nam(np.random.default_rng(0))
RT = {"type": "lstm", "weights": [[[1.0] * 4], [[1.0] * 4], [1.0] * 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "file: expected"),
        ({}, "file: expected architecture, layers or state_dict"),
        (changed(NAM, architecture="WaveNet"), "architecture: expected 'LSTM'"),
        (changed(NAM, config=3), "config: expected a mapping"),
        (changed(NAM, config={"input_size": 1, "hidden_size": 3}), "config: num_layers: expected a size"),
        (
            changed(NAM, config={"input_size": 1, "hidden_size": -3, "num_layers": 2}),
            "config: hidden_size: expected a size",
        ),
        (
            changed(NAM, config={"input_size": 1, "hidden_size": 65535, "num_layers": 65535}),
            "weights: expected",
        ),
        (changed(NAM, weights=NAM["weights"][:-1]), "weights: expected .* numbers"),
        (changed(NAM, weights=[*NAM["weights"], 1.0]), "weights: expected .* numbers"),
        (changed(NAM, weights=["1"]), "weights: expected numbers"),
        (changed(NAM, weights=[[1.0], [1.0, 2.0]]), "weights: expected lists of the same lengths"),
        (changed(NAM, weights=[10**400]), "weights: expected numbers"),
        (changed(NAM, weights=None), "weights: expected numbers"),
        ({"layers": [3]}, r"layers\[0\]: expected a mapping with a type"),
        ({"layers": [RT | {"weights": 3}]}, r"layers\[0\]: weights: expected a list of arrays"),
        ({"layers": [RT | {"weights": RT["weights"][:2]}]}, r"layers\[0\]: weights: expected a kernel"),
        ({"layers": [RT | {"type": "gru"}]}, r"layers\[0\]: weights: expected kernels of 3\*1 columns"),
        (
            {"layers": [RT | {"weights": [*RT["weights"][:2], [1.0]]}]},
            r"layers\[0\]: weights\[2\]: expected shape \(4,\)",
        ),
        ({"state_dict": 3}, "state_dict: expected a mapping"),
        ({"state_dict": {"a": [1, "b"]}}, r"state_dict\['a'\]: expected numbers"),
        (
            {"state_dict": {"a": [1]}, "model_data": {"unit_type": "CNN"}},
            "model_data: unit_type: expected LSTM, GRU or RNN",
        ),
        ({"state_dict": {"rec.weight_ih_l0": [[1.0]]}}, "layer 'rec.': expected weights of one layer"),
    ],
)
def test_what_is_wrong_is_named(content, message, tmp_path):
    with pytest.raises(ValueError, match=rf"x.json: {message}.*, got "):
        fastlstm.load(put(tmp_path / "x.json", content))


def test_text_that_is_no_json(tmp_path):
    for data in (
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN',
        b"{" + b'"a":{' * 99_999,
        b'{"a": "\xff"}',
        b"{\x00}",
    ):
        (tmp_path / "x.json").write_bytes(data)
        with pytest.raises(ValueError, match=r"x.json: file: expected .*, got "):
            fastlstm.load(tmp_path / "x.json")
