# SPDX-License-Identifier: BSD-3-Clause
"""A file of any format as a `Model`: what it is, what is in it, and what was assumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..convert.state_dicts import check_size, class_of, find_groups, layer_of, made
from ..model.parameters import given, warn
from .arrays_file import NOTE, read_npy, read_npz, read_safetensors
from .parts import Found
from .source import Archive, Source, unique

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__: list[str] = []


class Model:
    """What a file holds.

    Attributes
    ----------
    layers : dict of str to layer
        Recurrent layers by the file's names, and in files of this package the others, too.
    states : dict of str to ndarray, or tuple of them
        First states by the names of their layers, as a call takes them: (L*D, H), or (L*D, B, H) if the file
        has a batch.
    arrays : dict of str to ndarray
        All the rest, by the file's names.
    format : str
        What the file is.
    notes : tuple of str
        What was assumed, and what was left out.
    """

    def __init__(
        self,
        layers: dict[str, Any],
        states: dict[str, Any],
        arrays: dict[str, NDArray[Any]],
        format: str,
        notes: tuple[str, ...],
    ) -> None:
        self.layers, self.states, self.arrays = layers, states, arrays
        self.format, self.notes = format, notes

    @property
    def layer(self) -> Any:
        """The layer, if there is one only.

        Raises
        ------
        ValueError
            There are others, or none; the message has their names.
        """
        if len(self.layers) != 1:
            raise ValueError(
                f"layer: expected a file of one layer, got {list(self.layers)}: use layers[name]"
            )
        return next(iter(self.layers.values()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it as ``.safetensors`` or ``.npz``, or its layers as ``.onnx`` or ``.json``.

        See `fastlstm.save`.
        """
        from .written import write_model

        write_model(path, self)

    def __repr__(self) -> str:
        lines = [self.format]
        lines += [f"  {name}: {layer!r}" for name, layer in self.layers.items()]
        lines += [f"  first state of {name}" for name in self.states]
        lines += [f"  {name}: {array.dtype} {array.shape}" for name, array in self.arrays.items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def load_model(path: str | os.PathLike[str], cudnn: Any = None, keras_default: Any = None) -> Model:
    """Read a file; see `fastlstm.load`."""
    if cudnn is not None and not isinstance(cudnn, bool):
        raise TypeError(f"cudnn: expected None or a bool, got {type(cudnn).__name__}")
    if keras_default is not None:
        expected = "None, 'sigmoid', 'hard_sigmoid' or a version as '2.2'"
        if not isinstance(keras_default, str):
            raise TypeError(f"keras_default: expected {expected}, got {type(keras_default).__name__}")
        if keras_default not in ("sigmoid", "hard_sigmoid") and not keras_default[:1].isdecimal():
            raise ValueError(f"keras_default: expected {expected}, got {keras_default!r}")
    name = os.fsdecode(path)
    with open(path, "rb") as file:
        source = Source(file, name)
        source.folder = os.path.dirname(name)
        found = Found()
        try:
            kind = _read(source, found, cudnn, keras_default)
            return _model(source, found, kind)
        except RecursionError:
            source.bad("contents", "fewer levels within each other", "more than Python can take")
        except MemoryError:
            source.bad("contents", "what fits into memory", "more")
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            OverflowError,
            AttributeError,
            RuntimeError,
        ) as error:
            if str(error).startswith(name):
                raise
            source.bad("contents", "what can be read", f"{type(error).__name__}: {error}"[:300])


def _read(source: Source, found: Found, cudnn: Any, keras_default: Any) -> str:
    """Find out what the file is by its first bytes, and else by its name; fill `found`."""
    start = source.read(0, min(source.size, 16), "beginning")
    suffix = os.path.splitext(source.name)[1].lower()
    archive = Archive(source) if start.startswith(b"PK") else None
    kind = _kind(start, suffix, None if archive is None else list(archive.members))
    if kind == "keras":
        from .keras_file import read_keras

        return read_keras(source, archive, found, cudnn, keras_default)
    if kind == "torch":
        from .torch_file import read_torch

        found.arrays, found.options = read_torch(source, archive)
        return "PyTorch"
    if kind == "json":
        from .json_file import read_json_file

        return read_json_file(source, found)
    if kind == "onnx":
        from .onnx_file import read_onnx

        return read_onnx(source, found)
    read = {"npz": read_npz, "npy": read_npy, "safetensors": read_safetensors}.get(kind)
    if read is None:
        source.bad(
            "beginning",
            "safetensors, npz, a file of PyTorch, HDF5, .keras, .onnx or JSON",
            f"{start[:8]!r} and the suffix {suffix!r}",
        )
    arrays, notes = read(source)
    found.arrays = dict(arrays)
    _read_own(source, found, notes.get(NOTE))
    return kind


