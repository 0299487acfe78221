# SPDX-License-Identifier: BSD-3-Clause
"""The bits of every case are those that are stored, on each instruction set and for any number of threads.

A change that means to change them writes the file again, ``python -m tests.bits.digests --write``, and says
why.
"""

from __future__ import annotations

import pytest

from tests.problems.children import ISAS, in_child

from .computed import all_cases, digests_of_this_isa
from .digests import column, differences, stored


def test_every_case_is_stored_and_no_other():
    expected = list(all_cases())
    assert {name: list(cases) for name, cases in stored().items()} == dict.fromkeys(
        ("fused", "generic"), expected
    )


@pytest.mark.long
@pytest.mark.parametrize("isa", ISAS)
def test_stored_digests(isa):
    lines = differences(in_child(digests_of_this_isa, isa=isa), stored()[column(isa)])
    assert not lines, "\n".join([f"{len(lines)} cases differ on {isa}:", *lines])
