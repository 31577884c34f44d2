"""Ink on a page: the document that every output format is made from.

Lengths are in millimetres, with x to the right and y downwards. Times are in seconds since the first point. Ink is
stored in columns with one entry per point. A stroke is what the pen draws between two lifts, and strokes are grouped by
line, word and letter. The pages of a document lie below each other on one tall sheet.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

MM_PER_INCH = 25.4
NONE = -1
DECIMALS = 2  # hundredths of a millimetre
TIME_DECIMALS = 3

Column = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ink:
    """Points of a pen in the order of writing, as columns of n entries.

    Attributes:
        xy: float64 (n, 2), millimetres.
        time: float64 (n,), seconds.
        pen: int64 (n,), 1 where the pen lifts after the point, else 0.
        character: int64 (n,), index in the text of the character that the point belongs to, or NONE.
        word: int64 (n,), index of its word in the text, or NONE.
        line: int64 (n,), index of its line, counted over all pages.
        trace: one trace byte per point (what the network's layers did on reading it), or empty.
    """

    xy: Floats
    time: Floats
    pen: Column
    character: Column
    word: Column
    line: Column
    trace: bytes = b""

    @classmethod
    def empty(cls) -> Self:
        """Return ink without points."""
        none = np.zeros(0, np.int64)
        return cls(np.zeros((0, 2)), np.zeros(0), none, none, none, none)

    @classmethod
    def join(cls, pieces: Iterable["Ink"]) -> Self:
        """Return several pieces of ink as one, in their order."""
        parts = list(pieces)
        if not parts:
            return cls.empty()
        columns = ("xy", "time", "pen", "character", "word", "line")
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
        return cls(**joined, trace=b"".join(part.trace for part in parts))

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.pen)

    def __getitem__(self, part: slice) -> "Ink":
        """Return a slice of the points."""
        return Ink(
            self.xy[part],
            self.time[part],
            self.pen[part],
            self.character[part],
            self.word[part],
            self.line[part],
            self.trace[part],
        )

    def placed(self, xy: Floats, line: int, start_s: float) -> "Ink":
        """Return the ink at new positions and times, rounded to the precision of the output formats.

        Args:
            xy: (n, 2), the new positions.
            line: index of their line.
            start_s: seconds to add to their times.
        """
        time = (self.time + start_s).round(TIME_DECIMALS)
        # + 0.0 makes -0 a plain 0
        return replace(self, xy=xy.round(DECIMALS) + 0.0, time=time, line=np.full(len(self), line, np.int64))

    def strokes(self) -> list["Ink"]:
        """Return the strokes: the ink cut after each lift of the pen. None is empty."""
        cuts = [0, *(np.flatnonzero(self.pen) + 1).tolist(), len(self)]
        return [self[slice(start, stop)] for start, stop in pairwise(cuts) if stop > start]


@dataclass(frozen=True)
class Box:
    """A rectangle on the sheet, in millimetres."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, xy: Floats, margin: float = 0.0) -> "Box":
        """Return the bounding box of points (n, 2), n at least 1, with a margin on each side."""
        low, high = xy.min(axis=0) - margin, xy.max(axis=0) + margin
        return cls(float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def with_(self, other: "Box") -> "Box":
        """Return the smallest box that holds both boxes."""
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    @property
    def corners(self) -> Floats:
        """Two opposite corners, (2, 2)."""
        return np.array([(self.left, self.top), (self.right, self.bottom)])

    @property
    def width(self) -> float:
        """Extent along x."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Extent along y."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Look:
    """How ink is drawn.

    Attributes:
        pen_mm: width of the pen.
        colour: "#rrggbb", or None for the default of the format.
        outline: whether strokes are filled outlines, wider where the pen is slow, instead of lines of one width.
    """

    pen_mm: float = 0.4
    colour: str | None = None
    outline: bool = False


@dataclass(frozen=True, eq=False)
class Document:
    """Ink, the pages it lies on, and the text it says.

    Attributes:
        ink: all of it.
        pages: all pages in order, at least one; without paper, the box around the ink.
        title: a description for people who cannot see the picture.
        text: the text that `Ink.character` indexes, or "".
        look: how to draw it.
    """

    ink: Ink
    pages: tuple[Box, ...]
    title: str
    text: str = ""
    look: Look = Look()

    @property
    def sheet(self) -> Box:
        """The box around all pages."""
        first, last = self.pages[0], self.pages[-1]
        return Box(first.left, first.top, first.right, last.bottom)

    def lines(self) -> Iterator[tuple[int, Iterator[tuple[int, Iterator[tuple[int, list[Ink]]]]]]]:
        """Yield (line, its words), each word as (word, its letters), each letter as (character, its strokes).

        A stroke belongs to the line, word and character of its first point. Groups keep the order of writing, so a pen
        that returns to a word, to dot an i, starts a new group of that word.
        """
        strokes = self.ink.strokes()
        for line, in_line in groupby(strokes, lambda stroke: int(stroke.line[0])):
            yield line, self._words(in_line)

    def _words(self, strokes: Iterator[Ink]) -> Iterator[tuple[int, Iterator[tuple[int, list[Ink]]]]]:
        for word, in_word in groupby(strokes, lambda stroke: int(stroke.word[0])):
            yield word, ((letter, list(group)) for letter, group in groupby(in_word, _first_character))

    def page_of(self, stroke: Ink) -> int:
        """Return the index of the page that holds a stroke's mean height."""
        middle = float(stroke.xy[:, 1].mean())
        return next((index for index, page in enumerate(self.pages) if middle < page.bottom), len(self.pages) - 1)


def _first_character(stroke: Ink) -> int:
    return int(stroke.character[0])


def number(value: Any, decimals: int = DECIMALS) -> str:
    """Return a coordinate as decimal text without trailing zeros; -0 becomes 0."""
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}".rstrip("0").rstrip(".")


def printable(text: str) -> str:
    """Replace what XML and PDF titles cannot hold (control characters, lone surrogates) with spaces."""
    return "".join(character if character.isprintable() else " " for character in text)
