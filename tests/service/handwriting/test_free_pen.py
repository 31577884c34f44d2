"""Offsets become ink, the same however they are cut into events, and lines where lines are asked for."""

from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from model.codec import InkCodec
from model.ink import SPREAD
from service.handwriting.drawing.document import Ink
from service.handwriting.drawing.layout import Layout
from service.handwriting.free_pen import LIFT_S, POINT_S, Pen

CODEC = InkCodec((8.2, 0.1), (42.0, 37.0))
OFFSETS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.just(3)),
    elements=st.floats(-8, 8, width=32),
).map(lambda array: np.column_stack([array[:, :2], array[:, 2] > 2]).astype(np.float32))
LAYOUTS = st.sampled_from([Layout(), Layout(line_width=10.0), Layout(paper=(60.0, 40.0), margin=5.0)])


def draw(pen: Pen, offsets: NDArray[np.float32]) -> Ink:
    """Draw offsets whose trace bytes count up."""
    return pen.draw(offsets, bytes(range(len(offsets))))


@given(OFFSETS, LAYOUTS, st.data())
def test_cutting_changes_no_bit(offsets: NDArray[np.float32], layout: Layout, data: st.DataObject) -> None:
    """Drawn at once or in pieces, every column is the same bits, on one line and on many."""
    whole = draw(Pen(CODEC, layout), offsets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(offsets)), max_size=5)))
    pieces = Ink.join(map(partial(draw, Pen(CODEC, layout)), np.split(offsets, cuts)))
    for name in ("xy", "time", "pen", "line"):
        assert getattr(pieces, name).tobytes() == getattr(whole, name).tobytes(), name


def test_points_are_sums_of_raw_offsets_in_millimetres() -> None:
    """A raw offset of one geometric-mean deviation is SPREAD x-heights, and pen_up is passed on."""
    spread = float(np.sqrt(42.0 * 37.0))
    raw = np.array([[0, 0, 0], [spread, 0, 1], [-spread, 2 * spread, 0]])
    ink = draw(Pen(CODEC, Layout(x_height=2.0)), CODEC.encode(raw))
    assert ink.xy.tolist() == [[0, 0], [2 * SPREAD, 0], [0, 4 * SPREAD]]
    assert ink.pen.tolist() == [0, 1, 0]
    assert ink.time.tolist() == [0, POINT_S, 2 * POINT_S + LIFT_S]
    assert not np.signbit(ink.xy).any()


@given(OFFSETS)
def test_strokes_lose_no_point(offsets: NDArray[np.float32]) -> None:
    """Strokes hold all points in order, each ends where the pen lifts, and none is empty."""
    ink = draw(Pen(CODEC, Layout()), offsets)
    pieces = ink.strokes()
    assert np.array_equal(np.concatenate([piece.xy for piece in pieces]), ink.xy)
    assert b"".join(piece.trace for piece in pieces) == ink.trace
    assert len(pieces) == int(ink.pen.sum()) + (ink.pen[-1] == 0)


def test_a_lift_beyond_the_line_begins_the_next() -> None:
    """On paper the pen goes back to the margin of the next line, in the air only, and lines fill pages."""
    layout = Layout(paper=(60.0, 60.0), margin=10.0, x_height=2.0)
    hop = np.sqrt(42.0 * 37.0) * 25 / (SPREAD * 2.0)  # 25 mm
    raw = np.array([[0, 0, 0], [hop, 0, 0], [hop, 0, 1], [1, 0, 1], [hop, 0, 0]])
    pen = Pen(CODEC, layout)
    ink = draw(pen, CODEC.encode(raw))
    first, second = layout.origin(0), layout.origin(1)
    assert ink.line.tolist() == [0, 0, 0, 1, 1]
    assert np.allclose(ink.xy[[0, 3]], [first, second], atol=0.01)
    assert ink.xy[2, 0] > 50, "a stroke is never broken"
    assert pen.num_lines == 2
