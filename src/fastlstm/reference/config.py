# SPDX-License-Identifier: BSD-3-Clause
"""What a stack of layers is made of: its options, and the names and shapes of its parameters.

`Config` holds the options of the layers' constructors by the same names.  Depends on activations.py; read
cells.py next.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from .activations import Activation, read_activations

__all__ = ["CELL_OPTIONS", "Config", "param_shapes"]

# Options that every cell has, and those of the LSTM.
_COMMON = (
    *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"),
    *("input_dropout", "dropout_masks", "init", "reverse", "reverse_order", "residual", "merge"),
)
_LSTM = (
    *("proj_size", "proj_bias", "proj_clip", "peephole", "coupled", "forget_gate", "forget_bias"),
    *("cell_clip", "gate_clip", "layer_norm", "zoneout_c", "zoneout_h", "zoneout_eval"),
    *("recurrent_dropout", "recurrent_dropout_masks", "activations"),
)
CELL_OPTIONS: dict[str, tuple[str, ...]] = {
    "LSTM": (*_COMMON, *_LSTM),
    "GRU": (*_COMMON, "reset_after", "activations", "gate_clip"),
    "MGU": _COMMON,
    "RNN": (*_COMMON, "nonlinearity", "activations", "gate_clip"),
    "IndRNN": (*_COMMON, "nonlinearity"),
    "SLSTM": (*_COMMON, "heads", "n_floor"),
    "MinGRU": _COMMON,
    "MinLSTM": _COMMON,
}
# Members of the state, the one that is the output first; all have the cell's width but a projected h.
STATES = {"LSTM": ("h", "c"), "SLSTM": ("h", "c", "n", "m")}
_GATES = {
    "GRU": "rzn",
    "MGU": "fn",
    "RNN": "h",
    "IndRNN": "h",
    "SLSTM": "ifzo",
    "MinGRU": "zh",
    "MinLSTM": "fih",
}
_LIKE_TORCH = ("LSTM", "GRU", "MGU", "RNN")  # with a recurrent matrix and two biases
_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}
_NONLINEARITIES = {"tanh": "Tanh", "relu": "Relu"}
_CHOICES = {
    "coupled": (None, "f_from_i", "i_from_f"),
    "layer_norm": (None, "gate", "haste"),
    "zoneout_eval": ("expectation", "off"),
    "recurrent_dropout_masks": ("gate", "tied"),
    "dropout_masks": ("step", "sequence"),
    "init": ("torch", "keras"),
    "reverse_order": ("aligned", "processing"),
    "merge": ("concat", "sum", "average"),
    "nonlinearity": tuple(_NONLINEARITIES),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a stack of layers, by the names and defaults of the constructors.

    Letters: I input features, H hidden units, P width of h (`proj_size`, or H), L layers, D directions,
    W width of a layer's output (D*P where the directions are concatenated, else P).

    Parameters
    ----------
    cell : str
        ``"LSTM"``, ``"GRU"``, ``"MGU"``, ``"RNN"``, ``"IndRNN"``, ``"SLSTM"``, ``"MinGRU"`` or ``"MinLSTM"``.
    input_size : int
        I.
    hidden_size : int or sequence of int
        H; a sequence has one for each layer, and states are then one array (D, B, width) a layer.
    num_layers : int
        L; it follows from `hidden_size` where that is a sequence.
    bias : bool
        Whether there are ``bias_ih`` and ``bias_hh``.
    batch_first : bool
        Whether sequences are (B, T, features) in place of (T, B, features); `mask` and `reset` too.
    dropout : float
        Probability of dropping an element of a layer's output before the next layer reads it, in training.
    input_dropout, dropout_masks : float, {"step", "sequence"}
        Likewise of x, with one mask for all steps; whether `dropout` has a mask for each step or one for all.
    bidirectional : bool
        Whether each layer has a second direction, from the end to the start.
    proj_size, proj_bias, proj_clip : int, bool, float or None
        LSTM: h is projected to `proj_size` numbers, 0 is none; with a bias; limited to +-`proj_clip`.
    peephole : bool
        LSTM: sigmoid gates see the cell state through a diagonal.
    coupled : {None, "f_from_i", "i_from_f"}
        LSTM: one of input and forget gate is 1 minus the other.
    forget_gate : bool
        LSTM: False is the cell of 1997, f = 1.
    cell_clip, gate_clip : float or None
        Limits of c, and of the inputs of the gates' activations.
    layer_norm : {None, "gate", "haste"}
        LSTM: normalisation of each gate's input; or of both products and of c.
    zoneout_c, zoneout_h : float
        LSTM: probability in training that an element of c, or h, keeps its old value.
    zoneout_eval : {"expectation", "off"}
        Outside of training: weight the old value by the probability, or not at all.
    recurrent_dropout, recurrent_dropout_masks : float, {"gate", "tied"}
        LSTM: probability of dropping an element of h on its way into the gates, for a whole sequence;
        each gate with a mask of its own, or all with one.
    activations : sequence, optional
        LSTM: f, g, h (Sigmoid, Tanh, Tanh); GRU: f, g (Sigmoid, Tanh); RNN: f.  Each a name of `activation`,
        or a tuple of the name and its parameters.
    forget_bias, init
        How parameters are drawn; they change nothing here.
    reset_after : bool
        GRU: the reset gate acts on the recurrent product, or else on h before it.
    nonlinearity : {"tanh", "relu"}, optional
        RNN, IndRNN; None is tanh for RNN and relu for IndRNN.
    heads, n_floor : int, float
        SLSTM: blocks of the recurrent matrix; least value of the normaliser.
    reverse, reverse_order : bool, {"aligned", "processing"}
        The one direction runs from the end to the start; the last layer's output stands at the time of its
        input, or in the order in which it was computed.
    residual : int, optional
        From this layer on, a layer's input is added to its output.
    merge : {"concat", "sum", "average"}
        How the two directions' outputs become the layer's.

    Raises
    ------
    ValueError
        If an option is none of the cell's, a value does not fit, or two options cannot go together.
    """

    cell: str
    input_size: int
    hidden_size: int | Sequence[int]
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    peephole: bool = False
    coupled: str | None = None
    forget_gate: bool = True
    proj_bias: bool = False
    proj_clip: float | None = None
    cell_clip: float | None = None
    gate_clip: float | None = None
    layer_norm: str | None = None
    zoneout_c: float = 0.0
    zoneout_h: float = 0.0
    zoneout_eval: str = "expectation"
    recurrent_dropout: float = 0.0
    recurrent_dropout_masks: str = "gate"
    activations: Sequence[Any] | None = None
    forget_bias: float | None = None
    init: str = "torch"
    reset_after: bool = True
    nonlinearity: str | None = None
    heads: int = 1
    n_floor: float = 0.0
    reverse: bool = False
    reverse_order: str = "aligned"
    residual: int | None = None
    merge: str = "concat"
    input_dropout: float = 0.0
    dropout_masks: str = "step"

    def __post_init__(self) -> None:
        if self.cell not in CELL_OPTIONS:
            raise ValueError(f"cell: expected one of {', '.join(CELL_OPTIONS)}, got {self.cell!r}")
        if not isinstance(self.hidden_size, int):
            sizes = tuple(self.hidden_size)
            if self.num_layers not in (1, len(sizes)):
                raise ValueError(
                    f"num_layers: expected {len(sizes)} as of hidden_size, got {self.num_layers}"
                )
            object.__setattr__(self, "hidden_size", sizes)
            object.__setattr__(self, "num_layers", len(sizes))
        if self.activations is not None:  # so that a list of lists does not make it unhashable
            entries = tuple(e if isinstance(e, str) else tuple(e) for e in self.activations)
            object.__setattr__(self, "activations", entries)
        _check_values(self)
        _check_together(self)

    @property
    def sizes(self) -> tuple[int, ...]:
        """H of each layer."""
        size = self.hidden_size
        return (size,) * self.num_layers if isinstance(size, int) else tuple(size)

    @property
    def num_directions(self) -> int:
        """D."""
        return 1 + self.bidirectional

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the parameters' names of each direction end in."""
        return ("", "_reverse")[: self.num_directions]

    @property
    def states(self) -> tuple[str, ...]:
        """Members of the state."""
        return STATES.get(self.cell, ("h",))

    @property
    def gates(self) -> str:
        """A letter for each gate that has weights, in the order of their rows."""
        if self.cell != "LSTM":
            return _GATES[self.cell]
        if not self.forget_gate or self.coupled == "f_from_i":
            return "igo"
        return "fgo" if self.coupled == "i_from_f" else "ifgo"

    def width(self, layer: int) -> int:
        """Width of h in each direction of a layer: P."""
        return self.proj_size or self.sizes[layer]

    def output_width(self, layer: int) -> int:
        """Features of a layer's output: W."""
        return self.width(layer) * (self.num_directions if self.merge == "concat" else 1)

    def input_width(self, layer: int) -> int:
        """Features of a layer's input."""
        return self.output_width(layer - 1) if layer else self.input_size

    def state_widths(self, layer: int) -> tuple[int, ...]:
        """Width of each member of the state."""
        return tuple(self.width(layer) if name == "h" else self.sizes[layer] for name in self.states)

    def functions(self) -> tuple[Activation, ...]:
        """Activations of an LSTM (f, g, h), a GRU (f, g), an RNN or IndRNN (f)."""
        defaults = _DEFAULT_ACTIVATIONS.get(self.cell)
        if defaults is None:
            defaults = (_NONLINEARITIES[self.nonlinearity or _usual(self.cell)],)
        return read_activations(self.activations, defaults)


