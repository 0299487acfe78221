# SPDX-License-Identifier: BSD-3-Clause
"""What stands around recurrent layers, beside PyTorch's, in one process and in turns.

``python -m benchmarks.beside_torch``: optimisers and clipping at three sizes, dense layers, training on
indices, constructors.  One thread each.  It needs PyTorch in the same environment; answers are compared
before they are timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastlstm
from benchmarks.machine import describe
from fastlstm import optim

LIMIT = 1.5  # of our time over theirs
SIZES = (48, 350, 1020)  # hidden and input size: 1.9e4, 9.8e5 and 8.3e6 parameters
DENSE = ((3200, 128, 50), (2000, 256, 256), (64, 512, 10000))
WORDS, STEPS, ROWS, WIDTH = 30_000, 50, 32, 128
TURN_SECONDS = 2e-3  # at least, of calls in one turn
TOLERANCE = 1e-5


class Pair(NamedTuple):
    """What is timed: ours and theirs, after their answers were compared."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]


def turn(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def best_of_turns(pair: Pair, turns: int) -> tuple[float, float]:
    """The least time of each, which take turns."""
    best, repeats = [float("inf")] * 2, []
    for call in (pair.ours, pair.theirs):
        call()
        repeats.append(max(1, round(TURN_SECONDS / max(turn(call, 1), 1e-7))))
    for _ in range(turns):
        for n, call in enumerate((pair.ours, pair.theirs)):
            best[n] = min(best[n], turn(call, repeats[n]))
    return best[0], best[1]


def check(ours: Any, theirs: Any, name: str) -> None:
    """Raise unless all arrays agree."""
    for a, b in zip(ours, theirs, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
        if not error <= TOLERANCE:
            raise AssertionError(f"{name}: expected the answer of torch, got one that differs by {error:.1e}")


# ---- Optimisers --------------------------------------------------------------------------------------------


def twins(torch: Any, size: int) -> tuple[fastlstm.LSTM, Any]:
    """Two layers with the same parameters and gradients."""
    layer, theirs = fastlstm.LSTM(size, size, rng=0), torch.nn.LSTM(size, size)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    rng = np.random.default_rng(0)
    layer.flat_grads[...] = 1e-3 * rng.standard_normal(layer.flat_grads.size)
    for name, parameter in theirs.named_parameters():
        parameter.grad = torch.from_numpy(layer.grads[name].copy())
    return layer, theirs


def optimisers(torch: Any) -> Iterator[Pair]:
    o, t = optim, torch.optim
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "SGD": (o.SGD, t.SGD, {}),
        "SGD, momentum": (o.SGD, t.SGD, {"momentum": 0.9}),
        "SGD, Nesterov, decay": (o.SGD, t.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        "Adam": (o.Adam, t.Adam, {}),
        "AdamW": (o.AdamW, t.AdamW, {}),
    }
    clip = torch.nn.utils.clip_grad_norm_
    for size in SIZES:
        for name, (ours, theirs, options) in kinds.items():
            layer, other = twins(torch, size)
            step = ours([layer], lr=1e-6, **options).step
            other_step = theirs(other.parameters(), lr=1e-6, fused=True, **options).step
            step(), other_step()
            check(layer.params.values(), (p.detach().numpy() for p in other.parameters()), name)
            yield Pair(f"{name}, {layer.flat_params.size:.1e}", step, other_step)
        layer, other = twins(torch, size)
        parameters = list(other.parameters())
        norm = np.linalg.norm(layer.flat_grads.astype(np.float64))  # torch sums in float32
        check([optim.clip_grad_norm(layer, 1e9)], [norm], "clip")
        size_shown = f"{layer.flat_params.size:.1e}"
        yield Pair(
            f"norm, {size_shown}", partial(optim.clip_grad_norm, layer, 1e9), partial(clip, parameters, 1e9)
        )
        yield Pair(
            f"clipping, {size_shown}",
            partial(clip_ours, layer),
            partial(clip_theirs, parameters, parameters[0].grad.view(-1)[:1], clip),
        )


def clip_ours(layer: fastlstm.LSTM) -> None:
    layer.flat_grads[0] = 1e3
    optim.clip_grad_norm(layer, 1e-2)


def clip_theirs(parameters: list[Any], first: Any, clip: Any) -> None:
    first.fill_(1e3)
    clip(parameters, 1e-2)


# ---- Layers ------------------------------------------------------------------------------------------------


def dense_layers(torch: Any) -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    for rows, inputs, outputs in DENSE:
        layer, theirs = fastlstm.Dense(inputs, outputs, rng=0), torch.nn.Linear(inputs, outputs)
        theirs.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
        x, dy = (rng.standard_normal((rows, n), dtype=np.float32) for n in (inputs, outputs))
        tx, tdy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)
        dx = layer.forward(x).backward(dy)
        theirs(tx).backward(tdy)
        right = [tx.grad.numpy(), theirs.weight.grad.numpy(), theirs.bias.grad.numpy()]
        check([dx, layer.grads["weight"], layer.grads["bias"]], right, "Dense")

        def forward(theirs: Any = theirs, tx: Any = tx) -> None:
            with torch.no_grad():
                theirs(tx)

        size = f"({rows}, {inputs}) x ({inputs}, {outputs})"
        yield Pair(f"Dense, forward, {size}", partial(layer, x), forward)
        yield Pair(
            f"Dense, both, {size}", partial(both_ours, layer, x, dy), partial(both_theirs, theirs, tx, tdy)
        )


def both_ours(layer: fastlstm.Dense, x: Any, dy: Any) -> None:
    layer.forward(x).backward(dy)


def both_theirs(layer: Any, x: Any, dy: Any) -> None:
    layer(x).backward(dy)


def index_input(torch: Any) -> Iterator[Pair]:
    """A training step on indices, beside our own Embedding of the same width in front."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, WORDS, (STEPS, ROWS))
    dy = rng.standard_normal((STEPS, ROWS, WIDTH), dtype=np.float32)
    for name, kind in (("SGD", optim.SGD), ("Adam", optim.Adam)):
        lstm = fastlstm.LSTM(WORDS, WIDTH, rng=0)
        table, upper = fastlstm.Embedding(WORDS, WIDTH, rng=0), fastlstm.LSTM(WIDTH, WIDTH, rng=0)
        one, two = kind(lstm, lr=1e-3), kind([table, upper], lr=1e-3)

        def step_on_indices(lstm: Any = lstm, one: Any = one) -> None:
            one.zero_grad()
            lstm.forward(x).backward(dy)
            one.step()

        def step_on_rows(table: Any = table, upper: Any = upper, two: Any = two) -> None:
            two.zero_grad()
            rows = table.forward(x)
            rows.backward(upper.forward(rows.y).backward(dy)[0])
            two.step()

        yield Pair(f"indices of {WORDS} words, {name} (beside Embedding)", step_on_indices, step_on_rows)


def constructors(torch: Any) -> Iterator[Pair]:
    yield Pair(
        "LSTM(4096, 4096)", lambda: fastlstm.LSTM(4096, 4096, rng=0), lambda: torch.nn.LSTM(4096, 4096)
    )


# ---- The program -------------------------------------------------------------------------------------------

PARTS = {"optimisers": optimisers, "dense": dense_layers, "index": index_input, "constructors": constructors}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    arguments = parser.parse_args()
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        parser.error("expected PyTorch in this environment, got none")
    torch.set_num_threads(1)
    fastlstm.set_num_threads(1)
    found = []
    for part in arguments.parts:
        for pair in PARTS[part](torch):
            ours, theirs = best_of_turns(pair, 5 if part == "constructors" else arguments.turns)
            found.append({"name": pair.name, "ours": ours, "theirs": theirs})
            mark = "" if ours <= LIMIT * theirs else "  <- above the limit"
            print(
                f"{pair.name:58} {ours * 1e6:10.1f} us {theirs * 1e6:10.1f} us {ours / theirs:6.2f}{mark}",
                flush=True,
            )
    if arguments.output:
        machine = describe() | {"torch": torch.__version__, "fastlstm": fastlstm.__version__}
        arguments.output.write_text(json.dumps({"machine": machine, "seconds": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
