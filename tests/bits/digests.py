# SPDX-License-Identifier: BSD-3-Clause
"""Digests of the bits of every case, and the file that keeps them.

``python -m tests.bits.digests``                  compares this build with the file, on every instruction set
``python -m tests.bits.digests --write``          writes the file
``python -m tests.bits.digests --show CASE ...``  digests of each array of a case: two builds' can be compared
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.problems.children import FUSED_ISAS, ISAS, result_of_child, start_child
from tests.problems.comparing import digest

from .computed import DIFFERS, DIGITS, all_cases, digests_of_this_isa

FILE = Path(__file__).with_name("digests.json")


def digests_of_every_isa() -> dict[str, dict[str, str]]:
    """By instruction set and case, each set in a process of its own, side by side."""
    children = {isa: start_child(digests_of_this_isa, isa=isa) for isa in ISAS}
    return {isa: result_of_child(child) for isa, child in children.items()}


def column(isa: str) -> str:
    """All sets with fused multiply-add give the same bits; the generic one rounds otherwise."""
    return "generic" if isa == "generic" else "fused"


def stored() -> dict[str, dict[str, str]]:
    """By column and case."""
    content: dict[str, dict[str, str]] = json.loads(FILE.read_text())
    return {name: {case: row[name] for case, row in content.items()} for name in ("fused", "generic")}


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """A line for each case that is not as stored."""
    lines = []
    for name in expected | found:
        a, b = found.get(name, "no such case"), expected.get(name, "not stored")
        if a != b:
            lines.append(f"{name}: {a}, stored: {b}")
    return lines


def write(found: dict[str, dict[str, str]]) -> list[str]:
    """Write the file, unless there are complaints."""
    if not FUSED_ISAS or "generic" not in found:
        return [f"expected the generic instruction set and one with fused multiply-add, got {list(found)}"]
    fused = found[FUSED_ISAS[0]]
    complaints = [
        f"{isa}: {name}: {value}, {FUSED_ISAS[0]}: {fused[name]}"
        for isa in FUSED_ISAS[1:]
        for name, value in found[isa].items()
        if value != fused[name]
    ]
    complaints += [
        f"{isa}: {name}: {value}"
        for isa, values in found.items()
        for name, value in values.items()
        if value.startswith(DIFFERS)
    ]
    if not complaints:
        rows = [
            f"{json.dumps(name)}: {json.dumps({'fused': value, 'generic': found['generic'][name]})}"
            for name, value in fused.items()
        ]
        FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    return complaints


def show(names: list[str]) -> None:
    for name in names:
        for number, arrays in enumerate(all_cases()[name]()):
            for key, array in arrays.items():
                print(f"{name} | way {number} | {key} | {array.shape} {array.dtype} {digest(array)[:DIGITS]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the file")
    parser.add_argument("--show", nargs="+", metavar="CASE", help="digests of each array of these cases")
    arguments = parser.parse_args()
    if arguments.show:
        show(arguments.show)
        return 0
    found = digests_of_every_isa()
    if arguments.write:
        lines = write(found)
    else:
        lines = [f"{isa}: {line}" for isa in found for line in differences(found[isa], stored()[column(isa)])]
    print("\n".join([*lines, f"{len(next(iter(found.values())))} cases on {', '.join(found)}"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
