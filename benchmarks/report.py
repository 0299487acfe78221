# SPDX-License-Identifier: BSD-3-Clause
"""A result of the race as tables (plain text and Markdown) and as a plot."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import comparisons
from benchmarks.cells import CELLS
from benchmarks.findings import (
    best_peer,
    by_peer,
    call_overheads,
    doubts,
    geometric_means,
    losses,
    our_seconds,
    shape_of,
    thread_counts,
    wrong_answers,
)
from benchmarks.peers import OURS
from benchmarks.shapes import CALL_OVERHEAD_TARGET_SECONDS
from benchmarks.tables import duration, error, markdown_table, percent, ratio, text_table

__all__ = ["console", "markdown", "write", "wrong_answers"]

TITLES = {
    "sequence": "Whole sequences, shape (T,B,I,H)",
    "step": "One step from a given state, shape (T,B,I,H)",
    "stream": "Streams, a step: blocks of samples, and one sample a call",
    "training": "A training step: forward, backward, all gradients, shape (T,B,I,H)",
}
PLOT_TITLES = {
    "forward": "LSTM forward",
    "training": "LSTM training step",
    "family": "the family forward",
    "family_training": "the family, a training step",
}
COLORS = {
    "fastlstm": "#1b7837",
    "torch": "#d6604d",
    "onnxruntime": "#4393c3",
    "openvino": "#9970ab",
    "jax": "#f4a582",
    "tensorflow": "#dfc27d",
    "numpy": "#bababa",
}
OTHER_COLOR = "black"
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def write(result: dict[str, Any], json_path: Path) -> None:
    """Write Markdown and plot beside the JSON file."""
    json_path.with_suffix(".md").write_text(markdown(result) + "\n")
    plot(result, json_path.with_suffix(".png"))


def markdown(result: dict[str, Any]) -> str:
    """All tables, as a README may take them over."""
    described = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in peer_versions(result).items())
    head = f"{described['cpu']}, {described['cpus']} CPUs, {described['system']}, {described['time']}; "
    head += f"{versions}."
    peak = f"the FMA peak ({result['limits']['fma']['float32'] / 1e9:.0f} GFLOP/s a core)"
    is_family = part_of(result).startswith("family")
    if part_of(result) in ("training", "family_training"):
        flops = "three times those of the forward products" if is_family else "24 T B H (I + H)"
        how = (
            "float32. From x and the gradient of y to the gradients of x and of all parameters. A cell is "
            "time (largest error of a gradient against a float64 truth, relative to the largest element of "
            f"that gradient). The limit is {flops} operations for each layer and direction at {peak}."
        )
    else:
        how = (
            "float32. A cell is time (largest error against a float64 truth). The limit is the input product "
            f"at {peak} plus, for each step, the slower of that peak and streaming the recurrent weights "
            "from the cache that holds them."
        )
    if is_family:
        how += (
            " Of rows of different lengths it counts the real steps alone; that of MinGRU and MinLSTM is the "
            "slower of the peak and one way of their sequences from or to memory. The plain LSTM stands here "
            "for the padded batch."
        )
    return "\n\n".join([head, how, *_tables(result, markdown_table, "### "), *_lists(result, "### ", "- ")])


def console(result: dict[str, Any]) -> str:
    """The same for a terminal."""
    return "\n\n".join(["", *_tables(result, text_table, ""), *_lists(result, "", "  ")])


def part_of(result: dict[str, Any]) -> str:
    return str(result.get("part", "forward"))


def peer_versions(result: dict[str, Any]) -> dict[str, str]:
    """Version of each peer by its own name."""
    return {
        contestant["peer"]: contestant["versions"].get(contestant["peer"], "?")
        for contestant in result.get("contestants", [])
    }


def _groups(result: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Cases that share a table, with its title."""
    groups = [
        (title, [case for case in result["cases"] if case["shape"]["kind"] == kind])
        for kind, title in TITLES.items()
    ]
    for cell, form in CELLS.items():
        of_cell = [
            case for case in result["cases"] if shape_of(case).is_family and shape_of(case).cell == cell
        ]
        step = ", a training step" if part_of(result) == "family_training" else ""
        groups.append((f"{form.title}{step}, shape (T,B,I,H)", of_cell))
    return groups


def _tables(result: dict[str, Any], table: Table, mark: str) -> list[str]:
    parts = []
    for title, cases in _groups(result):
        for threads in sorted({count for case in cases for count in thread_counts(case)}):
            peers = _peers_of(result, cases, threads)
            rows = [_row(case, threads, peers) for case in cases if threads in thread_counts(case)]
            shape = shape_of(cases[0])
            extra = ["goal"] if shape.kind == "stream" else []
            share = "of peak" if shape.is_training else "of limit"
            head = ["shape", "limit", *extra, *peers, share, "best peer / ours"]
            parts.append(
                f"{mark}{title}, {threads} thread{'s' if threads > 1 else ''}\n\n{table(head, rows)}"
            )
    for threads in comparisons.thread_counts(result):
        title = f"fastlstm compared with itself, {threads} thread{'s' if threads > 1 else ''}"
        parts.append(f"{mark}{title}\n\n{table(*comparisons.rows(result, threads))}")
    means = geometric_means(result)
    if means:
        peers = [peer for peer in ("best peer", *COLORS) if any(peer in of for of in means.values())]
        rows = [
            [str(threads), *(ratio(of[peer]) if peer in of else "" for peer in peers)]
            for threads, of in sorted(means.items())
        ]
        title = "Time of a peer over ours, geometric mean over the shapes above"
        parts.append(f"{mark}{title}\n\n{table(['threads', *peers], rows)}")
    overheads = call_overheads(result)
    if overheads:
        rows = [
            [peer, duration(max(seconds, 0.0))]
            for peer, seconds in sorted(overheads.items(), key=lambda i: i[1])
        ]
        goal = f"goal for {OURS}: {duration(CALL_OVERHEAD_TARGET_SECONDS)}"
        title = f"A plain call beyond its arithmetic (B=1, I=1, H=8, one thread; {goal})"
        parts.append(f"{mark}{title}\n\n{table(['peer', 'time'], rows)}")
    return parts


