"""Run the graphs of a bundle with ONNX Runtime as the service does: one thread, state in, state out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.bundle.folder import Bundle, StateSpec, TensorSpec
from export.errors import VerifyError
from model.config import ConfigError, ModelConfig

Array = NDArray[Any]
DRAWN = "drawn"
_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
_ERRORS_ONLY = 3


class TextEncoder:
    """The graph that turns a text and the number of a hand into inputs of the step graph, `read.onnx`.

    Args:
        graph: bytes of the ONNX file.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = onnxruntime.InferenceSession(graph, _options(), providers=["CPUExecutionProvider"])
        self.slots = int(self._session.get_inputs()[0].shape[1])

    def encode(self, ids: Array, writer: Array) -> dict[str, Array]:
        """Return the inputs of the step graph that stand for lines of text, by name.

        Args:
            ids: of sentinels and characters (B, U) int64, 0 after the end; U is at most `slots`.
            writer: numbers of hands (B,) int64.

        Raises:
            ValueError: a line has more than `slots` symbols.
        """
        if ids.shape[1] > self.slots:
            raise ValueError(f"a line of {ids.shape[1]} symbols is longer than the {self.slots} that the graph takes")
        padded = np.zeros((len(ids), self.slots), np.int64)
        padded[:, : ids.shape[1]] = ids
        names = [one.name for one in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {"ids": padded, "writer": writer}), strict=True))


@dataclass(frozen=True)
class Lines:
    """The lines of text that the rows of a batch write.

    Attributes:
        ids: of their sentinels and characters (B, U) int64, 0 after the end.
        writer: numbers of their hands (B,) int64.
        inputs: the inputs of the step graph that stand for them, by name.
    """

    ids: Array
    writer: Array
    inputs: Mapping[str, Array]

    @classmethod
    def encode(cls, encoder: TextEncoder, ids: Array, writer: Array) -> "Lines":
        """Return lines after encoding them."""
        return cls(ids, writer, encoder.encode(ids, writer))

    def rows(self, chosen: Any) -> "Lines":
        """Return some of the lines, in the order in which they are chosen."""
        return Lines(self.ids[chosen], self.writer[chosen], {name: part[chosen] for name, part in self.inputs.items()})


class OnnxStep:
    """A step graph in ONNX Runtime.

    Args:
        graph: bytes of the ONNX file.
        step_input: the graph's input beside the state.
        output: its output beside the state.
        states: the carried tensors.
        profile: prefix of a file to write ONNX Runtime's own profile to, or None.
    """

    def __init__(
        self,
        graph: bytes,
        step_input: TensorSpec,
        output: TensorSpec,
        states: Sequence[StateSpec],
        profile: str | None = None,
    ) -> None:
        options = _options()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.input = step_input
        self.output = output
        self.states = tuple(states)
        self._fetch = [DRAWN, output.name, *(state.next for state in states)]
        known = {step_input.name, *(state.name for state in states)}
        self._sampling_inputs = [one for one in self.session.get_inputs() if one.name not in known]

    @classmethod
    def of(cls, bundle: Bundle, *, single: bool = False) -> "OnnxStep":
        """Return the step of a bundle, by its graph for one row if `single`, else by the one for any number of rows."""
        return cls(bundle.single if single else bundle.graph, bundle.input, bundle.output, bundle.states)

    def zeros(self, batch: int) -> dict[str, Array]:
        """Return the state before the first step."""
        return {state.name: np.zeros(state.shape_for(batch), np.float32) for state in self.states}

    def step(self, x: Array, state: Mapping[str, Array], lines: Lines | None = None) -> tuple[Array, dict[str, Array]]:
        """Return the output and the next state for an input of B rows; lines are what they write, if they do."""
        _, output, following = self.draw(x, state, {} if lines is None else lines.inputs)
        return output, following

    def draw(
        self, x: Array, state: Mapping[str, Array], sampling_inputs: Mapping[str, Array]
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Return what is drawn, the output and the next state; sampling inputs that are left out are neutral."""
        whole = self._neutral(len(x)) | dict(sampling_inputs)
        drawn, output, *following = self.session.run(self._fetch, {self.input.name: x, **whole, **state})
        return drawn, output, {spec.name: value for spec, value in zip(self.states, following, strict=True)}

    def _neutral(self, batch: int) -> dict[str, Array]:
        """Return sampling inputs that change nothing: temperature and top_p of 1, all others 0."""
        return {
            one.name: np.full((batch, *one.shape[1:]), float(one.name in ("temperature", "top_p")), _DTYPES[one.type])
            for one in self._sampling_inputs
        }


class OnnxPrompt:
    """The graph for prefill, which takes many inputs of one row, in ONNX Runtime.

    Args:
        graph: bytes of the ONNX file.
        states: the carried tensors, as the step has them.
    """

    def __init__(self, graph: bytes, states: Sequence[StateSpec]) -> None:
        self.session = onnxruntime.InferenceSession(graph, _options(), providers=["CPUExecutionProvider"])
        self._known = {one.name for one in self.session.get_inputs()}
        self._input = self.session.get_inputs()[0].name
        self._names = [one.name for one in self.session.get_outputs()]
        self._states = states

    def prefill(
        self, inputs: Array, state: Mapping[str, Array], lines: Lines | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Return the boundaries (T, D) and the state after inputs (T, ...); D is 0 where there are no detectors.

        Args:
            inputs: one after the other.
            state: of the row before them.
            lines: the one that it writes, if it writes a text.
        """
        others = {**state, **({} if lines is None else lines.inputs)}
        known = {name: values for name, values in others.items() if name in self._known}
        found = dict(zip(self._names, self.session.run(self._names, {self._input: inputs, **known}), strict=True))
        boundaries = found.get("boundaries", np.zeros((len(inputs), 0), np.float32))
        return boundaries, {spec.name: found[spec.next] for spec in self._states}


def config_of(loaded: Bundle) -> ModelConfig:
    """Return the configuration of a bundle's network.

    Raises:
        VerifyError: what the manifest says about it is not a configuration.
    """
    facts = {key: value for key, value in loaded.model.items() if key not in ("parameters", "precision")}
    try:
        return ModelConfig.from_json(facts)
    except (ConfigError, TypeError, ValueError) as error:
        raise VerifyError(f"the manifest's model is not a configuration: {error}") from None


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options
