# SPDX-License-Identifier: BSD-3-Clause
"""Random numbers of the C tests are drawn one after the other, or each compiler would test other problems."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRAW = re.compile(r"\brandom_(?:size|chance|real|bits)\s*\(")
# Operators whose sides a compiler may compute in any order.
UNORDERED = re.compile(
    r"random_\w+\s*\([^()]*\)\s*(?:[-+*/%^<>]|(?<!&)&(?!&)|(?<!\|)\|(?!\|)|[!=]=)+\s*random_\w+\s*\("
)


def groups(text: str):
    """Line and items of each list in brackets or braces: arguments, or an initialiser."""
    open_at: list[list[int]] = []
    for place, letter in enumerate(text):
        if letter in "({":
            open_at.append([place])
        elif letter in ",;" and open_at:
            open_at[-1].append(place)
        elif letter in ")}" and open_at:
            cuts = open_at.pop()
            items = [text[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], place], strict=True)]
            # A block of statements, and the head of a loop, are in order.
            if not any(text[cut] == ";" for cut in cuts[1:]):
                yield text.count("\n", 0, cuts[0]) + 1, items


def faults(text: str) -> list[int]:
    text = re.sub(r"/\*.*?\*/", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)
    found = [line for line, items in groups(text) if sum(bool(DRAW.search(item)) for item in items) > 1]
    return found + [text.count("\n", 0, match.start()) + 1 for match in UNORDERED.finditer(text)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("f(random_size(1, 2), random_bits());", 1),
        ("const size_t sizes[2] = {random_size(1, 2),\n random_size(1, 2)};", 1),
        ("f(g(random_real(1.0)), 2 + random_real(2.0));", 1),
        ("x = random_bits() + random_bits();", 1),
        ("const size_t a = random_size(1, 2), b = random_size(1, 2);", 0),
        ("{ a = random_bits(); f(random_bits(), 1); }", 0),
        ("x = random_chance(2) && random_chance(3) ? random_size(0, 1) : random_size(1, 2);", 0),
    ],
)
def test_the_search_finds_them(text, count):
    assert len(faults(text)) == count


def test_no_two_draws_in_one_argument_list():
    sources = sorted((ROOT / "tests" / "c").rglob("*.[ch]"))
    assert len(sources) > 15
    found = {path.name: faults(path.read_text()) for path in sources}
    assert not {name: lines for name, lines in found.items() if lines}
