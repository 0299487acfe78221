# SPDX-License-Identifier: BSD-3-Clause
"""The maker of problems: weights, inputs, states, lengths, masks, resets, and gradients of all results.

`make_problem` makes the one that is described, `random_problem` one of a configuration, `problem_of` and
`problems` draw the configuration too.  Each is a function of its arguments alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastlstm import reference
from fastlstm.reference import Config

from .cells import CELLS, random_config

DTYPES = ("float32", "float64")
# What a batch has, beside the options of its layer.
OF_BATCH = {"T", "B", "is_index", "is_batched", "has_state", "has_lengths", "has_mask", "has_reset"}
OF_BATCH |= {"has_cells", "pad", "bptt"}
# Every row is real from the first step to the last.
WHOLE: dict[str, Any] = {"has_lengths": False, "has_mask": False, "has_reset": False, "is_batched": True}
LARGEST = (6, 20, 40)


@dataclasses.dataclass
class Problem:
    """Inputs of one call of a layer, and gradients of all that it returns.

    `keywords` are those that a layer and the reference take alike.  What stands at steps that are not real is
    NaN, or an index out of range, and gradients of zeros are NaN too: nobody may look at them.  With `dcells`
    the cell states of all steps are asked for as well.
    """

    config: Config
    params: dict[str, np.ndarray]
    x: np.ndarray
    state: Any
    keywords: dict[str, Any]
    bptt: int | None
    seed: int
    dy: np.ndarray
    dstate: Any
    dcells: np.ndarray | None

    @property
    def dtype(self) -> np.dtype[Any]:
        return next(iter(self.params.values())).dtype

    def forward(self, training: bool = False, dtype: Any = None, **changes: Any) -> reference.Result:
        """What the reference says."""
        arguments = {"x": self.x, "state": self.state, "params": self.params, "seed": self.seed}
        arguments |= {"training": training, "dtype": dtype} | self.keywords | changes
        return reference.forward(self.config, **arguments)

    def backward(self, training: bool = True, dtype: Any = None, **changes: Any) -> Any:
        """What the reference says: dx, dstate, grads."""
        arguments = {"x": self.x, "state": self.state, "params": self.params, "seed": self.seed}
        arguments |= {"training": training, "dtype": dtype, "bptt": self.bptt, "dy": self.dy}
        arguments |= {"dstate": self.dstate, "dcells": self.dcells} | self.keywords | changes
        return reference.backward(self.config, **arguments)

    def time_first(self, values: Any) -> Any:
        """A sequence of the batch as (T, B, ...), or one such as the problem has it: its own inverse."""
        return values if values is None or not self.config.batch_first else values.swapaxes(0, 1)

    def real_steps(self) -> np.ndarray:
        """(T, B) of bool, of a batched problem."""
        T, B = self.time_first(self.x).shape[:2]
        is_real = np.ones((T, B), bool)
        if "lengths" in self.keywords:
            is_real &= np.arange(T)[:, None] < self.keywords["lengths"]
        if "mask" in self.keywords:
            is_real &= self.time_first(self.keywords["mask"])
        return is_real

    def rows(self, which: Any, end: int | None = None) -> Problem:
        """Some rows of the batch as a problem of their own, or the first `end` steps of them, all real."""
        steps = slice(end)

        def cut(values: Any) -> Any:
            return None if values is None else self.time_first(self.time_first(values)[steps][:, which])

        keywords = {n: cut(v) if n in ("mask", "reset") else v for n, v in self.keywords.items()}
        lengths = keywords.pop("lengths", None)
        if lengths is not None and end is None:
            keywords["lengths"] = lengths[which]
        return dataclasses.replace(
            self,
            x=cut(self.x),
            state=transformed(lambda a: a[:, which], self.state),
            keywords=keywords,
            dy=cut(self.dy),
            dstate=transformed(lambda a: a[:, which], self.dstate),
            dcells=cut(self.dcells),
        )

    def with_options(self, **options: Any) -> Problem:
        """The same problem of another configuration."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **options))


# ---- As described ------------------------------------------------------------------------------------------


