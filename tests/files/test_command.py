# SPDX-License-Identifier: BSD-3-Clause
"""The command line, memory, and what is imported: from outside, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options
    )


def command(*arguments):
    return run("-m", "fastlstm", *map(str, arguments))


@pytest.fixture
def path(tmp_path):
    lstm = fastlstm.LSTM(3, 4, rng=0)
    fastlstm.save(tmp_path / "in.npz", {"net": lstm, "head": fastlstm.Dense(4, 2)})
    return tmp_path / "in.npz"


def test_inspect_prints_what_is_inside(path):
    done = command("inspect", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == repr(fastlstm.load(path)) + "\n"
    assert "net: LSTM(input_size=3, hidden_size=4" in done.stdout


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "json"])
def test_convert_writes_by_the_suffix(path, suffix, tmp_path):
    out = tmp_path / f"out.{suffix}"
    assert command("convert", path, out).returncode == 0
    layer = next(iter(fastlstm.load(out).layers.values()))
    assert_same_bits(layer.params["weight_ih_l0"], fastlstm.load(path).layers["net"].params["weight_ih_l0"])


def test_what_cannot_be_done_is_said(path, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"PK")
    for arguments, code, message in [
        (("inspect", tmp_path / "bad.pt"), 1, "bad.pt: archive: expected a whole zip file, got"),
        (("inspect", tmp_path / "none.pt"), 1, "none.pt"),
        (("convert", path, tmp_path / "a.txt"), 2, "OUT: expected .safetensors, .npz, .onnx or .json"),
        (("inspect",), 2, "FILE"),
        (("melt", path), 2, "invalid choice"),
        (("inspect", path, "--keras-default", "relu"), 1, "keras_default: expected"),
    ]:
        done = command(*arguments)
        assert done.returncode == code
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.txt").exists()


def test_nothing_is_imported_before_it_is_used(path):
    code = f"""
import sys, fastlstm
before = set(sys.modules)
fastlstm.load({str(path)!r})
heavy = {{"torch", "keras", "tensorflow", "onnx", "h5py", "safetensors", "google.protobuf", "pickle_machine"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert not any(name.startswith("fastlstm.files") for name in before)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


FORMATS = {
    "safetensors": "from fastlstm import save; save(path, {'a': layer})",
    "npz": "from fastlstm import save; save(path, {'a': layer})",
    "brain.safetensors": """
def entry(value):
    return {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [0, 2 * value.size]}

header, at = {name: entry(value) for name, value in layer.params.items()}, 0
for entry in header.values():
    size = entry["data_offsets"][1]
    entry["data_offsets"] = [at, at + size]
    at += size
text = json.dumps(header).encode()
with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text + bytes(at))
""",
}


@pytest.mark.parametrize("name", FORMATS)
def test_memory_is_at_most_four_times_the_file(name, tmp_path):
    path = tmp_path / f"large.{name}"
    write = f"import json, fastlstm\npath = {str(path)!r}\n"
    write += "layer = fastlstm.LSTM(1024, 1024, 2, bidirectional=True)\n"
    assert run("-c", write + FORMATS[name]).returncode == 0
    code = f"""
import json, fastlstm, resource
fastlstm.load({str(path.with_name("small.npz"))!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = fastlstm.load({str(path)!r})
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, model.layer.num_layers]))
"""
    fastlstm.save(path.with_name("small.npz"), fastlstm.LSTM(2, 3))
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    kilobytes, layers = json.loads(done.stdout)
    assert layers == 2
    assert kilobytes * 1024 < 4 * path.stat().st_size, kilobytes * 1024 / path.stat().st_size


def test_a_thousand_loads_leave_nothing(path):
    code = f"""
import fastlstm, gc, os, resource
def load(count):
    for _ in range(count):
        fastlstm.load({str(path)!r})
    gc.collect()
    return len(os.listdir("/proc/self/fd")), int(open("/proc/self/statm").read().split()[1])
load(200)
files, pages = load(10)
after = load(1000)
assert after[0] == files, (after, files)
assert after[1] - pages < 256, (after, pages)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_numbers_of_a_file_are_one_object_each(path):
    one, two = fastlstm.load(path), fastlstm.load(path)
    assert one.layers["net"] is not two.layers["net"]
    assert not np.shares_memory(one.layers["net"].flat_params, two.layers["net"].flat_params)
    with pytest.raises(ValueError, match=r"^layer: expected a file of one layer, got \['net', 'head'\]"):
        print(one.layer)
