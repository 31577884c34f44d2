"""One request on its way through the engine: what it reads next, what it draws, what it has to tell.

A sequence reads one input per step. The boundaries of a symbol are those found on reading it, one step after it was
drawn; where they are asked for, a symbol is told together with them and the last one is read by a step of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.codec import TextCodec
from service.engine.snapshot import WHOLE, Part, Snapshot
from service.engine.stops import StopMatcher
from service.sampling import FAILED, SMALLEST, deviates, uniforms

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
        max_tokens: symbols to draw at most; 0 reads the prompt and no more.
        temperature: 0 takes the likeliest symbol.
        top_p: share of mass to draw from, 0..1.
        top_k: number of symbols to draw from; 0 is all.
        stop: strings that end the text and are left out of it.
        echo: whether to tell the prompt too, as the network reads it.
        logprobs: how many of the likeliest symbols to tell at each symbol, with its own likelihood; None tells nothing.
        logit_bias: (id, what is added to its logit), each id once.
        presence_penalty: taken from the logit of each symbol that was drawn before.
        frequency_penalty: taken from it for each time that it was.
    """

    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    echo: bool = False
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class InkParams:
    """How free writing is drawn.

    Attributes:
        seed: with the position it settles every draw.
        max_points: points of the drawing, its fixed first one included; 0 reads a prime and no more.
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
    def news(self) -> "Delta":
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

    def __init__(self, seed: int, choice: int, *, boundaries: bool, whole: bool, part: Part) -> None:
        self.status = Status.WAITING
        self.row = -1
        self.next_input: Any = None
        self.reason: Reason | None = None
        self.whole = whole
        self.times = Times()
        self.flushed_at = 0.0
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
        self._draws: list[list[float]] = []
        self._draws_from = self._origin - BLOCK

    @property
    def is_ready(self) -> bool:
        """Whether it could start to run."""
        return True

    def seat(self) -> Snapshot | None:
        """Return what its row is to hold at first, now that it has one; None is zeros."""
        return self._start

    def keep(self, row: bytes) -> None:
        """Take in what its row holds between two steps, as `must_save` asked for."""
        self._snapshot = Snapshot(row, self.next_input, self._position)
        self.must_save = False

    @abstractmethod
    def advance(self, code: int, choice: Any) -> None:
        """Take in the step that read `next_input`: its trace byte and what was drawn from its output."""

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

    def draw(self) -> list[float]:
        """Return the four numbers that belong to the position to be drawn next."""
        index = self._position - self._draws_from
        if index >= BLOCK:
            self._draws_from += BLOCK
            self._draws = self._numbers(uniforms(self._seed, self._stream, self._draws_from, BLOCK)).tolist()
            index -= BLOCK
        return self._draws[index]

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the draws of some positions (n, 4) as the graph takes them."""
        return uniform

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
        part: of the stream that is asked for; a prompt comes after its start.
        shares: whether siblings will go on from its prompt, instead of reading it again.
        leader: the sibling whose prompt this one goes on from.

    Attributes:
        bias: float64 (V,) to be added to the logits, or None.
        score: of the symbol that the step under way leads to; set before `advance` where it is wanted.
        fork: what siblings go on from, once the prompt has been read but for its last symbol.
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
        part: Part = WHOLE,
        shares: bool = False,
        leader: "TextSequence | None" = None,
    ) -> None:
        super().__init__(params.seed, choice, boundaries=boundaries, whole=whole, part=part)
        self.params = params
        self.num_prompt = len(prompt)
        self.bias = _bias(params, codec.size)
        self.score: Score | None = None
        start = part.start
        self._inputs = [start.last, *prompt] if start else list(prompt) or [primer]
        self._decoder = codec.decoder(start.unfinished if start else b"")
        self._stops = StopMatcher(params.stop)
        self._closing: Reason | None = None
        self._item_scores: list[list[Score]] = []
        self._unfinished: list[Score] = []
        self._logit_bias = dict(params.logit_bias)
        self._counts: dict[int, int] = {}
        self._shares, self._leader = shares, leader
        self.fork: Snapshot | None = None
        self.next_input = self._inputs[0]
        if start:
            self._go_on(start, has_prompt=bool(prompt))
        elif params.echo and prompt:
            self.score = Score(self.next_input, None, [])
            self._spell(self.next_input)
        self.must_save = not self._reads_on and self._wants_fork

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        # At temperature 0 all symbols but the likeliest are out; of equals, the smallest number takes the first.
        return np.full_like(uniform, SMALLEST) if self.params.temperature == 0 else uniform

    @property
    def num_ready(self) -> int:
        """Characters that are neither held back for a stop string nor without their trace byte."""
        free = len(self._items)
        if self._stops.held and (self.reason is None or (self.reason == "length" and self._keeps)):
            free -= self._stops.held
        return min(free, len(self._item_trace)) if self._boundaries else free

    @property
    def wants_score(self) -> bool:
        """Whether the symbol that the step under way leads to is to be told with its likelihood."""
        if self.params.logprobs is None or self._closing:
            return False
        return self.params.echo if self._reads_on else self.params.max_tokens > 0

    def upcoming(self, choice: int) -> int:
        """Return the id that follows the one being read: the prompt's next one, or the one drawn."""
        return self._inputs[len(self._trace) + 1] if self._reads_on else choice

    def advance(self, code: int, choice: int) -> None:
        """Take in a step: read on in the prompt, or accept the symbol that was drawn."""
        reads_on = self._reads_on
        self._trace.append(code)
        if not reads_on and self.params.max_tokens == 0:
            self._finish_spelling()
        if self._boundaries or self._keeps:
            self._item_trace += bytes([code]) * (len(self._items) - len(self._item_trace))
        if self._closing:
            self.finish(self._closing)
        elif reads_on:
            self._read(choice)
        elif choice == FAILED:
            self.finish("error")
        elif self.params.max_tokens == 0:
            self.finish("length")
        else:
            self._accept(choice)

    def take(self) -> Delta:
        """Return and forget what may be told now, with the end if it has come."""
        count = self.num_ready
        delta = super().take()
        if self.params.logprobs is not None:
            delta.scores = self._item_scores[:count]
        del self._item_scores[:count]
        return delta

    @property
    def _reads_on(self) -> bool:
        """Whether the prompt goes on after the symbol being read."""
        return len(self._trace) + 1 < len(self._inputs)

    def _read(self, choice: int) -> None:
        """Go on to the prompt's next symbol."""
        self.next_input = self._inputs[len(self._trace)]
        self.must_save = not self._reads_on and self._wants_fork
        if not self.params.echo:
            return
        if choice == FAILED and self.params.logprobs is not None:
            self.finish("error")  # there is no likelihood to tell
        else:
            self._spell(self.next_input)

    def _accept(self, token: int) -> None:
        """Append the characters a symbol completes and see whether they end the text."""
        self._num_drawn += 1
        self.next_input = token
        self._penalise(token)
        before = len(self._items)
        self._spell(token)
        for index in range(before, len(self._items)):
            found = self._stops.push(self._items[index])
            if found:
                del self._items[index + 1 - found :]
                del self._item_scores[index + 1 - found :]
                self._close("stop")
                return
        if self._num_drawn >= self.params.max_tokens:
            self._finish_spelling()
            self._close("length")

    def _spell(self, token: int) -> None:
        """Append the characters that a symbol completes, each with the scores of the symbols that make it up."""
        characters = self._decoder.push(token)
        self._items += characters
        if self.params.logprobs is None:
            return
        if self.score:
            self._unfinished.append(self.score)
        done = len(self._unfinished) - self._decoder.num_pending
        # A broken character and a whole one may come at once: the last symbol is then the whole one.
        for left in range(len(characters) - 1, -1, -1):
            first, self._unfinished = self._unfinished[: done - left], self._unfinished[done - left :]
            self._item_scores.append(first)
            done -= len(first)

    def _finish_spelling(self) -> None:
        """Append what stands for a character that stays unfinished, if there is one and nobody will finish it."""
        if self._keeps:
            return
        rest = self._decoder.flush()
        self._items += rest
        self._item_scores += [self._unfinished] if rest and self.params.logprobs is not None else []

    def _penalise(self, token: int) -> None:
        """Make a symbol that was drawn less likely, or more for penalties below 0."""
        params = self.params
        if params.presence_penalty or params.frequency_penalty:
            self._counts[token] = self._counts.get(token, 0) + 1
            self._weigh(token)

    def _weigh(self, token: int) -> None:
        """Set the bias of a symbol that was drawn before."""
        if self.bias is not None:
            penalty = self.params.presence_penalty + self.params.frequency_penalty * self._counts[token]
            self.bias[token] = self._logit_bias.get(token, 0.0) - penalty

    def _go_on(self, start: Snapshot, *, has_prompt: bool) -> None:
        """Take up what was drawn but not told; a prompt ends what it could have become."""
        self._items += start.held
        self._item_trace += start.held_trace
        self._item_scores += [[] for _ in start.held] if self.params.logprobs is not None else []
        self._counts = start.counts.copy()
        for token in self._counts:
            self._weigh(token)
        if has_prompt:
            self._items += self._decoder.flush()
        else:
            for character in start.held:
                self._stops.push(character)

    @property
    def is_ready(self) -> bool:
        """Whether the prompt it shares, if it does, has been read, or never will be."""
        return self._leader is None or self._leader.fork is not None or self._leader.reason is not None

    def seat(self) -> Snapshot | None:
        """Return what its row is to hold at first; where its prompt was read by another, what that one left."""
        fork = self._leader.fork if self._leader else None
        if fork:
            self._start, self._inputs, self.next_input = fork, [fork.last], fork.last
        return self._start

    def keep(self, row: bytes) -> None:
        """Take in what its row holds before the prompt's last symbol, or the last one drawn, is read."""
        self.must_save = False
        end = self._closing or self.reason
        first = len(self._items) - (0 if end == "stop" else self._stops.held)
        snapshot = Snapshot(
            row,
            self.next_input,
            self._position,
            "".join(self._items[first:]),
            bytes(self._item_trace[first:]),
            self._decoder.pending,
            self._counts.copy(),
        )
        if end or self.params.max_tokens == 0:
            self._snapshot = snapshot
        else:
            self.fork = snapshot

    @property
    def _wants_fork(self) -> bool:
        """Whether to keep the row as it is before the prompt's last symbol is read."""
        return self._shares or (self._keeps and self.params.max_tokens == 0)

    def _close(self, reason: Reason) -> None:
        """End at once, or after one more step if characters still lack their trace byte."""
        self.must_save = self._keeps
        if self._boundaries and len(self._item_trace) < len(self._items):
            self._closing = reason
        else:
            self.finish(reason)


