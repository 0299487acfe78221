# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of training share: a forward and backward pass with every option, and its truth."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import numpy as np

import fastlstm
from fastlstm import reference
from tests.problems.helpers import REST_SECONDS, WIDER, Case, Config, random_config

# Largest error of an array of gradients against a truth of higher precision, as a part of its largest
# element.  Measured over the tests, the worst is about a third of it.
GRADIENT_TOLERANCE = {np.dtype(np.float32): 6e-6, np.dtype(np.float64): 2e-14}
# What forward can keep; 1 is every step, 3 is not a divisor of chunks, 1000 is more steps than there are.
SAVES: tuple[str | int, ...] = ("all", "states", 1, 3, 1000)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a recorded pass takes beside a call; `reset` is the probability of one at a step of a row."""

    reset: float = 0.0
    dropout: float = 0.0
    bptt: int | None = None


class Training:
    """A configuration with weights, inputs and gradients of all results: a function of the arguments alone.

    What stands behind the end of a row is NaN, or an index out of range: nobody may look at it.
    """

    def __init__(self, config: Config, options: Options = Options(), scale: float = 1.0) -> None:
        self.case = case = Case(config, scale)
        self.config, self.options = config, options
        rng = np.random.default_rng([config.seed, 2])
        T, B, width = config.T, config.B, config.D * config.H
        shape = (B, T) if config.batch_first else (T, B)
        self.reset = rng.random(shape) < options.reset if options.reset else None
        self.dy = rng.standard_normal((*shape, width)).astype(config.dtype)
        self.dstate = tuple(
            rng.standard_normal((config.L * config.D, B, config.H)).astype(config.dtype) for _ in "hc"
        )
        self.x = case.x.copy()
        if case.lengths is not None:
            behind = np.arange(T)[:, np.newaxis] >= case.lengths
            behind = behind.T if config.batch_first else behind
            self.x[behind] = -1 if config.is_index else np.nan
            self.dy[behind] = np.nan

    def layer(self, **keywords: Any) -> fastlstm.LSTM:
        return self.case.layer(dropout=self.options.dropout, **keywords)

    def forward(self, layer: fastlstm.LSTM, save: str | int = "all", **changes: Any) -> Any:
        options = {"lengths": self.case.lengths, "reset": self.reset, "bptt": self.options.bptt}
        state = changes.pop("state", self.case.state)
        return layer.forward(changes.pop("x", self.x), state, save=save, **(options | changes))

    def run(self, layer: fastlstm.LSTM | None = None, save: str | int = "all") -> dict[str, np.ndarray]:
        """All results and gradients of one pass, by name; dx is missing for indices."""
        layer = layer or self.layer()
        layer.zero_grad()
        tape = self.forward(layer, save)
        dx, (dh_0, dc_0) = tape.backward(self.dy, self.dstate)
        assert (dx is None) == self.config.is_index
        results = {"y": tape.y, "h_n": tape.state[0], "c_n": tape.state[1], "dh_0": dh_0, "dc_0": dc_0}
        results |= {} if dx is None else {"dx": dx}
        return results | {name: value.copy() for name, value in layer.grads.items()}

    def run_on_threads(self, threads: int | None, save: str | int = "all") -> dict[str, np.ndarray]:
        """Run with as many threads as the plan wants, up to `threads`, also on a machine that is busy."""
        layer = self.layer(num_threads=threads)
        time.sleep(REST_SECONDS)
        return self.run(layer, save)

    def truth(self, **changes: Any) -> dict[str, np.ndarray]:
        """The same of the reference, in higher precision, for the first pass of a new layer."""
        config = self.config
        given: dict[str, Any] = {
            "lengths": self.case.lengths,
            "reset": self.reset,
            "dropout": self.options.dropout if config.L > 1 else 0.0,
            "dropout_seed": next_seed(self.layer()),
            "batch_first": config.batch_first,
            "bidirectional": config.bidirectional,
            "dtype": WIDER[np.dtype(config.dtype)],
        }
        arguments = self.x, self.case.params, self.case.state
        y, (h_n, c_n) = reference.lstm(*arguments, **given)
        options = {"dy": self.dy, "dstate": self.dstate, "bptt": self.options.bptt} | changes
        dx, (dh_0, dc_0), grads = reference.lstm_backward(*arguments, **given, **options)
        results = {"y": y, "h_n": h_n, "c_n": c_n, "dh_0": dh_0, "dc_0": dc_0}
        return results | ({} if dx is None else {"dx": dx}) | grads


def next_seed(layer: fastlstm.LSTM) -> int:
    """The seed that the next forward of the layer will draw for its dropout."""
    return int(copy.deepcopy(layer.rng).integers(2**63))


def largest_part(got: np.ndarray, truth: np.ndarray) -> float:
    """Largest error as a part of the largest element; inf where a number is not finite, or 0 is not met."""
    if got.shape != truth.shape or not np.isfinite(got).all():
        return np.inf
    error = float(np.abs(got.astype(truth.dtype) - truth).max(initial=0))
    return error / float(np.abs(truth).max()) if error else 0.0


def assert_right(got: dict[str, np.ndarray], truth: dict[str, np.ndarray], what: object = "") -> None:
    assert got.keys() == truth.keys(), what
    for name, value in got.items():
        assert largest_part(value, truth[name]) <= GRADIENT_TOLERANCE[value.dtype], (name, what)


def as_tuple(results: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """For `assert_same_bits`, in an order that does not depend on the pass."""
    return tuple(results[name] for name in sorted(results))


def random_training(rng: np.random.Generator, largest: int = 40, longest: int = 30, **fixed: Any) -> Training:
    """Every option of a layer and of a recorded pass by the toss of a coin."""
    config = random_config(rng, largest, longest, **fixed)
    options = Options(
        reset=float(rng.choice([0.0, 0.0, 0.15, 0.6])),
        dropout=float(rng.choice([0.0, 0.0, 0.3, 0.5])),
        bptt=int(rng.integers(1, config.T + 2)) if rng.integers(3) == 0 else None,
    )
    return Training(config, options)
