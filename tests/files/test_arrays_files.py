# SPDX-License-Identifier: BSD-3-Clause
"""safetensors and npz: what was written is read, with kinds and options, and nothing is believed."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

import fastlstm
from tests.objects.kinds import build, every_kind
from tests.problems.comparing import assert_same_bits


@every_kind
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_layer_comes_back_with_kind_and_options(kind, suffix, tmp_path):
    layer, path = build(kind), tmp_path / f"a.{suffix}"
    fastlstm.save(path, layer)
    twin = fastlstm.load(path).layer
    assert repr(twin) == repr(layer)
    assert_same_bits(twin.flat_params, layer.flat_params)
    other = build(kind, rng=9)
    fastlstm.load(path, other)
    assert_same_bits(other.flat_params, layer.flat_params)
    fastlstm.save(path, {"a": layer, "b": other})
    model = fastlstm.load(path)
    assert {name: repr(each) for name, each in model.layers.items()} == {"a": repr(layer), "b": repr(other)}
    assert not model.arrays
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_model_comes_back_whole(suffix, rng, tmp_path):
    state = tuple(rng.standard_normal((1, 4)).astype(np.float32) for _ in range(2))
    arrays = {"head.w": rng.standard_normal((2, 3)), "steps": np.asarray(3), "flags": np.array([True, False])}
    model = fastlstm.Model({"net.lstm": fastlstm.LSTM(3, 4, rng=0)}, {"net.lstm": state}, arrays, "", ())
    path = tmp_path / f"m.{suffix}"
    model.save(path)
    twin = fastlstm.load(path)
    assert repr(twin.layers["net.lstm"]) == repr(model.layers["net.lstm"])
    for own, other in zip(twin.states["net.lstm"], state, strict=True):
        assert_same_bits(own, other)
    assert twin.arrays.keys() == arrays.keys()
    for name, value in arrays.items():
        assert_same_bits(twin.arrays[name], value)
        assert twin.arrays[name].flags.writeable
    twin.save(path)
    assert repr(fastlstm.load(path)) == repr(twin)


def test_npz_is_that_of_numpy(tmp_path):
    lstm = fastlstm.LSTM(3, 4, activations=["HardSigmoid", "Tanh", "Tanh"])
    fastlstm.save(tmp_path / "a.npz", lstm)
    with np.load(tmp_path / "a.npz") as file:
        assert sorted(file.files) == sorted(lstm.params)
        lstm.load_state_dict(file)
    with np.load(tmp_path / "a.npz") as file:
        np.savez_compressed(
            tmp_path / "b.npz", **{name: np.asfortranarray(file[name].astype(">f8")) for name in file}
        )
    plain = fastlstm.load(tmp_path / "b.npz").layer  # without its options
    assert plain.activations is None
    assert plain.dtype == np.float64
    np.testing.assert_array_equal(plain.flat_params, lstm.flat_params)


def test_the_library_reads_what_is_written_and_the_other_way(rng, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is missing")
    lstm = fastlstm.LSTM(3, 4, 2, rng=0)
    fastlstm.save(tmp_path / "a.safetensors", {"x": lstm})
    for name, value in numpy.load_file(tmp_path / "a.safetensors").items():
        assert_same_bits(value, lstm.params[name.removeprefix("x.")])
    kinds = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    arrays = {kind: (rng.standard_normal((2, 3)) * 9).astype(kind) for kind in kinds} | {
        "none": np.zeros((0, 2), "f4")
    }
    numpy.save_file(arrays, tmp_path / "b.safetensors", {"about": "x"})
    model = fastlstm.load(tmp_path / "b.safetensors")
    for name, value in arrays.items():
        assert_same_bits(model.arrays[name], value)
    brain = {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4)}
    brain = {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in brain.items()}
    numpy.save_file(brain, tmp_path / "c.safetensors")
    layer = fastlstm.load(tmp_path / "c.safetensors").layer
    for name, value in brain.items():
        assert_same_bits(layer.params[name], value.astype(np.float32))


# ---- Files that are wrong ----------------------------------------------------------------------------------


def a_safetensors(header, data=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "beginning|length of the header"),
        (b"\0\0\0", "length of the header: expected bytes within"),
        (a_safetensors({"a": entry()}, length=10**12), "length of the header: expected at most"),
        (a_safetensors({"a": entry()}, length=2**63), "length of the header: expected at most"),
        (a_safetensors(b'{"a": '), "header: expected JSON"),
        (a_safetensors(b'{"\xff": 1}'), "header: expected JSON"),
        (a_safetensors(b"{" + b'"a":[' * 100_000), "header: expected JSON"),
        (a_safetensors(b"[1]    "), "header: expected a mapping, got list"),
        (a_safetensors(b'{"a":1,"a":1}'), "header: expected each name once, got a"),
        (a_safetensors({"a": 3}), "tensor 'a': expected dtype, shape and data_offsets"),
        (a_safetensors({"a": entry("F99")}), "tensor 'a': dtype: expected one of"),
        (a_safetensors({"a": entry(3)}), "tensor 'a': dtype"),
        (a_safetensors({"a": entry(shape=(2, -2))}), "tensor 'a': shape: expected a shape of sizes"),
        (a_safetensors({"a": entry(shape=(2, True))}), "tensor 'a': shape: expected a shape of sizes"),
        (a_safetensors({"a": entry(shape=(2, 2.0))}), "tensor 'a': shape: expected a shape of sizes"),
        (a_safetensors({"a": entry(shape=(10**12,))}), "tensor 'a': shape: expected a shape of sizes"),
        (a_safetensors({"a": entry(shape=(10**6, 10**6))}), "tensor 'a': expected 4000000000000 bytes"),
        (a_safetensors({"a": entry(shape=(1,) * 40)}), "tensor 'a': shape: expected a shape of at most 32"),
        (a_safetensors({"a": entry(offsets=(0, 17))}), "tensor 'a': data_offsets: expected 0 to 16"),
        (a_safetensors({"a": entry(offsets=(16, 0))}), "tensor 'a': data_offsets: expected 0 to 16"),
        (a_safetensors({"a": entry(offsets=(-16, 0))}), "tensor 'a': data_offsets: expected 0 to 16"),
        (a_safetensors({"a": entry(offsets=(0, 16, 3))}), "tensor 'a': data_offsets: expected two integers"),
        (a_safetensors({"a": entry(offsets=(0, 1e1))}), "tensor 'a': data_offsets: expected two integers"),
        (a_safetensors({"a": entry(), "b": entry()}), "tensor 'b': data_offsets: expected 16, where"),
        (
            a_safetensors({"a": entry(shape=(1, 2), offsets=(8, 16))}),
            "tensor 'a': data_offsets: expected 0, where",
        ),
        (
            a_safetensors({"a": entry(shape=(1, 2), offsets=(0, 8))}),
            "data: expected 8 bytes, as all arrays have",
        ),
        (a_safetensors({"__metadata__": {"a": 1}}), "__metadata__: expected a mapping of strings"),
        (
            a_safetensors({"__metadata__": {"fastlstm": "3"}}, b""),
            "note 'fastlstm': expected a mapping with layers",
        ),
    ],
)
def test_a_wrong_safetensors_is_named(data, message, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"x.safetensors: ({message})") as caught:
        fastlstm.load(path)
    assert ", got " in str(caught.value)


def note(**config):
    return {"fastlstm": json.dumps({"layers": {"a": config}})}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "System"}, "expected one of"),
        ({"kind": 3}, "a mapping with a kind"),
        ({"kind": "LSTM", "input_size": 3}, "none for"),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": 10**9}, "expected at most .* parameters"),
        (
            {"kind": "LSTM", "input_size": 3, "hidden_size": 4, "num_layers": 10**7},
            "expected at most 4 layers, got 10000000",
        ),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": 10**5}, "expected at most .* parameters"),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": [4] * 9}, "expected at most 4 layers, got 9"),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": -1}, "hidden_size"),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": 4, "x": 1}, "unknown"),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": 5}, "a.weight_ih_l0: expected shape"),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": 4, "states": ["0"]}, "first_0"),
        ({"kind": "LSTM", "input_size": 3, "hidden_size": 4, "rng": 3}, "unknown"),
    ],
)
def test_what_is_noted_of_layers_is_checked(config, message, tmp_path):
    lstm = fastlstm.LSTM(3, 4).state_dict(prefix="a.")
    from fastlstm.files.arrays_file import write_safetensors

    with open(tmp_path / "x.safetensors", "wb") as file:
        write_safetensors(file, lstm, note(**config))
    with pytest.raises(ValueError, match=rf"x.safetensors: .*({message})"):
        print(fastlstm.load(tmp_path / "x.safetensors"))


def npy(array, **changes):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    data = file.getvalue()
    for old, new in changes.values():
        data = data.replace(old, new.ljust(len(old))[: len(old)])
    return data


def a_zip(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


W = np.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (a_zip({"a.npy": npy([object()])}), "array 'a': expected numbers, got dtype object"),
        (a_zip({"a.npy": npy(np.zeros(2, "i4,f4"))}), "array 'a': expected numbers"),
        (a_zip({"a.npy": npy(W, x=(b"(3, 4)", b"(9, 9)"))}), "array 'a': expected 648 bytes"),
        (a_zip({"a.npy": npy(W, x=(b"(3, 4), ", b"(-3, 4),"))}), "array 'a': expected"),
        (
            a_zip({"a.npy": npy(W, x=(b"(3, 4), }           ", b"(1000000, 1000000)}"))}),
            "array 'a': expected 8000000000000 bytes",
        ),
        (
            a_zip({"a.npy": npy(W, x=(b"(3, 4), }           ", b"(1000000000000,)}"))}),
            "array 'a': expected a shape of sizes",
        ),
        (
            a_zip({"a.npy": npy(W, x=(b"'fortran_order': False", b"'fortran_order': 3+3"))}),
            "array 'a': expected a header",
        ),
        (a_zip({"a.npy": npy(W)[:-1]}), "array 'a': expected 96 bytes"),
        (a_zip({"a.npy": npy(W)[:30]}), "array 'a': expected a header"),
        (a_zip({"a.npy": b""}), "array 'a': expected a header"),
        (a_zip({"a.npy": npy(W, x=(b"}", b"("))}), "array 'a': expected a header"),
        (a_zip({"a.npy": b"\x93NUMPY\x09\x00"}), "array 'a': expected version 1.0 or 2.0"),
        (a_zip({"../a.npy": npy(W)}), "archive: expected members by relative names"),
        (a_zip({"/etc/a.npy": npy(W)}), "archive: expected members by relative names"),
        (a_zip({"a.txt": b"x"}), "member 'a.txt': expected arrays alone"),
        (a_zip({"a.npy": npy(W)})[:-30], "archive: expected a whole zip file"),
        (
            a_zip({"a.npy": npy(W)}).replace(b"\x00\x00\x10\x40", b"\x00\x00\x10\x41", 1),
            "member 'a.npy': expected data that can be unpacked",
        ),
        (a_zip({"a.npy": npy(np.zeros(2**23))}, zipfile.ZIP_DEFLATED), "expected at most 33554432 bytes"),
    ],
)
def test_a_wrong_npz_is_named(data, message, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"x.npz: .*{message}") as caught:
        fastlstm.load(path)
    assert ", got " in str(caught.value)
    assert os.listdir(tmp_path) == ["x.npz"]


def test_members_that_stand_twice_or_are_encrypted(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy(W))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy(W))
    with pytest.raises(ValueError, match=r"archive: expected each member once, got 'a.npy'"):
        fastlstm.load(path)
    data = bytearray(a_zip({"a.npy": npy(W)}))
    for record, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(record) + at] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"member 'a.npy': expected one that is not encrypted"):
        fastlstm.load(path)


@pytest.mark.parametrize("data", [b"", b"x", b"GIF89a", bytes(64), zlib.compress(b"abc")])
def test_what_is_no_model_at_all(data, tmp_path):
    for name in (
        "a",
        "a.txt",
        "a.onnx",
        "a.pt",
        "a.h5",
        "a.keras",
        "a.npz",
        "a.safetensors",
        "a.json",
        "a.nam",
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"/{name}: .*expected .*, got "):
            fastlstm.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        fastlstm.load(tmp_path / "none.pt")


def test_strings_have_no_place_in_safetensors(tmp_path):
    plateau = fastlstm.schedules.ReduceOnPlateau(fastlstm.optim.SGD([fastlstm.Dense(2, 3)], 0.1), "max")
    with pytest.raises(ValueError, match="expected numbers, as safetensors has no other arrays"):
        fastlstm.save(tmp_path / "a.safetensors", {"p": plateau})
    assert not os.listdir(tmp_path)
