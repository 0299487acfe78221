# SPDX-License-Identifier: BSD-3-Clause
"""Files that PyTorch writes: read without it, they give what PyTorch itself reads, and run nothing."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch

import fastlstm
from tests.problems.comparing import assert_same_bits


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(5, 3)
        self.rnn = torch.nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, dropout=0.25, proj_size=2)
        self.gru = torch.nn.GRU(4, 4)
        self.plain = torch.nn.RNN(4, 3, nonlinearity="relu")
        self.cell = torch.nn.LSTMCell(3, 4)
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.plain(self.gru(self.rnn(x)[0])[0])[0])


@pytest.fixture
def net():
    torch.manual_seed(3)
    return Net().eval()


def write(net, form, path):
    if form == "legacy":
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    elif form == "module":
        torch.save(net, path)
    elif form == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(net), str(path))
    elif form == "parameters":  # with their gradients' hooks
        torch.save(dict(net.named_parameters()), path)
    else:
        torch.save(net.state_dict(), path)


@pytest.mark.parametrize("form", ["archive", "legacy", "module", "script", "parameters"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_every_form_has_the_same_bits(form, dtype, net, tmp_path):
    net = net.to(getattr(torch, dtype))
    write(net, form, tmp_path / "net.pt")
    model = fastlstm.load(tmp_path / "net.pt")
    assert model.format == "PyTorch"
    assert set(model.layers) == {"rnn", "gru", "plain", "cell"}
    expected = {name: value.to(torch.float64).numpy() for name, value in net.state_dict().items()}
    for name, layer in model.layers.items():
        assert layer.dtype == ("float64" if dtype == "float64" else "float32")
        for own, value in layer.params.items():
            assert_same_bits(
                value.astype(np.float64),
                expected[f"{name}.{own.removesuffix('_l0') if name == 'cell' else own}"],
            )
    assert set(model.arrays) == {"emb.weight", "head.weight", "head.bias"}
    for name, value in model.arrays.items():
        assert_same_bits(value.astype(np.float64), expected[name])
    if form == "module":  # which keeps options, too
        rnn = model.layers["rnn"]
        assert (rnn.batch_first, rnn.dropout, model.layers["plain"].nonlinearity) == (True, 0.25, "relu")
        assert not model.notes
    else:
        assert "tanh or relu" in model.notes[0]


def test_a_checkpoint_with_all_that_they_hold(net, tmp_path):
    adam = torch.optim.Adam(net.parameters())
    net.gru(torch.ones(1, 2, 4))[0].sum().backward()
    adam.step()
    shared = torch.arange(12.0).reshape(3, 4)
    saved = {
        "epoch": 3,
        "model": net.state_dict(),
        "optimizer": adam.state_dict(),
        "number": np.float64(2.5),
        "array": np.ones(3),
        "views": [shared.T, shared[1:, ::2], shared[:0], torch.tensor(3)],
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "size": torch.Size([2]),
        "set": {1, 2},
        4: {"a": None},
    }
    for legacy in (False, True):
        torch.save(saved, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
        model = fastlstm.load(tmp_path / "c.pt")
        assert list(model.layers) == ["model.rnn", "model.gru", "model.plain", "model.cell"]
        for number, view in enumerate(saved["views"]):
            assert_same_bits(model.arrays[f"views.{number}"], view.numpy())
        assert any(name.startswith("optimizer.state.") for name in model.arrays)


def test_pytorch_is_not_needed(net, tmp_path):
    torch.save(net, tmp_path / "a.pt")
    code = f"""
import sys
sys.modules["torch"] = None
import fastlstm
print(list(fastlstm.load({str(tmp_path / "a.pt")!r}).layers))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "['rnn', 'gru', 'plain', 'cell']\n"), done.stderr


