# SPDX-License-Identifier: BSD-3-Clause
"""The race of the other cells: its shapes, limits and truths, and our answers."""

import numpy as np
import pytest

from benchmarks import data, heats, limits, shapes
from benchmarks.cells import CELLS, COMPARED, PLAIN, RACED
from benchmarks.peers.base import Case, coupled_as_plain, end_to_end, row_by_row
from benchmarks.peers.fastlstm_family import Peer
from benchmarks.shapes import FAMILY, FAMILY_SIZES, FAMILY_TRAINING, Shape
from benchmarks.truth import reference_config
from fastlstm import reference
from tests.race.race_cells import BANDWIDTH, KINDS, PEAK, by_formula, cells, known_limits, shape_of

# ---- Shapes and data ---------------------------------------------------------------------------------------


@cells
def test_parameters_are_those_of_the_cell(cell: str) -> None:
    shape = shape_of(cell)
    params = data.parameters(shape, data.generator(shape))
    expected = reference.param_shapes(reference_config(shape))
    of_minimal = {name for name in expected if name.startswith("bias_hh")} - params.keys()
    assert not of_minimal
    assert {name: value.shape for name, value in params.items()} == expected


def test_the_race_of_the_plain_lstm_keeps_its_weights() -> None:
    """Draws must not depend on what the other cells have."""
    shape = Shape(7, 3, 5, 6, 2, 2, "training")
    rng, bound = data.generator(shape), 1 / np.sqrt(6)
    drawn = data.parameters(shape, data.generator(shape))
    assert list(drawn)[4:8] == [
        f"{name}_l0_reverse" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    for name, value in drawn.items():
        again = rng.uniform(-bound, bound, value.shape).astype(np.float32)
        np.testing.assert_array_equal(value, again, err_msg=name)


@pytest.mark.parametrize(
    ("cell", "per_row"),
    [
        ("lstm", 8 * 10 * (7 + 10)),
        ("peephole", 8 * 10 * (7 + 10)),
        ("coupled", 6 * 10 * (7 + 10)),
        ("gru", 6 * 10 * (7 + 10)),
        ("rnn", 2 * 10 * (7 + 10)),
        ("projected", 8 * 10 * (7 + 5) + 2 * 5 * 10),
        ("mingru", 4 * 10 * 7),
        ("minlstm", 6 * 10 * 7),
    ],
)
def test_flops(cell: str, per_row: int) -> None:
    assert shape_of(cell).flops() == 9 * 4 * per_row
    assert shape_of(cell, "family_training").flops() == 3 * 9 * 4 * per_row


def test_ragged_counts_real_steps() -> None:
    shape = shape_of("ragged")
    lengths = shape.lengths()
    assert lengths is not None
    assert len(lengths) == 4
    assert all(1 <= length <= 9 for length in lengths)
    assert len(set(lengths)) > 1
    assert shape_of("ragged", "family_training").lengths() == lengths
    assert shape.real_steps() == sum(lengths) < 36
    assert shape.flops() == pytest.approx(shape_of(PLAIN).flops() * sum(lengths) / 36)
    assert sum(rows * count for rows, count in shape.rows().items()) == sum(lengths)
    assert sum(shape.rows().values()) == max(lengths)
    assert shape_of(PLAIN).rows() == {4: 9}


def test_lengths_are_uniform_in_1_to_T() -> None:
    lengths = Shape(7, 70000, 1, 2, kind="family", cell="ragged").lengths()
    assert lengths is not None
    counts = np.bincount(lengths, minlength=8)
    assert counts[0] == 0
    assert counts.size == 8
    np.testing.assert_allclose(counts[1:], 10000, rtol=0.05)


def test_shapes_of_the_race() -> None:
    for kind, raced in zip(KINDS, (FAMILY, FAMILY_TRAINING), strict=True):
        assert {(shape.cell, shape.size) for shape in raced} == {(c, s) for c in RACED for s in FAMILY_SIZES}
        found = shapes.family_shapes([kind])
        assert set(raced) < set(found)
        assert len({shape.name for shape in found}) == len(found)
        assert {shape.cell for shape in found} == set(CELLS) == {*RACED, *COMPARED}
        assert all(shape.part == kind and shape.is_family for shape in found)
    assert not any(shape.is_family for shape in shapes.RACE if shape.kind == "sequence")


def test_end_to_end_and_back() -> None:
    shape = shape_of("ragged")
    x = data.noise(shape, data.generator(shape))
    rows, offsets = end_to_end(shape, x)
    lengths = shape.lengths()
    assert lengths is not None
    assert rows.shape == (sum(lengths), 7)
    assert offsets.tolist() == [0, *np.cumsum(lengths)]
    np.testing.assert_array_equal(rows[offsets[2] : offsets[3]], x[: lengths[2], 2])
    padded = row_by_row(shape, rows)
    is_real = np.arange(9)[:, np.newaxis] < np.array(lengths)
    np.testing.assert_array_equal(padded, np.where(is_real[:, :, np.newaxis], x, 0))


# ---- Limits ------------------------------------------------------------------------------------------------


def test_limit_of_a_gru() -> None:
    """At few rows the recurrent weights must be streamed; at many the peak binds."""
    few = Shape(9, 1, 7, 64, kind="family", cell="gru")
    share = 4 * 3 * 64 * 64
    input_seconds = 2 * 3 * 64 * 7 * 9 / PEAK
    assert known_limits(share).seconds(few) == pytest.approx(input_seconds + 9 * share / BANDWIDTH)
    many = Shape(9, 100, 7, 64, kind="family", cell="gru")
    assert known_limits(share).seconds(many) == pytest.approx(many.flops() / PEAK)


def test_limit_of_ragged_rows_goes_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shape, "lengths", lambda self: [2, 100, 2, 2] * 10)
    shape = Shape(100, 40, 7, 64, kind="family", cell="ragged")
    share = 4 * 4 * 64 * 64
    inputs = 2 * 4 * 64 * 7 * (10 * 100 + 30 * 2) / PEAK
    # 40 rows take 40 * 8 * 64^2 / PEAK = 13 us, streaming 6.6 us, 10 rows 3.3 us.
    expected = inputs + 2 * 40 * 8 * 64**2 / PEAK + 98 * share / BANDWIDTH
    assert known_limits(share).seconds(shape) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "ways"), [("family", 1), ("family_training", 3)])
