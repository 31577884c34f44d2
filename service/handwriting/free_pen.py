"""From a network's pen offsets, in model units, to ink on a sheet.

The scale follows the codec alone: the geometric mean of its two standard deviations becomes SPREAD x-heights, which
makes a lower-case letter an x-height high for IAM-OnDB, where strokes of one letter's length are mostly 110 to 125 raw
units high and the mean of the deviations is 40. So all drawings of one bundle have the same size. Such networks write
no times: points follow each other at the rate at which the pens of the data were sampled.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from model.codec import InkCodec
from model.ink import SPREAD
from service.handwriting.drawing.document import DECIMALS, NONE, TIME_DECIMALS, Floats, Ink
from service.handwriting.drawing.layout import Layout

POINT_S = 0.015
LIFT_S = 0.18
_NOTE = struct.Struct("<5dI?")
NOTE_BYTES = _NOTE.size


class Pen:
    """Adds up offsets as they come; how they are cut into pieces does not change a bit of the ink.

    Args:
        codec: of the bundle whose offsets are drawn.
        layout: with paper or a line width, a pen that lifts beyond the end of a line continues on the next line.
    """

    def __init__(self, codec: InkCodec, layout: Layout) -> None:
        self._codec = codec
        self._layout = layout
        self._scale = SPREAD * layout.x_height / float(np.sqrt(codec.std[0] * codec.std[1]))
        self._is_wrapped = layout.paper is not None or layout.line_width is not None
        self._place = np.zeros(2)
        self._clock = -POINT_S
        self._origin = np.array(layout.origin(0))
        self._line = 0
        self._is_up = False

    def note(self) -> bytes:
        """Return where the pen stands, for `restore`."""
        return _NOTE.pack(*self._place, self._clock, *self._origin, self._line, self._is_up)

    def restore(self, note: bytes) -> None:
        """Continue where another pen of the same layout stood."""
        x, y, self._clock, left, top, self._line, self._is_up = _NOTE.unpack(note)
        self._place = np.array([x, y])
        self._origin = np.array([left, top])

    @property
    def num_lines(self) -> int:
        """Lines begun so far, at least one."""
        return self._line + 1

    def draw(self, offsets: NDArray[np.float32], trace: bytes) -> Ink:
        """Return the ink that these next offsets lead to.

        Args:
            offsets: (n, 3) standardised [dx, dy, pen_up].
            trace: a byte for each.
        """
        raw = self._codec.decode(offsets).astype(np.float64)
        pen = raw[:, 2].astype(np.int64)
        path = np.vstack([self._place[None], raw[:, :2] * self._scale]).cumsum(axis=0)[1:]
        follows_lift = np.concatenate([[self._is_up], pen[:-1] != 0])[: len(pen)]
        time = np.concatenate([[self._clock], POINT_S + LIFT_S * follows_lift]).cumsum()[1:]
        if len(path):
            self._place = path[-1]
            self._clock = float(time[-1])
            self._is_up = bool(pen[-1])
        xy, line = self._wrapped(path, follows_lift) if self._is_wrapped else (path + self._origin, np.zeros_like(pen))
        none = np.full(len(pen), NONE, np.int64)
        rounded = xy.round(DECIMALS) + 0.0  # + 0.0 makes -0 a plain 0
        return Ink(rounded, time.round(TIME_DECIMALS), pen, none, none, line, trace)

    def _wrapped(self, path: Floats, follows_lift: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.int64]]:
        """Break the one long line where the pen is in the air beyond the width of a line."""
        xy, lines = np.empty_like(path), np.empty(len(path), np.int64)
        for index, point in enumerate(path):
            left = self._layout.origin(self._line)[0]
            if follows_lift[index] and point[0] + self._origin[0] > left + self._layout.width:
                self._line += 1
                self._origin = np.array(self._layout.origin(self._line)) - point
            xy[index], lines[index] = point + self._origin, self._line
        return xy, lines
