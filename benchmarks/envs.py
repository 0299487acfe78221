# SPDX-License-Identifier: BSD-3-Clause
"""Virtual environments of the race's peers, made when they are first needed and kept."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import PeerSpec

DEFAULT_FOLDER = Path(__file__).parent / ".envs"
INSTALL_TIMEOUT_SECONDS = 1800


class InstallError(Exception):
    """A peer could not be installed; the message holds the end of pip's."""


def python_of(spec: PeerSpec, folder: Path, pip_arguments: list[str]) -> Path:
    """The interpreter of a peer's environment, made if it does not exist or its requirements have changed.

    Raises
    ------
    InstallError
        If the environment cannot be made.
    """
    if not spec.requirements:
        return Path(sys.executable)
    home = folder / spec.name
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = home / "requirements.txt"
    wanted = "\n".join(spec.requirements) + "\n"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    _run(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            *pip_arguments,
            *spec.requirements,
        ]
    )
    stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InstallError(str(failure)) from failure
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
        raise InstallError(" ".join(errors)[:400])
