# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fastlstm`` prints what a report of a problem should contain; ``--help`` says what else."""

import sys

if len(sys.argv) > 1:
    from .files.command import main

    sys.exit(main(sys.argv[1:]))

from .runtime import show_runtime

show_runtime()
