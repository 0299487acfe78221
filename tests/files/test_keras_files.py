# SPDX-License-Identifier: BSD-3-Clause
"""Files of Keras 1 to 3 written by hand: layers compute what the Keras that wrote them computed."""

from __future__ import annotations

import io
import json
import warnings
import zipfile

import h5py
import numpy as np
import pytest

import fastlstm

from . import keras_samples as samples

T, B, I, H = 7, 2, 3, 4


@pytest.fixture
def x(rng):
    return rng.standard_normal((B, T, I)).astype(np.float32)


def assert_computes(layer, x, expected):
    assert layer.batch_first
    np.testing.assert_allclose(layer(x)[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("version", "function", "age"),
    [
        ("2.2.0", "hard_sigmoid", "old"),
        ("2.3.1", "sigmoid", "old"),
        ("2.1.6-tf", "hard_sigmoid", "old"),
        ("2.2.4-tf", "sigmoid", "old"),
        ("2.13.1", "sigmoid", "old"),
        (None, "sigmoid", "old"),
    ],
)
def test_weights_alone_take_the_default_of_their_version(version, function, age, rng, x, tmp_path):
    arrays = samples.arrays_of(rng, 4)
    samples.write_weights(tmp_path / "w.h5", {"lstm_1": arrays}, version)
    with pytest.warns(
        UserWarning, match=rf"w.h5: layer 'lstm_1': .* assumed tanh, and {function} of the gates"
    ):
        model = fastlstm.load(tmp_path / "w.h5")
    assert_computes(model.layers["lstm_1"], x, samples.lstm(x, arrays, outer=function, age=age))
    assert len(model.notes) == 1


@pytest.mark.parametrize(
    ("said", "function", "age"),
    [
        ("sigmoid", "sigmoid", "old"),
        ("hard_sigmoid", "hard_sigmoid", "old"),
        ("2.1", "hard_sigmoid", "old"),
        ("2.4", "sigmoid", "old"),
    ],
)
def test_the_default_may_be_said(said, function, age, rng, x, tmp_path):
    arrays = samples.arrays_of(rng, 3)
    samples.write_weights(tmp_path / "w.h5", {"g": arrays}, "2.2.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if said[0].isdigit() else "error")
        layer = fastlstm.load(tmp_path / "w.h5", keras_default=said).layer
    assert_computes(layer, x, samples.gru(x, arrays, outer=function, age=age))


@pytest.mark.parametrize(
    ("version", "age"), [("1.2.2", "old"), ("2.2.4", "old"), ("2.13.1", "old"), ("3.5.0", "new")]
)
@pytest.mark.parametrize("cls", ["LSTM", "GRU"])
def test_hard_sigmoid_is_that_of_the_version(cls, version, age, rng, x, tmp_path):
    arrays = samples.arrays_of(rng, 4 if cls == "LSTM" else 3)
    settings = {"units": H, "activation": "relu", "recurrent_activation": "hard_sigmoid"}
    samples.write_model(tmp_path / "m.h5", {"a": (cls, settings, arrays)}, version)
    expected = getattr(samples, cls.lower())(x, arrays, "relu", "hard_sigmoid", age)
    assert_computes(fastlstm.load(tmp_path / "m.h5").layer, x, expected)


def test_a_gru_of_either_reset(rng, x, tmp_path):
    before, after = samples.arrays_of(rng, 3), samples.arrays_of(rng, 3, bias=(2, 3 * H))
    usual = {"units": H, "activation": "tanh", "recurrent_activation": "sigmoid"}
    layers = {
        "before": ("GRU", usual | {"reset_after": False}, before),
        "after": ("GRU", usual | {"reset_after": True}, after),
        "old": ("GRU", usual, before),  # before there was the option
    }
    samples.write_model(tmp_path / "m.h5", layers)
    model = fastlstm.load(tmp_path / "m.h5")
    assert_computes(model.layers["before"], x, samples.gru(x, before))
    assert_computes(model.layers["old"], x, samples.gru(x, before))
    assert_computes(model.layers["after"], x, samples.gru(x, after, reset_after=True))
    samples.write_model(tmp_path / "m.h5", {"a": ("GRU", usual | {"reset_after": True}, before)})
    with pytest.raises(ValueError, match=r"m.h5: layer 'a': expected a bias of reset_after=True"):
        fastlstm.load(tmp_path / "m.h5")


@pytest.mark.parametrize("has_config", [True, False])
def test_a_layer_of_cudnn(has_config, rng, x, tmp_path):
    W, U, b = samples.arrays_of(rng, 4)
    d = rng.uniform(-1, 1, 4 * H).astype(np.float32)
    arrays = samples.in_layout_of_cudnn(W, U, (b, d))
    path = tmp_path / "c.h5"
    if has_config:
        samples.write_model(path, {"c": ("CuDNNLSTM", {"units": H}, arrays)})
    else:
        samples.write_weights(path, {"c": arrays})
    assert_computes(fastlstm.load(path).layer, x, samples.lstm(x, (W, U, b + d)))


def test_a_gru_of_cudnn_is_said(rng, x, tmp_path):
    W, U, b = samples.arrays_of(rng, 3, bias=(2, 3 * H))
    arrays = samples.in_layout_of_cudnn(W, U, tuple(b))
    path = tmp_path / "c.h5"
    samples.write_model(path, {"c": ("CuDNNGRU", {"units": H}, arrays)})
    expected = samples.gru(x, (W, U, b), reset_after=True)
    assert_computes(fastlstm.load(path).layer, x, expected)
    samples.write_weights(path, {"c": arrays})
    with pytest.raises(ValueError, match=r"c.h5: layer 'c': expected cudnn=True or cudnn=False"):
        fastlstm.load(path)
    assert_computes(fastlstm.load(path, cudnn=True).layer, x, expected)
    samples.write_weights(path, {"c": (W, U, b.reshape(-1))})
    layer = fastlstm.load(path, cudnn=False, keras_default="sigmoid").layer
    assert_computes(layer, x, expected)


def test_both_directions_and_their_merging(rng, x, tmp_path):
    pair = [samples.arrays_of(rng, 4), samples.arrays_of(rng, 4)]
    inner = {
        "class_name": "LSTM",
        "config": {"name": "l", "units": H, "recurrent_activation": "sigmoid", "activation": "tanh"},
    }
    there, back = samples.lstm(x, pair[0]), samples.lstm(x[:, ::-1], pair[1])[:, ::-1]
    names = [
        f"{way}_l/{part}:0"
        for way in ("forward", "backward")
        for part in ("kernel", "recurrent_kernel", "bias")
    ]
    merged = {"concat": np.concatenate([there, back], 2), "sum": there + back, "ave": (there + back) / 2}
    for merge in (*merged, "mul", None):
        with h5py.File(tmp_path / "b.h5", "w") as file:
            config = {
                "class_name": "Bidirectional",
                "config": {"name": "bi", "merge_mode": merge, "layer": inner},
            }
            file.attrs["model_config"] = json.dumps(
                {"class_name": "Sequential", "config": {"layers": [config]}}
            )
            samples.write_group(file.create_group("model_weights"), "bi", [*pair[0], *pair[1]], names, "bi")
        layers = fastlstm.load(tmp_path / "b.h5").layers
        if merge in merged:
            assert_computes(layers["bi"], x, merged[merge])
        else:
            assert_computes(layers["bi.forward"], x, there)
            assert_computes(layers["bi.backward"], x, back)


def test_directions_that_differ_are_refused(rng, tmp_path):
    inner = {"class_name": "LSTM", "config": {"name": "l", "units": H, "activation": "tanh"}}
    other = {"class_name": "LSTM", "config": {"name": "l", "units": H, "activation": "relu"}}
    settings = {"layer": inner, "backward_layer": other}
    samples.write_model(tmp_path / "b.h5", {"b": ("Bidirectional", settings, samples.arrays_of(rng, 4))})
    with pytest.raises(
        ValueError, match=r"b.h5: layer 'b': activation: expected that of both directions, got 'relu'"
    ):
        fastlstm.load(tmp_path / "b.h5")


def test_backwards_is_in_the_order_of_processing(rng, x, tmp_path):
    arrays = samples.arrays_of(rng, 4)
    settings = {"units": H, "recurrent_activation": "sigmoid", "activation": "tanh", "go_backwards": True}
    samples.write_model(tmp_path / "r.h5", {"r": ("LSTM", settings, arrays)})
    assert_computes(fastlstm.load(tmp_path / "r.h5").layer, x, samples.lstm(x[:, ::-1], arrays))


def test_gates_of_keras_1_stand_alone(rng, x, tmp_path):
    W, U, b = samples.arrays_of(rng, 4)
    split = [np.split(array, 4, -1) for array in (W, U, b)]
    order = {"i": 0, "c": 2, "f": 1, "o": 3}
    names = [f"{part}_{gate}" for gate in order for part in "WUb"]
    arrays = [split["WUb".index(name[0])][order[name[2]]] for name in names]
    with h5py.File(tmp_path / "one.h5", "w") as file:
        group = file.create_group("lstm_1")
        for name, array in zip(names, arrays, strict=True):
            group[f"lstm_1_{name}"] = array
        file.attrs["keras_version"] = "1.1.0"
    with pytest.warns(UserWarning, match="hard_sigmoid of the gates"):
        layer = fastlstm.load(tmp_path / "one.h5").layer
    assert_computes(layer, x, samples.lstm(x, (W, U, b), outer="hard_sigmoid"))


def test_all_the_rest_is_in_arrays(rng, tmp_path):
    samples.write_model(
        tmp_path / "m.h5",
        {
            "emb": ("Embedding", {}, [rng.standard_normal((5, 3)).astype(np.float32)] * 3),
            "g": ("SimpleRNN", {"units": H, "activation": "linear"}, samples.arrays_of(rng, 1)),
        },
    )
    model = fastlstm.load(tmp_path / "m.h5")
    assert list(model.layers) == ["g"]
    assert "activations=(('Affine', 1.0, 0.0),)" in repr(model)
    assert sorted(model.arrays) == [
        f"model_weights/emb/emb/{part}:0" for part in ("bias", "kernel", "recurrent_kernel")
    ]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a": ("LSTM", {"activation": "gelu"}, 4)}, r"layer 'a': activation: expected one of .* got 'gelu'"),
        (
            {"a": ("LSTM", {"activation": {"class_name": "Mine", "config": {}}}, 4)},
            r"layer 'a': activation: .* got 'Mine'",
        ),
        ({"a": ("LSTM", {"units": 9}, 4)}, r"layer 'a': expected 9 units, got 4"),
        ({"a": ("LSTM", {}, 3)}, r"layer 'a': expected kernels of LSTM, got shapes"),
        ({"a": ("GRU", {}, 4)}, r"layer 'a': expected kernels of GRU"),
        (
            {"a": ("Bidirectional", {"layer": {"class_name": "LSTM", "config": {}}}, 4)},
            r"layer 'a': expected weights of 1 cells in each direction, got 1 and 0",
        ),
        ({"a": ("Bidirectional", {"layer": 3}, 4)}, r"layer 'a': expected a configuration of its layer"),
        ({"a": ("RNN", {"cell": 3}, 4)}, r"layer 'a': expected configurations of its cells"),
    ],
)
def test_what_cannot_be_is_named(layers, message, rng, tmp_path):
    made = {name: (cls, settings, samples.arrays_of(rng, G)) for name, (cls, settings, G) in layers.items()}
    samples.write_model(tmp_path / "m.h5", made)
    with pytest.raises(ValueError, match=rf"m.h5: {message}"):
        fastlstm.load(tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"cudnn": 1}, "cudnn: expected None or a bool"),
        ({"keras_default": 2}, "keras_default: expected None"),
        ({"keras_default": "relu"}, "keras_default: expected None, 'sigmoid'"),
    ],
)
def test_arguments_are_checked(arguments, error, rng, tmp_path):
    samples.write_weights(tmp_path / "w.h5", {"a": samples.arrays_of(rng, 4)})
    with pytest.raises((TypeError, ValueError), match=f"^{error}"):
        fastlstm.load(tmp_path / "w.h5", **arguments)


