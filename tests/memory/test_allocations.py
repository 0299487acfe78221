# SPDX-License-Identifier: BSD-3-Clause
"""No hidden and no growing memory: what calls ask of the allocator, and what many of them leave behind."""

from __future__ import annotations

import gc
import itertools
import tracemalloc

import numpy as np

import fastlstm
from fastlstm import kernels
from tests.problems.children import in_child
from tests.problems.problem import make_problem, problem_of
from tests.problems.running import SAVES, make_layer, recorded

from .allocations import Allocations
from .probes import MEGABYTE, fails, resident_bytes


def allocations_of_streams():
    """Calls of the allocator during 500 steps and 500 blocks, by size."""
    counts = {}
    for I, H, L, B, dtype in itertools.product((1, 40), (16, 300), (1, 3), (1, 5), ("float32", "float64")):
        stream = fastlstm.LSTM(I, H, L, dtype=dtype).stream(B)
        x, out = np.zeros((9, B, I), dtype), np.empty((9, B, H), dtype)
        x_t, out_t = x[0], out[0]
        stream.step(x_t, out=out_t)
        stream.process(x, out=out)
        allocations = Allocations()
        for _ in range(500):
            stream.step(x_t, out=out_t)
        steps = allocations.since()[0]
        counts[f"{I} {H} {L} {B} {dtype}"] = steps
    return counts


def test_a_stream_step_does_not_call_the_allocator(allocation_counter):
    counts = in_child(allocations_of_streams, LD_PRELOAD=allocation_counter)
    assert len(counts) == 32
    assert not any(counts.values()), counts


def allocations_that_are_seen():
    allocations = Allocations()
    kept = [np.zeros(5000) for _ in range(10)]
    return [*allocations.since(), len(kept)]


def test_the_counter_of_allocations_counts(allocation_counter):
    calls, size, _ = in_child(allocations_that_are_seen, LD_PRELOAD=allocation_counter)
    assert calls >= 10
    assert size >= 10 * 5000 * 8


def bytes_of_calls():
    """Bytes asked for in a warm call of a stack, by T; all results but the final states are given."""
    sizes = {}
    for T in (4000, 16000):
        lstm = fastlstm.LSTM(16, 32, 3, num_threads=1)
        x, out = np.zeros((T, 4, 16), np.float32), np.empty((T, 4, 32), np.float32)
        lstm(x, out=out)
        allocations = Allocations()
        lstm(x, out=out)
        sizes[str(T)] = allocations.since()[1]
    return sizes


def test_a_call_asks_for_no_memory_that_grows_with_time(allocation_counter):
    sizes = in_child(bytes_of_calls, LD_PRELOAD=allocation_counter)
    assert sizes["16000"] <= sizes["4000"], sizes


def traced_peak_of_steps(H):
    """Most bytes that Python and NumPy held during a step beyond those before, and what 1000 steps left."""
    stream = fastlstm.LSTM(1, H).stream()
    x, out = np.zeros(1, np.float32), np.empty(H, np.float32)
    gc.disable()
    tracemalloc.start()
    for _ in range(3):
        stream.step(x, out=out)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(1000):
        stream.step(x, out=out)
    after, peak = tracemalloc.get_traced_memory()
    return [peak - before, after - before]


def test_a_stream_step_makes_no_array_and_keeps_no_object():
    small, large = (in_child(traced_peak_of_steps, H) for H in (16, 2048))
    # What a Python call takes for its own bookkeeping; an array, even a view, would be larger or grow with H.
    assert small[0] == large[0] <= 400
    assert small[1] <= 64
    assert large[1] <= 64


# ---- What is left ------------------------------------------------------------------------------------------


