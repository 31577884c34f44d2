import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checks.judge import ReferenceStep
from export.checks.traces import Trace
from export.graphs.weights import Precision

Array = NDArray[Any]

# What `verify` replays without a judge: the first steps, before errors can have grown, and whose outputs are kept.
SURE_STEPS = 64


SURE_NEAR = 1e-3


SURE_NEAR_INT8 = 0.2


def encode(values: Array) -> dict[str, Any]:
    """Return an array as JSON, exactly: little-endian bytes in base64."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    content = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": values.dtype.name, "shape": list(values.shape), "base64": content}


def decode(values: Mapping[str, Any]) -> Array:
    """Return the array that `encode` described; ValueError, KeyError or TypeError if it describes none."""
    raw = base64.b64decode(values["base64"], validate=True)
    return np.frombuffer(raw, np.dtype(values["dtype"]).newbyteorder("<")).reshape(values["shape"])


def golden_of(trace: Trace, judgements: Sequence[ReferenceStep], precision: Precision) -> dict[str, Any]:
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
