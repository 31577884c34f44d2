"""From pen offsets in model units to points and strokes on a page, and from these to SVG.

One page unit is a CSS pixel. y grows downwards, as in the data and in SVG. The scale follows the codec alone: the
geometric mean of its two standard deviations becomes SPREAD_PX, which makes a lower-case letter about 10 px high
for IAM-OnDB; a drawing of one bundle is therefore always of the same size.
"""

from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from model.codec import InkCodec

SPREAD_PX = 5.0
STROKE_WIDTH_PX = 1.6
MARGIN_PX = 12.0
DECIMALS = 2

Points = NDArray[np.float64]


class Pen:
    """Adds up offsets as they come; how they are cut into pieces does not change a bit of the points.

    Args:
        codec: of the bundle whose offsets are drawn.
    """

    def __init__(self, codec: InkCodec) -> None:
        self._codec = codec
        self._scale = SPREAD_PX / float(np.sqrt(codec.std[0] * codec.std[1]))
        self._place = np.zeros(2)

    def draw(self, offsets: NDArray[np.float32]) -> Points:
        """Return the points that these next offsets lead to.

        Args:
            offsets: (n, 3) standardised [dx, dy, pen_up].

        Returns:
            float64 (n, 3): x and y in page units, rounded to DECIMALS; pen_up is 1 where the pen lifts after the point.
        """
        raw = self._codec.decode(offsets).astype(np.float64)
        path = np.vstack([self._place[None], raw[:, :2] * self._scale]).cumsum(axis=0)[1:]
        if len(path):
            self._place = path[-1]
        return np.column_stack([path.round(DECIMALS) + 0.0, raw[:, 2]])  # + 0.0 makes -0 a plain 0


@dataclass(frozen=True)
class Box:
    """The rectangle that holds all points, in page units."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, points: Points) -> "Box":
        """Return the box of points (n, 3) or (n, 2), n at least 1."""
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        return cls(float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def grown(self, margin: float) -> "Box":
        """Return the box with a margin on each side."""
        return Box(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)

    @property
    def width(self) -> float:
        """Extent along x."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Extent along y."""
        return self.bottom - self.top


def strokes(points: Points) -> list[Points]:
    """Cut points (n, 3) after each pen_up and return the pieces as (m, 2), none of them empty."""
    cuts = np.flatnonzero(points[:, 2]) + 1
    return [piece[:, :2] for piece in np.split(points, cuts) if len(piece)]


def path_data(stroke: Points) -> str:
    """Return a stroke (m, 2) as the `d` of an SVG path; a single point is a dot of zero length."""
    if len(stroke) == 1:
        return f"M{_pair(stroke[0])}h0"
    return f"M{_pair(stroke[0])}L{' '.join(_pair(point) for point in stroke[1:])}"


def svg(points: Points, title: str) -> str:
    """Return an SVG document of the points (n, 3), one path per stroke, so that a plotter can follow it.

    Args:
        points: (n, 3) in page units, n at least 1.
        title: for readers who cannot see the drawing.
    """
    box = Box.around(points).grown(MARGIN_PX)
    view = " ".join(_number(value) for value in (box.left, box.top, box.width, box.height))
    paths = "\n".join(f'<path d="{path_data(stroke)}"/>' for stroke in strokes(points))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" width="{_number(box.width)}" '
        f'height="{_number(box.height)}" role="img">\n<title>{escape(title)}</title>\n'
        f'<g fill="none" stroke="currentColor" stroke-width="{STROKE_WIDTH_PX}" stroke-linecap="round" '
        f'stroke-linejoin="round">\n{paths}\n</g>\n</svg>\n'
    )


def _pair(point: NDArray[np.float64]) -> str:
    return f"{_number(float(point[0]))},{_number(float(point[1]))}"


def _number(value: float) -> str:
    """A coordinate without needless zeros; -0 is 0."""
    return f"{round(value, DECIMALS) + 0.0:.{DECIMALS}f}".rstrip("0").rstrip(".")
