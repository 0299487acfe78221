# SPDX-License-Identifier: BSD-3-Clause
"""Who takes part in the race: what each peer needs installed, and the environment it runs in.

One module a peer; each is imported only by that peer's own worker process, in that peer's own environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.cells import PLAIN


@dataclass(frozen=True)
class PeerSpec:
    """How to make and start one peer."""

    name: str
    # For each part of the race (shapes.PARTS) that it takes part in: a module with a class Peer, see base.py.
    modules: Mapping[str, str]
    # What pip installs into the peer's own environment; empty: the environment that runs the race.
    requirements: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    # Set for one thread only, where a peer has no other way to be told.
    one_thread_environment: tuple[tuple[str, str], ...] = ()
    # Cells that it does not take part with, and why.
    left_out: Mapping[str, str] = field(default_factory=dict)

    def variables(self, threads: int) -> dict[str, str]:
        """Environment variables of a worker that may use `threads` threads."""
        count = str(threads)
        common = {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        return common | dict(self.environment) | (dict(self.one_thread_environment) if threads == 1 else {})


def _modules(
    forward: str | None = None,
    training: str | None = None,
    family: str | None = None,
    family_training: str | None = None,
) -> Mapping[str, str]:
    parts = {
        "forward": forward,
        "training": training,
        "family": family,
        "family_training": family_training,
    }
    return {part: f"{__name__}.{module}" for part, module in parts.items() if module is not None}


IN_THE_OTHER_RACE = "raced where the plain LSTM is"
PEERS = {
    spec.name: spec
    for spec in (
        PeerSpec(
            "fastlstm",
            _modules("fastlstm_peer", "fastlstm_training", "fastlstm_family", "fastlstm_family"),
        ),
        PeerSpec("numpy", _modules("numpy_peer")),
        PeerSpec(
            "torch",
            _modules("torch_peer", "torch_training", "torch_family", "torch_family_training"),
            ("torch==2.13.0", "numpy"),
            left_out={"peephole": "has no such layer"},
        ),
        PeerSpec(
            "onnxruntime",
            _modules("onnxruntime_peer", family="onnxruntime_family"),
            ("onnxruntime==1.31.1", "onnx==1.23.2", "numpy"),
            left_out={PLAIN: IN_THE_OTHER_RACE, "projected": "its operator has no projection"},
        ),
        PeerSpec(
            "openvino",
            _modules("openvino_peer", family="openvino_family"),
            ("openvino==2026.4.1", "onnx==1.23.2", "numpy"),
            left_out={
                PLAIN: IN_THE_OTHER_RACE,
                "projected": "its operation has no projection",
                "peephole": "ignores the peepholes of an ONNX graph, and its operation has none",
            },
        ),
        PeerSpec(
            "jax",
            _modules("jax_peer", "jax_training", family_training="jax_family_training"),
            ("jax==0.10.2", "numpy"),
            environment=(("JAX_PLATFORMS", "cpu"),),
            one_thread_environment=(("NPROC", "1"), ("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")),
            left_out={PLAIN: IN_THE_OTHER_RACE},
        ),
        PeerSpec(
            "tensorflow",
            _modules(training="tensorflow_training"),
            ("tensorflow-cpu==2.21.0", "numpy"),
            environment=(("TF_CPP_MIN_LOG_LEVEL", "2"),),
            one_thread_environment=(("NPROC", "1"), ("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")),
        ),
    )
}
OURS = "fastlstm"
