# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fastlstm inspect FILE`` and ``python -m fastlstm convert IN OUT``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from .loaded import load_model

__all__: list[str] = []


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments of the command line ask for; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastlstm", description="Without arguments: what a report of a problem should contain."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print what a file of a model holds")
    convert = commands.add_parser("convert", help="write a model as another kind of file, by the suffix")
    for command in (inspect, convert):
        command.add_argument("path", metavar="FILE" if command is inspect else "IN")
        command.add_argument("--cudnn", action=argparse.BooleanOptionalAction, help="a GRU is a CuDNNGRU")
        command.add_argument(
            "--keras-default", metavar="ACTIVATION", help="sigmoid, hard_sigmoid or a version"
        )
    convert.add_argument("out", metavar="OUT", help=".safetensors, .npz, .onnx, or .json of RTNeural")
    given = parser.parse_args(arguments)
    if given.command == "convert" and not given.out.lower().endswith(
        (".safetensors", ".npz", ".onnx", ".json")
    ):
        parser.error(f"OUT: expected .safetensors, .npz, .onnx or .json, got {given.out!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are among the notes
            model = load_model(given.path, given.cudnn, given.keras_default)
        if given.command == "convert":
            model.save(given.out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(model)
    return 0