def _peers_of(result: dict[str, Any], cases: list[dict[str, Any]], threads: int) -> list[str]:
    """All peers that were meant to take part with so many threads, the absent ones too."""
    found = {peer for case in cases for peer in by_peer(case, threads)}
    left_out = result.get("left_out", {})
    found |= {
        absent["peer"]
        for absent in result["absent"]
        if absent["threads"] == threads
        and not all(shape_of(case).cell in left_out.get(absent["peer"], {}) for case in cases)
    }
    return [peer for peer in COLORS if peer in found] + sorted(found - set(COLORS))


def _row(case: dict[str, Any], threads: int, peers: list[str]) -> list[str]:
    shape = shape_of(case)
    # A stream's figures are those of one step.
    steps = shape.T if shape.kind == "stream" else 1
    limit = case["limit_seconds"][str(threads)]
    ours, best = our_seconds(case, threads), best_peer(case, threads)
    cells = [shape.label, duration(limit / steps)]
    if shape.kind == "stream":
        cells.append("" if shape.target_seconds is None else duration(shape.target_seconds / steps))
    results = by_peer(case, threads)
    for peer in peers:
        found = results.get(peer, {})
        if "seconds" in found:
            cells.append(f"{duration(found['seconds'] / steps)} ({error(found['error'])})")
        else:
            cells.append("failed" if "failed" in found else "absent")
    cells.append(percent(limit / ours) if ours else "")
    cells.append(f"{ratio(best[1] / ours)} {best[0]}" if ours and best else "")
    return cells


def _lists(result: dict[str, Any], mark: str, bullet: str) -> list[str]:
    failures = [
        f"{found['peer']}, {found['threads']} thread(s), {case['name']}: {found['failed']}"
        for case in (*result["cases"], *result.get("compared", []))
        for found in case["results"]
        if "failed" in found
    ]
    sections = {
        "Wrong answers of ours": wrong_answers(result),
        "Where we lose": losses(result) or ["nowhere in this run"],
        "Who was left out": [
            f"{peer}, {CELLS[cell].title}: {why}"
            for peer, cells in result.get("left_out", {}).items()
            for cell, why in cells.items()
            if any(shape_of(case).is_family and shape_of(case).cell == cell for case in result["cases"])
        ],
        "What failed": list(dict.fromkeys(failures)),
        "To know before believing": doubts(result),
    }
    return [
        f"{mark}{title}\n\n" + "\n".join(bullet + " ".join(line.split()) for line in lines)
        for title, lines in sections.items()
        if lines
    ]


def plot(result: dict[str, Any], path: Path) -> None:
    """Time of every contestant over ours, a panel for each number of threads; left of 1 is faster."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = [case for case in result["cases"] if case["shape"]["kind"] != "call"]
    counts = sorted({count for case in cases for count in thread_counts(case)})
    if not counts:
        return
    figure, axes = pyplot.subplots(
        1, len(counts), figsize=(7 * len(counts), 1.5 + 0.27 * len(cases)), sharey=True, squeeze=False
    )
    shapes = [shape_of(case) for case in cases]
    labels = [f"{shape.cell if shape.is_family else shape.kind} {shape.label}" for shape in shapes]
    for axis, threads in zip(axes[0], counts, strict=True):
        for peer in _peers_of(result, cases, threads):
            places, values = [], []
            for place, case in enumerate(cases):
                ours, found = our_seconds(case, threads), by_peer(case, threads).get(peer, {})
                if ours and "seconds" in found:
                    places.append(place)
                    values.append(found["seconds"] / ours)
            axis.plot(
                values,
                places,
                "o",
                color=COLORS.get(peer, OTHER_COLOR),
                label=peer,
                markersize=6 if peer == OURS else 5,
            )
        limits = [
            (case["limit_seconds"][str(threads)] / ours, place)
            for place, case in enumerate(cases)
            if (ours := our_seconds(case, threads))
        ]
        axis.plot(
            *zip(*limits, strict=True), "|", color="black", label="limit", markersize=9
        ) if limits else None
        axis.axvline(1, color=COLORS[OURS], linewidth=0.8)
        axis.set_xscale("log")
        axis.grid(True, axis="both", alpha=0.3)
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}")
        axis.set_xlabel("time / time of fastlstm")
    axes[0][0].set_yticks(range(len(cases)), labels, fontsize=7)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(fontsize=8, loc="lower right")
    title = PLOT_TITLES[part_of(result)]
    figure.suptitle(f"{title}, float32, {result['machine']['cpu']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
