"""The scheduler: decides which sequences own a row. It knows no clock, no tensors and no threads.

Running sequences always own rows 0 .. n-1, so that a step runs on the front of every array and nothing is gathered.
When a row in between becomes free, the last row moves into it; the caller copies the data of that row.
"""

from collections import deque
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from service.engine.sequences.base import Status


class Schedulable(Protocol):
    """What the scheduler needs of a sequence; only the scheduler sets `status` and `row`."""

    status: Status
    row: int

    @property
    def is_ready(self) -> bool:
        """Whether it can start; once true, it stays true."""
        ...


S = TypeVar("S", bound=Schedulable)


class Move(NamedTuple):
    """The data of row `source` has to be copied to row `target`."""

    source: int
    target: int


class Scheduler(Generic[S]):
    """First come, first served on a fixed number of rows; a sequence that is not ready is skipped and keeps its place.

    Args:
        capacity: number of rows, at least 1.

    Attributes:
        rows: the running sequences; the index of each is its `row`.
        waiting: the waiting sequences, oldest first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[S] = []
        self.waiting: deque[S] = deque()

    def add(self, sequence: S) -> None:
        """Add a new sequence to the queue."""
        self.waiting.append(sequence)

    def admit(self) -> list[S]:
        """Give the free rows to the sequences that waited longest and return those; their rows need a new state."""
        free = self.capacity - len(self.rows)
        admitted = list(islice((sequence for sequence in self.waiting if sequence.is_ready), free)) if free else []
        for sequence in admitted:
            self.waiting.remove(sequence)
            sequence.status = Status.RUNNING
            sequence.row = len(self.rows)
            self.rows.append(sequence)
        return admitted

    def remove(self, sequence: S) -> Move | None:
        """Remove a sequence, waiting or running; removing it again does nothing.

        Returns:
            The move that closes the gap in the rows, or None if there is no gap.
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
