# SPDX-License-Identifier: BSD-3-Clause
"""JSON of guitar amplifiers: Neural Amp Modeler's .nam, RTNeural's two forms, GuitarML's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..convert.separate import from_gates
from ..layers.dense import Dense
from ..layers.gru import GRU
from ..layers.lstm import LSTM
from .source import Source, read_json, stored_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .parts import Found

__all__: list[str] = []


def read_json_file(source: Source, found: Found) -> str:
    """Fill `found`; return the name of the format."""
    text = read_json(source, source.read(0, source.size, "file"), "file")
    if not isinstance(text, dict):
        source.bad("file", "a mapping", type(text).__name__)
    if "architecture" in text:
        _read_nam(source, text, found)
        return "NAM"
    if isinstance(text.get("layers"), list):
        _read_rtneural(source, text["layers"], found)
        return "RTNeural"
    state = text.get("state_dict", text)
    if not isinstance(state, dict):
        source.bad("state_dict", "a mapping of names to arrays", type(state).__name__)
    for name, value in state.items():
        if isinstance(value, list):
            found.arrays[name] = stored_array(_numbers(source, value, f"state_dict[{name!r}]"))
    if not found.arrays:
        source.bad(
            "file", "architecture, layers or state_dict, or arrays by name", repr(list(text)[:8])[:100]
        )
    data = text.get("model_data")
    if isinstance(data, dict):
        kind = data.get("unit_type")
        if kind is not None and kind not in ("LSTM", "GRU", "RNN"):
            source.bad("model_data: unit_type", "LSTM, GRU or RNN", repr(kind)[:40])
        for option in ("input_size", "hidden_size", "num_layers"):
            if type(data.get(option, 1)) is not int:
                source.bad(f"model_data: {option}", "an integer", repr(data[option])[:40])
        found.stated = {
            name: data[name] for name in ("input_size", "hidden_size", "num_layers") if name in data
        }
    return "GuitarML" if "state_dict" in text else "JSON of arrays"


def _numbers(
    source: Source, value: Any, place: str, shape: tuple[int, ...] | None = None
) -> NDArray[np.float32]:
    """Numbers in lists as an array."""
    try:
        array = np.asarray(value)
    except ValueError:
        source.bad(place, "lists of the same lengths", "others")
    if array.size and array.dtype.kind not in "iuf":
        source.bad(place, "numbers", f"dtype {array.dtype}")
    if shape is not None and array.shape != shape:
        source.bad(place, f"shape {shape}", array.shape)
    source.take(4 * array.size, place)
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _size(source: Source, value: Any, place: str) -> int:
    if type(value) is not int or not 0 < value < 2**16:
        source.bad(place, "a size from 1 to 65535", repr(value)[:40])
    return int(value)


def _read_nam(source: Source, text: dict[str, Any], found: Found) -> None:
    """An LSTM: for each layer [W U] row by row, one bias, h_0 and c_0; then the head's weight and bias."""
    if text["architecture"] != "LSTM":
        source.bad(
            "architecture", "'LSTM', which is what this package computes", repr(text["architecture"])[:60]
        )
    config = text.get("config")
    if not isinstance(config, dict):
        source.bad("config", "a mapping", type(config).__name__)
    I, H, L = (
        _size(source, config.get(name), f"config: {name}")
        for name in ("input_size", "hidden_size", "num_layers")
    )
    weights = _numbers(source, text.get("weights"), "weights")
    if weights.ndim != 1:
        source.bad("weights", "a list of numbers", f"{weights.ndim} dimensions")
    needed = sum(4 * H * ((H if layer else I) + H) + 6 * H for layer in range(min(L, weights.size)))
    rest = weights.size - needed
    if weights.size < L or rest < 1 or rest % (H + 1):
        source.bad("weights", f"{needed} numbers and {H + 1} for each output", weights.size)
    at, layers, h_0, c_0 = 0, [], [], []
    for layer in range(L):
        width = (H if layer else I) + H
        parts = np.split(weights[at : at + 4 * H * width + 6 * H], np.cumsum([4 * H * width, 4 * H, H]))
        at += 4 * H * width + 6 * H
        layers.append({"weight": parts[0].reshape(4 * H, width), "bias": parts[1]})
        h_0.append(parts[2])
        c_0.append(parts[3])
    found.layers["lstm"] = from_gates("LSTM", layers)
    found.states["lstm"] = np.stack(h_0), np.stack(c_0)
    outputs = rest // (H + 1)
    found.arrays["head.weight"] = stored_array(weights[at : at + outputs * H].reshape(outputs, H))
    found.arrays["head.bias"] = stored_array(weights[at + outputs * H :])


