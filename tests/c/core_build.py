# SPDX-License-Identifier: BSD-3-Clause
"""Compile the C core and programs that use it, without Python's build system.

Flags and instruction sets are those of setup.py, which is read, not run.  From the command line:
    core_build.py MACHINE DIRECTORY     builds DIRECTORY/run_tests for a machine (uname -m) with $CC
    core_build.py TARGET DIRECTORY      the same with zig for a target of its, like aarch64-linux-musl
"""

from __future__ import annotations

import ast
import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WRAPPED = (
    "malloc",
    "calloc",
    "realloc",
    "free",
    "fl_thread_start",
    "fl_clock_nanoseconds",
    "fl_system_allocate",
    "fl_system_free",
    "fl_machine_abilities",
)


def setup_constants() -> dict[str, object]:
    """Return the literal constants that setup.py assigns at its top level."""
    constants = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                constants[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # computed
    return constants


CONSTANTS = setup_constants()
ISA_FLAGS: dict[str, str] = CONSTANTS["ISA_FLAGS"]  # type: ignore[assignment]
MACHINE_ISAS: dict[str, list[str]] = CONSTANTS["MACHINE_ISAS"]  # type: ignore[assignment]
CORE_FLAGS = shlex.split(" ".join(str(CONSTANTS[f"{kind}_FLAGS"]) for kind in ("COMMON", "EXACT", "CORE")))
POSIX_FLAGS = shlex.split(str(CONSTANTS["POSIX_FLAGS"]))
ZIG = shlex.join([sys.executable, "-m", "ziglang", "cc"])


def machine_isas(machine: str | None = None) -> list[str]:
    """Return the instruction sets that are compiled for a machine, by default this one."""
    return MACHINE_ISAS.get((machine or platform.machine()).lower(), ["generic"])


def kernel_isa(source: Path) -> str | None:
    """Return the instruction set of a kernel file, or of its object; None for the others: baseline flags."""
    return source.stem.split("_")[0] if source.parent.name == "isa" else None


def core_sources(isas: list[str]) -> list[Path]:
    """Return the C files of the core, those that take longest to compile first."""
    sources = [path for path in (ROOT / "csrc").rglob("*.c") if kernel_isa(path) in (None, *isas)]
    return sorted(sources, key=lambda path: (kernel_isa(path) != "avx512", kernel_isa(path) is None, path))


@dataclass
class Build:
    """Objects of the core, compiled one way.

    Attributes
    ----------
    directory
        Where objects and programs go; made when missing.
    isas
        Instruction sets to compile in.
    compiler
        Command, with arguments if need be.
    flags
        Further flags, for the compiler and the linker.
    system
        "linux", "windows" or "macos".
    messages
        What the compiler said, by source; empty where it said nothing.
    """

    directory: Path
    isas: list[str] = field(default_factory=machine_isas)
    compiler: str = field(default_factory=lambda: os.environ.get("CC", "cc"))
    flags: list[str] = field(default_factory=lambda: ["-O3"])
    system: str = "linux"
    messages: dict[Path, str] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        """Run the compiler; return what it says beside its output, raise RuntimeError when it fails."""
        posix = POSIX_FLAGS if self.system != "windows" else []
        command = [*shlex.split(self.compiler), *self.flags, *posix, *CORE_FLAGS, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def objects(self, sources: list[Path]) -> list[Path]:
        """Compile sources, two at a time, and return their objects."""
        macros = [f"-DFL_HAVE_{isa.upper()}=1" for isa in self.isas if isa != "generic"]

        def compile_one(source: Path) -> Path:
            # In folders as the sources are, which may have the same name, and for kernel_isa.
            target = self.directory / source.relative_to(ROOT).with_suffix(".o")
            target.parent.mkdir(parents=True, exist_ok=True)
            isa = kernel_isa(source)
            self.messages[source] = self.run(
                *macros,
                *self.renamed(source),
                *shlex.split(ISA_FLAGS[isa] if isa is not None else ""),
                f"-I{ROOT / 'csrc'}",
                f"-I{ROOT / 'tests' / 'c'}",
                "-c",
                str(source),
                "-o",
                str(target),
            )
            return target

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(compile_one, sources))

    @property
    def links_wrapped(self) -> bool:
        """Whether the linker sends calls elsewhere (--wrap); others need files that are compiled for it."""
        return self.system == "linux"

    def renamed(self, source: Path) -> list[str]:
        """Return the flags that do the work of --wrap where the linker has no such thing."""
        if self.links_wrapped:
            return []
        defines = {"wrap": "WRAPS", "machine": "DEFINES_MACHINE"}
        define = "DEFINES_PLATFORM" if source.parent.name == "platform" else defines.get(source.stem)
        header = ROOT / "tests" / "c" / "harness" / "wrapped_names.h"
        return ["-include", str(header), *([f"-D{define}"] if define else [])]

    def core(self) -> list[Path]:
        """Compile the core."""
        return self.objects(core_sources(self.isas))

    def link(self, name: str, objects: list[Path], *flags: str) -> Path:
        """Link a program."""
        program = self.directory / (f"{name}.exe" if self.system == "windows" else name)
        self.run(
            *map(str, objects), *flags, *(["-lm"] if self.system != "windows" else []), "-o", str(program)
        )
        return program

    def tests(self, core: list[Path]) -> Path:
        """Compile the test program and link it with the objects of the core."""
        sources = sorted((ROOT / "tests" / "c").rglob("*.c"))
        wraps = [f"-Wl,--wrap={name}" for name in WRAPPED] if self.links_wrapped else []
        return self.link("run_tests", core + self.objects(sources), *wraps)


def build_for(target: str, directory: Path) -> Build:
    """Return the build for a machine, with $CC, or for a target of zig's."""
    machine, _, rest = target.partition("-")
    if not rest:
        return Build(directory, machine_isas(machine))
    system = rest.partition("-")[0].partition(".")[0]
    return Build(directory, machine_isas(machine), f"{ZIG} -target {target}", ["-O2", "-g0"], system)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: core_build.py MACHINE|TARGET DIRECTORY")
    build = build_for(sys.argv[1], Path(sys.argv[2]))
    print(build.tests(build.core()))
