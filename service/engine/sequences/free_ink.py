"""Sequences of free writing: ink that is drawn without a given text."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.sampling import deviates
from service.engine.sequences.base import Offset, Sequence, prefillable_prime
from service.engine.sequences.snapshot import WHOLE, StreamPart


@dataclass(frozen=True)
class InkParams:
    """Sampling parameters of free writing.

    Attributes:
        seed: with the choice and the position it determines every draw.
        max_points: number of points of the drawing, including its fixed first one; 0 only reads the prime.
        bias: 0 draws as learned; the larger, the neater.
    """

    seed: int
    max_points: int
    bias: float = 0.0


class InkSequence(Sequence):
    """A drawing of free writing.

    Its items are offsets. An offset becomes an item once it has been read, so its trace byte is always known.

    Args:
        start: standardised offset of the first point, where the pen is set down.
        params: sampling parameters.
        whole: whether to publish everything at the end only.
        choice: index of the choice within the request.
        part: the part of the stream that is asked for; the last point of its start belongs to the stream before.
        prime: offsets to read first, which are not items; the drawing begins with the point drawn after them.
    """

    def __init__(
        self,
        start: Offset,
        params: InkParams,
        *,
        whole: bool = False,
        choice: int = 0,
        part: StreamPart = WHOLE,
        prime: Seq[Offset] = (),
    ) -> None:
        super().__init__(params.seed, choice, boundaries=True, whole=whole, part=part)
        self.params = params
        self.num_prompt = len(prime)
        self._at_rest = start
        self._unread = [*reversed(prime)]  # points of the prime after `next_input`, the last one first
        self.next_input = part.start.last if part.start else self._unread.pop() if prime else start
        # Points of this drawing that were read; negative while points from before it are read.
        self._num_points = -1 if part.start else -len(prime)
        self.must_save = self._keeps and self._is_last

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        return deviates(uniform)

    def advance(self, code: int, choice: Seq[float]) -> None:
        """Process a step: the point just read becomes an item, and the one drawn is read next."""
        self._trace.append(code)
        self._num_points += 1
        if self._num_points > 0:
            # After a prime the first point says where the drawing begins, and not how far the pen came.
            is_primed_start = self.num_prompt and self._num_points == 1
            self._items.append((*self._at_rest[:2], self.next_input[2]) if is_primed_start else self.next_input)
            self._item_trace.append(code)
        if self._unread:
            self.next_input = self._unread.pop()
        elif self._num_points >= self.params.max_points:
            self.finish("length")
        elif choice[0] != choice[0]:  # NaN: the output was not finite
            self.finish("error")
        else:
            self._num_drawn += 1
            self.next_input = choice
            self.must_save = self._keeps and self._is_last

    def prefillable(self, limit: int) -> Seq[Offset]:
        """Return the rest of the prime without its last point."""
        return prefillable_prime(self.next_input, self._unread, limit)

    @property
    def _is_last(self) -> bool:
        """Whether the point that is read next is the last one."""
        return self._num_points + 1 == self.params.max_points
