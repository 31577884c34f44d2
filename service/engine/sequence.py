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
    """

    items: list[Any] = field(default_factory=list)
    trace: bytes = b""
    end: End | None = None
    scores: list[list[Score]] = field(default_factory=list)
    choice: int = 0

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
        trace = bytes(self._item_trace[:count]) if self._boundaries else b""
        delta = Delta(self._items[:count], trace, choice=self._choice)
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

    Attributes:
        bias: float64 (V,) to be added to the logits, or None.
        score: of the symbol that the step under way leads to; set before `advance` where it is wanted.
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
        self.bias = _bias(params, codec.size)
        self.score: Score | None = None
        self._inputs = list(prompt) or [primer]
        self._decoder = codec.decoder()
        self._stops = StopMatcher(params.stop)
        self._closing: Reason | None = None
        self._item_scores: list[list[Score]] = []
        self._unfinished: list[Score] = []
        self._logit_bias = dict(params.logit_bias)
        self._counts: dict[int, int] = {}
        self.next_input = self._inputs[0]
        if params.echo and prompt:
            self.score = Score(self.next_input, None, [])
            self._spell(self.next_input)

    @property
    def num_ready(self) -> int:
        """Characters that are neither held back for a stop string nor without their trace byte."""
        free = len(self._items) - (0 if self.reason else self._stops.held)
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
        if self._boundaries:
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
        """Append what stands for a character that stays unfinished, if there is one."""
        rest = self._decoder.flush()
        self._items += rest
        self._item_scores += [self._unfinished] if rest and self.params.logprobs is not None else []

    def _penalise(self, token: int) -> None:
        """Make a symbol that was drawn less likely, or more for penalties below 0."""
        params = self.params
        if self.bias is not None and (params.presence_penalty or params.frequency_penalty):
            count = self._counts[token] = self._counts.get(token, 0) + 1
            penalty = params.presence_penalty + params.frequency_penalty * count
            self.bias[token] = self._logit_bias.get(token, 0.0) - penalty

    def _close(self, reason: Reason) -> None:
        """End at once, or after one more step if characters still lack their trace byte."""
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
