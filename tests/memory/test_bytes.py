# SPDX-License-Identifier: BSD-3-Clause
"""Bytes: what a tape keeps, what a pass takes beside it; ragged rows take memory for their steps alone."""

from __future__ import annotations

import itertools
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastlstm
from tests.problems.children import in_child
from tests.problems.comparing import assert_same_bits
from tests.problems.inside import workspace_bytes
from tests.problems.problem import DTYPES
from tests.problems.running import SAVES

from .probes import MEGABYTE, high_water, resident_bytes

# Places in one block of memory begin on cache lines, and small things are kept beside the arrays.
SLACK = 1024


# ---- Bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_bytes_that_a_tape_keeps(bidirectional, dtype):
    """By time step, row, layer and direction, in elements: c, h of all layers but the last, four gates."""
    for T, B, H, L in ((1, 1, 1, 1), (50, 1, 33, 1), (40, 7, 65, 3), (13, 20, 8, 2)):
        layer = fastlstm.LSTM(9, H, L, bidirectional=bidirectional, dtype=dtype)
        x = np.zeros((T, B, 9), dtype)
        one = T * B * L * layer.num_directions * H * np.dtype(dtype).itemsize
        inner = one * (L - 1) // L
        assert 5 * one + inner <= layer.forward(x).nbytes <= 5 * one + inner + SLACK
        assert one + inner <= layer.forward(x, save="states").nbytes <= one + inner + SLACK
        assert 5 * one + inner <= 6 * one  # 24 H bytes in float32
        assert one + inner <= 2 * one  # 8 H bytes
        for k in (1, 2, 7, 13, T, T + 1, 10**15):
            states = 2 * one // T * ((T - 1) // k)
            assert states <= layer.forward(x, save=k).nbytes <= states + SLACK


def test_bytes_do_not_depend_on_what_was_recorded_before():
    layer = fastlstm.LSTM(9, 33, 2)
    sizes = {}
    for T, save in (*itertools.product((5, 90, 7), SAVES), (5, "all"), (90, 3)):
        tape = layer.forward(np.zeros((T, 4, 9), np.float32), save=save)
        assert sizes.setdefault((T, save), tape.nbytes) == tape.nbytes
        tape.backward(np.ones_like(tape.y))


LONG = {"T": 4000, "B": 8, "I": 4, "H": 128, "L": 3}
BOTH_WAYS = {"T": 4000, "B": 8, "I": 4, "H": 64, "L": 2}


def bytes_of_a_pass(name, save):
    """Resident bytes: what a tape keeps; most during forward and backward; beyond arguments and results."""
    T, B, I, H, L = {"long": LONG, "both ways": BOTH_WAYS}[name].values()
    layer = fastlstm.LSTM(I, H, L, bidirectional=name == "both ways", num_threads=1)
    x = np.ones((T, B, I), np.float32)
    dy = np.ones((T, B, layer.num_directions * H), np.float32)
    small = layer.forward(x[:50], save=save)
    small.backward(dy[:50])  # scratch memory and code are there
    del small
    before = resident_bytes()
    tape = layer.forward(x, save=save)
    kept = resident_bytes() - before - tape.y.nbytes - x.nbytes
    nbytes = tape.nbytes
    tape.backward(dy)
    return [nbytes, kept, high_water() - before - dy.nbytes - 2 * x.nbytes]


@pytest.mark.parametrize("save", ["all", "states", 64])
def test_resident_memory_of_a_long_pass(save):
    nbytes, kept, most = in_child(bytes_of_a_pass, "long", save)
    states = 8 * LONG["H"] * LONG["T"] * LONG["B"] * LONG["L"]
    assert nbytes <= {"all": 3 * states, "states": states}.get(save, states / 64 + SLACK)
    # What is kept is what is said, but for pages of workspace; a huge page is 2 MB.
    assert kept <= nbytes + 12 * MEGABYTE
    assert most <= nbytes + 24 * MEGABYTE  # chunks, and the parameters in another order
    assert states > 80 * MEGABYTE  # so that none of these bounds is met by keeping all states


