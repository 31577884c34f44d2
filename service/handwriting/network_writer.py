"""A network as a writer of lines: how a text is cut into what the network writes, and how its ink becomes a line.

A line is written in pieces. Most lines are one piece. A character that the network never learned cuts its line: a
single-line font draws it between two pieces. An accent is drawn above or below the letter that the network wrote. Then
the pieces are set side by side on one baseline, which is found from the letters that stand on it.
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
from service.handwriting.writer import Substitution, clusters, words_of

_STANDING = frozenset("abcdehiklmnorstuvwxzABCDEFGHIKLMNOPRSTUVWXZ0123456789")
_SPACE = 1.0  # between words that are written apart, and between a letter and what a font draws beside it, in x-heights
_BESIDE = 0.15
_STEEPEST = 0.3  # a line leans less
_KEPT = 0.2  # of a line's slope, at a wobble of 1
_FIRST_TALL, _FIRST_LOW = 1.6, 0.7  # how far above the baseline the pen is set down, for tall letters and for others
_LOW = frozenset("acegmnopqrsuvwxyz,.-_")


@dataclass(frozen=True)
class Piece:
    """A part of a line that is written in one go.

    Attributes:
        text: what the network writes; "" where a font draws instead.
        sources: for each of its characters, the index of the character in the whole text that it stands for.
        marks: (place in text, mark) of the accents to draw.
        drawn: the glyphs of a font, where one draws.
        gap: space before it, in x-heights.
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
        trace: a byte for each item.
        is_whole: whether the network ended it by itself, at the end of the text.
        nats: minus the log-probability that the recogniser gives to the text, for each character; None without one.
    """

    items: NDArray[np.float32]
    trace: bytes
    is_whole: bool
    nats: float | None = None


class NetworkWriter:
    """Writes lines of one text in one hand.

    Args:
        text: all of it.
        codec: the network's.
        scale: brings the hand's letters to the common size.
        advance: mean width of a character, in x-heights.
        longest: most characters of a piece.
        wobble: how much of a line's slope is kept; 0 sets lines straight.
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
        self._text = text
        self._codec = codec
        self._advance = advance
        self._longest = longest
        self._unit = SPREAD * scale / float(np.sqrt(codec.ink.std[0] * codec.ink.std[1]))
        self._kept = min(1.0, _KEPT * wobble)
        self._skips = skips_unsupported
        self._known = frozenset(codec.text.symbols) - {REPLACEMENT}
        self._font = fonts()[STYLES[DEFAULT_STYLE].font]
        self._words = words_of(text)

    def width(self, text: str) -> float:
        """Return about how wide a text will come out, in x-heights."""
        return self._advance * len(text)

    def substitutions(self) -> list[Substitution]:
        """Return what is not written as it stands in the text, in the text's order."""
        found = []
        for index, cluster in clusters(self._text):
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

        for index, cluster in clusters(self._text[start:stop], start):
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

    def line(self, number: int, pieces: Sequence[Piece], written: Sequence[Written | None]) -> Ink:
        """Return the ink of a line.

        Args:
            number: index of the line.
            pieces: its parts.
            written: what the network wrote of each, None for those that a font draws.

        Returns:
            Ink in x-heights, the baseline at y = 0, the first letter at x = 0, times from 0 on.
        """
        inks: list[Ink] = []
        x, clock = 0.0, 0.0
        for piece, found in zip(pieces, written, strict=True):
            ink = self._drawn(piece, number) if found is None else self._levelled(piece, found, number)
            if not len(ink):
                continue
            left = float(ink.xy[:, 0].min())
            x += piece.gap
            clock += LIFT_S if inks else 0.0
            inks.append(_moved(ink, x - left, clock))
            x, clock = float(inks[-1].xy[:, 0].max()), float(inks[-1].time[-1])
        return Ink.join(inks)

    def live(self, piece: Piece, line: int, x: float, clock: float) -> "LivePiece":
        """Return what turns a piece's offsets into ink as they come.

        Args:
            piece: to be written.
            line: index of its line.
            x, clock: where in the line, in x-heights, and when, in seconds, the piece before it ended.
        """
        return LivePiece(self, piece, line, x + piece.gap, clock)

    def points(self, piece: Piece, items: NDArray[np.float32], trace: bytes, line: int, start: Floats) -> Ink:
        """Return items of a piece as ink in x-heights, not yet on a baseline.

        Args:
            piece: that they belong to.
            items: as in `Written`.
            trace: a byte for each item.
            line: index of the line.
            start: x and y of the point before the first one.
        """
        raw = self._codec.decode(items[:, :3]).astype(np.float64)
        pen = raw[:, 2].astype(np.int64)
        xy = np.vstack([start[None], raw[:, :2] * self._unit]).cumsum(axis=0)[1:]
        time = np.cumsum(POINT_S + LIFT_S * np.concatenate([[0], pen[:-1]])) if len(pen) else np.zeros(0)
        places = np.clip(items[:, 3].astype(np.int64), 0, len(piece.text) - 1)
        characters = np.array(piece.sources, np.int64)[places]
        return Ink(xy, time, pen, characters, self._words[characters], np.full(len(pen), line), trace)

    def _levelled(self, piece: Piece, written: Written, line: int) -> Ink:
        """A piece on its baseline, its slope taken out, with its accents."""
        ink = self.points(piece, written.items, written.trace, line, np.zeros(2))
        ink.pen[-1] = 1
        places = np.clip(written.items[:, 3].astype(np.int64), 0, len(piece.text) - 1)
        height, slope = _baseline(ink.xy, places, piece.text)
        ink.xy[:, 1] -= height + slope * (1 - self._kept) * ink.xy[:, 0]
        return Ink.join([ink, *self.accents(piece, ink, places)])

    def accents(self, piece: Piece, ink: Ink, places: NDArray[np.int64]) -> Iterator[Ink]:
        """Yield the marks over and under a piece's letters; a hand draws them when the piece is done.

        Args:
            piece: that was written.
            ink: all of it.
            places: for each point, the place of its character in the piece's text.
        """
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


