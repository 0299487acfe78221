# SPDX-License-Identifier: BSD-3-Clause
"""Files of Keras 1 to 3, without Keras: .keras, .h5 with a configuration, and .h5 of weights alone.

What the files say and mean is the table of docs/files.md.  A *bundle* is a kernel, a recurrent kernel and a
bias that stand together; keras_layers.py makes layers of them.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from ..model.tensors import Stored
from .keras_layers import Keras, layers_of, wrapped
from .parts import Found
from .source import Archive, Source, read_json

__all__: list[str] = []

_MOST_OBJECTS = 100_000  # groups and arrays of one file
_OLD_GATES = re.compile(r"(?P<layer>.*)_(?P<part>[WUb])_(?P<gate>[a-z])(?::0)?", re.DOTALL)
_OLD_ARRAYS = re.compile(r"(?P<layer>.*)_(?P<part>[WUb])(?::0)?", re.DOTALL)
_PLAIN = {"kernel": "W", "recurrent_kernel": "U", "bias": "b"}
_NUMBERED = {"0": "W", "1": "U", "2": "b"}


@dataclasses.dataclass
class Bundle:
    """Arrays of one direction of one layer."""

    path: tuple[str, ...]
    arrays: dict[tuple[str, str], str]  # paths by what they are, "W", "U" or "b", and by the gate of Keras 1

    @property
    def is_backward(self) -> bool:
        """Whether it is the second direction of a bidirectional layer."""
        return any(part.startswith("backward_") for part in self.path)

    @property
    def is_directed(self) -> bool:
        """Whether it is a direction of a bidirectional layer."""
        return self.is_backward or any(part.startswith("forward_") for part in self.path)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ModuleNotFoundError(
            "h5py: expected to be installed, as HDF5 is read by it: pip install fastlstm[files]"
        ) from error
    return h5py


def read_keras(source: Source, archive: Archive | None, found: Found, cudnn: Any, default: Any) -> str:
    """Fill `found`; return the name of the format."""
    if archive is None:
        with _opened(source) as file:
            return _read_h5(source, file, found, cudnn, default)
    config = read_json(source, archive.read("config.json"), "member 'config.json'")
    data = {}
    if "metadata.json" in archive.members:
        data = read_json(source, archive.read("metadata.json"), "member 'metadata.json'")
    version = data.get("keras_version") if isinstance(data, dict) else None
    if not isinstance(config, dict):
        source.bad("member 'config.json'", "a mapping", type(config).__name__)
    if "model.weights.h5" not in archive.members:
        source.bad("archive", "a member 'model.weights.h5'", repr(list(archive.members))[:100])
    inner = archive.member("model.weights.h5")
    with _opened(inner) as file:
        arrays = dict(_arrays(inner, file))
        keras = Keras(inner, found, version if isinstance(version, str) else "3", cudnn, default)
        _read_configured(keras, config, arrays, True)
        _load(found)
    return f"Keras {keras.version}"


def _check_heaps(source: Source) -> None:
    """Raise where a heap of strings is broken: the HDF5 library does not return from some that are.

    A heap is "GCOL", a version and a size; its objects each have an index, a count and a size, and index 0 is
    the space that is free.
    """
    data = source.read(0, source.size, "file")
    at = data.find(b"GCOL\x01\0\0\0")
    while at >= 0:
        size, place = int.from_bytes(data[at + 8 : at + 16], "little"), f"heap at {at}"
        end = at + size
        if not 16 <= size <= len(data) - at:
            source.bad(place, f"a size of 16 to {len(data) - at}", size)
        inner = at + 16
        while inner + 16 <= end:
            index = int.from_bytes(data[inner : inner + 2], "little")
            taken = int.from_bytes(data[inner + 8 : inner + 16], "little")
            step = taken if index == 0 else 16 + -(-taken // 8) * 8
            if not 16 <= step <= end - inner:
                source.bad(place, f"an object of at most {end - inner} bytes", taken)
            inner += step
        at = data.find(b"GCOL\x01\0\0\0", at + 8)


class _opened:
    """An HDF5 file, closed at the end, whose errors are about the file."""

    def __init__(self, source: Source) -> None:
        self.source, self.h5py = source, _h5py()

    def __enter__(self) -> Any:
        _check_heaps(self.source)
        self.source.file.seek(0)
        try:
            self.file = self.h5py.File(self.source.file, "r")
        except (OSError, ValueError, RuntimeError, KeyError, MemoryError, OverflowError) as error:
            self.source.bad("file", "a whole HDF5 file", str(error)[:200])
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # of a file broken from the start
            self.file.close()
        kinds = (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, MemoryError)
        if isinstance(error, kinds) and not str(error).startswith(self.source.name):
            self.source.bad("file", "a whole HDF5 file", str(error)[:200])


def _load(found: Found) -> None:
    """Read what is left while the file is open."""
    for name, array in found.arrays.items():
        data = array.read()
        found.arrays[name] = Stored(array.shape, array.dtype, lambda data=data: data)  # type: ignore[misc]


def _arrays(source: Source, file: Any) -> Iterator[tuple[str, Stored]]:
    """All arrays by their paths, if none is in another file."""
    h5py = _h5py()
    todo, seen, count = collections.deque([("", file)]), set(), 0
    while todo:
        path, group = todo.popleft()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            source.bad(f"group {path!r}", "each group once", "one that holds itself")
        seen.add(address)
        for name in group:
            own = f"{path}/{name}" if path else name
            count += 1
            if count > _MOST_OBJECTS or own.count("/") > 64:
                source.bad(f"group {path!r}", f"at most {_MOST_OBJECTS} objects, 64 deep", "more")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                source.bad(own, "what is in this file", "a link")
            member = group[name]
            if isinstance(member, h5py.Group):
                todo.append((own, member))
            elif isinstance(member, h5py.Dataset) and _is_numeric(source, member, own):
                yield own, _stored(source, member, own)


def _is_numeric(source: Source, data: Any, path: str) -> bool:
    try:
        return data.dtype.kind in "fiub" and data.shape is not None
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        source.bad(path, "a type of numbers", str(error)[:200])


def _stored(source: Source, data: Any, path: str) -> Stored:
    if data.external or data.is_virtual:
        source.bad(path, "an array in this file", "one in another")
    shape, width = source.shape([int(size) for size in data.shape], path), data.dtype.itemsize
    limit = max(2**25, 3 * source.size)
    if data.chunks is not None and int(np.prod([float(size) for size in data.chunks])) * width > limit:
        source.bad(path, f"pieces of at most {limit} bytes", data.chunks)

    def read() -> bytes:
        try:
            array: bytes = np.ascontiguousarray(data[()]).tobytes()
        except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
            source.bad(path, "data that can be read", str(error)[:200])
        return array

    order: Literal["<", ">"] = ">" if data.dtype.str[0] == ">" else "<"
    return source.stored(
        shape, data.dtype.newbyteorder("=").name, int(np.prod(shape, dtype=object)) * width, path, read, order
    )


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _read_h5(source: Source, file: Any, found: Found, cudnn: Any, default: Any) -> str:
    weights = file.get("model_weights", file)
    arrays = dict(_arrays(source, file))
    version = _text(file.attrs.get("keras_version")) or _text(weights.attrs.get("keras_version"))
    is_new = any(path.startswith(("layers/", "_layer_checkpoint_dependencies/")) for path in arrays)
    text = _text(file.attrs.get("model_config"))
    keras = Keras(source, found, version or ("3" if is_new else None), cudnn, default)
    if text is None:
        _read_weights(keras, arrays, file)
    else:
        config = read_json(source, text.encode(), "attribute 'model_config'")
        if not isinstance(config, dict):
            source.bad("attribute 'model_config'", "a mapping", type(config).__name__)
        _read_configured(keras, config, arrays, False)
    _load(found)
    return f"Keras {keras.version or 'of unknown version'}"


# ---- Bundles -----------------------------------------------------------------------------------------------


def bundles_of(arrays: dict[str, Stored]) -> list[Bundle]:
    """Arrays that stand together as those of a recurrent layer do."""
    found: dict[tuple[str, ...], Bundle] = {}
    for path in arrays:
        *folder, last = path.split("/")
        place, part, gate = tuple(folder), None, ""
        if folder and folder[-1] == "vars" and ("cell" in folder or "cells" in folder):
            part = _NUMBERED.get(last)
        elif last.removesuffix(":0") in _PLAIN:
            part = _PLAIN[last.removesuffix(":0")]
        elif match := _OLD_GATES.fullmatch(last) or _OLD_ARRAYS.fullmatch(last):
            part, gate = match["part"], match["gate"] if match.re is _OLD_GATES else ""
            place = (*folder, match["layer"])
        if part is not None:
            found.setdefault(place, Bundle(place, {})).arrays[part, gate] = path
    whole = [
        bundle
        for bundle in found.values()
        if any(part == "U" for part, _ in bundle.arrays) and any(part == "W" for part, _ in bundle.arrays)
    ]
    return sorted(whole, key=lambda bundle: [_by_number(part) for part in bundle.path])


def _by_number(name: str) -> tuple[str, int]:
    """What sorts cell_10 behind cell_9."""
    match = re.fullmatch(r"(.*?)(?:_([0-9]{1,9}))?", name, re.DOTALL)
    return (match[1], int(match[2] or 0)) if match else (name, 0)


def _configured(keras: Keras, config: dict[str, Any], path: tuple[str, ...], depth: int = 0) -> Iterator[Any]:
    """Each layer's configuration with its class, its name and its path in files of Keras 3."""
    if depth > 32:
        keras.source.bad("configuration", "at most 32 levels of models", "more")
    inner = config.get("config")
    layers = inner if isinstance(inner, list) else inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, list):
        keras.source.bad("configuration", "a list of layers", type(layers).__name__)
    used: dict[str, int] = {}
    for number, layer in enumerate(layers):
        if (
            not isinstance(layer, dict)
            or not isinstance(layer.get("class_name"), str)
            or not isinstance(layer.get("config"), (dict, list))
        ):
            keras.source.bad(f"configuration, layer {number}", "class_name and config", repr(layer)[:60])
        kind = layer["class_name"].rpartition(">")[2]
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)).lower()
        count = used[snake] = used.get(snake, -1) + 1
        own = (*path, "layers", f"{snake}_{count}" if count else snake)
        settings = layer["config"]
        if isinstance(settings, list) or isinstance(settings.get("layers"), list):
            yield from _configured(keras, layer, own, depth + 1)
        else:
            name = settings.get("name", layer.get("name", snake))
            yield kind, settings, str(name), own


