# SPDX-License-Identifier: BSD-3-Clause
"""The campaign's calls in a build of the package with a sanitizer, in a folder of its own.

    python -m tests.campaign.sanitized address|thread [arguments of pytest]

`thread` reports what is a race between the core's threads and ours; Python itself is not built with it, so it
sees no lock of the interpreter: what is guarded by the GIL alone is suppressed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {"address": "address,undefined", "thread": "thread"}
RUNTIMES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=66:ignore_noninstrumented_modules=1",
}
SOURCES = ["csrc", "src", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]
# Signals are late under a sanitizer, and allocations are those of its own allocator.
TESTS = ("tests/campaign/test_differential.py", "tests/campaign/test_sequences_of_calls.py")


def build(sanitizer: str, folder: Path) -> Path:
    """Install the package with the sanitizer; returns what PYTHONPATH has to name."""
    sources, target = folder / "sources", folder / "package"
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, sources / name, dirs_exist_ok=True)
        else:
            sources.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, sources / name)
    environment = os.environ | {
        "CFLAGS": f"-O1 -g1 -fsanitize={FLAGS[sanitizer]} -fno-omit-frame-pointer",
        # Sanitizers see nothing of what intrinsics touch: of a machine without any there is plain C alone.
        "_PYTHON_HOST_PLATFORM": "linux-any",
    }
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", str(target)]
    subprocess.run(command, cwd=sources, check=True, env=environment)
    return target


def runtime(library: str) -> str:
    """Where the compiler has the runtime of a sanitizer."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    command = [*compiler, f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(sanitizer: str, *arguments: str) -> int:
    """Build, and run the tests; returns pytest's exit status."""
    package = build(sanitizer, ROOT / "build" / f"sanitized-{sanitizer}")
    environment = os.environ | OPTIONS
    environment["LD_PRELOAD"] = " ".join(runtime(library) for library in RUNTIMES[sanitizer])
    environment["PYTHONPATH"] = str(package)
    environment["PYTHONMALLOC"] = "malloc"
    environment["OPENBLAS_NUM_THREADS"] = "1"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        *(arguments or TESTS),
    ]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1] not in FLAGS:
        sys.exit(f"expected one of {', '.join(FLAGS)}, got {sys.argv[1:] or 'nothing'}")
    sys.exit(main(*sys.argv[1:]))
