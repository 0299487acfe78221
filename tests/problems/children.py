# SPDX-License-Identifier: BSD-3-Clause
"""Functions of the tests in interpreters of their own: on an instruction set, or where they may crash."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .inside import isa_active, isa_table

ROOT = Path(__file__).resolve().parents[2]
ISAS = [name for name, _built, available in isa_table() if available]
FUSED_ISAS = [isa for isa in ISAS if isa != "generic"]
# A child that hangs is killed after this many seconds; nothing is measured by it.
HANG = 240 * max(1.0, float(os.environ.get("FASTLSTM_CAMPAIGN", "1")))


def child_environment(isa: str | None = None, **variables: str) -> dict[str, str]:
    """Environment of a child that finds the tests; `isa` caps it, or what this process runs by default."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTLSTM_NUM_THREADS"}
    environment["FASTLSTM_MAX_ISA"] = isa or isa_active()
    environment["OPENBLAS_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    return environment | variables


def start_child(
    function: Callable[..., Any], *args: Any, isa: str | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Run ``function(*args)``, a function at the top of a test module, in a new interpreter."""
    isa = isa or isa_active()
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c"]
    command += ["from tests.problems import children; children.child_main()"]
    command += [function.__module__, function.__qualname__, isa, json.dumps(args)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=child_environment(isa, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that it can be killed with all that it forked
    )


def result_of_child(child: subprocess.Popen[str]) -> Any:
    """What the function returned, through JSON; a crash, a hang or an exception is a failure."""
    try:
        stdout, stderr = child.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        stdout, stderr = child.communicate()
        stderr += "\n(it hung)"
    assert child.returncode == 0, (
        f"exit status {child.returncode} of {child.args}\n{stdout}\n{stderr[-20000:]}"
    )
    return json.loads(stdout.splitlines()[-1])


def in_child(function: Callable[..., Any], *args: Any, isa: str | None = None, **variables: str) -> Any:
    """Run a function in a new interpreter on instruction set `isa`, and wait for its result."""
    return result_of_child(start_child(function, *args, isa=isa, **variables))


def child_main() -> None:
    """Entry of a child; asserts that the instruction set it was meant for is the active one."""
    module, name, isa, args = sys.argv[1:]
    assert isa_active() == isa, f"expected {isa}, got {isa_active()}"
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(args))))


def announce(*case: Any) -> None:
    """Say in a child what comes next: after a fault it is the last line that the failed test shows."""
    print(*case, file=sys.stderr)
