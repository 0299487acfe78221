# SPDX-License-Identifier: BSD-3-Clause
"""A layer from gates as programs keep them: alone or in any order, transposed, with either update gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.checks import checked_choice, checked_flag, checked_number, checked_reals, is_finite
from ..model.tensors import readable
from .orders import gates
from .state_dicts import find_groups, layer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["from_gates"]

# Gates of each kind in this package's order, and other letters that programs have for them.
_GATES = {"LSTM": "ifgo", "GRU": "rzn", "RNN": "h", "MGU": "fn"}
_SYNONYMS = {
    "LSTM": {"c": "g", "j": "g", "z": "g"},
    "GRU": {"u": "z", "h": "n", "c": "n", "g": "n"},
    "RNN": {"n": "h", "g": "h", "c": "h"},
    "MGU": {"h": "n", "c": "n", "g": "n"},
}
_MATRICES = ("weight_ih", "weight_hh", "weight_hr")
_PARTS = (*_MATRICES, "weight", "bias", "bias_ih", "bias_hh", "weight_ch", "bias_hr")


def from_gates(
    cell: str,
    layers: Sequence[Any],
    *,
    order: str | None = None,
    transposed: bool = False,
    update: str = "keep",
    forget_bias_added: float = 0.0,
    **options: Any,
) -> Any:
    """Make a layer of weights as programs keep them: gate by gate, or joined in any order.

    Parameters
    ----------
    cell : {"LSTM", "GRU", "RNN", "MGU"}
        Class of the layer.
    layers : sequence of mapping, or of pairs of them
        One mapping for each layer, or two for two directions.  It has the arrays of all gates, joined in
        `order`, by the names ``weight_ih`` (G*H, I), ``weight_hh`` (G*H, H), or both side by side as
        ``weight`` (G*H, I + H); ``bias``, or ``bias_ih`` and ``bias_hh`` (G*H,); ``weight_ch`` ((G-1)*H,),
        the peepholes in `order` without g; ``weight_hr`` (P, H), ``bias_hr`` (P,).  Or it has, by each gate's
        letter, a mapping with such arrays of that gate alone.  Biases that are missing are zero.
    order : str, optional
        Letters of the gates in the order of their blocks.  LSTM: i, f, g (or c, j, z), o; GRU: r, z (or u), n
        (or h, c, g); MGU: f, n.  None is that of PyTorch, ``"ifgo"`` and ``"rzn"``.
    transposed : bool
        Whether matrices are (I, G*H) and (H, G*H), as of ``x @ W``.
    update : {"keep", "new"}
        What z of a GRU multiplies: the old state, as in PyTorch, or the new one, as in the paper of Cho et
        al., madmom, Haiku and DyNet.
    forget_bias_added : float
        What the program adds to the forget gate when it runs, beside its bias: 1 in Haiku and in TensorFlow's
        blocks and contributed cells.
    **options
        Options of the layer.

    Returns
    -------
    layer
        Of the class `cell`.

    Raises
    ------
    TypeError, ValueError
        Something is missing, or unknown, or of another shape; the message names its place in `layers`.

    Examples
    --------
    >>> import numpy as np
    >>> gate = {"weight_ih": np.ones((3, 4)), "weight_hh": np.ones((4, 4)), "bias": np.zeros(4)}
    >>> gru = from_gates("GRU", [{"r": gate, "u": gate, "h": gate}], transposed=True, update="new")
    >>> gru.params["weight_ih_l0"].shape, bool((gru.params["weight_ih_l0"][4:8] == -1).all())
    ((12, 3), True)
    """
    checked_choice(cell, "cell", _GATES)
    checked_choice(update, "update", ("keep", "new"))
    added = checked_number(forget_bias_added, "forget_bias_added", "a number", is_finite)
    reader = _Reader(cell, order, checked_flag(transposed, "transposed"))
    if isinstance(layers, (str, Mapping)) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(
            f"layers: expected a sequence of a mapping for each layer, got {type(layers).__name__}"
        )
    state: dict[str, Array] = {}
    counts = set()
    for number, entry in enumerate(layers):
        directions = [entry] if isinstance(entry, Mapping) else list(entry)
        counts.add(len(directions))
        if len(directions) not in (1, 2) or len(counts) > 1:
            raise ValueError(
                f"layers[{number}]: expected one mapping, or two for two directions, as in all layers, "
                f"got {len(directions)}"
            )
        for direction, end in zip(directions, ("", "_reverse"), strict=False):
            place = f"layers[{number}]" + (f"[{int(bool(end))}]" if len(directions) > 1 else "")
            parts = reader.read(direction, place)
            if update == "new":
                _negate_update(parts, cell, options)
            if added:
                _add_to_forget_gate(parts, cell, added)
            state |= {f"{part}_l{number}{end}": array for part, array in parts.items()}
    return layer_of(state, "", find_groups(state)[""], cell, options)


class _Reader:
    """What `from_gates` was told about all layers."""

    def __init__(self, cell: str, order: Any, transposed: bool) -> None:
        self.letters = _GATES[cell]
        self.synonyms = _SYNONYMS[cell]
        self.transposed = transposed
        if order is not None and not isinstance(order, str):
            raise TypeError(f"order: expected None or letters, got {type(order).__name__}")
        self.order = self.letters if order is None else "".join(map(self._usual, order))
        if sorted(self.order) != sorted(self.letters):
            raise ValueError(f"order: expected the gates of {cell}, {self.letters!r}, got {order!r}")

    def _usual(self, letter: str) -> str:
        return letter if letter in self.letters else self.synonyms.get(letter, letter)

    def read(self, given: Any, place: str) -> dict[str, Array]:
        """Parameters of one direction by PyTorch's names, gates in the package's order."""
        if not isinstance(given, Mapping):
            raise TypeError(f"{place}: expected a mapping, got {type(given).__name__}")
        alone = {name: value for name, value in given.items() if isinstance(value, Mapping)}
        joined = self._parts({name: value for name, value in given.items() if name not in alone}, place)
        if alone:
            self._join(alone, joined, place)
        else:
            for part, array in joined.items():
                if part not in ("weight_hr", "bias_hr"):
                    joined[part] = self._ordered(array, part, f"{place}[{part!r}]")
        return _completed(joined, len(self.letters), place)

    def _parts(self, given: Mapping[Any, Any], place: str) -> dict[str, Array]:
        """Arrays with outputs first; W and U apart."""
        parts: dict[str, Array] = {}
        for name, value in given.items():
            if name not in _PARTS:
                raise ValueError(
                    f"{place}: expected gates of {self.letters!r} or names among {list(_PARTS)}, got {name!r}"
                )
            array = checked_reals(readable(value), f"{place}[{name!r}]")
            is_matrix = name in (*_MATRICES, "weight")
            if array.ndim != 1 + is_matrix or 0 in array.shape:
                raise ValueError(
                    f"{place}[{name!r}]: expected {1 + is_matrix} dimension{'s' * is_matrix}, none 0, "
                    f"got shape {array.shape}"
                )
            parts[name] = array.T if is_matrix and self.transposed else array
        if "bias" in parts:
            parts["bias_ih"] = parts.pop("bias")
        return parts

    def _join(self, alone: Mapping[Any, Any], joined: dict[str, Array], place: str) -> None:
        """Gates that stand alone, in the package's order, to what is `joined` already."""
        own: dict[str, dict[str, Array]] = {}
        for name, value in alone.items():
            letter = self._usual(name) if isinstance(name, str) else name
            if letter not in self.letters or letter in own or len(letter) != 1:
                raise ValueError(f"{place}: expected one each of the gates {self.letters!r}, got {name!r}")
            own[letter] = self._parts(value, f"{place}[{name!r}]")
        for letter in self.letters:
            if letter not in own:
                raise ValueError(f"{place}: expected the gate {letter!r}, got none")
        for part in dict.fromkeys(part for parts in own.values() for part in parts):
            holders = [letter for letter in self.letters if part != "weight_ch" or letter != "g"]
            blocks = []
            for letter in holders:
                if part not in own[letter]:
                    raise ValueError(
                        f"{place}[{letter!r}]: expected {part!r}, as other gates have it, got none"
                    )
                blocks.append(own[letter][part])
                if blocks[-1].shape != blocks[0].shape:
                    raise ValueError(
                        f"{place}[{letter!r}][{part!r}]: expected shape {blocks[0].shape}, as of "
                        f"{holders[0]!r}, got {blocks[-1].shape}"
                    )
            joined[part] = np.concatenate(blocks)

    def _ordered(self, array: Array, part: str, place: str) -> Array:
        source, target = self.order, self.letters
        if part == "weight_ch":
            source, target = source.replace("g", ""), target.replace("g", "")
        if array.shape[0] % len(source):
            raise ValueError(
                f"{place}: expected a multiple of {len(source)} gates' units, got {array.shape[0]}"
            )
        return gates(array, source, target)


