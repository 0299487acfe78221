# SPDX-License-Identifier: BSD-3-Clause
"""A pickle as plain data: nothing is imported, nothing is called.

The operations are those of the standard library's ``pickletools``, which only reads them.  A class or
function is a `Name`, what would be an object is an `Inert`, and what would be a call of a function is
refused, unless it is one by which libraries restore their own data: those give an `Inert`, too.
"""

from __future__ import annotations

import io
import pickletools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .source import Source

__all__: list[str] = []

# Modules of the standard library whose classes and functions stand in honest pickles.
_HARMLESS = frozenset(
    [
        "collections",
        "copyreg",
        "_codecs",
        "datetime",
        "decimal",
        "fractions",
        "pathlib",
        "uuid",
        "argparse",
        "types",
        "enum",
        "functools",
        "logging",
        "array",
        "random",
        "threading",
        "re",
        "typing",
        "ordereddict",
        "string",
        "zoneinfo",
        "ipaddress",
        "dataclasses",
    ]
)
_HARMLESS_BUILTINS = frozenset(
    [
        "set",
        "frozenset",
        "bytearray",
        "complex",
        "slice",
        "range",
        "dict",
        "list",
        "tuple",
        "object",
        "int",
        "float",
        "str",
        "bool",
        "bytes",
        "type",
    ]
)
# Functions of other libraries in lower case by which data is restored; else those begin with an underscore.
_RESTORING = frozenset(
    {
        "scalar",
        "dtype",
        "device",
        "build_intlist",
        "build_tensorlist",
        "build_doublelist",
        "build_boollist",
        "build_tensor_from_id",
        "restore_type_tag",
        "ndarray",
        "generator",
        "bfloat16",
        "encode",
    }
)
_MOST = 10_000_000  # operations of one pickle: no model has as many


