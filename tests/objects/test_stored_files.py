# SPDX-License-Identifier: BSD-3-Clause
"""What releases wrote is read by this version: pickles of all kinds of layers, and files of states."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

import fastlstm
from tests.problems.comparing import assert_same_bits

from .kinds import build
from .stored_files import FOLDER, computed

ARCHIVES = sorted(FOLDER.glob("*.zip"))


def members() -> list[tuple[str, str]]:
    """Release and kind of layer."""
    found = []
    for archive in ARCHIVES:
        with zipfile.ZipFile(archive) as file:
            names = {name.partition("/")[0] for name in file.namelist()}
        found += [(archive.stem, kind) for kind in sorted(names)]
    return found


def read(release: str, name: str) -> io.BytesIO:
    with zipfile.ZipFile(FOLDER / f"{release}.zip") as file:
        return io.BytesIO(file.read(name))


def test_there_are_files_of_the_first_release():
    assert "0.1.0" in [archive.stem for archive in ARCHIVES]
    assert len(members()) > 25


@pytest.mark.parametrize(("release", "kind"), members())
def test_pickles_and_states_are_read(release, kind):
    layer = pickle.loads(read(release, f"{kind}/layer.pickle").getvalue())
    twin = build(kind, rng=9)
    assert repr(layer) == repr(twin)
    state = np.load(read(release, f"{kind}/state.npz"))
    twin.load_state_dict(state)
    assert_same_bits(layer.flat_params, twin.flat_params)
    expected = np.load(read(release, f"{kind}/result.npy"))
    assert expected.any()
    for one in (layer, twin):
        np.testing.assert_allclose(computed(one), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("release", [archive.stem for archive in ARCHIVES])
def test_files_are_read_by_load(release, tmp_path):
    path = tmp_path / "state.npz"
    path.write_bytes(read(release, "LSTM/state.npz").getvalue())
    layer = build("LSTM", rng=9)
    fastlstm.load(path, layer)
    assert_same_bits(
        layer.flat_params, pickle.loads(read(release, "LSTM/layer.pickle").getvalue()).flat_params
    )
