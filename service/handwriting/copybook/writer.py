"""The copybook writer: it needs no network and no restricted data, so anyone may use what it writes.

It writes the strokes of single-line fonts as a hand would: letters vary in slant, size and position, the line drifts,
and the pen slows down in curves. Random numbers depend only on the seed and on a letter's index in the text, so a line
is the same whenever it is written.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from service.engine.sampling import uniforms
from service.handwriting.copybook.glyphs import Drawn, Font, Glyph, fonts
from service.handwriting.copybook.pacing import pace
from service.handwriting.drawing.document import Ink
from service.handwriting.writer import Substitution, clusters, words_of

Floats = NDArray[np.float64]

NAME = "copybook"
LICENCE = "letters: SIL Open Font License 1.1, Hershey fonts; code: Apache-2.0"
USE = "any, commercial use included"
DESCRIPTION = "Writes any text in one of several hands, from single-line fonts with the irregularity of a pen."

_LETTERS, _LINES, _PAGE = 0, 1, 2  # streams of random numbers
_JOIN = 0.22  # a joined letter that begins this close to the end of the last one is written without lifting the pen
_AIR_SPEED = 26.0  # speed of a lifted pen, in x-heights per second
_LIFT_S = 0.06
_TAB_SPACES = 4


@dataclass(frozen=True)
class Style:
    """A handwriting style.

    Attributes:
        name: the name that clients use.
        font: name of the font.
        description: a few words for clients.
        slant: added to the slant of the font, in degrees to the right.
        unrest: how much letters vary; 1 is usual.
        speed: factor of the usual speed of the pen.
        joins: whether letters that touch are written in one stroke.
        spacing: extra space after each letter, in x-heights.
    """

    name: str
    font: str
    description: str
    slant: float = 0.0
    unrest: float = 1.0
    speed: float = 1.0
    joins: bool = False
    spacing: float = 0.0


STYLES = {
    style.name: style
    for style in (
        Style("plain", "plain", "upright and round, easy to read", unrest=0.9),
        Style("draft", "draft", "an architect's letters, wide and light"),
        Style("round", "round", "wide and friendly, as on a school board", unrest=1.1),
        Style("slant", "slant", "simple letters, leaning and quick", slant=2.0, unrest=1.2, speed=1.2),
        Style("pencil", "pencil", "a careful pencil, with tall capitals", unrest=0.8),
        Style("note", "note", "narrow capitals, thrown on a note", unrest=1.3, speed=1.3),
        Style("slim", "slim", "narrow and leaning, much on a line", unrest=0.9, speed=1.2),
        Style("chancery", "chancery", "a broad pen's shapes, leaning a little", unrest=0.8, speed=0.9),
        Style("school", "school", "joined and round, as first learned", unrest=0.9, joins=True),
        Style("quick", "quick", "joined and leaning, a practised hand", unrest=0.9, speed=1.3, joins=True),
        Style("formal", "formal", "joined and even, for invitations", unrest=0.5, speed=0.8, joins=True),
        Style("penman", "penman", "joined script after the penmen's manuals", unrest=0.8, joins=True),
    )
}
DEFAULT_STYLE = "plain"


class CopybookWriter:
    """Writes the lines of one text in one style.

    Args:
        text: the whole text; lines are given as indices into it.
        style: the handwriting style.
        seed: determines everything that varies.
        bias: 0 varies as much as the style does; larger values write more regularly.
        wobble: how far lines drift from a straight one; 1 is usual.
        skips_unsupported: whether unsupported characters are left out instead of replaced.
    """

    def __init__(
        self,
        text: str,
        style: Style,
        seed: int,
        bias: float = 0.0,
        wobble: float = 1.0,
        *,
        skips_unsupported: bool = False,
    ) -> None:
        self._text = text
        self._style = style
        self._seed = seed
        self._skips = skips_unsupported
        self._font: Font = fonts()[style.font]
        self._unrest = style.unrest / (1.0 + bias)
        self._wobble = wobble * style.unrest / (1.0 + bias)
        # Slant, width and speed vary from text to text, as a hand does from day to day.
        page = uniforms(seed, _PAGE, 0, 1)[0] * 2 - 1
        self._slant = np.tan(np.deg2rad(style.slant + 2.5 * float(page[0]) * self._unrest))
        self._width = 1.0 + 0.04 * float(page[1]) * self._unrest
        self._speed = style.speed * (1.0 + 0.15 * float(page[2]))
        self._words = words_of(text)

    def width(self, text: str) -> float:
        """Return the width of a text in x-heights, without the variation of its letters."""
        return sum(self._advance(drawn) for _, drawn in self._clusters(text)) * self._width

    def substitutions(self) -> list[Substitution]:
        """Return the characters that are replaced or left out, in the order of the text."""
        return [
            Substitution(index, ord(self._text[index]), drawn.instead)
            for index, drawn in self._clusters(self._text)
            if drawn.instead is not None
        ]

    def write(self, start: int, stop: int, line: int) -> Ink:
        """Return a line of the text as ink.

        Args:
            start: index of its first character in the text.
            stop: index after its last character.
            line: index of the line, on which its drift depends.

        Returns:
            Ink in x-heights, with the baseline at y = 0, the first letter at x = 0 and times from 0.
        """
        strokes: list[tuple[Floats, int]] = []  # (points, index of their character)
        later: list[tuple[Floats, int]] = []  # dots and crosses of a joined word, which a hand adds at its end
        x = 0.0
        all_draws = uniforms(self._seed, _LETTERS, 2 * start, 2 * (stop - start)).reshape(-1, 8) * 2 - 1
        for index, drawn in self._clusters(self._text[start:stop], start):
            draws = all_draws[index - start]
            for glyph in drawn.glyphs:
                letter = [(stroke + np.array([x, 0.0]), index) for stroke in self._letter(glyph, draws)]
                is_space = not glyph.strokes
                # The longest stroke of a joined letter goes into the word, the others wait for its end.
                if self._style.joins and letter:
                    letter.sort(key=lambda stroke: -_length(stroke[0]))
                    later += letter[1:]
                    strokes.append(letter[0])
                else:
                    strokes += [*later, *letter]
                    later = []
                # Spaces vary more than letters.
                jitter = (0.12 if is_space else 0.035) * float(draws[5]) * self._unrest
                x += (glyph.advance + self._style.spacing + jitter) * self._width
        return self._paced(strokes + later, line)

    def _letter(self, glyph: Glyph, draws: Floats) -> list[Floats]:
        """Return a glyph's strokes, varied in slant, size, rotation and height by random numbers in [-1, 1]."""
        amount = self._unrest * (0.35 if self._style.joins else 1.0)
        slant = self._slant + np.tan(np.deg2rad(2.0 * draws[0] * amount))
        tall = 1.0 + 0.05 * draws[1] * amount
        wide = (1.0 + 0.05 * draws[2] * amount) * self._width
        turn = np.deg2rad(1.5 * draws[3] * amount)
        shape = np.array([[wide, -slant * tall], [0.0, tall]]).T  # y is downwards, so a slant to the right is negative
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).T
        lift = np.array([0.0, 0.035 * draws[4] * amount])
        return [stroke @ shape @ turned + lift for stroke in glyph.strokes]

    def _paced(self, strokes: list[tuple[Floats, int]], line: int) -> Ink:
        """Bend letters along the drifting line, join them where a hand would, and add the times of the pen."""
        drift = self._drift(line)
        pieces: list[Ink] = []
        clock = 0.0  # time at which the pen was last lifted
        place: Floats | None = None  # where it was lifted
        curve = np.zeros((0, 2))
        owners: list[tuple[float, int]] = []  # (number of points so far, character) of each letter in the curve
        for at, (stroke, index) in enumerate(strokes):
            bent = drift(stroke)
            curve = np.concatenate([curve, bent])
            owners.append((float(len(curve)), index))
            following = strokes[at + 1] if at + 1 < len(strokes) else None
            if following and self._joins(curve[-1], drift(following[0][:1])[0], index, following[1]):
                continue
            # The curve is complete. The pen moves to it through the air, and then along it.
            points, times = pace(curve, self._speed)
            if place is not None:
                clock += _LIFT_S + float(np.hypot(*(points[0] - place))) / (_AIR_SPEED * self._speed)
            pieces.append(self._piece(points, times + clock, _nearest_owner(curve, points, owners), line))
            clock += float(times[-1])
            place = points[-1]
            curve, owners = np.zeros((0, 2)), []
        return Ink.join(pieces)

    def _joins(self, end: Floats, start: Floats, index: int, following: int) -> bool:
        """Whether the pen stays down between a stroke that ends and one that starts at these points."""
        is_next_letter = self._style.joins and following != index
        return is_next_letter and float(np.hypot(*(start - end))) < _JOIN

    def _piece(self, points: Floats, times: Floats, characters: NDArray[np.int64], line: int) -> Ink:
        """Return one stroke as ink."""
        pen = np.zeros(len(points), np.int64)
        pen[-1] = 1
        return Ink(points, times, pen, characters, self._words[characters], np.full(len(points), line, np.int64))

    def _drift(self, line: int) -> "_Drift":
        """Return the drift of a line, from random numbers of its own."""
        draws = uniforms(self._seed, _LINES, 16 * line, 12)
        return _Drift(draws, self._unrest, self._wobble)

    def _clusters(self, text: str, start: int = 0) -> Iterator[tuple[int, Drawn]]:
        """Yield (index, what is drawn) for each character with the marks that combine with it."""
        for index, cluster in clusters(text, start):
            drawn = self._font.draw(" " if cluster in "\t\n\r" else cluster)
            if cluster == "\t":
                drawn = Drawn(drawn.glyphs * _TAB_SPACES)
            if self._skips and drawn.instead:
                drawn = Drawn((), "")
            yield index, drawn

    def _advance(self, drawn: Drawn) -> float:
        """Return the space that a cluster takes, in x-heights."""
        return sum(glyph.advance + self._style.spacing for glyph in drawn.glyphs)