@pytest.mark.parametrize("save", ["states", 64])
def test_resident_memory_of_a_bidirectional_pass(save):
    """The gradient of an inner layer's output is there as a whole, twice."""
    nbytes, kept, most = in_child(bytes_of_a_pass, "both ways", save)
    output = 4 * 2 * BOTH_WAYS["H"] * BOTH_WAYS["T"] * BOTH_WAYS["B"]
    assert kept <= nbytes + output + 12 * MEGABYTE
    assert most <= nbytes + 3 * output + 24 * MEGABYTE


def forward_without_memory():
    """Limit the address space: whatever the allocation that fails, it is an error, and the layer usable."""
    layer = fastlstm.LSTM(4, 256, num_threads=1, rng=0)
    x = np.zeros((2000, 8, 4), np.float32)
    small = layer.forward(x[:5])
    expected = small.backward(np.ones_like(small.y))
    grads = layer.flat_grads.copy()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + 48 * MEGABYTE, limits[1]))  # y fits, gates do not
    with pytest.raises(MemoryError):
        layer.forward(x)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert_same_bits(layer.flat_grads, grads)
    layer.zero_grad()
    small = layer.forward(x[:5])
    assert_same_bits(small.backward(np.ones_like(small.y)), expected)
    assert_same_bits(layer.flat_grads, grads)
    return "done"


def test_a_tape_that_does_not_fit_into_memory_is_an_error():
    assert in_child(forward_without_memory) == "done"


# ---- Ragged rows -------------------------------------------------------------------------------------------

