# SPDX-License-Identifier: BSD-3-Clause
"""Two processes over loopback train a module of fastlstm.torch as one does."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist

import fastlstm.torch as fast
from tests.problems.children import result_of_child, start_child

T, B, I, H = 5, 4, 3, 6


def model_of():
    torch.manual_seed(0)
    return torch.nn.Sequential(fast.LSTM(I, H, 2))


def data():
    return torch.randn(T, B, I, generator=torch.Generator().manual_seed(1))


def steps(model, x):
    """Three steps of SGD on the mean over the rows; returns all parameters."""
    optimiser = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        (model(x)[0] ** 2).mean().backward()
        optimiser.step()
    return optimiser


def trained_beside(rank, place, way):
    """What one of two processes has after training on its half of the rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    try:
        model = model_of()
        if way == "ddp":
            wrapped = torch.nn.parallel.DistributedDataParallel(model)
        else:
            from torch.distributed.fsdp import fully_shard

            wrapped = fully_shard(model)
        steps(wrapped, data()[:, rank * B // 2 : (rank + 1) * B // 2])
        values = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
        dist.barrier()  # nobody leaves while the other still listens
        print(json.dumps([value.detach().numpy().tolist() for value in values]), flush=True)
    finally:
        dist.destroy_process_group()
    os._exit(
        0
    )  # with FSDP the interpreter's own end aborted in 2 of a dozen runs (torch 2.13); why is not known


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_train_as_one(way, tmp_path):
    children = [start_child(trained_beside, rank, str(tmp_path / "store"), way) for rank in range(2)]
    got = [result_of_child(child) for child in children]
    model = model_of()
    steps(model, data())
    for rank in range(2):
        for value, parameter in zip(got[rank], model.parameters(), strict=True):
            np.testing.assert_allclose(value, parameter.detach().numpy(), rtol=0, atol=1e-6)
