# SPDX-License-Identifier: BSD-3-Clause
"""What the stored results of the race say in the documents: docs/speed.md, and one table of the README.

``docs/speed.md`` is written as a whole, a section for each processor that was measured.  The README's table
stands between two marks; its rows are chosen by a rule, not by hand: of each race the comparison that is
worst for fastlstm, and the median one.

python -m benchmarks.docs_tables
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from typing import Any

from . import comparisons, findings, machine, report, tables
from .cells import CELLS, PLAIN, RACED
from .peers import OURS

LOST = "Where fastlstm is behind a peer, misses a goal, or is slower with two threads than with one:"
ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- speed -->\n", "<!-- /speed -->"
# Parts of the race in the order of the documents: their titles on the page, and in the README's table.
PARTS = {
    "forward": ("Forward: the LSTM over sequences, single steps and streams", "LSTM, forward"),
    "training": ("Training: a step of the LSTM", "LSTM, training step"),
    "family": ("Forward: the family", "family, forward"),
    "family_training": ("Training: a step of the family", "family, training step"),
}
HEAD = [
    "shape (T,B,I,H)",
    "fastlstm, 1 thread",
    "best peer",
    "peer / ours",
    "of limit",
    "fastlstm, 2 threads",
    "best peer",
    "peer / ours",
    "of limit",
]


def _label(shape: dict[str, Any]) -> str:
    label = f"({shape['T']},{shape['B']},{shape['I']},{shape['H']})"
    if shape["layers"] > 1:
        label += f" {shape['layers']} layers"
    if shape["directions"] > 1:
        label += f" x {shape['directions']} directions"
    if shape["kind"] == "stream":
        label += " stream"
    return label


def _cells(case: dict[str, Any], threads: int) -> list[str]:
    """Our time and error, the best peer's, their ratio, and the part of the limit that we reach."""
    done = [r for r in case["results"] if r["threads"] == threads and r.get("seconds")]
    ours = next((r for r in done if r["peer"] == OURS), None)
    peers = [r for r in done if r["peer"] not in (OURS, "numpy")]
    if ours is None or not peers:
        return ["-"] * 4
    best = min(peers, key=lambda r: float(r["seconds"]))
    limit = case["limit_seconds"].get(str(threads))
    return [
        f"{tables.duration(ours['seconds'])} ({tables.error(ours['error'])})",
        f"{best['peer']} {tables.duration(best['seconds'])} ({tables.error(best['error'])})",
        tables.ratio(best["seconds"] / ours["seconds"]),
        tables.percent(limit / ours["seconds"]) if limit else "-",
    ]


def section(result: dict[str, Any]) -> str:
    """What one result says, for docs/speed.md."""
    part = report.part_of(result)
    body = _family_section(result) if part.startswith("family") else _lstm_section(result)
    lost = [f"- {line}" for line in findings.losses(result)] or ["- Nowhere in this run."]
    doubts = [f"- {line}" for line in findings.doubts(result)]
    parts = [body, LOST, "\n".join(lost)]
    if doubts:
        parts += ["What to know before believing these figures:", "\n".join(doubts)]
    name = _name(result)
    picture = f"![Time of each contestant over ours](../benchmarks/results/{name}.png)"
    return "\n\n".join([*parts, picture]) + "\n"


def _name(result: dict[str, Any]) -> str:
    """Of the files of a result, without their ends."""
    part = report.part_of(result)
    return str(result.get("name", "race" if part == "forward" else f"race_{part}"))


def _command(part: str) -> str:
    """What repeats a part of the race."""
    options = {"forward": "--forward", "training": "--training", "family": "--family"}
    return f'`make race ARGS="{options.get(part, "--family --training")}"`'


def _lstm_section(result: dict[str, Any]) -> str:
    rows = [
        [_label(case["shape"]), *_cells(case, 1), *_cells(case, 2)]
        for case in result["cases"]
        if case["shape"]["kind"] != "call"
    ]
    if report.part_of(result) == "training":
        how = """\
float32; forward, backward, and the gradients of the input and of all parameters, without an optimiser. A
cell is the time of a step and, in brackets, the largest error of a gradient against a float64 truth,
relative to the largest element of that gradient. The share of the peak counts 24 T B H (I + H) operations
for each layer and direction; activations, and what the backward pass fetches from memory, are not
counted."""
        head = [cell.replace("of limit", "of FMA peak") for cell in HEAD]
    else:
        how = """\
float32. A cell is the time of a call and, in brackets, the largest error against a float64 truth. "Stream"
is `stream.process` on a block of samples, or `stream.step` where T = 1; other rows with T = 1 are one step
from a given state. The limit is the input product at the measured FMA peak plus, for
each step, the slower of that peak and streaming the recurrent weights from the cache that holds them. It
counts no activations; above 100 % a part of the weights stayed in a nearer cache."""
        head = HEAD
    return f"""\
{_measured(result)}

{how}

{tables.markdown_table(head, rows)}

The time of a peer over ours, as a geometric mean over the shapes that it can do: {_means(result)}."""


