# SPDX-License-Identifier: BSD-3-Clause
"""What a result of the race says: who is best, which goals are reached, and where fastlstm loses."""

from collections.abc import Iterator
from statistics import geometric_mean
from typing import Any

from benchmarks import comparisons
from benchmarks.cells import PLAIN
from benchmarks.data import tolerance
from benchmarks.peers import OURS
from benchmarks.shapes import (
    CALL_OVERHEAD_STEPS,
    CALL_OVERHEAD_TARGET_SECONDS,
    Shape,
    limit_target,
)
from benchmarks.tables import duration, error, percent, ratio

# A difference below this is not evidence on a machine that others share.
NOISE = 0.02
# The float32 error may be so many times torch's.
TORCH_ERROR_FACTOR = 2.0
# A worker that takes more processor time than this, over its number of threads, has not kept its limit.
CORES_MARGIN = 0.1


def shape_of(case: dict[str, Any]) -> Shape:
    return Shape(**case["shape"])


def thread_counts(case: dict[str, Any]) -> list[int]:
    """Numbers of threads that the case was run with."""
    return sorted({found["threads"] for found in case["results"]})


def by_peer(case: dict[str, Any], threads: int) -> dict[str, dict[str, Any]]:
    """Results of one case at one number of threads, by the name of the peer."""
    return {found["peer"]: found for found in case["results"] if found["threads"] == threads}


def best_peer(case: dict[str, Any], threads: int) -> tuple[str, float] | None:
    """The fastest contestant that is not ours, and its seconds."""
    others = {
        name: found["seconds"]
        for name, found in by_peer(case, threads).items()
        if name != OURS and "seconds" in found
    }
    return min(others.items(), key=lambda item: item[1]) if others else None


def our_seconds(case: dict[str, Any], threads: int) -> float | None:
    seconds = by_peer(case, threads).get(OURS, {}).get("seconds")
    return None if seconds is None else float(seconds)


def geometric_means(result: dict[str, Any]) -> dict[int, dict[str, float]]:
    """For each number of threads: a peer's time over ours, and the best peer's, averaged over the shapes."""
    ratios: dict[int, dict[str, list[float]]] = {}
    for case in result["cases"]:
        for threads in thread_counts(case) if _counts(shape_of(case)) else ():
            ours, best = our_seconds(case, threads), best_peer(case, threads)
            if ours is None or best is None:
                continue
            of_count = ratios.setdefault(threads, {})
            of_count.setdefault("best peer", []).append(best[1] / ours)
            for peer, found in by_peer(case, threads).items():
                if peer != OURS and "seconds" in found:
                    of_count.setdefault(peer, []).append(found["seconds"] / ours)
    return {
        threads: {peer: geometric_mean(values) for peer, values in of_count.items()}
        for threads, of_count in ratios.items()
    }


def _counts(shape: Shape) -> bool:
    """Whether a case belongs into an average: no call's overhead, and not the padded batch."""
    return shape.kind != "call" and not (shape.is_family and shape.cell == PLAIN)


def call_overheads(result: dict[str, Any]) -> dict[str, float]:
    """Seconds of a plain call beyond its arithmetic, by peer: the line through two lengths, at no step."""
    times: dict[str, dict[int, float]] = {}
    for case in result["cases"]:
        if case["shape"]["kind"] == "call":
            for found in case["results"]:
                if "seconds" in found:
                    times.setdefault(found["peer"], {})[case["shape"]["T"]] = found["seconds"]
    short, long = CALL_OVERHEAD_STEPS
    return {
        peer: at[short] - short * (at[long] - at[short]) / (long - short)
        for peer, at in times.items()
        if short in at and long in at
    }