def test_numbers_in_the_other_byte_order(net, tmp_path):
    torch.save({"w": torch.arange(3.0)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("byteorder"):
                data = b"big"
            if info.filename.endswith("data/0"):
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            new.writestr(info.filename, data)
    assert fastlstm.load(tmp_path / "b.pt").arrays["w"].tolist() == [0, 1, 2]


# ---- What a file may not do --------------------------------------------------------------------------------


class Evil:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def rewritten(path, changes):
    """The archive with other members; None leaves one out."""
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    members |= changes(members)
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            if data is not None:
                new.writestr(name, data)


def call(path):
    return Evil(os.mkdir, str(path / "made"))


@pytest.mark.parametrize(
    "made",
    [
        lambda path: {"a": call(path)},
        lambda path: [torch.ones(2), Evil(eval, f"__import__('os').mkdir({str(path / 'made')!r})")],
        lambda path: Evil(os.system, f"mkdir {path / 'made'}"),
        lambda path: Evil(getattr, "text", "upper"),
        lambda path: Evil(__import__, "os"),
        lambda path: Evil(torch.load, str(path)),
        lambda path: Evil(np.load, str(path)),
        lambda path: {"a": {1: [(Evil(open, str(path / "made"), "w"),)]}},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_calls_does_nothing_and_is_refused(made, legacy, tmp_path):
    path = tmp_path / "evil.pt"
    torch.save(made(tmp_path), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ValueError, match=r"evil.pt: .*, byte \d+: expected a pickle that calls nothing, got a call of"
    ):
        fastlstm.load(path)
    assert os.listdir(tmp_path) == ["evil.pt"]


def test_every_protocol_of_a_call_is_refused(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        torch.save([1], tmp_path / "evil.pt")
        data = pickle.dumps([call(tmp_path)], protocol)
        rewritten(
            tmp_path / "evil.pt",
            lambda members, data=data: {name: data for name in members if name.endswith("data.pkl")},
        )
        with pytest.raises(ValueError, match="calls nothing"):
            fastlstm.load(tmp_path / "evil.pt")
    assert os.listdir(tmp_path) == ["evil.pt"]


def tensor_of(offset=0, size=(2, 2), stride=(2, 1), count=4, key="0", kind="FloatStorage"):
    """A pickle of one tensor whose numbers are chosen."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def integers(values):
        return b"(" + b"".join(integer(value) for value in values) + b"t"

    def integer(value):
        return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)

    storage = (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + integer(count)
        + b"tQ"
    )
    head = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return (
        b"\x80\x02}"
        + text("w")
        + head
        + storage
        + integer(offset)
        + integers(size)
        + integers(stride)
        + b"\x89}tRs."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "expected elements within the 4 of the storage, got one at 4"),
        ({"offset": -1}, "expected an offset and strides of at least 0"),
        ({"stride": (-2, 1), "offset": 2}, "expected an offset and strides of at least 0"),
        ({"stride": (2,)}, "expected 2 strides"),
        ({"size": (2, -2)}, "expected a shape of sizes of at least 0"),
        ({"size": (10**6, 10**6), "stride": (0, 0)}, "expected at most .* bytes of arrays"),
        ({"size": (10**12, 1), "stride": (0, 0)}, "expected a shape of sizes"),
        ({"size": (2**60, 2), "stride": (1, 1)}, "expected a shape of sizes"),
        ({"count": 10**12}, "expected 4000000000000 bytes in member"),
        ({"count": -4}, "expected a key and a number of elements"),
        ({"key": "9"}, "expected a member 'archive/data/9', got none"),
        ({"key": "../../secret"}, "expected a member"),
        ({"kind": "QInt8Storage"}, "expected a class of storages"),
    ],
)
def test_a_tensor_is_within_its_storage(changes, message, tmp_path):
    def path_of(data):
        torch.save({"w": torch.ones(2, 2)}, tmp_path / "t.pt")
        with zipfile.ZipFile(tmp_path / "t.pt") as archive:
            top = archive.namelist()[0].split("/")[0]
        members = {f"{top}/data.pkl": data}
        rewritten(tmp_path / "t.pt", lambda _: members)
        with zipfile.ZipFile(tmp_path / "t.pt") as old, zipfile.ZipFile(tmp_path / "n.pt", "w") as new:
            for info in old.infolist():
                new.writestr("archive/" + info.filename.partition("/")[2], old.read(info))
        return tmp_path / "n.pt"

    assert fastlstm.load(path_of(tensor_of())).arrays["w"].tolist() == [[1, 1], [1, 1]]
    with pytest.raises(ValueError, match=rf"n.pt: .*{message}"):
        fastlstm.load(path_of(tensor_of(**changes)))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_ends_too_early(legacy, net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "a.pt").read_bytes()
    for share in (0, 1, 10, len(data) // 3, len(data) // 2, len(data) - 1):
        (tmp_path / "b.pt").write_bytes(data[:share])
        with pytest.raises(ValueError, match=r"b.pt: .*expected .*, got "):
            fastlstm.load(tmp_path / "b.pt")


def test_names_that_lead_out_of_an_archive(tmp_path):
    for name in ("../x/data.pkl", "/x/data.pkl", "a/../../data.pkl", "a\\..\\data.pkl", "C:/data.pkl"):
        with zipfile.ZipFile(tmp_path / "p.pt", "w") as archive:
            archive.writestr(name, pickle.dumps({}))
        with pytest.raises(ValueError, match=r"p.pt: archive: expected members by relative names"):
            fastlstm.load(tmp_path / "p.pt")
    assert os.listdir(tmp_path) == ["p.pt"]
