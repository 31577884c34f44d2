"""Boundaries a trained network really sets, recorded so that networks of any width can be made to set the same.

How much a gated network costs depends on where its boundaries fall: how often, how bunched, and which rows of a batch
fire together. Rates drawn at random would flatter or wrong it, so they are recorded from a bundle that ships, while it
reads text that it never saw or, for ink, while it writes.
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
    """What fired when.

    Attributes:
        fired: (T, B, L-1) bool, from layer 1 up.
        inputs: (T, B) int64 or (T, B, 3) float32: what was read meanwhile.
        source: one line that says where they come from.
    """

    fired: Bits
    inputs: Array
    source: str

    @property
    def rates(self) -> list[float]:
        """Share of steps at which each layer fires, from layer 1 up."""
        return [float(rate) for rate in self.fired.mean((0, 1))]


def record(bundle: Bundle, rows: int, steps: int, text: Path) -> Boundaries:
    """Let a bundle read `rows` pieces of a text, or write `rows` drawings, and note its boundaries.

    Args:
        bundle: that ships.
        rows: B.
        steps: T, counted from where the first WARM_STEPS have passed, so that no row is at its beginning.
        text: a file that the bundle was not trained on; ink does not need it.

    Raises:
        TraceError: the text is too short.
    """
    step = OnnxStep.of(bundle)
    total = WARM_STEPS + steps
    codec = codec_from_json(dict(bundle.codec))
    if isinstance(codec, TextCodec):
        read = traces.text_rows(codec.encode(text.read_text(encoding="utf-8")), rows, total, text.name)
    else:
        read = traces.sampled(step, rows, total, SEED)
    names = [state.name for state in bundle.states if state.name.startswith("z")]
    fired = np.zeros((total, rows, len(names)), np.bool_)
    state = step.zeros(rows)
    for now, x in enumerate(read.inputs):
        _, state = step.step(x, state)
        for layer, name in enumerate(names):
            fired[now, :, layer] = state[name] > 0
    return Boundaries(fired[WARM_STEPS:], read.inputs[WARM_STEPS:], f"{bundle.name} over {read.source}")


def arrange(values: Array, batch: int, items: int) -> Array:
    """Lay the rows of a recording out for another batch size, group after group.

    Args:
        values: (T, R, ...).
        batch: B, at most R.
        items: how many characters or points are wanted in all.

    Returns:
        (S, B, ...) with S = items / B, fewer where the recording holds no more, and MOST_STEPS at most.
    """
    groups: Sequence[Array] = [
        values[:, start : start + batch] for start in range(0, values.shape[1] - batch + 1, batch)
    ]
    return np.ascontiguousarray(np.concatenate(groups)[: max(1, min(MOST_STEPS, items // batch))])
