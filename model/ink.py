"""Ink in numbers that training, export and service share: when a written line ends, and the constants of pen offsets.

NumPy only, as codec.py. A line is written point by point. At each step the network reads a point and says three things:
the next point, on which character of the text its window rests, and whether the line is over. `next_place` and
`is_line_over` turn the last two into the end of the line, for one line or for many side by side.
"""

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Limits of the mixture's parameters. Offsets are whole raw units, so a density could grow without bound around them:
# sigma stops at e^-6 = 0.0025 standardised units, about a tenth of one raw unit of IAM-OnDB.
LOG_SCALE_FLOOR = -6.0
LOG_SCALE_CEILING = 4.0
CORRELATION_LIMIT = 0.999

# Divides a step of the window forward. softplus(0) / 15 is one character in 21.6 points, the pace of a hand in
# IAM-OnDB, at which a fresh network starts.
STRIDE = 15.0

# Sizes, in geometric mean standard deviations of an ink codec: (std_x * std_y) ** 0.5.
SPREAD = 0.34  # x-heights to one such deviation: a lower-case letter of IAM-OnDB becomes one x-height high
SCATTER = 2.1  # deviation of y from a line of IAM-OnDB

# The longest line that is drawn before it counts as one that does not end.
LEAST_POINTS = 100
POINTS_PER_CHARACTER = 45  # most characters take 22, and hardly any takes more than twice that


def max_points(num_characters: int) -> int:
    """Return how many points are drawn at most for a line of so many characters, sentinels not counted."""
    return LEAST_POINTS + POINTS_PER_CHARACTER * num_characters


@overload
def next_place(place: int, largest: float) -> int: ...
@overload
def next_place(place: Ints, largest: NDArray[Any]) -> Ints: ...
def next_place(place: Any, largest: Any) -> Any:
    """Return the index in the text of the character being written, after one more point.

    The pen goes forward by one character at most. Where the window lies mostly on a character further on, by chance and
    for one point, the place is therefore wrong by one only.

    Args:
        place: of the point before, an index into the ids of the text; 1 (the first character) before the first point.
        largest: index of the character with the largest share of the window, the first sentinel left out.
    """
    return place + (largest > place)


@overload
def is_line_over(place: int, num_ids: int, stop_logit: float, pen_up: float) -> bool: ...
@overload
def is_line_over(place: Ints, num_ids: Ints, stop_logit: NDArray[Any], pen_up: NDArray[Any]) -> Flags: ...
def is_line_over(place: Any, num_ids: Any, stop_logit: Any, pen_up: Any) -> Any:
    """Return whether the point just read is the last one of its line.

    A line ends where the network says so on the last character, or where the window has left the text and the pen is
    lifted. A stop before the last character is ignored. The point where the pen is first set down ends no line.

    Args:
        place: as `next_place` gave it for this point.
        num_ids: ids of the text, both sentinels included.
        stop_logit: the network's logit of the line being over; positive says that it is.
        pen_up: greater than 0 where the pen is lifted after this point.
    """
    has_left = (place >= num_ids) & (pen_up > 0)
    return has_left | ((stop_logit > 0) & (place >= num_ids - 2))
