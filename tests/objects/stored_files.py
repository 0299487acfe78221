# SPDX-License-Identifier: BSD-3-Clause
"""Files that a release wrote, which later ones must read.

``python -m tests.objects.stored_files`` writes this version's, when a release is made, and never again: an
archive with the pickle of each kind of layer, its state as ``fastlstm.save`` writes it, and what it computed.
"""

from __future__ import annotations

import io
import pickle
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

import fastlstm

from .kinds import CELLS_OF_ONE_STEP, KINDS, batch, build

FOLDER = Path(__file__).parent / "stored"
MOMENT = (2026, 1, 1, 0, 0, 0)


def computed(layer) -> np.ndarray:
    """What the layer makes of the batch of its kind, without what is drawn."""
    result = layer(batch(layer))
    if type(layer).__name__ in CELLS_OF_ONE_STEP:
        return result[0] if isinstance(result, tuple) else result
    return np.asarray(result[0] if isinstance(result, tuple) else result)


def write(archive: Path) -> None:
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as file:

        def put(name: str, content: bytes) -> None:
            file.writestr(zipfile.ZipInfo(name, MOMENT), content, zipfile.ZIP_DEFLATED)

        for kind in KINDS:
            layer = build(kind)
            put(f"{kind}/layer.pickle", pickle.dumps(layer, 4))
            with tempfile.TemporaryDirectory() as folder:
                fastlstm.save(f"{folder}/state.npz", layer)
                put(f"{kind}/state.npz", Path(folder, "state.npz").read_bytes())
            result = io.BytesIO()
            np.save(result, computed(layer))
            put(f"{kind}/result.npy", result.getvalue())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write(FOLDER / f"{fastlstm.__version__}.zip")
    sys.exit(0)
