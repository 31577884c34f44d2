"""One request on its way through the engine: what it reads next, what it draws, what it has to tell.

A sequence reads one input per step. The boundaries of a symbol are those found on reading it, one step after it was
drawn; where they are asked for, a symbol is told together with them and the last one is read by a step of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from model.codec import TextCodec
from service.engine.stops import StopMatcher
from service.sampling import FAILED, uniforms

BLOCK = 64

Reason = Literal["stop", "length", "cancelled", "error", "shutdown"]
Offset = tuple[float, float, float]


class Status(Enum):
    """Where a sequence stands; it only ever moves down this list."""

    WAITING = 1
    RUNNING = 2
    FINISHED = 3


@dataclass(frozen=True)
class TextParams:
    """How a completion is drawn; limits were checked at the border.

    Attributes:
        seed: with the position it settles every draw.
        max_tokens: symbols to draw at most, at least 1.
        temperature: 0 takes the likeliest symbol.
        top_p: share of mass to draw from, 0..1.
        top_k: number of symbols to draw from; 0 is all.
        stop: strings that end the text and are left out of it.
    """

    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class InkParams:
    """How free writing is drawn.

    Attributes:
        seed: with the position it settles every draw.
        max_points: points of the drawing, its fixed first one included, at least 1.
        bias: 0 draws as learned, more draws neater.
    """

    seed: int
    max_points: int
    bias: float = 0.0


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
    """

    reason: Reason
    num_prompt: int
    num_drawn: int
    trace: bytes
    times: Times


@dataclass
class Delta:
    """What a sequence has to tell since it was last asked.

    Attributes:
        items: characters, or offsets [dx, dy, pen_up] in standardised units.
        trace: one byte per item when boundaries were asked for, else empty.
        end: set on the last one.
    """

    items: list[Any] = field(default_factory=list)
    trace: bytes = b""
    end: End | None = None

    def extend(self, later: "Delta") -> None:
        """Append what came after; this is how events of a slow reader grow longer instead of more."""
        self.items += later.items
        self.trace += later.trace
        self.end = later.end


class Sequence(ABC):
    """What all sequences share.

    Args:
        seed: of the request.
        choice: index of the choice within the request.
        boundaries: whether each item is told with its trace byte.
        whole: whether everything is told at the end only.

    Attributes:
        status: moved by the scheduler.
        row: the row of the runner it owns while RUNNING; meaningless else.
        next_input: what it reads at the next step.
        reason: why it ended, or None.
    """

    num_prompt = 0

    def __init__(self, seed: int, choice: int, *, boundaries: bool, whole: bool) -> None:
        self.status = Status.WAITING
        self.row = -1
        self.next_input: Any = None
        self.reason: Reason | None = None
        self.whole = whole
        self.times = Times()
        self.flushed_at = 0.0
        self.cancelled_at_step: int | None = None
        self._seed, self._choice, self._boundaries = seed, choice, boundaries
        self._trace = bytearray()
        self._items: list[Any] = []
        self._item_trace = bytearray()
        self._num_drawn = 0
        self._draws: list[list[float]] = []
        self._draws_from = -BLOCK

    @abstractmethod
    def advance(self, code: int, choice: Any) -> None:
        """Take in the step that read `next_input`: its trace byte and what was drawn from its output."""

    @property
    def num_ready(self) -> int:
        """Number of items that may be told now."""
        return len(self._items)

    def draw(self) -> list[float]:
        """Return the four uniform numbers that belong to the position to be drawn next."""
        index = self._num_drawn - self._draws_from
        if index >= BLOCK:
            self._draws_from += BLOCK
            self._draws = uniforms(self._seed, self._choice, self._draws_from, BLOCK).tolist()
            index -= BLOCK
        return self._draws[index]

    def finish(self, reason: Reason) -> None:
        """End the sequence; the first reason stays."""
        self.reason = self.reason or reason

    def take(self) -> Delta:
        """Return and forget what may be told now, with the end if it has come."""
        count = self.num_ready
        delta = Delta(self._items[:count], bytes(self._item_trace[:count]) if self._boundaries else b"")
        del self._items[:count]
        del self._item_trace[:count]
        if self.reason:
            delta.end = End(self.reason, self.num_prompt, self._num_drawn, bytes(self._trace), self.times)
        return delta


class TextSequence(Sequence):
    """A completion.

    Args:
        codec: of the bundle.
        prompt: symbol ids of the prompt.
        primer: the id that is read in place of an empty prompt.
        params: how to draw.
        boundaries: whether to tell z and operations of each character.
        whole: whether to tell everything at the end only.
        choice: index of the choice within the request.
    """

    def __init__(
        self,
        codec: TextCodec,
        prompt: Seq[int],
        primer: int,
        params: TextParams,
        *,
        boundaries: bool = False,
        whole: bool = False,
        choice: int = 0,
    ) -> None:
        super().__init__(params.seed, choice, boundaries=boundaries, whole=whole)
        self.params = params
        self.num_prompt = len(prompt)
        self._inputs = list(prompt) or [primer]
        self._decoder = codec.decoder()
        self._stops = StopMatcher(params.stop)
        self._closing: Reason | None = None
        self.next_input = self._inputs[0]

    @property
    def num_ready(self) -> int:
        """Characters that are neither held back for a stop string nor without their trace byte."""
        free = len(self._items) - (0 if self.reason else self._stops.held)
        return min(free, len(self._item_trace)) if self._boundaries else free

    def advance(self, code: int, choice: int) -> None:
        """Take in a step: read on in the prompt, or accept the symbol that was drawn."""
        self._trace.append(code)
        if len(self._trace) < len(self._inputs):
            self.next_input = self._inputs[len(self._trace)]
            return
        if self._boundaries:
            self._item_trace += bytes([code]) * (len(self._items) - len(self._item_trace))
        if self._closing:
            self.finish(self._closing)
        elif choice == FAILED:
            self.finish("error")
        else:
            self._accept(choice)

    def _accept(self, token: int) -> None:
        """Append the characters a symbol completes and see whether they end the text."""
        self._num_drawn += 1
        self.next_input = token
        for character in self._decoder.push(token):
            self._items.append(character)
            found = self._stops.push(character)
            if found:
                del self._items[-found:]
                self._close("stop")
                return
        if self._num_drawn >= self.params.max_tokens:
            self._items += self._decoder.flush()
            self._close("length")

    def _close(self, reason: Reason) -> None:
        """End at once, or after one more step if characters still lack their trace byte."""
        if self._boundaries and len(self._item_trace) < len(self._items):
            self._closing = reason
        else:
            self.finish(reason)


class InkSequence(Sequence):
    """Free writing; an item is an offset, told once it has been read, so its trace byte is always there.

    Args:
        start: standardised offset of the first point, where the pen is set down.
        params: how to draw.
        whole: whether to tell everything at the end only.
        choice: index of the choice within the request.
    """

    def __init__(self, start: Offset, params: InkParams, *, whole: bool = False, choice: int = 0) -> None:
        super().__init__(params.seed, choice, boundaries=True, whole=whole)
        self.params = params
        self.next_input = start

    def advance(self, code: int, choice: Seq[float]) -> None:
        """Take in a step: the point just read stands, the one drawn is read next."""
        self._trace.append(code)
        self._items.append(self.next_input)
        self._item_trace.append(code)
        if len(self._trace) >= self.params.max_points:
            self.finish("length")
        elif choice[0] != choice[0]:
            self.finish("error")
        else:
            self._num_drawn += 1
            self.next_input = choice