def _measured(result: dict[str, Any]) -> str:
    measured, part = result["machine"], report.part_of(result)
    versions = ", ".join(f"{peer} {version}" for peer, version in report.peer_versions(result).items())
    name = _name(result)
    details = f"[{name.rpartition('/')[2]}.md](../benchmarks/results/{name}.md)"
    return (
        f"Measured on {measured['time'][:10]} on {measured['cpu']}, {measured['cpus']} CPUs, "
        f"with {versions}. "
        f"All figures, of all peers: {details}; {_command(part)} measures them again."
    )


def _family_section(result: dict[str, Any]) -> str:
    """A row for each cell and number of threads, a column for each size: cells are many."""
    cases = {
        (shape.cell, shape.size): case for case in result["cases"] for shape in [findings.shape_of(case)]
    }
    sizes = list(dict.fromkeys(size for _, size in cases))
    threads = sorted({count for case in result["cases"] for count in findings.thread_counts(case)})
    rows = []
    for cell in RACED:
        for count in threads:
            values = [_family_cell(cases.get((cell, size)), count) for size in sizes]
            if any(values):
                title = _title(cell)
                rows.append([f"{title}, {_threads(count)}", *values])
    head = ["", *(f"({', '.join(map(str, size))})".replace(" ", "") for size in sizes)]
    what = (
        "A training step is forward, backward and all gradients. "
        if "training" in report.part_of(result)
        else ""
    )
    body = f"""\
{_measured(result)}

float32, shapes (T,B,I,H). {what}A cell is our time, and the best peer's time over ours. Rows of different
lengths are uniform in 1..T; the padded LSTM is the plain one on all T x B steps, which torch alone runs
here, and stands in no average.

{tables.markdown_table(head, rows)}

The time of a peer over ours, as a geometric mean over the cells and shapes that it can do:
{_means(result)}."""
    compared = [
        f"fastlstm compared with itself, {_threads(count)}:\n\n"
        + tables.markdown_table(*comparisons.rows(result, count))
        for count in comparisons.thread_counts(result)
    ]
    return "\n\n".join([body, *compared])


def _title(cell: str) -> str:
    """Of a cell in the race of the family, where the plain LSTM is what a padded batch costs."""
    return "padded LSTM" if cell == PLAIN else CELLS[cell].title


def _family_cell(case: dict[str, Any] | None, threads: int) -> str:
    """Our time, the best peer's over ours, and its name."""
    if case is None:
        return ""
    ours, best = findings.our_seconds(case, threads), findings.best_peer(case, threads)
    if ours is None or best is None:
        return ""
    return f"{tables.duration(ours)}, {tables.ratio(best[1] / ours)} {best[0]}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _means(result: dict[str, Any]) -> str:
    """Geometric means of all peers."""
    return "; ".join(
        f"{_threads(threads)}: " + ", ".join(f"{peer} {tables.ratio(value)}" for peer, value in of.items())
        for threads, of in sorted(findings.geometric_means(result).items())
    )


# ---- The page ----------------------------------------------------------------------------------------------


def stored(folder: Path | None = None) -> list[dict[str, Any]]:
    """All results of the race, each with the ``name`` of its file, in the order of the documents.

    Raises
    ------
    ValueError
        If a result stands in the folder of another processor.
    """
    folder = folder or ROOT / "benchmarks" / "results"
    found = []
    for path in sorted(folder.glob("*/race*.json")):
        result = json.loads(path.read_text())
        expected = machine.folder_name(result["machine"]["cpu"])
        if path.parent.name != expected:
            raise ValueError(f"{path}: expected the folder {expected}, got {path.parent.name}")
        found.append(result | {"name": f"{expected}/{path.stem}"})
    return sorted(found, key=lambda result: list(PARTS).index(report.part_of(result)))


def page(results: list[dict[str, Any]]) -> str:
    """docs/speed.md."""
    processors: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        processors.setdefault(result["machine"]["cpu"], []).append(result)
    listed = "\n".join(
        f"- [{cpu}](#{anchor(cpu)}): {'; '.join(PARTS[report.part_of(result)][1] for result in of_cpu)}"
        for cpu, of_cpu in processors.items()
    )
    head = f"""\
# Speed

`make docs-tables` writes this page from the stored results in `benchmarks/results/`; a test compares the
two. There is one section for each processor that was measured, and figures of different processors must
not be compared with each other:

{listed}

## How to read the tables

The race runs fastlstm and its peers on the same weights and inputs, each contestant in a process and an
environment of its own. Every answer is compared with the reference in float64 before it is timed, and
each peer takes part with the fastest of the ways that it offers. A figure is the median over the rounds
of the best sample of a turn. [benchmarks/README.md](../benchmarks/README.md) describes the method, the
limits and the goals.

"Best peer" is the fastest of all peers at that shape, so it changes from row to row. "Peer / ours" is its
time over ours: above 1 fastlstm is faster, below 1 the peer is. Take differences of a few per cent for
noise; each section names what should be known about its run. Below every table stands the full list of
shapes at which fastlstm is behind a peer, misses one of its own goals, or is slower with two threads than
with one. T, B, I, H, L and D in the names of shapes are steps, batch, input, hidden units, layers and
directions.

fastlstm stays below its limits where activations weigh (narrow layers, odd sizes), where a single step
must fetch all weights, and where two threads hand over small steps to each other."""
    sections = []
    for cpu, of_cpu in processors.items():
        sections.append(f"## {cpu}\n\n{_described(of_cpu)}")
        sections += [
            f"### {PARTS[report.part_of(result)][0]}\n\n{section(result).rstrip()}" for result in of_cpu
        ]
    return "\n\n".join([head, *sections]) + "\n"


