# SPDX-License-Identifier: BSD-3-Clause
"""Schedules of the learning rate: which ``optimizer.lr`` belongs to which step.

Each takes an optimizer of `fastlstm.optim`, sets its `lr` at once, and again after each ``schedule.step()``,
which follows ``optimizer.step()``, or ends an epoch.  Formulas are the closed forms of those in
``torch.optim.lr_scheduler``, with t for the steps of the schedule so far and base for the `lr` that the
optimizer had first: so what stands in between never drifts, and `state_dict` is little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from .model.checks import checked_choice, checked_flag, checked_index, checked_not_negative, checked_number
from .model.guards import Guarded

__all__ = [
    "CosineAnnealing",
    "ExponentialDecay",
    "LinearWarmup",
    "OneCycle",
    "ReduceOnPlateau",
    "StepDecay",
]


# ---- What all schedules share ----------------------------------------------------------------------------


class _Schedule(Guarded):
    """An optimizer, the learning rate it had first, and the steps so far."""

    _has_notes = False
    _option_names: ClassVar[tuple[str, ...]] = ()
    _kept_names: ClassVar[tuple[str, ...]] = ("num_steps",)
    _ways: ClassVar[dict[str, str]] = dict.fromkeys(
        ("lr", "last_lr", "base_lr"), "to be set at the optimizer before the schedule is made"
    )

    def __init__(self, optimizer: Any) -> None:
        if not isinstance(getattr(optimizer, "lr", None), float) or not hasattr(optimizer, "step"):
            raise TypeError(
                f"optimizer: expected an optimizer of fastlstm.optim, got {type(optimizer).__name__}"
            )
        self._optimizer = optimizer
        self._base_lr: float = optimizer.lr
        self._num_steps = 0
        optimizer.lr = self._lr_at(0)

    @property
    def optimizer(self) -> Any:
        """The optimizer whose `lr` is set."""
        return self._optimizer

    @property
    def base_lr(self) -> float:
        """The `lr` that the optimizer had first."""
        return self._base_lr

    @property
    def lr(self) -> float:
        """The learning rate in force, that of the optimizer."""
        return float(self._optimizer.lr)

    @property
    def num_steps(self) -> int:
        """Calls of `step` so far."""
        return self._num_steps

    def step(self) -> float:
        """Go on by one step, and set the learning rate of the optimizer.

        Returns
        -------
        float
            The learning rate from now on.
        """
        lr = self._lr_at(self._num_steps + 1)
        self._optimizer.lr = lr
        self._num_steps += 1
        return lr

    def state_dict(self) -> dict[str, Any]:
        """Return all that the schedule depends on, beside the optimizer."""
        names = (*self._kept_names, *self._option_names)
        return {"base_lr": self._base_lr} | {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, and set the learning rate of the optimizer.

        Options that are missing stay what they are.  All is checked before anything changes.

        Parameters
        ----------
        state : mapping
            Of a schedule of the same kind.

        Raises
        ------
        TypeError, ValueError
            `state` does not fit; the message names what does not.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a mapping, got {type(state).__name__}")
        twin = _restored(type(self), None, self.state_dict(), state)
        optimizer = self._optimizer
        optimizer.lr = twin.lr
        self.__dict__.update(twin.__dict__ | {"_optimizer": optimizer})

    def _load_kept(self, state: Mapping[str, Any]) -> None:
        self._num_steps = checked_index(state["num_steps"], "num_steps", 0)
        self._optimizer.lr = self._lr_at(self._num_steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._optimizer, {}, self.state_dict())

    def _lr_at(self, t: int) -> float:
        """The learning rate after `t` steps."""
        raise NotImplementedError

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._option_names)
        return f"{type(self).__name__}({options})"


def _restored(
    cls: type[_Schedule], optimizer: Any, defaults: Mapping[str, Any], state: Mapping[str, Any]
) -> _Schedule:
    """A schedule with this state, and `defaults` for what it lacks, of an optimizer that keeps its `lr`."""
    known = ("base_lr", *cls._kept_names, *cls._option_names)
    if unknown := [name for name in state if name not in known]:
        raise ValueError(f"state: expected the names {list(known)}, got unknown {unknown}")
    state = {**defaults, **state}
    # The constructor checks the options, and has defaults of its own.
    options = {name: state[name] for name in cls._option_names if name in state}
    schedule = cls(_Rate(checked_not_negative(state.get("base_lr", 0.0), "base_lr")), **options)
    schedule._load_kept({name: getattr(schedule, name) for name in cls._kept_names} | state)
    if optimizer is not None:
        schedule._optimizer = optimizer
    return schedule


class _Rate:
    """In place of an optimizer."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def step(self) -> None:
        """Nothing."""