# ---- What a file may not do --------------------------------------------------------------------------------


def test_links_and_data_elsewhere_are_refused(rng, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4096))
    samples.write_weights(tmp_path / "other.h5", {"a": samples.arrays_of(rng, 4)})

    def external(file):
        file["a"] = h5py.ExternalLink("other.h5", "/a")

    def soft(file):
        file["a"] = h5py.SoftLink("/b")

    def elsewhere(file):
        file.create_dataset("a", (4, 4), "f4", external=[(str(secret), 0, 64)])

    def virtual(file):
        layout = h5py.VirtualLayout((3, 16), "f4")
        layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a/a/kernel:0", (3, 16))
        file.create_virtual_dataset("a", layout)

    def circle(file):
        file.create_group("a")["b"] = file["/"]

    def large(file):
        file.create_dataset("a", (10**6, 10**6), "f4")

    def pieces(file):
        file.create_dataset("a", (10, 10), "f4", chunks=(10, 10), maxshape=(None, None))
        file.create_dataset("b", (2**14, 2**12), "f4", chunks=(2**14, 2**12), compression="gzip")

    for number, make in enumerate((external, soft, elsewhere, virtual, circle, large, pieces)):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(ValueError, match=rf"{number}.h5: .*expected .*, got "):
            fastlstm.load(path)


def test_an_archive_of_keras_3_without_its_parts(tmp_path):
    for members, message in [
        ({"config.json": b"{}"}, "expected a member 'model.weights.h5'"),
        ({"config.json": b"[]", "model.weights.h5": b""}, "member 'config.json': expected a mapping"),
        ({"config.json": b"{", "model.weights.h5": b""}, "member 'config.json': expected JSON"),
        ({"config.json": b"{}", "model.weights.h5": b"x"}, "expected a whole HDF5 file"),
    ]:
        with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        with pytest.raises(ValueError, match=rf"a.keras: .*{message}"):
            fastlstm.load(tmp_path / "a.keras")
    inner = io.BytesIO()
    with h5py.File(inner, "w") as file:
        file["x"] = np.ones(3)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr(
            "config.json",
            json.dumps(
                {
                    "class_name": "Sequential",
                    "config": {"layers": [{"class_name": "LSTM", "config": {"name": "l"}}]},
                }
            ),
        )
        archive.writestr("model.weights.h5", inner.getvalue())
    with pytest.raises(ValueError, match=r"layer 'l': expected its weights, got none in the file"):
        fastlstm.load(tmp_path / "a.keras")
