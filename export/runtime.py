"""Run a step graph with ONNX Runtime as the service does: one thread, state in, state out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.bundle import Bundle, StateSpec, TensorSpec

Array = NDArray[Any]
DRAWN = "drawn"
_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
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
        self._fetch = [DRAWN, output.name, *(state.next for state in states)]
        known = {given.name, *(state.name for state in states)}
        self._wishes = [one for one in self.session.get_inputs() if one.name not in known]

    @classmethod
    def of(cls, bundle: Bundle, *, single: bool = False) -> "OnnxStep":
        """Return the step of a bundle, that for one row if told so."""
        return cls(bundle.single if single else bundle.graph, bundle.input, bundle.output, bundle.states)

    def zeros(self, batch: int) -> dict[str, Array]:
        """Return the state before the first step."""
        return {state.name: np.zeros(state.shape_for(batch), np.float32) for state in self.states}

    def step(self, x: Array, state: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Return the output and the next state for an input of B rows."""
        _, output, following = self.draw(x, state, {})
        return output, following

    def draw(
        self, x: Array, state: Mapping[str, Array], wishes: Mapping[str, Array]
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Return what is drawn, the output and the next state; wishes that are not given are neutral."""
        given = self._neutral(len(x)) | dict(wishes)
        drawn, output, *following = self.session.run(self._fetch, {self.input.name: x, **given, **state})
        return drawn, output, {spec.name: value for spec, value in zip(self.states, following, strict=True)}

    def _neutral(self, batch: int) -> dict[str, Array]:
        """Wishes that change nothing: temperature and top_p of 1, all else 0."""
        return {
            one.name: np.full((batch, *one.shape[1:]), float(one.name in ("temperature", "top_p")), _DTYPES[one.type])
            for one in self._wishes
        }
