# SPDX-License-Identifier: BSD-3-Clause
"""A second interpreter in the process: the import is refused, and nothing crashes, before and after."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = '''
import importlib, sys
import numpy as np
import fastlstm

lstm = fastlstm.LSTM(3, 4, rng=1)
x = np.ones((2, 1, 3), np.float32)
before = lstm(x)[0]
name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
interpreters = importlib.import_module(name)
other = interpreters.create()
program = """
try:
    import fastlstm
except ImportError:
    pass
else:
    raise SystemError("imported")
"""
assert interpreters.run_string(other, program) is None
interpreters.destroy(other)
assert np.array_equal(lstm(x)[0], before)
print("refused")
'''


def test_a_second_interpreter_is_refused_at_import():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"
