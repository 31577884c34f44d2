"""Is what ships the network that was trained? reference = PyTorch = TorchScript = ONNX Runtime, over golden traces.

The judge is `model.reference`: float64, one row at a time, branches instead of masks. Each engine is compared with it
in two ways over the same trace:

- **step**: before every step the engine is given the judge's own state. The difference is the engine's rounding error
  in one step and nothing else, so the tolerance is tight, and a wrong weight or operator shows at once.
- **free**: the engine carries its own state over the whole trace, as in service. Rounding errors travel through the
  recurrence; in a chaotic (say, untrained) network they grow without bound, which is nobody's fault. A row that has
  drifted out of the tolerance is set back to the judge's state, and that is counted; it may happen, but not often.

Boundaries are compared exactly. An engine may differ where the judge's detector logit is closer to 0 than rounding can
tell; such cases are counted, one by one, and reported, not hidden in a tolerance. After one, the row's trajectory is
legitimately another, so it is set back too. A boundary that differs anywhere else fails.

Files in int8 round h before every product. The judge then rounds as they do, so that it stays sharp: it multiplies the
very weights of the files with the very multiples of 1/63. Where a value lies so near the middle between two multiples
that float32 cannot tell, a row of the **step** comparison is left out and counted as tied. PyTorch runs the network as
trained, without that rounding; its column says what the rounding of h does to outputs and boundaries.
"""

import base64
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from export.bundle.folder import GRAPH_FILE, PROMPT_FILE, SCRIPT_FILE, SINGLE_FILE
from export.engines import Engine, Judge, Judgement, ScriptStep, State, TorchStep
from export.runtime import OnnxPrompt, OnnxStep
from export.skipping import batch_invariance, read_in_one_go, rows_multiplied
from export.trace import Trace
from export.weights import Precision, input_spec, output_spec, state_specs
from model.config import ModelConfig
from model.network import Network

Array = NDArray[Any]

