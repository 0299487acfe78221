# SPDX-License-Identifier: BSD-3-Clause
"""Layers, optimizers and schedules in one file of arrays: NumPy's ``.npz``, without pickles."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .model.parameters import Parameters, ParameterSet, put_in_force

__all__ = ["load", "save"]

# Of a list in a state: where its number of members stands.
COUNT = "#"


def save(path: str | os.PathLike[str], objects: Any) -> None:
    """Write parameters of layers, and states of optimizers and schedules, into one file.

    It is written beside its place and put there when it is whole: who reads it finds the old one or the new
    one. The file is that of ``np.savez(path, **layer.state_dict())`` for one layer, and for several that of
    their names and ``state_dict(prefix="name.")``, so that other programs can read it.

    Parameters
    ----------
    path : path_like
        The file, taken as it is: no ``.npz`` is added.
    objects : layer, or mapping of str to layer, optimizer or schedule
        What is written, by names of yours.  Options of layers are not: the program that reads makes them.

    Raises
    ------
    TypeError, ValueError
        `objects` are nothing that has a state; the message names it.

    Examples
    --------
    >>> import tempfile, fastlstm
    >>> lstm, dense = fastlstm.LSTM(3, 4), fastlstm.Dense(4, 2)
    >>> adam = fastlstm.optim.Adam([lstm, dense])
    >>> model = {"lstm": lstm, "dense": dense, "adam": adam}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastlstm.save(f"{folder}/model.npz", model)
    ...     fastlstm.load(f"{folder}/model.npz", model)
    """
    arrays: dict[str, Any] = {}
    for prefix, each in _by_prefix(objects):
        arrays |= dict(_flattened(each.state_dict(), prefix))
    target = os.fspath(path)
    beside = f"{os.fsdecode(target)}.{secrets.token_hex(8)}.part"
    try:
        with open(beside, "xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def load(path: str | os.PathLike[str], objects: Any) -> None:
    """Read what `save` wrote into layers, optimizers and schedules of the same kinds and sizes.

    Parameters
    ----------
    path : path_like
        The file.
    objects : layer, or mapping of str to layer, optimizer or schedule
        What is to be as it was; names as they were given to `save`.  What else the file has is not looked at,
        unless it is one layer alone.

    Raises
    ------
    TypeError, ValueError
        Something is missing or does not fit; the message names it, and nothing has changed.
    OSError
        There is no such file, or it cannot be read.
    """
    named = _by_prefix(objects)
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
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
