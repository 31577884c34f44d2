"""Turns the polyline of a stroke into the points of a moving pen.

Lengths are in x-heights. The pen follows a smooth curve through the given points. It slows down in tight turns and at
both ends of a stroke, and it is sampled RATE_HZ times a second, as by a tablet.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RATE_HZ = 100.0
_STEP = 0.03  # distance between points of a smooth curve
_CORNER = np.cos(np.deg2rad(50.0))  # a sharper turn than 50 degrees stays a corner
_SPEED = 22.0  # x-heights per second on a straight line
_END_SPEED = 0.3  # share of that speed at the ends of a stroke
_RAMP = 0.6  # distance over which the pen reaches full speed
_TIGHT = 1.2  # curvature, in 1 / x-heights, at which the speed is halved


def smooth(points: Floats) -> Floats:
    """Return a curve (m, 2) through points (n, 2), with its points about _STEP apart.

    The curve is a cubic between each two points, with tangents that depend on both neighbours. A sharp turn stays a
    corner. So do the ends of a piece that is much longer than its neighbour, because it was drawn as a straight line.
    """
    keep = np.ones(len(points), np.bool_)
    keep[1:] = (np.diff(points, axis=0) != 0).any(axis=1)
    points = points[keep].astype(np.float64)
    if len(points) < 2:
        return points
    steps = np.diff(points, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    chords = steps / lengths[:, None]
    leaving, arriving = _tangents(chords, lengths)
    # A cubic Hermite spline, sampled at equal steps of its parameter.
    pieces = [points[:1]]
    for index, length in enumerate(lengths.tolist()):
        count = max(1, round(length / _STEP))
        u = (np.arange(1, count + 1) / count)[:, None]
        start, stop = points[index], points[index + 1]
        pieces.append(
            (2 * u**3 - 3 * u**2 + 1) * start
            + (u**3 - 2 * u**2 + u) * length * leaving[index]
            + (3 * u**2 - 2 * u**3) * stop
            + (u**3 - u**2) * length * arriving[index]
        )
    return np.concatenate(pieces)


def _tangents(chords: Floats, lengths: Floats) -> tuple[Floats, Floats]:
    """Return the directions (n-1, 2) in which each piece leaves its first point and arrives at its second."""
    leaving, arriving = chords.copy(), chords.copy()
    before, after = lengths[:-1, None], lengths[1:, None]
    tangent = (chords[:-1] * after + chords[1:] * before) / (before + after)
    is_curve = (chords[:-1] * chords[1:]).sum(axis=1) > _CORNER
    leaving[1:][is_curve] = tangent[is_curve]
    arriving[:-1][is_curve] = tangent[is_curve]
    # Pieces that are long beside a neighbour stay straight.
    long = np.zeros(len(lengths), np.bool_)
    long[1:] |= lengths[1:] > 2.5 * lengths[:-1]
    long[:-1] |= lengths[:-1] > 2.5 * lengths[1:]
    leaving[long], arriving[long] = chords[long], chords[long]
    return leaving, arriving


def pace(curve: Floats, speed: float = 1.0) -> tuple[Floats, Floats]:
    """Sample a pen that follows a curve, RATE_HZ times a second.

    Args:
        curve: (n, 2), n at least 1.
        speed: factor of the usual speed.

    Returns:
        (points, times): float64 (m, 2) and seconds (m,) from 0. Both ends of the curve are among the points.
    """
    if len(curve) < 2:
        return curve, np.zeros(1)
    steps = np.hypot(*np.diff(curve, axis=0).T)
    way = np.concatenate([[0.0], steps.cumsum()])
    velocity = speed * _SPEED * _slowness(curve, steps, way)
    times = np.concatenate([[0.0], (steps / ((velocity[1:] + velocity[:-1]) / 2)).cumsum()])
    count = max(2, round(float(times[-1]) * RATE_HZ) + 1)
    looks = np.linspace(0.0, float(times[-1]), count)
    points = np.column_stack([np.interp(looks, times, curve[:, axis]) for axis in (0, 1)])
    return points, looks


def _slowness(curve: Floats, steps: Floats, way: Floats) -> Floats:
    """Return the share of full speed at each point of a curve."""
    headings = np.unwrap(np.arctan2(*np.diff(curve, axis=0).T[::-1]))
    turn = np.zeros(len(curve))
    turn[1:-1] = np.abs(np.diff(headings)) / ((steps[1:] + steps[:-1]) / 2 + 1e-9)
    # A pen slows down before a turn, so the curvature is averaged over neighbouring points.
    window = np.hanning(11)[1:-1]
    padded = np.pad(turn, len(window) // 2, mode="edge")
    turn = np.convolve(padded, window / window.sum(), mode="valid")
    to_end = np.minimum(way, way[-1] - way)
    ramp = _END_SPEED + (1 - _END_SPEED) * np.minimum(1.0, to_end / _RAMP) ** 0.5
    share: Floats = ramp / (1.0 + np.cbrt(turn / _TIGHT))
    return share