class _Drift:
    """The drift of one line: slow waves and a slope move the baseline, and a tremor makes equal letters differ.

    Args:
        draws: (12, 4) uniform random numbers in [0, 1).
        unrest: size of the tremor; 1 is usual.
        wobble: size of the slow waves and the slope; 1 is usual.
    """

    def __init__(self, draws: Floats, unrest: float, wobble: float) -> None:
        slow, quick = draws[:4], draws[4:]
        # A slope, and three slow waves along x.
        self._slope = np.tan(np.deg2rad(0.35 * (2 * slow[0, 0] - 1) * wobble))
        self._slow_length = 14.0 + 50.0 * slow[1:, 0]
        self._slow_phase = 2 * np.pi * slow[1:, 1]
        self._slow_size = 0.09 * wobble * (0.5 + slow[1:, 2]) / 3
        # The tremor: eight short plane waves in all directions, each with a displacement in a direction of its own.
        heading = 2 * np.pi * quick[:, 0]
        length = 1.1 + 2.6 * quick[:, 1]
        self._waves = np.column_stack([np.cos(heading), np.sin(heading)]) * (2 * np.pi / length)[:, None]
        self._phase = 2 * np.pi * quick[:, 2]
        swing = 2 * np.pi * quick[:, 3]
        self._swing = np.column_stack([np.cos(swing), np.sin(swing)]) * (0.028 * unrest / np.sqrt(len(quick) / 4))

    def __call__(self, points: Floats) -> Floats:
        """Return points (n, 2) of the line, displaced by the drift."""
        x = points[:, :1]
        wander = (self._slow_size * np.sin(2 * np.pi * x / self._slow_length + self._slow_phase)).sum(axis=1)
        tremor = np.sin(points @ self._waves.T + self._phase) @ self._swing
        bent: Floats = points + tremor
        bent[:, 1] += wander + self._slope * x[:, 0]
        return bent


