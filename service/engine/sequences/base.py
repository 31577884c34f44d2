"""A sequence: one choice of a request in the engine, with its next input, its draws and the items it has made."""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.sampling import uniforms
from service.engine.sequences.snapshot import Snapshot, StreamPart

BLOCK = 64  # positions whose random numbers are made at once

Reason = Literal["stop", "length", "cancelled", "error", "shutdown"]
Offset = tuple[float, float, float]


class Status(Enum):
    """Where a sequence stands; it only ever moves down this list."""

    WAITING = 1
    RUNNING = 2
    FINISHED = 3


@dataclass
class Times:
    """Monotonic seconds at which a sequence was submitted, admitted, first published and finished; None until then."""

    submitted: float | None = None
    admitted: float | None = None
    first: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class End:
    """How a sequence ended.

    Attributes:
        reason: stop or length for a sequence that is complete.
        num_prompt: number of symbols of the prompt, or points of the prime.
        num_drawn: number of symbols or points that were drawn.
        trace: a trace byte for every step that was run for it, as `Hierarchy` decodes it.
        times: when it was submitted, admitted, first published and finished.
        snapshot: what another request can continue from, if that was asked for.
    """

    reason: Reason
    num_prompt: int
    num_drawn: int
    trace: bytes
    times: Times
    snapshot: Snapshot | None = None


class Score(NamedTuple):
    """The log-probability of a symbol by the network itself, before bias, penalties and temperature.

    Attributes:
        token: id of the symbol.
        logprob: nats; None for the first symbol of a prompt, which nothing precedes.
        top: (id, nats) of the likeliest symbols, likeliest first.
    """

    token: int
    logprob: float | None
    top: list[tuple[int, float]]


@dataclass
class Delta:
    """The items that a sequence has made since the last delta.

    Attributes:
        items: characters, or offsets [dx, dy, pen_up] in standardised units.
        trace: one trace byte per item if boundaries were asked for, else empty.
        end: how the sequence ended; set on the last delta only.
        scores: for each item the scores of the symbols that it consists of, if logprobs were asked for, else empty.
        choice: index of the choice within the request.
        skipped: how many of the first items the client has from an earlier request. They are included because the
            rest may depend on them, as a pen's position does.
    """

    items: list[Any] = field(default_factory=list)
    trace: bytes = b""
    end: End | None = None
    scores: list[list[Score]] = field(default_factory=list)
    choice: int = 0
    skipped: int = 0

    @property
    def unseen(self) -> "Delta":
        """The same delta without the items that the client already has."""
        if not self.skipped:
            return self
        first = self.skipped
        return Delta(self.items[first:], self.trace[first:], self.end, self.scores[first:], self.choice)

    def extend(self, later: "Delta") -> None:
        """Append a later delta, so that a slow reader gets longer events and not more of them."""
        self.items += later.items
        self.trace += later.trace
        self.scores += later.scores
        self.end = later.end


