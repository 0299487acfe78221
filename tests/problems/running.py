# SPDX-License-Identifier: BSD-3-Clause
"""Passes of compiled layers over problems: calls, recorded and training passes, on threads, as streams."""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import numpy as np

import fastlstm
from fastlstm.reference import Config

from .problem import Problem, arrays_of

# What forward can keep; 1 is every step, 3 is not a divisor of chunks, 1000 is more steps than there are.
SAVES: tuple[str | int, ...] = ("all", "states", 1, 3, 1000)
# After a call whose threads waited for a CPU, calls stay on one thread for 50 ms (REST_NANOSECONDS in
# csrc/base/pool.c).  A test that means several threads lets that time pass first; nothing is measured by it.
REST_SECONDS = 0.06


def constructor_arguments(config: Config) -> dict[str, Any]:
    """Arguments of the layer's class that make a layer of `config`: those that are not the defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(Config)[1:]}
    given = {name: getattr(config, name) for name in fields}
    if not isinstance(config.hidden_size, int):
        given["num_layers"] = len(config.sizes)
    return {name: value for name, value in given.items() if value != fields[name]}


def make_layer(problem: Problem, **keywords: Any) -> Any:
    """The compiled layer of a problem; `keywords` are dtype, rng and num_threads."""
    layer_class = getattr(fastlstm, problem.config.cell)
    arguments = {"dtype": problem.dtype, "rng": 0} | constructor_arguments(problem.config)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "dropout: expected num_layers"
        )  # of one layer; objects/ has the test
        layer = layer_class(**(arguments | keywords))
    layer.load_state_dict(problem.params)
    return layer


class Draws:
    """In place of a layer's generator: the seed of every pass is the given one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def integers(self, high: int) -> int:
        assert high == 2**63
        return self.seed


def named(name: str, value: Any) -> dict[str, np.ndarray]:
    """The arrays of a result by name and number; those of a list of rows as one."""
    value = np.concatenate(value) if isinstance(value, list) else value
    return {f"{name}{number}": array for number, array in enumerate(arrays_of(value))}


def _arguments(problem: Problem) -> dict[str, Any]:
    return problem.keywords | ({} if problem.dcells is None else {"return_cells": True})


def called(problem: Problem, layer: Any = None, **changes: Any) -> dict[str, np.ndarray]:
    """Results of a call, by name."""
    layer = layer or make_layer(problem)
    arguments = _arguments(problem) | changes
    x, state = arguments.pop("x", problem.x), arguments.pop("state", problem.state)
    y, state, *cells = layer(x, state, **arguments)
    return named("y", y) | named("state", state) | named("cells", cells[0] if cells else None)


def recorded(problem: Problem, layer: Any = None, **changes: Any) -> Any:
    """The tape of a forward pass, whose masks are those of the problem's seed."""
    layer = layer or make_layer(problem)
    layer.rng = Draws(problem.seed)
    arguments = _arguments(problem) | {"bptt": problem.bptt} | changes
    x, state = arguments.pop("x", problem.x), arguments.pop("state", problem.state)
    return layer.forward(x, state, **arguments)


def results_of(tape: Any) -> dict[str, np.ndarray]:
    """Results of a recorded pass, by name."""
    return named("y", tape.y) | named("state", tape.state) | named("cells", tape.cells)


def trained(problem: Problem, layer: Any = None, **changes: Any) -> dict[str, np.ndarray]:
    """Results and gradients of a forward and a backward pass, by name; dx0 is missing for indices."""
    layer = layer or make_layer(problem)
    layer.zero_grad()
    gradients = [changes.pop(name, getattr(problem, name)) for name in ("dy", "dstate", "dcells")]
    tape = recorded(problem, layer, **changes)
    dx, dstate = tape.backward(*gradients)
    results = results_of(tape) | named("dx", dx) | named("dstate", dstate)
    return results | {f"d{name}": value.copy() for name, value in layer.grads.items()}


def on_threads(
    run: Any, problem: Problem, threads: int | None, layer: Any = None, **changes: Any
) -> dict[str, np.ndarray]:
    """`called` or `trained` with as many threads as the plan wants, also on a machine that is busy."""
    layer = layer or make_layer(problem, num_threads=threads)
    time.sleep(REST_SECONDS)
    return run(problem, layer, **changes)


def stream_of(problem: Problem, layer: Any = None) -> Any:
    """A stream of the problem's layer that begins with the problem's state."""
    layer = layer or make_layer(problem)
    stream = layer.stream(problem.time_first(problem.x).shape[1])
    if problem.state is not None:
        stream.state = problem.state
    return stream


def streamed(problem: Problem, stream: Any, blocks: Any) -> dict[str, np.ndarray]:
    """Results of the problem's input through a stream, in `blocks` of so many steps; 0 is one `step`."""
    x, pieces, t = problem.time_first(problem.x), [], 0
    for block in blocks:
        if block == 0:
            pieces.append(stream.step(x[t])[np.newaxis])
        else:
            pieces.append(problem.time_first(stream.process(problem.time_first(x[t : t + block]))))
        t = min(len(x), t + max(block, 1))
    assert t == len(x)
    y = problem.time_first(np.concatenate(pieces))
    return named("y", y) | named("state", stream.state)


def expected_results(problem: Problem, training: bool | None, dtype: Any = None) -> dict[str, np.ndarray]:
    """What `called`, where `training` is None, or `trained` should give: the reference's results."""
    y, state, cells = problem.forward(bool(training), dtype)
    results = named("y", y) | named("state", state)
    results |= {} if problem.dcells is None else named("cells", cells)
    if training is not None:
        dx, dstate, grads = problem.backward(training, dtype)
        results |= named("dx", dx) | named("dstate", dstate)
        results |= {f"d{name}": value for name, value in grads.items()}
    return results
