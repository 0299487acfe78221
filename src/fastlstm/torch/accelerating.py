# SPDX-License-Identifier: BSD-3-Clause
"""Models that are there: their recurrent modules run in fastlstm's kernels, in place, and back.

A module keeps its identity, parameters, hooks and state: its class alone becomes a subclass of the one it
has, with another ``forward``.  Classes that bring a ``forward`` of their own are left alone.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from .calling import Kind, checked_model, kind_of, obstacle, run_cell, run_layer, tell

__all__ = ["Report", "accelerate", "restore"]

_LAYERS: dict[type[Any], str] = {torch.nn.LSTM: "LSTM", torch.nn.GRU: "GRU", torch.nn.RNN: "RNN"}
_CELLS: dict[type[Any], str] = {
    torch.nn.LSTMCell: "LSTM",
    torch.nn.GRUCell: "GRU",
    torch.nn.RNNCell: "RNN",
}


class Report:
    """What `accelerate` did.

    Attributes
    ----------
    model : Module
        The model.
    changed : dict of str to str
        Names of modules that run in the kernels now, and their class; the model itself is ``""``.
    left : dict of str to str
        Names of recurrent modules that were left as they are, and why.
    """

    def __init__(self, model: torch.nn.Module, changed: dict[str, str], left: dict[str, str]) -> None:
        self.model, self.changed, self.left = model, changed, left

    def __repr__(self) -> str:
        lines = [f"{len(self.changed)} changed, {len(self.left)} left"]
        lines += [f"  {name or '(the model)'}: {cls}" for name, cls in self.changed.items()]
        lines += [f"  {name or '(the model)'}: left, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def accelerate(model: torch.nn.Module) -> Report:
    """Let the recurrent modules of a model run in fastlstm's kernels.

    Those are ``torch.nn.LSTM``, ``GRU``, ``RNN`` and their cells, and subclasses that keep their ``forward``.
    They stay the objects they are: parameters, optimisers, hooks, names and ``isinstance`` are as before.
    What the kernels do not take (other devices and dtypes, autocast) runs in torch's own code, with a
    warning.  ``torch.compile(fullgraph=True)`` refuses torch's own classes, and so these; the modules of
    `fastlstm.torch` compile.

    Parameters
    ----------
    model : Module
        Changed in place.

    Returns
    -------
    Report
        What was changed, and what was left and why.

    Raises
    ------
    TypeError
        `model` is no module.

    Examples
    --------
    >>> import torch
    >>> import fastlstm.torch
    >>> model = torch.nn.Sequential(torch.nn.LSTM(3, 5))
    >>> fastlstm.torch.accelerate(model)
    1 changed, 0 left
      0: LSTM
    """
    changed, left = {}, {}
    for name, module in checked_model(model).named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            if getattr(module, "original_name", "") in (
                "LSTM",
                "GRU",
                "RNN",
                "LSTMCell",
                "GRUCell",
                "RNNCell",
            ):
                left[name] = "as it is TorchScript, which has its code inside: load its weights into a module"
            continue
        base = _base_of(module)
        if base is None or isinstance(module, _Accelerated):
            continue
        reason = _reason_to_leave(module, base)
        if reason:
            left[name] = reason
            continue
        before = type(module)
        module.__class__ = _accelerated_class(before)  # type: ignore[arg-type]
        module._is_frozen = False  # type: ignore[assignment]
        changed[name] = before.__name__
    return Report(model, changed, left)


def restore(model: torch.nn.Module) -> Report:
    """Take `accelerate` back, as for TorchScript, quantization and export to ONNX.

    Parameters
    ----------
    model : Module
        Changed in place.

    Returns
    -------
    Report
        What was changed.
    """
    changed = {}
    for name, module in checked_model(model).named_modules():
        if isinstance(module, _Accelerated):
            module.__class__ = type(module)._before  # type: ignore[assignment]
            module.__dict__.pop("_is_frozen", None)
            changed[name] = type(module).__name__
    return Report(model, changed, {})


def _base_of(module: torch.nn.Module) -> type[Any] | None:
    """The class of torch that a module is of."""
    return next((cls for cls in (*_LAYERS, *_CELLS) if isinstance(module, cls)), None)


def _reason_to_leave(module: torch.nn.Module, base: type[Any]) -> str:
    if type(module).forward is not base.forward:
        return f"as {type(module).__name__} has a forward of its own"
    if "forward" in module.__dict__:
        return "as the object has a forward of its own"
    if type(module).__call__ is not torch.nn.Module.__call__:
        return f"as {type(module).__name__} has a __call__ of its own"
    return ""


class _Accelerated:
    """Mixin of the classes that `accelerate` gives."""

    _before: type[Any]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies and pickles are of the class before, and then accelerated."""
        reduced: Any = object.__reduce_ex__(self, max(int(protocol), 2))
        _, _, *rest = reduced
        return (_remade, (type(self)._before,), *rest)


