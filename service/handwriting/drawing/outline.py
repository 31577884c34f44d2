"""Outlines of strokes: closed polygons around the line of a pen that draws wider where it is slow."""

import numpy as np

from service.handwriting.drawing.document import Floats, Ink

_THIN, _THICK = 0.55, 1.45  # times the pen's width, where the pen is fast and where it is slow
_CAP_POINTS = 6


def widths(stroke: Ink, pen_mm: float) -> Floats:
    """Return the width of the line at each point of a stroke, (n,) in millimetres.

    A stroke of less than three points, or without duration, has the width of the pen.
    """
    if len(stroke) < 3 or float(stroke.time[-1]) <= float(stroke.time[0]):
        return np.full(len(stroke), pen_mm)
    way = np.concatenate([[0.0], np.hypot(*np.diff(stroke.xy, axis=0).T).cumsum()])
    speed = np.gradient(way, np.maximum.accumulate(stroke.time + 1e-6 * np.arange(len(stroke))))
    speed = np.convolve(np.pad(speed, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    share = speed / (speed + np.median(speed) + 1e-9)  # 1/2 at the median speed of the stroke
    broad: Floats = pen_mm * (_THICK + (_THIN - _THICK) * share)
    return broad


def outline(stroke: Ink, pen_mm: float) -> Floats:
    """Return the polygon (m, 2) around a stroke, with round ends. It must be filled by the nonzero rule."""
    half = widths(stroke, pen_mm) / 2
    xy = stroke.xy
    # Points that repeat have no direction.
    keep = np.ones(len(xy), np.bool_)
    keep[1:] = (np.diff(xy, axis=0) != 0).any(axis=1)
    xy, half = xy[keep], half[keep]
    if len(xy) == 1:
        dot: Floats = xy + half[0] * _arc(0.0, 2 * np.pi, 4 * _CAP_POINTS)
        return dot
    # The direction at each point: the mean of those of the pieces before and after it.
    steps = np.diff(xy, axis=0)
    directions = steps / np.hypot(*steps.T)[:, None]
    along = np.concatenate([directions[:1], directions[:-1] + directions[1:], directions[-1:]])
    lengths = np.hypot(*along.T)
    # Where the pen turns back the mean vanishes, so the direction of the following piece is used.
    along = np.where(
        lengths[:, None] > 0.3,
        along / np.maximum(lengths, 1e-9)[:, None],
        np.concatenate([directions, directions[-1:]]),
    )
    # Both sides of the line, joined by half circles at the ends.
    normals = np.column_stack([-along[:, 1], along[:, 0]])
    left, right = xy + normals * half[:, None], xy - normals * half[:, None]
    first, last = (float(np.arctan2(*direction[::-1])) for direction in (along[0], along[-1]))
    end_cap = xy[-1] + half[-1] * _arc(last + np.pi / 2, last - np.pi / 2, _CAP_POINTS)
    start_cap = xy[0] + half[0] * _arc(first - np.pi / 2, first - 3 * np.pi / 2, _CAP_POINTS)
    return np.concatenate([left, end_cap, right[::-1], start_cap])


def _arc(start: float, stop: float, count: int) -> Floats:
    """Return points (count, 2) of the unit circle between two angles."""
    angles = np.linspace(start, stop, count)
    return np.column_stack([np.cos(angles), np.sin(angles)])