FORMAT = "copyist-parity/3"
MIN_STEPS = 2_000
OPERATIONS = ("COPY", "UPDATE", "FLUSH")
# What `verify` replays without a judge: the first steps, before errors can have grown, and whose outputs are kept.
SURE_STEPS = 64
SURE_NEAR = 1e-3
SURE_NEAR_INT8 = 0.2


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from the judge, as |difference| / max(1, |judge|).

    Attributes:
        output, state: largest difference of any output, of any h, c or e, or of the window over a text.
        near: a boundary may differ only where the judge's detector logit is closer to 0 than this.
        set_back: share of row-steps after which a row may be set back to the judge's state.
        reason: why these figures.
    """

    output: float
    state: float
    near: float
    set_back: float
    reason: str


STEP = Tolerance(
    output=2e-5,
    state=2e-5,
    near=2e-5,
    set_back=0.0,
    reason="float32 keeps 6e-8 of a number; sums of a thousand products and a LayerNorm with large gains lose two "
    "decimal places of it",
)
FREE = Tolerance(
    output=1e-2,
    state=1e-2,
    near=1e-1,
    set_back=0.01,
    reason="errors of single steps travel on; on trained networks they stay below a thousandth of these bounds, and a "
    "detector's logit, which LayerNorm and gain may magnify, below a tenth",
)
FREE_INT8 = Tolerance(
    output=5e-1,
    state=2e-1,
    near=5e-1,
    set_back=0.01,
    reason="a value near the middle between two multiples of 1/63 may be rounded to either; such a row goes on from "
    "there a little apart from the judge's until it has forgotten, as far as the bounds say",
)
UNROUNDED = Tolerance(
    output=2.0,
    state=1.0,
    near=2.0,
    set_back=0.05,
    reason="the network before h is rounded to multiples of 1/63: not the same function, only a near one; what that "
    "costs is measured in the bundle's metrics",
)


@dataclass(frozen=True)
class Files:
    """What is to be proven.

    Attributes:
        graph: the ONNX file for any number of rows.
        single: the ONNX file for one row; held to the other bit for bit.
        prompt: the ONNX file that reads many inputs of one row; likewise.
        script: the TorchScript file.
    """

    graph: bytes
    single: bytes
    prompt: bytes
    script: bytes

    def digests(self) -> dict[str, str]:
        """Return the sha256 of each by its name in a bundle."""
        named = {GRAPH_FILE: self.graph, SINGLE_FILE: self.single, PROMPT_FILE: self.prompt, SCRIPT_FILE: self.script}
        return {name: hashlib.sha256(content).hexdigest() for name, content in named.items()}


def prove(network: Network, precision: Precision, files: Files, trace: Trace) -> dict[str, Any]:
    """Run a trace through the judge and the three engines and return the report, verdict included.

    Args:
        network: with the very weights that are in the files (see `round_weights`).
        precision: how the files store them, for the report.
        files: that are to ship.
        trace: what to feed; a bundle that ships needs MIN_STEPS steps of it, which `verify` checks.
    """
    config = network.config
    onnx_step = OnnxStep(files.graph, input_spec(config), output_spec(config), state_specs(config))
    engines: dict[str, Engine] = {
        "pytorch": TorchStep(network),
        "torchscript": ScriptStep(files.script),
        "onnxruntime": onnx_step,
    }
    tallies, golden, operations = _follow(network, engines, trace, precision)
    skipping = rows_multiplied(files.graph, config, trace)
    skipping_alone = rows_multiplied(files.single, config, trace, single=True)
    single_step = OnnxStep(files.single, input_spec(config), output_spec(config), state_specs(config))
    batch = batch_invariance(onnx_step, single_step, trace)
    reading = read_in_one_go(single_step, OnnxPrompt(files.prompt, state_specs(config)), trace)
    reasons = [
        *_trace_faults(operations, config),
        *(fault for name, pair in tallies.items() for tally in pair for fault in tally.faults(name)),
        *skipping.faults(),
        *skipping_alone.faults(),
        *batch.faults(),
        *reading.faults(),
    ]
    return {
        "format": FORMAT,
        "verdict": "failed" if reasons else "passed",
        "reasons": reasons,
        "network": {**config.to_json(), "parameters": num_parameters(network), "precision": precision},
        "files": files.digests(),
        "versions": _versions(),
        "trace": {
            "source": trace.source,
            "steps": trace.steps,
            "rows": trace.rows,
            "operations": {
                f"layer{layer + 1}": {name: int((operations[..., layer] == code).sum()) for code, name in _codes()}
                for layer in range(config.num_layers)
            },
        },
        "engines": {
            name: {
                mode: {**tally.report(), "tolerance": asdict(tally.tolerance)}
                for mode, tally in zip(("step", "free"), pair, strict=True)
            }
            for name, pair in tallies.items()
        },
        "skipping": skipping.report(),
        "skipping_alone": skipping_alone.report(),
        "batch_invariance": batch.report(),
        "reading": reading.report(),
        "golden": golden,
    }


def _tolerances(engine: str, precision: Precision) -> tuple[Tolerance, Tolerance]:
    """What an engine is held to in one step, and on its own."""
    if precision != "int8":
        return STEP, FREE
    return (UNROUNDED, UNROUNDED) if engine == "pytorch" else (STEP, FREE_INT8)


def num_parameters(network: Network) -> int:
    """Return how many numbers were trained."""
    return sum(parameter.numel() for parameter in network.parameters())


@dataclass
class Tally:
    """Running comparison of one engine with the judge.

    Attributes:
        tolerance: what is allowed.
        output, state: largest relative differences so far.
        decisions: boundaries compared.
        near: those that differ where the judge was near its threshold.
        wrong: those that differ anywhere else.
        set_back: rows set back to the judge's state because they parted or drifted.
        row_steps: rows times steps compared in full.
        tied: rows left out because an h was too near the middle between two steps.
    """

    tolerance: Tolerance
    output: float = 0.0
    state: dict[str, float] = field(default_factory=dict)
    decisions: int = 0
    near: int = 0
    wrong: int = 0
    set_back: int = 0
    row_steps: int = 0
    tied: int = 0

    def compare(self, output: Array, state: Mapping[str, Array], truth: Judgement) -> NDArray[np.bool_]:
        """Add one step; return which rows (B,) are no longer on the judge's trajectory: parted, or drifted too far.

        Boundaries are looked at from layer 1 up: once one differs, those above it answer another question.
        """
        parted = truth.tied if self.tolerance is STEP else np.zeros(len(output), bool)
        self.tied += int(parted.sum())
        for index, name in enumerate(name for name in sorted(state) if name[0] == "z"):
            self.decisions += int((~parted).sum())
            differs = (state[name] != truth.state[name]) & ~parted
            near = np.abs(truth.logits[:, index]) < self.tolerance.near
            self.near += int((differs & near).sum())
            self.wrong += int((differs & ~near).sum())
            parted = parted | differs
        self.row_steps += int((~parted).sum())
        off = np.where(parted, 0, differences(output, truth.output))
        self.output = max(self.output, float(off.max()))
        lost = parted | ~(off <= self.tolerance.output)
        for name in (name for name in state if name[0] in "hcew"):
            off = np.where(parted, 0, differences(state[name], truth.state[name]))
            self.state[name[0]] = max(self.state.get(name[0], 0.0), float(off.max()))
            lost |= ~(off <= self.tolerance.state)
        self.set_back += int(lost.sum())
        return lost

    def faults(self, engine: str) -> list[str]:
        """Return what is not as it must be, one sentence each."""
        found = []
        if self.wrong:
            found.append(f"{engine}: {self.wrong} boundaries differ where the judge's detector was not near 0")
        if self.tolerance is not STEP:
            if self.set_back > self.tolerance.set_back * self.row_steps:
                found.append(f"{engine}: its own trajectory left the judge's {self.set_back} times")
            return found
        if not self.output <= self.tolerance.output:
            found.append(f"{engine}: outputs differ by {self.output:.2g} in one step, over {self.tolerance.output:g}")
        worst = max(self.state.values(), default=0.0)
        if not worst <= self.tolerance.state:
            found.append(f"{engine}: states differ by {worst:.2g} in one step, over {self.tolerance.state:g}")
        return found

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "max_output_difference": self.output,
            "max_state_difference": self.state,
            "row_steps": self.row_steps,
            "z_decisions": self.decisions,
            "z_mismatches": self.near + self.wrong,
            "z_mismatches_near_threshold": self.near,
            "rows_set_back": self.set_back,
            "rows_tied": self.tied,
        }


def differences(values: Array, truth: Array) -> Array:
    """Return the largest |difference| / max(1, |truth|) of each row (B,); infinite where a value is not a number."""
    worst: Array = (np.abs(values - truth) / np.maximum(1, np.abs(truth))).max(1)
    return np.where(np.isfinite(worst), worst, np.inf)


def encode(values: Array) -> dict[str, Any]:
    """Return an array as JSON, exactly: little-endian bytes in base64."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    content = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": values.dtype.name, "shape": list(values.shape), "base64": content}


