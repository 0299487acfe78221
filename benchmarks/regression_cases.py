# SPDX-License-Identifier: BSD-3-Clause
"""What regression.py times, and the process that times it for one build: the one that PYTHONPATH finds.

It answers one line on standard output for each line on standard input, and between them sleeps in a read.

``{"op": "prepare", "case": name, "file": path}``  build the case and write its answer there, as .npz
``{"op": "run", "case": name, "seconds": s}``      time it for a turn
"""

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fastlstm
from benchmarks.timing import measure

Array = npt.NDArray[Any]


class Prepared(NamedTuple):
    """A call to time, and one that returns all its results."""

    call: Callable[[], Any]
    answer: Callable[[], Any]


def layer_of(name: str, I: int, H: int, *arguments: Any, **options: Any) -> Any:
    """A layer or cell whose weights are a function of their names alone."""
    layer = getattr(fastlstm, name)(I, H, *arguments, rng=0, **options)
    weights = {}
    for index, (key, value) in enumerate(sorted(layer.params.items())):
        drawn = np.random.default_rng([1, index]).uniform(-1, 1, value.shape) / np.sqrt(H)
        weights[key] = (drawn + key.startswith("weight_ln")).astype(value.dtype)
    layer.load_state_dict(weights)
    return layer


def noise(*shape: int) -> Array:
    return np.random.default_rng(2).standard_normal(shape, np.float32)


def forward(
    T: int,
    B: int,
    I: int,
    H: int,
    cell: str = "LSTM",
    threads: int = 1,
    lengths: Array | None = None,
    **options: Any,
) -> Prepared:
    layer = layer_of(cell, I, H, num_threads=threads, **options)
    x, out = noise(T, B, I), np.empty((T, B, H), np.float32)
    return Prepared(lambda: layer(x, lengths=lengths, out=out), lambda: layer(x, lengths=lengths, out=out))


def training(T: int, B: int, I: int, H: int, **options: Any) -> Prepared:
    layer = layer_of("LSTM", I, H, num_threads=1, **options)
    x = noise(T, B, I)
    dy = noise(*layer(x)[0].shape)

    def call() -> Any:
        layer.zero_grad()
        tape = layer.forward(x)
        return tape.y, tape.state, tape.backward(dy)

    return Prepared(call, lambda: (*call(), layer.flat_grads))


def step(I: int, H: int) -> Prepared:
    stream, x = layer_of("LSTM", I, H, num_threads=1).stream(), noise(I)

    def answer() -> Any:
        stream.reset()
        return [stream.step(x).copy() for _ in range(20)], stream.state

    return Prepared(lambda: stream.step(x), answer)


def cell_call(B: int, I: int, H: int) -> Prepared:
    cell, x = layer_of("LSTMCell", I, H, num_threads=1), noise(B, I)
    state = noise(B, H), noise(B, H)
    return Prepared(lambda: cell(x, state), lambda: cell(x, state))


def ragged(T: int, B: int, I: int, H: int) -> Prepared:
    return forward(T, B, I, H, lengths=np.linspace(1, T, B).astype(np.int64))


# From a step of some hundred nanoseconds to tens of milliseconds; (T, B, I, H), float32, on one thread if the
# name does not say more.
CASES: dict[str, Callable[[], Prepared]] = {
    "stream.step (1,1,1,16)": lambda: step(1, 16),
    "LSTMCell (1,1,64,64)": lambda: cell_call(1, 64, 64),
    "LSTM (100,1,16,16)": lambda: forward(100, 1, 16, 16),
    "LSTM (100,1,64,64)": lambda: forward(100, 1, 64, 64),
    "LSTM (100,1,128,128)": lambda: forward(100, 1, 128, 128),
    "LSTM (100,32,128,128)": lambda: forward(100, 32, 128, 128),
    "LSTM (50,64,512,512)": lambda: forward(50, 64, 512, 512),
    "LSTM (50,64,512,512), 2 threads": lambda: forward(50, 64, 512, 512, threads=2),
    "training (100,1,64,64)": lambda: training(100, 1, 64, 64),
    "training (100,32,128,128)": lambda: training(100, 32, 128, 128),
    "training (50,8,32,64), 2 layers, both directions": lambda: training(
        50, 8, 32, 64, num_layers=2, bidirectional=True
    ),
    "GRU (100,8,64,64)": lambda: forward(100, 8, 64, 64, "GRU"),
    "peephole (100,8,64,64)": lambda: forward(100, 8, 64, 64, peephole=True),
    "RNN (100,8,64,64)": lambda: forward(100, 8, 64, 64, "RNN"),
    "MinGRU (100,8,64,64)": lambda: forward(100, 8, 64, 64, "MinGRU"),
    "layer norm (100,8,64,64)": lambda: forward(100, 8, 64, 64, layer_norm="gate"),
    "ragged (100,16,64,64)": lambda: ragged(100, 16, 64, 64),
}


def flat(value: Any) -> list[Array]:
    """All arrays of a result."""
    if value is None:
        return []
    return [value] if isinstance(value, np.ndarray) else [array for part in value for array in flat(part)]


def main() -> None:
    prepared: dict[str, Prepared] = {}
    print(json.dumps({"file": fastlstm.__file__, "version": fastlstm.__version__}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        reply: dict[str, Any] = {}
        name = message["case"]
        try:
            if message["op"] == "prepare":
                prepared[name] = CASES[name]()
                np.savez(message["file"], *flat(prepared[name].answer()))
            else:
                reply = measure(prepared[name].call, message["seconds"])._asdict()
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
