# SPDX-License-Identifier: BSD-3-Clause
"""Modules with the names, arguments and parameters of torch's, and further options of fastlstm's layers."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils.rnn import PackedSequence

from ..layers.packed import blank
from .calling import checked_model, kind_of, obstacle, run_cell, run_layer, tell
from .operators import forget

__all__ = [
    "GRU",
    "LSTM",
    "MGU",
    "RNN",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "RNNCell",
    "freeze",
    "unfreeze",
]

Tensor = torch.Tensor

# Options that torch's own layers know, beside sizes; others have no twin there.
_OF_TORCH = {
    "LSTM": {"bias", "batch_first", "dropout", "bidirectional", "proj_size"},
    "GRU": {"bias", "batch_first", "dropout", "bidirectional"},
    "RNN": {"bias", "batch_first", "dropout", "bidirectional", "nonlinearity"},
}
# What only a layer of NumPy has.
_NOT_HERE = {"dtype", "num_threads", "rng", "init", "forget_bias"}


@functools.lru_cache(maxsize=256)
def _twin(name: str, text: str) -> torch.nn.Module:
    """Torch's own module, whose parameters are given to it at each call."""
    made: torch.nn.Module = getattr(torch.nn, name)(**json.loads(text), device="meta")
    return made


class _Module(torch.nn.Module):
    """Parameters by torch's names, and the configuration of the kernels."""

    _kind_name: str
    _is_frozen: bool

    def _set_up(self, options: dict[str, Any], ends: bool, device: Any, dtype: Any) -> None:
        """Make parameters; with `ends`, their names say layer and direction."""
        for name in options:
            if name in _NOT_HERE:
                raise TypeError(f"{name}: expected an option of a module, got one of NumPy's layers")
        packed = blank({"kind": self._kind_name} | options)
        self._options = {
            name: value
            for name, value in packed.config.items()
            if name not in ("dtype", "num_threads", "kind")
        }
        if len(packed._packed) != 1 or not packed._direct[3]:
            raise ValueError(
                f"{type(self).__name__}: expected layers of one size, without reverse, merge, residual and "
                "input_dropout, got others"
            )
        # Operators have time first.
        self._kind = kind_of({"kind": self._kind_name} | self._options | {"batch_first": False})
        self._is_frozen = False
        layout = packed._layout
        self._names = [name if ends else name.removesuffix("_l0") for name in layout.shapes()]
        for name, shape in zip(self._names, layout.shapes().values(), strict=True):
            self.register_parameter(name, Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("_options")
        if options is not None and name in options:
            return options[name]
        return super().__getattr__(name)

    def reset_parameters(self) -> None:
        """Draw parameters from U(-1/sqrt(H), 1/sqrt(H)), as torch; gains of norms are 1, their biases 0."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name in self._names:
            parameter = getattr(self, name)
            if name.startswith("weight_ln"):
                torch.nn.init.ones_(parameter)
            elif name.startswith("bias_ln"):
                torch.nn.init.zeros_(parameter)
            else:
                torch.nn.init.uniform_(parameter, -bound, bound)

    def flatten_parameters(self) -> None:
        """Do nothing: for code that calls it on torch's layers."""

    def _weights(self) -> list[Tensor]:
        # As they lie, which is faster by much; of a parametrised weight there is the attribute alone.
        found, names = self._parameters, self.__dict__["_names"]
        weights = [found.get(name) for name in names]
        if None in [None if weight is None else 0 for weight in weights]:
            return [getattr(self, name) for name in names]
        return weights  # type: ignore[return-value]

    def _fall_back(self, reason: str, arguments: tuple[Any, ...], extras: dict[str, Any]) -> Any:
        """Run torch's own layer, of what it can compute."""
        name = type(self).__name__ if self._kind_name not in _OF_TORCH else self._twin_name
        known = _OF_TORCH.get(self._kind_name, set()) | {"input_size", "hidden_size", "num_layers"}
        defaults = self._options_by_default()
        others = [
            key for key, value in self._options.items() if key not in known and value != defaults.get(key)
        ]
        given = [key for key, value in extras.items() if value is not None]
        if self._kind_name not in _OF_TORCH or others or given:
            raise TypeError(
                f"{type(self).__name__}: expected float32 or float64 on the CPU without autocast, as "
                f"torch has no such layer ({', '.join([*others, *given]) or self._kind_name}), but {reason}"
            )
        tell(type(self).__name__, reason)
        options = {key: value for key, value in self._options.items() if key in known}
        if self._twin_name.endswith("Cell"):
            options = {
                key: options[key]
                for key in ("input_size", "hidden_size", "bias", "nonlinearity")
                if key in options
            }
        twin = _twin(name, json.dumps(options))
        twin.train(self.training)
        parameters = dict(zip(self._names, self._weights(), strict=True))
        return torch.func.functional_call(twin, parameters, arguments)

    @property
    def _twin_name(self) -> str:
        return self._kind_name

    def _options_by_default(self) -> dict[str, Any]:
        cls = blank({"kind": self._kind_name, "input_size": 1, "hidden_size": 1})._made_of.cls
        return {name: option.default for name, option in cls._options.items()}

    def extra_repr(self) -> str:
        """Options that are not their defaults, sizes first."""
        defaults = self._options_by_default()
        sizes = [str(self._options["input_size"]), str(self._options["hidden_size"])]
        others = [
            f"{name}={value!r}"
            for name, value in self._options.items()
            if name not in ("input_size", "hidden_size") and value != defaults.get(name)
        ]
        return ", ".join(sizes + others)


class _Layer(_Module):
    """A stack of layers; see the classes."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        given = {
            "input_size": input_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "bias": bias,
            "batch_first": batch_first,
            "dropout": dropout,
            "bidirectional": bidirectional,
        }
        self._set_up(given | options, True, device, dtype)

    def forward(
        self, input: Any, hx: Any = None, *, lengths: Any = None, reset: Any = None
    ) -> tuple[Any, Any]:
        """Run the layer.

        Parameters
        ----------
        input : Tensor, (T, B, I), (B, T, I) if `batch_first`, or (T, I); or PackedSequence
        hx : Tensor or tuple of Tensor, optional
            First states, as torch's layers take them.
        lengths : Tensor of int, (B,), optional
            Steps of each row; y is zero behind them.
        reset : Tensor, shaped as `input` without features, optional
            Where it is not 0, no state passes between this step and the one before.

        Returns
        -------
        tuple
            y and the final states, as torch's layers return them.
        """
        weights = self._weights()
        reason = obstacle(input.data if isinstance(input, PackedSequence) else input, weights)
        if reason:
            return self._fall_back(reason, (input, hx), {"lengths": lengths, "reset": reset})  # type: ignore[no-any-return]
        return run_layer(
            self._kind,
            weights,
            input,
            hx,
            self._options["batch_first"],
            lengths,
            reset,
            self.training,
            self._is_frozen,
        )


class LSTM(_Layer):
    """``torch.nn.LSTM`` in fastlstm's kernels; further options are those of `fastlstm.LSTM`, as ``peephole``.

    Examples
    --------
    >>> import torch
    >>> from fastlstm.torch import LSTM
    >>> lstm = LSTM(3, 5, num_layers=2)
    >>> y, (h_n, c_n) = lstm(torch.zeros(4, 2, 3))
    >>> y.shape
    torch.Size([4, 2, 5])
    """

    _kind_name = "LSTM"


class GRU(_Layer):
    """``torch.nn.GRU`` in fastlstm's kernels; further options are those of `fastlstm.GRU`."""

    _kind_name = "GRU"


class RNN(_Layer):
    """``torch.nn.RNN`` in fastlstm's kernels; further options are those of `fastlstm.RNN`."""

    _kind_name = "RNN"


class IndRNN(_Layer):
    """`fastlstm.IndRNN` as a module."""

    _kind_name = "IndRNN"


class MGU(_Layer):
    """`fastlstm.MGU` as a module."""

    _kind_name = "MGU"


class MinGRU(_Layer):
    """`fastlstm.MinGRU` as a module."""

    _kind_name = "MinGRU"


class MinLSTM(_Layer):
    """`fastlstm.MinLSTM` as a module."""

    _kind_name = "MinLSTM"


class _Cell(_Module):
    """One step; see the classes."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        given = {"input_size": input_size, "hidden_size": hidden_size, "bias": bias}
        self._set_up(given | options, False, device, dtype)

    @property
    def _twin_name(self) -> str:
        return self._kind_name + "Cell"

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Run one step: (B, I) or (I,), and the state, as torch's cells take and return them."""
        weights = self._weights()
        reason = obstacle(input, weights)
        if reason:
            return self._fall_back(reason, (input, hx), {})
        return run_cell(self._kind, weights, input, hx, self._is_frozen)


class LSTMCell(_Cell):
    """``torch.nn.LSTMCell`` in fastlstm's kernels."""

    _kind_name = "LSTM"


class GRUCell(_Cell):
    """``torch.nn.GRUCell`` in fastlstm's kernels."""

    _kind_name = "GRU"


class RNNCell(_Cell):
    """``torch.nn.RNNCell`` in fastlstm's kernels."""

    _kind_name = "RNN"


# ---- Weights that stay as they are -------------------------------------------------------------------------


def freeze(model: torch.nn.Module) -> torch.nn.Module:
    """Say that the weights of all fastlstm modules in a model no longer change, so that calls do not look.

    A weight that does change in its place after the next call has no effect, until `unfreeze`.

    Parameters
    ----------
    model : Module
        Changed in place: its modules of `fastlstm.torch`, and those that `accelerate` has changed.

    Returns
    -------
    Module
        `model`.

    Raises
    ------
    TypeError
        `model` is no module.
    """
    return _set_frozen(model, True)


def unfreeze(model: torch.nn.Module) -> torch.nn.Module:
    """Take `freeze` back.

    Parameters
    ----------
    model : Module
        Changed in place.

    Returns
    -------
    Module
        `model`.
    """
    return _set_frozen(model, False)


def _set_frozen(model: torch.nn.Module, value: bool) -> torch.nn.Module:
    for module in checked_model(model).modules():
        if "_is_frozen" in module.__dict__ or isinstance(module, _Module):
            module._is_frozen = value  # type: ignore[assignment]
            for weight in module.parameters(recurse=False):
                forget(weight)  # what was packed may be older than the weights
    return model
