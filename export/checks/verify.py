"""Check a bundle from scratch, without the checkpoint it came from.

What `parity.json` claims is not believed but repeated, as far as that can be done without the judge: the files are the
ones it speaks of, both engines reproduce the judge's recorded boundaries and outputs, agree with each other on a trace
made on the spot, skip what they say they skip, and treat a row alike in any company.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import folder as bundle
from export.bundle.folder import Bundle, TensorSpec
from export.checks import parity
from export.checks import traces as trace
from export.checks.engines import Engine, ScriptStep
from export.checks.golden import SURE_STEPS, decode
from export.checks.invariance import batch_invariance
from export.checks.prefill import check_prefill
from export.checks.skipping import rows_multiplied
from export.checks.tolerances import STEP, differences
from export.graphs.prompt import boundaries_spec, inputs_spec
from export.runtime import Lines, OnnxPrompt, OnnxStep, Reader, VerifyError, config_of
from model.codec import HandwritingCodec, codec_from_json
from model.config import ConfigError, ModelConfig

Array = NDArray[Any]

FRESH_STEPS, FRESH_ROWS = 1_000, 4
# Without a judge nobody can say which detector was near its threshold, so a few may differ: one in ten thousand.
MISMATCH_SHARE = 1e-4
# First steps of the golden trace on this machine against the recorded ones of another: float32, some dozen steps.
GOLDEN_TOLERANCE = 1e-4
# In int8 an h near the middle between two multiples of 1/63 may be rounded to either, and then a row goes on a little
# apart from the recorded one; and from the other engine's, though in few steps and by little. In the golden trace a row
# that is further apart than this is left, as one is whose boundaries differ.
GOLDEN_TOLERANCE_INT8 = 0.5
TIED_SHARE, TIED_TOLERANCE = 0.02, 0.2


def verify(folder: Path) -> list[str]:
    """Check a bundle and return what was found, one line per check.

    Raises:
        BundleError: the folder is not a sound bundle.
        VerifyError: its files do not do what the bundle says.
    """
    loaded = bundle.load(folder)
    found = [f"{len(loaded.files)} files have the sha256 of the manifest, fingerprint {loaded.fingerprint}"]
    config = config_of(loaded)
    report = _parity_report(loaded, config)
    found.append(f"parity.json is of these files and passed on {report['trace']['steps']} steps")
    onnx_step, single_step, script_step = _open(loaded)
    prompt, reader = _open_prompt(loaded, config), _open_reader(loaded)
    found.append("all graphs open, with the inputs, outputs and states of the manifest")
    is_int8 = loaded.model.get("precision") == "int8"
    for name, engine in (("ONNX Runtime", onnx_step), ("TorchScript", script_step)):
        followed, total = replay(name, engine, report["golden"], reader, is_int8=is_int8)
        found.append(f"{name} took the recorded boundaries on {followed} of {total} row-steps of the golden trace")
    seed = int(loaded.fingerprint[:8], 16)
    lines = None if reader is None else trace.random_lines(reader, _codec_of(loaded), FRESH_ROWS, seed)
    fresh = trace.sampled(onnx_step, FRESH_ROWS, FRESH_STEPS, seed, lines)
    found.append(
        f"TorchScript and ONNX Runtime agree on {fresh.source}: {agree(onnx_step, script_step, fresh, is_int8=is_int8)}"
    )
    skipping, batch = rows_multiplied(loaded.graph, config, fresh), batch_invariance(onnx_step, single_step, fresh)
    alone = rows_multiplied(loaded.single, config, fresh, single=True)
    reading = check_prefill(single_step, prompt, fresh)
    for fault in [*skipping.faults(), *alone.faults(), *batch.faults(), *reading.faults()]:
        raise VerifyError(fault)
    multiplied, row_steps = skipping.multiplied, skipping.steps * skipping.rows
    shares = ", ".join(
        f"layer {layer} {multiplied[f'layer{layer}.own'] / row_steps:.1%}" for layer in range(1, config.num_layers + 1)
    )
    found.append(f"rows that COPY reach no product; share of rows computed: {shares}")
    found.append(f"rows keep their bits alone and in batches of {', '.join(map(str, batch.sizes))}")
    found.append(f"{reading.steps} inputs that are read in one go leave the bits that steps leave")
    return found


def replay(
    name: str,
    engine: Engine,
    golden: Mapping[str, Any],
    reader: Reader | None = None,
    *,
    is_int8: bool = False,
) -> tuple[int, int]:
    """Feed the golden trace to an engine and compare with what the judge did.

    A row is followed until its boundaries differ from the recorded ones. In the first steps, before rounding errors can
    have grown, they may only differ where the judge was near its threshold, and outputs must agree; or in int8, where
    the rounding of an h may set a row apart, those of half the rows.

    Returns:
        Row-steps followed, and all of them.

    Raises:
        VerifyError: the engine does not reproduce the first steps.
    """
    inputs, z, near, outputs = _golden(golden)
    lines = None if reader is None else Lines.read(reader, decode(golden["ids"]), decode(golden["writer"]))
    given = inputs.astype(np.int64) if inputs.ndim == 2 else inputs
    steps, rows = given.shape[:2]
    followed = np.zeros(rows, np.int64)
    on_track = np.ones(rows, bool)
    state = engine.zeros(rows)
    names = [key for key in sorted(state) if key[0] == "z"]
    for now in range(steps):
        output, state = engine.step(given[now], state, lines)
        for index, key in enumerate(names):
            for row in np.flatnonzero((state[key] != z[now, index]) & on_track):
                if now < len(outputs) and (now, index, int(row)) not in near:
                    raise VerifyError(f"{name}: {key} of row {row} differs from the recorded one at golden step {now}")
                on_track[row] = False
        if now < len(outputs) and on_track.any():
            off = np.where(on_track, differences(output, outputs[now]), 0)
            if is_int8:
                on_track &= off <= GOLDEN_TOLERANCE_INT8
            elif not off.max() <= GOLDEN_TOLERANCE:
                raise VerifyError(
                    f"{name}: outputs differ by {off.max():.2g} from the recorded ones at golden step {now}"
                )
        if now == len(outputs) - 1 and on_track.sum() < (rows / 2 if is_int8 else 1):
            raise VerifyError(f"{name}: too few rows went as recorded over the first {now + 1} golden steps")
        followed += on_track
    return int(followed.sum()), steps * rows


def _parity_report(loaded: Bundle, config: ModelConfig) -> dict[str, Any]:
    """Return the report after checking that it is one, passed, and speaks of these very files."""
    try:
        report = json.loads(loaded.files[bundle.PARITY_FILE])
        if report["format"] != parity.FORMAT:
            raise VerifyError(f"parity.json has format {report['format']!r}, expected {parity.FORMAT!r}")
        if report["verdict"] != "passed":
            raise VerifyError(f"parity.json says {report['verdict']!r}: {'; '.join(report['reasons'])}")
        if report["trace"]["steps"] < parity.MIN_STEPS:
            raise VerifyError(f"parity was shown on {report['trace']['steps']} steps, fewer than {parity.MIN_STEPS}")
        described = {key: value for key, value in report["network"].items() if key not in ("parameters", "precision")}
        if ModelConfig.from_json(described) != config:
            raise VerifyError("parity.json speaks of another network than the manifest")
        for name, digest in report["files"].items():
            if hashlib.sha256(loaded.files[name]).hexdigest() != digest:
                raise VerifyError(f"parity.json speaks of another {name}")
        if set(report["files"]) != {bundle.GRAPH_FILE, bundle.SINGLE_FILE, bundle.PROMPT_FILE, bundle.SCRIPT_FILE}:
            raise VerifyError("parity.json does not speak of all graphs")
        _golden(report["golden"])
        if config.writes_text:
            decode(report["golden"]["ids"]), decode(report["golden"]["writer"])
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerifyError(f"parity.json is not a parity report: {error!r}") from None
    return dict(report)


def _golden(golden: Mapping[str, Any]) -> tuple[Array, Array, set[tuple[int, int, int]], Array]:
    """Return inputs (T, B[, 3]), boundaries (T, L - 1, B), near-threshold places, and the first outputs."""
    inputs, outputs = decode(golden["inputs"]), decode(golden["outputs"])
    shape = tuple(int(size) for size in golden["z"]["shape"])
    bits = np.unpackbits(decode(golden["z"]["bits"]), count=int(np.prod(shape)))
    if len(outputs) < SURE_STEPS or len(inputs) < parity.MIN_STEPS or len(inputs) != shape[0]:
        raise ValueError("the golden trace is too short")
    near = {(int(step), int(index), int(row)) for step, index, row in golden["near"]}
    return inputs, bits.reshape(shape).astype(np.float32), near, outputs


def _open(loaded: Bundle) -> tuple[OnnxStep, OnnxStep, ScriptStep]:
    """Open all graphs and hold their faces against the manifest."""
    if bundle.SCRIPT_FILE not in loaded.files:
        raise VerifyError(f"there is no {bundle.SCRIPT_FILE} in the bundle")
    onnx_step, single_step = (_open_onnx(loaded, single=single) for single in (False, True))
    try:
        script_step = ScriptStep(loaded.files[bundle.SCRIPT_FILE])
        state = script_step.zeros(1)
    except Exception as error:  # noqa: BLE001 - likewise
        raise VerifyError(f"TorchScript refuses {bundle.SCRIPT_FILE}: {error}") from None
    if {name: values.shape for name, values in state.items()} != {s.name: s.shape_for(1) for s in loaded.states}:
        raise VerifyError(f"{bundle.SCRIPT_FILE} carries other states than the manifest")
    return onnx_step, single_step, script_step


def _open_prompt(loaded: Bundle, config: ModelConfig) -> OnnxPrompt:
    """Open the graph that reads many inputs and hold its face against the manifest."""
    try:
        prompt = OnnxPrompt(loaded.prompt, loaded.states)
    except Exception as error:  # noqa: BLE001 - its errors have no base class of their own
        raise VerifyError(f"ONNX Runtime refuses {loaded.manifest['graph']['prompt']}: {error}") from None
    sampling_inputs = [wish for wish in loaded.draws if wish.name in ("hand", "text")]
    carried = [state for state in loaded.states if not state.name.startswith("e")]
    after = [*map(_next, loaded.states), *boundaries_spec(config)]
    _check_face(prompt.session, (inputs_spec(config), *sampling_inputs, *carried), after, 1)
    return prompt


def _open_onnx(loaded: Bundle, *, single: bool) -> OnnxStep:
    """Open an ONNX file and hold its face against the manifest."""
    try:
        step = OnnxStep.of(loaded, single=single)
    except Exception as error:  # noqa: BLE001 - its errors have no base class of their own
        raise VerifyError(f"ONNX Runtime refuses the graph: {error}") from None
    given = (loaded.input, *loaded.draws, *loaded.states)
    after = (loaded.drawn, loaded.output, *(_next(state) for state in loaded.states))
    _check_face(step.session, given, after, 1 if single else "batch")
    return step


def _check_face(session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], rows: int | str) -> None:
    """Hold the inputs and outputs of a session, whose batch is so many rows, against what they should be."""
    names = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}
    for found, specs in ((session.get_inputs(), inputs), (session.get_outputs(), outputs)):
        face = {(one.name, names.get(one.type, one.type), tuple(one.shape)) for one in found}
        if face != {
            (spec.name, spec.dtype, tuple(rows if size == "batch" else size for size in spec.shape)) for spec in specs
        }:
            raise VerifyError("the graph's inputs and outputs are not those of the manifest")


def _open_reader(loaded: Bundle) -> Reader | None:
    """Open the graph that reads a text, where there is one."""
    if loaded.reader is None:
        return None
    try:
        reader = Reader(loaded.reader)
        slots = next(wish.shape[1] for wish in loaded.draws if wish.name == "text")
    except Exception as error:  # noqa: BLE001 - likewise
        raise VerifyError(f"ONNX Runtime refuses the graph that reads a text: {error}") from None
    if reader.slots != slots:
        raise VerifyError(f"the reader has room for {reader.slots} characters, but the step for {slots}")
    return reader


def _codec_of(loaded: Bundle) -> HandwritingCodec:
    codec = codec_from_json(dict(loaded.codec))
    assert isinstance(codec, HandwritingCodec), "the manifest was checked: only such a bundle has a reader"
    return codec


def agree(first: OnnxStep, second: ScriptStep, fresh: trace.Trace, *, is_int8: bool = False) -> str:
    """Give both engines the same state at every step and compare; return the figures as words.

    Raises:
        VerifyError: outputs or states differ by more than rounding, or boundaries more often than it can explain.
    """
    state = first.zeros(fresh.rows)
    worst, decisions, mismatches, tied = 0.0, 0, 0, 0
    for x in fresh.inputs:
        output, following = first.step(x, state, fresh.lines)
        other, theirs = second.step(x, state, fresh.lines)
        parted = np.zeros(fresh.rows, bool)
        for name in (name for name in sorted(state) if name[0] == "z"):
            decisions += fresh.rows
            differs = (following[name] != theirs[name]) & ~parted
            mismatches += int(differs.sum())
            parted |= differs
        off = np.zeros(fresh.rows)
        for mine, yours in [(output, other), *((following[name], theirs[name]) for name in state if name[0] != "z")]:
            off = np.maximum(off, np.where(parted, 0, differences(mine, yours)))
        if is_int8:
            rounded_apart = (off > 2 * STEP.output) & (off <= TIED_TOLERANCE)
            tied += int(rounded_apart.sum())
            off[rounded_apart] = 0
        worst = max(worst, float(off.max()))
        state = following
    if not worst <= 2 * STEP.output:
        raise VerifyError(f"TorchScript and ONNX Runtime differ by {worst:.2g} in one step")
    if tied > TIED_SHARE * fresh.steps * fresh.rows:
        raise VerifyError(f"TorchScript and ONNX Runtime round to different sides in {tied} row-steps, too many")
    if mismatches > max(1, MISMATCH_SHARE * decisions):
        raise VerifyError(f"TorchScript and ONNX Runtime differ in {mismatches} of {decisions} boundaries")
    return f"largest difference {worst:.1e}, {mismatches} of {decisions} boundaries differ"


def _next(state: bundle.StateSpec) -> TensorSpec:
    return TensorSpec(state.next, state.dtype, state.shape)
