"""Sequences of text: completions.

A sequence reads its prompt, then the symbols it draws. The boundaries of a symbol are found when it is read, one step
after it was drawn. If a client asks for boundaries, a character is published once they are known, and one more step
reads the last one.
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
    """Sampling parameters of a completion; the request schema has checked their limits.

    Attributes:
        seed: with the choice and the position it determines every draw.
        max_tokens: number of symbols to draw at most; 0 only reads the prompt.
        temperature: 0 takes the likeliest symbol.
        top_p: probability mass to draw from, 0 to 1.
        top_k: number of symbols to draw from; 0 is all.
        stop: strings that end the text and are left out of it.
        echo: whether the prompt's characters are items too.
        logprobs: number of likeliest symbols to report at each symbol, besides its own log-probability; None reports
            nothing.
        logit_bias: (id, value added to its logit), each id once.
        presence_penalty: subtracted from the logit of each symbol that was drawn before.
        frequency_penalty: subtracted from it once for each time that it was drawn.
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
    """A completion; its items are characters.

    Args:
        codec: codec of the bundle.
        prompt: symbol ids of the prompt.
        primer: the id that is read in place of an empty prompt.
        params: sampling parameters.
        boundaries: whether each character comes with its trace byte.
        whole: whether to publish everything at the end only.
        choice: index of the choice within the request.
        part: the part of the stream that is asked for; the prompt follows its start.
        shares: whether other choices of the request continue from this one's prompt instead of reading it again.
        leader: the choice whose prompt this one continues from.

    Attributes:
        params: sampling parameters.
        bias: (V,) float64 to add to the logits, or None.
        score: score of the next symbol; set before `advance` if `wants_score`.
        fork: snapshot before the prompt's last symbol is read, which other choices continue from; None until then.
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
        self._unfinished: list[Score] = []  # scores of symbols whose character is not complete
        self._traces_items = boundaries or part.keeps
        self._penalises = bool(params.presence_penalty or params.frequency_penalty)
        self._logit_bias = dict(params.logit_bias)
        self._counts: dict[int, int] = {}
        self._shares = shares
        self._leader = leader
        self.fork: Snapshot | None = None
        self.next_input = self._inputs[0]
        if start:
            self._resume(start, has_prompt=bool(prompt))
        elif params.echo and prompt:
            self.score = Score(self.next_input, None, [])
            self._spell(self.next_input)
        self.must_save = not self._prompt_continues and self._wants_fork

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        # At temperature 0 only the likeliest symbols have a chance; the smallest number takes the first of equals.
        return np.full(len(uniform), SMALLEST) if self.params.temperature == 0 else uniform[:, 0]

    @property
    def num_ready(self) -> int:
        """Number of characters that are not held back for a stop string, and have a trace byte if one is wanted."""
        free = len(self._items)
        if self._stops.held and (self.reason is None or (self.reason == "length" and self._keeps)):
            free -= self._stops.held
        return min(free, len(self._item_trace)) if self._boundaries else free

    @property
    def wants_score(self) -> bool:
        """Whether the client wants the log-probability of the symbol that follows the current step."""
        if self.params.logprobs is None or self._closing:
            return False
        return self.params.echo if self._prompt_continues else self.params.max_tokens > 0

    def upcoming(self, choice: int) -> int:
        """Return the id that follows the one being read: the prompt's next one, or `choice`, the one drawn."""
        return self._inputs[len(self._trace) + 1] if self._prompt_continues else choice

    def advance(self, code: int, choice: int) -> None:
        """Process a step: go to the prompt's next symbol, or accept the symbol that was drawn.

        Args:
            code: trace byte of the step.
            choice: id of the symbol that was drawn, or FAILED.
        """
        self._trace.append(code)
        in_prompt = len(self._trace) < len(self._inputs)
        max_tokens = self.params.max_tokens
        if max_tokens == 0 and not in_prompt:
            self._finish_spelling()
        # The characters of the symbol just read get the trace byte of this step.
        if self._traces_items:
            missing = len(self._items) - len(self._item_trace)
            self._item_trace += bytes((code,)) * missing
        # Then the sequence ends, or gets its next input.
        if self._closing:
            self.finish(self._closing)
        elif in_prompt:
            self._advance_prompt(choice)
        elif choice == FAILED:
            self.finish("error")
        elif max_tokens == 0:
            self.finish("length")
        else:
            self._accept(choice)

    def prefillable(self, limit: int) -> Seq[int]:
        """Return the rest of the prompt without its last symbol, or nothing if log-probabilities of it are wanted."""
        if self.params.echo and self.params.logprobs is not None:
            return []
        first = len(self._trace)
        return self._inputs[first : min(first + limit, len(self._inputs) - 1)]

    def take(self) -> Delta:
        """Return and forget the items that may be published now, with the end if it has come."""
        count = self.num_ready
        delta = super().take()
        if self.params.logprobs is not None:
            delta.scores = self._item_scores[:count]
        del self._item_scores[:count]
        return delta

    @property
    def _prompt_continues(self) -> bool:
        """Whether the symbol being read is followed by another one of the prompt."""
        return len(self._trace) + 1 < len(self._inputs)

    def _advance_prompt(self, choice: int) -> None:
        """Make the prompt's next symbol the next input; with `echo` its characters become items."""
        self.next_input = self._inputs[len(self._trace)]
        self.must_save = not self._prompt_continues and self._wants_fork
        if not self.params.echo:
            return
        if choice == FAILED and self.params.logprobs is not None:
            self.finish("error")  # the output was not finite, so there is no log-probability
        else:
            self._spell(self.next_input)

    def _accept(self, token: int) -> None:
        """Make a drawn symbol the next input, append the characters it completes, and end the text if they do."""
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
        """Return whether a stop string ends in the items from index `before` on; remove it and all that follows."""
        for index in range(before, len(self._items)):
            found = self._stops.push(self._items[index])
            if found:
                del self._items[index + 1 - found :]
                del self._item_scores[index + 1 - found :]
                return True
        return False

    def _spell(self, token: int) -> None:
        """Append the characters that a symbol completes, each with the scores of the symbols it consists of."""
        characters = self._decoder.push(token)
        self._items += characters
        if self.params.logprobs is None:
            return
        if self.score:
            self._unfinished.append(self.score)
        self._score_items(len(characters), len(self._unfinished) - self._decoder.num_pending)

    def _score_items(self, num_characters: int, num_scores: int) -> None:
        """Give the last characters the oldest scores of `_unfinished`: one to each, and what is left to the first.

        Several characters come at once only if the first ones are broken, and then each later one is a single symbol.
        """
        for left in range(num_characters - 1, -1, -1):
            first, self._unfinished = self._unfinished[: num_scores - left], self._unfinished[num_scores - left :]
            self._item_scores.append(first)
            num_scores -= len(first)

    def _finish_spelling(self) -> None:
        """Append the replacement of an incomplete character, unless a later request may complete it."""
        if self._keeps:
            return
        rest = self._decoder.flush()  # of some broken bytes several characters
        self._items += rest
        if self.params.logprobs is not None:
            self._score_items(len(rest), len(self._unfinished))

    def _penalise(self, token: int) -> None:
        """Count a drawn symbol and apply the penalties to it."""
        self._counts[token] = self._counts.get(token, 0) + 1
        self._set_bias(token)

    def _set_bias(self, token: int) -> None:
        """Set the bias of a symbol from its logit bias and the penalties for how often it was drawn."""
        if self.bias is not None:
            penalty = self.params.presence_penalty + self.params.frequency_penalty * self._counts[token]
            self.bias[token] = self._logit_bias.get(token, 0.0) - penalty

    def _resume(self, start: Snapshot, *, has_prompt: bool) -> None:
        """Restore what a snapshot holds besides the row.

        A prompt follows the held characters: they can no longer become a stop string, and an incomplete character can
        no longer be completed.
        """
        self._items += start.held
        self._item_trace += start.held_trace
        self._item_scores += [[] for _ in start.held] if self.params.logprobs is not None else []
        self._counts = start.counts.copy()
        for token in self._counts:
            self._set_bias(token)
        if has_prompt:
            broken = self._decoder.flush()
            self._items += broken
            self._item_scores += [[] for _ in broken] if self.params.logprobs is not None else []
        else:
            for character in start.held:
                self._stops.push(character)

    @property
    def is_ready(self) -> bool:
        """Whether the leader, if there is one, has read the prompt or has ended."""
        return self._leader is None or self._leader.fork is not None or self._leader.reason is not None

    def begin(self) -> Snapshot | None:
        """Return what to continue from; with a leader it is the snapshot after the leader's prompt."""
        fork = self._leader.fork if self._leader else None
        if fork:
            self._start = fork
            self._inputs = [fork.last]
            self.next_input = fork.last
        return self._start

    def take_saved_row(self, row: bytes) -> None:
        """Make a snapshot of the state before the prompt's last symbol, or the last one drawn, is read."""
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
        """Whether the state before the prompt's last symbol is read has to be saved."""
        return self._shares or (self._keeps and self.params.max_tokens == 0)

    def _close(self, reason: Reason) -> None:
        """End the sequence, after one more step if characters still lack their trace byte."""
        self.must_save = self._keeps
        if self._boundaries and len(self._item_trace) < len(self._items):
            self._closing = reason
        else:
            self.finish(reason)


def _bias(params: TextParams, size: int) -> NDArray[np.float64] | None:
    """Return the initial bias of the logits, (V,) float64, or None if the parameters never change the logits."""
    if not (params.logit_bias or params.presence_penalty or params.frequency_penalty):
        return None
    bias = np.zeros(size)
    for token, value in params.logit_bias:
        bias[token] = value
    return bias
