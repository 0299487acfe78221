# SPDX-License-Identifier: BSD-3-Clause
"""A seeded generator for each test, threads as they were, and the instruction set that was asked for."""

from __future__ import annotations

import importlib.util
import os
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import threadpoolctl

import fastlstm

from .memory.allocations import build_counter
from .problems.inside import isa_active

# The same examples in every run: a failure can be repeated, and no run is a lottery.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=100
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
# The reference's matrix products are too small for the threads of NumPy's BLAS, which would be in the way.
threadpoolctl.threadpool_limits(1, user_api="blas")

# Other programs are no requirement of the tests: what is asked of them, by file.  Without h5py and onnx their
# formats cannot be read at all.
NEEDS = {
    "test_keras_files.py": ("h5py",),
    "test_keras_twins.py": ("h5py", "keras", "torch"),
    "test_onnx_files.py": ("onnx",),
    "test_onnx_runtime.py": ("onnx", "onnxruntime"),
    "test_torch.py": ("torch",),
    "test_torch_distributed.py": ("torch",),
    "test_torch_files.py": ("torch",),
    "test_torch_modules.py": ("torch",),
    "test_torch_training.py": ("torch",),
    "test_torch_twins.py": ("torch",),
}


class WithoutModule(pytest.Module):
    """A test file that cannot be imported here: one skip, by name."""

    def collect(self):
        missing = [module for module in NEEDS[self.path.name] if importlib.util.find_spec(module) is None]
        pytest.skip(f"{self.path.name}: {', '.join(missing)} missing", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if any(importlib.util.find_spec(module) is None for module in NEEDS.get(module_path.name, ())):
        return WithoutModule.from_parent(parent, path=module_path)
    return None


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "every_isa: run again by runtime/test_isa.py in processes for each instruction set"
    )
    config.addinivalue_line("markers", "long: begins first, so that no process waits for it in the end")


@pytest.hookimpl(trylast=True)  # after what -k and -m leave out
def pytest_collection_modifyitems(items):
    """The C core's first, so that one process has them all and builds the core once; then the long ones.

    Several processes begin with equal parts of the list, and take from the end of another's when theirs is
    done: so the long ones stand where the parts of the others begin.
    """
    core = Path(__file__).parent / "c"
    of_core = [item for item in items if core in item.path.parents]
    long = [item for item in items if item.get_closest_marker("long") and item not in of_core]
    taken = {*of_core, *long}
    others = [item for item in items if item not in taken]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = max(0, len(items) // processes - len(of_core)) if processes > 1 else 0
    items[:] = of_core + others[:first] + long + others[first:]


def pytest_sessionstart():
    asked = os.environ.get("FASTLSTM_TEST_ISA", isa_active())
    if isa_active() != asked:
        pytest.exit(f"expected the instruction set {asked}, got {isa_active()}", 3)


def pytest_report_header():
    return f"fastlstm {fastlstm.__version__}, {isa_active()}, {fastlstm.get_num_threads()} threads"


@pytest.fixture
def seed(request) -> int:
    """Seed of the test, from its name and parameters, wherever it stands; shown where the test fails."""
    value = zlib.crc32(request.node.name.encode())
    print(f"seed {value}")
    return value


@pytest.fixture
def rng(seed) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def allocation_counter(tmp_path_factory) -> str:
    """Path of a library that counts allocations and lets them fail, for LD_PRELOAD."""
    return build_counter(tmp_path_factory.mktemp("counter"))


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """A test that changes the number of threads of the process must not change the next one's."""
    before = fastlstm.get_num_threads()
    yield
    fastlstm.set_num_threads(before)
