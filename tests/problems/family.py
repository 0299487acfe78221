# SPDX-License-Identifier: BSD-3-Clause
"""Random stacks of every cell with every option, their parameters, inputs and gradients.

What is drawn is a function of the generator: the same seed, the same problem.  Options that cannot go
together are never drawn together; `REFUSED` lists them, each with the word that the error begins with.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import fastlstm
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
EVERY_OPTION: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    "no bias": ("LSTM", {"bias": False, "peephole": True}),
    "peephole": ("LSTM", {"peephole": True}),
    "f from i": ("LSTM", {"coupled": "f_from_i", "peephole": True}),
    "i from f": ("LSTM", {"coupled": "i_from_f", "peephole": True}),
    "no forget gate": ("LSTM", {"forget_gate": False, "peephole": True, "cell_clip": 1.0}),
    "projection": ("LSTM", {"proj_size": 4}),
    "clipped projection": ("LSTM", {"proj_size": 4, "proj_bias": True, "proj_clip": 0.2, "peephole": True}),
    "cell clip": ("LSTM", {"cell_clip": 0.3}),
    "gate clip": ("LSTM", {"gate_clip": 0.4, "coupled": "f_from_i"}),
    "gate norm": ("LSTM", {"layer_norm": "gate"}),
    "gate norm of all": (
        "LSTM",
        {"layer_norm": "gate", "peephole": True, "coupled": "i_from_f", "proj_size": 4, "gate_clip": 1.0},
    ),
    "haste": ("LSTM", {"layer_norm": "haste"}),
    "haste of all": (
        "LSTM",
        {"layer_norm": "haste", "coupled": "f_from_i", "proj_size": 4, "cell_clip": 0.5, "gate_clip": 1.0},
    ),
    "zoneout": ("LSTM", {"zoneout_c": 0.4, "zoneout_h": 0.1}),
    "zoneout off": ("LSTM", {"zoneout_c": 0.1, "zoneout_h": 0.4, "zoneout_eval": "off"}),
    "zoneout with haste": ("LSTM", {"zoneout_c": 0.2, "zoneout_h": 0.4, "layer_norm": "haste"}),
    "zoneout with projection": ("LSTM", {"zoneout_c": 0.4, "proj_size": 4, "peephole": True}),
    "recurrent dropout": ("LSTM", {"recurrent_dropout": 0.4}),
    "tied recurrent dropout": (
        "LSTM",
        {"recurrent_dropout": 0.4, "recurrent_dropout_masks": "tied", "proj_size": 4, "dropout": 0.3},
    ),
    "all that is drawn": (
        "LSTM",
        {"recurrent_dropout": 0.3, "zoneout_c": 0.3, "zoneout_h": 0.2, "dropout": 0.3, "layer_norm": "gate"},
    ),
    "activations": ("LSTM", {"activations": ("HardSigmoid", "Softsign", ("ScaledTanh", 1.2, 0.7))}),
    "more activations": (
        "LSTM",
        {"activations": (("Affine", 0.5, 0.1), ("Elu", 0.6), "Tanh"), "peephole": True},
    ),
    "rectifiers": ("LSTM", {"activations": ("Sigmoid", "Relu", ("LeakyRelu", 0.3)), "cell_clip": 1.0}),
    "GRU": ("GRU", {}),
    "reset before": ("GRU", {"reset_after": False}),
    "GRU's clip": ("GRU", {"gate_clip": 0.3}),
    "GRU's activations": ("GRU", {"activations": ("HardSigmoid", "Softsign"), "reset_after": False}),
    "GRU without bias": ("GRU", {"bias": False, "dropout": 0.3, "activations": ("Sigmoid", ("Elu", 2.0))}),
    "RNN": ("RNN", {"gate_clip": 0.5}),
    "RNN's relu": ("RNN", {"nonlinearity": "relu"}),
    "RNN's activation": ("RNN", {"activations": (("ThresholdedRelu", 0.02),), "dropout": 0.3}),
    "RNN's Softplus": ("RNN", {"activations": ("Softplus",)}),
    "IndRNN": ("IndRNN", {"dropout": 0.3}),
    "IndRNN's tanh": ("IndRNN", {"nonlinearity": "tanh", "bias": False}),
    "SLSTM": ("SLSTM", {}),
    "heads": ("SLSTM", {"heads": 3, "n_floor": 1.0, "dropout": 0.3}),
    "MinGRU": ("MinGRU", {"dropout": 0.3}),
    "MGU": ("MGU", {}),
    "MinLSTM": ("MinLSTM", {}),
    "sum of directions": ("LSTM", {"merge": "sum", "dropout": 0.3}),
    "average of directions": ("SLSTM", {"merge": "average"}),
    "residual": ("GRU", {"residual": 1, "dropout": 0.3}),
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


def constructor_arguments(config: Config) -> dict[str, Any]:
    """Arguments of the layer's class that make a layer of `config`: those that are not the defaults."""
    fields = {field.name: field.default for field in dataclasses.fields(Config)[1:]}
    given = {name: getattr(config, name) for name in fields}
    if not isinstance(config.hidden_size, int):
        given["num_layers"] = len(config.sizes)
    return {name: value for name, value in given.items() if value != fields[name]}