def decode(values: Mapping[str, Any]) -> Array:
    """Return the array that `encode` described; ValueError, KeyError or TypeError if it describes none."""
    raw = base64.b64decode(values["base64"], validate=True)
    return np.frombuffer(raw, np.dtype(values["dtype"]).newbyteorder("<")).reshape(values["shape"])


def _follow(
    network: Network, engines: Mapping[str, Engine], trace: Trace, precision: Precision
) -> tuple[dict[str, tuple[Tally, Tally]], dict[str, Any], Array]:
    """Take every step of a trace with the judge and all engines; return tallies, golden values and operations."""
    judge = Judge(network, trace.rows, precision, trace.lines)
    twice = None if trace.lines is None else trace.lines.rows(np.tile(np.arange(trace.rows), 2))
    tallies = {}
    for name in engines:
        step, free = _tolerances(name, precision)
        tallies[name] = Tally(step), Tally(free)
    own: dict[str, State] = {name: engine.zeros(trace.rows) for name, engine in engines.items()}
    judgements: list[Judgement] = []
    before = judge.state()
    for x in trace.inputs:
        truth = judge.step(x)
        for name, engine in engines.items():
            in_one_step, on_its_own = tallies[name]
            # Rows are independent, so one run serves both ways: the judge's state above, the engine's own below.
            given = _float32(before, own[name])
            output, state = engine.step(
                _twice(x, x), {key: _twice(given[key], values) for key, values in own[name].items()}, twice
            )
            above = {key: values[: trace.rows] for key, values in state.items()}
            in_one_step.compare(output[: trace.rows], above, truth)
            output, state = output[trace.rows :], {key: values[trace.rows :] for key, values in state.items()}
            lost = on_its_own.compare(output, state, truth)
            own[name] = _set_back(state, _float32(truth.state, state), lost)
        before = truth.state
        judgements.append(truth)
    return tallies, _golden(trace, judgements, precision), np.array([judgement.operations for judgement in judgements])


