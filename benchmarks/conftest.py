# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the pytest-benchmark suites."""

from collections.abc import Iterator

import pytest

import fastlstm


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Limit of threads that the benchmark runs with."""
    with fastlstm.threads(request.param):
        yield request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    with fastlstm.threads(1):
        yield
