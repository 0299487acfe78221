# SPDX-License-Identifier: BSD-3-Clause
"""Files of models, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.parameters import Parameters
from .arrays_file import NOTE, comment_of, write_safetensors
from .loaded import Model, as_json, config_of, states_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__: list[str] = []

# Formats of layers in a form of their own, in which nothing else is kept.
EXPORTED = (".onnx", ".json")


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A file beside its place, which is put there when it is whole: there is the old one or the new one."""
    target = os.fspath(path)
    beside = f"{os.fsdecode(target)}.{secrets.token_hex(8)}.part"
    try:
        with open(beside, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The end of a name that says what is written."""
    return os.path.splitext(os.fsdecode(path))[1].lower()


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]
) -> None:
    """Write arrays and notes as ``.safetensors``, if that is the suffix, or as ``.npz``."""
    with whole(path) as file:
        if suffix_of(path) == ".safetensors":
            write_safetensors(file, arrays, notes)
            return
        np.savez(file, allow_pickle=False, **arrays)
        comment = comment_of(notes)
        if comment:
            _set_comment(file, comment)


def _set_comment(file: Any, comment: bytes) -> None:
    """Put a comment behind an archive, where its directory ends: NumPy and others pass it by."""
    end = file.seek(-22, os.SEEK_END)
    record = file.read(22)
    if record[:4] != b"PK\x05\x06" or record[-2:] != b"\0\0":  # what zipfile writes without a comment
        raise RuntimeError(f"archive: expected an end without a comment, got {record!r}")
    file.seek(end + 20)
    file.write(len(comment).to_bytes(2, "little") + comment)


def notes_of(
    layers: Mapping[str, Any], states: Mapping[str, Any], is_unnamed: bool = False
) -> dict[str, str]:
    """Kinds and options of layers, without which their arrays do not say what they are."""
    facts = {}
    for name, layer in layers.items():
        facts[name] = dict(config_of(layer))
        if name in states:
            facts[name]["states"] = [str(n) for n in range(len(states_of(states[name])))]
        if is_unnamed:
            facts[name]["unnamed"] = True
    return {NOTE: as_json({"layers": facts})} if facts else {}


def write_model(path: str | os.PathLike[str], model: Model) -> None:
    """Write a `Model`."""
    if suffix_of(path) in EXPORTED:
        write_exported(path, model.layers)
        return
    arrays: dict[str, NDArray[Any]] = {}
    parts: list[Mapping[str, Any]] = [
        layer.state_dict(prefix=f"{name}.") for name, layer in model.layers.items()
    ]
    for name, state in model.states.items():
        parts.append({f"{name}.first_{n}": np.asarray(each) for n, each in enumerate(states_of(state))})
    for part in (*parts, model.arrays):
        for name, array in part.items():
            if name in arrays:
                raise ValueError(f"model: expected each name once, got {name!r} twice")
            arrays[name] = array
    write_arrays(path, arrays, notes_of(model.layers, model.states))


def write_exported(path: str | os.PathLike[str], layers: Any) -> None:
    """Write layers as ``.onnx`` or as RTNeural's ``.json``."""
    write: Callable[[Any, Any], None]
    if suffix_of(path) == ".onnx":
        from ..convert.onnx_graphs import to_onnx

        data = to_onnx(layers).SerializeToString()
        with whole(path) as file:
            file.write(data)
        return
    from .json_file import write_rtneural as write

    named = {"": layers} if isinstance(layers, Parameters) else layers
    with whole(path) as file:
        write(file, named)
