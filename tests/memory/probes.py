# SPDX-License-Identifier: BSD-3-Clause
"""What this process holds in memory."""

from __future__ import annotations

import gc
import os
from pathlib import Path

MEGABYTE = 2**20


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def high_water():
    """Most bytes that were ever resident in this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def fails(call, *arguments, **keywords):
    """A call that must end in an exception, of which nothing is kept."""
    try:
        call(*arguments, **keywords)
    except (TypeError, ValueError, RuntimeError):
        return
    raise AssertionError("expected an exception")
