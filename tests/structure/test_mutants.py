# SPDX-License-Identifier: BSD-3-Clause
"""The faults of tools/mutants.py: each still has its place, so that ``make mutants`` can plant it."""

from __future__ import annotations

import pytest

from tools.mutants import MUTANTS, ROOT, place_of


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_has_one_place(mutant):
    assert place_of(mutant, ROOT).is_file()
    assert mutant.new != mutant.old
