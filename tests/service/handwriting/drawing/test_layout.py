"""Lines wrap, align and fill pages within their margins, with any writer."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.handwriting.copybook.writer import STYLES, CopybookWriter
from service.handwriting.drawing.document import Ink
from service.handwriting.drawing.layout import Layout, LayoutError

TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want."
PAGE = Layout(paper=(100.0, 80.0), margin=15.0, x_height=2.0)


class Blocks:
    """A writer whose every character is a bar, one x-height wide and high."""

    def __init__(self, text: str) -> None:
        self.text = text

    def width(self, text: str) -> float:
        """Return one x-height per character."""
        return float(len(text))

    def write(self, start: int, stop: int, line: int) -> Ink:
        """Draw a bar for each character that is no space."""
        shown = [index for index in range(start, stop) if not self.text[index].isspace()]
        count = 2 * len(shown)
        x = np.array([(index - start, index - start + 1.0) for index in shown]).reshape(-1)
        words = [len(self.text[: index + 1].split()) - 1 for index in shown]
        return Ink(
            np.column_stack([x, np.zeros(count)]),
            np.linspace(0.0, 0.1 * count, count),
            np.tile([0, 1], len(shown)),
            np.repeat(np.array(shown, np.int64), 2),
            np.repeat(np.array(words, np.int64), 2),
            np.full(count, line, np.int64),
        )


def lines(layout: Layout, text: str = TEXT) -> list[Ink]:
    """Return a laid-out text of bars."""
    writer = Blocks(text)
    return list(layout.lines(layout.wrap(text, writer), text, writer))


@given(st.text("ab \n\t", min_size=1, max_size=80), st.integers(10, 60))
def test_rows_hold_the_text_in_order_and_fit(text: str, width: int) -> None:
    """Rows follow one another, lose nothing but line breaks, are never too long, and break at spaces where they can."""
    layout = Layout(line_width=float(width), x_height=2.0)
    rows = layout.wrap(text, Blocks(text))
    assert rows[0].start == 0
    assert rows[-1].stop == len(text)
    assert sum(not row.goes_on for row in rows) == text.count("\n") + 1
    room = width / 2.0
    for row, following in pairwise(rows):
        assert following.start - row.stop == (0 if row.goes_on else 1)
        if row.goes_on:
            is_between_words = text[row.stop - 1].isspace() != text[row.stop].isspace()
            assert is_between_words or len(text[row.start :].split(maxsplit=1)[0]) > room
    for row in rows:
        assert len(text[row.start : row.stop].strip()) <= room


@pytest.mark.parametrize(("align", "left", "right"), [("left", 0, None), ("right", None, 0), ("center", None, None)])
def test_alignment(align: str, left: int | None, right: int | None) -> None:
    """Lines touch the side they are aligned to, or stand in the middle."""
    layout = Layout(line_width=60.0, x_height=2.0, align=align)  # type: ignore[arg-type]
    placed = lines(layout)
    assert len(placed) > 2
    for ink in placed:
        low, high = float(ink.xy[:, 0].min()), float(ink.xy[:, 0].max())
        if left is not None:
            assert low == left
        elif right is not None:
            assert high == 60.0 - right
        else:
            assert abs(low - (60.0 - high)) < 0.02


def test_justified_lines_reach_both_sides_but_the_last() -> None:
    """All lines of a paragraph but the last fill the line width, with space added between words only."""
    layout = Layout(line_width=60.0, x_height=2.0, align="justify")
    *full, last = lines(layout)
    for ink in full:
        assert (float(ink.xy[:, 0].min()), float(ink.xy[:, 0].max())) == (0.0, 60.0)
        steps = np.diff(ink.xy[:, 0])
        within = ink.word[1:] == ink.word[:-1]
        assert set(steps[within].round(2).tolist()) <= {0.0, 2.0}
    assert float(last.xy[:, 0].max()) < 60.0


def test_lines_fill_pages_within_their_margins() -> None:
    """Every baseline lies within the margins of its page, at an even pitch, and pages lie below each other."""
    placed = lines(PAGE, "word " * 200)
    pages = PAGE.pages(len(placed), Ink.join(placed))
    assert len(pages) > 2
    baselines = [float(ink.xy[0, 1]) for ink in placed]
    for row, y in enumerate(baselines):
        page = pages[row // PAGE.rows_per_page]
        assert page.top + 15.0 <= y <= page.bottom - 15.0
    steps = np.diff(baselines).round(6)
    assert set(steps.tolist()) == {8.0, float((80.0 - (PAGE.rows_per_page - 1) * 8.0).__round__(6))}
    x = np.concatenate([ink.xy[:, 0] for ink in placed])
    assert x.min() >= 15.0
    assert x.max() <= 85.0 + 0.01
    times = np.concatenate([ink.time for ink in placed])
    assert (np.diff(times) >= 0).all()


@given(
    st.floats(0.5, 20),
    st.floats(0.4, 5),
    st.sampled_from([(100.0, 150.0), (215.9, 279.4)]),
    st.floats(0, 45),
)
def test_rows_per_page_is_the_most_that_fits(
    x_height: float, spacing: float, paper: tuple[float, float], margin: float
) -> None:
    """One more row, with ascenders and descenders, would not fit between the margins."""
    layout = Layout(paper=paper, margin=margin, x_height=x_height, line_spacing=spacing)
    count, room = layout.rows_per_page, paper[1] - 2 * margin
    needs = (2.2 + 1.3) * x_height
    assert count == 0 or needs + (count - 1) * layout.pitch <= room + 1e-6
    assert needs + count * layout.pitch > room - 1e-6


@pytest.mark.parametrize(
    ("layout", "field"),
    [
        (Layout(paper=(100.0, 100.0), margin=45.1), "margin_mm"),
        (Layout(paper=(100.0, 100.0), margin=20.0, line_width=60.1), "line_width_mm"),
        (Layout(paper=(100.0, 100.0), margin=45.0, x_height=2.9), "x_height_mm"),
    ],
)
def test_what_leaves_no_room_is_refused_by_field(layout: Layout, field: str) -> None:
    """An impossible value is refused by the name of its field; a slightly smaller one is possible."""
    with pytest.raises(LayoutError) as caught:
        layout.check()
    assert caught.value.field == field
    Layout(paper=(100.0, 100.0), margin=45.0).check()
    Layout(paper=(100.0, 100.0), margin=20.0, line_width=60.0).check()
    Layout(paper=(100.0, 100.0), margin=45.0, x_height=2.85).check()


@given(st.sampled_from(list(STYLES.values())), st.integers(0, 1000))
@settings(max_examples=15)
def test_a_restless_hand_keeps_to_the_width(style: object, seed: int) -> None:
    """Lines of the copybook are no longer than the line width, except for a swash."""
    layout = Layout(line_width=90.0)
    writer = CopybookWriter(TEXT, style, seed)  # type: ignore[arg-type]
    for ink in layout.lines(layout.wrap(TEXT, writer), TEXT, writer):
        assert float(ink.xy[:, 0].max()) <= 90.01
