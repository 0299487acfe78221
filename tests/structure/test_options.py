# SPDX-License-Identifier: BSD-3-Clause
"""An option is said once: what a constructor's signature repeats of it, for readers, is the same."""

import inspect

import pytest

import fastlstm
from fastlstm.model.parameters import Parameters

LAYERS = [
    value
    for value in (getattr(fastlstm, name) for name in fastlstm.__all__)
    if isinstance(value, type) and issubclass(value, Parameters)
]
# Arguments that are no options: of the first values, and of what every layer has.
OTHERS = {"forget_bias", "init", "dtype", "num_threads", "rng"}


def test_there_are_layers():
    assert len(LAYERS) > 10


@pytest.mark.parametrize("cls", LAYERS)
def test_a_constructor_has_the_options_of_its_class_and_their_defaults(cls):
    signature = inspect.signature(cls).parameters
    assert set(signature) - OTHERS == set(cls._options)
    for name, option in cls._options.items():
        default = signature[name].default
        assert (None if default is inspect.Parameter.empty else default) == option.default, name


@pytest.mark.parametrize("cls", LAYERS)
def test_options_are_documented(cls):
    documented = cls.__doc__.partition("Attributes\n")[0]
    for name in cls._options:
        assert name in documented, name