def _remade(cls: type[Any]) -> Any:
    accelerated: Any = _accelerated_class(cls)  # type: ignore[arg-type]
    return accelerated.__new__(accelerated)


@functools.lru_cache(maxsize=256)
def _layer_kind(name: str, options: tuple[tuple[str, Any], ...]) -> Kind:
    return kind_of({"kind": name} | dict(options))


def _options_of(module: Any, name: str) -> tuple[tuple[str, Any], ...]:
    options = [
        ("input_size", module.input_size),
        ("hidden_size", module.hidden_size),
        ("bias", bool(module.bias)),
    ]
    if name == "RNN":
        options.append(("nonlinearity", module.nonlinearity))
    if isinstance(module, torch.nn.RNNBase):
        # Dropout between layers of which there is one does nothing.
        drops = module.dropout if module.num_layers > 1 else 0.0
        options += [
            ("num_layers", module.num_layers),
            ("dropout", drops),
            ("bidirectional", module.bidirectional),
        ]
        if module.proj_size:
            options.append(("proj_size", module.proj_size))
    return tuple(options)


@functools.cache
def _accelerated_class(before: Any) -> type[Any]:
    """The subclass that runs in the kernels."""
    base = next(cls for cls in (*_LAYERS, *_CELLS) if issubclass(before, cls))
    if base in _LAYERS:
        forward: Any = _layer_forward(before, _LAYERS[base])
    else:
        forward = _cell_forward(before, _CELLS[base])
    members = {
        "forward": forward,
        "_before": before,
        "__module__": before.__module__,
        "__qualname__": before.__qualname__,
        "__doc__": before.__doc__,
    }
    return type(before.__name__, (_Accelerated, before), members)


def _layer_forward(before: type[Any], name: str) -> Any:
    def forward(self: Any, input: Any, hx: Any = None, *, lengths: Any = None, reset: Any = None) -> Any:
        weights = [getattr(self, each) for names in self._all_weights for each in names]
        reason = obstacle(input.data if isinstance(input, PackedSequence) else input, weights)
        if reason:
            if lengths is not None or reset is not None:
                raise TypeError(f"lengths, reset: expected None where torch's own layer runs, as {reason}")
            tell(type(self).__name__, reason)
            return before.forward(self, input, hx)
        kind = _layer_kind(name, _options_of(self, name))
        return run_layer(
            kind, weights, input, hx, self.batch_first, lengths, reset, self.training, self._is_frozen
        )

    return forward


def _cell_forward(before: type[Any], name: str) -> Any:
    def forward(self: Any, input: Any, hx: Any = None) -> Any:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        weights = [getattr(self, each) for each in names]
        reason = obstacle(input, weights)
        if reason:
            tell(type(self).__name__, reason)
            return before.forward(self, input, hx)
        return run_cell(_layer_kind(name, _options_of(self, name)), weights, input, hx, self._is_frozen)

    return forward
