"""A sequence between two steps, as data: what another runner, in another process, needs to go on exactly.

And the part of a stream that a request is for: from where on, from where on aloud, and whether it will be gone on with.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Snapshot:
    """The row as it is before the last symbol or point is read, and what was not told yet.

    The last one is read again by whoever goes on: that is the step whose output the next one is drawn from, so a
    branch draws with its own seed from its first symbol on.

    Attributes:
        row: of the runner, as `Runner.save` gives it; empty for a row of zeros.
        last: the symbol id or offset [dx, dy, pen_up] that is read next.
        position: symbols or offsets drawn so far; the next is drawn with the numbers of this position.
        held: characters that were drawn but not told, because a stop string may begin with them.
        held_trace: a trace byte for each of them that has been read.
        unfinished: bytes of a character that is not complete.
        counts: how often each symbol was drawn, where penalties ask for it.
    """

    row: bytes
    last: Any
    position: int
    held: str = ""
    held_trace: bytes = b""
    unfinished: bytes = b""
    counts: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamPart:
    """Which part of a stream to write.

    Attributes:
        start: what to go on from; None is the beginning.
        choice: added to the index of each choice for its draws: a state of choice 2 goes on with the draws of choice 2.
        skip: characters or points, counted from the start, that were told before and are not told again.
        keeps: whether the end is told with a snapshot. Characters that may begin a stop string are then kept back at
            the end, and a character of which bytes are missing is too: whoever goes on tells them.
    """

    start: Snapshot | None = None
    choice: int = 0
    skip: int = 0
    keeps: bool = False


WHOLE = StreamPart()
