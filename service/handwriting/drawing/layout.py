"""Layout of handwritten lines on paper: wrapping, alignment, line pitch, pages.

A writer says how wide a text will be, and writes it line by line in units of x-heights, with the baseline at y = 0.
The layout needs nothing else of it, so it is the same for every writer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.handwriting.drawing.document import Box, Ink

Align = Literal["left", "center", "right", "justify"]

PAPERS = {
    "a4": (210.0, 297.0),
    "a5": (148.0, 210.0),
    "a6": (105.0, 148.0),
    "letter": (215.9, 279.4),
    "legal": (215.9, 355.6),
}
ASCENT, DESCENT = 2.2, 1.3  # space for letters above and below the baseline, in x-heights
LINE_PITCH = 4.0  # between baselines at a line spacing of 1, in x-heights
MIN_LINE_MM = 10.0
RETURN_S = 0.45  # time in which the hand moves to the next line
_TIGHTEST = 0.9  # a line that came out too long is squeezed, by this factor at most
_OPENING = 1.25  # a line is justified only if it grows by this factor at most


class Measure(Protocol):
    """Says how wide text comes out; all lengths are in x-heights."""

    def width(self, text: str) -> float:
        """Return the approximate width of a text."""
        ...


class Writer(Measure, Protocol):
    """Writes a text line by line; all lengths are in x-heights."""

    def write(self, start: int, stop: int, line: int) -> Ink:
        """Return the ink of text[start:stop] with the baseline at y = 0, starting at x = 0 and time 0."""
        ...


class LayoutError(ValueError):
    """The text does not fit on the paper as requested.

    Args:
        message: the reason.
        field: the request field at fault.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Row:
    """One line: text[start:stop], and whether its paragraph continues on the next line."""

    start: int
    stop: int
    goes_on: bool


