"""Audit a built wheel and run it in a clean environment: check_wheel.py dist/*.whl --build-dir build

Checked: the name's tags; the files inside, the license among them; the size; that the module exports its
init function alone, needs no library but the system's, no newer C library than the tag says, and names no
folder of the machine that built it; with --build-dir, that no object file outside the instruction sets' own
kernels holds a VEX or EVEX instruction (an older machine would crash), and that those kernels define no
symbol that the linker could hand to other code; and, where the wheel is this machine's, a forward pass in a
new virtual environment with the wheel and NumPy alone. Needs LLVM's binary tools, which read all formats.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

# Kernels of three instruction sets and two dtypes are nine tenths of it; readers of files are 70 kB.
MAX_BYTES = 1_800_000
ALLOWED_LIBRARIES = re.compile(
    r"(libc|libm|libpthread|ld-linux-[\w-]+)\.so\.\d+|libc\.so|libc\.musl-\w+\.so\.1"  # Linux: glibc, musl
    r"|/usr/lib/libSystem\.B\.dylib"
    r"|python3\.dll|kernel32\.dll|api-ms-win-crt-\w+-l1-1-0\.dll",
    re.IGNORECASE,
)
EXPORTED = {"PyInit__core", "_PyInit__core"}  # macOS puts a _ before names of C
# Where compilers and sources lie on the machines that build wheels.
FOLDERS = re.compile(rb"/(?:home|root|tmp|Users|build|work)/[\w./-]+")
ALLOWED_FILES = re.compile(
    r"fastlstm/((convert|files|interop|layers|model|passes|reference|torch)/)?([a-z]\w*|__init__)\.py|fastlstm/__main__\.py"
    r"|fastlstm/_core\.(abi3\.so|cpython-\w+-[\w-]+\.so|pyd|pyi)|fastlstm/py\.typed"
    r"|fastlstm-[\d.]+\.dist-info/(METADATA|WHEEL|RECORD|top_level\.txt|licenses/LICENSE)"
)
REQUIRED_FILES = (
    "__init__.py",
    "__main__.py",
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


def llvm(tool: str) -> str:
    """Return the command of one of LLVM's tools, of the newest version; a missing one raises WheelError."""
    names = [tool, *(f"{tool}-{version}" for version in range(30, 13, -1))]
    command = next(filter(None, map(shutil.which, names)), None)
    require(command is not None, f"{tool} is not installed (Debian: apt-get install llvm)")
    return str(command)


