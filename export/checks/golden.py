"""The golden trace in parity.json: inputs, and what the reference made of them, for `verify` to repeat on any machine.

`verify` has neither the trained network nor the reference. It feeds the recorded inputs to both engines and compares
with the recorded boundaries, over the whole trace, and with the outputs of the first steps.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checks.reference import ReferenceStep
from export.checks.traces import Trace
from export.graphs.quantisation import Precision

Array = NDArray[Any]

# Outputs are recorded for the first steps only, before rounding errors can have grown.
STRICT_STEPS = 64
# In them a boundary may differ where the reference's logit is closer to 0 than this. In int8 the margin is wider,
# because an h that is rounded to the other side moves a row by more than float32's errors do.
NEAR_ZERO = 1e-3
NEAR_ZERO_INT8 = 0.2


@dataclass(frozen=True)
class Golden:
    """A golden trace as `read_golden` returns it.

    Attributes:
        inputs: (T, B) int64 symbols or (T, B, 3) float32 offsets.
        z: boundaries (T, L - 1, B), 0 or 1.
        near: (step, layer from 0, row) of every detector logit near 0 in the first STRICT_STEPS steps.
        outputs: (STRICT_STEPS, B, outputs) float32.
        ids, writer: of the lines that the rows write, None where they write no text.
    """

    inputs: Array
    z: Array
    near: set[tuple[int, int, int]]
    outputs: Array
    ids: Array | None = None
    writer: Array | None = None


def encode(values: Array) -> dict[str, Any]:
    """Return an array as JSON, exactly: little-endian bytes in base64."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    content = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": values.dtype.name, "shape": list(values.shape), "base64": content}


def decode(values: Mapping[str, Any]) -> Array:
    """Return the array that `encode` described; ValueError, KeyError or TypeError if it describes none."""
    raw = base64.b64decode(values["base64"], validate=True)
    return np.frombuffer(raw, np.dtype(values["dtype"]).newbyteorder("<")).reshape(values["shape"])


def golden_of(trace: Trace, reference: Sequence[ReferenceStep], precision: Precision) -> dict[str, Any]:
    """Return a golden trace as JSON.

    Args:
        trace: the inputs.
        reference: what the reference made of each step.
        precision: of the files.
    """
    # Boundaries of all steps, one bit each, in the order (step, layer, row).
    names = [name for name in sorted(reference[0].state) if name[0] == "z"]
    z = np.array([[step.state[name] for name in names] for step in reference])
    z = z.reshape(trace.steps, len(names), trace.rows) > 0
    # Outputs of the first steps, and where their boundaries were close calls.
    strict = reference[:STRICT_STEPS]
    threshold = NEAR_ZERO_INT8 if precision == "int8" else NEAR_ZERO
    close = [np.abs(step.logits[:, : len(names)].T) < threshold for step in strict]
    lines = trace.lines
    written = {} if lines is None else {"ids": encode(lines.ids), "writer": encode(lines.writer)}
    return {
        **written,
        "inputs": encode(trace.inputs.astype(np.int32) if trace.inputs.dtype == np.int64 else trace.inputs),
        "z": {"shape": list(z.shape), "bits": encode(np.packbits(z))},
        "near": np.argwhere(close).tolist(),
        "outputs": encode(np.array([step.output for step in strict]).astype(np.float32)),
    }


def read_golden(recorded: Mapping[str, Any], *, writes_text: bool) -> Golden:
    """Return the golden trace of a parity report.

    Raises:
        ValueError, KeyError, TypeError: it is not one, or is shorter than STRICT_STEPS.
    """
    inputs, outputs = decode(recorded["inputs"]), decode(recorded["outputs"])
    shape = tuple(int(size) for size in recorded["z"]["shape"])
    bits = np.unpackbits(decode(recorded["z"]["bits"]), count=int(np.prod(shape)))
    if len(outputs) < STRICT_STEPS or len(inputs) != shape[0]:
        raise ValueError("the golden trace is too short")
    return Golden(
        inputs=inputs.astype(np.int64) if inputs.ndim == 2 else inputs,
        z=bits.reshape(shape).astype(np.float32),
        near={(int(step), int(layer), int(row)) for step, layer, row in recorded["near"]},
        outputs=outputs,
        ids=decode(recorded["ids"]) if writes_text else None,
        writer=decode(recorded["writer"]) if writes_text else None,
    )
