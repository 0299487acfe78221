# SPDX-License-Identifier: BSD-3-Clause
"""Other programs are no requirement of the tests; what they are asked is skipped where they are missing."""

import importlib.util

# A test file by what it needs; without h5py and onnx their formats cannot be read at all.
_NEEDS = {
    "test_torch_files.py": ("torch",),
    "test_keras_files.py": ("h5py",),
    "test_keras_twins.py": ("h5py", "keras", "torch"),
    "test_onnx_files.py": ("onnx",),
    "test_onnx_runtime.py": ("onnx", "onnxruntime"),
    "test_torch_twins.py": ("torch",),
}
collect_ignore = [
    name
    for name, modules in _NEEDS.items()
    if any(importlib.util.find_spec(module) is None for module in modules)
]