def calls_of_every_kind(count):
    """Growth of resident memory, in bytes, over `count` calls after as many to warm up."""
    problem = make_problem(2, 3, 4, 20, 2, has_state=True, has_lengths=True)
    x, state, lengths = np.nan_to_num(problem.x), problem.state, problem.keywords["lengths"]
    layer = make_layer(problem)
    both = fastlstm.LSTM(4, 20, 2, bidirectional=True)
    large, large_x = fastlstm.LSTM(64, 128, num_threads=2), np.zeros((20, 16, 64), np.float32)
    others = [fastlstm.GRU(4, 20), fastlstm.SLSTM(4, (20, 8)), fastlstm.LSTM(4, 20, peephole=True)]
    masked = [fastlstm.MinGRU(4, 20, 2), fastlstm.LSTM(4, 20, layer_norm="haste", residual=1, num_layers=2)]
    cell, stream = fastlstm.LSTMCell(4, 20), layer.stream(3)
    parts = fastlstm.GRU(4, (20, 8)).stream(3)
    wide, strided = x.astype(np.float64), np.asfortranarray(x)
    mask = np.eye(2, 3, dtype=bool)
    params = layer.state_dict()
    w_ih, w_hh = params["weight_ih_l0"], params["weight_hh_l0"]
    calls = [
        lambda: layer(x, state, lengths=lengths),
        lambda: layer(wide),
        lambda: layer(strided.tolist()),
        lambda: both(strided),
        lambda: layer(np.zeros((2, 3), int)),
        *((lambda other=other: other(x, lengths=lengths, pad="hold")) for other in others),
        *((lambda other=other: other(x, mask=mask, reset=~mask)) for other in masked),
        lambda: layer([x[:, 0], x[:1, 1]]),
        lambda: layer(x[:, 0], offsets=[0, 1, 2]),
        lambda: cell(x[0], tuple(s[0] for s in state)),
        lambda: stream.step(x[0]),
        lambda: stream.process(x),
        lambda: parts.step(x[0]),
        lambda: stream.state,
        lambda: setattr(stream, "state", state),
        lambda: layer.stream(2).step(x[0, :2]),
        lambda: fails(layer, x[..., :3]),
        lambda: fails(layer, x, state[:1]),
        lambda: fails(layer, x, lengths=[1, 2, 99]),
        lambda: fails(layer, np.full((2, 3), 4)),
        lambda: fails(layer, x, out=x),
        lambda: fails(masked[0], x, mask=mask[:1]),
        lambda: fails(stream.step, "x"),
        lambda: kernels.sigmoid(wide),
        lambda: kernels.gate_matmul(x[0], state[0][0], w_ih, w_hh),
        lambda: kernels.packed(w_ih, w_hh),
        lambda: kernels.cell_update(np.zeros((3, 80)), np.zeros((3, 20))),
    ]
    seldom = [
        lambda: layer.load_state_dict(params),
        lambda: large(large_x),
        lambda: fails(layer.load_state_dict, {}),
    ]

    def run():
        for number in range(count):
            calls[number % len(calls)]()
            if number % 50 == 0:
                seldom[number // 50 % len(seldom)]()

    run()
    before = resident_bytes()
    run()
    return resident_bytes() - before


def test_a_hundred_thousand_calls_leave_memory_flat():
    growth = in_child(calls_of_every_kind, 100_000)
    assert growth <= 256 * 1024  # a leak of 64 bytes in one call of all kinds would be 230 kB


def growth_over_passes(count):
    """Growth of resident memory over `count` passes of every kind, also refused ones and unused tapes."""
    problems = [problem_of(n, "LSTM" if n % 2 else "GRU", "float32", largest=20) for n in range(12)]
    layers = [make_layer(problem) for problem in problems]

    def run():
        for turn in range(count):
            problem, layer = problems[turn % 12], layers[turn % 12]
            tape = recorded(problem, layer, save=SAVES[turn // 12 % 5])
            fails(tape.backward, problem.dy[..., :-1] if turn % 2 else "x")
            fails(recorded, problem, layer, x=problem.x[..., np.newaxis, np.newaxis])
            fails(recorded, problem, layer, lengths=np.full(99, 99))
            fails(recorded, problem, layer, save=0)
            if turn % 5:
                tape.backward(problem.dy, problem.dstate)
                fails(tape.backward, problem.dy)
            if turn % 50 == 0:
                with layer.editing() as flat:
                    flat *= 0.99
                fails(tape.backward, problem.dy)

    # The heap settles slowly among blocks of so many sizes: measured 2.3 MB, 240, 380, 4, 64, 0, 0 kB a run.
    for _ in range(5):
        run()
    before = resident_bytes()
    run()
    return resident_bytes() - before


def test_ten_thousand_passes_leave_memory_flat():
    assert in_child(growth_over_passes, 10_000) <= 256 * 1024


def memory_of_dropped_tapes():
    layer = fastlstm.LSTM(4, 128)
    x = np.zeros((1000, 8, 4), np.float32)
    layer.forward(x)
    before = resident_bytes()
    for _ in range(30):
        layer.forward(x)
    tapes = [layer.forward(x) for _ in range(3)]
    cycle = [tapes]
    cycle.append(cycle)
    del tapes, cycle
    gc.collect()
    return resident_bytes() - before


def test_a_tape_that_is_never_used_gives_its_memory_back():
    assert in_child(memory_of_dropped_tapes) <= 40 * MEGABYTE  # of 33 tapes; two of them are 48 MB
