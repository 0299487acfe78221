"""Audit a built wheel and run it in a clean environment: check_wheel.py dist/*.whl --build-dir build

Checked: the name's tags; the files inside; the size; that the module exports its init function alone and
needs no library but the C library's; with --build-dir, that no object file outside the instruction sets'
own kernels holds a VEX or EVEX instruction (an older machine would crash), and that those kernels define no
symbol that the linker could hand to other code; a forward pass in a new virtual environment with the wheel
and NumPy alone. Needs GNU binutils and Linux.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

# Kernels of three instruction sets and two dtypes are nine tenths of it, readers of files 70 kB.
MAX_BYTES = 1_740_000
ALLOWED_LIBRARIES = re.compile(r"(libc|libm|libpthread|ld-linux-[\w-]+)\.so\.\d+")
ALLOWED_FILES = re.compile(
    r"fastlstm/((interop|layers|model|passes|reference)/)?([a-z]\w*|__init__)\.py|fastlstm/__main__\.py"
    r"|fastlstm/_core\.(abi3\.so|pyi)|fastlstm/py\.typed"
    r"|fastlstm-[\d.]+\.dist-info/(METADATA|WHEEL|RECORD|top_level\.txt|licenses/LICENSE)"
)
REQUIRED_FILES = (
    "__init__.py",
    "__main__.py",
    "_core.abi3.so",
    "_core.pyi",
    "py.typed",
    *(f"{folder}/__init__.py" for folder in ("interop", "layers", "model", "passes", "reference")),
)
# Every VEX and EVEX instruction begins with v; these three older ones do too.
LEGACY_V = {"verr", "verw", "vmcall"}

SMOKE_TEST = """
import sys
import numpy as np
import fastlstm
from fastlstm import reference

assert "site-packages" in fastlstm.__file__, fastlstm.__file__
for dtype, bound in ((np.float32, 2e-6), (np.float64, 1e-13)):
    lstm = fastlstm.LSTM(5, 19, num_layers=2, bidirectional=True, dtype=dtype, rng=1)
    x = np.random.default_rng(2).standard_normal((7, 3, 5)).astype(dtype)
    y, (h_n, c_n) = lstm(x, lengths=[7, 0, 4])
    truth = {name: value.astype(np.float64) for name, value in lstm.state_dict().items()}
    expected, (h_true, c_true) = reference.lstm(x, truth, lengths=[7, 0, 4], bidirectional=True)
    for got, want in ((y, expected), (h_n, h_true), (c_n, c_true)):
        assert got.dtype == dtype and got.shape == want.shape
        error = np.abs(got - want).max()
        assert error <= bound, f"{np.dtype(dtype).name}: error {error:.2e} exceeds {bound}"
print("ran on Python", sys.version.split()[0], "with NumPy", np.__version__)
"""


class WheelError(Exception):
    """The wheel breaks a rule."""


def require(condition: bool, message: str) -> None:
    """Raise WheelError with the message unless the condition holds."""
    if not condition:
        raise WheelError(message)


def output(*command: str | Path, cwd: str | Path | None = None) -> str:
    """Run a command and return what it prints; a failure raises WheelError with its messages."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    require(done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def check_archive(wheel: Path) -> None:
    """Check tags, size and the list of files."""
    tags = wheel.stem.split("-")[2:]
    require(tags[:2] == ["cp311", "abi3"], f"{wheel.name}: expected the tags cp311-abi3, got {tags}")
    size = wheel.stat().st_size
    require(size < MAX_BYTES, f"{wheel.name}: expected fewer than {MAX_BYTES} bytes, got {size}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    strangers = [name for name in names if not ALLOWED_FILES.fullmatch(name)]
    require(not strangers, f"{wheel.name}: unexpected files {strangers}")
    missing = [name for name in REQUIRED_FILES if f"fastlstm/{name}" not in names]
    require(not missing, f"{wheel.name}: missing files {missing}")
    print(f"{wheel.name}: {size} bytes, {len(names)} files")


def check_module(wheel: Path, scratch: Path) -> None:
    """Check what the compiled module exports and needs."""
    with zipfile.ZipFile(wheel) as archive:
        module = archive.extract("fastlstm/_core.abi3.so", scratch)
    symbols = output("nm", "-D", "--defined-only", "--format=posix", module).splitlines()
    exported = {line.split()[0] for line in symbols} - {"_init", "_fini"}
    require(exported == {"PyInit__core"}, f"expected the one export PyInit__core, got {sorted(exported)}")
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", "--wide", module))
    strangers = [name for name in needed if not ALLOWED_LIBRARIES.fullmatch(name)]
    require(not strangers, f"libraries needed beside the C library: {strangers}")
    print("exports PyInit__core alone, needs", ", ".join(needed))


def check_objects(build_dir: Path) -> None:
    """Check that code for an instruction set stays in the kernels of that instruction set."""
    objects = sorted(build_dir.rglob("*.o"))
    kernels = {path: path.stem.split("_")[0] for path in objects if path.parent.name == "isa"}
    require(
        "generic" in kernels.values() and any(path.stem == "_core" for path in objects),
        f"{build_dir}: expected the object files of a build, got {[path.name for path in objects]}",
    )
    for path in objects:
        isa = kernels.get(path, "generic")
        code = output("objdump", "--disassemble", "--no-show-raw-insn", path)
        if "file format elf64-x86-64" in code and isa != "avx512":
            mnemonics = set(re.findall(r"^\s*[0-9a-f]+:\s+(v\w+)", code, re.MULTILINE)) - LEGACY_V
            require(isa == "avx2" or not mnemonics, f"{path.name}: AVX instructions {sorted(mnemonics)[:9]}")
            require("%zmm" not in code, f"{path.name}: AVX-512 registers")
        if path in kernels:
            symbols = output("nm", "--defined-only", "--extern-only", "--format=posix", path).splitlines()
            shared = [name for line in symbols if isa not in (name := line.split()[0])]
            require(not shared, f"{path.name}: global symbols without {isa!r} in their name: {shared}")
    print(f"{len(objects)} object files keep to their instruction sets: {sorted(set(kernels.values()))}")


def check_run(wheel: Path, numpy: str, scratch: Path) -> None:
    """Run a forward pass in a new environment that holds the wheel and NumPy alone."""
    home = scratch / "venv"
    venv.create(home, with_pip=True, clear=True)
    python = home / "bin" / "python"
    output(python, "-m", "pip", "install", "--quiet", wheel.resolve(), numpy)
    installed = output(python, "-m", "pip", "list", "--format=freeze")
    packages = {line.partition("==")[0].lower() for line in installed.splitlines()}
    strangers = packages - {"fastlstm", "numpy", "pip", "setuptools"}
    require(not strangers, f"installed beside fastlstm and numpy: {sorted(strangers)}")
    print(output(python, "-I", "-c", SMOKE_TEST, cwd=scratch).strip())
    output(python, "-I", "-m", "fastlstm", cwd=scratch)


def main() -> int:
    """Run all checks; return 0 if they hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--build-dir", type=Path, help="also check the object files in this directory")
    parser.add_argument("--numpy", default="numpy", help="the NumPy to run with, e.g. 'numpy==2.0.*'")
    arguments = parser.parse_args()
    try:
        check_archive(arguments.wheel)
        with tempfile.TemporaryDirectory() as scratch:
            check_module(arguments.wheel, Path(scratch))
            if arguments.build_dir:
                check_objects(arguments.build_dir)
            check_run(arguments.wheel, arguments.numpy, Path(scratch))
    except WheelError as error:
        print(f"check_wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
