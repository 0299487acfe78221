# SPDX-License-Identifier: BSD-3-Clause
"""The cells that PyTorch has: GRU, RNN, projected LSTM, and packed rows of different lengths.

Coupled gates are a plain LSTM whose forget gate has the input gate's weights, negative.  That one, and the
plain LSTM that shows what a padded batch costs, are run in all the ways of the plain LSTM's race.  The others
are not compiled: ``torch.compile`` unrolls every step of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cells import PLAIN
from benchmarks.data import Array
from benchmarks.peers import torch_peer
from benchmarks.peers.base import Case, Prepared, coupled_as_plain

torch: Any = import_module("torch")
rnn: Any = import_module("torch.nn.utils.rnn")


class Way(NamedTuple):
    """A way to run a layer: on (T, B, features), or on the real steps alone as PyTorch packs them."""

    module: Any
    x: Any
    run: Callable[[Any], tuple[Any, Any]]  # x -> y, state
    padded: Callable[[Any], Any]  # y, or anything in the layout of x and y -> (T, B, features)
    laid_out: Callable[[Any], Any]  # the inverse


class Peer(torch_peer.Peer):
    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        if case.shape.cell in (PLAIN, "coupled"):
            return super().variants(replace(case, params=_params(case)))
        variants: dict[str, Callable[[], Prepared]] = {
            name: partial(_prepared, case, make) for name, make in ways(case).items()
        }
        if not case.shape.form.is_ragged:
            variants["traced and frozen"] = partial(_prepared, case, _traced)
        return variants


def ways(case: Case) -> dict[str, Callable[[Case], Way]]:
    """Ways to run the case's layer."""
    return {"packed": _packed, "pack, run, pad": _packing} if case.shape.form.is_ragged else {"eager": _whole}


def tensor(array: Any) -> Any:
    return torch.from_numpy(np.array(array))


def _prepared(case: Case, make: Callable[[Case], Way]) -> Prepared:
    way = make(case)
    call = partial(way.run, way.x)

    def answer() -> tuple[Array, ...]:
        y, state = call()
        members = state if case.shape.form.has_c else (state,)
        return (way.padded(y).numpy(), *(member.numpy() for member in members))

    return Prepared(call, answer)


def _module(case: Case) -> Any:
    shape = case.shape
    options = {"proj_size": shape.P} if shape.form.is_projected else {}
    module = getattr(torch.nn, shape.form.cell)(shape.I, shape.H, **options).eval()
    module.load_state_dict({name: tensor(value) for name, value in _params(case).items()})
    return module


def _params(case: Case) -> Mapping[str, Array]:
    if case.shape.cell != "coupled":
        return case.params
    return {name: coupled_as_plain(value) for name, value in case.params.items()}


def _same(value: Any) -> Any:
    return value


def _whole(case: Case) -> Way:
    module = _module(case)
    return Way(module, tensor(case.x), module, _same, _same)


def _traced(case: Case) -> Way:
    way = _whole(case)
    return way._replace(run=torch.jit.freeze(torch.jit.trace(way.module, (way.x,))))


def _packing(case: Case) -> Way:
    """From the padded batch to the padded output."""
    module, lengths = _module(case), torch.tensor(case.shape.lengths())

    def run(x: Any) -> tuple[Any, Any]:
        y, state = module(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
        return rnn.pad_packed_sequence(y, total_length=case.shape.T)[0], state

    return Way(module, tensor(case.x), run, _same, _same)


def _packed(case: Case) -> Way:
    """From a batch that is packed already to the packed output."""
    module, lengths = _module(case), torch.tensor(case.shape.lengths())
    packed = rnn.pack_padded_sequence(tensor(case.x), lengths, enforce_sorted=False)

    def run(x: Any) -> tuple[Any, Any]:
        y, state = module(packed._replace(data=x))
        return y.data, state

    def padded(value: Any) -> Any:
        return rnn.pad_packed_sequence(packed._replace(data=value), total_length=case.shape.T)[0]

    def laid_out(value: Any) -> Any:
        return rnn.pack_padded_sequence(value, lengths, enforce_sorted=False).data

    return Way(module, packed.data, run, padded, laid_out)
