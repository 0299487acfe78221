# SPDX-License-Identifier: BSD-3-Clause
"""Weights of other programs as layers, and layers in other programs' terms."""

from .orders import gates

__all__ = ["gates"]
