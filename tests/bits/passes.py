# SPDX-License-Identifier: BSD-3-Clause
"""What a case of cases.py computes, as arrays by name."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import fastlstm

from .cases import Form, Sizes
from .values import Draws, coins, indices, parameters, uniform

Arrays = dict[str, np.ndarray]

# (num_threads, save) of each training pass of a case, and num_threads of each call: all give the same bits.
PASSES: tuple[tuple[int, str | int], ...] = ((1, "all"), (2, "states"), (2, 3))
THREADS = (1, 2)
# Cuts of a stream: steps that are processed together, 1 by `step`; the rest at once.
CUTS = ((), (1,) * 20, (1, 3, 1, 2), (2, 1, 1))


def named(name: str, value: Any) -> Arrays:
    """All arrays of a result, however nested."""
    if value is None:
        return {}
    if isinstance(value, np.ndarray):
        return {name: value}
    if isinstance(value, (list, tuple)):
        return {k: v for n, part in enumerate(value) for k, v in named(f"{name}[{n}]", part).items()}
    raise TypeError(f"{name}: no array, but {type(value).__name__}")


class Batch:
    """Arguments of a call of `layer` and gradients of its results, a function of `name` alone."""

    def __init__(self, name: str, layer: Any, form: Form, sizes: Sizes) -> None:
        self._name, self._layer, self._form, self._sizes = name, layer, form, sizes
        T, B, I = sizes.T, sizes.B, sizes.I
        self.keywords: dict[str, Any] = {} if form.pad == "zero" else {"pad": form.pad}
        self.lengths = indices(f"{name} lengths", (B,), T + 1)
        self.lengths[: min(B, 2)] = (T, 0)[: min(B, 2)]
        self.rows = np.maximum(self.lengths, 1) if form.x == "list" else self.lengths  # of packed forms
        if form.has_lengths:
            self.keywords["lengths"] = self.lengths
        if form.has_mask:
            self.keywords["mask"] = self._placed(coins(f"{name} mask", (T, B), 70))
        if form.has_reset:
            self.keywords["reset"] = self._placed(coins(f"{name} reset", (T, B), 20))
        if form.x.startswith("offsets"):
            self.keywords["offsets"] = np.concatenate([[0], np.cumsum(self.rows)])
        if "index" in form.x:
            self.x = self._placed(indices(f"{name} x", (T, B), I))
        else:
            self.x = self._placed(uniform(f"{name} x", (T, B, I), layer.dtype, 2.0))
        self.state = self._states(f"{name} state") if form.has_state else None

    def gradients(self, y: Any, state: Any, cells: Any) -> tuple[Any, Any, Any]:
        return tuple(
            self._like(value, f"{self._name} gradient of {n}") for n, value in enumerate((y, state, cells))
        )  # type: ignore[return-value]

    def _like(self, value: Any, name: str) -> Any:
        if value is None:
            return None
        if isinstance(value, np.ndarray):
            return uniform(name, value.shape, value.dtype)
        return type(value)(self._like(part, f"{name} {n}") for n, part in enumerate(value))

    def _placed(self, values: np.ndarray) -> Any:
        """An array (T, B, ...) as the form wants it."""
        form = self._form.x
        if form == "unbatched":
            return values[:, 0]
        if form == "list":
            return [np.ascontiguousarray(values[:count, b]) for b, count in enumerate(self.rows)]
        if form.startswith("offsets"):
            return np.concatenate([values[:count, b] for b, count in enumerate(self.rows)])
        return values.swapaxes(0, 1) if self._layer.batch_first else values

    def _states(self, name: str) -> Any:
        """A state whose form is that of an empty call's."""
        layer, sizes = self._layer, self._sizes
        is_batched = self._form.x != "unbatched"
        shape = (1, sizes.B, sizes.I) if is_batched else (1, sizes.I)
        if layer.batch_first and is_batched:
            shape = (sizes.B, 1, sizes.I)
        zero = layer(np.zeros(shape, layer.dtype))[1]
        state = self._like(zero, name)
        if type(layer).__name__ == "SLSTM":  # (h, c, n, m), of which n is positive
            n = state[2]
            state = (*state[:2], tuple(part + 2 for part in n) if isinstance(n, tuple) else n + 2, state[3])
        return state