# ---- RTNeural ----------------------------------------------------------------------------------------------


def _read_rtneural(source: Source, layers: list[Any], found: Found) -> None:
    """Layers in a row, with weights as Keras' ``get_weights`` gives them."""
    for number, layer in enumerate(layers):
        place = f"layers[{number}]"
        if not isinstance(layer, dict) or not isinstance(layer.get("type"), str):
            source.bad(place, "a mapping with a type", type(layer).__name__)
        kind, weights = layer["type"].lower(), layer.get("weights", [])
        if not isinstance(weights, list):
            source.bad(f"{place}: weights", "a list of arrays", type(weights).__name__)
        arrays = [_numbers(source, value, f"{place}: weights[{n}]") for n, value in enumerate(weights)]
        if kind in ("lstm", "gru"):
            name = f"{kind}" if kind not in found.layers else f"{kind}_{number}"
            found.layers[name] = _recurrent(source, kind, arrays, place)
        else:
            for n, array in enumerate(arrays):
                found.arrays[f"{place}.{kind}.{n}"] = stored_array(array)


def _recurrent(source: Source, kind: str, arrays: list[NDArray[Any]], place: str) -> Any:
    if len(arrays) != 3 or arrays[0].ndim != 2 or arrays[1].ndim != 2:
        source.bad(f"{place}: weights", "a kernel, a recurrent kernel and a bias", f"{len(arrays)} arrays")
    W, U, b = arrays
    G = 4 if kind == "lstm" else 3
    H = U.shape[0]
    if not H or not W.shape[0] or W.shape[1] != G * H or U.shape[1] != G * H:
        source.bad(f"{place}: weights", f"kernels of {G}*{H} columns", f"shapes {W.shape} and {U.shape}")
    expected: tuple[int, ...] = (G * H,) if kind == "lstm" else (2, G * H)
    if b.shape != expected:
        source.bad(f"{place}: weights[2]", f"shape {expected}", b.shape)
    if kind == "lstm":
        return from_gates("LSTM", [{"weight_ih": W, "weight_hh": U, "bias": b}], transposed=True)
    parts = {"weight_ih": W, "weight_hh": U, "bias_ih": b[0], "bias_hh": b[1]}
    return from_gates("GRU", [parts], order="zrn", transposed=True)


def write_rtneural(file: Any, layers: Sequence[Any] | Mapping[str, Any]) -> None:
    """Layers that follow each other, in RTNeural's form."""
    from ..convert.foreign import keras_arrays, refuse

    chain = list(layers.values() if isinstance(layers, Mapping) else layers)
    entries, width, first = [], None, None
    for layer in chain:
        if isinstance(layer, Dense):
            sizes = layer.in_features, layer.out_features
            arrays = [
                layer.params["weight"].T,
                *([layer.params["bias"]] if layer.bias else []),
            ]
            if not layer.bias:
                arrays.append(np.zeros(sizes[1], layer.dtype))
            parts = [("dense", arrays)]
        elif isinstance(layer, (LSTM, GRU)):
            refuse(layer, "RTNeural")
            if layer.bidirectional:
                raise ValueError("bidirectional: expected False, as RTNeural has streams alone, got True")
            sizes = layer.input_size, layer._layout.output(layer.num_layers - 1)
            parts = [(type(layer).__name__.lower(), each) for each in keras_arrays(layer)]
        else:
            raise ValueError(
                f"layers: expected LSTM, GRU and Dense, as RTNeural has them, got {type(layer).__name__}"
            )
        if width not in (None, sizes[0]):
            raise ValueError(
                f"layers: expected one of {width} inputs behind the layer before, got {sizes[0]}"
            )
        first, width = first or sizes[0], sizes[1]
        for kind, arrays in parts:
            entries.append(
                {
                    "type": kind,
                    "activation": "",
                    "shape": [None, None, int(arrays[0].shape[1]) // {"lstm": 4, "gru": 3, "dense": 1}[kind]],
                    "weights": [array.tolist() for array in arrays],
                }
            )
    file.write(json.dumps({"in_shape": [None, None, first], "layers": entries}).encode())
