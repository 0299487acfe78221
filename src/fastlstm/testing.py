# SPDX-License-Identifier: BSD-3-Clause
"""For tests of programs that use the package: gradients are the derivatives of what is computed."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model.checks import checked_array, checked_flag, checked_index, checked_not_negative, checked_rng
from .model.parameters import Parameters, put_in_force, restore, views

__all__ = ["GradientReport", "gradcheck"]

Array = NDArray[Any]
# Steps of differences.  The first two give one of fourth order; the last is for where a kink is near.
STEPS = (1e-3, 5e-4, 1e-6)


@dataclasses.dataclass(frozen=True)
class GradientRow:
    """What was found of one array.

    Attributes
    ----------
    name : str
        ``layers[0].weight_ih_l0``, or the name of an input.
    tested, size : int
        Elements that were looked at, and all of them.
    place : tuple of int
        Where the gradient is farthest off, as a part of what is allowed.
    gradient, difference : float
        There: what ``backward`` says, and the central difference.
    excess : float
        How far off, in units of what is allowed: above 1 is wrong.
    """

    name: str
    tested: int
    size: int
    place: tuple[int, ...]
    gradient: float
    difference: float
    excess: float


@dataclasses.dataclass(frozen=True)
class GradientReport:
    """The result of `gradcheck`, a row for each array; ``str`` makes a table of it.

    Attributes
    ----------
    rows : tuple of GradientRow
        Those that are farthest off first.
    """

    rows: tuple[GradientRow, ...]

    @property
    def is_right(self) -> bool:
        """Whether no gradient is off by more than is allowed."""
        return all(row.excess <= 1 for row in self.rows)

    def __bool__(self) -> bool:
        return self.is_right

    def __str__(self) -> str:
        wrong = sum(not row.excess <= 1 for row in self.rows)
        width = max(len(row.name) for row in self.rows)
        head = (
            f"{wrong} of {len(self.rows)} arrays have a wrong gradient"
            if wrong
            else "all gradients are right"
        )
        lines = [f"{head}:", f"  {'':{width}}  {'tested':>11}  {'gradient':>14}  {'difference':>14}  off, at"]
        for row in self.rows:
            mark = " " if row.excess <= 1 else "!"
            lines.append(
                f"{mark} {row.name:{width}}  {row.tested:>5} / {row.size:<3}  {row.gradient:14.7g}  "
                f"{row.difference:14.7g}  {row.excess:.2g} of what is allowed, {list(row.place)}"
            )
        return "\n".join(lines)


def gradcheck(
    layers: Parameters | Iterable[Parameters],
    x: Any,
    *,
    inputs: Mapping[str, Array] | None = None,
    training: bool = True,
    samples: int = 20,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    rng: Any = 0,
    raises: bool = True,
    **keywords: Any,
) -> GradientReport:
    """Compare gradients with central differences, in float64.

    Either `x` is an input, which passes through all layers one after the other; copies of them in float64 are
    looked at, so they may be of float32.  Or `x` is a function of yours without arguments, for any other
    program: it calls ``forward`` and ``backward`` of the layers, which must be of float64, and returns the
    value that is to be minimised, or the value and gradients of `inputs` by name.

    Parameters
    ----------
    layers : layer, or iterable of layers
        Whose gradients are looked at.
    x : array_like or callable
        As above.  With an array the value is a sum of all outputs and final states, with weights that are
        drawn.
    inputs : mapping of str to ndarray, optional
        Of a function: arrays of float64 that it reads, which are changed in place for a moment.
    training : bool
        Of an array: whether masks are drawn.  In any case all random numbers of the layers are the same in
        every call.
    samples : int
        Elements of each array that are looked at, drawn by `rng`; all of an array that has no more.
    rtol, atol : float
        Allowed are ``rtol * |difference| + atol * max(1, |value|)``.
    rng : optional
        Anything that `numpy.random.default_rng` takes.
    raises : bool
        Whether a wrong gradient is an exception.
    **keywords
        Of an array: arguments of the recurrent layers' ``forward``, as `lengths`.

    Returns
    -------
    GradientReport
        All that was found.

    Raises
    ------
    AssertionError
        A gradient is wrong; the message is the report.
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.

    Notes
    -----
    A function that is not smooth, as with "relu" or a clip, has no derivative at its kinks: a difference that
    reaches over one says nothing.  Parameters are what they were afterwards, and so are gradients and random
    generators.

    Examples
    --------
    >>> import fastlstm
    >>> from fastlstm.testing import gradcheck
    >>> layers = fastlstm.LSTM(3, 4, rng=0), fastlstm.Dense(4, 2, rng=1)
    >>> bool(gradcheck(layers, [[[1.0, 2.0, 3.0]], [[0.5, 0.0, -1.0]]], lengths=[2]))
    True
    """
    own = _checked_layers(layers)
    limits = checked_not_negative(rtol, "rtol"), checked_not_negative(atol, "atol")
    count = checked_index(samples, "samples", 1)
    draws = checked_rng(rng)
    if callable(x):
        if keywords:
            raise TypeError(f"{next(iter(keywords))}: expected with an array x alone, got it with a function")
        arrays = _checked_inputs(inputs)
        for index, layer in enumerate(own):
            if layer.flat_params.dtype != np.float64:
                raise ValueError(
                    f"layers[{index}]: expected dtype float64 with a function, got {layer.flat_params.dtype}"
                )
        compute = x
    else:
        if inputs is not None:
            raise TypeError("inputs: expected None with an array x, got a value")
        own = _as_float64(own)
        keywords["training"] = checked_flag(training, "training")
        compute, arrays = _through_all(own, x, keywords, draws)
    report = _Check(own, compute, arrays, limits, count, draws).report()
    if checked_flag(raises, "raises") and not report.is_right:
        raise AssertionError(str(report))
    return report


def _checked_layers(layers: Any) -> list[Parameters]:
    own = (
        [layers] if isinstance(layers, Parameters) else list(layers) if isinstance(layers, Iterable) else None
    )
    if not own:
        raise TypeError(f"layers: expected a layer or several, got {type(layers).__name__} without any")
    for index, layer in enumerate(own):
        if not isinstance(layer, Parameters) or not hasattr(layer, "forward"):
            raise TypeError(f"layers[{index}]: expected a layer with forward, got {type(layer).__name__}")
    return own


def _checked_inputs(inputs: Mapping[str, Array] | None) -> dict[str, Array]:
    for name, array in (inputs or {}).items():
        if not isinstance(array, np.ndarray) or array.dtype != np.float64 or not array.flags.writeable:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"inputs[{name!r}]: expected a writeable ndarray of float64, got {got}")
    return dict(inputs or {})


def _as_float64(layers: list[Parameters]) -> list[Parameters]:
    """Copies of layers, with the same random numbers; those that are tied are tied again."""
    twins: dict[int, Parameters] = {}

    def twin(layer: Parameters) -> Parameters:
        if id(layer) not in twins:
            config = dict(layer._config()) | {"dtype": "float64"}
            config = {k: twin(v) if isinstance(v, Parameters) else v for k, v in config.items()}
            copied = twins[id(layer)] = restore(type(layer), config, layer._parameter_set().views)
            copied.rng = copy.deepcopy(layer.rng)
        return twins[id(layer)]

    return [twin(layer) for layer in layers]


def _through_all(
    layers: list[Parameters], x: Any, keywords: dict[str, Any], draws: np.random.Generator
) -> tuple[Callable[[], Any], dict[str, Array]]:
    """A function as `gradcheck` takes it, of layers one after the other, and its inputs."""
    given = checked_array(x, "x")
    if given.dtype.kind not in "iuf":
        raise TypeError(f"x: expected real numbers, got dtype {given.dtype}")
    is_index = given.dtype.kind in "iu"
    first = given if is_index else given.astype(np.float64)
    weights: dict[tuple[int, int], Array] = {}

    def weight(place: tuple[int, int], like: Array) -> Array:
        if place not in weights:
            weights[place] = draws.standard_normal(like.shape)
        return weights[place]

    def state_weight(index: int, number: int, like: Array) -> Array:
        return weight((index, 1 + number), like)

    def compute() -> Any:
        value, tapes = 0.0, []
        below: Any = first
        for index, layer in enumerate(layers):
            is_recurrent = hasattr(layer, "stream")
            tape = layer.forward(below, **(keywords if is_recurrent else {}))  # type: ignore[attr-defined]
            dstate = None
            if is_recurrent:
                dstate, part = _weighted(tape.state, functools.partial(state_weight, index))
                value += part
            tapes.append((tape, dstate))
            below = tape.y
        d: Any = weight((len(layers), 0), below)
        value += float(np.vdot(d, below))
        for tape, dstate in reversed(tapes):
            result = tape.backward(d) if dstate is None else tape.backward(d, dstate)[0]
            d = result
        return value if is_index else (value, {"x": d})

    return compute, {} if is_index else {"x": first}


def _weighted(state: Any, weight: Callable[[int, Array], Array]) -> tuple[Any, float]:
    """Weights in the form of a state, and the sum of the state with them."""
    count, total = 0, 0.0

    def walk(part: Any) -> Any:
        nonlocal count, total
        if isinstance(part, (tuple, list)):
            return type(part)(walk(member) for member in part)
        own = weight(count, part)
        count, total = count + 1, total + float(np.vdot(own, part))
        return own

    return walk(state), total


class _Check:
    """Values and gradients of a function of yours, at changed parameters and inputs."""

    def __init__(
        self,
        layers: list[Parameters],
        compute: Callable[[], Any],
        inputs: dict[str, Array],
        limits: tuple[float, float],
        samples: int,
        draws: np.random.Generator,
    ) -> None:
        self.layers, self.compute, self.inputs = layers, compute, inputs
        self.limits, self.samples, self.draws = limits, samples, draws
        self.generators = [copy.deepcopy(layer.rng) for layer in layers]

    def report(self) -> GradientReport:
        kept = [(layer, layer._parameter_set(), layer.rng, layer.flat_grads.copy()) for layer in self.layers]
        inputs = {name: array.copy() for name, array in self.inputs.items()}
        try:
            return self._report()
        finally:
            put_in_force([(layer, before) for layer, before, _, _ in kept])
            for layer, _, rng, grads in kept:
                layer.rng = rng
                layer.flat_grads[...] = grads
            for name, array in inputs.items():
                self.inputs[name][...] = array

    def _report(self) -> GradientReport:
        for layer in self.layers:
            layer.zero_grad()
        value, given = self._call()
        gradients = {
            f"layers[{index}].{name}": grad.copy()
            for index, layer in enumerate(self.layers)
            # Of a tied layer those of its own; the rest is another layer's.
            for name, grad in views(layer.flat_grads, layer._parameter_set().layout).items()
        }
        gradients |= {name: np.array(given[name], np.float64) for name in self.inputs}
        rows = [self._row(name, gradient, value) for name, gradient in gradients.items() if gradient.size]
        if not rows:
            raise ValueError("layers: expected parameters or inputs to look at, got none")
        rank = {row.name: -row.excess if row.excess == row.excess else -math.inf for row in rows}
        return GradientReport(tuple(sorted(rows, key=lambda row: rank[row.name])))

    def _call(self) -> tuple[float, Mapping[str, Array]]:
        for layer, generator in zip(self.layers, self.generators, strict=True):
            layer.rng = copy.deepcopy(generator)
        result = self.compute()
        value, given = result if isinstance(result, tuple) else (result, {})
        if missing := [name for name in self.inputs if name not in given]:
            raise ValueError(f"x: expected a function that returns gradients of {missing}, got none")
        return float(value), given

    def _row(self, name: str, gradient: Array, value: float) -> GradientRow:
        size = gradient.size
        chosen = (
            np.arange(size) if size <= self.samples else self.draws.choice(size, self.samples, replace=False)
        )
        found = []
        for number in chosen.tolist():
            place = np.unravel_index(number, gradient.shape)
            got = float(gradient[place])
            first, second, small = (self._difference(name, place, step) for step in STEPS)
            tries = ((4 * second - first) / 3, small)
            allowed = [self.limits[0] * abs(d) + self.limits[1] * max(1.0, abs(value)) for d in tries]
            # The difference by a small step has its own noise.
            allowed[1] += 4e-16 * max(1.0, abs(value)) / STEPS[2]
            excess = [abs(got - d) / a if a else math.inf for d, a in zip(tries, allowed, strict=True)]
            best = min(range(2), key=lambda n: excess[n] if excess[n] == excess[n] else math.inf)
            found.append((excess[best], tuple(int(i) for i in place), got, tries[best]))
        worst = max(found, key=lambda each: each[0] if each[0] == each[0] else math.inf)
        excess_of_worst = worst[0] if worst[0] == worst[0] else math.inf  # NaN is wrong
        return GradientRow(name, len(found), size, worst[1], worst[2], worst[3], excess_of_worst)

    def _difference(self, name: str, place: tuple[Any, ...], step: float) -> float:
        """The central difference of the value by one element."""
        values = []
        for sign in (1, -1):
            undo = self._moved(name, place, sign * step)
            try:
                values.append(self._call()[0])
            finally:
                undo()
        return (values[0] - values[1]) / (2 * step)

    def _moved(self, name: str, place: tuple[Any, ...], by: float) -> Callable[[], None]:
        """Move one element; the result moves it back."""
        if name in self.inputs:
            array = self.inputs[name]
            before = array[place]
            array[place] += by
            return lambda: array.__setitem__(place, before)
        index, _, own = name.removeprefix("layers[").partition("].")
        layer = self.layers[int(index)]
        kept = layer._parameter_set()
        flat = kept.flat.copy()
        views(flat, kept.layout)[own][place] += by
        layer._replace(flat)
        return lambda: put_in_force([(layer, kept)])
