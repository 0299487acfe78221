# SPDX-License-Identifier: BSD-3-Clause
"""Promise "the same bits": for any number of threads, batch, cut of the sequence and instruction set."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import fastlstm
from fastlstm import _core
from tests.problems.helpers import (
    FUSED_ISAS,
    ISAS,
    TOLERANCE,
    Case,
    Config,
    assert_same_bits,
    digest,
    in_child,
    largest_error,
)

# Each is there for a schedule or a kernel: units split over threads, rows split, directions side by side,
# layers as a pipeline, hoisted and merged input products, gathered rows, packed tails of every kind, ragged
# batches.
CONFIGS = [
    Config(T=30, B=1, I=64, H=300),
    Config(T=30, B=2, I=3, H=256, has_state=True),
    Config(T=200, B=1, I=1, H=64),
    Config(T=24, B=13, I=40, H=150, bias=False),
    Config(T=12, B=64, I=100, H=96, batch_first=True),
    Config(T=37, B=5, I=23, H=77, has_lengths=True),
    Config(T=30, B=33, I=9, H=129, has_lengths=True, has_state=True),
    Config(T=25, B=3, I=40, H=100, bidirectional=True),
    Config(T=25, B=8, I=40, H=72, L=2, bidirectional=True, has_lengths=True, has_state=True),
    Config(T=160, B=1, I=64, H=96, L=5),
    Config(T=600, B=1, I=3, H=16, L=4),
    Config(T=300, B=2, I=9, H=12, L=5, has_state=True),
    Config(T=200, B=6, I=9, H=16, L=6, has_lengths=True),
    Config(T=120, B=60, I=9, H=80, L=3, has_lengths=True),
    Config(T=90, B=2, I=20, H=65, L=3, has_lengths=True),
    Config(T=40, B=7, I=256, H=66, L=2, is_index=True, has_lengths=True),
    Config(T=40, B=1, I=17, H=257, L=2, is_index=True, has_state=True),
    *(Config(T=20, B=7, I=5, H=H, L=2) for H in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33)),
]
BOTH_DTYPES = [
    dataclasses.replace(config, dtype=dtype) for config in CONFIGS for dtype in ("float32", "float64")
]


def time_of(case: Case, begin: int, end: int):
    return case.x[:, begin:end] if case.config.batch_first else case.x[begin:end]


def rows_of(case: Case, rows):
    """x, state and lengths of some rows of the batch."""
    x = case.x[rows] if case.config.batch_first else case.x[:, rows]
    state = None if case.state is None else tuple(s[:, rows] for s in case.state)
    return x, state, None if case.lengths is None else case.lengths[rows]


def y_rows(case: Case, y, rows):
    return y[rows] if case.config.batch_first else y[:, rows]


@pytest.mark.every_isa
@pytest.mark.parametrize("config", [c for c in BOTH_DTYPES if c.T != 20], ids=str)
def test_the_same_bits_for_any_number_of_threads(config):
    case = Case(config)
    expected = case.run(case.layer(num_threads=1))
    for threads in (2, 3, 4):
        assert_same_bits(case.run_on_threads(threads), expected, threads)


@pytest.mark.parametrize("threads", [4, 1, 2, 3])
def test_the_same_bits_for_any_limit_of_the_process(threads):
    case = Case(Config(T=30, B=1, I=64, H=300))
    expected = case.run(case.layer(num_threads=1))
    fastlstm.set_num_threads(threads)
    assert_same_bits(case.run_on_threads(None), expected)


@pytest.mark.every_isa
@pytest.mark.parametrize("config", [c for c in BOTH_DTYPES if c.B > 1], ids=str)
def test_the_same_bits_for_a_row_alone_and_anywhere_in_a_batch(config):
    case = Case(config)
    layer = case.layer()
    y, h_n, c_n = case.run(layer)
    generator = np.random.default_rng(config.B)
    choices = [[row] for row in range(min(config.B, 8))] + [[config.B - 1]]
    choices += [generator.permutation(config.B)[:count] for count in (2, 3, 5, 6, config.B)]
    for rows in choices:
        x, state, lengths = rows_of(case, rows)
        got, (h, c) = layer(x, state, lengths=lengths)
        assert_same_bits((got, h, c), (y_rows(case, y, rows), h_n[:, rows], c_n[:, rows]), rows)
    # Many copies of one row, so that the batch is larger than any tile.
    rows = [config.B - 1] * 70
    x, state, lengths = rows_of(case, rows)
    got, (h, c) = layer(x, state, lengths=lengths)
    assert_same_bits((got, h, c), (y_rows(case, y, rows), h_n[:, rows], c_n[:, rows]), "copies")


@pytest.mark.every_isa
@pytest.mark.parametrize("config", BOTH_DTYPES, ids=str)
def test_the_same_bits_unbatched(config):
    case = Case(config)
    layer = case.layer()
    y, h_n, c_n = case.run(layer)
    x, state, lengths = rows_of(case, 0)
    length = config.T if lengths is None else int(lengths)
    got, (h, c) = layer(x[:length], state)
    assert_same_bits((got, h, c), (y_rows(case, y, 0)[:length], h_n[:, 0], c_n[:, 0]))


@pytest.mark.every_isa
@pytest.mark.parametrize("config", [c for c in BOTH_DTYPES if not c.bidirectional], ids=str)
def test_the_same_bits_for_the_sequence_cut_anywhere(config):
    config = dataclasses.replace(config, has_lengths=False)
    case = Case(config)
    layer = case.layer()
    expected = case.run(layer)
    T = config.T
    axis = 1 if config.batch_first else 0
    for cuts in ([1], [T - 1], [T // 2], [T // 3, T // 3, T // 2], [2, 3, 5, 8, 13]):
        state, parts = case.state, []
        edges = [0, *(min(cut, T) for cut in cuts), T]
        for begin, end in itertools.pairwise(edges):
            y, state = layer(time_of(case, begin, end), state)
            parts.append(y)
        assert_same_bits((np.concatenate(parts, axis), *state), expected, cuts)


@pytest.mark.every_isa
@pytest.mark.parametrize("config", [c for c in BOTH_DTYPES if not c.bidirectional], ids=str)
def test_the_same_bits_for_a_stream_and_the_whole(config):
    config = dataclasses.replace(config, has_lengths=False)
    case = Case(config)
    layer = case.layer()
    y, h_n, c_n = case.run(layer)
    stream = layer.stream(config.B)

    def start():
        stream.reset()
        if case.state is not None:
            stream.state = case.state

    def step(t):
        return stream.step(time_of(case, t, t + 1).squeeze(1 if config.batch_first else 0))

    axis = 1 if config.batch_first else 0
    start()
    steps = np.stack([step(t) for t in range(config.T)], axis)
    assert_same_bits((steps, *stream.state), (y, h_n, c_n), "step by step")
    start()
    assert_same_bits(stream.process(case.x), y, "process")
    assert_same_bits(stream.state, (h_n, c_n), "state after process")
    start()
    mixed, t = [], 0
    for block in (1, 0, 3, 1, 7, 2, config.T):
        block = min(block, config.T - t)
        if block == 1:
            mixed.append(np.expand_dims(step(t), axis))
        else:
            mixed.append(stream.process(time_of(case, t, t + block)))
        t += block
    assert_same_bits((np.concatenate(mixed, axis), *stream.state), (y, h_n, c_n), "steps and blocks by turns")


@pytest.mark.every_isa
@pytest.mark.parametrize("config", [c for c in BOTH_DTYPES if c.has_lengths], ids=str)
def test_the_same_bits_for_a_short_row_and_that_row_cut_off(config):
    case = Case(config)
    layer = case.layer()
    y, h_n, c_n = case.run(layer)
    for row in range(config.B):
        x, state, lengths = rows_of(case, [row])
        length = int(lengths[0])
        x = x[:, :length] if config.batch_first else x[:length]
        got, (h, c) = layer(x, state)
        own = y_rows(case, y, [row])
        own = own[:, :length] if config.batch_first else own[:length]
        assert_same_bits((got, h, c), (own, h_n[:, [row]], c_n[:, [row]]), row)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "size", [(9, 1, 30, 64, 1), (9, 7, 256, 33, 2), (20, 50, 3, 40, 1), (6, 3, 65, 200, 2)]
)
def test_the_same_bits_for_indices_and_one_hot_rows(size, dtype):
    T, B, I, H, L = size
    for bidirectional in (False, True):
        config = Config(
            T, B, I, H, L, bidirectional, is_index=True, has_lengths=True, has_state=True, dtype=dtype
        )
        case = Case(config)
        layer = case.layer()
        indexed = case.run(layer)
        case.x = np.eye(I, dtype=dtype)[case.x]
        assert_same_bits(case.run(layer), indexed)


@pytest.mark.every_isa
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_a_cell_and_its_pieces(dtype):
    for B, I, H in ((1, 1, 16), (1, 30, 40), (7, 5, 33), (64, 20, 9), (13, 64, 100)):
        case = Case(Config(T=1, B=B, I=I, H=H, has_state=True, dtype=dtype))
        y, h_n, c_n = case.run()
        assert case.state is not None
        state = (case.state[0][0], case.state[1][0])
        weights = {name.removesuffix("_l0"): value for name, value in case.params.items()}
        cell = fastlstm.LSTMCell(I, H, dtype=dtype)
        cell.load_state_dict(weights)
        assert_same_bits(cell(case.x[0], state), (h_n[0], c_n[0]), (B, I, H))
        bias = weights["bias_ih"] + weights["bias_hh"]
        gates = fastlstm.kernels.gate_matmul(
            case.x[0], state[0], weights["weight_ih"], weights["weight_hh"], bias
        )
        assert_same_bits(fastlstm.kernels.cell_update(gates, state[1]), (h_n[0], c_n[0]), (B, I, H))
        assert_same_bits(y[0], h_n[0])


def test_the_same_bits_for_the_same_call_again():
    case = Case(Config(T=25, B=8, I=40, H=72, L=2, bidirectional=True, has_lengths=True))
    layer = case.layer()
    expected = case.run(layer)
    for _ in range(20):
        assert_same_bits(case.run(layer), expected)


def results_of_this_isa(folder):
    """Run in a child: digests of everything, and the numbers for a comparison within a tolerance."""
    digests = {}
    for config in BOTH_DTYPES:
        result = Case(config).run()
        digests[str(config)] = digest(*result)
        np.savez(f"{folder}/{digest(np.array(str(config)))}.npz", *result)
    x = np.concatenate([np.linspace(-20, 20, 4001), np.logspace(-44, 38, 4001), [0.0, -0.0, np.inf, -np.inf]])
    for dtype in (np.float32, np.float64):
        for name in ("sigmoid", "tanh"):
            digests[f"{name} {dtype.__name__}"] = digest(getattr(fastlstm.kernels, name)(x.astype(dtype)))
    return digests


@pytest.fixture(scope="module")
def every_isa(tmp_path_factory):
    folders = {isa: tmp_path_factory.mktemp(isa) for isa in ISAS}
    return folders, {isa: in_child(results_of_this_isa, str(folders[isa]), isa=isa) for isa in ISAS}


def test_the_same_bits_on_every_instruction_set_with_fused_multiply_add(every_isa):
    _, digests = every_isa
    assert all(len(digests[isa]) == len(BOTH_DTYPES) + 4 for isa in ISAS)
    assert FUSED_ISAS, f"this machine has none: {_core.isa_table()}"
    for isa in FUSED_ISAS[1:]:
        assert digests[isa] == digests[FUSED_ISAS[0]], (isa, FUSED_ISAS[0])


def test_the_generic_path_differs_by_rounding_alone(every_isa):
    folders, _ = every_isa
    for config in BOTH_DTYPES:
        name = f"{digest(np.array(str(config)))}.npz"
        generic, best = (tuple(np.load(folders[isa] / name).values()) for isa in ("generic", ISAS[-1]))
        assert largest_error(generic, best) <= TOLERANCE[np.dtype(config.dtype)], config
