"""One request on its way through the engine: what it reads next, what it draws, what it has to tell."""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.sampling import uniforms
from service.engine.sequences.snapshot import Snapshot, StreamPart

BLOCK = 64

Reason = Literal["stop", "length", "cancelled", "error", "shutdown"]
Offset = tuple[float, float, float]


class Status(Enum):
    """Where a sequence stands; it only ever moves down this list."""

    WAITING = 1
    RUNNING = 2
    FINISHED = 3


@dataclass
class Times:
    """Monotonic seconds at which things happened to a sequence; None for what has not."""

    submitted: float | None = None
    admitted: float | None = None
    first: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class End:
    """How a sequence ended.

    Attributes:
        reason: stop or length for a whole one.
        num_prompt: symbols of the prompt.
        num_drawn: symbols or points that were drawn.
        trace: one byte for every step that was run for it, as `Hierarchy` reads it.
        times: when.
        snapshot: what to go on from, where it was asked for and there is more to write.
    """

    reason: Reason
    num_prompt: int
    num_drawn: int
    trace: bytes
    times: Times
    snapshot: Snapshot | None = None


class Score(NamedTuple):
    """How likely a symbol was, by the network itself: before bias, penalties and temperature.

    Attributes:
        token: its id.
        logprob: in nats; None for the first symbol that was read, which nothing comes before.
        top: (id, nats) of the likeliest, likeliest first.
    """

    token: int
    logprob: float | None
    top: list[tuple[int, float]]


@dataclass
class Delta:
    """What a sequence has to tell since it was last asked.

    Attributes:
        items: characters, or offsets [dx, dy, pen_up] in standardised units.
        trace: one byte per item when boundaries were asked for, else empty.
        end: set on the last one.
        scores: for each item those of the symbols that make it up, when logprobs were asked for, else empty.
        choice: index of the choice within the request.
        skipped: how many of the first items were told before; they are here for whoever needs what led to the rest.
    """

    items: list[Any] = field(default_factory=list)
    trace: bytes = b""
    end: End | None = None
    scores: list[list[Score]] = field(default_factory=list)
    choice: int = 0
    skipped: int = 0

    @property
    def unseen(self) -> "Delta":
        """The same without what was told before."""
        if not self.skipped:
            return self
        first = self.skipped
        return Delta(self.items[first:], self.trace[first:], self.end, self.scores[first:], self.choice)

    def extend(self, later: "Delta") -> None:
        """Append what came after; this is how events of a slow reader grow longer instead of more."""
        self.items += later.items
        self.trace += later.trace
        self.scores += later.scores
        self.end = later.end


class Sequence(ABC):
    """What all sequences share.

    Args:
        seed: of the request.
        choice: index of the choice within the request.
        boundaries: whether each item is told with its trace byte.
        whole: whether everything is told at the end only.
        part: of the stream that is asked for.

    Attributes:
        status: moved by the scheduler.
        row: the row of the runner it owns while RUNNING; meaningless else.
        next_input: what it reads at the next step.
        reason: why it ended, or None.
        must_save: whether `keep` is to be told what its row holds now, before the next step.
    """

    num_prompt = 0
    NO_DRAW: Any = None  # stands for a draw that nobody looks at

    def __init__(self, seed: int, choice: int, *, boundaries: bool, whole: bool, part: StreamPart) -> None:
        self.status = Status.WAITING
        self.row = -1
        self.next_input: Any = None
        self.reason: Reason | None = None
        self.whole = whole
        self.times = Times()
        self.due_at = 0.0
        self.cancelled_at_step: int | None = None
        self._start = part.start
        self.must_save = False
        self._seed, self._choice, self._boundaries = seed, choice, boundaries
        self._stream = part.choice + choice
        self._keeps, self._skip = part.keeps, part.skip
        self._snapshot: Snapshot | None = None
        self._origin = part.start.position if part.start else 0
        self._trace = bytearray()
        self._items: list[Any] = []
        self._item_trace = bytearray()
        self._num_drawn = 0
        self._draws: list[Any] = []
        self._num_drawn_before = -BLOCK  # what is in `_draws`

    @property
    def is_ready(self) -> bool:
        """Whether it could start to run."""
        return True

    def begin(self) -> Snapshot | None:
        """Return what its row is to hold at first, now that it has one; None is zeros."""
        return self._start

    def take_saved_row(self, row: bytes) -> None:
        """Take in what its row holds between two steps, as `must_save` asked for."""
        self._snapshot = Snapshot(row, self.next_input, self._position)
        self.must_save = False

    @abstractmethod
    def advance(self, code: int, choice: Any) -> None:
        """Take in the step that read `next_input`: its trace byte and what was drawn from its output."""

    @abstractmethod
    def prefillable(self, limit: int) -> Seq[Any]:
        """Return what it reads from now on, `next_input` first, of whose outputs nothing is needed; `limit` at most."""

    def take_prefilled(self, codes: Seq[int]) -> None:
        """Take in steps that read what was ahead: their trace bytes."""
        for code in codes:
            self.advance(code, self.NO_DRAW)

    @property
    def num_items(self) -> int:
        """Number of items there are; not all of them may be told yet."""
        return len(self._items)

    @property
    def num_ready(self) -> int:
        """Number of items that may be told now, those included that were told before."""
        return len(self._items)

    @property
    def num_new(self) -> int:
        """Number of items that may be told now and were not told before."""
        return max(0, self.num_ready - self._skip)

    @property
    def _position(self) -> int:
        """Symbols or offsets drawn since the beginning of the stream."""
        return self._origin + self._num_drawn

    def draw(self) -> Any:
        """Return what belongs to the position to be drawn next, as the graph takes it."""
        index = self._num_drawn - self._num_drawn_before
        if index >= BLOCK:
            self._num_drawn_before += BLOCK
            first = self._origin + self._num_drawn_before
            self._draws = self._numbers(uniforms(self._seed, self._stream, first, BLOCK)).tolist()
            index -= BLOCK
        return self._draws[index]

    @abstractmethod
    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return of four uniform numbers for each of some positions (n, 4) what the graph takes (n, ...)."""

    def finish(self, reason: Reason) -> None:
        """End the sequence; the first reason stays."""
        self.reason = self.reason or reason

    def take(self) -> Delta:
        """Return and forget what may be told now, with the end if it has come."""
        count = self.num_ready
        trace = bytes(self._item_trace[:count]) if self._boundaries else b""
        skipped = min(count, self._skip)
        delta = Delta(self._items[:count], trace, choice=self._choice, skipped=skipped)
        self._skip -= skipped
        del self._items[:count]
        del self._item_trace[:count]
        if self.reason:
            trace, snapshot = bytes(self._trace), self._snapshot if self.reason in ("stop", "length") else None
            delta.end = End(self.reason, self.num_prompt, self._num_drawn, trace, self.times, snapshot)
        return delta


def prefillable_prime(upcoming: Offset, unread: Seq[Offset], limit: int) -> list[Offset]:
    """Return what is read before the last point of a prime: `limit` points at most.

    Args:
        upcoming: the point that is read next.
        unread: those of the prime that follow it, the last one first.
        limit: of points.
    """
    count = min(limit, len(unread))
    return [upcoming, *unread[:-count:-1]] if count else []
