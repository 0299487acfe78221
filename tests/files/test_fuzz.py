# SPDX-License-Identifier: BSD-3-Clause
"""A short run of fuzz.py: the corpus, whose files are whole, and some hundred files that are almost those."""

from __future__ import annotations

import importlib.util
import itertools

import pytest

import fastlstm

from . import fuzz

NEEDS = {"h5": "h5py", "keras": "h5py", "onnx": "onnx"}
KINDS = [kind for kind in fuzz.FORMATS if importlib.util.find_spec(NEEDS.get(kind, "numpy"))]
COUNT = 250


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_is_whole_or_was_found(kind):
    files = sorted((fuzz.CORPUS / kind).iterdir())
    assert files
    for path in files:
        if path.name.startswith("found"):
            assert fuzz.check(path.read_bytes(), kind, measured=True) is None, path.name
        else:
            assert fastlstm.load(path).layers, path.name


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_almost_right(kind):
    for number, data in enumerate(itertools.islice(fuzz.trials(kind, 0), COUNT)):
        problem = fuzz.check(data, kind, measured=number % 8 == 0)
        if problem:
            fuzz.keep(data, kind, problem)
        assert problem is None
