# SPDX-License-Identifier: BSD-3-Clause
"""What a reader of a format finds in a file, before it is a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..model.tensors import Stored

__all__: list[str] = []


@dataclasses.dataclass
class Found:
    """What is in a file, by its names."""

    layers: dict[str, Any] = dataclasses.field(default_factory=dict)
    states: dict[str, Any] = dataclasses.field(default_factory=dict)
    arrays: dict[str, Stored] = dataclasses.field(default_factory=dict)  # recurrent layers may be among them
    options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # of those, by prefix
    stated: dict[str, Any] = dataclasses.field(default_factory=dict)  # sizes that the file states beside
    assumed: list[str] = dataclasses.field(default_factory=list)  # to be warned of
    notes: list[str] = dataclasses.field(default_factory=list)