def check_archive(wheel: Path, most: int = MAX_BYTES) -> None:
    """Check tags, size and the list of files."""
    tags = wheel.stem.split("-")[2:]
    is_free = re.fullmatch(r"cp\d+t", tags[1]) is not None
    require(
        tags[:2] == ["cp311", "abi3"] or (is_free and tags[0] == tags[1][:-1]),
        f"{wheel.name}: expected the tags cp311-abi3, or those of a free-threaded Python, got {tags}",
    )
    size = wheel.stat().st_size
    require(size <= most, f"{wheel.name}: expected at most {most} bytes, got {size}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        license_text = [archive.read(name) for name in names if name.endswith("licenses/LICENSE")]
    strangers = [name for name in names if not ALLOWED_FILES.fullmatch(name)]
    require(not strangers, f"{wheel.name}: unexpected files {strangers}")
    missing = [name for name in REQUIRED_FILES if f"fastlstm/{name}" not in names]
    require(not missing, f"{wheel.name}: missing files {missing}")
    require(bool(license_text and license_text[0]), f"{wheel.name}: no license")
    module_of(names)
    print(f"{wheel.name}: {size} bytes, {len(names)} files")


def module_of(names: list[str]) -> str:
    """Return the name of the one compiled module."""
    modules = [name for name in names if re.fullmatch(r"fastlstm/_core\..*(so|pyd)", name)]
    require(len(modules) == 1, f"expected one compiled module, got {modules}")
    return modules[0]


def exports_and_needs(module: str) -> tuple[set[str], list[str]]:
    """Return the names that a module exports, and the libraries that it needs."""
    if module.endswith(".pyd"):
        said = output(llvm("llvm-readobj"), "--coff-exports", "--coff-imports", module)
        exports = set(re.findall(r"^Export \{\n.*?^\s+Name: (\S+)$", said, re.MULTILINE | re.DOTALL))
        return exports, re.findall(r"^Import \{\n\s+Name: (\S+)$", said, re.MULTILINE)
    if Path(module).read_bytes()[:4] == b"\xcf\xfa\xed\xfe":
        symbols = output(llvm("llvm-nm"), "--defined-only", "--extern-only", "--format=posix", module)
        needs = output(llvm("llvm-objdump"), "--macho", "--dylibs-used", module).splitlines()[1:]
        exports = {line.split()[0] for line in symbols.splitlines()} - {
            "___dso_handle",
            "__mh_dylib_header",
        }
        return exports, [line.split()[0] for line in needs if module not in line]
    symbols = output(llvm("llvm-nm"), "-D", "--defined-only", "--format=posix", module)
    exports = {line.split()[0] for line in symbols.splitlines()} - {"_init", "_fini"}
    said = output(llvm("llvm-readobj"), "--needed-libs", module)
    return exports, re.findall(r"^  (\S+)$", said.partition("NeededLibraries [")[2], re.MULTILINE)


def check_module(wheel: Path, scratch: Path) -> None:
    """Check what the compiled module exports, needs and mentions."""
    with zipfile.ZipFile(wheel) as archive:
        module = archive.extract(module_of(archive.namelist()), scratch)
    exports, needs = exports_and_needs(module)
    require(
        len(exports) == 1 and exports < EXPORTED,
        f"expected the one export PyInit__core, got {sorted(exports)}",
    )
    strangers = [name for name in needs if not ALLOWED_LIBRARIES.fullmatch(name)]
    require(bool(needs) and not strangers, f"libraries needed beside the system's: {strangers} of {needs}")
    content = Path(module).read_bytes()
    folders = set(FOLDERS.findall(content))
    require(not folders, f"folders of the machine that built it: {sorted(folders)[:5]}")
    newest = max(
        map(glibc_version, re.findall(rb"GLIBC_(\d+\.\d+)", Path(module).read_bytes())), default=(0, 0)
    )
    promised = re.search(r"manylinux_(\d+)_(\d+)", wheel.name)
    if promised:
        most = (int(promised[1]), int(promised[2]))
        require(newest <= most, f"needs glibc {newest}, and the tag promises {most}")
    if "musllinux" in wheel.name:
        require(newest == (0, 0), f"needs glibc {newest}, and the tag promises musl")
    print(f"exports PyInit__core alone, needs {', '.join(needs)}; glibc {'.'.join(map(str, newest))}")


def glibc_version(text: bytes) -> tuple[int, int]:
    """Return a version of the C library as numbers."""
    major, minor = text.split(b".")
    return int(major), int(minor)


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
        code = output(llvm("llvm-objdump"), "--disassemble", "--no-show-raw-insn", path)
        if re.search(r"file format \S*x86-64", code) and isa != "avx512":
            mnemonics = set(re.findall(r"^\s*[0-9a-f]+:\s+(v\w+)", code, re.MULTILINE)) - LEGACY_V
            require(isa == "avx2" or not mnemonics, f"{path.name}: AVX instructions {sorted(mnemonics)[:9]}")
            require("%zmm" not in code, f"{path.name}: AVX-512 registers")
        if path in kernels:
            nm = llvm("llvm-nm")
            symbols = output(nm, "--defined-only", "--extern-only", "--format=posix", path).splitlines()
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


def is_native(wheel: Path) -> bool:
    """Return whether this machine's Python takes the wheel; the C library is not asked."""
    system, machine = sysconfig.get_platform().split("-", 1)
    tag = wheel.stem.split("-")[-1]
    return tag.endswith(machine.replace("-", "_")) and tag.startswith((system, f"many{system}"))


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
            if is_native(arguments.wheel):
                check_run(arguments.wheel, arguments.numpy, Path(scratch))
    except WheelError as error:
        print(f"check_wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
