# SPDX-License-Identifier: BSD-3-Clause
"""What all recurrent layers and cells share: their options, parameters and states.

The layers are in lstm.py, slstm.py, gru.py, rnn.py and minimal.py.  A call of one stack on one array goes
straight to _core; all others pass through `RecurrentLayer`, which has batch.py find the rows and parts.py run
the stacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core
from ..model import layouts, options
from ..model.checks import checked_choice, checked_flag, checked_index, checked_probability
from ..model.layouts import Layout
from ..model.options import Option, choice
from ..model.parameters import Parameters, ParameterSet, Values, warn
from ..passes.batch import Order
from ..passes.calls import Calls
from ..passes.parts import Plan
from ..passes.streams import Origin

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__: list[str] = []


class Recurrent(Parameters):
    """What layers and cells share: their parameters are packed for the C core."""

    _kind: ClassVar[str]  # as fl_cell_set_option takes it
    _keras_forget_bias: ClassVar[float | None] = None  # as Keras' layer of this kind has it at first
    _is_numbered: ClassVar[bool]  # whether names of parameters carry their layer and direction
    _place = "_packed"
    _other_settings = Parameters._other_settings | {"num_threads": None}
    _not_kept = Parameters._not_kept | {"_plan"}

    if TYPE_CHECKING:
        num_threads: int | None
        _packed: tuple[_core.Weights, ...]

    input_size = Option(_core.count)
    bias = Option(checked_flag, True, is_shown=True)

    def _first_values(self, given: dict[str, Any]) -> Values:
        init = checked_choice(given.pop("init", "torch"), "init", ("torch", "keras"))
        usual = self._keras_forget_bias if init == "keras" else None
        return layouts.initial(self.rng, init, given.pop("forget_bias", None), usual)

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> Layout:
        names = ("input_size", "hidden_size", "num_layers", "bias", "merge", "proj_bias")
        return Layout(
            **{name: settings[name] for name in names if name in settings},
            num_directions=1 + settings.get("bidirectional", False),
            dtype=dtype,
            options=options.fields(type(self), settings),
            in_parts=_is_in_parts(settings),
            is_numbered=self._is_numbered,
        )

    def _further_attributes(
        self, settings: dict[str, Any], layout: Layout, given: dict[str, Any]
    ) -> dict[str, Any]:
        threads = given["num_threads"]
        return {"num_threads": None if threads is None else _core.count(threads, "num_threads")}

    def _ready(self, parameter_set: ParameterSet) -> tuple[_core.Weights, ...]:
        layout: Layout = parameter_set.layout
        before: tuple[_core.Weights, ...] | None = self._packed
        is_same = before is not None and before[0].source.layout is layout
        return layout.packed(parameter_set, before if is_same else None)

    def _parameter_set(self) -> ParameterSet:
        self._own_settings()  # or an exception
        source: ParameterSet = self._packed[0].source
        return source

    def _config(self) -> dict[str, Any]:
        return self._own_settings() | {"num_threads": self.num_threads}


def _is_in_parts(settings: dict[str, Any]) -> bool:
    """Whether layers are packed one by one: they differ, or more is between them than the C core does."""
    return (
        isinstance(settings["hidden_size"], tuple)
        or settings.get("merge", "concat") != "concat"
        or settings.get("residual") is not None
    )


def _checked_residual(value: Any, name: str) -> int | None:
    return None if value is None else checked_index(value, name, 0)


def _refused_layer_count(o: options.Settings) -> str | bool:
    """A sequence of sizes says how many there are."""
    sizes = o["hidden_size"]
    return (
        isinstance(sizes, tuple)
        and o["num_layers"] != len(sizes)
        and f"{len(sizes)}, as many as hidden_size has"
    )


def _refused_residual(o: options.Settings) -> str | bool:
    count = options.layer_count(o)
    return o["residual"] >= count and f"a layer from 0 to {count - 1}"


class RecurrentLayer(Recurrent, Calls):
    """A stack of recurrent layers over whole sequences; see `fastlstm.LSTM`."""

    _is_numbered = True

    hidden_size: Option[Any] = Option(options.checked_hidden_size)
    num_layers = Option(_core.count, 1, _refused_layer_count, is_shown=True)
    batch_first: Option[bool] = Option(checked_flag, False, is_shown=True)
    dropout: Option[float] = Option(checked_probability, 0.0, is_shown=True)
    bidirectional = Option(checked_flag, False, is_shown=True)
    reverse = Option(
        checked_flag,
        False,
        lambda o: o["bidirectional"] and "False with bidirectional, which has a direction from the end",
    )
    reverse_order = Option(
        choice("aligned", "processing"),
        "aligned",
        lambda o: not o["reverse"] and "'aligned' without reverse, as time is the order of processing",
    )
    input_dropout: Option[float] = Option(checked_probability, 0.0)
    dropout_masks: Option[str] = Option(choice("step", "sequence"), "step")
    residual = Option(_checked_residual, None, _refused_residual)
    merge = Option(
        choice("concat", "sum", "average"),
        "concat",
        lambda o: not o["bidirectional"] and "'concat' without bidirectional, as there is one direction only",
    )

    # ---- Construction -------------------------------------------------------------------------------------

    # Of the kinds of cell that have no options; others write theirs out.
    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        input_dropout: float = 0.0,
        dropout_masks: str = "step",
        init: str = "torch",
        reverse: bool = False,
        reverse_order: str = "aligned",
        residual: int | None = None,
        merge: str = "concat",
        dtype: DTypeLike = np.float32,
        num_threads: int | None = None,
        rng: Any = None,
    ) -> None:
        self._construct(locals())

    def _make_layout(self, settings: dict[str, Any], dtype: np.dtype[Any]) -> Layout:
        settings["num_layers"] = options.layer_count(settings)
        layout = super()._make_layout(settings, dtype)
        residual = settings["residual"]
        for layer in range(layout.num_layers if residual is None else residual, layout.num_layers):
            if layout.inputs(layer) != layout.output(layer):
                raise ValueError(
                    "residual: expected layers that have as many outputs as inputs, got "
                    f"{layout.inputs(layer)} inputs and {layout.output(layer)} outputs of layer {layer}"
                )
        return layout

    def _construct(self, arguments: Mapping[str, Any]) -> None:
        super()._construct(arguments)
        if self.dropout and self.num_layers == 1:
            warn(
                f"dropout: expected num_layers of at least 2 with it, as it acts between layers, "
                f"got {self.dropout} and one layer, which is trained without"
            )

    def _further_attributes(
        self, settings: dict[str, Any], layout: Layout, given: dict[str, Any]
    ) -> dict[str, Any]:
        order = Order(
            settings["reverse"],
            settings["reverse_order"] == "processing",
            layout.num_directions,
            settings["batch_first"],
            needs_inner=(
                settings["merge"] != "concat"
                or settings["residual"] is not None
                or settings["input_dropout"] > 0
            ),
            is_kept=False,
        )
        is_listed = isinstance(settings["hidden_size"], tuple)
        plan = Plan(
            layout.num_directions,
            settings["merge"],
            settings["residual"],
            settings["dropout"],
            settings["dropout_masks"] == "sequence",
            settings["input_dropout"],
            is_listed,
            order,
        )
        is_direct = not layout.in_parts and not settings["reverse"] and not settings["input_dropout"]
        direct = settings["batch_first"], plan.dropout, plan.is_tied, is_direct
        return super()._further_attributes(settings, layout, given) | {"_plan": plan, "_direct": direct}

    def _origin(self) -> Origin:
        return Origin(type(self), self._config() | {"num_threads": None})


class RecurrentCell(Recurrent, _core.Step):
    """One time step of one layer; see `fastlstm.LSTMCell`."""

    _is_numbered = False

    hidden_size = Option(_core.count)

    # Of the kinds that have no options here.
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        num_threads: int | None = None,
        rng: Any = None,
    ) -> None:
        self._construct(locals())