def wrong_answers(result: dict[str, Any]) -> list[str]:
    """Cases where fastlstm gave no answer or one that is off by more than the tolerance."""
    lines = []
    for case in (*result["cases"], *result.get("compared", [])):
        for found in case["results"]:
            if found["peer"] == OURS:
                where = f"{case['name']}, {found['threads']} thread(s)"
                allowed = tolerance("float32", shape_of(case))
                for variant, outcome in found.get("tried", {}).items():
                    if "failed" in outcome:
                        lines.append(f"{where}, {variant}: {outcome['failed']}")
                    elif not outcome["error"] <= allowed:
                        lines.append(f"{where}, {variant}: error {outcome['error']:.1e} > {allowed:.1e}")
                if "failed" in found:
                    lines.append(f"{where}: {found['failed']}")
    return list(dict.fromkeys(lines))


def losses(result: dict[str, Any]) -> list[str]:
    """Where fastlstm is behind a peer, a goal, or itself."""
    return list(_losses(result))


def _losses(result: dict[str, Any]) -> Iterator[str]:
    l2_bytes = result["machine"]["caches"].get("L2", 1 << 20)
    for case in result["cases"]:
        shape = shape_of(case)
        if shape.kind != "call":
            for threads in thread_counts(case):
                yield from _losses_at(case, shape, threads, l2_bytes)
        one, two = our_seconds(case, 1), our_seconds(case, 2)
        if one is not None and two is not None and two > one * (1 + NOISE):
            yield f"{case['name']}: two threads take {duration(two)}, one {duration(one)}"
    yield from comparisons.missed(result)
    overhead = call_overheads(result).get(OURS)
    if overhead is not None and overhead > CALL_OVERHEAD_TARGET_SECONDS:
        yield f"call overhead: {duration(overhead)}, goal {duration(CALL_OVERHEAD_TARGET_SECONDS)}"


def _losses_at(case: dict[str, Any], shape: Shape, threads: int, l2_bytes: int) -> Iterator[str]:
    where = f"{case['name']}, {threads} thread(s)"
    ours = our_seconds(case, threads)
    if ours is None:
        return
    best = best_peer(case, threads)
    if best is not None and ours >= best[1]:
        yield f"{where}: {duration(ours)}, {best[0]} {duration(best[1])} ({ratio(best[1] / ours)})"
    goal = limit_target(shape, threads, l2_bytes)
    reached = case["limit_seconds"][str(threads)] / ours
    if goal is not None and reached < goal:
        yield f"{where}: {percent(reached)} of the limit, goal {percent(goal)}"
    if shape.target_seconds is not None and ours > shape.target_seconds:
        per_step = f"{duration(ours / shape.T)} a step, goal {duration(shape.target_seconds / shape.T)}"
        yield f"{where}: {per_step}"
    peers = by_peer(case, threads)
    if (
        "error" in peers.get("torch", {})
        and peers[OURS]["error"] > TORCH_ERROR_FACTOR * peers["torch"]["error"]
    ):
        yield f"{where}: error {error(peers[OURS]['error'])}, torch {error(peers['torch']['error'])}"


def doubts(result: dict[str, Any]) -> list[str]:
    """What a reader should know before believing the figures."""
    lines = []
    load = result["machine"].get("load_average")
    if load and load[0] > 0.5:
        lines.append(f"the machine was not idle at the start: load average {load[0]:.1f}")
    for absent in result["absent"]:
        lines.append(f"{absent['peer']}, {absent['threads']} thread(s), is absent: {absent['reason']}")
    for contestant in result.get("contestants", []):
        if contestant["never_quiet"]:
            name = f"{contestant['peer']}, {contestant['threads']} thread(s)"
            lines.append(f"{name} still ran when the next turn began, {contestant['never_quiet']} times")
    most: dict[tuple[str, int], tuple[float, str]] = {}
    for case in (*result["cases"], *result.get("compared", [])):
        for found in case["results"]:
            if found.get("cores", 0) > found["threads"] + CORES_MARGIN:
                key = (found["peer"], found["threads"])
                most[key] = max(most.get(key, (0.0, "")), (found["cores"], case["name"]))
    for (peer, threads), (cores, name) in most.items():
        lines.append(f"{peer} was told {threads} thread(s) and used {cores:.2f} processors at {name}")
    return lines