def test_limit_without_recurrence_is_the_slower_of_product_and_memory(kind: str, ways: int) -> None:
    narrow = Shape(1000, 20, 1, 100, kind=kind, cell="mingru")
    traffic = ways * 4 * 1000 * 20 * (1 + 100)
    assert limits.traffic(narrow) == traffic
    assert known_limits(traffic).seconds(narrow) == pytest.approx(traffic / BANDWIDTH)
    assert known_limits(traffic // 2).seconds(narrow, 2) == pytest.approx(traffic / 2 / BANDWIDTH)
    wide = Shape(1000, 20, 500, 500, kind=kind, cell="minlstm")
    assert known_limits(limits.traffic(wide)).seconds(wide) == pytest.approx(wide.flops() / PEAK)


# ---- Truth -------------------------------------------------------------------------------------------------


@cells
def test_truth_is_the_formula(cell: str) -> None:
    case, expected = heats.make_case(shape_of(cell))
    assert data.largest_error(by_formula(case), expected) < 1e-14


@cells
def test_truth_of_training_is_the_slope(cell: str) -> None:
    """Of ``sum(y * dy)`` along one direction in which x and all parameters change."""
    case, expected = heats.make_case(shape_of(cell, "family_training"))
    assert [gradient.shape for gradient in expected] == [
        case.x.shape,
        *(value.shape for value in case.params.values()),
    ]
    rng, step = np.random.default_rng(5), 1e-6
    directions = [rng.standard_normal(gradient.shape) for gradient in expected]

    def loss(sign: int) -> float:
        moved = [
            value + sign * step * direction
            for value, direction in zip((case.x, *case.params.values()), directions, strict=True)
        ]
        params = dict(zip(case.params, moved[1:], strict=True))
        y = by_formula(Case(case.shape, params, moved[0], None))[0]
        assert case.dy is not None
        return float(np.sum(y * case.dy))

    slope = (loss(1) - loss(-1)) / (2 * step)
    found = sum(float(np.sum(g * d)) for g, d in zip(expected, directions, strict=True))
    assert found == pytest.approx(slope, rel=1e-6)


def test_coupled_gates_as_a_plain_lstm() -> None:
    case, (y, h_n, c_n) = heats.make_case(shape_of("coupled"))
    params = {name: coupled_as_plain(value) for name, value in case.params.items()}
    plain_y, (plain_h, plain_c) = reference.lstm(case.x, params, dtype="float64")
    assert data.largest_error((plain_y, plain_h, plain_c), (y, h_n, c_n)) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
@cells
def test_our_answers(cell: str, kind: str) -> None:
    """Every way in which the race runs fastlstm."""
    shape = shape_of(cell, kind)
    case, expected = heats.make_case(shape)
    variants = Peer(1).variants(case)
    assert len(variants) == (2 if cell != "ragged" else 3 if kind == "family" else 4)
    for build in variants.values():
        prepared = build()
        prepared.call()  # gradients must not add up from call to call
        error = data.error_of(shape, prepared.answer(), expected)
        assert error <= data.tolerance("float32", shape)
