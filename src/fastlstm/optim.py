# SPDX-License-Identifier: BSD-3-Clause
"""Optimizers: from the gradients of layers to new parameters.

A step reads ``layer.flat_grads``, checks all of it, and puts new parameters in force; moments are kept in the
layer's dtype, laid out as ``layer.flat_params``.  Formulas are those of ``torch.optim``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _core
from .model.checks import checked_flag, checked_not_negative, checked_number, checked_reals
from .model.guards import Guarded
from .model.parameters import Parameters, ParameterSet, ready_for
from .model.pickling import in_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SGD", "Adam", "AdamW", "clip_grad_norm"]

NONFINITE = ("raise", "skip", "ignore")


# ---- What all optimizers share ---------------------------------------------------------------------------


class _Optimizer(Guarded):
    """Layers, the buffers kept for each, and the step, which checks all layers before it changes any."""

    # Names of the buffers of each layer, and of what `state_dict` holds beside them.
    _buffer_names: tuple[str, ...] = ()
    _option_names: ClassVar[tuple[str, ...]] = ()
    _has_notes = False
    _ways: ClassVar[dict[str, str]] = (
        dict.fromkeys(("learning_rate", "param_groups", "base_lr"), "to be set as lr")
        | dict.fromkeys(("beta1", "beta2"), "to be set as betas, a pair")
        | dict.fromkeys(("momentum", "nesterov"), "to be set on SGD")
        | dict.fromkeys(("betas", "eps"), "to be set on Adam or AdamW")
        | dict.fromkeys(("layers", "params", "parameters"), "to be given to the constructor")
        | dict.fromkeys(("num_steps", "state", "m", "v"), "to be changed by load_state_dict")
    )

    def __init__(
        self, layers: Parameters | Iterable[Parameters], lr: float, weight_decay: float, nonfinite: str
    ) -> None:
        self._layers = _checked_layers(layers)
        self.lr = lr
        self.weight_decay = weight_decay
        self.nonfinite = nonfinite
        self._num_steps = 0
        self._buffers = [
            {name: _zeros_like(layer.flat_params) for name in self._buffer_names} for layer in self._layers
        ]

    @property
    def layers(self) -> tuple[Parameters, ...]:
        """The layers that are trained."""
        return self._layers

    @property
    def lr(self) -> float:
        """Learning rate; can be set."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = checked_not_negative(value, "lr")

    @property
    def weight_decay(self) -> float:
        """As in the constructor; can be set, for the steps that follow."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = checked_not_negative(value, "weight_decay")

    @property
    def nonfinite(self) -> str:
        """As in the constructor; can be set, for the steps that follow."""
        return self._nonfinite

    @nonfinite.setter
    def nonfinite(self, value: str) -> None:
        if not isinstance(value, str) or value not in NONFINITE:
            raise ValueError(f"nonfinite: expected one of {', '.join(NONFINITE)}, got {value!r}")
        self._nonfinite = value

    @property
    def num_steps(self) -> int:
        """Steps that changed the parameters."""
        return self._num_steps

    def zero_grad(self) -> None:
        """Set the gradients of all layers to zero."""
        for layer in self._layers:
            layer.zero_grad()

    def step(self) -> bool:
        """Change the parameters of all layers by their gradients.

        Returns
        -------
        bool
            Whether it did: False where a gradient was not finite and is to be skipped.

        Raises
        ------
        FloatingPointError
            A gradient is not finite, and this is to raise; the message names layer and parameter.  Nothing
            has changed.
        """
        layers, num_steps = self._layers, self._num_steps + 1
        before = [layer._parameter_set() for layer in layers]
        # Where some words alone have gradients, others stay as they are: without moments, and without decay.
        is_local = not self._buffer_names and not self._weight_decay
        tables = [_core.local_words(*pair) if is_local else None for pair in zip(layers, before, strict=True)]
        after = self._room(before)
        bad = _core.optimiser_step(
            [*ready_for(zip(layers, after, strict=True)), (self, "_num_steps", num_steps)],
            before,
            after,
            [
                layer.flat_grads if words is None else layer.__dict__["_flat_grads"]
                for layer, words in zip(layers, tables, strict=True)
            ],
            [tuple(buffers.values()) for buffers in self._buffers],
            tables,
            self._step_options(),
            num_steps,
            self._nonfinite != "ignore",
        )
        if bad >= 0:
            self._spares = after
            if self._nonfinite == "skip":
                return False
            raise FloatingPointError(self._where_not_finite(bad))
        with contextlib.suppress(MemoryError):  # the step is done; this makes the next ones faster
            self._hand_on(before, after)
        return True

    def _hand_on(self, before: list[ParameterSet], after: list[ParameterSet]) -> None:
        """Let those that are now in force, and the next ones, have the memory of those before."""
        for n, new in enumerate(after):
            new.is_stepped = True
            products = before[n].products
            if products is not None and _core.is_unshared(before, n):
                products.renew()  # what was packed is packed anew in its place
                new.products, before[n].products = products, None
        self._spares = before

    def _room(self, before: list[ParameterSet]) -> list[ParameterSet]:
        """Sets for new parameters, in the memory of those in force before these where nobody has them."""
        spares = self.__dict__.pop("_spares", None)  # nobody else gets them
        after = []
        for n, now in enumerate(before):
            if (
                spares is not None
                and spares[n].flat.size == now.flat.size
                and spares[n].flat.dtype == now.flat.dtype
                and _core.is_unshared(spares, n)
            ):
                flat = spares[n].flat
            else:
                flat = _core.flat_array(now.flat.size, now.flat.dtype, False)
            after.append(ParameterSet(now.layout, flat))
        return after

    def _step_options(self) -> dict[str, Any]:
        """Options of a step, as `_core.optimiser_step` takes them."""
        return {name: getattr(self, name) for name in ("lr", "weight_decay", *self._option_names)}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a step depends on, beside parameters and gradients.

        Returns
        -------
        dict
            ``num_steps``, ``lr`` and the other options, and ``layers``: for each layer its moments, a dict of
            arrays laid out as ``layer.flat_params``.
        """
        options = _Optimizer._step_options(self)
        buffers = [{name: _core.own_array(flat) for name, flat in kept.items()} for kept in self._buffers]
        return {"num_steps": self._num_steps, **options, "layers": buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        All of it is checked before anything changes.

        Parameters
        ----------
        state : mapping
            Of an optimizer of the same kind for layers of the same sizes.  Options that another version did
            not have take their defaults; what is unknown is refused.

        Raises
        ------
        TypeError, ValueError
            `state` does not fit; the message names what does not.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a mapping, got {type(state).__name__}")
        options = ("lr", "weight_decay", *self._option_names)
        expected = {"num_steps", "layers", *options}
        if not {"num_steps", "layers", "lr"} <= set(state) <= expected:
            raise ValueError(f"state: expected the names {sorted(expected)}, got {sorted(state)}")
        num_steps = state["num_steps"]
        if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)) or num_steps < 0:
            raise ValueError(f"num_steps: expected an integer of at least 0, got {num_steps!r}")
        # The constructor checks the options.
        checked = type(self)(
            self._layers,
            nonfinite=self._nonfinite,
            **{name: state[name] for name in options if name in state},
        )
        if not isinstance(state["layers"], (list, tuple)) or len(state["layers"]) != len(self._layers):
            raise ValueError(f"layers: expected a list of {len(self._layers)}, got {state['layers']!r:.80}")
        for index, (buffers, kept) in enumerate(zip(checked._buffers, state["layers"], strict=True)):
            if not isinstance(kept, Mapping) or set(kept) != set(buffers):
                raise ValueError(
                    f"layers[{index}]: expected a mapping of the names {list(buffers)}, got {kept!r:.80}"
                )
            for name, flat in buffers.items():
                value = checked_reals(kept[name], f"layers[{index}][{name!r}]", flat.dtype)
                if value.shape != flat.shape:
                    raise ValueError(
                        f"layers[{index}][{name!r}]: expected shape {flat.shape}, got {value.shape}"
                    )
                flat[...] = value
        checked._num_steps = int(num_steps)
        self.__dict__.update(checked.__dict__)

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.state_dict()
        state["layers"] = [{name: in_pieces(flat) for name, flat in kept.items()} for kept in state["layers"]]
        return _restored, (type(self), self._layers, self._nonfinite, state)

    def _where_not_finite(self, index: int) -> str:
        layer = self._layers[index]
        for name, grad in layer.grads.items():
            is_bad = ~np.isfinite(grad)
            if is_bad.any():
                place = tuple(np.argwhere(is_bad)[0].tolist())
                return (
                    f"layers[{index}] ({type(layer).__name__}): expected finite gradients, "
                    f"got {grad[place]} in grads[{name!r}]{list(place)}"
                )
        return f"layers[{index}] ({type(layer).__name__}): gradients changed while they were being read"

    def __repr__(self) -> str:
        names = ("lr", *self._option_names, "weight_decay", "nonfinite")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({len(self._layers)} layers, {options})"


