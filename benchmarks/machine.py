# SPDX-License-Identifier: BSD-3-Clause
"""What machine and what versions a result was measured with."""

import os
import platform
import re
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")


def cpu_model() -> str:
    """Name of the processor, with family and model number where the system tells them."""
    fields = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if not line.strip():
                break
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    except OSError:
        pass
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields and "model" in fields:
        name += f" (family {fields['cpu family']} model {fields['model']})"
    return name


def folder_name(model: str | None = None) -> str:
    """The folder of a processor's results: its name (by default this machine's) in lower case and hyphens."""
    return "-".join(re.findall(r"[a-z0-9.]+", (model or cpu_model()).lower()))


def cache_bytes() -> dict[str, int]:
    """Sizes of the first processor's caches, ``{"L1": 32768, ...}``; empty where the system does not tell."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = {}
    for index in sorted(CACHE_FOLDER.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size:
            sizes[f"L{level}"] = int(size.rstrip("KMG")) * units.get(size[-1], 1)
    return sizes


def l2_bytes() -> int:
    """Size of a core's L2; 1 MiB where the system does not tell."""
    return cache_bytes().get("L2", 1 << 20)


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe() -> dict[str, Any]:
    """Everything about the machine that a reader of a result wants to know."""
    return {
        "cpu": cpu_model(),
        "cpus": cpu_count(),
        "caches": cache_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.version.split()[0],
        "numpy": version("numpy"),
        "fastlstm": version("fastlstm"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
