# SPDX-License-Identifier: BSD-3-Clause
"""Folders are floors: what one includes or imports lies on its own floor or below."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the ground up.  Folders of one line do not know each other.
C_FLOORS = (
    ("platform",),
    ("base",),
    ("model",),
    ("kernels",),
    ("kernels/simd",),
    ("kernels/cells", "kernels/products"),
    ("kernels/walks",),
    ("kernels/isa",),
    ("stack", "dense"),
    ("forward",),
    ("backward",),
    ("api",),
)
PYTHON_FLOORS = (
    ("reference", "_core"),
    ("model",),
    ("passes",),
    ("layers",),
    ("interop", "torch"),
    ("convert",),
    ("files",),
    ("",),
)
# Everybody may have the public API, and the guard that each file comes by.
PUBLIC = {"fastlstm.h", "base/exact.h"}


def height(floors: tuple[tuple[str, ...], ...], folder: str) -> int:
    for n, folders in enumerate(floors):
        if folder in folders:
            return n
    raise AssertionError(f"{folder or 'the top'}: a folder without a floor")


def includes() -> Iterator[tuple[str, str]]:
    """File and included file, both from csrc/ on."""
    core = ROOT / "csrc"
    for path in sorted(core.rglob("*.[ch]")):
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            assert (core / name).is_file(), f"{path.name} includes {name}, which is not there from csrc/ on"
            yield path.relative_to(core).as_posix(), name


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``, which are about types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from run_time_nodes(node)


def imports() -> Iterator[tuple[str, str]]:
    """Folder of a module and folder of one that it imports, both from src/fastlstm/ on; "" is the top."""
    package = ROOT / "src" / "fastlstm"
    for path in sorted(package.rglob("*.py")):
        here = path.relative_to(package).parent.parts
        for node in run_time_nodes(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for alias in node.names:
                parts = base or [alias.name]  # from . import name
                folder = parts[0] if parts[0] == "_core" or (package / parts[0]).is_dir() else ""
                yield "/".join(here[:1]), folder


def folder_of(name: str) -> str:
    return str(Path(name).parent) if "/" in name else ""


def test_every_folder_has_a_floor():
    core = {
        path.relative_to(ROOT / "csrc").as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_dir()
    }
    assert core == {folder for folders in C_FLOORS for folder in folders}
    package = ROOT / "src" / "fastlstm"
    python = {path.name for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert python == {folder for folders in PYTHON_FLOORS for folder in folders} - {"", "_core"}


def test_includes_go_down():
    for name, included in includes():
        if included in PUBLIC or folder_of(name) == folder_of(included):
            continue
        above, below = height(C_FLOORS, folder_of(name)), height(C_FLOORS, folder_of(included))
        assert above > below, f"csrc/{name} includes {included}"


def test_imports_go_down():
    seen = set(imports())
    assert ("layers", "passes") in seen
    for importer, imported in seen:
        if importer == imported:
            continue
        above, below = height(PYTHON_FLOORS, importer), height(PYTHON_FLOORS, imported)
        assert above > below, f"src/fastlstm/{importer} imports {imported or 'the top'}"


def test_no_file_includes_itself_in_a_circle():
    below: dict[str, set[str]] = {}
    for name, included in includes():
        below.setdefault(name, set()).add(included)
    for start in below:
        reached, todo = set(), list(below[start])
        while todo:
            name = todo.pop()
            if name not in reached:
                reached.add(name)
                todo.extend(below.get(name, ()))
        assert start not in reached, f"{start} includes itself"


@pytest.mark.parametrize("folder", ["csrc", "src/fastlstm", "tests"])
def test_no_folder_holds_more_than_twenty_files(folder):
    for path in [ROOT / folder, *(ROOT / folder).rglob("*")]:
        if path.is_dir() and path.name != "__pycache__":
            files = [entry.name for entry in path.iterdir() if entry.is_file()]
            assert len(files) <= 20, f"{path.relative_to(ROOT)}: {len(files)} files"


def test_the_binding_has_no_comprehensions():
    """What Cython 3.3 makes of a list comprehension gives an item back twice where the list cannot grow."""
    binding = ROOT / "src" / "fastlstm" / "binding"
    for path in sorted(binding.glob("*.px[id]")):
        code = re.sub(r"#.*", "", path.read_text())
        assert not re.search(r"\[[^\[\]\n]* for \w+(, \w+)* in ", code), path.name