def _option(name: str, text: str) -> Any:
    return property(lambda self: getattr(self, f"_{name}"), doc=text)


def _factor(value: Any, name: str) -> float:
    return checked_number(value, name, "a finite number above 0", lambda v: 0 < v < math.inf)


def _part(value: Any, name: str) -> float:
    return checked_number(value, name, "a number above 0 and at most 1", lambda v: 0 < v <= 1)


# ---- By the number of the step ---------------------------------------------------------------------------


class StepDecay(_Schedule):
    """``lr = base * gamma**(t // every)``: less from time to time (``StepLR``).

    Parameters
    ----------
    optimizer : optimizer of fastlstm.optim
        Whose `lr` is set.
    every : int
        Steps with the same `lr`, at least 1.
    gamma : float
        Above 0.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.

    Examples
    --------
    >>> import fastlstm
    >>> optimizer = fastlstm.optim.SGD(fastlstm.Dense(3, 2), lr=1.0)
    >>> schedule = StepDecay(optimizer, every=2, gamma=0.5)
    >>> [schedule.step() for _ in range(4)]
    [1.0, 0.5, 0.5, 0.25]
    """

    _option_names = ("every", "gamma")
    every = _option("every", "As in the constructor.")
    gamma = _option("gamma", "As in the constructor.")

    def __init__(self, optimizer: Any, every: int, gamma: float = 0.1) -> None:
        self._every = checked_index(every, "every", 1)
        self._gamma = _factor(gamma, "gamma")
        super().__init__(optimizer)

    def _lr_at(self, t: int) -> float:
        return float(self._base_lr * self._gamma ** (t // self._every))


class ExponentialDecay(_Schedule):
    """``lr = base * gamma**t``: less with every step (``ExponentialLR``).

    Parameters
    ----------
    optimizer : optimizer of fastlstm.optim
        Whose `lr` is set.
    gamma : float
        Above 0.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """

    _option_names = ("gamma",)
    gamma = _option("gamma", "As in the constructor.")

    def __init__(self, optimizer: Any, gamma: float) -> None:
        self._gamma = _factor(gamma, "gamma")
        super().__init__(optimizer)

    def _lr_at(self, t: int) -> float:
        return float(self._base_lr * self._gamma**t)


class CosineAnnealing(_Schedule):
    """``lr = min_lr + (base - min_lr) * (1 + cos(pi * t / max_steps)) / 2`` (``CosineAnnealingLR``).

    Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017, without the restarts:
    after `max_steps` it stays at `min_lr`.

    Parameters
    ----------
    optimizer : optimizer of fastlstm.optim
        Whose `lr` is set.
    max_steps : int
        Steps until `min_lr`, at least 1.
    min_lr : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """

    _option_names = ("max_steps", "min_lr")
    max_steps = _option("max_steps", "As in the constructor.")
    min_lr = _option("min_lr", "As in the constructor.")

    def __init__(self, optimizer: Any, max_steps: int, min_lr: float = 0.0) -> None:
        self._max_steps = checked_index(max_steps, "max_steps", 1)
        self._min_lr = checked_not_negative(min_lr, "min_lr")
        super().__init__(optimizer)

    def _lr_at(self, t: int) -> float:
        return _cosine(self._base_lr, self._min_lr, min(t / self._max_steps, 1.0))


class LinearWarmup(_Schedule):
    """``lr = base * (start + (end - start) * t / max_steps)``, then ``base * end`` (``LinearLR``).

    Parameters
    ----------
    optimizer : optimizer of fastlstm.optim
        Whose `lr` is set.
    max_steps : int
        Steps until the end, at least 1.
    start, end : float
        Factors of the base: `start` above 0 and at most 1, `end` from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """

    _option_names = ("max_steps", "start", "end")
    max_steps = _option("max_steps", "As in the constructor.")
    start = _option("start", "As in the constructor.")
    end = _option("end", "As in the constructor.")

    def __init__(self, optimizer: Any, max_steps: int, start: float = 1 / 3, end: float = 1.0) -> None:
        self._max_steps = checked_index(max_steps, "max_steps", 1)
        self._start = _part(start, "start")
        self._end = checked_number(end, "end", "a number from 0 to 1", lambda v: 0 <= v <= 1)
        super().__init__(optimizer)

    def _lr_at(self, t: int) -> float:
        done = min(t, self._max_steps) / self._max_steps
        return float(self._base_lr * (self._start + (self._end - self._start) * done))


class OneCycle(_Schedule):
    """Up to `max_lr`, and down to almost nothing (``OneCycleLR``).

    Smith & Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    2018: from ``max_lr / div_factor`` up in the first part of all steps, and down to
    ``max_lr / div_factor / final_div_factor`` in the rest.  The `lr` that the optimizer had has no part in
    it.

    Parameters
    ----------
    optimizer : optimizer of fastlstm.optim
        Whose `lr` is set.
    max_lr : float
        The highest learning rate.
    max_steps : int
        All steps of the optimizer, at least 2.  A step of the schedule too many is an error.
    pct_start : float
        The part of them that goes up, from 0 to 1.
    anneal : {"cos", "linear"}
        By half a cosine, or a line.
    div_factor, final_div_factor : float
        As above, above 0.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """

    _option_names = ("max_lr", "max_steps", "pct_start", "anneal", "div_factor", "final_div_factor")
    max_lr = _option("max_lr", "As in the constructor.")
    max_steps = _option("max_steps", "As in the constructor.")
    pct_start = _option("pct_start", "As in the constructor.")
    anneal = _option("anneal", "As in the constructor.")
    div_factor = _option("div_factor", "As in the constructor.")
    final_div_factor = _option("final_div_factor", "As in the constructor.")

    def __init__(
        self,
        optimizer: Any,
        max_lr: float,
        max_steps: int,
        *,
        pct_start: float = 0.3,
        anneal: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        self._max_lr = checked_not_negative(max_lr, "max_lr")
        self._max_steps = checked_index(max_steps, "max_steps", 2)
        self._pct_start = checked_number(
            pct_start, "pct_start", "a number from 0 to 1", lambda v: 0 <= v <= 1
        )
        self._anneal = checked_choice(anneal, "anneal", ("cos", "linear"))
        self._div_factor = _factor(div_factor, "div_factor")
        self._final_div_factor = _factor(final_div_factor, "final_div_factor")
        super().__init__(optimizer)

    def _lr_at(self, t: int) -> float:
        if t >= self._max_steps:
            raise ValueError(
                f"step: expected at most max_steps - 1 = {self._max_steps - 1} of them, got another"
            )
        first, top = self._max_lr / self._div_factor, self._pct_start * self._max_steps - 1
        between = _cosine if self._anneal == "cos" else _line
        if t <= top:
            return between(first, self._max_lr, t / top if top else 1.0)
        last = first / self._final_div_factor
        return between(self._max_lr, last, (t - top) / (self._max_steps - 1 - top))


def _cosine(begin: float, end: float, done: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * done)) / 2


def _line(begin: float, end: float, done: float) -> float:
    return begin + (end - begin) * done


# ---- By what came out ------------------------------------------------------------------------------------


class ReduceOnPlateau(_Schedule):
    """``lr = max(factor * lr, min_lr)`` where nothing has become better (``ReduceLROnPlateau``).

    Parameters
    ----------
    optimizer : optimizer of fastlstm.optim
        Whose `lr` is set.
    mode : {"min", "max"}
        Whether less is better, or more.
    factor : float
        Above 0 and below 1.
    patience : int
        Steps without getting better that are borne; with the next one the rate falls.
    threshold : float
        By which part of itself a measure must be better, or by how much if not `is_relative`.
    is_relative : bool
        What `threshold` means.
    cooldown : int
        Steps after a fall that do not count.
    min_lr : float
        The least learning rate.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """

    _option_names = ("mode", "factor", "patience", "threshold", "is_relative", "cooldown", "min_lr")
    _kept_names = ("num_steps", "best", "num_bad", "num_cooling", "lr")
    mode = _option("mode", "As in the constructor.")
    factor = _option("factor", "As in the constructor.")
    patience = _option("patience", "As in the constructor.")
    threshold = _option("threshold", "As in the constructor.")
    is_relative = _option("is_relative", "As in the constructor.")
    cooldown = _option("cooldown", "As in the constructor.")
    min_lr = _option("min_lr", "As in the constructor.")
    best = _option("best", "The best measure so far; infinite before the first.")
    num_bad = _option("num_bad", "Steps since it became better, or since the rate fell.")
    num_cooling = _option("num_cooling", "Steps that still do not count.")

    def __init__(
        self,
        optimizer: Any,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        *,
        threshold: float = 1e-4,
        is_relative: bool = True,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self._mode = checked_choice(mode, "mode", ("min", "max"))
        self._factor = checked_number(factor, "factor", "a number above 0 and below 1", lambda v: 0 < v < 1)
        self._patience = checked_index(patience, "patience", 0)
        self._threshold = checked_not_negative(threshold, "threshold")
        self._is_relative = checked_flag(is_relative, "is_relative")
        self._cooldown = checked_index(cooldown, "cooldown", 0)
        self._min_lr = checked_not_negative(min_lr, "min_lr")
        self._best = math.inf if mode == "min" else -math.inf
        self._num_bad = self._num_cooling = 0
        super().__init__(optimizer)

    def step(self, measure: float) -> float:  # type: ignore[override]
        """Look at a measure, and let the learning rate of the optimizer fall if it is time.

        Parameters
        ----------
        measure : float
            Of this epoch, as the loss of validation; NaN is no better than any.

        Returns
        -------
        float
            The learning rate from now on.
        """
        value = checked_number(measure, "measure", "a number", lambda _: True)
        is_better = self._is_better(value)
        cooling = max(self._num_cooling - 1, 0)
        bad = 0 if is_better or self._num_cooling > 0 else self._num_bad + 1
        lr = self.lr
        if bad > self._patience:
            fallen = max(self._factor * lr, self._min_lr)
            # As torch does: a fall too small to matter is none.
            lr = fallen if lr - fallen > 1e-8 else lr
            bad, cooling = 0, self._cooldown
        self._optimizer.lr = lr
        self._best = value if is_better else self._best
        self._num_bad, self._num_cooling = bad, cooling
        self._num_steps += 1
        return lr

    def _is_better(self, value: float) -> bool:
        sign = 1 if self._mode == "min" else -1
        if not self._is_relative:
            return sign * value < sign * self._best - self._threshold
        if math.isinf(self._best):
            return sign * value < sign * self._best
        return sign * value < sign * self._best * (1 - sign * self._threshold)

    def _lr_at(self, t: int) -> float:
        return float(self._optimizer.lr)

    def _load_kept(self, state: Mapping[str, Any]) -> None:
        super()._load_kept(state)
        self._best = checked_number(state["best"], "best", "a number", lambda v: not math.isnan(v))
        self._num_bad = checked_index(state["num_bad"], "num_bad", 0)
        self._num_cooling = checked_index(state["num_cooling"], "num_cooling", 0)
        self._optimizer.lr = checked_not_negative(state["lr"], "lr")
