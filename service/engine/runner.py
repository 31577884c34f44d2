"""Owns the ONNX Runtime sessions and the state rows of one bundle, and runs steps on the front of them.

Everything is laid out once, and ONNX Runtime is bound to it by address, once for each range of rows, so a step
allocates and copies nothing. h, c and e are read and written in place: whatever writes one of them needs the results
of all that read it. A boundary is not safe in that way, since what resets c may read it after the new one is known; so
boundaries have two buffers that change roles with every step, and both together make the trace bytes.

A single row goes through the graph with branches, more rows through the graph that gathers them, at most 64 at a time:
beyond that the activations of a step outgrow a core's own cache. A third graph reads many inputs of a row in one go,
for half of what it costs to step through them. All graphs give a row the same bits.
"""

import math
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.bundle import Bundle, TensorSpec

MAX_ROWS = 64
BOUNDARIES = "boundaries"  # what the graph that reads prompts tells of its steps
NEUTRAL = {"temperature", "top_p"}  # wishes whose neutral value is 1; of all others it is 0


class Runner:
    """Steps the rows of one bundle.

    Args:
        bundle: a checked bundle.
        capacity: number of rows.

    Attributes:
        inputs: (capacity,) int64 or (capacity, 3) float32: what each row reads at the next step.
        wishes: by name, (capacity, ...): how each row's next input is drawn at the next step, noise included.
        drawn: (capacity,) int64 or (capacity, 3) float32: what each row's last step has drawn from its output.
        codes: uint8 (capacity,): trace byte of each row's last step, as `trace.Hierarchy` reads it.
    """

    def __init__(self, bundle: Bundle, capacity: int) -> None:
        self.capacity = capacity
        self._single, self._batch, self._prompt = _open(bundle.single), _open(bundle.graph), _open(bundle.prompt)
        first, *others = (one.name for one in self._prompt.get_inputs())
        self._read_as, self._read_from = first, others
        self._read_into = [one.name for one in self._prompt.get_outputs()]
        self._states = bundle.states
        self._input, self._output, self._drawn = bundle.input, bundle.output, bundle.drawn
        self.inputs = _zeros(bundle.input, capacity)
        self.wishes = {wish.name: _zeros(wish, capacity) for wish in bundle.draws}
        for name in NEUTRAL & self.wishes.keys():
            self.wishes[name][:] = True
        self.drawn = _zeros(bundle.drawn, capacity)
        self._outputs = _zeros(bundle.output, capacity)
        self._detectors = detectors(bundle)
        self._z = np.zeros((2, len(self._detectors), capacity), np.float32)
        carried = {state.name: _zeros(state, capacity) for state in bundle.states}
        self._sides = tuple({**carried, **dict(zip(self._detectors, side, strict=True))} for side in self._z)
        self._now = 0
        self._bindings: dict[tuple[int, int, int], Any] = {}
        # Bits of a trace byte for `_z` as it lies: z after the step in the lower ones, z before it above them.
        bits = 2.0 ** np.arange(2 * len(self._detectors), dtype=np.float32)
        self._bits = bits, np.roll(bits, len(self._detectors))
        self.codes = np.zeros(capacity, np.uint8)

    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of rows 0 .. count-1 and return their outputs (count, V or 6M+1), valid until the next step."""
        for start in range(0, count, MAX_ROWS):
            size = min(MAX_ROWS, count - start)
            binding = self._bindings.get((start, size, self._now)) or self._bind(start, size)
            (self._single if size == 1 else self._batch).run_with_iobinding(binding)
        self._now ^= 1
        if self._detectors:
            # A comparison, because a row that is not finite has no boundary and must not upset the others.
            fired = self._z.reshape(-1, self.capacity)[:, :count] > 0.5
            self.codes[:count] = self._bits[self._now] @ fired
        outputs: NDArray[np.float32] = self._outputs[:count]
        return outputs

    def read(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Have a row read inputs, at least one, of which nothing is drawn; return the trace bytes of these steps."""
        side = self._sides[self._now]
        given = {name: (side[name] if name in side else self.wishes[name])[row : row + 1] for name in self._read_from}
        given[self._read_as] = np.array(inputs, self.inputs.dtype)
        found = dict(zip(self._read_into, self._prompt.run(self._read_into, given), strict=True))
        before = [side[name][row] for name in self._detectors]
        for state in self._states:
            side[state.name][row] = found[state.next][0]
        if not self._detectors:
            return np.zeros(len(inputs), np.uint8)
        fired = np.concatenate([[before], found[BOUNDARIES]]) > 0.5
        codes: NDArray[np.uint8] = (np.concatenate([fired[1:], fired[:-1]], 1) @ self._bits[0]).astype(np.uint8)
        return codes

    def clear(self, row: int) -> None:
        """Set a row to the state every sequence starts from, zeros, and its wishes to neutral ones."""
        for tensor in self._sides[self._now].values():
            tensor[row] = 0
        for name, values in self.wishes.items():
            values[row] = name in NEUTRAL

    def move(self, source: int, target: int) -> None:
        """Copy a row's state, input and wishes over another's."""
        for tensor in (*self._sides[self._now].values(), *self.wishes.values(), self.inputs):
            tensor[target] = tensor[source]

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

    def _bind(self, start: int, size: int) -> Any:
        """Bind a range of rows to the buffers of this side's step, once."""
        binding = (self._single if size == 1 else self._batch).io_binding()
        rows = slice(start, start + size)
        before, after = self._sides[self._now], self._sides[self._now ^ 1]
        given = {self._input.name: self.inputs, **self.wishes, **before}
        taken = {self._output.name: self._outputs, self._drawn.name: self.drawn}
        taken |= {state.next: after[state.name] for state in self._states}
        for name, array in given.items():
            _bind(binding.bind_input, name, array[rows])
        for name, array in taken.items():
            _bind(binding.bind_output, name, array[rows])
        self._bindings[start, size, self._now] = binding
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