class Name(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """What would be an object: its class, arguments it would be made with, its state, items it would hold."""

    __slots__ = ("arguments", "items", "kind", "state")

    def __init__(self, kind: Name, arguments: Any = ()) -> None:
        self.kind, self.arguments = kind, arguments
        self.state: Any = None
        self.items: Any = None


class _Mark:
    """Where a sequence of operands begins."""


Function = Callable[[Any], Any]


class Machine:
    """The machine that runs pickles without doing anything.

    Parameters
    ----------
    source : Source
        The file, for messages.
    functions : dict of Name to callable
        What is given the arguments of a call of that name; its result is the value.
    find : callable
        Takes a persistent id, returns what it stands for.
    """

    def __init__(self, source: Source, functions: dict[Name, Function], find: Function) -> None:
        self.source, self.functions, self.find = source, functions, find
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.place = "pickle"

    def run(self, data: io.BytesIO, place: str) -> Any:
        """Read one pickle from where `data` stands, to its end; return what it holds."""
        self.stack, self.memo, self.place = [], {}, place
        count = 0
        operations = pickletools.genops(data)
        while True:
            try:
                operation, argument, position = next(operations)
            except StopIteration:
                self.bad("a pickle that ends with STOP", "its end before")
            except (
                ValueError,
                EOFError,
                IndexError,
                OverflowError,
                UnicodeDecodeError,
                MemoryError,
            ) as error:
                self.bad("a whole pickle", str(error)[:200])
            self.place = f"{place}, byte {position}"
            count += 1
            if count > _MOST:
                self.bad(f"at most {_MOST} operations", "more")
            if operation.name == "STOP":
                return self.pop()
            method = getattr(self, f"do_{operation.name}", None)
            if method is not None:
                method(argument)
            elif operation.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[operation.name]())
            elif operation.name in _LITERALS:
                self.stack.append(argument)
            elif operation.name not in ("PROTO", "FRAME"):
                self.bad("an operation of data", operation.name)

    def bad(self, expected: str, got: object) -> Any:
        """Raise what says that the pickle is wrong, and where."""
        self.source.bad(self.place, expected, got)

    # ---- The stack -------------------------------------------------------------------------------------

    def pop(self) -> Any:
        """The last operand."""
        if not self.stack or self.stack[-1] is _Mark:
            self.bad("an operand", "none")
        return self.stack.pop()

    def top(self) -> Any:
        """The last operand, which stays."""
        if not self.stack or self.stack[-1] is _Mark:
            self.bad("an operand", "none")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        """All operands behind the last mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _Mark:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        self.bad("a mark", "none")
        raise AssertionError

    def do_MARK(self, _: Any) -> None:
        self.stack.append(_Mark)

    def do_POP(self, _: Any) -> None:
        if not self.stack:
            self.bad("an operand", "none")
        self.stack.pop()

    def do_POP_MARK(self, _: Any) -> None:
        self.pop_mark()

    def do_DUP(self, _: Any) -> None:
        self.stack.append(self.top())

    # ---- The memo --------------------------------------------------------------------------------------

    def do_MEMOIZE(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.top()

    def do_PUT(self, at: Any) -> None:
        self.memo[int(at)] = self.top()

    do_BINPUT = do_LONG_BINPUT = do_PUT

    def do_GET(self, at: Any) -> None:
        if int(at) not in self.memo:
            self.bad("what was put before", at)
        self.stack.append(self.memo[int(at)])

    do_BINGET = do_LONG_BINGET = do_GET

    # ---- Containers ------------------------------------------------------------------------------------

    def do_TUPLE(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def _tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def do_TUPLE1(self, _: Any) -> None:
        self._tuple(1)

    def do_TUPLE2(self, _: Any) -> None:
        self._tuple(2)

    def do_TUPLE3(self, _: Any) -> None:
        self._tuple(3)

    def do_LIST(self, _: Any) -> None:
        self.stack.append(self.pop_mark())

    def do_FROZENSET(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def do_DICT(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._set(items)

    def do_APPEND(self, _: Any) -> None:
        value = self.pop()
        self._extend([value])

    def do_APPENDS(self, _: Any) -> None:
        self._extend(self.pop_mark())

    do_ADDITEMS = do_APPENDS

    def _extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Inert):
            target.items = target.items if isinstance(target.items, list) else []
            target = target.items
        if not isinstance(target, list):
            self.bad("a list", type(target).__name__)
        target.extend(items)

    def do_SETITEM(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def do_SETITEMS(self, _: Any) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Inert):
            target.items = target.items if isinstance(target.items, dict) else {}
            target = target.items
        if not isinstance(target, dict) or len(items) % 2:
            self.bad("a mapping, and pairs for it", f"{type(target).__name__} and {len(items)} values")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Others, as tuples, need not be hashable, nor hashed in a short time.
            target[key if isinstance(key, (str, int, float, bytes)) or key is None else Key(key)] = value

    # ---- Names and objects -----------------------------------------------------------------------------

    def do_GLOBAL(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Name(module, name))

    def do_STACK_GLOBAL(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self.bad("the name of a class", type(name).__name__)
        self.stack.append(Name(module, name))

    def do_REDUCE(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(self._called(function, arguments))

    def do_NEWOBJ(self, _: Any) -> None:
        arguments, cls = self.pop(), self.pop()
        self.stack.append(self._called(cls, arguments))

    def do_NEWOBJ_EX(self, _: Any) -> None:
        _names, arguments, cls = self.pop(), self.pop(), self.pop()
        self.stack.append(self._called(cls, arguments))

    def do_OBJ(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(self._called(items[0] if items else None, tuple(items[1:])))

    def do_INST(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._called(Name(module, name), tuple(self.pop_mark())))

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            self.bad("a class and its arguments", type(function).__name__)
        if function in self.functions:
            return self.functions[function](arguments)
        root, last = function.module.partition(".")[0], function.name.rpartition(".")[2]
        if root in ("builtins", "__builtin__"):
            is_data = function.name in _HARMLESS_BUILTINS
        elif root in sys.stdlib_module_names or root in ("exceptions", "copy_reg"):
            is_data = root in _HARMLESS or root == "copy_reg"
        else:
            is_data = root == "__torch__" or last[:1].isupper() or last[:1] == "_" or last in _RESTORING
        if not is_data:
            self.bad("a pickle that calls nothing", f"a call of {str(function)[:100]!r}")
        return Inert(function, arguments)

    def do_BUILD(self, _: Any) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # attributes of an OrderedDict are not looked at
            self.bad("an object", type(target).__name__)

    def do_PERSID(self, argument: Any) -> None:
        self.stack.append(self.find(argument))

    def do_BINPERSID(self, _: Any) -> None:
        self.stack.append(self.find(self.pop()))


class Key:
    """What stands where a key of a mapping should be."""

    def __init__(self, value: Any) -> None:
        self.value = value


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
