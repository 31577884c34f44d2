"""Offsets become points, strokes and pictures, the same however they are cut into events."""

import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.codec import InkCodec
from service import ink

CODEC = InkCodec((8.2, 0.1), (42.0, 37.0))
OFFSETS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.just(3)),
    elements=st.floats(-8, 8, width=32),
).map(lambda array: np.column_stack([array[:, :2], array[:, 2] > 2]).astype(np.float32))


@given(OFFSETS, st.data())
def test_cutting_changes_no_bit(offsets: ink.Points, data: st.DataObject) -> None:
    """Drawn at once or in pieces, the points are the same bits."""
    whole = ink.Pen(CODEC).draw(offsets.astype(np.float32))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(offsets)), max_size=5)))
    pen = ink.Pen(CODEC)
    pieces = [pen.draw(piece.astype(np.float32)) for piece in np.split(offsets, cuts)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_points_are_sums_of_raw_offsets_in_page_units() -> None:
    """A raw offset of one geometric-mean deviation is SPREAD_PX pixels, and pen_up is passed on."""
    spread = float(np.sqrt(42.0 * 37.0))
    raw = np.array([[0, 0, 0], [spread, 0, 1], [-spread, 2 * spread, 0]])
    points = ink.Pen(CODEC).draw(CODEC.encode(raw))
    assert points.tolist() == [[0, 0, 0], [5, 0, 1], [0, 10, 0]]
    assert not np.signbit(points).any()


@given(OFFSETS)
def test_strokes_lose_no_point(offsets: ink.Points) -> None:
    """Strokes hold all points in order, each ends where the pen lifts, and none is empty."""
    points = ink.Pen(CODEC).draw(offsets.astype(np.float32))
    pieces = ink.strokes(points)
    assert np.array_equal(np.concatenate(pieces), points[:, :2])
    assert all(len(piece) for piece in pieces)
    lifts = int(points[:, 2].sum())
    assert len(pieces) == lifts + (points[-1, 2] == 0)


@given(OFFSETS)
def test_svg_is_sound_and_holds_every_stroke_in_its_box(offsets: ink.Points) -> None:
    """The picture parses, has one path per stroke with all its points, and its view box holds them with a margin."""
    points = ink.Pen(CODEC).draw(offsets.astype(np.float32))
    root = ET.fromstring(ink.svg(points, "a <title> & more"))  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{space}title") == "a <title> & more"
    paths = [path.attrib["d"] for path in root.iter(f"{space}path")]
    assert len(paths) == len(ink.strokes(points))
    left, top, width, height = (float(value) for value in root.attrib["viewBox"].split())
    found = []
    for path in paths:
        for pair in path.removesuffix("h0").replace("M", " ").replace("L", " ").split():
            x, y = (float(value) for value in pair.split(","))
            found.append((x, y))
            assert left < x < left + width
            assert top < y < top + height
    assert found == [tuple(point) for point in points[:, :2].tolist()]


def test_a_single_point_is_a_dot() -> None:
    """A stroke of one point is drawn: a line of no length with round ends."""
    assert ink.path_data(np.array([[3.0, 4.5]])) == "M3,4.5h0"
    assert ink.path_data(np.array([[3.0, 4.5], [0.1, -2.0], [10.0, 100.0]])) == "M3,4.5L0.1,-2 10,100"
