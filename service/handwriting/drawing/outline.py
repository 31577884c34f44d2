"""The outline of a stroke by a pen that gives more ink where it is slow, as one closed polygon."""

import numpy as np

from service.handwriting.drawing.document import Floats, Ink

_THIN, _THICK = 0.55, 1.45  # of the pen's width, where the pen is fast and where it is slow
_CAP_POINTS = 6


def widths(stroke: Ink, pen_mm: float) -> Floats:
    """Return the width of the line at each point of a stroke, (n,) in millimetres."""
    if len(stroke) < 3 or float(stroke.time[-1]) <= float(stroke.time[0]):
        return np.full(len(stroke), pen_mm)
    way = np.concatenate([[0.0], np.hypot(*np.diff(stroke.xy, axis=0).T).cumsum()])
    speed = np.gradient(way, np.maximum.accumulate(stroke.time + 1e-6 * np.arange(len(stroke))))
    speed = np.convolve(np.pad(speed, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    share = speed / (speed + np.median(speed) + 1e-9)  # 1/2 at the usual speed, whatever that is
    broad: Floats = pen_mm * (_THICK + (_THIN - _THICK) * share)
    return broad


def outline(stroke: Ink, pen_mm: float) -> Floats:
    """Return the corners (m, 2) of a polygon around a stroke, with round ends; to be filled by nonzero winding."""
    half = widths(stroke, pen_mm) / 2
    xy = stroke.xy
    keep = np.ones(len(xy), np.bool_)
    keep[1:] = (np.diff(xy, axis=0) != 0).any(axis=1)
    xy, half = xy[keep], half[keep]
    if len(xy) == 1:
        dot: Floats = xy + half[0] * _arc(0.0, 2 * np.pi, 4 * _CAP_POINTS)
        return dot
    steps = np.diff(xy, axis=0)
    directions = steps / np.hypot(*steps.T)[:, None]
    along = np.concatenate([directions[:1], directions[:-1] + directions[1:], directions[-1:]])
    lengths = np.hypot(*along.T)
    # Where the pen turns back the sum vanishes; the direction it came in serves as well.
    along = np.where(
        lengths[:, None] > 0.3,
        along / np.maximum(lengths, 1e-9)[:, None],
        np.concatenate([directions, directions[-1:]]),
    )
    normals = np.column_stack([-along[:, 1], along[:, 0]])
    left, right = xy + normals * half[:, None], xy - normals * half[:, None]
    first, last = (float(np.arctan2(*direction[::-1])) for direction in (along[0], along[-1]))
    end_cap = xy[-1] + half[-1] * _arc(last + np.pi / 2, last - np.pi / 2, _CAP_POINTS)
    start_cap = xy[0] + half[0] * _arc(first - np.pi / 2, first - 3 * np.pi / 2, _CAP_POINTS)
    return np.concatenate([left, end_cap, right[::-1], start_cap])


def _arc(start: float, stop: float, count: int) -> Floats:
    angles = np.linspace(start, stop, count)
    return np.column_stack([np.cos(angles), np.sin(angles)])
