"""Build the C core as libraries and install them: python -m tools.make_library PREFIX

A static and a shared library, the header, and what pkg-config and CMake look for.  $CC is the compiler; needs
nothing but Python and that.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.c.core_build import Build, machine_isas

ROOT = Path(__file__).resolve().parents[1]
# Workers of the pool run this code for good: the library stays when it is closed.
SHARED_FLAGS = ["-shared", "-Wl,-soname,libfastlstm.so.0", "-Wl,-z,nodelete"]

PKG_CONFIG = """\
prefix=${{pcfiledir}}/../..
Name: fastlstm
Description: Recurrent layers on a CPU, forward and backward
Version: {version}
Cflags: -I${{prefix}}/include -DFL_SHARED
Libs: -L${{prefix}}/lib -lfastlstm
Libs.private: -lm -pthread
"""

CMAKE = """\
# fastlstm::fastlstm is the shared library, fastlstm::static the other.
get_filename_component(fastlstm_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
find_package(Threads REQUIRED)
if(NOT TARGET fastlstm::fastlstm)
  add_library(fastlstm::fastlstm SHARED IMPORTED)
  set_target_properties(fastlstm::fastlstm PROPERTIES
    IMPORTED_LOCATION "${fastlstm_prefix}/lib/libfastlstm.so"
    IMPORTED_SONAME "libfastlstm.so.0"
    INTERFACE_COMPILE_DEFINITIONS FL_SHARED
    INTERFACE_INCLUDE_DIRECTORIES "${fastlstm_prefix}/include")
  add_library(fastlstm::static STATIC IMPORTED)
  set_target_properties(fastlstm::static PROPERTIES
    IMPORTED_LOCATION "${fastlstm_prefix}/lib/libfastlstm.a"
    INTERFACE_INCLUDE_DIRECTORIES "${fastlstm_prefix}/include"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;m")
endif()
"""

CMAKE_VERSION = """\
set(PACKAGE_VERSION "{version}")
if(PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"""


def version() -> str:
    """Return the version of the package, which is the library's."""
    text = (ROOT / "src" / "fastlstm" / "__init__.py").read_text()
    match = re.search(r'^__version__ = "([\d.]+)', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("expected __version__ in src/fastlstm/__init__.py")
    return match[1]


def archive(objects: list[Path], library: Path) -> None:
    """Put objects into a static library."""
    library.unlink(missing_ok=True)
    subprocess.run(["ar", "rcs", str(library), *map(str, objects)], check=True)


def install(prefix: Path, isas: list[str] | None = None) -> None:
    """Build both libraries and install all below a folder."""
    lib, include = prefix / "lib", prefix / "include"
    for folder in (lib / "pkgconfig", lib / "cmake" / "fastlstm", include):
        folder.mkdir(parents=True, exist_ok=True)
    flags = ["-O2", "-g0", "-fPIC", "-DFL_SHARED", "-DFL_BUILDING"]
    with tempfile.TemporaryDirectory() as scratch:
        build = Build(Path(scratch), isas if isas is not None else machine_isas(), flags=flags)
        core = build.core()
        shared = build.link("libfastlstm.so", core, *SHARED_FLAGS)
        shutil.copy(shared, lib / "libfastlstm.so.0")
        archive(core, lib / "libfastlstm.a")
    (lib / "libfastlstm.so").unlink(missing_ok=True)
    (lib / "libfastlstm.so").symlink_to("libfastlstm.so.0")
    shutil.copy(ROOT / "csrc" / "fastlstm.h", include)
    (lib / "pkgconfig" / "fastlstm.pc").write_text(PKG_CONFIG.format(version=version()))
    cmake = lib / "cmake" / "fastlstm"
    (cmake / "fastlstmConfig.cmake").write_text(CMAKE)
    (cmake / "fastlstmConfigVersion.cmake").write_text(CMAKE_VERSION.format(version=version()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.make_library PREFIX")
    install(Path(sys.argv[1]).resolve())
    print(sys.argv[1])
