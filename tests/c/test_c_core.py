# SPDX-License-Identifier: BSD-3-Clause
"""The C core without Python: its own test program, under several tools, and what its objects contain."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastlstm import _core
from tests.c.core_build import CORE_FLAGS, ISA_FLAGS, ROOT, Build, kernel_isa, machine_isas
from tests.structure.test_documents import blocks

AVAILABLE = [name for name, _, available in _core.isa_table() if available]
FUSED = [isa for isa in AVAILABLE if isa != "generic"]
UNAVAILABLE = [name for name, _, available in _core.isa_table() if not available]
# Compilers put checks around the accesses of plain C, and around few of intrinsics; Valgrind sees all of both
# but knows no AVX-512, and takes too long for two.  So plain C is compiled with checks, and Valgrind runs the
# widest set that it knows.
CHECKED_BY_VALGRIND = next(isa for isa in reversed(AVAILABLE) if isa != "avx512")

DEFAULT_COMPILER = os.environ.get("CC", "cc")
COMPILERS = os.environ.get("FASTLSTM_CI_COMPILERS", "").split() or [DEFAULT_COMPILER]

HANG = 900  # seconds; no test comes near, on a busy machine either


@dataclass
class Built:
    build: Build
    core: list[Path]
    program: Path


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Callable[[str], Built]:
    """Function of a compiler: the core as it is shipped, and the test program; compiled once."""
    done: dict[str, Built] = {}

    def compile_with(compiler: str) -> Built:
        if compiler not in done:
            build = Build(tmp_path_factory.mktemp("c"), compiler=compiler)
            core = build.core()
            done[compiler] = Built(build, core, build.tests(core))
        return done[compiler]

    return compile_with


@pytest.fixture(scope="session")
def built(compiled) -> Built:
    return compiled(DEFAULT_COMPILER)


@pytest.fixture(scope="session")
def address_checked(tmp_path_factory) -> Path:
    flags = [
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ]
    build = Build(tmp_path_factory.mktemp("asan"), isas=["generic"], flags=flags)
    return build.tests(build.core())


@pytest.fixture(scope="session")
def race_checked(tmp_path_factory) -> Path:
    build = Build(tmp_path_factory.mktemp("tsan"), isas=["generic"], flags=["-O1", "-g", "-fsanitize=thread"])
    return build.tests(build.core())


def run_tests(command: list[str | Path], isa: str, mode: str, **environment: str) -> str:
    """Run the test program; return what it printed."""
    done = subprocess.run(
        [*command, isa, mode],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}"
    lines = done.stdout.splitlines()
    assert f"active {isa}" in lines, done.stdout
    assert re.fullmatch(r"[1-9]\d* passed, 0 failed", lines[-1]), done.stdout
    return done.stdout


@pytest.mark.parametrize("isa", AVAILABLE)
def test_program(built, isa):
    run_tests([built.program], isa, "full")


@pytest.mark.parametrize("isa", [*UNAVAILABLE, "sse9"])
def test_program_refuses_other_instruction_sets(built, isa):
    done = subprocess.run([built.program, isa], capture_output=True, text=True, check=False, timeout=HANG)
    assert done.returncode == 2
    assert "instruction set" in done.stderr


def test_fused_instruction_sets_give_the_same_bits(built):
    digests = {}
    for isa in FUSED:
        lines = [
            line
            for line in run_tests([built.program], isa, "digest").splitlines()
            if line.startswith("digest ")
        ]
        assert len(lines) == 4 + 2 * 8  # of the plain LSTM, and of all kinds of cells
        digests[isa] = lines
    assert all(lines == digests[FUSED[0]] for lines in digests.values()), digests


def test_address_and_undefined_behaviour_sanitizers(address_checked):
    options = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    run_tests([address_checked], "generic", "short", **options)


def test_thread_sanitizer(race_checked):
    run_tests([race_checked], "generic", "threads", TSAN_OPTIONS="halt_on_error=1")


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind(built):
    leaks = ["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]
    command = ["valgrind", "--quiet", "--error-exitcode=9", *leaks, built.program]
    run_tests(command, CHECKED_BY_VALGRIND, "memory")


# ---- The example ------------------------------------------------------------------------------------------


def noise_is_smoothed(program: Path) -> str:
    """Check what examples/c/stream_sine.c prints in the end; return the instruction set that it names."""
    out = subprocess.run([program], capture_output=True, text=True, check=True, timeout=HANG).stdout
    match = re.fullmatch(r"(\w+): rms error ([\d.]+) before, ([\d.]+) after", out.splitlines()[-1])
    assert match, out
    assert 0 < float(match[3]) < float(match[2]) / 2
    return match[1]


def test_example_compiles_as_its_comment_says(built, tmp_path):
    """With the objects in place of their sources, which compile with fewer flags: see below."""
    source = (ROOT / "examples" / "c" / "stream_sine.c").read_text()
    match = re.search(r"^ \*\s+cc (.*?) -o stream_sine$", source, re.DOTALL | re.MULTILINE)
    assert match, "no command in the comment"
    command = re.sub(r"\\\n \*", "", match[1])
    sources = re.search(r"\$\((find [^)]*)\)", command)[1]
    named = subprocess.run(sources, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {ROOT / name for name in named.stdout.split()} == set((ROOT / "csrc").rglob("*.c"))
    program = tmp_path / "stream_sine"
    command = command.replace(f"$({sources})", shlex.join(map(str, built.core)))
    command += f" -o {shlex.quote(str(program))}"
    subprocess.run(f"{DEFAULT_COMPILER} {command}", shell=True, cwd=ROOT, check=True, timeout=HANG)
    noise_is_smoothed(program)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_all_sources_compile_without_flags(compiler, tmp_path):
    """Files of instruction sets are empty then, and the program has the kernels in plain C."""
    program = tmp_path / "stream_sine"
    sources = sorted((ROOT / "csrc").rglob("*.c"))
    assert {"avx2_f32.c", "neon_f64.c", "generic_f32.c"} <= {source.name for source in sources}
    command = [*shlex.split(compiler), "-std=c11", "-Icsrc", "-pthread", "examples/c/stream_sine.c", *sources]
    done = subprocess.run(
        [*command, "-lm", "-o", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert noise_is_smoothed(program) == "generic"


def test_example_with_all_instruction_sets(built):
    example = built.build.objects([ROOT / "examples" / "c" / "stream_sine.c"])
    noise_is_smoothed(built.build.link("stream_sine", [*example, *built.core]))


@pytest.mark.skipif("avx512" not in machine_isas(), reason="the makefile is for x86-64")
def test_the_makefile_of_the_page_builds_all_instruction_sets(built, tmp_path):
    """It compiles every file with the flags of setup.py; the first time all but a few objects are there."""
    page = ROOT / "docs" / "c.md"
    (tmp_path / "example.c").write_text(blocks(page, "c")[0])
    (tmp_path / "Makefile").write_text(blocks(page, "make")[0])
    command = ["make", f"CC={DEFAULT_COMPILER}", "CFLAGS=-O0", f"FASTLSTM={ROOT}"]
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}

    def make(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False, timeout=HANG,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    compiled = {}
    for line in make("--dry-run").replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if "-c" in words:
            compiled[Path(words[words.index("-c") + 1])] = {word for word in words if word.startswith("-")}
    assert set(compiled) == set((ROOT / "csrc").rglob("*.c"))
    common = {"-c", "-o", "-O0", "-pthread", f"-I{ROOT / 'csrc'}", "-DFL_HAVE_AVX2", "-DFL_HAVE_AVX512"}
    common |= {flag for flag in CORE_FLAGS if flag.startswith(("-std", "-ffp-contract", "-fno-math-errno"))}
    for source, flags in compiled.items():
        isa = kernel_isa(source)  # plain kernels have flags for size alone
        assert flags == common | set(ISA_FLAGS[isa].split() if isa not in (None, "generic") else ()), source
    for path in built.core:
        if path.stem not in ("avx2_f64", "avx512_f64", "choose"):
            target = tmp_path / "objects" / path.relative_to(built.build.directory / "csrc")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    assert make().count(" -c ") == 5  # these, and those of NEON, which are empty
    out = subprocess.run([tmp_path / "example"], capture_output=True, text=True, check=True, timeout=HANG)
    assert out.stdout == blocks(page, "")[0]
    symbols = subprocess.run(["nm", tmp_path / "example"], capture_output=True, text=True, check=True).stdout
    assert all(f"fl_kernels_{isa}_f32" in symbols for isa in ("generic", "avx2", "avx512"))


# ---- The objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_warnings(compiled, compiler):
    assert shutil.which(shlex.split(compiler)[0]), f"{compiler} is not installed"
    said = compiled(compiler).build.messages
    assert {"forward.c", "problem.c", "generic_f32.c"} <= {source.name for source in said}
    assert not any(said.values()), "\n".join(said.values())


def test_all_global_symbols_have_the_prefix(built):
    symbols = []
    for path in built.core:
        out = subprocess.run(["nm", "-g", "--defined-only", path], capture_output=True, text=True, check=True)
        symbols += [line.split()[-1] for line in out.stdout.splitlines() if line.strip()]
    assert "fl_stack_forward" in symbols
    assert [name for name in symbols if not name.startswith("fl_")] == []


# Of AT&T syntax: a mnemonic, and operands that only the instruction set has.
VEX = re.compile(r"\t(v[a-z0-9]+)\s")
WIDE = {"avx2": re.compile(r"%ymm\d"), "avx512": re.compile(r"%zmm\d|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])")}


@pytest.mark.skipif("avx512" not in machine_isas(), reason="about the instruction sets of x86-64")
def test_instructions_stay_in_their_files(built):
    """Outside its kernels no file may use an instruction set: it would run before it is known to be there."""
    levels = ["generic", "avx2", "avx512"]
    for path in built.core:
        isa = kernel_isa(path) or "generic"
        out = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
        ).stdout
        for level in levels[levels.index(isa) + 1 :]:
            assert not WIDE[level].search(out), f"{path.name} contains {level} instructions"
        vex = {name for name in VEX.findall(out) if name not in ("verr", "verw")}
        if isa == "generic":
            assert not vex, f"{path.name} contains {sorted(vex)}"
        else:
            assert WIDE[isa].search(out), f"{path.name} contains no {isa} instructions"
            assert any(name.startswith("vfmadd") for name in vex), f"{path.name} has no fused multiply-adds"