def _bias(params: TextParams, size: int) -> NDArray[np.float64] | None:
    """What is added to the logits (V,) before anything was drawn, or None if nothing ever is."""
    if not (params.logit_bias or params.presence_penalty or params.frequency_penalty):
        return None
    bias = np.zeros(size)
    for token, value in params.logit_bias:
        bias[token] = value
    return bias


class InkSequence(Sequence):
    """Free writing; an item is an offset, told once it has been read, so its trace byte is always there.

    Args:
        start: standardised offset of the first point, where the pen is set down.
        params: how to draw.
        whole: whether to tell everything at the end only.
        choice: index of the choice within the request.
        part: of the stream that is asked for; what its start has read last is not a point of this one.
        prime: offsets that are read before and are not told; the point drawn after them is where the drawing begins.
    """

    def __init__(
        self,
        start: Offset,
        params: InkParams,
        *,
        whole: bool = False,
        choice: int = 0,
        part: Part = WHOLE,
        prime: Seq[Offset] = (),
    ) -> None:
        super().__init__(params.seed, choice, boundaries=True, whole=whole, part=part)
        self.params = params
        self.num_prompt = len(prime)
        self._at_rest, self._unread = start, [*reversed(prime)]
        self.next_input = part.start.last if part.start else self._unread.pop() if prime else start
        self._num_points = -1 if part.start else -len(prime)
        self.must_save = self._keeps and self._is_last

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        return deviates(uniform)

    def advance(self, code: int, choice: Seq[float]) -> None:
        """Take in a step: the point just read stands, the one drawn is read next."""
        self._trace.append(code)
        self._num_points += 1
        if self._num_points > 0:
            is_primed_start = self.num_prompt and self._num_points == 1
            self._items.append((*self._at_rest[:2], self.next_input[2]) if is_primed_start else self.next_input)
            self._item_trace.append(code)
        if self._unread:
            self.next_input = self._unread.pop()
        elif self._num_points >= self.params.max_points:
            self.finish("length")
        elif choice[0] != choice[0]:
            self.finish("error")
        else:
            self._num_drawn += 1
            self.next_input = choice
            self.must_save = self._keeps and self._is_last

    @property
    def _is_last(self) -> bool:
        """Whether the point that is read next is the last one."""
        return self._num_points + 1 == self.params.max_points
