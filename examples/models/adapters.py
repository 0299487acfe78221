# SPDX-License-Identifier: BSD-3-Clause
"""A function for each package: what its own program computes, what fastlstm computes, on the same input.

Each returns two functions without arguments, whose results are arrays; `run` compares and times them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm

Pair = tuple[Callable[[], Any], Callable[[], Any]]
RNG = np.random.default_rng(0)


def resemblyzer(folder: Path) -> Pair:
    """Embeddings of speakers: LSTM 40 → 256 of three layers in a file of old PyTorch, with its optimiser."""
    import torch

    path = folder / "resemblyzer/pretrained.pt"
    saved = torch.load(path, weights_only=False, map_location="cpu")["model_state"]
    theirs = torch.nn.LSTM(40, 256, 3, batch_first=True)
    theirs.load_state_dict({name[5:]: value for name, value in saved.items() if name.startswith("lstm.")})
    ours = fastlstm.load(path).layer
    x = np.abs(RNG.standard_normal((1, 160, 40), dtype=np.float32))
    return lambda: theirs(torch.from_numpy(x))[0].detach().numpy()[0], lambda: ours(x[0])[0]


def silero_vad(folder: Path) -> Pair:
    """Voice activity, a step for each 32 ms: a cell within TorchScript, here as a stream."""
    import torch

    path = folder / "silero_vad/data/silero_vad.jit"
    load: Any = torch.jit.load
    cell = load(str(path))._model.decoder.rnn
    layer = fastlstm.load(path).layers["_model.decoder.rnn"]
    x = RNG.standard_normal((355, 128), dtype=np.float32)

    def theirs() -> Any:
        state, outputs = (torch.zeros(1, 128), torch.zeros(1, 128)), []
        for step in torch.from_numpy(x):
            outputs.append((state := cell(step[None], state))[0].detach().numpy()[0])
        return outputs

    return theirs, lambda: [stream.step(step) for stream in [layer.stream()] for step in x]


def faster_whisper(folder: Path) -> Pair:
    """The same network as one node of ONNX over all pieces of a recording."""
    model = fastlstm.load(path := folder / "faster_whisper/assets/silero_vad_v6.onnx")
    audio = np.sin(np.arange(355 * 576) * 0.05).astype(np.float32).reshape(355, 576) * 0.3
    state = np.zeros((1, 1, 128), np.float32)
    run, x, first = _node(path, {"input": audio, "h": state, "c": state})
    return run, lambda: model.layers["LSTM"](x, first)[0]


def ddddocr(folder: Path) -> Pair:
    """Letters in pictures: LSTM 512 → 512 in both directions."""
    model = fastlstm.load(path := folder / "ddddocr/common.onnx")
    rows, columns = np.mgrid[0:64, 0:200]
    run, x, first = _node(path, {"input1": ((columns // 9 + rows // 7) % 2).astype(np.float32)[None, None]})
    return run, lambda: model.layer(x, first)[0]


def sleepecg(folder: Path) -> Pair:
    """Stages of sleep: two GRUs of eight units in both directions, in the archive of Keras 3."""
    import keras

    path = folder / "sleepecg/classifiers/ws-gru-mesa/classifier.keras"
    model, net = fastlstm.load(path), keras.models.load_model(path, compile=False)
    x = RNG.standard_normal((1, 900, 64), dtype=np.float32)
    names = list(model.layers)

    def theirs() -> Any:
        return keras.ops.convert_to_numpy(net.get_layer(names[1])(net.get_layer(names[0])(x)))

    return theirs, lambda: model.layers[names[1]](model.layers[names[0]](x)[0])[0]


def chars2vec(folder: Path) -> Pair:
    """Words as vectors: weights alone of Keras 2.2, whose hard sigmoid Keras 3 no longer has."""
    import keras

    path = folder / "chars2vec-0.1.7/chars2vec/trained_models/eng_100/weights.h5"
    first, second = fastlstm.load(path, keras_default="hard_sigmoid").layers.values()
    layers = []
    for layer in (first, second):
        plain = fastlstm.from_state_dict(layer.state_dict(), batch_first=True)
        layers.append(fastlstm.to_keras(plain))
        layers[-1].cell.recurrent_activation = lambda a: keras.ops.clip(0.2 * a + 0.5, 0, 1)
    x = np.eye(first.input_size, dtype=np.float32)[RNG.integers(0, first.input_size, (200, 10))]
    theirs = keras.Sequential(layers)
    return lambda: keras.ops.convert_to_numpy(theirs(x)), lambda: second(first(x)[0])[0]


def _node(path: Path, feed: dict[str, Any]) -> tuple[Callable[[], Any], Any, Any]:
    """The LSTM of a graph alone in ONNX Runtime, its input within the whole graph, and its first state."""
    import onnx
    import onnxruntime

    def session(model: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    model = onnx.load(str(path))
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    names = [name for name in (node.input[0], *node.input[5:7]) if name]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in known)
    values = session(model).run(names, feed)
    layer = next(iter(fastlstm.load(path).layers.values()))
    alone = session(fastlstm.to_onnx(layer, states=True))
    state = tuple(values[1:]) or (np.zeros((layer.num_directions, 1, layer.hidden_size), np.float32),) * 2
    given = {"x": values[0], "h_0": state[0], "c_0": state[1]}
    return lambda: alone.run(["y"], given)[0], values[0], state


MODELS: dict[str, Callable[[Path], Pair]] = {
    "resemblyzer": resemblyzer,
    "silero-vad": silero_vad,
    "faster-whisper": faster_whisper,
    "ddddocr": ddddocr,
    "sleepecg": sleepecg,
    "chars2vec": chars2vec,
}
