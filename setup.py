"""Build of the one extension module, fastlstm._core.  Everything static is in pyproject.toml.

The kernels are compiled once for each instruction set: csrc/kernels/isa/<isa>_<dtype>.c gets the flags of
<isa>.
All other files get the baseline flags of the target, so that the module loads on any machine of its
architecture and chooses the instruction set at import.  Environment: CC, CFLAGS and LDFLAGS as everywhere;
FASTLSTM_WERROR=1 makes warnings in csrc/ errors.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ISA_FLAGS = {
    # Its vectors are written by hand.  What Clang adds by unrolling and vectorising the rest is a fifth of
    # the code (zig 0.17); GCC adds next to nothing.
    "generic": "-fno-unroll-loops -fno-tree-vectorize -fno-tree-slp-vectorize",
    "avx2": "-mavx2 -mfma -mf16c",
    "avx512": "-mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512",
    "neon": "",
}
MACHINE_ISAS = {
    "x86_64": ["generic", "avx2", "avx512"],
    "amd64": ["generic", "avx2", "avx512"],
    "aarch64": ["generic", "neon"],
    "arm64": ["generic", "neon"],
}
# The same bits everywhere: a multiply-add is fused where the source says so, and nowhere else.
CORE_FLAGS = "-std=c11 -ffp-contract=off -fno-math-errno -Wall -Wextra -Wconversion"
# Nothing unwinds through C that throws nothing: without these tables the wheel is 30 kB smaller.
COMMON_FLAGS = "-fvisibility=hidden -fno-asynchronous-unwind-tables"
# Windows has its own threads, and its C library holds the mathematics.
POSIX_FLAGS = "-pthread"
# After whatever CFLAGS and LDFLAGS say, arithmetic is exact: csrc/base/exact.h refuses what is left.  The
# linker would add code that makes the whole process flush subnormal numbers.
EXACT_FLAGS = (
    "-fno-fast-math -fno-unsafe-math-optimizations -fno-finite-math-only -fno-associative-math "
    "-fno-reciprocal-math -fsigned-zeros"
)
# 32-bit x86 computes in SSE registers, which round each result, and not in those of the x87.
X87_FLAGS = "-msse2 -mfpmath=sse"
# Flags that have no opposite which all compilers know, or that only their absence undoes.
LOOSE_FLAGS = re.compile(
    r"-ffast-math|-funsafe-math-optimizations|-ffinite-math-only|-fassociative-math|-freciprocal-math"
    r"|-fno-signed-zeros|-fsingle-precision-constant|-fapprox-func|-fno-honor-(nans|infinities)"
    r"|-ffp-model=.*|-fdenormal-fp-math.*|-mrecip.*|-mdaz-ftz|-mpc(32|64|80)"
)
# The kernels unroll and inline what they need: -O3 is no faster, and the code a tenth larger.  Python itself
# is often built with -g; the debug information would be larger than the code.
DEFAULT_FLAGS = ["-O2", "-g0"]


TARGET = sysconfig.get_platform()
WINDOWS = TARGET.startswith(("win", "mingw"))


def target_isas() -> list[str]:
    """Return the instruction sets to build: those of this machine, unless Python was told another target."""
    machine = TARGET.rpartition("-")[2].lower()
    # A 32-bit Python on a 64-bit kernel names the kernel's machine.
    return MACHINE_ISAS.get(machine, ["generic"]) if sys.maxsize > 2**32 else ["generic"]


def kernel_isa(source: Path) -> str | None:
    """Return the instruction set that a file name asks for; None where it gets the baseline flags."""
    return source.stem.split("_")[0] if source.parent.name == "isa" else None


def isa_flags(source: Path) -> list[str]:
    """Return the flags that a kernel file gets beside those of all; none for other files."""
    isa = kernel_isa(source)
    return [] if isa is None else ISA_FLAGS[isa].split()


def compile_flags(source: Path) -> list[str]:
    """Return the flags of one C file that follow those of Python and of CFLAGS on the command line."""
    asked = shlex.split(os.environ.get("CFLAGS", ""))
    flags = [f for f in DEFAULT_FLAGS if not any(a.startswith(f[:2]) for a in asked)]
    flags += f"{COMMON_FLAGS} {EXACT_FLAGS}".split()
    flags += [] if WINDOWS else POSIX_FLAGS.split()
    flags += X87_FLAGS.split() if TARGET.endswith(("-i386", "-i486", "-i586", "-i686")) else []
    if "csrc" in source.parts:
        flags += CORE_FLAGS.split() + isa_flags(source)
        if os.environ.get("FASTLSTM_WERROR", "0") != "0":
            flags.append("-Werror")
    return flags


def without_loose_flags(command: list[str]) -> list[str]:
    """Return a command of a compiler or linker without what makes arithmetic inexact."""
    strict = ["-O3" if word == "-Ofast" else word for word in command]
    return [word for word in strict if not LOOSE_FLAGS.fullmatch(word)]


def choose_compiler() -> None:
    """Fall back to any C compiler where the one that built Python is not on this machine."""
    built_with = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if "CC" not in os.environ and not shutil.which(built_with):
        os.environ["CC"] = next(filter(shutil.which, ("cc", "gcc", "clang")), built_with)


class BuildExt(build_ext):
    """Give each file its own flags, compile several at a time, and only what changed since the last build."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.cython_c_in_temp = True  # the generated C is no source
        self.cython_include_dirs = ["src/fastlstm/binding"]

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type not in ("unix", "mingw32"):
            kind = self.compiler.compiler_type
            raise CompileError(
                f"fastlstm is built with GCC, Clang, MinGW or zig cc, got the compiler type {kind!r}: MSVC "
                "lacks the vectors that the kernels are written with; try --compiler=mingw32"
            )
        for tool in ("compiler_so", "linker_so"):
            command = without_loose_flags(getattr(self.compiler, tool))
            # Where Python's own libraries lie here is no matter of a module that goes elsewhere.
            setattr(self.compiler, tool, [word for word in command if not word.startswith("-Wl,-rpath")])
        # Always link: after a change of flags and back, the right objects may be older than the module.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        compile_sources = self.compiler.compile

        def compile_stale(
            sources: list[str], output_dir: str, depends: list[str], **options: Any
        ) -> list[str]:
            def compile_one(source: str) -> str:
                flags = compile_flags(Path(source))
                (obj,) = self.compiler.object_filenames([source], output_dir=output_dir)
                inputs = {path: os.stat(path).st_mtime_ns for path in (source, *depends)}
                command = repr((self.compiler.compiler_so, flags, options, inputs))
                record = Path(f"{obj}.command")
                if not (os.path.exists(obj) and record.exists() and record.read_text() == command):
                    record.unlink(missing_ok=True)
                    compile_sources([source], output_dir=output_dir, **options | {"extra_postargs": flags})
                    record.write_text(command)
                return obj

            with ThreadPoolExecutor(self.parallel or min(4, os.cpu_count() or 1)) as pool:
                return list(pool.map(compile_one, sources))

        self.compiler.compile = compile_stale
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_sources


choose_compiler()
ISAS = target_isas()
# Cython has no stable ABI for free-threaded Python; that needs a wheel for each version.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")

core = Extension(
    "fastlstm._core",
    sources=["src/fastlstm/binding/_core.pyx"]
    + [str(path) for path in sorted(Path("csrc").rglob("*.c")) if kernel_isa(path) in (None, *ISAS)],
    depends=["setup.py", *(str(path) for path in sorted(Path("csrc").rglob("*.h")))],
    include_dirs=["csrc", np.get_include()],
    define_macros=[(f"FL_HAVE_{isa.upper()}", "1") for isa in ISAS if isa != "generic"]
    + [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")]
    + ([("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else []),
    libraries=[] if WINDOWS else ["m"],
    extra_link_args=[*([] if WINDOWS else POSIX_FLAGS.split()), *EXACT_FLAGS.split()],
    py_limited_api=LIMITED_API,
)

setup(
    ext_modules=[core],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
