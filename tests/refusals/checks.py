# SPDX-License-Identifier: BSD-3-Clause
"""What a refusal looks like."""

from __future__ import annotations

import pytest


def refuses(error, name, call, *arguments, **keywords):
    """The message begins with the argument, and tells what was expected and what came."""
    with pytest.raises(error, match=rf"^{name}: expected (.|\n)*got ") as caught:
        call(*arguments, **keywords)
    assert type(caught.value) is error
    return str(caught.value)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array
