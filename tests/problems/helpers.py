# SPDX-License-Identifier: BSD-3-Clause
"""What the tests share: random configurations, layers of known weights, truths, and child interpreters."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm
from fastlstm import _core, reference

ROOT = Path(__file__).resolve().parents[2]
DTYPES = (np.float32, np.float64)
ISAS = [name for name, _built, available in _core.isa_table() if available]
FUSED_ISAS = [isa for isa in ISAS if isa != "generic"]

# Largest absolute error against a truth of higher precision, for T <= 100 and weights as torch draws them.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}
# What a truth is computed in.
WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
# After a call whose threads waited for a CPU, calls stay on one thread for 50 ms (REST_NANOSECONDS in
# csrc/base/pool.c).  A test that means several threads lets that time pass first; nothing is measured by it.
REST_SECONDS = 0.06
# A child that hangs is killed after this many seconds; nothing is measured by it.
HANG = 240


@dataclasses.dataclass(frozen=True)
class Config:
    """One stack of layers and one batch for it."""

    T: int
    B: int
    I: int
    H: int
    L: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    has_state: bool = False
    has_lengths: bool = False
    is_index: bool = False
    dtype: str = "float32"
    seed: int = 0

    @property
    def D(self) -> int:
        return 1 + self.bidirectional

    def __str__(self) -> str:
        default = Config(0, 0, 0, 0)
        items = dataclasses.asdict(self).items()
        return " ".join(f"{name}={value}" for name, value in items if value != getattr(default, name))


def random_params(
    rng: np.random.Generator,
    I: int,
    H: int,
    L: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    dtype: Any = np.float32,
    scale: float = 1.0,
) -> dict[str, np.ndarray]:
    """Parameters by torch's names in torch's order and distribution (times `scale`)."""
    params = {}
    bound = scale / np.sqrt(H)
    for layer in range(L):
        inputs = I if layer == 0 else H * (1 + bidirectional)
        for suffix in ("", "_reverse")[: 1 + bidirectional]:
            shapes = {"weight_ih": (4 * H, inputs), "weight_hh": (4 * H, H)}
            if bias:
                shapes |= {"bias_ih": (4 * H,), "bias_hh": (4 * H,)}
            for name, shape in shapes.items():
                params[f"{name}_l{layer}{suffix}"] = rng.uniform(-bound, bound, shape).astype(dtype)
    return params


class Case:
    """A configuration with its weights and inputs, a function of the configuration alone."""

    def __init__(self, config: Config, scale: float = 1.0) -> None:
        self.config = config
        T, B, I, H = config.T, config.B, config.I, config.H
        rng = np.random.default_rng([config.seed, T, B, I, H, config.L, config.D])
        dtype = np.dtype(config.dtype)
        self.params = random_params(rng, I, H, config.L, config.bidirectional, config.bias, dtype, scale)
        shape = (B, T) if config.batch_first else (T, B)
        if config.is_index:
            self.x = rng.integers(0, I, shape)
        else:
            self.x = rng.standard_normal((*shape, I)).astype(dtype)
        self.state = None
        if config.has_state:
            states = (config.L * config.D, B, H)
            self.state = tuple(rng.uniform(-1, 1, states).astype(dtype) for _ in "hc")
        # Ends of every kind: none at all, one, the whole, and any.
        self.lengths = None
        if config.has_lengths:
            self.lengths = rng.integers(0, T + 1, B)
            self.lengths[: min(B, 3)] = np.array([0, T, min(1, T)])[: min(B, 3)]

    def layer(self, **keywords: Any) -> fastlstm.LSTM:
        config = self.config
        layer = fastlstm.LSTM(
            config.I,
            config.H,
            config.L,
            config.bias,
            config.batch_first,
            bidirectional=config.bidirectional,
            dtype=config.dtype,
            rng=0,
            **keywords,
        )
        layer.load_state_dict(self.params)
        return layer

    def run(self, layer: fastlstm.LSTM | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, (h, c) = (layer or self.layer())(self.x, self.state, lengths=self.lengths)
        return y, h, c

    def run_on_threads(self, threads: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run with as many threads as the plan wants, up to `threads`, also on a machine that is busy."""
        layer = self.layer(num_threads=threads)
        time.sleep(REST_SECONDS)
        return self.run(layer)

    def truth(self, dtype: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, (h, c) = reference.lstm(
            self.x,
            self.params,
            self.state,
            lengths=self.lengths,
            batch_first=self.config.batch_first,
            bidirectional=self.config.bidirectional,
            dtype=dtype or WIDER[np.dtype(self.config.dtype)],
        )
        return y, h, c


def random_config(rng: np.random.Generator, largest: int, longest: int, **fixed: Any) -> Config:
    """Sizes 1 to `largest`, T to `longest`, small and large alike, and every option by the toss of a coin."""

    def size(limit: int) -> int:
        return int(np.rint(np.exp(rng.uniform(0, np.log(limit)))))

    drawn: dict[str, Any] = {
        "T": size(longest),
        "B": size(20),
        "I": size(largest),
        "H": size(largest),
        "L": int(rng.integers(1, 4)),
        "seed": int(rng.integers(2**31)),
    }
    for name in ("bidirectional", "bias", "batch_first", "has_state", "has_lengths"):
        drawn[name] = bool(rng.integers(2))
    drawn["is_index"] = bool(rng.integers(4) == 0)
    return Config(**(drawn | fixed))


def largest_error(got: tuple[np.ndarray, ...], truth: tuple[np.ndarray, ...]) -> float:
    """Largest absolute difference of y, h_n and c_n; inf where shapes differ or a number is not finite."""
    worst = 0.0
    for a, b in zip(got, truth, strict=True):
        if a.shape != b.shape or not np.isfinite(a).all():
            return np.inf
        if a.size:
            worst = max(worst, float(np.max(np.abs(a.astype(b.dtype) - b))))
    return worst


def assert_close(got: tuple[np.ndarray, ...], truth: tuple[np.ndarray, ...], what: object = "") -> None:
    tolerance = TOLERANCE[got[0].dtype]
    assert largest_error(got, truth) <= tolerance, what


def assert_same_bits(got: Any, expected: Any, what: object = "") -> None:
    """Arrays, or nested tuples of them, equal in shape, dtype and every bit: -0 is not 0, NaN is NaN."""
    if isinstance(expected, tuple):
        assert isinstance(got, tuple)
        assert len(got) == len(expected), what
        for a, b in zip(got, expected, strict=True):
            assert_same_bits(a, b, what)
        return
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), what
    if got.tobytes() != expected.tobytes():
        bits = np.dtype(f"u{got.itemsize}")
        differs = np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(expected).view(bits)
        where = np.argwhere(differs)[0] if got.ndim else ()
        raise AssertionError(f"{what}: {differs.sum()} of {got.size} differ, first at {tuple(where)}")


