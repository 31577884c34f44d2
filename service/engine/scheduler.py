"""Who runs: admits, retires and cancels sequences. No clock, no tensors, no threads.

Running sequences always own rows 0 .. n-1, so a step runs on the front of every array and nothing is gathered. A row
that becomes free in between is filled by the last one; whoever holds data per row must copy it along.
"""

from collections import deque
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from service.engine.sequences.base import Status


class Schedulable(Protocol):
    """What the scheduler sees of a sequence; `status` and `row` are its own to set."""

    status: Status
    row: int

    @property
    def is_ready(self) -> bool:
        """Whether it could start; once it could, it can."""
        ...


S = TypeVar("S", bound=Schedulable)


class Move(NamedTuple):
    """Data of row `source` now belongs in row `target`."""

    source: int
    target: int


class Scheduler(Generic[S]):
    """First come, first served on a fixed number of rows; who is not ready is passed by and keeps its place.

    Args:
        capacity: number of rows, at least 1.

    Attributes:
        rows: the running sequences, each at the index that is its `row`.
        waiting: the others, oldest first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[S] = []
        self.waiting: deque[S] = deque()

    def add(self, sequence: S) -> None:
        """Let a fresh sequence wait for a row."""
        self.waiting.append(sequence)

    def admit(self) -> list[S]:
        """Give free rows to the longest waiting and return those; their rows hold nobody's data any more."""
        free = self.capacity - len(self.rows)
        admitted = list(islice((sequence for sequence in self.waiting if sequence.is_ready), free)) if free else []
        for sequence in admitted:
            self.waiting.remove(sequence)
            sequence.status, sequence.row = Status.RUNNING, len(self.rows)
            self.rows.append(sequence)
        return admitted

    def remove(self, sequence: S) -> Move | None:
        """Take a sequence out, waiting or running, done or not; once it is out, nothing happens.

        Returns:
            The move that closes the gap in the rows, if there is one.
        """
        if sequence.status is Status.FINISHED:
            return None
        if sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
            sequence.status = Status.FINISHED
            return None
        sequence.status = Status.FINISHED
        last = self.rows.pop()
        if last is sequence:
            return None
        move = Move(last.row, sequence.row)
        self.rows[sequence.row] = last
        last.row = sequence.row
        return move
