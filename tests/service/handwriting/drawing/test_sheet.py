"""A sheet places the lines of its text, all at once, one by one, or as they are written."""

import numpy as np
import pytest

from service.handwriting.copybook.writer import STYLES, CopybookWriter
from service.handwriting.drawing.document import Ink
from service.handwriting.drawing.layout import RETURN_S, Align, Layout
from service.handwriting.drawing.sheet import Sheet

TEXT = "Dear Ada,  \n\nit works, and it goes on for a while until the line is full."


def sheet_of(layout: Layout, writer: CopybookWriter) -> Sheet:
    """The sheet of the text."""
    return Sheet(layout, TEXT, layout.wrap(TEXT, writer))


@pytest.fixture
def writer() -> CopybookWriter:
    """A writer of the text."""
    return CopybookWriter(TEXT, STYLES["plain"], seed=1)


@pytest.mark.parametrize("align", ["left", "right", "justify"])
def test_lines_one_by_one_are_the_lines_at_once(writer: CopybookWriter, align: Align) -> None:
    """Each span written by itself and placed is the line that the sheet yields."""
    sheet = sheet_of(Layout(line_width=60.0, align=align), writer)
    placed, clock = [], 0.0
    for number, (start, stop) in enumerate(sheet.spans()):
        ink = writer.write(start, stop, number)
        if len(ink):
            placed.append(sheet.placed(ink, number, clock))
            clock = float(placed[-1].time[-1]) + RETURN_S
    lines = list(sheet.lines(writer))
    assert len(lines) == len(placed) > 2
    for name in ("xy", "time", "pen", "character", "line"):
        assert getattr(Ink.join(placed), name).tobytes() == getattr(Ink.join(lines), name).tobytes()


def test_spans_leave_out_spaces_at_the_end(writer: CopybookWriter) -> None:
    """And nothing else: an empty line is an empty span."""
    spans = sheet_of(Layout(line_width=60.0), writer).spans()
    assert [TEXT[start:stop] for start, stop in spans][:2] == ["Dear Ada,", ""]
    assert " ".join(TEXT[start:stop] for start, stop in spans[2:]) == TEXT.splitlines()[2]


def test_live_ink_stands_at_the_left_as_it_is(writer: CopybookWriter) -> None:
    """A part of a line lies where the same part of the whole line does, whatever the alignment."""
    left, right = (sheet_of(Layout(line_width=60.0, align=align), writer) for align in ("left", "right"))
    ink = writer.write(*left.spans()[0], 0)
    part = right.placed_live(ink[:5], 0, 2.0)
    np.testing.assert_array_equal(part.xy, left.placed(ink, 0, 2.0).xy[:5])


def test_pages_are_those_of_the_lines(writer: CopybookWriter) -> None:
    """Paper fills page by page; without paper there is one box around the ink."""
    paper = sheet_of(Layout(paper=(60.0, 40.0), margin=8.0), writer)
    assert paper.num_pages == len(paper.pages(Ink.empty())) > 1
    assert sheet_of(Layout(), writer).num_pages == 1