class Sequence(ABC):
    """Base class of all sequences.

    Args:
        seed: seed of the request.
        choice: index of the choice within the request.
        boundaries: whether each item comes with its trace byte.
        whole: whether everything is published at the end only.
        part: the part of the stream that is asked for.

    Attributes:
        status: set by the scheduler.
        row: the row of the runner that it owns while RUNNING; -1 before.
        next_input: the symbol id or offset that the next step reads.
        reason: why it ended, or None.
        whole: whether everything is published at the end only.
        times: when it was submitted, admitted, first published and finished.
        due_at: monotonic seconds at which its next items are due, for the engine.
        cancelled_at_step: round of the engine in which its cancellation was ordered, or None.
        must_save: whether `take_saved_row` must get the state of its row before the next step.
    """

    num_prompt = 0
    NO_DRAW: Any = None  # given to `advance` in place of a draw that is not used

    def __init__(self, seed: int, choice: int, *, boundaries: bool, whole: bool, part: StreamPart) -> None:
        self.status = Status.WAITING
        self.row = -1
        self.next_input: Any = None
        self.reason: Reason | None = None
        self.whole = whole
        self.times = Times()
        self.due_at = 0.0
        self.cancelled_at_step: int | None = None
        self.must_save = False
        self._seed = seed
        self._choice = choice
        self._boundaries = boundaries
        self._start = part.start
        self._stream = part.choice + choice
        self._keeps = part.keeps
        self._skip = part.skip
        self._snapshot: Snapshot | None = None
        self._origin = part.start.position if part.start else 0
        self._trace = bytearray()
        self._items: list[Any] = []
        self._item_trace = bytearray()
        self._num_drawn = 0
        self._draws: list[Any] = []
        self._num_drawn_before = -BLOCK  # value of `_num_drawn` that the first entry of `_draws` belongs to

    @property
    def is_ready(self) -> bool:
        """Whether it can start to run; once true, it stays true."""
        return True

    def begin(self) -> Snapshot | None:
        """Return what to continue from, called once when it gets a row; None starts from a state of zeros."""
        return self._start

    def take_saved_row(self, row: bytes) -> None:
        """Keep the state of its row between two steps, which `must_save` asked for."""
        self._snapshot = Snapshot(row, self.next_input, self._position)
        self.must_save = False

    @abstractmethod
    def advance(self, code: int, choice: Any) -> None:
        """Process the step that read `next_input`.

        Args:
            code: trace byte of the step.
            choice: what was drawn from the output of the step.
        """

    @abstractmethod
    def prefillable(self, limit: int) -> Seq[Any]:
        """Return the inputs to read next whose outputs are not needed, `next_input` first, at most `limit`."""

    def take_prefilled(self, codes: Seq[int]) -> None:
        """Process prefilled inputs, given the trace bytes of their steps."""
        for code in codes:
            self.advance(code, self.NO_DRAW)

    @property
    def num_items(self) -> int:
        """Number of items that are not published, including those that may not be published yet."""
        return len(self._items)

    @property
    def num_ready(self) -> int:
        """Number of items that may be published now, those that the client already has included."""
        return len(self._items)

    @property
    def num_new(self) -> int:
        """Number of items that may be published now and that the client does not have."""
        return max(0, self.num_ready - self._skip)

    @property
    def _position(self) -> int:
        """Number of symbols or offsets drawn since the beginning of the stream."""
        return self._origin + self._num_drawn

    def draw(self) -> Any:
        """Return the random numbers of the position to be drawn next, as the graph takes them."""
        index = self._num_drawn - self._num_drawn_before
        if index >= BLOCK:
            self._num_drawn_before += BLOCK
            first = self._origin + self._num_drawn_before
            self._draws = self._numbers(uniforms(self._seed, self._stream, first, BLOCK)).tolist()
            index -= BLOCK
        return self._draws[index]

    @abstractmethod
    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn four uniform numbers per position (n, 4) into what the graph takes, (n, ...)."""

    def finish(self, reason: Reason) -> None:
        """End the sequence; if it has ended already, its first reason stays."""
        self.reason = self.reason or reason

    def take(self) -> Delta:
        """Return and forget the items that may be published now, with the end if it has come."""
        count = self.num_ready
        trace = bytes(self._item_trace[:count]) if self._boundaries else b""
        skipped = min(count, self._skip)
        delta = Delta(self._items[:count], trace, choice=self._choice, skipped=skipped)
        self._skip -= skipped
        del self._items[:count]
        del self._item_trace[:count]
        if self.reason:
            snapshot = self._snapshot if self.reason in ("stop", "length") else None
            delta.end = End(self.reason, self.num_prompt, self._num_drawn, bytes(self._trace), self.times, snapshot)
        return delta


def prefillable_prime(upcoming: Offset, unread: Seq[Offset], limit: int) -> list[Offset]:
    """Return the points of a prime that can be prefilled: all but its last one, at most `limit`.

    Args:
        upcoming: the point that is read next.
        unread: the points of the prime that follow it, the last one first.
        limit: largest number of points.
    """
    count = min(limit, len(unread))
    return [upcoming, *unread[:-count:-1]] if count else []
