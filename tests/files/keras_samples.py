# SPDX-License-Identifier: BSD-3-Clause
"""Files as the Keras of each age wrote them, and what their layers computed, in readable NumPy."""

from __future__ import annotations

import json

import h5py
import numpy as np

HARD = {"old": lambda a: np.clip(0.2 * a + 0.5, 0, 1), "new": lambda a: np.clip(a / 6 + 0.5, 0, 1)}
FUNCTIONS = {
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "linear": lambda a: a,
}


def function(name, age):
    return HARD[age] if name == "hard_sigmoid" else FUNCTIONS[name]


def lstm(x, arrays, inner="tanh", outer="sigmoid", age="old"):
    """Keras' LSTM on (B, T, I): gates i, f, c, o."""
    (W, U, b), f, g = arrays, function(outer, age), function(inner, age)
    h = c = np.zeros((x.shape[0], U.shape[0]))
    outputs = []
    for t in range(x.shape[1]):
        a_i, a_f, a_c, a_o = np.split(x[:, t] @ W + h @ U + b, 4, 1)
        c = f(a_f) * c + f(a_i) * g(a_c)
        h = f(a_o) * g(c)
        outputs.append(h)
    return np.stack(outputs, 1)


def gru(x, arrays, inner="tanh", outer="sigmoid", age="old", reset_after=False):
    """Keras' GRU on (B, T, I): gates z, r, h."""
    (W, U, b), f, g = arrays, function(outer, age), function(inner, age)
    H = U.shape[0]
    b, d = (b[0], b[1]) if reset_after else (b, np.zeros(3 * H))
    h, outputs = np.zeros((x.shape[0], H)), []
    for t in range(x.shape[1]):
        a = x[:, t] @ W + b
        z, r = np.split(f(a[:, : 2 * H] + h @ U[:, : 2 * H] + d[: 2 * H]), 2, 1)
        before = r * (h @ U[:, 2 * H :] + d[2 * H :]) if reset_after else (r * h) @ U[:, 2 * H :]
        h = z * h + (1 - z) * g(a[:, 2 * H :] + before)
        outputs.append(h)
    return np.stack(outputs, 1)


def arrays_of(rng, G, I=3, H=4, bias=None):
    shapes = (I, G * H), (H, G * H), bias or (G * H,)
    return tuple(rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes)


def in_layout_of_cudnn(W, U, biases):
    """What a CuDNN layer of Keras 2 keeps: each block is the transposed matrix, in the order of memory."""
    G = W.shape[1] // U.shape[0]
    # Of the block's matrix A (I, H), cuDNN has A' (H, I) in rows, which Keras keeps in the shape (I, H).
    kernel = np.hstack([np.ascontiguousarray(block.T).reshape(block.shape) for block in np.split(W, G, 1)])
    recurrent = np.hstack([block.T for block in np.split(U, G, 1)])
    return kernel, recurrent, np.concatenate(biases)


def write_group(group, name, arrays, names=("kernel:0", "recurrent_kernel:0", "bias:0"), inner=None):
    layer = group.create_group(name)
    paths = [f"{inner or name}/{each}" for each in names]
    layer.attrs["weight_names"] = [path.encode() for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        layer[path] = array


def write_weights(path, layers, version="2.2.0", **names):
    """A file of weights alone: arrays by names of layers."""
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["keras_version"] = version.encode()
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            write_group(file, name, arrays, **names)


def write_model(path, layers, version="2.2.0"):
    """A file of Keras 1 and 2 with a configuration: (class, settings, arrays) by names of layers."""
    configs = [
        {"class_name": cls, "config": {"name": name, **settings}}
        for name, (cls, settings, _) in layers.items()
    ]
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": configs}).encode()
        for name, (_, _, arrays) in layers.items():
            write_group(file.require_group("model_weights"), name, arrays)
