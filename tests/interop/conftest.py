# SPDX-License-Identifier: BSD-3-Clause
"""Torch is no requirement of the tests."""

import importlib.util

collect_ignore = (
    []
    if importlib.util.find_spec("torch")
    else [
        "test_torch.py",
        "test_torch_distributed.py",
    "test_torch_modules.py",
        "test_torch_training.py",
    ]
)
