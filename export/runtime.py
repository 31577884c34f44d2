"""Run a step graph with ONNX Runtime as the service does: one thread, state in, state out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.bundle.folder import Bundle, StateSpec, TensorSpec
from model.config import ConfigError, ModelConfig

Array = NDArray[Any]
DRAWN = "drawn"
_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
_ERRORS_ONLY = 3


class Reader:
    """The graph that reads a text before it is written.

    Args:
        graph: bytes of the ONNX file.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = onnxruntime.InferenceSession(graph, _options(), providers=["CPUExecutionProvider"])
        self.slots = int(self._session.get_inputs()[0].shape[1])

    def read(self, ids: Array, writer: Array) -> dict[str, Array]:
        """Return what the step graph takes of lines, by the names of its inputs.

        Args:
            ids: of sentinels and characters (B, U) int64, 0 after the end; U is at most `slots`.
            writer: numbers of hands (B,) int64.

        Raises:
            ValueError: a line is longer than there is room for.
        """
        if ids.shape[1] > self.slots:
            raise ValueError(f"a line of {ids.shape[1]} symbols is longer than the {self.slots} there is room for")
        padded = np.zeros((len(ids), self.slots), np.int64)
        padded[:, : ids.shape[1]] = ids
        names = [one.name for one in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {"ids": padded, "writer": writer}), strict=True))


@dataclass(frozen=True)
class Lines:
    """What the rows of a trace write.

    Attributes:
        ids: (B, U) int64. writer: (B,) int64. given: as a `Reader` gives it.
    """

    ids: Array
    writer: Array
    given: Mapping[str, Array]

    @classmethod
    def read(cls, reader: Reader, ids: Array, writer: Array) -> "Lines":
        """Have lines read."""
        return cls(ids, writer, reader.read(ids, writer))

    def rows(self, chosen: Any) -> "Lines":
        """Some of the lines, in that order."""
        return Lines(self.ids[chosen], self.writer[chosen], {name: part[chosen] for name, part in self.given.items()})


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
        options = _options()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.input, self.output, self.states = given, output, tuple(states)
        self._fetch = [DRAWN, output.name, *(state.next for state in states)]
        known = {given.name, *(state.name for state in states)}
        self._sampling_inputs = [one for one in self.session.get_inputs() if one.name not in known]

    @classmethod
    def of(cls, bundle: Bundle, *, single: bool = False) -> "OnnxStep":
        """Return the step of a bundle, that for one row if told so."""
        return cls(bundle.single if single else bundle.graph, bundle.input, bundle.output, bundle.states)

    def zeros(self, batch: int) -> dict[str, Array]:
        """Return the state before the first step."""
        return {state.name: np.zeros(state.shape_for(batch), np.float32) for state in self.states}

    def step(self, x: Array, state: Mapping[str, Array], lines: Lines | None = None) -> tuple[Array, dict[str, Array]]:
        """Return the output and the next state for an input of B rows, which write these lines, if any."""
        _, output, following = self.draw(x, state, {} if lines is None else lines.given)
        return output, following

    def draw(
        self, x: Array, state: Mapping[str, Array], sampling_inputs: Mapping[str, Array]
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Return what is drawn, the output and the next state; sampling inputs that are not given are neutral."""
        given = self._neutral(len(x)) | dict(sampling_inputs)
        drawn, output, *following = self.session.run(self._fetch, {self.input.name: x, **given, **state})
        return drawn, output, {spec.name: value for spec, value in zip(self.states, following, strict=True)}

    def _neutral(self, batch: int) -> dict[str, Array]:
        """Wishes that change nothing: temperature and top_p of 1, all else 0."""
        return {
            one.name: np.full((batch, *one.shape[1:]), float(one.name in ("temperature", "top_p")), _DTYPES[one.type])
            for one in self._sampling_inputs
        }


class OnnxPrompt:
    """A graph that reads many inputs of one row, in ONNX Runtime.

    Args:
        graph: bytes of the ONNX file.
        states: the carried tensors, as the step has them.
    """

    def __init__(self, graph: bytes, states: Sequence[StateSpec]) -> None:
        self.session = onnxruntime.InferenceSession(graph, _options(), providers=["CPUExecutionProvider"])
        self._given = {one.name for one in self.session.get_inputs()}
        self._input = self.session.get_inputs()[0].name
        self._names = [one.name for one in self.session.get_outputs()]
        self._states = states

    def read(
        self, inputs: Array, state: Mapping[str, Array], sampling_inputs: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """Return the boundaries (T, D) and the state after inputs (T, ...), D being 0 where there are no detectors.

        Args:
            inputs: to be read one after the other.
            state: of the row before them.
            sampling_inputs: what its line is, where it writes one; others have no influence.
        """
        given = {name: values for name, values in {**state, **sampling_inputs}.items() if name in self._given}
        found = dict(zip(self._names, self.session.run(self._names, {self._input: inputs, **given}), strict=True))
        boundaries = found.get("boundaries", np.zeros((len(inputs), 0), np.float32))
        return boundaries, {spec.name: found[spec.next] for spec in self._states}


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


class VerifyError(Exception):
    """A bundle that is whole but not what it says; one sentence."""


def config_of(loaded: Bundle) -> ModelConfig:
    """Return the network's configuration as the manifest tells it.

    Raises:
        VerifyError: it is not a configuration of ours.
    """
    facts = {key: value for key, value in loaded.model.items() if key not in ("parameters", "precision")}
    try:
        return ModelConfig.from_json(facts)
    except (ConfigError, TypeError, ValueError) as error:
        raise VerifyError(f"the manifest's model is not a configuration: {error}") from None
