"""Completions on their way through the engine, and the bundle that writes them at work.

A sequence reads its prompt, then what it draws. The boundaries of a symbol are those found on reading it, one step
after it was drawn; where they are asked for, a symbol is told together with them and the last one is read by a step of
its own.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.codec import TextCodec
from service.engine.sampling import FAILED, SMALLEST
from service.engine.sequences.base import Delta, Reason, Score, Sequence
from service.engine.sequences.snapshot import WHOLE, Snapshot, StreamPart
from service.engine.sequences.stops import StopMatcher


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
        part: StreamPart = WHOLE,
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
        self._traces_items = boundaries or part.keeps
        self._penalises = bool(params.presence_penalty or params.frequency_penalty)
        self._logit_bias = dict(params.logit_bias)
        self._counts: dict[int, int] = {}
        self._shares, self._leader = shares, leader
        self.fork: Snapshot | None = None
        self.next_input = self._inputs[0]
        if start:
            self._resume(start, has_prompt=bool(prompt))
        elif params.echo and prompt:
            self.score = Score(self.next_input, None, [])
            self._spell(self.next_input)
        self.must_save = not self._prompt_continues and self._wants_fork

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        # At temperature 0 all symbols but the likeliest are out; of equals, the smallest number takes the first.
        return np.full(len(uniform), SMALLEST) if self.params.temperature == 0 else uniform[:, 0]

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
        return self.params.echo if self._prompt_continues else self.params.max_tokens > 0

    def upcoming(self, choice: int) -> int:
        """Return the id that follows the one being read: the prompt's next one, or the one drawn."""
        return self._inputs[len(self._trace) + 1] if self._prompt_continues else choice

    def advance(self, code: int, choice: int) -> None:
        """Take in a step: read on in the prompt, or accept the symbol that was drawn."""
        self._trace.append(code)
        reads_on = len(self._trace) < len(self._inputs)
        max_tokens = self.params.max_tokens
        if max_tokens == 0 and not reads_on:
            self._finish_spelling()
        if self._traces_items:
            missing = len(self._items) - len(self._item_trace)
            self._item_trace += bytes((code,)) * missing
        if self._closing:
            self.finish(self._closing)
        elif reads_on:
            self._advance_prompt(choice)
        elif choice == FAILED:
            self.finish("error")
        elif max_tokens == 0:
            self.finish("length")
        else:
            self._accept(choice)

    def prefillable(self, limit: int) -> Seq[int]:
        """Return what is left of the prompt but for its last symbol, unless its likelihood is to be told."""
        if self.params.echo and self.params.logprobs is not None:
            return []
        first = len(self._trace)
        return self._inputs[first : min(first + limit, len(self._inputs) - 1)]

    def take(self) -> Delta:
        """Return and forget what may be told now, with the end if it has come."""
        count = self.num_ready
        delta = super().take()
        if self.params.logprobs is not None:
            delta.scores = self._item_scores[:count]
        del self._item_scores[:count]
        return delta

    @property
    def _prompt_continues(self) -> bool:
        """Whether the prompt goes on after the symbol being read."""
        return len(self._trace) + 1 < len(self._inputs)

    def _advance_prompt(self, choice: int) -> None:
        """Go on to the prompt's next symbol."""
        self.next_input = self._inputs[len(self._trace)]
        self.must_save = not self._prompt_continues and self._wants_fork
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
        if self._penalises:
            self._penalise(token)
        before = len(self._items)
        self._spell(token)
        if self.params.stop and self._stops_after(before):
            self._close("stop")
        elif self._num_drawn >= self.params.max_tokens:
            self._finish_spelling()
            self._close("length")

    def _stops_after(self, before: int) -> bool:
        """Whether a stop string ends after so many items; it is taken out, and what comes after it."""
        for index in range(before, len(self._items)):
            found = self._stops.push(self._items[index])
            if found:
                del self._items[index + 1 - found :]
                del self._item_scores[index + 1 - found :]
                return True
        return False

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
        self._counts[token] = self._counts.get(token, 0) + 1
        self._weigh(token)

    def _weigh(self, token: int) -> None:
        """Set the bias of a symbol that was drawn before."""
        if self.bias is not None:
            penalty = self.params.presence_penalty + self.params.frequency_penalty * self._counts[token]
            self.bias[token] = self._logit_bias.get(token, 0.0) - penalty

    def _resume(self, start: Snapshot, *, has_prompt: bool) -> None:
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

    def begin(self) -> Snapshot | None:
        """Return what its row is to hold at first; where its prompt was read by another, what that one left."""
        fork = self._leader.fork if self._leader else None
        if fork:
            self._start, self._inputs, self.next_input = fork, [fork.last], fork.last
        return self._start

    def take_saved_row(self, row: bytes) -> None:
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