def param_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters, in the order in which a layer lays them out.

    Parameters
    ----------
    config : Config

    Returns
    -------
    dict of str to tuple of int
        Layer by layer and direction by direction, each with PyTorch's names first.
    """
    return {
        f"{kind}_l{layer}{suffix}": shape
        for layer in range(config.num_layers)
        for suffix in config.suffixes
        for kind, shape in cell_shapes(config, layer).items()
    }


def cell_shapes(config: Config, layer: int) -> dict[str, tuple[int, ...]]:
    """Kinds and shapes of the parameters of one layer and direction; `param_shapes` names them."""
    I, H, P = config.input_width(layer), config.sizes[layer], config.width(layer)
    rows = len(config.gates) * H
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, I)}
    if config.cell in _LIKE_TORCH:
        shapes["weight_hh"] = (rows, P)
    elif config.cell == "IndRNN":
        shapes["weight_hh"] = (H,)
    elif config.cell == "SLSTM":
        shapes["weight_hh"] = (rows, H // config.heads)
    if config.bias:
        shapes["bias_ih"] = (rows,)
        if config.cell in _LIKE_TORCH:
            shapes["bias_hh"] = (rows,)
    if config.peephole:
        shapes["weight_ch"] = (rows - H,)  # all gates but g
    if config.proj_size:
        shapes["weight_hr"] = (P, H)
    if config.proj_bias:
        shapes["bias_hr"] = (P,)
    if config.layer_norm == "gate":
        shapes["weight_ln"] = (rows,)
    if config.layer_norm == "haste":
        shapes |= {"weight_ln_ih": (rows,), "weight_ln_hh": (rows,), "weight_ln_c": (H,), "bias_ln_c": (H,)}
    return shapes


def _usual(cell: str) -> str:
    """The nonlinearity of a cell where none is given."""
    return "relu" if cell == "IndRNN" else "tanh"


# ---- Checks ----------------------------------------------------------------------------------------------


def _check_values(config: Config) -> None:
    """Each option by itself."""
    allowed = CELL_OPTIONS[config.cell]
    for field in dataclasses.fields(config)[1:]:
        name, value = field.name, getattr(config, field.name)
        if name not in allowed and value != field.default:
            raise ValueError(f"{name}: no option of {config.cell}, got {value!r}")
        if name in _CHOICES and value not in (*_CHOICES[name], field.default):
            raise ValueError(f"{name}: expected one of {_CHOICES[name]}, got {value!r}")
    for name in ("dropout", "input_dropout", "recurrent_dropout", "zoneout_c", "zoneout_h"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(config, name)}")
    for name in ("gate_clip", "cell_clip", "proj_clip"):
        limit = getattr(config, name)
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}: expected None or a number above 0, got {limit}")
    counts = {"input_size": config.input_size, "num_layers": config.num_layers, "heads": config.heads}
    for name, count in [*counts.items(), *(("hidden_size", size) for size in config.sizes)]:
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    if config.proj_size < 0:
        raise ValueError(f"proj_size: expected at least 0, got {config.proj_size}")
    if not 0 <= config.n_floor < float("inf"):
        raise ValueError(f"n_floor: expected a finite number of at least 0, got {config.n_floor}")
    if any(size % config.heads for size in config.sizes):
        raise ValueError(f"heads: expected a divisor of {config.hidden_size}, got {config.heads}")
    if config.residual is not None and not 0 <= config.residual < config.num_layers:
        raise ValueError(
            f"residual: expected None or a layer from 0 to {config.num_layers - 1}, got {config.residual}"
        )
    config.functions()


def _check_together(config: Config) -> None:
    """Options that cannot go together, and why."""
    refused = {
        "coupled": (
            config.coupled is not None and not config.forget_gate,
            "None with forget_gate=False: there are no two gates to couple",
        ),
        "zoneout_h": (
            config.zoneout_h > 0 and config.proj_size > 0,
            "0 with proj_size: the cell's own output is then no state, and has no old value",
        ),
        "peephole": (
            config.peephole and config.layer_norm == "haste",
            "False with layer_norm='haste': that normalises the products before c could be added",
        ),
        "proj_bias": (config.proj_bias and not config.proj_size, "False without proj_size"),
        "proj_clip": (config.proj_clip is not None and not config.proj_size, "None without proj_size"),
        "forget_bias": (
            config.forget_bias is not None and not (config.bias and "f" in config.gates),
            "None where the forget gate has no bias",
        ),
        "nonlinearity": (
            config.activations is not None and config.nonlinearity not in (None, _usual(config.cell)),
            "none beside activations, which are the same",
        ),
        "reverse": (
            config.reverse and config.bidirectional,
            "False with bidirectional: there is a reverse direction already",
        ),
        "reverse_order": (
            config.reverse_order != "aligned" and not config.reverse,
            "'aligned' without reverse: there is no other order",
        ),
        "merge": (
            config.merge != "concat" and not config.bidirectional,
            "'concat' without bidirectional: there is one direction alone",
        ),
    }
    for name, (is_refused, expected) in refused.items():
        if is_refused:
            raise ValueError(f"{name}: expected {expected}, got {getattr(config, name)!r}")
    if config.residual is not None:
        for layer in range(config.residual, config.num_layers):
            inputs, outputs = config.input_width(layer), config.output_width(layer)
            if inputs != outputs:
                raise ValueError(
                    f"residual: expected layers with as many outputs as inputs, "
                    f"got {inputs} inputs and {outputs} outputs of layer {layer}"
                )
