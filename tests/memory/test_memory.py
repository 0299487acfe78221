# SPDX-License-Identifier: BSD-3-Clause
"""Promise "nothing lost": no access outside an array, no write to an input, no hidden or growing memory.

Guard pages find what sanitizers miss: masked vector loads and stores (see guard.py).  The sweeps run in a
child, so that a fault is a failed test; the child prints each case before it runs.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import subprocess
import sys
import sysconfig
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import _core, kernels
from tests.problems.guard import guarded, guarded_out
from tests.problems.helpers import ISAS, REST_SECONDS, Case, Config, assert_same_bits, in_child

LANES, ROWS = 16, 6  # the largest tile: rows of the batch, lanes of hidden units (two blocks for one row)
PLACES = list(itertools.product((True, False), (0, 4)))  # at the end or the start of a page, and 4 bytes off


def announce(*case):
    print(*case, file=sys.stderr)


def place_of(dtype, at_end, offset):
    """Arguments of guarded() for an output, which must be aligned: 8 bytes off instead of 4 for float64."""
    return {"at_end": at_end, "offset": offset if np.dtype(dtype).itemsize == 4 else 2 * offset}


def check_layer(case, layer, at_end, offset):
    """Call with every array between guard pages and inputs read-only."""
    config, dtype = case.config, case.config.dtype
    place = {"at_end": at_end, "offset": offset}
    x = guarded(case.x, **place)
    state = tuple(guarded(s, **place) for s in case.state)
    lengths = None if case.lengths is None else guarded(case.lengths, **place)
    T, B, width = config.T, config.B, config.D * config.H
    out = guarded_out(
        (B, T, width) if config.batch_first else (T, B, width), dtype, **place_of(dtype, **place)
    )
    y, (h_n, c_n) = layer(x, state, lengths=lengths, out=out)
    assert y is out
    assert_same_bits((y, h_n, c_n), case.run(layer), config)


def sweep_layers(dtype):
    """Every B and H to beyond twice the tile; I, T and the options go along."""
    for B, H in itertools.product(range(1, 2 * ROWS + 2), range(1, 4 * LANES + 2)):
        number = B * 67 + H
        config = Config(
            T=1 + number % 4,
            B=B,
            I=1 + number % 35,
            H=H,
            L=1 + (number % 5 == 0),
            bidirectional=number % 3 == 0,
            bias=number % 7 != 0,
            batch_first=number % 2 == 0,
            has_state=True,
            has_lengths=number % 4 == 0,
            is_index=number % 11 == 0,
            dtype=dtype,
        )
        announce(config)
        case = Case(config)
        layer = case.layer()
        at_end, offset = PLACES[number % 4] if number % 5 else PLACES[0]
        check_layer(case, layer, at_end, offset)
        check_layer(case, layer, not at_end, offset)


def sweep_inputs(dtype):
    """Every I, for one row, a few and many, with a product of its own and merged into the step."""
    for I, B, T in itertools.product(range(1, 2 * LANES + 2), (1, 2, 7, 50), (1, 9)):
        config = Config(T=T, B=B, I=I, H=1 + (I + B) % 37, has_state=True, dtype=dtype)
        announce(config)
        case = Case(config)
        layer = case.layer()
        for at_end in (True, False):
            check_layer(case, layer, at_end, 0)


def sweep_threads(dtype):
    """Units and rows split over threads: each writes its own part and no more."""
    for B, H, bidirectional, L in itertools.product((1, 3, 13), (65, 130, 257), (False, True), (1, 3)):
        config = Config(T=12, B=B, I=33, H=H, L=L, bidirectional=bidirectional, has_state=True, dtype=dtype)
        announce(config)
        case = Case(config)
        time.sleep(REST_SECONDS)
        for threads, at_end in itertools.product((2, 3), (True, False)):
            check_layer(case, case.layer(num_threads=threads), at_end, 0)


def sweep_cells_and_streams(dtype):
    for B, H in itertools.product(range(1, 2 * ROWS + 2), range(1, 2 * LANES + 2)):
        I = 1 + (B + H) % 33
        config = Config(T=5, B=B, I=I, H=H, has_state=True, dtype=dtype)
        announce("cell, stream", config)
        case = Case(config)
        layer = case.layer()
        y, (h_n, c_n) = layer(case.x, case.state)
        cell = fastlstm.LSTMCell(I, H, dtype=dtype)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in case.params.items()})
        for at_end, offset in PLACES:
            place = {"at_end": at_end, "offset": offset}
            out_place = place_of(dtype, **place)
            state = tuple(s[0] for s in case.state)
            stream = layer.stream(B)
            stream.state = case.state
            for t in range(config.T):
                given = tuple(guarded(s, **place) for s in state)
                out = tuple(guarded_out((B, H), dtype, **out_place) for _ in "hc")
                state = cell(guarded(case.x[t], **place), given, out=out)
                y_t = stream.step(guarded(case.x[t], **place), out=guarded_out((B, H), dtype, **out_place))
                assert_same_bits((state[0], y_t), (y[t], y[t]), t)
            assert_same_bits(state, (h_n[0], c_n[0]))
            stream.state = tuple(guarded(s, **place) for s in case.state)
            out = guarded_out((config.T, B, H), dtype, **out_place)
            assert_same_bits(stream.process(guarded(case.x, **place), out=out), y)


def sweep_pieces(dtype):
    generator = np.random.default_rng(0)

    def random(*shape):
        return generator.standard_normal(shape).astype(dtype)

    for n in range(2 * 64 + 2):
        announce("activations of", n)
        x = random(n)
        for at_end, offset in PLACES:
            for function in (kernels.sigmoid, kernels.tanh):
                out = guarded_out((n,), dtype, **place_of(dtype, at_end, offset))
                function(guarded(x, at_end=at_end, offset=offset), out=out)
                assert_same_bits(out, function(x), n)
    for B, H in itertools.product(range(1, 2 * ROWS + 2), range(1, 4 * LANES + 2)):
        I = 1 + (3 * B + H) % 33
        announce("pieces", B, I, H)
        x, h, c, gates = random(B, I), random(B, H), random(B, H), random(B, 4 * H)
        w_ih, w_hh, bias = random(4 * H, I), random(4 * H, H), random(4 * H)
        product, update = kernels.gate_matmul(x, h, w_ih, w_hh, bias), kernels.cell_update(gates, c)
        at_end, offset = PLACES[(B + H) % 4]
        place, out_place = {"at_end": at_end, "offset": offset}, place_of(dtype, at_end, offset)
        arguments = (guarded(a, **place) for a in (x, h, w_ih, w_hh, bias))
        out = guarded_out((B, 4 * H), dtype, **out_place)
        assert_same_bits(kernels.gate_matmul(*arguments, out=out), product)
        packed = kernels.packed(*(guarded(a, **place) for a in (w_ih, w_hh, bias)))
        out = guarded_out((B, 4 * H), dtype, **out_place)
        assert_same_bits(
            kernels.gate_matmul(guarded(x, **place), guarded(h, **place), packed, out=out), product
        )
        pair = tuple(guarded_out((B, H), dtype, **out_place) for _ in "hc")
        assert_same_bits(kernels.cell_update(guarded(gates, **place), guarded(c, **place), out=pair), update)


def all_sweeps():
    for dtype in ("float32", "float64"):
        sweep_layers(dtype)
        sweep_inputs(dtype)
        sweep_threads(dtype)
        sweep_cells_and_streams(dtype)
        sweep_pieces(dtype)
    return "done"


@pytest.mark.parametrize("isa", ISAS)
def test_guard_pages_around_every_array_for_every_dimension_to_twice_the_tile(isa):
    assert in_child(all_sweeps, isa=isa) == "done"


def touch(where):
    array = guarded(np.arange(5, dtype=np.float32), at_end=where != "before")
    address = array.ctypes.data + {"before": -4, "behind": 20, "inside": 0}[where]
    (ctypes.c_float.from_address(address)).value = 1.0


@pytest.mark.parametrize("where", ["before", "behind", "inside"])
def test_the_guard_pages_do_fault(where):
    """One element before, one behind, and a write to a read-only input."""
    with pytest.raises(AssertionError, match="exit status -"):
        in_child(touch, where)


def inputs_after(call, *arrays):
    before = [a.copy() for a in arrays]
    call()
    for a, b in zip(arrays, before, strict=True):
        assert_same_bits(a, b)


def test_inputs_are_not_modified():
    for options in ({}, {"bidirectional": True, "L": 2}, {"is_index": True}, {"batch_first": True}):
        case = Case(Config(T=7, B=5, I=6, H=20, has_state=True, has_lengths=True, **options))
        layer = case.layer()
        inputs_after(lambda: case.run(layer), case.x, *case.state, case.lengths)  # noqa: B023
        inputs_after(case.layer, *case.params.values())


def test_results_share_no_memory_with_each_other_or_the_layer():
    case = Case(Config(T=3, B=2, I=4, H=5, has_state=True))
    layer = case.layer()
    results = [*case.run(layer), *case.run(layer), *layer.state_dict().values(), *case.state, case.x]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(results, 2))
    state = layer.stream(2)
    assert not np.shares_memory(state.state[0], state.state[0])


def test_results_outlive_the_layer():
    case = Case(Config(T=30, B=4, I=4, H=50))
    expected = tuple(a.copy() for a in case.run())
    results = case.run(case.layer())
    stream = case.layer().stream(4)
    gc.collect()
    scratch = [np.full(60000, np.nan, np.float32) for _ in range(20)]
    assert_same_bits(results, expected)
    assert_same_bits(stream.process(case.x), expected[0])
    del scratch


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("B", [1, 7, 64])
def test_the_workspace_of_a_stack_does_not_grow_with_time(B, threads):
    for L, H in ((1, 64), (2, 128), (8, 256)):
        lstm = fastlstm.LSTM(64, H, L, num_threads=threads)
        # From where chunks of time have their full length; before, it takes less.
        sizes = [_core.workspace_bytes(lstm, T, B) for T in (200_000, 2_000_000, 200_000_000)]
        assert len(set(sizes)) == 1, sizes
        assert _core.workspace_bytes(lstm, 1000, B) <= sizes[0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("B", [1, 7, 64])
def test_the_workspace_of_a_bidirectional_stack_holds_one_layers_output(B, threads):
    for H, L in ((64, 2), (128, 4)):
        lstm = fastlstm.LSTM(64, H, L, bidirectional=True, num_threads=threads)
        small, large = (_core.workspace_bytes(lstm, T, B) for T in (20_000, 40_000))
        one_output = 20_000 * B * 2 * H * 4
        assert large - small <= one_output + 4096
        assert (
            small
            <= one_output + _core.workspace_bytes(fastlstm.LSTM(2 * H, H, num_threads=threads), 20_000, B) * 4
        )


@pytest.fixture(scope="module")
def allocation_counter(tmp_path_factory):
    """Path of a library that counts allocations, for LD_PRELOAD."""
    library = tmp_path_factory.mktemp("counter") / "count_allocations.so"
    source = Path(__file__).with_name("count_allocations.c")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    command = [*compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return str(library)


class Allocations:
    """Calls of the allocator, and bytes asked for, since this object was made; needs `allocation_counter`."""

    def __init__(self):
        self.library = ctypes.CDLL(None)
        for name in ("allocation_calls", "allocation_bytes"):
            getattr(self.library, name).restype = ctypes.c_size_t
        gc.collect()
        gc.disable()
        self.start = self.now()

    def now(self):
        return self.library.allocation_calls(), self.library.allocation_bytes()

    def since(self):
        return tuple(int(b - a) for a, b in zip(self.start, self.now(), strict=True))


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


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def calls_of_every_kind(count):
    """Growth of resident memory, in bytes, over `count` calls after as many to warm up."""
    case = Case(Config(T=2, B=3, I=4, H=20, L=2, has_state=True, has_lengths=True))
    layer, both = case.layer(), Case(Config(T=2, B=3, I=4, H=20, L=2, bidirectional=True)).layer()
    large = Case(Config(T=20, B=16, I=64, H=128)).layer(num_threads=2)
    large_x = np.zeros((20, 16, 64), np.float32)
    cell, stream = fastlstm.LSTMCell(4, 20), layer.stream(3)
    wide = case.x.astype(np.float64)
    strided = np.asfortranarray(case.x)
    params = layer.state_dict()
    w_ih, w_hh = params["weight_ih_l0"], params["weight_hh_l0"]

    def fails(call, *arguments, **keywords):
        try:
            call(*arguments, **keywords)
        except (TypeError, ValueError):
            return
        raise AssertionError("expected an exception")

    calls = [
        lambda: layer(case.x, case.state, lengths=case.lengths),
        lambda: layer(wide),
        lambda: layer(strided.tolist()),
        lambda: both(strided),
        lambda: layer(np.zeros((2, 3), int)),
        lambda: cell(case.x[0], tuple(s[0] for s in case.state)),
        lambda: stream.step(case.x[0]),
        lambda: stream.process(case.x),
        lambda: stream.state,
        lambda: setattr(stream, "state", case.state),
        lambda: layer.stream(2).step(case.x[0, :2]),
        lambda: fails(layer, case.x[..., :3]),
        lambda: fails(layer, case.x, case.state[:1]),
        lambda: fails(layer, case.x, lengths=[1, 2, 99]),
        lambda: fails(layer, np.full((2, 3), 4)),
        lambda: fails(layer, case.x, out=case.x),
        lambda: fails(stream.step, "x"),
        lambda: kernels.sigmoid(wide),
        lambda: kernels.gate_matmul(case.x[0], case.state[0][0], w_ih, w_hh),
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
    assert growth <= 256 * 1024  # a leak of 64 bytes in one call of all kinds would be 300 kB
