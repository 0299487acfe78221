# SPDX-License-Identifier: BSD-3-Clause
"""A progress bar that is quiet in a log file."""

import sys

import tqdm  # type: ignore[import-untyped]

LOG_SECONDS = 15.0  # between lines where the bar is not on a terminal


class Progress(tqdm.tqdm):  # type: ignore[misc]
    """Counts turns and says what is running."""

    monitor_interval = 0  # no thread that wakes up while something is timed

    def __init__(self, total: int) -> None:
        self._is_terminal = sys.stderr.isatty()
        every = 0.1 if self._is_terminal else LOG_SECONDS
        super().__init__(total=total, unit="turn", dynamic_ncols=True, smoothing=0.02, mininterval=every)

    def say(self, text: str) -> None:
        self.set_postfix_str(text, refresh=self._is_terminal)

    def skip_to(self, count: int) -> None:
        """Count what was left out."""
        self.update(count - self.n)
