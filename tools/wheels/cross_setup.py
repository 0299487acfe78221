"""Run setup.py for another machine: cross_setup.py TARGET SCRATCH COMMAND...

The target's tag is one of targets.py; headers and an import library are made in SCRATCH.  All that setup.py
asks about the machine it asks of ``sysconfig``, ``importlib.machinery`` and NumPy, which here answer for the
target.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import runpy
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

from tools.wheels.targets import TARGETS, Target

HERE = Path(__file__).resolve().parent
ZIG = [sys.executable, "-m", "ziglang"]
DLL_MACHINES = {"win-amd64": "i386:x86-64", "win-arm64": "arm64"}
# What NumPy's headers say of the machine that they were installed on.
SIZES = {
    "SHORT": "__SIZEOF_SHORT__",
    "INT": "__SIZEOF_INT__",
    "LONG": "__SIZEOF_LONG__",
    "LONGDOUBLE": "__SIZEOF_LONG_DOUBLE__",
    "COMPLEX_LONGDOUBLE": "(2 * __SIZEOF_LONG_DOUBLE__)",
}


def link_all(source: Path, folder: Path, but: str) -> None:
    """Make a folder of links to all that is in another, but for one name."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        link = folder / path.name
        if path.name != but and not link.exists():
            link.symlink_to(path)


def python_headers(scratch: Path) -> Path:
    """Return a folder with Python's headers and the configuration of any target."""
    folder = scratch / "python"
    link_all(Path(sysconfig.get_path("include")), folder, "pyconfig.h")
    (folder / "pyconfig.h").write_text((HERE / "pyconfig.h").read_text())
    return folder


def numpy_headers(scratch: Path) -> Path:
    """Return a folder with NumPy's headers, where the compiler says the sizes."""
    source = Path(np.get_include()) / "numpy"
    folder = scratch / "numpy_headers"
    link_all(source, folder / "numpy", "_numpyconfig.h")
    text = (source / "_numpyconfig.h").read_text()
    for name, size in SIZES.items():
        text, count = re.subn(rf"(#define NPY_SIZEOF_{name}) \d+", rf"\1 {size}", text)
        if count != 1:
            raise RuntimeError(f"expected NPY_SIZEOF_{name} in _numpyconfig.h, got {count} of them")
    text = text.replace("#define NPY_HAVE_ENDIAN_H 1", "")  # not everywhere; the processor tells as well
    (folder / "numpy" / "_numpyconfig.h").write_text(text)
    return folder


def import_library(target: Target, scratch: Path) -> Path:
    """Return a folder with python3.lib: what the stable ABI of Python 3.11 has on Windows."""
    from abi3info import DATAS, FUNCTIONS
    from abi3info.models import PyVersion

    oldest = PyVersion(3, 11)
    lines = ["LIBRARY python3.dll", "EXPORTS"]
    for table, kind in ((FUNCTIONS, ""), (DATAS, " DATA")):
        lines += sorted(f"{symbol.name}{kind}" for symbol, what in table.items() if what.added <= oldest)
    definition = scratch / "python3.def"
    definition.write_text("\n".join(lines) + "\n")
    library = scratch / "libpython3.a"
    machine = DLL_MACHINES[target.platform]
    command = [*ZIG, "dlltool", "-m", machine, "-d", str(definition), "-l", str(library)]
    subprocess.run(command, check=True)
    return scratch


def linker_flags(target: Target, scratch: Path) -> list[str]:
    """Return what the linker needs beside objects."""
    if target.system == "win":
        return [f"-L{import_library(target, scratch)}", "-lpython3", "-s"]
    if target.system == "macosx":
        return ["-undefined", "dynamic_lookup", "-Wl,-x"]
    return ["-s"]


def answer_for(target: Target, scratch: Path) -> None:
    """Make Python describe the target in place of this machine."""
    compiler = shlex.join([*ZIG, "cc", "-target", target.triple])
    os.environ["CC"] = compiler
    os.environ["LDSHARED"] = shlex.join([*shlex.split(compiler), "-shared", *linker_flags(target, scratch)])
    os.environ["_PYTHON_HOST_PLATFORM"] = target.platform
    # Flags of the compiler that built this Python are none of the target's.
    variables = sysconfig.get_config_vars()
    position = "" if target.system == "win" else "-fPIC"
    variables.update(CFLAGS="", OPT="", BASECFLAGS="", LDFLAGS="", CCSHARED=position)
    variables.update(EXT_SUFFIX=target.suffix, LIBDIR="", Py_ENABLE_SHARED=0)
    importlib.machinery.EXTENSION_SUFFIXES[:] = [target.suffix]
    # Before this machine's own headers, which setuptools names.
    os.environ["CPPFLAGS"] = f"-I{python_headers(scratch)}"
    includes = str(numpy_headers(scratch))
    np.get_include = lambda: includes


def main() -> None:
    """Run setup.py with the rest of the command line."""
    (target,) = (target for target in TARGETS if target.tag == sys.argv[1])
    scratch = Path(sys.argv[2])
    scratch.mkdir(parents=True, exist_ok=True)
    answer_for(target, scratch)
    sys.argv[:] = ["setup.py", *sys.argv[3:]]
    runpy.run_path("setup.py", run_name="__main__")


if __name__ == "__main__":
    main()