def digest(*arrays: np.ndarray) -> str:
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(repr((array.shape, array.dtype.str)).encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def child_environment(isa: str | None = None, **variables: str) -> dict[str, str]:
    """Environment of a child that finds the tests; `isa` caps it, or what this process runs by default."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTLSTM_NUM_THREADS"}
    environment["FASTLSTM_MAX_ISA"] = isa or _core.isa_active()
    environment["OPENBLAS_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    return environment | variables


def start_child(
    function: Callable[..., Any], *args: Any, isa: str | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Run ``function(*args)``, a function at the top of a test module, in a new interpreter."""
    isa = isa or _core.isa_active()
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c"]
    command += ["from tests.problems import helpers; helpers.child_main()"]
    command += [function.__module__, function.__qualname__, isa, json.dumps(args)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=child_environment(isa, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that it can be killed with all that it forked
    )


def result_of_child(child: subprocess.Popen[str]) -> Any:
    """What the function returned, through JSON; a crash, a hang or an exception is a failure."""
    try:
        stdout, stderr = child.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        stdout, stderr = child.communicate()
        stderr += "\n(it hung)"
    assert child.returncode == 0, f"exit status {child.returncode} of {child.args}\n{stdout}\n{stderr}"
    return json.loads(stdout.splitlines()[-1])


def in_child(function: Callable[..., Any], *args: Any, isa: str | None = None, **variables: str) -> Any:
    """Run a function in a new interpreter on instruction set `isa`, and wait for its result."""
    return result_of_child(start_child(function, *args, isa=isa, **variables))


def child_main() -> None:
    """Entry of a child; asserts that the instruction set it was meant for is the active one."""
    module, name, isa, args = sys.argv[1:]
    assert _core.isa_active() == isa, f"expected {isa}, got {_core.isa_active()}"
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(args))))
