"""Is what ships the network that was trained? reference = PyTorch = TorchScript = ONNX Runtime, over golden traces.

The judge is `model.reference`: float64, one row at a time, branches instead of masks. Each engine is compared with it in
two ways over the same trace:

- **step**: before every step the engine is given the judge's own state. The difference is the engine's rounding error in
  one step and nothing else, so the tolerance is tight, and a wrong weight or operator shows at once.
- **free**: the engine carries its own state over the whole trace, as in service. Rounding errors travel through the
  recurrence, so the tolerance is wider.

Boundaries are compared exactly. An engine may differ where the judge's detector logit is closer to 0 than rounding can
tell; such cases are counted, one by one, and reported, not hidden in a tolerance. After one, the row's trajectory is
legitimately another, so it is set back to the judge's state and goes on. Any other difference fails.
"""

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from export.engines import Engine, Judge, Judgement, ScriptStep, State, TorchStep
from export.runtime import OnnxStep
from export.skipping import batch_invariance, rows_multiplied
from export.trace import Trace
from export.weights import Precision, input_spec, output_spec, state_specs
from model.config import ModelConfig
from model.network import Network

Array = NDArray[Any]

FORMAT = "copyist-parity/1"
MIN_STEPS = 2_000
OPERATIONS = ("COPY", "UPDATE", "FLUSH")
MARKS = 8  # steps of the trace whose outputs are kept for `verify`


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from the judge, as |difference| / max(1, |judge|).

    Attributes:
        output, state: largest difference of any output, of any h, c or e.
        near: a boundary may differ only where the judge's detector logit is closer to 0 than this.
        reason: why these figures.
    """

    output: float
    state: float
    near: float
    reason: str


STEP = Tolerance(
    2e-5,
    1e-5,
    2e-5,
    "float32 keeps 6e-8 of a number; sums of about a thousand products and a LayerNorm lose two decimal places of that",
)
FREE = Tolerance(
    2e-2,
    1e-2,
    1e-2,
    "rounding errors of single steps travel through the recurrence and grow before they fade; measured, they stay below "
    "a hundredth of these bounds on trained networks",
)


def prove(network: Network, precision: Precision, graph: bytes, script: bytes, trace: Trace) -> dict[str, Any]:
    """Run a trace through the judge and the three engines and return the report, verdict included.

    Args:
        network: with the very weights that are in the files (see `round_weights`).
        precision: how the files store them, for the report.
        graph: the ONNX file.
        script: the TorchScript file.
        trace: at least MIN_STEPS steps.
    """
    config = network.config
    onnx_step = OnnxStep(graph, input_spec(config), output_spec(config), state_specs(config))
    engines: dict[str, Engine] = {
        "pytorch": TorchStep(network),
        "torchscript": ScriptStep(script),
        "onnxruntime": onnx_step,
    }
    tallies, golden, operations = _follow(network, engines, trace)
    skipping = rows_multiplied(graph, config, trace)
    batch = batch_invariance(onnx_step, trace)
    reasons = [
        *_trace_faults(trace, operations, config),
        *(fault for name, pair in tallies.items() for tally in pair for fault in tally.faults(name)),
        *skipping.faults(),
        *batch.faults(),
    ]
    return {
        "format": FORMAT,
        "verdict": "failed" if reasons else "passed",
        "reasons": reasons,
        "network": {**config.to_json(), "parameters": num_parameters(network), "precision": precision},
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
        "tolerances": {
            name: {"output": t.output, "state": t.state, "near": t.near, "reason": t.reason}
            for name, t in (("step", STEP), ("free", FREE))
        },
        "engines": {name: {"step": step.report(), "free": free.report()} for name, (step, free) in tallies.items()},
        "skipping": skipping.report(),
        "batch_invariance": batch.report(),
        "golden": golden,
    }


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
        row_steps: rows times steps compared in full.
    """

    tolerance: Tolerance
    output: float = 0.0
    state: dict[str, float] = field(default_factory=dict)
    decisions: int = 0
    near: int = 0
    wrong: int = 0
    row_steps: int = 0

    def compare(self, output: Array, state: Mapping[str, Array], truth: Judgement) -> NDArray[np.bool_]:
        """Add one step; return which rows (B,) took another boundary than the judge and so another way.

        Boundaries are looked at from layer 1 up: once one differs, those above it answer another question.
        """
        parted = np.zeros(len(output), bool)
        for index in range(truth.logits.shape[1]):
            name = f"z{index + 1}"
            if name in state:
                self.decisions += int((~parted).sum())
                differs = (state[name] != truth.state[name]) & ~parted
                near = np.abs(truth.logits[:, index]) < self.tolerance.near
                self.near += int((differs & near).sum())
                self.wrong += int((differs & ~near).sum())
                parted |= differs
        kept = ~parted
        self.row_steps += int(kept.sum())
        self.output = max(self.output, difference(output[kept], truth.output[kept]))
        for name, values in state.items():
            if name[0] in "hce":
                worst = difference(values[kept], truth.state[name][kept])
                self.state[name[0]] = max(self.state.get(name[0], 0.0), worst)
        return parted

    def faults(self, engine: str) -> list[str]:
        """Return what is not as it must be, one sentence each."""
        kind = "a single step" if self.tolerance is STEP else "its own trajectory"
        found = []
        if not self.output <= self.tolerance.output:
            found.append(f"{engine}: outputs of {kind} differ by {self.output:.2g}, over {self.tolerance.output:g}")
        worst = max(self.state.values(), default=0.0)
        if not worst <= self.tolerance.state:
            found.append(f"{engine}: states of {kind} differ by {worst:.2g}, over {self.tolerance.state:g}")
        if self.wrong:
            found.append(f"{engine}: {self.wrong} boundaries of {kind} differ where the detector was not near 0")
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
        }


