# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module; what its members do is said in binding/_core.pyx and its .pxi parts.
from collections.abc import Sequence
from typing import Any, Self, final, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import disjoint_base

compiler: str
wished_num_threads: int
initial_num_threads: int
initial_num_threads_source: str

@final
class Lineage: ...

@final
class Weights:
    source: Any  # read-only
    draws: bool  # read-only
    def __new__(
        cls,
        dtype: DTypeLike | Weights,
        sizes: tuple[int, int, int, int] | None,
        options: dict[str, Any] | None,
        arrays: Sequence[dict[str, Any] | str] | None,
        source: Any = None,
        begin: int = 0,
    ) -> Weights: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_directions(self) -> int: ...
    @property
    def output_size(self) -> int: ...

@final
class Input:
    T: int  # read-only
    B: int  # read-only
    lengths: NDArray[Any] | None  # read-only
    is_index: bool  # read-only

@final
class Frame:
    rows: int  # read-only
    step_t: int  # read-only
    step_b: int  # read-only
    at: NDArray[Any] | None  # read-only
    def __new__(cls, rows: int, step_t: int, step_b: int = 0, at: NDArray[Any] | None = None) -> Frame: ...

@final
class StackCall:
    final: tuple[NDArray[Any], NDArray[Any] | None]  # read-only
    def __new__(
        cls,
        weights: Weights,
        x: Input,
        frame: Frame,
        state: tuple[NDArray[Any] | None, NDArray[Any] | None],
        y: NDArray[Any],
        c_steps: NDArray[Any] | None,
    ) -> StackCall: ...
    def run(self, num_threads: int) -> None: ...
    def record(
        self,
        layer: Recurrent,
        reset: NDArray[Any] | None,
        save: int,
        dropout: float,
        seed: int,
        draws: bool,
        first: int,
    ) -> Record: ...

@final
class Record:
    nbytes: int  # read-only
    def __new__(cls) -> Record: ...
    def backward(
        self,
        dy: NDArray[Any] | None,
        dcells: NDArray[Any] | None,
        dstate: tuple[NDArray[Any] | None, NDArray[Any] | None],
        dx_frame: Frame | None,
        dx: NDArray[Any] | None,
        scratch: NDArray[Any],
        bptt: int,
        num_threads: int,
        is_apart: bool = False,
    ) -> tuple[NDArray[Any], NDArray[Any] | None]: ...

@disjoint_base
class Layer:
    _packed: tuple[Weights, ...]
    @property
    def num_threads(self) -> int | None: ...
    @num_threads.setter
    def num_threads(self, value: int | None) -> None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def release(self) -> None: ...

@disjoint_base
class Recurrent(Layer):
    def __new__(cls, *arguments: Any, **keywords: Any) -> Self: ...
    def release(self) -> None: ...
    _direct: tuple[bool, float, bool, bool]
    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: Any = None,
        offsets: ArrayLike | None = None,
        pad: str = "zero",
        return_cells: bool = False,
        out: NDArray[Any] | None = None,
    ) -> Any: ...
    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: Any = None,
        offsets: ArrayLike | None = None,
        pad: str = "zero",
        return_cells: bool = False,
        training: bool = True,
        save: str | int = "all",
        bptt: int | None = None,
        reserve: Any = None,
        out: NDArray[Any] | None = None,
        copy: bool = True,
        seed: int | None = None,
    ) -> Tape: ...
    def tape(
        self,
        x: Any,
        state: Any = None,
        *,
        y: NDArray[Any],
        reserve: Any,
        lengths: ArrayLike | None = None,
        reset: Any = None,
        training: bool = True,
        save: str | int = "all",
        bptt: int | None = None,
        seed: int | None = None,
    ) -> Tape: ...
    def reserve_size(
        self, T: int, B: int = 1, *, lengths: ArrayLike | None = None, save: str | int = "all"
    ) -> int: ...

@disjoint_base
class Tape:
    y: NDArray[Any]  # read-only
    state: Any  # read-only
    cells: Any  # read-only
    nbytes: int  # read-only
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def backward(
        self,
        dy: Any = None,
        dstate: Any = None,
        dcells: Any = None,
        *,
        grads: NDArray[Any] | None = None,
        keep: bool = False,
    ) -> tuple[NDArray[Any] | None, Any]: ...

class Step(Layer):
    def __call__(self, x: ArrayLike, state: Any = None, out: Any = None) -> Any: ...

