"""Run a step graph with ONNX Runtime as the service does: one thread, state in, state out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.bundle import Bundle, StateSpec, TensorSpec

Array = NDArray[Any]
_ERRORS_ONLY = 3


class OnnxStep:
    """A step graph in ONNX Runtime.

    Args:
        graph: bytes of the ONNX file.
        given: the graph's input beside the state.
        output: its output beside the state.
        states: the carried tensors.
        profile: prefix of a file to write ONNX Runtime's own profile to, or None.
    """

    def __init__(
        self,
        graph: bytes,
        given: TensorSpec,
        output: TensorSpec,
        states: Sequence[StateSpec],
        profile: str | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.input, self.output, self.states = given, output, tuple(states)
        self._fetch = [output.name, *(state.next for state in states)]

    @classmethod
    def of(cls, bundle: Bundle) -> "OnnxStep":
        """Return the step of a bundle."""
        return cls(bundle.graph, bundle.input, bundle.output, bundle.states)

    def zeros(self, batch: int) -> dict[str, Array]:
        """Return the state before the first step."""
        return {state.name: np.zeros(state.shape_for(batch), np.float32) for state in self.states}

    def step(self, x: Array, state: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return the output and the next state for an input of B rows."""
        output, *following = self.session.run(self._fetch, {self.input.name: x, **state})
        return output, {spec.name: value for spec, value in zip(self.states, following, strict=True)}