def difference(values: Array, truth: Array) -> float:
    """Return the largest |difference| / max(1, |truth|); infinite if any value is not a number."""
    if not values.size:
        return 0.0
    worst = float((np.abs(values - truth) / np.maximum(1, np.abs(truth))).max())
    return worst if np.isfinite(worst) else float("inf")


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
    network: Network, engines: Mapping[str, Engine], trace: Trace
) -> tuple[dict[str, tuple[Tally, Tally]], dict[str, Any], Array]:
    """Take every step of a trace with the judge and all engines; return tallies, golden values and operations."""
    judge = Judge(network, trace.rows)
    tallies = {name: (Tally(STEP), Tally(FREE)) for name in engines}
    own: dict[str, State] = {name: engine.zeros(trace.rows) for name, engine in engines.items()}
    marks = np.linspace(trace.steps // MARKS, trace.steps, MARKS).astype(int) - 1
    logits, boundaries, operations, outputs = [], [], [], []
    before = judge.state()
    for now, x in enumerate(trace.inputs):
        truth = judge.step(x)
        for name, engine in engines.items():
            step, free = tallies[name]
            step.compare(*engine.step(x, _float32(before, own[name])), truth)
            output, state = engine.step(x, own[name])
            parted = free.compare(output, state, truth)
            own[name] = _set_back(state, _float32(truth.state, state), parted)
        before = truth.state
        logits.append(truth.logits)
        operations.append(truth.operations)
        boundaries.append([truth.state[name] for name in sorted(truth.state) if name[0] == "z"])
        if now in marks:
            outputs.append(truth.output)
    return tallies, _golden(trace, marks, logits, boundaries, outputs), np.array(operations)


def _golden(
    trace: Trace, marks: Array, logits: Sequence[Array], boundaries: Sequence[Sequence[Array]], outputs: Sequence[Array]
) -> dict[str, Any]:
    """Return what `verify` compares with: inputs, the judge's boundaries and its outputs at some steps."""
    z = np.array(boundaries).reshape(trace.steps, -1, trace.rows) > 0
    close = np.abs(np.array(logits)).transpose(0, 2, 1)[:, : z.shape[1]] < FREE.near
    compact = trace.inputs.astype(np.int32) if trace.inputs.dtype == np.int64 else trace.inputs
    return {
        "inputs": encode(compact),
        "z": {"shape": list(z.shape), "bits": encode(np.packbits(z))},
        "near": np.argwhere(close).tolist(),
        "marks": marks.tolist(),
        "outputs": encode(np.array(outputs).astype(np.float32)),
    }


def _trace_faults(trace: Trace, operations: Array, config: ModelConfig) -> list[str]:
    """A trace that never shows an operation proves nothing about it."""
    found = []
    if trace.steps < MIN_STEPS:
        found.append(f"the trace has {trace.steps} steps, fewer than {MIN_STEPS}")
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


def _float32(state: Mapping[str, Array], like: Mapping[str, Array]) -> State:
    """The judge's state as an engine takes it."""
    return {name: state[name].astype(np.float32) for name in like if name in state}


def _set_back(state: State, truth: State, parted: NDArray[np.bool_]) -> State:
    """Give the rows that parted the judge's state."""
    if not parted.any():
        return state
    return {
        name: np.where(parted.reshape(-1, *[1] * (values.ndim - 1)), truth[name], values) if name in truth else values
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
