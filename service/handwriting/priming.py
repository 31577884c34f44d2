"""A user's own ink, made into what a network reads: to continue in that hand, or to find its segments.

Ink comes in units, sizes and densities of all kinds, but the network has learned lines of one size, sampled at the
steady rate of one pen. So ink is scaled by how far it scatters about its line, and resampled in even steps along each
stroke; both figures are those of IAM-OnDB, in units of the codec's standard deviation.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray

from model.codec import InkCodec
from model.ink import SCATTER
from service.engine.sequences.snapshot import Snapshot
from service.handwriting.drawing.document import Floats

MIN_POINTS = 10
MAX_COORDINATE = 1e6
_STEP = 0.5  # from point to point within a stroke, in the same
_FARTHEST = 60.0  # standardised; the data has no jump as far
_DIFFERENCE_MARKS = "!'\""
_MAX_STATES = 64

Stroke = NDArray[np.float64]  # (n, 2), y downwards


class PrimeError(ValueError):
    """The ink cannot be read; the message says what is wrong with it."""


def from_columns(x: list[float], y: list[float], pen: list[int]) -> list[Stroke]:
    """Return the strokes of columns as replies have them.

    Raises:
        PrimeError: the columns are not of one length.
    """
    if not len(x) == len(y) == len(pen):
        raise PrimeError(f"x, y and pen must be of one length, not {len(x)}, {len(y)} and {len(pen)}")
    points = np.column_stack([x, y]).astype(np.float64)
    cuts = np.flatnonzero(np.array(pen, np.int64)) + 1
    return [piece for piece in np.split(points, cuts) if len(piece)]


def from_inkml(text: str) -> list[Stroke]:
    """Return the strokes of an InkML document: its traces in their order, but those of a lifted pen.

    X and Y are found by the channels of the traceFormat, or come first where there is none. Values are absolute.

    Raises:
        PrimeError: it is no plain XML, or a trace holds something else.
    """
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except DefusedXmlException:
        raise PrimeError("the InkML declares a document type or entities, which are not read") from None
    except (ParseError, ValueError, LookupError):
        raise PrimeError("it is no well-formed InkML") from None
    channels = [element.get("name", "") for element in _named(root, "channel")]
    if channels and not {"X", "Y"} <= set(channels):
        raise PrimeError("the InkML's traceFormat has no channels X and Y")
    columns = (channels.index("X"), channels.index("Y")) if channels else (0, 1)
    traces = [trace for trace in _named(root, "trace") if trace.get("type") != "penUp"]
    strokes = [_points(number, trace.text or "", columns) for number, trace in enumerate(traces, 1)]
    return [stroke for stroke in strokes if len(stroke)]


def _named(root: Element, name: str) -> Iterable[Element]:
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == name)


def _points(number: int, text: str, columns: tuple[int, int]) -> Stroke:
    """Points of one trace."""
    points = []
    for place, point in enumerate(text.strip().removesuffix(",").split(","), 1):
        values = point.split()
        where = f"point {place} of trace {number}"
        if not values and not text.strip():
            break
        if any(value[0] in _DIFFERENCE_MARKS for value in values):
            raise PrimeError(f"{where} is a difference, but only absolute values are read")
        try:
            points.append([float(values[column]) for column in columns])
        except (ValueError, IndexError):
            raise PrimeError(f"{where} is not a row of numbers with x and y") from None
    return np.array(points, np.float64).reshape(-1, 2)


@dataclass(frozen=True)
class PrimedInk:
    """Ink as a network reads it, point by point.

    Attributes:
        offsets: (n, 3) standardised [dx, dy, pen_up], the first one at rest.
        xy: (n, 2) where its points are, in the unit of the ink.
        given: (n,) how many of the given points have been passed with each of them; never falls, ends with all.
    """

    offsets: NDArray[np.float32]
    xy: Floats
    given: NDArray[np.int64]

    @property
    def pen(self) -> NDArray[np.int64]:
        """(n,) 1 where the pen lifts after the point."""
        return (self.offsets[:, 2] > 0.5).astype(np.int64)


def read(strokes: list[Stroke], codec: InkCodec, max_points: int) -> PrimedInk:
    """Return what a network reads of ink.

    Args:
        strokes: in any unit.
        codec: of the bundle.
        max_points: that may be given, and read.

    Raises:
        PrimeError: it is too little, too much, or no line of writing.
    """
    count = sum(map(len, strokes))
    if count > max_points:
        raise PrimeError(f"it has {count} points; at most {max_points} are read")
    if count < MIN_POINTS:
        raise PrimeError(f"it has {count} points; at least {MIN_POINTS} are needed, better a few words")
    points = np.concatenate(strokes)
    if not np.isfinite(points).all() or np.abs(points).max() > MAX_COORDINATE:
        raise PrimeError(f"it has coordinates beyond {MAX_COORDINATE:,.0f}")
    spread = np.sqrt(codec.std[0] * codec.std[1])
    scatter = _scatter(points)
    if scatter <= 1e-9 * max(1.0, float(np.abs(points).max())):
        raise PrimeError("it has no height: all points lie on one line")
    scale = SCATTER * spread / scatter
    even, passed = zip(*(_evenly(stroke * scale, _STEP * spread) for stroke in strokes), strict=True)
    count = sum(map(len, even))
    if count > max_points:
        raise PrimeError(f"it is {count} points long at the network's density; at most {max_points} are read")
    path = np.concatenate(even)
    raw = np.zeros((count, 3))
    raw[1:, :2] = np.diff(path, axis=0)
    raw[np.cumsum([len(stroke) for stroke in even]) - 1, 2] = 1
    offsets = codec.encode(raw)
    far = np.flatnonzero(np.abs(offsets[:, :2]).max(axis=1) > _FARTHEST)
    if len(far):
        raise PrimeError(f"it is no line of writing: between two strokes it jumps {_FARTHEST:g} letters or more")
    before = np.cumsum([0, *map(len, strokes[:-1])])
    given = np.concatenate([start + counts for start, counts in zip(before, passed, strict=True)])
    return PrimedInk(offsets, path / scale, given)


def _scatter(points: Floats) -> float:
    """Deviation of y about the straight line that the writing follows."""
    x, y = (points - points.mean(axis=0)).T
    width = float((x * x).sum())
    slope = float((x * y).sum()) / width if width > 0 else 0.0
    # Writing leans a little; what is steeper is one tall letter, not a line to be set straight.
    slope = slope if abs(slope) < 0.5 else 0.0
    return float((y - slope * x).std())


def _evenly(stroke: Stroke, step: float) -> tuple[Stroke, NDArray[np.int64]]:
    """Return a stroke as points one step apart, its ends kept, and how many of its own points each has come past.

    A dot stays one point.
    """
    way = np.concatenate([[0.0], np.hypot(*np.diff(stroke, axis=0).T).cumsum()]) if len(stroke) > 1 else np.zeros(1)
    if way[-1] <= step / 4:
        return stroke[:1], np.array([len(stroke)])
    count = min(1 + max(1, round(float(way[-1]) / step)), 1_000_000)
    along = np.linspace(0.0, way[-1], count)
    even = np.column_stack([np.interp(along, way, stroke[:, axis]) for axis in (0, 1)])
    return even, np.searchsorted(way, along, side="right")


class PrimedStates:
    """A cache of the states of networks that have read a prime; the least recently used goes first."""

    def __init__(self) -> None:
        self._states: OrderedDict[Hashable, Snapshot] = OrderedDict()

    def get(self, key: Hashable) -> Snapshot | None:
        """Return the state that was kept for a model, a hand and a prime, or None."""
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, key: Hashable, state: Snapshot) -> None:
        """Keep a state."""
        self._states[key] = state
        self._states.move_to_end(key)
        if len(self._states) > _MAX_STATES:
            self._states.popitem(last=False)
