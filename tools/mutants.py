# SPDX-License-Identifier: BSD-3-Clause
"""Faults put in on purpose, one at a time, to see whether a test fails: ``make mutants``.

Each mutant is one text and what takes its place, in the one file that holds it: so it finds its place again
when files move, and says so when the text is gone.  A copy of the tree is changed, built (with what ccache
has) and tested: a fault in the core by the tests in C, in plain C and few rounds, and what they do not notice
by those in Python.  They are the fast ones, without the stored digests, which notice every other bit; what
survives them needs a test, or a reason here.

``python tools/mutants.py``             all of them
``python tools/mutants.py lstm gru``    those whose names contain one of these words
``python tools/mutants.py --list``      only looks whether each has its place
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("csrc", "src", "tests", "benchmarks", "examples", "docs", "tools", ".ci")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CONTRIBUTING.md", "LICENSE", "Makefile")
TESTS = ("numbers", "bits", "training", "sequences", "objects", "refusals", "interop", "memory", "runtime")
HANG = 1200


@dataclass(frozen=True)
class Mutant:
    """A fault: in the one file below `folder` that has the text `old`, `new` stands in its place."""

    name: str
    folder: str
    old: str
    new: str


def _c(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, "csrc", old, new)


def _python(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, "src/fastlstm", old, new)


MUTANTS = (
    _c("lstm: f is i", "vf_div(c, parts->f_denominator)", "vf_div(c, parts->i_denominator)"),
    _c(
        "lstm: dcells are lost",
        "return row->dc_given ? vf_add(dc, load_lanes(row->dc_given + unit, lanes)) : dc;",
        "return dc;",
    ),
    _c(
        "lstm: the peephole of o sees the old c",
        "vf_fma(lstm_peephole_of(cell, 2, unit), c, x[3])",
        "vf_fma(lstm_peephole_of(cell, 2, unit), c_before, x[3])",
    ),
    _c(
        "gru: z is 1 - z",
        "vf_fma(z, h_before, vf_fnma(z, n, n))",
        "vf_fma(z, n, vf_fnma(z, h_before, h_before))",
    ),
    _c(
        "mgu: a sign of the gradient of h",
        "store_lanes(row->dh_before + unit, vf_sub(dh, dh_f), lanes);",
        "store_lanes(row->dh_before + unit, vf_add(dh, dh_f), lanes);",
    ),
    _c(
        "slstm: no floor of n",
        "vf_max(vf_set1((real)cell->options.n_floor), vf_fma(gates.f, n_before, gates.i))",
        "vf_fma(gates.f, n_before, gates.i)",
    ),
    _c(
        "slstm: the stabiliser's gradient goes one way",
        "vf_select_lt(gates.lead, zero, vf_sub(dm, g_i), g_f)",
        "g_f",
    ),
    _c(
        "minimal: the lighter and the heavier exchanged",
        "vf_fma(weights->lighter, vf_sub(lighter, heavier), heavier)",
        "vf_fma(weights->lighter, vf_sub(heavier, lighter), lighter)",
    ),
    _c("norm: no epsilon", "vf_sqrt(vf_add(variance, vf_set1(eps)))", "vf_sqrt(variance)"),
    _c(
        "norm: the mean of a gradient",
        "const vf mean = vf_div(sum_over_row(n, &terms, gradient_term), count);",
        "const vf mean = vf_set1(0);",
    ),
    _c(
        "masks: a layer's dropout is the next one's",
        "(uint64_t)(layer - 1) * recording->mask_T",
        "(uint64_t)layer * recording->mask_T",
    ),
    _c("masks: zoneout of h is that of c", "#define SEED_ZONEOUT_H 2", "#define SEED_ZONEOUT_H 1"),
    _c(
        "masks: every part has the first one's",
        "(uint64_t)recording->first_cell * each",
        "(uint64_t)0 * each",
    ),
    _c("ragged: a row runs one step more", "lengths[rows[middle]] > t)", "lengths[rows[middle]] >= t)"),
    _c("ragged: a place too many", "length != 0 ? (length - 1) / segment : 0", "length / segment"),
    _c(
        "reset: in reverse one step late",
        "reset[(t + 1) * c->B + b] != 0",
        "reset[t * c->B + b] != 0",
    ),
    _c(
        "reset: of one row is of all",
        "const bool clears = resets && recording->reset[t * B + b] != 0;",
        "const bool clears = resets;",
    ),
    _c("window: of any layer", "w->is_filled && w->layer == top && ", "w->is_filled && "),
    _c("fp state: not restored", "_mm_setcsr((unsigned)saved.control);", "(void)saved;"),
    _c("fp state: denormals are kept", "mode == FL_FP_FLUSH ? 0x9fc0U", "mode == FL_FP_FLUSH ? 0x1f80U"),
    _c("adam: no epsilon", "vf_fma(vf_sqrt(v), root_correction, eps)", "vf_mul(vf_sqrt(v), root_correction)"),
    _c(
        "adam: both corrections are the first",
        "sqrt(1.0 - pow(args->beta2, step))",
        "sqrt(1.0 - pow(args->beta1, step))",
    ),
    _c(
        "adam: decoupled decay is in the gradient too",
        "args->decoupled ? 0.0 : args->weight_decay",
        "args->weight_decay",
    ),
    _c(
        "sgd: Nesterov's step is the momentum", "d = nesterov ? vf_add(d, vf_mul(momentum, b)) : b;", "d = b;"
    ),
    _c(
        "steps: far values begin where none is aligned", "(size - over) / sizeof(real)", "over / sizeof(real)"
    ),
    _c(
        "norm of gradients: what rounding loses",
        "total[1] += isfinite(next) ? lost : 0.0;",
        "total[1] += 0.0 * lost;",
    ),
    _c("dense: each stretch of rows is the first", ".is_first = row == 0,", ".is_first = true,"),
    _c("dense: sums begin anew with every panel of rows", "product.adds = m != 0;", "product.adds = false;"),
    _c("streams: the first state is what was there", "memset(stream->h, 0, h_bytes);", ""),
    _c("streams: rest as other calls do", "limit > 1 && pass != FL_PASS_STREAM &&", "limit > 1 &&"),
    _c(
        "trials: the slowest plan stays",
        "if (facts->way[n].nanoseconds < facts->way[best].nanoseconds)",
        "if (facts->way[n].nanoseconds > facts->way[best].nanoseconds)",
    ),
    _c(
        "trials: the chosen plan is its own challenger",
        "slot->challenger += slot->challenger == slot->facts.chosen;",
        "",
    ),
    _c(
        "trials: a report is the new owner's",
        "if (trial->slot->owner == trial->owner)",
        "if (trial->owner != 0)",
    ),
    _c(
        "fetching: a block that is not full is",
        "if (fetching != NULL && n + 1 < end && j < range->full_end)",
        "if (fetching != NULL && n + 1 < end)",
    ),
    _c(
        "fetching: panels of three vectors are of four",
        "return V == 3 ? walk_block_fetching_one_3 : walk_block_fetching_one_4;",
        "return walk_block_fetching_one_4;",
    ),
    _c(
        "fetching: input's panels of three vectors are of four",
        "(V == 3 ? input_block_fetching_3 : input_block_fetching_4)(p, j)",
        "input_block_fetching_4(p, j)",
    ),
    _python(
        "merge: an average's gradient is a sum's", 'half = dy if self.merge == "sum" else dy / 2', "half = dy"
    ),
    _python("residual: one layer late", "layer >= self.residual", "layer > self.residual"),
    _python(
        "clip: gradients that are short enough too",
        "if not norm < INFINITY or ldexp(norm, exponent) <= limit:",
        "if not norm < INFINITY:",
    ),
    _python(
        "tapes: keep the caller's array",
        "return array if isinstance(owner, Frozen) else own_array(array)",
        "return array",
    ),
    _python(
        "editing: writes behind the block count",
        "self._replace(_core.own_array(flat))",
        "self._replace(flat)",
    ),
)


def place_of(mutant: Mutant, root: Path) -> Path:
    """The one file that has the text, once."""
    found = [
        path
        for path in sorted((root / mutant.folder).rglob("*.*"))
        if path.suffix in (".c", ".h", ".py", ".pyx", ".pxi")
        and mutant.old in path.read_text(encoding="utf-8")
    ]
    if len(found) != 1 or found[0].read_text(encoding="utf-8").count(mutant.old) != 1:
        raise LookupError(
            f"{mutant.name}: expected its text once, found it in {[path.name for path in found]}"
        )
    return found[0]


def run(command: list[str], folder: Path, **variables: str) -> tuple[int, str]:
    """Exit status, and what was printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANG,
        check=False,
    )
    return done.returncode, done.stdout