RAGGED_SLACK = 5 * 256  # five places in one block of memory, each up to the second next line
LENGTHS = {
    "one long": [3, 90, 0, 2, 1, 5, 0, 4],
    "nearly equal": [90, 90, 89, 90, 90, 90, 90, 90],
    "equal": [90] * 8,
    "none": [0] * 8,
}
# A tile cell of each kind, and whole-row cells; what a step saves and the states beside h, in rows of H.
KEPT: dict[str, tuple[Any, int, int]] = {
    "LSTM": (fastlstm.LSTM, 4, 1),
    "GRU": (fastlstm.GRU, 4, 0),
    "SLSTM": (fastlstm.SLSTM, 4, 3),
    "MinGRU": (fastlstm.MinGRU, 2, 0),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", KEPT)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_tape_keeps_what_real_steps_take(lengths, cell, bidirectional, dtype):
    """By real step, layer and direction: what the cell saves and its states, h of all layers but the last."""
    counts = np.array(LENGTHS[lengths])
    N, B, H = int(counts.sum()), len(counts), 33
    x = np.zeros((90, B, 9), dtype)
    make, saved, states = KEPT[cell]
    for L in (1, 3):
        layer = make(9, H, L, bidirectional=bidirectional, dtype=dtype)
        one = layer.num_directions * H * np.dtype(dtype).itemsize
        sizes: dict[str | int, int] = {"all": N * one * (L * (saved + states) + L - 1)}
        if cell == "LSTM":
            sizes["states"] = N * one * (L * states + L - 1)
        for k in (1, 7, 89, 90, 10**15):
            sizes[k] = one * L * (1 + states) * int((np.maximum(counts - 1, 0) // k).sum())
        for save, size in sizes.items():
            nbytes = layer.forward(x, lengths=counts, save=save).nbytes
            assert size <= nbytes <= size + 16 * B + RAGGED_SLACK, (save, L)  # where rows begin, too


def test_a_tape_keeps_the_same_of_any_form_of_ragged_rows():
    counts = np.array(LENGTHS["one long"])
    x = np.ones((90, len(counts), 5), np.float32)
    rows = [np.array(x[:count, b]) for b, count in enumerate(counts)]
    holes = np.zeros(x.shape[:2], bool)
    for b, count in enumerate(counts):
        holes[90 - count - (count < 90) : 90 - (count < 90), b] = True
    for bidirectional, save in itertools.product((False, True), ("all", 4)):
        layer = fastlstm.GRU(5, 12, 2, bidirectional=bidirectional)
        tapes = [
            layer.forward(x, lengths=counts, save=save),
            layer.forward(rows, save=save),
            layer.forward(np.concatenate(rows), offsets=[0, *np.cumsum(counts)], save=save),
            layer.forward(x, mask=holes, save=save),
        ]
        assert len({tape.nbytes for tape in tapes}) == 1
        assert tapes[0].nbytes < layer.forward(x, save=save).nbytes / 5


LONGEST, SHORT = 1000, 250  # one row of so many steps, so many rows of four
WIDTH = 64


def bytes_of_ragged(is_recorded, save):
    """Growth of the most resident bytes over passes of two layers in two directions."""
    layer = fastlstm.LSTM(8, WIDTH, 2, bidirectional=True, dropout=0.2, num_threads=1, rng=0)
    counts = np.full(SHORT + 1, 4)
    counts[0] = LONGEST
    data = np.ones((int(counts.sum()), 8), np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    # Code and scratch memory are there.
    short = np.concatenate([[0], np.cumsum(np.full(SHORT + 1, 3))])
    small = layer.forward(data[: short[-1]], offsets=short, save=save)
    small.backward(np.ones_like(small.y))
    del small
    before = resident_bytes()
    for _ in range(2):
        if is_recorded:
            tape = layer.forward(data, offsets=offsets, save=save)
            tape.backward(np.ones_like(tape.y))
        else:
            layer(data, offsets=offsets)
    return high_water() - before


@pytest.mark.parametrize(
    ("is_recorded", "save"), [(False, "all"), (True, "all"), (True, "states"), (True, 50), (True, 10**6)]
)
def test_resident_memory_of_ragged_rows_in_two_directions(is_recorded, save):
    """What is between layers, its gradient and what is computed again are no arrays (T, B) either."""
    output = 4 * 2 * WIDTH * LONGEST * (SHORT + 1)
    assert output > 120 * MEGABYTE
    # Gates, states and outputs of 2000 steps are 12 MB; scratch memory and huge pages the rest.
    assert in_child(bytes_of_ragged, is_recorded, save) < 64 * MEGABYTE


def memory_of_ragged(form):
    """Growth of the most memory that was ever resident over calls of many short rows and a long one."""
    layer = fastlstm.LSTM(8, 32, 2, peephole=True, num_threads=1)
    B, longest = 500, 4000
    lengths = np.full(B, 4)
    lengths[0] = longest
    data = np.ones((int(lengths.sum()), 8), np.float32)
    x: Any = {"list": np.split(data, np.cumsum(lengths)[:-1]), "offsets": data}[form]
    keywords = {} if form == "list" else {"offsets": np.concatenate([[0], np.cumsum(lengths)])}
    before = high_water()
    for _ in range(2):
        layer(x, **keywords)
    return [high_water() - before, B * longest * 8 * 4, data.nbytes]


@pytest.mark.parametrize("form", ["list", "offsets"])
def test_ragged_rows_are_never_padded(form):
    growth, padded, data = in_child(memory_of_ragged, form)
    assert padded > 60e6
    assert data < 1e6
    assert growth < 16e6


# ---- Scratch memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("B", [1, 7, 64])
def test_the_workspace_of_a_stack_does_not_grow_with_time(B, threads):
    for L, H in ((1, 64), (2, 128), (8, 256)):
        lstm = fastlstm.LSTM(64, H, L, num_threads=threads)
        # From where chunks of time have their full length; before, it takes less.
        sizes = [workspace_bytes(lstm, T, B) for T in (200_000, 2_000_000, 200_000_000)]
        assert len(set(sizes)) == 1, sizes
        assert workspace_bytes(lstm, 1000, B) <= sizes[0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("B", [1, 7, 64])
def test_the_workspace_of_a_bidirectional_stack_holds_one_layers_output(B, threads):
    for H, L in ((64, 2), (128, 4)):
        lstm = fastlstm.LSTM(64, H, L, bidirectional=True, num_threads=threads)
        small, large = (workspace_bytes(lstm, T, B) for T in (20_000, 40_000))
        one_output = 20_000 * B * 2 * H * 4
        assert large - small <= one_output + 4096
        assert (
            small <= one_output + workspace_bytes(fastlstm.LSTM(2 * H, H, num_threads=threads), 20_000, B) * 4
        )
