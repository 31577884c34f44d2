"""InkML: absolute points of any channels, and refusal of all that would be guesswork or an attack."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.errors import DataError
from model.data.inkml import read_inkml

FILE = Path("line.inkml")
NAMESPACE = ' xmlns="http://www.w3.org/2003/InkML"'
coordinates = st.integers(-(10**6), 10**6)
strokes = st.lists(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=6), min_size=1, max_size=5)


def ink(body: str, namespace: str = NAMESPACE) -> bytes:
    """Return a document."""
    return f"<?xml version='1.0'?>\n<ink{namespace}>{body}</ink>".encode()


def channels(*names: str) -> str:
    """Return a traceFormat."""
    return "<traceFormat>" + "".join(f"<channel name='{name}'/>" for name in names) + "</traceFormat>"


def rows(body: str, namespace: str = NAMESPACE) -> list[list[float]]:
    """Read a document."""
    found: list[list[float]] = read_inkml(FILE, ink(body, namespace)).tolist()
    return found


@given(strokes, st.sampled_from([NAMESPACE, ""]))
def test_offsets_add_up_to_the_points(drawn: list[list[tuple[int, int]]], namespace: str) -> None:
    """Summed offsets are the points relative to the first, and the pen rises at the end of each stroke."""
    traces = "".join("<trace>" + ", ".join(f"{x} {y}" for x, y in stroke) + "</trace>" for stroke in drawn)
    line = np.array(rows(traces, namespace))
    points = np.array([point for stroke in drawn for point in stroke], float)
    assert np.array_equal(np.cumsum(line[:, :2], 0), points - points[0])
    assert line[:, 2].tolist() == [float(i == len(stroke) - 1) for stroke in drawn for i in range(len(stroke))]


@pytest.mark.parametrize(
    "body, expected",
    [
        ("<trace>1 2,3 5</trace>", [[0, 0, 0], [2, 3, 1]]),
        ("<trace>\n 1 2 ,\n 3.5 -5e0 ,\n</trace>", [[0, 0, 0], [2.5, -7, 1]]),
        ("<trace>1 2 99 0.5, 3 5 98 0.25</trace>", [[0, 0, 0], [2, 3, 1]]),
        (
            f"{channels('T', 'Y', 'X')}<trace>0 2 1, 10 5 3</trace>",
            [[0, 0, 0], [2, 3, 1]],
        ),
        (
            "<traceFormat><channel name='X'/><channel name='Y' orientation='-ve'/></traceFormat><trace>1 2,3 5</trace>",
            [[0, 0, 0], [2, -3, 1]],
        ),
        (
            "<traceGroup><traceGroup><trace>1 2</trace></traceGroup><trace>2 2</trace></traceGroup>",
            [[0, 0, 1], [1, 0, 1]],
        ),
        ("<trace>1 2</trace><trace type='penUp'>9 9</trace><trace>2 2</trace>", [[0, 0, 1], [1, 0, 1]]),
        (
            "<trace continuation='begin'>1 2</trace><trace continuation='end'>2 2</trace><trace>4 4</trace>",
            [[0, 0, 0], [1, 0, 1], [2, 2, 1]],
        ),
        ("<trace/><trace>1 2</trace>", [[0, 0, 1]]),
        ("<!-- a <trace> that is none --><trace>1 2</trace>", [[0, 0, 1]]),
    ],
)
def test_what_is_read(body: str, expected: list[list[float]]) -> None:
    """Channels are found by name and direction; groups, hovering, continued and empty traces mean what they should."""
    assert rows(body) == expected


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "no well-formed XML"),
        (b"1 2, 3 4", "no well-formed XML"),
        (ink("<trace>1 2")[:-6], "no well-formed XML"),
        (b"\x00\x01\x02", "no well-formed XML"),
        (b"<?xml version='1.0' encoding='klingon'?><ink/>", "no well-formed XML"),
        (b"<?xml version='1.0' encoding='gb18030'?><ink/>", "no well-formed XML"),
        (ink(""), "at least one trace"),
        (ink("<trace/>"), "at least one trace"),
        (ink("<trace type='penUp'>1 2</trace>"), "at least one trace"),
        (ink("<trace>1 2, 3 four</trace>"), "point 2 of trace 1 has the value 'four', where a number was expected"),
        (ink("<trace>1 nan</trace>"), "where a number was expected"),
        (ink("<trace>1 1e999</trace>"), "where a number was expected"),
        (ink("<trace>1 2</trace><trace>3</trace>"), "point 1 of trace 2 is '3', where at least 2 values"),
        (ink("<trace>1 2,,3 4</trace>"), "point 2 of trace 1 is '', where at least 2 values"),
        (ink("<trace>1 2, '3 '4</trace>"), "differences are not read"),
        (ink('<trace>1 2, "3 "4</trace>'), "differences are not read"),
        (ink("<trace>!1 !2</trace>"), "differences are not read"),
        (ink(f"{channels('X')}<trace>1 2</trace>"), "channels X and Y"),
        (ink(f"{channels()}<trace>1 2</trace>"), "channels X and Y in traceFormat, found none"),
        (ink(f"{channels('X', 'Y')}{channels('Y', 'X')}<trace>1 2</trace>"), "one traceFormat"),
    ],
)
def test_what_is_refused(content: bytes, reason: str) -> None:
    """Each wrong file is a DataError of one line that names it and says what was expected."""
    with pytest.raises(DataError, match=reason) as caught:
        read_inkml(FILE, content)
    assert str(caught.value).startswith("line.inkml: ")
    assert "\n" not in str(caught.value)


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "declaration",
    [
        "<!DOCTYPE ink>",
        "<!DOCTYPE ink SYSTEM 'http://example.invalid/ink.dtd'>",
        "<!DOCTYPE ink [<!ENTITY x SYSTEM 'file:///etc/hostname'>]>",
        f'<!DOCTYPE ink [<!ENTITY l0 "1 2,">{LAUGHS}]>',
        "<!DOCTYPE ink [<!ENTITY % p SYSTEM 'http://example.invalid/p'> %p;]>",
    ],
)
def test_a_document_type_is_refused_before_anything_expands(declaration: str) -> None:
    """Entities, internal or external, are never read: the declaration alone ends it."""
    content = f"<?xml version='1.0'?>{declaration}<ink><trace>&l9;&x;</trace></ink>".encode()
    with pytest.raises(DataError, match="declares a document type, which is refused"):
        read_inkml(FILE, content)
