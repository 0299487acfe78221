# SPDX-License-Identifier: BSD-3-Clause
"""The campaign: looks for what nobody thought of, a little in every run of the tests, for hours by hand.

    make campaign                               everything, 300 times as long as in a run of the tests
    make campaign EFFORT=30                     likewise, 30 times as long
    FASTLSTM_CAMPAIGN=30 python -m pytest tests/campaign      the same of the build that is installed
    python -m tests.campaign.sanitized address  under AddressSanitizer and UndefinedBehaviorSanitizer
    python -m tests.campaign.sanitized thread   likewise under ThreadSanitizer

What there is, each a file:

- `test_differential.py`: random layers, batches, containers, dtypes, strides and lengths against the float64
  reference, and calls with one argument spoiled, which are right or name the argument;
  `test_other_libraries.py`: against torch and ONNX Runtime, where these are installed.
- `test_sequences_of_calls.py`: random sequences of calls on one layer and what belongs to it, by hypothesis,
  against a plain model of what must hold; threads, signals and exceptions come in between.
- `test_allocation_failures.py`: every allocation of every entry fails once: MemoryError, nothing has changed.
- `test_flat_memory.py`: many calls of each kind leave memory as it was.

A failure prints a line that begins with "again:" and makes the same failure alone.  `FASTLSTM_CAMPAIGN` is
how many times as long as in a run of the tests, `FASTLSTM_CAMPAIGN_SEED` the first seed: another one makes
other problems (effort.py).
"""
