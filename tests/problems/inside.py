# SPDX-License-Identifier: BSD-3-Clause
"""All that the tests reach behind the public names: when the inside moves, this is the file to change."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlstm import _core
from fastlstm.layers import embedding as embedding_module

isa_active = _core.isa_active
isa_table = _core.isa_table
cpu_count = _core.cpu_count
compiler = _core.compiler
assign_all = _core.assign_all
probe_fma = _core.probe_fma
probe_stream = _core.probe_stream


def workspace_bytes(layer: Any, T: int, B: int) -> int:
    """Scratch memory of a call."""
    return _core.workspace_bytes(layer, T, B)


def streams_of(stream: Any) -> tuple[Any, ...]:
    """The streams of a stream of several parts."""
    return stream._streams


def set_flat_grads(layer: Any, memory: np.ndarray) -> None:
    """Let a layer, whose gradients were never asked for, add them into `memory`."""
    layer.__dict__["_flat_grads"] = memory


def set_chunk_of_embeddings(monkeypatch: Any, size: int) -> None:
    """How many numbers an embedding's gradient takes at once."""
    monkeypatch.setattr(embedding_module, "CHUNK", size)
