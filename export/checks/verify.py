"""Check a bundle from scratch, without the checkpoint it came from.

What `parity.json` claims is repeated, as far as that is possible without the trained network:

- the files are those that the report is about;
- ONNX Runtime and TorchScript reproduce the recorded boundaries and outputs of the reference (the golden trace);
- they agree with each other on a fresh trace, sampled on the spot;
- rows that COPY reach no product, a row does not depend on its batch, and prefill leaves what single steps leave.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.folder import (
    GRAPH_FILE,
    PARITY_FILE,
    PROMPT_FILE,
    SCRIPT_FILE,
    SINGLE_FILE,
    Bundle,
    TensorSpec,
    load,
)
from export.checks.engines import Engine, ScriptStep
from export.checks.golden import Golden, read_golden
from export.checks.invariance import check_batch_invariance
from export.checks.parity import FORMAT, MIN_STEPS
from export.checks.prefill import check_prefill
from export.checks.skipping import check_skipping
from export.checks.tolerances import STEP, differences
from export.checks.traces import Trace, random_lines, sampled
from export.errors import VerifyError
from export.graphs.specs import boundaries_spec, next_spec, prompt_spec
from export.runtime import Lines, OnnxPrompt, OnnxStep, TextEncoder, config_of
from model.codec import HandwritingCodec, codec_from_json
from model.config import ConfigError, ModelConfig

Array = NDArray[Any]

FRESH_STEPS, FRESH_ROWS = 1_000, 4
# On a fresh trace there is no reference to say which logits are near 0, so one boundary in ten thousand may differ.
MISMATCH_SHARE = 1e-4
# How far the outputs of the first golden steps may be from those recorded on another machine: float32, some dozen
# steps.
GOLDEN_TOLERANCE = 1e-4
# In int8 an h near the middle between two multiples of 1/63 may be rounded to either. On the golden trace such a row
# goes on a little apart from the recorded one; beyond this difference it is no longer followed, as if a boundary
# differed.
GOLDEN_TOLERANCE_INT8 = 0.5
# For the same reason two engines may differ by this much in one step, in this share of the row-steps of a fresh trace.
TIED_TOLERANCE = 0.2
TIED_SHARE = 0.02


def verify(folder: Path) -> list[str]:
    """Check a bundle and return what was found, one line for each check.

    Raises:
        BundleError: the folder is not a sound bundle.
        VerifyError: its files do not do what the bundle says.
    """
    loaded = load(folder)
    found = [f"{len(loaded.files)} files have the sha256 of the manifest, fingerprint {loaded.fingerprint}"]
    # The report is of these files, and the files have the inputs and outputs that the manifest lists.
    config = config_of(loaded)
    steps, golden = _parity_report(loaded, config)
    found.append(f"parity.json is of these files and passed on {steps} steps")
    onnx_step, single_step, script_step = _open_steps(loaded)
    prompt = _open_prompt(loaded, config)
    encoder = _open_text_encoder(loaded)
    found.append("all graphs open, with the inputs, outputs and states of the manifest")
    # Both engines reproduce the golden trace.
    is_int8 = loaded.model.get("precision") == "int8"
    for name, engine in (("ONNX Runtime", onnx_step), ("TorchScript", script_step)):
        followed, total = replay(name, engine, golden, encoder, is_int8=is_int8)
        found.append(f"{name} took the recorded boundaries on {followed} of {total} row-steps of the golden trace")
    # They agree with each other on a fresh trace.
    seed = int(loaded.fingerprint[:8], 16)
    lines = None if encoder is None else random_lines(encoder, _codec_of(loaded), FRESH_ROWS, seed)
    fresh = sampled(onnx_step, FRESH_ROWS, FRESH_STEPS, seed, lines)
    agreement = agree(onnx_step, script_step, fresh, is_int8=is_int8)
    found.append(f"TorchScript and ONNX Runtime agree on {fresh.source}: {agreement}")
    # Skipping, batch invariance and prefill, on the fresh trace.
    skipping = check_skipping(loaded.graph, config, fresh)
    alone = check_skipping(loaded.single, config, fresh, single=True)
    batch = check_batch_invariance(onnx_step, single_step, fresh)
    prefill = check_prefill(single_step, prompt, fresh)
    for fault in [*skipping.faults(), *alone.faults(), *batch.faults(), *prefill.faults()]:
        raise VerifyError(fault)
    multiplied = skipping.multiplied
    row_steps = skipping.steps * skipping.rows
    shares = ", ".join(
        f"layer {layer} {multiplied[f'layer{layer}.own'] / row_steps:.1%}" for layer in range(1, config.num_layers + 1)
    )
    found.append(f"rows that COPY reach no product; share of rows computed: {shares}")
    sizes = ", ".join(map(str, batch.sizes))
    found.append(f"a row does not depend on the other rows of its batch: the same bits at batch sizes {sizes}")
    found.append(f"prefill of {prefill.steps} inputs leaves the bits that single steps leave")
    return found


def replay(
    name: str, engine: Engine, golden: Golden, encoder: TextEncoder | None = None, *, is_int8: bool = False
) -> tuple[int, int]:
    """Feed the golden trace to an engine and compare with what the reference did.

    A row is followed until one of its boundaries differs from the recorded one. In the first steps, before rounding
    errors can have grown, a boundary may differ only where the reference's logit was near 0, and outputs must agree. In
    int8, where the rounding of an h may set a row apart, half of the rows must have followed that far.

    Args:
        name: of the engine, for messages.
        engine: to check.
        golden: the recorded trace.
        encoder: of the texts, if the network writes them.
        is_int8: whether products round h.

    Returns:
        Row-steps followed, and all of them.

    Raises:
        VerifyError: the engine does not reproduce the first steps.
    """
    lines = None
    if encoder is not None and golden.ids is not None and golden.writer is not None:
        lines = Lines.encode(encoder, golden.ids, golden.writer)
    steps, rows = golden.inputs.shape[:2]
    strict_steps = len(golden.outputs)
    followed = np.zeros(rows, np.int64)
    on_track = np.ones(rows, bool)
    state = engine.zeros(rows)
    names = [key for key in sorted(state) if key[0] == "z"]
    for now in range(steps):
        output, state = engine.step(golden.inputs[now], state, lines)
        # Boundaries, over the whole trace.
        for layer, key in enumerate(names):
            for row in np.flatnonzero((state[key] != golden.z[now, layer]) & on_track):
                if now < strict_steps and (now, layer, int(row)) not in golden.near:
                    raise VerifyError(f"{name}: {key} of row {row} differs from the recorded one at golden step {now}")
                on_track[row] = False
        # Outputs, over the first steps.
        if now < strict_steps and on_track.any():
            off = np.where(on_track, differences(output, golden.outputs[now]), 0)
            if is_int8:
                on_track &= off <= GOLDEN_TOLERANCE_INT8
            elif not off.max() <= GOLDEN_TOLERANCE:
                raise VerifyError(
                    f"{name}: outputs differ by {off.max():.2g} from the recorded ones at golden step {now}"
                )
        # At their end enough rows must still be followed.
        if now == strict_steps - 1 and on_track.sum() < (rows / 2 if is_int8 else 1):
            raise VerifyError(f"{name}: too few rows went as recorded over the first {now + 1} golden steps")
        followed += on_track
    return int(followed.sum()), steps * rows


def _parity_report(loaded: Bundle, config: ModelConfig) -> tuple[int, Golden]:
    """Return steps and golden trace of the parity report, after checking that it passed and is about these files."""
    try:
        report = json.loads(loaded.files[PARITY_FILE])
        if report["format"] != FORMAT:
            raise VerifyError(f"parity.json has format {report['format']!r}, expected {FORMAT!r}")
        if report["verdict"] != "passed":
            raise VerifyError(f"parity.json says {report['verdict']!r}: {'; '.join(report['reasons'])}")
        steps = int(report["trace"]["steps"])
        if steps < MIN_STEPS:
            raise VerifyError(f"parity was checked on {steps} steps, fewer than {MIN_STEPS}")
        described = {key: value for key, value in report["network"].items() if key not in ("parameters", "precision")}
        if ModelConfig.from_json(described) != config:
            raise VerifyError("parity.json is about another network than the manifest")
        for name, digest in report["files"].items():
            if hashlib.sha256(loaded.files[name]).hexdigest() != digest:
                raise VerifyError(f"parity.json is about another {name}")
        if set(report["files"]) != {GRAPH_FILE, SINGLE_FILE, PROMPT_FILE, SCRIPT_FILE}:
            raise VerifyError("parity.json is not about all graphs")
        golden = read_golden(report["golden"], writes_text=config.writes_text)
        if len(golden.inputs) < MIN_STEPS:
            raise VerifyError(f"the golden trace has {len(golden.inputs)} steps, fewer than {MIN_STEPS}")
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerifyError(f"parity.json is not a parity report: {error!r}") from None
    return steps, golden


def _open_steps(loaded: Bundle) -> tuple[OnnxStep, OnnxStep, ScriptStep]:
    """Open the step graphs and compare their inputs, outputs and states with the manifest."""
    if SCRIPT_FILE not in loaded.files:
        raise VerifyError(f"there is no {SCRIPT_FILE} in the bundle")
    onnx_step, single_step = (_open_onnx(loaded, single=single) for single in (False, True))
    try:
        script_step = ScriptStep(loaded.files[SCRIPT_FILE])
        state = script_step.zeros(1)
    except Exception as error:  # noqa: BLE001 - the errors of TorchScript have no base class of their own
        raise VerifyError(f"TorchScript refuses {SCRIPT_FILE}: {error}") from None
    if {name: values.shape for name, values in state.items()} != {s.name: s.shape_for(1) for s in loaded.states}:
        raise VerifyError(f"{SCRIPT_FILE} carries other states than the manifest")
    return onnx_step, single_step, script_step


def _open_prompt(loaded: Bundle, config: ModelConfig) -> OnnxPrompt:
    """Open the graph for prefill and compare its inputs and outputs with the manifest."""
    try:
        prompt = OnnxPrompt(loaded.prompt, loaded.states)
    except Exception as error:  # noqa: BLE001 - its errors have no base class of their own
        raise VerifyError(f"ONNX Runtime refuses {loaded.manifest['graph']['prompt']}: {error}") from None
    conditioning = [spec for spec in loaded.draws if spec.name in ("hand", "text")]
    carried = [state for state in loaded.states if not state.name.startswith("e")]
    outputs = [*map(next_spec, loaded.states), *boundaries_spec(config)]
    _check_signature(prompt.session, (prompt_spec(config), *conditioning, *carried), outputs, 1)
    return prompt


def _open_onnx(loaded: Bundle, *, single: bool) -> OnnxStep:
    """Open an ONNX step and compare its inputs and outputs with the manifest."""
    try:
        step = OnnxStep.of(loaded, single=single)
    except Exception as error:  # noqa: BLE001 - its errors have no base class of their own
        raise VerifyError(f"ONNX Runtime refuses the graph: {error}") from None
    inputs = (loaded.input, *loaded.draws, *loaded.states)
    outputs = (loaded.drawn, loaded.output, *map(next_spec, loaded.states))
    _check_signature(step.session, inputs, outputs, 1 if single else "batch")
    return step


def _check_signature(
    session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], rows: int | str
) -> None:
    """Compare names, types and shapes of a session's inputs and outputs with what they should be.

    `rows` is the size of its batch axis: 1, or the name of the axis.
    """
    names = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}
    for found, specs in ((session.get_inputs(), inputs), (session.get_outputs(), outputs)):
        signature = {(one.name, names.get(one.type, one.type), tuple(one.shape)) for one in found}
        if signature != {
            (spec.name, spec.dtype, tuple(rows if size == "batch" else size for size in spec.shape)) for spec in specs
        }:
            raise VerifyError("the graph's inputs and outputs are not those of the manifest")


def _open_text_encoder(loaded: Bundle) -> TextEncoder | None:
    """Open the text encoder and compare its room for characters with that of the step; None where there is none."""
    if loaded.reader is None:
        return None
    try:
        encoder = TextEncoder(loaded.reader)
        slots = next(spec.shape[1] for spec in loaded.draws if spec.name == "text")
    except Exception as error:  # noqa: BLE001 - its errors have no base class of their own
        raise VerifyError(f"ONNX Runtime refuses the text encoder: {error}") from None
    if encoder.slots != slots:
        raise VerifyError(f"the text encoder takes {encoder.slots} characters, but the step takes {slots}")
    return encoder


def _codec_of(loaded: Bundle) -> HandwritingCodec:
    codec = codec_from_json(dict(loaded.codec))
    assert isinstance(codec, HandwritingCodec), "the manifest was checked: only such a bundle has a text encoder"
    return codec


def agree(first: OnnxStep, second: ScriptStep, fresh: Trace, *, is_int8: bool = False) -> str:
    """Give both engines the same state at every step, compare them, and return the figures as words.

    Args:
        first: whose state both are given.
        second: to compare with it.
        fresh: inputs.
        is_int8: whether products round h.

    Raises:
        VerifyError: outputs or states differ by more than rounding, or boundaries more often than it can explain.
    """
    state = first.zeros(fresh.rows)
    worst = 0.0
    decisions = mismatches = tied = 0
    for x in fresh.inputs:
        output, following = first.step(x, state, fresh.lines)
        other, theirs = second.step(x, state, fresh.lines)
        # Boundaries from layer 1 up; once one differs, the row is not compared any further at this step.
        parted = np.zeros(fresh.rows, bool)
        for name in (name for name in sorted(state) if name[0] == "z"):
            decisions += fresh.rows
            differs = (following[name] != theirs[name]) & ~parted
            mismatches += int(differs.sum())
            parted |= differs
        # Outputs and states; in int8 a row may have been rounded to the other side.
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
