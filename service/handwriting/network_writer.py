"""A network as a writer of lines: what it is given to write, and how what it wrote becomes a line of ink.

A line is written in pieces. Most lines are one piece; a character that the network never learned cuts its line, and is
drawn with the letters of a single-line font between two pieces. An accent is drawn to the letter that the network wrote
below it. Then the pieces are set side by side on one baseline, which is found from letters that stand on it.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.codec import REPLACEMENT, HandwritingCodec
from model.ink import SPREAD
from service.handwriting.copybook.glyphs import INSTEAD, Drawn, Glyph, fonts, is_mark, marked
from service.handwriting.copybook.pacing import pace
from service.handwriting.copybook.writer import DEFAULT_STYLE, STYLES
from service.handwriting.drawing.document import Floats, Ink
from service.handwriting.free_pen import LIFT_S, POINT_S
from service.handwriting.writer import Substitution, words_of

_STANDING = frozenset("abcdehiklmnorstuvwxzABCDEFGHIKLMNOPRSTUVWXZ0123456789")
_SPACE = 1.0  # between words that are written apart, and between a letter and what a font draws beside it, in x-heights
_BESIDE = 0.15
_STEEPEST = 0.3  # a line leans less
_KEPT = 0.2  # of a line's slope, at a wobble of 1
_FIRST_TALL, _FIRST_LOW = 1.6, 0.7  # where a pen is set down above the baseline, for tall letters and for others
_LOW = frozenset("acegmnopqrsuvwxyz,.-_")


@dataclass(frozen=True)
class Piece:
    """A part of a line that is written in one go.

    Attributes:
        text: that the network writes; "" where a font draws instead.
        sources: for each of its characters, which one of the whole text it stands for.
        marks: (place in text, mark) of accents to be drawn.
        drawn: of a font.
        gap: before it, in x-heights.
    """

    text: str
    sources: tuple[int, ...]
    marks: tuple[tuple[int, str], ...] = ()
    drawn: Drawn | None = None
    gap: float = 0.0


@dataclass(frozen=True, eq=False)
class Written:
    """What the network wrote of a piece.

    Attributes:
        items: float32 (n, 4): standardised dx, dy, pen_up, and the place in the piece's text, counted from 0.
        trace: a byte for each.
        is_whole: whether it ended by itself, at the end of the text.
        nats: for each character, how improbable the recogniser finds it to be this text; None without one.
    """

    items: NDArray[np.float32]
    trace: bytes
    is_whole: bool
    nats: float | None = None


class NetworkWriter:
    """Writes lines of one text in one hand.

    Args:
        text: all of it.
        codec: of the network.
        scale: of the hand, to the common size.
        advance: of a character in x-heights.
        longest: characters of a piece at most.
        wobble: 0 sets lines straight, more leaves more of their slope.
        skips_unsupported: whether what the network cannot write is left out.
    """

    def __init__(
        self,
        text: str,
        codec: HandwritingCodec,
        scale: float,
        advance: float,
        longest: int,
        wobble: float = 1.0,
        *,
        skips_unsupported: bool = False,
    ) -> None:
        self._text, self._codec, self._advance, self._longest = text, codec, advance, longest
        self._unit = SPREAD * scale / float(np.sqrt(codec.ink.std[0] * codec.ink.std[1]))
        self._kept = min(1.0, _KEPT * wobble)
        self._skips = skips_unsupported
        self._known = frozenset(codec.text.symbols) - {REPLACEMENT}
        self._font = fonts()[STYLES[DEFAULT_STYLE].font]
        self._words = words_of(text)
        self._done: dict[int, Ink] = {}

    def width(self, text: str) -> float:
        """Return about how wide a text will come out, in x-heights."""
        return self._advance * len(text)

    def substitutions(self) -> list[Substitution]:
        """Return what is not written as it stands in the text, in the text's order."""
        found = []
        for index, cluster in _clusters(self._text, 0):
            _, _, drawn, instead = self._resolve(cluster)
            if instead is not None:
                found.append(Substitution(index, ord(cluster[0]), instead))
            elif drawn is not None and not cluster.isspace():
                found.append(Substitution(index, ord(cluster[0]), cluster))
        return found

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """Cut text[start:stop] into pieces; none where there is nothing to write."""
        pieces: list[Piece] = []
        text, sources, marks = "", list[int](), list[tuple[int, str]]()
        gap = 0.0

        def end() -> None:
            nonlocal text, sources, marks, gap
            shown = text.strip()
            if shown:
                first = len(text) - len(text.lstrip())
                lead = gap + (_SPACE if first and pieces else 0.0)
                placed = tuple((place - first, mark) for place, mark in marks)
                pieces.append(Piece(shown, tuple(sources[first : first + len(shown)]), placed, None, lead))
            gap = _SPACE if text[-1:] == " " else _BESIDE
            text, sources, marks = "", [], []

        for index, cluster in _clusters(self._text[start:stop], start):
            written, accents, drawn, _ = self._resolve(cluster)
            if drawn is not None:
                end()
                if drawn.glyphs:
                    pieces.append(Piece("", (index,), (), drawn, gap if pieces else 0.0))
                    gap = _BESIDE
                continue
            marks += [(len(text) + len(written) - 1, accent) for accent in accents]
            text += written
            sources += [index] * len(written)
            if len(text) >= self._longest or (written == " " and len(text) >= self._longest * 2 // 3):
                end()
        end()
        return pieces

    def _resolve(self, cluster: str) -> tuple[str, str, Drawn | None, str | None]:
        """What the network writes for a character, the accents on it, what a font draws instead, and what that says."""
        if cluster.isspace():
            return " ", "", None, None
        if len(cluster) == 1 and cluster in self._known:
            return cluster, "", None, None
        decomposed = unicodedata.normalize("NFD", cluster)
        letter, accents = decomposed[:1], decomposed[1:]
        if letter in self._known and accents and all(map(is_mark, accents)):
            return letter, accents, None, None
        for instead in (INSTEAD.get(cluster[0], ""), unicodedata.normalize("NFKC", cluster)):
            if instead and self._known.issuperset(instead):
                return ("", "", Drawn((), ""), "") if self._skips else (instead, "", None, instead)
        drawn = Drawn((), "") if self._skips else self._font.draw(cluster)
        return "", "", drawn, drawn.instead

    def put(self, line: int, pieces: Sequence[Piece], written: Sequence[Written | None]) -> None:
        """Take in what was written of a line's pieces, None for those that a font draws."""
        inks: list[Ink] = []
        x, clock = 0.0, 0.0
        for piece, found in zip(pieces, written, strict=True):
            ink = self._drawn(piece, line) if found is None else self._levelled(piece, found, line)
            if not len(ink):
                continue
            left = float(ink.xy[:, 0].min())
            x += piece.gap
            clock += LIFT_S if inks else 0.0
            inks.append(_moved(ink, x - left, clock))
            x, clock = float(inks[-1].xy[:, 0].max()), float(inks[-1].time[-1])
        self._done[line] = Ink.join(inks)

    def write(self, start: int, stop: int, line: int) -> Ink:  # noqa: ARG002 - a writer's signature
        """Return the ink of a line that was put."""
        return self._done.pop(line)

    def live(self, piece: Piece, line: int, x: float, clock: float) -> "Live":
        """Return what turns offsets of a piece into ink as they come, from a place in the line on."""
        return Live(self, piece, line, x + piece.gap, clock)

    def _ink(self, piece: Piece, items: NDArray[np.float32], trace: bytes, line: int, start: Floats) -> Ink:
        """Points of some items in x-heights, from where the pen was; not yet on a baseline."""
        raw = self._codec.decode(items[:, :3]).astype(np.float64)
        pen = raw[:, 2].astype(np.int64)
        xy = np.vstack([start[None], raw[:, :2] * self._unit]).cumsum(axis=0)[1:]
        time = np.cumsum(POINT_S + LIFT_S * np.concatenate([[0], pen[:-1]])) if len(pen) else np.zeros(0)
        places = np.clip(items[:, 3].astype(np.int64), 0, len(piece.text) - 1)
        characters = np.array(piece.sources, np.int64)[places]
        return Ink(xy, time, pen, characters, self._words[characters], np.full(len(pen), line), trace)

    def _levelled(self, piece: Piece, written: Written, line: int) -> Ink:
        """A piece on its baseline, its slope taken out, with its accents."""
        ink = self._ink(piece, written.items, written.trace, line, np.zeros(2))
        ink.pen[-1] = 1
        places = np.clip(written.items[:, 3].astype(np.int64), 0, len(piece.text) - 1)
        height, slope = _baseline(ink.xy, places, piece.text)
        ink.xy[:, 1] -= height + slope * (1 - self._kept) * ink.xy[:, 0]
        return Ink.join([ink, *self._accents(piece, ink, places)])

    def _accents(self, piece: Piece, ink: Ink, places: NDArray[np.int64]) -> Iterator[Ink]:
        """Marks over and under letters, drawn when the piece is done, as a hand would."""
        clock = float(ink.time[-1])
        for place, mark in piece.marks:
            letter = ink.xy[places == place]
            if not len(letter):
                continue
            for stroke in marked(Glyph((letter,), 0.0), mark).strokes[1:]:
                drawn = self._stroke(stroke, piece.sources[place], int(ink.line[0]))
                yield _moved(drawn, 0.0, clock + LIFT_S)
                clock += LIFT_S + float(drawn.time[-1])

    def _drawn(self, piece: Piece, line: int) -> Ink:
        """A character as a font draws it."""
        inks: list[Ink] = []
        x, clock = 0.0, 0.0
        for glyph in piece.drawn.glyphs if piece.drawn else ():
            for stroke in glyph.strokes:
                ink = _moved(self._stroke(stroke, piece.sources[0], line), x, clock)
                inks.append(ink)
                clock = float(ink.time[-1]) + LIFT_S
            x += glyph.advance
        return Ink.join(inks)

    def _stroke(self, stroke: Floats, index: int, line: int) -> Ink:
        points, times = pace(stroke, 1.0)
        pen = np.zeros(len(points), np.int64)
        pen[-1] = 1
        of_letter, of_line = np.full(len(pen), index), np.full(len(pen), line)
        return Ink(points, times, pen, of_letter, self._words[of_letter], of_line, bytes(len(pen)))


class Live:
    """Turns offsets of one piece into ink as they come; the baseline is guessed from the first letter.

    Args:
        scribe: that writes. piece: that is written. line: its number.
        x, clock: where in the line and when it begins, in x-heights and seconds.
    """

    def __init__(self, scribe: NetworkWriter, piece: Piece, line: int, x: float, clock: float) -> None:
        self._scribe, self._piece, self._line = scribe, piece, line
        height = _FIRST_LOW if piece.text[:1] in _LOW else _FIRST_TALL
        self._start, self._clock = np.array([x, -height]), clock
        self._inks: list[Ink] = []
        self._places: list[NDArray[np.int64]] = []
        self._is_up = False

    def draw(self, items: NDArray[np.float32], trace: bytes, *, is_last: bool) -> Ink:
        """Return the ink of the next items, with the accents after the last."""
        scribe, piece = self._scribe, self._piece
        if not len(items):
            return Ink.empty()
        ink = _moved(scribe._ink(piece, items, trace, self._line, self._start), 0.0, 0.0)  # noqa: SLF001
        ink = _moved(ink, 0.0, self._clock + LIFT_S * self._is_up)
        self._start, self._clock, self._is_up = ink.xy[-1], float(ink.time[-1]), bool(ink.pen[-1])
        self._inks.append(ink)
        self._places.append(np.clip(items[:, 3].astype(np.int64), 0, len(piece.text) - 1))
        if not is_last:
            return ink
        ink.pen[-1] = 1
        whole = Ink.join(self._inks)
        accents = list(scribe._accents(piece, whole, np.concatenate(self._places)))  # noqa: SLF001
        self._inks += accents
        return Ink.join([ink, *accents])

    @property
    def end(self) -> tuple[float, float]:
        """How far it has come: x in x-heights, and seconds."""
        if not self._inks:
            return float(self._start[0]), self._clock
        return max(float(ink.xy[:, 0].max()) for ink in self._inks), float(self._inks[-1].time[-1])


def _baseline(xy: Floats, places: NDArray[np.int64], text: str) -> tuple[float, float]:
    """Return height and slope of the line on which the letters stand that have no descenders, y downwards."""
    feet = np.array(
        [
            (xy[places == place, 0].mean(), xy[places == place, 1].max())
            for place in np.unique(places).tolist()
            if text[place] in _STANDING
        ]
    ).reshape(-1, 2)
    if len(feet) < 4 or np.ptp(feet[:, 0]) < 4.0:
        return float(np.median(feet[:, 1]) if len(feet) else np.quantile(xy[:, 1], 0.8)), 0.0
    for _ in range(3):  # letters that the window took for others stand elsewhere
        slope, height = np.polyfit(feet[:, 0], feet[:, 1], 1)
        off = np.abs(feet[:, 1] - height - slope * feet[:, 0])
        kept = off <= max(2.5 * float(np.median(off)), 1e-6)
        if kept.sum() < 4:
            break
        feet = feet[kept]
    return (float(height), float(slope)) if abs(slope) <= _STEEPEST else (float(np.median(feet[:, 1])), 0.0)


def _clusters(text: str, start: int) -> Iterator[tuple[int, str]]:
    """Yield (index, character with the marks that combine with it)."""
    at = 0
    while at < len(text):
        stop = at + 1
        while stop < len(text) and unicodedata.combining(text[stop]) and not text[at].isspace():
            stop += 1
        yield start + at, text[at:stop]
        at = stop


def _moved(ink: Ink, right: float, later_s: float) -> Ink:
    return replace(ink, xy=ink.xy + np.array([right, 0.0]), time=ink.time + later_s)
