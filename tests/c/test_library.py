# SPDX-License-Identifier: BSD-3-Clause
"""The C core as an installed library: what it exports, and programs that find it by CMake and pkg-config."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c.core_build import ROOT
from tools.make_library import install

HANG = 900


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("a prefix")
    install(prefix, ["generic"])
    return prefix


def said(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=HANG, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def public_names() -> set[str]:
    header = (ROOT / "csrc" / "fastlstm.h").read_text()
    return set(re.findall(r"^FL_API [^;(]*?\b(fl_\w+)\(", header, re.MULTILINE))


def test_the_shared_library_exports_the_header_and_nothing_else(installed):
    lines = said("nm", "-D", "--defined-only", installed / "lib" / "libfastlstm.so").splitlines()
    names = public_names()
    assert {"fl_stack_forward", "fl_status_text"} <= names
    assert {line.split()[-1] for line in lines} == names


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_cmake_finds_both_libraries(installed, tmp_path):
    said("cmake", "-S", ROOT / "examples" / "c", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed}")
    said("cmake", "--build", tmp_path)
    answers = {said(tmp_path / f"stream_sine_{kind}") for kind in ("fastlstm", "static")}
    assert len(answers) == 1
    assert "rms error" in answers.pop()
    said("cmake", "-E", "make_directory", tmp_path / "newer")
    lists = "cmake_minimum_required(VERSION 3.16)\nproject(n C)\nfind_package(fastlstm 99)\n"
    (tmp_path / "newer" / "CMakeLists.txt").write_text(lists + "message(STATUS found=${fastlstm_FOUND})\n")
    out = said("cmake", "-S", tmp_path / "newer", "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={installed}")
    assert "found=0" in out


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_pkg_config_finds_it(installed, tmp_path):
    folder = str(installed / "lib" / "pkgconfig")
    flags = said("pkg-config", "--cflags", "--libs", "fastlstm", PKG_CONFIG_PATH=folder)
    program = tmp_path / "program"
    source = str(ROOT / "examples" / "c" / "stream_sine.c")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    said(*compiler, "-std=c11", source, *shlex.split(flags), "-lm", "-o", program)
    assert "rms error" in said(program, LD_LIBRARY_PATH=str(installed / "lib"))
