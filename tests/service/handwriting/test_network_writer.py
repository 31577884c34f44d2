"""What a network is given to write, and how the ink it wrote becomes a line."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.codec import REPLACEMENT, HandwritingCodec, InkCodec, TextCodec
from model.ink import SPREAD
from service.handwriting.network_writer import NetworkWriter, Piece, Written

SYMBOLS = tuple("abcdefghijklmnopqrstuvwxyzT .,-'" + REPLACEMENT)
CODEC = HandwritingCodec(InkCodec((0.0, 0.0), (40.0, 40.0)), TextCodec(SYMBOLS, "replace"), (1, 2))
UNIT = 40.0 / SPREAD  # raw units to an x-height


def writer_of(text: str, longest: int = 50, wobble: float = 0.0, *, skips: bool = False) -> NetworkWriter:
    """A writer whose hand needs no scaling."""
    return NetworkWriter(text, CODEC, 1.0, 2.0, longest, wobble, skips_unsupported=skips)


def written(text: str, slope: float = 0.0, height: float = 0.0) -> Written:
    """A bar for each letter, one x-height high, two apart, standing on a sloping line."""
    points: list[tuple[float, float, float, float]] = []
    for place in range(len(text)):
        x, foot = 2.0 * place, height + slope * 2.0 * place
        points += [(x, foot, 0, place), (x, foot - 0.5, 0, place), (x, foot - 1.0, 1, place)]
    path = np.array(points)
    offsets = np.diff(path[:, :2], axis=0, prepend=np.zeros((1, 2))) * UNIT
    raw = np.column_stack([offsets, path[:, 2]])
    items: NDArray[np.float32] = np.column_stack([CODEC.encode(raw), path[:, 3]]).astype(np.float32)
    return Written(items, bytes(len(items)), is_whole=True)


def pieces_of(text: str, longest: int = 50) -> list[Piece]:
    """The pieces of a text that is one line."""
    return writer_of(text, longest).pieces(0, len(text))


def test_a_line_that_is_known_is_one_piece() -> None:
    """Every character stands for itself."""
    (piece,) = pieces_of("The quick fox.")
    assert piece.text == "The quick fox."
    assert piece.sources == tuple(range(14))
    assert not writer_of("The quick fox.").substitutions()


def test_what_is_unknown_is_drawn_by_a_font_and_listed() -> None:
    """The line is cut around it; the rest is the network's."""
    pieces = pieces_of("at 5 Z")
    assert [piece.text for piece in pieces] == ["at", "", ""]
    assert [piece.sources[0] for piece in pieces] == [0, 3, 5]
    assert all(piece.drawn and piece.drawn.glyphs for piece in pieces[1:])
    found = writer_of("at 5 Z").substitutions()
    assert [(each.index, chr(each.code_point), each.drawn) for each in found] == [(3, "5", "5"), (5, "Z", "Z")]


def test_an_accent_is_composed_and_no_substitution() -> None:
    """The network writes the letter; the mark is drawn above it, and belongs to it."""
    writer = writer_of("f\u00fcr")
    assert not writer.substitutions()
    pieces = writer.pieces(0, 3)
    assert [(piece.text, piece.marks) for piece in pieces] == [("fur", ((1, "\u0308"),))]
    ink = writer.line(0, pieces, [written("fur")])
    marks = ink[9:]
    assert len(marks)
    assert set(marks.character.tolist()) == {1}
    letter = ink.xy[:9][ink.character[:9] == 1]
    assert marks.xy[:, 1].max() < letter[:, 1].min()
    assert len(ink.trace) == len(ink)


def test_what_says_the_same_is_written_instead() -> None:
    """Typographic signs become those that the network knows, each pointing at its own character, and are listed."""
    (piece,) = pieces_of("it\u2019s\u2026")
    assert piece.text == "it's..."
    assert piece.sources == (0, 1, 2, 3, 4, 4, 4)
    assert [each.drawn for each in writer_of("it\u2019s\u2026").substitutions()] == ["'", "..."]


def test_what_cannot_be_written_may_be_left_out() -> None:
    """With skip nothing stands in its place, and it is still listed."""
    writer = writer_of("a5\u2026b", skips=True)
    assert [piece.text for piece in writer.pieces(0, 4)] == ["a", "b"]
    assert [each.drawn for each in writer.substitutions()] == ["", ""]


@pytest.mark.parametrize("text", ["word " * 30, "w" * 130, "a-" * 70])
def test_no_piece_is_longer_than_the_network_takes(text: str) -> None:
    """And nothing but spaces at the cuts is lost."""
    pieces = pieces_of(text, longest=20)
    assert max(len(piece.text) for piece in pieces) <= 20
    shown = [text[index] for piece in pieces for index in piece.sources]
    assert "".join(shown).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("slope", [-0.1, 0.0, 0.15])
def test_a_line_is_set_straight_on_its_baseline(slope: float) -> None:
    """Letters that stand on the line stand at 0, whatever the slope and height at which they were written."""
    text = "anemone"
    writer = writer_of(text)
    ink = writer.line(3, writer.pieces(0, len(text)), [written(text, slope, 5.0)])
    feet = [ink.xy[ink.character == index, 1].max() for index in range(len(text))]
    np.testing.assert_allclose(feet, 0.0, atol=1e-4)
    assert ink.xy[:, 0].min() == pytest.approx(0.0)
    assert set(ink.line.tolist()) == {3}
    assert ink.pen[-1] == 1


def test_a_wobble_keeps_some_of_the_slope() -> None:
    """At 5 all of it."""
    text = "anemone"
    ends = []
    for wobble in (0.0, 5.0):
        writer = writer_of(text, wobble=wobble)
        ink = writer.line(0, writer.pieces(0, len(text)), [written(text, 0.1)])
        ends.append(float(ink.xy[ink.character == 6, 1].max()))
    assert ends[0] == pytest.approx(0.0, abs=1e-4)
    assert ends[1] == pytest.approx(1.2, abs=1e-3)


def test_pieces_stand_side_by_side() -> None:
    """Each begins to the right of the one before, and later; words are those of the text."""
    text = "at 5 o"
    writer = writer_of(text)
    pieces = writer.pieces(0, len(text))
    ink = writer.line(0, pieces, [written("at"), None, written("o")])
    spans = [ink.xy[ink.word == word, 0] for word in range(3)]
    assert spans[0].max() < spans[1].min() < spans[1].max() < spans[2].min()
    assert (np.diff(ink.time) > 0).all()


def test_live_ink_does_not_depend_on_how_it_is_cut() -> None:
    """Point by point or at once, the same ink, the same time, the same accents at the end."""
    text = "f\u00fcr uns"
    writer = writer_of(text)
    (piece,) = writer.pieces(0, len(text))
    found = written("fur uns")
    whole = writer.live(piece, 0, 1.0, 2.0).draw(found.items, found.trace, is_last=True)
    live = writer.live(piece, 0, 1.0, 2.0)
    parts = [
        live.draw(found.items[at : at + 1], found.trace[at : at + 1], is_last=at == len(found.items) - 1)
        for at in range(len(found.items))
    ]
    for column in ("xy", "time", "pen", "character", "word"):
        np.testing.assert_allclose(np.concatenate([getattr(part, column) for part in parts]), getattr(whole, column))
    assert live.end[1] == pytest.approx(float(whole.time[-1]))