class LivePiece:
    """Turns offsets of one piece into ink as they come; the baseline is guessed from the first letter.

    Args:
        writer: of the text.
        piece: that is written.
        line: index of its line.
        x, clock: where in the line, in x-heights, and when, in seconds, it begins.
    """

    def __init__(self, writer: NetworkWriter, piece: Piece, line: int, x: float, clock: float) -> None:
        self._writer = writer
        self._piece = piece
        self._line = line
        height = _FIRST_LOW if piece.text[:1] in _LOW else _FIRST_TALL
        self._start = np.array([x, -height])
        self._clock = clock
        self._inks: list[Ink] = []
        self._places: list[NDArray[np.int64]] = []
        self._is_up = False

    def draw(self, items: NDArray[np.float32], trace: bytes, *, is_last: bool) -> Ink:
        """Return the ink of the next items, with the accents after the last."""
        if not len(items):
            return Ink.empty()
        ink = self._writer.points(self._piece, items, trace, self._line, self._start)
        ink = _moved(ink, 0.0, self._clock + LIFT_S * self._is_up)
        self._start = ink.xy[-1]
        self._clock = float(ink.time[-1])
        self._is_up = bool(ink.pen[-1])
        self._inks.append(ink)
        self._places.append(np.clip(items[:, 3].astype(np.int64), 0, len(self._piece.text) - 1))
        if not is_last:
            return ink
        ink.pen[-1] = 1
        whole = Ink.join(self._inks)
        accents = list(self._writer.accents(self._piece, whole, np.concatenate(self._places)))
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


def _moved(ink: Ink, right: float, later_s: float) -> Ink:
    return replace(ink, xy=ink.xy + np.array([right, 0.0]), time=ink.time + later_s)