def copy_tree(to: Path) -> None:
    skipped = shutil.ignore_patterns("__pycache__", "*.so", ".envs", "*.egg-info")
    for name in COPIED:
        shutil.copytree(ROOT / name, to / name, ignore=skipped)
    for name in FILES:
        shutil.copy(ROOT / name, to / name)


def compiler() -> dict[str, str]:
    return {"CC": "ccache cc"} if shutil.which("ccache") and "CC" not in os.environ else {}


def build(folder: Path) -> None:
    """Install the tree into its own `site`; objects that are still good are kept."""
    shutil.rmtree(folder / "site", ignore_errors=True)
    for stale in (folder / "build").glob("lib*"):
        shutil.rmtree(stale)
    install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps"]
    install += ["--target", "site", "."]
    status, said = run([sys.executable, *install], folder, CCACHE_NOHASHDIR="1", **compiler())
    if status != 0:
        raise RuntimeError(said[-2000:])


def outcome_of_core(folder: Path) -> str:
    """The first test in C that fails, or nothing."""
    compile_tests = (
        "from pathlib import Path; from tests.c.core_build import Build; "
        "build = Build(Path('c').absolute(), isas=['generic'], flags=['-O1']); build.tests(build.core())"
    )
    status, said = run([sys.executable, "-c", compile_tests], folder, CCACHE_NOHASHDIR="1", **compiler())
    if status != 0:
        raise RuntimeError(said[-2000:])
    status, said = run(["c/run_tests", "generic", "short"], folder)
    begun = [line.partition(" ...")[0] for line in said.split("\nFAIL")[0].splitlines() if " ..." in line]
    return f"{begun[-1]}, in C" if status != 0 else ""


