"""Record the boundaries of a trained network, so that networks of any width can be made to set the same ones.

The cost of an HM-LSTM depends on where its boundaries fall: how often, how close together, and in which rows of a batch
at the same time. Boundaries drawn at random would make it look faster or slower than it is. So they are recorded from a
shipped bundle, over text that it was not trained on or, for ink, over what it writes itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle.folder import Bundle
from export.checks import traces
from export.runtime import OnnxStep
from model.codec import TextCodec, codec_from_json

Array = NDArray[Any]
Bits = NDArray[np.bool_]

WARM_STEPS = 48
MOST_STEPS = 2048
SEED = 1


@dataclass(frozen=True)
class Boundaries:
    """Recorded boundaries.

    Attributes:
        fired: (T, B, L-1) bool, from layer 1 up.
        inputs: of the same steps, (T, B) int64 or (T, B, 3) float32.
        source: where they come from, in one line.
    """

    fired: Bits
    inputs: Array
    source: str

    @property
    def rates(self) -> list[float]:
        """Share of steps at which each layer fires, from layer 1 up."""
        return [float(rate) for rate in self.fired.mean((0, 1))]


def record(bundle: Bundle, rows: int, steps: int, text: Path) -> Boundaries:
    """Step a bundle over `rows` pieces of a text, or let it write `rows` drawings, and record its boundaries.

    Args:
        bundle: to record.
        rows: B.
        steps: T, counted after the first WARM_STEPS, so that no row is at its beginning.
        text: a file that the bundle was not trained on; not used for ink.

    Raises:
        TraceError: the text is too short.
    """
    step = OnnxStep.of(bundle)
    total = WARM_STEPS + steps
    codec = codec_from_json(dict(bundle.codec))
    if isinstance(codec, TextCodec):
        trace = traces.text_rows(codec.encode(text.read_text(encoding="utf-8")), rows, total, text.name)
    else:
        trace = traces.sampled(step, rows, total, SEED)
    names = [state.name for state in bundle.states if state.name.startswith("z")]
    fired = np.zeros((total, rows, len(names)), np.bool_)
    state = step.zeros(rows)
    for now, x in enumerate(trace.inputs):
        _, state = step.step(x, state)
        for layer, name in enumerate(names):
            fired[now, :, layer] = state[name] > 0
    return Boundaries(fired[WARM_STEPS:], trace.inputs[WARM_STEPS:], f"{bundle.name} over {trace.source}")


def arrange(values: Array, batch: int, items: int) -> Array:
    """Arrange the rows of a recording for another batch size, one group of rows after the other.

    Args:
        values: (T, R, ...).
        batch: B, at most R.
        items: characters or points wanted in all.

    Returns:
        (S, B, ...) with S = items / B, or as many as the recording has, and at most MOST_STEPS.
    """
    groups: Sequence[Array] = [
        values[:, start : start + batch] for start in range(0, values.shape[1] - batch + 1, batch)
    ]
    return np.ascontiguousarray(np.concatenate(groups)[: max(1, min(MOST_STEPS, items // batch))])
