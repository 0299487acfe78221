# SPDX-License-Identifier: BSD-3-Clause
"""Files that are almost right: a load gives a model or a ValueError, soon and in little memory.

``python -m tests.files.fuzz FORMAT --seconds 3600`` looks for others: guided by coverage where atheris is
installed, else by chance.  What it finds is written to tests/files/found/, which is where to look first; what
is mended moves to tests/files/corpus/, which the tests replay.  ``--write`` makes the corpus anew.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import os
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
CORPUS, FOUND = HERE / "corpus", HERE / "found"
FORMATS = ("safetensors", "npz", "pt", "h5", "keras", "onnx", "json", "nam")
SECONDS = 20  # for one file
# What reading may take beside four times the file: the interpreter's own, and the least that is allowed.
BESIDE = 2**26

SPECIAL = [
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff" * 8,
    b"-1",
    b"0",
    b"1e999",
    b"999999999999",
    b"../",
    b"[",
    b"{",
    b'"',
    b".",
    b"R",
    b"(",
    b"t",
    b"\x81",
    b"\x93",
    b"cos\nsystem\n",
]


def mutated(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A file with some bytes changed; of archives those of a member, with sums that are right."""
    members = members_of(data) if data[:2] == b"PK" and chance.random() < 0.7 else {}
    filled = [name for name in members if members[name]]
    if filled:
        name = chance.choice(filled)
        members[name] = changed(members[name], list(members.values()), chance)
        if chance.random() < 0.05:
            del members[chance.choice(list(members))]
        file = io.BytesIO()
        method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        with zipfile.ZipFile(file, "w", method) as archive:
            for each, content in members.items():
                archive.writestr(each, content)
        return file.getvalue()
    return changed(data, others, chance)