def _restored(
    cls: type[_Optimizer], layers: tuple[Parameters, ...], nonfinite: str, state: Mapping[str, Any]
) -> _Optimizer:
    """Make an optimizer from what `__reduce__` gave, with all checks."""
    optimizer = cls(layers, lr=0.0, nonfinite=nonfinite)  # type: ignore[call-arg]
    optimizer.load_state_dict(state)
    return optimizer


# ---- Optimizers ------------------------------------------------------------------------------------------


class SGD(_Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    With p a parameter, d its gradient and b its moment, which starts at zero (``torch.optim.SGD``, with the
    momentum of Polyak 1964 and that of Nesterov as Sutskever et al. 2013 write it)::

        d = d + weight_decay * p
        b = momentum * b + d
        p = p - lr * (d + momentum * b if nesterov else b)

    Parameters
    ----------
    layers : layer, or iterable of layers
        Whose parameters are trained.
    lr : float
        Learning rate, at least 0.
    momentum : float
        At least 0; 0 keeps no moments.
    nesterov : bool
        Whether to look ahead; needs `momentum`.
    weight_decay : float
        At least 0.
    nonfinite : {"raise", "skip", "ignore"}
        What a step does where a gradient is not finite: raise FloatingPointError, leave everything as it is
        and return False, or go on with it.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """

    _option_names = ("momentum", "nesterov")

    def __init__(
        self,
        layers: Parameters | Iterable[Parameters],
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        nonfinite: str = "raise",
    ) -> None:
        self._momentum, self._nesterov = self._checked_momentum(momentum, nesterov)
        super().__init__(layers, lr, weight_decay, nonfinite)

    @staticmethod
    def _checked_momentum(momentum: object, nesterov: object) -> tuple[float, bool]:
        checked = checked_not_negative(momentum, "momentum"), checked_flag(nesterov, "nesterov")
        if checked[1] and not checked[0]:
            raise ValueError("nesterov: expected a momentum above 0 with it, got 0")
        return checked

    @property
    def _buffer_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum",) if self._momentum else ()

    @property
    def momentum(self) -> float:
        """As in the constructor; can be set, for the steps that follow.

        From 0 on moments start at zero; at 0 they are dropped.
        """
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        checked, _ = self._checked_momentum(value, self._nesterov)
        if bool(checked) == bool(self._momentum):
            self._momentum = checked
            return
        moments = [{"momentum": _zeros_like(layer.flat_params)} if checked else {} for layer in self._layers]
        _core.assign_all([(self, "_momentum", checked), (self, "_buffers", moments)])

    @property
    def nesterov(self) -> bool:
        """As in the constructor; can be set, for the steps that follow."""
        return self._nesterov

    @nesterov.setter
    def nesterov(self, value: bool) -> None:
        _, self._nesterov = self._checked_momentum(self._momentum, value)


class Adam(_Optimizer):
    """Adam (Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015).

    With p a parameter, d its gradient, m and v its moments, which start at zero, and t the number of the
    step from 1 (``torch.optim.Adam``)::

        d = d + weight_decay * p
        m = beta1 * m + (1 - beta1) * d
        v = beta2 * v + (1 - beta2) * d**2
        p = p - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    layers : layer, or iterable of layers
        Whose parameters are trained.
    lr : float
        Learning rate, at least 0.
    betas : pair of float
        ``(beta1, beta2)``, each from 0 to below 1.
    eps : float
        At least 0.
    weight_decay : float
        At least 0.
    nonfinite : {"raise", "skip", "ignore"}
        What a step does where a gradient is not finite: raise FloatingPointError, leave everything as it is
        and return False, or go on with it.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """

    _buffer_names = ("m", "v")
    _option_names = ("betas", "eps")
    _is_decoupled: ClassVar[bool] = False

    def __init__(
        self,
        layers: Parameters | Iterable[Parameters],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        nonfinite: str = "raise",
    ) -> None:
        self.betas = betas
        self.eps = eps
        super().__init__(layers, lr, weight_decay, nonfinite)

    @property
    def betas(self) -> tuple[float, float]:
        """As in the constructor; can be set, for the steps that follow."""
        return self._betas

    @betas.setter
    def betas(self, value: tuple[float, float]) -> None:
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"betas: expected a pair of numbers, got {type(value).__name__}")
        if len(value) != 2:
            raise ValueError(f"betas: expected a pair of numbers, got {len(value)} items")
        beta1, beta2 = (
            checked_number(beta, f"betas[{index}]", "a number from 0 to below 1", lambda b: 0 <= b < 1)
            for index, beta in enumerate(value)
        )
        self._betas = beta1, beta2

    @property
    def eps(self) -> float:
        """As in the constructor; can be set, for the steps that follow."""
        return self._eps

    @eps.setter
    def eps(self, value: float) -> None:
        self._eps = checked_not_negative(value, "eps")

    def _step_options(self) -> dict[str, Any]:
        return super()._step_options() | {"decoupled": self._is_decoupled}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019).

    As `Adam`, but with ``p = p - lr * weight_decay * p`` before the rest of the step, instead of
    ``d = d + weight_decay * p`` (``torch.optim.AdamW``).

    Parameters
    ----------
    layers, lr, betas, eps, nonfinite
        As for `Adam`.
    weight_decay : float
        At least 0.
    """

    _is_decoupled = True

    def __init__(
        self,
        layers: Parameters | Iterable[Parameters],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        nonfinite: str = "raise",
    ) -> None:
        super().__init__(layers, lr, betas=betas, eps=eps, weight_decay=weight_decay, nonfinite=nonfinite)


# ---- Gradients -------------------------------------------------------------------------------------------


def clip_grad_norm(layers: Parameters | Iterable[Parameters], max_norm: float) -> float:
    """Scale the gradients of all layers so that their norm together is at most `max_norm`.

    Parameters
    ----------
    layers : layer, or iterable of layers
        Whose gradients are meant.
    max_norm : float
        At least 0; inf only measures.

    Returns
    -------
    float
        The Euclidean norm of all gradients before, summed in float64.  If it is not finite, because a
        gradient is not, the gradients stay as they are.

    Notes
    -----
    Elements are rounded towards zero, so that the norm afterwards, in float64, is never above `max_norm`; it
    is below by a few units of the last place of float32 at most, unless elements fall below its smallest
    number.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; the message names it, what was expected and what came.
    """
    checked = _checked_layers(layers)
    limit = checked_number(max_norm, "max_norm", "a number of at least 0", lambda value: value >= 0)
    return _core.clip_gradients([layer.flat_grads for layer in checked], limit)


def _zeros_like(flat: NDArray[Any]) -> NDArray[Any]:
    """Moments of a flat buffer, at first."""
    return _core.flat_array(flat.size, flat.dtype, True)


# ---- Checks ----------------------------------------------------------------------------------------------


def _checked_layers(layers: object) -> tuple[Parameters, ...]:
    """One or more layers, all different, as a tuple."""
    if isinstance(layers, Parameters):
        layers = (layers,)
    if not isinstance(layers, Iterable) or isinstance(layers, (str, bytes, Mapping, np.ndarray)):
        raise TypeError(f"layers: expected a layer or several, got {_named(layers)}")
    is_iterator = isinstance(layers, Iterator)
    checked = tuple(layers)
    if not checked:
        got = f"{type(layers).__name__}, which is exhausted" if is_iterator else "none"
        raise ValueError(f"layers: expected at least one layer, got {got}")
    for index, layer in enumerate(checked):
        if not isinstance(layer, Parameters):
            raise TypeError(f"layers[{index}]: expected a layer, got {_named(layer)}")
        if not hasattr(layer, "forward"):
            raise TypeError(
                f"layers[{index}]: expected a layer that can be trained, got {type(layer).__name__}, "
                "which has no backward pass"
            )
        if any(layer is other for other in checked[:index]):
            raise ValueError(f"layers[{index}]: expected each layer once, got one a second time")
        tied = getattr(layer, "tied", None)
        if tied is not None and not any(tied is other for other in checked):
            raise ValueError(
                f"layers[{index}]: expected the Embedding that it is tied to as well, which has its weight, "
                f"got {type(layer).__name__} alone"
            )
    return checked


def _named(value: object) -> str:
    """What a value is, for who takes it for a layer."""
    kind = type(value)
    if isinstance(value, type):
        return f"the class {value.__name__}: make a layer of it"
    if kind.__name__ == "Stream":
        return "Stream, which is not trained: give its layer"
    if isinstance(value, (Mapping, np.ndarray)):
        return f"{kind.__name__}: give the layer, not its parameters"
    is_foreign = kind.__module__.partition(".")[0] not in ("builtins", "fastlstm")
    return f"{kind.__module__}.{kind.__name__}" if is_foreign else kind.__name__
