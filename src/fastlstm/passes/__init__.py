# SPDX-License-Identifier: BSD-3-Clause
"""Calls of the core over rows that lie anywhere: sequences, stacks of several parts, streams."""
