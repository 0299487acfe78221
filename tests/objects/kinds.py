# SPDX-License-Identifier: BSD-3-Clause
"""One layer of each kind, and those whose parameters, states or passes differ."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import CELLS
from tests.problems.problem import arrays_of

I, H = 5, 6
LAYERS = {name: getattr(fastlstm, name) for name in CELLS}
# (class, input size, hidden size, options).
FAMILY = {name: (cls, I, H, {}) for name, cls in LAYERS.items()} | {
    "stack": (fastlstm.LSTM, I, H, {"num_layers": 2, "bidirectional": True, "bias": False}),
    "peephole": (fastlstm.LSTM, I, H, {"peephole": True, "num_layers": 2, "bidirectional": True}),
    "projected": (fastlstm.LSTM, I, H, {"proj_size": 3, "proj_bias": True, "proj_clip": 0.5}),
    "gate": (fastlstm.LSTM, I, H, {"layer_norm": "gate", "coupled": "i_from_f"}),
    "haste": (fastlstm.LSTM, I, H, {"layer_norm": "haste", "cell_clip": 1.0, "num_layers": 2}),
    "zoneout": (fastlstm.LSTM, I, H, {"zoneout_c": 0.25, "zoneout_h": 0.5, "recurrent_dropout": 0.25}),
    "reset before": (fastlstm.GRU, I, H, {"reset_after": False, "num_layers": 2, "dropout": 0.5}),
    "activations": (fastlstm.GRU, I, H, {"activations": ["HardSigmoid", ("Elu", 2.0)], "gate_clip": 2.0}),
    "heads": (fastlstm.SLSTM, I, H, {"heads": 3, "n_floor": 1.0, "num_layers": 2}),
    "sizes": (fastlstm.LSTM, I, (4, 6, 2), {"dropout": 0.25}),
    "sizes of h": (fastlstm.GRU, I, [4, 2], {"bidirectional": True}),
    "residual": (fastlstm.LSTM, I, H, {"num_layers": 3, "residual": 1}),
    "merged": (fastlstm.RNN, I, H, {"num_layers": 2, "bidirectional": True, "merge": "average"}),
    "all joined": (
        fastlstm.SLSTM, H, H,
        {"num_layers": 2, "residual": 0, "bidirectional": True, "merge": "sum", "dropout": 0.5},
    ),
    "reverse": (fastlstm.MinLSTM, I, H, {"reverse": True, "num_layers": 2}),
    "processing": (fastlstm.IndRNN, I, H, {"reverse": True, "reverse_order": "processing"}),
}  # fmt: skip
STREAMED = [
    name
    for name, (_, _, _, options) in FAMILY.items()
    if not (options.get("bidirectional") or options.get("reverse"))
]
# Layers of other kinds; cells of one step have no backward.
CELLS_OF_ONE_STEP = ("LSTMCell", "GRUCell", "RNNCell")
OTHERS = ("Dense", "Embedding", *CELLS_OF_ONE_STEP)
KINDS = (*FAMILY, *OTHERS)
TRAINED = (*FAMILY, "Dense", "Embedding")
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda value, p=protocol: pickle.loads(pickle.dumps(value, p))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_trained_kind = pytest.mark.parametrize("kind", TRAINED)
every_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


def build(name, **changes):
    if name in OTHERS:
        return getattr(fastlstm, name)(I, H, **({"rng": 3} | changes))
    cls, inputs, size, options = FAMILY[name]
    return cls(inputs, size, **({"rng": 3} | options | changes))


def batch(layer, T=4, B=3, seed=0):
    """An input of the layer."""
    rng = np.random.default_rng(seed)
    if isinstance(layer, fastlstm.Embedding):
        return rng.integers(0, I, (T, B))
    shape = (B,) if type(layer).__name__ in CELLS_OF_ONE_STEP else (T, B)
    inputs = layer.in_features if isinstance(layer, fastlstm.Dense) else layer.input_size
    return rng.standard_normal((*shape, inputs)).astype(layer.dtype)


def result(layer, x=None):
    """The results of a call, or of one with a given input, as a tuple of arrays."""
    return tuple(arrays_of(layer(batch(layer) if x is None else x)))


def differ(a, b):
    """Whether any two arrays at the same place do."""
    return not all(itertools.starmap(np.array_equal, zip(arrays_of(a), arrays_of(b), strict=True)))