def _read_configured(keras: Keras, config: dict[str, Any], arrays: dict[str, Stored], is_new: bool) -> None:
    bundles, used = bundles_of(arrays), set()
    for kind, settings, name, path in _configured(keras, config, ()):
        inner = wrapped(keras, kind, settings, name)
        if inner is None:
            continue
        own = [
            bundle
            for bundle in bundles
            if (bundle.path[: len(path)] == path if is_new else name in bundle.path or _is_of(name, bundle))
        ]
        if not own:
            keras.source.bad(f"layer {name!r}", "its weights", "none in the file")
        for bundle in own:
            used |= set(bundle.arrays.values())
        layers_of(keras, name, inner, own, arrays)
    keras.found.arrays.update((path, array) for path, array in arrays.items() if path not in used)


def _is_of(name: str, bundle: Bundle) -> bool:
    """Whether arrays of Keras 1 are those of a layer, which stands in their names."""
    return bundle.path[-1] == name


def _read_weights(keras: Keras, arrays: dict[str, Stored], file: Any) -> None:
    """Layers whose kinds follow from shapes; what activations they have is assumed."""
    used: set[str] = set()
    groups: dict[str, list[Bundle]] = {}
    for bundle in bundles_of(arrays):
        groups.setdefault(_name_of(bundle, file), []).append(bundle)
        used |= set(bundle.arrays.values())
    for name, bundles in groups.items():
        layers_of(keras, name, None, bundles, arrays)
    keras.found.arrays.update((path, array) for path, array in arrays.items() if path not in used)


def _name_of(bundle: Bundle, file: Any) -> str:
    """The name of a layer: what Keras 3 has noted, or what stands in the path of its arrays."""
    path = list(bundle.path)
    name: list[str] = []
    ends = [
        n
        for n, part in enumerate(path)
        if part in ("cell", "vars") or part.endswith("_cell") or part.startswith(("forward_", "backward_"))
    ]
    place = path[: ends[0]] if ends else path
    noted = "/".join((*place, "vars"))
    if noted in file:
        text = _text(file[noted].attrs.get("name"))
        if text:
            return text
    for part in place:
        # Keras writes some names twice.
        if part not in ("model_weights", "layers", "_layer_checkpoint_dependencies") and name[-1:] != [part]:
            name.append(part)
    return "/".join(name) or "/".join(path)
