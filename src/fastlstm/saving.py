# SPDX-License-Identifier: BSD-3-Clause
"""Layers, optimizers and schedules in one file of arrays, without pickles; models from files of any kind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from .files.arrays_file import read_npz, read_safetensors
from .files.loaded import Model, load_model
from .files.source import Source
from .files.written import EXPORTED, notes_of, suffix_of, write_arrays, write_exported, write_model
from .model.parameters import Parameters, ParameterSet, put_in_force

if TYPE_CHECKING:
    from .model.tensors import Stored

__all__ = ["Model", "load", "save"]

# Of a list in a state: where its number of members stands.
COUNT = "#"


def save(path: str | os.PathLike[str], objects: Any) -> None:
    """Write parameters of layers, and states of optimizers and schedules, into one file.

    It is written beside its place and put there when it is whole: who reads it finds the old one or the new
    one. The file is that of ``np.savez(path, **layer.state_dict())`` for one layer, and for several that of
    their names and ``state_dict(prefix="name.")``, so that other programs can read it.  With a path that ends
    in ``.safetensors`` it is of that format.  Kinds and options of layers stand beside the arrays, where
    other programs do not look, so that `load` can make the layers again.

    Parameters
    ----------
    path : path_like
        The file, taken as it is: no ``.npz`` is added.  ``.onnx`` writes a graph of the layers, see
        `to_onnx`, and ``.json`` a model of RTNeural: layers in a row, each LSTM, GRU or Dense.
    objects : layer, mapping of str to layer, optimizer or schedule, or Model
        What is written, by names of yours; a `Model` as `load` returns it.

    Raises
    ------
    TypeError, ValueError
        `objects` are nothing that has a state, or what the format cannot say; the message names it.

    Examples
    --------
    >>> import tempfile, fastlstm
    >>> lstm, dense = fastlstm.LSTM(3, 4), fastlstm.Dense(4, 2)
    >>> adam = fastlstm.optim.Adam([lstm, dense])
    >>> model = {"lstm": lstm, "dense": dense, "adam": adam}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastlstm.save(f"{folder}/model.npz", model)
    ...     fastlstm.load(f"{folder}/model.npz", model)
    ...     list(fastlstm.load(f"{folder}/model.npz").layers)
    ['lstm', 'dense']
    """
    if isinstance(objects, Model):
        write_model(path, objects)
        return
    named = _by_prefix(objects)
    if suffix_of(path) in EXPORTED:
        write_exported(path, objects)
        return
    arrays: dict[str, Any] = {}
    for prefix, each in named:
        arrays |= dict(_flattened(each.state_dict(), prefix))
    layers = {prefix.removesuffix("."): each for prefix, each in named if isinstance(each, Parameters)}
    kept = {
        name or type(each).__name__.lower(): each
        for name, each in layers.items()
        if getattr(each, "tied", None) is None
    }
    write_arrays(path, arrays, notes_of(kept, {}, isinstance(objects, Parameters)))


@overload
def load(
    path: str | os.PathLike[str],
    objects: None = None,
    *,
    cudnn: bool | None = None,
    keras_default: str | None = None,
) -> Model: ...
@overload
def load(path: str | os.PathLike[str], objects: Any) -> None: ...
def load(
    path: str | os.PathLike[str],
    objects: Any = None,
    *,
    cudnn: bool | None = None,
    keras_default: str | None = None,
) -> Model | None:
    """Read a model of any kind of file; or read what `save` wrote into objects that are there.

    Files may be of PyTorch (``.pt``, ``.pth``, ``.bin``, ``.jit``), Keras 1 to 3 (``.h5``, ``.hdf5``,
    ``.keras``), ONNX (``.onnx``), safetensors, NumPy (``.npz``), Neural Amp Modeler (``.nam``), RTNeural and
    GuitarML (``.json``).  None of these programs is needed, and nothing in a file is executed.  HDF5 and ONNX
    are read by h5py and onnx: ``pip install fastlstm[files]``.

    Parameters
    ----------
    path : path_like
        The file.
    objects : layer, or mapping of str to layer, optimizer or schedule, optional
        What is to be as it was; names as they were given to `save`.  What else the file has is not looked at,
        unless it is one layer alone.
    cudnn : bool, optional
        Whether a GRU of Keras, of which there are weights alone, is a CuDNNGRU.  Only needed where an
        exception says so.
    keras_default : {"sigmoid", "hard_sigmoid"} or a version, optional
        What gates of Keras' layers have where the file does not say it; or the version of Keras that wrote
        the file, as ``"2.2"``.  None: by the file's version, with a warning that says what was assumed.

    Returns
    -------
    Model or None
        Without `objects` a `Model`: ``layers``, ``states``, ``arrays``, by the file's names.

    Raises
    ------
    TypeError, ValueError
        The file is not whole, or something is missing or does not fit; the message names the file and the
        place, what was expected and what came, and nothing has changed.
    OSError
        There is no such file, or it cannot be read.
    ModuleNotFoundError
        h5py or onnx is missing.
    """
    if objects is None:
        return load_model(path, cudnn, keras_default)
    _load_into(path, objects)
    return None


def _load_into(path: str | os.PathLike[str], objects: Any) -> None:
    named = _by_prefix(objects)
    with open(path, "rb") as file:
        source = Source(file, os.fsdecode(path))
        is_archive = source.read(0, min(2, source.size), "beginning") == b"PK"
        stored: dict[str, Stored] = (read_npz if is_archive else read_safetensors)(source)[0]
        arrays = {name: value.read() for name, value in stored.items()}
    changes: list[tuple[Parameters, ParameterSet]] = []
    others = []
    for prefix, each in named:
        if isinstance(each, Parameters):
            changes += each._loaded(arrays, prefix, True)[1]
        else:
            others.append((each, each.state_dict(), _nested(arrays, prefix)))
    before = [(layer, layer._parameter_set()) for layer, _ in changes]
    done = 0
    try:
        for each, _, state in others:
            done += 1
            each.load_state_dict(state)
        put_in_force(changes)
    except BaseException:
        for each, state, _ in others[:done]:
            each.load_state_dict(state)
        put_in_force(before)
        raise


def _by_prefix(objects: Any) -> list[tuple[str, Any]]:
    """What is to be saved, each with what stands before its names."""
    if isinstance(objects, Parameters):
        return [("", objects)]
    if not isinstance(objects, Mapping) or not objects:
        raise TypeError(
            f"objects: expected a layer, or a mapping of names to layers and optimizers, "
            f"got {type(objects).__name__}"
        )
    for name, each in objects.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"objects: expected names without a dot, got {name!r}")
        if isinstance(each, type) or not (hasattr(each, "state_dict") and hasattr(each, "load_state_dict")):
            raise TypeError(
                f"objects[{name!r}]: expected a layer, optimizer or schedule, got {type(each).__name__}"
            )
    return [(f"{name}.", each) for name, each in objects.items()]


def _flattened(state: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """A state as arrays, each by the way to it; members of a list of mappings by their number."""
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}.{COUNT}", np.asarray(len(value))
            for number, member in enumerate(value):
                yield from _flattened(member, f"{prefix}{name}.{number}.")
        else:
            yield prefix + name, np.asarray(value)


def _nested(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The inverse."""
    own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    if not own:
        raise ValueError(f"objects: expected names that the file has, got none that begins with {prefix!r}")
    state: dict[str, Any] = {}
    for name, value in own.items():
        first, _, rest = name.partition(".")
        if rest == COUNT:
            state[first] = [_members(own, f"{first}.{number}.") for number in range(int(value))]
        elif not rest:
            state[first] = _as_python(value)
    return state


def _members(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _as_python(array: Any) -> Any:
    """A number, flag, text or tuple that became an array."""
    value = array.tolist()
    return tuple(value) if isinstance(value, list) else value
