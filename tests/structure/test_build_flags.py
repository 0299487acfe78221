# SPDX-License-Identifier: BSD-3-Clause
"""Flags that change arithmetic are undone by the build and refused by the core's own files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.c.core_build import CONSTANTS, ROOT

CORE = ROOT / "csrc"
COMPILER = shlex.split(os.environ.get("CC", "cc"))
LOOSE = {
    "fast": "-O0 -ffast-math",
    "Ofast": "-Ofast",
    "parts": "-O0 -funsafe-math-optimizations -ffinite-math-only -fno-signed-zeros",
}
# The module is loaded by itself; a product of normal numbers, before and after, is subnormal.
PROBE = """
import importlib.util, sys
import numpy as np
a = np.float32(1e-30) * np.float32(1e-10)
spec = importlib.util.spec_from_file_location("fastlstm._core", sys.argv[1])
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
b = np.float32(1e-30) * np.float32(1e-10)
assert 0 < b == a, (a, b)
assert not core.all_finite(np.float32([1, np.nan])) and not core.all_finite(np.float64([np.inf]))
t = np.float32([-0.0, 1e-42, np.nan, np.inf])
print(core.tanh(t).view("u4").tolist(), core.sigmoid(np.linspace(-9, 9, 99, dtype="f4")).view("u4").tolist())
"""


def included(path, seen=None):
    """All files of the core that one reaches."""
    seen = set() if seen is None else seen
    for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
        if name not in seen:
            seen.add(name)
            included(CORE / name, seen)
    return seen


def test_every_file_of_the_core_comes_by_the_guard():
    sources = sorted(CORE.rglob("*.c"))
    assert len(sources) > 30
    assert not [path.name for path in sources if "base/exact.h" not in included(path)]


def preprocess(*flags):
    command = [
        *COMPILER,
        "-std=c11",
        f"-I{CORE}",
        *flags,
        "-E",
        str(CORE / "base" / "random.c"),
        "-o",
        os.devnull,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flags", ["-ffast-math", "-O2 -ffast-math", "-ffinite-math-only"])
def test_the_core_refuses_them(flags):
    found = preprocess(*flags.split())
    assert found.returncode != 0
    assert "expected exact arithmetic" in found.stderr
    assert preprocess().returncode == 0


@pytest.mark.parametrize("flags", LOOSE.values(), ids=LOOSE)
def test_what_follows_them_undoes_them(flags):
    exact = str(CONSTANTS["EXACT_FLAGS"]).split()
    assert preprocess(*flags.split(), *exact).returncode == 0
    macros = subprocess.run(
        [*COMPILER, *flags.split(), *exact, "-dM", "-E", "-x", "c", os.devnull],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "#define __FINITE_MATH_ONLY__ 0" in macros
    assert not re.search("FAST_MATH__|ASSOCIATIVE_MATH|RECIPROCAL_MATH|NO_SIGNED_ZEROS", macros)


def probed(module):
    return subprocess.run(
        [sys.executable, "-c", PROBE, str(module)],
        env=os.environ | {"FASTLSTM_MAX_ISA": "generic"},
        capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip


@pytest.mark.long
def test_a_build_with_them_is_as_one_without(tmp_path):
    """Nothing of the process changes, and the bits are the same; every file gets its flags in one place, so
    plain C is enough, which is all that setup.py builds for a machine that it does not know.
    """
    environment = os.environ | {
        "_PYTHON_HOST_PLATFORM": "linux-unknown",
        "CFLAGS": "-O0 -g0 -ffast-math -funsafe-math-optimizations -ffinite-math-only",
        "LDFLAGS": "-Ofast -ffast-math -funsafe-math-optimizations",
    }
    subprocess.run(
        [sys.executable, "setup.py", "build_ext", "-t", str(tmp_path / "temp"), "-b", str(tmp_path / "lib")],
        cwd=ROOT, env=environment, check=True, capture_output=True, timeout=1500,
    )  # fmt: skip
    (module,) = Path(tmp_path / "lib").rglob("_core*.so")
    from fastlstm import _core

    assert probed(module) == probed(_core.__file__)
