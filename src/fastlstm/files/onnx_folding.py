# SPDX-License-Identifier: BSD-3-Clause
"""Constants of an ONNX graph, also those that it computes from others: a weight may come through some nodes.

Only operators that move or scale numbers are computed, and their results are counted before they are made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..model.tensors import Stored
from .source import Source

__all__: list[str] = []

_MOST_NODES = 200  # that a weight may come through, one behind the other
Array = Any


class Scope:
    """Names that a graph sees: its own and those of the graphs around it."""

    def __init__(self, source: Source, graph: Any, outer: Scope | None = None) -> None:
        self.source, self.graph, self.outer = source, graph, outer
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes = {name: node for node in graph.node for name in node.output if name}
        self.known: dict[str, Array | None] = {}
        self.used: set[str] = set() if outer is None else outer.used  # tensors that weights came from
        self.fed = {value.name for value in graph.input} - self.tensors.keys()

    def constant(self, name: str, depth: int = 0) -> Array | None:
        """Value of a name, or None where it is none before the model runs."""
        if name in self.known:
            return self.known[name]
        if name in self.tensors:
            self.used.add(name)
            value: Array | None = read_tensor(self.source, self.tensors[name], f"initializer {name!r}").read()
        elif name in self.nodes:
            value = self._computed(self.nodes[name], name, depth)
        elif name in self.fed or self.outer is None:
            value = None
        else:
            value = self.outer.constant(name, depth)
        self.known[name] = value
        return value

    def _computed(self, node: Any, name: str, depth: int) -> Array | None:
        function = FUNCTIONS.get(node.op_type)
        if function is None or node.domain not in ("", "ai.onnx") or depth > _MOST_NODES:
            return None
        inputs = []
        for each in node.input:
            value = self.constant(each, depth + 1) if each else None
            if each and value is None:
                return None
            inputs.append(value)
        place = f"node {node.name or name!r} ({node.op_type})"
        if node.op_type == "Constant":
            self.used.add(name)
        try:
            return function(_Node(self.source, node, place), inputs, list(node.output).index(name))
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
            if str(error).startswith(self.source.name):
                raise
            self.source.bad(place, "operands that go together", str(error)[:200])


class _Node:
    """Attributes of a node."""

    def __init__(self, source: Source, node: Any, place: str) -> None:
        self.source, self.place = source, place
        self.attributes = {attribute.name: attribute for attribute in node.attribute}
        self.outputs = len(node.output)

    def get(self, name: str, default: Any = None) -> Any:
        """Value of an attribute."""
        import onnx

        if name not in self.attributes:
            return default
        return onnx.helper.get_attribute_value(self.attributes[name])

    def take(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Count a result before it is made."""
        self.source.take(math.prod(int(size) for size in shape) * np.dtype(dtype).itemsize, self.place)


def read_tensor(source: Source, tensor: Any, place: str) -> Stored:
    """A tensor of the file, or of one beside it."""
    import onnx

    shape = source.shape([int(size) for size in tensor.dims], place)
    try:
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError):
        source.bad(place, "a type of numbers", tensor.data_type)
    if kind.kind not in "fiub" and kind.name != "bfloat16":
        source.bad(place, "a type of numbers", kind)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(source, tensor, shape, kind, place)
    if tensor.HasField("raw_data"):
        return source.stored(shape, kind.name, len(tensor.raw_data), place, lambda: tensor.raw_data)
    count = max(
        len(field)
        for field in (
            tensor.float_data,
            tensor.int32_data,
            tensor.int64_data,
            tensor.double_data,
            tensor.uint64_data,
        )
    )
    if count != math.prod(shape):
        source.bad(place, f"{math.prod(shape)} numbers for shape {shape}", count)
    source.take(count * kind.itemsize, place)
    return Stored(shape, kind.name, lambda: np.asarray(onnx.numpy_helper.to_array(tensor)))


