# SPDX-License-Identifier: BSD-3-Clause
"""Files of PyTorch, without PyTorch: archives since 1.6, the five pickles of before, and TorchScript.

A tensor is a view into a storage: offset, sizes and strides are checked against what the storage has.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from ..model.tensors import Stored, from_bfloat16
from .pickle_machine import Function, Inert, Machine, Name
from .source import Archive, Source

__all__: list[str] = []

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_DTYPES = {
    "float64": "float64",
    "double": "float64",
    "float32": "float32",
    "float": "float32",
    "float16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
    "int8": "int8",
    "uint8": "uint8",
    "bool": "bool",
}
_MAGIC = 0x1950A86A20F9469CFC6C
_UTILS = "torch._utils"
_MOST_DEPTH = 64  # of containers and modules within each other


class Storage(NamedTuple):
    """Where numbers of tensors are."""

    dtype: str
    elements: int
    key: str


class Reader:
    """What is known while a file is read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.order: Literal["<", ">"] = "<"
        rebuild = {
            "_rebuild_tensor": self._tensor,
            "_rebuild_tensor_v2": self._tensor,
            "_rebuild_tensor_v3": self._typed_tensor,
            "_rebuild_parameter": self._first,
            "_rebuild_parameter_with_state": self._first,
        }
        functions: dict[Name, Function] = {Name(_UTILS, name): function for name, function in rebuild.items()}
        functions[Name("torch._tensor", "_rebuild_from_type_v2")] = self._from_type
        functions[Name("torch.storage", "_load_from_bytes")] = self._refuse_bytes
        for module in ("collections", "ordereddict"):
            functions[Name(module, "OrderedDict")] = self._mapping
        self.machine = Machine(source, functions, self.find)

    # ---- Calls that pickles of tensors hold ------------------------------------------------------------

    def _mapping(self, arguments: Any) -> dict[Any, Any]:
        pairs = arguments[0] if arguments else ()
        if not isinstance(pairs, (list, tuple)) or not all(
            isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs
        ):
            self.machine.bad("pairs of names and values", type(pairs).__name__)
        return {name: value for name, value in pairs if isinstance(name, (str, int))}

    def _first(self, arguments: Any) -> Any:
        return arguments[0] if arguments else self.machine.bad("a tensor", "nothing")

    def _refuse_bytes(self, arguments: Any) -> Any:
        return self.machine.bad("tensors in storages", "a file within the file")

    def _from_type(self, arguments: Any) -> Any:
        if len(arguments) < 3 or not isinstance(arguments[0], Name) or not isinstance(arguments[2], tuple):
            self.machine.bad("a tensor", "other arguments")
        return self.machine._called(arguments[0], arguments[2])

    def _typed_tensor(self, arguments: Any) -> Stored:
        dtype: Any = arguments[6] if len(arguments) > 6 else None
        if not isinstance(dtype, Name) or dtype.name not in _DTYPES:
            self.machine.bad("a dtype of PyTorch", str(dtype)[:60])
        return self._tensor(arguments, _DTYPES[dtype.name])

    def _tensor(self, arguments: Any, dtype: str | None = None) -> Stored:
        bad = self.machine.bad
        if len(arguments) < 4 or not isinstance(arguments[0], Storage):
            bad("a storage, an offset, sizes and strides", f"{len(arguments)} arguments")
        storage, offset, sizes, strides = arguments[:4]
        shape = self.source.shape(sizes, self.machine.place)
        if not isinstance(strides, (tuple, list)) or len(strides) != len(shape):
            bad(f"{len(shape)} strides", str(strides)[:60])
        if (
            type(offset) is not int
            or offset < 0
            or not all(type(step) is int and step >= 0 for step in strides)
        ):
            bad("an offset and strides of at least 0", f"offset {offset} and strides {strides}"[:160])
        count = storage.elements
        if dtype is not None:
            count = storage.elements * _width(storage.dtype) // _width(dtype)
        dtype = storage.dtype if dtype is None else dtype
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= count:
            bad(f"elements within the {count} of the storage", f"one at {last}")
        self.source.take(math.prod(shape) * _width(dtype), self.machine.place)
        self.use(storage)
        return Stored(shape, dtype, lambda: self._view(storage, dtype, offset, shape, tuple(strides)))

    def _view(
        self, storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Any:
        width = _width(dtype)
        kind = np.dtype("u2" if dtype == "bfloat16" else dtype).newbyteorder(self.order)
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        data = self.numbers(storage, offset * width, (last + 1 - offset) * width if math.prod(shape) else 0)
        flat = np.frombuffer(data, kind)
        steps = tuple(step * width for step in strides)
        view = (
            np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
            if math.prod(shape)
            else (np.empty(shape, kind))
        )
        array = np.array(view, kind.newbyteorder("="), order="C")
        return from_bfloat16(array) if dtype == "bfloat16" else array

    # ---- Storages --------------------------------------------------------------------------------------

    def find(self, identity: Any) -> Storage:
        """The storage of a persistent id, ``("storage", class, key, place, count)``."""
        bad = self.machine.bad
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            bad("the id of a storage", type(identity).__name__)
        cls, key, count = identity[1], identity[2], identity[4]
        if not isinstance(cls, Name) or cls.name not in _STORAGES:
            bad("a class of storages", str(cls)[:60])
        if not isinstance(key, (str, int)) or type(count) is not int or count < 0:
            bad("a key and a number of elements", f"{key!r} and {count!r}"[:100])
        storage = Storage(_STORAGES[cls.name], count, str(key))
        self.check(storage)
        return storage

    def check(self, storage: Storage) -> None:
        """Raise unless the file has the numbers of a storage."""

    def use(self, storage: Storage) -> None:
        """Note that one more tensor lies in a storage."""

    def numbers(self, storage: Storage, begin: int, size: int) -> bytes:
        """Bytes of a storage."""
        raise NotImplementedError


class ArchiveReader(Reader):
    """An archive of ``torch.save`` or ``torch.jit.save``."""

    def __init__(self, source: Source, archive: Archive) -> None:
        super().__init__(source)
        self.archive = archive
        self.uses: dict[str, int] = {}  # of each storage, by tensors
        self.kept: dict[str, bytes] = {}
        pickles = [name for name in archive.members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            source.bad("archive", "one member 'data.pkl'", len(pickles))
        self.folder = pickles[0].rpartition("data.pkl")[0]
        if f"{self.folder}byteorder" in archive.members:
            order = archive.read(f"{self.folder}byteorder", 16).strip()
            if order not in (b"little", b"big"):
                source.bad(f"member '{self.folder}byteorder'", "little or big", str(order)[:40])
            self.order = "<" if order == b"little" else ">"

    def read(self) -> Any:
        """What was saved."""
        name = f"{self.folder}data.pkl"
        return self.machine.run(io.BytesIO(self.archive.read(name)), f"member '{name}'")

    def _member(self, storage: Storage) -> str:
        return f"{self.folder}data/{storage.key}"

    def check(self, storage: Storage) -> None:
        name, needed = self._member(storage), storage.elements * _width(storage.dtype)
        if name not in self.archive.members:
            self.machine.bad(f"a member {name!r}", "none")
        if needed > self.archive.size(name):
            self.machine.bad(f"{needed} bytes in member {name!r}", self.archive.size(name))

    def use(self, storage: Storage) -> None:
        self.uses[storage.key] = self.uses.get(storage.key, 0) + 1

    def numbers(self, storage: Storage, begin: int, size: int) -> Any:
        data = self.kept.get(storage.key)
        if data is None:
            data = self.archive.read(self._member(storage))
            if self.uses[storage.key] > 1:  # not to be unpacked for each
                self.kept[storage.key] = data
        return memoryview(data)[begin : begin + size]


class LegacyReader(Reader):
    """Five pickles in a row, and the storages behind them."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.counts: dict[str, tuple[str, int]] = {}
        self.begins: dict[str, int] = {}

    def read(self) -> Any:
        """What was saved."""
        data = io.BytesIO(self.source.read(0, self.source.size, "file"))
        magic = self.machine.run(data, "magic number")
        if magic != _MAGIC:
            self.source.bad("magic number", "that of PyTorch", str(magic)[:40])
        version = self.machine.run(data, "version")
        if version != 1001:
            self.source.bad("version", "1001", str(version)[:40])
        system = self.machine.run(data, "facts of the system")
        if not isinstance(system, dict) or system.get("little_endian") not in (True, False):
            self.source.bad("facts of the system", "a mapping with 'little_endian'", type(system).__name__)
        self.order = "<" if system["little_endian"] else ">"
        found = self.machine.run(data, "pickle of the objects")
        keys = self.machine.run(data, "keys of the storages")
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self.counts):
            self.source.bad("keys of the storages", f"those of {len(self.counts)} storages", str(keys)[:60])
        at = data.tell()
        for key in map(str, keys):
            dtype, count = self.counts[key]
            stated = int.from_bytes(
                self.source.read(at, 8, f"storage {key}"), "little" if self.order == "<" else "big"
            )
            if stated < count:
                self.source.bad(f"storage {key}", f"{count} elements", stated)
            self.begins[key] = at + 8
            at += 8 + stated * _width(dtype)
            if at > self.source.size:
                self.source.bad(f"storage {key}", f"an end within the file's {self.source.size} bytes", at)
        return found

    def find(self, identity: Any) -> Storage:
        if isinstance(identity, tuple) and len(identity) == 6 and identity[5] is not None:
            self.machine.bad("storages that are no views of others", "a view")
        storage = super().find(identity)
        dtype, count = self.counts.setdefault(storage.key, (storage.dtype, storage.elements))
        if dtype != storage.dtype:
            self.machine.bad(f"{dtype}, as storage {storage.key} was before", storage.dtype)
        self.counts[storage.key] = (dtype, max(count, storage.elements))
        return storage

    def check(self, storage: Storage) -> None:
        if storage.elements * _width(storage.dtype) > self.source.size:
            self.machine.bad(f"at most the file's {self.source.size} bytes in a storage", storage.elements)

    def numbers(self, storage: Storage, begin: int, size: int) -> bytes:
        return self.source.read(self.begins[storage.key] + begin, size, f"storage {storage.key}")


def _width(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


# ---- What was saved, as names and arrays -------------------------------------------------------------------

# Attributes of PyTorch's recurrent modules that are options of ours.
_OPTIONS = {"batch_first": bool, "dropout": float}


def read_torch(
    source: Source, archive: Archive | None
) -> tuple[dict[str, Stored], dict[str, dict[str, Any]]]:
    """Arrays by their places in what was saved, and options of recurrent modules by their prefixes."""
    saved = (LegacyReader(source) if archive is None else ArchiveReader(source, archive)).read()
    arrays: dict[str, Stored] = {}
    options: dict[str, dict[str, Any]] = {}
    for prefix, name, value in _walk(source, saved):
        if isinstance(value, Stored):
            arrays[name] = value
        else:
            options[prefix] = value
    if not arrays:
        source.bad("contents", "tensors", "none")
    return arrays, options


def _walk(source: Source, saved: Any) -> Iterator[tuple[str, str, Any]]:
    """All tensors with their names, and mappings of options with the prefix that they belong to."""
    todo: list[tuple[str, Any, int]] = [("", saved, 0)]
    seen: set[int] = set()
    while todo:
        prefix, value, depth = todo.pop()
        if isinstance(value, Stored):
            yield "", prefix.removesuffix("."), value
            continue
        if not isinstance(value, (dict, list, tuple, Inert)) or id(value) in seen:
            continue
        seen.add(id(value))
        if depth > _MOST_DEPTH:
            source.bad("contents", f"at most {_MOST_DEPTH} levels", "more")
        state = value.state if isinstance(value, Inert) else value
        if isinstance(value, Inert) and isinstance(state, dict):
            found = _options_of(value, state)
            if found:
                yield prefix, "", found
            parts = [state.get(name) for name in ("_parameters", "_buffers", "_modules")]
            members = [item for part in parts if isinstance(part, dict) for item in part.items()]
            if not any(isinstance(part, dict) for part in parts):
                members = list(state.items())
        elif isinstance(value, Inert):
            items = value.items if isinstance(value.items, (dict, list)) else value.arguments
            members = list(items.items()) if isinstance(items, dict) else list(enumerate(items or ()))
        else:
            members = list(state.items()) if isinstance(state, dict) else list(enumerate(state))
        for name, member in reversed(members):
            if isinstance(name, (str, int)) and name != "_flat_weights":  # the same ones once more
                todo.append((f"{prefix}{name}.", member, depth + 1))


def _options_of(module: Inert, state: dict[Any, Any]) -> dict[str, Any]:
    """Options of a recurrent module that was saved whole."""
    if not {"hidden_size", "input_size"} <= state.keys():
        return {}
    found = {name: state[name] for name, kind in _OPTIONS.items() if type(state.get(name)) is kind}
    if state.get("mode") == "RNN_RELU" or state.get("nonlinearity") == "relu":
        found["nonlinearity"] = "relu"
    return found