def _completed(parts: dict[str, Array], G: int, place: str) -> dict[str, Array]:
    """W and U apart, and both biases where there is one."""
    whole = parts.pop("weight", None)
    if whole is not None:
        width = parts["weight_hr"].shape[0] if "weight_hr" in parts else whole.shape[0] // G
        if whole.shape[1] <= width:
            raise ValueError(f"{place}['weight']: expected I + {width} columns, got {whole.shape[1]}")
        parts["weight_ih"], parts["weight_hh"] = whole[:, :-width], whole[:, -width:]
    for part in ("weight_ih", "weight_hh"):
        if part not in parts:
            raise ValueError(f"{place}: expected {part!r}, got none")
    for part, other in (("bias_ih", "bias_hh"), ("bias_hh", "bias_ih")):
        if part in parts and other not in parts:
            parts[other] = np.zeros_like(parts[part])
    return parts


def _negate_update(parts: dict[str, Array], cell: str, options: Mapping[str, Any]) -> None:
    """Make z what multiplies the old state: sigmoid(-a) = 1 - sigmoid(a)."""
    if cell != "GRU":
        raise ValueError(f"update: expected 'keep' with {cell}, which has no update gate, got 'new'")
    activations = options.get("activations")
    if activations is not None and activations[0] not in ("Sigmoid", "HardSigmoid"):
        raise ValueError(
            f"update: expected 'keep' with an activation f for which f(-a) is not 1 - f(a), got 'new' and "
            f"{activations[0]!r}"
        )
    for part, array in parts.items():
        H = array.shape[0] // 3
        parts[part] = np.concatenate([array[:H], -array[H : 2 * H], array[2 * H :]])


def _add_to_forget_gate(parts: dict[str, Array], cell: str, added: float) -> None:
    if cell not in ("LSTM", "MGU"):
        raise ValueError(f"forget_bias_added: expected 0 with {cell}, which has no forget gate, got {added}")
    rows = parts["weight_ih"].shape[0]
    H, gate = rows // len(_GATES[cell]), _GATES[cell].index("f")
    for part in ("bias_ih", "bias_hh"):
        parts[part] = np.array(parts.get(part, np.zeros(rows, parts["weight_ih"].dtype)))
    parts["bias_ih"][gate * H : (gate + 1) * H] += added
