# SPDX-License-Identifier: BSD-3-Clause
"""What constructors refuse: each error names the option, what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from tests.problems.cells import REFUSED

from .checks import refuses

I, H = 5, 6
LSTM, GRU, RNN, SLSTM = fastlstm.LSTM, fastlstm.GRU, fastlstm.RNN, fastlstm.SLSTM

BAD_OPTIONS = [
    (LSTM, {"coupled": "f"}, ValueError, "coupled"),
    (LSTM, {"coupled": True}, TypeError, "coupled"),
    (LSTM, {"forget_gate": 0}, TypeError, "forget_gate"),
    (LSTM, {"peephole": "yes"}, TypeError, "peephole"),
    (LSTM, {"layer_norm": "layer"}, ValueError, "layer_norm"),
    (LSTM, {"proj_size": -1}, ValueError, "proj_size"),
    (LSTM, {"proj_size": H}, ValueError, "proj_size"),
    (LSTM, {"proj_size": 2.0}, TypeError, "proj_size"),
    (LSTM, {"proj_size": True}, TypeError, "proj_size"),
    (LSTM, {"proj_clip": 0.0, "proj_size": 2}, ValueError, "proj_clip"),
    (LSTM, {"cell_clip": -1.0}, ValueError, "cell_clip"),
    (LSTM, {"cell_clip": "1"}, TypeError, "cell_clip"),
    (LSTM, {"cell_clip": 10**400}, ValueError, "cell_clip"),
    (LSTM, {"gate_clip": float("nan")}, ValueError, "gate_clip"),
    (LSTM, {"zoneout_c": 1.5}, ValueError, "zoneout_c"),
    (LSTM, {"zoneout_h": -0.5}, ValueError, "zoneout_h"),
    (LSTM, {"zoneout_eval": "mean"}, ValueError, "zoneout_eval"),
    (LSTM, {"recurrent_dropout": float("nan")}, ValueError, "recurrent_dropout"),
    (LSTM, {"recurrent_dropout_masks": "all"}, ValueError, "recurrent_dropout_masks"),
    (LSTM, {"recurrent_dropout_masks": None}, ValueError, "recurrent_dropout_masks"),
    (LSTM, {"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias"),
    (LSTM, {"forget_bias": 1.0, "forget_gate": False}, ValueError, "forget_bias"),
    (LSTM, {"forget_bias": float("inf")}, ValueError, "forget_bias"),
    (LSTM, {"forget_bias": "1"}, TypeError, "forget_bias"),
    (LSTM, {"init": "xavier"}, ValueError, "init"),
    (LSTM, {"init": None}, ValueError, "init"),
    (LSTM, {"activations": "Tanh"}, TypeError, "activations"),
    (LSTM, {"activations": ["Tanh", "Tanh"]}, ValueError, "activations"),
    (LSTM, {"activations": ["Tanh", "Tanh", "tanh"]}, ValueError, r"activations\[2\]"),
    (LSTM, {"activations": ["Tanh", "Affine", "Tanh"]}, ValueError, r"activations\[1\]"),
    (LSTM, {"activations": ["Tanh", ("ScaledTanh", 1.0), "Tanh"]}, ValueError, r"activations\[1\]"),
    (LSTM, {"activations": [("Relu", 1.0), "Tanh", "Tanh"]}, ValueError, r"activations\[0\]"),
    (LSTM, {"activations": [("Elu", 1.0, 1.0), "Tanh", "Tanh"]}, ValueError, r"activations\[0\]"),
    (LSTM, {"activations": [("Elu", "1"), "Tanh", "Tanh"]}, TypeError, r"activations\[0\]"),
    (LSTM, {"activations": [("Elu", float("inf")), "Tanh", "Tanh"]}, ValueError, r"activations\[0\]"),
    (LSTM, {"activations": [None, "Tanh", "Tanh"]}, TypeError, r"activations\[0\]"),
    (LSTM, {"reverse": True, "bidirectional": True}, ValueError, "reverse"),
    (LSTM, {"reverse": 1}, TypeError, "reverse"),
    (LSTM, {"reverse_order": "processing"}, ValueError, "reverse_order"),
    (LSTM, {"reverse_order": "back", "reverse": True}, ValueError, "reverse_order"),
    (LSTM, {"merge": "sum"}, ValueError, "merge"),
    (LSTM, {"merge": "max", "bidirectional": True}, ValueError, "merge"),
    (LSTM, {"residual": 0}, ValueError, "residual"),  # I and H differ
    (LSTM, {"residual": 1}, ValueError, "residual"),
    (LSTM, {"residual": -1}, ValueError, "residual"),
    (LSTM, {"residual": True, "num_layers": 2}, TypeError, "residual"),
    (LSTM, {"residual": 1, "hidden_size": (4, 3)}, ValueError, "residual"),
    (LSTM, {"hidden_size": ()}, ValueError, "hidden_size"),
    (LSTM, {"hidden_size": (4, 0)}, ValueError, r"hidden_size\[1\]"),
    (LSTM, {"hidden_size": (4, 2.0)}, TypeError, r"hidden_size\[1\]"),
    (LSTM, {"hidden_size": (4, 3), "num_layers": 3}, ValueError, "num_layers"),
    (LSTM, {"hidden_size": (4, 3), "proj_size": 3}, ValueError, "proj_size"),
    (GRU, {"reset_after": None}, TypeError, "reset_after"),
    (GRU, {"activations": ["Tanh"]}, ValueError, "activations"),
    (GRU, {"gate_clip": 0}, ValueError, "gate_clip"),
    (RNN, {"nonlinearity": "Tanh"}, ValueError, "nonlinearity"),
    (RNN, {"nonlinearity": None}, TypeError, "nonlinearity"),
    (fastlstm.IndRNN, {"nonlinearity": "elu"}, ValueError, "nonlinearity"),
    (SLSTM, {"heads": 4}, ValueError, "heads"),
    (SLSTM, {"heads": 0}, ValueError, "heads"),
    (SLSTM, {"heads": 3, "hidden_size": (6, 4)}, ValueError, "heads"),
    (SLSTM, {"n_floor": -1.0}, ValueError, "n_floor"),
    (SLSTM, {"n_floor": float("inf")}, ValueError, "n_floor"),
    (SLSTM, {"n_floor": 10**400}, ValueError, "n_floor"),
]


@pytest.mark.parametrize(("cls", "options", "error", "name"), BAD_OPTIONS)
def test_options(cls, options, error, name):
    refuses(error, name, cls, **({"input_size": I, "hidden_size": H} | options))


@pytest.mark.parametrize("cls", [GRU, RNN, SLSTM, fastlstm.MinGRU, fastlstm.GRUCell])
@pytest.mark.parametrize("option", ["peephole", "proj_size", "forget_bias", "zoneout_c"])
def test_options_of_another_cell(cls, option):
    with pytest.raises(TypeError, match=option):
        cls(I, H, **{option: 0})


@pytest.mark.parametrize(
    ("sizes", "options"), [(2**40, {}), (3, {"num_layers": 2**60}), (2**62, {"num_layers": 3})]
)
@pytest.mark.parametrize("cls", [LSTM, GRU, fastlstm.MinGRU, fastlstm.IndRNN])
def test_parameters_that_fit_no_memory(cls, sizes, options):
    with pytest.raises((OverflowError, MemoryError)):
        cls(sizes, sizes, **options)


# ---- Sizes and options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (2.0, TypeError),
        ("3", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_sizes_that_are_no_positive_integers(name, value, error):
    refuses(error, name, fastlstm.LSTM, **({"input_size": 2, "hidden_size": 3} | {name: value}))
    if name != "num_layers":
        refuses(error, name, fastlstm.LSTMCell, **({"input_size": 2, "hidden_size": 3} | {name: value}))
    refuses(error, "batch_size", fastlstm.LSTM(2, 3).stream, value)


@pytest.mark.parametrize(
    "sizes", [(2**62, 1), (1, 2**61), (2**40, 2**40), (2**80, 1), (1, 2**31, 2**31), (2**33, 2**33)]
)
def test_sizes_that_overflow(sizes):
    with pytest.raises((OverflowError, MemoryError)):
        fastlstm.LSTM(*sizes)
    if len(sizes) == 2:
        with pytest.raises((OverflowError, MemoryError)):
            fastlstm.LSTMCell(*sizes)


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"dtype": np.float16}, ValueError),
        ({"dtype": np.int32}, ValueError),
        ({"dtype": "complex64"}, ValueError),
        ({"dtype": "nonsense"}, TypeError),
        ({"dropout": -0.1}, ValueError),
        ({"dropout": 1.1}, ValueError),
        ({"dropout": np.nan}, ValueError),
        ({"dropout": "0"}, TypeError),
        ({"bias": 1}, TypeError),
        ({"bidirectional": "yes"}, TypeError),
        ({"batch_first": None}, TypeError),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [fastlstm.LSTM, GRU, SLSTM, fastlstm.MinGRU])
def test_options_that_every_layer_has(cls, keywords, error):
    refuses(error, next(iter(keywords)), cls, 2, 3, **keywords)


# ---- What the specification refuses, layers refuse, and say why --------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_go_together(name):
    cell, options, _why = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got ") as caught:
        getattr(fastlstm, cell)(**({"input_size": 3, "hidden_size": 4} | options))
    assert len(str(caught.value).split()) > 5
