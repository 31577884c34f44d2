"""Steps the rows of one bundle with ONNX Runtime, by the graphs of the bundle.

Everything is laid out once, and ONNX Runtime is bound to it by address, once for each range of rows. h, c and e are
read and written in place: whatever writes one of them needs the results of all that read it. A boundary is not safe in
that way, since what resets c may read it after the new one is known; so boundaries have two buffers that change roles
with every step, and both together make the trace bytes.

A single row goes through the graph with branches, more rows through the graph that gathers them, at most 64 at a time:
beyond that the activations of a step outgrow a core's own cache. A third graph reads many inputs of a row in one go,
for half of what it costs to step through them. All graphs give a row the same bits.
"""

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.bundle.folder import Bundle
from service.engine.runners.base import Runner

MAX_ROWS = 64
BOUNDARIES = "boundaries"  # what the graph that reads prompts tells of its steps


class OnnxRunner(Runner):
    """Rows that ONNX Runtime steps; arguments and attributes as for `Runner`."""

    stepper = "graphs"

    def __init__(self, bundle: Bundle, capacity: int) -> None:
        super().__init__(bundle, capacity)
        self._single, self._batch, self._prompt = (
            open_session(bundle.single),
            open_session(bundle.graph),
            open_session(bundle.prompt),
        )
        first, *others = (one.name for one in self._prompt.get_inputs())
        self._prompt_input, self._prompt_given = first, others
        self._prompt_outputs = [one.name for one in self._prompt.get_outputs()]
        self._input, self._output, self._drawn = bundle.input, bundle.output, bundle.drawn
        self._z = np.zeros((2, len(self._detectors), capacity), np.float32)
        self._sides = tuple({**self._now, **dict(zip(self._detectors, side, strict=True))} for side in self._z)
        self._turn = 0
        self._now = self._sides[0]
        self._bindings: dict[tuple[int, int, int], Any] = {}
        # Bits of a trace byte for `_z` as it lies: z after the step in the lower ones, z before it above them.
        bits = 2.0 ** np.arange(2 * len(self._detectors), dtype=np.float32)
        self._bits = bits, np.roll(bits, len(self._detectors))

    def step(self, count: int) -> NDArray[np.float32]:
        """Run one step of rows 0 .. count-1 and return their outputs (count, V or 6M+1), valid until the next step."""
        for start in range(0, count, MAX_ROWS):
            size = min(MAX_ROWS, count - start)
            binding = self._bindings.get((start, size, self._turn)) or self._bind(start, size)
            (self._single if size == 1 else self._batch).run_with_iobinding(binding)
        self._turn ^= 1
        self._now = self._sides[self._turn]
        if self._detectors:
            # A comparison, because a row that is not finite has no boundary and must not upset the others.
            fired = self._z.reshape(-1, self.capacity)[:, :count] > 0.5
            self.codes[:count] = self._bits[self._turn] @ fired
        outputs: NDArray[np.float32] = self._outputs[:count]
        return outputs

    def prefill(self, row: int, inputs: Seq[Any]) -> NDArray[np.uint8]:
        """Have a row read inputs, at least one, of which nothing is drawn; return the trace bytes of these steps."""
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
        fired = np.concatenate([[before], found[BOUNDARIES]]) > 0.5
        codes: NDArray[np.uint8] = (np.concatenate([fired[1:], fired[:-1]], 1) @ self._bits[0]).astype(np.uint8)
        return codes

    def _bind(self, start: int, size: int) -> Any:
        """Bind a range of rows to the buffers of this side's step, once."""
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
    """Give ONNX Runtime the address of rows; the arrays live as long as the runner and its bindings."""
    bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
