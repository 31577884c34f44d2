"""The figures of written ink count what they should, and Tesseract can read the pictures drawn for it."""

import numpy as np
import pytest

from bench.writing import tesseract
from bench.writing.quality import Errors, Line, endings, shares
from service.handwriting.copybook.writer import STYLES, CopybookWriter

DOT = np.array([[0.0, 0.0, 1.0]])


def line(text: str, points: int, style: str = "oak", *, complete: bool = True) -> Line:
    """A line of so many points."""
    return Line(text, np.zeros((points, 3)), complete, style)


def test_errors_are_shares_of_characters() -> None:
    """Over all lines together, and over those of each hand."""
    lines = [line("abcd", 1), line("ab", 1, "fir")]
    errors = Errors.of(["abxd", "b"], lines)
    assert errors.rate == pytest.approx(2 / 6)
    assert errors.by(["oak", "fir"]) == {"fir": 0.5, "oak": 0.25}


def test_capped_and_early_lines_are_counted() -> None:
    """A line that did not end itself, and one with half the points its hand takes for a character."""
    lines = [line("abcd", 80), line("abcd", 84), line("abcd", 40), line("ab", 44, complete=False), line("a", 9, "fir")]
    assert endings(lines) == {"share_capped": 0.2, "share_early": 0.2}


def test_shares_of_hard_characters() -> None:
    """How many texts have digits, capitals, punctuation."""
    assert shares(["a1", "B", "c.", "d"]) == {"with_digits": 0.25, "with_capitals": 0.25, "with_punctuation": 0.25}


def test_ink_is_drawn_level_and_of_one_height() -> None:
    """A line that climbs is drawn level; a single point is a dot; nothing falls outside of the picture."""
    x = np.linspace(0, 900, 200)
    y = 0.3 * x + 20 * np.sin(x / 10)
    climbing = np.column_stack([np.diff(x, prepend=0), np.diff(y, prepend=y[0]), np.zeros(200)])
    picture = np.asarray(tesseract.draw(climbing))
    inked = np.flatnonzero((picture < 128).any(axis=1))
    assert picture.shape[0] == pytest.approx(tesseract.HEIGHT + 2 * tesseract.MARGIN, abs=2)
    assert inked[0] >= tesseract.MARGIN - 3
    assert inked[-1] <= picture.shape[0] - tesseract.MARGIN + 3
    assert (np.asarray(tesseract.draw(DOT)) < 128).any()


@pytest.mark.skipif(not tesseract.is_here(), reason="needs tesserocr and Debian's tesseract-ocr-eng")
def test_tesseract_reads_letters_of_a_font() -> None:
    """The plain hand of the copybook, in which every letter has its textbook form, is read without many errors."""
    text = "many men have seen the sea"
    book = CopybookWriter(text, STYLES["plain"], seed=1, bias=5.0, wobble=0.0)
    ink = book.write(0, len(text), 0)
    offsets = np.column_stack([np.diff(ink.xy, axis=0, prepend=ink.xy[:1]), ink.pen])
    found = tesseract.read([offsets])
    assert Errors.of(found, [Line(text, offsets)]).rate < 0.3