def _kind(start: bytes, suffix: str, members: list[str] | None) -> str:
    """A word for the format."""
    if members is not None:
        if any(name.rpartition("/")[2] == "data.pkl" for name in members):
            return "torch"
        return "keras" if "config.json" in members else "npz"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if (start[8:9] == b"{" and start[4:8] == b"\0\0\0\0") or suffix == ".safetensors":
        return "safetensors"
    if suffix == ".onnx":
        return "onnx"
    if start.startswith(b"\x80"):
        return "torch"
    if start.lstrip()[:1] == b"{" or suffix in (".json", ".nam"):
        return "json"
    named = {".npz": "npz", ".pt": "torch", ".pth": "torch", ".bin": "torch", ".jit": "torch"}
    return named.get(suffix, "keras" if suffix in (".h5", ".hdf5", ".keras") else "")


def _read_own(source: Source, found: Found, note: str | None) -> None:
    """Layers whose kinds and options this package wrote into a file."""
    if note is None:
        return
    from .source import read_json

    facts = read_json(source, note.encode(), f"note {NOTE!r}")
    layers = facts.get("layers") if isinstance(facts, dict) else None
    if not isinstance(layers, dict):
        source.bad(f"note {NOTE!r}", "a mapping with layers", type(facts).__name__)
    for name, config in layers.items():
        if not isinstance(config, dict) or not isinstance(config.get("kind"), str):
            source.bad(f"note {NOTE!r}: layer {name!r}", "a mapping with a kind", type(config).__name__)
        options = {
            key: _tuples(value) for key, value in config.items() if key not in ("kind", "states", "unnamed")
        }
        prefix = "" if config.get("unnamed") else f"{name}."
        try:
            cls: Any = class_of(config["kind"])
            keys = [f"{prefix}first_{each}" for each in _listed(config.get("states", []))]
            states = [found.arrays.pop(key).read() for key in keys]
            own: dict[str, Any] = {
                key: array
                for key, array in found.arrays.items()
                if key.startswith(prefix) and "." not in key[len(prefix) :]
            }
            # Those that do not fit are to be named, so there may be some more.
            check_size(cls, options, len(own), 2**16 + 4 * sum(_count(array.shape) for array in own.values()))
            layer = made(cls, options, given(own, prefix))
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            if str(error).startswith(source.name):
                raise
            source.bad(f"layer {name!r}", "options and arrays that go together", str(error)[:1000])
        found.layers[name] = layer
        if states:
            found.states[name] = states[0] if len(states) == 1 else tuple(states)
        for parameter in layer.params:
            found.arrays.pop(prefix + parameter, None)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=object))


def _model(source: Source, found: Found, kind: str) -> Model:
    """Layers of what is left as arrays, and the model."""
    for prefix, members in find_groups(found.arrays).items():
        try:
            layer = layer_of(found.arrays, prefix, members, None, found.options.get(prefix, {}), False)
        except (ValueError, TypeError, OverflowError) as error:
            if str(error).startswith(source.name):
                raise
            if not any("weight_ih" in name for name in members):  # short names, which others use otherwise
                found.notes.append(f"{prefix!r}: arrays by the names of a layer, which are none: {error}")
                continue
            source.bad(f"layer {prefix!r}", "weights of one layer", str(error))
        for option, value in found.stated.items():
            if getattr(layer, option, value) != value:
                source.bad(f"layer {prefix!r}: {option}", value, getattr(layer, option))
        name = unique(prefix.rstrip("._/") or type(layer).__name__.lower(), found.layers)
        found.layers[name] = layer
        if type(layer).__name__.startswith("RNN") and "nonlinearity" not in found.options.get(prefix, {}):
            found.notes.append(
                f"layer {name!r}: the file does not say whether it is tanh or relu; taken as tanh"
            )
        for member in members:
            del found.arrays[member]
    arrays = {}
    for name in list(found.arrays):
        arrays[name] = np.array(found.arrays.pop(name).read())
    assumed = dict.fromkeys(found.assumed)
    for text in assumed:
        warn(f"{source.name}: {text}")
    return Model(found.layers, found.states, arrays, kind, (*found.notes, *assumed))


def states_of(state: Any) -> tuple[Any, ...]:
    """A first state as its members."""
    return state if isinstance(state, tuple) else (state,)


def config_of(layer: Any) -> Mapping[str, Any]:
    """Kind and options of a layer, but for those that are usual, as JSON takes them."""
    known = layer._options
    config = {
        name: value
        for name, value in layer._config().items()
        if name in known and (known[name].is_required or value != known[name].default)
    }
    if config.pop("tied", None) is not None:
        raise ValueError(
            "tied: expected a layer with a weight of its own, got one that shares an Embedding's"
        )
    return {"kind": type(layer).__name__, **config, "dtype": layer.dtype.name}


def as_json(facts: Mapping[str, Any]) -> str:
    """Text of what is kept beside arrays."""
    return json.dumps(facts, allow_nan=False)
