"""Is what ships the network that was trained? reference = PyTorch = TorchScript = ONNX Runtime, over golden traces.

The judge is `model.network.reference`: float64, one row at a time, branches instead of masks. Each engine is compared
with it in two ways over the same trace:

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

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from export.bundle.folder import GRAPH_FILE, PROMPT_FILE, SCRIPT_FILE, SINGLE_FILE
from export.checks.engines import Engine, ScriptStep, State, TorchStep
from export.checks.golden import golden_of
from export.checks.invariance import batch_invariance
from export.checks.judge import ReferenceRun, ReferenceStep
from export.checks.prefill import check_prefill
from export.checks.skipping import rows_multiplied
from export.checks.tolerances import Tally, tolerances_for
from export.checks.traces import Trace
from export.graphs.weights import Precision, input_spec, output_spec, state_specs
from export.runtime import OnnxPrompt, OnnxStep
from model.config import ModelConfig
from model.network.stack import Network

Array = NDArray[Any]

FORMAT = "copyist-parity/3"
MIN_STEPS = 2_000
OPERATIONS = ("COPY", "UPDATE", "FLUSH")


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
    reading = check_prefill(single_step, OnnxPrompt(files.prompt, state_specs(config)), trace)
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


def num_parameters(network: Network) -> int:
    """Return how many numbers were trained."""
    return sum(parameter.numel() for parameter in network.parameters())


def _follow(
    network: Network, engines: Mapping[str, Engine], trace: Trace, precision: Precision
) -> tuple[dict[str, tuple[Tally, Tally]], dict[str, Any], Array]:
    """Take every step of a trace with the judge and all engines; return tallies, golden values and operations."""
    judge = ReferenceRun(network, trace.rows, precision, trace.lines)
    twice = None if trace.lines is None else trace.lines.rows(np.tile(np.arange(trace.rows), 2))
    tallies = {}
    for name in engines:
        step, free = tolerances_for(name, precision)
        tallies[name] = Tally(step), Tally(free)
    own: dict[str, State] = {name: engine.zeros(trace.rows) for name, engine in engines.items()}
    judged: list[ReferenceStep] = []
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
        judged.append(truth)
    return (
        tallies,
        golden_of(trace, judged, precision),
        np.array([step.operations for step in judged]),
    )


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
