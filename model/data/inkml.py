"""One InkML file to one line of raw offsets.

Document type declarations are refused: InkML needs none, and with entities a few lines of XML can expand to gigabytes.
The parser is the standard library's expat with that one rule added.
"""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from model.data.errors import DataError

_DIFFERENCE_MARKS = "!'\""


class _Axes(NamedTuple):
    """Where X and Y stand in a point, and whether they grow right and down (1) or left and up (-1)."""

    columns: tuple[int, int]
    signs: tuple[int, int]


def read_inkml(path: Path, content: bytes) -> NDArray[np.float64]:
    """Return the offsets of a file's traces, taken as one line in document order.

    Args:
        path: named in errors.
        content: of the file. Traces hold absolute decimal values, points apart by commas, with any channels beside X
            and Y as the traceFormat says; traces of a raised pen are left out. y grows downwards unless the format
            turns it.

    Returns:
        float64 (n, 3): dx and dy from the point before, 0 on the first point, and pen_up, 1 on the last of a stroke.

    Raises:
        DataError: the file is no XML, declares a document type, has no trace, or holds a value that is no number.
    """
    root = _parse(path, content)
    axes = _axes(path, root)
    strokes: list[list[tuple[float, float]]] = []
    is_continued = False
    traces = [trace for trace in _named(root, "trace") if trace.get("type") != "penUp"]
    for number, trace in enumerate(traces, 1):
        points = _points(path, number, trace.text or "", axes)
        if is_continued and strokes:
            strokes[-1] += points
        else:
            strokes.append(points)
        is_continued = trace.get("continuation") in {"begin", "middle"}
    strokes = [stroke for stroke in strokes if stroke]
    if not strokes:
        raise DataError(f"{path}: expected InkML with at least one trace of points, found none")
    return _offsets(strokes)


def _parse(path: Path, content: bytes) -> Element:
    """Parse XML without a document type."""
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")

    def refuse(*_: object) -> None:
        raise DataError(f"{path}: expected plain InkML, but it declares a document type, which is refused")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two for an encoding that it cannot read
        raise DataError(f"{path}: expected InkML, but it is no well-formed XML ({error})") from error
    return builder.close()


def _named(root: Element, name: str) -> list[Element]:
    """Elements of a name, in whatever namespace, in document order."""
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == name]


def _axes(path: Path, root: Element) -> _Axes:
    """Find the columns of X and Y; without a traceFormat they come first."""
    layouts = {_layout(element) for element in _named(root, "traceFormat")} or {(("X", 1), ("Y", 1))}
    if len(layouts) > 1:
        raise DataError(f"{path}: expected one traceFormat, found {len(layouts)} that differ")
    layout = layouts.pop()
    names = [name for name, _ in layout]
    if "X" not in names or "Y" not in names:
        raise DataError(f"{path}: expected the channels X and Y in traceFormat, found {', '.join(names) or 'none'}")
    x, y = names.index("X"), names.index("Y")
    return _Axes((x, y), (layout[x][1], layout[y][1]))


def _layout(trace_format: Element) -> tuple[tuple[str, int], ...]:
    """Names and directions of the channels of a format."""
    return tuple(
        (channel.get("name", ""), -1 if channel.get("orientation") == "-ve" else 1)
        for channel in _named(trace_format, "channel")
    )


def _points(path: Path, number: int, text: str, axes: _Axes) -> list[tuple[float, float]]:
    """Points (x, y) of one trace."""
    points = []
    for place, point in enumerate(text.strip().removesuffix(",").split(","), 1):
        values = point.split()
        where = f"{path}: point {place} of trace {number}"
        needed = max(axes.columns) + 1
        if any(value[0] in _DIFFERENCE_MARKS for value in values):
            raise DataError(f"{where} is {point.strip()!r}, but differences are not read, only absolute values")
        if not values and not text.strip():
            return []
        if len(values) < needed:
            raise DataError(f"{where} is {point.strip()!r}, where at least {needed} values were expected")
        x, y = (_number(where, values[column]) * sign for column, sign in zip(*axes, strict=True))
        points.append((x, y))
    return points


def _number(where: str, value: str) -> float:
    """Parse a finite decimal number, or raise DataError."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where} has the value {value!r}, where a number was expected")
    return number


def _offsets(strokes: list[list[tuple[float, float]]]) -> NDArray[np.float64]:
    """Differences between successive points, across strokes as well."""
    points = np.array([point for stroke in strokes for point in stroke])
    offsets = np.zeros((len(points), 3))
    offsets[1:, :2] = np.diff(points, axis=0)
    offsets[np.cumsum([len(stroke) for stroke in strokes]) - 1, 2] = 1
    return offsets
