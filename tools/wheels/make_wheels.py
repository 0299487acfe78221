"""Make every wheel on one machine, from the source archive, and check each: make_wheels.py dist [TAG...]

Compilers are zig's; the version is in pyproject.toml.  Each wheel is built from the archive in a folder of
its own, and ``--twice`` makes each again in another folder with an empty cache: the bytes must be the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from tools.check_wheel import WheelError, check_archive, check_module, check_objects, require
from tools.wheels.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
# Where there is no history: any moment that a zip archive can hold.
ANY_MOMENT = "1735689600"
MOST_BYTES = 1_600_000


def moment() -> str:
    """Return the time that all files in the wheels have: that of the last commit."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ANY_MOMENT


def run(command: list[str], log: Path, **options: object) -> None:
    """Run a command that writes to a file, whose end is shown when it fails."""
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise WheelError(f"{' '.join(command)} failed:\n{log.read_text()[-4000:]}")


def source_archive(scratch: Path) -> Path:
    """Make the source archive and return it."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--sdist",
        "--outdir",
        str(scratch),
        str(ROOT),
    ]
    run(command, scratch / "sdist.log")
    (archive,) = scratch.glob("*.tar.gz")
    return archive


def make_wheel(target: Target, archive: Path, scratch: Path, cython: Path | None) -> tuple[Path, Path]:
    """Make one wheel; return it and the folder with its objects.

    ``cython`` is the C code that Cython wrote for another wheel, which is the same for all.
    """
    with tarfile.open(archive) as packed:
        packed.extractall(scratch, filter="data")
    (source,) = (path for path in scratch.iterdir() if (path / "setup.py").exists())
    build = source / "build" / "temp"
    if cython is not None:
        place = build / "src" / "fastlstm" / "binding" / "_core.c"
        place.parent.mkdir(parents=True)
        shutil.copy(cython, place)
    command = [sys.executable, "-m", "tools.wheels.cross_setup", target.tag, str(scratch / "headers")]
    command += ["build", f"--build-temp={build.relative_to(source)}", "--build-lib=build/lib"]
    command += ["bdist_wheel", f"--plat-name={target.tag}", f"--dist-dir={scratch / 'dist'}"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SOURCE_DATE_EPOCH": moment(),
        "PYTHONHASHSEED": "0",
        "FASTLSTM_WERROR": "1",
    }
    run(command, scratch / "build.log", cwd=source, env=environment)
    (wheel,) = (scratch / "dist").glob("*.whl")
    return wheel, build


def make_and_check(target: Target, archive: Path, out: Path, twice: bool, cython: Path | None) -> Path:
    """Make a wheel in ``out`` and check it; return the C code of Cython."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        wheel, build = make_wheel(target, archive, Path(first), cython)
        check_archive(wheel, MOST_BYTES)
        check_module(wheel, Path(first))
        check_objects(build)
        if twice:
            caches = {f"ZIG_{kind}_CACHE_DIR": str(Path(second) / kind) for kind in ("LOCAL", "GLOBAL")}
            os.environ.update(caches)
            again, _ = make_wheel(target, archive, Path(second), None)
            for name in caches:
                del os.environ[name]
            digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, again)]
            require(digests[0] == digests[1], f"{wheel.name}: made twice, the bytes differ")
        shutil.copy(wheel, out)
        kept = out.parent / "build" / "_core.c"
        kept.parent.mkdir(exist_ok=True)
        written = min(build.rglob("_core.c"), key=lambda path: len(path.parts))
        shutil.copy(written, kept)
    print(f"{target.tag}: {time.monotonic() - began:.0f} s{', twice' if twice else ''}", flush=True)
    return kept


def main() -> int:
    """Make the wheels; return 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("tags", nargs="*", metavar="TAG", help="some of: " + " ".join(t.tag for t in TARGETS))
    parser.add_argument("--twice", action="store_true", help="also make each again, and compare")
    arguments = parser.parse_args()
    known = {target.tag: target for target in TARGETS}
    strangers = set(arguments.tags) - known.keys()
    if strangers:
        parser.error(f"unknown tags {sorted(strangers)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    cython = None
    try:
        with tempfile.TemporaryDirectory() as scratch:
            archive = source_archive(Path(scratch))
            for tag in arguments.tags or known:
                cython = make_and_check(known[tag], archive, arguments.out.resolve(), arguments.twice, cython)
            shutil.copy(archive, arguments.out)
    except WheelError as error:
        print(f"make_wheels: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