@dataclass(frozen=True)
class Layout:
    """Page size, margins and lines, in millimetres.

    Attributes:
        paper: width and height of a page, or None for one page that is as large as the ink.
        margin: on all four sides of a page, or around the ink without paper.
        line_width: width of the lines, or None for what the margins leave.
        x_height: height of a lower-case x.
        line_spacing: factor of the usual distance between lines.
        align: alignment of lines that are shorter than the line width.
    """

    paper: tuple[float, float] | None = None
    margin: float = 4.0
    line_width: float | None = None
    x_height: float = 2.5
    line_spacing: float = 1.0
    align: Align = "left"

    @property
    def width(self) -> float:
        """Width of the lines: 160 mm where neither line width nor paper is given."""
        if self.line_width is not None:
            return self.line_width
        return self.paper[0] - 2 * self.margin if self.paper else 160.0

    @property
    def pitch(self) -> float:
        """Distance between two baselines."""
        return LINE_PITCH * self.line_spacing * self.x_height

    def check(self) -> None:
        """Check that a page has room for a line.

        Raises:
            LayoutError: it has none, or the lines are wider than the paper allows.
        """
        if self.width < MIN_LINE_MM:
            raise LayoutError(
                f"these margins leave lines of {self.width:g} mm; at least {MIN_LINE_MM:g} are needed", "margin_mm"
            )
        if self.paper:
            if self.width > self.paper[0] - 2 * self.margin + 1e-9:
                room = self.paper[0] - 2 * self.margin
                raise LayoutError(f"the paper leaves lines of {room:g} mm at most", "line_width_mm")
            if self.rows_per_page < 1:
                raise LayoutError("the page is too low for a line of this height between these margins", "x_height_mm")

    @property
    def rows_per_page(self) -> int:
        """Number of lines on a page; 0 if the page is too low for any."""
        assert self.paper, "only paper has pages"
        room = self.paper[1] - 2 * self.margin - (ASCENT + DESCENT) * self.x_height
        return int(np.floor(room / self.pitch + 1e-9)) + 1 if room >= 0 else 0

    def wrap(self, text: str, writer: Measure) -> list[Row]:
        """Break a text into lines: at its line breaks, between words, and within a word that is too long."""
        rows: list[Row] = []
        start = 0
        for paragraph in text.split("\n"):
            rows += self._wrap_paragraph(text, start, start + len(paragraph), writer)
            start += len(paragraph) + 1
        return rows

    def _wrap_paragraph(self, text: str, start: int, stop: int, writer: Measure) -> list[Row]:
        room = self.width / self.x_height
        rows: list[Row] = []
        row_start, used = start, 0.0
        for word_start, word_stop in _pieces(text, start, stop):
            piece = text[word_start:word_stop]
            width = writer.width(piece)
            if piece.isspace():
                used += width
                continue
            if used + width > room and word_start > row_start:
                rows.append(Row(row_start, word_start, goes_on=True))
                row_start, used = word_start, 0.0
            if width > room:  # a word longer than a line
                for at in range(word_start, word_stop):
                    step = writer.width(text[at])
                    if used + step > room and at > row_start:
                        rows.append(Row(row_start, at, goes_on=True))
                        row_start, used = at, 0.0
                    used += step
            else:
                used += width
        return [*rows, Row(row_start, stop, goes_on=False)]

    def lines(self, rows: list[Row], text: str, writer: Writer) -> Iterator[Ink]:
        """Write rows and yield the ink of each at its place on the sheet. Rows of spaces yield nothing."""
        clock = 0.0
        for number, row in enumerate(rows):
            shown = len(text[row.start : row.stop].rstrip())
            ink = writer.write(row.start, row.start + shown, number)
            if not len(ink):
                continue
            placed = self.placed(ink, number, row, clock)
            clock = float(placed.time[-1]) + RETURN_S
            yield placed

    def placed(self, ink: Ink, number: int, row: Row, start_s: float) -> Ink:
        """Move a line's ink, given in x-heights, to its place on the sheet and to a start time."""
        return ink.placed(self._place(ink, number, row), number, start_s)

    def _place(self, ink: Ink, number: int, row: Row) -> NDArray[np.float64]:
        """Return the points of a row on the sheet: scaled, squeezed or aligned, and moved."""
        xy = ink.xy * self.x_height
        end = float(xy[:, 0].max())
        spare = self.width - end
        if spare < 0:
            xy[:, 0] *= max(_TIGHTEST, self.width / end)
        elif self.align == "justify" and row.goes_on and end * _OPENING > self.width:
            # Move each word by its share of the spare width; `gaps` counts the spaces before it.
            gaps = np.searchsorted(np.unique(ink.word), ink.word)
            if gaps.max():
                xy[:, 0] += spare * gaps / gaps.max()
        elif self.align in {"center", "right"}:
            xy[:, 0] += spare / (2 if self.align == "center" else 1)
        return xy + self.origin(number)

    def origin(self, number: int) -> tuple[float, float]:
        """Return the point on the sheet where the baseline of a line begins."""
        if not self.paper:
            return 0.0, number * self.pitch
        page, row = divmod(number, self.rows_per_page)
        return self.margin, page * self.paper[1] + self.margin + ASCENT * self.x_height + row * self.pitch

    def pages(self, num_rows: int, ink: Ink) -> tuple[Box, ...]:
        """Return the pages for a number of lines, or without paper the box around the ink."""
        return self.pages_around(num_rows, ink.xy if len(ink) else np.zeros((1, 2)))

    def pages_around(self, num_rows: int, points: NDArray[np.float64]) -> tuple[Box, ...]:
        """Return the pages for points (n, 2), n at least 1, whose bounding box is that of the ink."""
        if not self.paper:
            return (Box.around(points, self.margin),)
        width, height = self.paper
        count = -(-max(num_rows, 1) // self.rows_per_page)
        return tuple(Box(0.0, page * height, width, (page + 1) * height) for page in range(count))


def _pieces(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each run of spaces and of each run of other characters."""
    at = start
    while at < stop:
        end = at + 1
        while end < stop and text[end].isspace() == text[at].isspace():
            end += 1
        yield at, end
        at = end
