"""The recogniser of a bundle that writes texts: how probable it is that ink says a text (CTC, Graves 2006).

It ranks several candidates of one line, and what it reads in the ink is the measure of legibility.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.codec import HandwritingCodec
from service.engine.runners.onnx import open_session

Floats = NDArray[np.float64]
BLANK = 0


class Recogniser:
    """Reads ink.

    Args:
        graph: bytes of the ONNX file: `points` (1, T, 3) float32, standardised, to `scores` (frames, 1 + V), log
            probabilities with the blank first.
        codec: of the ink it reads and the characters it knows.
    """

    def __init__(self, graph: bytes, codec: HandwritingCodec) -> None:
        self._session = open_session(graph)
        self._codec = codec

    def scores(self, offsets: NDArray[Any]) -> Floats:
        """Return log-probabilities (frames, 1 + V) for raw offsets (n, 3)."""
        points = self._codec.encode(offsets)[None]
        (found,) = self._session.run(["scores"], {"points": points})
        return np.asarray(found, np.float64)

    def nats(self, offsets: NDArray[Any], text: str) -> float:
        """Return minus the logarithm of the probability that ink says a text, for each of its characters."""
        return ctc_nats(self.scores(offsets), self._codec.text.encode(text) + 1) / max(1, len(text))

    def read(self, offsets: NDArray[Any]) -> str:
        """Return what ink says: the likeliest label at each frame, merged."""
        labels = self.scores(offsets).argmax(axis=1)
        starts = np.flatnonzero(np.diff(labels, prepend=BLANK))
        return self._codec.text.decode(labels[starts][labels[starts] != BLANK] - 1)


def ctc_nats(scores: Floats, labels: NDArray[np.int64]) -> float:
    """Return minus the log of the sum over all alignments of labels with frames; infinite where none fits.

    Args:
        scores: log-probabilities (frames, 1 + V), the blank first.
        labels: (n,), 1 to V.
    """
    states = np.zeros(2 * len(labels) + 1, np.int64)
    states[1::2] = labels
    # A label may follow the one before without a blank between them unless they are the same.
    may_leap = np.zeros(len(states), np.bool_)
    may_leap[2:] = (states[2:] != BLANK) & (states[2:] != states[:-2])
    emitted = scores[:, states]
    reached = np.full(len(states), -np.inf)
    reached[:2] = emitted[0, :2]
    for frame in emitted[1:]:
        stepped = np.concatenate([[-np.inf], reached[:-1]])
        leapt = np.where(may_leap, np.concatenate([[-np.inf, -np.inf], reached])[: len(states)], -np.inf)
        reached = np.logaddexp(np.logaddexp(reached, stepped), leapt) + frame
    return -float(np.logaddexp.reduce(reached[-2:]))
