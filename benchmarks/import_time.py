# SPDX-License-Identifier: BSD-3-Clause
"""What the package costs before its first call: import time beyond NumPy's, and sizes.

``python -m benchmarks.import_time [--wheel FILE]``
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

RUNS = 11
IMPORT_GOAL_SECONDS = 10e-3
WHEEL_GOAL_BYTES = 1_500_000
# An interpreter of its own a run; what fastlstm takes after NumPy, and NumPy itself for scale.
PROGRAM = """
import time
start = time.perf_counter()
import numpy
middle = time.perf_counter()
import fastlstm
print(middle - start, time.perf_counter() - middle)
"""


def measure_import(runs: int = RUNS) -> dict[str, Any]:
    """Median seconds to import fastlstm after NumPy; a first run fills the file cache and does not count."""
    times = [_one_run() for _ in range(runs + 1)][1:]
    return {
        "numpy_seconds": median(numpy for numpy, _ in times),
        "import_seconds": median(ours for _, ours in times),
        "installed_bytes": installed_bytes(),
    }


def _one_run() -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    numpy_seconds, ours = map(float, done.stdout.split())
    return numpy_seconds, ours


def installed_bytes() -> int:
    """Size of the installed package's files, without compiled Python."""
    spec = importlib.util.find_spec("fastlstm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("fastlstm is not installed")
    files = [path for path in Path(spec.origin).parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sum(path.stat().st_size for path in files)


def main(argv: list[str] | None = None) -> int:
    """Print it as JSON; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, help="a built wheel, whose size is taken too")
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args(argv)
    found = measure_import(arguments.runs)
    found["is_reached"] = found["import_seconds"] < IMPORT_GOAL_SECONDS
    if arguments.wheel:
        found["wheel_bytes"] = arguments.wheel.stat().st_size
        found["is_reached"] = found["is_reached"] and found["wheel_bytes"] < WHEEL_GOAL_BYTES
    print(json.dumps(found, indent=1))
    return 0 if found["is_reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
