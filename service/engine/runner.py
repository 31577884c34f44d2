"""Owns the ONNX Runtime session and the state rows of one bundle, and runs steps on the front of them.

Everything is laid out once: each carried tensor has two buffers of `capacity` rows, a step reads one and writes the
other, and the roles change. ONNX Runtime is bound to the buffers by address, once for each number of rows, so a step
allocates and copies nothing.
"""

import math
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.bundle import Bundle, TensorSpec


class Runner:
    """Steps the rows of one bundle.

    Args:
        bundle: a checked bundle.
        capacity: number of rows.

    Attributes:
        inputs: (capacity,) int64 or (capacity, 3) float32: what each row reads at the next step.
        codes: uint8 (capacity,): trace byte of each row's last step, as `trace.Hierarchy` reads it.
    """

    def __init__(self, bundle: Bundle, capacity: int) -> None:
        self.capacity = capacity
        self._session = _open(bundle.graph)
        self._states = bundle.states
        self._input, self._output = bundle.input, bundle.output
        self.inputs = _zeros(bundle.input, capacity)
        self._outputs = _zeros(bundle.output, capacity)
        self._sides = tuple({state.name: _zeros(state, capacity) for state in bundle.states} for _ in range(2))
        self._now = 0
        self._bindings: dict[tuple[int, int], Any] = {}
        self._detectors = detectors(bundle)
        self._z = np.zeros(capacity, np.uint8)
        self.codes = np.zeros(capacity, np.uint8)

    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of rows 0 .. count-1 and return their outputs (count, V or 6M+1), valid until the next step."""
        binding = self._bindings.get((count, self._now)) or self._bind(count)
        self._session.run_with_iobinding(binding)
        self._now ^= 1
        self._note(count)
        outputs: NDArray[np.float32] = self._outputs[:count]
        return outputs

    def clear(self, row: int) -> None:
        """Set a row to the state every sequence starts from: zeros."""
        for tensor in self._sides[self._now].values():
            tensor[row] = 0
        self._z[row] = 0

    def move(self, source: int, target: int) -> None:
        """Copy a row's state and input over another's."""
        for tensor in self._sides[self._now].values():
            tensor[target] = tensor[source]
        self._z[target] = self._z[source]
        self.inputs[target] = self.inputs[source]

    @property
    def row_bytes(self) -> int:
        """Size of what `save` returns, the same for every row and position."""
        return sum(np.dtype(state.dtype).itemsize * _size(state) for state in self._states)

    def save(self, row: int) -> bytes:
        """Return a row's state: its tensors one after the other in the bundle's order, little-endian."""
        side = self._sides[self._now]
        return b"".join(_little_endian(side[state.name][row]).tobytes() for state in self._states)

    def restore(self, row: int, saved: bytes) -> None:
        """Set a row to a state that was saved, here or by another runner of the same bundle.

        Raises:
            ValueError: it is not of this bundle's size, or holds what no step leaves behind.
        """
        tensors = self._read(saved)
        side = self._sides[self._now]
        for name, values in tensors.items():
            side[name][row] = values
        self._z[row] = sum(int(tensors[name]) << bit for bit, name in enumerate(self._detectors))

    def check(self, saved: bytes) -> None:
        """Say whether `restore` would take a state.

        Raises:
            ValueError: as `restore` does.
        """
        self._read(saved)

    def _read(self, saved: bytes) -> dict[str, NDArray[Any]]:
        """A saved state as its tensors, each of a row's shape."""
        if len(saved) != self.row_bytes:
            raise ValueError(f"a state of this bundle has {self.row_bytes} bytes, not {len(saved)}")
        tensors, start = {}, 0
        for state in self._states:
            dtype = np.dtype(state.dtype).newbyteorder("<")
            values = np.frombuffer(saved, dtype, _size(state), start).reshape(state.shape_for(1)[1:])
            start += values.nbytes
            if not np.isfinite(values).all():
                raise ValueError(f"{state.name} is not finite")
            if state.name in self._detectors and not np.isin(values, (0, 1)).all():
                raise ValueError(f"{state.name} is neither 0 nor 1")
            tensors[state.name] = values
        return tensors

    def _note(self, count: int) -> None:
        """Work out the trace byte of each row from z before and after the step."""
        after = np.zeros(count, np.uint8)
        for bit, name in enumerate(self._detectors):
            # A comparison, because a row that is not finite has no boundary and must not upset the others.
            after |= (self._sides[self._now][name][:count] > 0.5).astype(np.uint8) << bit
        before = self._z[:count]
        np.left_shift(before, len(self._detectors), out=self.codes[:count])
        self.codes[:count] |= after
        before[:] = after

    def _bind(self, count: int) -> Any:
        """Bind a number of rows to the buffers of this side's step, once."""
        binding = self._session.io_binding()
        _bind(binding.bind_input, self._input.name, self.inputs[:count])
        _bind(binding.bind_output, self._output.name, self._outputs[:count])
        for state in self._states:
            _bind(binding.bind_input, state.name, self._sides[self._now][state.name][:count])
            _bind(binding.bind_output, state.next, self._sides[self._now ^ 1][state.name][:count])
        self._bindings[count, self._now] = binding
        return binding


def detectors(bundle: Bundle) -> list[str]:
    """Return the names of the boundaries a bundle carries, from layer 1 up; an LSTM carries none."""
    carried = {state.name for state in bundle.states}
    return [name for layer in range(1, len(bundle.hidden)) if (name := f"z{layer}") in carried]


def _open(graph: bytes) -> Any:
    """A session on one core: more throughput comes from more rows or more processes, never from its own threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _zeros(spec: TensorSpec, capacity: int) -> NDArray[Any]:
    return np.zeros(spec.shape_for(capacity), np.dtype(spec.dtype))


def _size(state: TensorSpec) -> int:
    """Numbers of a tensor that belong to one row."""
    return math.prod(state.shape_for(1))


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    """The same values as every machine writes them."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    """Give ONNX Runtime the address of rows; the arrays live as long as the runner and its bindings."""
    bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
