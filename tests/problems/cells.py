# SPDX-License-Identifier: BSD-3-Clause
"""The family as tables: its cells, their options one by one, at random, and those that cannot go together.

The plain LSTM is the first row of every table.  Nothing here makes an array: problem.py does.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fastlstm import reference
from fastlstm.reference import Config

CELLS = tuple(reference.CELL_OPTIONS)

# Option that the error names: (cell, what makes it wrong, why).
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "coupled": (
        "LSTM",
        {"coupled": "f_from_i", "forget_gate": False},
        "there are no two gates to couple",
    ),
    "zoneout_h": (
        "LSTM",
        {"zoneout_h": 0.1, "proj_size": 2},
        "the cell's own output is then no state, and has no old value",
    ),
    "peephole": (
        "LSTM",
        {"peephole": True, "layer_norm": "haste"},
        "that normalises the products before c could be added",
    ),
    "proj_bias": ("LSTM", {"proj_bias": True}, "there is no projection"),
    "proj_clip": ("LSTM", {"proj_clip": 1.0}, "there is no projection"),
    "forget_bias": (
        "LSTM",
        {"forget_bias": 1.0, "coupled": "f_from_i"},
        "the forget gate has no bias",
    ),
    "nonlinearity": (
        "RNN",
        {"nonlinearity": "relu", "activations": ("Softsign",)},
        "both say the same",
    ),
    "reverse": ("GRU", {"reverse": True, "bidirectional": True}, "there is a reverse direction already"),
    "reverse_order": ("GRU", {"reverse_order": "processing"}, "there is no other order"),
    "merge": ("GRU", {"merge": "sum"}, "there is one direction alone"),
    "residual": (
        "GRU",
        {"hidden_size": (3, 4), "residual": 1},
        "a layer's outputs must be as many as its inputs",
    ),
    "heads": ("SLSTM", {"hidden_size": 5, "heads": 2}, "a head has as many units as another"),
}
# Likewise of a call; `pad` against `residual` or `merge`, of which there is no last state.
REFUSED_CALLS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "pad": ("GRU", {"residual": 0, "hidden_size": 3}, {"pad": "hold"}, "a sum has no state before its first"),
}

# Every activation, with parameters at their defaults and at others.
ACTIVATIONS: tuple[Any, ...] = (
    *(
        "Relu",
        "Tanh",
        "Sigmoid",
        "Softsign",
        "Softplus",
        "LeakyRelu",
        "HardSigmoid",
        "Elu",
        "ThresholdedRelu",
    ),
    *(("Affine", 0.5, 0.1), ("ScaledTanh", 1.2, 0.7), ("LeakyRelu", 0.3), ("HardSigmoid", 0.3, 0.4)),
    *(("Elu", 0.6), ("ThresholdedRelu", 0.2)),
)

# Every option once by itself and where two of them meet, as (cell, options); for H a multiple of 3 above 4.
# The stored digests are of these, by name.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    "no bias": ("LSTM", {"bias": False}),
    "peephole": ("LSTM", {"peephole": True}),
    "f from i": ("LSTM", {"coupled": "f_from_i"}),
    "i from f": ("LSTM", {"coupled": "i_from_f"}),
    "no forget gate": ("LSTM", {"forget_gate": False, "cell_clip": 1.0}),
    "no forget gate, peephole": ("LSTM", {"forget_gate": False, "peephole": True, "cell_clip": 1.0}),
    "f from i, peephole": ("LSTM", {"coupled": "f_from_i", "peephole": True}),
    "i from f, peephole": ("LSTM", {"coupled": "i_from_f", "peephole": True}),
    "projection": ("LSTM", {"proj_size": 4}),
    "projection, bias": ("LSTM", {"proj_size": 4, "proj_bias": True}),
    "projection, clip": ("LSTM", {"proj_size": 4, "proj_bias": True, "proj_clip": 0.2, "peephole": True}),
    "cell clip": ("LSTM", {"cell_clip": 0.3}),
    "gate clip": ("LSTM", {"gate_clip": 0.4}),
    "every clip": ("LSTM", {"gate_clip": 0.4, "cell_clip": 0.3, "coupled": "f_from_i"}),
    "gate norm": ("LSTM", {"layer_norm": "gate"}),
    "gate norm, peephole": ("LSTM", {"layer_norm": "gate", "peephole": True}),
    "gate norm, coupled": ("LSTM", {"layer_norm": "gate", "coupled": "f_from_i"}),
    "gate norm, all": (
        "LSTM",
        {"layer_norm": "gate", "peephole": True, "coupled": "i_from_f", "proj_size": 4, "gate_clip": 1.0},
    ),
    "haste": ("LSTM", {"layer_norm": "haste"}),
    "haste, all": (
        "LSTM",
        {"layer_norm": "haste", "coupled": "f_from_i", "proj_size": 4, "cell_clip": 0.5, "gate_clip": 1.0},
    ),
    "zoneout": ("LSTM", {"zoneout_c": 0.4, "zoneout_h": 0.1}),
    "zoneout off": ("LSTM", {"zoneout_c": 0.1, "zoneout_h": 0.4, "zoneout_eval": "off"}),
    "zoneout, haste": ("LSTM", {"zoneout_c": 0.2, "zoneout_h": 0.4, "layer_norm": "haste"}),
    "zoneout, projection": ("LSTM", {"zoneout_c": 0.4, "proj_size": 4, "peephole": True}),
    "recurrent dropout": ("LSTM", {"recurrent_dropout": 0.4}),
    "recurrent dropout, tied": ("LSTM", {"recurrent_dropout": 0.4, "recurrent_dropout_masks": "tied"}),
    "recurrent dropout, tied, projection": (
        "LSTM",
        {"recurrent_dropout": 0.4, "recurrent_dropout_masks": "tied", "proj_size": 4},
    ),
    "all that is drawn": (
        "LSTM",
        {"recurrent_dropout": 0.3, "zoneout_c": 0.3, "zoneout_h": 0.2, "dropout": 0.3, "layer_norm": "gate"},
    ),
    # Each activation of ONNX at some place.
    "Relu": ("LSTM", {"activations": ("Sigmoid", "Relu", "Tanh"), "cell_clip": 2.0}),
    "Affine": ("LSTM", {"activations": (("Affine", 0.5, 0.1), "Tanh", ("Affine", 0.7, -0.1))}),
    "LeakyRelu": ("LSTM", {"activations": ("Sigmoid", ("LeakyRelu", 0.3), "LeakyRelu"), "cell_clip": 2.0}),
    "ThresholdedRelu": ("LSTM", {"activations": ("Sigmoid", ("ThresholdedRelu", 0.02), "Tanh")}),
    "ScaledTanh": ("LSTM", {"activations": ("Sigmoid", ("ScaledTanh", 1.2, 0.7), ("ScaledTanh", 0.9, 1.1))}),
    "HardSigmoid": ("LSTM", {"activations": ("HardSigmoid", "Tanh", ("HardSigmoid", 0.3, 0.4))}),
    "Elu": ("LSTM", {"activations": ("Sigmoid", "Elu", ("Elu", 0.6)), "peephole": True}),
    "Softsign": ("LSTM", {"activations": ("Sigmoid", "Softsign", "Softsign")}),
    "Softplus": ("LSTM", {"activations": ("Sigmoid", "Tanh", "Softplus")}),
    "Tanh, Sigmoid": ("LSTM", {"activations": ("Sigmoid", "Sigmoid", "Sigmoid")}),
    "GRU": ("GRU", {}),
    "GRU, no bias": ("GRU", {"bias": False}),
    "GRU, reset before": ("GRU", {"reset_after": False}),
    "GRU, clip": ("GRU", {"gate_clip": 0.3}),
    "GRU, reset before, clip": ("GRU", {"gate_clip": 0.3, "reset_after": False}),
    "GRU, activations": ("GRU", {"activations": ("HardSigmoid", "Softsign")}),
    "GRU, reset before, activations": (
        "GRU",
        {"activations": ("Sigmoid", ("ScaledTanh", 1.2, 0.7)), "reset_after": False},
    ),
    "RNN": ("RNN", {}),
    "RNN, relu": ("RNN", {"nonlinearity": "relu"}),
    "RNN, clip": ("RNN", {"gate_clip": 0.5}),
    "RNN, Softplus": ("RNN", {"activations": ("Softplus",)}),
    "RNN, no bias": ("RNN", {"bias": False}),
    "IndRNN": ("IndRNN", {}),
    "IndRNN, tanh": ("IndRNN", {"nonlinearity": "tanh", "bias": False}),
    "SLSTM": ("SLSTM", {}),
    "SLSTM, heads": ("SLSTM", {"heads": 3}),
    "SLSTM, floor": ("SLSTM", {"n_floor": 1.0}),
    "SLSTM, heads, floor": ("SLSTM", {"heads": 3, "n_floor": 1.0}),
    "MinGRU": ("MinGRU", {}),
    "MinLSTM": ("MinLSTM", {}),
    "MGU": ("MGU", {}),
}
# And with what only stacks have.
EVERY_OPTION: dict[str, tuple[str, dict[str, Any]]] = VARIANTS | {
    "tied recurrent dropout, dropout": (
        "LSTM",
        {"recurrent_dropout": 0.4, "recurrent_dropout_masks": "tied", "proj_size": 4, "dropout": 0.3},
    ),
    "GRU, dropout": ("GRU", {"bias": False, "dropout": 0.3, "activations": ("Sigmoid", ("Elu", 2.0))}),
    "IndRNN, dropout": ("IndRNN", {"dropout": 0.3}),
    "SLSTM, dropout": ("SLSTM", {"heads": 3, "n_floor": 1.0, "dropout": 0.3}),
    "MinGRU, dropout": ("MinGRU", {"dropout": 0.3}),
    "sum of directions": ("LSTM", {"merge": "sum", "dropout": 0.3}),
    "average of directions": ("SLSTM", {"merge": "average"}),
    "residual": ("GRU", {"residual": 1, "dropout": 0.3}),
    "variational": ("GRU", {"input_dropout": 0.3, "dropout": 0.4, "dropout_masks": "sequence"}),
    "residual of sums": ("LSTM", {"residual": 1, "merge": "sum", "peephole": True}),
}


def random_config(rng: np.random.Generator, largest: int = 6, **fixed: Any) -> Config:
    """A valid configuration of any cell, sizes from 1 to `largest`; `fixed` options are as given.

    Where `fixed` options exclude one that was drawn, the drawn one gives way.
    """
    cell = fixed.pop("cell", None) or str(rng.choice(CELLS))

    def coin(p: float = 0.5) -> bool:
        return bool(rng.random() < p)

    def pick(*values: Any, p: float = 0.5) -> Any:
        """The first value, the default, or with probability `p` one of the others."""
        return values[int(rng.integers(1, len(values)))] if coin(p) else values[0]

    L = int(rng.integers(1, 4))
    heads = pick(1, 2, 3) if cell == "SLSTM" else 1
    H = heads * int(rng.integers(1, max(1, largest // heads) + 1))
    drawn: dict[str, Any] = {
        "input_size": int(rng.integers(1, largest + 1)),
        "hidden_size": H,
        "num_layers": L,
    }
    if coin(0.2):
        drawn["hidden_size"] = tuple(heads * int(rng.integers(1, largest // heads + 1)) for _ in range(L))
    smallest = H if isinstance(drawn["hidden_size"], int) else min(drawn["hidden_size"])
    drawn |= {
        "bias": coin(0.8),
        "batch_first": coin(0.3),
        "dropout": pick(0.0, 0.3, 0.5, p=0.3),
        "bidirectional": coin(0.4),
        "reverse": coin(0.3),
        "reverse_order": pick("aligned", "processing"),
        "residual": pick(None, 0, *range(1, L), p=0.3),
        "merge": pick("concat", "sum", "average"),
        "init": pick("torch", "keras"),
    }
    clip = [None, 0.5, 1.0]
    if cell == "LSTM":
        drawn |= {
            "proj_size": pick(0, *range(1, smallest), p=0.4 * (smallest > 1)),
            "proj_bias": coin(),
            "proj_clip": pick(None, 0.1, 0.3),
            "peephole": coin(0.4),
            "coupled": pick(None, "f_from_i", "i_from_f", p=0.4),
            "forget_gate": coin(0.85),
            "cell_clip": pick(*clip, p=0.3),
            "layer_norm": pick(None, "gate", "haste", p=0.4),
            "zoneout_c": pick(0.0, 0.1, 0.4, p=0.3),
            "zoneout_h": pick(0.0, 0.1, 0.4, p=0.3),
            "zoneout_eval": pick("expectation", "off"),
            "recurrent_dropout": pick(0.0, 0.2, 0.5, p=0.3),
            "recurrent_dropout_masks": pick("gate", "tied"),
            "forget_bias": pick(None, 0.0, 1.0, p=0.3),
        }
    if cell in ("LSTM", "GRU", "RNN"):
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[cell]
        drawn["gate_clip"] = pick(*clip, p=0.3)
        if coin(0.3):
            drawn["activations"] = tuple(
                ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))] for _ in range(count)
            )
    if cell in ("RNN", "IndRNN"):
        drawn["nonlinearity"] = pick(None, "tanh", "relu")
    if cell == "GRU":
        drawn["reset_after"] = coin()
    if cell == "SLSTM":
        drawn |= {"heads": heads, "n_floor": pick(0.0, 1.0)}
    return _without_conflicts(cell, drawn, fixed)


# An option whose error names another one, which gives way where the first is fixed.
_PARTNERS = {
    "coupled": "forget_gate",
    "heads": "hidden_size",
    "peephole": "layer_norm",
    "reverse": "bidirectional",
    "zoneout_h": "proj_size",
}


def _without_conflicts(cell: str, drawn: dict[str, Any], fixed: dict[str, Any]) -> Config:
    """A configuration of the drawn options, less those that exclude fixed ones or each other."""
    options = drawn | fixed
    if not isinstance(options["hidden_size"], int):
        sizes = tuple(options["hidden_size"])
        if "num_layers" in fixed and "hidden_size" not in fixed:
            sizes = (sizes * options["num_layers"])[: options["num_layers"]]
        options |= {"hidden_size": sizes, "num_layers": len(sizes)}
    if "proj_size" in options and "proj_size" not in fixed:  # drawn for another size than a fixed one
        sizes = np.atleast_1d(options["hidden_size"])
        options["proj_size"] = min(options["proj_size"], int(sizes.min()) - 1)
    if options["residual"] is not None and "residual" not in fixed:
        options["residual"] = min(options["residual"], options["num_layers"] - 1)
        if "input_size" not in fixed and len(set(Config(cell, 1, options["hidden_size"]).sizes)) == 1:
            options["input_size"] = None  # as many as outputs, when these are known
    while True:
        try:
            if options["input_size"] is None:
                config = Config(cell, **options | {"input_size": 1, "residual": None})
                return dataclasses.replace(
                    config, input_size=config.output_width(0), residual=options["residual"]
                )
            return Config(cell, **options)
        except ValueError as error:
            name = str(error).partition(":")[0]  # the option that the error is about
            gives_way = name if name not in fixed else _PARTNERS.get(name, name)
            if gives_way in fixed or gives_way not in options:
                raise
            del options[gives_way]