def make_problem(
    T: int,
    B: int,
    I: int,
    H: int | tuple[int, ...],
    L: int = 1,
    *,
    cell: str = "LSTM",
    dtype: str = "float32",
    seed: int = 0,
    scale: float = 1.0,
    **given: Any,
) -> Problem:
    """A problem of these sizes with what is `given`: options of the layer, and what `random_problem` takes.

    Nothing that is not given is there: no state, lengths, mask, reset, cells or truncation.
    """
    options = {name: value for name, value in given.items() if name not in OF_BATCH}
    batch = {name: value for name, value in given.items() if name in OF_BATCH}
    config = Config(cell, I, H, L if isinstance(H, int) else len(H), **options)
    rng = np.random.default_rng([seed, T, B, I, zlib.crc32(cell.encode())])
    absent = dict.fromkeys(OF_BATCH - {"T", "B", "pad", "bptt"}, False)
    batch = absent | {"is_batched": True, "pad": "zero", "bptt": None} | batch
    params = random_params(config, rng, dtype, scale)
    return random_problem(config, rng, T, B, dtype, params, **batch)


def shown(case: Any) -> str:
    """Name of a case of `make_problem` as a parameter of a test."""
    return (
        " ".join(f"{name}={value}" for name, value in case.items()) if isinstance(case, dict) else str(case)
    )


