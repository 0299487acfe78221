# SPDX-License-Identifier: BSD-3-Clause
"""Files of named arrays: safetensors and NumPy's .npz and .npy, read and written with NumPy alone.

https://huggingface.co/docs/safetensors: 8 bytes of length, a JSON text, and the bytes of all arrays.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as numpy_format

from ..model.tensors import Stored, is_bfloat16_bits
from .source import Archive, Source, read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__: list[str] = []

# Types of safetensors by NumPy's names; those that NumPy lacks are given as they lie.
_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "uint8",
    "F8_E5M2": "uint8",
}
_WRITTEN = {name: ours for ours, name in _TYPES.items() if not ours.startswith("F8")}
_MOST_HEADER = 100_000_000  # as in the library
NOTE = "fastlstm"  # what options stand under


def read_safetensors(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    """Arrays and notes."""
    size = int.from_bytes(source.read(0, 8, "length of the header"), "little")
    if size > min(_MOST_HEADER, source.size - 8):
        source.bad("length of the header", f"at most {min(_MOST_HEADER, source.size - 8)}", size)
    header = read_json(source, source.read(8, size, "header"), "header")
    if not isinstance(header, dict):
        source.bad("header", "a mapping", type(header).__name__)
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        source.bad("__metadata__", "a mapping of strings", type(notes).__name__)
    arrays, spans = {}, []
    for name, entry in header.items():
        place = f"tensor {name!r}"
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            source.bad(place, "dtype, shape and data_offsets", type(entry).__name__)
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _TYPES:
            source.bad(f"{place}: dtype", f"one of {', '.join(_TYPES)}", repr(entry["dtype"])[:40])
        shape, span = source.shape(entry["shape"], f"{place}: shape"), entry["data_offsets"]
        if not isinstance(span, list) or len(span) != 2 or not all(type(at) is int for at in span):
            source.bad(f"{place}: data_offsets", "two integers", repr(span)[:40])
        begin, end = span
        if not 0 <= begin <= end <= source.size - 8 - size:
            source.bad(f"{place}: data_offsets", f"0 to {source.size - 8 - size}", span)
        spans.append((begin, end, place))

        def read(at: int = 8 + size + begin, count: int = end - begin, place: str = place) -> bytes:
            return source.read(at, count, place)

        arrays[name] = source.stored(shape, _TYPES[entry["dtype"]], end - begin, place, read)
    at = 0
    for begin, end, place in sorted(spans):
        if begin != at:
            source.bad(f"{place}: data_offsets", f"{at}, where the array before ends", begin)
        at = end
    if at != source.size - 8 - size:
        source.bad("data", f"{at} bytes, as all arrays have", source.size - 8 - size)
    return arrays, notes


def write_safetensors(file: Any, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> None:
    """Write arrays and notes."""
    header: dict[str, Any] = {"__metadata__": dict(notes)} if notes else {}
    at = 0
    for name, array in arrays.items():
        if array.dtype.name not in _WRITTEN:
            raise ValueError(
                f"{name}: expected numbers, as safetensors has no other arrays, got dtype {array.dtype}"
            )
        header[name] = {
            "dtype": _WRITTEN[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())


def read_npz(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    """Arrays and notes of an archive."""
    archive = Archive(source)
    arrays = {}
    for name in archive.members:
        if not name.endswith(".npy"):
            source.bad(f"member {name!r}", "arrays alone, by names that end in .npy", "another file")
        arrays[name.removesuffix(".npy")] = _read_member(archive, name)
    comment = archive.zip.comment
    notes = {}
    if comment.startswith(b"{"):
        found = read_json(source, comment, "comment of the archive")
        if isinstance(found, dict) and isinstance(found.get(NOTE), str):
            notes[NOTE] = found[NOTE]
    return arrays, notes


def read_npy(source: Source) -> tuple[dict[str, Stored], dict[str, str]]:
    """The one array of a file, which has no name."""
    dtype, shape, order, begin = _read_header(
        source, source.read(0, min(source.size, 2**16), "header"), "header"
    )
    size = source.size - begin
    return {
        "": _stored(source, dtype, shape, order, size, "array", lambda: source.read(begin, size, "array"))
    }, {}


def _read_member(archive: Archive, name: str) -> Stored:
    place = f"array {name.removesuffix('.npy')!r}"
    dtype, shape, order, begin = _read_header(archive.source, archive.read(name, 2**16), place)
    size = archive.size(name) - begin
    return _stored(
        archive.source, dtype, shape, order, size, place, lambda: memoryview(archive.read(name))[begin:]
    )


def _read_header(source: Source, data: bytes, place: str) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """dtype, shape, whether the order is Fortran's, and where the array begins."""
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's literals
            version = numpy_format.read_magic(file)
            if version == (1, 0):
                shape, order, dtype = numpy_format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, order, dtype = numpy_format.read_array_header_2_0(file)
            else:
                source.bad(place, "version 1.0 or 2.0 of NumPy's format", version)
    except Exception as error:  # of the tokenizer, too
        if str(error).startswith(source.name):
            raise
        source.bad(place, "a header of NumPy", str(error)[:200])
    if dtype.hasobject or dtype.names is not None:
        source.bad(place, "numbers", f"dtype {dtype}")
    return dtype, source.shape(list(shape), place), order, file.tell()


def _stored(
    source: Source,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    is_fortran: bool,
    size: int,
    place: str,
    read: Any,
) -> Stored:
    if dtype.itemsize == 0:
        source.bad(place, "elements of at least a byte", f"dtype {dtype}")
    is_brain = is_bfloat16_bits(dtype) and dtype.kind == "V"
    name = "bfloat16" if is_brain else dtype.newbyteorder("=").str
    kept = source.stored(
        shape[::-1] if is_fortran else shape, name, size, place, read, ">" if dtype.str[0] == ">" else "<"
    )
    shown = "bfloat16" if is_brain else dtype.name
    return Stored(shape, shown, (lambda: kept.read().T) if is_fortran else kept.read)


def comment_of(notes: Mapping[str, str]) -> bytes:
    """What `read_npz` finds its notes in: NumPy and others do not look at it."""
    text = json.dumps(dict(notes)).encode() if notes else b""
    if len(text) > 65535:
        raise ValueError(
            f"path: expected .safetensors for as many layers, got {len(text)} bytes of options for .npz"
        )
    return text
