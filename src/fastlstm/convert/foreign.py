# SPDX-License-Identifier: BSD-3-Clause
"""Layers as modules of PyTorch and layers of Keras; what these cannot say is refused by name."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from .orders import gates

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["to_keras", "to_torch"]

_SIZES = frozenset(
    {"input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"}
)
# Options without an effect outside of training.
TRAINING = frozenset({"input_dropout", "dropout_masks", "recurrent_dropout", "recurrent_dropout_masks"})
_KERAS_ORDERS = {"LSTM": "ifgo", "GRU": "zrn", "RNN": "h"}
_KERAS_ACTIVATIONS: dict[Any, str] = {
    ("Sigmoid",): "sigmoid",
    ("Tanh",): "tanh",
    ("Relu",): "relu",
    ("Affine", 1.0, 0.0): "linear",
    ("Softsign",): "softsign",
    ("Softplus",): "softplus",
    ("Elu",): "elu",
    ("Elu", 1.0): "elu",
    ("LeakyRelu", 0.2): "leaky_relu",
    ("HardSigmoid", 1 / 6, 0.5): "hard_sigmoid",
}


def refuse(layer: Any, program: str, known: Collection[str] = _SIZES) -> None:
    """Raise where a layer has an option that is not the usual one, and not among those `known`."""
    for name, option in layer._options.items():
        value = getattr(layer, name)
        if name not in known and name not in TRAINING and value != option.default and not option.is_required:
            raise ValueError(f"{name}: expected {option.default!r}, as {program} has no other, got {value!r}")
    if isinstance(layer.__dict__.get("_settings", {}).get("hidden_size"), tuple) and "sizes" not in known:
        raise ValueError(
            f"hidden_size: expected one size, as {program} has no other, got {layer.hidden_size!r}"
        )


def to_torch(layer: Any) -> Any:
    """Return PyTorch's module of a layer, with copies of its weights.

    Parameters
    ----------
    layer : LSTM, GRU, RNN, their cells, Dense or Embedding
        With options that PyTorch has.

    Returns
    -------
    torch.nn.Module
        LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell, Linear or Embedding.

    Raises
    ------
    ValueError
        PyTorch has no such layer, or no such option; the message names it.
    ModuleNotFoundError
        PyTorch is missing.
    """
    import torch

    kind = type(layer).__name__
    options: dict[str, Any]
    if kind in ("LSTM", "GRU", "RNN"):
        own = {"LSTM": "proj_size", "RNN": "nonlinearity"}.get(kind, "")
        refuse(layer, "PyTorch", _SIZES | {own})
        options = {name: getattr(layer, name) for name in (*sorted(_SIZES), own) if name}
    elif kind in ("LSTMCell", "GRUCell", "RNNCell"):
        names = ["input_size", "hidden_size", "bias", *(["nonlinearity"] if kind == "RNNCell" else [])]
        options = {name: getattr(layer, name) for name in names}
    elif kind == "Dense":
        kind, options = (
            "Linear",
            {name: getattr(layer, name) for name in ("in_features", "out_features", "bias")},
        )
    elif kind == "Embedding":
        options = {name: getattr(layer, name) for name in ("num_embeddings", "embedding_dim", "padding_idx")}
    else:
        raise ValueError(f"layer: expected one that PyTorch has, got {kind}")
    module: Any = getattr(torch.nn, kind)
    made = module(**options, dtype=getattr(torch, layer.dtype.name), device="cpu")
    made.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in layer.params.items()})
    return made


def to_keras(layer: Any) -> Any:
    """Return Keras' layer of a layer, or a Sequential of those of a stack, with copies of its weights.

    Its input is (B, T, I) in any case, and it returns the output of all steps.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
        With options that Keras has.  Sums of biases are rounded once where Keras has one bias.

    Returns
    -------
    keras.Layer
        LSTM, GRU, SimpleRNN, Bidirectional or Sequential; built.

    Raises
    ------
    ValueError
        Keras has no such layer, or no such option; the message names it.
    ModuleNotFoundError
        Keras is missing.
    """
    keras = importlib.import_module("keras")
    kind = type(layer).__name__
    if kind not in _KERAS_ORDERS:
        raise ValueError(f"layer: expected LSTM, GRU or RNN, as Keras has them, got {kind}")
    known = {"merge", "activations", "nonlinearity", "reset_after", "reverse", "reverse_order", "sizes"}
    refuse(layer, "Keras", _SIZES | known)
    if layer.reverse and layer.reverse_order != "processing":
        raise ValueError(
            f"reverse_order: expected 'processing', as of Keras' go_backwards, got {layer.reverse_order!r}"
        )
    options = _keras_options(layer)
    layers = []
    sizes = (
        layer.hidden_size if isinstance(layer.hidden_size, tuple) else (layer.hidden_size,) * layer.num_layers
    )
    for number, (units, arrays) in enumerate(zip(sizes, keras_arrays(layer), strict=True)):
        if number and layer.dropout:
            layers.append(keras.layers.Dropout(layer.dropout))
        cls = getattr(keras.layers, {"RNN": "SimpleRNN"}.get(kind, kind))
        made = cls(units, return_sequences=True, go_backwards=layer.reverse and not number, **options)
        if layer.bidirectional:
            merge = {"average": "ave"}.get(layer.merge, layer.merge)
            made = keras.layers.Bidirectional(made, merge_mode=merge, dtype=layer.dtype.name)
        made.build((None, None, layer._layout.inputs(number)))
        made.set_weights(arrays)
        layers.append(made)
    if len(layers) == 1:
        return layers[0]
    if layer.reverse:
        raise ValueError(
            "num_layers: expected 1 with reverse, as Keras' layers each turn the order, got more"
        )
    return keras.Sequential([keras.Input((None, layer.input_size), dtype=layer.dtype.name), *layers])


def activations_of(layer: Any) -> list[tuple[Any, ...]]:
    """Activations of a layer, each a name and its numbers."""
    if layer.activations is not None:
        return [(each,) if isinstance(each, str) else tuple(each) for each in layer.activations]
    if type(layer).__name__ == "RNN":
        return [("Relu",) if layer.nonlinearity == "relu" else ("Tanh",)]
    return [(name,) for name in type(layer).activations.roles.values()]


def _keras_options(layer: Any) -> dict[str, Any]:
    functions = activations_of(layer)
    for function in functions:
        if function not in _KERAS_ACTIVATIONS:
            raise ValueError(
                f"activations: expected those of Keras, {list(_KERAS_ACTIVATIONS)}, got {function}"
            )
    names = [_KERAS_ACTIVATIONS[function] for function in functions]
    if len(names) == 3 and names[1] != names[2]:
        raise ValueError(
            f"activations: expected the same one of candidate and output, as of Keras, got {functions}"
        )
    options = {
        "activation": names[0 if len(names) == 1 else 1],
        "use_bias": layer.bias,
        "dtype": layer.dtype.name,
    }
    if len(names) > 1:
        options["recurrent_activation"] = names[0]
    return options | ({"reset_after": layer.reset_after} if type(layer).__name__ == "GRU" else {})


def keras_arrays(layer: Any) -> list[list[NDArray[Any]]]:
    """What ``set_weights`` of Keras takes of each layer: kernels and bias of each direction."""
    kind = type(layer).__name__
    order, own = _KERAS_ORDERS[kind], layer._layout.gates
    result, params = [], layer.params

    def turned(name: str) -> NDArray[Any]:
        return gates(params[name], own, order)

    for number in range(layer.num_layers):
        arrays: list[NDArray[Any]] = []
        for suffix in layer._layout.suffixes:
            end = f"_l{number}{suffix}"
            arrays += [turned(f"weight_ih{end}").T.copy(), turned(f"weight_hh{end}").T.copy()]
            if layer.bias:
                pair = [turned(f"bias_ih{end}"), turned(f"bias_hh{end}")]
                arrays.append(np.stack(pair) if kind == "GRU" and layer.reset_after else pair[0] + pair[1])
        result.append(arrays)
    return result
