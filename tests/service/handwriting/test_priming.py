"""A user's ink becomes what a network reads, whatever its units and density; what is no ink is refused in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.codec import InkCodec
from service.engine.sequences.snapshot import Snapshot
from service.handwriting.copybook.writer import STYLES, CopybookWriter
from service.handwriting.drawing import inkml
from service.handwriting.drawing.document import Document, Ink
from service.handwriting.drawing.layout import Layout
from service.handwriting.priming import PrimedStates, PrimeError, from_columns, from_inkml, read

CODEC = InkCodec((8.2, 0.1), (42.0, 37.0))
TEXT = "Dear Sir or Madam"


def written() -> Document:
    """A line of the copybook."""
    layout, writer = Layout(), CopybookWriter(TEXT, STYLES["plain"], 1)
    ink = Ink.join(layout.lines(layout.wrap(TEXT, writer), TEXT, writer))
    return Document(ink, layout.pages(1, ink), TEXT, TEXT)


def strokes() -> list[np.ndarray]:
    """Its strokes."""
    return [stroke.xy for stroke in written().ink.strokes()]


def denser(stroke: np.ndarray, times: int) -> np.ndarray:
    """Put more points on the way from each to the next."""
    at = np.linspace(0, len(stroke) - 1, times * (len(stroke) - 1) + 1)
    return np.column_stack([np.interp(at, np.arange(len(stroke)), stroke[:, axis]) for axis in (0, 1)])


@given(st.floats(1e-3, 1e3), st.floats(-500, 500), st.integers(1, 4))
@settings(max_examples=20)
def test_units_place_and_density_do_not_matter(scale: float, shift: float, times: int) -> None:
    """The same ink in other units, elsewhere, or looked at more often is read as the same."""
    plain = read(strokes(), CODEC, 5000).offsets
    moved = [stroke * scale + shift for stroke in strokes()]
    dense = [denser(stroke, times) for stroke in moved]
    other = read(dense, CODEC, 50_000).offsets
    assert abs(len(other) - len(plain)) <= 0.1 * len(plain)
    assert other[:, 2].sum() == plain[:, 2].sum() == len(strokes())
    same = read(moved, CODEC, 5000).offsets
    assert len(same) == len(plain)
    assert np.allclose(same, plain, atol=1e-3)


def test_it_is_of_the_datas_size_and_density() -> None:
    """Standardised, a letter's steps are about half a deviation and the first point is at rest."""
    offsets = read(strokes(), CODEC, 5000).offsets
    raw = CODEC.decode(offsets)
    assert np.allclose(raw[0], [0, 0, raw[0, 2]], atol=1e-4)
    in_stroke = np.concatenate([[False], offsets[:-1, 2] == 0])
    assert 0.4 < np.hypot(*raw[in_stroke, :2].T).mean() / np.sqrt(42 * 37) < 0.6
    per_letter = len(offsets) / len(TEXT.replace(" ", ""))
    assert 12 < per_letter < 50, "a hand of the data makes about 22 points a letter"


@given(st.floats(1e-3, 1e3), st.integers(1, 6))
@settings(max_examples=20)
def test_what_is_read_lies_on_what_was_given(scale: float, times: int) -> None:
    """Points read lie on the ink, in its own unit; each says how many given ones it has come past, in the end all."""
    ink = [denser(stroke * scale, times) for stroke in strokes()]
    ink += [np.repeat([[0.0, 50.0 * scale]], 3, axis=0)]  # a dot of three points
    reading = read(ink, CODEC, 50_000)
    points = np.concatenate(ink)
    assert len(reading.xy) == len(reading.given) == len(reading.offsets) == len(reading.pen)
    assert (np.diff(reading.given) >= 0).all()
    assert reading.given[reading.pen == 1].tolist() == np.cumsum([len(stroke) for stroke in ink]).tolist()
    assert np.allclose(reading.xy[reading.pen == 1][:-1], [stroke[-1] for stroke in ink[:-1]], atol=1e-6 * scale)
    step = np.hypot(*np.diff(reading.xy, axis=0).T)[reading.pen[:-1] == 0].max()
    behind = np.hypot(*(reading.xy - points[reading.given - 1]).T)
    ahead = np.hypot(*np.diff(points, axis=0).T).max()
    assert behind.max() <= max(step, ahead) + 1e-6 * scale