def members_of(data: bytes) -> dict[str, bytes]:
    """Of an archive, if it is whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {
                info.filename: archive.read(info) for info in archive.infolist() if info.file_size < 2**20
            }
    except Exception:  # whatever a broken one raises
        return {}


def changed(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        at = chance.randrange(len(result) + 1)
        # The beginning, where most is said, is as likely as all the rest.
        at = min(at, chance.randrange(512)) if chance.random() < 0.5 else at
        size = chance.choice([1, 1, 2, 4, 8, 64])
        kind = chance.randrange(7)
        if kind == 0 and result:
            result[at % len(result)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            result[at : at + size] = chance.randbytes(size)
        elif kind == 2:
            del result[at : at + size]
        elif kind == 3:
            result[at:at] = result[at : at + size]
        elif kind == 4:
            word = chance.choice(SPECIAL)
            result[at : at + (len(word) if chance.random() < 0.5 else 0)] = word
        elif kind == 5 and others:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            result[at : at + size] = other[start : start + size]
        elif kind == 6:
            del result[at:]
    return bytes(result)


def check(data: bytes, suffix: str, *, measured: bool = False) -> str | None:
    """Load a file; return what is wrong with how it went, or None."""
    import fastlstm

    with tempfile.TemporaryDirectory(
        prefix="fuzz", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as folder:
        path = os.path.join(folder, f"file.{suffix}")
        Path(path).write_bytes(data)
        begin = time.process_time()
        if measured:
            tracemalloc.start()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                repr(fastlstm.load(path))
        except ValueError as error:
            text = str(error)
            if not text.startswith(path) or "expected" not in text or ", got " not in text:
                return f"a message without its parts: {text}"
            if "contents: expected what can be read" in text:  # where no reader looked
                return text
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            peak = tracemalloc.get_traced_memory()[1] if measured else 0
            tracemalloc.stop()
        if os.listdir(folder) != [f"file.{suffix}"]:
            return f"files that are new: {os.listdir(folder)}"
        if time.process_time() - begin > SECONDS:
            return f"{time.process_time() - begin:.0f} s"
        if peak > 4 * len(data) + BESIDE:
            return f"{peak} bytes for a file of {len(data)}"
    return None


def seeds(kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]


def trials(kind: str, seed: int) -> Iterator[bytes]:
    """Changed files of a format, without end, the same ones for a seed."""
    chance, known = random.Random(f"{kind} {seed}"), seeds(kind)
    while True:
        yield mutated(chance.choice(known), known, chance)


def keep(data: bytes, kind: str, problem: str) -> None:
    import hashlib

    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{hashlib.sha256(data).hexdigest()[:12]}.{kind}"
    if not path.exists():
        path.write_bytes(data)
        print(f"{path.name}: {problem}", flush=True)


def by_chance(kind: str, seconds: float, seed: int) -> int:
    end, count, running = time.monotonic() + seconds, 0, FOUND / f"running.{kind}"
    FOUND.mkdir(exist_ok=True)
    for data in trials(kind, seed):
        if time.monotonic() > end:
            break
        # What does not come back is left in this file; libraries in C cannot be interrupted.
        running.write_bytes(data)
        faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
        problem = check(data, kind, measured=count % 16 == 0)
        faulthandler.cancel_dump_traceback_later()
        if problem:
            keep(data, kind, problem)
        count += 1
    running.unlink(missing_ok=True)
    print(f"{kind}: {count} files")
    return count


def by_coverage(kind: str, seconds: float, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(
        include=["fastlstm.files", "fastlstm.convert", "fastlstm.model", "pickletools", "zipfile", "json"]
    ):
        import fastlstm.convert.state_dicts
        import fastlstm.files.json_file
        import fastlstm.files.keras_file
        import fastlstm.files.loaded
        import fastlstm.files.onnx_file
        import fastlstm.files.torch_file  # noqa: F401
    chance, known = random.Random(seed), seeds(kind)

    def one(data: bytes) -> None:
        problem = check(data, kind)
        if problem:
            keep(data, kind, problem)

    def custom(data: bytes, most: int, _: int) -> bytes:
        return mutated(data or chance.choice(known), known, chance)[:most]

    with tempfile.TemporaryDirectory() as grown:
        arguments = [
            sys.argv[0],
            f"-max_total_time={int(seconds)}",
            f"-seed={seed}",
            "-max_len=65536",
            "-timeout=300",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={FOUND}/",
            grown,
            str(CORPUS / kind),
        ]
        FOUND.mkdir(exist_ok=True)
        atheris.Setup(arguments, one, custom_mutator=custom)
        atheris.Fuzz()


# ---- The corpus --------------------------------------------------------------------------------------------


def write_corpus() -> None:
    """Small files of every format; needs torch, keras, h5py and onnx."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import json

    import keras
    import numpy as np
    import onnx
    import torch

    import fastlstm

    from . import keras_samples, test_json_files, test_onnx_files

    rng = np.random.default_rng(0)

    def put(kind: str, name: str, write: Callable[[str], object]) -> None:
        path = CORPUS / kind / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(str(path))

    lstm, gru = fastlstm.LSTM(2, 2, 2, bidirectional=True, rng=0), fastlstm.GRU(1, 2, rng=1)
    for kind in ("safetensors", "npz"):
        put(kind, "own", lambda path: fastlstm.save(path, {"a": lstm, "b": fastlstm.Dense(2, 1)}))
        put(kind, "one", lambda path: fastlstm.save(path, gru))
    put(
        "npz",
        "packed",
        lambda path: np.savez_compressed(path, **gru.state_dict(), x=np.asfortranarray(rng.random((2, 3)))),
    )
    module = torch.nn.Sequential()
    module.add_module("rnn", torch.nn.LSTM(1, 2))
    module.add_module("head", torch.nn.Linear(2, 1))
    state = {
        "model": module.state_dict(),
        "n": np.float64(2),
        "b": torch.ones(2).bfloat16(),
        "t": torch.ones(2, 3).T,
    }
    put("pt", "archive", lambda path: torch.save(state, path))
    put("pt", "legacy", lambda path: torch.save(state, path, _use_new_zipfile_serialization=False))
    put("pt", "module", lambda path: torch.save(module, path))
    old = keras_samples.arrays_of(rng, 4, 1, 2)
    put(
        "h5",
        "model",
        lambda path: keras_samples.write_model(
            path, {"a": ("LSTM", {"units": 2, "recurrent_activation": "hard_sigmoid"}, old)}
        ),
    )
    put("h5", "weights", lambda path: keras_samples.write_weights(path, {"a": old}))
    layers = [keras.Input((None, 1)), keras.layers.Bidirectional(keras.layers.GRU(2))]
    put("keras", "model", keras.Sequential(layers).save)
    nodes, tensors, _ = test_onnx_files.through(rng)
    graph = test_onnx_files.model_of([*nodes, test_onnx_files.lstm_node()], tensors)
    put("onnx", "folded", lambda path: onnx.save(graph, path))
    put("onnx", "stack", lambda path: fastlstm.save(path, lstm))
    put("nam", "amp", lambda path: Path(path).write_text(json.dumps(test_json_files.a_nam(rng, H=2))))
    put("json", "rtneural", lambda path: fastlstm.save(path, {"a": gru, "b": fastlstm.Dense(2, 1)}))
    amp = {name: value.tolist() for name, value in fastlstm.LSTM(1, 2).state_dict(prefix="rec.").items()}
    data = {"unit_type": "LSTM", "hidden_size": 2}
    put(
        "json",
        "guitarml",
        lambda path: Path(path).write_text(json.dumps({"model_data": data, "state_dict": amp})),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(FORMATS)}; none is all")
    parser.add_argument("--seconds", type=float, default=60, help="for each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chance", action="store_true", help="without coverage")
    parser.add_argument("--write", action="store_true", help="make the corpus anew")
    given = parser.parse_args()
    if given.write:
        write_corpus()
        return 0
    kinds = given.formats or list(FORMATS)
    for kind in kinds:
        if kind not in FORMATS:
            parser.error(f"FORMAT: expected one of {FORMATS}, got {kind!r}")
    try:
        import atheris  # noqa: F401

        is_guided = not given.chance and len(kinds) == 1  # it ends the process
    except ImportError:
        is_guided = False
    for kind in kinds:
        (by_coverage if is_guided else by_chance)(kind, given.seconds, given.seed)
    return int(FOUND.is_dir() and any(FOUND.iterdir()))


if __name__ == "__main__":
    sys.exit(main())
