# SPDX-License-Identifier: BSD-3-Clause
"""A file as its readers see it: every read is inside it, every size is checked before memory is taken."""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from ..model.tensors import Stored, from_bfloat16

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__: list[str] = []

# What all arrays of a file may take, as a multiple of its size, and at least: compressed arrays and views
# that repeat their elements are larger than what is stored.
EXPANSION, LEAST = 3, 2**25
MOST_ITEMS = 2**31  # of a dimension; and more than any model has


class Source:
    """A file that is read with checks.

    Parameters
    ----------
    file : binary file
        Open for reading, with a position.
    name : str
        For messages.
    outer : Source, optional
        The archive that it is a member of, whose limits hold.
    """

    def __init__(self, file: Any, name: str, outer: Source | None = None) -> None:
        self.file, self.name, self.outer = file, name, outer
        self.folder = ""  # that the file is in
        self.size = file.seek(0, os.SEEK_END)
        self.left = max(LEAST, EXPANSION * self.size)

    def bad(self, place: str, expected: str, got: object) -> NoReturn:
        """Raise what says that the file is not as it has to be, and where."""
        raise ValueError(f"{self.name}: {place}: expected {expected}, got {got}")

    def read(self, begin: int, size: int, place: str) -> bytes:
        """Bytes of the file."""
        if not (begin >= 0 and size >= 0 and begin + size <= self.size):
            self.bad(place, f"bytes within the file's {self.size}", f"{size} from {begin} on")
        self.file.seek(begin)
        data: bytes = self.file.read(size)
        if len(data) != size:
            self.bad(place, f"{size} bytes", len(data))
        return data

    def take(self, size: int, place: str) -> None:
        """Count bytes that arrays will need."""
        if self.outer is not None:
            self.outer.take(size, place)
            return
        self.left -= size
        if self.left < 0:
            most = max(LEAST, EXPANSION * self.size)
            self.bad(
                place, f"at most {most} bytes of arrays in a file of {self.size}", f"{size} more than is left"
            )

    def shape(self, value: Any, place: str) -> tuple[int, ...]:
        """A shape that a file gives."""
        if not isinstance(value, (list, tuple)) or len(value) > 32:
            self.bad(place, "a shape of at most 32 dimensions", _shown(value))
        for size in value:
            if type(size) is not int or not 0 <= size < MOST_ITEMS:
                self.bad(place, "a shape of sizes of at least 0", _shown(value))
        return tuple(value)

    def stored(
        self,
        shape: tuple[int, ...],
        dtype: str,
        size: int,
        place: str,
        read: Callable[[], bytes],
        order: Literal["<", ">"] = "<",
    ) -> Stored:
        """An array of `size` bytes in C order that `read` gives when they are needed."""
        kind = np.dtype("u2" if dtype == "bfloat16" else dtype).newbyteorder(order)
        needed = math.prod(shape) * kind.itemsize
        if needed != size:
            self.bad(place, f"{needed} bytes for shape {shape} and {dtype}", size)
        self.take(needed, place)

        def load() -> NDArray[Any]:
            data = read()
            if len(data) != needed:
                self.bad(place, f"{needed} bytes", len(data))
            array = np.frombuffer(data, kind).reshape(shape)
            native = array.astype(kind.newbyteorder("="), copy=False)
            return from_bfloat16(native) if dtype == "bfloat16" else native

        return Stored(shape, dtype, load)


def _shown(value: object) -> str:
    """A value of a file in a message: not all of it, and in characters that can be shown."""
    text = repr(value) if not isinstance(value, (list, tuple)) else repr(value[:33])
    return text if len(text) <= 100 else f"{text[:97]}..."


def read_json(source: Source, data: bytes, place: str) -> Any:
    """What JSON text says; a name that stands twice in a mapping is refused."""
    import json

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            source.bad(place, "each name once", next(name for name in names if names.count(name) > 1))
        return result

    try:
        return json.loads(data, object_pairs_hook=once)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        source.bad(place, "JSON", error)
    except RecursionError:
        source.bad(place, "JSON that is not so deep", "more levels than Python can take")


# ---- Archives ----------------------------------------------------------------------------------------------


class Archive:
    """A zip file whose members are read into memory, and never unpacked to a place that they name."""

    def __init__(self, source: Source) -> None:
        self.source = source
        try:
            self.zip = zipfile.ZipFile(source.file)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            source.bad("archive", "a whole zip file", error)
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in self.zip.infolist():
            name = info.filename
            parts = name.replace("\\", "/").split("/")
            if (
                name.startswith(("/", "\\"))
                or ".." in parts
                or re.match("[A-Za-z]:", name)
                or "\0" in info.orig_filename
            ):
                source.bad("archive", "members by relative names", _shown(name))
            if name in self.members:
                source.bad("archive", "each member once", _shown(name))
            if info.flag_bits & 1:
                source.bad(f"member {_shown(name)}", "one that is not encrypted", "an encrypted one")
            self.members[name] = info

    def size(self, name: str) -> int:
        """Bytes of a member."""
        return self.members[name].file_size

    def read(self, name: str, most: int | None = None) -> bytes:
        """A member's bytes, or its first ones."""
        place = f"member {_shown(name)}"
        if name not in self.members:
            self.source.bad("archive", place, f"members {_shown(list(self.members))}")
        info = self.members[name]
        size = info.file_size if most is None else min(most, info.file_size)
        limit = max(LEAST, EXPANSION * self.source.size)
        if size > limit:
            self.source.bad(place, f"at most {limit} bytes in an archive of {self.source.size}", size)
        try:
            with self.zip.open(info) as file:
                data = file.read(size)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            self.source.bad(place, "data that can be unpacked", error)
        if len(data) != size:
            self.source.bad(place, f"{size} bytes", len(data))
        return data

    def member(self, name: str) -> Source:
        """A member as a file of its own."""
        return Source(io.BytesIO(self.read(name)), f"{self.source.name}: {name}", self.source)


def stored_array(array: NDArray[Any]) -> Stored:
    """An array that is in memory."""
    return Stored(array.shape, array.dtype.name, lambda: array)


def unique(name: str, taken: Iterable[str] | Mapping[str, Any]) -> str:
    """`name`, or with a number behind it, so that it is none of those taken."""
    own, number = name, 1
    while own in taken:
        own, number = f"{name}#{number}", number + 1
    return own
