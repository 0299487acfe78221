# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks: the main job (``run``), the race against peers (``race``) and the pytest-benchmark suites.

This package imports nothing by itself: the workers of the race import it in environments without fastlstm.
"""