def test_columns_and_inkml_say_the_same() -> None:
    """A reply's columns and its InkML are the same strokes."""
    made = written()
    ink = made.ink
    columns = from_columns(ink.xy[:, 0].tolist(), ink.xy[:, 1].tolist(), ink.pen.tolist())
    traces = from_inkml(inkml.render(made).decode())
    assert [stroke.tolist() for stroke in columns] == [stroke.tolist() for stroke in traces]
    plain = from_inkml("<ink><trace>1 2, 3 4</trace><trace type='penUp'>5 6</trace><trace> 7 8 </trace><trace/></ink>")
    assert [stroke.tolist() for stroke in plain] == [[[1, 2], [3, 4]], [[7, 8]]]


SCRAWL = np.column_stack([np.arange(20) % 3, np.arange(20) % 2]).astype(float)
BOMB = '<!DOCTYPE i [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><ink><trace>&b;</trace></ink>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "well-formed"),
        ("{}", "well-formed"),
        ("<ink><trace>1 2", "well-formed"),
        (BOMB, "document type or entities"),
        ('<!DOCTYPE ink SYSTEM "file:///etc/passwd"><ink/>', "document type or entities"),
        ("<ink><trace>1 2, 3</trace></ink>", "point 2 of trace 1"),
        ("<ink><trace>1 2, 3 x</trace></ink>", "point 2 of trace 1"),
        ("<ink><trace>1 2, '3 '4</trace></ink>", "difference"),
        ("<ink><traceFormat><channel name='F'/></traceFormat><trace>1</trace></ink>", "X and Y"),
    ],
)
def test_inkml_that_cannot_be_read_is_refused(text: str, words: str) -> None:
    """Each says what is wrong and where, and no entity is ever resolved."""
    with pytest.raises(PrimeError, match=words):
        from_inkml(text)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([], "0 points; at least 10"),
        ([np.zeros((9, 2))], "9 points; at least 10"),
        ([np.zeros((301, 2))], "301 points; at most 300"),
        ([np.zeros((50, 2))], "no height"),
        ([np.column_stack([np.arange(50.0), np.arange(50.0) * 0.1])], "no height"),
        ([np.full((50, 2), 2e6)], "beyond 1,000,000"),
        ([np.column_stack([np.arange(20.0) * 50, np.arange(20) % 2])], "at the network's density; at most 300"),
        ([SCRAWL, np.array([[9e5, 0.0]])], "jumps"),
    ],
)
def test_what_is_no_writing_is_refused(made: list[np.ndarray], words: str) -> None:
    """Too little, too much, flat, far off or torn apart: each in a sentence."""
    with pytest.raises(PrimeError, match=words):
        read(made, CODEC, 300)


def test_columns_of_different_lengths_are_refused() -> None:
    """The sentence tells the lengths."""
    with pytest.raises(PrimeError, match="3, 2 and 1"):
        from_columns([1, 2, 3], [1, 2], [1])


def test_the_states_used_last_are_kept() -> None:
    """A cache of 64: what was asked for lately stays, what nobody asked for goes."""
    states = PrimedStates()
    for number in range(64):
        states.put(number, Snapshot(b"", 0, number))
    assert states.get("another") is None
    assert states.get(0) == Snapshot(b"", 0, 0)
    states.put(64, Snapshot(b"", 0, 64))
    assert states.get(1) is None
    assert [states.get(number) for number in (0, 2, 64)] == [Snapshot(b"", 0, number) for number in (0, 2, 64)]
