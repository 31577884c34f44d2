"""Do the files compute what the network computes? Reference, PyTorch, TorchScript and ONNX Runtime over one trace.

The reference is `model/network/reference.py`: float64, one row at a time, branches instead of masks. Each engine is
compared with it in two ways over the same trace:

- **step**: before every step the engine is given the state of the reference. The difference is the engine's rounding
  error in one step and nothing else, so the tolerance is tight, and a wrong weight or operator shows at once.
- **free**: the engine carries its own state over the whole trace, as in service. Rounding errors travel through the
  recurrence; in a chaotic network, for example an untrained one, they grow without bound. A row that has drifted out of
  the tolerance is set back to the state of the reference, and that is counted; it may happen, but not often.

Boundaries are compared exactly. An engine may differ where the reference's detector logit is so close to 0 that
rounding decides. Such cases are counted and reported, not hidden in a tolerance. After one the row follows another
trajectory, so it is set back too. A boundary that differs anywhere else fails the check.

Files in int8 round h before every product, and the reference then rounds as they do (see `reference.py`). A row of the
**step** comparison is left out and counted as tied where that rounding is undecided. PyTorch runs the same weights
without rounding h; its figures show what that rounding does to outputs and boundaries.

The C kernel of the service is compared with the graphs elsewhere: before it serves, and in the service's tests. The
report also says whether rows that COPY are skipped, whether a row depends on its batch, and whether prefill leaves what
single steps leave.
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
from export.checks.invariance import check_batch_invariance
from export.checks.prefill import check_prefill
from export.checks.reference import ReferenceRun, ReferenceStep
from export.checks.skipping import check_skipping
from export.checks.tolerances import Tally, tolerances_for
from export.checks.traces import Trace
from export.graphs.quantisation import Precision
from export.graphs.specs import input_spec, output_spec, state_specs
from export.runtime import OnnxPrompt, OnnxStep
from model.config import ModelConfig
from model.network.stack import Network

Array = NDArray[Any]

FORMAT = "copyist-parity/3"
MIN_STEPS = 2_000  # steps of the trace of a bundle that ships; `verify` refuses a report with fewer
OPERATIONS = ("COPY", "UPDATE", "FLUSH")


@dataclass(frozen=True)
class Files:
    """The files that are checked.

    Attributes:
        graph: the ONNX file for any number of rows.
        single: the ONNX file for one row; it must give the same bits.
        prompt: the ONNX file for prefill; likewise.
        script: the TorchScript file.
    """

    graph: bytes
    single: bytes
    prompt: bytes
    script: bytes

    def digests(self) -> dict[str, str]:
        """Return the sha256 of each file by its name in a bundle."""
        named = {GRAPH_FILE: self.graph, SINGLE_FILE: self.single, PROMPT_FILE: self.prompt, SCRIPT_FILE: self.script}
        return {name: hashlib.sha256(content).hexdigest() for name, content in named.items()}


def check_parity(network: Network, precision: Precision, files: Files, trace: Trace) -> dict[str, Any]:
    """Run a trace through the reference and the three engines and return the report that becomes parity.json.

    Args:
        network: with the very weights that are in the files (see `round_weights`).
        precision: in which the files store the weights.
        files: to check.
        trace: inputs; a bundle that ships needs MIN_STEPS steps of them.

    Returns:
        the report; `verdict` is "passed" or "failed", and `reasons` has a sentence for everything that is wrong.
    """
    # The engines against the reference.
    config = network.config
    onnx_step = OnnxStep(files.graph, input_spec(config), output_spec(config), state_specs(config))
    engines: dict[str, Engine] = {
        "pytorch": TorchStep(network),
        "torchscript": ScriptStep(files.script),
        "onnxruntime": onnx_step,
    }
    tallies, reference = _compare(network, engines, trace, precision)
    operations = np.array([step.operations for step in reference])
    # The ONNX files against each other, and what they skip.
    skipping = check_skipping(files.graph, config, trace)
    skipping_alone = check_skipping(files.single, config, trace, single=True)
    single_step = OnnxStep(files.single, input_spec(config), output_spec(config), state_specs(config))
    batch = check_batch_invariance(onnx_step, single_step, trace)
    prefill = check_prefill(single_step, OnnxPrompt(files.prompt, state_specs(config)), trace)
    reasons = [
        *_trace_faults(operations, config),
        *(fault for name, pair in tallies.items() for tally in pair for fault in tally.faults(name)),
        *skipping.faults(),
        *skipping_alone.faults(),
        *batch.faults(),
        *prefill.faults(),
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
        "reading": prefill.report(),
        "golden": golden_of(trace, reference, precision),
    }


def num_parameters(network: Network) -> int:
    """Return how many numbers were trained."""
    return sum(parameter.numel() for parameter in network.parameters())


def _compare(
    network: Network, engines: Mapping[str, Engine], trace: Trace, precision: Precision
) -> tuple[dict[str, tuple[Tally, Tally]], list[ReferenceStep]]:
    """Take every step of a trace with the reference and all engines.

    Returns:
        for each engine the tallies of its step and its free comparison, and every step of the reference.
    """
    run = ReferenceRun(network, trace.rows, precision, trace.lines)
    lines = None if trace.lines is None else trace.lines.rows(np.tile(np.arange(trace.rows), 2))
    tallies = {}
    for name in engines:
        step, free = tolerances_for(name, precision)
        tallies[name] = Tally(step), Tally(free)
    own: dict[str, State] = {name: engine.zeros(trace.rows) for name, engine in engines.items()}
    steps: list[ReferenceStep] = []
    before = run.state()
    for x in trace.inputs:
        truth = run.step(x)
        for name, engine in engines.items():
            in_one_step, on_its_own = tallies[name]
            # Rows are independent, so one run serves both comparisons: the first half of its rows starts from the state
            # of the reference, the second half from the engine's own.
            given = _float32(before, own[name])
            output, state = engine.step(
                _stacked(x, x), {key: _stacked(given[key], values) for key, values in own[name].items()}, lines
            )
            first = {key: values[: trace.rows] for key, values in state.items()}
            second = {key: values[trace.rows :] for key, values in state.items()}
            in_one_step.compare(output[: trace.rows], first, truth)
            lost = on_its_own.compare(output[trace.rows :], second, truth)
            # Rows that left the trajectory of the reference go on from its state.
            own[name] = _set_back(second, _float32(truth.state, second), lost)
        before = truth.state
        steps.append(truth)
    return tallies, steps


def _trace_faults(operations: Array, config: ModelConfig) -> list[str]:
    """Return a sentence for each operation that a layer can do but never does in the trace: it was not tested."""
    found = []
    for layer in range(config.num_layers):
        for code, name in _codes():
            if _occurs(config, layer, name) and not (operations[..., layer] == code).any():
                found.append(f"layer {layer + 1} never does {name} in the trace, so it is not tested")
    return found


def _occurs(config: ModelConfig, layer: int, operation: str) -> bool:
    """Whether a layer (counted from 0) can do an operation: layer 1 never COPYs, the top layer never FLUSHes."""
    if config.cell == "lstm" or operation == "UPDATE":
        return operation == "UPDATE"
    return layer > 0 if operation == "COPY" else layer < config.num_layers - 1


def _codes() -> list[tuple[int, str]]:
    return list(enumerate(OPERATIONS))


def _stacked(first: Array, second: Array) -> Array:
    return np.concatenate([first, second])


def _float32(state: Mapping[str, Array], like: Mapping[str, Array]) -> State:
    """Return the state of the reference as an engine takes it."""
    return {name: state[name].astype(np.float32) for name in like if name in state}


def _set_back(state: State, truth: State, lost: NDArray[np.bool_]) -> State:
    """Return the state with the rows that are lost taken from the reference."""
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
