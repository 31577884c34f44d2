"""The rows of one bundle: what each carries from step to step, what it reads, and how its next input is drawn.

Whoever steps them works on these arrays in place, so a step allocates and copies nothing.
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
    """Rows that can be stepped.

    Args:
        bundle: a checked bundle.
        capacity: number of rows.

    Attributes:
        stepper: by whom they are stepped; what two of them make of a row differs in the last bits.
        inputs: (capacity,) int64 or (capacity, 3) float32: what each row reads at the next step.
        sampling inputs: by name, (capacity, ...): how each row's next input is drawn at the next step, noise included.
        drawn: (capacity,) int64 or (capacity, 3) float32: what each row's last step has drawn from its output.
        codes: uint8 (capacity,): trace byte of each row's last step, as `trace.Hierarchy` reads it.
    """

    stepper: str

    def __init__(self, bundle: Bundle, capacity: int) -> None:
        self.capacity = capacity
        self.inputs = zeros(bundle.input, capacity)
        self.sampling_inputs = {wish.name: zeros(wish, capacity) for wish in bundle.draws}
        for name in NEUTRAL & self.sampling_inputs.keys():
            self.sampling_inputs[name][:] = True
        self.drawn = zeros(bundle.drawn, capacity)
        self.codes = np.zeros(capacity, np.uint8)
        self._outputs = zeros(bundle.output, capacity)
        self._states = bundle.states
        self._detectors = detectors(bundle)
        self._now = {state.name: zeros(state, capacity) for state in bundle.states}

    @abstractmethod
    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of rows 0 .. count-1 and return their outputs (count, V or 6M+1), valid until the next step."""

    @abstractmethod
    def prefill(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Have a row read inputs, at least one, of which nothing is drawn; return the trace bytes of these steps."""

    def clear(self, row: int) -> None:
        """Set a row to the state every sequence starts from, zeros, and its sampling inputs to neutral ones."""
        for tensor in self._now.values():
            tensor[row] = 0
        for name, values in self.sampling_inputs.items():
            values[row] = name in NEUTRAL

    def move(self, source: int, target: int) -> None:
        """Copy a row's state, input and sampling inputs over another's."""
        for tensor in (*self._now.values(), *self.sampling_inputs.values(), self.inputs):
            tensor[target] = tensor[source]

    @property
    def row_bytes(self) -> int:
        """Size of what `save` returns, the same for every row and position."""
        return sum(np.dtype(state.dtype).itemsize * _size(state) for state in self._states)

    def save(self, row: int) -> bytes:
        """Return a row's state: its tensors one after the other in the bundle's order, little-endian."""
        return b"".join(_little_endian(self._now[state.name][row]).tobytes() for state in self._states)

    def restore(self, row: int, saved: bytes) -> None:
        """Set a row to a state that was saved, here or by another runner of the same bundle.

        Raises:
            ValueError: it is not of this bundle's size, or holds what no step leaves behind.
        """
        tensors = self._parse(saved)
        for name, values in tensors.items():
            self._now[name][row] = values

    def check(self, saved: bytes) -> None:
        """Say whether `restore` would take a state.

        Raises:
            ValueError: as `restore` does.
        """
        self._parse(saved)

    def _parse(self, saved: bytes) -> dict[str, NDArray[Any]]:
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


def detectors(bundle: Bundle) -> list[str]:
    """Return the names of the boundaries a bundle carries, from layer 1 up; an LSTM carries none."""
    carried = {state.name for state in bundle.states}
    return [name for layer in range(1, len(bundle.hidden)) if (name := f"z{layer}") in carried]


def zeros(spec: TensorSpec, capacity: int) -> NDArray[Any]:
    """Return zeros for so many rows of a tensor."""
    return np.zeros(spec.shape_for(capacity), np.dtype(spec.dtype))


def _size(state: TensorSpec) -> int:
    """Numbers of a tensor that belong to one row."""
    return math.prod(state.shape_for(1))


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    """The same values as every machine writes them."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
