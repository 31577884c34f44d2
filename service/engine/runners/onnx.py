"""The runner of ONNX Runtime, which steps the rows of one bundle with the graphs of the bundle.

All arrays are allocated once, and ONNX Runtime is bound to their addresses, once for each range of rows. h, c and e are
read and written in place. That is safe because the node that writes one of them needs the results of all nodes that
read it. It is not safe for a boundary, because the node that resets c may read it after the new one is known. So
boundaries have two buffers that change roles at every step. Both together give the trace bytes.

A single row runs through a graph with branches, several rows through a graph that gathers them, at most MAX_ROWS at a
time: with more, the activations of a step do not fit into a core's own cache. A third graph prefills: it reads many
inputs of a row in one run, at half the cost of single steps. All graphs give a row the same bits.
"""

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.bundle.folder import Bundle
from service.engine.runners.base import Runner

MAX_ROWS = 64
BOUNDARIES = "boundaries"  # output of the prefill graph: z of every detector after each step, (T, L-1)


class OnnxRunner(Runner):
    """A runner whose rows ONNX Runtime steps; arguments and attributes as for `Runner`."""

    stepper = "graphs"

    def __init__(self, bundle: Bundle, capacity: int) -> None:
        super().__init__(bundle, capacity)
        self._single = open_session(bundle.single)
        self._batch = open_session(bundle.graph)
        self._prompt = open_session(bundle.prompt)
        # Names of the prefill graph: its first input is what a prompt gives, the others are state and sampling inputs.
        self._prompt_input, *self._prompt_given = (one.name for one in self._prompt.get_inputs())
        self._prompt_outputs = [one.name for one in self._prompt.get_outputs()]
        self._input = bundle.input
        self._output = bundle.output
        self._drawn = bundle.drawn
        # The two buffers of the boundaries, and the state as it is with the one and with the other.
        self._z = np.zeros((2, len(self._detectors), capacity), np.float32)
        self._sides = tuple({**self._now, **dict(zip(self._detectors, side, strict=True))} for side in self._z)
        self._turn = 0
        self._now = self._sides[0]
        self._bindings: dict[tuple[int, int, int], Any] = {}
        # The value of each boundary's bit in a trace byte, for both roles of the buffers: z after the step has the
        # lower bits, z before it the higher ones.
        bits = 2.0 ** np.arange(2 * len(self._detectors), dtype=np.float32)
        self._bits = bits, np.roll(bits, len(self._detectors))

    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of rows 0 .. count-1.

        Returns:
            Outputs (count, V or 6M+1) float32, valid until the next step.
        """
        for start in range(0, count, MAX_ROWS):
            size = min(MAX_ROWS, count - start)
            binding = self._bindings.get((start, size, self._turn)) or self._bind(start, size)
            (self._single if size == 1 else self._batch).run_with_iobinding(binding)
        self._turn ^= 1
        self._now = self._sides[self._turn]
        if self._detectors:
            # Compared, because NaN in the product would spread to the other rows; a row that is not finite gets 0.
            fired = self._z.reshape(-1, self.capacity)[:, :count] > 0.5
            self.codes[:count] = self._bits[self._turn] @ fired
        outputs: NDArray[np.float32] = self._outputs[:count]
        return outputs

    def prefill(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Run a row through inputs whose outputs are not needed; return the trace bytes of these steps, (T,) uint8."""
        # Run the graph on the row's state and sampling inputs, and store the state after the last input.
        side = self._now
        given = {
            name: (side[name] if name in side else self.sampling_inputs[name])[row : row + 1]
            for name in self._prompt_given
        }
        given[self._prompt_input] = np.array(inputs, self.inputs.dtype)
        found = dict(zip(self._prompt_outputs, self._prompt.run(self._prompt_outputs, given), strict=True))
        before = [side[name][row] for name in self._detectors]
        for state in self._states:
            side[state.name][row] = found[state.next][0]
        if not self._detectors:
            return np.zeros(len(inputs), np.uint8)
        # The trace byte of a step holds the boundaries after it and those after the step before.
        fired = np.concatenate([[before], found[BOUNDARIES]]) > 0.5
        codes: NDArray[np.uint8] = (np.concatenate([fired[1:], fired[:-1]], 1) @ self._bits[0]).astype(np.uint8)
        return codes

    def _bind(self, start: int, size: int) -> Any:
        """Bind a range of rows to the arrays that a step with the current roles of the buffers reads and writes."""
        binding = (self._single if size == 1 else self._batch).io_binding()
        rows = slice(start, start + size)
        before, after = self._now, self._sides[self._turn ^ 1]
        given = {self._input.name: self.inputs, **self.sampling_inputs, **before}
        taken = {self._output.name: self._outputs, self._drawn.name: self.drawn}
        taken |= {state.next: after[state.name] for state in self._states}
        for name, array in given.items():
            _bind(binding.bind_input, name, array[rows])
        for name, array in taken.items():
            _bind(binding.bind_output, name, array[rows])
        self._bindings[start, size, self._turn] = binding
        return binding


def open_session(graph: bytes) -> Any:
    """Return an ONNX Runtime session on one core: more rows or processes give throughput, more threads do not."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    """Bind a name to the address of an array, which must live as long as the binding."""
    bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
