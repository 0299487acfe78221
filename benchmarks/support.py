# SPDX-License-Identifier: BSD-3-Clause
"""What the pytest-benchmark suites share."""

from collections.abc import Callable
from typing import Any

import fastlstm
from fastlstm import _core


def run(
    benchmark: Any,
    call: Callable[..., Any],
    *arguments: Any,
    group: str,
    error: float,
    flops: float = 0.0,
    **info: Any,
) -> None:
    """Benchmark a callable whose answer was checked before; write down what a reader of the figure needs.

    Parameters
    ----------
    benchmark : fixture of pytest-benchmark
    call : callable
        What is timed, called with `arguments`.
    group : str
        Results of one group stand together.
    error : float
        Largest error that the check found.
    flops : float
        Multiplications and additions of one call; 0: none are counted.
    **info
        More for ``extra_info``, such as the shape.
    """
    benchmark.group = group
    benchmark.extra_info.update(info, isa=_core.isa_active(), threads=fastlstm.get_num_threads(), error=error)
    benchmark(call, *arguments)
    if flops and benchmark.stats is not None:  # None when the benchmarks only run as tests
        benchmark.extra_info["gflops"] = flops / benchmark.stats.stats.min / 1e9