def make_layer(config: Config, params: dict[str, np.ndarray], **keywords: Any) -> Any:
    """The compiled layer of `config` with these parameters; `keywords` are dtype, rng and num_threads."""
    dtype = next(iter(params.values())).dtype
    layer_class = getattr(fastlstm, config.cell)
    layer = layer_class(**({"dtype": dtype, "rng": 0} | constructor_arguments(config) | keywords))
    layer.load_state_dict(params)
    return layer


def random_params(
    config: Config, rng: np.random.Generator, dtype: Any = np.float64, scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Parameters in the flat order, uniform within scale / sqrt(H); factors of a normalisation about 1."""
    params = {}
    for name, shape in reference.param_shapes(config).items():
        layer = int(name.rpartition("_l")[2].removesuffix("_reverse"))
        bound = scale / np.sqrt(config.sizes[layer])
        values = rng.uniform(-bound, bound, shape)
        params[name] = (values + name.startswith("weight_ln")).astype(dtype)
    return params


@dataclasses.dataclass
class Problem:
    """Inputs of one call of a layer, and gradients of all that it returns.

    `keywords` are those that a layer and the reference take alike.  What stands at steps that are not real is
    NaN, or an index out of range, and gradients of zeros are NaN too: nobody may look at them.
    """

    config: Config
    params: dict[str, np.ndarray]
    x: np.ndarray
    state: Any
    keywords: dict[str, Any]
    bptt: int | None
    seed: int
    dy: np.ndarray
    dstate: Any
    dcells: np.ndarray | None

    def forward(self, training: bool = False, dtype: Any = None, **changes: Any) -> reference.Result:
        """What the reference says."""
        arguments = {"x": self.x, "state": self.state, "params": self.params, "seed": self.seed}
        arguments |= {"training": training, "dtype": dtype} | self.keywords | changes
        return reference.forward(self.config, **arguments)

    def backward(self, training: bool = True, dtype: Any = None, **changes: Any) -> Any:
        """What the reference says: dx, dstate, grads."""
        arguments = {"x": self.x, "state": self.state, "params": self.params, "seed": self.seed}
        arguments |= {"training": training, "dtype": dtype, "bptt": self.bptt, "dy": self.dy}
        arguments |= {"dstate": self.dstate, "dcells": self.dcells} | self.keywords | changes
        return reference.backward(self.config, **arguments)


def random_problem(
    config: Config,
    rng: np.random.Generator,
    T: int | None = None,
    B: int | None = None,
    dtype: Any = np.float64,
    params: dict[str, np.ndarray] | None = None,
    **fixed: Any,
) -> Problem:
    """A batch for `config`: floats or indices, with or without a state, lengths, mask, reset and pad.

    `fixed` says what it has: is_index, is_batched, has_state, has_lengths, has_mask, has_reset of bool, and
    pad and bptt themselves.
    """
    has = {name: bool(rng.integers(2)) for name in ("has_state", "has_lengths", "has_mask", "has_reset")}
    has |= {"is_index": bool(rng.random() < 0.2), "is_batched": bool(rng.random() < 0.85)} | fixed
    has["is_index"] = has["is_index"] and (config.residual != 0 or "is_index" in fixed)
    T = int(rng.integers(1, 9)) if T is None else T
    B = int(rng.integers(1, 6)) if B is None else B
    B = B if has["is_batched"] else 1
    params = random_params(config, rng, dtype) if params is None else params

    keywords: dict[str, Any] = {}
    is_real = np.ones((T, B), bool)
    if has["has_lengths"]:  # of every kind: none at all, one, the whole, and any
        lengths = rng.integers(0, T + 1, B)
        lengths[: min(B, 3)] = rng.permutation([0, T, min(1, T)])[: min(B, 3)]
        keywords["lengths"] = lengths
        is_real &= np.arange(T)[:, np.newaxis] < lengths
    if has["has_mask"]:
        mask = rng.random((T, B)) < rng.choice([0.3, 0.7, 0.9], B)
        keywords["mask"] = as_given(mask, config, has["is_batched"])
        is_real &= mask
    if has["has_reset"]:
        keywords["reset"] = as_given(rng.random((T, B)) < rng.choice([0.15, 0.5]), config, has["is_batched"])
    can_hold = config.residual is None and config.merge == "concat"
    keywords["pad"] = fixed.get("pad", str(rng.choice(["zero", "hold"])) if can_hold else "zero")

    if has["is_index"]:
        x = np.where(is_real, rng.integers(0, config.input_size, (T, B)), -1)
    else:
        x = np.where(is_real[:, :, np.newaxis], rng.standard_normal((T, B, config.input_size)), np.nan)
        x = x.astype(dtype)
    is_padded = ~is_real[:, :, np.newaxis] & (keywords["pad"] == "zero")

    def sequence_like(width: int) -> np.ndarray:
        values = np.where(is_padded, np.nan, rng.standard_normal((T, B, width)))
        return as_given(values.astype(dtype), config, has["is_batched"])

    D, last = config.num_directions, config.num_layers - 1
    bptt = int(rng.integers(1, T + 2)) if rng.integers(3) == 0 else None
    return Problem(
        config,
        params,
        as_given(x, config, has["is_batched"]),
        random_state(config, rng, B, dtype, has["is_batched"]) if has["has_state"] else None,
        keywords,
        fixed.get("bptt", bptt),
        int(rng.integers(2**63)),
        sequence_like(config.output_width(last)),
        random_state(config, rng, B, dtype, has["is_batched"], is_gradient=True),
        sequence_like(D * config.sizes[last]) if "c" in config.states else None,
    )


def as_given(values: np.ndarray, config: Config, is_batched: bool) -> np.ndarray:
    """An array with the time first as a call takes it."""
    if not is_batched:
        return values[:, 0]
    return values.swapaxes(0, 1) if config.batch_first else values


def random_state(
    config: Config,
    rng: np.random.Generator,
    B: int,
    dtype: Any = np.float64,
    is_batched: bool = True,
    is_gradient: bool = False,
) -> Any:
    """A state, or a gradient of one, as a call takes it; n of a state is positive, as it must be."""
    L, D = config.num_layers, config.num_directions
    members = []
    for index, name in enumerate(config.states):
        layers = []
        for layer in range(L):
            values = rng.uniform(-1, 1, (D, B, config.state_widths(layer)[index]))
            values = values + 2 if name == "n" and not is_gradient else values
            layers.append(values.astype(dtype) if is_batched else values.astype(dtype)[:, 0])
        members.append(np.concatenate(layers) if isinstance(config.hidden_size, int) else tuple(layers))
    return tuple(members) if len(members) > 1 else members[0]


def arrays_of(value: Any) -> list[np.ndarray]:
    """All arrays of a result, however nested, in order; None is none."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [array for part in parts for array in arrays_of(part)]


# ---- Passes of a compiled layer, and what they should give -------------------------------------------------


class Draws:
    """In place of a layer's generator: the seed of every pass is the given one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def integers(self, high: int) -> int:
        assert high == 2**63
        return self.seed


def named(name: str, value: Any) -> dict[str, np.ndarray]:
    """The arrays of a result by name and number; those of a list of rows as one."""
    value = np.concatenate(value) if isinstance(value, list) else value
    return {f"{name}{number}": array for number, array in enumerate(arrays_of(value))}


def called(problem: Problem, layer: Any = None, **changes: Any) -> dict[str, np.ndarray]:
    """Results of a call, by name."""
    layer = layer or make_layer(problem.config, problem.params)
    arguments = problem.keywords | ({} if problem.dcells is None else {"return_cells": True}) | changes
    y, state, *cells = layer(
        arguments.pop("x", problem.x), arguments.pop("state", problem.state), **arguments
    )
    return named("y", y) | named("state", state) | named("cells", cells[0] if cells else None)


def recorded(problem: Problem, layer: Any = None, **changes: Any) -> Any:
    """The tape of a forward pass, whose masks are those of the problem's seed."""
    layer = layer or make_layer(problem.config, problem.params)
    layer.rng = Draws(problem.seed)
    arguments = problem.keywords | ({} if problem.dcells is None else {"return_cells": True})
    arguments |= {"bptt": problem.bptt} | changes
    x, state = arguments.pop("x", problem.x), arguments.pop("state", problem.state)
    return layer.forward(x, state, **arguments)


def trained(problem: Problem, layer: Any = None, **changes: Any) -> dict[str, np.ndarray]:
    """Results and gradients of a forward and a backward pass, by name; dx0 is missing for indices."""
    layer = layer or make_layer(problem.config, problem.params)
    layer.zero_grad()
    gradients = [changes.pop(name, getattr(problem, name)) for name in ("dy", "dstate", "dcells")]
    tape = recorded(problem, layer, **changes)
    dx, dstate = tape.backward(*gradients)
    results = named("y", tape.y) | named("state", tape.state) | named("cells", tape.cells)
    results |= named("dx", dx) | named("dstate", dstate)
    return results | {f"d{name}": value.copy() for name, value in layer.grads.items()}


def expected_results(problem: Problem, training: bool | None, dtype: Any = None) -> dict[str, np.ndarray]:
    """What `called`, where `training` is None, or `trained` should give: the reference's results."""
    y, state, cells = problem.forward(bool(training), dtype)
    results = named("y", y) | named("state", state) | named("cells", cells)
    if training is not None:
        dx, dstate, grads = problem.backward(training, dtype)
        results |= named("dx", dx) | named("dstate", dstate)
        results |= {f"d{name}": value for name, value in grads.items()}
    return results


def largest_errors(got: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Of each array the largest error as a part of its largest element, or of 1 where all are smaller.

    What is not finite where the truth is, or has another shape or name, is infinitely wrong.
    """
    assert got.keys() == truth.keys()
    errors = {}
    for name, value in truth.items():
        value, a = np.asarray(value), got[name]
        if a.shape != value.shape or not np.isfinite(a).all():
            errors[name] = np.inf
        elif a.size:
            difference = np.abs(a.astype(value.dtype) - value).max()
            errors[name] = float(difference / max(np.abs(value).max(), 1))
    return errors
