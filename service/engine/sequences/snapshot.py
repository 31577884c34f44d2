"""Snapshots of a sequence between two steps, and the part of a stream that a request asks for.

A snapshot is all that another runner, in another process, needs to continue the sequence exactly.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Snapshot:
    """The state of a row before the last symbol or point is read, and what was not published yet.

    A sequence that continues from it reads the last symbol or point itself. The next one is drawn from the output of
    that step, so a branch draws with its own seed from its first symbol on.

    Attributes:
        row: state of the row, as `Runner.save` returns it; empty for a state of zeros.
        last: the symbol id or offset [dx, dy, pen_up] to read next.
        position: number of symbols or offsets drawn so far; the next is drawn with the random numbers of this position.
        held: characters that were drawn but not published, because a stop string may begin with them.
        held_trace: trace bytes of the held characters that have been read.
        unfinished: bytes of a character that is not complete.
        counts: how often each symbol was drawn, for penalties.
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
    """The part of a stream that a request asks for.

    Attributes:
        start: the snapshot to continue from; None starts at the beginning.
        choice: added to the index of each choice for its draws, so that a state of choice 2 continues with the draws of
            choice 2.
        skip: number of characters or points after the start that the client already has.
        keeps: whether the end comes with a snapshot. The snapshot then holds characters that may begin a stop string,
            and the bytes of an incomplete character; the request that continues publishes them.
    """

    start: Snapshot | None = None
    choice: int = 0
    skip: int = 0
    keeps: bool = False


WHOLE = StreamPart()