def outcome_of_package(folder: Path) -> str:
    """The first test in Python that fails, or nothing."""
    build(folder)
    tests = [f"tests/{name}" for name in TESTS]
    options = ["-x", "-q", "-m", "not long", "-p", "no:cacheprovider"]
    options += ["--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal"]
    command = [sys.executable, "-m", "pytest", *options, *tests, "tests/test_promises.py"]
    status, said = run(command, folder, PYTHONPATH=str(folder / "site"))
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if status == 0:
        return ""
    return failed[0].partition(" - ")[0] if failed else said.strip().splitlines()[-1]


def tried(mutant: Mutant, folder: Path) -> str:
    """What noticed the mutant, or nothing; the tree is as before."""
    place = place_of(mutant, folder)
    kept = place.read_text(encoding="utf-8")
    place.write_text(kept.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        # A mutant that does not compile tests nothing: the error ends the run.
        return (mutant.folder == "csrc" and outcome_of_core(folder)) or outcome_of_package(folder)
    except subprocess.TimeoutExpired:
        return f"nothing returned within {HANG} s"
    finally:
        place.write_text(kept, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants whose names contain one of these")
    parser.add_argument("--list", action="store_true", help="only look whether each mutant has its place")
    given = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not given.words or any(word in m.name for word in given.words)]
    if given.list:
        for mutant in chosen:
            print(f"{mutant.name}: {place_of(mutant, ROOT).relative_to(ROOT)}")
        return 0
    survivors = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_tree(folder)
        failed = outcome_of_core(folder) or outcome_of_package(folder)
        if failed:
            print(f"without a mutant: {failed}")
            return 1
        for number, mutant in enumerate(chosen, 1):
            begin = time.monotonic()
            noticed = tried(mutant, folder)
            survivors += [] if noticed else [mutant.name]
            seconds = round(time.monotonic() - begin)
            print(f"{number}/{len(chosen)} {mutant.name}: {noticed or 'SURVIVED'} ({seconds} s)", flush=True)
    print(f"{len(survivors)} of {len(chosen)} survived", *survivors, sep="\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