def _golden(trace: Trace, judgements: Sequence[Judgement], precision: Precision) -> dict[str, Any]:
    """Return what `verify` compares with: inputs, the judge's boundaries, and its outputs at the first steps."""
    names = [name for name in sorted(judgements[0].state) if name[0] == "z"]
    z = np.array([[judgement.state[name] for name in names] for judgement in judgements])
    z = z.reshape(trace.steps, len(names), trace.rows) > 0
    sure = judgements[:SURE_STEPS]
    threshold = SURE_NEAR_INT8 if precision == "int8" else SURE_NEAR
    close = [np.abs(judgement.logits[:, : len(names)].T) < threshold for judgement in sure]
    lines = trace.lines
    written = {} if lines is None else {"ids": encode(lines.ids), "writer": encode(lines.writer)}
    return {
        **written,
        "inputs": encode(trace.inputs.astype(np.int32) if trace.inputs.dtype == np.int64 else trace.inputs),
        "z": {"shape": list(z.shape), "bits": encode(np.packbits(z))},
        "near": np.argwhere(close).tolist(),
        "outputs": encode(np.array([judgement.output for judgement in sure]).astype(np.float32)),
    }


def _trace_faults(operations: Array, config: ModelConfig) -> list[str]:
    """A trace that never shows an operation proves nothing about it."""
    found = []
    for layer in range(config.num_layers):
        for code, name in _codes():
            if _occurs(config, layer, name) and not (operations[..., layer] == code).any():
                found.append(f"layer {layer + 1} never does {name} in the trace, so it is not tested")
    return found


def _occurs(config: ModelConfig, layer: int, operation: str) -> bool:
    """Whether a layer (from 0) can do an operation: layer 1 never COPYs, the top one never FLUSHes."""
    if config.cell == "lstm" or operation == "UPDATE":
        return operation == "UPDATE"
    return layer > 0 if operation == "COPY" else layer < config.num_layers - 1


def _codes() -> list[tuple[int, str]]:
    return list(enumerate(OPERATIONS))


def _twice(above: Array, below: Array) -> Array:
    return np.concatenate([above, below])


def _float32(state: Mapping[str, Array], like: Mapping[str, Array]) -> State:
    """The judge's state as an engine takes it."""
    return {name: state[name].astype(np.float32) for name in like if name in state}


def _set_back(state: State, truth: State, lost: NDArray[np.bool_]) -> State:
    """Give the rows that left it the judge's state."""
    if not lost.any():
        return state
    return {
        name: np.where(lost.reshape(-1, *[1] * (values.ndim - 1)), truth[name], values) if name in truth else values
        for name, values in state.items()
    }


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
    }
