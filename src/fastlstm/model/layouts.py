# SPDX-License-Identifier: BSD-3-Clause
"""Names, shapes, order and first values of the parameters of recurrent layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .checks import checked_number, is_finite
from .parameters import Filler, uniform_filler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .parameters import ParameterSet, Values

__all__: list[str] = []

# Where fl_weights has another name than the parameter.
_FIELDS = {"weight_ln": "weight_ln_ih"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which parameters a layer or cell has.

    Letters: I input features, H hidden units, P width of h, L layers, D directions, G gates.
    """

    input_size: int
    hidden_size: int | tuple[int, ...]
    bias: bool
    dtype: np.dtype[Any]
    options: Mapping[str, Any]  # fields of fl_cell_options
    num_layers: int = 1
    num_directions: int = 1
    merge: str = "concat"
    proj_bias: bool = False
    in_parts: bool = False  # whether each layer is packed on its own
    is_numbered: bool = True  # whether names carry their layer and direction
    _known: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def sizes(self) -> str:
        """Arguments that the size comes from."""
        return "input_size, hidden_size, num_layers" if self.is_numbered else "input_size, hidden_size"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What names of each direction end in."""
        return ("", "_reverse")[: self.num_directions]

    def _facts(self, layer: int) -> tuple[str, str, int]:
        """Letters of gates and states, and P, of a layer."""
        key = "facts", self.hidden(layer)
        if key not in self._known:
            self._known[key] = _core.cell_facts(dict(self.options), self.hidden(layer))
        facts: tuple[str, str, int] = self._known[key]
        return facts

    @property
    def gates(self) -> str:
        """A letter for each gate that has weights, in the order of their rows."""
        return self._facts(0)[0]

    @property
    def states(self) -> str:
        """A letter for each state."""
        return self._facts(0)[1]

    def hidden(self, layer: int) -> int:
        """H of a layer."""
        return self.hidden_size if isinstance(self.hidden_size, int) else self.hidden_size[layer]

    def width(self, layer: int) -> int:
        """P of a layer: of h."""
        return self._facts(layer)[2]

    def output(self, layer: int) -> int:
        """Features of a layer's output."""
        return self.width(layer) * (self.num_directions if self.merge == "concat" else 1)

    def inputs(self, layer: int) -> int:
        """Features of a layer's input."""
        return self.output(layer - 1) if layer else self.input_size

    def kinds(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Names without their ends, and shapes, of what a layer has in each direction: PyTorch's first."""
        key = "kinds", self.inputs(layer), self.hidden(layer)
        if key not in self._known:
            self._known[key] = self._ask_kinds(*key[1:])
        kinds: dict[str, tuple[int, ...]] = self._known[key]
        return kinds

    def _ask_kinds(self, inputs: int, hidden: int) -> dict[str, tuple[int, ...]]:
        facts = _core.parameter_facts(dict(self.options), inputs, hidden)
        has = {"bias_ih": self.bias, "bias_hh": self.bias, "bias_hr": self.proj_bias}
        one_norm = not any(name == "weight_ln_hh" for name, _, _ in facts)
        return {
            "weight_ln" if one_norm and name == "weight_ln_ih" else name: shape
            for name, shape, is_optional in facts
            if not is_optional or has[name]
        }

    def size(self) -> int:
        """Elements of all parameters."""

        def of_layer(layer: int) -> int:
            return self.num_directions * sum(map(math.prod, self.kinds(layer).values()))

        if isinstance(self.hidden_size, tuple):
            return sum(map(of_layer, range(self.num_layers)))
        # However many layers are asked for, this takes no time.
        return of_layer(0) + (of_layer(1) * (self.num_layers - 1) if self.num_layers > 1 else 0)

    def recurrences(self) -> Iterator[tuple[int, str, dict[str, tuple[int, ...]]]]:
        """Layer, end of the names, and `kinds`, of each layer and direction in their order."""
        for layer in range(self.num_layers):
            kinds = self.kinds(layer)
            for suffix in self.suffixes:
                yield layer, f"_l{layer}{suffix}" if self.is_numbered else "", kinds

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all parameters."""
        return {kind + end: shape for _, end, kinds in self.recurrences() for kind, shape in kinds.items()}

    def packed(
        self, parameter_set: ParameterSet, before: tuple[_core.Weights, ...] | None
    ) -> tuple[_core.Weights, ...]:
        """Parameters for the C core, which packs them when they are used: the whole stack, or each layer.

        `before` are those of another set of this layout, or None.
        """
        if before is not None:
            return tuple(_core.Weights(part, None, None, None, parameter_set) for part in before)
        names = tuple(_FIELDS.get(kind, kind) for kind in self.kinds(0))
        D, options = self.num_directions, dict(self.options)
        if not self.in_parts:
            sizes = self.input_size, self.hidden(0), self.num_layers, D
            return (_core.Weights(self.dtype, sizes, options, names, parameter_set),)
        parts, begin = [], 0
        for layer in range(self.num_layers):
            sizes = self.inputs(layer), self.hidden(layer), 1, D
            parts.append(_core.Weights(self.dtype, sizes, options, names, parameter_set, begin))
            begin += D * sum(map(math.prod, self.kinds(layer).values()))
        return tuple(parts)


# ---- First values ------------------------------------------------------------------------------------------


def initial(rng: np.random.Generator, init: str, forget_bias: object, usual_bias: float | None) -> Values:
    """Parameters as ``init`` says, "torch" or "keras"; see `fastlstm.LSTM`.

    `usual_bias` is that of a forget gate where none is given.
    """

    def values(layout: Layout) -> Iterator[NDArray[Any] | Filler]:
        bias = usual_bias if forget_bias is None else _checked_forget_bias(forget_bias, layout)
        for layer, _, kinds in layout.recurrences():
            for kind, shape in kinds.items():
                if init == "torch" and kind in ("weight_ih", "weight_hh"):
                    yield uniform_filler(rng, 1 / math.sqrt(layout.hidden(layer)))
                    continue
                if kind.startswith("weight_ln"):
                    value = np.ones(shape)
                elif kind.startswith("bias_ln"):
                    value = np.zeros(shape)
                elif init == "keras":
                    value = _keras(rng, layout, layer, kind, shape)
                else:
                    value = _uniform(rng, 1 / math.sqrt(layout.hidden(layer)), shape)
                if bias is not None and kind in ("bias_ih", "bias_hh") and "f" in layout.gates:
                    H, gate = layout.hidden(layer), layout.gates.index("f")
                    value[gate * H : (gate + 1) * H] = bias if kind == "bias_ih" else 0
                yield value

    return values


def _checked_forget_bias(value: object, layout: Layout) -> float:
    """`value` as a float, if there is a forget gate with a bias."""
    number = checked_number(value, "forget_bias", "None or a number", is_finite)
    if "f" not in layout.gates:
        raise ValueError(
            f"forget_bias: expected None where the forget gate has no parameters of its own, got {number}"
        )
    if not layout.bias:
        raise ValueError(
            f"forget_bias: expected None with bias=False, as there is no bias to set, got {number}"
        )
    return number


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...]) -> NDArray[Any]:
    return rng.uniform(-bound, bound, shape)


def _keras(
    rng: np.random.Generator, layout: Layout, layer: int, kind: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Glorot uniform (Glorot & Bengio 2010), recurrent matrices orthogonal (Saxe et al. 2013), biases 0.

    Diagonals, which Keras' layers do not have, are drawn as PyTorch draws parameters.
    """
    if kind.startswith("bias"):
        return np.zeros(shape)
    if len(shape) == 1:
        return _uniform(rng, 1 / math.sqrt(layout.hidden(layer)), shape)
    if kind != "weight_hh":
        return _uniform(rng, math.sqrt(6 / sum(shape)), shape)
    rows, columns = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q = q * np.where(np.diagonal(r) < 0, -1, 1)  # else the signs would follow the algorithm
    return q if rows >= columns else q.T
