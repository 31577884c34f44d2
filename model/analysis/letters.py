"""Where letters end in real ink: a recogniser aligns a line with its known text, and so says when each letter is read.

IAM-OnDB has the text of each line, but not the places of its letters. The most probable CTC path (Graves 2006) that
spells the text is the best alignment without manual work, and it does not depend on any boundary detector. The
recogniser becomes sure of a character some points after its beginning. This delay is chosen so that most letters end on
lifts, once for letters and once for blanks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.recogniser.network import BLANK, POINTS_PER_FRAME, Line, Recogniser

DELAYS = range(16)  # points
NEAR = 2  # points
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Letters:
    """Where the letters of lines end.

    Attributes:
        ends: of each line, bool (n,), true at the last point of each letter. Blanks are no letters, and the last letter
            of a line is left out, since no character follows it.
        word_ends: those ends that a blank follows.
        delays: points from the beginning of a letter, and of a blank, to where the recogniser is sure of it.
    """

    ends: list[Flags]
    word_ends: list[Flags]
    delays: dict[str, int]

    def facts(self, lifted: Sequence[Flags]) -> dict[str, Any]:
        """The delays, and to check them the share of word ends near a lift; lifts are flags (n,) of each line."""
        near = [widened(flags) for flags in lifted]
        return {"delays": self.delays, "word_ends_at_lifts": round(_share(self.word_ends, near), 4)}


def find_letters(recogniser: Recogniser, lines: Sequence[Line], texts: Sequence[str]) -> Letters:
    """Find the ends of the letters of lines.

    Args:
        recogniser: of ink.
        lines: offsets (n, 3), standardised as in its codec.
        texts: what they say.
    """
    near = [widened(line[:, 2] > 0) for line in lines]
    seen = [spelled(recogniser, line, text) for line, text in zip(lines, texts, strict=True)]
    flags, delays = {}, {}
    for kind, is_blank in (("letter", False), ("blank", True)):
        places = [_after_letters(text, at, is_blank=is_blank) for text, at in zip(texts, seen, strict=True)]
        moved = {delay: _flagged(lines, places, delay) for delay in DELAYS}
        delays[kind] = max(DELAYS, key=lambda delay: _share(moved[delay], near))
        flags[kind] = moved[delays[kind]]
    ends = [a | b for a, b in zip(flags["letter"], flags["blank"], strict=True)]
    return Letters(ends, flags["blank"], delays)


@torch.no_grad()
def spelled(recogniser: Recogniser, line: Line, text: str) -> list[int]:
    """The point at which each character of a text is first seen on the most probable path that spells it.

    Args:
        recogniser: in evaluation mode.
        line: as it reads them, (n, 3) with at least as many frames as the text needs.
        text: a character without a symbol is taken for the unknown one.

    Raises:
        ValueError: the line is too short for its text.
    """
    scores, _ = recogniser(torch.from_numpy(line)[None], torch.tensor([len(line)]))
    labels = recogniser.codec.text.encode(text) + 1
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    path = best_path(scores[:, 0].numpy()[:, states].astype(np.float64), states)
    frames = np.searchsorted(path, np.arange(len(labels)) * 2 + 1)
    points = np.minimum(frames * POINTS_PER_FRAME + POINTS_PER_FRAME // 2, len(line) - 1)
    return [int(point) for point in points]


def best_path(scores: NDArray[np.float64], states: NDArray[np.int64]) -> NDArray[np.int64]:
    """The state at each frame (T,) on the best path through blanks and labels (S,), from log-probabilities (T, S).

    Raises:
        ValueError: there is no such path in so few frames.
    """
    may_skip = np.append([False, False], (states[2:] != BLANK) & (states[2:] != states[:-2]))
    total = np.full(len(states), -np.inf)
    total[:2] = scores[0, :2]
    steps = np.zeros(scores.shape, np.int64)
    for frame in range(1, len(scores)):
        one, two = np.append(-np.inf, total[:-1]), np.append([-np.inf] * 2, total[:-2])
        choices = np.stack([total, one, np.where(may_skip, two, -np.inf)])
        steps[frame] = choices.argmax(0)
        total = choices.max(0) + scores[frame]
    if not np.isfinite(total[-2:]).any():
        raise ValueError(f"{len(scores)} frames cannot spell {len(states) // 2} characters")
    path = np.zeros(len(scores), np.int64)
    at = len(states) - 1 - int(total[-2] > total[-1])
    for frame in range(len(scores) - 1, -1, -1):
        path[frame] = at
        at -= steps[frame, at]
    return path


def _after_letters(text: str, seen: list[int], *, is_blank: bool) -> list[int]:
    """Where the characters are seen that follow a letter and are blank, or are not."""
    pairs = zip(text, text[1:], seen[1:], strict=False)
    return [at for own, after, at in pairs if not own.isspace() and after.isspace() == is_blank]


def widened(flags: Flags, by: int = NEAR) -> Flags:
    """True within so many steps of a true flag (n,)."""
    return np.convolve(flags, np.ones(2 * by + 1), "same") > 0


def _flagged(lines: Sequence[Line], places: Sequence[list[int]], delay: int) -> list[Flags]:
    flags = [np.zeros(len(line), np.bool_) for line in lines]
    for of_line, at in zip(flags, places, strict=True):
        of_line[np.maximum(np.array(at, np.int64) - delay, 0)] = True
    return flags


def _share(flags: Sequence[Flags], near: Sequence[Flags]) -> float:
    """Share of the flags that are in the other ones."""
    hits = sum(int((a & b).sum()) for a, b in zip(flags, near, strict=True))
    return hits / max(sum(int(a.sum()) for a in flags), 1)
