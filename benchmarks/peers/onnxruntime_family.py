# SPDX-License-Identifier: BSD-3-Clause
"""ONNX Runtime's CPU provider with the other cells."""

from collections.abc import Callable
from functools import partial

from benchmarks.peers import onnx_family, onnxruntime_peer
from benchmarks.peers.base import Case, Prepared


class Peer(onnxruntime_peer.Peer):
    graph = onnx_family

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        variants = super().variants(case)
        if case.shape.cell == "coupled":
            variants["run_with_iobinding, input_forget"] = partial(self._bound, case, input_forget=1)
        return variants
