# SPDX-License-Identifier: BSD-3-Clause
"""Calls of the allocator in a child that has `count_allocations.c` preloaded: counted, or made to fail."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sysconfig
from pathlib import Path


def build_counter(folder: Path) -> str:
    """Path of the library, for LD_PRELOAD."""
    library = folder / "count_allocations.so"
    source = Path(__file__).with_name("count_allocations.c")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    command = [*compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return str(library)


class Allocations:
    """Calls of the allocator, and bytes asked for, since this object was made; needs the counter."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        for name in ("allocation_calls", "allocation_bytes", "allocation_failures"):
            getattr(self.library, name).restype = ctypes.c_size_t
        self.library.allocation_fail.argtypes = ctypes.c_size_t, ctypes.c_int
        self.library.allocation_fail.restype = None
        gc.collect()
        gc.disable()
        self.start = self.now()

    def now(self):
        return self.library.allocation_calls(), self.library.allocation_bytes()

    def since(self):
        return tuple(int(b - a) for a, b in zip(self.start, self.now(), strict=True))
