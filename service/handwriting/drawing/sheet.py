"""A text on its sheet: its lines, and where the ink of each one lies."""

from collections.abc import Iterator, Sequence

import numpy as np

from service.handwriting.drawing.document import Box, Floats, Ink
from service.handwriting.drawing.layout import Layout, Row, Writer


class Sheet:
    """A text that was broken into lines.

    Args:
        layout: puts lines on paper.
        text: all of it.
        rows: the lines, as `layout.wrap` broke the text.
    """

    def __init__(self, layout: Layout, text: str, rows: Sequence[Row]) -> None:
        self._layout = layout
        self._text = text
        self._rows = tuple(rows)

    @property
    def num_pages(self) -> int:
        """Number of pages that the lines fill."""
        return len(self.pages_around(np.zeros((1, 2))))

    def spans(self) -> list[tuple[int, int]]:
        """Return (start, stop) of each line in the text, without the spaces at its end."""
        return [(row.start, row.start + len(self._text[row.start : row.stop].rstrip())) for row in self._rows]

    def lines(self, writer: Writer) -> Iterator[Ink]:
        """Have a writer write line by line and yield each line's ink on the sheet; lines without ink are left out."""
        return self._layout.lines(list(self._rows), self._text, writer)

    def placed(self, ink: Ink, number: int, start_s: float) -> Ink:
        """Return a line's ink where it lies on the sheet.

        Args:
            ink: of the whole line, in x-heights, with the baseline at y = 0.
            number: index of the line.
            start_s: when the line begins, in seconds.
        """
        return self._layout.placed(ink, number, self._rows[number], start_s)

    def placed_live(self, ink: Ink, number: int, start_s: float) -> Ink:
        """Return a part of a line's ink where it lies on the sheet; arguments as for `placed`.

        How long the line will be is not known yet, so it stands at the left and is neither squeezed nor opened.
        """
        return ink.placed(ink.xy * self._layout.x_height + self._layout.origin(number), number, start_s)

    def pages(self, ink: Ink) -> tuple[Box, ...]:
        """Return the pages that the lines fill, or the box around the ink where there is no paper."""
        return self._layout.pages(len(self._rows), ink)

    def pages_around(self, points: Floats) -> tuple[Box, ...]:
        """Return the same for points (n, 2), n at least 1, that reach as far as the ink does."""
        return self._layout.pages_around(len(self._rows), points)
