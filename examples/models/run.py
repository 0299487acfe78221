# SPDX-License-Identifier: BSD-3-Clause
"""Fetch the packages of adapters.py, compare what their programs and fastlstm compute, and print a table.

``python -m examples.models.run [NAME ...]`` needs torch, keras, onnxruntime, onnx and h5py; packages are
downloaded by pip and unpacked, not installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm

ROUNDS = 7


def fetch(name: str, folder: Path) -> None:
    """Download a package and unpack it, and the archives of models within."""
    if (folder / f".{name}").exists():
        return
    wheels = folder / "downloads" / name
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), name]
    subprocess.run(command, check=True)
    for path in wheels.iterdir():
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
    for path in (folder / "sleepecg").glob("classifiers/*.zip"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(path.with_suffix(""))
    (folder / f".{name}").touch()


def measured(functions: Sequence[Callable[[], Any]]) -> list[float]:
    """The least CPU time of each, taken in turns."""
    least = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for number, function in enumerate(functions):
            begin = time.process_time()
            function()
            least[number] = min(least[number], time.process_time() - begin)
    return least


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the table; return it."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    from .adapters import MODELS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; none is all")
    parser.add_argument("--folder", type=Path, default=Path("examples/results/models"), help="for packages")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    fastlstm.set_num_threads(1)
    print("| package | largest difference (value) | own | fastlstm | ratio |\n|---|---:|---:|---:|---:|")
    results = {}
    for name in given.names or MODELS:
        if name not in MODELS:
            parser.error(f"NAME: expected one of {list(MODELS)}, got {name!r}")
        fetch(name, given.folder)
        theirs, ours = MODELS[name](given.folder)
        expected, got = np.asarray(theirs()), np.asarray(ours())
        difference = float(np.abs(got.reshape(expected.shape) - expected).max())
        own, new = measured([theirs, ours])
        results[name] = {"difference": difference, "own": own, "fastlstm": new}
        value = float(np.abs(expected).max())
        times = f"{own * 1e3:.3g} ms | {new * 1e3:.3g} ms | {own / new:.3g}x"
        print(f"| {name} | {difference:.1e} ({value:.2g}) | {times} |")
    return results


if __name__ == "__main__":
    main()
