"""Sequences that write a line of given text.

The text and the hand are sampling inputs of the row, made once per line. At every point the network says on which
character its window over the text rests, and whether the line is over.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.ink import is_line_over, max_points, next_place
from service.engine.sampling import deviates
from service.engine.sequences.base import Offset, Sequence, prefillable_prime
from service.engine.sequences.snapshot import WHOLE, Snapshot


@dataclass(frozen=True, eq=False)
class Line:
    """The text of a line, as the network takes it.

    Attributes:
        ids: number of ids of the text: its characters and the sentinels around them.
        given: sampling inputs of the row by name, float32, each without the axis of rows.
        prime: standardised offsets that are read first; they write the first characters of the text.
        read: number of ids, the first sentinel included, that the prime writes; 1 without a prime.
    """

    ids: int
    given: Mapping[str, NDArray[np.float32]]
    prime: Seq[Offset] = ()
    read: int = 1

    @property
    def max_points(self) -> int:
        """Number of points after which the line counts as one that does not end; 0 if there is only a prime."""
        characters = self.ids - self.read - 1
        return max_points(characters) if characters else 0


class LineSequence(Sequence):
    """A written line.

    Its items are (dx, dy, pen_up, place), where place is the index of the id being written. A point becomes an item
    once it has been read, the fixed first point included.

    A line ends with "stop" when the network ends it on the last character, or has left the text and lifts the pen. It
    ends with "length" when neither happens within `Line.max_points`. An end before the last character is ignored.

    Args:
        start: standardised offset of the first point, where the pen is set down.
        line: the text to write.
        seed: seed of the draws.
        bias: 0 draws as learned; the larger, the neater.
        choice: index of the choice, for its draws.
        whole: whether to publish everything at the end only.
        after: state after the prime without its last point, if another line has read the prime already.
    """

    def __init__(
        self,
        start: Offset,
        line: Line,
        seed: int,
        bias: float,
        choice: int = 0,
        *,
        whole: bool = True,
        after: Snapshot | None = None,
    ) -> None:
        super().__init__(seed, choice, boundaries=True, whole=whole, part=WHOLE)
        self.line = line
        self.bias = bias
        self.num_prompt = len(line.prime)
        unread = [after.last] if after else list(line.prime)
        self._start = after
        self._rest = start
        self._unread = unread[::-1]
        self.next_input = self._unread.pop() if unread else start
        self._num_points = -1 if not unread else -len(unread)
        self._place = line.read
        self.must_save = len(unread) == 1 and after is None

    NO_DRAW = (0.0,) * 5

    @property
    def primed(self) -> Snapshot | None:
        """The state after the prime without its last point, for other lines with the same prime."""
        return self._snapshot

    def _numbers(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        return deviates(uniform)

    def advance(self, code: int, choice: Seq[float]) -> None:
        """Process a step: the point just read becomes an item, and the one drawn is read next.

        Args:
            code: trace byte of the step.
            choice: dx, dy, pen_up as drawn, whether the network ends the line (> 0), and the index of the id with
                the largest share of the window.
        """
        *drawn, over, largest = choice
        self._trace.append(code)
        self._num_points += 1
        if self._num_points >= 0 and not self._unread:
            self._place = next_place(self._place, largest)
            if self._num_points > 0 or not self.num_prompt:
                self._stand(code)
            if self._num_points > 0 and is_line_over(self._place, self.line.ids, over, self.next_input[2]):
                self.finish("stop")
                return
        if self._unread:
            self.next_input = self._unread.pop()
            self.must_save = not self._unread
        elif drawn[0] != drawn[0]:  # NaN: the output was not finite
            self.finish("error")
        elif self._num_points >= self.line.max_points:
            self.finish("length")
        else:
            self._num_drawn += 1
            self.next_input = drawn

    def prefillable(self, limit: int) -> Seq[Offset]:
        """Return the rest of the prime without its last point."""
        return prefillable_prime(self.next_input, self._unread, limit)

    def _stand(self, code: int) -> None:
        """Append the point just read as an item; after a prime the first one gets the offset where the line begins."""
        dx, dy, pen_up = self.next_input
        if self.num_prompt and self._num_points == 1:
            dx, dy = self._rest[:2]
        self._items.append((dx, dy, pen_up, self._place))
        self._item_trace.append(code)
