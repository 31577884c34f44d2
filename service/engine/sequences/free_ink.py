"""Free writing on its way through the engine, and the bundle that does it at work."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.sampling import deviates
from service.engine.sequences.base import Offset, Sequence, prefillable_prime
from service.engine.sequences.snapshot import WHOLE, StreamPart


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
        part: StreamPart = WHOLE,
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

    def prefillable(self, limit: int) -> Seq[Offset]:
        """Return what is left of the prime but for its last point."""
        return prefillable_prime(self.next_input, self._unread, limit)

    @property
    def _is_last(self) -> bool:
        """Whether the point that is read next is the last one."""
        return self._num_points + 1 == self.params.max_points
