"""The wheels that are made, one row each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One wheel.

    Attributes
    ----------
    tag
        Platform tag of the wheel's name.
    triple
        Target of the compiler, with the oldest version of the C library or of the system.
    platform
        What ``sysconfig.get_platform()`` says on the target.
    suffix
        Ending of the module's file name.
    """

    tag: str
    triple: str
    platform: str
    suffix: str = ".abi3.so"

    @property
    def system(self) -> str:
        """Return ``"linux"``, ``"macosx"`` or ``"win"``."""
        return self.platform.partition("-")[0]


# musllinux_1_2 promises musl 1.2, whose functions zig's own musl has; macOS 11 is the first on Arm.
TARGETS = (
    Target("manylinux_2_17_x86_64", "x86_64-linux-gnu.2.17", "linux-x86_64"),
    Target("manylinux_2_17_aarch64", "aarch64-linux-gnu.2.17", "linux-aarch64"),
    Target("musllinux_1_2_x86_64", "x86_64-linux-musl", "linux-x86_64"),
    Target("musllinux_1_2_aarch64", "aarch64-linux-musl", "linux-aarch64"),
    Target("macosx_10_13_x86_64", "x86_64-macos.10.13", "macosx-10.13-x86_64"),
    Target("macosx_11_0_arm64", "aarch64-macos.11.0", "macosx-11.0-arm64"),
    Target("win_amd64", "x86_64-windows-gnu", "win-amd64", ".pyd"),
    Target("win_arm64", "aarch64-windows-gnu", "win-arm64", ".pyd"),
)
