# SPDX-License-Identifier: BSD-3-Clause
"""The process of one peer in the race: ``python -m benchmarks.worker --module M --threads N``.

It answers one line on standard output for each line on standard input (see protocol.py), and between them
sleeps in a read.  What the peer itself prints goes to standard error.

``{"op": "hello"}``              versions
``{"op": "prepare", ...case}``   build every variant of the case (or those that "variants" names), check its
                                 answer, keep the fastest right one
``{"op": "run", "case": name, "seconds": s}``  time that one for a turn
``{"op": "release"}``            forget all cases
"""

import argparse
import gc
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.data import error_of
from benchmarks.peers.base import PeerProtocol, Prepared
from benchmarks.protocol import load_case
from benchmarks.timing import measure

# An answer further off than this is wrong, not merely less exact.
WRONG_ERROR = 1e-4


class Worker:
    """One peer with the cases it is prepared for, by the names of their shapes."""

    def __init__(self, peer: PeerProtocol) -> None:
        self._peer = peer
        self._prepared: dict[str, Prepared] = {}

    def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "hello": lambda _: {"versions": self._peer.versions()},
            "prepare": self._prepare,
            "run": self._run,
            "release": self._release,
        }
        return operations[message["op"]](message)

    def _prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        case, truth = load_case(message)
        self._prepared.pop(case.shape.name, None)
        tried: dict[str, dict[str, Any]] = {}
        best = ""
        for name, build in self._peer.variants(case).items():
            if name not in message.get("variants", [name]):
                continue
            try:
                prepared = build()
                error = error_of(case.shape, prepared.answer(), truth)
                if not error <= WRONG_ERROR:
                    tried[name] = {"failed": f"wrong answer: largest error {error:.1e}", "error": error}
                    continue
                tried[name] = {"error": error, "seconds": measure(prepared.call, message["seconds"]).best}
            except Exception as failure:
                traceback.print_exc()
                tried[name] = {"failed": f"{type(failure).__name__}: {failure}"[:300]}
                continue
            if not best or tried[name]["seconds"] < tried[best]["seconds"]:
                best, self._prepared[case.shape.name] = name, prepared
            del prepared
        gc.collect()
        if not best:
            return {
                "failed": "; ".join(f"{name}: {result['failed']}" for name, result in tried.items()),
                "tried": tried,
            }
        return {"variant": best, "error": tried[best]["error"], "tried": tried}

    def _run(self, message: dict[str, Any]) -> dict[str, Any]:
        prepared = self._prepared.get(message["case"])
        if prepared is None:
            return {"failed": f"{message['case']} is not prepared"}
        return measure(prepared.call, message["seconds"])._asdict()

    def _release(self, message: dict[str, Any]) -> dict[str, Any]:
        del message
        self._prepared.clear()
        gc.collect()
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--module", required=True, help="module with a class Peer")
    parser.add_argument("--threads", required=True, type=int)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        worker = Worker(importlib.import_module(arguments.module).Peer(arguments.threads))
    except Exception as failure:
        traceback.print_exc()
        print(json.dumps({"failed": f"{type(failure).__name__}: {failure}"[:300]}), file=replies)
        return
    for line in sys.stdin:
        try:
            reply = worker.handle(json.loads(line))
        except Exception as failure:
            traceback.print_exc()
            reply = {"failed": f"{type(failure).__name__}: {failure}"[:300]}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
