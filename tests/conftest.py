# SPDX-License-Identifier: BSD-3-Clause
"""A seeded generator for each test, threads as they were, and the instruction set that was asked for."""

from __future__ import annotations

import os
import zlib

import hypothesis
import numpy as np
import pytest
import threadpoolctl

import fastlstm
from fastlstm import _core

# The same examples in every run: a failure can be repeated, and no run is a lottery.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=100
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
# The reference's matrix products are too small for the threads of NumPy's BLAS, which would be in the way.
threadpoolctl.threadpool_limits(1, user_api="blas")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "every_isa: run again by test_isa.py in one process for each instruction set"
    )


def pytest_sessionstart():
    asked = os.environ.get("FASTLSTM_TEST_ISA", _core.isa_active())
    if _core.isa_active() != asked:
        pytest.exit(f"expected the instruction set {asked}, got {_core.isa_active()}", 3)


def pytest_report_header():
    return f"fastlstm {fastlstm.__version__}, {_core.isa_active()}, {fastlstm.get_num_threads()} threads"


@pytest.fixture
def seed(request) -> int:
    """Seed of the test, from its name; printed, and so shown where the test fails."""
    value = zlib.crc32(request.node.nodeid.encode())
    print(f"seed {value}")
    return value


@pytest.fixture
def rng(seed) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """A test that changes the number of threads of the process must not change the next one's."""
    before = fastlstm.get_num_threads()
    yield
    fastlstm.set_num_threads(before)