def _external(source: Source, tensor: Any, shape: tuple[int, ...], kind: Any, place: str) -> Stored:
    """Data in a file beside the model, never elsewhere."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    parts = location.replace("\\", "/").split("/")
    base = os.path.realpath(source.folder)
    path = os.path.realpath(os.path.join(base, *parts))
    is_inside = os.path.commonpath([base, path]) == base if os.path.isabs(path) else False
    if not location or os.path.isabs(location) or ".." in parts or ":" in location or not is_inside:
        source.bad(f"{place}: location", "a file in the folder of the model", repr(location)[:80])
    if not os.path.isfile(path):
        source.bad(
            f"{place}: location", "a file in the folder of the model", f"none by the name {location!r}"[:100]
        )
    numbers = [facts.get(name, default) for name, default in (("offset", "0"), ("length", "-1"))]
    try:
        offset, length = (int(number) for number in numbers)
    except ValueError:
        source.bad(place, "an offset and a length", str(numbers)[:60])
    needed, size = math.prod(shape) * kind.itemsize, os.path.getsize(path)
    if length not in (-1, needed) or not 0 <= offset <= size - needed:
        source.bad(place, f"{needed} bytes within the {size} of {location!r}", f"{length} from {offset} on")
    source.left += needed  # the limit is of what is in the model's own file

    def read() -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(needed)

    return source.stored(shape, kind.name, needed, place, read)


# ---- Operators ---------------------------------------------------------------------------------------------


def _ints(value: Any) -> list[int]:
    return [int(each) for each in np.ravel(value)]


def _axes(node: _Node, inputs: list[Array]) -> list[int] | None:
    """Axes, an attribute once and an operand since."""
    if len(inputs) > 1 and inputs[1] is not None:
        return _ints(inputs[1])
    found = node.get("axes")
    return None if found is None else _ints(found)


def _constant(node: _Node, inputs: list[Array], _: int) -> Array | None:
    for name in ("value_float", "value_int", "value_floats", "value_ints"):
        value = node.get(name)
        if value is not None:
            return np.asarray(value, np.float32 if "float" in name else np.int64)
    tensor = node.get("value")
    return None if tensor is None else read_tensor(node.source, tensor, node.place).read()


def _unsqueeze(node: _Node, inputs: list[Array], _: int) -> Array:
    return np.expand_dims(inputs[0], tuple(_axes(node, inputs) or ()))


def _squeeze(node: _Node, inputs: list[Array], _: int) -> Array:
    axes = _axes(node, inputs)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


def _concat(node: _Node, inputs: list[Array], _: int) -> Array:
    node.take((sum(array.size for array in inputs),), inputs[0].dtype)
    return np.concatenate(inputs, int(node.get("axis", 0)))


def _slice(node: _Node, inputs: list[Array], _: int) -> Array:
    data, *given = inputs
    named = [given[at] if len(given) > at else None for at in range(4)]
    starts, ends, axes, steps = (
        node.get(name) if value is None else value
        for name, value in zip(("starts", "ends", "axes", "steps"), named, strict=True)
    )
    first, last = _ints(starts), _ints(ends)
    where = range(len(first)) if axes is None else _ints(axes)
    by = [1] * len(first) if steps is None else _ints(steps)
    index = [slice(None)] * data.ndim
    for axis, begin, end, step in zip(where, first, last, by, strict=True):
        size = data.shape[axis]
        # An end before the first element, of a step back, is no negative index.
        index[axis] = slice(begin, None if step < 0 and end < -size else end, step)
    return data[tuple(index)]


def _cast(node: _Node, inputs: list[Array], _: int) -> Array:
    import onnx

    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(node.get("to"))))
    node.take(inputs[0].shape, kind)
    with np.errstate(all="ignore"):
        return inputs[0].astype(kind)


def _transpose(node: _Node, inputs: list[Array], _: int) -> Array:
    order = node.get("perm")
    return np.transpose(inputs[0], None if order is None else _ints(order))


def _reshape(node: _Node, inputs: list[Array], _: int) -> Array:
    shape = _ints(inputs[1] if len(inputs) > 1 else node.get("shape"))
    if not node.get("allowzero", 0):
        shape = [inputs[0].shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return np.reshape(inputs[0], shape)


def _gather(node: _Node, inputs: list[Array], _: int) -> Array:
    data, index = inputs
    axis = int(node.get("axis", 0))
    node.take((*data.shape[:axis], *index.shape, *data.shape[axis:][1:]), data.dtype)
    return np.take(data, index, axis)


def _split(node: _Node, inputs: list[Array], output: int) -> Array:
    data, axis = inputs[0], int(node.get("axis", 0))
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.get("split")
    if sizes is None:
        each = -(-data.shape[axis] // node.outputs)
        ends = [each * n for n in range(1, node.outputs)]
    else:
        ends = [int(end) for end in np.cumsum(_ints(sizes))[:-1]]
    return np.split(data, ends, axis)[output]


def _dequantize(node: _Node, inputs: list[Array], _: int) -> Array:
    data, scale = inputs[:2]
    zero = inputs[2] if len(inputs) > 2 else None
    node.take(data.shape, np.float32)
    return dequantized(data, scale, zero, int(node.get("axis", 1)))


def dequantized(data: Array, scale: Array, zero: Array | None, axis: int) -> Array:
    """(data - zero) * scale, with one scale for all or one for each index of an axis."""

    def along(value: Array) -> Array:
        flat = np.asarray(value, np.float32)
        return (
            flat.reshape([-1 if at == axis % data.ndim else 1 for at in range(data.ndim)])
            if flat.size > 1
            else flat.reshape(())
        )

    centred = data.astype(np.float32)
    if zero is not None:
        centred -= along(zero)
    centred *= along(scale)
    return centred


def _filled(node: _Node, inputs: list[Array], _: int) -> Array:
    tensor = node.get("value")
    value = np.zeros(1, np.float32) if tensor is None else read_tensor(node.source, tensor, node.place).read()
    shape = tuple(_ints(inputs[0]))
    node.take(shape, value.dtype)
    return np.full(shape, value.ravel()[0])


def _expand(node: _Node, inputs: list[Array], _: int) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(_ints(inputs[1])))
    node.take(shape, inputs[0].dtype)
    return np.array(np.broadcast_to(inputs[0], shape))


def _arithmetic(function: Callable[[Array, Array], Array]) -> Callable[[_Node, list[Array], int], Array]:
    def compute(node: _Node, inputs: list[Array], _: int) -> Array:
        node.take(np.broadcast_shapes(inputs[0].shape, inputs[1].shape), np.float64)
        with np.errstate(all="ignore"):
            return function(inputs[0], inputs[1]).astype(inputs[0].dtype)

    return compute


FUNCTIONS: dict[str, Callable[[_Node, list[Array], int], Array]] = {
    "Constant": _constant,
    "Identity": lambda node, inputs, _: inputs[0],
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Slice": _slice,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Gather": _gather,
    "Split": _split,
    "DequantizeLinear": _dequantize,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Shape": lambda node, inputs, _: np.asarray(inputs[0].shape, np.int64),
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(np.divide),
}