def make_layer(name: str, cell: str, options: dict[str, Any], sizes: Sizes, dtype: str, threads: int) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dropout: expected num_layers")  # of one layer
        layer = getattr(fastlstm, cell)(sizes.I, sizes.H, dtype=dtype, num_threads=threads, rng=0, **options)
    shapes = {key: value.shape for key, value in layer.params.items()}
    layer.load_state_dict(parameters(f"{name} parameters", shapes, dtype))
    layer.rng = Draws()
    return layer


def has_cells(cell: str) -> bool:
    return cell in ("LSTM", "SLSTM")


def called(layer: Any, cell: str, batch: Batch) -> Arrays:
    keywords = batch.keywords | ({"return_cells": True} if has_cells(cell) else {})
    y, state, *cells = layer(batch.x, batch.state, **keywords)
    return named("y", y) | named("state", state) | named("cells", cells)


def trained(layer: Any, cell: str, batch: Batch, save: str | int, bptt: int | None) -> Arrays:
    layer.zero_grad()
    keywords = batch.keywords | ({"return_cells": True} if has_cells(cell) else {})
    tape = layer.forward(batch.x, batch.state, save=save, bptt=bptt, **keywords)
    gradients = batch.gradients(tape.y, tape.state, tape.cells if has_cells(cell) else None)
    results = named("y", tape.y) | named("state", tape.state)
    if has_cells(cell):
        results |= named("cells", tape.cells)
    dx, dstate = tape.backward(*gradients[: 2 + has_cells(cell)])
    results |= named("dx", dx) | named("dstate", dstate)
    return results | {"grads": layer.flat_grads.copy()}


def streamed(layer: Any, batch: Batch, B: int, cuts: tuple[int, ...]) -> Arrays:
    """Of a stream that gets the sequence in pieces."""
    stream = layer.stream(B)
    if batch.state is not None:
        stream.state = batch.state
    pieces, begin, T = [], 0, len(batch.x)
    for steps in (*cuts, T):
        end = min(begin + steps, T)
        if steps == 1 and end > begin:
            pieces.append(stream.step(batch.x[begin])[np.newaxis])
        elif end > begin:
            pieces.append(stream.process(batch.x[begin:end]))
        begin = end
    return named("y", np.concatenate(pieces)) | named("state", stream.state)


def layer_arrays(name: str, cell: str, options: dict[str, Any], form: Form, dtype: str) -> list[Arrays]:
    """Results of one layer case in all ways that must give the same bits: a list of equals."""
    found: list[Arrays] = [{} for _ in range(max(len(CUTS) if form.is_stream else 0, len(PASSES)))]
    for number, given in enumerate(form.sizes):
        sizes = given.fitted(options)
        seed = f"{name} {number}"
        place = f"T={sizes.T} B={sizes.B} I={sizes.I} H={sizes.H}"
        layers = {n: make_layer(seed, cell, options, sizes, dtype, n) for n in THREADS}
        batch = Batch(seed, layers[1], form, sizes)
        if form.is_stream:
            ways = [{"stream": streamed(layers[1], batch, sizes.B, cuts)} for cuts in CUTS]
        else:
            calls = [called(layers[threads], cell, batch) for threads in THREADS]
            ways = [
                {
                    "call": calls[way % len(calls)],
                    "training": trained(layers[threads], cell, batch, save, form.bptt),
                }
                for way, (threads, save) in enumerate(PASSES)
            ]
        for arrays, results in zip(found, ways, strict=True):
            for kind, values in results.items():
                arrays |= {f"{place} {kind} {key}": value for key, value in values.items()}
    return found
