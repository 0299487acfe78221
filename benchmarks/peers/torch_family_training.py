# SPDX-License-Identifier: BSD-3-Clause
"""A training step of the cells that PyTorch has, by autograd; the plain LSTM as in its own race."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.cells import PLAIN
from benchmarks.data import Array
from benchmarks.peers import torch_training
from benchmarks.peers.base import Case, Prepared, gradients
from benchmarks.peers.torch_family import Way, tensor, ways

torch: Any = import_module("torch")


class Peer(torch_training.Peer):
    def variants(self, case: Case) -> dict[str, Callable[[], Prepared]]:
        if case.shape.cell == PLAIN:
            return super().variants(case)
        return {name: partial(_prepared, case, make) for name, make in ways(case).items()}


def _prepared(case: Case, make: Callable[[Case], Way]) -> Prepared:
    way = make(case)
    x, dy = way.x.requires_grad_(), way.laid_out(tensor(case.dy))
    parameters = dict(way.module.named_parameters())
    leaves = [x, *parameters.values()]

    def call() -> Any:
        dx, *grads = torch.autograd.grad(way.run(x)[0], leaves, dy)
        return dx, *(map(_of_coupled, grads) if case.shape.cell == "coupled" else grads)

    def answer() -> tuple[Array, ...]:
        dx, *grads = call()
        found = {name: grad.numpy() for name, grad in zip(parameters, grads, strict=True)}
        return gradients(case, way.padded(dx).numpy(), found)

    return Prepared(call, answer)


def _of_coupled(grad: Any) -> Any:
    """Gradient of the rows of i, g, o from that of i, f, g, o, where those of f are those of i, negative."""
    i, f, g, o = grad.chunk(4)
    return torch.cat([i - f, g, o])
