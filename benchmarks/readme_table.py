"""The race's tables for the README, from `results/race*.json`.

Each goes between two marks of the README; a result or a pair of marks that is not there is left out.

python -m benchmarks.readme_table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import comparisons, findings, report, tables
from .cells import CELLS, PLAIN, RACED

ROOT = Path(__file__).resolve().parent.parent
# The result, and the mark: the table stands between <!-- mark --> and <!-- /mark -->.
SECTIONS = {
    "race.json": "race",
    "race_training.json": "race-training",
    "race_family.json": "race-family",
    "race_family_training.json": "race-family-training",
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
    return label


def _cells(case: dict[str, Any], threads: int) -> list[str]:
    """Our time and error, the best peer's, their ratio, and the part of the limit that we reach."""
    done = [r for r in case["results"] if r["threads"] == threads and r.get("seconds")]
    ours = next((r for r in done if r["peer"] == "fastlstm"), None)
    peers = [r for r in done if r["peer"] not in ("fastlstm", "numpy")]
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
    """The README's section about speed, in Markdown."""
    if report.part_of(result).startswith("family"):
        return _family_section(result)
    rows = [
        [_label(case["shape"]), *_cells(case, 1), *_cells(case, 2)]
        for case in result["cases"]
        if case["shape"]["kind"] != "call"
    ]
    slower = [row[0] for row in rows if any(_is_loss(cell) for cell in (row[3], row[7]))]
    lost = "none in this run" if not slower else ", ".join(slower)
    measured = _measured(result)
    if report.part_of(result) == "training":
        return _training_section(result, measured, rows, lost)
    return f"""\
Measured on {measured}.

float32; time a call and, in brackets, the largest error against a float64 truth. T = 2000 is `stream.process`
on a block, (1,1,1,16) `stream.step`. The limit is the input product at the measured FMA peak plus, for each
step, the slower of that peak and streaming the recurrent weights from the cache that holds them; it counts no
activations, and above 100 % a part of the weights stayed in a nearer cache. All figures, the other peers and
goals that were missed: [race.md](benchmarks/results/race.md); [method](benchmarks/README.md); `make race`
repeats it.

{tables.markdown_table(HEAD, rows)}

Where a peer was faster: {lost}. We stay below the limit where activations weigh (narrow layers, odd sizes),
where a single step must fetch all weights, and where two threads hand over small steps.

![race](benchmarks/results/race.png)
"""


def _measured(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{peer} {version}" for peer, version in report.peer_versions(result).items())
    return f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['time'][:10]}; {versions}"


def _family_section(result: dict[str, Any]) -> str:
    """A row for each cell and number of threads, a column for each size: cells are many."""
    is_training = report.part_of(result) == "family_training"
    cases = {
        (shape.cell, shape.size): case for case in result["cases"] for shape in [findings.shape_of(case)]
    }
    sizes = list(dict.fromkeys(size for _, size in cases))
    threads = sorted({count for case in result["cases"] for count in findings.thread_counts(case)})
    rows, lost = [], []
    for cell in RACED:
        for count in threads if cell != PLAIN else ():
            title = f"{CELLS[cell].title}, {_threads(count)}"
            values = [_family_cell(cases.get((cell, size)), count) for size in sizes]
            if any(values):
                rows.append([title, *values])
            lost += [
                f"{title} {findings.shape_of(cases[cell, size]).label}"
                for size, value in zip(sizes, values, strict=True)
                if _is_loss(value.rpartition(" ")[0])
            ]
    compared = [
        f"fastlstm compared with itself, {_threads(count)}:\n\n"
        + tables.markdown_table(*comparisons.rows(result, count))
        for count in comparisons.thread_counts(result)
    ]
    name = "race_family_training" if is_training else "race_family"
    what = "A training step (forward, backward, all gradients)" if is_training else "Forward"
    head = ["", *(f"({', '.join(map(str, size))})".replace(" ", "") for size in sizes)]
    body = f"""\
{what}, float32, shapes (T,B,I,H), measured on {_measured(result)}.

Our time, and the best peer's over ours. Rows of different lengths are uniform in 1..T. Times, errors, limits,
all peers and who was left out: [{name}.md](benchmarks/results/{name}.md); [method](benchmarks/README.md);
`make race ARGS="--family{" --training" if is_training else ""}"` repeats it.

{tables.markdown_table(head, rows)}

Time of a peer over ours, geometric mean over the cells and shapes that it has ({_means(result)}).
Where a peer was faster: {", ".join(lost) or "none in this run"}.
"""
    return "\n\n".join([body.rstrip("\n"), *compared]) + "\n"


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


def _training_section(result: dict[str, Any], measured: str, rows: list[list[str]], lost: str) -> str:
    head = [cell.replace("of limit", "of FMA peak") for cell in HEAD]
    return f"""\
A training step, measured on {measured}.

float32; forward, backward, and the gradients of the input and of all parameters, without an optimizer. Time
a step and, in brackets, the largest error of a gradient against a float64 truth, relative to the largest
element of that gradient. Per cent of the measured FMA peak are those of 24 T B H (I + H) operations for each
layer and direction; activations and what backward fetches from memory are not counted. All figures and goals
that were missed: [race_training.md](benchmarks/results/race_training.md); [method](benchmarks/README.md);
`make race ARGS=--training` repeats it.

{tables.markdown_table(head, rows)}

Time of a peer over ours, geometric mean over the shapes ({_means(result)}). Where a peer was faster: {lost}.

![training race](benchmarks/results/race_training.png)
"""


def _is_loss(cell: str) -> bool:
    """Whether a cell ends in a ratio, such as ``"0.95x"``, below 1."""
    ratio = cell.rpartition(" ")[2]
    return ratio.endswith("x") and float(ratio.rstrip("x")) < 1


def main() -> None:
    """Replace the sections in the README."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, mark in SECTIONS.items():
        path, begin, end = ROOT / "benchmarks" / "results" / name, f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        if not path.exists() or begin not in text:
            print(f"{mark}: left out, no {path.name if begin in text else begin.strip()}")
            continue
        before, rest = text.split(begin)
        text = before + begin + section(json.loads(path.read_text())) + end + rest.partition(end)[2]
    readme.write_text(text)


if __name__ == "__main__":
    main()
