# SPDX-License-Identifier: BSD-3-Clause
"""Operators and models of other worlds."""
