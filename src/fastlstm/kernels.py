# SPDX-License-Identifier: BSD-3-Clause
"""The pieces of a step, callable on NumPy arrays; `fastlstm.reference` holds their readable twins."""

from ._core import cell_update, gate_matmul, packed, sigmoid, tanh

__all__ = ["cell_update", "gate_matmul", "packed", "sigmoid", "tanh"]
