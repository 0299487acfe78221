# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fastlstm`` prints what a report of a problem should contain."""

from .runtime import show_runtime

show_runtime()
