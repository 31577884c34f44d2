"""The abstract runner: holds the rows of one bundle, that is their states, inputs and sampling inputs.

A runner steps its rows in place on these arrays, so that a step allocates and copies nothing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.folder import Bundle, TensorSpec

NEUTRAL = {"temperature", "top_p"}  # sampling inputs whose neutral value is 1; of all others it is 0


class Runner(ABC):
    """Base class of what steps the rows of one bundle.

    Args:
        bundle: a checked bundle.
        capacity: number of rows.

    Attributes:
        stepper: name of the implementation; the results of two implementations differ in the last bits.
        inputs: (capacity,) int64 ids or (capacity, 3) float32 offsets that the rows read at the next step.
        sampling_inputs: arrays (capacity, ...) by name that say how the next step draws from its output: sampling
            parameters, the random numbers, and for written lines text and hand.
        drawn: (capacity,) int64 ids or (capacity, 3 or more) float32 offsets that the last step drew.
        codes: (capacity,) uint8 trace bytes of the last step, as `operations.Hierarchy` decodes them.
    """

    stepper: str

    def __init__(self, bundle: Bundle, capacity: int) -> None:
        self.capacity = capacity
        self.inputs = zeros(bundle.input, capacity)
        self.sampling_inputs = {spec.name: zeros(spec, capacity) for spec in bundle.draws}
        for name in NEUTRAL & self.sampling_inputs.keys():
            self.sampling_inputs[name][:] = 1
        self.drawn = zeros(bundle.drawn, capacity)
        self.codes = np.zeros(capacity, np.uint8)
        self._outputs = zeros(bundle.output, capacity)
        self._states = bundle.states
        self._detectors = detectors(bundle)
        self._now = {state.name: zeros(state, capacity) for state in bundle.states}

    @abstractmethod
    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of rows 0 .. count-1.

        Returns:
            Outputs (count, V or 6M+1) float32, valid until the next step.
        """

    @abstractmethod
    def prefill(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Run a row through inputs whose outputs are not needed.

        Args:
            row: index of the row.
            inputs: T symbol ids or offsets, at least one.

        Returns:
            Trace bytes of these steps, (T,) uint8.
        """

    def clear(self, row: int) -> None:
        """Set the state of a row to zeros, as a sequence begins, and its sampling inputs to neutral values."""
        for tensor in self._now.values():
            tensor[row] = 0
        for name, values in self.sampling_inputs.items():
            values[row] = name in NEUTRAL

    def move(self, source: int, target: int) -> None:
        """Copy the state, input and sampling inputs of row `source` to row `target`."""
        for tensor in (*self._now.values(), *self.sampling_inputs.values(), self.inputs):
            tensor[target] = tensor[source]

    @property
    def row_bytes(self) -> int:
        """Number of bytes that `save` returns, the same for every row and position."""
        return sum(np.dtype(state.dtype).itemsize * _size(state) for state in self._states)

    def save(self, row: int) -> bytes:
        """Return the state of a row: its tensors one after the other in the bundle's order, little-endian."""
        return b"".join(_little_endian(self._now[state.name][row]).tobytes() for state in self._states)

    def restore(self, row: int, saved: bytes) -> None:
        """Set a row to a state that was saved here or by another runner of the same bundle.

        Raises:
            ValueError: the state has another size than this bundle's, or holds values that no step leaves behind.
        """
        tensors = self._parse(saved)
        for name, values in tensors.items():
            self._now[name][row] = values

    def check(self, saved: bytes) -> None:
        """Check that `restore` would accept a state.

        Raises:
            ValueError: `restore` would raise it too.
        """
        self._parse(saved)

    def _parse(self, saved: bytes) -> dict[str, NDArray[Any]]:
        """Return the tensors of a saved state by name, each without the axis of rows."""
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


def detectors(bundle: Bundle) -> list[str]:
    """Return the names of the boundaries in a bundle's state, from layer 1 up; an LSTM has none."""
    carried = {state.name for state in bundle.states}
    return [name for layer in range(1, len(bundle.hidden)) if (name := f"z{layer}") in carried]


def zeros(spec: TensorSpec, capacity: int) -> NDArray[Any]:
    """Return an array of zeros for a tensor with so many rows."""
    return np.zeros(spec.shape_for(capacity), np.dtype(spec.dtype))


def _size(state: TensorSpec) -> int:
    """Return how many numbers of a tensor belong to one row."""
    return math.prod(state.shape_for(1))


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    """Return the same values in little-endian byte order, whatever the machine's own."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
