# SPDX-License-Identifier: BSD-3-Clause
"""README.md, CONTRIBUTING.md and docs/: code runs, what is named exists, tables are the stored results."""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import os
import re
import subprocess
from pathlib import Path, PurePath

import pytest

import fastlstm
from benchmarks import docs_tables

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README_BYTES = 8192
COMPILER = os.environ.get("CC", "cc")
HANG = 300  # seconds; no test comes near
# What a reader or a command makes, and what is no file of this tree.
NOT_IN_THE_TREE = {".venv", "build/", "dist/", "example.c", "lstm.npz"}
SUFFIXES = "c|h|json|md|npz|pxd|pxi|py|pyi|pyx|sh|toml|txt"

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of one language."""
    return [code for found, code in fenced(page) if found == language]


def fenced(page: Path) -> list[tuple[str, str]]:
    """All fenced code, each with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


@functools.cache
def tree() -> tuple[list[PurePath], list[PurePath]]:
    """Files and folders, without what is built and installed."""
    skipped = {"__pycache__", "build", "dist", "fastlstm.egg-info"}
    files, folders = [], []
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name not in skipped and (name[0] != "." or name == ".ci")]
        place = PurePath(folder).relative_to(ROOT)
        folders.append(place)
        files += [place / name for name in names]
    return files, folders


@functools.cache
def names_of_tests() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^\s*def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


# ---- Code --------------------------------------------------------------------------------------------------


with_python = pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)


@with_python
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """Each block knows the names of those before it; one without a language is what the last one prints."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = ""
    for language, code in fenced(page):
        if language == "python":
            assert not printed, f"not shown: {printed}"
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, str(page), "exec"), names)
            printed = out.getvalue()
        elif not language and printed:
            assert code == printed
            printed = ""
    assert not printed, f"not shown: {printed}"


# How the makefile of that page builds it: tests/c/test_c_core.py, which has the objects.
def test_the_c_core_compiles_into_a_program_without_flags(tmp_path):
    (program,) = blocks(ROOT / "docs" / "c.md", "c")
    (command,) = blocks(ROOT / "docs" / "c.md", "sh")
    (expected,) = blocks(ROOT / "docs" / "c.md", "")
    (tmp_path / "example.c").write_text(program)
    assert command.startswith("cc -O2 ")
    command = f"{COMPILER} -O0 " + command.removeprefix("cc -O2 ")
    environment = {**os.environ, "FASTLSTM": str(ROOT)}
    environment.pop("CFLAGS", None)
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
    example = subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=True, timeout=HANG)
    assert example.stdout == expected


# ---- Names -------------------------------------------------------------------------------------------------


def files_named(page: Path) -> set[str]:
    """Files and folders in backticks; a placeholder such as <isa> is a star."""
    found = set()
    for code in inline_code(page):
        name = re.sub(r"<\w+>", "*", code)
        if re.fullmatch(rf"(?:[\w.*-]+/)*[\w*-]+\.(?:{SUFFIXES})|[\w.*-]+(?:/[\w.*-]+)*/", name):
            found.add(name)
    return found - NOT_IN_THE_TREE


@by_page
def test_every_file_that_is_named_exists(page):
    files, folders = tree()
    missing = [
        name
        for name in sorted(files_named(page))
        if not any(path.match(name.rstrip("/")) for path in (folders if name.endswith("/") else files))
    ]
    assert not missing


@by_page
def test_every_relative_link_resolves(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path) if path else page
        if not file.exists():
            broken.append(target)
        elif anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in {docs_tables.anchor(title) for title in titles}:
                broken.append(target)
    assert not broken


@by_page
def test_every_test_that_is_named_exists(page):
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    assert not named - names_of_tests()


@by_page
def test_every_function_that_is_named_exists(page):
    header = (ROOT / "csrc" / "fastlstm.h").read_text()
    internal = "\n".join(path.read_text() for path in (ROOT / "csrc").rglob("*.[ch]"))
    for code in inline_code(page):
        for name in re.findall(r"\bfastlstm\.((?:[A-Za-z]\w*)(?:\.[A-Za-z]\w*)*)", code):
            if name.split(".")[0] == "torch":  # which needs that, and is imported by its name alone
                assert (ROOT / "src" / "fastlstm" / "torch" / "__init__.py").is_file()
            elif name != "h":
                operator.attrgetter(name)(fastlstm)
        for name in re.findall(r"\b(?:fl|FL)_\w+\b(?!\.)", code):
            known = header if page.name == "c.md" else internal
            assert name in known or name.startswith(("FL_HAVE_", "fl_verb", "fl_noun")), name


@by_page
def test_every_target_of_make_that_is_named_exists(page):
    makefile = (ROOT / "Makefile").read_text()
    commands = [*inline_code(page), *"\n".join(blocks(page, "sh")).splitlines()]
    for command in commands:
        match = re.match(r"make ([a-z-]+)", command)
        if match:
            assert re.search(rf"^{match[1]}:", makefile, re.MULTILINE), command


# ---- The README --------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


def test_every_promise_of_the_readme_names_its_tests():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    promises = re.split(
        r"^\d\. ", text.partition("## Promises\n")[2].partition("\n## ")[0], flags=re.MULTILINE
    )
    assert len(promises) == 1 + 5
    for promise in promises[1:]:
        assert re.search(r"`test_\w+`", promise), promise


# ---- Tables ------------------------------------------------------------------------------------------------


def test_tables_are_what_the_stored_results_say():
    """If not: `make docs-tables`."""
    results = docs_tables.stored()
    assert {result.get("part", "forward") for result in results} == set(docs_tables.PARTS)
    assert (ROOT / "docs" / "speed.md").read_text(encoding="utf-8") == docs_tables.page(results)
    table = docs_tables.readme_table(results)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{docs_tables.BEGIN}{table}{docs_tables.END}" in readme
    assert table.count("\n| ") <= 10 + 1