def _nearest_owner(curve: Floats, points: Floats, owners: list[tuple[float, int]]) -> NDArray[np.int64]:
    """Return the character of each point (m,), by its distance along the curve.

    Args:
        curve: (n, 2), the smooth curve through one or several letters.
        points: (m, 2), the points of the pen on it.
        owners: (number of points of the curve up to its end, character) of each letter.
    """
    if len(owners) == 1:
        return np.full(len(points), owners[0][1], np.int64)
    way = np.concatenate([[0.0], np.hypot(*np.diff(curve, axis=0).T).cumsum()])
    along = np.concatenate([[0.0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
    # The pen cuts corners, so its way is scaled to that of the curve.
    along *= way[-1] / along[-1] if along[-1] else 1.0
    ends = [way[int(count) - 1] for count, _ in owners]
    letters = np.array([index for _, index in owners])
    found: NDArray[np.int64] = letters[np.minimum(np.searchsorted(ends, along - 1e-9), len(letters) - 1)]
    return found


def _length(points: Floats) -> float:
    """Return the length of a polyline."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


@cache
def fingerprint() -> str:
    """Return the SHA-256 of the letters, as hexadecimal digits."""
    return hashlib.sha256(
        (resources.files("service.handwriting.copybook.fonts") / "strokes.npz").read_bytes()
    ).hexdigest()