def anchor(title: str) -> str:
    """Of a heading, as GitHub makes it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _described(results: list[dict[str, Any]]) -> str:
    """The machine, from the first of its results."""
    measured = results[0]["machine"]
    caches = ", ".join(f"{name} {size >> 10} KiB" for name, size in measured["caches"].items())
    peaks = [result["limits"]["fma"]["float32"] / 1e9 for result in results]
    peak = (
        f"{min(peaks):.0f}"
        if round(min(peaks)) == round(max(peaks))
        else f"{min(peaks):.0f} to {max(peaks):.0f}"
    )
    facts = f"{measured['cpus']} CPUs, {measured['system']}" + (f", caches {caches}" if caches else "")
    return f"{facts}; measured FMA peak of one core, float32: {peak} GFLOP/s."


# ---- The README's table ------------------------------------------------------------------------------------


def _compared(result: dict[str, Any]) -> Iterator[tuple[float, list[str]]]:
    """The best peer's time over ours, and cells of a row, of all comparisons."""
    for case in result["cases"]:
        shape = findings.shape_of(case)
        if shape.kind == "call":
            continue
        for threads in findings.thread_counts(case):
            ours, best = findings.our_seconds(case, threads), findings.best_peer(case, threads)
            if ours is not None and best is not None:
                ratio = best[1] / ours
                cell = f"{_title(shape.cell)} " if shape.is_family else ""
                peer = f"{best[0]} {tables.duration(best[1])}"
                yield (
                    ratio,
                    [cell + shape.label, str(threads), tables.duration(ours), peer, tables.ratio(ratio)],
                )


def readme_table(results: list[dict[str, Any]]) -> str:
    """The README's table: of the newest result of each part the worst comparison and the median one."""
    parts = dict.fromkeys(map(report.part_of, results))
    results = [
        max((r for r in results if report.part_of(r) == part), key=lambda r: str(r["machine"]["time"]))
        for part in parts
    ]
    cpus = list(dict.fromkeys(result["machine"]["cpu"] for result in results))
    rows, lost = [], []
    for result in results:
        found = list(_compared(result))
        if found:
            ratios = [ratio for ratio, _ in found]
            which = chr(ord("A") + cpus.index(result["machine"]["cpu"]))
            title = f"{PARTS[report.part_of(result)][1]} ({which})"
            for kind, wanted in (("worst", min(ratios)), ("median", median_low(ratios))):
                rows.append([f"{title}, {kind} of {len(found)}", *found[ratios.index(wanted)][1]])
            lost.append(f"{sum(ratio < 1 for ratio in ratios)} of {len(found)}")
    head = ["race", "shape (T,B,I,H)", "threads", "fastlstm", "fastest peer", "peer / ours"]
    versions: dict[str, str] = {}
    for result in results:
        versions |= report.peer_versions(result)
    listed = [f"{peer} {version.partition('-')[0]}" for peer, version in versions.items() if peer != "numpy"]
    machines = [f"{chr(ord('A') + n)} is {cpu}" for n, cpu in enumerate(cpus)]
    counts = "/".join(dict.fromkeys(str(result["machine"]["cpus"]) for result in results))
    days = sorted({result["machine"]["time"][:10] for result in results})
    when = " to ".join(dict.fromkeys([days[0], days[-1]]))
    return f"""\
{tables.markdown_table(head, rows)}

In the order of the table, a peer was faster in {", ".join(lost)} comparisons.{_stream_step(results)}
All of it is float32, measured {when} with {", ".join(listed)}.
{", and ".join(machines)}, with {counts} CPUs each.
"""


def _stream_step(results: list[dict[str, Any]]) -> str:
    """A sentence about one step of a stream on one thread, the smallest call there is."""
    for result in results:
        for case in result["cases"]:
            shape = findings.shape_of(case)
            ours, best = findings.our_seconds(case, 1), findings.best_peer(case, 1)
            if shape.kind == "stream" and shape.T == 1 and ours is not None and best is not None:
                beside = f"and {tables.duration(best[1])} with {best[0]}"
                return f" One step of a stream of {shape.H} units took {tables.duration(ours)}, {beside}."
    return ""


def main() -> None:
    """Write docs/speed.md, and the table in the README."""
    results = stored()
    (ROOT / "docs" / "speed.md").write_text(page(results))
    readme = ROOT / "README.md"
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md: expected one {BEGIN.strip()} and one {END}")
    before, rest = text.split(BEGIN)
    readme.write_text(before + BEGIN + readme_table(results) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
