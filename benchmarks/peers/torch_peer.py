# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch on the CPU: eager, traced and frozen, compiled with frozen (prepacked) weights; no gradients.

Compiling needs a C++ compiler; where it fails the other variants stand.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.data import Array
from benchmarks.peers.base import Case, Prepared

torch: Any = import_module("torch")


class Peer:
    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        # Entered for the life of the process: gradients are never recorded.
        self._inference = torch.inference_mode()
        self._inference.__enter__()
        # Without the first, torch.compile leaves torch.nn.LSTM alone; the second prepacks its weights.
        dynamo: Any = import_module("torch._dynamo.config")
        inductor: Any = import_module("torch._inductor.config")
        dynamo.allow_rnn = True
        inductor.freezing = True

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "threads": str(torch.get_num_threads())}

    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        torch._dynamo.reset()  # the case before has used up some of the compilations that are allowed
        modules: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {"LSTM": lambda: _lstm(case)}
        if case.shape.T == 1 and case.state is not None:
            modules["LSTMCell"] = lambda: _cell(case)
        return {
            f"{name}, {mode}": partial(_prepared, make, ready)
            for name, make in modules.items()
            for mode, ready in (("eager", _eager), ("traced and frozen", _traced), ("compiled", _compiled))
        }


def _eager(module: Any, arguments: tuple[Any, ...]) -> Any:
    del arguments
    return module


def _traced(module: Any, arguments: tuple[Any, ...]) -> Any:
    return torch.jit.freeze(torch.jit.trace(module, arguments))


def _compiled(module: Any, arguments: tuple[Any, ...]) -> Any:
    del arguments
    return torch.compile(module)


def _prepared(
    make: Callable[[], tuple[Any, tuple[Any, ...]]], ready: Callable[[Any, tuple[Any, ...]], Any]
) -> Prepared:
    module, arguments = make()
    call = partial(ready(module, arguments), *arguments)
    is_cell = isinstance(module, torch.nn.LSTMCell)

    def answer() -> tuple[Array, Array, Array]:
        if is_cell:
            h, c = (part.numpy()[None] for part in call())
            return h, h, c
        y, (h_n, c_n) = call()
        return y.numpy(), h_n.numpy(), c_n.numpy()

    return Prepared(call, answer)


def _tensor(array: Array) -> Any:
    return torch.from_numpy(np.array(array))


def _lstm(case: Case) -> tuple[Any, tuple[Any, ...]]:
    shape = case.shape
    module = torch.nn.LSTM(shape.I, shape.H, shape.layers, bidirectional=shape.directions == 2).eval()
    module.load_state_dict({name: _tensor(value) for name, value in case.params.items()})
    x = _tensor(case.x)
    return module, (x,) if case.state is None else (x, (_tensor(case.state[0]), _tensor(case.state[1])))


def _cell(case: Case) -> tuple[Any, tuple[Any, ...]]:
    assert case.state is not None
    module = torch.nn.LSTMCell(case.shape.I, case.shape.H).eval()
    module.load_state_dict({name.removesuffix("_l0"): _tensor(value) for name, value in case.params.items()})
    return module, (_tensor(case.x[0]), (_tensor(case.state[0][0]), _tensor(case.state[1][0])))