def in_both_dtypes(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [case | {"dtype": dtype} for case in cases for dtype in DTYPES]


# ---- At random ---------------------------------------------------------------------------------------------


def problem_of(seed: int, cell: str, dtype: str = "float64", **fixed: Any) -> Problem:
    """A problem that is a function of its arguments; `fixed` are options and what `random_problem` takes."""
    rng = np.random.default_rng([seed, CELLS.index(cell), dtype == "float32"])
    options = {name: value for name, value in fixed.items() if name not in OF_BATCH}
    largest = options.pop("largest", LARGEST[seed % 3])
    config = random_config(rng, largest, cell=cell, **options)
    if dtype == "float32" and config.layer_norm and min(config.sizes) < 5:
        # The norm of a few units is badly conditioned: their deviations from the mean may be all rounding.
        config = random_config(rng, largest, cell=cell, **(options | {"hidden_size": 7 + seed % 9}))
    batch = {name: value for name, value in fixed.items() if name in OF_BATCH}
    return random_problem(config, rng, dtype=dtype, **batch)


def problems(count: int, dtype: str = "float64", start: int = 0, **fixed: Any) -> Iterator[Problem]:
    """`count` problems of each cell."""
    for cell, seed in itertools.product(CELLS, range(start, start + count)):
        yield problem_of(seed, cell, dtype, **fixed)


def random_params(
    config: Config, rng: np.random.Generator, dtype: Any = np.float64, scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Parameters in the flat order, uniform within scale / sqrt(H); factors of a normalisation about 1."""
    params = {}
    for name, shape in reference.param_shapes(config).items():
        layer = int(name.rpartition("_l")[2].removesuffix("_reverse"))
        bound = scale / np.sqrt(config.sizes[layer])
        values = rng.uniform(-bound, bound, shape)
        params[name] = (values + name.startswith("weight_ln")).astype(dtype)
    return params


def random_problem(
    config: Config,
    rng: np.random.Generator,
    T: int | None = None,
    B: int | None = None,
    dtype: Any = np.float64,
    params: dict[str, np.ndarray] | None = None,
    **fixed: Any,
) -> Problem:
    """A batch for `config`: floats or indices, with or without a state, lengths, mask, reset, cells and pad.

    `fixed` says what it has: is_index, is_batched, has_state, has_lengths, has_mask, has_cells of bool,
    has_reset of bool or the probability of one, and pad and bptt themselves.
    """
    has = {name: bool(rng.integers(2)) for name in ("has_state", "has_lengths", "has_mask", "has_reset")}
    has |= {"is_index": bool(rng.random() < 0.2), "is_batched": bool(rng.random() < 0.85)}
    has |= {"has_cells": bool(rng.random() < 0.7)} | fixed
    has["is_index"] = has["is_index"] and (config.residual != 0 or "is_index" in fixed)
    T = int(rng.integers(1, 9)) if T is None else T
    B = int(rng.integers(1, 6)) if B is None else B
    B = B if has["is_batched"] else 1
    params = random_params(config, rng, dtype) if params is None else params

    keywords: dict[str, Any] = {}
    is_real = np.ones((T, B), bool)
    if has["has_lengths"]:  # of every kind: none at all, one, the whole, and any
        lengths = rng.integers(0, T + 1, B)
        lengths[: min(B, 3)] = rng.permutation([0, T, min(1, T)])[: min(B, 3)]
        keywords["lengths"] = lengths
        is_real &= np.arange(T)[:, np.newaxis] < lengths
    if has["has_mask"]:
        mask = rng.random((T, B)) < rng.choice([0.3, 0.7, 0.9], B)
        keywords["mask"] = as_given(mask, config, has["is_batched"])
        is_real &= mask
    if has["has_reset"]:
        share = rng.choice([0.15, 0.5]) if has["has_reset"] is True else has["has_reset"]
        keywords["reset"] = as_given(rng.random((T, B)) < share, config, has["is_batched"])
    can_hold = config.residual is None and config.merge == "concat"
    pad = fixed.get("pad", str(rng.choice(["zero", "hold"])) if can_hold else "zero")
    if pad != "zero" or rng.integers(2):
        keywords["pad"] = pad

    if has["is_index"]:
        x = np.where(is_real, rng.integers(0, config.input_size, (T, B)), -1)
    else:
        x = np.where(is_real[:, :, np.newaxis], rng.standard_normal((T, B, config.input_size)), np.nan)
        x = x.astype(dtype)
    is_padded = ~is_real[:, :, np.newaxis] & (pad == "zero")

    def sequence_like(width: int) -> np.ndarray:
        values = np.where(is_padded, np.nan, rng.standard_normal((T, B, width)))
        return as_given(values.astype(dtype), config, has["is_batched"])

    D, last = config.num_directions, config.num_layers - 1
    bptt = int(rng.integers(1, T + 2)) if rng.integers(3) == 0 else None
    return Problem(
        config,
        params,
        as_given(x, config, has["is_batched"]),
        random_state(config, rng, B, dtype, has["is_batched"]) if has["has_state"] else None,
        keywords,
        fixed.get("bptt", bptt),
        int(rng.integers(2**63)),
        sequence_like(config.output_width(last)),
        random_state(config, rng, B, dtype, has["is_batched"], is_gradient=True),
        sequence_like(D * config.sizes[last]) if "c" in config.states and has["has_cells"] else None,
    )


def as_given(values: np.ndarray, config: Config, is_batched: bool) -> np.ndarray:
    """An array with the time first as a call takes it."""
    if not is_batched:
        return values[:, 0]
    return values.swapaxes(0, 1) if config.batch_first else values


def random_state(
    config: Config,
    rng: np.random.Generator,
    B: int,
    dtype: Any = np.float64,
    is_batched: bool = True,
    is_gradient: bool = False,
) -> Any:
    """A state, or a gradient of one, as a call takes it; n of a state is positive, as it must be."""
    L, D = config.num_layers, config.num_directions
    members = []
    for index, name in enumerate(config.states):
        layers = []
        for layer in range(L):
            values = rng.uniform(-1, 1, (D, B, config.state_widths(layer)[index]))
            values = values + 2 if name == "n" and not is_gradient else values
            layers.append(values.astype(dtype) if is_batched else values.astype(dtype)[:, 0])
        members.append(np.concatenate(layers) if isinstance(config.hidden_size, int) else tuple(layers))
    return tuple(members) if len(members) > 1 else members[0]


# ---- Nested arrays -----------------------------------------------------------------------------------------


def arrays_of(value: Any) -> list[np.ndarray]:
    """All arrays of a result, however nested, in order; None is none."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [array for part in parts for array in arrays_of(part)]


def transformed(function: Any, value: Any) -> Any:
    """`function` of every array of a state, in the same tuples."""
    if value is None or isinstance(value, np.ndarray):
        return None if value is None else function(value)
    return tuple(transformed(function, member) for member in value)


def rebuilt(template: Any, members: Iterator[np.ndarray]) -> Any:
    """The structure of `template` with other arrays."""
    return transformed(lambda _: next(members), template)
