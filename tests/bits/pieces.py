# SPDX-License-Identifier: BSD-3-Clause
"""Cases of what is no layer: cells, pieces of a step, and what a training takes beside.

Nothing whose bits are those of a BLAS or of NumPy's exp and log is here: no dense layer, no cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastlstm
from fastlstm import kernels

from .cases import DTYPES, Sizes
from .passes import THREADS, Arrays, make_layer, named
from .values import coins, indices, uniform

CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTMCell": ("LSTMCell", {}),
    "LSTMCell, no bias": ("LSTMCell", {"bias": False}),
    "GRUCell": ("GRUCell", {}),
    "RNNCell": ("RNNCell", {}),
    "RNNCell, relu": ("RNNCell", {"nonlinearity": "relu"}),
}
CELL_SIZES = [
    (B, I, H) for B in (0, 1, 2, 3, 7, 33) for I, H in ((1, 16), (30, 37), (5, 5), (64, 70), (9, 19))
]


def cell_arrays(name: str, cell: str, options: dict[str, Any], dtype: str, threads: int) -> Arrays:
    """B = 0 stands for one row without a batch."""
    found: Arrays = {}
    for B, I, H in CELL_SIZES:
        seed = f"{name} {B} {I} {H}"
        layer = make_layer(seed, cell, options, Sizes(1, B, I, H), dtype, threads)
        rows = (B,) if B else ()
        state: Any = uniform(f"{seed} h", (*rows, H), dtype)
        if cell == "LSTMCell":
            state = (state, uniform(f"{seed} c", (*rows, H), dtype))
        x = uniform(f"{seed} x", (*rows, I), dtype, 2.0)
        found |= named(f"B={B} I={I} H={H}", layer(x, state)) | named(f"B={B} I={I} H={H} zero", layer(x))
        found |= named(f"B={B} I={I} H={H} index", layer(indices(f"{seed} index", rows, I), state))
    return found


def functions(dtype: str) -> Arrays:
    """sigmoid and tanh over all magnitudes, and where they are special."""
    specials = np.array([0.0, -0.0, np.inf, -np.inf, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype)
    parts = [specials] + [uniform(f"x {e}", (1001,), dtype, 2.0**e) for e in (-120, -20, -4, -1, 0, 2, 4, 7)]
    x = np.concatenate(parts)
    return {"sigmoid": kernels.sigmoid(x), "tanh": kernels.tanh(x)}


def step_pieces(dtype: str) -> Arrays:
    found: Arrays = {}
    for B in (1, 2, 3, 7, 33):
        for I, H in ((3, 5), (20, 16), (9, 19), (40, 37), (3, 64), (70, 70)):
            name = f"B={B} I={I} H={H}"
            x, h = (uniform(f"{name} {n}", (B, n), dtype) for n in (I, H))
            W, U = (uniform(f"{name} W {n}", (4 * H, n), dtype, 0.25) for n in (I, H))
            bias = uniform(f"{name} bias", (4 * H,), dtype)
            gates = kernels.gate_matmul(x, h, W, U, bias)
            found[f"{name} gates"] = gates
            found[f"{name} packed"] = kernels.gate_matmul(x, h, kernels.packed(W, U))
            c = uniform(f"{name} c", (B, H), dtype, 2.0)
            found |= named(f"{name} update", kernels.cell_update(gates, c))
    return found


def optimisers(dtype: str) -> Arrays:
    """Three steps of each, on an LSTM."""
    optim = fastlstm.optim
    makers: dict[str, Callable[[Any], Any]] = {
        "SGD": lambda layer: optim.SGD(layer, 0.1),
        "SGD, momentum": lambda layer: optim.SGD(layer, 0.1, momentum=0.9, weight_decay=0.01),
        "SGD, Nesterov": lambda layer: optim.SGD(layer, 0.1, momentum=0.9, nesterov=True),
        "Adam": lambda layer: optim.Adam(layer, 0.01, weight_decay=0.01),
        "AdamW": lambda layer: optim.AdamW(layer, 0.01),
    }
    found: Arrays = {}
    for name, make in makers.items():
        layer = make_layer(name, "LSTM", {}, Sizes(1, 1, 7, 19), dtype, 1)
        optimiser = make(layer)
        for step in range(3):
            layer.flat_grads[...] = uniform(f"{name} {step}", layer.flat_grads.shape, dtype)
            optimiser.step()
            found[f"{name}, step {step + 1}"] = layer.flat_params.copy()
    return found


def beside(dtype: str) -> Arrays:
    """A table of vectors and the loss that is arithmetic alone."""
    table = fastlstm.Embedding(11, 5, dtype=dtype, rng=0)
    table.load_state_dict({"weight": uniform("table", (11, 5), dtype)})
    tape = table.forward(indices("indices", (9, 4), 11))
    tape.backward(uniform("dy", tape.y.shape, dtype))
    y, target = (uniform(name, (6, 3, 4), dtype) for name in ("y", "target"))
    mask = coins("mask", (6, 3), 60)
    return {
        "embedding": tape.y,
        "embedding's gradient": table.flat_grads.copy(),
        "mse": fastlstm.losses.mse(y, target)[1],
        "mse of some": fastlstm.losses.mse(y, target, lengths=[6, 0, 3], mask=mask)[1],
    }


PIECES: dict[str, Callable[[str], Arrays]] = {
    "kernels / sigmoid and tanh": functions,
    "kernels / gate_matmul, packed, cell_update": step_pieces,
    "optimisers / three steps": optimisers,
    "Embedding and mse / one pass": beside,
}


def piece_cases() -> dict[str, Callable[[], list[Arrays]]]:
    """By name: results in all ways that must give the same bits."""
    cases: dict[str, Callable[[], list[Arrays]]] = {}
    for dtype in DTYPES:
        for name, (cell, options) in CELLS.items():

            def of_cell(
                name: str = name, cell: str = cell, options: Any = options, dtype: str = dtype
            ) -> Any:
                return [cell_arrays(name, cell, options, dtype, threads) for threads in THREADS]

            cases[f"{name} / steps {dtype}"] = of_cell
        for name, function in PIECES.items():
            cases[f"{name} {dtype}"] = lambda function=function, dtype=dtype: [function(dtype)]  # type: ignore[misc]
    return cases
