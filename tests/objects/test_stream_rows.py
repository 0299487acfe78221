# SPDX-License-Identifier: BSD-3-Clause
"""Single rows of a stream: begun anew, read and written, as a server with many callers needs it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.problems.comparing import assert_same_bits

from .kinds import STREAMED, build

ROWS = [2, [3, 0], np.array([1]), slice(1, None, 2), [True, False, False, True], []]


def members(state):
    return [state] if isinstance(state, np.ndarray) else [a for member in state for a in members(member)]


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_of_a_stream_begin_anew_and_are_read_and_written(name, rows, rng):
    stream = build(name).stream(4)
    x = rng.standard_normal((3, 4, 6 if name == "all joined" else 5)).astype(np.float32)
    stream.process(x)
    before = members(stream.state)
    numbers = (
        np.arange(4)[np.array(rows) if isinstance(rows, list) and rows else rows].reshape(-1).astype(int)
    )
    others = np.setdiff1d(np.arange(4), numbers)

    part = stream.read_rows(rows)
    for member, whole in zip(members(part), before, strict=True):
        assert_same_bits(member, whole[:, rows] if isinstance(rows, int) else whole[:, numbers])
        assert member.base is None or not np.shares_memory(member, whole)
        assert member.flags.c_contiguous
    stream.reset(rows)
    for member, whole in zip(members(stream.state), before, strict=True):
        assert not member[:, numbers].any()
        assert_same_bits(member[:, others], whole[:, others])
    # A row that begins anew is as one of a new stream; the others go on.
    fresh = build(name).stream(4).step(x[0])
    went_on = build(name).stream(4)
    went_on.process(x)
    expected = went_on.step(x[0])
    expected[numbers] = fresh[numbers]
    assert_same_bits(stream.step(x[0]), expected)
    stream.write_rows(rows, part)
    for member, whole in zip(members(stream.state), before, strict=True):
        assert_same_bits(member[:, numbers], whole[:, numbers])


def test_one_row_passes_from_one_stream_to_another():
    layer = build("stack", bidirectional=False)
    crowd, alone = layer.stream(3), layer.stream()
    x = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)
    crowd.process(x[:3])
    alone.state = crowd.read_rows([1])
    expected = crowd.process(x[3:])
    assert_same_bits(alone.process(x[3:, 1]), expected[:, 1])
    crowd.write_rows(2, alone.read_rows(0))
    for member, of_alone in zip(members(crowd.state), members(alone.state), strict=True):
        assert_same_bits(member[:, 2], of_alone[:, 0])


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (4, ValueError, "rows: expected numbers from 0 to 3, got 4"),
        (-1, ValueError, "rows: expected numbers from 0 to 3, got -1"),
        ([0, 9], ValueError, "got 9"),
        ([True, False], ValueError, r"rows: expected booleans of shape \(4,\), got \(2,\)"),
        (1.0, TypeError, "rows: expected integers"),
        ("0", TypeError, "rows: expected integers"),
        ([[0]], ValueError, "rows: expected an integer, or one dimension"),
    ],
)
def test_rows_that_are_none(rows, error, message):
    stream = build("LSTM").stream(4)
    for call in (stream.reset, stream.read_rows, lambda rows: stream.write_rows(rows, stream.state)):
        with pytest.raises(error, match=message):
            call(rows)


def test_states_of_rows_that_do_not_fit_change_nothing():
    stream = build("LSTM").stream(4)
    stream.process(np.ones((2, 4, 5), np.float32))
    before, state = members(stream.state), stream.read_rows([0, 1])
    for rows, value, error in (
        ([0, 1, 2], state, ValueError), ([1, 1], state, ValueError), ([0, 1], None, TypeError),
        (0, state, ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match=r"rows|state"):
            stream.write_rows(rows, value)
        for member, kept in zip(members(stream.state), before, strict=True):
            assert_same_bits(member, kept)