@disjoint_base
class Stream:
    def __new__(
        cls,
        parts: tuple[Weights, ...],
        batch_size: int,
        num_threads: int | None,
        batch_first: bool,
        is_listed: bool = False,
        joins: bool = False,
    ) -> Self: ...
    @property
    def num_threads(self) -> int | None: ...
    @property
    def _first(self) -> Weights: ...
    @property
    def _streams(self) -> tuple[Stream, ...]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def batch_first(self) -> bool: ...
    def step(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def process(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def reset(self, rows: Any = None) -> None: ...
    def read_rows(self, rows: Any) -> Any: ...
    def write_rows(self, rows: Any, state: Any) -> None: ...
    @property
    def state(self) -> Any: ...
    @state.setter
    def state(self, value: Any) -> None: ...

def strided_input(
    weights: Weights, x: NDArray[Any], lengths: NDArray[Any] | None, reverse: bool
) -> Input: ...
def packed_input(weights: Weights, x: NDArray[Any], T: int, frame: Frame, lengths: NDArray[Any]) -> Input: ...
def listed_input(
    weights: Weights, arrays: list[NDArray[Any]], T: int, lengths: NDArray[Any], reverse: bool
) -> Input: ...
def read_sequence(weights: Weights, x: Any, batch_first: bool) -> tuple[NDArray[Any], bool]: ...
def read_step(weights: Weights, x: Any) -> Any: ...
def read_row_lengths(lengths: Any, T: int, B: int, batched: bool) -> NDArray[Any]: ...
def read_flags(value: Any, name: str, T: int, B: int, batched: bool, batch_first: bool) -> NDArray[Any]: ...
def read_states(
    parts: tuple[Weights, ...],
    state: Any,
    name: str,
    B: int,
    batched: bool,
    is_listed: bool,
    may_lack: bool,
) -> list[tuple[NDArray[Any] | None, NDArray[Any] | None]]: ...
def states_as_given(
    parts: tuple[Weights, ...],
    states: list[tuple[NDArray[Any], NDArray[Any] | None]],
    batched: bool,
    is_listed: bool,
) -> Any: ...
@overload
def kept(array: None) -> None: ...
@overload
def kept(array: NDArray[Any]) -> NDArray[Any]: ...
def read_array(value: Any, name: str) -> NDArray[Any]: ...
def read_one(value: Any, name: str) -> NDArray[Any]: ...
def read_sequences(x: Any, name: str) -> list[Any] | None: ...
def read_rows(weights: Weights, rows: list[Any]) -> tuple[list[NDArray[Any]], NDArray[Any]]: ...
def split_sequences(array: NDArray[Any], bounds: NDArray[Any]) -> list[NDArray[Any]]: ...
def frozen(array: NDArray[Any]) -> NDArray[Any]: ...

@final
class Block: ...

def flat_array(size: int, dtype: np.dtype[Any], is_zero: bool) -> NDArray[Any]: ...
def own_array(array: NDArray[Any]) -> NDArray[Any]: ...
def gradient_scratch(layer: Recurrent) -> NDArray[Any]: ...
def add_gradients(layer: Recurrent, scratch: NDArray[Any], first: Record) -> int: ...
def give_back(layer: Recurrent, record: Record) -> int: ...
def drop_rows(
    rows: NDArray[Any],
    T: int,
    B: int,
    lengths: NDArray[Any] | None,
    p: float,
    seed: int,
    layer: int,
    is_tied: bool = False,
) -> NDArray[Any]: ...
def check_result(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], given: list[tuple[str, Any]]
) -> None: ...
def packed(weight_ih: ArrayLike, weight_hh: ArrayLike, bias: ArrayLike | None = None) -> Weights: ...
def gate_matmul(
    x: ArrayLike,
    h: ArrayLike,
    weight_ih: ArrayLike | Weights,
    weight_hh: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
def cell_update(
    gates: ArrayLike, c: ArrayLike, out: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def sigmoid(x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
def tanh(x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
def count(value: object, name: str) -> int: ...
def real_array(value: ArrayLike, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def new_lock() -> Any: ...
def assign_all(assignments: Sequence[tuple[object, str, Any]]) -> None: ...
def set_num_threads(num_threads: int) -> None: ...
def get_num_threads() -> int: ...
def set_local_num_threads(num_threads: int) -> int: ...
def cpu_count() -> int: ...
def isa_active() -> str: ...
def isa_table() -> list[tuple[str, bool, bool]]: ...
def probe_fma(dtype: DTypeLike, seconds: float) -> float: ...
def probe_stream(bytes: int, seconds: float) -> float: ...

PASSES: tuple[str, ...]

def set_plan_trials(enabled: bool) -> None: ...
def plan_trials() -> bool: ...

PLAN_WAYS: int

def plan_facts() -> list[dict[str, Any]]: ...
def workspace_bytes(layer: Recurrent, T: int, B: int) -> int: ...
def all_finite(values: NDArray[Any]) -> bool: ...

@final
class Products:
    def __new__(cls, dtype: np.dtype[Any], in_features: int, out_features: int) -> Products: ...
    def renew(self) -> None: ...
    def forward(self, flat: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]: ...
    def backward(
        self, flat: NDArray[Any], x: NDArray[Any], dy: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...
    def give_back(self, scratch: NDArray[Any]) -> None: ...

def add_flat(x: NDArray[Any], outs: list[NDArray[Any]]) -> None: ...

@final
class Words:
    def __new__(cls, dtype: np.dtype[Any], tables: list[tuple[int, int, int, bool]]) -> Words: ...
    def settle(self, flat: NDArray[Any]) -> None: ...
    def clear(self, holder: dict[str, Any]) -> None: ...
    def add(self, used: NDArray[Any], values: list[NDArray[Any]]) -> bool: ...

def local_words(layer: object, parameter_set: Any) -> Words | None: ...
def is_unshared(sets: list[Any], n: int) -> bool: ...
def optimiser_step(
    changes: list[tuple[object, str, Any]],
    before: list[Any],
    after: list[Any],
    grads: list[NDArray[Any]],
    moments: list[tuple[NDArray[Any], ...]],
    tables: list[Words | None],
    options: dict[str, Any],
    num_steps: int,
    checks: bool,
) -> int: ...
def clip_gradients(grads: list[NDArray[Any]], limit: float) -> float: ...
def memory_equals(flat: NDArray[Any], addresses: Sequence[int], sizes: Sequence[int]) -> bool: ...
def gathered_memory(addresses: Sequence[int], sizes: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def cell_facts(options: dict[str, Any], hidden_size: int) -> tuple[str, str, int]: ...
def parameter_facts(
    options: dict[str, Any], input_size: int, hidden_size: int
) -> list[tuple[str, tuple[int, ...], bool]]: ...
