"""Run what can be run on this machine: run_wheels.py WHEELS [--short]

The C tests of other systems and processors, under emulators where need be: musl, 64-bit Arm and its digests,
older x86 processors, big-endian and 32-bit machines, Windows.  Then each wheel that this machine takes, with
each CPython here and the oldest and newest NumPy that it has.  What is missing is named; the exit code is 0
only if all that could be run passed.  Needs (Debian): qemu-user wine64; Pythons are those on PATH and
in pyenv's folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.c.core_build import Build, build_for
from tools.check_wheel import SMOKE_TEST

HANG = 7200
WINE = shutil.which("wine64") or shutil.which("wine") or "/usr/lib/wine/wine64"
NEWEST = "numpy"


@dataclass(frozen=True)
class Run:
    """One run of the C tests: a target, its emulator, an instruction set, a mode of tests/c/main.c."""

    target: str
    emulator: tuple[str, ...]
    isa: str
    mode: str


RUNS = (
    Run("x86_64-linux-musl", (), "avx2", "full"),
    Run("x86_64-linux-musl", ("qemu-x86_64", "-cpu", "Nehalem"), "generic", "emulated"),
    Run("x86_64-linux-musl", ("qemu-x86_64", "-cpu", "Haswell"), "avx2", "emulated"),
    Run("x86_64-windows-gnu", (WINE,), "avx2", "full"),
    Run("aarch64-linux-musl", ("qemu-aarch64",), "neon", "foreign"),
    Run("aarch64-linux-musl", ("qemu-aarch64",), "generic", "emulated"),
    Run("x86-linux-musl", ("qemu-i386",), "generic", "emulated"),
    Run("arm-linux-musleabihf", ("qemu-arm",), "generic", "emulated"),
    Run("s390x-linux-musl", ("qemu-s390x",), "generic", "emulated"),
)
# Each instruction set with fused multiply-adds gives the same bits.
DIGESTS = (
    Run("x86_64-linux-musl", (), "avx2", "digest"),
    Run("x86_64-linux-musl", (), "avx512", "digest"),
    Run("x86_64-windows-gnu", (WINE,), "avx2", "digest"),
    Run("aarch64-linux-musl", ("qemu-aarch64",), "neon", "digest"),
)
SHORT = ("x86_64-linux-musl", "x86_64-windows-gnu")


class Programs:
    """Test programs, built once each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built: dict[str, Path] = {}

    def run(self, run: Run) -> str | None:
        """Return what a run printed; None where it cannot run here."""
        if run.emulator and shutil.which(run.emulator[0]) is None:
            print(f"{run}: {run.emulator[0]} is not installed", flush=True)
            return None
        if run.target not in self.built:
            build: Build = build_for(run.target, self.folder / run.target)
            self.built[run.target] = build.tests(build.core())
        command = [*run.emulator, str(self.built[run.target]), run.isa, run.mode]
        environment = os.environ | {"WINEDEBUG": "-all", "WINEPREFIX": str(self.folder / "wine")}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=HANG, env=environment
        )
        if done.returncode == 2 and "instruction set" in done.stderr:
            print(f"{run}: this machine lacks it", flush=True)
            return None
        if done.returncode != 0:
            raise RuntimeError(f"{run} failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
        print(f"{run}: {done.stdout.splitlines()[-1]}", flush=True)
        return done.stdout


def compare_digests(programs: Programs, runs: list[Run]) -> None:
    """Run them; raise RuntimeError where digests differ."""
    digests: dict[Run, list[str]] = {}
    for run in runs:
        said = programs.run(run)
        if said is not None:
            digests[run] = [line for line in said.splitlines() if line.startswith(("given ", "digest "))]
    first = next(iter(digests))
    for run, lines in digests.items():
        if not lines or lines != digests[first]:
            raise RuntimeError(f"{run} and {first}: digests differ")
    print(f"{len(digests)} runs have the same {len(digests[first])} digests", flush=True)


def pythons() -> list[Path]:
    """Return the CPythons from 3.11 on that are here, one of each minor version."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin"))
    found: dict[str, Path] = {}
    for minor in range(11, 20):
        for folder in folders:
            path = folder / f"python3.{minor}"
            if path.is_file() and f"3.{minor}" not in found and "shims" not in path.parts:
                found[f"3.{minor}"] = path
    return list(found.values())


def run_wheel(python: Path, wheel: Path, numpy: str, folder: Path) -> None:
    """Install the wheel with a NumPy in a new environment and run a forward pass against the reference."""
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    inside = folder / "bin" / "python"
    pip = [str(inside), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*pip, str(wheel.resolve()), numpy], check=True)
    subprocess.run([inside, "-I", "-c", SMOKE_TEST], check=True, cwd=folder)


def main() -> int:
    """Run all; return 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("--short", action="store_true", help="x86-64 alone")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            programs = Programs(Path(name))
            wanted = [run for run in RUNS if not arguments.short or run.target in SHORT]
            for run in wanted:
                programs.run(run)
            compare_digests(programs, [run for run in DIGESTS if not arguments.short or run.target in SHORT])
            native = sorted(arguments.wheels.glob("*-abi3-manylinux*x86_64.whl"))
            for wheel in native:
                for python in pythons():
                    minor = int(python.name.partition(".")[2])
                    # The oldest NumPy 2 that has wheels for that Python.
                    oldest = {11: "numpy==2.0.*", 12: "numpy==2.0.*", 13: "numpy==2.1.*"}.get(minor, NEWEST)
                    for numpy in dict.fromkeys((oldest, NEWEST)):
                        run_wheel(python, wheel, numpy, Path(name) / "venv")
            if not native:
                print(f"{arguments.wheels}: no wheel of this machine", flush=True)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        print(f"run_wheels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
