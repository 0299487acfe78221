# SPDX-License-Identifier: BSD-3-Clause
"""Threads, and a description of what the library runs on."""

from __future__ import annotations

import os
import sys
from _thread import _local
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np

from . import _core

__all__ = ["get_num_threads", "set_num_threads", "show_runtime", "threads"]

_source = _core.initial_num_threads_source  # of the number of threads


def set_num_threads(n: int | None) -> None:
    """Set the most threads that a call in this process uses.

    Results do not depend on it, and a call uses fewer where more would not gain.

    Parameters
    ----------
    n : int or None
        At least 1, also above the number of CPUs; None restores the number at import:
        ``FASTLSTM_NUM_THREADS``, else the CPUs that this process may use, and at most ``OMP_NUM_THREADS``.

    Raises
    ------
    TypeError, ValueError
        `n` is not an integer of at least 1.
    """
    global _source
    if n is None:
        _core.set_num_threads(_core.initial_num_threads)
        _source = _core.initial_num_threads_source
    else:
        _core.set_num_threads(_core.count(n, "n"))
        _source = "set_num_threads"


def get_num_threads() -> int:
    """Return the most threads that a call made here uses: of `threads` if inside one, else of the process."""
    return _core.get_num_threads()


class threads(_local):
    """Limit the threads of calls made by the calling thread: ``with fastlstm.threads(1): ...``.

    It can be nested, and used again; the limit of before comes back at the end.  A layer's own `num_threads`
    takes precedence.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        `n` is not an integer of at least 1.
    """

    # Thread-local, so that one object can be entered by several threads: each has its own stack.
    def __init__(self, n: int) -> None:
        self._n = _core.count(n, "n")
        self._before: list[int] = []

    def __enter__(self) -> threads:
        self._before.append(_core.set_local_num_threads(self._n))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _core.set_local_num_threads(self._before.pop())


@overload
def show_runtime(as_dict: Literal[False] = False) -> None: ...
@overload
def show_runtime(as_dict: Literal[True]) -> dict[str, Any]: ...
@overload
def show_runtime(as_dict: bool) -> dict[str, Any] | None: ...


def show_runtime(as_dict: bool = False) -> dict[str, Any] | None:
    """Print versions, instruction sets, threads, measured plans and the machine, for a report of a problem.

    Parameters
    ----------
    as_dict : bool
        Return them instead of printing.

    Returns
    -------
    dict or None
        None where they are printed.
    """
    from . import __version__

    built = [name for name, is_built, _ in _core.isa_table() if is_built]
    available = [name for name, _, is_available in _core.isa_table() if is_available]
    environment = ("FASTLSTM_NUM_THREADS", "FASTLSTM_MAX_ISA", "FASTLSTM_PLANS", "OMP_NUM_THREADS")
    facts: dict[str, Any] = {
        "fastlstm": __version__,
        "compiler": _core.compiler,
        "instruction sets": {"built": built, "available": available, "active": _core.isa_active()},
        "threads": {"number": get_num_threads(), "from": _threads_source()},
        "cpu": {
            "model": _cpu_model(),
            "count": os.cpu_count(),
            "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "cgroup quota": _cgroup_quota(),
            "used at most": _core.cpu_count(),
        },
        "plans": {
            "chosen by": "trial" if _core.plan_trials() else "estimate",
            "calls": _core.plan_facts(),
        },
        "environment": {name: os.environ[name] for name in environment if name in os.environ},
        "numpy": np.__version__,
        "python": sys.version,
        "platform": _platform(),
    }
    if as_dict:
        return facts
    calls = facts["plans"].pop("calls")
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {_listed(item)}" for key, item in value.items()) or "none"
        print(f"{name + ':':18}{value}")
        if name == "plans":
            for call in calls:
                print(f"{'':18}{_described(call)}")
    return None


def _described(call: dict[str, Any]) -> str:
    """One kind of call that has been measured: its plans, the one in force with a star."""
    sizes = "{num_layers} x {num_directions}, {input_size} -> {hidden_size}, {dtype}".format(**call)
    plans = []
    for index, plan in enumerate(call["plans"]):
        cut = [f"{plan[f'{what}_groups']} {what}" for what in _CUTS if plan[f"{what}_groups"] > 1]
        time = f"{plan['nanoseconds'] / 1e3:.3g} us a step" if plan["nanoseconds"] else "not measured yet"
        star = "*" if call["is_settled"] and index == call["chosen"] else ""
        groups = f" ({', '.join(cut)} groups)" if cut else ""
        threads = f"{plan['threads']} thread{'s' if plan['threads'] > 1 else ''}"
        plans.append(f"{star}{threads}{groups} {time}")
    return f"{call['pass']}, {sizes}, B {call['rows']}, T >= {call['steps']}: " + "; ".join(plans)


_CUTS = ("row", "direction", "layer", "hidden")


def _listed(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _threads_source() -> str:
    # 0 is no local limit; setting it and putting it back is the only way to ask.
    local = _core.set_local_num_threads(0)
    _core.set_local_num_threads(local)
    return "threads" if local else _source


def _platform() -> str:
    import platform  # slow to import

    return platform.platform()


def _cpu_model() -> str:
    import platform

    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cgroup_quota() -> float | None:
    """CPUs by the least quota of this process's control group and its parents; None where there is none."""
    quotas = []
    try:
        with open("/proc/self/cgroup") as lines:
            path = next((line[3:].strip() for line in lines if line.startswith("0::/")), "")
        parts = path.split("/")[1:]
        for depth in range(len(parts) + 1):
            limits = "/".join(["/sys/fs/cgroup", *parts[:depth], "cpu.max"])
            if os.path.exists(limits):
                with open(limits) as file:
                    quota, period = file.read().split()
                if quota != "max":
                    quotas.append(int(quota) / int(period))
    except (OSError, ValueError):
        pass
    return min(quotas, default=None)
